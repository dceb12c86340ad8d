"""Changes to the key file: atomic, complete, and none lost between processes."""

from __future__ import annotations

import json
import secrets
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from extproc.adapters import keyfile
from extproc.adapters.keyfile import KeyFile, KeyFileError, locked, make_pepper, write_atomically
from extproc.adapters.keys import FileKeyStore, Hasher, Owner, read_pepper
from extproc.config.units import SecretRef

OWNER = Owner("demo", "chat", "acme", "ann")
HOUR = timedelta(hours=1)


@pytest.fixture
def hasher() -> Hasher:
    return Hasher(secrets.token_bytes(32))


@pytest.fixture
def key_file(tmp_path: Path, hasher: Hasher) -> KeyFile:
    return KeyFile(tmp_path / "keys.json", hasher)


def store_of(folder: Path, hasher: Hasher) -> FileKeyStore:
    store = FileKeyStore(hasher)
    store.apply((folder / "keys.json").read_bytes())
    return store


def test_neither_file_nor_repr_holds_the_secret(tmp_path: Path, key_file: KeyFile) -> None:
    """What is stored and what is printed by accident is of no use to a thief."""
    new = key_file.create(OWNER)
    part = new.secret.rsplit("-", 1)[1]
    assert part not in (tmp_path / "keys.json").read_text()
    assert part not in repr(new)
    assert (tmp_path / "keys.json").stat().st_mode & 0o777 == 0o600


def test_the_file_has_the_documented_fields(tmp_path: Path, key_file: KeyFile) -> None:
    """Operators and scripts read it."""
    key_file.create(OWNER, expires=HOUR, note="n")
    (entry,) = json.loads((tmp_path / "keys.json").read_text())["keys"]
    assert set(entry) == {"id", "digest", "team", "app", "created", "tenant", "user", "expires", "note"}


def test_an_organisation_is_kept(tmp_path: Path, key_file: KeyFile, hasher: Hasher) -> None:
    """In the file, for the caller that the key stands for, and over a rotation; a file without one reads as before."""
    old = key_file.create(Owner("demo", "chat", organisation="Acme Ö."))
    new = key_file.rotate(old.entry.id, grace=HOUR)
    plain = key_file.create(OWNER)
    store = store_of(tmp_path, hasher)
    found = [store.find(key.secret, time.time()).caller for key in (old, new, plain)]
    assert [caller.organisation for caller in found if caller is not None] == ["Acme Ö.", "Acme Ö.", ""]
    assert [entry.owner for entry in key_file.entries()][2] == OWNER


@pytest.mark.parametrize("name", ["a{b", "a}b", "a\nb", "x" * 129])
def test_an_organisation_that_cannot_be(key_file: KeyFile, name: str) -> None:
    """Braces would move its counters to another shard: nothing is written."""
    with pytest.raises(KeyFileError, match="organisation"):
        key_file.create(Owner("demo", "chat", organisation=name))
    assert key_file.entries() == ()


def test_rotation_gives_a_successor_and_ends_the_old_key(tmp_path: Path, key_file: KeyFile, hasher: Hasher) -> None:
    """Both work during the grace period, the new one alone after it."""
    old = key_file.create(OWNER, note="n")
    new = key_file.rotate(old.entry.id, grace=HOUR)
    store, now = store_of(tmp_path, hasher), time.time()
    assert new.entry.id != old.entry.id
    assert (new.entry.owner, new.entry.note, new.entry.replaces) == (OWNER, "n", old.entry.id)
    assert not store.find(old.secret, now + 3500).expired
    assert store.find(old.secret, now + 3700).expired
    assert not store.find(new.secret, now + 3700).expired


def test_rotation_does_not_lengthen_the_old_key_and_repeats_its_life(key_file: KeyFile) -> None:
    """A key that ends in an hour still does; its successor lives an hour as well."""
    old = key_file.create(OWNER, expires=HOUR)
    new = key_file.rotate(old.entry.id, grace=timedelta(days=9))
    kept = next(entry for entry in key_file.entries() if entry.id == old.entry.id)
    assert kept.expires == old.entry.expires
    assert new.entry.expires is not None
    assert new.entry.expires - new.entry.created == HOUR


def test_what_cannot_be_done_is_said(key_file: KeyFile) -> None:
    """Unknown ids, revoked keys and impossible owners change nothing."""
    key = key_file.create(OWNER)
    key_file.revoke(key.entry.id)
    before = key_file.entries()
    with pytest.raises(KeyFileError, match="revoked"):
        key_file.rotate(key.entry.id, grace=HOUR)
    with pytest.raises(KeyFileError, match="no key"):
        key_file.revoke("aaaaaaaaaa")
    for owner in (
        Owner("", "a"),
        Owner("t", "a" * 129),
        Owner("t\n", "a"),
        Owner("t", "a", "b\x00"),
        Owner("\ud800", "a"),
    ):
        with pytest.raises(KeyFileError, match="not written"):
            key_file.create(owner)
    assert key_file.entries() == before


@settings(max_examples=30, deadline=None)
@given(steps=st.lists(st.tuples(st.sampled_from(["create", "revoke", "rotate"]), st.integers(0, 50)), max_size=8))
def test_any_history_leaves_every_key_in_its_right_state(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[str, int]]
) -> None:
    """A model of live and revoked keys agrees with the store after any sequence of changes."""
    folder = tmp_path_factory.mktemp("keys")
    hasher = Hasher(secrets.token_bytes(32))
    key_file = KeyFile(folder / "keys.json", hasher)
    revoked: dict[str, bool] = {key_file.create(OWNER).secret: False}
    for step, pick in steps:
        secret = list(revoked)[pick % len(revoked)]
        key_id = secret.split("-")[1]
        if step == "create":
            revoked[key_file.create(OWNER).secret] = False
        elif step == "revoke":
            key_file.revoke(key_id)
            revoked[secret] = True
        elif not revoked[secret]:
            revoked[key_file.rotate(key_id, grace=HOUR).secret] = False
    store = store_of(folder, hasher)
    for secret, gone in revoked.items():
        caller = store.find(secret, time.time()).caller
        assert caller is not None
        assert caller.revoked is gone
    assert store.status().keys == len(revoked)


CREATE = """
import sys
from pathlib import Path
from extproc.adapters.keyfile import KeyFile
from extproc.adapters.keys import Hasher, Owner
file = KeyFile(Path(sys.argv[1]), Hasher(bytes.fromhex(sys.argv[2])))
for _ in range(int(sys.argv[3])):
    print(file.create(Owner("demo", sys.argv[4])).secret)
"""


def test_processes_that_change_the_file_at_once_lose_nothing(tmp_path: Path) -> None:
    """Two processes make keys while a third reads: every key is there, every read is whole."""
    path, pepper = tmp_path / "keys.json", secrets.token_bytes(32)
    command = [sys.executable, "-c", CREATE, str(path), pepper.hex(), "25"]
    writers = [subprocess.Popen([*command, app], stdout=subprocess.PIPE, text=True) for app in ("one", "two")]
    store = FileKeyStore(Hasher(pepper))
    while any(writer.poll() is None for writer in writers):
        if path.exists():
            store.apply(path.read_bytes())
    made = [line for writer in writers for line in writer.communicate(timeout=60)[0].split()]
    assert [writer.returncode for writer in writers] == [0, 0]
    store.apply(path.read_bytes())
    assert len(made) == 50
    assert all(store.find(secret, 0.0).caller is not None for secret in made)
    assert sorted(item.name for item in tmp_path.iterdir()) == ["keys.json", "keys.json.lock"]


def test_a_held_lock_is_waited_for_and_then_named(
    tmp_path: Path, key_file: KeyFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stuck process does not hang the command for ever."""
    monkeypatch.setattr(keyfile, "LOCK_WAIT", 0.1)
    with locked(tmp_path / "keys.json"), pytest.raises(KeyFileError, match="another process"):
        key_file.create(OWNER)
    assert key_file.create(OWNER).secret


def test_a_failed_write_leaves_the_old_file(tmp_path: Path, key_file: KeyFile, monkeypatch: pytest.MonkeyPatch) -> None:
    """The disk fills up between write and rename: the old file stays whole and no temporary file is left."""
    key_file.create(OWNER)
    before = (tmp_path / "keys.json").read_bytes()

    def full(_handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(keyfile.os, "fsync", full)
    with pytest.raises(KeyFileError, match="No space left"):
        key_file.create(OWNER)
    assert (tmp_path / "keys.json").read_bytes() == before
    assert not list(tmp_path.glob(".*"))


def test_a_link_to_the_key_file_stays_a_link(tmp_path: Path, hasher: Hasher) -> None:
    """The file behind it is replaced."""
    (tmp_path / "real").mkdir()
    link = tmp_path / "keys.json"
    link.symlink_to(tmp_path / "real" / "keys.json")
    KeyFile(link, hasher).create(OWNER)
    assert link.is_symlink()
    assert (tmp_path / "real" / "keys.json").is_file()


def test_write_atomically_replaces_and_is_private(tmp_path: Path) -> None:
    """Content and mode, also over a file that was open to all."""
    path = tmp_path / "x"
    path.write_text("old")
    path.chmod(0o666)
    write_atomically(path, b"new")
    assert path.read_bytes() == b"new"
    assert path.stat().st_mode & 0o777 == 0o600


def test_the_pepper_is_made_once(tmp_path: Path) -> None:
    """A second call keeps the first pepper: a new one would make all keys void."""
    path = tmp_path / "pepper"
    assert make_pepper(path)
    first = path.read_bytes()
    assert not make_pepper(path)
    assert path.read_bytes() == first
    assert len(read_pepper(SecretRef(file=path), {})) == 64


def test_the_state_of_an_entry(key_file: KeyFile) -> None:
    """Revoked wins over expired."""
    now = datetime.now(UTC)
    entry = key_file.create(OWNER, expires=HOUR).entry
    assert entry.state(now) == "live"
    assert entry.state(now + 2 * HOUR) == "expired"
    assert key_file.revoke(entry.id).state(now + 2 * HOUR) == "revoked"
