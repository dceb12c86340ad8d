"""Roads through names and datagrams: DNS to outside in all its forms, QUIC, other UDP, and echo requests."""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from functools import partial
from typing import Final

from extproc.roads.direct import HTTPS, each, tls_at, unplaced
from extproc.roads.road import Attempt, Finding, Road, Scope
from extproc.roads.wire import dial, judge_bytes, judge_datagram, judge_ping, no_route, shown

_DNS: Final = 53
_DOT: Final = 853
_NTP: Final = 123
_STUN: Final = 3478
UDP_PORTS: Final = (_NTP, _STUN, 51820)
CLOCKS: Final = ("216.239.35.0", "2001:4860:4806::")  # time.google.com
# the public names of the resolvers that are tried by default, for the certificate's sake only
DOH_NAMES: Final = {
    "1.1.1.1": "cloudflare-dns.com",
    "8.8.8.8": "dns.google",
    "9.9.9.9": "dns.quad9.net",
    "2606:4700:4700::1111": "cloudflare-dns.com",
    "2001:4860:4860::8888": "dns.google",
}


def question(name: str) -> bytes:
    """A DNS query for the A records of a name (RFC 1035 section 4.1)."""
    labels = b"".join(bytes([len(label)]) + label for label in name.encode("idna").split(b"."))
    return os.urandom(2) + struct.pack("!5H", 0x0100, 1, 0, 0, 0) + labels + b"\x00" + struct.pack("!2H", 1, 1)


def initial() -> bytes:
    """A QUIC long-header packet of a version that nobody has: every server answers with its versions (RFC 9000 section 6.1).

    1200 bytes, as a server may ignore smaller first packets (section 14.1).
    """
    head = b"\xc0" + b"\x1a\x2a\x3a\x4a" + b"\x08" + os.urandom(8) + b"\x08" + os.urandom(8)
    return head + os.urandom(1200 - len(head))


def time_request() -> bytes:
    """An NTP client's packet: version 4, mode 3 (RFC 5905 section 7.3)."""
    return b"\x23" + bytes(39) + os.urandom(8)


def binding() -> bytes:
    """A STUN binding request (RFC 8489 section 5)."""
    return struct.pack("!HHI", 1, 0, 0x2112A442) + os.urandom(12)


def _udp(scope: Scope) -> Iterator[Attempt]:
    for address in scope.outside:
        query = question(scope.vendors[0].host)
        yield Attempt(f"DNS by UDP to {shown(address, _DNS)}", partial(judge_datagram, scope, address, _DNS, query))


def _tcp(scope: Scope) -> Iterator[Attempt]:
    for address in scope.outside:
        yield Attempt(f"DNS by TCP to {shown(address, _DNS)}", partial(_ask_tcp, scope, address))


def _ask_tcp(scope: Scope, address: str) -> Finding:
    query = question(scope.vendors[0].host)
    opener = partial(dial, address, _DNS, scope.timeout)
    return no_route(address) or judge_bytes(opener, struct.pack("!H", len(query)) + query)


def _over_tls(port: int, kind: str, scope: Scope) -> Iterator[Attempt]:
    for address in scope.outside:
        name = DOH_NAMES.get(address)
        yield Attempt(f"{kind} to {shown(address, port)}", partial(tls_at, scope, address, port, name))


def _dot(scope: Scope) -> Iterator[Attempt]:
    """By TLS, and by QUIC (RFC 9250) on the same port."""
    yield from _over_tls(_DOT, "DNS over TLS", scope)
    for address in scope.outside:
        tried = f"DNS over QUIC to {shown(address, _DOT)}"
        yield Attempt(tried, partial(judge_datagram, scope, address, _DOT, initial()))


def _quic(scope: Scope) -> Iterator[Attempt]:
    yield from unplaced(scope, "QUIC to", 4, 6)
    for version in (4, 6):
        for target, address, note in each(scope, scope.targets, version):
            tried = f"QUIC to {target.host} at {shown(address, HTTPS)}{note}"
            yield Attempt(tried, partial(judge_datagram, scope, address, HTTPS, initial()))


def _other_udp(scope: Scope) -> Iterator[Attempt]:
    """Where a server of that kind answers, an open road shows; NTP has public ones at addresses that do not change."""
    for port in scope.udp_ports:
        for address in (*scope.outside, *(CLOCKS if port == _NTP else ())):
            data = {_NTP: time_request, _STUN: binding}.get(port, initial)()
            yield Attempt(f"UDP to {shown(address, port)}", partial(judge_datagram, scope, address, port, data))


def _ping(scope: Scope) -> Iterator[Attempt]:
    for address in scope.outside:
        yield Attempt(f"ping to {address}", partial(judge_ping, scope, address))


ROADS: Final = (
    Road("dns-udp", "plain DNS to resolvers outside, UDP", _udp),
    Road("dns-tcp", "plain DNS to resolvers outside, TCP", _tcp),
    Road("dot", "DNS over TLS, and over QUIC", _dot),
    Road("doh", "DNS over HTTPS", partial(_over_tls, HTTPS, "DNS over HTTPS")),
    Road("quic", "QUIC, UDP port 443", _quic),
    Road("other-udp", "UDP on other ports (time, STUN, tunnels)", _other_udp),
    Road("icmp", "echo requests, which can carry anything", _ping),
)
