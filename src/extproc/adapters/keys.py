"""Virtual keys: their form, how they are stored, and the fast look-up that each call makes.

A key is `exk-<id>-<secret>`: an id of 10 base32 characters that may be logged and 192 random bits in base62. Stored is
a keyed BLAKE2b-256 of the whole key; its key is the pepper, kept apart from the key file. So a copied key file is
neither a set of keys nor a dictionary to guess them with, and a look-up costs microseconds: with 192 random bits there
is nothing that a slow password hash would protect.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Annotated, Final, Protocol

import msgspec

from extproc.config.model import Keys
from extproc.config.units import SecretRef
from extproc.errors import ConfigError
from extproc.exchange.effects import Caller, FoundKey

PREFIX: Final = "exk-"
ID_LENGTH: Final = 10
SECRET_LENGTH: Final = 33
KEY_LENGTH: Final = len(PREFIX) + ID_LENGTH + 1 + SECRET_LENGTH
MIN_PEPPER: Final = 32

_SECRET_BITS: Final = 192
_BASE32: Final = "abcdefghijklmnopqrstuvwxyz234567"
_BASE62: Final = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_ID_START: Final = len(PREFIX)
_ID_END: Final = _ID_START + ID_LENGTH
_UNKNOWN: Final = FoundKey(caller=None)
_NO_DIGEST: Final = bytes(32)  # compared with where the id is unknown; no key has it

Time = Annotated[datetime, msgspec.Meta(tz=True)]


Label = Annotated[str, msgspec.Meta(min_length=1, max_length=128, pattern=r"^[^\x00-\x1f\x7f]+\Z")]
OptionalLabel = Annotated[str, msgspec.Meta(max_length=128, pattern=r"^[^\x00-\x1f\x7f]*\Z")]
# without braces: it stands between them in the names of counters, and decides their shard
Organisation = Annotated[str, msgspec.Meta(max_length=128, pattern=r"^[^\x00-\x1f\x7f{}]*\Z")]


class Owner(msgspec.Struct, frozen=True):
    """Whom a key stands for."""

    team: str
    app: str
    tenant: str = ""
    user: str = ""
    organisation: str = ""


class Entry(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """One key in the key file. Times are RFC 3339 with a zone."""

    id: Annotated[str, msgspec.Meta(pattern=r"^[a-z2-7]{10}\Z")]
    digest: Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{64}\Z")]
    team: Label
    app: Label
    created: Time
    tenant: OptionalLabel = ""
    user: OptionalLabel = ""
    expires: Time | None = None
    revoked: Time | None = None
    replaces: str = ""  # the id of the key that this one took over from
    note: Annotated[str, msgspec.Meta(max_length=1000)] = ""
    organisation: Organisation = ""

    @property
    def owner(self) -> Owner:
        """Whom the key stands for."""
        return Owner(self.team, self.app, self.tenant, self.user, self.organisation)

    def state(self, now: datetime) -> str:
        """`live`, `expired` or `revoked` at `now`."""
        if self.revoked is not None:
            return "revoked"
        return "expired" if self.expires is not None and self.expires <= now else "live"


class KeyTable(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The key file. `pepper` is a fingerprint, so that the wrong pepper is told from wrong keys."""

    version: int
    pepper: str
    keys: tuple[Entry, ...] = ()


class KeyStore(Protocol):
    """Where virtual keys are looked up."""

    def find(self, secret: str, now: float) -> FoundKey:
        """Look a caller's key up at the time `now` (UNIX seconds). Never raises for what a caller may send."""
        ...


class Hasher:
    """Digests of keys under one pepper."""

    __slots__ = ("_state", "fingerprint")

    def __init__(self, pepper: bytes) -> None:
        """Raise `ConfigError` where the pepper is shorter than 32 bytes."""
        if len(pepper) < MIN_PEPPER:
            raise ConfigError("keys.pepper", f"is shorter than {MIN_PEPPER} bytes", "make one: openssl rand -hex 32")
        key = hashlib.blake2b(pepper, digest_size=64, person=b"extproc-pepper").digest()
        self._state = hashlib.blake2b(key=key, digest_size=32, person=b"extproc-key-v1")
        self.fingerprint: Final = hashlib.blake2b(key, digest_size=8, person=b"extproc-finger").hexdigest()

    def digest(self, secret: str) -> bytes:
        """Hash one key. The keyed state is prepared once and copied, which halves the cost."""
        state = self._state.copy()
        state.update(secret.encode("utf-8", "surrogatepass"))
        return state.digest()


@dataclass(frozen=True, slots=True)
class KeyStoreStatus:
    """What the store holds. `error` is why the last table was refused; the one before is then still in use."""

    ok: bool
    keys: int
    generation: int  # tables taken so far
    error: str = ""


class _Row(msgspec.Struct, frozen=True):
    digest: bytes
    expires_at: float
    live: FoundKey
    expired: FoundKey


KeyRows = Mapping[str, _Row]
"""A key file made ready for look-ups: id -> what to answer."""


class FileKeyStore:
    """The keys of a key file, held in memory. One table at a time, swapped whole: a look-up never sees half of one."""

    def __init__(self, hasher: Hasher) -> None:
        """Start empty: every key is unknown until a table is taken."""
        self._hasher = hasher
        self._rows: KeyRows = {}
        self._status = KeyStoreStatus(ok=True, keys=0, generation=0)

    def find(self, secret: str, now: float) -> FoundKey:
        """Look a key up. Unknown id, wrong secret and right secret do the same work: one digest, one compare."""
        if len(secret) != KEY_LENGTH or not secret.startswith(PREFIX):
            return _UNKNOWN  # not in the form of our keys, which is no secret
        row = self._rows.get(secret[_ID_START:_ID_END])
        same = hmac.compare_digest(self._hasher.digest(secret), _NO_DIGEST if row is None else row.digest)
        if row is None or not same:
            return _UNKNOWN
        return row.live if now < row.expires_at else row.expired

    def prepare(self, data: bytes) -> KeyRows:
        """Read a key file without taking it. Raises `ConfigError`. Needs no state, so it may run in another thread."""
        table = read_table(data, self._hasher.fingerprint)
        return {entry.id: _row(entry) for entry in table.keys}

    def commit(self, rows: KeyRows) -> None:
        """Take what `prepare` read: from the next look-up on it is what counts."""
        self._rows = rows
        self._status = KeyStoreStatus(ok=True, keys=len(rows), generation=self._status.generation + 1)

    def apply(self, data: bytes) -> None:
        """Read and take a key file. Raises `ConfigError` and keeps the old table where it cannot be used."""
        try:
            rows = self.prepare(data)
        except ConfigError as error:
            self.refuse(error)
            raise
        self.commit(rows)

    def refuse(self, error: ConfigError) -> None:
        """Note that a new table could not be used."""
        self._status = KeyStoreStatus(
            ok=False, keys=self._status.keys, generation=self._status.generation, error=str(error)
        )

    def status(self) -> KeyStoreStatus:
        """Tell how many keys there are, and whether the last table was taken."""
        return self._status


def open_key_store(keys: Keys, environ: Mapping[str, str]) -> FileKeyStore:
    """Open the store of a configuration and read its key file. Raises `ConfigError` for each way that can fail."""
    store = FileKeyStore(Hasher(read_pepper(keys.pepper, environ)))
    store.apply(read_key_file(Path(keys.file)))
    return store


def read_table(data: bytes, fingerprint: str) -> KeyTable:
    """Parse a key file made under the pepper of `fingerprint`. Raises `ConfigError` that repeats no digest."""
    try:
        table = msgspec.json.decode(data, type=KeyTable)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ConfigError("keys.file", f"is not a key file: {error}", "restore it; the old keys stay in use") from None
    if table.version != 1:
        raise ConfigError("keys.file", f"has version {table.version}, this release reads 1", "install a newer extproc")
    if table.pepper != fingerprint:
        raise ConfigError(
            "keys.pepper", "is not the pepper that these keys were made with", "restore the pepper, or make new keys"
        )
    seen: set[str] = set()
    for entry in table.keys:
        if entry.id in seen:
            raise ConfigError("keys.file", f"holds the id {entry.id} twice", "remove one of the two entries")
        seen.add(entry.id)
    return table


def _row(entry: Entry) -> _Row:
    caller = Caller(
        key_id=entry.id,
        team=entry.team,
        app=entry.app,
        tenant=entry.tenant,
        user=entry.user,
        expires_at=None if entry.expires is None else entry.expires.timestamp(),
        revoked=entry.revoked is not None,
        organisation=entry.organisation,
    )
    return _Row(
        digest=bytes.fromhex(entry.digest),
        expires_at=float("inf") if caller.expires_at is None else caller.expires_at,
        live=FoundKey(caller),
        expired=FoundKey(caller, expired=True),
    )


def new_secret(key_id: str) -> str:
    """Make a key for `key_id` from the system's random source."""
    number, text = secrets.randbits(_SECRET_BITS), ""
    for _ in range(SECRET_LENGTH):
        number, digit = divmod(number, len(_BASE62))
        text = _BASE62[digit] + text
    return f"{PREFIX}{key_id}-{text}"


def new_id() -> str:
    """Make a key id: 50 random bits."""
    return "".join(secrets.choice(_BASE32) for _ in range(ID_LENGTH))


def read_pepper(reference: SecretRef, environ: Mapping[str, str]) -> bytes:
    """Read the pepper from its environment variable or file. Surrounding white space is not part of it.

    Raises `ConfigError` where it is absent, too short, or readable by others.
    """
    if reference.env is not None:
        if not environ.get(reference.env):
            raise ConfigError("keys.pepper.env", f"the variable {reference.env} is not set", "set it")
        pepper = environ[reference.env].encode().strip()
    else:
        pepper = read_guarded(Path(reference.file or ""), "keys.pepper.file", private=True).strip()
    Hasher(pepper)  # judges the length
    return pepper


def read_key_file(path: Path) -> bytes:
    """Read the key file. Raises `ConfigError` where it is absent or may be written by others."""
    return read_guarded(path, "keys.file", private=False)


def read_guarded(path: Path, place: str, *, private: bool) -> bytes:
    """Read a file whose mode matters, judging the very file that is read.

    Never writable by group or others, who could bring a revoked key back. `private`: not readable by others, and by the
    group only where the file is another user's, as a mounted secret is. `place` names the setting in `ConfigError`.
    """
    try:
        with path.open("rb") as file:
            found = os.fstat(file.fileno())
            data = file.read()
    except OSError as error:
        reason = f"cannot be read: {path}: {error.strerror}"
        raise ConfigError(place, reason, "make the first key: extproc keys create") from None
    mode = stat.S_IMODE(found.st_mode)
    allowed = stat.S_IRGRP if private and found.st_uid != os.geteuid() else 0
    refused = (0o077 if private else 0o022) & ~allowed
    if mode & refused:
        reason = f"{path} has mode {mode:04o}, open to other users"
        raise ConfigError(place, reason, f"chmod 600 {path}; for a mounted secret set defaultMode: 0440")
    return data
