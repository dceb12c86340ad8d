"""Sockets with a time limit, and the judgement of what a connection reached.

The rule: bytes from something that is not the gateway are `open`; so is a connection that was accepted and left open, for
nobody refused it. A refusal, a reset, or no answer is `closed`. TLS tells who answers: the gateway is whoever shows a
certificate of its CA.
"""

from __future__ import annotations

import contextlib
import errno
import ipaddress
import re
import socket
import ssl
import struct
import time
from collections.abc import Callable
from functools import partial
from typing import Final

from cryptography import x509

from extproc.roads.road import Finding, Scope, by_design, closed, not_tried, open_

Opener = Callable[[], socket.socket]

# the machine's own shortage says nothing about the road
_OURS: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
_NO_ROUTE: Final = frozenset({errno.ENETUNREACH, errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT})
_STATUS: Final = re.compile(rb"HTTP/1\.[01] (\d{3})[^\r\n]*\r?\n")
_MOST: Final = 1 << 20


class RefusedError(ConnectionError):
    """The gateway said no on the way: a CONNECT that was answered with another status than 2xx."""


def dial(address: str, port: int, timeout: float) -> socket.socket:
    """A TCP connection; its later operations have the same time limit. Raises OSError."""
    return socket.create_connection((address, port), timeout)


def no_route(address: str) -> Finding | None:
    """The finding for an IPv6 address where this machine has no IPv6 at all, or no route: else None. Nothing is sent."""
    if ":" not in address:
        return None
    try:
        with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as sock:
            sock.connect((address, 9))
    except OSError as error:
        if error.errno in _NO_ROUTE:
            return not_tried("no IPv6 route here", excused=True)
    return None


def shown(address: str, port: int) -> str:
    """An address and port as people write them."""
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


def refused(error: OSError) -> Finding:
    """The judgement of a connection that did not come about. Raises the error again where it is a shortage of ours."""
    if error.errno in _OURS:
        raise error
    return closed(why(error))


def why(error: OSError) -> str:
    """What an error says, in a few words."""
    if isinstance(error, RefusedError):
        return str(error)
    if isinstance(error, TimeoutError):
        return "no answer"
    if isinstance(error, ConnectionRefusedError):
        return "refused"
    if isinstance(error, ConnectionResetError | BrokenPipeError):
        return "reset"
    if isinstance(error, ssl.SSLEOFError):
        return "cut off in the handshake"
    return (error.strerror or str(error)).lower()


def judge_tls(scope: Scope, opener: Opener, sni: str | None) -> Finding:
    """Shake hands with whoever is there, and tell by the certificate who it is."""
    try:
        sock = opener()
    except OSError as error:
        return refused(error)
    with sock:
        try:
            with scope.trust().wrap_socket(sock, server_hostname=sni) as tls:
                return by_design(f"reached the gateway: {tls.version()}, a certificate of its CA")
        except ssl.SSLCertVerificationError:
            return open_(f"a certificate that is not the gateway's: {issuer(opener, sni, scope.timeout)}")
        except TimeoutError:
            return open_("the connection was accepted and left open: no answer to the TLS hello, no reset")
        except ssl.SSLEOFError as error:
            return closed(why(error))
        except ssl.SSLError as error:
            return _judge_complaint(scope, opener, error)
        except OSError as error:
            return refused(error)


def _judge_complaint(scope: Scope, opener: Opener, error: ssl.SSLError) -> Finding:
    """Something answered, but without a certificate: a TLS alert, or no TLS at all."""
    reason = (error.reason or str(error)).lower().replace("_", " ")
    if reason.startswith("unexpected eof"):
        return closed("cut off in the handshake")
    if "alert" not in reason and not reason.startswith("tlsv1 "):  # OpenSSL leaves the word out for some (RFC 6066's)
        return open_(f"something answered, not in TLS ({reason})")
    if is_gateway(scope, opener):
        return closed(f"the gateway's alert: {reason}")
    return open_(f"a TLS alert ({reason}) of something that does not prove to be the gateway")


def is_gateway(scope: Scope, opener: Opener) -> bool:
    """True where a vendor's name at the same place gets a certificate of the gateway's CA."""
    for target in scope.vendors[:1]:
        try:
            with opener() as sock, scope.trust().wrap_socket(sock, server_hostname=target.host):
                return True
        except OSError:
            return False
    return False


def issuer(opener: Opener, sni: str | None, timeout: float) -> str:
    """The issuer of the certificate at the end of a connection, for the evidence."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    try:
        with opener() as sock:
            sock.settimeout(timeout)
            with context.wrap_socket(sock, server_hostname=sni) as tls:
                data = tls.getpeercert(binary_form=True)
        return x509.load_der_x509_certificate(data).issuer.rfc4514_string() if data else "none shown"
    except (OSError, ValueError):
        return "it was not shown again"


def judge_plain(scope: Scope, address: str, port: int, data: bytes) -> Finding:
    """Connect, say something, and see whether anything comes back."""
    if address in scope.gateway.addresses:
        return by_design("this address is the gateway's own")
    return no_route(address) or judge_bytes(partial(dial, address, port, scope.timeout), data)


def judge_bytes(opener: Opener, data: bytes) -> Finding:
    """As `judge_plain`, on any connection."""
    try:
        with opener() as sock:
            try:
                sock.sendall(data)
                answer = sock.recv(4096)
            except TimeoutError:
                return open_("the connection was accepted and left open")
    except OSError as error:
        return refused(error)
    return open_(f"{len(answer)} bytes came back: {answer[:32]!r}") if answer else closed("accepted and closed at once")


def judge_datagram(scope: Scope, address: str, port: int, data: bytes) -> Finding:
    """Send a datagram, twice, and see whether anything comes back. Silence cannot be told from loss."""
    if (missing := no_route(address)) is not None:
        return missing
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as sock:
            sock.connect((address, port))
            for wait in (scope.timeout / 3, scope.timeout * 2 / 3):
                sock.settimeout(wait)
                sock.send(data)
                try:
                    answer = sock.recv(4096)
                except TimeoutError:
                    continue
                return open_(f"{len(answer)} bytes came back: {answer[:24]!r}")
    except OSError as error:
        return refused(error)
    return closed("no answer to two datagrams")


def judge_ping(scope: Scope, address: str) -> Finding:
    """An echo request by a ping socket, which needs no privilege where `net.ipv4.ping_group_range` has the user's group."""
    if (missing := no_route(address)) is not None:
        return missing
    six = ":" in address
    family, protocol = (socket.AF_INET6, socket.IPPROTO_ICMPV6) if six else (socket.AF_INET, socket.IPPROTO_ICMP)
    try:
        sock = socket.socket(family, socket.SOCK_DGRAM, protocol)
    except PermissionError:
        return not_tried("no ping socket for this user (net.ipv4.ping_group_range), so none for the app", excused=True)
    with sock:
        try:
            sock.settimeout(scope.timeout)
            sock.connect((address, 0))
            # type 128 or 8, echo request; the kernel writes identifier and checksum
            sock.send(struct.pack("!BBHHH", 128 if six else 8, 0, 0, 0, 1) + b"extproc egress verify")
            answer = sock.recv(4096)
        except OSError as error:
            return refused(error)
    return open_(f"an echo reply of {len(answer)} bytes came back: it can carry anything")


def talk(sock: socket.socket, data: bytes, timeout: float, settle: float = 0.5) -> bytes:
    """Send, then read until the end, `timeout` seconds, or `settle` seconds of silence after a first answer. Raises OSError."""
    sock.settimeout(timeout)
    sock.sendall(data)
    got, limit = b"", time.monotonic() + timeout
    while len(got) < _MOST and (left := limit - time.monotonic()) > 0:
        sock.settimeout(min(left, settle) if got else left)
        try:
            more = sock.recv(1 << 16)
        except (TimeoutError, ConnectionResetError):
            break
        if not more:
            break
        got += more
    return got


def statuses(answer: bytes) -> list[int]:
    """The status of every HTTP/1 answer in these bytes."""
    return [int(found[1]) for found in _STATUS.finditer(answer)]


def tunnel(scope: Scope, authority: str) -> socket.socket:
    """A CONNECT through the gateway's proxy entry. Raises RefusedError for another answer than 2xx, OSError otherwise."""
    with contextlib.ExitStack() as stack:
        sock = stack.enter_context(dial(scope.gateway.host, scope.gateway.ports["connect"], scope.timeout))
        sock.sendall(f"CONNECT {authority} HTTP/1.1\r\nHost: {authority}\r\n\r\n".encode())
        head = b""
        while b"\r\n\r\n" not in head and len(head) < 1 << 14:
            more = sock.recv(1)  # not one byte of what the far end says first
            if not more:
                raise RefusedError("the proxy closed the connection")
            head += more
        got = statuses(head)
        if not got or not 200 <= got[0] < 300:
            raise RefusedError(f"the proxy answered {got[0] if got else 'no HTTP'}")
        stack.pop_all()
        return sock
    raise RefusedError("the proxy could not be asked")


def is_address(text: str) -> bool:
    """True for an IPv4 or IPv6 address."""
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True
