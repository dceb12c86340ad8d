"""Roads of malformed HTTP/2: frames by hand, as no client library would send them (RFC 9113 sections 8.2 and 8.3)."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Final

from hpack import Decoder, Encoder
from hpack.exceptions import HPACKError
from hyperframe.exceptions import HyperframeError
from hyperframe.frame import DataFrame, Frame, GoAwayFrame, HeadersFrame, RstStreamFrame, SettingsFrame

from extproc.roads.entry import called, encrypted, enter, unusable
from extproc.roads.road import Attempt, Finding, Road, Scope, closed, open_
from extproc.roads.shapes import ACCEPTED, answered
from extproc.roads.wire import refused

_PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_STREAM: Final = 1
Fields = list[tuple[bytes, bytes]]


@dataclass(slots=True)
class _Reply:
    """What came: statuses, and the code of a refusal by frame."""

    statuses: list[int] = field(default_factory=list)
    ended: str = ""
    internal: bool = False


def _base(scope: Scope) -> Fields:
    return [
        (b":method", b"GET"),
        (b":scheme", b"https" if encrypted(scope) else b"http"),
        (b":path", b"/v1/models"),
        (b":authority", called(scope).encode()),
        (b"authorization", b"Bearer " + scope.gateway.key.encode()),
    ]


def _without(name: bytes, fields: Fields) -> Fields:
    return [pair for pair in fields if pair[0] != name]


def pseudo(scope: Scope) -> Iterator[tuple[str, Fields]]:
    """Pseudo-header fields as they must not be."""
    base = _base(scope)
    yield "two :path", [*base[:3], (b":path", b"/v1/files"), *base[3:]]
    yield "two :authority", [*base[:4], (b":authority", scope.unlisted[0].host.encode()), *base[4:]]
    yield "no :method", _without(b":method", base)
    yield "no :path", _without(b":path", base)
    yield "an unknown pseudo-header", [*base[:4], (b":llm", b"x"), *base[4:]]
    yield "a pseudo-header after the others", [*_without(b":path", base), (b":path", b"/v1/models")]
    yield "a request line in :path", [(n, v + b" HTTP/1.1\r\nHost: x" if n == b":path" else v) for n, v in base]
    yield "a request line in :method", [(n, v + b" / HTTP/1.1" if n == b":method" else v) for n, v in base]
    websocket = [(b":method", b"CONNECT"), (b":protocol", b"websocket"), *base[1:]]
    yield "extended CONNECT for WebSocket", websocket


def injected(scope: Scope) -> Iterator[tuple[str, Fields]]:
    """Fields that would be another request, or other framing, once written as HTTP/1.1."""
    base = _base(scope)
    yield "a line end in a value", [*base, (b"x-probe", b"a\r\nx-llmi-class: b")]
    yield "a request in a value", [*base, (b"x-probe", b"a\r\n\r\nGET /v1/models HTTP/1.1\r\nHost: x\r\n")]
    yield "a null byte in a value", [*base, (b"x-probe", b"a\x00b")]
    yield "a line end in a name", [*base, (b"x-probe: a\r\nx-llmi-class", b"b")]
    yield "a colon in a name", [*base, (b"x-llmi-class: b\tx", b"a")]
    yield "capitals in a name", [*base, (b"X-Probe", b"a")]
    yield "transfer-encoding", [*base, (b"transfer-encoding", b"chunked")]
    yield "connection", [*base, (b"connection", b"x-probe")]


def _attempts(rows: object, scope: Scope) -> Iterator[Attempt]:
    made = pseudo(scope) if rows is pseudo else injected(scope)
    for name, fields in made:
        yield Attempt(name, partial(judge_fields, scope, fields, None))
    if rows is injected:
        for name, length in (("a content-length that is too short", b"1"), ("one that is too long", b"99")):
            fields = [*_base(scope), (b"content-length", length)]
            yield Attempt(name, partial(judge_fields, scope, fields, b"0123456789"))


def well_framed(scope: Scope) -> Finding:
    """The request that every shape here spoils: as it should be, it is answered."""
    return answered(judge_fields(scope, _base(scope), None))


def judge_fields(scope: Scope, fields: Fields, body: bytes | None) -> Finding:
    """Send one request on a connection of its own: plain HTTP/2 by prior knowledge, or chosen by ALPN."""
    if (missing := unusable(scope, keyed=True)) is not None:
        return missing
    head = HeadersFrame(_STREAM, Encoder().encode(fields), flags=["END_HEADERS"])
    data = b""
    if body is None:
        head.flags.add("END_STREAM")
    else:
        data = DataFrame(_STREAM, body, flags=["END_STREAM"]).serialize()
    sent = _PREFACE + SettingsFrame(0).serialize() + head.serialize() + data
    try:
        with enter(scope, "h2") as sock:
            reply = _ask(sock, sent, scope.timeout)
    except OSError as error:
        return refused(error)
    except (HyperframeError, HPACKError, ValueError) as error:
        return open_(f"something answered, not in HTTP/2 ({type(error).__name__})")
    if any(status < 400 for status in reply.statuses):
        return open_(f"{ACCEPTED}: {', '.join(map(str, reply.statuses))}")
    if reply.internal:
        return open_(f"read as a request: the policy stage answered {reply.statuses[0]}")
    if reply.ended:
        return closed(reply.ended)
    return closed(f"refused: {reply.statuses[0]}" if reply.statuses else "closed without an answer")


def _ask(sock: socket.socket, data: bytes, timeout: float) -> _Reply:
    """Read frames until the stream or the connection ends. Raises OSError, and what the frame readers raise."""
    sock.sendall(data)
    reply, decoder, got, limit = _Reply(), Decoder(), b"", time.monotonic() + timeout
    while (left := limit - time.monotonic()) > 0:
        sock.settimeout(left)
        try:
            more = sock.recv(1 << 16)
        except (TimeoutError, ConnectionResetError):
            break
        got += more
        while len(got) >= 9:
            frame, length = Frame.parse_frame_header(memoryview(got[:9]))
            if len(got) < 9 + length:
                break
            frame.parse_body(memoryview(got[9 : 9 + length]))
            got = got[9 + length :]
            if _take(frame, reply, decoder):
                return reply
        if not more:
            break
    return reply


def _take(frame: Frame, reply: _Reply, decoder: Decoder) -> bool:
    """Note a frame; true at the end of the stream."""
    if isinstance(frame, HeadersFrame):
        fields = {bytes(name): bytes(value) for name, value in decoder.decode(frame.data, raw=True)}
        reply.statuses.append(int(fields.get(b":status", b"0")))
        reply.internal = reply.internal or b"x-llm-error" in fields
    elif isinstance(frame, RstStreamFrame):
        reply.ended = f"stream reset, code {frame.error_code}"
        return True
    elif isinstance(frame, GoAwayFrame):
        reply.ended = f"connection ended, code {frame.error_code}"
        return True
    return "END_STREAM" in frame.flags and frame.stream_id == _STREAM


ROADS: Final = (
    Road(
        "h2-pseudo", "HTTP/2 pseudo-headers twice, missing, or with a request line in them", partial(_attempts, pseudo)
    ),
    Road("h2-inject", "HTTP/2 fields that would be other framing in HTTP/1.1", partial(_attempts, injected)),
)
