"""Tells the store what calls really used, and everybody else what came of it: overshoots, alerts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, cast

from extproc.adapters.limit_desk import Desk, Done
from extproc.adapters.limit_events import LimitEvents
from extproc.adapters.limit_queue import Settlement, SettleQueue
from extproc.adapters.limit_shard import Reservation
from extproc.adapters.valkey_client import Reply as Raw
from extproc.limits.counters import LARGEST, Charge, Window
from extproc.limits.scripts import Name, Reply, State, is_plain, read, settled

_AMPLE: Final = 256  # times what a call holds: with so much left, nobody misses it within a moment


class Settler:
    """Puts settlements into the queue, makes the calls of those that are due, and reads their answers."""

    def __init__(self, desk: Desk, events: LimitEvents) -> None:
        """One for each worker."""
        self._desk: Final = desk
        self._events: Final = events
        self.queue: Final = SettleQueue(self._send, self._acknowledged, self._failed, events)

    def add(self, reservation: Reservation, amounts: tuple[int, ...], extra: tuple[Charge, ...] = ()) -> None:
        """Tell the store, now or when it is back. Amounts are `bounded`, no counter is named twice."""
        self.queue.add(Settlement(reservation, amounts, extra), soon=bool(extra) or is_urgent(reservation, amounts))

    def tell_alerts(self, charges: Sequence[Charge], reply: Reply) -> None:
        """Tell of thresholds that this answer was the first to reach."""
        for charge, line in zip(charges, reply.lines, strict=True):
            if line.alert:
                self._events.alert(charge.counter, line.alert, line.standing)

    def _send(self, item: Settlement, done: Done) -> None:
        reservation = item.reservation
        if reservation.local or not item.fits:
            _move(item)
        elif reservation.args and not item.extra and reservation.limits is item.shard.limits:
            item.bookings = []  # worked out where the answer says more than that it is done
            args = settled(reservation.args, item.amounts)
            self._desk.start(item.shard, Name.SETTLE, args, done)
            return
        spans = item.shard.spans(item.extra)
        extra = item.shard.bookings(item.extra, [charge.amount for charge in item.extra], spans)
        bookings = reservation.bookings(item.amounts)
        args = self._desk.calls.settle(reservation.handle, bookings, extra)
        item.bookings = [*bookings, *extra]
        self._desk.start(item.shard, Name.SETTLE, args, done)

    def _acknowledged(self, item: Settlement, raw: Raw) -> bool:
        item.shard.answered()
        numbers = cast("list[int]", raw)
        if is_plain(numbers):
            return True
        if not item.bookings:
            item.bookings = item.reservation.bookings(item.amounts)
        reply = read(numbers, item.bookings)
        if reply.state is State.CLOCK:
            item.fits = False
            item.shard.clock.learn(reply.now, item.sent)
            return False
        if reply.lines:
            self.tell_alerts((*item.reservation.charges, *item.extra), reply)
            for booking, line in zip(item.bookings, reply.lines, strict=True):
                # what stood above the limit before this call is not told again
                above = line.standing.used - max(line.standing.limit, line.standing.used - booking.amount)
                if above > 0 and booking.counter.rule.hard:
                    self._events.overshoot(booking.counter, above)
        return True

    def _failed(self, item: Settlement, error: BaseException) -> None:
        self._desk.note(item.shard, error)


def is_urgent(reservation: Reservation, amounts: tuple[int, ...]) -> bool:
    """Whether others may miss within a moment what this call gives back, or have to hear of what it took."""
    if len(reservation.standings) != len(amounts):
        return True
    for charge, standing, amount, held in zip(
        reservation.charges, reservation.standings, amounts, reservation.held, strict=True
    ):
        if charge.counter.rule.window is Window.CONCURRENT:
            return True
        if amount != held and standing.remaining < _AMPLE * max(amount, held):
            return True
    return False


def bounded(amount: int) -> int:
    """An amount that the store can count: whatever a provider reports, settling does not fail."""
    return min(max(0, amount), LARGEST - 1)


def _move(item: Settlement) -> None:
    """To the windows of now, for the store has no reservation: what was used in one that is over counts no longer."""
    reservation = item.reservation
    item.amounts = tuple([0 if over else amount for amount, over in zip(item.amounts, reservation.over(), strict=True)])
    reservation.spans = item.shard.spans(reservation.charges)
