"""Rates by provider, model and day: the operator's overrides first, then the data of the package `genai-prices`.

That package is data here: its module of prices is imported on first use (about 0.1 s and 14 MB), nothing of it is
started, nothing is fetched. What it knows and we leave out, because the usage of a call does not tell: rates by
modality (audio, images), of one-hour cache writes (the five-minute rate is used), of batch, flex and priority service
tiers, and fees for hosted tools such as web search. Such calls are priced by the standard text rates.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from datetime import datetime
from decimal import Decimal
from fnmatch import fnmatchcase
from functools import cache
from typing import TYPE_CHECKING, Final

import msgspec

from extproc.pricing.cost import Priced, cost
from extproc.pricing.rates import Rates, Tier
from extproc.usage import Usage

if TYPE_CHECKING:
    from genai_prices.types import ModelInfo, ModelPrice, Provider

CONFIG: Final = "config"
CATALOGUE: Final = "catalogue"

# ids of the catalogue that a caller can send as they are; others stand for families (`ft:…`, `….ft-`)
_CALLABLE: Final = re.compile(r"[a-z0-9][a-z0-9.-]*[a-z0-9]")
_MAX_REMEMBERED: Final = 4096


class Override(msgspec.Struct, frozen=True):
    """Rates from configuration for the models of `provider` that match the pattern `model` (`*`, `?`)."""

    provider: str
    model: str
    rates: Rates


class Catalog:
    """Finds rates. Answers are remembered by (provider, model), for a bounded number of names."""

    def __init__(self, overrides: Iterable[Override] = (), apis: Mapping[str, str] | None = None) -> None:
        """`overrides`: the first that matches wins.

        `apis`: for providers whose name is not the catalogue's, whose prices they have: {"openai_eu": "openai"}. A
        provider that is neither mapped nor named as in the catalogue has no catalogue prices.
        """
        self._overrides = tuple(overrides)
        self._apis = dict(apis or {})
        self._models: dict[tuple[str, str], ModelInfo | None] = {}
        self._cards: dict[int, Rates | None] = {}

    def find(self, provider: str, model: str, at: datetime) -> Rates | None:
        """Rates of `model` at `provider` for a call at `at` (aware; UTC days count), or None where none are known."""
        return self._configured(provider, model) or self._listed(provider, model, at)

    def price(self, provider: str, names: Iterable[str], usage: Usage, at: datetime) -> Priced:
        """Price a call whose model has these names (the resolved one, the one that the provider reports).

        An override for any of the names wins over the catalogue; otherwise the first name with rates counts.
        """
        tried = tuple(dict.fromkeys(name for name in names if name))
        for name in tried:
            rates = self._configured(provider, name)
            if rates is not None:
                return cost(usage, rates, CONFIG)
        for name in tried:
            rates = self._listed(provider, name, at)
            if rates is not None:
                return cost(usage, rates, CATALOGUE)
        return Priced(None, "no rates for this model" if tried else "the model is not known")

    def names(self, provider: str) -> tuple[str, ...]:
        """Give the names of the models that `provider` sells by the token and has not deprecated, sorted."""
        listed = _providers().get(self._apis.get(provider, provider))
        if listed is None:
            return ()
        return tuple(
            sorted(
                model.id
                for model in listed.models
                if not model.deprecated and _CALLABLE.fullmatch(model.id) and _sold_by_token(model)
            )
        )

    def _configured(self, provider: str, model: str) -> Rates | None:
        for override in self._overrides:
            if override.provider == provider and fnmatchcase(model, override.model):
                return override.rates
        return None

    def _listed(self, provider: str, model: str, at: datetime) -> Rates | None:
        found = self._model(self._apis.get(provider, provider), model)
        if found is None or not found.prices:
            return None
        price = found.get_prices(at)
        key = id(price)  # the catalogue keeps its price cards for as long as the process lives
        if key not in self._cards:
            self._cards[key] = _compile(price)
        return self._cards[key]

    def _model(self, api: str, model: str) -> ModelInfo | None:
        key = (api, model)
        if key in self._models:
            return self._models[key]
        providers = _providers()
        listed = providers.get(api)
        found = listed.find_model(model, all_providers=list(providers.values())) if listed is not None else None
        if len(self._models) >= _MAX_REMEMBERED:  # names come from callers: start over rather than grow
            self._models.clear()
        self._models[key] = found
        return found


@cache
def _providers() -> dict[str, Provider]:
    from genai_prices.data import providers  # slow to import, and not every process prices calls

    return {provider.id: provider for provider in providers}


def _sold_by_token(model: ModelInfo) -> bool:
    price = model.prices[-1].prices if isinstance(model.prices, list) and model.prices else model.prices
    return not isinstance(price, list) and price.input_mtok is not None


def _compile(price: ModelPrice) -> Rates | None:
    """Turn prices that have tiers each into rate cards: one for every input length from which any of them changes."""
    starts = sorted({tier.start for kind in vars(price).values() for tier in getattr(kind, "tiers", ())})
    rates = msgspec.structs.replace(
        _card(price, 0), tiers=tuple(Tier(start, _card(price, start + 1)) for start in starts)
    )
    return None if rates.input is None and rates.output is None else rates


def _card(price: ModelPrice, input_tokens: int) -> Rates:
    fee = price.requests_kcount
    return Rates(
        input=_at(price.input_mtok, input_tokens),
        output=_at(price.output_mtok, input_tokens),
        cached_input=_at(price.cache_read_mtok, input_tokens),
        cache_write=_at(price.cache_write_mtok, input_tokens),
        reasoning=_at(price.output_reasoning_mtok, input_tokens),
        per_call=fee.scaleb(-3) if isinstance(fee, Decimal) else Decimal(0),
    )


def _at(price: object, input_tokens: int) -> Decimal | None:
    """Give the price that holds for a call with `input_tokens`."""
    if price is None or isinstance(price, Decimal):
        return price
    from genai_prices.types import TieredPrices

    if not isinstance(price, TieredPrices):
        return None
    current: Decimal = price.base
    for tier in price.tiers:
        if input_tokens > tier.start:
            current = tier.price
    return current
