"""What `up` makes on first use, and leaves alone ever after: pepper, redaction key, first key, CA, certificates.

Leaves are short-lived and made anew at each start; Envoy takes a new one by the rename of its SDS file.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from extproc.adapters import pki
from extproc.adapters.keyfile import KeyFile, make_pepper
from extproc.adapters.keys import Hasher, Owner, read_pepper
from extproc.adapters.redaction_key import make_redaction_key
from extproc.config import Config
from extproc.config.model import Keys
from extproc.config.units import SecretRef
from extproc.errors import ConfigError

CA_FOLDER: Final = "ca"
BUNDLE: Final = "bundle.pem"
FIRST_KEY: Final = "first-key"
GATEWAY_NAMES: Final = ("localhost", "127.0.0.1", "::1")
LEAF_DAYS: Final = 30.0
FIRST_OWNER: Final = Owner(team="demo", app="demo")


@dataclass(frozen=True, slots=True)
class Made:
    """What was new. `secret`: the first key, only when it was just made."""

    secret: str = ""
    authority: bool = False


def prepare(state: Path, config: Config, environ: Mapping[str, str], names: tuple[str, ...] = ()) -> Made:
    """Make what is missing. Raises `ConfigError` with the cure for what is there and cannot be used.

    `names`: further names of the gateway, which a new CA may sign for.
    """
    state.mkdir(parents=True, exist_ok=True, mode=0o700)
    pepper, keys = config.keys.pepper, Path(config.keys.file)
    check_pepper(config.keys)
    if pepper.file is not None:
        Path(pepper.file).parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        make_pepper(Path(pepper.file))
    if config.redaction is not None and config.redaction.key is not None:
        make_redaction_key(config.redaction.key)
    keys.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    secret = ""
    if not keys.exists():
        secret = (
            KeyFile(keys, Hasher(read_pepper(pepper, environ))).create(FIRST_OWNER, note="made by first use").secret
        )
        pki.write_atomic(state / FIRST_KEY, secret.encode())
    return Made(secret, _authority(state, config, names))


def check_pepper(keys: Keys) -> None:
    """Raise `ConfigError` where there are keys and their pepper is gone: a new one would fit none of them."""
    pepper, file = keys.pepper.file, Path(keys.file)
    if pepper is not None and file.exists() and not Path(pepper).exists():
        reason = f"{pepper} is not there, and without it no key of {file} can be recognised"
        raise ConfigError(
            "keys.pepper.file", reason, f"bring it back from a backup, or move {file} away and make new keys"
        )


def _authority(state: Path, config: Config, names: tuple[str, ...]) -> bool:
    folder = state / CA_FOLDER
    made = not (folder / pki.CA_CERTIFICATE).exists()
    hosts = [host for provider in config.providers.values() for host in provider.hosts]
    if made:
        pki.create_ca(folder, "extproc interception CA", hosts=[*hosts, *GATEWAY_NAMES, *names])
    pki.write_atomic(folder / BUNDLE, pki.load_ca(folder).bundle(), mode=0o644)
    return made


def certificates(state: Path, config: Config, envoy: Path, names: tuple[str, ...] = ()) -> None:
    """Write the SDS files of each provider's interception leaf and of the gateway's own names (plus `names`)."""
    authority = pki.load_ca(state / CA_FOLDER)
    sds = envoy / "sds"
    sds.mkdir(parents=True, exist_ok=True, mode=0o700)
    for name, provider in config.providers.items():
        if provider.hosts:
            leaf = _leaf(state, authority, provider.hosts)
            pki.write_sds_certificate(sds / f"intercept-{name}.yaml", f"intercept-{name}", leaf)
    leaf = _leaf(state, authority, (*GATEWAY_NAMES, *names))
    pki.write_sds_certificate(sds / "gateway.yaml", "gateway", leaf)


def _leaf(state: Path, authority: pki.Authority, hosts: Sequence[str]) -> pki.Leaf:
    try:
        return authority.issue(list(hosts), LEAF_DAYS)
    except ConfigError as error:  # its names were fixed when it was made
        folder = state / CA_FOLDER
        hint = f"move {folder} away: the next start makes a CA with the names of today, which apps must then trust"
        raise ConfigError(error.path, error.reason, hint) from None


def credential(name: str, reference: SecretRef | None, environ: Mapping[str, str] = os.environ) -> str | None:
    """A provider's key, or None where the variable is not set or none is named. Raises `ConfigError` for a lost file."""
    if reference is None:
        return None
    if reference.env is not None:
        return environ.get(reference.env, "").strip() or None
    try:
        return Path(reference.file or "").read_text().strip() or None
    except OSError as error:
        place = f"providers.{name}.credential.file"
        raise ConfigError(place, f"cannot be read: {error.strerror}", "write the vendor's key into it") from None
