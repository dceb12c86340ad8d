"""Books of single counters, without the ledger around them."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from extproc.limits.counters import LARGEST, Span
from extproc.limits.pages import Bucket, CalendarPage, Flights, counted, fresh, room, stored, verdict
from limits.store import book, bucket, counter, flights, month

SPAN = Span(1000, 2000, 3500)


@given(
    limit=st.integers(1, 10**13),
    period=st.integers(1, 86_400_000),
    out=st.integers(1, 10**14),
    steps=st.lists(st.integers(0, 10**7), max_size=6),
)
def test_bucket_drains_exactly(limit: int, period: int, out: int, steps: list[int]) -> None:
    """However often it is looked at: what has flowed back is the whole part of time times rate, nothing is lost."""
    booking = book(counter("acme", bucket(limit=limit, period=period)), 0)
    page, now = Bucket(), 0
    page.out = out
    for step in steps:
        now += step
        page.drain(booking, now)
    flowed = int(Fraction(now * limit, period))
    assert page.out == max(0, out - flowed)


def test_bucket_full_again_ends_its_top_up() -> None:
    """A top-up holds until everything has flowed back, and a clock that goes back changes nothing."""
    booking = book(counter("acme", bucket(limit=10, burst=10, period=1000)), 0)
    page = Bucket()
    page.drain(booking, 5000)
    page.granted = 7
    page.hold(0, 15)
    page.drain(booking, 4000)
    assert (page.out, room(page, booking)) == (15, 17)
    page.drain(booking, 5400)
    assert (page.out, page.granted) == (1, 7)
    page.drain(booking, 5500)
    assert (page.out, page.granted) == (0, 0)


@pytest.mark.parametrize(
    ("now", "window"),
    [(999, None), (1000, (1000, 2000)), (1999, (1000, 2000)), (2000, (2000, 3500)), (3499, (2000, 3500)), (3500, None)],
)
def test_fresh_window(now: int, window: tuple[int, int] | None) -> None:
    """The window of a span that holds a moment; both ends are taken at their word."""
    page = fresh(SPAN, now)
    assert (page and (page.start, page.end)) == window


def test_calendar_moves() -> None:
    """Reserved becomes used by settling or lapsing, and nothing goes below nothing or above what can be counted."""
    page = CalendarPage(1000, 2000)
    page.hold(0, 30)
    page.hold(30, 50)
    page.lapse(50)
    assert page.row() == (50, 0, 2000)
    page.revive(50, 20)
    assert page.row() == (0, 20, 2000)
    page.settle(20, 0, LARGEST)
    assert page.row() == (LARGEST - 1, 0, 2000)
    page.forgive()
    page.settle(0, 10, 4)
    assert page.row() == (4, 0, 2000)
    assert (counted(-1), counted(LARGEST)) == (0, LARGEST - 1)


def test_flights_are_freed() -> None:
    """A call in flight is one until it is settled or lapses, and lives again when it is revived."""
    page = Flights()
    page.hold(0, 1)
    page.hold(0, 1)
    page.settle(1, 0, 0)
    page.lapse(1)
    assert page.taken() == 0
    page.revive(1, 1)
    assert page.row() == (0, 1, 0)


def test_verdict() -> None:
    """A hard limit refuses what is above it, a soft one says so; the top-up counts."""
    page = CalendarPage(1000, 2000)
    page.hold(0, 90)
    hard, soft = (book(counter("acme", month(hard=hard)), 0, 1500) for hard in (True, False))
    assert [verdict(page, one, more) for one in (hard, soft) for more in (10, 11)] == [0, 1, 0, 2]
    page.granted = 1
    assert verdict(page, hard, 11) == 0


def test_stored() -> None:
    """What the store holds, read back: a window that is over is empty, and a stranger's value is an error."""
    booking = book(counter("acme", month()), 0, 1500, width=1000)
    fields = {b"s": b"1000", b"e": b"2000", b"u": b"7", b"r": b"3", b"g": b"2", b"a": b"50"}
    assert stored(booking, fields, 1500).row() == (7, 3, 2000)
    assert room(stored(booking, fields, 1500), booking) == 102
    assert stored(booking, fields, 2000).row() == (0, 0, 3000)
    assert stored(booking, {}, 1500).row() == (0, 0, 2000)
    assert stored(book(counter("acme", flights()), 0), {b"r": b"2", b"w": b"9"}, 1500).row() == (0, 2, 0)
    flow = book(counter("acme", bucket(limit=100, period=1000)), 0)
    assert stored(flow, {b"o": b"50", b"t": b"1500", b"r": b"10"}, 1600).row() == (30, 10, 0)
    with pytest.raises(ValueError, match="invalid literal"):
        stored(booking, {b"u": b"many"}, 1500)
