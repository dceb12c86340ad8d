"""The secret behind hashes and keyed pseudonyms (`redaction.key`): all workers and replicas need the same one."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Final

from extproc.adapters.keyfile import make_pepper
from extproc.adapters.keys import read_guarded
from extproc.config.units import SecretRef
from extproc.errors import ConfigError

MIN_LENGTH: Final = 32
_PLACE: Final = "redaction.key"


def read_redaction_key(reference: SecretRef, environ: Mapping[str, str]) -> bytes:
    """Read the key from its environment variable or file. Surrounding white space is not part of it.

    Raises `ConfigError` where it is absent, shorter than 32 bytes, or a file that other users can read.
    """
    if reference.env is not None:
        key = environ.get(reference.env, "").encode().strip()
        if not key:
            raise ConfigError(f"{_PLACE}.env", f"the variable {reference.env} is not set", "set it")
    else:
        path = Path(reference.file or "")
        if not path.exists():
            reason = f"{path} is not there"
            raise ConfigError(f"{_PLACE}.file", reason, "start with `extproc up`, which makes it, or mount the secret")
        key = read_guarded(path, f"{_PLACE}.file", private=True).strip()
    if len(key) < MIN_LENGTH:
        place = f"{_PLACE}.{'env' if reference.env is not None else 'file'}"
        raise ConfigError(place, f"is shorter than {MIN_LENGTH} bytes", "make one: openssl rand -hex 32")
    return key


def make_redaction_key(reference: SecretRef) -> bool:
    """Make the file with 32 random bytes in hex, unless it is there; tell whether it was made. Variables are left alone."""
    if reference.file is None:
        return False
    path = Path(reference.file)
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    return make_pepper(path)
