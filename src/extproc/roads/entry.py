"""The way in that HTTP requests of the suite take: a base URL entry, or, where there is none, TLS inside a CONNECT.

In a cluster the plain base URL is not offered. The policy stage behind each entry is the same, so what has to be refused
at one has to be refused at each.
"""

from __future__ import annotations

import contextlib
import socket
from typing import Final

from extproc.roads.road import Finding, Scope, not_tried
from extproc.roads.wire import dial, is_address, tunnel

# in this order: what is nearest to the bytes that are sent comes first
ENTRIES: Final = ("base_url", "base_url_tls", "connect")
NONE: Final = "no entry of the gateway was named (--port)"
_HTTPS: Final = 443


def chosen(scope: Scope) -> str:
    """The entry that requests go by; empty where none was named."""
    return next((name for name in ENTRIES if name in scope.gateway.ports), "")


def unusable(scope: Scope, *, keyed: bool) -> Finding | None:
    """Why no request can be made; None where one can. `keyed`: it needs this app's key."""
    if not chosen(scope):
        return not_tried(NONE)
    if keyed and not scope.gateway.key:
        return not_tried("needs this app's key (--key): without one it would be refused for that")
    return None


def called(scope: Scope) -> str:
    """The host that a well-formed request names there: the gateway's, or inside a CONNECT the vendor's."""
    return scope.vendors[0].host if chosen(scope) == "connect" else scope.gateway.host


def encrypted(scope: Scope) -> bool:
    """True where the requests travel in TLS."""
    return chosen(scope) != "base_url"


def enter(scope: Scope, protocol: str = "http/1.1", name: str = "") -> socket.socket:
    """A connection on which an HTTP request may be written. `protocol`: by ALPN, in TLS; `name`: another entry than the chosen.

    Raises OSError, also for a certificate that is not of the gateway's CA: what answers there is not the gateway.
    """
    by = name or chosen(scope)
    if by == "connect":
        sock, sni = tunnel(scope, f"{scope.vendors[0].host}:{_HTTPS}"), scope.vendors[0].host
    else:
        sock, sni = dial(scope.gateway.host, scope.gateway.ports[by], scope.timeout), scope.gateway.host
        if by == "base_url":
            return sock
    with contextlib.ExitStack() as stack:
        stack.enter_context(sock)
        context = scope.trust()
        context.set_alpn_protocols([protocol])
        secure = context.wrap_socket(sock, server_hostname=None if is_address(sni) else sni)
        stack.pop_all()
        return secure
    raise OSError("no connection to the gateway")
