"""Roads through the gateway's proxy entry to somewhere else than a vendor."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from functools import partial
from typing import Final

from extproc.roads.direct import HTTPS, INNOCENT, each, some, unplaced
from extproc.roads.entry import ENTRIES, called, chosen, enter, unusable
from extproc.roads.frames import well_framed
from extproc.roads.road import Attempt, Finding, Road, Scope, by_design, closed, not_tried, open_
from extproc.roads.shapes import well_formed
from extproc.roads.wire import dial, judge_bytes, judge_tls, no_route, refused, shown, statuses, talk, tunnel

_GET: Final = b"GET / HTTP/1.1\r\nHost: admin\r\nConnection: close\r\n\r\n"
_NO_PROXY: Final = not_tried("no proxy entry is named (--port connect=PORT)", excused=True)


def through(scope: Scope, authority: str, sni: str | None) -> Finding:
    """A CONNECT, and TLS inside it where it was granted."""
    if "connect" not in scope.gateway.ports:
        return _NO_PROXY
    return judge_tls(scope, partial(tunnel, scope, authority), sni)


def _unlisted(scope: Scope) -> Iterator[Attempt]:
    for target in scope.unlisted:
        authority = f"{target.host}:{HTTPS}"
        yield Attempt(f"CONNECT {authority}", partial(through, scope, authority, target.host))
    for target in scope.vendors:  # a listed host, another port
        yield Attempt(f"CONNECT {target.host}:22", partial(through, scope, f"{target.host}:22", target.host))


def _other_name(scope: Scope) -> Iterator[Attempt]:
    for target in scope.vendors:
        for name in (*(one.host for one in scope.unlisted[:1]), INNOCENT, None):
            tried = f"CONNECT {target.host}:{HTTPS}, inside it SNI {name or 'missing'}"
            yield Attempt(tried, partial(through, scope, f"{target.host}:{HTTPS}", name))


def _literal(scope: Scope) -> Iterator[Attempt]:
    yield from unplaced(scope, "CONNECT to an address of", 4, 6)
    for version in (4, 6):
        for target, address, note in each(scope, some(scope), version):
            authority = shown(address, HTTPS)
            tried = f"CONNECT {authority} of {target.host}{note}"
            yield Attempt(tried, partial(through, scope, authority, target.host))


def _absolute(scope: Scope) -> Iterator[Attempt]:
    for entry in ENTRIES:
        if entry not in scope.gateway.ports:
            continue
        for target in (*scope.unlisted[:1], *scope.vendors[:1]):
            for scheme in ("http", "https"):
                url = f"{scheme}://{target.host}/v1/models"
                yield Attempt(f"GET {url} at {entry}", partial(_get_absolute, scope, entry, target.host, url))


def _get_absolute(scope: Scope, entry: str, host: str, url: str) -> Finding:
    """Without a key: whatever is answered with success did not pass the policy."""
    try:
        if entry == "connect":  # said to the proxy itself, not inside a tunnel
            sock = dial(scope.gateway.host, scope.gateway.ports[entry], scope.timeout)
        else:
            sock = enter(scope, name=entry)
        with sock:
            got = _ask(scope, sock, host, url)
    except OSError as error:
        return refused(error)
    if got and got[0] < 400:
        return open_(f"answered {got[0]} without a key")
    return closed(f"the gateway answered {got[0]}" if got else "closed without an answer")


def _ask(scope: Scope, sock: socket.socket, host: str, url: str) -> list[int]:
    """The statuses that a GET without a key gets. Raises OSError."""
    request = f"GET {url} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode()
    return statuses(talk(sock, request, scope.timeout))


def _loop(scope: Scope) -> Iterator[Attempt]:
    gateway = scope.gateway
    entries = [gateway.ports[name] for name in ENTRIES if name in gateway.ports]
    ports = dict.fromkeys((*entries, *gateway.private, *(door.port for door in gateway.doors)))
    places = [(host, port) for host in (gateway.host, "127.0.0.1", "localhost", "[::1]") for port in ports]
    places += [(f"[{door.host}]" if ":" in door.host else door.host, door.port) for door in gateway.doors]
    for host, port in dict.fromkeys(places):
        yield Attempt(f"CONNECT {host}:{port}", partial(_loops, scope, f"{host}:{port}"))


def _loops(scope: Scope, authority: str) -> Finding:
    if "connect" not in scope.gateway.ports:
        return _NO_PROXY
    try:
        with tunnel(scope, authority) as sock:
            answer = talk(sock, b"GET / HTTP/1.1\r\nHost: loop\r\n\r\n", scope.timeout)
    except OSError as error:
        return refused(error)
    return open_(f"the proxy opened the tunnel; {len(answer)} bytes came back: {answer[:24]!r}")


def _private(scope: Scope) -> Iterator[Attempt]:
    for port in scope.gateway.private:
        yield Attempt(f"TCP to {shown(scope.gateway.host, port)}", partial(_shut, scope, scope.gateway.host, port))
    for door in scope.gateway.doors:
        if not door.addresses:
            reason = f"{door.host} leads to no address here (--private)"
            yield Attempt(f"TCP to {door.host}:{door.port}", partial(not_tried, reason))
        for address in door.addresses:
            tried = f"TCP to {shown(address, door.port)} of {door.host}"
            yield Attempt(tried, partial(_shut, scope, address, door.port))


def _shut(scope: Scope, host: str, port: int) -> Finding:
    return no_route(host) or judge_bytes(partial(dial, host, port, scope.timeout), _GET)


def _control(scope: Scope) -> Iterator[Attempt]:
    if "connect" in scope.gateway.ports:
        for target in scope.vendors:
            authority = f"{target.host}:{HTTPS}"
            yield Attempt(
                f"CONNECT {authority}, inside it TLS for {target.host}",
                partial(through, scope, authority, target.host),
            )
    entry = chosen(scope)
    yield Attempt(f"GET /v1/models at {entry} without a key", partial(_asks_for_key, scope))
    if not scope.gateway.key:
        return  # the rows that need one say so themselves
    # the malformed requests below differ from these by what is malformed alone: if these fail, they prove nothing
    for tried, ask in (("HTTP/1.1", well_formed), ("HTTP/2", well_framed)):
        yield Attempt(f"GET /v1/models at {entry} with this app's key, {tried}", partial(ask, scope))


def _asks_for_key(scope: Scope) -> Finding:
    if (missing := unusable(scope, keyed=False)) is not None:
        return missing
    try:
        with enter(scope) as sock:
            got = _ask(scope, sock, called(scope), "/v1/models")
    except OSError as error:
        return refused(error)
    if got == [401]:
        return by_design("reached the gateway: it asks for a key")
    return open_(f"answered {got}, where the gateway asks for a key") if got else closed("closed without an answer")


GATEWAY: Final = Road("gateway", "the road that is meant: the gateway answers, and asks for a key", _control)
ROADS: Final = (
    GATEWAY,
    Road("connect-unlisted", "CONNECT to a host or port that is not listed", _unlisted),
    Road("connect-other-sni", "CONNECT to a listed host, another server name inside", _other_name),
    Road("connect-ip", "CONNECT to an address instead of a name", _literal),
    Road("absolute-form", "an absolute URL in an HTTP/1.1 request line", _absolute),
    Road("proxy-loop", "the proxy asked to connect to the gateway or its own machine", _loop),
    Road("private-ports", "the gateway's ports that are not for apps (admin, metrics)", _private),
)
