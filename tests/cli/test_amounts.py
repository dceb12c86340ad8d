"""Amounts as people read and write them: nothing is shown as less used, or more left, than it is."""

from __future__ import annotations

import math
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from extproc.cli.amounts import exact, find_rule, find_value, moment, near, per_cent, read_amount, shown, stamp
from extproc.errors import ConfigError
from extproc.limits.counters import LARGEST, NANO, Kind, Rule, Window

AMOUNTS = st.integers(min_value=0, max_value=LARGEST - 1)


@pytest.mark.parametrize(
    ("amount", "kind", "up", "down"),
    [
        (1234567, Kind.TOKENS, "1,234,567", "1,234,567"),
        (0, Kind.MONEY, "$0.0000", "$0.0000"),
        (1, Kind.MONEY, "$0.0001", "$0.0000"),
        (12 * NANO + 345_600_001, Kind.MONEY, "$12.3457", "$12.3456"),
        (450 * NANO + 125_000_000, Kind.MONEY, "$450.13", "$450.12"),
        (-5 * NANO, Kind.MONEY, "-$5.0000", "-$5.0000"),
    ],
)
def test_what_is_shown(amount: int, kind: Kind, up: str, down: str) -> None:
    """Large amounts to the cent, small ones to its hundredth."""
    assert shown(amount, kind) == up
    assert shown(amount, kind, down=True) == down


@given(AMOUNTS, st.sampled_from(Kind))
def test_rounding_is_on_the_safe_side_and_json_is_exact(amount: int, kind: Kind) -> None:
    """What JSON says can be given back to the command."""
    unit = NANO if kind is Kind.MONEY else 1
    low, high = (
        Decimal(shown(amount, kind, down=down).replace("$", "").replace(",", "")) * unit for down in (True, False)
    )
    assert low <= amount <= high
    assert read_amount(str(exact(amount, kind)), kind) == amount


def test_per_cents_round_up() -> None:
    """100 is all of it; of nothing there is none."""
    assert [per_cent(*pair) for pair in ((0, 9), (1, 1000), (999, 1000), (3, 2), (1, 0))] == [
        *("0 %", "1 %", "100 %", "150 %", "-"),
    ]


def test_moments() -> None:
    """UTC; none, and one that never comes."""
    assert (moment(1_795_251_600.0), moment(0.0), moment(math.inf)) == ("2026-11-21 09:00:00Z", "-", "never")
    assert (stamp(1_795_251_600.5), stamp(0.0), stamp(math.inf)) == ("2026-11-21T09:00:00.500Z", None, None)


@pytest.mark.parametrize("text", ["", "abc", "1.5", "nan", "inf", "1e99", "--5", "-1", str(LARGEST)])
def test_what_is_no_amount_of_tokens(text: str) -> None:
    """Refused, without a traceback."""
    with pytest.raises(ConfigError, match="AMOUNT"):
        read_amount(text, Kind.TOKENS)


def test_amounts_may_be_written_with_signs() -> None:
    """As they are shown; a negative one only where that has a meaning."""
    assert read_amount("$1,200.50", Kind.MONEY) == 1_200_500_000_000
    assert read_amount("10_000", Kind.TOKENS) == 10_000
    assert read_amount("-5", Kind.MONEY, negative=True) == -5 * NANO


def test_wrong_names_are_answered_with_near_ones() -> None:
    """Or with those that there are."""
    rule = Rule("team_month", Kind.MONEY, Window.MONTH, 1, ("team", "model"))
    assert find_rule("team_month", [rule]) is rule
    with pytest.raises(ConfigError, match="did you mean team_month"):
        find_rule("team_moth", [rule])
    assert find_value(rule, "a b/gpt-4o") == "a%20b/gpt-4o"
    with pytest.raises(ConfigError, match="team/model"):
        find_value(rule, "a")
    assert near("x", []) == "there are none"
    assert near("x", map(str, range(30))).endswith(", …")
