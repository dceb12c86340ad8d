"""One worker process: serves exchanges on one Unix socket until it is told to drain, or its supervisor is gone.

`composed` parts are made by `bootstrap`; this file runs them and takes them down in order.
"""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import grpc
import structlog

from extproc.adapters.health import Health
from extproc.adapters.sockets import ParentLink
from extproc.errors import ConfigError

# Envoy must have asked for our health once more before the server stops taking streams
NOTICE: Final = 0.5
# how long the thread that searches long texts may hold the interpreter while the loop has something to do. Python's own
# 5 ms are what every event then waits; with 0.2 ms it is a tenth of that, and the search takes as long as before
SWITCH: Final = 0.0002


@dataclass(frozen=True, slots=True)
class Parts:
    """What a worker runs."""

    server: grpc.aio.Server
    health: Health
    watchers: tuple[Callable[[], Awaitable[None]], ...]
    open_exchanges: Callable[[], int]
    settled: Callable[[], Awaitable[None]]  # every exchange that has ended is on record
    drain: float  # seconds that open exchanges may take to finish


class Worker:
    """Runs `Parts` behind `socket`."""

    def __init__(self, parts: Parts, socket: Path, parent: ParentLink | None) -> None:
        """`parent`: the line to the supervisor; None where a worker runs alone."""
        self._parts = parts
        self._socket = socket
        self._parent = parent
        self._stop = asyncio.Event()
        self._log = structlog.get_logger("extproc.worker")

    async def run(self) -> None:
        """Serve until SIGTERM, SIGINT or the end of the supervisor; then drain. Raises `ConfigError` if it cannot listen."""
        parts = self._parts
        sys.setswitchinterval(SWITCH)
        try:
            bound = parts.server.add_insecure_port(f"unix:{self._socket}")
        except RuntimeError:
            bound = 0
        if not bound:
            raise ConfigError(
                str(self._socket), "cannot listen on this Unix socket", "is its folder there and writable?"
            )
        await parts.server.start()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop.set)
        tasks = [asyncio.ensure_future(watch()) for watch in parts.watchers]
        if self._parent is not None:
            tasks.append(asyncio.ensure_future(self._until_orphaned(self._parent)))
        parts.health.set(serving=True)
        if self._parent is not None:
            self._parent.ready()
        await self._until_stopped(tasks)
        await self._drain()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _until_stopped(self, tasks: Sequence[asyncio.Future[None]]) -> None:
        """A background task that ends by an exception ends the worker: what it kept live would silently go stale."""
        stopped: asyncio.Future[object] = asyncio.ensure_future(self._stop.wait())
        waits: list[asyncio.Future[Any]] = [stopped, *tasks]
        done, _ = await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        stopped.cancel()
        for task in done - {stopped}:
            error = task.exception()
            if error is not None:
                self._log.error("background task failed, worker drains", reason=repr(error))

    async def _until_orphaned(self, parent: ParentLink) -> None:
        await parent.gone()
        self._log.warning("supervisor is gone, worker drains")
        self._stop.set()

    async def _drain(self) -> None:
        parts = self._parts
        parts.health.set(serving=False, detail="draining")
        if self._parent is not None:
            self._parent.draining()
        self._log.info("draining", open=parts.open_exchanges(), limit_seconds=parts.drain)
        await asyncio.sleep(NOTICE)
        parts.health.close()  # an open Watch would hold the server to the end of its drain
        await parts.server.stop(parts.drain)
        await parts.settled()
