"""How long it takes: new texts beside Presidio, the turns of a chat, known texts, hostile texts."""

from __future__ import annotations

import asyncio
import gc
import json
import os
import time
from collections.abc import Callable, Sequence
from statistics import median
from typing import Any

from redaction_data import DENSE, HOSTILE, Prompts, chat
from redaction_engines import FAST, PATTERNS, STRICT, TIERS, Ours, Presidio

from extproc.adapters.scans import Scans
from extproc.dialects.dialect import DEFAULT_LIMITS
from extproc.dialects.registry import DIALECTS
from extproc.exchange.draft import Draft
from extproc.exchange.effects import FindEntities
from extproc.exchange.events import RequestBody
from extproc.exchange.facts import Endpoint, Facts, Origin, Target
from extproc.policies.redact import RedactPolicy
from extproc.redaction.cache import FindingCache

PRESIDIO = "presidio"
# characters -> texts for each engine; the first so many of all engines are run in turn, for the ratios
SIZES = {200: (300, 30), 1000: (200, 20), 4000: (120, 10), 16_000: (30, 4)}
_STRICT_SHARE = 4  # the transformer takes a hundred times as long
_CACHE = 64 << 20
Runs = list[tuple[float, float]]


def figures(runs: Sequence[tuple[float, float]]) -> dict[str, float]:
    """Milliseconds: p50 and p99 by the wall, p50 and mean by the CPU."""
    walls, cpus = sorted(run[0] for run in runs), sorted(run[1] for run in runs)
    last = len(walls) - 1
    return {
        "runs": len(walls),
        "p50": walls[len(walls) // 2],
        "p99": walls[min(last, len(walls) * 99 // 100)],
        "cpu_p50": cpus[len(cpus) // 2],
        "cpu_p99": cpus[min(last, len(cpus) * 99 // 100)],
        "cpu_mean": sum(cpus) / len(cpus),
    }


def timed(work: Callable[[], object]) -> tuple[float, float]:
    """Milliseconds by the wall and by this thread's CPU time."""
    began, cpu = time.perf_counter_ns(), time.thread_time_ns()
    work()
    cpu = time.thread_time_ns() - cpu
    return (time.perf_counter_ns() - began) / 1e6, cpu / 1e6


def new_texts(ours: Ours, presidio: Presidio, prompts: Prompts, tell: Callable[[str], None], share: float) -> list[Any]:
    """Texts that no engine has seen before, each engine in turn on the same ones."""
    engines: dict[str, Callable[[str], object]] = {tier: ours.scanner(tier).scan for tier in TIERS}
    engines[PRESIDIO] = lambda text: presidio.analyze(text, 0.4)
    rows = []
    for size, (most, few) in SIZES.items():
        counts = dict.fromkeys(TIERS, max(4, int(most * share)))
        counts[STRICT] = max(4, int(most * share) // _STRICT_SHARE)
        counts[PRESIDIO] = max(2, int(few * share))
        for dense in (0.0, DENSE):
            tell(f"speed: {size} characters, {'dense' if dense else 'clean'}")
            texts = prompts.many(size, max(counts.values()), dense)
            runs: dict[str, Runs] = {name: [] for name in engines}
            gc.collect()
            for number, text in enumerate(texts):
                for name, scan in engines.items():
                    if number < counts[name]:
                        runs[name].append(timed(lambda scan=scan, text=text: scan(text)))
            paired = range(counts[PRESIDIO])
            rows.append(
                {
                    "size": size,
                    "dense": bool(dense),
                    "engines": {name: figures(found) for name, found in runs.items()},
                    "presidio_times": {
                        tier: median(runs[PRESIDIO][at][1] / runs[tier][at][1] for at in paired if at < len(runs[tier]))
                        for tier in TIERS
                    },
                }
            )
    return rows


class Emptied:
    """A cache that can be emptied, so that its worker's thread and what that has loaded stay."""

    def __init__(self, size: int) -> None:
        self._size = size
        self.empty()

    def empty(self) -> None:
        self._cache = FindingCache(self._size, os.urandom(16))
        self.get, self.put = self._cache.get, self._cache.put


class Chat:
    """One worker's policy objects and its cache, for the calls of chats."""

    def __init__(self, ours: Ours, profile: str, cache: int = _CACHE) -> None:
        self._profiles = ours.profiles(profile)
        self._scanner = ours.scanner(profile)
        self._dialect = DIALECTS["openai_chat"]
        self.cache = Emptied(cache)
        self.scans = Scans(self.cache)

    async def call(self, body: bytes) -> tuple[float, float]:
        """What redaction does with one request that is already parsed: walk, digests, cache, search, edits. In ms."""
        request = self._dialect.read_request(body)
        facts = Facts(
            Origin(0.0, 0.0),
            endpoint=Endpoint("openai", "openai", "/v1/chat/completions", self._dialect),
            request=request,
            target=Target("openai", "gpt-4o-mini", ("openai",)),
        )
        event, draft = RequestBody(0.0, body, end=True), Draft()
        began, cpu = time.perf_counter_ns(), time.process_time_ns()  # of the thread of long searches too
        policy = RedactPolicy(self._profiles, DEFAULT_LIMITS, None)
        steps = policy.request_body(facts, event, draft)
        if steps is None:
            raise RuntimeError("nothing was looked at")
        answer: Any = None
        try:
            while True:
                effect = steps.send(answer)
                if not isinstance(effect, FindEntities):
                    raise TypeError(type(effect).__name__)
                answer = self.scans.find(effect)
                if asyncio.iscoroutine(answer):
                    answer = await answer
        except StopIteration:
            pass
        cpu = time.process_time_ns() - cpu
        wall = time.perf_counter_ns() - began
        if facts.redaction is None or facts.redaction.failed:
            raise RuntimeError("the request was not searched")
        return wall / 1e6, cpu / 1e6

    async def ahead(self, body: bytes) -> None:
        """Search the answer that `body`, the next call, brings along, as the gateway does when the answer ends."""
        messages = json.loads(body)["messages"]
        texts = [one["content"] for one in messages[-2:-1]]
        waiting = self.scans.find(FindEntities(self._scanner, texts, 10.0, ahead=True))
        if asyncio.iscoroutine(waiting):
            await waiting


async def chats(ours: Ours, prompts: Prompts, tell: Callable[[str], None], share: float) -> dict[str, Any]:
    """The turns of some chats, each with a new cache, with and without one: figures of turn 1, 10, 20 and 2 to 20."""
    result: dict[str, Any] = {}
    for tier in TIERS:
        tell(f"chat: {tier}")
        for name, cache in (("cached", _CACHE), ("no cache", 0)):
            rounds = max(2, int((30 if cache else 6) * share / (1 if tier != STRICT else 6)))
            turns: list[Runs] = [[] for _ in range(20)]
            one = Chat(ours, tier, cache)
            await one.call(chat(prompts)[-1])  # its thread loads what it needs
            for _ in range(rounds):
                one.cache.empty()
                bodies = chat(prompts)
                for number, body in enumerate(bodies):
                    turns[number].append(await one.call(body))
                    if cache and 0 < number < len(bodies) - 1:  # of a first turn nobody knows that there is a second
                        await one.ahead(bodies[number + 1])
            one.scans.close()
            result[f"{tier}, {name}"] = {
                "1": figures(turns[0]),
                "10": figures(turns[9]),
                "20": figures(turns[19]),
                "2-20": figures([run for turn in turns[1:] for run in turn]),
            }
    return result


def known(ours: Ours, prompts: Prompts, share: float) -> dict[str, Any]:
    """A text of 4,000 characters that was seen before: the cache alone, and the whole effect. In µs."""
    scanner = ours.scanner(FAST)
    texts = prompts.many(4000, 50, DENSE)
    cache = FindingCache(_CACHE, os.urandom(16))
    scans = Scans(cache)
    for text in texts:
        cache.put(scanner.version, text, scanner.scan(text))
    rounds = max(2, int(40 * share))
    lookup = [timed(lambda text=text: cache.get(scanner.version, text)) for _ in range(rounds) for text in texts]
    effects = [FindEntities(scanner, [text], 1.0) for text in texts]
    whole = [timed(lambda effect=effect: scans.find(effect)) for _ in range(rounds) for effect in effects]
    scans.close()
    micro = {"cache": figures(lookup), "effect": figures(whole)}
    return {
        name: {key: value if key == "runs" else value * 1000 for key, value in one.items()}
        for name, one in micro.items()
    }


def hostile(ours: Ours, presidio: Presidio, tell: Callable[[str], None], *, quick: bool) -> list[Any]:
    """Each hostile text: the least of three runs (of one, for the slow engines)."""
    rows = []
    for name, text in HOSTILE.items():
        tell(f"hostile: {name}")
        row: dict[str, Any] = {"text": name, "characters": len(text)}
        for tier in TIERS:
            scan = ours.scanner(tier).scan
            runs = [timed(lambda scan=scan, text=text: scan(text)) for _ in range(1 if tier == STRICT else 3)]
            row[tier] = {
                "wall": min(run[0] for run in runs),
                "cpu": min(run[1] for run in runs),
                "worst": max(run[0] for run in runs),
            }
        if not quick:
            wall, cpu = timed(lambda text=text: presidio.analyze(text, 0.4))
            row[PRESIDIO] = {"wall": wall, "cpu": cpu, "worst": wall}
        rows.append(row)
    return rows


__all__ = ["FAST", "PATTERNS", "PRESIDIO", "Chat", "chats", "figures", "hostile", "known", "new_texts", "timed"]
