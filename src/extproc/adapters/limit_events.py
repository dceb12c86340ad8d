"""What happens to limits, for those who count it and those who tell about it (metrics, alerts, the log)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Protocol

from extproc.limits.counters import Charge, Counter, Reserved, Standing


class LimitEvents(Protocol):
    """Called on the event loop's thread, on the path of calls: a method must neither block nor raise.

    Whoever needs a part only derives from `Ignored`.
    """

    def reserved(self, charges: Sequence[Charge], reply: Reserved, seconds: float) -> None:
        """Admitted: `reply.over` names the soft limits that are exceeded. `seconds`: what the call waited for it."""

    def refused(self, charges: Sequence[Charge], reply: Reserved, seconds: float) -> None:
        """Not admitted: `reply.refused` names the hard limits that have no room, at least one."""

    def denied(self, charges: Sequence[Charge], rule: str) -> None:
        """Not admitted because the store is away and the limit `rule` says `deny`."""

    def extended(self, charge: Charge, *, granted: bool) -> None:
        """A call that runs asked for more, told once for all its counters.

        `charge` is the new total of its first counter, or of the one that refused.
        """

    def settled(self, charges: Sequence[Charge], held: Sequence[int], *, local: bool) -> None:
        """A call is over: `charges` what it really used, `held` what was reserved for it, parallel.

        Told when the call ends, once per call, before the store knows. `local`: it was admitted while the store was
        away.
        """

    def overshoot(self, counter: Counter, amount: int) -> None:
        """The settled use of a counter went above its limit: by `amount` more than it was above it before."""

    def alert(self, counter: Counter, level: int, standing: Standing) -> None:
        """The use of a counter reached `level` per cent of its limit: once per window and level over all workers.

        `counter.rule` is the rule as this worker knows it; `standing.limit` has overrides and top-ups in it.
        """

    def expired(self, count: int) -> None:
        """Reservations whose owner is gone were charged as reserved. Each is told by one worker."""

    def away(self, away: bool, reason: str) -> None:
        """The store cannot be asked any more, or again. `reason`: what was seen, fit for a log line; empty when back."""

    def local_spent(self, counter: Counter, amount: int) -> None:
        """The store is back: calls that ended meanwhile had spent `amount` on this counter without asking it."""

    def queue(self, length: int) -> None:
        """So many settlements have not been acknowledged by the store."""

    def lost(self, count: int) -> None:
        """Settlements were given up: the store would not know any more whether they count, or too many waited."""


class Ignored(LimitEvents):
    """Ignores every event."""

    def reserved(self, charges: Sequence[Charge], reply: Reserved, seconds: float) -> None:
        """Ignored."""

    def refused(self, charges: Sequence[Charge], reply: Reserved, seconds: float) -> None:
        """Ignored."""

    def denied(self, charges: Sequence[Charge], rule: str) -> None:
        """Ignored."""

    def extended(self, charge: Charge, *, granted: bool) -> None:
        """Ignored."""

    def settled(self, charges: Sequence[Charge], held: Sequence[int], *, local: bool) -> None:
        """Ignored."""

    def overshoot(self, counter: Counter, amount: int) -> None:
        """Ignored."""

    def alert(self, counter: Counter, level: int, standing: Standing) -> None:
        """Ignored."""

    def expired(self, count: int) -> None:
        """Ignored."""

    def away(self, away: bool, reason: str) -> None:
        """Ignored."""

    def local_spent(self, counter: Counter, amount: int) -> None:
        """Ignored."""

    def queue(self, length: int) -> None:
        """Ignored."""

    def lost(self, count: int) -> None:
        """Ignored."""


class All(LimitEvents):
    """Tells several."""

    def __init__(self, listeners: Sequence[LimitEvents]) -> None:
        """In this order."""
        self._listeners: Final = tuple(listeners)

    def reserved(self, charges: Sequence[Charge], reply: Reserved, seconds: float) -> None:
        """Tell all."""
        for one in self._listeners:
            one.reserved(charges, reply, seconds)

    def refused(self, charges: Sequence[Charge], reply: Reserved, seconds: float) -> None:
        """Tell all."""
        for one in self._listeners:
            one.refused(charges, reply, seconds)

    def denied(self, charges: Sequence[Charge], rule: str) -> None:
        """Tell all."""
        for one in self._listeners:
            one.denied(charges, rule)

    def extended(self, charge: Charge, *, granted: bool) -> None:
        """Tell all."""
        for one in self._listeners:
            one.extended(charge, granted=granted)

    def settled(self, charges: Sequence[Charge], held: Sequence[int], *, local: bool) -> None:
        """Tell all."""
        for one in self._listeners:
            one.settled(charges, held, local=local)

    def overshoot(self, counter: Counter, amount: int) -> None:
        """Tell all."""
        for one in self._listeners:
            one.overshoot(counter, amount)

    def alert(self, counter: Counter, level: int, standing: Standing) -> None:
        """Tell all."""
        for one in self._listeners:
            one.alert(counter, level, standing)

    def expired(self, count: int) -> None:
        """Tell all."""
        for one in self._listeners:
            one.expired(count)

    def away(self, away: bool, reason: str) -> None:
        """Tell all."""
        for one in self._listeners:
            one.away(away, reason)

    def local_spent(self, counter: Counter, amount: int) -> None:
        """Tell all."""
        for one in self._listeners:
            one.local_spent(counter, amount)

    def queue(self, length: int) -> None:
        """Tell all."""
        for one in self._listeners:
            one.queue(length)

    def lost(self, count: int) -> None:
        """Tell all."""
        for one in self._listeners:
            one.lost(count)
