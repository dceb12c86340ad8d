"""Roads of malformed HTTP/1.1: requests that two readers could read differently, and WebSocket.

Each shape is refused before anybody acts on it, or it is open: an answer of success means that it was read one way, and
what stands behind the gateway may read it another way (RFC 9112 sections 5, 6 and 11.2). The request in each is a
`GET /v1/models` with this app's key, which costs nothing.
"""

from __future__ import annotations

import os
from base64 import b64encode
from collections.abc import Iterator
from functools import partial
from typing import Final

from extproc.roads.entry import called, enter, unusable
from extproc.roads.road import Attempt, Finding, Outcome, Road, Scope, by_design, closed, open_
from extproc.roads.wire import refused, statuses, talk

ACCEPTED: Final = "accepted"
_HIDDEN: Final = b"GET /v1/models HTTP/1.1\r\nHost: hidden\r\n\r\n"
_CHUNKED_AND_HIDDEN: Final = b"0\r\n\r\n" + _HIDDEN
# name, header lines, body; {length} is the body's
LENGTHS: Final = (
    ("content-length and transfer-encoding", b"Content-Length: {length}\r\nTransfer-Encoding: chunked\r\n"),
    ("transfer-encoding, then content-length", b"Transfer-Encoding: chunked\r\nContent-Length: {length}\r\n"),
    ("two content-lengths that differ", b"Content-Length: 0\r\nContent-Length: {length}\r\n"),
    ("a list of content-lengths", b"Content-Length: 0, {length}\r\n"),
    (
        "content-length and a folded transfer-encoding",
        b"Content-Length: {length}\r\nTransfer-Encoding:\r\n chunked\r\n",
    ),
    ("a content-length with a sign", b"Content-Length: +{length}\r\n"),
)
CODINGS: Final = (
    ("transfer-encoding: xchunked", b"Transfer-Encoding: xchunked\r\n"),
    ("a space before the colon", b"Transfer-Encoding : chunked\r\n"),
    ("a vertical tab in the value", b"Transfer-Encoding: \x0bchunked\r\n"),
    ("two transfer-encodings", b"Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n"),
    ("chunked, and another after it", b"Transfer-Encoding: chunked, identity\r\n"),
)
# this app's key on a line that is none: who splits there takes the call, who reads the line as one does not
HIDING: Final = (
    ("the key in a folded line", b"X-Probe: a\r\n {key}\r\n"),
    ("the key in a line folded by a tab", b"X-Probe: a\r\n\t{key}\r\n"),
    ("the key after a bare carriage return", b"X-Probe: a\r{key}\r\n"),
    ("the key after a null byte", b"X-Probe: a\x00{key}\r\n"),
    ("the key after a line without a colon", b"X-Probe\r\n{key}\r\n"),
    ("the key with a space before the colon", b"Authorization : Bearer {bare}\r\n"),
)


def shape(scope: Scope, lines: bytes, body: bytes = _CHUNKED_AND_HIDDEN, host: bytes | None = None) -> bytes:
    """The request as bytes, with this app's key."""
    return _written(scope, _key(scope) + b"\r\n" + lines.replace(b"{length}", str(len(body)).encode()), host) + body


def _written(scope: Scope, lines: bytes, host: bytes | None = None) -> bytes:
    named = b"Host: " + called(scope).encode() + b"\r\n" if host is None else host
    return b"GET /v1/models HTTP/1.1\r\n" + named + lines + b"\r\n"


def _key(scope: Scope) -> bytes:
    return b"Authorization: Bearer " + scope.gateway.key.encode()


def judge_shape(scope: Scope, data: bytes, *, early: bool = True) -> Finding:
    """Send the bytes to the gateway's entry. `early`: the refusal must come before the policy stage reads a request."""
    if (missing := unusable(scope, keyed=True)) is not None:
        return missing
    try:
        with enter(scope) as sock:
            answer = talk(sock, data, scope.timeout)
    except OSError as error:
        return refused(error)
    got = statuses(answer)
    if not answer:
        return closed("closed without an answer")
    if not got:
        return open_(f"something answered, not in HTTP: {answer[:24]!r}")
    if any(status < 400 for status in got):
        return open_(f"{ACCEPTED}: {', '.join(map(str, got))}")
    if len(got) > 1:
        return open_(f"read as {len(got)} requests: {', '.join(map(str, got))}")
    if early and b"x-llm-error:" in answer.lower():
        return open_(f"read as a request: the policy stage answered {got[0]}")
    return closed(f"refused: {got[0]}")


def well_formed(scope: Scope) -> Finding:
    """The request that every shape here spoils: as it should be, it is answered."""
    return answered(judge_shape(scope, shape(scope, b"", b"")))


def answered(finding: Finding) -> Finding:
    """The judgement turned round, for a request that is as it should be."""
    if finding.outcome is Outcome.OPEN and finding.evidence.startswith(ACCEPTED):
        return by_design(f"reached the gateway: {finding.evidence}")
    return (
        finding if finding.outcome is Outcome.NOT_TRIED else closed(f"not answered as it should be: {finding.evidence}")
    )


def _rows(rows: tuple[tuple[str, bytes], ...], scope: Scope) -> Iterator[Attempt]:
    for name, lines in rows:
        yield Attempt(name, partial(judge_shape, scope, shape(scope, lines)))


def _hiding(scope: Scope) -> Iterator[Attempt]:
    for name, lines in HIDING:
        whole = lines.replace(b"{key}", _key(scope)).replace(b"{bare}", scope.gateway.key.encode())
        yield Attempt(name, partial(judge_shape, scope, _written(scope, whole), early=False))


def _hosts(scope: Scope) -> Iterator[Attempt]:
    own, other = called(scope).encode(), scope.unlisted[0].host.encode()
    for name, first, second in (("two hosts", own, other), ("two hosts, the other first", other, own)):
        lines = b"Host: " + first + b"\r\nHost: " + second + b"\r\n"
        yield Attempt(name, partial(_same_as_one, scope, shape(scope, b"", b"", lines)))
    for name, lines in (("no host", b""), ("a host with a path", b"Host: " + own + b"/v1\r\n")):
        yield Attempt(name, partial(judge_shape, scope, shape(scope, b"", b"", lines), early=False))


def _same_as_one(scope: Scope, data: bytes) -> Finding:
    """Refused, or answered as with one host: the gateway picks the provider without it and writes the provider's own."""
    finding = judge_shape(scope, data, early=False)
    if finding.outcome is not Outcome.OPEN:
        return finding
    try:
        answers = []
        for request in (data, shape(scope, b"", b"")):
            with enter(scope) as sock:
                answers.append(talk(sock, request, scope.timeout).partition(b"\r\n\r\n")[2])
    except OSError as error:
        return refused(error)
    if answers[0] == answers[1]:
        return by_design("the same answer as with one host: the provider's own is written on the way out")
    return open_("another answer than with one host")


def _websocket(scope: Scope) -> Iterator[Attempt]:
    for path in ("/v1/realtime?model=gpt-4o-mini", "/v1/responses", "/"):
        yield Attempt(f"Upgrade: websocket on {path}", partial(_upgrade, scope, path))


def _upgrade(scope: Scope, path: str) -> Finding:
    """RFC 6455 section 4.1; 101 is a tunnel that no policy reads."""
    if (missing := unusable(scope, keyed=True)) is not None:
        return missing
    key = b64encode(os.urandom(16)).decode()
    lines = [
        f"GET {path} HTTP/1.1",
        f"Host: {called(scope)}",
        "Connection: Upgrade",
        "Upgrade: websocket",
        "Sec-WebSocket-Version: 13",
        f"Sec-WebSocket-Key: {key}",
        f"Authorization: Bearer {scope.gateway.key}",
    ]
    try:
        with enter(scope) as sock:
            got = statuses(talk(sock, "\r\n".join((*lines, "", "")).encode(), scope.timeout))
    except OSError as error:
        return refused(error)
    if got and got[0] < 400:
        return open_(f"answered {got[0]}")
    return closed(f"refused: {got[0]}" if got else "closed without an answer")


ROADS: Final = (
    Road("websocket", "an upgrade to WebSocket", _websocket),
    Road("smuggle-length", "two lengths for one body (CL.TE, TE.CL, CL.CL)", partial(_rows, LENGTHS)),
    Road("smuggle-coding", "a transfer coding that readers may read differently (TE.TE)", partial(_rows, CODINGS)),
    Road("smuggle-lines", "a key hidden behind a fold or a control byte", _hiding),
    Road("smuggle-host", "two hosts, or none", _hosts),
)
