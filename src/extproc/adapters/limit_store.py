"""Holds and settles amounts on the counters of a call: in the store while it answers, else in the worker's own books.

One round trip before the call, one after it that nobody waits for. Each reservation has a name of its own, unique over
all workers, so whatever is told twice counts once.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import time
from collections.abc import Awaitable, Sequence
from dataclasses import dataclass
from functools import partial
from operator import gt
from typing import Final, cast

import structlog

from extproc.adapters.limit_chores import Chores
from extproc.adapters.limit_desk import Desk, Lines, Store, is_unknown
from extproc.adapters.limit_events import LimitEvents
from extproc.adapters.limit_fallback import Fallback, Part
from extproc.adapters.limit_settle import Settler, bounded
from extproc.adapters.limit_shard import Reservation, Shard
from extproc.adapters.valkey_client import RefusedError, StoreError
from extproc.adapters.valkey_client import Reply as Raw
from extproc.errors import EffectError
from extproc.exchange.effects import Extend, Reserve, Settle
from extproc.limits.counters import LARGEST, Charge, Extended, Reserved
from extproc.limits.rules import Rules
from extproc.limits.scripts import Name, State, read
from extproc.limits.scripts import granted as read_granted

_LINES: Final = 20  # of shards that go and come back: one each for many organisations, or of one that flaps
_LINES_IN: Final = 60.0  # seconds
_OURS: Final = "XQ"  # what our scripts' own errors begin with: the books are not to be trusted then


@dataclass(frozen=True, slots=True)
class Settings:
    """`timeout`, `lease`: seconds, as in the section `quotas.store`.

    `workers`: of this replica, that share its part.
    """

    timeout: float = 0.05
    lease: float = 15.0
    workers: int = 1


class LimitStore:
    """Performs `Reserve`, `Extend` and `Settle` for one worker. Belongs to the event loop's thread."""

    def __init__(self, store: Store, settings: Settings, rules: Rules, events: LimitEvents) -> None:
        """`start` begins its work in the background, on the running loop."""
        self._lease: Final = round(settings.lease * 1000)
        self._events: Final = events
        self._desk: Final = Desk(store, settings.timeout)
        self._workers: Final = settings.workers
        self._local: Final = Fallback(Part(0, settings.workers), events)
        self._settler: Final = Settler(self._desk, events)
        self._shards: Final[dict[str, Shard]] = {}
        self._open: Final[dict[str, Reservation]] = {}  # by the policy's id
        self._chores: Final = Chores(self._desk, (self._shards, self._open), self._settler, events, self._lease)
        self._chores.rules = rules
        self._chores.revive = self._revive
        self._prefix: Final = os.urandom(8).hex()
        self._numbers: Final = itertools.count(1)
        self._log = structlog.get_logger("extproc.limits")
        self._lines: Final = Lines(_LINES, _LINES_IN)

    # --- of the worker

    def start(self, organisation: str, number: int = 0) -> None:
        """Begin the work in the background.

        `organisation`: of keys that name none, looked after from now on. `number`: of this worker among those of its
        replica that live, from 0 on.
        """
        self._local.part = Part(number, self._workers)
        self._shard(organisation)
        self._chores.home = organisation
        self._chores.start()

    def take(self, rules: Rules) -> None:
        """Another configuration is live. What is used and reserved stays."""
        self._chores.rules = rules

    def kick(self) -> None:
        """The store is connected again: see at once whether it answers."""
        self._chores.kick()

    @property
    def away_since(self) -> float:
        """UNIX seconds since when some organisation's shard has been away; 0.0: all answer."""
        return min((shard.away_since for shard in self._shards.values() if shard.away), default=0.0)

    @property
    def unsettled(self) -> int:
        """Settlements that the store has not acknowledged."""
        return len(self._settler.queue)

    async def drain(self, seconds: float) -> None:
        """Wait, `seconds` at most, until the store knows of every call that has ended; then end all work."""
        left = await self._settler.queue.flush(seconds)
        if left:
            self._log.error("the worker ends, and settlements could not be told to the store", count=left)
            self._events.lost(left)
        await self.close()

    async def close(self) -> None:
        """End the work in the background."""
        await self._chores.close()
        self._desk.close()

    # --- the effects

    async def reserve(self, effect: Reserve) -> Reserved:
        """Hold amounts. Raises `LimitsAwayError`, or another `EffectError` where the store's books cannot be read."""
        shard = self._shard(effect.organisation)
        shard.used = began = time.monotonic()
        if not effect.charges:
            return Reserved((), at=shard.clock.now() / 1000)
        reply: Reserved | None = None
        if not shard.away:
            reply = await (self._ask(shard, effect) if shard.version is not None else self._ask_first(shard, effect))
        if reply is None:
            reservation = Reservation(shard, self._name(), effect.charges)
            reply = self._local.reserve(reservation)
            if not reply.refused:
                self._open[effect.id] = reservation
        tell = self._events.refused if reply.refused else self._events.reserved
        tell(effect.charges, reply, time.monotonic() - began)
        return reply

    def extend(self, effect: Extend) -> Extended:
        """Hold more, in the background. Raises `EffectError` where no such reservation is open."""
        reservation = self._open.get(effect.id)
        if reservation is None:
            raise EffectError("no such reservation is open")
        reservation.shard.used = time.monotonic()
        if self._chores.rules is not None:
            reservation.follow(self._chores.rules)
        amounts = tuple([bounded(amount) for amount in effect.amounts])
        if reservation.local or reservation.shard.away:
            return self._local.extend(reservation, amounts)
        if amounts != reservation.held or reservation.shadow is not None:
            reservation.asked = amounts
            if not reservation.busy:
                self._extend(reservation)
        return Extended(reservation.held, reservation.refused)

    def settle(self, effect: Settle) -> None:
        """The call is over. Never fails and never waits; a second one for the same id charges its `extra` only."""
        reservation = self._open.pop(effect.id, None)
        extra = tuple([charge for charge in effect.extra if charge.amount > 0]) if effect.extra else ()
        if reservation is None:
            if not extra:
                return
            shard = self._shard(extra[0].counter.organisation)
            reservation = Reservation(shard, self._name(), ())
            effect = Settle(effect.id, ())
        amounts = effect.amounts
        if amounts and not (min(amounts) >= 0 and max(amounts) < LARGEST):
            amounts = tuple([bounded(amount) for amount in amounts])
        if len(amounts) != len(reservation.charges):
            amounts = reservation.held
        if extra:
            amounts, extra = _merged(reservation, amounts, extra)
        real = [Charge(one.counter, amount) for one, amount in zip(reservation.charges, amounts, strict=True)]
        held = reservation.held
        if extra:
            real += extra
            held += (0,) * len(extra)
        self._events.settled(real, held, local=reservation.local)
        self._local.settle(reservation, amounts)
        if not reservation.local or any(amounts) or extra:
            self._settler.add(reservation, amounts, extra)

    def forget(self, identity: str) -> None:
        """The call of this id is over. What nobody has settled, a crash did not: charged as reserved. Never fails."""
        reservation = self._open.get(identity)
        if reservation is not None:
            self._log.error(
                "a call ended without a settlement, charged as reserved", organisation=reservation.shard.name
            )
            self.settle(Settle(identity, reservation.held))

    # --- reserving

    async def _ask_first(self, shard: Shard, effect: Reserve) -> Reserved | None:
        """The same for an organisation whose live limits are not known: both within the time for one."""
        try:
            async with self._desk.rest(time.monotonic()):
                return await self._ask(shard, effect) if await self._chores.learn(shard) else None
        except TimeoutError as error:
            self._desk.note(shard, error)
            return None

    async def _ask(self, shard: Shard, effect: Reserve) -> Reserved | None:
        """The store's answer; None where it gave none."""
        reservation = Reservation(shard, self._name(), effect.charges)
        asked = time.monotonic()
        try:
            raw = await self._hold(reservation)
            if raw[0] == State.CLOCK:  # its time was not what we took it for: by now we know it
                reservation.plan()
                async with self._desk.rest(asked):
                    raw = await self._hold(reservation)
        except asyncio.CancelledError:
            self._release(reservation)
            raise
        except (StoreError, TimeoutError) as error:
            if is_unknown(error):
                self._release(reservation)
            self._desk.note(shard, error)
            if isinstance(error, RefusedError) and error.code.startswith(_OURS):
                raise EffectError("the store's books cannot be read") from error
            return None
        except ValueError as error:
            raise EffectError("an amount cannot be counted") from error
        granted = read_granted(raw, [charge.counter for charge in effect.charges])
        if granted is not None:
            reservation.standings = granted.standings
            self._open[effect.id] = reservation
            return granted
        reply = read(raw, reservation.bookings(reservation.held))
        if not reply.lines:
            self._desk.complain(f"a reservation was answered {reply.state.name}")
            return None
        self._settler.tell_alerts(reservation.charges, reply)
        if not reply.refused:
            self._open[effect.id] = reservation
        return reply.reserved()

    def _hold(self, reservation: Reservation) -> Awaitable[list[int]]:
        shard = reservation.shard
        args = shard.hold(reservation, self._lease)
        reservation.args, reservation.limits = args, shard.limits
        return self._desk.numbers(shard, Name.RESERVE, args)

    def _release(self, reservation: Reservation) -> None:
        """Nobody knows whether it was held: say that it is not."""
        self._settler.add(reservation, (0,) * len(reservation.charges))

    # --- extending

    def _extend(self, reservation: Reservation) -> None:
        amounts, reservation.asked = reservation.asked, None
        if amounts is not None and (
            amounts != reservation.held or reservation.missing or reservation.shadow is not None
        ):
            self._hold_all(reservation, amounts)

    def _revive(self, reservation: Reservation) -> None:
        """Hold anew what the store has charged or lost; an extension that is under way does so as well."""
        if not reservation.busy:
            self._hold_all(reservation, reservation.asked or reservation.held)

    def _hold_all(self, reservation: Reservation, amounts: tuple[int, ...]) -> None:
        bookings = reservation.bookings(amounts)
        # what the store has lost in a fail-over it is told anew
        name = Name.RESERVE if reservation.missing else Name.EXTEND
        args = self._desk.calls.extend(reservation.handle, bookings, self._lease)
        reservation.busy = True
        self._desk.start(reservation.shard, name, args, partial(self._extended, reservation, amounts))

    def _extended(self, reservation: Reservation, amounts: tuple[int, ...], future: asyncio.Future[Raw]) -> None:
        reservation.busy = False
        error = asyncio.CancelledError() if future.cancelled() else future.exception()
        if error is not None:
            self._desk.note(reservation.shard, error)
            return
        reservation.shard.answered()
        reply = read(cast("list[int]", future.result()), reservation.bookings(amounts))
        more = any(map(gt, amounts, reservation.held))
        if reply.refused:
            reservation.refused = reply.refused[0]
            if more:
                self._events.extended(_charge(reservation, amounts, reply.refused[0]), granted=False)
            return
        if reply.state in {State.GRANTED, State.REVIVED, State.AGAIN}:
            reservation.held = tuple([line.held for line in reply.lines])
            reservation.refused, reservation.missing = None, False
            reservation.renewed = time.monotonic()
            self._local.moved(reservation)
            if more:
                self._events.extended(_charge(reservation, amounts, 0), granted=True)
        elif reply.state is State.UNKNOWN:
            reservation.missing = True
            reservation.asked = reservation.asked or amounts
        elif reply.state is State.CLOCK:
            reservation.spans = reservation.shard.spans(reservation.charges)
        self._extend(reservation)

    # --- helpers

    def _shard(self, organisation: str) -> Shard:
        shard = self._shards.get(organisation)
        if shard is None:
            shard = self._shards[organisation] = Shard(organisation, self._told)
        return shard

    def _name(self) -> str:
        return f"{self._prefix}-{next(self._numbers):x}"

    def _told(self, shard: Shard, reason: str) -> None:
        """A shard has gone away, or is back."""
        others = any(one.away for one in self._shards.values() if one is not shard)
        unsaid = self._lines.take()
        if reason and unsaid is not None:
            self._log.warning(
                "limits are kept without the store", organisation=shard.name, reason=reason, unsaid=unsaid
            )
        elif unsaid is not None:
            known = {"unsettled": self.unsettled, "unsaid": unsaid}
            self._log.info("limits are kept in the store again", organisation=shard.name, **known)
        if not reason:
            self._local.report(shard)
        if not others:
            self._events.away(bool(reason), reason)


def _charge(reservation: Reservation, amounts: Sequence[int], place: int) -> Charge:
    return Charge(reservation.charges[place].counter, amounts[place])


def _merged(
    reservation: Reservation, amounts: tuple[int, ...], extra: tuple[Charge, ...]
) -> tuple[tuple[int, ...], tuple[Charge, ...]]:
    """No counter twice: the scripts book each once."""
    places = {charge.counter.key: place for place, charge in enumerate(reservation.charges)}
    sums = list(amounts)
    others: dict[bytes, Charge] = {}
    for charge in extra:
        key = charge.counter.key
        if key in places:
            sums[places[key]] = bounded(sums[places[key]] + charge.amount)
        else:
            before = others[key].amount if key in others else 0
            others[key] = Charge(charge.counter, bounded(before + charge.amount))
    return tuple(sums), tuple(others.values())
