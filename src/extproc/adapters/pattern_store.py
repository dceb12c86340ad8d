"""A folder that keeps what took long to make between starts: compiled pattern databases, prepared models.

Hyperscan trusts the bytes it is given. So a file counts only where nobody else can have written it: it belongs to this
user, others cannot write to it, and it holds the digest of its own key and contents.
"""

from __future__ import annotations

import hashlib
import os
import stat
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Final

_MAGIC: Final = b"extproc1"
_DIGEST: Final = hashlib.sha256().digest_size
_SUFFIX: Final = ".kept"
_WRITABLE_BY_OTHERS: Final = stat.S_IWGRP | stat.S_IWOTH


class FolderStore:
    """A `text.DatabaseStore` over `folder`, which is made on the first write. Several processes may share it.

    Nothing here raises because of the folder: one that cannot be read or written only costs time at the next start.
    """

    def __init__(self, folder: Path, *, most: int = 64) -> None:
        """`most`: files that are kept; the ones that were not used for longest go first."""
        self._folder: Final = folder
        self._most: Final = most

    def get(self, key: str) -> bytes | None:
        """The bytes that were put under `key`; None where there are none, or they are damaged (and now deleted)."""
        path = self._path(key)
        kept = _read_own(path)
        if kept is None:
            return None
        head = len(_MAGIC) + _DIGEST
        data = kept[head:]
        if kept[:head] != _MAGIC + _digest(key, data):
            with suppress(OSError):
                path.unlink()
            return None
        with suppress(OSError):
            os.utime(path)  # used: the last to be forgotten
        return data

    def put(self, key: str, data: bytes) -> None:
        """Keep `data` under `key`, in one step and for this user only."""
        path = self._path(key)
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            descriptor, name = tempfile.mkstemp(dir=self._folder, prefix=".new.")
        except OSError:
            return
        temporary = Path(name)
        try:
            with os.fdopen(descriptor, "wb") as stream:
                stream.write(_MAGIC)
                stream.write(_digest(key, data))
                stream.write(data)
            temporary.replace(path)
        except OSError:
            with suppress(OSError):
                temporary.unlink()
            return
        self._prune()

    def _path(self, key: str) -> Path:
        return self._folder / (hashlib.sha256(key.encode()).hexdigest()[:40] + _SUFFIX)

    def _prune(self) -> None:
        """Forget the oldest files beyond the limit; another process may be doing so at the same time."""
        used: list[tuple[float, Path]] = []
        try:
            for path in self._folder.glob(f"*{_SUFFIX}"):
                with suppress(FileNotFoundError):
                    used.append((path.stat().st_mtime, path))
        except OSError:
            return
        for _, path in sorted(used, reverse=True)[self._most :]:
            with suppress(OSError):
                path.unlink()


def _read_own(path: Path) -> bytes | None:
    """A regular file that belongs to this user and that others cannot write to; None for anything else."""
    try:
        # a pipe in its place must not make this wait
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        known = os.fstat(descriptor)
        if known.st_uid != os.geteuid() or known.st_mode & _WRITABLE_BY_OTHERS or not stat.S_ISREG(known.st_mode):
            return None
        with open(descriptor, "rb", closefd=False) as stream:
            return stream.read()
    except OSError:
        return None
    finally:
        os.close(descriptor)


def _digest(key: str, data: bytes) -> bytes:
    """Of the key too: a file under another's name is damaged."""
    digest = hashlib.sha256(len(name := key.encode()).to_bytes(8, "big") + name)
    digest.update(data)
    return digest.digest()
