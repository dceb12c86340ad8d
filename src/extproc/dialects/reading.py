"""What the response readers of all formats share: collecting a JSON body, following a stream of events."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from typing import Final

import msgspec
import orjson

from extproc.dialects import sse
from extproc.dialects.dialect import ResponseReader
from extproc.dialects.spans import is_object
from extproc.errors import ErrorCode, Rejection

DEFAULT_BODY_LIMIT: Final = 64 << 20
DEFAULT_KEPT: Final = 4 << 20
_BLANKS: Final = (b"\n\n", b"\r\n\r\n", b"\r\r")
LIMIT_CODES: Final = frozenset(
    {
        ErrorCode.POLICY_RATE_LIMITED,
        ErrorCode.POLICY_CONCURRENCY_LIMITED,
        ErrorCode.POLICY_BUDGET_EXCEEDED,
        ErrorCode.GATEWAY_LIMITS_UNAVAILABLE,
    }
)
"""Refusals that end a stream as if its cap on the output were reached, before the error says so."""
_HEAD: Final = msgspec.json.Decoder(dict[str, msgspec.Raw])


def parse(data: bytes | msgspec.Raw | None) -> object:
    """A JSON value of the vendor's; None where it is absent or no JSON: answers are observed, not judged."""
    if data is None:
        return None
    try:
        return orjson.loads(memoryview(data) if isinstance(data, msgspec.Raw) else data)
    except orjson.JSONDecodeError:
        return None


def text(value: object) -> str | None:
    """The value if it is a non-empty string."""
    return value if type(value) is str and value else None


def strings(*values: object) -> Iterator[str]:
    """Those of `values` that are non-empty strings."""
    return (value for value in values if type(value) is str and value)


def size(value: str) -> int:
    """Bytes of a text in UTF-8."""
    return len(value) if value.isascii() else len(value.encode())


def whole_events(data: bytes) -> bytes:
    """A piece of a stream up to the end of its last whole event, where it can be stopped; empty where none ends in it."""
    ends = [data.rfind(blank) + len(blank) for blank in _BLANKS if blank in data]
    return data[: max(ends, default=0)]


def error_type(raw: object) -> str | None:
    """The vendor's own name of an error object; None where there is none."""
    if is_object(raw):
        return text(raw.get("type")) or text(raw.get("code")) or text(raw.get("status")) or "error"
    return "error" if raw else None


class JsonReader(ResponseReader):
    """A JSON answer: collected up to a limit, read at its end. Bodies pass as they are."""

    def __init__(self, limit: int = DEFAULT_BODY_LIMIT) -> None:
        """`limit`: the longest body, in bytes; a longer one raises `Rejection` (502, `provider_response_too_large`)."""
        self._pieces: list[bytes] = []
        self._size = 0
        self._limit = limit

    def feed(self, data: bytes, *, end: bool) -> bytes:
        """Collect; read everything at the end."""
        if data:
            self._size += len(data)
            if self._size > self._limit:
                message = "The provider's response is too large."
                raise Rejection(502, ErrorCode.PROVIDER_RESPONSE_TOO_LARGE, message)
            self._pieces.append(data)
        if end and not self.finished:
            self._read()
        return data

    def _read(self) -> None:
        try:
            head = _HEAD.decode(self._body())
        except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
            return
        self.finished = True
        self.error = error_type(parse(head.get("error")))
        self.model = text(parse(head.get("model")))
        self.read(head)

    def _body(self) -> bytes:
        if len(self._pieces) > 1:
            self._pieces = [b"".join(self._pieces)]
        return self._pieces[0] if self._pieces else b""

    @abstractmethod
    def read(self, head: dict[str, msgspec.Raw]) -> None:
        """Read usage and finish reasons from the members of the complete body."""

    @abstractmethod
    def texts(self, body: dict[str, object]) -> Iterator[str]:
        """The generated texts of the complete body."""

    def output_texts(self) -> Sequence[str]:
        """The generated texts; empty until the body is complete."""
        body = parse(self._body())
        return list(self.texts(body)) if is_object(body) else []

    def abort(self, rejection: Rejection) -> bytes:
        """A JSON body that has begun cannot be ended politely."""
        return b""


class SseReader(ResponseReader):
    """A stream of events: observed event by event, passed on as it came.

    The received pieces are kept (by reference) up to `kept` bytes, for `output_texts`; beyond, only `unkept` counts them.
    """

    def __init__(self, limit: int = sse.DEFAULT_EVENT_LIMIT, kept: int = DEFAULT_KEPT) -> None:
        """`limit`: the longest event, in bytes; a longer one raises `Rejection` (502, `provider_bad_response`)."""
        self._splitter = sse.Splitter(limit)
        self._kept: list[bytes] = []
        self._room = kept
        self.unkept = 0  # bytes of answer that `output_texts` does not cover

    def feed(self, data: bytes, *, end: bool) -> bytes:
        """Follow the stream; the very same object goes on."""
        self._keep(data)
        for event in self._splitter.feed(data, end=end):
            self.observe(event)
        return data

    def _keep(self, data: bytes) -> None:
        if not self.unkept and self._room >= len(data):
            self._room -= len(data)
            self._kept.append(data)
        else:
            self.unkept += len(data)

    @abstractmethod
    def observe(self, event: bytes) -> None:
        """Take one event, as it came."""

    @abstractmethod
    def texts(self, data: dict[str, object]) -> Iterator[str]:
        """The generated texts of one event's JSON data."""

    def _written(self, body: object) -> int:
        """Bytes of them."""
        return sum(map(size, self.texts(body))) if is_object(body) else 0

    def output_texts(self) -> Sequence[str]:
        """The generated texts of the events that are complete so far, within the bytes that were kept."""
        found: list[str] = []
        for event in sse.Splitter(self._room + sum(map(len, self._kept))).feed(b"".join(self._kept)):
            body = parse(sse.fields(event).data)
            if is_object(body):
                found.extend(self.texts(body))
        return found

    def abort(self, rejection: Rejection) -> bytes:
        """End a half-sent event, then what is open where a limit is reached, then say what happened: this was the end."""
        closed = b"\n\n" if self.half_sent else b""
        return closed + (self.stop() if rejection.code in LIMIT_CODES else b"") + self.farewell(rejection)

    @property
    def half_sent(self) -> bool:
        """Whether an event has begun that is not complete."""
        return self._splitter.open

    @abstractmethod
    def stop(self) -> bytes:
        """Events that end what is open, as where the vendor itself reaches the cap on the output."""

    @abstractmethod
    def farewell(self, rejection: Rejection) -> bytes:
        """The error event and the terminator, in the vendor's shape."""
