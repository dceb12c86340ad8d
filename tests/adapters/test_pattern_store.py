"""The folder that keeps compiled databases: whole or not at all, ours or not at all, and never in the way."""

import os
import stat
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from extproc.adapters.pattern_store import FolderStore


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "kept"


def the_file(folder: Path) -> Path:
    (found,) = folder.iterdir()
    return found


def test_what_was_put_comes_back(folder):
    """By another store over the same folder too; an unknown key gives nothing."""
    FolderStore(folder).put("one", b"first")
    FolderStore(folder).put("two", b"")

    store = FolderStore(folder)

    assert (b"first", b"", None) == (store.get("one"), store.get("two"), store.get("three"))


def test_a_second_put_replaces_the_first(folder):
    """And leaves no other file behind."""
    store = FolderStore(folder)
    store.put("one", b"first")
    store.put("one", b"second")

    assert b"second" == store.get("one")
    assert 1 == len(list(folder.iterdir()))


def test_nobody_else_can_read_or_write(folder):
    """The folder is made for this user alone, and so is every file."""
    FolderStore(folder).put("one", b"data")

    assert 0o700 == stat.S_IMODE(folder.stat().st_mode)
    assert 0o600 == stat.S_IMODE(the_file(folder).stat().st_mode)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.data())
def test_a_damaged_file_is_nothing_and_goes(tmp_path, data):
    """Any byte changed, anything cut off or added."""
    folder = tmp_path / "kept"
    store = FolderStore(folder)
    store.put("one", b"some data of a database")
    path = the_file(folder)
    whole = path.read_bytes()
    at = data.draw(st.integers(0, len(whole) - 1))
    damaged = data.draw(
        st.sampled_from([whole[:at], whole + whole[: at + 1], whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :]])
    )
    path.write_bytes(damaged)

    assert store.get("one") is None
    assert not path.exists()


def test_a_file_under_another_name_is_damaged(folder, tmp_path):
    """The digest covers the key, so that two databases cannot be taken for one another."""
    store, other = FolderStore(folder), FolderStore(tmp_path / "other")
    store.put("one", b"first")
    other.put("two", b"second")
    the_file(tmp_path / "other").write_bytes(the_file(folder).read_bytes())

    assert other.get("two") is None
    assert b"first" == store.get("one")


@pytest.mark.parametrize("mode", [0o620, 0o602, 0o666])
def test_a_file_that_others_can_write_to_is_not_trusted(folder, mode):
    """Hyperscan reads what it is given without doubt."""
    store = FolderStore(folder)
    store.put("one", b"data")
    the_file(folder).chmod(mode)

    assert store.get("one") is None


def test_a_file_of_another_user_is_not_trusted(folder, monkeypatch):
    """Even one with the right digest."""
    store = FolderStore(folder)
    store.put("one", b"data")
    monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)

    assert store.get("one") is None


@pytest.mark.parametrize("what", ["link", "folder", "pipe"])
def test_only_files_are_read(folder, tmp_path, what):
    """A link, a folder or a pipe in the place of a file is nothing, and is not waited for."""
    store = FolderStore(folder)
    store.put("one", b"data")
    path = the_file(folder)
    path.rename(tmp_path / "moved")
    if what == "link":
        path.symlink_to(tmp_path / "moved")
    elif what == "folder":
        path.mkdir()
    else:
        os.mkfifo(path)

    assert store.get("one") is None


def test_a_folder_that_cannot_be_made_is_no_error(tmp_path):
    """Here a file stands in the way; on a read-only disk it is the same."""
    (tmp_path / "file").write_bytes(b"")
    store = FolderStore(tmp_path / "file" / "kept")

    store.put("one", b"data")

    assert store.get("one") is None


def test_a_disk_that_is_full_leaves_nothing_behind(folder, monkeypatch):
    """What was there before stays."""
    store = FolderStore(folder)
    store.put("one", b"first")

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    store.put("one", b"second")

    assert b"first" == store.get("one")
    assert 1 == len(list(folder.iterdir()))


def test_what_was_not_used_for_longest_goes_first(folder):
    """The folder does not grow for ever: every change of a pattern makes a new database."""
    store = FolderStore(folder, most=3)
    for number, key in enumerate(("a", "b", "c")):
        store.put(key, key.encode())
        newest = max(folder.iterdir(), key=lambda path: path.stat().st_mtime_ns)
        os.utime(newest, (1000 + number, 1000 + number))
    store.get("a")

    store.put("d", b"d")

    assert [b"a", None, b"c", b"d"] == [store.get(key) for key in "abcd"]
