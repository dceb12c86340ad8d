"""Changes to the key file: create, revoke, rotate. Each is one atomic replacement under a lock between processes."""

from __future__ import annotations

import fcntl
import os
import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

import msgspec

from extproc.adapters.keys import Entry, Hasher, KeyTable, Owner, new_id, new_secret, read_key_file, read_table
from extproc.errors import ConfigError

LOCK_WAIT: Final = 10.0
"""Seconds to wait for another process that is changing the same file."""

_LOCK_PAUSE: Final = 0.02


class KeyFileError(Exception):
    """What was asked for cannot be done to this key; the message is for the operator."""


@dataclass(frozen=True, slots=True)
class NewKey:
    """A key just made. The only place where the secret exists outside its owner's hands."""

    entry: Entry
    secret: str

    def __repr__(self) -> str:
        """Without the secret."""
        return f"NewKey(entry={self.entry!r}, secret=…)"


class KeyFile:
    """The key file at `path`. Every method reads it anew; a file that is not there is an empty one."""

    def __init__(self, path: Path, hasher: Hasher) -> None:
        """Write to what a symbolic link points to, so that the link stays."""
        self._path: Final = path.resolve()
        self._hasher: Final = hasher

    def entries(self) -> tuple[Entry, ...]:
        """All keys, revoked and expired ones too. Raises `ConfigError` for a file that cannot be read."""
        return self._read().keys

    def create(self, owner: Owner, *, expires: timedelta | None = None, note: str = "") -> NewKey:
        """Add a key for `owner` that ends after `expires`, if given. Raises `KeyFileError` for an owner out of bounds."""
        made: list[NewKey] = []

        def add(keys: tuple[Entry, ...]) -> tuple[Entry, ...]:
            made.append(self._new_key(keys, owner, expires, note=note))
            return (*keys, made[0].entry)

        self._change(add)
        return made[0]

    def revoke(self, key_id: str) -> Entry:
        """Revoke a key; once revoked it stays so. Raises `KeyFileError` for an unknown id."""

        def revoke(keys: tuple[Entry, ...]) -> tuple[Entry, ...]:
            old = _find(keys, key_id)
            return _replaced(keys, old if old.revoked else msgspec.structs.replace(old, revoked=_now()))

        return _find(self._change(revoke), key_id)

    def rotate(self, key_id: str, *, grace: timedelta) -> NewKey:
        """Make a new key, under a new id, for the owner of an old one, which ends after `grace` at the latest.

        A key with an end gives its successor as long a life as it had itself. Raises `KeyFileError` for an unknown or
        revoked key.
        """
        made: list[NewKey] = []

        def rotate(keys: tuple[Entry, ...]) -> tuple[Entry, ...]:
            old = _find(keys, key_id)
            if old.revoked is not None:
                raise KeyFileError(f"the key {key_id} is revoked: create a new one instead")
            life = None if old.expires is None else old.expires - old.created
            made.append(self._new_key(keys, old.owner, life, note=old.note, replaces=old.id))
            end = _now() + grace
            ended = msgspec.structs.replace(old, expires=end if old.expires is None else min(old.expires, end))
            return (*_replaced(keys, ended), made[0].entry)

        self._change(rotate)
        return made[0]

    def _new_key(
        self, keys: tuple[Entry, ...], owner: Owner, life: timedelta | None, *, note: str = "", replaces: str = ""
    ) -> NewKey:
        taken = {entry.id for entry in keys}
        key_id = next(candidate for candidate in iter(new_id, "") if candidate not in taken)
        secret = new_secret(key_id)
        now = _now()
        entry = Entry(
            id=key_id,
            digest=self._hasher.digest(secret).hex(),
            team=owner.team,
            app=owner.app,
            tenant=owner.tenant,
            user=owner.user,
            organisation=owner.organisation,
            created=now,
            expires=None if life is None else now + life,
            replaces=replaces,
            note=note,
        )
        return NewKey(entry, secret)

    def _read(self) -> KeyTable:
        if not self._path.exists():
            return KeyTable(version=1, pepper=self._hasher.fingerprint)
        return read_table(read_key_file(self._path), self._hasher.fingerprint)

    def _change(self, edit: Callable[[tuple[Entry, ...]], tuple[Entry, ...]]) -> tuple[Entry, ...]:
        """Read, edit and replace the file while no other process does."""
        try:
            with locked(self._path):
                table = self._read()
                changed = msgspec.structs.replace(table, keys=edit(table.keys))
                write_atomically(self._path, self._encoded(changed))
        except OSError as error:
            raise KeyFileError(f"cannot write {self._path}: {error.strerror}") from None
        return changed.keys

    def _encoded(self, table: KeyTable) -> bytes:
        try:
            data = msgspec.json.format(msgspec.json.encode(table), indent=2) + b"\n"
            read_table(data, self._hasher.fingerprint)  # what we write, every reader must take
        except UnicodeEncodeError:
            raise KeyFileError("not written: the text is not valid Unicode") from None
        except ConfigError as error:
            raise KeyFileError(f"not written: {error.reason}") from None
        return data


def _find(keys: tuple[Entry, ...], key_id: str) -> Entry:
    for entry in keys:
        if entry.id == key_id:
            return entry
    raise KeyFileError(f"there is no key {key_id}: see `extproc keys list`")


def _replaced(keys: tuple[Entry, ...], new: Entry) -> tuple[Entry, ...]:
    return tuple(new if entry.id == new.id else entry for entry in keys)


def _now() -> datetime:
    return datetime.now(UTC).replace(microsecond=0)


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the exclusive lock of `path`: a file beside it, `<name>.lock`, since `path` itself is replaced.

    Raises `KeyFileError` after `LOCK_WAIT` seconds, `OSError` where the folder cannot be written to.
    """
    handle = os.open(path.with_name(path.name + ".lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        deadline = time.monotonic() + LOCK_WAIT
        while not _try_lock(handle):
            if time.monotonic() > deadline:
                raise KeyFileError(f"another process holds {path}.lock")
            time.sleep(_LOCK_PAUSE)
        yield
    finally:
        os.close(handle)  # releases the lock


def _try_lock(handle: int) -> bool:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def write_atomically(path: Path, data: bytes) -> None:
    """Replace `path` by `data`, mode 0600: a reader, or a crash at any moment, sees the old file or the new one."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.rename(path)
    except OSError:
        with suppress(FileNotFoundError):
            temporary.unlink()
        raise
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(folder)  # makes the rename itself durable
    finally:
        os.close(folder)


def make_pepper(path: Path) -> bool:
    """Make a pepper file of 32 random bytes in hex, unless there is one; tell whether it was made."""
    with locked(path):
        if path.exists():
            return False
        write_atomically(path, secrets.token_hex(32).encode() + b"\n")
        return True
