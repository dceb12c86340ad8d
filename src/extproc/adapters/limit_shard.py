"""What a worker knows of one organisation: whether its shard of the store answers, its clock, its live limits.

An organisation lives on one shard of a cluster, so one may be away while others are not.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Final

from extproc.adapters.limit_clock import StoreClock
from extproc.limits.counters import Charge, Counter, Rule, Span, Standing, Window
from extproc.limits.rules import Rules, limit_of
from extproc.limits.scripts import Booking, Handle, held, leases_key, record_key, terms
from extproc.limits.windows import span

FAILURES: Final = 3
"""Times in a row that calls got no answer in time, after which nobody waits any more."""

_APART: Final = 0.02  # seconds: many calls that are late at one moment are one such time

Spans = tuple[Span | None, ...]

_MOST_PLANS: Final = 20_000


class Plan:
    """A counter's terms, encoded, for as long as its rule, the live limits and the window are the same."""

    __slots__ = ("counter", "limits", "span", "terms")

    def __init__(self, counter: Counter, limits: Mapping[tuple[str, str], int], there: Span | None) -> None:
        """`terms` is empty where they cannot be counted exactly."""
        self.counter: Final = counter
        self.limits: Final = limits
        self.span: Final = there
        self.terms = b""
        with suppress(ValueError):
            self.terms = terms(Booking(counter, 0, limit_of(counter, limits), there))

    def holds(self, counter: Counter, limits: Mapping[tuple[str, str], int], now: int) -> bool:
        """Whether it is still right."""
        if self.limits is not limits or self.counter.rule is not counter.rule:
            return False
        there = self.span
        return there is None or there.start <= now < there.end


class Shard:
    """One organisation. Belongs to the event loop's thread."""

    __slots__ = (
        *("_failures", "_late_at", "_plans", "_record", "_told", "away_since", "back_since", "clock", "key", "limits"),
        *("name", "used", "version"),
    )

    def __init__(self, name: str, told: Callable[[Shard, str], None]) -> None:
        """`told`: called with the reason when it goes away (not empty) and when it is back (empty)."""
        self.name: Final = name
        self.key: Final = leases_key(name)  # any key of the organisation leads to its node
        self.clock: Final = StoreClock()
        self.limits: Mapping[tuple[str, str], int] = {}  # live overrides: (rule, value) -> limit
        self.version: bytes | None = None  # of the overrides; None: never read
        self.away_since = 0.0  # UNIX seconds; 0.0: it answers
        self.back_since = time.monotonic()
        self.used = time.monotonic()  # the last call
        self._failures = 0
        self._late_at = 0.0
        self._told = told
        self._record: Final = record_key(Handle(name, ""))
        self._plans: dict[bytes, Plan] = {}

    @property
    def away(self) -> bool:
        """Whether nobody asks it: a look from time to time says when it is back."""
        return self.away_since > 0.0

    def answered(self) -> None:
        """It gave an answer in time."""
        self._failures = 0

    def late(self) -> None:
        """It gave none in time: once may be chance."""
        now = time.monotonic()
        if now - self._late_at < _APART:
            return
        self._late_at = now
        self._failures += 1
        if self._failures >= FAILURES:
            self.lost("no answer in time")

    def lost(self, reason: str) -> None:
        """It cannot be reached."""
        if not self.away:
            self.away_since = time.time()
            self._told(self, reason)

    def back(self) -> None:
        """It answers again."""
        self._failures = 0
        if self.away:
            self.away_since = 0.0
            self.back_since = time.monotonic()
            self._told(self, "")

    def limit(self, counter: Counter) -> int:
        """The limit that holds, live overrides in it."""
        return limit_of(counter, self.limits)

    def spans(self, charges: Sequence[Charge]) -> Spans:
        """The windows that run now, by the estimate of the store's clock; None for those that are not of the calendar."""
        now = self.clock.now()
        return tuple([_window(charge.counter.rule, now) for charge in charges])

    def plans(self, charges: Sequence[Charge]) -> list[Plan]:
        """The terms of today of these counters."""
        known, limits, now = self._plans, self.limits, self.clock.now()
        found = []
        for charge in charges:
            counter = charge.counter
            plan = known.get(counter.key)
            if plan is None or not plan.holds(counter, limits, now):
                if len(known) >= _MOST_PLANS:
                    known.clear()
                plan = known[counter.key] = Plan(counter, limits, _window(counter.rule, now))
            found.append(plan)
        return found

    def hold(self, reservation: Reservation, lease: int) -> list[bytes]:
        """Arguments of the script `reserve`. Raises ValueError where an amount or a limit cannot be counted exactly."""
        identity = reservation.handle.id.encode()
        plans = reservation.plans
        encoded = [plan.terms for plan in plans]
        if not all(encoded):
            raise ValueError("a limit cannot be counted")
        keys = [self.key, self._record + identity, *[plan.counter.key for plan in plans]]
        return held(keys, identity, reservation.held, encoded, lease)

    def bookings(self, charges: Sequence[Charge], amounts: Sequence[int], spans: Spans) -> list[Booking]:
        """For the scripts, with the limits of now. All are parallel."""
        limits = self.limits
        return [
            Booking(charge.counter, amount, limit_of(charge.counter, limits), span)
            for charge, amount, span in zip(charges, amounts, spans, strict=True)
        ]


def _window(rule: Rule, now: int) -> Span | None:
    calendar = rule.window is not Window.BUCKET and rule.window is not Window.CONCURRENT
    return span(rule.window, rule.zone, now) if calendar else None


class Reservation:
    """A call that is under way. Amounts are parallel to `charges`."""

    __slots__ = (
        *("args", "asked", "busy", "charges", "handle", "held", "limits", "local", "missing", "plans", "refused"),
        *("renewed", "shadow", "shard", "spans", "standings"),
    )

    def __init__(self, shard: Shard, identity: str, charges: tuple[Charge, ...]) -> None:
        """`identity`: its name in the store, unique over all workers and replicas."""
        self.shard: Final = shard
        self.handle: Final = Handle(shard.name, identity)
        self.charges = charges
        self.plan()
        self.held: tuple[int, ...] = tuple([charge.amount for charge in charges])
        self.args: list[bytes] = []  # as it was reserved in the store; empty where it was not, or otherwise
        self.standings: tuple[Standing, ...] = ()  # as the store answered a plain yes
        self.limits = shard.limits  # that the arguments were made with
        self.local = False  # admitted by this worker's own books: the store knows nothing of it
        self.shadow: tuple[int, ...] | None = None  # what the store holds, where the own books hold more
        self.refused: int | None = None  # index of the limit that refused the newest extension
        self.asked: tuple[int, ...] | None = None  # totals that wait until the extension under way is answered
        self.busy = False  # an extension is under way
        self.missing = False  # the store has lost it
        self.renewed = time.monotonic()  # when the store was last known to keep it

    def plan(self) -> None:
        """Take the windows that run now."""
        self.plans = self.shard.plans(self.charges)
        self.spans: Spans = tuple([plan.span for plan in self.plans])

    def follow(self, rules: Rules) -> None:
        """Take the limits of the configuration that is live now, where it still has them: the counters are the same."""
        self.charges = tuple([_of_today(charge, rules) for charge in self.charges])

    def bookings(self, amounts: Sequence[int]) -> list[Booking]:
        """For the scripts, with the limits of now."""
        return self.shard.bookings(self.charges, amounts, self.spans)

    def over(self) -> tuple[bool, ...]:
        """Which of its windows have ended by now."""
        now = self.shard.clock.now()
        return tuple([span is not None and span.end <= now for span in self.spans])


def _of_today(charge: Charge, rules: Rules) -> Charge:
    old = charge.counter
    rule = rules.rule(old.rule.name)
    if rule is None:
        return charge
    new = rules.counter(rule, old.organisation, old.value)
    return Charge(new, charge.amount) if new.key == old.key and new.rule is not old.rule else charge
