"""The books of limits in memory, by a clock that is handed in: what the store's scripts do, for one process.

For the simulation of traffic, for what one replica may spend while the store is away, and as the model that the
scripts are tested against. It asks and answers as the scripts do; times are UNIX milliseconds.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from copy import copy
from itertools import chain
from typing import Final

from extproc.limits.counters import LARGEST, Standing, Window
from extproc.limits.pages import (
    HOUR,
    Bucket,
    CalendarPage,
    Flights,
    Page,
    countable,
    counted,
    fresh,
    room,
    stored,
    verdict,
)
from extproc.limits.scripts import TOMBSTONE, Booking, Reply, State, read

_TIDY: Final = 60_000  # milliseconds between two looks for what has no use any more
_GONE: Final = 3  # flag of a line whose books are no more


def _line(page: Page, booking: Booking, flag: int = 0, alert: int = 0, held: int = 0) -> list[int]:
    used, reserved, end = page.row()
    return [used, reserved, room(page, booking), end, flag, alert, held]


def stored_standing(booking: Booking, fields: Mapping[bytes, bytes], now: int) -> Standing:
    """How a counter stands in the store: `fields` are what HGETALL of its key answered, `now` the store's clock.

    Raises ValueError where that is not a counter.
    """
    line = _line(stored(booking, fields, now), booking)
    return read([State.GRANTED, now, *line], [booking]).lines[0].standing


class _Hold:
    """A reservation: `state` is live, expired or over."""

    def __init__(self, bookings: Sequence[Booking], starts: Sequence[int], ends: int) -> None:
        self.bookings = tuple(bookings)
        self.starts: Final = tuple(starts)  # of their windows
        self.ends = ends  # of the lease
        self.state = "live"
        self.until = 0  # when an ended one is forgotten


class Ledger:
    """Reservations and counters of one organisation or of several; ids and keys tell them apart."""

    def __init__(self, tombstone: int = TOMBSTONE) -> None:
        """Empty books. `tombstone`: milliseconds that an ended reservation is remembered, against repetitions."""
        self._tombstone: Final = tombstone
        self._pages: dict[bytes, Bucket | Flights] = {}
        self._windows: dict[bytes, deque[CalendarPage]] = {}  # the latest last, and at most one before it
        self._until: dict[bytes, int] = {}
        self._holds: dict[str, _Hold] = {}
        self._ended: deque[tuple[int, str]] = deque()
        self._tidied = 0

    def reserve(self, name: str, bookings: Sequence[Booking], now: int, lease: int) -> Reply:
        """Hold these amounts for `lease` milliseconds, all or none; states as of the script `reserve`."""
        self._tidy(now)
        hold = self._hold(name, now)
        if hold is not None:
            if hold.state != "live":
                return Reply(State.FINISHED, now)
            pages = [self._running(booking, now) or self._latest(booking, now) for booking in bookings]
            standing = zip(pages, bookings, hold.bookings, strict=True)
            return self._reply(State.AGAIN, now, bookings, [_line(p, b, held=old.amount) for p, b, old in standing])
        running = [page for page in [self._running(booking, now) for booking in bookings] if page is not None]
        if len(running) < len(bookings):
            return Reply(State.CLOCK, now)
        flags = [verdict(page, booking, booking.amount) for page, booking in zip(running, bookings, strict=True)]
        rows = list(zip(running, bookings, flags, strict=True))
        if 1 in flags:
            lines = [_line(p, b, flag, self._turned_away(p, b, now) if flag == 1 else 0) for p, b, flag in rows]
            return self._reply(State.REFUSED, now, bookings, lines)
        starts = [page.start if isinstance(page, CalendarPage) else 0 for page in running]
        rows = [(page, countable(page, booking), flag) for page, booking, flag in rows]
        self._holds[name] = _Hold([booking for _, booking, _ in rows], starts, now + lease)
        lines = []
        for page, booking, flag in rows:
            page.hold(0, booking.amount)
            self._keep(page, booking, now)
            lines.append(_line(page, booking, flag, held=booking.amount))
        return self._reply(State.GRANTED, now, bookings, lines)

    def extend(self, name: str, bookings: Sequence[Booking], now: int, lease: int) -> Reply:
        """Hold these totals instead, all or none; states as of the script `extend`."""
        hold = self._hold(name, now)
        if hold is None or hold.state == "over":
            return Reply(State.UNKNOWN if hold is None else State.FINISHED, now)
        rows = []
        for booking, old, start in zip(bookings, hold.bookings, hold.starts, strict=True):
            page = self._page(booking, start, now)
            flag = _GONE if page is None else 0
            if page is not None and booking.amount > old.amount:
                flag = verdict(page, booking, booking.amount - old.amount)
            rows.append((page, booking, old.amount, flag))
        if any(row[3] == 1 for row in rows):
            lines = [_line(p or self._latest(b, now), b, flag, held=old) for p, b, old, flag in rows]
            return self._reply(State.REFUSED, now, bookings, lines)
        rows = [(p, b if p is None else countable(p, b, held), held, flag) for p, b, held, flag in rows]
        expired, lines = hold.state == "expired", []
        for affected, booking, held, flag in rows:
            if affected is not None:
                (affected.revive if expired else affected.hold)(held, booking.amount)
                self._keep(affected, booking, now)
            lines.append(_line(affected or self._latest(booking, now), booking, flag, held=booking.amount))
        hold.bookings, hold.state, hold.ends = tuple(row[1] for row in rows), "live", now + lease
        return self._reply(State.REVIVED if expired else State.GRANTED, now, bookings, lines)

    def settle(self, name: str, bookings: Sequence[Booking], now: int, extra: Sequence[Booking] = ()) -> Reply:
        """What was really used; all zero releases; states as of the script `settle`."""
        hold = self._hold(name, now)
        if hold is not None and hold.state == "over":
            return Reply(State.ENDED, now)
        fresh = [*bookings, *extra] if hold is None else extra
        if any(booking.amount and self._running(booking, now) is None for booking in fresh):
            return Reply(State.CLOCK, now)
        lines = []
        if hold is not None:
            live = hold.state == "live"
            for booking, old, start in zip(bookings, hold.bookings, hold.starts, strict=True):
                page = self._page(booking, start, now)
                if page is not None:
                    page.settle(old.amount if live else 0, 0 if live else old.amount, booking.amount)
                lines.append(self._charged(page, booking, now, old.amount))
        lines += [self._charge(booking, now) for booking in fresh]
        state = State.CHARGED
        if hold is not None:
            state = State.SETTLED if hold.state == "live" else State.LATE
        self._end(name, hold or _Hold((), (), 0), "over", now)
        return self._reply(state, now, [*bookings, *extra], lines)

    def expire(self, now: int) -> list[tuple[str, Reply]]:
        """Charge all reservations whose lease has run out as reserved: their ids and how their counters stand."""
        due = [name for name, hold in self._holds.items() if hold.state == "live" and hold.ends <= now]
        return [(name, self.expire_one(name, now)) for name in due]

    def expire_one(self, name: str, now: int) -> Reply:
        """Charge one as reserved where its lease has run out; states as of the script `expire`."""
        hold = self._hold(name, now)
        if hold is None or hold.state != "live":
            return Reply(State.UNKNOWN if hold is None else State.FINISHED, now)
        if hold.ends > now:
            return Reply(State.ALIVE, now)
        lines = []
        for booking, start in zip(hold.bookings, hold.starts, strict=True):
            page = self._page(booking, start, now)
            if page is not None:
                page.lapse(booking.amount)
            lines.append(self._charged(page, booking, now, booking.amount))
        self._end(name, hold, "expired", now)
        return self._reply(State.EXPIRED, now, hold.bookings, lines)

    def renew(self, names: Sequence[str], now: int, lease: int) -> None:
        """Live reservations live for `lease` milliseconds more."""
        for name in names:
            hold = self._holds.get(name)
            if hold is not None and hold.state == "live":
                hold.ends = now + lease

    def grant(self, booking: Booking, now: int) -> Reply:
        """Top the running window up by the booking's amount. Raises ValueError for calls in flight."""
        if booking.counter.rule.window is Window.CONCURRENT:
            raise ValueError(f"{booking.counter.rule.name}: calls in flight have no top-up")
        return self._adjust(booking, now, booking.amount)

    def reset(self, booking: Booking, now: int) -> Reply:
        """What was used in the running window counts no longer."""
        return self._adjust(booking, now, None)

    def standing(self, booking: Booking, now: int) -> Standing:
        """How a counter stands; the amount is not looked at. A window that is over counts as empty."""
        page = self._running(booking, now) or CalendarPage()
        return self._reply(State.GRANTED, now, [booking], [_line(page, booking)]).lines[0].standing

    def _adjust(self, booking: Booking, now: int, amount: int | None) -> Reply:
        page = self._running(booking, now)
        if page is None:
            return Reply(State.CLOCK, now)
        if amount is None:
            page.forgive()
        else:
            page.granted = counted(page.granted + amount)
        if isinstance(page, CalendarPage):
            page.told = page.told_for = 0
            page.reached(booking)
        elif isinstance(page, Bucket | Flights):
            page.quiet = 0
        self._keep(page, booking, now)
        return self._reply(State.GRANTED, now, [booking], [_line(page, booking)])

    def _charge(self, booking: Booking, now: int) -> list[int]:
        """Charge what nobody had reserved."""
        page = self._running(booking, now) if booking.amount else None
        if page is None or isinstance(page, Flights):
            return _line(self._latest(booking, now), booking)
        page.settle(0, 0, booking.amount)
        return self._charged(page, booking, now, 0)

    def _charged(self, page: Page | None, booking: Booking, now: int, held: int) -> list[int]:
        """A line after a charge. Of windows only the latest tells alerts: the one before it is history."""
        if page is None:
            return _line(self._latest(booking, now), booking, _GONE, held=held)
        self._keep(page, booking, now)
        alert = 0
        if isinstance(page, CalendarPage) and page is self._latest(booking, now):
            alert = page.reached(booking)
        return _line(page, booking, alert=alert, held=held)

    def _turned_away(self, page: Page, booking: Booking, now: int) -> int:
        """The alert for a refusal: once in a window, else once in an hour; not for what could never have passed."""
        if booking.amount > room(page, booking) or 100 not in booking.counter.rule.alerts:
            return 0
        if isinstance(page, CalendarPage) and (page.told < 100 or room(page, booking) > page.told_for):
            page.told, page.told_for = 100, room(page, booking)
        elif isinstance(page, Bucket | Flights) and now >= page.quiet:
            page.quiet = now + HOUR
        else:
            return 0
        self._keep(page, booking, now)
        return 100

    def _hold(self, name: str, now: int) -> _Hold | None:
        hold = self._holds.get(name)
        return None if hold is None or (hold.state != "live" and hold.until <= now) else hold

    def _end(self, name: str, hold: _Hold, state: str, now: int) -> None:
        hold.state, hold.until = state, now + self._tombstone
        if self._tombstone:
            self._holds[name] = hold
            self._ended.append((hold.until, name))
        else:
            self._holds.pop(name, None)

    def _open(self, booking: Booking, now: int) -> Bucket | Flights:
        """A copy that nothing has happened to yet but time: what is done to it counts from `_keep` on."""
        key = booking.counter.key
        page = copy(self._pages[key]) if key in self._pages and now < self._until[key] else None
        if booking.counter.rule.window is Window.CONCURRENT:
            return page if isinstance(page, Flights) else Flights()
        bucket = page if isinstance(page, Bucket) else Bucket()
        bucket.drain(booking, now)
        return bucket

    def _pair(self, booking: Booking, now: int) -> deque[CalendarPage]:
        """The latest window, last, and the one before it, as far as there are any."""
        windows = self._windows.get(booking.counter.key)
        return windows if windows and now < windows[-1].until else deque(maxlen=2)

    def _latest(self, booking: Booking, now: int) -> Page:
        if booking.span is None:
            return self._open(booking, now)
        windows = self._pair(booking, now)
        return windows[-1] if windows else CalendarPage()

    def _running(self, booking: Booking, now: int) -> Page | None:
        """The books that a new amount belongs to. None: the span is not of this time."""
        span = booking.span
        if span is None:
            return self._open(booking, now)
        windows = self._pair(booking, now)
        # one that begins after all of ours: a wrong clock has opened it
        current = windows[-1] if windows and now < windows[-1].end and windows[-1].start < span.next_end else None
        return current or fresh(span, now)

    def _page(self, booking: Booking, start: int, now: int) -> Page | None:
        """The books that a reservation of the window from `start` belongs to. None: they are no more."""
        if booking.span is None:
            return self._open(booking, now)
        return next((window for window in reversed(self._pair(booking, now)) if window.start == start), None)

    def _keep(self, page: Page, booking: Booking, now: int) -> None:
        key = booking.counter.key
        if isinstance(page, CalendarPage):
            windows = self._pair(booking, now)
            if page not in windows:
                windows.append(page)
            self._windows[key] = windows
        elif isinstance(page, Bucket):
            self._pages[key], self._until[key] = page, now + page.stays(booking)
        elif isinstance(page, Flights):
            self._pages[key], self._until[key] = page, LARGEST if page.reserved else now + HOUR

    def _tidy(self, now: int) -> None:
        """Forget what has no use any more."""
        if now < self._tidied + _TIDY:
            return
        self._tidied = now
        while self._ended and self._ended[0][0] <= now:
            name = self._ended.popleft()[1]
            if name in self._holds and self._hold(name, now) is None:
                del self._holds[name]
        for key in [key for key, until in self._until.items() if until <= now]:
            del self._until[key], self._pages[key]
        for key in [key for key, windows in self._windows.items() if windows[-1].until <= now]:
            del self._windows[key]

    @staticmethod
    def _reply(state: State, now: int, bookings: Sequence[Booking], lines: Sequence[Sequence[int]]) -> Reply:
        return read([state, now, *chain.from_iterable(lines)], bookings)
