"""OpenAI Responses. Rules: the vendor's API reference, `POST /v1/responses` and its streaming events."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

import msgspec
import orjson

from extproc.dialects import checks, openai_usage, sse
from extproc.dialects.dialect import (
    DEFAULT_LIMITS,
    Dialect,
    ErrorAnswer,
    Path,
    ReadLimits,
    RequestView,
    ResponseEditor,
    ResponseReader,
)
from extproc.dialects.editing import JsonEditor
from extproc.dialects.openai_errors import error_object, openai_error
from extproc.dialects.openai_responses_edit import RESPONSE_STRINGS, ResponsesStreamEditor
from extproc.dialects.reading import JsonReader, SseReader, error_type, parse, strings, text
from extproc.dialects.request import JsonRequest, answer_format, content, stored_item, tool_choice, tools
from extproc.dialects.spans import is_array, is_object
from extproc.errors import ErrorCode, Rejection
from extproc.text import TextFilter

# the text of most deltas, which needs no parsing: within a string the first quotes of this would be escaped
_PLAIN: Final = re.compile(rb'"delta":"([^"\\]*)"')
_TERMINAL: Final = frozenset({"response.completed", "response.incomplete", "response.failed"})
_READ: Final = _TERMINAL | {"response.created", "error"}
# of a response object: what stays as it is, none of it text
_HEAD: Final = (
    "id",
    "object",
    "created_at",
    "model",
    "background",
    "max_output_tokens",
    "parallel_tool_calls",
    "previous_response_id",
    "service_tier",
    "store",
    "temperature",
    "top_p",
    "truncation",
)
_CUT: Final[dict[str, object]] = {
    "status": "incomplete",
    "incomplete_details": {"reason": "max_output_tokens"},
    "error": None,
    "output": [],
    "tool_choice": "auto",
    "tools": [],
    "usage": None,
}


class ResponsesRequest(JsonRequest):
    """A Responses request."""

    order = (
        ("tools", tools),
        ("tool_choice", tool_choice),
        ("text", answer_format),
        ("instructions", content),
        ("prompt", content),
        ("input", content),
    )
    stored = ("previous_response_id", "conversation")
    opaque = JsonRequest.opaque | {"conversation", "include", "previous_response_id", "reasoning", "truncation"}

    def check(self) -> None:
        """Check `input` (a stored prompt or conversation may stand in for it), `instructions` and the cap."""
        checks.one_of(self.tree, "input", (str, list), "a string or an array")
        checks.one_of(self.tree, "instructions", (str, list), "a string")
        checks.optional_object(self.tree, "stream_options")
        self.max_output = checks.whole(self.tree, "max_output_tokens")
        if self.tree.get("background") is True:
            message = "background: this gateway does not meter background responses yet; send the call without it."
            raise Rejection(400, ErrorCode.CALLER_INVALID_FIELD, message, param="background")

    def leanings(self) -> Iterator[Path]:
        """A stored prompt, and items that only refer to one, also count."""
        yield from super().leanings()
        prompt, items = self.tree.get("prompt"), self.tree.get("input")
        if is_object(prompt) and prompt.get("id"):
            yield ("prompt", "id")
        for index, item in enumerate(items if is_array(items) else ()):
            if stored_item(item):
                yield ("input", index, "id")


def _item_texts(item: object) -> Iterator[str]:
    """Texts of one output item: messages, reasoning, calls of any kind."""
    if not is_object(item):
        return
    yield from strings(item.get("name"), item.get("arguments"), item.get("input"), item.get("code"))
    for name in ("summary", "content"):
        parts = item.get(name)
        for part in parts if is_array(parts) else ():
            if is_object(part):
                yield from strings(part.get("text"), part.get("refusal"), part.get("transcript"))


def _response_texts(response: dict[str, object]) -> Iterator[str]:
    output = response.get("output")
    for item in output if is_array(output) else ():
        yield from _item_texts(item)


def _finish(response: dict[str, object]) -> tuple[str, ...]:
    """Why it ended: the reason where it is incomplete, else its status."""
    details = response.get("incomplete_details")
    reason = text(details.get("reason")) if is_object(details) else None
    return tuple(strings(reason or response.get("status")))


class ResponsesJsonReader(JsonReader):
    """A Responses answer in one JSON body."""

    def read(self, head: dict[str, msgspec.Raw]) -> None:
        """`usage`, and why it ended."""
        self.usage = openai_usage.responses(parse(head.get("usage")))
        self.finish_reasons = _finish({name: parse(head.get(name)) for name in ("incomplete_details", "status")})

    def texts(self, body: dict[str, object]) -> Iterator[str]:
        """The texts of the output items."""
        return _response_texts(body)


class ResponsesSseReader(SseReader):
    """A Responses stream: only its first and last events are read, deltas are counted."""

    _seen = 0
    _created: dict[str, object] | None = None

    def observe(self, event: bytes) -> None:
        """Note what one event says."""
        name, data = sse.fields(event)
        if data is None:
            return
        self._seen += 1
        kind = name.decode("latin-1")
        if kind.endswith(".delta"):
            self.events += 1
            plain = _PLAIN.search(data)
            self.written += plain.end(1) - plain.start(1) if plain is not None else self._written(parse(data))
            return
        if kind and kind not in _READ:
            return
        body = parse(data)
        if is_object(body):
            self._note(text(body.get("type")) or kind, body)

    def _note(self, kind: str, body: dict[str, object]) -> None:
        if kind.endswith(".delta"):
            self.events += 1
            self.written += self._written(body)
        if kind == "error" or (not kind and "error" in body):
            self.error = error_type(body.get("error") or {**body, "type": body.get("code")})
        response = body.get("response")
        if kind not in _READ or not is_object(response):
            return
        self.model = text(response.get("model")) or self.model
        if kind == "response.created":
            self._created = {name: response[name] for name in _HEAD if name in response}
        if kind in _TERMINAL:
            self.finished = True
            self.finish_reasons = _finish(response)
            self.usage = openai_usage.responses(response.get("usage")) or self.usage
            self.error = error_type(response.get("error")) or self.error

    def texts(self, data: dict[str, object]) -> Iterator[str]:
        """The delta of a text, reasoning or argument event."""
        kind = data.get("type")
        return strings(data.get("delta")) if type(kind) is str and kind.endswith(".delta") else iter(())

    def stop(self) -> bytes:
        """`response.incomplete` with the ids of the stream: the text is in the deltas, which have gone on edited."""
        if self._created is None:
            return b""
        response = {**self._created, **_CUT}
        body = {"type": "response.incomplete", "sequence_number": self._seen, "response": response}
        self._seen += 1
        return b"event: response.incomplete\ndata: " + orjson.dumps(body) + b"\n\n"

    def farewell(self, rejection: Rejection) -> bytes:
        """An `error` event, in which the SDKs look for the `error` object and the reference names the fields flat."""
        error = error_object(rejection)
        flat = {name: error[name] for name in ("code", "message", "param")}
        body = {"type": "error", "sequence_number": self._seen, **flat, "error": error}
        return b"event: error\ndata: " + orjson.dumps(body) + b"\n\n"


class OpenAIResponses(Dialect):
    """`POST /v1/responses`. Its streams report usage unasked."""

    name = "openai_responses"
    api = "openai"
    operation = "chat"

    def read_request(self, body: bytes) -> RequestView:
        """Read and check the request."""
        return ResponsesRequest(body)

    def reader(self, *, stream: bool, strip_usage: bool = False, limits: ReadLimits = DEFAULT_LIMITS) -> ResponseReader:
        """A reader for the JSON body or the stream; there is nothing to strip."""
        return ResponsesSseReader(limits.event) if stream else ResponsesJsonReader(limits.body)

    def editor(self, *, stream: bool, texts: TextFilter, limits: ReadLimits = DEFAULT_LIMITS) -> ResponseEditor:
        """An editor for the JSON body or the stream."""
        return ResponsesStreamEditor(texts, limits) if stream else JsonEditor(texts, limits, RESPONSE_STRINGS)

    def error(self, rejection: Rejection) -> ErrorAnswer:
        """OpenAI's error shape."""
        return openai_error(rejection)
