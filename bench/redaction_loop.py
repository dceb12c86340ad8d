"""How late the event loop is while it looks for entities: uvloop, a tick each millisecond, calls at a steady rate."""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections.abc import Callable
from typing import Any

import uvloop
from redaction_data import DENSE, Prompts
from redaction_engines import FAST, PATTERNS, STRICT, Ours

from extproc.adapters.scans import Scans
from extproc.adapters.worker import SWITCH
from extproc.errors import BudgetExceededError
from extproc.exchange.effects import FindEntities
from extproc.redaction.cache import FindingCache

TICK = 0.001
# profile -> calls a second; the transformer needs 20 to 100 ms for such a text, so more would only be refused
RATES = {"idle": 0, PATTERNS: 100, FAST: 100, STRICT: 5}
_SIZE = 4000


async def _lateness(seconds: float) -> list[float]:
    """Milliseconds that each tick came after its time."""
    loop = asyncio.get_running_loop()
    late: list[float] = []
    done = loop.create_future()
    end = time.perf_counter() + seconds

    def tick(asked: float) -> None:
        now = time.perf_counter()  # the loop's own clock counts whole milliseconds
        late.append(max(0.0, now - asked - TICK) * 1000)
        if now >= end:
            done.set_result(None)
            return
        loop.call_later(TICK, tick, now)

    loop.call_later(TICK, tick, time.perf_counter())
    await done
    return late


async def _calls(scans: Scans, scanner: Any, texts: list[str], rate: float) -> list[float]:
    """Search each text once, `rate` a second; milliseconds of each."""
    took: list[float] = []
    waiting: list[asyncio.Future[None]] = []

    async def one(text: str) -> None:
        began = time.perf_counter()
        answer = scans.find(FindEntities(scanner, [text], 10.0))
        if asyncio.iscoroutine(answer):
            try:
                await answer
            except BudgetExceededError:
                return
        took.append((time.perf_counter() - began) * 1000)

    begun = time.perf_counter()
    for number, text in enumerate(texts):
        await asyncio.sleep(max(0.0, begun + number / rate - time.perf_counter()))
        waiting.append(asyncio.ensure_future(one(text)))
    await asyncio.gather(*waiting)
    return took


async def _measure(scanner: Any, texts: list[str], rate: float, seconds: float) -> dict[str, Any]:
    scans = Scans(FindingCache(0, os.urandom(16)))
    if rate:  # the thread loads what it needs
        await _calls(scans, scanner, [texts[0] * 2], rate)
    ticking = asyncio.ensure_future(_lateness(seconds))
    took = await _calls(scans, scanner, texts, rate) if rate else []
    late = sorted(await ticking)
    scans.close()
    took.sort()
    return {
        "ticks": len(late),
        "late_p50": late[len(late) // 2],
        "late_p99": late[len(late) * 99 // 100],
        "late_max": late[-1],
        "calls": len(took),
        "call_p50": took[len(took) // 2] if took else 0.0,
        "call_p99": took[len(took) * 99 // 100] if took else 0.0,
    }


def lateness(ours: Ours, prompts: Prompts, tell: Callable[[str], None], seconds: float) -> list[dict[str, Any]]:
    """A row for each profile, on one core and on all."""
    rows = []
    sys.setswitchinterval(SWITCH)  # as a worker does
    mine = os.sched_getaffinity(0)
    every = set(range(os.cpu_count() or 1))
    for cores in (mine, every):
        os.sched_setaffinity(0, cores)
        for profile, rate in RATES.items():
            tell(f"event loop: {profile}, {len(cores)} core(s)")
            scanner = None if profile == "idle" else ours.scanner(profile)
            texts = prompts.many(_SIZE, int(rate * seconds), DENSE) if rate else []
            found = uvloop.run(_measure(scanner, texts, rate, seconds))
            rows.append({"profile": profile, "cores": len(cores), "rate": rate, **found})
    os.sched_setaffinity(0, mine)
    return rows
