"""What a worker may spend by its own books while the store is away: of each limit that says so, its part of a share.

A replica may spend `share` of a limit, rounded down, and each of its workers a part of that: in whole numbers, as equal as
they can be, and together no more. The books are kept over several absences, so that in one window no more than that is
spent however often the store goes and comes back.
"""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal
from operator import gt
from typing import Final, NamedTuple

import msgspec
import structlog

from extproc.adapters.limit_events import LimitEvents
from extproc.adapters.limit_shard import Reservation, Shard
from extproc.errors import LimitsAwayError
from extproc.limits.counters import Away, Charge, Counter, Extended, Reserved, Rule, Window
from extproc.limits.ledger import Ledger
from extproc.limits.rules import burst_at
from extproc.limits.scripts import Booking, State

_LEASE: Final = 1 << 50  # milliseconds: these books die with their worker
_MORE: Final = "+"  # ends the name of what is held here beside what the store holds


class Part(NamedTuple):
    """Which of a replica's `workers` this one is, by its `number` from 0 on.

    Numbers are of the workers that live, so one that replaces another while that ends may have a number that is too
    high: it gets what everybody gets at least. So any `workers` of them have the whole together at most.
    """

    number: int = 0
    workers: int = 1

    def of(self, whole: int) -> int:
        """This worker's part of what the replica may spend."""
        if self.number >= self.workers:
            return whole // self.workers
        return (self.number + 1) * whole // self.workers - self.number * whole // self.workers


class Fallback:
    """The worker's own books. Belongs to the event loop's thread."""

    def __init__(self, part: Part, events: LimitEvents) -> None:
        """`part`: of what its replica may spend."""
        self.part = part
        self._events: Final = events
        self._ledger: Final = Ledger()
        self._spent: dict[Shard, dict[bytes, Charge]] = {}  # not reported yet
        self._log = structlog.get_logger("extproc.limits")

    def reserve(self, reservation: Reservation) -> Reserved:
        """Hold the amounts here. Raises `LimitsAwayError` where a hard limit says `deny`."""
        for charge in reservation.charges:
            if _denies(charge.counter):
                self._deny(reservation, charge.counter)
        reservation.local = True
        now = reservation.shard.clock.now()
        bookings = self._bookings(reservation, reservation.held)
        reply = self._ledger.reserve(reservation.handle.id, bookings, now, _LEASE)
        if reply.state is State.CLOCK:  # the estimate of the clock has gone back over a window's end
            self._deny(reservation, reservation.charges[0].counter)
        return msgspec.structs.replace(reply.reserved(), local=True)

    def extend(self, reservation: Reservation, amounts: tuple[int, ...]) -> Extended:
        """Hold more here: of a call that was admitted here all of it, else what goes beyond what the store holds."""
        if not reservation.local:
            for place, (charge, amount, held) in enumerate(
                zip(reservation.charges, amounts, reservation.held, strict=True)
            ):
                if amount > held and _denies(charge.counter):
                    self._events.extended(Charge(charge.counter, amount), granted=False)
                    return Extended(reservation.held, place)
        name, more = reservation.handle.id, amounts
        if not reservation.local:
            name += _MORE
            more = _beyond(amounts, reservation.shadow or reservation.held)
        bookings, now = self._bookings(reservation, more), reservation.shard.clock.now()
        if reservation.local or reservation.shadow is not None:
            reply = self._ledger.extend(name, bookings, now, _LEASE)
        else:
            reply = self._ledger.reserve(name, bookings, now, _LEASE)
        if reply.state is not State.GRANTED:
            place = reply.refused[0] if reply.refused else 0
            self._events.extended(Charge(reservation.charges[place].counter, amounts[place]), granted=False)
            return Extended(reservation.held, place)
        if not reservation.local and reservation.shadow is None:
            reservation.shadow = reservation.held
        if any(map(gt, amounts, reservation.held)):
            self._events.extended(Charge(reservation.charges[0].counter, amounts[0]), granted=True)
        reservation.held, reservation.refused = amounts, None
        return Extended(amounts)

    def moved(self, reservation: Reservation) -> None:
        """The store holds all of it by now."""
        if reservation.shadow is not None:
            nothing = (0,) * len(reservation.charges)
            self._settle(reservation, reservation.handle.id + _MORE, nothing)
            reservation.shadow = None

    def settle(self, reservation: Reservation, amounts: tuple[int, ...]) -> None:
        """The call is over: of what it really used, what was held here is spent here."""
        if reservation.local:
            self._settle(reservation, reservation.handle.id, amounts)
        elif reservation.shadow is not None:
            self._settle(reservation, reservation.handle.id + _MORE, _beyond(amounts, reservation.shadow))

    def report(self, shard: Shard) -> None:
        """Tell what was spent here."""
        for charge in self._spent.pop(shard, {}).values():
            rule = charge.counter.rule
            self._log.warning(
                "spent while the store was away", limit=rule.name, value=charge.counter.value, amount=charge.amount,
                unit="nano-dollars" if rule.kind == "money" else rule.kind.value,
            )  # fmt: skip
            self._events.local_spent(charge.counter, charge.amount)

    def _settle(self, reservation: Reservation, name: str, amounts: tuple[int, ...]) -> None:
        shard = reservation.shard
        self._ledger.settle(name, self._bookings(reservation, amounts), shard.clock.now())
        spent = self._spent.setdefault(shard, {})
        for charge, amount in zip(reservation.charges, amounts, strict=True):
            counter = charge.counter
            if amount and counter.rule.window is not Window.CONCURRENT:
                before = spent[counter.key].amount if counter.key in spent else 0
                spent[counter.key] = Charge(counter, before + amount)
        if not shard.away:
            self.report(shard)

    def _bookings(self, reservation: Reservation, amounts: Sequence[int]) -> list[Booking]:
        return [
            self._part(booking)
            for booking in reservation.shard.bookings(reservation.charges, amounts, reservation.spans)
        ]

    def _part(self, booking: Booking) -> Booking:
        """The same under this worker's part of the limit."""
        rule = booking.counter.rule
        limit = self.part.of(shared(rule, booking.limit))
        burst = self.part.of(shared(rule, burst_at(rule, booking.limit)))
        if rule.window is Window.BUCKET and not burst:
            limit = 0
        counter = msgspec.structs.replace(
            booking.counter, rule=msgspec.structs.replace(rule, limit=limit, burst=burst, overrides=())
        )
        return booking._replace(counter=counter, limit=limit)

    def _deny(self, reservation: Reservation, counter: Counter) -> None:
        self._events.denied(reservation.charges, counter.rule.name)
        raise LimitsAwayError(counter.rule.name)


def shared(rule: Rule, amount: int) -> int:
    """What a replica may spend of `amount` while the store is away."""
    return int(amount * Decimal(repr(rule.share)))  # as it is written: 0.1 is a tenth


def idle(rule: Rule) -> bool:
    """Whether `allow-bounded` allows nothing, since the share of so small a limit is less than one."""
    amounts = (rule.limit, rule.burst) if rule.window is Window.BUCKET else (rule.limit,)
    return rule.away is Away.BOUNDED and rule.limit > 0 and not all(shared(rule, amount) for amount in amounts)


def _denies(counter: Counter) -> bool:
    return counter.rule.hard and counter.rule.away is Away.DENY


def _beyond(amounts: Sequence[int], base: Sequence[int]) -> tuple[int, ...]:
    return tuple([max(0, amount - held) for amount, held in zip(amounts, base, strict=True)])
