"""Roads around the gateway: straight to a vendor, by address, port, name or version of IP; and to a cloud's metadata."""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Final

from extproc.roads.hello import judge_ech
from extproc.roads.road import Attempt, Finding, Road, Scope, Target, not_tried
from extproc.roads.wire import dial, judge_plain, judge_tls, no_route, shown

HTTPS: Final = 443
# a name that any firewall would let through, to hide another destination behind
INNOCENT: Final = "www.example.com"
_GREETINGS: Final = {22: b"SSH-2.0-probe\r\n"}
_METADATA_REQUEST: Final = b"GET /latest/meta-data/ HTTP/1.1\r\nHost: metadata\r\nMetadata-Flavor: Google\r\n\r\n"


def tls_at(scope: Scope, address: str, port: int, sni: str | None) -> Finding:
    """TLS straight to an address."""
    return no_route(address) or judge_tls(scope, partial(dial, address, port, scope.timeout), sni)


def each(scope: Scope, targets: Sequence[Target], version: int = 4, most: int = 1) -> Iterator[tuple[Target, str, str]]:
    """Targets with the addresses to try them at (`most` each), and a note where the address is none of the target's."""
    for target in targets:
        for place in scope.places(target, version)[:most]:
            yield target, place.address, "" if place.own else ", an address outside, none of its own"


def unplaced(scope: Scope, what: str, *versions: int) -> Iterator[Attempt]:
    """An attempt that says so for each vendor that cannot be tried: what was left out must not look closed."""
    for target in scope.vendors:
        for version in versions:
            if reason := scope.missing(target, version):
                yield Attempt(f"{what} {target.host}, IPv{version}", partial(not_tried, reason))


def some(scope: Scope) -> tuple[Target, ...]:
    """The vendors, and one host that is not listed."""
    return scope.targets[: len(scope.vendors) + 1]


def _straight(version: int, scope: Scope) -> Iterator[Attempt]:
    yield from unplaced(scope, "TLS to", version)
    for target, address, note in each(scope, scope.targets, version, 2):
        tried = f"TLS to {target.host} at {shown(address, HTTPS)}{note}"
        yield Attempt(tried, partial(tls_at, scope, address, HTTPS, target.host))


def _ports(scope: Scope) -> Iterator[Attempt]:
    yield from unplaced(scope, "other ports of", 4)
    for target, address, note in each(scope, some(scope)):
        for port in scope.ports:
            yield _at_port(scope, target.host, address, port, note)


def _at_port(scope: Scope, host: str, address: str, port: int, note: str) -> Attempt:
    place = f"{host} at {shown(address, port)}{note}"
    if str(port).endswith("443"):
        return Attempt(f"TLS to {place}", partial(tls_at, scope, address, port, host))
    hello = _GREETINGS.get(port, f"GET / HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
    return Attempt(f"TCP to {place}", partial(judge_plain, scope, address, port, hello))


def _other_name(scope: Scope) -> Iterator[Attempt]:
    """A vendor's address under another name, and a vendor's name at an address that is not the vendor's."""
    yield from unplaced(scope, "another name at", 4)
    pairs = [(one, INNOCENT) for one in each(scope, scope.vendors)]
    pairs += [(one, scope.vendors[0].host) for one in each(scope, scope.unlisted[:1])]
    for (target, address, note), name in pairs:
        tried = f"TLS to {shown(address, HTTPS)} of {target.host} with SNI {name}{note}"
        yield Attempt(tried, partial(tls_at, scope, address, HTTPS, name))


def _no_name(scope: Scope) -> Iterator[Attempt]:
    yield from unplaced(scope, "no name at", 4)
    for target, address, note in each(scope, some(scope)):
        tried = f"TLS to {shown(address, HTTPS)} of {target.host} without SNI{note}"
        yield Attempt(tried, partial(tls_at, scope, address, HTTPS, None))


def _ech(scope: Scope) -> Iterator[Attempt]:
    yield from unplaced(scope, "ECH to", 4)
    for target, address, note in each(scope, some(scope)):
        for name in (INNOCENT, target.host):
            opener = partial(dial, address, HTTPS, scope.timeout)
            tried = f"TLS with ECH to {shown(address, HTTPS)} of {target.host}, outer name {name}{note}"
            yield Attempt(tried, partial(judge_ech, scope, opener, name))


def _metadata(scope: Scope) -> Iterator[Attempt]:
    for address in scope.metadata:
        for one in scoped(address):
            yield Attempt(f"HTTP to {shown(one, 80)}", partial(judge_plain, scope, one, 80, _METADATA_REQUEST))


def scoped(address: str) -> list[str]:
    """An address as it has to be dialled: a link-local one of IPv6 on each interface, as it names none (RFC 4007 section 11)."""
    if not ipaddress.ip_address(address).is_link_local or ":" not in address or "%" in address:
        return [address]
    return [f"{address}%{name}" for _, name in socket.if_nameindex() if name != "lo"]


ROADS: Final = (
    Road("direct-ipv4", "TLS straight to vendors and unlisted LLM hosts, IPv4", partial(_straight, 4)),
    Road("direct-ipv6", "TLS straight to vendors and unlisted LLM hosts, IPv6", partial(_straight, 6)),
    Road("other-ports", "the same hosts on other ports", _ports),
    Road("sni-mismatch", "a vendor's address under another name, and the reverse", _other_name),
    Road("no-sni", "TLS without a server name", _no_name),
    Road("ech", "TLS with an encrypted client hello", _ech),
    Road("metadata", "the instance metadata service", _metadata),
)
