"""The answer of a simulated vendor, as data."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

import orjson

JSON_TYPE: Final = "application/json"
SSE_TYPE: Final = "text/event-stream; charset=utf-8"


@dataclass(frozen=True, slots=True)
class SimAnswer:
    """One response.

    `headers` go out in order, without framing (content-length and transfer-encoding are the server's own business).
    Each of `chunks` is one write: a chunk of HTTP/1.1's chunked coding or one HTTP/2 DATA frame (more where flow
    control or the frame limit cuts it). Times are milliseconds: `delay_ms` before the status line, `first_byte_ms`
    between it and the body, `chunk_ms` between chunks. `reset_after` resets the connection (HTTP/2: the stream) after
    so many bytes of body, -1 before the status line; `stall_after` sends no more after so many bytes, and no end.
    `content_length` None means: sent for one chunk at most, not for a stream.
    """

    status: int = 200
    headers: tuple[tuple[str, str], ...] = ()
    chunks: tuple[bytes, ...] = ()
    delay_ms: float = 0
    first_byte_ms: float = 0
    chunk_ms: float = 0
    reset_after: int | None = None
    stall_after: int | None = None
    content_length: bool | None = None

    @property
    def body(self) -> bytes:
        """The whole body."""
        return b"".join(self.chunks)

    @property
    def immediate(self) -> bool:
        """Whether it can be written at once: one chunk, no waiting, no fault."""
        timed = self.delay_ms or self.first_byte_ms or self.chunk_ms
        return len(self.chunks) <= 1 and not timed and self.reset_after is None and self.stall_after is None

    @property
    def has_length(self) -> bool:
        """Whether the response states its content-length."""
        return len(self.chunks) <= 1 if self.content_length is None else self.content_length

    def header(self, name: str) -> str | None:
        """The first value of a field, by lower-case name."""
        return next((value for key, value in self.headers if key.lower() == name), None)

    def with_headers(self, extra: Iterable[tuple[str, str]]) -> SimAnswer:
        """The same answer with more header fields at the end."""
        return replace(self, headers=(*self.headers, *extra))


def json_answer(body: object, status: int = 200, *, indent: bool = False) -> SimAnswer:
    """A JSON body; `indent` as OpenAI's unary answers are."""
    data = orjson.dumps(body, option=orjson.OPT_INDENT_2 if indent else 0)
    return SimAnswer(status, (("content-type", JSON_TYPE),), (data,))


def sse_answer(chunks: Iterable[bytes]) -> SimAnswer:
    """A stream of server-sent events, one event a chunk."""
    return SimAnswer(
        200, (("content-type", SSE_TYPE), ("cache-control", "no-cache")), tuple(chunks), content_length=False
    )


def data_event(body: object) -> bytes:
    """`data: {...}` and an empty line: OpenAI's chat streams."""
    return b"data: " + orjson.dumps(body) + b"\n\n"


def named_event(body: Mapping[str, Any]) -> bytes:
    """`event:` (the body's own type) and `data:`: Anthropic's streams and OpenAI's Responses."""
    return b"event: " + str(body["type"]).encode() + b"\ndata: " + orjson.dumps(body) + b"\n\n"
