"""One server kept connected: calls fail at once while it is away, it comes back by itself, silence is noticed."""

from __future__ import annotations

import asyncio
import hashlib
import os
import signal
import time

import pytest

from extproc.adapters import valkey_link
from extproc.adapters.valkey_client import Connection, ConnectionLostError, Endpoint, Login, StoreAwayError, connect
from extproc.adapters.valkey_link import Finder, Link, unending
from valkeys import Server, server

SOURCE = b"return ARGV[1]"
SHA = hashlib.sha1(SOURCE).hexdigest().encode()


def link_to(own: Server, changes: list[bool]) -> Link:
    """A link that notes each change."""

    async def find() -> Connection:
        return await connect(Endpoint(path=str(own.path)), Login())

    return Link("one", Finder(find), lambda link: changes.append(link.connection is not None))


async def until(link: Link, *, up: bool) -> None:
    for _ in range(2000):
        if (link.connection is not None) is up:
            return
        await asyncio.sleep(0.005)
    raise AssertionError(link.reason)


async def test_it_comes_back_by_itself() -> None:
    """Away from the start, up, killed, up again: told each time, and no call ever waits for it."""
    changes: list[bool] = []
    with server() as own:
        own.kill()
        link = link_to(own, changes)
        with pytest.raises(StoreAwayError, match="not connected yet"):
            link.call((b"PING",))
        link.start()
        link.start()
        assert not await link.wait(0.1)
        with pytest.raises(StoreAwayError, match="cannot be reached"):
            link.call((b"PING",))
        own.start()
        assert await link.wait(5)
        began = link.since
        assert await link.call((b"INCR", b"n")) == 1
        own.kill()
        await until(link, up=False)
        with pytest.raises(StoreAwayError):
            link.call((b"PING",))
        own.start()
        assert await link.wait(5)
        assert link.since > began
        assert await link.call((b"INCR", b"n")) == 1
        await link.close()
    with pytest.raises(StoreAwayError, match="closed"):
        link.call((b"PING",))
    ups = [now for before, now in zip([False, *changes], changes, strict=False) if now != before]
    assert ups == [True, False, True]


async def test_attempts_are_paced(monkeypatch: pytest.MonkeyPatch) -> None:
    """Attempts come quickly first and slow down: in a third of a second there are a handful, not hundreds."""
    attempts: list[float] = []

    async def find() -> Connection:
        attempts.append(time.monotonic())
        raise StoreAwayError("nobody")

    link = Link("none", Finder(find), lambda _link: None)
    link.start()
    await asyncio.sleep(0.35)
    await link.close()
    assert 3 <= len(attempts) <= 12


async def test_connections_that_die_at_once_are_paced_too() -> None:
    """A server that hangs up on everybody is not asked in a tight loop."""
    accepted: list[int] = []
    with server() as own:

        async def find() -> Connection:
            connection = await connect(Endpoint(path=str(own.path)), Login())
            accepted.append(1)
            connection.close()
            return connection

        link = Link("flapping", Finder(find), lambda _link: None)
        link.start()
        await asyncio.sleep(0.35)
        await link.close()
    assert 2 <= len(accepted) <= 12


async def test_silence_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The server stops without hanging up: what waits fails, and the link is up again when the server goes on."""
    monkeypatch.setattr(valkey_link, "LOOK", 0.02)
    monkeypatch.setattr(valkey_link, "SILENCE", 0.1)
    with server() as own:
        link = link_to(own, [])
        link.start()
        assert await link.wait(5)
        os.kill(own.pid, signal.SIGSTOP)
        try:
            with pytest.raises(ConnectionLostError, match=r"has not answered for 0\.1 s"):
                await link.call((b"INCR", b"n"))
            assert link.connection is None
        finally:
            os.kill(own.pid, signal.SIGCONT)
        await until(link, up=True)
        assert await link.call((b"PING",)) == b"PONG"
        await link.close()


async def test_a_reason_to_leave_is_followed(monkeypatch: pytest.MonkeyPatch) -> None:
    """What `leave` says ends the connection, and the next one is looked for."""
    monkeypatch.setattr(valkey_link, "LOOK", 0.02)
    said = ["", "", "another one is the primary", ""]
    lost: list[str] = []
    with server() as own:

        async def find() -> Connection:
            return await connect(Endpoint(path=str(own.path)), Login())

        async def leave(connection: Connection) -> str:
            assert connection.alive
            return said.pop(0) if said else ""

        link = Link("one", Finder(find, leave), lambda link: lost.append(link.reason))
        link.start()
        for _ in range(1000):
            if not said:
                break
            await asyncio.sleep(0.005)
        assert await link.wait(5)
        await link.close()
    assert lost[:3] == ["", "another one is the primary", ""]


async def test_a_script_is_loaded_once_for_all_who_miss_it() -> None:
    """Fifty calls ask for the same script: the server is given it once; a wrong digest is told."""
    with server() as own:
        link = link_to(own, [])
        link.start()
        assert await link.wait(5)
        await asyncio.gather(*(link.load(SHA, SOURCE) for _ in range(50)))
        assert await link.call((b"EVALSHA", SHA, b"0", b"x")) == b"x"
        stats = own.client().info("commandstats")
        assert stats["cmdstat_script|load"]["calls"] == 1
        with pytest.raises(Exception, match="another digest"):
            await link.load(b"0" * 40, SOURCE)
        await link.close()


async def test_a_crash_is_told_and_the_work_goes_on(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A mistake in the work: logged, and the work begins again until it is cancelled."""
    monkeypatch.setattr(valkey_link, "LONGEST_PAUSE", 0.001)
    runs: list[int] = []

    async def work() -> None:
        runs.append(1)
        if len(runs) < 3:
            raise KeyError("mistake")
        await asyncio.sleep(60)

    task = asyncio.ensure_future(unending(work, "test"))
    for _ in range(1000):
        if len(runs) == 3:
            break
        await asyncio.sleep(0.001)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert len(runs) == 3
    assert "crashed and is started again" in capsys.readouterr().out
