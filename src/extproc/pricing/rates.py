"""Rates: US dollars per million tokens, by kind of token."""

from __future__ import annotations

from decimal import Decimal

import msgspec


class Rates(msgspec.Struct, frozen=True):
    """What a million tokens cost, in US dollars.

    `input` is for input tokens that came from no cache and went to none. None means: no rate is known. Where one of
    `cached_input` and `cache_write` is None such tokens cost what `input` costs, `reasoning` what `output` costs:
    that is how providers bill that list no rate of their own for them. `per_call` is charged once a call.

    `tiers` are whole rate cards that replace this one, for all of a call's tokens, once its input is long: the
    cliff that providers bill long contexts with.
    """

    input: Decimal | None
    output: Decimal | None
    cached_input: Decimal | None = None
    cache_write: Decimal | None = None
    reasoning: Decimal | None = None
    per_call: Decimal = Decimal(0)
    tiers: tuple[Tier, ...] = ()

    def at(self, input_tokens: int) -> Rates:
        """Give the rate card for a call with `input_tokens`, cached ones included."""
        card = self
        for tier in self.tiers:
            if input_tokens > tier.above:
                card = tier.rates
        return card


class Tier(msgspec.Struct, frozen=True):
    """`rates` hold where a call's input is more than `above` tokens. Tiers stand in rising order of `above`."""

    above: int
    rates: Rates
