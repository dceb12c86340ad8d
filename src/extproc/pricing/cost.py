"""The cost of one call. Decimal throughout: sums of costs are exact."""

from __future__ import annotations

from decimal import Decimal

import msgspec

from extproc.pricing.rates import Rates
from extproc.usage import Usage

_NOTHING = Decimal(0)


class Priced(msgspec.Struct, frozen=True):
    """US dollars, or unknown (`amount` None) with the `reason`.

    `source` says where the rates are from: `config` or `catalogue`. `inconsistent`: the counts contradict each other
    (more cached than input, more reasoning than output); every part is then charged as reported and the remainder,
    which would be negative, as zero.
    """

    amount: Decimal | None
    reason: str = ""
    source: str = ""
    inconsistent: bool = False


def cost(usage: Usage, rates: Rates, source: str = "") -> Priced:
    """Price `usage`: each kind of token by its own rate, and what is left of input and output by theirs.

    Unknown, with a reason: no input count; no output count although output has a rate; a negative count; tokens of a
    kind for which there is no rate. A kind that is not reported counts as none of it.
    """
    counts = (usage.input, usage.output, usage.cached_input, usage.cache_creation_input, usage.reasoning)
    if any(count is not None and count < 0 for count in counts):
        return Priced(None, "a token count is negative", source)
    if usage.input is None:
        return Priced(None, "input tokens are not reported", source)
    card = rates.at(usage.input)
    if usage.output is None and card.output:
        return Priced(None, "output tokens are not reported", source)
    output, cached, written, reasoning = (count or 0 for count in counts[1:])
    fresh, spoken = usage.input - cached - written, output - reasoning
    amount = card.per_call
    for tokens, rate, kind in (
        (max(fresh, 0), card.input, "input"),
        (cached, _either(card.cached_input, card.input), "cached input"),
        (written, _either(card.cache_write, card.input), "cache write"),
        (max(spoken, 0), card.output, "output"),
        (reasoning, _either(card.reasoning, card.output), "reasoning"),
    ):
        if tokens and rate is None:
            return Priced(None, f"no rate for {kind} tokens", source)
        amount += tokens * (rate or _NOTHING).scaleb(-6)
    return Priced(amount, "", source, inconsistent=fresh < 0 or spoken < 0)


def _either(rate: Decimal | None, fallback: Decimal | None) -> Decimal | None:
    return fallback if rate is None else rate
