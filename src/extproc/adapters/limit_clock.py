"""The store's clock as a worker estimates it, and deadlines of calls that all have the same time."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable
from typing import Any, Final

_MS: Final = 1000.0
_LAST_LOOK: Final = 0.001  # seconds; a timer that is set while timers run rings after the sockets were looked at


class StoreClock:
    """The store's time from this process's monotonic clock. Every reply that tells the store's time corrects it.

    A reply was given between the moments when it was asked for and heard: the estimate is moved only as far as it must
    be to fit in there, so a slow reply tells little and a quick one much.
    """

    __slots__ = ("_monotonic", "_offset")

    def __init__(self, monotonic: Callable[[], float] = time.monotonic, wall: Callable[[], float] = time.time) -> None:
        """Starts with this machine's own clock. Both give seconds."""
        self._monotonic: Final = monotonic
        self._offset = (wall() - monotonic()) * _MS

    def now(self) -> int:
        """Milliseconds since 1970."""
        return int(self._monotonic() * _MS + self._offset)

    def learn(self, told: int, asked: float) -> None:
        """`told`: milliseconds by the store, whole; `asked`: when it was asked, by the monotonic clock."""
        earliest = told - self._monotonic() * _MS
        latest = told + 1 - asked * _MS
        self._offset = min(max(self._offset, earliest), latest)


class Deadlines:
    """Ends futures that are not done after `seconds` with `TimeoutError`.

    All have the same time, so they stand in a row, and one timer for the first of them is enough. Where the loop was
    held up the answer may have come meanwhile, unread: before a future fails the loop looks at its sockets once more.
    """

    def __init__(self, seconds: float) -> None:
        """`seconds` may be changed: it is for futures to come, and none may be due before one that waits."""
        self.seconds = seconds
        self._row: deque[tuple[float, asyncio.Future[Any]]] = deque()
        self._timer: asyncio.TimerHandle | None = None

    def watch(self, future: asyncio.Future[Any]) -> None:
        """Give `future` its time, from now on."""
        at = time.monotonic() + self.seconds
        self._row.append((at, future))
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(self.seconds, self._ring)

    def _ring(self) -> None:
        row, now = self._row, time.monotonic()
        late: list[asyncio.Future[Any]] = []
        while row and (row[0][0] <= now or row[0][1].done()):
            _, future = row.popleft()
            if not future.done():
                late.append(future)
        self._timer = None
        if late:
            asyncio.get_running_loop().call_later(_LAST_LOOK, _end, late)
        if row:
            self._timer = asyncio.get_running_loop().call_later(row[0][0] - now, self._ring)

    def close(self) -> None:
        """Forget all."""
        self._row.clear()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


def _end(late: list[asyncio.Future[Any]]) -> None:
    for future in late:
        if not future.done():
            future.set_exception(TimeoutError())
