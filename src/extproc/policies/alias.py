"""From the name a caller wrote to a provider and its model; the chain of clusters goes to Envoy as metadata.

Without an alias the model stays as it is and the provider is the one whose host (or base URL) was called.
"""

from __future__ import annotations

from typing import ClassVar

import msgspec

from extproc.errors import ErrorCode, Rejection
from extproc.exchange.actions import Fixed
from extproc.exchange.draft import Draft
from extproc.exchange.events import RequestBody
from extproc.exchange.facts import Facts, Target
from extproc.exchange.policy import Policy

CANDIDATES = "llm.candidates"


class Route(msgspec.Struct, frozen=True):
    """A provider chain in the two forms that are needed: cluster names, and Envoy's priority groups.

    `groups`: envoy.extensions.router.cluster_specifiers.priority_group.v3, `override_metadata_namespace`.
    """

    provider: str
    api: str
    chain: tuple[str, ...]
    groups: list[dict[str, object]]
    candidates: Fixed  # the groups as dynamic metadata


def make_route(provider: str, api: str, clusters: tuple[tuple[str, str], ...]) -> Route:
    """`clusters`: (provider name, cluster name), first tried first."""
    groups: list[dict[str, object]] = [
        {"name": name, "clusters": [{"cluster_name": cluster, "weight": 1}]} for name, cluster in clusters
    ]
    chain = tuple(name for name, _ in clusters)
    return Route(provider, api, chain, groups, Fixed({"priority_groups": groups}))


class Aliases(msgspec.Struct, frozen=True):
    """Compiled once per configuration. `by_name`: alias -> (route, resolved model)."""

    by_name: dict[str, tuple[Route, str]]
    by_provider: dict[str, Route]


class AliasPolicy(Policy):
    """Writes `facts.target`; edits the model name in place where it differs."""

    name: ClassVar[str] = "alias"

    def __init__(self, aliases: Aliases) -> None:
        """Built per exchange."""
        self._aliases = aliases

    def request_body(self, facts: Facts, event: RequestBody, draft: Draft) -> None:
        """Resolve. Raises 404 where the alias stands for another vendor's wire format."""
        endpoint, request = facts.endpoint, facts.request
        if endpoint is None:
            raise Rejection(500, ErrorCode.GATEWAY_ERROR, "The gateway failed to handle this call.")
        route = self._aliases.by_provider[endpoint.provider]
        model = ""
        if request is not None and request.model is not None:
            model = request.model
            found = self._aliases.by_name.get(model)
            if found is not None:
                route, resolved = found
                if route.api != endpoint.api:
                    raise Rejection(
                        404,
                        ErrorCode.POLICY_MODEL_NOT_ALLOWED,
                        f"The model {model} is served by another vendor's API ({route.api}) than the one called.",
                        param="model",
                    )
                if resolved != model:
                    draft.edits.append(request.model_edit(resolved))
                model = resolved
        facts.target = Target(route.provider, model, route.chain)
        draft.metadata[CANDIDATES] = route.candidates
