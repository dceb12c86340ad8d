"""A worker's limits on a real Valkey, with a bad network between them where a test wants one, and what is told of it."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from extproc.adapters.limit_events import LimitEvents
from extproc.adapters.limit_store import LimitStore, Settings
from extproc.adapters.valkey_topology import Store, make_store
from extproc.config import quotas
from extproc.exchange.effects import Extend, Reserve, Settle
from extproc.limits.counters import Away, Charge, Counter, Kind, Reserved, Rule, Standing, Subject, Window
from extproc.limits.rules import Rules
from valkeys import Server

_numbers = itertools.count(1)

BUDGET = Rule("budget", Kind.MONEY, Window.MONTH, 1000, ("team",), away=Away.DENY)
TOKENS = Rule("tokens", Kind.TOKENS, Window.HOUR, 10_000, ("app",), away=Away.BOUNDED, share=0.1)
CALLS = Rule("calls", Kind.REQUESTS, Window.CONCURRENT, 50, ("key",), away=Away.BOUNDED, share=0.1)
RULES = Rules((BUDGET, TOKENS, CALLS))
PATIENT = Settings(timeout=2.0)
OPEN = Rules((TOKENS, CALLS))
"""Those that let calls through while the store is away."""


def organisation() -> str:
    """A new one for each test."""
    return f"o{next(_numbers)}-{os.urandom(3).hex()}"


def charges(rules: Rules, name: str, *amounts: int) -> tuple[Charge, ...]:
    """Amounts on the counters of one subject."""
    counters = rules.counters(Subject(name, team="search", app="chat", key="k1", model="m"))
    return tuple(Charge(counter, amount) for counter, amount in zip(counters, amounts, strict=True))


class Tape(LimitEvents):
    """Keeps what is told."""

    def __init__(self) -> None:
        self.told: dict[str, list[Any]] = defaultdict(list)

    def reserved(self, charges: Sequence[Charge], reply: Reserved, seconds: float) -> None:
        self.told["reserved"].append((charges, reply, seconds))

    def refused(self, charges: Sequence[Charge], reply: Reserved, seconds: float) -> None:
        self.told["refused"].append((charges, reply, seconds))

    def denied(self, charges: Sequence[Charge], rule: str) -> None:
        self.told["denied"].append(rule)

    def extended(self, charge: Charge, *, granted: bool) -> None:
        self.told["extended"].append((charge, granted))

    def settled(self, charges: Sequence[Charge], held: Sequence[int], *, local: bool) -> None:
        self.told["settled"].append((tuple(charge.amount for charge in charges), tuple(held), local))

    def overshoot(self, counter: Counter, amount: int) -> None:
        self.told["overshoot"].append((counter.rule.name, amount))

    def alert(self, counter: Counter, level: int, standing: Standing) -> None:
        self.told["alert"].append((counter.rule.name, counter.value, level))

    def expired(self, count: int) -> None:
        self.told["expired"].append(count)

    def away(self, away: bool, reason: str) -> None:
        self.told["away"].append((away, reason))

    def local_spent(self, counter: Counter, amount: int) -> None:
        self.told["local_spent"].append((counter.rule.name, amount))

    def queue(self, length: int) -> None:
        self.told["queue"].append(length)

    def lost(self, count: int) -> None:
        self.told["lost"].append(count)


class Proxy:
    """Stands before a server's socket. Forwards, until it is told to cut or to stall."""

    def __init__(self, server: Server, path: Path) -> None:
        self.path = path
        self._server = server
        self._writers: set[asyncio.StreamWriter] = set()
        self._listener: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self.flowing = asyncio.Event()
        self.flowing.set()
        self.cut_request: Callable[[bytes], bool] | None = None  # lost before the server has it
        self.cut_reply: Callable[[bytes], bool] | None = None  # the server has done it, and nobody hears
        self._doomed = False

    async def open(self) -> None:
        """Listen."""
        self._listener = await asyncio.start_unix_server(self._serve, self.path)

    async def close(self) -> None:
        """End."""
        assert self._listener is not None
        self._listener.close()
        self.cut()
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def cut(self) -> None:
        """End all connections now."""
        for writer in tuple(self._writers):
            writer.transport.abort()
        self._writers.clear()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        back, forth = await asyncio.open_unix_connection(self._server.path)
        self._writers |= {writer, forth}
        try:
            await asyncio.gather(self._requests(reader, forth), self._replies(back, writer))
        except (ConnectionError, asyncio.CancelledError):
            pass
        finally:
            self._writers -= {writer, forth}
            for one in (writer, forth):
                one.transport.abort()
            self._tasks.discard(task)

    async def _requests(self, reader: asyncio.StreamReader, forth: asyncio.StreamWriter) -> None:
        while data := await reader.read(1 << 16):
            await self.flowing.wait()
            if self.cut_request is not None and self.cut_request(data):
                self.cut_request = None
                self.cut()
                return
            if self.cut_reply is not None and self.cut_reply(data):
                self.cut_reply, self._doomed = None, True
            forth.write(data)

    async def _replies(self, back: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await back.read(1 << 16):
            if self._doomed:
                self._doomed = False
                self.cut()
                return
            await self.flowing.wait()
            writer.write(data)


class Rig:
    """One worker's limits."""

    def __init__(self, limits: LimitStore, store: Store, tape: Tape, server: Server, rules: Rules) -> None:
        self.limits, self.store, self.tape, self.server, self.rules = limits, store, tape, server, rules
        self.organisation = organisation()

    def charges(self, *amounts: int) -> tuple[Charge, ...]:
        return charges(self.rules, self.organisation, *amounts)

    async def reserve(self, name: str, *amounts: int) -> Reserved:
        return await self.limits.reserve(Reserve(name, self.organisation, self.charges(*amounts)))

    def settle(self, name: str, *amounts: int, extra: tuple[Charge, ...] = ()) -> None:
        self.limits.settle(Settle(name, amounts, extra))

    def extend(self, name: str, *amounts: int) -> Any:
        return self.limits.extend(Extend(name, amounts))

    async def settled(self) -> None:
        """Wait until the store knows all."""
        await until(lambda: self.limits.unsettled == 0)

    def books(self) -> list[tuple[int, int]]:
        """(used, reserved) of each counter, as the server has them; calls in flight use nothing."""
        client = self.server.client()
        found = []
        for charge in self.charges(*[0] * len(self.rules.rules)):
            fields = client.hgetall(charge.counter.key)
            found.append((int(fields.get(b"u", 0)), int(fields.get(b"r", 0))))
        return found


async def until(what: Callable[[], object], within: float = 10.0) -> None:
    """Look until it is so."""
    end = time.monotonic() + within
    while not what():
        assert time.monotonic() < end, f"not within {within} s"
        await asyncio.sleep(0.005)


@asynccontextmanager
async def rig(
    server: Server,
    rules: Rules = RULES,
    settings: Settings = PATIENT,
    *,
    path: Path | None = None,
    url: str = "",
) -> AsyncIterator[Rig]:
    """A worker's limits on `server`, or on what stands before it at `path`; ended afterwards.

    The time for an answer is long by default: on a busy machine a test of something else must not run into it.
    """
    store = make_store(quotas.Store(url=url or f"unix://{path or server.path}"), Path("/nowhere"), {})
    tape = Tape()
    limits = LimitStore(store, settings, rules, tape)
    store.on_connected = lambda _name: limits.kick()
    assert await store.connect(5.0)
    one = Rig(limits, store, tape, server, rules)
    limits.start(one.organisation)
    try:
        yield one
    finally:
        await limits.close()
        await store.close()


@asynccontextmanager
async def proxied(server: Server, rules: Rules = RULES, settings: Settings = PATIENT) -> AsyncIterator[Any]:
    """(the rig, the proxy)."""
    proxy = Proxy(server, server.folder / f"p{next(_numbers)}.sock")
    await proxy.open()
    try:
        async with rig(server, rules, settings, path=proxy.path) as one:
            yield one, proxy
    finally:
        with contextlib.suppress(asyncio.CancelledError):
            await proxy.close()
