"""Keeps N worker processes alive behind N socket names.

A name in `folder` stands for a slot. Its owner is one worker; while a slot has no live owner its name stands for another
live worker, so that a new connection is served. The death of a worker wakes the loop through its pidfd (no polling) and
the first thing done is to move its names. Replacements come with exponential back-off; there is no giving up once any
worker has been ready, since a gateway that comes back late is better than one that never does.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import subprocess
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import structlog

from extproc.adapters import sockets
from extproc.adapters.fleet import Launch, Plan, StartError, State, What, WorkerEvent, WorkerStatus, spread

_LEVELS: Final = {What.DIED: logging.ERROR, What.KILLED: logging.WARNING, What.RETRY: logging.WARNING}


@dataclass(eq=False, slots=True)
class _Worker:
    launch: Launch
    process: subprocess.Popen[bytes]
    pidfd: int
    control: socket.socket
    started: float
    state: State = State.STARTING
    status: str = ""
    planned: bool = False
    kill_at: float | None = None


@dataclass(slots=True)
class _Slot:
    name: Path
    owner: _Worker | None = None
    shown: _Worker | None = None  # whom the name stands for


@dataclass(slots=True)
class _Pending:
    """Launches that wait for their back-off."""

    failures: int = 0  # in a row
    last: float = 0.0  # loop time of the last death
    timers: set[asyncio.TimerHandle] = field(default_factory=set)


class Supervisor:
    """Runs a `Plan`. All methods belong to the event loop's thread."""

    def __init__(self, plan: Plan, listeners: Sequence[Callable[[WorkerEvent], None]] = ()) -> None:
        """Take the plan; `listeners` get every event, and must not block or raise."""
        self._plan = plan
        self._listeners = tuple(listeners)
        self._slots = [_Slot(sockets.public_path(plan.folder, index)) for index in range(plan.count)]
        self._workers: list[_Worker] = []
        self._pending = _Pending()
        self._launched = 0
        self._ever_ready = False
        self._stopping = False
        self._failure: StartError | None = None
        self._changed = asyncio.Event()

    @property
    def _target(self) -> int:
        return self._plan.count + self._plan.spares

    @property
    def workers(self) -> tuple[WorkerStatus, ...]:
        """The live workers."""
        return tuple(
            WorkerStatus(
                worker=worker.launch.worker,
                pid=worker.process.pid,
                state=worker.state.value,
                slots=tuple(index for index, slot in enumerate(self._slots) if slot.shown is worker),
                status=worker.status,
            )
            for worker in self._workers
        )

    async def run(self) -> None:
        """Run until `stop`. Raises `ConfigError` (folder in use, path too long), `StartError` (no worker ever started)."""
        self._plan.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        try:
            with sockets.FolderLock(self._plan.folder):
                sockets.remove_stale(self._plan.folder)
                try:
                    for _ in range(0 if self._stopping else self._target):
                        self._launch()
                    await self._watch()
                except OSError as error:
                    raise StartError(f"a worker process could not be started: {error.strerror}") from error
                finally:
                    self._end_all()
                    sockets.remove_stale(self._plan.folder)
        finally:
            self._stopping = True
            self._wake()
        if self._failure is not None:
            raise self._failure

    def stop(self) -> None:
        """Drain and end: the first call sends SIGTERM to all workers, a second one kills them."""
        again, self._stopping = self._stopping, True
        for timer in self._pending.timers:
            timer.cancel()
        self._pending.timers.clear()
        for worker in tuple(self._workers):
            if again:
                self._kill(worker, "stopped for the second time")
            else:
                self._retire(worker)
        self._wake()

    async def wait_ready(self) -> None:
        """Return once every slot has a ready owner, or `run` is ending."""
        while not self._stopping and self._failure is None and any(slot.owner is None for slot in self._slots):
            await self._next_change()

    async def roll(self) -> bool:
        """Replace every worker by a fresh one, one after the other; each keeps its names until its successor is ready.

        False where a successor did not come up: the rest is left as it was.
        """
        for old in [worker for worker in self._workers if worker.state in {State.STARTING, State.READY}]:
            if old not in self._workers:
                continue
            fresh = self._launch()
            while not self._stopping and fresh.state is State.STARTING:
                await self._next_change()
            if self._stopping or fresh not in self._workers:
                return False
            for slot in self._slots:
                if slot.owner is old:
                    slot.owner = fresh
            self._retire(old)
        return True

    # --- the life of one worker

    def _launch(self) -> _Worker:
        taken = {worker.launch.worker for worker in self._workers}
        identity = next(name for number in range(len(taken) + 1) if (name := f"w{number}") not in taken)
        path = sockets.private_path(self._plan.folder, os.getpid(), self._launched)
        self._launched += 1
        ours, theirs = sockets.control_pair()
        with theirs:
            launch = Launch(worker=identity, socket=path, control_fd=theirs.fileno())
            try:
                process = self._spawn(launch)
            except OSError:
                ours.close()
                raise
        loop = asyncio.get_running_loop()
        worker = _Worker(launch, process, os.pidfd_open(process.pid), ours, loop.time())
        worker.kill_at = worker.started + self._plan.start_timeout
        self._workers.append(worker)
        loop.add_reader(worker.pidfd, self._died, worker)
        loop.add_reader(ours, self._heard, worker)
        self._tell(What.STARTED, worker, f"worker {identity} started")
        return worker

    def _spawn(self, launch: Launch) -> subprocess.Popen[bytes]:
        # `Popen` and not asyncio's own: the pidfd tells of the end on any loop, with no child watcher and no thread.
        # A session of its own: Ctrl-C at the terminal reaches the supervisor alone, which then drains in order.
        return subprocess.Popen(
            list(self._plan.command(launch)),
            pass_fds=(launch.control_fd,),
            env=None if self._plan.environment is None else dict(self._plan.environment),
            stdin=subprocess.DEVNULL,
            start_new_session=True,
        )

    def _heard(self, worker: _Worker) -> None:
        messages = sockets.receive(worker.control)
        if not messages:  # end-of-file: it is dying, which the pidfd reports
            asyncio.get_running_loop().remove_reader(worker.control)
        for message in messages:
            status = sockets.status_text(message)
            if status is not None:
                worker.status = status
            elif message == sockets.READY and worker.state is State.STARTING:
                self._ready(worker)
            elif message == sockets.DRAINING and worker.state in {State.STARTING, State.READY}:
                self._retire(worker)
                self._relaunch(0.0)

    def _ready(self, worker: _Worker) -> None:
        worker.state = State.READY
        worker.kill_at = None
        self._ever_ready = True
        self._settle()
        taken = asyncio.get_running_loop().time() - worker.started
        self._tell(What.READY, worker, f"worker {worker.launch.worker} ready after {taken:.2f} s")

    def _died(self, worker: _Worker) -> None:
        code = worker.process.poll()
        if code is None:
            return
        before, worker.state = worker.state, State.DEAD
        self._workers.remove(worker)
        self._settle()
        self._release(worker)
        how = _ending(code)
        self._tell(What.DIED, worker, f"worker {worker.launch.worker} {how}", planned=worker.planned)
        if worker.planned or self._stopping:
            self._wake()
            return
        self._replace(worker, ready=before is State.READY, how=how)

    def _replace(self, worker: _Worker, *, ready: bool, how: str) -> None:
        plan, pending = self._plan, self._pending
        now = asyncio.get_running_loop().time()
        healthy = ready and now - worker.started >= plan.healthy_after
        if healthy or now - pending.last > plan.longest_pause + plan.healthy_after:
            pending.failures = 0
        pending.last = now
        # the first one comes at once; a crash loop is slowed down, but less so while nobody serves at all
        pause = plan.first_pause * 2 ** min(pending.failures - 1, 20) if pending.failures else 0.0
        serving = any(other.state is State.READY for other in self._workers)
        pause = min(pause, plan.longest_pause if serving else plan.longest_outage)
        pending.failures += not healthy
        if not self._ever_ready and pending.failures >= plan.start_attempts:
            self._failure = StartError(f"no worker came up in {pending.failures} attempts; the last one {how}")
            self.stop()
            return
        if pause:
            self._tell(What.RETRY, worker, f"next worker starts in {pause:.1f} s")
        self._relaunch(pause)

    def _relaunch(self, pause: float) -> None:
        timers = self._pending.timers
        alive = sum(worker.state in {State.STARTING, State.READY} for worker in self._workers)
        if self._stopping or alive + len(timers) >= self._target:
            return

        def launch() -> None:
            timers.discard(timer)
            try:
                self._launch()
            except OSError:  # no memory or no process left for it: the machine may recover
                self._relaunch(self._plan.longest_pause)

        timer = asyncio.get_running_loop().call_later(pause, launch)
        timers.add(timer)

    def _retire(self, worker: _Worker) -> None:
        """Names first, then SIGTERM: no new connection meets a worker that no longer takes calls."""
        if worker.state in {State.DRAINING, State.DEAD}:
            return
        worker.state = State.DRAINING
        worker.planned = True
        worker.kill_at = asyncio.get_running_loop().time() + self._plan.drain
        self._settle()
        self._signal(worker, signal.SIGTERM)
        self._tell(What.DRAINING, worker, f"worker {worker.launch.worker} drains, {self._plan.drain:g} s at most")

    # --- names

    def _settle(self) -> None:
        """Give ownerless slots an owner, then let each name stand for the right worker."""
        ready = [worker for worker in self._workers if worker.state is State.READY]
        if self._stopping:
            return  # all go: nobody better is left for any name
        for slot in self._slots:
            if slot.owner is not None and slot.owner not in ready:
                slot.owner = None
        owners = {id(slot.owner) for slot in self._slots if slot.owner is not None}
        idle = [worker for worker in ready if id(worker) not in owners]
        for slot in self._slots:
            if slot.owner is None and idle:
                # a worker that already stands in here keeps its connections by becoming the owner
                slot.owner = next((worker for worker in idle if worker is slot.shown), idle[0])
                idle.remove(slot.owner)
        by_id = {id(worker): worker for worker in ready}
        chosen = spread([None if slot.owner is None else id(slot.owner) for slot in self._slots], list(by_id))
        for slot, key in zip(self._slots, chosen, strict=True):
            # a name that was never served waits for its owner: a stand-in would keep the connections that Envoy makes now
            if key is not None and (slot.owner is not None or slot.shown is not None):
                self._show(slot, by_id[key])

    def _show(self, slot: _Slot, worker: _Worker) -> None:
        if slot.shown is worker:
            return
        try:
            sockets.publish(worker.launch.socket, slot.name)
        except OSError as error:
            self._kill(worker, f"said that it was ready, but its socket cannot be published: {error.strerror}")
            return
        slot.shown = worker
        if slot.owner is not worker:
            self._tell(What.MOVED, worker, f"{slot.name.name} is served by worker {worker.launch.worker} meanwhile")

    # --- deadlines, signals, clean-up

    async def _watch(self) -> None:
        loop = asyncio.get_running_loop()
        while self._workers or not self._stopping:
            deadlines = [(worker.kill_at, worker) for worker in self._workers if worker.kill_at is not None]
            for at, worker in deadlines:
                if loop.time() >= at:
                    self._kill(
                        worker, "did not start in time" if worker.state is State.STARTING else "drain time is up"
                    )
            nearest = min((at for at, worker in deadlines if worker.kill_at is not None), default=None)
            with suppress(TimeoutError):
                async with asyncio.timeout_at(nearest):
                    await self._next_change()

    async def _next_change(self) -> None:
        self._changed.clear()
        await self._changed.wait()

    def _wake(self) -> None:
        self._changed.set()

    def _kill(self, worker: _Worker, why: str) -> None:
        worker.kill_at = None
        self._signal(worker, signal.SIGKILL)
        self._tell(What.KILLED, worker, f"worker {worker.launch.worker} killed: {why}", planned=worker.planned)

    @staticmethod
    def _signal(worker: _Worker, number: signal.Signals) -> None:
        with suppress(ProcessLookupError):
            signal.pidfd_send_signal(worker.pidfd, number)

    def _release(self, worker: _Worker) -> None:
        loop = asyncio.get_running_loop()
        loop.remove_reader(worker.pidfd)
        loop.remove_reader(worker.control)
        os.close(worker.pidfd)
        worker.control.close()
        worker.launch.socket.unlink(missing_ok=True)

    def _end_all(self) -> None:
        """End what is left when `run` is cancelled or fails: no worker outlives its supervisor."""
        for worker in tuple(self._workers):
            self._signal(worker, signal.SIGKILL)
            worker.process.wait()
            self._release(worker)
        self._workers.clear()
        for timer in self._pending.timers:
            timer.cancel()

    def _tell(self, what: What, worker: _Worker, detail: str, *, planned: bool = False) -> None:
        event = WorkerEvent(what, worker.launch.worker, worker.process.pid, detail, planned)
        for listener in self._listeners:
            listener(event)
        self._wake()


def _ending(code: int) -> str:
    if code >= 0:
        return f"ended with exit code {code}"
    try:
        return f"was ended by signal {signal.Signals(-code).name}"
    except ValueError:
        return f"was ended by signal {-code}"


def log_event(event: WorkerEvent) -> None:
    """Write the event to the log: a listener for `Supervisor`."""
    level = _LEVELS.get(event.what, logging.INFO)
    if event.what is What.DIED and event.planned:
        level = logging.INFO
    log: structlog.typing.FilteringBoundLogger = structlog.get_logger("extproc.supervisor")
    log.log(level, event.detail, what=event.what.value, worker=event.worker, pid=event.pid)


def stop_on_signals(supervisor: Supervisor) -> None:
    """SIGTERM and SIGINT drain; another one ends everything now."""
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, supervisor.stop)
