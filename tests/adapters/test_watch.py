"""A changed file is live within a second, however it was changed; a bad one leaves the old content in use."""

from __future__ import annotations

import asyncio
import os
import secrets
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest

from extproc.adapters.keyfile import KeyFile
from extproc.adapters.keys import FileKeyStore, Hasher, Owner, read_key_file
from extproc.adapters.watch import INTERVAL, Target, Watcher
from extproc.errors import ConfigError


class Taken:
    """Collects what a watcher takes; content that begins with `bad` is refused."""

    def __init__(self, path: Path, *, interval: float = 0.01) -> None:
        self.values: list[str] = []
        self.errors: list[str] = []
        target = Target(self.prepare, self.values.append, lambda error: self.errors.append(error.reason))
        seen = path.read_bytes() if path.exists() else b""
        self.watcher = Watcher(path, target, seen=seen, interval=interval)

    def prepare(self, data: bytes) -> str:
        if data.startswith(b"bad"):
            raise ConfigError("file", "is bad", "mend it")
        return data.decode()

    async def look(self, times: int = 2) -> None:
        for _ in range(times):
            await self.watcher.tick()


def replace(path: Path, text: str) -> None:
    temporary = path.with_name("new")
    temporary.write_text(text)
    temporary.rename(path)


def in_place(path: Path, text: str) -> None:
    with path.open("w") as file:
        file.write(text)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    file = tmp_path / "watched"
    file.write_text("one")
    return file


@pytest.fixture
def mount(tmp_path: Path) -> Path:
    """A folder as Kubernetes mounts it: file -> ..data/file, ..data -> a dated folder."""
    (tmp_path / "..2026_1").mkdir()
    (tmp_path / "..2026_1" / "watched").write_text("one")
    (tmp_path / "..data").symlink_to("..2026_1")
    (tmp_path / "watched").symlink_to("..data/watched")
    return tmp_path


def swap(mount: Path, text: str) -> None:
    (mount / "..2026_2").mkdir()
    (mount / "..2026_2" / "watched").write_text(text)
    (mount / "..data_tmp").symlink_to("..2026_2")
    (mount / "..data_tmp").rename(mount / "..data")
    (mount / "..2026_1" / "watched").unlink()
    (mount / "..2026_1").rmdir()


async def test_what_is_in_use_already_is_not_taken_again(path: Path) -> None:
    """Start and touch are no changes."""
    taken = Taken(path)
    await taken.look(4)
    os.utime(path)
    await taken.look(4)
    assert taken.values == []
    assert taken.watcher.status.generation == 0


async def test_a_change_before_the_first_look_is_seen(path: Path) -> None:
    """Between the first reading and the start of the watcher nothing is lost."""
    taken = Taken(path)
    replace(path, "two")
    await taken.look()
    assert taken.values == ["two"]


@pytest.mark.parametrize("change", [replace, in_place])
async def test_rename_and_write_in_place(path: Path, change: Callable[[Path, str], None]) -> None:
    """Both are taken, once each, also with a text of the same length."""
    taken = Taken(path)
    await taken.look()
    for text in ("two", "six", "longer", ""):
        change(path, text)
        await taken.look(4)
    assert taken.values == ["two", "six", "longer", ""]
    assert taken.watcher.status.generation == 4
    assert taken.watcher.status.at == pytest.approx(time.time(), abs=30)


async def test_a_swap_of_the_mounted_folder(mount: Path) -> None:
    """Kubernetes exchanges a link two levels up."""
    taken = Taken(mount / "watched")
    await taken.look()
    swap(mount, "two")
    await taken.look()
    assert taken.values == ["two"]


async def test_a_bad_file_keeps_the_old_content_and_is_visible(path: Path) -> None:
    """Told once, not at every look; mended, it is taken."""
    taken = Taken(path)
    replace(path, "bad")
    await taken.look(5)
    assert taken.values == []
    assert taken.errors == ["is bad"]
    status = taken.watcher.status
    assert (status.ok, status.generation) == (False, 0)
    assert "is bad (mend it)" in status.error
    replace(path, "good")
    await taken.look()
    assert taken.values == ["good"]
    assert taken.watcher.status.ok
    assert taken.watcher.status.error == ""


async def test_going_back_to_the_content_in_use_clears_the_error(path: Path) -> None:
    """An operator undoes the change: the status is good again."""
    taken = Taken(path)
    replace(path, "bad")
    await taken.look()
    replace(path, "one")
    await taken.look()
    assert taken.watcher.status.ok


async def test_a_file_that_vanishes_and_returns(path: Path) -> None:
    """Gone is an error; back, with the same content, is not."""
    taken = Taken(path)
    await taken.look()
    path.unlink()
    await taken.look(3)
    assert not taken.watcher.status.ok
    assert len(taken.errors) == 1
    path.write_text("one")
    await taken.look()
    assert taken.watcher.status.ok


async def test_a_file_that_becomes_readable_is_tried_again(path: Path) -> None:
    """A changed mode is a change, since it may be the cure."""
    taken = Taken(path)
    allowed = False

    def guarded(file: Path) -> bytes:
        if not allowed:
            raise ConfigError(str(file), "has a bad mode", "chmod 600")
        return file.read_bytes()

    taken.watcher._read = guarded
    replace(path, "two")
    await taken.look(3)
    assert not taken.watcher.status.ok
    allowed = True
    path.chmod(0o600)
    await taken.look()
    assert taken.values == ["two"]


async def test_a_file_in_the_middle_of_being_written_waits(path: Path) -> None:
    """Half of it, which may well be valid by itself, is not taken; the whole is."""
    taken = Taken(path)
    await taken.look()
    with path.open("w") as file:
        file.write("first half, ")
        file.flush()
        await taken.look(1)
        file.write("second half")
        file.flush()
        await taken.look(1)
    await taken.look(1)
    assert taken.values == ["first half, second half"]


async def test_a_file_that_never_rests_is_taken_all_the_same(path: Path) -> None:
    """Steady traffic of changes does not put off the newest for ever."""
    taken = Taken(path)
    await taken.look()
    for number in range(9):
        replace(path, f"number {number}")
        await taken.look(1)
    assert len(taken.values) >= 2
    await taken.look()
    assert taken.values[-1] == "number 8"


async def test_a_change_while_it_is_read_is_read_again(path: Path) -> None:
    """What was read then may be neither old nor new."""
    taken = Taken(path)
    await taken.look()
    reads = 0

    def slow(file: Path) -> bytes:
        nonlocal reads
        reads += 1
        data = file.read_bytes()
        if reads == 1:
            replace(file, "three")
        return data

    taken.watcher._read = slow
    replace(path, "two")
    await taken.look(5)
    assert taken.values == ["three"]


async def test_an_error_of_our_own_ends_the_watcher(path: Path) -> None:
    """A defect is not taken for a bad file: whoever runs the watcher learns of it."""

    def broken(_data: bytes) -> str:
        raise ZeroDivisionError

    watcher = Watcher(path, Target(broken, str), seen=b"", interval=0.01)
    with pytest.raises(ZeroDivisionError):
        await asyncio.wait_for(watcher.run(), 5)


@asynccontextmanager
async def running(watcher: Watcher[object]) -> AsyncIterator[None]:
    task = asyncio.ensure_future(watcher.run())
    try:
        yield
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


@pytest.mark.parametrize("way", ["rename", "in place", "mount"])
async def test_a_revocation_is_live_within_a_second(tmp_path: Path, mount: Path, way: str) -> None:
    """With the real interval, for the real key store, in each of the three ways."""
    hasher = Hasher(secrets.token_bytes(32))
    source = tmp_path / "source.json"
    key_file = KeyFile(source, hasher)
    new = key_file.create(Owner("demo", "app"))
    live = source if way == "rename" else mount / "watched"
    if way != "rename":
        (mount / "..2026_1" / "watched").write_bytes(source.read_bytes())
    store = FileKeyStore(hasher)
    store.apply(live.read_bytes())
    target = Target(store.prepare, store.commit, store.refuse)
    watcher = Watcher(live, target, seen=live.read_bytes(), read=read_key_file)
    assert watcher._interval == INTERVAL
    async with running(watcher):
        await asyncio.sleep(0.6)
        key_file.revoke(new.entry.id)
        if way == "in place":
            (mount / "..2026_1" / "watched").write_bytes(source.read_bytes())
        elif way == "mount":
            swap(mount, source.read_text())
        start = time.monotonic()
        while not _revoked(store, new.secret) and time.monotonic() - start < 5:
            await asyncio.sleep(0.01)
        took = time.monotonic() - start
    assert _revoked(store, new.secret)
    assert took < 1.0


def _revoked(store: FileKeyStore, secret: str) -> bool:
    caller = store.find(secret, 0.0).caller
    return caller is not None and caller.revoked
