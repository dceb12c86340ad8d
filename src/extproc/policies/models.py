"""`GET /v1/models`: what this caller may use, answered here in the vendor's shape. The vendor is not asked."""

from __future__ import annotations

from typing import ClassVar

import msgspec

from extproc.dialects import registry
from extproc.errors import ErrorCode, Rejection
from extproc.exchange.actions import Answer
from extproc.exchange.draft import Draft
from extproc.exchange.events import RequestHeaders
from extproc.exchange.facts import Facts
from extproc.exchange.policy import Policy
from extproc.policies.grants import Grants, Rule, allows


class Offer(msgspec.Struct, frozen=True):
    """A model name that may be called. `resolved` differs for an alias."""

    name: str
    provider: str
    api: str
    resolved: str


class Offers(msgspec.Struct, frozen=True):
    """All names of a configuration, aliases first; compiled once."""

    offers: tuple[Offer, ...]

    def of(self, rules: tuple[Rule, ...], api: str) -> list[Offer]:
        """The names that one of `rules` allows, for callers of `api`."""
        return [
            offer
            for offer in self.offers
            if offer.api == api and allows(rules, offer.provider, (offer.name, offer.resolved))
        ]


class ModelsPolicy(Policy):
    """Answers the list and the single-model call."""

    name: ClassVar[str] = "models"

    def __init__(self, offers: Offers, grants: Grants) -> None:
        """Built per exchange."""
        self._offers = offers
        self._grants = grants

    def request_headers(self, facts: Facts, event: RequestHeaders, draft: Draft) -> None:
        """Answer in the provider's place. Raises 404 for a single model the caller may not use."""
        endpoint = facts.endpoint
        if endpoint is None or endpoint.dialect is None or endpoint.dialect.operation != "models":
            return
        if facts.caller is None:
            raise Rejection(403, ErrorCode.POLICY_ENDPOINT_NOT_ALLOWED, "This call has no identity.")
        offers = self._offers.of(self._grants.of(facts.caller), endpoint.api)
        body = registry.render_models(endpoint.api, endpoint.path, [(offer.name, offer.provider) for offer in offers])
        if body is None:
            raise Rejection(
                404,
                ErrorCode.POLICY_MODEL_NOT_ALLOWED,
                "The model does not exist or this key does not have access to it.",
                param="model",
            )
        draft.answer = Answer(200, (("content-type", "application/json"),), body, "models_list")
