"""What a call may come to before anybody knows: input estimated high, output up to its cap, at the dearest provider."""

from __future__ import annotations

from collections.abc import Generator
from datetime import UTC, datetime
from itertools import islice
from math import lcm
from typing import Final, NamedTuple, cast

import msgspec

from extproc.errors import EffectError, Rejection
from extproc.exchange.effects import CountTokens, Effect
from extproc.exchange.facts import Facts, Target
from extproc.limits.counters import NANO
from extproc.limits.estimates import Estimates
from extproc.limits.rules import Rules, output_tokens
from extproc.pricing.catalog import Catalog
from extproc.pricing.rates import Rates
from extproc.usage import Usage

_ATTACHED: Final = "url"  # the kind of a text that is a link to an image or a file, or holds its base64
_SIGNS: Final = (b'"image', b'"input_image', b'"file', b'"input_file', b'"document', b'"input_audio')
_TYPED: Final = b'"type"'  # every part that is such a thing has this, and most calls have no part with it
_SMALL: Final = 64 << 10  # bytes; a larger body is looked into, since much of it may be something else than text
_MOST_TEXTS: Final = 10_000
_CACHED: Final = b'"cache_control"'  # Anthropic: what is written to its prompt cache costs more than other input
_LEAST_STEP: Final = 256
_MINUTE: Final = 60  # seconds: rates change with the day, some with the time of day, by the minute
_MOST_MODELS: Final = 1024
_TOKENS: Final = 1_000_000  # that a rate is for
_OUTPUT: Final = 4096  # tokens reserved where neither the caller nor the configuration says how many


class _Tariff(NamedTuple):
    """Rates of calls with more than `above` input tokens: whole numbers of 1/`parts` billionths of a dollar.

    None: no rate is known.
    """

    above: int
    parts: int
    call: int
    read: int | None
    cached: int | None  # input that is written to a cache
    written: int | None


class Prices:
    """Worst costs in whole numbers, exact as `pricing.cost`: rates are looked up once a minute for each chain and model."""

    def __init__(self) -> None:
        """Nothing is looked up yet."""
        self._minute = 0
        self._known: dict[tuple[tuple[str, ...], str], tuple[tuple[_Tariff, ...], ...] | None] = {}

    def worst(self, catalog: Catalog, target: Target, usage: Usage, wall: float) -> int | None:
        """Billionths of a dollar, rounded up, at the dearest provider of the chain; None where one has no known price.

        Of `usage`, `input` and `output` count, and `cache_creation_input`. `wall`: UNIX seconds of the call.
        """
        minute = int(wall) // _MINUTE
        if minute != self._minute or len(self._known) > _MOST_MODELS:
            self._known.clear()
            self._minute = minute
        key = (target.chain, target.model)
        if key in self._known:
            chain = self._known[key]
        else:
            chain = self._known[key] = _look_up(catalog, target, wall)
        if chain is None:
            return None
        dearest = 0
        for tariffs in chain:
            amount = _priced(tariffs, usage)
            if amount is None:
                return None
            dearest = max(dearest, amount)
        return dearest


def _look_up(catalog: Catalog, target: Target, wall: float) -> tuple[tuple[_Tariff, ...], ...] | None:
    at = datetime.fromtimestamp(wall, UTC)
    rates = [catalog.find(provider, target.model, at) if target.model else None for provider in target.chain]
    return None if None in rates else tuple([_tariffs(one) for one in rates if one is not None])


def _tariffs(rates: Rates) -> tuple[_Tariff, ...]:
    """The cards of `rates`, in rising order of the input they are for."""
    return (_tariff(-1, rates), *[_tariff(tier.above, tier.rates) for tier in rates.tiers])


def _tariff(above: int, card: Rates) -> _Tariff:
    write = card.input if card.cache_write is None else card.cache_write
    exact = [None if rate is None else (rate * NANO / _TOKENS).as_integer_ratio() for rate in (card.input, write)]
    exact += [None if card.output is None else (card.output * NANO / _TOKENS).as_integer_ratio()]
    call = (card.per_call * NANO).as_integer_ratio()
    parts = lcm(call[1], *[rate[1] for rate in exact if rate is not None])
    whole = [None if rate is None else rate[0] * (parts // rate[1]) for rate in exact]
    return _Tariff(above, parts, call[0] * (parts // call[1]), *whole)


def _priced(tariffs: tuple[_Tariff, ...], usage: Usage) -> int | None:
    read, cached, written = usage.input or 0, usage.cache_creation_input or 0, usage.output or 0
    tariff = tariffs[0]
    for longer in tariffs[1:]:
        if read > longer.above:
            tariff = longer
    total = tariff.call
    for tokens, rate in ((max(0, read - cached), tariff.read), (cached, tariff.cached), (written, tariff.written)):
        if tokens:
            if rate is None:
                return None
            total += tokens * rate
    return -(-total // tariff.parts)


class Quotas(msgspec.Struct, frozen=True):
    """The compiled section, and what estimates are made from. `output_tokens`: (pattern on the model, tokens)."""

    rules: Rules
    estimates: Estimates
    catalog: Catalog
    organisation: str
    output_tokens: tuple[tuple[str, int], ...]
    exact_input: bool = False
    price_needed: bool = True  # a call under a budget whose price is not known is refused
    headers: bool = False
    prices: Prices = msgspec.field(default_factory=Prices)


class Worth(msgspec.Struct, frozen=True):
    """The worst case of one call. `size`: bytes of text; `step`: tokens by which a stream's reservation grows."""

    usage: Usage
    size: int = 0
    attachments: int = 0
    open_ended: bool = False  # the caller set no cap on the output
    step: int = _LEAST_STEP
    billable: bool = True

    def with_output(self, tokens: int) -> Worth:
        """The same with another count of output."""
        return msgspec.structs.replace(self, usage=msgspec.structs.replace(self.usage, output=tokens))


def size_up(quotas: Quotas, facts: Facts, body: bytes) -> Generator[Effect, object, Worth]:
    """Tokens that the call may use. Only calls that a vendor charges for use any."""
    endpoint, request, target = facts.endpoint, facts.request, facts.target
    dialect = endpoint.dialect if endpoint is not None else None
    if dialect is None:  # passed through unread
        return Worth(Usage())
    if request is None or target is None or not dialect.billable:
        return Worth(Usage(), billable=False)
    size, attachments = _measure(facts, body)
    read = None
    if quotas.exact_input:
        texts = [text.value for text in islice(request.texts(), _MOST_TEXTS) if text.kind != _ATTACHED]
        try:
            counted = cast("int", (yield CountTokens(target.model, texts)))
            # what is not text (roles, structure) costs the vendor's tokens too, a few for each part
            images = quotas.estimates.input(target.model, 0, attachments) if attachments else 0
            read = counted + 8 * (len(texts) + 1) + images if texts else None
        except EffectError:
            read = None  # an estimate will do
    if read is None:
        read = quotas.estimates.input(target.model, size, attachments)
    written, step, own = 0, _LEAST_STEP, True
    if dialect.operation == "chat":
        own = request.max_output is not None
        each = (
            request.max_output
            if request.max_output is not None
            else output_tokens(quotas.output_tokens, target.model, _OUTPUT)
        )
        written, step = each * request.choices, max(_LEAST_STEP, each // 4)
    writes = read if _CACHED in body else None
    usage = Usage(input=read, output=written, cache_creation_input=writes)
    return Worth(usage, size, attachments, open_ended=not own, step=step)


def worst_cost(quotas: Quotas, facts: Facts, worth: Worth) -> int | None:
    """Billionths of a dollar at the dearest provider of the chain; None where one has no known price.

    A call that costs nothing costs 0. What passes unread has no known price.
    """
    target = facts.target
    if not worth.billable:
        return 0
    if target is None or worth.usage.input is None:
        return None
    return quotas.prices.worst(quotas.catalog, target, worth.usage, facts.origin.wall)


def _may_attach(body: bytes) -> bool:
    return _TYPED in body and any(sign in body for sign in _SIGNS)


def _measure(facts: Facts, body: bytes) -> tuple[int, int]:
    """Bytes of text, and how many images and files are with it. A small body without a sign of any is all text."""
    request = facts.request
    if request is None or (len(body) <= _SMALL and not _may_attach(body)):
        return len(body), 0
    try:
        found = list(islice(request.texts(), _MOST_TEXTS + 1))
    except Rejection:  # nested deeper than texts can be found in
        return len(body), 0
    attached = [text for text in found if text.kind == _ATTACHED]
    if not attached or len(found) > _MOST_TEXTS:
        return len(body), len(attached)
    return max(0, len(body) - sum(len(text.value) for text in attached)), len(attached)
