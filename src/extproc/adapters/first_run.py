"""What `up` makes on first use, and leaves alone ever after: pepper, redaction key, first key, CA, certificates.

Leaves are short-lived: made anew at each start, and renewed while the gateway runs (`leaves`).
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from extproc.adapters import pki, pki_bundle, pki_chain
from extproc.adapters.keyfile import KeyFile, make_pepper
from extproc.adapters.keys import Hasher, Owner, read_pepper
from extproc.adapters.leaves import GATEWAY, INTERCEPT, Leaves, Wanted
from extproc.adapters.redaction_key import make_redaction_key
from extproc.config import Config
from extproc.config.model import Keys
from extproc.config.units import SecretRef
from extproc.errors import ConfigError

CA_FOLDER: Final = "ca"
BUNDLE: Final = pki_bundle.BUNDLE
FIRST_KEY: Final = "first-key"
GATEWAY_NAMES: Final = ("localhost", "127.0.0.1", "::1")
CA_NAME: Final = "extproc interception CA"
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
    made = not pki_chain.exists(folder)
    if made:
        # the root's key stays on this machine, so the root itself is bound to the hosts of today
        hosts = dict.fromkeys((*provider_hosts(config), *gateway_names(config, names)))
        pki_chain.create_chain(folder, pki_chain.ChainPlan(CA_NAME, tuple(hosts), bind_root=True))
    pki_chain.load_issuer(folder)
    pki_bundle.write_bundle(folder, folder / BUNDLE)
    return made


def provider_hosts(config: Config) -> tuple[str, ...]:
    """All hosts that apps call, each once."""
    return tuple(dict.fromkeys(host for provider in config.providers.values() for host in provider.hosts))


def gateway_names(config: Config, names: tuple[str, ...] = ()) -> tuple[str, ...]:
    """The gateway's own names, for base URLs over TLS; `names`: further ones."""
    return (*GATEWAY_NAMES, *_further_names(config, names))


def _further_names(config: Config, names: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(name for name in (*config.interception.names, *names) if name not in GATEWAY_NAMES))


def leaves(state: Path, config: Config, sds: Path, names: tuple[str, ...] = ()) -> Leaves:
    """The SDS files of each provider's interception leaf (none where leaves are minted) and of the gateway's own names."""
    providers = {} if config.interception.minting else config.providers
    wanted = [Wanted(f"{INTERCEPT}{name}", tuple(p.hosts)) for name, p in providers.items() if p.hosts]
    wanted.append(Wanted(GATEWAY, _further_names(config, names), GATEWAY_NAMES))
    return Leaves(state / CA_FOLDER, sds, wanted, config.interception.leaf_life)


def certificates(state: Path, config: Config, envoy: Path, names: tuple[str, ...] = ()) -> Leaves:
    """Write the leaves into Envoy's folder; what is returned keeps them fresh. Raises `ConfigError`."""
    kept = leaves(state, config, envoy / "sds", names)
    try:
        kept.write()
    except ConfigError as error:
        if not error.path.startswith("hosts."):
            raise
        folder = state / CA_FOLDER  # the CA's hosts were fixed when it was made
        hint = "extproc ca rotate intermediate, or where the root is bound as well: extproc ca rotate root"
        raise ConfigError(
            error.path, error.reason, f"{hint}; a CA that no app trusts yet: move {folder} away"
        ) from None
    return kept


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
