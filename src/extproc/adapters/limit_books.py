"""Reads and changes the books of limits in the store, for an operator's commands; calls have their own way.

The fields of a counter's hash are described in `limits/common.lua`. Reading changes nothing: what has flowed back into a
bucket, and that a window has ended, is worked out here from the store's clock.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Awaitable, Mapping, Sequence
from typing import Final, Protocol, TypeAlias, cast

import msgspec

from extproc.limits import scripts
from extproc.limits.counters import Counter, Rule, Standing, Window
from extproc.limits.rules import Rules, burst_at, key_prefix
from extproc.limits.scripts import Booking, Name, State
from extproc.limits.windows import span

_SCAN: Final = 1000  # keys that the store looks at in one step
_BATCH: Final = 500  # counters that are read at once
_CALENDAR: Final = frozenset({Window.MINUTE, Window.HOUR, Window.DAY, Window.MONTH})

Fields: TypeAlias = Mapping[bytes, int]


class Store(Protocol):
    """What `valkey_topology.Store` gives. `key` decides the node of a cluster. Both raise what the client raises."""

    def call(self, key: bytes, args: Sequence[bytes]) -> Awaitable[object]:
        """Send a command."""

    def script(self, key: bytes, sha: bytes, source: bytes, args: Sequence[bytes]) -> Awaitable[object]:
        """Run a script."""


class BooksError(Exception):
    """The store holds, or answered, what is not ours."""


class Book(msgspec.Struct, frozen=True):
    """One counter as it stands now.

    `standing.limit` has the override and the top-up in it. `override`: a live one, None where there is none;
    `configured`: the configuration has one.
    """

    counter: Counter
    standing: Standing
    top_up: int = 0
    override: int | None = None
    configured: bool = False


class Leases(msgspec.Struct, frozen=True):
    """Reservations that are open: all, and those among them whose worker has not renewed them in time."""

    live: int
    overdue: int


class Books:
    """The books of one organisation."""

    def __init__(self, store: Store, rules: Rules, organisation: str) -> None:
        """`rules`: of the configuration."""
        self._store = store
        self._rules = rules
        self._organisation = organisation
        self._configured = {(rule.name, value) for rule in rules.rules for value, _ in rule.overrides}
        self._prefix = len(f"{key_prefix(organisation)}c:".encode())
        self._any = scripts.leases_key(organisation)  # all keys of an organisation are on one node

    async def now(self) -> int:
        """The store's clock, UNIX milliseconds."""
        seconds, micros = cast("list[bytes]", await self._call([b"TIME"]))
        return int(seconds) * 1000 + int(micros) // 1000

    async def overrides(self) -> dict[tuple[str, str], int]:
        """The live overrides, by limit and value."""
        raw = await self._call([b"HGETALL", scripts.overrides_key(self._organisation)])
        return scripts.read_overrides(_pairs(raw))

    async def leases(self) -> Leases:
        """How many calls hold something."""
        now = b"%d" % await self.now()
        live = await self._call([b"ZCARD", self._any])
        overdue = await self._call([b"ZCOUNT", self._any, b"-inf", now])
        return Leases(cast("int", live), cast("int", overdue))

    async def one(self, rule: Rule, value: str) -> Book:
        """A counter, whether or not anything was counted on it."""
        now, live = await self.now(), await self.overrides()
        counter = self._rules.counter(rule, self._organisation, value)
        fields = _fields(counter.key, await self._call([b"HGETALL", counter.key]))
        return self._book(counter, fields, live, now)

    async def values(self, rule: Rule) -> AsyncIterator[str]:
        """For whom anything has been counted that is still in the store; some more than once."""
        async for keys in self._scan(self._pattern(rule)):
            for key in keys:
                yield self._named(key)[3]

    async def all(self, rule: Rule | None = None) -> AsyncIterator[Book]:
        """Counters on which something was counted in the window that runs, or of the one limit; in no order."""
        now, live = await self.now(), await self.overrides()
        seen: set[bytes] = set()
        async for keys in self._scan(self._pattern(rule)):
            new = [key for key in dict.fromkeys(keys) if key not in seen]
            seen.update(new)
            for at in range(0, len(new), _BATCH):
                batch = new[at : at + _BATCH]
                answers = await asyncio.gather(*(self._call([b"HGETALL", key]) for key in batch))
                for key, raw in zip(batch, answers, strict=True):
                    book = self._found(key, _fields(key, raw), live, now)
                    if book is not None and (book.standing.used or book.standing.reserved or book.top_up):
                        yield book

    async def grant(self, rule: Rule, value: str, amount: int) -> tuple[Book, Book]:
        """Top the running window up (below zero: take back) -> before and after. Raises ValueError as the script has it."""
        before = await self.one(rule, value)
        await self._adjust(scripts.grant(await self._booking(before, amount)))
        return before, await self.one(rule, value)

    async def reset(self, rule: Rule, value: str) -> tuple[Book, Book]:
        """Forget what was used; what calls in flight hold stays -> before and after."""
        before = await self.one(rule, value)
        await self._adjust(scripts.reset(await self._booking(before, 0)))
        return before, await self.one(rule, value)

    async def override(self, rule: Rule, value: str, limit: int | None) -> tuple[Book, Book]:
        """Set a live limit of the value's own, or (None) take it away -> before and after."""
        before = await self.one(rule, value)
        await self._run(Name.OVERRIDE, scripts.override(before.counter, limit))
        return before, await self.one(rule, value)

    async def _booking(self, book: Book, amount: int) -> Booking:
        counter = book.counter
        limit = book.override if book.override is not None else counter.rule.limit
        calendar = counter.rule.window in _CALENDAR
        there = span(counter.rule.window, counter.rule.zone, await self.now()) if calendar else None
        return Booking(counter, amount, limit, there)

    async def _adjust(self, args: list[bytes]) -> None:
        raw = cast("list[int]", await self._run(Name.ADJUST, args))
        if State(raw[0]) is State.CLOCK:
            raise BooksError("the window changed under our hands: try again")

    def _pattern(self, rule: Rule | None) -> bytes:
        pattern = scripts.counters_pattern(self._organisation)
        return pattern if rule is None else pattern[:-1] + f"{rule.name}:*".encode()

    def _named(self, key: bytes) -> list[str]:
        """Limit, kind, window, value."""
        return [*key[self._prefix :].decode("utf-8", "replace").split(":", 3), "", "", ""][:4]

    def _found(self, key: bytes, fields: Fields, live: Mapping[tuple[str, str], int], now: int) -> Book | None:
        name, kind, window, value = self._named(key)
        rule = self._rules.rule(name)
        if rule is None or (rule.kind.value, rule.window.value) != (kind, window):
            return None
        return self._book(self._rules.counter(rule, self._organisation, value), fields, live, now)

    def _book(self, counter: Counter, fields: Fields, live: Mapping[tuple[str, str], int], now: int) -> Book:
        override = live.get((counter.rule.name, counter.value))
        limit = counter.rule.limit if override is None else override
        standing, top_up = _standing(counter.rule, fields, limit, now)
        return Book(counter, standing, top_up, override, (counter.rule.name, counter.value) in self._configured)

    async def _scan(self, pattern: bytes) -> AsyncIterator[list[bytes]]:
        cursor = b"0"
        while True:
            answer = await self._call([b"SCAN", cursor, b"MATCH", pattern, b"COUNT", b"%d" % _SCAN])
            cursor, keys = cast("tuple[bytes, list[bytes]]", answer)
            yield keys
            if cursor == b"0":
                return

    def _call(self, args: Sequence[bytes]) -> Awaitable[object]:
        return self._store.call(self._any, args)

    def _run(self, name: Name, args: Sequence[bytes]) -> Awaitable[object]:
        one = scripts.script(name)
        return self._store.script(self._any, one.sha, one.source, args)


def _standing(rule: Rule, fields: Fields, limit: int, now: int) -> tuple[Standing, int]:
    """How the counter stands, and its top-up."""
    top_up = fields.get(b"g", 0)
    if rule.window is Window.CONCURRENT:
        return Standing(0, fields.get(b"r", 0), limit), 0
    if rule.window is Window.BUCKET:
        out = _out(fields, limit, rule.period, now)
        top_up = top_up if out else 0
        held = min(fields.get(b"r", 0), out)
        full = (now - (-out * rule.period // limit)) / 1000 if limit else (math.inf if out else now / 1000)
        return Standing(out - held, held, burst_at(rule, limit) + top_up, full), top_up
    ends = fields.get(b"e", 0)
    if now >= ends:  # nothing was counted in the window that runs
        return Standing(0, 0, limit, span(rule.window, rule.zone, now).end / 1000), 0
    return Standing(fields.get(b"u", 0), fields.get(b"r", 0), limit + top_up, ends / 1000), top_up


def _out(fields: Fields, rate: int, period: int, now: int) -> int:
    """What is out of a bucket now: `rate` flows back in `period` milliseconds."""
    gone = max(0, now - fields.get(b"t", 0))
    left_over = fields.get(b"f", 0) if fields.get(b"f", 0) < period else 0
    return max(0, fields.get(b"o", 0) - (gone * rate + left_over) // period)


def _pairs(raw: object) -> dict[bytes, bytes]:
    if isinstance(raw, dict):
        return raw
    flat = iter(cast("list[bytes]", raw))
    return dict(zip(flat, flat, strict=True))


def _fields(key: bytes, raw: object) -> Fields:
    try:
        return {name: int(value) for name, value in _pairs(raw).items()}
    except ValueError:
        raise BooksError(f"not a counter of ours: {key.decode('utf-8', 'replace')}") from None
