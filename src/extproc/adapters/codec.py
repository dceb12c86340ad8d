"""Envoy's messages to events, actions to Envoy's messages. Nothing else knows how they look.

Messages are parsed by protobuf's C parser. Replies are written straight to the wire, with the field numbers of
`proto/extproc.proto`: they are small and of few shapes, a body is then copied once instead of three times, and a
reply that changes nothing is a constant. The tests parse every reply with the compiled messages.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import lru_cache
from typing import Any, Final

from google.protobuf.message import DecodeError

from extproc.adapters._pb import extproc_pb2 as pb
from extproc.adapters.structs import encode_struct, varint
from extproc.errors import ProtocolError
from extproc.exchange.actions import (
    Action,
    Answer,
    BodyMode,
    ContinueBody,
    ContinueHeaders,
    ContinueTrailers,
    HeaderChange,
    Metadata,
    Reset,
    StreamBody,
)
from extproc.exchange.events import (
    Event,
    RequestBody,
    RequestHeaders,
    RequestTrailers,
    ResponseBody,
    ResponseHeaders,
    ResponseTrailers,
)
from extproc.exchange.headers import Headers

ATTRIBUTES: Final = "envoy.filters.http.ext_proc"
"""The key under which Envoy puts request and response attributes."""

# (field number << 3 | 2) of the oneof ProcessingResponse.response
_REQUEST_HEADERS: Final = b"\x0a"
_RESPONSE_HEADERS: Final = b"\x12"
_REQUEST_BODY: Final = b"\x1a"
_RESPONSE_BODY: Final = b"\x22"
_REQUEST_TRAILERS: Final = b"\x2a"
_RESPONSE_TRAILERS: Final = b"\x32"
_IMMEDIATE: Final = b"\x3a"
_DYNAMIC_METADATA: Final = b"\x42"
_MODE_OVERRIDE: Final = b"\x4a"

NOOP_REQUEST_HEADERS: Final = _REQUEST_HEADERS + b"\x00"
NOOP_RESPONSE_HEADERS: Final = _RESPONSE_HEADERS + b"\x00"
NOOP_REQUEST_BODY: Final = _REQUEST_BODY + b"\x00"
NOOP_RESPONSE_BODY: Final = _RESPONSE_BODY + b"\x00"
NOOP_REQUEST_TRAILERS: Final = _REQUEST_TRAILERS + b"\x00"
NOOP_RESPONSE_TRAILERS: Final = _RESPONSE_TRAILERS + b"\x00"

# inside HeadersResponse and BodyResponse
_COMMON: Final = b"\x0a"
# inside CommonResponse
_HEADER_MUTATION: Final = b"\x12"
_BODY_MUTATION: Final = b"\x1a"
_CLEAR_ROUTE_CACHE: Final = b"\x28\x01"
# inside BodyMutation
_BODY: Final = b"\x0a"
_STREAMED: Final = b"\x1a"
_END_OF_STREAM: Final = b"\x10\x01"
# inside HeaderMutation
_SET: Final = b"\x0a"
_REMOVE: Final = b"\x12"
# inside HeaderValueOption, after the header: append_action OVERWRITE_IF_EXISTS_OR_ADD, keep_empty_value (an empty
# value would remove the header otherwise)
_OVERWRITE: Final = b"\x18\x02\x20\x01"

_FORBIDDEN: Final = frozenset("\r\n\0")
_MODES: Final = {mode.value: mode for mode in BodyMode}
_LONGEST_KEPT: Final = 128  # characters of a header value whose encoding is kept


class Attributes(Mapping[str, str]):
    """The attributes of one message as text: numbers without a needless fraction, bools as `true` and `false`.

    Read from the message on first use: most phases never look.
    """

    __slots__ = ("_message", "_values")

    def __init__(self, message: pb.ProcessingRequest) -> None:
        """`message` holds them under the key `ATTRIBUTES`."""
        self._message = message
        self._values: dict[str, str] | None = None

    def _read(self) -> dict[str, str]:
        if self._values is None:
            found = self._message.attributes
            fields = found[ATTRIBUTES].fields if ATTRIBUTES in found else {}
            self._values = {name: _text(value) for name, value in fields.items()}
        return self._values

    def __getitem__(self, name: str) -> str:
        return self._read()[name]

    def get(self, name: str, default: Any = None) -> Any:
        """As `Mapping.get`, which would raise and catch an exception for each one that is absent."""
        return self._read().get(name, default)

    def __iter__(self) -> Iterator[str]:
        return iter(self._read())

    def __len__(self) -> int:
        return len(self._read())


def _text(value: Any) -> str:
    found: str = value.string_value
    if found:
        return found
    kind = value.WhichOneof("kind")
    if kind == "number_value":
        number = float(value.number_value)
        return str(int(number)) if number.is_integer() else repr(number)
    if kind == "bool_value":
        return "true" if value.bool_value else "false"
    return ""


class Codec:
    """One per ext_proc stream: the first message tells the body modes, which a mode override changes.

    `request_mode` and `response_mode` are the modes in force.
    """

    __slots__ = ("_begun", "request_mode", "response_mode")

    def __init__(self) -> None:
        """Until the first message, nothing is known: NONE, as in the protocol."""
        self._begun = False
        self.request_mode = BodyMode.NONE
        self.response_mode = BodyMode.NONE

    def decode(self, message: bytes, at: float) -> Event:
        """Read one ProcessingRequest that arrived at `at` (seconds, monotonic).

        Raises ProtocolError for bytes that are no such message, for a message of no phase, and for a body mode in
        which bodies cannot be inspected.
        """
        try:
            parsed = pb.ProcessingRequest.FromString(message)
        except DecodeError as error:
            raise ProtocolError("not a ProcessingRequest") from error
        if not self._begun:
            self._begun = True
            config = parsed.protocol_config
            self.request_mode = _mode(config.request_body_mode)
            self.response_mode = _mode(config.response_body_mode)
        phase = parsed.WhichOneof("request")
        if phase == "request_body":
            body = parsed.request_body
            return RequestBody(at, body.body, body.end_of_stream)
        if phase == "response_body":
            body = parsed.response_body
            return ResponseBody(at, body.body, body.end_of_stream)
        if phase == "request_headers":
            begin = parsed.request_headers
            return RequestHeaders(at, _headers(begin.headers), begin.end_of_stream, Attributes(parsed))
        if phase == "response_headers":
            begin = parsed.response_headers
            return ResponseHeaders(at, _headers(begin.headers), begin.end_of_stream, Attributes(parsed))
        if phase == "request_trailers":
            return RequestTrailers(at)
        if phase == "response_trailers":
            return ResponseTrailers(at)
        raise ProtocolError("a message of no phase")

    def encode(self, action: Action) -> bytes:
        """Write one ProcessingResponse.

        Raises ProtocolError for `Reset` (there is no message for it: the transport ends the stream with an error), for
        `reroute` without a header mutation, and for what Envoy would not accept in a header.
        """
        if isinstance(action, ContinueHeaders):
            return self._continue_headers(action)
        return _ENCODERS[type(action)](action)

    def _continue_headers(self, action: ContinueHeaders) -> bytes:
        tag = _REQUEST_HEADERS if action.request else _RESPONSE_HEADERS
        common = _common(action.change, action.reroute)
        out = [tag, b"\x00"] if not common else _wrap(tag, _wrap(_COMMON, common))
        if action.metadata:
            out += _metadata(action.metadata)
        if action.body_mode is not None:
            if action.request:
                self.request_mode = action.body_mode
            else:
                self.response_mode = action.body_mode
            out += _wrap(_MODE_OVERRIDE, [self._override()])
        return b"".join(out)

    def _override(self) -> bytes:
        """Encode the whole ProcessingMode: Envoy replaces all of it, for both directions, and a mode left out is NONE.

        Trailers are asked for wherever a body is: they end it, and without them its end would never be told.
        """
        return _overriding(self.request_mode, self.response_mode)


@lru_cache(maxsize=32)
def _overriding(request: BodyMode, response: BodyMode) -> bytes:
    mode = pb.ProcessingMode
    trailers = {True: mode.SKIP, False: mode.SEND}
    return mode(
        request_header_mode=mode.SEND,
        response_header_mode=mode.SEND,
        request_body_mode=mode.BodySendMode.Name(request.value),
        response_body_mode=mode.BodySendMode.Name(response.value),
        request_trailer_mode=trailers[request is BodyMode.NONE],
        response_trailer_mode=trailers[response is BodyMode.NONE],
    ).SerializeToString()


def _mode(number: int) -> BodyMode:
    mode = _MODES.get(number)
    if mode is None:
        raise ProtocolError(f"body mode {number} cannot be inspected: use BUFFERED, STREAMED or FULL_DUPLEX_STREAMED")
    return mode


def _headers(sent: pb.HeaderMap) -> Headers:
    # older Envoys, and tests by hand, use `value`
    return Headers([(field.key, field.raw_value or field.value.encode()) for field in sent.headers])


def _wrap(tag: bytes, parts: list[bytes]) -> list[bytes]:
    """One length-delimited field around `parts`, which are not copied."""
    return [tag, varint(sum(map(len, parts))), *parts]


def _common(change: HeaderChange, reroute: bool) -> list[bytes]:
    """Give the fields of CommonResponse that headers and bodies share, in pieces."""
    mutation = _mutation(change.set, change.remove)
    if not reroute:
        return _wrap(_HEADER_MUTATION, mutation) if mutation else []
    if not mutation:
        raise ProtocolError("reroute without a header mutation: Envoy would ignore it")
    return [*_wrap(_HEADER_MUTATION, mutation), _CLEAR_ROUTE_CACHE]


def _mutation(to_set: tuple[tuple[str, str], ...], to_remove: tuple[str, ...]) -> list[bytes]:
    """Give the fields of HeaderMutation, in pieces."""
    out = [
        _kept_setting(name, value) if len(value) <= _LONGEST_KEPT else _setting(name, value) for name, value in to_set
    ]
    out += [_removal(name) if len(name) <= _LONGEST_KEPT else _removal.__wrapped__(name) for name in to_remove]
    return out


def _setting(name: str, value: str) -> bytes:
    key, raw = name.encode(), _raw(value)
    header = b"".join((b"\x0a", varint(len(key)), key, b"\x1a", varint(len(raw)), raw))
    option = b"".join((b"\x0a", varint(len(header)), header, _OVERWRITE))
    return b"".join((_SET, varint(len(option)), option))


_kept_setting = lru_cache(maxsize=4096)(_setting)


@lru_cache(maxsize=1024)
def _removal(name: str) -> bytes:
    key = name.encode()
    return _REMOVE + varint(len(key)) + key


def _raw(value: str) -> bytes:
    """Encode a header value: bytes in the range that `Headers` decodes from."""
    if not value.isprintable() and not _FORBIDDEN.isdisjoint(value):
        raise ProtocolError("a header value with a line break or a NUL")
    try:
        return value.encode("latin-1")
    except UnicodeEncodeError:
        return value.encode(errors="replace")


def _metadata(metadata: Metadata) -> list[bytes]:
    """`dynamic_metadata`: a Struct with one Struct a namespace."""
    return _wrap(_DYNAMIC_METADATA, [encode_struct(metadata)])


def _continue_body(action: ContinueBody) -> bytes:
    if (
        action.data is not None
        and not action.metadata
        and not action.reroute
        and not (action.change.set or action.change.remove)
    ):
        return _data_head(action.request, len(action.data)) + action.data
    common = _common(action.change, action.reroute)
    if action.data is not None:
        common += _wrap(_BODY_MUTATION, _wrap(_BODY, [action.data]))
    return _body(action, common)


@lru_cache(maxsize=4096)
def _data_head(request: bool, size: int) -> bytes:
    """All of a reply that replaces a body by `size` bytes, but the bytes: a stream has one for each piece."""
    head = _BODY + varint(size)
    for tag in (_BODY_MUTATION, _COMMON, _REQUEST_BODY if request else _RESPONSE_BODY):
        head = tag + varint(len(head) + size) + head
    return head


def _stream_body(action: StreamBody) -> bytes:
    streamed = _wrap(_BODY, [action.data]) if action.data else []
    if action.end:
        streamed.append(_END_OF_STREAM)
    return _body(action, _wrap(_BODY_MUTATION, _wrap(_STREAMED, streamed)))


def _body(action: ContinueBody | StreamBody, common: list[bytes]) -> bytes:
    tag = _REQUEST_BODY if action.request else _RESPONSE_BODY
    if not common and not action.metadata:
        return NOOP_REQUEST_BODY if action.request else NOOP_RESPONSE_BODY
    out = _wrap(tag, _wrap(_COMMON, common)) if common else [tag, b"\x00"]
    if action.metadata:
        out += _metadata(action.metadata)
    return b"".join(out)


def _continue_trailers(action: ContinueTrailers) -> bytes:
    noop = NOOP_REQUEST_TRAILERS if action.request else NOOP_RESPONSE_TRAILERS
    return b"".join([noop, *_metadata(action.metadata)]) if action.metadata else noop


def _answer(action: Answer) -> bytes:
    if not 200 <= action.status <= 599:
        raise ProtocolError(f"no status to answer with: {action.status}")
    parts = _wrap(b"\x0a", [b"\x08", varint(action.status)])
    if action.headers:
        parts += _wrap(b"\x12", _mutation(action.headers, ()))
    if action.body:
        parts += _wrap(b"\x1a", [action.body])
    if action.details:
        parts += _wrap(b"\x2a", [action.details.encode()])
    out = _wrap(_IMMEDIATE, parts)
    if action.metadata:
        out += _metadata(action.metadata)
    return b"".join(out)


def _reset(action: Reset) -> bytes:
    raise ProtocolError(f"a reset has no message: {action.details}")


_ENCODERS: Final[dict[type, Callable[[Any], bytes]]] = {
    ContinueBody: _continue_body,
    StreamBody: _stream_body,
    ContinueTrailers: _continue_trailers,
    Answer: _answer,
    Reset: _reset,
}
