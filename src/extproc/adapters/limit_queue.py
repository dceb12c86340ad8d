"""Settlements on their way to the store: each is told until the store has acknowledged it, and counts once.

The store knows by a reservation's id what it has settled, so telling it again is harmless, for an hour: that long it
remembers. What could not be told by then is given up, since it might be counted twice; but for what the store can never
have heard of, which is kept for as long as there is room.
"""

from __future__ import annotations

import asyncio
import math
import random
import time
from collections.abc import Callable
from functools import partial
from itertools import islice
from typing import Final

import structlog

from extproc.adapters.limit_desk import Lines, is_unknown
from extproc.adapters.limit_events import LimitEvents
from extproc.adapters.limit_shard import Reservation, Shard
from extproc.adapters.valkey_client import Reply
from extproc.limits.counters import Charge
from extproc.limits.scripts import Booking

REMEMBERED: Final = 3600.0
"""Seconds for which the store remembers a reservation after its end."""
MOST: Final = 100_000
"""Settlements that are kept; one of three counters takes about a kilobyte."""
PATIENCE: Final = 0.01
"""Seconds that a settlement which nobody waits for may be kept, to be told together with others."""
_TOGETHER: Final = 16  # of these at most: a store that works on them keeps reservations waiting
_IN_FLIGHT: Final = 256  # of those that had to wait: fresh ones go out at once
_STUCK: Final = 2.0  # seconds without an answer, after which it is told again
_LOOK: Final = 10.0  # seconds between two looks for what is too old
_FIRST_PAUSE: Final = 0.05
_LONGEST_PAUSE: Final = 5.0
_TOLD_WITHIN: Final = REMEMBERED - 60.0  # seconds; with slack, so that no try comes when the store has just forgotten


class Settlement:
    """One that the store has not acknowledged. `amounts` are parallel to the reservation's charges."""

    __slots__ = (
        "amounts",
        "bookings",
        "doubts",
        "due",
        "extra",
        "fits",
        "name",
        "reservation",
        "sent",
        "shard",
        "tries",
        "until",
    )

    def __init__(self, reservation: Reservation, amounts: tuple[int, ...], extra: tuple[Charge, ...] = ()) -> None:
        """`extra`: what nobody had reserved."""
        self.reservation: Final = reservation
        self.shard: Final = reservation.shard
        self.name: Final = reservation.handle.id
        self.amounts = amounts
        self.extra: Final = extra
        self.bookings: list[Booking] = []  # as they were sent last, extra last
        self.fits = True  # whether the reservation's windows are those that the store would charge in
        # the store may have expired it a lease after it was renewed last; what it never knew it cannot forget
        unknown = reservation.local or not reservation.charges
        self.until = math.inf if unknown else reservation.renewed + _TOLD_WITHIN
        self.doubts = 0  # tries of which the store may have done one
        self.tries = 0
        self.sent = 0.0  # monotonic seconds of the last try
        self.due = 0.0  # not before

    def tell(self, now: float) -> None:
        """It goes out now."""
        self.sent = now
        self.tries += 1
        self.doubts += 1
        self.until = min(self.until, now + _TOLD_WITHIN)

    def not_done(self) -> None:
        """The store has not done what it was told."""
        self.doubts -= 1
        if self.doubts == 0 and (self.reservation.local or not self.reservation.charges):
            self.until = math.inf


class SettleQueue:
    """Keeps what is not acknowledged. Belongs to the event loop's thread."""

    def __init__(
        self,
        send: Callable[[Settlement, Callable[[asyncio.Future[Reply]], None]], None],
        done: Callable[[Settlement, Reply], bool],
        failed: Callable[[Settlement, BaseException], None],
        events: LimitEvents,
    ) -> None:
        """`send` starts one call to the store, hands its future over when it is done, and never raises.

        `done` gets its answer and says whether that acknowledges it; `failed` gets what went wrong.
        """
        self._send, self._done, self._failed, self._events = send, done, failed, events
        self._all: dict[str, Settlement] = {}  # by the reservation's name in the store, oldest first
        self._sent: dict[str, Settlement] = {}  # of these, those under way
        self._idle: dict[Shard, dict[str, Settlement]] = {}  # and those that are not
        self._looked = 0.0
        self._empty = asyncio.Event()
        self._empty.set()
        self._late: list[Settlement] = []  # of those not told yet, what can wait a moment
        self._timer: asyncio.TimerHandle | None = None
        self._told = 0
        self._lost = 0  # and not logged yet
        self._lines: Final = Lines(1, _LOOK)
        self._log = structlog.get_logger("extproc.limits")

    def __len__(self) -> int:
        """Settlements that are not acknowledged."""
        return len(self._all)

    def add(self, item: Settlement, *, soon: bool = True) -> None:
        """Tell the store, now if it is there. Not `soon`: within `PATIENCE`, together with others, which costs less."""
        self._empty.clear()
        self._all[item.name] = item
        if len(self._all) > MOST:  # also where the store answers, and takes none
            self._give_up([next(iter(self._all.values()))], "too many wait for the store")
        if item.shard.away:
            self._wait(item)
        elif soon:
            self._start(item)
        else:
            self._late.append(item)
            if len(self._late) >= _TOGETHER:
                self._send_late()
            elif self._timer is None:
                self._timer = asyncio.get_running_loop().call_later(PATIENCE, self._send_late)

    def wake(self, shard: Shard) -> None:
        """A shard is back: what waits for it is due now."""
        for item in self._idle.get(shard, {}).values():
            item.due = 0.0
        self.pump()

    def _send_late(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        items, self._late = self._late, []
        for item in items:
            if self._all.get(item.name) is not item:
                continue  # given up
            if item.shard.away:
                self._wait(item)
            else:
                self._start(item)

    def pump(self) -> None:
        """Send what waits and is due, as far as not too much is under way."""
        now = time.monotonic()
        for shard in [one for one in self._idle if not one.away]:
            waiting = self._idle[shard]
            room = max(0, _IN_FLIGHT - len(self._sent))
            for item in list(islice((one for one in waiting.values() if one.due <= now), room)):
                del waiting[item.name]
                self._start(item)
            if not waiting:
                del self._idle[shard]

    def holds(self, shard: Shard) -> bool:
        """Whether any of these is for `shard`."""
        return any(item.shard is shard for item in self._all.values())

    def tick(self) -> None:
        """Look after what takes long; to be called a few times a second."""
        if self._all:
            now = time.monotonic()
            for item in [one for one in self._sent.values() if one.sent < now - _STUCK]:
                self._wait(item)
            if now >= self._looked + _LOOK:
                self._looked = now
                self._give_up([item for item in self._all.values() if item.until < now])
                self._say("")
            self.pump()
        if len(self._all) != self._told:
            self._told = len(self._all)
            self._events.queue(self._told)

    async def flush(self, seconds: float) -> int:
        """Wait until all is acknowledged, `seconds` at most; how many are not."""
        try:
            async with asyncio.timeout(seconds):
                self._send_late()
                while self._all:
                    self.tick()
                    try:
                        await asyncio.wait_for(self._empty.wait(), _FIRST_PAUSE)
                    except TimeoutError:
                        continue
        except TimeoutError:
            pass
        return len(self._all)

    def _start(self, item: Settlement) -> None:
        now = time.monotonic()
        if item.until < now:
            self._give_up([item])
            return
        item.tell(now)
        self._sent[item.name] = item
        self._send(item, partial(self._answered, item))

    def _answered(self, item: Settlement, future: asyncio.Future[Reply]) -> None:
        error = asyncio.CancelledError() if future.cancelled() else future.exception()
        if self._all.get(item.name) is not item:
            return  # an earlier call of the same settlement was answered already, or it was given up
        if error is not None:
            if not (future.cancelled() or is_unknown(error)):
                item.not_done()
            self._failed(item, error)
            if item.name in self._sent:
                self._wait(item)
            return
        if not self._done(item, future.result()):
            item.not_done()
            self._wait(item)
            return
        self._remove(item)
        if self._idle:
            self.pump()

    def _wait(self, item: Settlement) -> None:
        pause = min(_LONGEST_PAUSE, _FIRST_PAUSE * 2 ** min(item.tries, 10))
        # several workers lose the store at the same moment: they need not come back at the same one
        item.due = time.monotonic() + pause * random.uniform(0.5, 1.0) if item.tries else 0.0  # noqa: S311
        self._sent.pop(item.name, None)
        self._idle.setdefault(item.shard, {})[item.name] = item

    def _give_up(self, items: list[Settlement], why: str = "the store may have forgotten their reservations") -> None:
        for item in items:
            self._remove(item)
        if items:
            self._events.lost(len(items))
            self._lost += len(items)
            self._say(why)

    def _say(self, why: str) -> None:
        """Log how many were given up, now and then: the last ones with the next look."""
        if self._lost and self._lines.take() is not None:
            self._log.error("settlements were given up", reason=why or "as before", count=self._lost)
            self._lost = 0

    def _remove(self, item: Settlement) -> None:
        del self._all[item.name]
        self._sent.pop(item.name, None)
        waiting = self._idle.get(item.shard)
        if waiting is not None and waiting.pop(item.name, None) is not None and not waiting:
            del self._idle[item.shard]
        if not self._all:
            self._empty.set()
