"""Which settlements are told at once, and which together with others."""

from __future__ import annotations

import pytest

from adapters.limit_rig import BUDGET, RULES, TOKENS, charges, organisation
from extproc.adapters.limit_settle import bounded, is_urgent
from extproc.adapters.limit_shard import Reservation, Shard
from extproc.limits.counters import LARGEST, Standing
from extproc.limits.rules import Rules


def reservation(rules: Rules, amounts: tuple[int, ...], room: int) -> Reservation:
    """One that the store has granted, with `room` left on every counter."""
    shard = Shard(organisation(), lambda _shard, _reason: None)
    made = Reservation(shard, "one", charges(rules, shard.name, *amounts))
    made.standings = tuple(Standing(0, amount, amount + room) for amount in amounts)
    return made


@pytest.mark.parametrize(("room", "urgent"), [(10, True), (1_000_000, False)])
def test_what_gives_back_is_urgent_where_little_is_left(room: int, urgent: bool):
    """Somebody else may be turned away for want of it; with ample room, nobody misses it for a moment."""
    assert is_urgent(reservation(Rules((BUDGET, TOKENS)), (10, 10), room), (3, 3)) is urgent


def test_what_was_used_as_held_is_not_urgent():
    """It gives nothing back: what is left stays the same."""
    assert not is_urgent(reservation(Rules((BUDGET, TOKENS)), (10, 10), 0), (10, 10))


def test_what_took_more_than_it_held_is_urgent_where_little_is_left():
    """The next call has to see it."""
    assert is_urgent(reservation(Rules((BUDGET, TOKENS)), (10, 10), 100), (10, 90))


def test_calls_in_flight_end_at_once():
    """A caller's next call may wait for the place of the last one."""
    assert is_urgent(reservation(RULES, (1, 1, 1), 1_000_000), (1, 1, 1))


def test_without_a_plain_yes_of_the_store_it_is_urgent():
    """Nobody knows how much is left."""
    made = reservation(Rules((BUDGET,)), (10,), 1_000_000)
    made.standings = ()

    assert is_urgent(made, (3,))


@pytest.mark.parametrize(("given", "counted"), [(-5, 0), (7, 7), (LARGEST * 2, LARGEST - 1)])
def test_amounts_are_bounded(given: int, counted: int):
    """Whatever a provider reports, the store can count it."""
    assert bounded(given) == counted
