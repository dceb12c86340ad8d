"""Jobs that are done again and again in the background. One that crashes is logged and done again the next time."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, NamedTuple

import structlog

from extproc.adapters.crashes import told

_JITTER: Final = 0.2  # part of the pause: workers that were started together do not come together


class Job(NamedTuple):
    """What to do, each `seconds` or so, one run after the other."""

    name: str
    seconds: float
    run: Callable[[], Awaitable[None]]


class Keeper:
    """Runs jobs until it is closed."""

    def __init__(self, jobs: Sequence[Job]) -> None:
        """Nothing runs yet."""
        self._jobs: Final = tuple(jobs)
        self._tasks: list[asyncio.Future[None]] = []
        self._log = structlog.get_logger("extproc.jobs")
        self.crashes = 0

    def start(self) -> None:
        """Begin, on the running loop."""
        self._tasks = [asyncio.ensure_future(self._repeat(job)) for job in self._jobs]

    async def close(self) -> None:
        """Stop; a run that is under way is cancelled."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks = []

    async def _repeat(self, job: Job) -> None:
        while True:
            await asyncio.sleep(job.seconds * random.uniform(1 - _JITTER, 1 + _JITTER))  # noqa: S311
            run = asyncio.ensure_future(job.run())
            try:
                await asyncio.wait([run])
            finally:
                run.cancel()
            error = run.exception() if not run.cancelled() else None
            if error is not None:
                self.crashes += 1
                self._log.error("background job crashed, it goes on", job=job.name, exception=told(error))
