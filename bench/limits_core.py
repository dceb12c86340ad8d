"""What limits cost in one worker, without gRPC and Envoy: the messages of one 2 KB call against a real embedded Valkey.

Prints CPU µs per exchange with limits and without, one call at a time and 16 at a time, interleaved, with Valkey's own;
then a table of the steps, each run alone. `--profile` prints where the time goes.
`limits_core.py [--calls N] [--repetitions N] [--profile]`
"""

# ruff: noqa: SLF001  steps are not public
from __future__ import annotations

import argparse
import asyncio
import cProfile
import gc
import pstats
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import uvloop
from core import CONFIG, exchange, make_host, messages
from rig import cpu_seconds

from extproc.adapters.host import Host
from extproc.adapters.limit_service import LimitService
from extproc.adapters.limit_shard import Reservation
from extproc.adapters.metrics import share_values
from extproc.adapters.valkey_process import EmbeddedStore
from extproc.config import Config, load
from extproc.exchange.effects import Reserve
from extproc.exchange.facts import Facts
from extproc.limits.counters import Reserved, nano
from extproc.limits.scripts import Calls, Handle, Name, granted, is_plain, read, script, settled
from extproc.policies import quota
from extproc.policies.quota_answers import rate_headers
from extproc.policies.quota_worth import Quotas, size_up, worst_cost

QUOTAS = """
quotas:
  rules:
  - {name: team_month, kind: money, limit: 5000000, window: month, scope: [team]}
  - {name: key_minute, kind: requests, limit: 100000000, window: minute, scope: [key]}
  - {name: app_model_day, kind: tokens, limit: 100000000000, window: day, scope: [app, model]}
"""
AT_ONCE = (1, 16)


@dataclass
class Side:
    """A host and what a caller sends to it."""

    host: Host
    sent: list[bytes]


async def load_of(side: Side, calls: int, at_once: int) -> list[float]:
    """Make calls; µs of wall time that each took."""
    took: list[float] = []

    async def caller(count: int) -> None:
        for _ in range(count):
            began = time.perf_counter_ns()
            await exchange(side.host, side.sent, encode=True)
            took.append((time.perf_counter_ns() - began) / 1000)

    await asyncio.gather(*(caller(calls // at_once) for _ in range(at_once)))
    return took


async def cell(side: Side, calls: int, at_once: int, pid: int) -> dict[str, float]:
    """One measurement: CPU µs of this process and of Valkey, and the median of the wall time."""
    before, theirs = time.process_time_ns(), cpu_seconds(pid)
    took = await load_of(side, calls, at_once)
    await asyncio.sleep(0.02)  # what comes after the last answer belongs to it
    mine = (time.process_time_ns() - before) / 1000 / len(took)
    return {"python": mine, "valkey": (cpu_seconds(pid) - theirs) * 1e6 / len(took), "wall": median(took)}


async def compare(sides: dict[str, Side], calls: int, repetitions: int, pid: int) -> None:
    """Both sides by turns, and what limits add within a repetition."""
    print(
        "| calls at once | off µs | on µs | added Python CPU µs (lowest to highest) | added wall p50 µs | Valkey µs |"
    )
    print("| ---: | ---: | ---: | ---: | ---: | ---: |")
    for at_once in AT_ONCE:
        runs: dict[str, list[dict[str, float]]] = {name: [] for name in sides}
        for repetition in range(repetitions):
            for name in sorted(sides, reverse=repetition % 2 == 0):
                runs[name].append(await cell(sides[name], calls, at_once, pid))
        added = sorted(on["python"] - off["python"] for on, off in zip(runs["on"], runs["off"], strict=True))
        wall = median(on["wall"] - off["wall"] for on, off in zip(runs["on"], runs["off"], strict=True))
        off, on = (median(run["python"] for run in runs[name]) for name in ("off", "on"))
        valkey = median(run["valkey"] for run in runs["on"])
        print(
            f"| {at_once} | {off:.0f} | {on:.0f} | {median(added):.0f} ({added[0]:.0f} to {added[-1]:.0f}) "
            f"| {wall:.0f} | {valkey:.0f} |"
        )


# ---- the steps, each alone --------------------------------------------------------------------------------------


class Catcher:
    """In the limits' place: keeps what an exchange asks for, and how its facts stood then."""

    def __init__(self, inner: Any) -> None:
        """`inner`: who does the work."""
        self._inner = inner
        self.effect: Reserve | None = None
        self.reply: Reserved | None = None

    async def reserve(self, effect: Reserve) -> Reserved:
        self.effect = effect
        self.reply = await self._inner.reserve(effect)
        return self.reply

    def extend(self, effect: Any) -> Any:
        return self._inner.extend(effect)

    def settle(self, effect: Any) -> None:
        self._inner.settle(effect)

    def forget(self, identity: str) -> None:
        self._inner.forget(identity)


def timed(work: Callable[[], object], calls: int) -> float:
    """CPU µs of one `work`: the median of some repetitions."""
    found = []
    for _ in range(7):
        before = time.process_time_ns()
        for _ in range(calls):
            work()
        found.append((time.process_time_ns() - before) / calls / 1000)
    return median(found)


async def awaited(work: Callable[[], Awaitable[object]], calls: int) -> tuple[float, float]:
    """CPU and wall µs of one `work`, one after the other."""
    cpu, wall = [], []
    for _ in range(7):
        before, began = time.process_time_ns(), time.perf_counter_ns()
        for _ in range(calls):
            await work()
        cpu.append((time.process_time_ns() - before) / calls / 1000)
        wall.append((time.perf_counter_ns() - began) / calls / 1000)
    return median(cpu), median(wall)


def _finished(steps: Any) -> Any:
    try:
        next(steps)
    except StopIteration as stop:
        return stop.value
    raise RuntimeError("a step asked for an effect")


async def steps(side: Side, service: LimitService, calls: int) -> None:
    """Each step of a call alone, on warm caches: a lower bound of what it costs in a call."""
    caught, facts, quotas = await _catch(side, service)
    effect, reply = caught.effect, caught.reply
    if effect is None or reply is None:
        raise RuntimeError("nothing was reserved")
    body = _body(side)
    subject = quota._subject(facts, quotas.organisation)
    counters = quotas.rules.counters(subject)
    worth = _finished(size_up(quotas, facts, body))
    money = worst_cost(quotas, facts, worth) or 0
    desk, shard = service.limits._desk, service.limits._shard(effect.organisation)
    spans = shard.spans(effect.charges)
    amounts = [charge.amount for charge in effect.charges]
    bookings = shard.bookings(effect.charges, amounts, spans)
    held = Reservation(shard, "bench-0", effect.charges)
    coder, handle = Calls(), Handle(effect.organisation, "0123456789abcdef-12345")
    args = coder.reserve(handle, bookings, 15000)
    number = 0

    def fresh() -> list[bytes]:
        nonlocal number
        number += 1
        return coder.reserve(Handle(effect.organisation, f"bench-{number:x}"), bookings, 15000)

    raw = await desk.numbers(shard, Name.RESERVE, fresh())
    whole = (b"EVALSHA", script(Name.RESERVE).sha, *args)
    rows: list[tuple[str, float]] = [
        ("subject", timed(lambda: quota._subject(facts, quotas.organisation), calls)),
        ("rules.counters", timed(lambda: quotas.rules.counters(subject), calls)),
        ("size_up", timed(lambda: _finished(size_up(quotas, facts, body)), calls)),
        ("worst_cost", timed(lambda: worst_cost(quotas, facts, worth), calls)),
        ("charges", timed(lambda: quota._charges(counters, worth.usage, money, 1), calls)),
        ("reservation, with its terms", timed(lambda: Reservation(shard, "bench-1", effect.charges), calls)),
        ("encode reserve", timed(lambda: shard.hold(held, 15000), calls)),
        ("encode settle", timed(lambda: settled(args, amounts), calls)),
        ("read the answer of reserve", timed(lambda: granted(raw, counters), calls)),
        ("read the answer of settle", timed(lambda: is_plain(raw), calls)),
        ("both answers, the general way", timed(lambda: (read(raw, bookings), read(raw, bookings)), calls)),
        ("rate headers", timed(lambda: rate_headers("openai", effect.charges, reply), calls)),
        ("amounts at the end", timed(lambda: quota._amounts(effect.charges, worth.usage, money, 1), calls)),
        ("nano of the cost", timed(lambda: nano(facts.cost.amount), calls)),
        ("metrics: reserved", timed(lambda: service.limits._events.reserved(effect.charges, reply, 0.0001), calls)),
        (
            "metrics: settled",
            timed(lambda: service.limits._events.settled(effect.charges, amounts, local=False), calls),
        ),
    ]
    _print_steps(rows)
    await _trips(service, effect, whole, fresh, min(calls, 1000))


def _print_steps(rows: list[tuple[str, float]]) -> None:
    print("\n| step, alone | CPU µs |\n| --- | ---: |")
    for name, cost in rows:
        print(f"| {name} | {cost:.2f} |")


async def _trips(
    service: LimitService, effect: Reserve, whole: tuple[bytes, ...], fresh: Callable[[], list[bytes]], calls: int
) -> None:
    """What waits for the store. `whole`: a reservation that it knows already; `fresh`: makes another one."""
    store, desk, shard = service._store, service.limits._desk, service.limits._shard(effect.organisation)
    trips: list[tuple[str, Callable[[], Awaitable[object]]]] = [
        ("bare PING", lambda: store.send(shard.key, (b"PING",))),
        ("bare EVALSHA reserve (known id)", lambda: store.send(shard.key, whole)),
        ("desk.numbers reserve, fresh", lambda: desk.numbers(shard, Name.RESERVE, fresh())),
        ("limits.reserve + settle", lambda: _pair(service, effect)),
    ]
    print("\n| round trip | CPU µs | wall µs |\n| --- | ---: | ---: |")
    for name, work in trips:
        cpu, wall = await awaited(work, calls)
        print(f"| {name} | {cpu:.1f} | {wall:.1f} |")


_numbers = iter(range(1 << 60))


async def _pair(service: LimitService, effect: Reserve) -> None:
    name = f"pair-{next(_numbers)}"
    await service.limits.reserve(Reserve(name, effect.organisation, effect.charges))
    service.limits.settle(quota.Settle(name, tuple([charge.amount for charge in effect.charges])))


async def _catch(side: Side, service: LimitService) -> tuple[Catcher, Facts, Quotas]:
    """One call, with what it asked for, and the facts and the compiled section as its policy had them."""
    caught = Catcher(service.limits)
    seen: list[tuple[Facts, Quotas]] = []
    policy = quota.QuotaPolicy
    original = policy.finish

    def finish(self: Any, facts: Facts) -> Any:
        seen.append((facts, self._quotas))
        return original(self, facts)

    side.host.limits = caught
    policy.finish = finish  # type: ignore[method-assign]
    try:
        await exchange(side.host, side.sent, encode=True)
    finally:
        policy.finish = original  # type: ignore[method-assign]
        side.host.limits = service.limits
    return caught, *seen[0]


def _body(side: Side) -> bytes:
    from extproc.adapters._pb import extproc_pb2 as pb

    return bytes(pb.ProcessingRequest.FromString(side.sent[1]).request_body.body)


@asynccontextmanager
async def setting(folder: Path) -> AsyncIterator[tuple[dict[str, Side], LimitService, int]]:
    """Two hosts, one of them with limits, and Valkey beside them; its process last."""
    config: Config = load(CONFIG + QUOTAS.encode(), "gateway.yaml", base=folder)
    sides = {}
    server = EmbeddedStore(folder)
    await server.start()
    try:
        for name, text in (("off", CONFIG), ("on", CONFIG + QUOTAS.encode())):
            host, secret, metrics = make_host(folder, "lm", text)
            sides[name] = Side(host, messages(secret, 2048, stream=False))
        service = LimitService(config, folder, {}, metrics.limits, lambda _name, _text: None)
        sides["on"].host.limits = service.limits
        await service.open()
        try:
            yield sides, service, server.pid
        finally:
            await service.drain()
    finally:
        await server.stop()


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--calls", type=int, default=800)
    parser.add_argument("--repetitions", type=int, default=9)
    parser.add_argument("--profile", action="store_true")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="xl-") as name:
        folder = Path(name)
        share_values(folder, "0")
        async with setting(folder) as (sides, service, pid):
            for side in sides.values():
                await load_of(side, 200, 1)
            gc.collect()
            gc.freeze()
            if args.profile:
                profile = cProfile.Profile()
                profile.enable()
                await load_of(sides["on"], args.calls, 1)
                profile.disable()
                pstats.Stats(profile).sort_stats("tottime").print_stats(70)
                return
            await compare(sides, args.calls, args.repetitions, pid)
            await steps(sides["on"], service, 2000)


if __name__ == "__main__":
    uvloop.run(main())
