"""Where calendar windows begin and end, in the time zone of their rule, over changes of its clocks.

A day begins at local midnight, or when the clocks jump over midnight at that moment; a midnight that comes twice begins
one day, the first time. So a day has 23 to 25 hours, now and then. An hour begins when local clocks show a whole one:
at half past in Kolkata's zone, seen from UTC. The hour that clocks repeat is a window of its own. A minute is one of
UTC: zones differ from it by whole minutes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import UTC, datetime, timedelta, tzinfo
from functools import lru_cache
from itertools import product
from typing import Final
from zoneinfo import ZoneInfo

from extproc.limits.counters import Span, Window

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECOND: Final = timedelta(milliseconds=1)
_QUARTER: Final = timedelta(minutes=15)
_DAY: Final = timedelta(days=1)
_MINUTE: Final = 60_000
_NEVER: Final = Span(0, 0, 0)


class _Current:
    """The span last asked for, of one window in one zone."""

    __slots__ = ("span",)

    def __init__(self) -> None:
        self.span = _NEVER


_current = lru_cache(maxsize=4096)(lambda _window, _zone: _Current())


def span(window: Window, zone: str, at: int) -> Span:
    """The window that `at` (UNIX milliseconds) is in, and the end of the next.

    `zone` is a name of the IANA database. As long as `at` is in the window that was asked for last, it costs a
    comparison. Raises ValueError for a window that is none of the calendar, KeyError for an unknown zone.
    """
    current = _current(window, zone)
    found = current.span
    if not found.start <= at < found.end:
        found = current.span = _span(window, zone, at)
    return found


def _span(window: Window, zone: str, at: int) -> Span:
    if window is Window.MINUTE:
        start = at - at % _MINUTE
        return Span(start, start + _MINUTE, start + 2 * _MINUTE)
    place: tzinfo = UTC if zone == "UTC" else ZoneInfo(zone)  # UTC needs no database
    local = (_EPOCH + at * _MILLISECOND).astimezone(place)
    if window is Window.HOUR:
        begins = _hours(local)
    elif window is Window.DAY:
        begins = _midnights(local.replace(hour=0, minute=0, second=0, microsecond=0, fold=0))
    elif window is Window.MONTH:
        begins = _firsts(local.replace(day=1, hour=0, minute=0, second=0, microsecond=0, fold=0))
    else:
        raise ValueError(f"{window.value} is no window of the calendar")
    return _around(at, begins)


def _around(at: int, begins: Iterable[datetime]) -> Span:
    """The span at `at`, from the moments nearby when windows begin, in any order, some of them twice."""
    moments = sorted({(begin - _EPOCH) // _MILLISECOND for begin in begins})
    start = max(moment for moment in moments if moment <= at)
    end, next_end = [moment for moment in moments if moment > at][:2]
    return Span(start, end, next_end)


def _hours(local: datetime) -> Iterator[datetime]:
    """Whole hours nearby. Those that come twice begin twice; one within a jump begins with it."""
    utc = local.astimezone(UTC)
    for step, fold in product(range(-8, 17), (0, 1)):
        near = (utc + step * _QUARTER).astimezone(local.tzinfo)
        whole = near.replace(minute=0, second=0, microsecond=0, fold=fold)
        if fold == 0 or _exists(whole):
            yield whole.astimezone(UTC)


def _exists(local: datetime) -> bool:
    return local.astimezone(UTC).astimezone(local.tzinfo).replace(tzinfo=None) == local.replace(tzinfo=None)


def _midnights(local: datetime) -> Iterator[datetime]:
    for days in range(-2, 5):
        yield (local + days * _DAY).astimezone(UTC)


def _firsts(local: datetime) -> Iterator[datetime]:
    month = local.year * 12 + local.month - 1
    for number in range(month - 1, month + 4):
        year, index = divmod(number, 12)
        yield local.replace(year=year, month=index + 1).astimezone(UTC)
