"""The embedded server: durable against its own death, private, alone in its folder, gone with its gateway."""

from __future__ import annotations

import asyncio
import os
import signal
import stat
import subprocess
import sys
import textwrap
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from extproc.adapters import valkey_process
from extproc.adapters.valkey_client import Connection, ConnectionLostError, Endpoint, Login, StoreError, connect
from extproc.adapters.valkey_process import EmbeddedStore, find_server, server_command, socket_path
from extproc.errors import ConfigError
from valkeys import short_folder


@pytest.fixture
def state() -> Iterator[Path]:
    with short_folder() as folder:
        yield folder


@pytest.fixture
async def store(state: Path) -> AsyncIterator[EmbeddedStore]:
    one = EmbeddedStore(state)
    await one.start()
    try:
        yield one
    finally:
        await one.stop()


async def client(store: EmbeddedStore) -> Connection:
    return await connect(Endpoint(path=str(store.socket)), Login())


async def back(store: EmbeddedStore, restarts: int) -> Connection:
    """A connection to the server that has been started again."""
    for _ in range(1000):
        if store.status["ok"] and store.status["restarts"] == restarts:
            return await client(store)
        await asyncio.sleep(0.01)
    raise AssertionError(store.status)


async def gone(pid: int) -> bool:
    for _ in range(1000):
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except (FileNotFoundError, ProcessLookupError):
            return True
        if state in "ZX":  # ended; its parent has not looked yet
            return True
        await asyncio.sleep(0.01)
    return False


async def test_acknowledged_writes_survive_kill_9(store: EmbeddedStore) -> None:
    """1,000 increments are answered, the server is killed: every one of them is there when it is back."""
    connection = await client(store)
    answers = await asyncio.gather(*(connection.call((b"INCR", b"n")) for _ in range(1000)))
    first = store.pid
    os.kill(first, signal.SIGKILL)
    assert answers[-1] == 1000
    connection = await back(store, 1)
    assert await connection.call((b"GET", b"n")) == b"1000"
    assert store.pid not in {0, first}
    connection.close()


async def test_killed_under_load_it_loses_nothing_that_it_answered(store: EmbeddedStore) -> None:
    """Calls are under way when it dies: those with an answer are in the books, the others fail as unknown."""
    connection = await client(store)
    answered = 0
    calls = [connection.call((b"INCR", b"n")) for _ in range(4000)]
    await calls[200]
    os.kill(store.pid, signal.SIGKILL)
    for result in await asyncio.gather(*calls, return_exceptions=True):
        answered += not isinstance(result, BaseException)
        assert isinstance(result, int | ConnectionLostError)
    connection = await back(store, 1)
    kept = await connection.call((b"GET", b"n"))
    assert isinstance(kept, bytes)
    assert 200 < answered <= int(kept) <= 4000
    connection.close()


async def test_data_outlive_an_orderly_stop(state: Path) -> None:
    """What was counted before a stop is there after the next start."""
    store = EmbeddedStore(state)
    await store.start()
    connection = await client(store)
    await connection.call((b"SET", b"k", b"v"))
    pid = store.pid
    await store.stop()
    assert await gone(pid)
    assert store.status == {"ok": False, "pid": 0, "restarts": 0}
    await store.stop()
    again = EmbeddedStore(state)
    await again.start()
    try:
        assert await (await client(again)).call((b"GET", b"k")) == b"v"
    finally:
        await again.stop()


async def test_a_cut_log_is_read_as_far_as_it_goes(state: Path) -> None:
    """A machine that lost power leaves half a command at the end of the log: the start does not fail on it."""
    store = EmbeddedStore(state)
    await store.start()
    await (await client(store)).call((b"SET", b"k", b"v"))
    await store.stop()
    (log,) = (store.socket.parent / "appendonlydir").glob("*.incr.aof")
    with log.open("ab") as file:
        file.write(b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$5\r\nha")
    await store.start()
    try:
        assert await (await client(store)).call((b"GET", b"k")) == b"v"
    finally:
        await store.stop()


async def test_only_the_owner_gets_at_it(store: EmbeddedStore) -> None:
    """Folder and socket are the owner's alone, and no port listens."""
    assert stat.S_IMODE(store.socket.parent.stat().st_mode) == 0o700
    assert stat.S_IMODE(store.socket.stat().st_mode) == 0o600
    connection = await client(store)
    assert await connection.call((b"CONFIG", b"GET", b"port")) == [b"port", b"0"]
    wanted = {b"appendonly": b"yes", b"appendfsync": b"no", b"maxmemory-policy": b"noeviction", b"save": b""}
    for name, value in wanted.items():
        assert await connection.call((b"CONFIG", b"GET", name)) == [name, value]
    connection.close()


async def test_two_gateways_do_not_meet(state: Path) -> None:
    """Two state folders, two servers, two sets of books."""
    one, two = EmbeddedStore(state / "one"), EmbeddedStore(state / "two")
    try:
        await one.start()
        await two.start()
        await (await client(one)).call((b"SET", b"k", b"one"))
        assert await (await client(two)).call((b"GET", b"k")) is None
    finally:
        await one.stop()
        await two.stop()


async def test_a_stale_socket_is_no_hindrance(state: Path) -> None:
    """The name of a dead server's socket does not keep the next one from listening there."""
    path = socket_path(state)
    path.parent.mkdir()
    import socket

    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    store = EmbeddedStore(state)
    await store.start()
    try:
        assert await (await client(store)).call((b"PING",)) == b"PONG"
    finally:
        await store.stop()


GATEWAY = """
import asyncio, sys
from pathlib import Path
from extproc.adapters.valkey_process import EmbeddedStore
async def main():
    store = EmbeddedStore(Path(sys.argv[1]))
    await store.start()
    print(store.pid, flush=True)
    await asyncio.sleep(60)
asyncio.run(main())
"""


def gateway(state: Path) -> tuple[subprocess.Popen[bytes], int]:
    """A gateway in a process of its own, and its server's pid."""
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(GATEWAY), str(state)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    assert process.stdout is not None
    line = process.stdout.readline()
    process.stdout.close()
    return process, int(line)


async def test_the_server_of_a_killed_gateway_ends(state: Path) -> None:
    """Kill -9 of the gateway: its server ends by itself, and the next gateway has all that it had answered."""
    process, pid = await asyncio.to_thread(gateway, state)
    try:
        connection = await connect(Endpoint(path=str(socket_path(state))), Login())
        await connection.call((b"SET", b"k", b"v"))
    finally:
        process.kill()
        process.wait()
    assert await gone(pid)
    connection.close()
    store = EmbeddedStore(state)
    await store.start()
    try:
        assert await (await client(store)).call((b"GET", b"k")) == b"v"
    finally:
        await store.stop()


async def test_a_server_that_stays_behind_is_asked_to_end(state: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that holds the folder is told to end, in order; the new one goes on with its data."""
    monkeypatch.setattr(valkey_process, "_POLITE", 0.05)
    first = EmbeddedStore(state)
    first.socket.parent.mkdir()
    await first._launch(1.0)
    await first._answers()
    await (await client(first)).call((b"SET", b"k", b"v"))
    second = EmbeddedStore(state)
    pid = first.pid
    await second.start()
    try:
        assert first._process is not None
        assert first._process.wait(5) == 0
        assert second.pid != pid
        assert await (await client(second)).call((b"GET", b"k")) == b"v"
    finally:
        await second.stop()
        await first.stop()


async def test_a_server_that_does_not_end_is_told_of(state: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody holds the folder and does not answer: a clear error, and no second server on the same files."""
    monkeypatch.setattr(valkey_process, "_TAKE_OVER", 0.2)
    first, second = EmbeddedStore(state), EmbeddedStore(state)
    await first.start()
    try:
        os.kill(first.pid, signal.SIGSTOP)
        monkeypatch.setattr(valkey_process, "_POLITE", 5.0)
        with pytest.raises(ConfigError, match="in use by another Valkey server"):
            await second.start()
        assert second.pid == 0
    finally:
        os.kill(first.pid, signal.SIGCONT)
        await first.stop()


async def test_what_it_said_is_in_the_error(state: Path) -> None:
    """Data that cannot be read: the start fails with the server's own words, where they are, and the cure."""
    store = EmbeddedStore(state)
    await store.start()
    await (await client(store)).call((b"SET", b"k", b"v"))
    await store.stop()
    (manifest,) = (store.socket.parent / "appendonlydir").glob("*.manifest")
    manifest.write_text("nonsense\n")
    with pytest.raises(ConfigError, match="manifest") as caught:
        await store.start()
    assert "valkey.log" in caught.value.hint
    assert "move" in caught.value.hint
    assert store.pid == 0


async def test_a_crash_loop_is_slowed_down(store: EmbeddedStore) -> None:
    """Killed three times in a row: it comes back each time, and each is counted."""
    for restarts in range(1, 4):
        os.kill(store.pid, signal.SIGKILL)
        (await back(store, restarts)).close()
    assert store.status["restarts"] == 3


def test_a_long_path_is_refused(tmp_path: Path) -> None:
    """The kernel takes 107 bytes for a socket's path: longer state folders are refused by name."""
    with pytest.raises(ConfigError, match="too long for a Unix socket"):
        socket_path(tmp_path / ("x" * 100))


def test_no_server_no_start(monkeypatch: pytest.MonkeyPatch, state: Path) -> None:
    """Without the package, or on a machine that it has no server for: the cure is a store of one's own."""
    monkeypatch.setattr(valkey_process.platform, "machine", lambda: "sparc64")
    with pytest.raises(ConfigError, match="none for linux-sparc64") as caught:
        EmbeddedStore(state)
    assert "quotas.store.url" in caught.value.hint
    monkeypatch.setattr(valkey_process, "find_spec", lambda _name: None)
    with pytest.raises(ConfigError, match="not installed"):
        find_server()


def test_the_log_does_not_grow_for_ever(state: Path) -> None:
    """A start moves a large log aside, once."""
    folder = socket_path(state).parent
    folder.mkdir()
    (folder / "valkey.log").write_bytes(b"x" * (2 << 20))
    EmbeddedStore(state)._begin_log()
    assert not (folder / "valkey.log").exists()
    assert (folder / "valkey.log.1").stat().st_size == 2 << 20


def test_the_command_takes_no_port(state: Path) -> None:
    """No port, no eviction, and the log of writes on: what the promises of this module rest on."""
    command = server_command(Path("/bin/valkey-server"), state)
    told = dict(zip(command[1::2], command[2::2], strict=True))
    assert told["--port"] == "0"
    assert told["--appendonly"] == "yes"
    assert told["--maxmemory-policy"] == "noeviction"


async def test_nobody_there_fails_at_once(state: Path) -> None:
    """Without a server the socket is not there: a client is told so at once, it does not wait."""
    began = time.monotonic()
    with pytest.raises(StoreError, match="cannot be reached"):
        await connect(Endpoint(path=str(socket_path(state))), Login())
    assert time.monotonic() - began < Login().timeout
