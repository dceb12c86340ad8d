"""Costs are exact, additive and never negative, and unknown is not zero."""

from __future__ import annotations

from decimal import Decimal, Inexact, localcontext

import pytest
from hypothesis import given
from hypothesis import strategies as st

from extproc.pricing.cost import Priced, cost
from extproc.pricing.rates import Rates, Tier
from extproc.usage import Usage

D = Decimal
counts = st.integers(0, 10**9)
rate = st.decimals(0, 1000, places=4)
full_rates = st.builds(Rates, input=rate, output=rate, cached_input=rate, cache_write=rate, reasoning=rate)
all_rates = st.builds(
    Rates,
    input=rate,
    output=rate,
    cached_input=st.none() | rate,
    cache_write=st.none() | rate,
    reasoning=st.none() | rate,
)


@st.composite
def usages(draw: st.DrawFn) -> Usage:
    """Consistent counts: the parts are within input and output."""
    fresh, cached, written, spoken, reasoning = (draw(counts) for _ in range(5))
    return Usage(
        input=fresh + cached + written,
        output=spoken + reasoning,
        cached_input=cached,
        cache_creation_input=written,
        reasoning=reasoning,
    )


def amount(usage: Usage, rates: Rates) -> Decimal:
    priced = cost(usage, rates)
    assert priced.amount is not None
    assert not priced.inconsistent
    return priced.amount


def test_a_call_that_writes_the_cache() -> None:
    """Anthropic's raw counts {input 3, cache creation 12304, output 550} at 3 / 3.75 / 15."""
    usage = Usage(input=12307, output=550, cached_input=0, cache_creation_input=12304)
    rates = Rates(input=D(3), output=D(15), cached_input=D("0.3"), cache_write=D("3.75"))
    assert amount(usage, rates) == D("0.054399")


def test_a_call_that_reads_the_cache() -> None:
    """A prompt of 262,960 of which 257,955 cached, 1,744 out, at 1.25 / 0.625 / 10."""
    usage = Usage(input=262_960, output=1_744, cached_input=257_955)
    rates = Rates(input=D("1.25"), output=D(10), cached_input=D("0.625"))
    assert amount(usage, rates) == D("0.184918125")


def test_every_kind_has_its_rate() -> None:
    """Each of the five kinds is charged once, at its own rate."""
    usage = Usage(input=111_000, output=11_000, cached_input=10_000, cache_creation_input=1_000, reasoning=1_000)
    rates = Rates(input=D(1), output=D(100), cached_input=D(10), cache_write=D(1000), reasoning=D(10_000))
    assert amount(usage, rates) == D("0.1") + D("0.1") + D(1) + D(1) + D(10)


@pytest.mark.parametrize(
    ("kind", "as_if"),
    [("cached_input", Usage(input=10, output=0)), ("cache_creation_input", Usage(input=10, output=0))],
)
def test_a_kind_without_a_rate_costs_what_its_whole_costs(kind: str, as_if: Usage) -> None:
    """Cache reads and writes without a rate are input; reasoning without one is output."""
    rates = Rates(input=D(2), output=D(8))
    assert amount(Usage(**{"input": 10, "output": 0, kind: 10}), rates) == amount(as_if, rates) == D("0.00002")
    assert amount(Usage(input=0, output=10, reasoning=10), rates) == D("0.00008")


def test_a_rate_of_zero_is_a_rate() -> None:
    """Free cache reads are free, and not charged as input."""
    assert amount(Usage(input=10, output=0, cached_input=10), Rates(input=D(2), output=D(8), cached_input=D(0))) == 0


@pytest.mark.parametrize(
    ("usage", "rates", "reason"),
    [
        (Usage(), Rates(D(1), D(1)), "input tokens are not reported"),
        (Usage(output=5), Rates(D(1), D(1)), "input tokens are not reported"),
        (Usage(input=5), Rates(D(1), D(1)), "output tokens are not reported"),
        (Usage(input=5, output=5), Rates(D(1), None), "no rate for output tokens"),
        (Usage(input=5, output=5), Rates(None, D(1)), "no rate for input tokens"),
        (Usage(input=5, output=5, cached_input=5), Rates(None, D(1)), "no rate for cached input tokens"),
        (Usage(input=5, output=5, reasoning=5), Rates(D(1), None), "no rate for reasoning tokens"),
        (Usage(input=-1, output=5), Rates(D(1), D(1)), "a token count is negative"),
        (Usage(input=1, output=5, cached_input=-1), Rates(D(1), D(1)), "a token count is negative"),
    ],
)
def test_unknown_is_told_and_not_zero(usage: Usage, rates: Rates, reason: str) -> None:
    """Where a count or a rate is missing there is no amount, and a reason."""
    assert cost(usage, rates, "config") == Priced(None, reason, "config")


@pytest.mark.parametrize("output_rate", [None, D(0)])
def test_embeddings_have_no_output(output_rate: Decimal | None) -> None:
    """Where output has no rate, or is free, its count is not needed."""
    assert amount(Usage(input=1_000_000), Rates(D("0.02"), output_rate)) == D("0.02")


@pytest.mark.parametrize(
    ("usage", "expected"),
    [
        (Usage(input=10, output=0, cached_input=20), D("0.00002")),
        (Usage(input=10, output=0, cached_input=8, cache_creation_input=8), D("0.000040")),
        (Usage(input=0, output=5, reasoning=7), D("0.000070")),
    ],
)
def test_counts_that_contradict_each_other_are_flagged(usage: Usage, expected: Decimal) -> None:
    """More parts than whole: the parts are charged, the remainder is not negative, and the record can say so."""
    rates = Rates(input=D(2), output=D(10), cached_input=D(1), cache_write=D(4))
    assert cost(usage, rates) == Priced(expected, inconsistent=True)


def test_a_long_prompt_costs_the_long_rate_for_all_of_it() -> None:
    """Tiers are cliffs on the whole input, cached tokens included, and hold for output too."""
    rates = Rates(
        input=D(3),
        output=D(15),
        cached_input=D(1),
        tiers=(Tier(200_000, Rates(D(6), D("22.5"), D(2))), Tier(500_000, Rates(D(9), D(30), D(3)))),
    )
    assert amount(Usage(input=200_000, output=1000), rates) == D("0.615")
    assert amount(Usage(input=200_001, output=1000), rates) == D("1.222506")
    assert amount(Usage(input=200_001, output=0, cached_input=200_001), rates) == D("0.400002")
    assert amount(Usage(input=1_000_000, output=0), rates) == D(9)


def test_a_fee_per_call_is_charged_once() -> None:
    """`per_call` comes on top of the tokens."""
    assert amount(Usage(input=0, output=0), Rates(D(1), D(1), per_call=D("0.005"))) == D("0.005")


@given(usages(), usages(), full_rates)
def test_costs_add_up(first: Usage, second: Usage, rates: Rates) -> None:
    """The cost of a sum is the sum of the costs, to the last digit."""
    assert amount(first + second, rates) == amount(first, rates) + amount(second, rates)


@given(usages(), all_rates)
def test_no_digit_is_rounded_away(usage: Usage, rates: Rates) -> None:
    """Not one operation is inexact, for counts up to a thousand million and rates with four places."""
    with localcontext() as context:
        context.traps[Inexact] = True
        assert isinstance(amount(usage, rates), Decimal)


@given(st.builds(Usage, *[st.none() | st.integers(-5, 10**9) for _ in range(5)]), all_rates)
def test_never_negative(usage: Usage, rates: Rates) -> None:
    """Whatever the counts, the amount is unknown with a reason, or not negative."""
    priced = cost(usage, rates)
    if priced.amount is None:
        assert priced.reason
    else:
        assert priced.amount >= 0
        assert priced.reason == ""
