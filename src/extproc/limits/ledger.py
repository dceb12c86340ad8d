"""The books of limits in memory, by a clock that is handed in: what the store's scripts do, for one process.

For the simulation of traffic, for what one replica may spend while the store is away, and as the model that the
scripts are tested against. It asks and answers as the scripts do; times are UNIX milliseconds.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Final, Protocol

from extproc.limits.counters import LARGEST, Span, Standing, Window
from extproc.limits.rules import burst_at
from extproc.limits.scripts import TOMBSTONE, Booking, Reply, State, read

_HOUR: Final = 3_600_000
_YEAR: Final = 31_622_400_000
_TIDY: Final = 60_000  # milliseconds between two looks for what has no use any more
_GONE: Final = 3  # flag of a line whose books are no more


class _Page(Protocol):
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


def _counted(amount: int) -> int:
    return min(LARGEST - 1, max(0, amount))


class _Window:
    """A calendar window."""

    def __init__(self, start: int = 0, end: int = 0, until: int = 0) -> None:
        self.start: Final = start
        self.end: Final = end
        self.until: Final = until  # when its books go
        self.used = self.reserved = self.granted = self.told = 0

    def taken(self) -> int:
        return self.used + self.reserved

    def hold(self, old: int, new: int) -> None:
        self.reserved = max(0, self.reserved - old) + new

    def lapse(self, held: int) -> None:
        self.reserved = max(0, self.reserved - held)
        self.used = _counted(self.used + held)

    def revive(self, old: int, new: int) -> None:
        self.used = max(0, self.used - old)
        self.reserved += new

    def settle(self, live: int, late: int, real: int) -> None:
        self.reserved = max(0, self.reserved - live)
        self.used = _counted(max(0, self.used - late) + real)

    def forgive(self) -> None:
        self.used = 0

    def row(self) -> tuple[int, int, int]:
        return self.used, self.reserved, self.end

    def reached(self, booking: Booking) -> int:
        """The highest alert that what is used has newly reached, or 0."""
        limit = _room(self, booking)
        level = max((level for level in booking.counter.rule.alerts if self.used * 100 >= limit * level), default=0)
        if not self.used or level <= self.told:
            return 0
        self.told = level
        return level


class _Bucket:
    """A token bucket: what is out, and when that was."""

    def __init__(self) -> None:
        self.out = self.at = self.rest = self.reserved = self.granted = self.quiet = 0

    def drain(self, booking: Booking, now: int) -> None:
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
        return min(drained, _YEAR) + period + _HOUR

    def taken(self) -> int:
        return self.out

    def hold(self, old: int, new: int) -> None:
        self.reserved = max(0, self.reserved - old) + new
        self.out = _counted(self.out + new - old)

    def lapse(self, held: int) -> None:
        self.reserved = max(0, self.reserved - held)

    def revive(self, old: int, new: int) -> None:
        self.reserved += new
        self.out = _counted(self.out + new - old)

    def settle(self, live: int, late: int, real: int) -> None:
        self.reserved = max(0, self.reserved - live)
        self.out = _counted(self.out + real - live - late)

    def forgive(self) -> None:
        self.out = min(self.out, self.reserved)

    def row(self) -> tuple[int, int, int]:
        reserved = min(self.reserved, self.out)
        return self.out - reserved, reserved, 0


class _Flights:
    """Calls in flight."""

    def __init__(self) -> None:
        self.reserved = self.granted = self.quiet = 0

    def taken(self) -> int:
        return self.reserved

    def hold(self, old: int, new: int) -> None:
        self.reserved = max(0, self.reserved - old) + new

    def lapse(self, held: int) -> None:
        self.reserved = max(0, self.reserved - held)

    def revive(self, old: int, new: int) -> None:
        self.reserved += new

    def settle(self, live: int, late: int, real: int) -> None:
        self.reserved = max(0, self.reserved - live)

    def forgive(self) -> None:
        """There is nothing used."""

    def row(self) -> tuple[int, int, int]:
        return 0, self.reserved, 0


def _room(page: _Page, booking: Booking) -> int:
    rule = booking.counter.rule
    limit = burst_at(rule, booking.limit) if rule.window is Window.BUCKET else booking.limit
    return min(LARGEST - 1, limit + page.granted)


def _line(page: _Page, booking: Booking, flag: int = 0, alert: int = 0, held: int = 0) -> list[int]:
    used, reserved, end = page.row()
    return [used, reserved, _room(page, booking), end, flag, alert, held]


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

    def __init__(self) -> None:
        """Empty books."""
        self._pages: dict[bytes, _Bucket | _Flights] = {}
        self._windows: dict[bytes, deque[_Window]] = {}  # the latest last, and at most one before it
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
            pages = [self._running(booking, now) or self._latest(booking) for booking in bookings]
            rows = zip(pages, bookings, hold.bookings, strict=True)
            return self._reply(State.AGAIN, now, bookings, [_line(p, b, held=old.amount) for p, b, old in rows])
        found = [self._running(booking, now) for booking in bookings]
        pages = [page for page in found if page is not None]
        if len(pages) < len(found):
            return Reply(State.CLOCK, now)
        flags = [_flag(page, booking, booking.amount) for page, booking in zip(pages, bookings, strict=True)]
        rows = list(zip(pages, bookings, flags, strict=True))
        if 1 in flags:
            lines = [_line(p, b, flag, self._turned_away(p, b, now) if flag == 1 else 0) for p, b, flag in rows]
            return self._reply(State.REFUSED, now, bookings, lines)
        starts = [page.start if isinstance(page, _Window) else 0 for page in pages]
        self._holds[name] = _Hold(bookings, starts, now + lease)
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
                flag = _flag(page, booking, booking.amount - old.amount)
            rows.append((page, booking, old.amount, flag))
        if any(row[3] == 1 for row in rows):
            lines = [_line(p or self._latest(b), b, flag, held=old) for p, b, old, flag in rows]
            return self._reply(State.REFUSED, now, bookings, lines)
        expired, lines = hold.state == "expired", []
        for page, booking, old, flag in rows:
            if page is not None:
                (page.revive if expired else page.hold)(old, booking.amount)
                self._keep(page, booking, now)
            lines.append(_line(page or self._latest(booking), booking, flag, held=booking.amount))
        hold.bookings, hold.state, hold.ends = tuple(bookings), "live", now + lease
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
        """How a counter stands; the amount is not looked at."""
        page = self._running(booking, now) or self._latest(booking)
        return self._reply(State.GRANTED, now, [booking], [_line(page, booking)]).lines[0].standing

    def _adjust(self, booking: Booking, now: int, amount: int | None) -> Reply:
        page = self._running(booking, now)
        if page is None:
            return Reply(State.CLOCK, now)
        if amount is None:
            page.forgive()
        else:
            page.granted = _counted(page.granted + amount)
        if isinstance(page, _Window):
            page.told = 0
            page.reached(booking)
        elif isinstance(page, _Bucket | _Flights):
            page.quiet = 0
        self._keep(page, booking, now)
        return self._reply(State.GRANTED, now, [booking], [_line(page, booking)])

    def _charge(self, booking: Booking, now: int) -> list[int]:
        """Charge what nobody had reserved."""
        page = self._running(booking, now) if booking.amount else None
        if page is None or isinstance(page, _Flights):
            return _line(self._latest(booking, now), booking)
        page.settle(0, 0, booking.amount)
        return self._charged(page, booking, now, 0)

    def _charged(self, page: _Page | None, booking: Booking, now: int, held: int) -> list[int]:
        """A line after a charge. Of windows only the latest tells alerts: the one before it is history."""
        if page is None:
            return _line(self._latest(booking), booking, _GONE, held=held)
        self._keep(page, booking, now)
        alert = 0
        if isinstance(page, _Window) and page is self._latest(booking):
            alert = page.reached(booking)
        return _line(page, booking, alert=alert, held=held)

    def _turned_away(self, page: _Page, booking: Booking, now: int) -> int:
        """The alert for a refusal: once in a window, else once in an hour; not for what could never have passed."""
        if booking.amount > _room(page, booking) or 100 not in booking.counter.rule.alerts:
            return 0
        if isinstance(page, _Window) and page.told < 100:
            page.told = 100
        elif isinstance(page, _Bucket | _Flights) and now >= page.quiet:
            page.quiet = now + _HOUR
        else:
            return 0
        self._keep(page, booking, now)
        return 100
