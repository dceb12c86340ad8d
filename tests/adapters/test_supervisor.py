"""With real processes: the workers here answer each connection with their pid."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import pytest

from extproc.adapters import sockets
from extproc.adapters.fleet import Launch, Plan, StartError, What, WorkerEvent
from extproc.adapters.supervisor import Supervisor, log_event
from extproc.errors import ConfigError

WORKER = """
import asyncio, os, signal, sys
from extproc.adapters.sockets import ParentLink

async def answer(reader, writer):
    writer.write(b"%d" % os.getpid())
    writer.close()

async def main(path, fd, mood):
    stop = asyncio.Event()
    link = ParentLink(int(fd))
    loop = asyncio.get_running_loop()
    if mood == "stubborn":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    else:
        loop.add_signal_handler(signal.SIGTERM, stop.set)
    loop.add_signal_handler(signal.SIGUSR1, link.draining)
    server = await asyncio.start_unix_server(answer, path)
    if mood != "mute":
        link.ready()
        link.report("generation 1")
    gone = asyncio.ensure_future(link.gone())
    await asyncio.wait([gone, asyncio.ensure_future(stop.wait())], return_when=asyncio.FIRST_COMPLETED)

asyncio.run(main(*sys.argv[1:]))
"""


def command(mood: str = "") -> Callable[[Launch], Sequence[str]]:
    return lambda launch: (sys.executable, "-c", WORKER, str(launch.socket), str(launch.control_fd), mood)


class Story:
    """What the supervisor told."""

    def __init__(self) -> None:
        self.events: list[WorkerEvent] = []

    def __call__(self, event: WorkerEvent) -> None:
        self.events.append(event)

    def of(self, what: What) -> list[WorkerEvent]:
        return [event for event in self.events if event.what is what]


@asynccontextmanager
async def running(plan: Plan, story: Story | None = None) -> AsyncIterator[Supervisor]:
    supervisor = Supervisor(plan, [story or Story(), log_event])
    run = asyncio.ensure_future(supervisor.run())
    try:
        await asyncio.wait_for(supervisor.wait_ready(), 20)
        yield supervisor
    finally:
        supervisor.stop()
        await asyncio.wait_for(run, 20)


def ask(path: Path) -> int:
    """The pid that answers at this name."""
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(5)
        client.connect(str(path))
        return int(client.recv(20))


async def until(condition: Callable[[], bool], limit: float = 15.0) -> None:
    async with asyncio.timeout(limit):
        while not condition():
            await asyncio.sleep(0.005)


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


class Callers(threading.Thread):
    """Connects to all names in a loop: counts answers and refusals, and the longest time without an answer at a name."""

    def __init__(self, paths: Sequence[Path]) -> None:
        super().__init__()
        self.paths = paths
        self.answers = self.refused = self.broken = 0
        self.longest = 0.0
        self._stop_now = threading.Event()

    def run(self) -> None:
        last = dict.fromkeys(self.paths, time.monotonic())
        while not self._stop_now.is_set():
            for path in self.paths:
                try:
                    ask(path)
                except ConnectionRefusedError:
                    self.refused += 1
                except (OSError, ValueError):
                    self.broken += 1
                else:
                    now = time.monotonic()
                    self.longest = max(self.longest, now - last[path])
                    last[path] = now
                    self.answers += 1

    def end(self) -> str:
        self._stop_now.set()
        self.join(10)
        return (
            f"{self.answers} answered, {self.refused} refused, {self.broken} broken, "
            f"longest gap {self.longest * 1000:.1f} ms"
        )


async def test_each_slot_gets_its_own_worker_and_stop_leaves_nothing(tmp_path: Path) -> None:
    """Two names, two processes; their own words are in the status; after `stop` no process and no socket is left."""
    story = Story()
    async with running(Plan(tmp_path, command(), drain=5), story) as supervisor:
        pids = {ask(sockets.public_path(tmp_path, slot)) for slot in (0, 1)}
        await until(lambda: all(worker.status for worker in supervisor.workers))

        assert pids == {worker.pid for worker in supervisor.workers}
        assert len(pids) == 2
        assert {worker.worker for worker in supervisor.workers} == {"w0", "w1"}
        assert [worker.status for worker in supervisor.workers] == ["generation 1"] * 2

    assert not any(alive(pid) for pid in pids)
    assert list(tmp_path.glob("*.sock")) == []
    assert [event.planned for event in story.of(What.DIED)] == [True, True]


@pytest.mark.parametrize("spares", [0, 1])
async def test_after_kill_9_the_name_is_served_by_another_at_once(
    tmp_path: Path, spares: int, capsys: pytest.CaptureFixture[str]
) -> None:
    """Under a connect loop, a killed worker's name moves within milliseconds and a new worker takes it over."""
    story = Story()
    paths = [sockets.public_path(tmp_path, slot) for slot in (0, 1)]
    async with running(Plan(tmp_path, command(), spares=spares, healthy_after=0.0), story) as supervisor:
        await until(lambda: len(story.of(What.READY)) == 2 + spares)
        callers = Callers(paths)
        await asyncio.to_thread(callers.start)
        for number in range(3):
            await asyncio.sleep(0.2)
            victim = next(worker for worker in supervisor.workers if 0 in worker.slots)
            os.kill(victim.pid, signal.SIGKILL)
            await until(lambda: len(story.of(What.READY)) == 3 + spares + number)  # noqa: B023
        report = callers.end()
        with capsys.disabled():
            print(f"\n  3 x kill -9, {spares} spare: {report}")

        assert callers.answers > 100
        assert callers.longest < 0.5
        assert {ask(path) for path in paths} <= {worker.pid for worker in supervisor.workers}
        assert len({ask(path) for path in paths}) == 2
    deaths = [event for event in story.of(What.DIED) if not event.planned]
    assert [event.detail for event in deaths] == [
        f"worker {event.worker} was ended by signal SIGKILL" for event in deaths
    ]
    assert len(deaths) == 3
    assert len(story.of(What.MOVED)) == (0 if spares else 3)


async def test_rolling_over_refuses_no_connection(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A planned replacement of every worker is not seen by callers, and all processes are new after it."""
    paths = [sockets.public_path(tmp_path, slot) for slot in (0, 1)]
    async with running(Plan(tmp_path, command(), drain=5)) as supervisor:
        before = {worker.pid for worker in supervisor.workers}
        callers = Callers(paths)
        await asyncio.to_thread(callers.start)

        rolled = await asyncio.wait_for(supervisor.roll(), 20)

        await until(lambda: not any(alive(pid) for pid in before))
        report = callers.end()
        with capsys.disabled():
            print(f"\n  roll: {report}")
        assert rolled
        assert callers.refused == 0
        assert {ask(path) for path in paths} == {worker.pid for worker in supervisor.workers}
        assert before.isdisjoint(worker.pid for worker in supervisor.workers)


async def test_a_worker_that_asks_to_drain_is_replaced(tmp_path: Path) -> None:
    """`draining` moves the names first, then the worker gets SIGTERM, and another one comes."""
    story = Story()
    async with running(Plan(tmp_path, command(), count=1, spares=1, drain=5), story) as supervisor:
        await until(lambda: len(story.of(What.READY)) == 2)
        first = ask(sockets.public_path(tmp_path, 0))
        os.kill(first, signal.SIGUSR1)
        await until(lambda: len(story.of(What.READY)) == 3 and not alive(first))

        assert ask(sockets.public_path(tmp_path, 0)) != first
        assert len(supervisor.workers) == 2
    assert story.of(What.DIED)[0].planned


async def test_back_off_grows_and_the_survivor_serves_both_names(tmp_path: Path) -> None:
    """Replacements that die at once come at growing intervals; both names stay served meanwhile."""
    good, broken = command(), (sys.executable, "-c", "raise SystemExit(3)")
    started: list[Launch] = []

    def mixed(launch: Launch) -> Sequence[str]:
        started.append(launch)
        return good(launch) if len(started) <= 2 else broken

    story = Story()
    async with running(Plan(tmp_path, mixed, first_pause=0.05, longest_pause=0.2, drain=5), story) as supervisor:
        victim = supervisor.workers[0]
        os.kill(victim.pid, signal.SIGKILL)
        await until(lambda: len(story.of(What.RETRY)) >= 5)

        served = {ask(sockets.public_path(tmp_path, slot)) for slot in (0, 1)}

        assert len(served) == 1
        assert victim.pid not in served
    pauses = [event.detail.split()[-2] for event in story.of(What.RETRY)]
    assert pauses[:5] == ["0.1", "0.1", "0.2", "0.2", "0.2"]
    assert "exit code 3" in story.of(What.DIED)[1].detail


async def test_workers_that_never_start_end_the_supervisor_with_the_reason(tmp_path: Path) -> None:
    """A command that always fails is an error that says how it failed, not an endless loop."""
    plan = Plan(tmp_path, lambda _: (sys.executable, "-c", "raise SystemExit(3)"), first_pause=0.01, start_attempts=3)

    with pytest.raises(StartError, match="exit code 3"):
        await asyncio.wait_for(Supervisor(plan).run(), 20)


def answer_at(path: Path) -> int:
    """The pid that answers at this name; 0 where nobody does, which must be told at once."""
    try:
        return ask(path)
    except (ConnectionRefusedError, ConnectionResetError):
        return 0


async def test_with_all_workers_dead_the_gateway_is_back_soon(tmp_path: Path) -> None:
    """Both workers killed again and again: calls fail at once meanwhile, and a worker is back within the outage limit."""
    story = Story()
    plan = Plan(tmp_path, command(), longest_pause=30.0, longest_outage=0.3, drain=5)
    async with running(plan, story) as supervisor:
        for _ in range(4):
            pids = [worker.pid for worker in supervisor.workers]
            for pid in pids:
                os.kill(pid, signal.SIGKILL)
            await until(lambda: not any(alive(pid) for pid in pids))  # noqa: B023
            assert answer_at(sockets.public_path(tmp_path, 0)) not in pids
            await until(lambda: any(worker.state == "ready" for worker in supervisor.workers), 5)
        await until(lambda: {slot for worker in supervisor.workers for slot in worker.slots} == {0, 1}, 5)
        # a worker that was killed a moment ago is in the list until the kernel has told of its death
        await until(lambda: answer_at(sockets.public_path(tmp_path, 1)) in {w.pid for w in supervisor.workers}, 5)


async def test_a_command_that_does_not_exist_is_a_start_error(tmp_path: Path) -> None:
    """No process at all: told as such."""
    plan = Plan(tmp_path, lambda _: (str(tmp_path / "nothing-here"),))

    with pytest.raises(StartError, match="could not be started"):
        await asyncio.wait_for(Supervisor(plan).run(), 20)


async def test_a_worker_that_never_gets_ready_is_killed(tmp_path: Path) -> None:
    """The start has a time limit, and the text says so."""
    story = Story()
    plan = Plan(tmp_path, command("mute"), count=1, start_timeout=0.3, first_pause=0.01, start_attempts=2)

    with pytest.raises(StartError, match="SIGKILL"):
        await asyncio.wait_for(Supervisor(plan, [story]).run(), 20)

    assert {event.detail.partition(": ")[2] for event in story.of(What.KILLED)} == {"did not start in time"}


@pytest.mark.parametrize("stops", [1, 2])
async def test_a_worker_that_does_not_drain_is_killed_in_the_end(tmp_path: Path, stops: int) -> None:
    """SIGTERM ignored: SIGKILL after the drain time, or at once at the second `stop`."""
    story = Story()
    plan = Plan(tmp_path, command("stubborn"), count=1, drain=0.3 if stops == 1 else 60)
    supervisor = Supervisor(plan, [story])
    run = asyncio.ensure_future(supervisor.run())
    await asyncio.wait_for(supervisor.wait_ready(), 20)
    began = time.monotonic()
    for _ in range(stops):
        supervisor.stop()

    await asyncio.wait_for(run, 20)

    assert time.monotonic() - began < 10
    assert len(story.of(What.KILLED)) == 1
    assert "SIGKILL" in story.of(What.DIED)[0].detail


async def test_a_second_supervisor_is_refused(tmp_path: Path) -> None:
    """Two do not share a folder."""
    plan = Plan(tmp_path, command(), count=1, drain=5)
    async with running(plan):
        second = Supervisor(plan)
        with pytest.raises(ConfigError, match="another supervisor"):
            await second.run()
        await asyncio.wait_for(second.wait_ready(), 1)


SUPERVISOR = textwrap.dedent("""
    import asyncio, sys
    from pathlib import Path
    from extproc.adapters.fleet import Plan
    from extproc.adapters.supervisor import Supervisor, stop_on_signals

    worker = sys.argv[2]
    def command(launch):
        return (sys.executable, "-c", worker, str(launch.socket), str(launch.control_fd), "")

    async def main():
        supervisor = Supervisor(Plan(Path(sys.argv[1]), command, drain=5))
        stop_on_signals(supervisor)
        run = asyncio.ensure_future(supervisor.run())
        await supervisor.wait_ready()
        print(*(worker.pid for worker in supervisor.workers), flush=True)
        await run

    asyncio.run(main())
""")


def start_supervisor(folder: Path) -> tuple[subprocess.Popen[str], list[int]]:
    process = subprocess.Popen(
        [sys.executable, "-c", SUPERVISOR, str(folder), WORKER], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    return process, [int(pid) for pid in process.stdout.readline().split()]


async def test_no_worker_outlives_a_killed_supervisor_and_the_folder_can_be_used_again(tmp_path: Path) -> None:
    """SIGKILL of the supervisor: the workers end, new connects fail at once, the next run cleans up and serves."""
    process, pids = await asyncio.to_thread(start_supervisor, tmp_path)
    assert len(pids) == 2
    process.kill()
    process.communicate(timeout=10)

    await until(lambda: not any(alive(pid) for pid in pids), 5)
    began = time.monotonic()
    with pytest.raises(ConnectionRefusedError):
        ask(sockets.public_path(tmp_path, 0))
    took = time.monotonic() - began
    print(f"refused after {took * 1000:.2f} ms")
    assert took < 1, "it must be told, not found out by waiting"

    async with running(Plan(tmp_path, command(), drain=5)):
        assert ask(sockets.public_path(tmp_path, 0)) not in pids


async def test_sigterm_drains(tmp_path: Path) -> None:
    """SIGTERM ends workers and supervisor with exit code 0."""
    process, pids = await asyncio.to_thread(start_supervisor, tmp_path)
    process.terminate()

    process.communicate(timeout=10)

    assert process.returncode == 0
    assert not any(alive(pid) for pid in pids)


def test_events_are_plain_data() -> None:
    """An event can be written as JSON as it is."""
    event = WorkerEvent(What.DIED, "w0", 7, "worker w0 ended with exit code 1")

    assert msgspec.json.decode(msgspec.json.encode(event), type=WorkerEvent) == event
