"""Watches a file and brings its new content live, keeping the old one when the new one is bad.

It polls `stat` on the resolved path: a rename over it, a write in place and Kubernetes' `..data` link swap look alike,
and it works on every file system, which inotify does not. With the default interval a change is live within a second:
seen within one tick, taken one tick later when it has settled, or after two more while it keeps changing.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Generic, TypeVar

from extproc.errors import ConfigError

INTERVAL: Final = 0.25
"""Seconds between two looks."""

RESTLESS_TICKS: Final = 3
"""Looks after which a file that keeps changing is read all the same: steady traffic of revocations must not block them."""

_T = TypeVar("_T")
_Mark = tuple[int, int, int, int, int]
"""Device, inode, size and times (ns): the change time tells of a changed mode too."""


@dataclass(frozen=True, slots=True)
class ReloadStatus:
    """How the last reload went. `ok` False: what the file holds now is not in use, `error` says why."""

    ok: bool
    at: float  # UNIX seconds of the last reload, good or bad; 0 before the first
    error: str
    generation: int  # contents taken since the start


@dataclass(frozen=True, slots=True)
class Target(Generic[_T]):
    """What to do with new content.

    `prepare` turns bytes into a value or raises `ConfigError`; it runs in a thread, so that a large file does not hold
    up the streams of the event loop. `commit` takes the value on the event loop. `failed` is told of each failure.
    """

    prepare: Callable[[bytes], _T]
    commit: Callable[[_T], None]
    failed: Callable[[ConfigError], None] = field(default=lambda _error: None)


def read_file(path: Path) -> bytes:
    """Read a file; `ConfigError` where that fails."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigError(str(path), f"cannot be read: {error.strerror}", "the content read before stays") from None


class Watcher(Generic[_T]):
    """Watches one file. `seen` is the content already in use, so that only a change counts as one.

    Any other exception than `ConfigError` from the target ends `run` with it: whoever runs it must not let it end unseen.
    """

    def __init__(
        self,
        path: Path,
        target: Target[_T],
        *,
        seen: bytes,
        read: Callable[[Path], bytes] = read_file,
        interval: float = INTERVAL,
    ) -> None:
        self._path = path
        self._target = target
        self._read = read
        self._interval = interval
        self._content = seen  # the last content judged, good or bad
        self._before: _Mark | None = None  # at the last look
        self._judged: _Mark | None = (-1, 0, 0, 0, 0)  # of the content judged last; none yet: the first look reads
        self._restless = 0
        self._status = ReloadStatus(ok=True, at=0.0, error="", generation=0)

    @property
    def status(self) -> ReloadStatus:
        """How the last reload went."""
        return self._status

    async def run(self) -> None:
        """Look until cancelled."""
        while True:
            await self.tick()
            await asyncio.sleep(self._interval)

    async def tick(self) -> None:
        """Look once; reload where there is something new that has settled."""
        mark = _look(self._path)
        settled = mark == self._before
        self._before = mark
        if mark == self._judged:
            self._restless = 0
            return
        self._restless += 1
        if settled or self._restless >= RESTLESS_TICKS:
            await self._reload(mark)

    async def _reload(self, mark: _Mark | None) -> None:
        try:
            data = await asyncio.to_thread(self._read, self._path)
            if mark != _look(self._path):
                return  # changed while it was read: the next look tells
            if data != self._content or not self._status.ok:
                self._content = data
                self._target.commit(await asyncio.to_thread(self._target.prepare, data))
                self._note("")
        except ConfigError as error:
            self._target.failed(error)
            self._note(str(error))
        self._judged = mark
        self._restless = 0

    def _note(self, error: str) -> None:
        generation = self._status.generation + (0 if error else 1)
        self._status = ReloadStatus(ok=not error, at=time.time(), error=error, generation=generation)


def _look(path: Path) -> _Mark | None:
    """Note what tells one state of the file from another; None where there is no file."""
    try:
        found = os.stat(path)  # noqa: PTH116  follows links, as Path.stat does, at half the cost
    except OSError:
        return None
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns
