"""The address of the store of limits: one server, Sentinels, a cluster, a Unix socket, or the embedded server."""

from __future__ import annotations

import re
from typing import Final, Literal, NamedTuple, TypeAlias

from extproc.config.units import bad

Form: TypeAlias = Literal["embedded", "unix", "single", "sentinel", "cluster"]

EMBEDDED: Final = "embedded"

_DEFAULT_PORT: Final = 6379
_SENTINEL_PORT: Final = 26379
_MOST_HOSTS: Final = 64
_SCHEME: Final = re.compile(r"(valkey|redis)(s)?(?:\+(sentinel|cluster))?")
_HOST: Final = re.compile(
    r"(\[[0-9a-fA-F:.]{2,45}\]|[A-Za-z0-9_](?:[A-Za-z0-9._-]{0,251}[A-Za-z0-9_])?)(?::([0-9]{1,5}))?"
)
_SERVICE: Final = re.compile(r"[A-Za-z0-9._-]{1,128}")
_DATABASE: Final = re.compile(r"[0-9]{1,5}")
_PATH: Final = re.compile(r"/[\x21-\x7e]{1,106}")  # what fits into a socket's address
_HINT: Final = (
    "write embedded, unix:///run/valkey.sock, valkey://host:6379/0 (valkeys:// with TLS), "
    "valkey+sentinel://h1:26379,h2:26379/mymaster or valkey+cluster://h1:6379,h2:6379"
)


class StoreUrl(NamedTuple):
    """Where the store is.

    `hosts`: of the one server, of the Sentinels, or of some nodes of the cluster; IPv6 without brackets. `path`: of the
    Unix socket. `service`: the name that Sentinels know the primary by.
    """

    form: Form
    hosts: tuple[tuple[str, int], ...] = ()
    path: str = ""
    service: str = ""
    database: int = 0
    tls: bool = False


def read_store_url(text: str) -> StoreUrl:
    """Read an address. Raises a validation error that does not repeat it: a password may have been put there."""
    if text == EMBEDDED:
        return StoreUrl("embedded")
    scheme, separator, rest = text.partition("://")
    if not separator:
        raise bad("is not the address of a store", _HINT)
    if "@" in rest:
        raise bad(
            "holds a user name or password: secrets only by reference", "write `username` and `password` beside it"
        )
    if "?" in rest or "#" in rest:
        raise bad("has parameters, which nothing reads", _HINT)
    return _socket(rest) if scheme == "unix" else _network(scheme, rest)


def _socket(path: str) -> StoreUrl:
    if _PATH.fullmatch(path) is None:
        raise bad("is not the path of a socket", "write all of it, at most 107 bytes: unix:///run/valkey.sock")
    return StoreUrl("unix", path=path)


def _network(scheme: str, rest: str) -> StoreUrl:
    found = _SCHEME.fullmatch(scheme)
    if found is None:
        raise bad("has a scheme that is not known", _HINT)
    authority, _, tail = rest.partition("/")
    tls = found[2] is not None
    if found[3] == "sentinel":
        return _sentinel(_hosts(authority, _SENTINEL_PORT), tail, tls=tls)
    hosts = _hosts(authority, _DEFAULT_PORT)
    if found[3] == "cluster":
        if tail not in {"", "0"}:
            raise bad("names a database, and a cluster has one only", "take out what follows the hosts")
        return StoreUrl("cluster", hosts, tls=tls)
    if len(hosts) > 1:
        raise bad("names several hosts", "write valkey+sentinel:// or valkey+cluster:// for several")
    return StoreUrl("single", hosts, database=_database(tail), tls=tls)


def _sentinel(hosts: tuple[tuple[str, int], ...], tail: str, *, tls: bool) -> StoreUrl:
    service, _, database = tail.partition("/")
    if _SERVICE.fullmatch(service) is None:
        raise bad("does not say which primary the Sentinels are asked for", "write it last: …:26379/mymaster")
    return StoreUrl("sentinel", hosts, service=service, database=_database(database), tls=tls)


def _database(text: str) -> int:
    if not text:
        return 0
    if _DATABASE.fullmatch(text) is None:
        raise bad("has a database that is not a number", "write it last: valkey://host:6379/0")
    return int(text)


def _hosts(authority: str, default: int) -> tuple[tuple[str, int], ...]:
    found: list[tuple[str, int]] = []
    for part in authority.split(","):
        match = _HOST.fullmatch(part)
        port = int(match[2] or default) if match is not None else 0
        if match is None or not 0 < port < 65536:
            raise bad("has a host that cannot be read", "write host:port, IPv6 in brackets, several with commas")
        found.append((match[1].strip("[]"), port))
    if len(found) > _MOST_HOSTS:
        raise bad("has too many hosts", f"at most {_MOST_HOSTS}")
    return tuple(found)
