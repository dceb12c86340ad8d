"""How a worker asks the store's scripts: arguments go out, answers are read, the store's clock is learned on the way."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Final, Protocol, TypeAlias, cast

import structlog

from extproc.adapters.limit_clock import Deadlines
from extproc.adapters.limit_shard import Shard
from extproc.adapters.valkey_client import (
    ConnectionLostError,
    MovedError,
    NoScriptError,
    ReadOnlyError,
    RefusedError,
    Reply,
    StoreError,
    UnavailableError,
)
from extproc.limits.scripts import Calls, Name, script

Done: TypeAlias = Callable[[asyncio.Future[Reply]], object]

_CLOCK_FIRST: Final = frozenset({Name.RENEW, Name.DUE})
_COMPLAINTS: Final = 10.0  # seconds between two log lines of what the store refused


class Store(Protocol):
    """What `valkey_topology.Store` gives. A call that cannot be sent fails at once."""

    def send(self, key: bytes, args: Sequence[bytes]) -> asyncio.Future[Reply]:
        """Any command, on the node of `key`. Raises `StoreAwayError`."""

    def script(self, key: bytes, sha: bytes, source: bytes, args: Sequence[bytes]) -> Awaitable[Reply]:
        """Run a script on the node of `key`, wherever that is, whether it knows the script or not."""

    def call(self, key: bytes, args: Sequence[bytes]) -> Awaitable[Reply]:
        """Any command, on the node of `key`, wherever that is."""


class Desk:
    """Starts calls. Each has `timeout` seconds: then its future fails with `TimeoutError`, its outcome unknown.

    A call goes out as one future, without a task: only what a node refuses (a script it does not know, a slot that has
    moved) is sorted out by the store's own coroutine.
    """

    def __init__(self, store: Store, timeout: float) -> None:
        """`store` keeps itself connected."""
        self._store: Final = store
        self._timeout: Final = timeout
        self.calls: Final = Calls()
        self._deadlines: Final = Deadlines(timeout)
        self._scripts: Final = {name: script(name) for name in Name}
        self._slow: set[asyncio.Future[Reply]] = set()
        self._log = structlog.get_logger("extproc.limits")
        self._complained = 0.0

    def start(self, shard: Shard, name: Name, args: Sequence[bytes], done: Done) -> None:
        """Run a script, and call `done` with the future of its answer."""
        future = self._send(shard, self._whole(name, args))
        future.add_done_callback(partial(self._check, shard, name, args, done))

    async def numbers(self, shard: Shard, name: Name, args: Sequence[bytes]) -> list[int]:
        """Run a script that answers with the store's clock in its first or second place, and note that."""
        asked = time.monotonic()
        try:
            raw = await self._send(shard, self._whole(name, args))
        except RefusedError as error:
            if not _can_be_sorted_out(error):
                raise
            raw = await self._sort_out(shard, name, args, asked)
        told = cast("list[int]", raw)
        shard.clock.learn(told[0] if name in _CLOCK_FIRST else told[1], asked)
        shard.answered()
        return told

    async def command(self, shard: Shard, *args: bytes) -> Reply:
        """Run a command."""
        asked = time.monotonic()
        try:
            return await self._send(shard, args)
        except RefusedError as error:
            if not _can_be_sorted_out(error):
                raise
        async with self.rest(asked):
            return await self._store.call(shard.key, args)

    def _whole(self, name: Name, args: Sequence[bytes]) -> tuple[bytes, ...]:
        return (b"EVALSHA", self._scripts[name].sha, *args)

    def _send(self, shard: Shard, whole: Sequence[bytes]) -> asyncio.Future[Reply]:
        try:
            future = self._store.send(shard.key, whole)
        except StoreError as error:
            future = asyncio.get_running_loop().create_future()
            future.set_exception(error)
            return future
        self._deadlines.watch(future)
        return future

    def _check(
        self, shard: Shard, name: Name, args: Sequence[bytes], done: Done, future: asyncio.Future[Reply]
    ) -> None:
        error = None if future.cancelled() else future.exception()
        if error is None or not _can_be_sorted_out(error):
            done(future)
            return
        task = asyncio.ensure_future(self._sort_out(shard, name, args, time.monotonic()))
        self._slow.add(task)
        task.add_done_callback(self._slow.discard)
        task.add_done_callback(done)

    def rest(self, asked: float) -> asyncio.Timeout:
        """What is left of the time of a question that was first asked at `asked`, by the monotonic clock."""
        return asyncio.timeout(max(0.0, asked + self._timeout - time.monotonic()))

    async def _sort_out(self, shard: Shard, name: Name, args: Sequence[bytes], asked: float) -> Reply:
        one = self._scripts[name]
        async with self.rest(asked):
            return await self._store.script(shard.key, one.sha, one.source, args)

    def note(self, shard: Shard, error: BaseException) -> None:
        """A call has failed: what this says of the shard."""
        if isinstance(error, TimeoutError):
            shard.late()
        elif isinstance(error, UnavailableError) or (
            isinstance(error, StoreError) and not isinstance(error, RefusedError)
        ):
            shard.lost(str(error))
        elif isinstance(error, RefusedError):
            self.complain(str(error))

    def complain(self, reason: str) -> None:
        """Log what is wrong with the store's answers, now and then."""
        now = time.monotonic()
        if now - self._complained >= _COMPLAINTS:
            self._complained = now
            self._log.error("the store of limits refused a call", reason=reason)

    def close(self) -> None:
        """Forget deadlines, end what is under way."""
        self._deadlines.close()
        for task in tuple(self._slow):
            task.cancel()


class Lines:
    """Bounds what is logged of one kind: `most` lines in `seconds`."""

    def __init__(self, most: int, seconds: float) -> None:
        """None is taken yet."""
        self._most: Final = most
        self._seconds: Final = seconds
        self._begun = -seconds
        self._taken = self._unsaid = 0

    def take(self) -> int | None:
        """None: say nothing. Else how many lines were not said before this one."""
        now = time.monotonic()
        if now - self._begun >= self._seconds:
            self._begun, self._taken = now, 0
        self._taken += 1
        if self._taken > self._most:
            self._unsaid += 1
            return None
        unsaid, self._unsaid = self._unsaid, 0
        return unsaid


def is_unknown(error: BaseException) -> bool:
    """Whether the call may have been done all the same."""
    return isinstance(error, ConnectionLostError | TimeoutError)


def _can_be_sorted_out(error: BaseException) -> bool:
    if isinstance(error, NoScriptError | MovedError | ReadOnlyError):
        return True
    return isinstance(error, RefusedError) and error.code == "TRYAGAIN"
