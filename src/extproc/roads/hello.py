"""A TLS ClientHello by hand, with the encrypted_client_hello extension, and the certificate in the answer.

Python's ssl cannot send that extension. Two hellos: one offers TLS 1.3 as browsers do; the second TLS 1.2 only, so that
the server's certificate comes in the clear (RFC 5246 section 7.4.2) and says who answers.
"""

from __future__ import annotations

import os
import socket
import struct
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from extproc.roads.road import Finding, Scope, by_design, closed, open_
from extproc.roads.wire import Opener, is_gateway, refused

ALERT: Final = 21
HANDSHAKE: Final = 22
_CLIENT_HELLO: Final = 1
_CERTIFICATE: Final = 11
_ECH: Final = 0xFE0D  # RFC 9849, the TLS extension encrypted_client_hello
_SUITES_13: Final = (0x1301, 0x1302, 0x1303)
_SUITES_12: Final = (0xC02B, 0xC02F, 0xC02C, 0xC030, 0xCCA9, 0xCCA8)
_SCHEMES: Final = (0x0403, 0x0804, 0x0401, 0x0503, 0x0805, 0x0501, 0x0806, 0x0601)
_MOST: Final = 1 << 16


def client_hello(name: str, *, tls13: bool) -> bytes:
    """A ClientHello record with outer name `name` and an ECH extension of a random, well-formed payload."""
    suites = (*(_SUITES_13 if tls13 else ()), *_SUITES_12)
    host = name.encode("idna")
    share = X25519PrivateKey.generate().public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
    extensions = [
        _extension(0, _vector(2, b"\x00" + _vector(2, host))),  # server_name
        _extension(10, _vector(2, struct.pack("!3H", 0x001D, 0x0017, 0x0018))),  # supported_groups
        _extension(11, _vector(1, b"\x00")),  # ec_point_formats
        _extension(13, _vector(2, struct.pack(f"!{len(_SCHEMES)}H", *_SCHEMES))),  # signature_algorithms
        _extension(16, _vector(2, _vector(1, b"h2") + _vector(1, b"http/1.1"))),  # ALPN
        # outer hello; KDF HKDF-SHA256, AEAD AES-128-GCM; config id; the HPKE share; the sealed inner hello
        _extension(
            _ECH,
            b"\x00" + struct.pack("!HHB", 1, 1, os.urandom(1)[0]) + _vector(2, share) + _vector(2, os.urandom(208)),
        ),
    ]
    if tls13:
        extensions.append(_extension(43, _vector(1, struct.pack("!2H", 0x0304, 0x0303))))  # supported_versions
        extensions.append(_extension(51, _vector(2, struct.pack("!H", 0x001D) + _vector(2, share))))  # key_share
    body = b"\x03\x03" + os.urandom(32) + _vector(1, os.urandom(32))
    body += (
        _vector(2, struct.pack(f"!{len(suites)}H", *suites)) + _vector(1, b"\x00") + _vector(2, b"".join(extensions))
    )
    message = bytes([_CLIENT_HELLO]) + len(body).to_bytes(3, "big") + body
    return bytes([HANDSHAKE]) + b"\x03\x01" + _vector(2, message)


def _vector(width: int, data: bytes) -> bytes:
    return len(data).to_bytes(width, "big") + data


def _extension(number: int, data: bytes) -> bytes:
    return struct.pack("!H", number) + _vector(2, data)


def records(data: bytes) -> list[tuple[int, bytes]]:
    """Whole TLS records in these bytes: type and content (RFC 8446 section 5.1)."""
    found, at = [], 0
    while at + 5 <= len(data):
        size = int.from_bytes(data[at + 3 : at + 5], "big")
        if at + 5 + size > len(data):
            break
        found.append((data[at], data[at + 5 : at + 5 + size]))
        at += 5 + size
    return found


def certificates(data: bytes) -> list[x509.Certificate]:
    """The certificates of a TLS 1.2 server's first flight, leaf first; none where they have not come yet.

    Raises ValueError for what cannot be read.
    """
    stream = b"".join(content for kind, content in records(data) if kind == HANDSHAKE)
    at, found = 0, []
    while at + 4 <= len(stream):
        size = int.from_bytes(stream[at + 1 : at + 4], "big")
        body = stream[at + 4 : at + 4 + size]
        if stream[at] == _CERTIFICATE and len(body) == size:
            inner = 3
            while inner + 3 <= size:
                length = int.from_bytes(body[inner : inner + 3], "big")
                found.append(x509.load_der_x509_certificate(body[inner + 3 : inner + 3 + length]))
                inner += 3 + length
        at += 4 + size
    return found


def judge_ech(scope: Scope, opener: Opener, name: str) -> Finding:
    """Send a hello with ECH; where a server says hello back, find out by a second one whose it is."""
    answer = _ask(opener, client_hello(name, tls13=True), scope.timeout)
    if isinstance(answer, Finding):
        return answer
    first = records(answer)[0][0] if records(answer) else 0
    if first == ALERT:
        if is_gateway(scope, opener):
            return closed("the gateway's alert")
        return open_("a TLS alert of something that does not prove to be the gateway")
    if first != HANDSHAKE:
        return open_(f"{len(answer)} bytes came back: {answer[:16]!r}")
    again = _ask(opener, client_hello(name, tls13=False), scope.timeout)
    if isinstance(again, Finding):
        return open_("a server answered the hello, and showed no certificate when asked by TLS 1.2")
    try:
        chain = certificates(again)
        if chain and signed_by(chain, x509.load_pem_x509_certificates(scope.gateway.ca.read_bytes())):
            return by_design("reached the gateway, which ignores the extension: a certificate of its CA")
        told = chain[0].issuer.rfc4514_string() if chain else "none shown"
    except ValueError:
        told = "unreadable"
    return open_(f"a certificate that is not the gateway's: {told}")


def _ask(opener: Opener, hello: bytes, timeout: float) -> bytes | Finding:
    """The server's first flight; or the finding, where nothing came."""
    try:
        with opener() as sock:
            sock.settimeout(timeout)
            sock.sendall(hello)
            return _flight(sock) or closed("closed after the hello")
    except TimeoutError:
        return open_("the connection was accepted and left open: no answer to the TLS hello, no reset")
    except OSError as error:
        return refused(error)


def _flight(sock: socket.socket) -> bytes:
    """Read until an alert, a certificate, or enough; what has come by then. Raises TimeoutError where nothing came."""
    got = b""
    while len(got) < _MOST:
        try:
            more = sock.recv(1 << 14)
        except TimeoutError:
            if not got:
                raise
            break
        got += more
        found = records(got)
        if not more or any(kind != HANDSHAKE for kind, _ in found) or (found and len(got) > 5 and certificates(got)):
            break
    return got


def signed_by(chain: list[x509.Certificate], authorities: list[x509.Certificate]) -> bool:
    """True where each certificate is signed by the next, and the last by (or is) one of the authorities (RFC 5280 section 6)."""
    for number, certificate in enumerate(chain):
        if any(certificate == one or _signed(certificate, one) for one in authorities):
            return True
        if number + 1 == len(chain) or not _signed(certificate, chain[number + 1]):
            return False
    return False


def _signed(certificate: x509.Certificate, authority: x509.Certificate) -> bool:
    try:
        certificate.verify_directly_issued_by(authority)
    except (ValueError, TypeError, InvalidSignature):
        return False
    return True
