"""Keeps a connection to one server of the store alive: connects, looks whether it still answers, connects again.

A call never waits for a connection: while there is none it fails at once, and its caller knows what to do then.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Final

import structlog

from extproc.adapters.valkey_client import (
    Connection,
    ConnectionLostError,
    RefusedError,
    Reply,
    StoreAwayError,
    StoreError,
)

FIRST_PAUSE: Final = 0.01
LONGEST_PAUSE: Final = 0.5
"""Seconds between two attempts to connect: doubled each time, each drawn between half and all of it."""

LOOK: Final = 1.0
"""Seconds between two looks at a connection."""

SILENCE: Final = 2.0
"""Seconds without an answer after which a connection is given up: a network that swallows packets says nothing."""

_SETTLED: Final = 1.0  # seconds that a connection must live for the pauses to begin anew


@dataclass(frozen=True, slots=True)
class Finder:
    """How a link gets its connection.

    `find` connects, or raises `StoreError`. `leave` is asked at each look: a reason to give the connection up, or empty.
    """

    find: Callable[[], Awaitable[Connection]]
    leave: Callable[[Connection], Awaitable[str]] | None = None


class Link:
    """One server, or whichever one is the primary. `connection` None: away, and `reason` says why."""

    def __init__(self, name: str, finder: Finder, changed: Callable[[Link], None]) -> None:
        """`name`: for the log. `changed`: told when the connection is there, when it is lost, at each failed attempt."""
        self.name: Final = name
        self.connection: Connection | None = None
        self.reason = "not connected yet"
        self.since = 0.0
        """`time.monotonic` of the connection's beginning."""
        self._finder = finder
        self._changed = changed
        self._task: asyncio.Task[None] | None = None
        self._up = asyncio.Event()
        self._lost: asyncio.Future[None] | None = None
        self._loads: dict[bytes, asyncio.Future[Reply]] = {}
        self._logged = ""
        self._log = structlog.get_logger("extproc.store")

    def start(self) -> None:
        """Begin to connect; a second call does nothing."""
        if self._task is None:
            self._task = asyncio.ensure_future(unending(self._run, f"the connection to {self.name}"))

    async def close(self) -> None:
        """End; what waits for an answer fails with `ConnectionLostError`."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        connection, self.connection = self.connection, None
        self.reason = "closed"
        if connection is not None:
            connection.close()

    def call(self, args: Sequence[bytes]) -> asyncio.Future[Reply]:
        """`Connection.call`. Raises `StoreAwayError` at once where there is no connection."""
        if self.connection is None:
            raise StoreAwayError(self.reason)
        return self.connection.call(args)

    async def wait(self, within: float) -> bool:
        """Wait for the connection, at most so many seconds; whether it is there."""
        with suppress(TimeoutError):
            async with asyncio.timeout(within):
                await self._up.wait()
        return self.connection is not None

    async def load(self, sha: bytes, source: bytes) -> None:
        """Have the server know a script: once, however many calls have met that it does not."""
        loading = self._loads.get(sha)
        if loading is None:
            loading = self.call((b"SCRIPT", b"LOAD", source))
            self._loads[sha] = loading
            loading.add_done_callback(partial(self._loaded, sha))
        loaded = await asyncio.shield(loading)
        if loaded != sha:
            raise StoreError("the store computes another digest of a script")

    def drop(self, reason: str) -> None:
        """Give the connection up and look for another one."""
        if self.connection is not None:
            self.connection.abort(reason)

    # --- the life of the connection

    def _loaded(self, sha: bytes, loading: asyncio.Future[Reply]) -> None:
        self._loads.pop(sha, None)
        if not loading.cancelled():
            loading.exception()  # those who wait have it; all of them may have gone

    async def _run(self) -> None:
        self.drop("crashed")  # left by a run that did
        pause = FIRST_PAUSE
        while True:
            try:
                connection = await self._finder.find()
            except StoreError as error:
                self._away(str(error))
                await asyncio.sleep(pause * (0.5 + secrets.randbelow(501) / 1000))
                pause = min(pause * 2, LONGEST_PAUSE)
                continue
            if self._take(connection):
                await self._watch(connection)
                if time.monotonic() - self.since >= _SETTLED:
                    pause = FIRST_PAUSE
            await asyncio.sleep(pause * (0.5 + secrets.randbelow(501) / 1000))
            pause = min(pause * 2, LONGEST_PAUSE)

    def _take(self, connection: Connection) -> bool:
        if not connection.alive:  # lost again before anybody could look
            return False
        lost: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._lost = lost
        connection.on_lost = self._on_lost
        self.connection = connection
        self.since = time.monotonic()
        self.reason = self._logged = ""
        self._up.set()
        self._log.info("the store of limits is connected", server=self.name, at=str(connection.endpoint))
        self._changed(self)
        return True

    def _on_lost(self, reason: str) -> None:
        self.connection = None
        self._up.clear()
        if self._lost is not None and not self._lost.done():
            self._lost.set_result(None)
        self._away(reason)

    def _away(self, reason: str) -> None:
        self.reason = reason
        if reason != self._logged:
            self._logged = reason
            self._log.warning("the store of limits is away", server=self.name, reason=reason)
        self._changed(self)

    async def _watch(self, connection: Connection) -> None:
        """Until it is lost: look whether it answers, and whether it is still the right one."""
        lost = self._lost
        while lost is not None and not lost.done():
            await asyncio.wait([lost], timeout=LOOK)
            reason = await self._look(connection) if connection.alive else ""
            if reason:
                connection.abort(reason)

    async def _look(self, connection: Connection) -> str:
        try:
            async with asyncio.timeout(SILENCE):
                await connection.probe()
        except TimeoutError:
            return f"{connection.endpoint} has not answered for {SILENCE:g} s"
        except RefusedError:  # an answer all the same
            return ""
        except (ConnectionLostError, StoreAwayError):
            return ""
        return await self._finder.leave(connection) if self._finder.leave is not None else ""


async def unending(work: Callable[[], Coroutine[object, object, None]], what: str) -> None:
    """Run `work` until cancelled, and again where it crashes: a mistake must not leave a worker without its store."""
    while True:
        running = asyncio.ensure_future(work())
        try:
            await asyncio.wait([running])
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)
        log = structlog.get_logger("extproc.store")
        log.error("a task of the store of limits crashed and is started again", task=what, exc_info=running.exception())
        await asyncio.sleep(LONGEST_PAUSE)
