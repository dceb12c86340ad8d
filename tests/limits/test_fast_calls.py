"""The short ways of a call's own two scripts ask and read what the general ones do."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from extproc.limits.counters import LARGEST
from extproc.limits.scripts import (
    Booking,
    Calls,
    Handle,
    State,
    granted,
    held,
    is_plain,
    leases_key,
    read,
    record_key,
    settled,
    terms,
)
from limits.store import book, bucket, counter, flights, month

HANDLE = Handle("acme", "one")
NOW = 1_800_000_000_000
AMOUNT = st.integers(0, LARGEST - 1)


def bookings(amounts: list[int]) -> list[Booking]:
    """On limits of all sorts, by turns."""
    kinds = (month, flights, bucket)
    return [book(counter("acme", kinds[place % 3](), f"v{place}"), amount, NOW) for place, amount in enumerate(amounts)]


def short(amounts: list[int]) -> list[bytes]:
    made = bookings(amounts)
    keys = [leases_key("acme"), record_key(HANDLE), *[one.counter.key for one in made]]
    return held(keys, b"one", amounts, [terms(one) for one in made], 15_000)


@given(st.lists(st.tuples(AMOUNT, AMOUNT), min_size=1, max_size=6))
def test_the_arguments_are_those_of_the_general_way(pairs: list[tuple[int, int]]):
    """Of a reservation, and of a settlement that is made from it."""
    before, after = [list(amounts) for amounts in zip(*pairs, strict=True)]

    assert short(before) == Calls().reserve(HANDLE, bookings(before), 15_000)
    assert settled(short(before), after) == Calls().settle(HANDLE, bookings(after))


@pytest.mark.parametrize("amount", [-1, LARGEST])
def test_amounts_that_cannot_be_counted_are_refused(amount: int):
    """As the general way does."""
    with pytest.raises(ValueError, match="cannot be counted"):
        short([1, amount])


def test_a_counter_is_booked_once():
    """Twice in one call would count the later amount alone."""
    key = counter("acme", month()).key
    with pytest.raises(ValueError, match="twice"):
        held([b"leases", b"record", key, key], b"one", [1, 1], [b"t", b"t"], 15_000)


ROW = st.tuples(AMOUNT, AMOUNT, AMOUNT, st.integers(NOW, NOW * 2), st.sampled_from([0, 0, 1, 2]), st.just(0), AMOUNT)


@given(st.sampled_from([State.GRANTED, State.AGAIN, State.REFUSED]), st.lists(ROW, min_size=1, max_size=3))
def test_a_plain_yes_is_read_as_the_general_way_reads_it(state: State, rows: list[tuple[int, ...]]):
    """What says more than yes, or is of a bucket, is left to that."""
    raw = [state.value, NOW, *[number for row in rows for number in row]]
    asked = bookings([1] * len(rows))
    plain = state is State.GRANTED and len(rows) < 3 and not any(row[4] for row in rows)

    answer = granted(raw, [one.counter for one in asked])

    assert (answer is not None) == plain
    if answer is not None:
        assert answer == read(raw, asked).reserved()


@given(st.lists(st.tuples(AMOUNT, AMOUNT, st.sampled_from([0, 0, 80])), max_size=4))
def test_a_settlement_is_plain_where_nobody_need_be_told(rows: list[tuple[int, int, int]]):
    """No alert, and nothing used above its limit; a repeated one, of two numbers, is plain too."""
    raw = [State.SETTLED.value, NOW]
    for used, limit, alert in rows:
        raw += (used, 0, limit, NOW, 0, alert, 0)

    assert is_plain(raw) == all(used <= limit and not alert for used, limit, alert in rows)


def test_a_clock_that_did_not_fit_is_not_plain():
    """Nothing has been settled then."""
    assert not is_plain([State.CLOCK.value, NOW])
    assert is_plain([State.ENDED.value, NOW])
