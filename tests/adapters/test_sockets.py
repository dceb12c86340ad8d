from __future__ import annotations

import asyncio
import os
import socket
from pathlib import Path

import pytest
import uvloop

from extproc.adapters import sockets
from extproc.errors import ConfigError


def listener(path: Path) -> socket.socket:
    server = socket.socket(socket.AF_UNIX)
    server.bind(str(path))
    server.listen()
    return server


def test_publish_moves_a_name_from_one_listener_to_another(tmp_path: Path) -> None:
    """A connect to the public name meets the listener that was published last, and no spare name stays behind."""
    public = sockets.public_path(tmp_path, 0)
    with listener(tmp_path / "a") as first, listener(tmp_path / "b") as second, socket.socket(socket.AF_UNIX) as client:
        sockets.publish(tmp_path / "a", public)
        sockets.publish(tmp_path / "b", public)
        sockets.publish(tmp_path / "b", public)
        first.settimeout(0)
        second.settimeout(1)
        client.connect(str(public))

        accepted, _ = second.accept()

        accepted.close()
        with pytest.raises(BlockingIOError):
            first.accept()
        assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b", "worker-0.sock"]


def test_only_dead_socket_names_are_removed(tmp_path: Path) -> None:
    """A name at which somebody listens stays, also with a full backlog; other files are not touched."""
    dead, alive = sockets.private_path(tmp_path, 1, 0), sockets.private_path(tmp_path, 1, 1)
    listener(dead).close()
    other = tmp_path / "worker-9.sock"
    other.write_text("not a socket")
    with listener(alive) as server:
        server.listen(0)
        with socket.socket(socket.AF_UNIX) as filler:
            filler.settimeout(0)
            filler.connect_ex(str(alive))

            removed = sockets.remove_stale(tmp_path)

        assert removed == [dead]
        assert alive.exists()
        assert other.exists()


def test_a_path_that_the_kernel_would_not_take_is_a_clear_error(tmp_path: Path) -> None:
    """The message says how long the path is and what to do, before any process is started."""
    folder = tmp_path / ("x" * 100)

    with pytest.raises(ConfigError, match="shorter path") as caught:
        sockets.private_path(folder, 1, 0)

    assert caught.value.path == str(folder)


def test_the_lock_names_its_holder_and_is_free_again_after(tmp_path: Path) -> None:
    """A second taker is told who has the folder; the lock goes with its holder."""
    with sockets.FolderLock(tmp_path), pytest.raises(ConfigError, match=str(os.getpid())), sockets.FolderLock(tmp_path):
        pytest.fail("two holders")

    with sockets.FolderLock(tmp_path):
        assert (tmp_path / ".lock").read_text().strip() == str(os.getpid())


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_a_worker_is_heard_and_learns_of_its_parents_end(loop: str) -> None:
    """Messages arrive whole and in order; the end of the supervisor ends `gone`, and later words are no error."""
    run = uvloop.run if loop == "uvloop" else asyncio.run

    run(talk())


async def talk() -> None:
    ours, theirs = sockets.control_pair()
    link = sockets.ParentLink(theirs.detach())
    link.ready()
    link.report("config 7 refused: ümlaut")
    link.report("x" * 10_000)
    link.draining()

    first, status, long, last = sockets.receive(ours)
    gone = asyncio.ensure_future(link.gone())
    await asyncio.sleep(0.02)
    assert not gone.done()
    ours.close()
    await asyncio.wait_for(gone, 2)
    link.ready()
    link.close()

    assert (first, last) == (sockets.READY, sockets.DRAINING)
    assert sockets.status_text(status) == "config 7 refused: ümlaut"
    assert len(long) <= 4096
    assert sockets.status_text(first) is None
