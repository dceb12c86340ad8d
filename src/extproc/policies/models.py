"""`GET /v1/models`: what this caller may use, answered here in the vendor's shape. The vendor is not asked."""

from __future__ import annotations

from typing import ClassVar, Final
from urllib.parse import unquote

import msgspec

from extproc.dialects import anthropic_models, openai_models, registry
from extproc.dialects.models import ModelEntry
from extproc.errors import ErrorCode, Rejection
from extproc.exchange.actions import Answer
from extproc.exchange.draft import Draft
from extproc.exchange.events import RequestHeaders
from extproc.exchange.facts import Facts
from extproc.exchange.policy import Policy
from extproc.policies.grants import Grants, Rule, allows, matches

# a rule that opens none of these lets nobody use a model, though it may let them ask for the list
_USES: Final = {
    api: tuple(name for name, dialect in registry.DIALECTS.items() if dialect.api == api and dialect.method == "POST")
    for api in ("openai", "anthropic")
}
# the vendors give the time at which a model came out, which no catalogue tells us: a fixed day, so that lists compare equal
CREATED: Final = 1_735_689_600  # 2025-01-01


class Offer(msgspec.Struct, frozen=True):
    """A model name that may be called: an alias anywhere in its `api`, another name at its `provider` only."""

    name: str
    provider: str
    api: str
    resolved: str
    alias: bool = False


class Offers(msgspec.Struct, frozen=True):
    """All names of a configuration, aliases first; compiled once."""

    offers: tuple[Offer, ...]

    def of(self, rules: tuple[Rule, ...], api: str, provider: str) -> list[Offer]:
        """The names that one of `rules` allows, for callers of `provider`, which speaks `api`."""
        usable = tuple(rule for rule in rules if any(matches(rule.endpoints, name) for name in _USES[api]))
        return [
            offer
            for offer in self.offers
            if offer.api == api
            and (offer.alias or offer.provider == provider)
            and allows(usable, offer.provider, (offer.name, offer.resolved))
        ]


def render(api: str, path: str, offers: list[Offer]) -> bytes:
    """The list, or the one model that `path` names. Raises 404 for one that is not among `offers`, 400 for a bad page."""
    bare, _, query = path.partition("?")
    entries = [ModelEntry(offer.name, CREATED, offer.provider, offer.name) for offer in offers]
    wanted = registry.model_in_path(bare)
    if wanted is None:
        if api == "anthropic":
            return anthropic_models.render_list(entries, anthropic_models.read_page(query))
        return openai_models.render_list(entries)
    one = next((entry for entry in entries if entry.id in (wanted, unquote(wanted))), None)
    if one is None:
        message = "The model does not exist or this key does not have access to it."
        raise Rejection(404, ErrorCode.POLICY_MODEL_NOT_ALLOWED, message, param="model")
    return anthropic_models.render_one(one) if api == "anthropic" else openai_models.render_one(one)


class ModelsPolicy(Policy):
    """Answers the list and the single-model call."""

    name: ClassVar[str] = "models"

    def __init__(self, offers: Offers, grants: Grants) -> None:
        """Built per exchange."""
        self._offers = offers
        self._grants = grants

    def request_headers(self, facts: Facts, event: RequestHeaders, draft: Draft) -> None:
        """Answer in the provider's place. Raises 404 for a single model that the caller may not use."""
        endpoint = facts.endpoint
        if endpoint is None or endpoint.dialect is None or endpoint.dialect.operation != "models":
            return
        if facts.caller is None:
            raise Rejection(403, ErrorCode.POLICY_ENDPOINT_NOT_ALLOWED, "This call has no identity.")
        offers = self._offers.of(self._grants.of(facts.caller), endpoint.api, endpoint.provider)
        body = render(endpoint.api, endpoint.path, offers)
        draft.answer = Answer(200, (("content-type", "application/json"),), body, "models_list")
