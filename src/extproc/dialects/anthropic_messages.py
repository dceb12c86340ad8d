"""Anthropic Messages. Rules: the vendor's API reference, `POST /v1/messages` and its streaming events."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

import msgspec
import orjson

from extproc.dialects import checks, sse
from extproc.dialects.anthropic_errors import anthropic_error, error_body
from extproc.dialects.anthropic_messages_edit import MESSAGE_STRINGS, MessagesStreamEditor
from extproc.dialects.counting import count, details, known
from extproc.dialects.dialect import (
    DEFAULT_LIMITS,
    Dialect,
    ErrorAnswer,
    ReadLimits,
    RequestView,
    ResponseEditor,
    ResponseReader,
)
from extproc.dialects.editing import JsonEditor
from extproc.dialects.reading import JsonReader, SseReader, error_type, parse, strings, text
from extproc.dialects.request import JsonRequest, answer_format, content, tool_choice, tools
from extproc.dialects.spans import is_array, is_object
from extproc.dialects.texts import SIGNED
from extproc.errors import Rejection
from extproc.text import TextFilter
from extproc.usage import Usage

# the text of most deltas, which needs no parsing: within a string the first quotes of this would be escaped
_PLAIN: Final = re.compile(rb'"(?:text|partial_json|thinking)":"([^"\\]*)"')


def read_usage(raw: dict[str, object]) -> Usage | None:
    """Bring `usage` to the one meaning: the vendor's `input_tokens` leaves out what was read from and written to a cache.

    None where it has no counts.
    """
    parts = [count(raw, name) for name in ("input_tokens", "cache_read_input_tokens", "cache_creation_input_tokens")]
    counted = [part for part in parts if part is not None]
    return known(
        Usage(
            input=sum(counted) if counted else None,
            output=count(raw, "output_tokens"),
            cached_input=parts[1],
            cache_creation_input=parts[2],
            reasoning=count(details(raw, "output_tokens_details"), "thinking_tokens"),
        )
    )


class MessagesRequest(JsonRequest):
    """A Messages request."""

    order = (
        ("tools", tools),
        ("tool_choice", tool_choice),
        ("mcp_servers", tools),
        ("output_config", answer_format),
        ("output_format", answer_format),
        ("system", content),
        ("messages", content),
    )
    stored = ("container",)
    opaque = JsonRequest.opaque | {"anthropic_version", "cache_control", "thinking"}
    signed = SIGNED

    def check(self) -> None:
        """Check `messages`, `system` and the cap."""
        checks.array(self.tree, "messages")
        checks.one_of(self.tree, "system", (str, list), "a string or an array")
        self.max_output = checks.whole(self.tree, "max_tokens")


class MessagesJsonReader(JsonReader):
    """A Messages answer in one JSON body."""

    def read(self, head: dict[str, msgspec.Raw]) -> None:
        """`usage` and `stop_reason`."""
        raw = parse(head.get("usage"))
        self.usage = read_usage(raw) if is_object(raw) else None
        self.finish_reasons = tuple(strings(parse(head.get("stop_reason"))))

    def texts(self, body: dict[str, object]) -> Iterator[str]:
        """The texts of the content blocks; tool inputs as JSON."""
        blocks = body.get("content")
        for block in blocks if is_array(blocks) else ():
            if is_object(block):
                yield from _block_texts(block)


def _block_texts(block: dict[str, object]) -> Iterator[str]:
    yield from strings(block.get("thinking"), block.get("text"), block.get("name"))
    if block.get("input"):
        yield orjson.dumps(block["input"]).decode()


class MessagesSseReader(SseReader):
    """A Messages stream: content events are counted, the others read."""

    def __init__(self, limit: int = sse.DEFAULT_EVENT_LIMIT) -> None:
        """`limit`: the longest event, in bytes."""
        super().__init__(limit)
        self._counts: dict[str, object] = {}
        self._begun = False
        self._blocks: dict[int, None] = {}  # indexes of those that are open: one, as this vendor streams

    def observe(self, event: bytes) -> None:
        """Note what one event says."""
        name, data = sse.fields(event)
        if data is None or name == b"ping":
            return
        if name == b"content_block_delta":
            self.events += 1
            plain = _PLAIN.search(data)
            self.written += plain.end(1) - plain.start(1) if plain is not None else self._written(parse(data))
            return
        body = parse(data)
        if is_object(body):
            self._note(body)

    def _note(self, body: dict[str, object]) -> None:
        kind, index = body.get("type"), body.get("index")
        if kind == "message_start":
            self._begun = True
            message = body.get("message")
            if is_object(message):
                self.model = text(message.get("model")) or self.model
                self._overlay(message.get("usage"))
        elif kind == "message_delta":
            delta = body.get("delta")
            self.finish_reasons = tuple(strings(delta.get("stop_reason") if is_object(delta) else None))
            self._overlay(body.get("usage"))
        elif kind == "message_stop":
            self.finished = True
        elif kind == "content_block_delta":
            self.events += 1
            self.written += self._written(body)
        elif kind == "content_block_start" and type(index) is int:
            self._blocks[index] = None
        elif kind == "content_block_stop" and type(index) is int:
            self._blocks.pop(index, None)
        elif kind == "error":
            self.error = error_type(body.get("error") or body)

    def _overlay(self, raw: object) -> None:
        """Counts are running totals: the last one of each kind holds."""
        if is_object(raw):
            self._counts.update({name: value for name, value in raw.items() if value is not None})
            self.usage = read_usage(self._counts)

    def texts(self, data: dict[str, object]) -> Iterator[str]:
        """The text, thinking or partial JSON of a delta; the name of a tool that is called."""
        delta = data.get("delta")
        if is_object(delta):
            yield from strings(delta.get("text"), delta.get("thinking"), delta.get("partial_json"))
        block = data.get("content_block")
        if is_object(block):
            yield from _block_texts(block)

    def stop(self) -> bytes:
        """The open block is closed, and the message ends for `max_tokens`, with the output as counted so far."""
        closed = b"".join(_event("content_block_stop", index=index) for index in self._blocks)
        if not self._begun or self.finish_reasons:
            return closed
        reported = count(self._counts, "output_tokens") or 0
        delta = {"stop_reason": "max_tokens", "stop_sequence": None}
        return closed + _event("message_delta", delta=delta, usage={"output_tokens": max(reported, self.events)})

    def farewell(self, rejection: Rejection) -> bytes:
        """An `error` event; the vendor's streams have no terminator behind it."""
        return b"event: error\ndata: " + orjson.dumps(error_body(rejection)) + b"\n\n"


def _event(name: str, **fields: object) -> bytes:
    return b"event: " + name.encode() + b"\ndata: " + orjson.dumps({"type": name, **fields}) + b"\n\n"


class AnthropicMessages(Dialect):
    """`POST /v1/messages`. Its streams report usage unasked."""

    name = "anthropic_messages"
    api = "anthropic"
    operation = "chat"

    def read_request(self, body: bytes) -> RequestView:
        """Read and check the request."""
        return MessagesRequest(body)

    def reader(self, *, stream: bool, strip_usage: bool = False, limits: ReadLimits = DEFAULT_LIMITS) -> ResponseReader:
        """A reader for the JSON body or the stream; there is nothing to strip."""
        return MessagesSseReader(limits.event) if stream else MessagesJsonReader(limits.body)

    def editor(self, *, stream: bool, texts: TextFilter, limits: ReadLimits = DEFAULT_LIMITS) -> ResponseEditor:
        """An editor for the JSON body or the stream."""
        return MessagesStreamEditor(texts, limits) if stream else JsonEditor(texts, limits, MESSAGE_STRINGS)

    def error(self, rejection: Rejection) -> ErrorAnswer:
        """Anthropic's error shape."""
        return anthropic_error(rejection)
