"""The vocabulary of the supervisor: what to run, what a worker is told, what may happen to it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from enum import StrEnum
from pathlib import Path

import msgspec


class State(StrEnum):
    """Where a worker stands."""

    STARTING = "starting"
    READY = "ready"
    DRAINING = "draining"
    DEAD = "dead"


class What(StrEnum):
    """What happened to a worker."""

    STARTED = "started"
    READY = "ready"
    MOVED = "moved"  # a name now stands for this worker, which is not the slot's owner
    DRAINING = "draining"
    DIED = "died"
    KILLED = "killed"  # by us: it did not start or drain in time
    RETRY = "retry"  # a replacement comes after a pause


class WorkerEvent(msgspec.Struct, frozen=True):
    """One event, for the log and the metrics. `worker` is the short id that is reused, `pid` the process."""

    what: What
    worker: str
    pid: int
    detail: str = ""  # plain words
    planned: bool = False  # a death that we asked for


class Launch(msgspec.Struct, frozen=True):
    """What one worker process is told: where to listen, the fd of its `ParentLink`, and its id among the live workers.

    The id (`w0`, `w1` …) names its metric files: no two live processes share one, and it is used again after a death,
    so that counters go on and the files do not pile up.
    """

    worker: str
    socket: Path
    control_fd: int

    @property
    def number(self) -> int:
        """Of this worker among those that live, from 0 on."""
        return int(self.worker[1:])


class Plan(msgspec.Struct, frozen=True):
    """What to run. Times in seconds."""

    folder: Path  # holds the sockets; made if missing
    command: Callable[[Launch], Sequence[str]]
    count: int = 2  # slots, each a public name
    spares: int = 0  # started, idle workers that take over a dead one's slot at once
    environment: Mapping[str, str] | None = None  # None: our own
    drain: float = 600.0  # how long open streams may take to finish
    start_timeout: float = 60.0
    first_pause: float = 0.1  # back-off: 0, 0.1, 0.2, 0.4 … `longest_pause`
    longest_pause: float = 10.0
    longest_outage: float = 1.0  # the longest pause while no worker is ready
    healthy_after: float = 5.0  # a worker that lived this long is replaced at once
    start_attempts: int = 5  # failed starts, before any worker was ever ready, until `StartError`


class StartError(Exception):
    """No worker ever became ready; the text says how the last one ended."""


class WorkerStatus(msgspec.Struct, frozen=True):
    """One line of the health detail."""

    worker: str
    pid: int
    state: str
    slots: tuple[int, ...]  # names that stand for it
    status: str  # its own words


def spread(owners: Sequence[int | None], ready: Sequence[int]) -> list[int | None]:
    """Choose whom each slot's name stands for: its owner, or, without one, the ready worker with the fewest names."""
    load = dict.fromkeys(ready, 0)
    for owner in owners:
        if owner is not None:
            load[owner] = load.get(owner, 0) + 1
    chosen: list[int | None] = []
    for owner in owners:
        one = owner
        if owner is None and ready:
            one = min(ready, key=load.__getitem__)
            load[one] += 1
        chosen.append(one)
    return chosen
