"""Reading certificates and keys from files, with the cure for each that cannot be used, and writing them as PEM."""

from __future__ import annotations

import contextlib
import datetime as dt
import errno
import fcntl
import os
import stat
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from extproc.errors import ConfigError

LOCK_WAIT: Final = 10.0  # seconds; a change of the CA takes a few milliseconds
_NO_LOCKS: Final = {errno.EBADF, errno.ENOLCK, errno.EOPNOTSUPP}  # a network file system may have none for folders


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold a CA folder's lock: who changes the CA, or writes leaves of it, waits for who does already.

    The lock is on the folder itself: no file of it can be left behind with another owner, and a read-only folder has one as
    well. The kernel drops it with the process. Raises ConfigError after `LOCK_WAIT`, and where there is no folder.
    """
    try:
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise ConfigError(
            str(folder), f"cannot be read ({error.strerror})", "make a CA with: extproc ca init"
        ) from error
    try:
        deadline = time.monotonic() + LOCK_WAIT
        while not _lock(handle):
            if time.monotonic() > deadline:
                raise ConfigError(str(folder), "another process is changing the CA", "try again when it has ended")
            time.sleep(0.02)
        yield
    finally:
        os.close(handle)


def _lock(handle: int) -> bool:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
    return True


def read_bytes(path: Path) -> bytes:
    """What is in a file. Raises ConfigError."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigError(str(path), f"cannot be read ({error.strerror})", "make a CA with: extproc ca init") from error


def read_certificates(path: Path) -> tuple[x509.Certificate, ...]:
    """The certificates of a PEM file, at least one, in order. Raises ConfigError."""
    try:
        return tuple(x509.load_pem_x509_certificates(read_bytes(path)))
    except ValueError as error:
        # from None: a parser's message may quote what it read
        raise ConfigError(str(path), f"not a PEM certificate ({type(error).__name__})") from None


def read_key(path: Path) -> ec.EllipticCurvePrivateKey:
    """An unencrypted EC key (PEM; other parts of the file are skipped). Raises ConfigError; also where others can read it."""
    refuse_open(path)
    try:
        key = serialization.load_pem_private_key(_key_part(read_bytes(path)), password=None)
    except (ValueError, TypeError) as error:
        raise ConfigError(str(path), f"not an unencrypted PEM key ({type(error).__name__})") from None
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise ConfigError(str(path), "not an EC key", "make the CA with: extproc ca init")
    return key


def _key_part(data: bytes) -> bytes:
    """The first private key in a PEM file that holds certificates as well."""
    start = data.find(b"-----BEGIN ")
    while start >= 0:
        label = data[start + 11 : data.find(b"-----", start + 11)]
        if label.endswith(b"PRIVATE KEY"):
            return data[start:]
        start = data.find(b"-----BEGIN ", start + 11)
    return data


def refuse_open(path: Path) -> None:
    """Raise ConfigError where a key file is open to other users.

    A file of another user that this process reads through its group is how Kubernetes mounts a Secret for a pod that
    is not root (`fsGroup`, mode 0440): there the group is this process's own.
    """
    try:
        status = path.stat()
    except OSError as error:
        raise ConfigError(str(path), f"cannot be read ({error.strerror})", "make a CA with: extproc ca init") from error
    mode = stat.S_IMODE(status.st_mode)
    mounted = status.st_uid != os.geteuid() and status.st_gid in {os.getegid(), *os.getgroups()}
    if mode & (0o027 if mounted else 0o077):
        raise ConfigError(str(path), f"the CA key is open to other users (mode {mode:04o})", f"chmod 600 {path}")


def check_ca(certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey, path: Path) -> None:
    """Raise ConfigError where the certificate in `path` is not a CA's, has expired, or belongs to another key."""
    if key.public_key() != certificate.public_key():
        raise ConfigError(str(path), "not the certificate of its (EC) key", "restore the pair together")
    if not is_ca(certificate):
        raise ConfigError(str(path), "not a CA certificate", "make one with: extproc ca init")
    if certificate.not_valid_after_utc <= dt.datetime.now(dt.UTC):
        hint = "extproc ca rotate intermediate; a root: move it away and run extproc ca init"
        raise ConfigError(str(path), "the CA has expired", hint)


def is_ca(certificate: x509.Certificate) -> bool:
    """Whether it may sign others (4.2.1.9)."""
    try:
        return certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    except x509.ExtensionNotFound:
        return False


def key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    """The key as unencrypted PKCS #8 PEM."""
    plain = serialization.NoEncryption()
    return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, plain)


def to_pem(*certificates: x509.Certificate) -> bytes:
    """The certificates, PEM, in order."""
    return b"".join(certificate.public_bytes(serialization.Encoding.PEM) for certificate in certificates)
