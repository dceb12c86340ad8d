"""Five hundred callers at once, while the store of limits goes away and comes back: what each of them saw of it."""

from __future__ import annotations

import asyncio
import resource
import signal
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from envoy.limit_calls import NOTHING, Amounts, Call, Store
from envoy.machine import Machine

CALLERS = 500
SECONDS = 4.0  # that a call takes the vendor
QUANTILES = (50, 90, 99, 100)
FAR = 3.0  # seconds: a bound for a machine that others use too; the figure is printed, and its goal is 0.1
OWN_FAR = 500.0  # ms: the same for what the gateway itself took
AWAY = "gateway_limits_unavailable"


class Short(Call):
    """A call whose stream has few pieces: so many callers share one process with the vendors."""

    tokens = 8


@dataclass
class Crowd:
    """Callers with one call at a time each; every other one has streams. `label` counts all of it."""

    machine: Machine
    label: str
    open: int = 0
    calls: list[Call] = field(default_factory=list)
    stopping: bool = False
    at: float = 0.0  # when the store went away, or would have
    back: float = 0.0  # when it answered again

    async def run(self) -> None:
        """Call until `stopping`, and until the last answer is there."""
        async with asyncio.TaskGroup() as group:
            for number in range(CALLERS):
                group.create_task(self._caller(number))

    async def _caller(self, number: int) -> None:
        await asyncio.sleep(SECONDS * number / CALLERS)
        while not self.stopping:
            call = Short(self.machine, self.label, seconds=SECONDS, stream=number % 2 == 0)
            self.open += 1
            await call.begin()
            await call.answer()
            self.open -= 1
            self.calls.append(call)
            if not call.whole:
                await asyncio.sleep(0.2)

    @property
    def failed(self) -> list[Call]:
        """Calls without a good answer."""
        return [call for call in self.calls if not call.whole]

    @property
    def stray(self) -> list[Call]:
        """Those that failed at a time at which the store was there."""
        return [call for call in self.failed if call.reply.ended < self.at - 0.2 or call.reply.began > self.back + 1]

    def times(self, *, stream: bool) -> list[float]:
        """Seconds of the calls that were answered, ascending: those in flight at `at` or begun until `back`."""
        touched = [call for call in self.calls if call.reply.ended >= self.at and call.reply.began <= self.back + 1]
        return sorted(call.reply.seconds for call in touched if call.whole and call.stream is stream)

    def total(self) -> Amounts:
        """What all of it must have been charged."""
        told = [call.reported() for call in self.calls if call.whole]
        return {kind: sum(one[kind] for one in told) for kind in NOTHING}

    def own(self) -> list[float]:
        """What the gateway itself took for the calls that were answered, ms, at the `QUANTILES`."""
        count = sum(call.whole for call in self.calls)
        records = self.machine.wait_records(count, labels={"feature": self.label}, outcome="ok")
        return list(quantiles(sorted(one["policy_ms"] for one in records)).values())


def quantiles(times: Sequence[float]) -> dict[int, float]:
    """Of ascending times, by per cent; 100 is the slowest."""
    return {per: times[min(len(times) - 1, len(times) * per // 100)] for per in QUANTILES}


def played(machine: Machine, label: str, number: signal.Signals | None = None) -> Crowd:
    """Play the load, with a signal to Valkey in the middle of it."""
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    assert files > 4 * CALLERS, "open files: this process has the callers' sockets and the vendors'"
    crowd = Crowd(machine, label)
    asyncio.run(_play(crowd, number))
    return crowd


async def _play(crowd: Crowd, number: signal.Signals | None) -> None:
    load = asyncio.ensure_future(crowd.run())
    await asyncio.sleep(SECONDS + 1)
    crowd.at = crowd.back = time.monotonic()
    if number is not None:
        assert crowd.open > CALLERS * 0.9
        store = Store(crowd.machine)
        killed = await asyncio.to_thread(store.signal, number)
        crowd.at = time.monotonic()
        while await asyncio.to_thread(lambda: store.pid) in {0, killed}:
            assert time.monotonic() < crowd.at + 10, "it does not come back"
            await asyncio.sleep(0.01)
        crowd.back = time.monotonic()
    await asyncio.sleep(1.5)
    crowd.stopping = True
    await load


def slower(one: Crowd, base: Crowd) -> dict[str, float]:
    """By how much the quantiles of one load are above those of another, seconds."""
    found: dict[str, float] = {}
    for stream in (False, True):
        pair = quantiles(one.times(stream=stream)), quantiles(base.times(stream=stream))
        found |= {f"{'stream' if stream else 'unary'} p{per}": pair[0][per] - pair[1][per] for per in QUANTILES}
    return found


def compared(name: str, crowd: Crowd, base: Crowd) -> str:
    """The figures, after a check that they are not far off."""
    found, ours = slower(crowd, base), (base.own(), crowd.own())
    assert max(found.values()) < FAR, found
    assert ours[1][-1] - ours[0][-1] < OWN_FAR, ours
    count = sum(len(crowd.times(stream=stream)) for stream in (False, True))
    return (
        f"\n{name}: {len(crowd.calls)} calls, {count} of them answered and in flight while it was away"
        f" ({1000 * (crowd.back - crowd.at):.0f} ms), {len(crowd.failed)} denied, {len(crowd.stray)} of these at"
        " another time; slower than without a restart, ms: "
        + ", ".join(f"{key} {1000 * value:+.0f}" for key, value in found.items())
        + "; ours, without / with: "
        + ", ".join(f"p{per} {b:.1f} / {a:.1f}" for per, b, a in zip(QUANTILES, *ours, strict=True))
    )


@dataclass
class Still:
    """Calls one after the other: before the store stands still, at first, once that is known, and afterwards."""

    before: list[Call]
    first: list[Call]
    known: list[Call]
    after: list[Call]

    def whole(self) -> list[Call]:
        """Those with a good answer."""
        return [call for call in (*self.before, *self.first, *self.known, *self.after) if call.whole]


async def some(machine: Machine, label: str, count: int) -> list[Call]:
    """Calls, one after the other."""
    calls = [Call(machine, label, seconds=0) for _ in range(count)]
    for call in calls:
        await call.begin()
        await call.answer()
    return calls


def milliseconds(calls: Sequence[Call]) -> list[float]:
    """That the callers waited, ascending."""
    return sorted(1000 * call.reply.seconds for call in calls)


def median(calls: Sequence[Call]) -> float:
    """The same, in the middle."""
    return statistics.median(milliseconds(calls))
