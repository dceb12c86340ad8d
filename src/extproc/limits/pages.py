"""Books of single counters in memory: a calendar window, a token bucket, calls in flight.

What `ledger.py` keeps. Amounts never go below nothing nor above what the store could count.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, Protocol

from extproc.limits.counters import LARGEST, Span, Window
from extproc.limits.rules import burst_at
from extproc.limits.scripts import Booking

HOUR: Final = 3_600_000
"""Milliseconds."""

_YEAR: Final = 31_622_400_000


class Page(Protocol):
    """The books of one counter that an amount belongs to."""

    granted: int
    reserved: int

    def taken(self) -> int:
        """Used and reserved."""

    def hold(self, old: int, new: int) -> None:
        """A live reservation holds `new` in the place of `old`."""

    def lapse(self, held: int) -> None:
        """A reservation of `held` has expired."""

    def revive(self, old: int, new: int) -> None:
        """One that had expired holding `old` holds `new`."""

    def settle(self, live: int, late: int, real: int) -> None:
        """`real` was used; until now `live` was reserved for it, or `late` charged."""

    def forgive(self) -> None:
        """What was used counts no longer."""

    def row(self) -> tuple[int, int, int]:
        """Used, reserved, end of the window."""


def counted(amount: int) -> int:
    """The amount within what can be counted."""
    return min(LARGEST - 1, max(0, amount))


class CalendarPage:
    """A calendar window."""

    def __init__(self, start: int = 0, end: int = 0, until: int = 0) -> None:
        self.start: Final = start
        self.end: Final = end
        self.until: Final = until  # when its books go
        self.used = self.reserved = self.granted = 0
        self.told = self.told_for = 0  # the highest alert told, and the limit that it was told for

    def taken(self) -> int:
        """Used and reserved."""
        return self.used + self.reserved

    def hold(self, old: int, new: int) -> None:
        """A live reservation holds `new` in the place of `old`."""
        self.reserved = max(0, self.reserved - old) + new

    def lapse(self, held: int) -> None:
        """A reservation of `held` has expired."""
        self.reserved = max(0, self.reserved - held)
        self.used = counted(self.used + held)

    def revive(self, old: int, new: int) -> None:
        """One that had expired holding `old` holds `new`."""
        self.used = max(0, self.used - old)
        self.reserved += new

    def settle(self, live: int, late: int, real: int) -> None:
        """`real` was used; until now `live` was reserved for it, or `late` charged."""
        self.reserved = max(0, self.reserved - live)
        self.used = counted(max(0, self.used - late) + real)

    def forgive(self) -> None:
        """What was used counts no longer."""
        self.used = 0

    def row(self) -> tuple[int, int, int]:
        """Used, reserved, end of the window."""
        return self.used, self.reserved, self.end

    def reached(self, booking: Booking) -> int:
        """The highest alert that what is used has newly reached, or 0. A limit that was raised has told none."""
        limit = room(self, booking)
        told = 0 if limit > self.told_for else self.told
        level = max((level for level in booking.counter.rule.alerts if self.used * 100 >= limit * level), default=0)
        if not self.used or level <= told:
            return 0
        self.told, self.told_for = level, limit
        return level


class Bucket:
    """A token bucket: what is out, and when that was."""

    def __init__(self) -> None:
        self.out = self.at = self.rest = self.reserved = self.granted = self.quiet = 0

    def drain(self, booking: Booking, now: int) -> None:
        """Let flow back what the time since has brought."""
        rate, period = booking.limit, booking.counter.rule.period
        if self.out and rate:
            units, self.rest = divmod(max(0, now - self.at) * rate + (self.rest if self.rest < period else 0), period)
            self.out = max(0, self.out - units)
            if not self.out:
                self.granted = 0
        if not self.out:
            self.rest = 0
        self.at = now

    def stays(self, booking: Booking) -> int:
        """Milliseconds."""
        period = booking.counter.rule.period
        drained = self.out * period // booking.limit if booking.limit else 0
        return min(drained, _YEAR) + period + HOUR

    def taken(self) -> int:
        """Used and reserved."""
        return self.out

    def hold(self, old: int, new: int) -> None:
        """A live reservation holds `new` in the place of `old`."""
        self.reserved = max(0, self.reserved - old) + new
        self.out = counted(self.out + new - old)

    def lapse(self, held: int) -> None:
        """A reservation of `held` has expired."""
        self.reserved = max(0, self.reserved - held)

    def revive(self, old: int, new: int) -> None:
        """One that had expired holding `old` holds `new`."""
        self.reserved += new
        self.out = counted(self.out + new - old)

    def settle(self, live: int, late: int, real: int) -> None:
        """`real` was used; until now `live` was reserved for it, or `late` charged."""
        self.reserved = max(0, self.reserved - live)
        self.out = counted(self.out + real - live - late)

    def forgive(self) -> None:
        """What was used counts no longer."""
        self.out = min(self.out, self.reserved)

    def row(self) -> tuple[int, int, int]:
        """Used, reserved, end of the window."""
        reserved = min(self.reserved, self.out)
        return self.out - reserved, reserved, 0


class Flights:
    """Calls in flight."""

    def __init__(self) -> None:
        self.reserved = self.granted = self.quiet = 0

    def taken(self) -> int:
        """Used and reserved."""
        return self.reserved

    def hold(self, old: int, new: int) -> None:
        """A live reservation holds `new` in the place of `old`."""
        self.reserved = max(0, self.reserved - old) + new

    def lapse(self, held: int) -> None:
        """A reservation of `held` has expired."""
        self.reserved = max(0, self.reserved - held)

    def revive(self, old: int, new: int) -> None:
        """One that had expired holding `old` holds `new`."""
        self.reserved += new

    def settle(self, live: int, late: int, real: int) -> None:
        """`real` was used; until now `live` was reserved for it, or `late` charged."""
        self.reserved = max(0, self.reserved - live)

    def forgive(self) -> None:
        """There is nothing used."""

    def row(self) -> tuple[int, int, int]:
        """Used, reserved, end of the window."""
        return 0, self.reserved, 0


def room(page: Page, booking: Booking) -> int:
    """The limit with the top-up; of a bucket the burst."""
    rule = booking.counter.rule
    limit = burst_at(rule, booking.limit) if rule.window is Window.BUCKET else booking.limit
    return min(LARGEST - 1, limit + page.granted)


def fresh(span: Span, now: int) -> CalendarPage | None:
    """The window of a span that runs now. None: the span is not of this time."""
    if not span.start <= now < span.next_end:
        return None
    if now < span.end:
        return CalendarPage(span.start, span.end, span.next_end + HOUR)
    return CalendarPage(span.end, span.next_end, 2 * span.next_end - span.end + HOUR)


def countable(page: Page, booking: Booking, held: int = 0) -> Booking:
    """What is held of a booking in the place of `held`: of a soft limit no more than can be counted."""
    more = booking.amount - held
    if booking.counter.rule.hard or more <= 0 or page.taken() + more <= room(page, booking):
        return booking
    return booking._replace(amount=held + min(more, max(0, LARGEST - 1 - page.taken())))


def verdict(page: Page, booking: Booking, more: int) -> int:
    """1: a hard limit has no room for `more`; 2: a soft one is exceeded."""
    if more <= 0 or page.taken() + more <= room(page, booking):
        return 0
    return 1 if booking.counter.rule.hard else 2


def stored(booking: Booking, fields: Mapping[bytes, bytes], now: int) -> Page:
    """What HGETALL of a counter's key answered, as books at `now`. Raises ValueError where that is not a counter.

    The amount of the booking is not looked at; a calendar window that is over gives empty books.
    """
    number = {field: int(text) for field, text in fields.items()}
    if booking.counter.rule.window is Window.CONCURRENT:
        flights = Flights()
        flights.reserved = number.get(b"r", 0)
        return flights
    if booking.counter.rule.window is Window.BUCKET:
        bucket = Bucket()
        bucket.out, bucket.at, bucket.rest = number.get(b"o", 0), number.get(b"t", 0), number.get(b"f", 0)
        bucket.reserved, bucket.granted = number.get(b"r", 0), number.get(b"g", 0)
        bucket.drain(booking, now)
        return bucket
    page = CalendarPage(number.get(b"s", 0), number.get(b"e", 0))
    if now >= page.end:
        return (booking.span and fresh(booking.span, now)) or CalendarPage()
    page.used, page.reserved = number.get(b"u", 0), number.get(b"r", 0)
    page.granted, page.told, page.told_for = number.get(b"g", 0), number.get(b"a", 0), number.get(b"l", 0)
    return page
