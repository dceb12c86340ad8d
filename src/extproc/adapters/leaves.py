"""Keeps the leaves in Envoy's `sds/` folder fresh: each file holds one certificate with its key, and is replaced whole.

Envoy takes the file by its rename: open connections go on, new ones get the new leaf. The files themselves are the
state, so that `extproc ca rotate` in another process and a restart need no word with this one.
"""

from __future__ import annotations

import asyncio
import datetime as dt
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import structlog
import yaml
from cryptography import x509

from extproc.adapters.pki import Authority, make_folder, write_sds_certificate
from extproc.adapters.pki_chain import due, load_issuer, renew_intermediate
from extproc.adapters.pki_files import locked
from extproc.errors import ConfigError

GATEWAY: Final = "gateway"
INTERCEPT: Final = "intercept-"  # prefix of the secret (and file) with a provider's hosts
DAY: Final = 86_400.0
_LOOK: Final = 30.0  # seconds between two looks, at most; two fall into the last third of a leaf's life in any case


@dataclass(frozen=True, slots=True)
class Wanted:
    """A leaf that Envoy needs: the name of its secret, which is its file's too, and the hosts it is for.

    `optional`: hosts that it is for as well, where the CA may sign for them (a corporate one may not sign for loopback).
    """

    secret: str
    hosts: tuple[str, ...]
    optional: tuple[str, ...] = ()

    def names(self, authority: Authority) -> tuple[str, ...]:
        """All hosts that `authority` can put into it. Raises ConfigError where there is none."""
        names = (*(host for host in self.optional if authority.may_sign(host)), *self.hosts)
        if not names:
            reason = f"the CA may sign for none of {', '.join(self.optional)}"
            raise ConfigError(
                "interception.names", reason, "name one that the CA may sign for: apps call the gateway by it"
            )
        return names


class Leaves:
    """The SDS files of one gateway. `life`: seconds that a leaf lives."""

    def __init__(self, ca: Path, sds: Path, wanted: Iterable[Wanted], life: float) -> None:
        self._ca = ca
        self._sds = sds
        self._wanted = tuple(wanted)
        self._days = life / DAY
        self._look = min(_LOOK, life / 6)
        self._read: dict[Path, tuple[int, x509.Certificate]] = {}
        self._said = ""
        self._log = structlog.get_logger("extproc.certificates")

    def write(self) -> None:
        """Write every leaf anew. Raises ConfigError."""
        with locked(self._ca):
            authority = load_issuer(self._ca)
            for wanted in self._wanted:
                self._issue(authority, wanted)

    def renew(self, now: dt.datetime) -> list[str]:
        """Write those that are missing, or due (`pki_chain.due`); their secrets' names. Raises ConfigError, OSError.

        Where the root's key is here, an intermediate past two thirds of its life is made anew first. What fails there, or
        for one leaf, is raised when the other leaves are written.
        """
        troubles: list[ConfigError] = []
        try:
            if renew_intermediate(self._ca, now):
                self._log.info("intermediate renewed", folder=str(self._ca))
        except ConfigError as error:
            troubles.append(error)
        wanting = [wanted for wanted in self._wanted if self._is_due(self._file(wanted), now)]
        if wanting:
            # a switch of the root between reading the CA and writing would leave leaves of the old one
            with locked(self._ca):
                authority = load_issuer(self._ca)
                for wanted in wanting:
                    try:
                        self._issue(authority, wanted)
                    except ConfigError as error:
                        troubles.append(error)
        if troubles:
            raise troubles[0]
        return [wanted.secret for wanted in wanting]

    async def run(self) -> None:
        """Renew for ever. What fails is logged, once for each reason, and tried again: a leaf has a third of its life left."""
        while True:
            await asyncio.sleep(self._look)
            await self.look()

    async def look(self) -> None:
        """Renew what is due now."""
        try:
            renewed = await asyncio.to_thread(self.renew, dt.datetime.now(dt.UTC))
        except (ConfigError, OSError) as error:
            if str(error) != self._said:
                self._said = str(error)
                self._log.error("certificates are not renewed", reason=str(error))
            return
        self._said = ""
        if renewed:
            self._log.info("certificates renewed", names=renewed)

    def _file(self, wanted: Wanted) -> Path:
        return self._sds / f"{wanted.secret}.yaml"

    def _issue(self, authority: Authority, wanted: Wanted) -> None:
        make_folder(self._sds)
        write_sds_certificate(self._file(wanted), wanted.secret, authority.issue(wanted.names(authority), self._days))

    def _is_due(self, path: Path, now: dt.datetime) -> bool:
        """Whether a file's leaf is to be renewed; also where there is no leaf to be read."""
        try:
            mark = path.stat().st_mtime_ns
            known = self._read.get(path)
            if known is None or known[0] != mark:
                known = self._read[path] = (mark, read_leaf(path))
        except (FileNotFoundError, ConfigError):
            return True
        return due(known[1], now)


def read_leaf(path: Path) -> x509.Certificate:
    """The certificate in an SDS file. Raises ConfigError where it holds none."""
    return read_chain(path)[0]


def read_chain(path: Path) -> tuple[x509.Certificate, ...]:
    """The certificate in an SDS file, and those that are sent with it. Raises ConfigError where it holds none."""
    try:
        (resource,) = yaml.safe_load(path.read_bytes())["resources"]
        pem = resource["tls_certificate"]["certificate_chain"]["inline_string"].encode()
        return tuple(x509.load_pem_x509_certificates(pem))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, yaml.YAMLError) as error:
        # from None: a parser's message may quote the key beside it
        raise ConfigError(
            str(path), f"holds no certificate ({type(error).__name__})", "remove it: it is made anew"
        ) from None


def names_of(leaf: x509.Certificate) -> tuple[str, ...]:
    """The hosts in a leaf, names and addresses."""
    names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    return tuple(str(name.value) for name in names)


def leaf_files(sds: Path) -> list[Path]:
    """The SDS files with leaves of ours, by name."""
    found = [path for path in sds.glob("*.yaml") if path.stem == GATEWAY or path.stem.startswith(INTERCEPT)]
    return sorted(path for path in found if b"inline_string" in path.read_bytes())


def in_use(sds: Path, now: dt.datetime) -> dict[str, tuple[x509.Certificate, ...]]:
    """The leaves in `sds` that have not ended, each with its chain, by file. Raises ConfigError for one without."""
    chains = {str(path): read_chain(path) for path in leaf_files(sds)}
    return {name: chain for name, chain in chains.items() if now < chain[0].not_valid_after_utc}


@dataclass(frozen=True, slots=True)
class Reissued:
    """What became of the files. `made`: the secrets' names; `skipped`: file and reason of each that stayed as it was."""

    made: tuple[str, ...]
    skipped: tuple[tuple[Path, str], ...]


def reissue(ca: Path, sds: Path, life: float, optional: Collection[str] = ()) -> Reissued:
    """Replace every leaf in `sds` by one for the same hosts, each by one rename. Raises ConfigError.

    A file that the CA cannot sign for stays as it is, such as that of a provider that is configured no more. `optional`:
    hosts that are left out where the CA may not sign for them.
    """
    with locked(ca):
        authority = load_issuer(ca)
        made, skipped = [], []
        for path in leaf_files(sds):
            try:
                hosts = names_of(read_leaf(path))
                wanted = [host for host in hosts if host not in optional or authority.may_sign(host)]
                leaf = authority.issue(wanted, life / DAY)
            except ConfigError as error:
                if error.path == "ca":  # it has expired: that is for no file
                    raise
                skipped.append((path, f"{error.path}: {error.reason}"))
                continue
            write_sds_certificate(path, path.stem, leaf)
            made.append(path.stem)
    return Reissued(tuple(made), tuple(skipped))
