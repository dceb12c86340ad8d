"""All roads, run side by side, and what they come to."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import Final

from extproc.roads import direct, frames, identity, proxied, resolvers, shapes, timed
from extproc.roads.road import Attempt, Finding, Outcome, Road, Scope

ROADS: Final = (*proxied.ROADS, *direct.ROADS, *resolvers.ROADS, *shapes.ROADS, *frames.ROADS, *identity.ROADS)
NAMES: Final = (*(road.name for road in ROADS), "before-policy", "restart-window")
_AT_ONCE: Final = 24
# an attempt is a few operations, each with the scope's time limit; what is not done by then is reported as such
_OPERATIONS: Final = 30
_WORST: Final = (Outcome.OPEN, Outcome.CLOSED, Outcome.BY_DESIGN, Outcome.NOT_TRIED)


@dataclass(frozen=True, slots=True)
class Tried:
    """One attempt with its outcome; `seconds` it took.

    `broken`: it could not be run, which is no outcome of the road. `excused`: not tried, and nothing is missing for it.
    """

    tried: str
    outcome: Outcome
    evidence: str
    seconds: float
    broken: bool = False
    excused: bool = False


@dataclass(frozen=True, slots=True)
class Row:
    """A road with the worst of its attempts' outcomes, and the evidence for that one."""

    road: str
    about: str
    tried: tuple[Tried, ...]

    @property
    def deciding(self) -> Tried:
        """The attempt that the row's outcome is of."""
        return min(self.tried, key=lambda one: _WORST.index(one.outcome))

    @property
    def outcome(self) -> Outcome:
        """Open if one attempt is; closed if one at least was refused; else by design; else not tried."""
        return self.deciding.outcome

    @property
    def evidence(self) -> str:
        """One line."""
        worst, left = self.deciding, sum(1 for one in self.tried if one.outcome is Outcome.NOT_TRIED)
        counted = sum(1 for one in self.tried if one.outcome is worst.outcome)
        more = f"{counted} of {len(self.tried)}: " if len(self.tried) > 1 else ""
        rest = f"; {left} not tried" if left and worst.outcome is not Outcome.NOT_TRIED else ""
        return f"{more}{worst.tried}: {worst.evidence}{rest}"

    @property
    def broken(self) -> bool:
        """True where an attempt could not be run."""
        return any(one.broken for one in self.tried)

    @property
    def missing(self) -> int:
        """How many attempts were not made that had to be: what they would have found is not known."""
        return sum(1 for one in self.tried if one.outcome is Outcome.NOT_TRIED and not one.excused)


def run(scope: Scope, roads: Iterable[Road]) -> list[Row]:
    """Try every road, all attempts side by side. Bounded in time by the scope's limit and the number of attempts."""
    planned = [(road, list(road.attempts(scope))) for road in roads]
    total = sum(len(attempts) for _, attempts in planned)
    limit = scope.timeout * _OPERATIONS * (1 + total / _AT_ONCE)
    pool = ThreadPoolExecutor(max_workers=_AT_ONCE, thread_name_prefix="road")
    try:
        started = [(road, [(one, pool.submit(_timed, one)) for one in attempts]) for road, attempts in planned]
        wait([future for _, pairs in started for _, future in pairs], timeout=limit)
        return [
            Row(road.name, road.about, tuple(_tried(one, future) for one, future in pairs) or (_nothing(),))
            for road, pairs in started
        ]
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def _timed(attempt: Attempt) -> tuple[Finding, float]:
    began = time.monotonic()
    return attempt.run(), time.monotonic() - began


def _tried(attempt: Attempt, future: Future[tuple[Finding, float]]) -> Tried:
    if not future.done():
        return Tried(attempt.tried, Outcome.NOT_TRIED, "did not end in time", 0.0, broken=True)
    error = future.exception()
    if error is not None:
        return Tried(attempt.tried, Outcome.NOT_TRIED, f"could not be run: {error!r}", 0.0, broken=True)
    finding, seconds = future.result()
    return Tried(attempt.tried, finding.outcome, finding.evidence, seconds, excused=finding.excused)


def _nothing() -> Tried:
    return Tried("nothing", Outcome.NOT_TRIED, "there was nothing to try it on", 0.0)


def governs(rows: Sequence[Row]) -> bool:
    """True where the meant road works: without it, what is closed may be a network that is down."""
    return any(row.road == proxied.GATEWAY.name and row.outcome is Outcome.BY_DESIGN for row in rows)


def timed_roads(held: Sequence[timed.Held] | None, restart: timed.Restart | None) -> tuple[Road, Road]:
    """The two roads that need a moment of their own."""
    return timed.held_road(held), restart.road() if restart is not None else timed.no_restart()
