"""Calendar windows: they tile time, contain the moment asked for, and begin at local midnights and hours."""

from __future__ import annotations

from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from extproc.limits.counters import Span, Window
from extproc.limits.windows import span

HOUR = 3_600_000
CALENDAR = [Window.MINUTE, Window.HOUR, Window.DAY, Window.MONTH]
ZONES = [
    "UTC",
    "Europe/Berlin",
    "America/New_York",
    "America/St_Johns",  # half-hour offset, changed its clocks at 00:01
    "America/Sao_Paulo",  # changed them at midnight, both ways
    "America/Havana",  # midnight comes twice
    "America/Caracas",  # moved by half an hour
    "Asia/Kolkata",
    "Asia/Kathmandu",  # 5:45
    "Asia/Beirut",  # midnight is jumped over
    "Australia/Lord_Howe",  # changes by half an hour
    "Pacific/Apia",  # left out a day
    "Pacific/Chatham",
    "Africa/Casablanca",
]
MOMENTS = st.integers(min_value=0, max_value=4_000_000_000_000)  # to the year 2096


def ms(text: str) -> int:
    """UNIX milliseconds of a time that says its offset."""
    return int(datetime.fromisoformat(text).timestamp() * 1000)


def local(zone: str, at: int) -> datetime:
    return datetime.fromtimestamp(at / 1000, UTC).astimezone(ZoneInfo(zone))


# moments around which zones change their clocks, for a search that random numbers would rarely do
CHANGES = [
    ms("2026-03-29T01:00+00:00"),
    ms("2026-10-25T01:00+00:00"),
    ms("2026-04-04T15:00+00:00"),
    ms("2026-10-03T15:30+00:00"),
    ms("2011-12-30T10:00+00:00"),
    ms("2010-11-07T02:31+00:00"),
    ms("2018-11-04T03:00+00:00"),
    ms("2018-02-18T02:00+00:00"),
    ms("2016-05-01T07:00+00:00"),
    ms("2026-03-28T22:00+00:00"),
    ms("2026-11-01T05:00+00:00"),
]
NEAR = st.tuples(st.sampled_from(CHANGES), st.one_of(st.integers(-30 * HOUR, 30 * HOUR), st.integers(-HOUR, HOUR))).map(
    sum
)


@settings(max_examples=400)
@given(st.sampled_from(CALENDAR), st.sampled_from(ZONES), st.one_of(MOMENTS, NEAR))
def test_windows_tile_time(window: Window, zone: str, at: int) -> None:
    """The moment is in its window, the next begins where it ends, and every moment of it gives the same answer."""
    found = span(window, zone, at)
    assert found.start <= at < found.end < found.next_end
    following = span(window, zone, found.end)
    assert (following.start, following.end) == (found.end, found.next_end)
    assert span(window, zone, found.start - 1).end == found.start
    assert span(window, zone, found.start) == span(window, zone, found.end - 1) == found


@settings(max_examples=300)
@given(st.sampled_from([Window.DAY, Window.MONTH]), st.sampled_from(ZONES), st.one_of(MOMENTS, NEAR))
def test_days_and_months_begin_at_midnight(window: Window, zone: str, at: int) -> None:
    """By local clocks; where clocks jump over midnight, at the jump."""
    begin = span(window, zone, at).start
    now, before = local(zone, begin), local(zone, begin - 1)
    assert before.date() < now.date()
    jump = now.utcoffset() != before.utcoffset()
    assert jump or (now.hour, now.minute, now.second) == (0, 0, 0)
    assert window is Window.DAY or now.day == 1


@settings(max_examples=300)
@given(st.sampled_from(ZONES), st.one_of(MOMENTS, NEAR))
def test_hours_begin_at_whole_hours(zone: str, at: int) -> None:
    """By local clocks, whatever the offset; none is longer than an hour and a half."""
    found = span(Window.HOUR, zone, at)
    now, before = local(zone, found.start), local(zone, found.start - 1)
    assert now.utcoffset() != before.utcoffset() or (now.minute, now.second) == (0, 0)
    assert found.end - found.start in (HOUR // 2, HOUR, HOUR * 3 // 2)


def day(zone: str, at: str) -> float:
    """Hours of a day."""
    found = span(Window.DAY, zone, ms(at))
    return (found.end - found.start) / HOUR


@pytest.mark.parametrize(
    ("zone", "at", "hours"),
    [
        ("Europe/Berlin", "2026-03-29T12:00+02:00", 23),
        ("Europe/Berlin", "2026-10-25T12:00+01:00", 25),
        ("Europe/Berlin", "2026-06-01T12:00+02:00", 24),
        ("Australia/Lord_Howe", "2026-04-05T12:00+10:30", 24.5),
        ("Australia/Lord_Howe", "2026-10-04T12:00+11:00", 23.5),
        ("America/Sao_Paulo", "2018-11-04T12:00-02:00", 23),
        ("America/Sao_Paulo", "2018-02-17T12:00-02:00", 25),
        ("America/Havana", "2026-11-01T12:00-05:00", 25),
        ("Pacific/Apia", "2011-12-29T12:00-10:00", 24),
        ("Pacific/Apia", "2011-12-31T12:00+14:00", 24),
    ],
)
def test_a_day_has_the_hours_that_it_has(zone: str, at: str, hours: float) -> None:
    """23 or 25 where clocks change, half an hour more or less on Lord Howe; a day that was left out has none."""
    assert day(zone, at) == hours


def test_the_hour_that_comes_twice_is_two_windows() -> None:
    """And each has an hour's limit."""
    first = span(Window.HOUR, "Europe/Berlin", ms("2026-10-25T02:30+02:00"))
    second = span(Window.HOUR, "Europe/Berlin", ms("2026-10-25T02:30+01:00"))
    assert first == Span(*map(ms, ("2026-10-25T02:00+02:00", "2026-10-25T02:00+01:00", "2026-10-25T03:00+01:00")))
    assert (second.start, second.end) == (first.end, first.next_end)


def test_hours_of_half_hour_zones() -> None:
    """They begin at half past, seen from UTC."""
    assert span(Window.HOUR, "Asia/Kolkata", ms("2026-01-01T12:10+00:00")) == Span(
        *map(ms, ("2026-01-01T11:30+00:00", "2026-01-01T12:30+00:00", "2026-01-01T13:30+00:00"))
    )


def test_hours_where_clocks_move_by_half_an_hour() -> None:
    """On Lord Howe 2 o'clock is half past two in October: that hour has half; in April one has an hour and a half."""
    october = span(Window.HOUR, "Australia/Lord_Howe", ms("2026-10-04T01:45+10:30"))
    assert october == Span(*map(ms, ("2026-10-04T01:00+10:30", "2026-10-04T02:30+11:00", "2026-10-04T03:00+11:00")))
    april = span(Window.HOUR, "Australia/Lord_Howe", ms("2026-04-05T01:45+10:30"))
    assert april == Span(*map(ms, ("2026-04-05T01:00+11:00", "2026-04-05T02:00+10:30", "2026-04-05T03:00+10:30")))


def test_months_have_their_lengths() -> None:
    """February in a leap year, and the turn of the year, in the zone of the rule."""
    assert span(Window.MONTH, "Asia/Kolkata", ms("2028-02-29T23:59+05:30")) == Span(
        *map(ms, ("2028-02-01T00:00+05:30", "2028-03-01T00:00+05:30", "2028-04-01T00:00+05:30"))
    )
    assert span(Window.MONTH, "America/New_York", ms("2026-12-31T23:59-05:00")) == Span(
        *map(ms, ("2026-12-01T00:00-05:00", "2027-01-01T00:00-05:00", "2027-02-01T00:00-05:00"))
    )


def test_what_is_no_window_of_the_calendar() -> None:
    """A bucket and calls in flight have no beginning; an unknown zone is told."""
    for window in (Window.BUCKET, Window.CONCURRENT):
        with pytest.raises(ValueError, match="no window"):
            span(window, "UTC", 1)
    with pytest.raises(KeyError):
        span(Window.DAY, "Europe/Atlantis", 1)


def test_going_back_over_a_boundary_is_answered_anew() -> None:
    """An estimate of a clock may step back: what is remembered never answers for another window."""
    boundary = ms("2026-05-01T00:00+02:00")
    for at in (boundary - 1, boundary, boundary - 1, boundary + 5, boundary - 40 * 24 * HOUR):
        found = span(Window.MONTH, "Europe/Berlin", at)
        assert found.start <= at < found.end
