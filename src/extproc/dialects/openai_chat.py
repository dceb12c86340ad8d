"""OpenAI Chat Completions, and what speaks the same wire. Rules: the vendor's API reference, `POST /v1/chat/completions`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import msgspec
import orjson

from extproc.dialects import checks, openai_usage, spans, sse
from extproc.dialects.dialect import (
    DEFAULT_LIMITS,
    Dialect,
    Edit,
    ErrorAnswer,
    ReadLimits,
    RequestView,
    ResponseEditor,
    ResponseReader,
)
from extproc.dialects.editing import JsonEditor
from extproc.dialects.openai_chat_edit import ChatStreamEditor
from extproc.dialects.openai_errors import error_object, openai_error
from extproc.dialects.reading import DEFAULT_KEPT, JsonReader, SseReader, error_type, parse, size, strings, text
from extproc.dialects.request import JsonRequest, answer_format, content, tool_choice, tools
from extproc.dialects.spans import is_array, is_object
from extproc.errors import Rejection
from extproc.text import TextFilter

_NULL_USAGE: Final = b',"usage":null'
_NAMED_DATA: Final = (b"data: ", b"data:")
# of a chunk: what all chunks of a stream share, none of it text
_HEAD: Final = ("id", "object", "created", "model", "service_tier", "system_fingerprint")
_CUT: Final[dict[str, object]] = {"delta": {}, "logprobs": None, "finish_reason": "length"}


class ChatRequest(JsonRequest):
    """A Chat Completions request."""

    order = (
        ("tools", tools),
        ("functions", tools),
        ("tool_choice", tool_choice),
        ("function_call", tool_choice),
        ("response_format", answer_format),
        ("messages", content),
        ("prediction", content),
    )
    opaque = JsonRequest.opaque | {"audio", "modalities", "reasoning_effort", "verbosity"}

    def check(self) -> None:
        """Check `messages`, `n`, the caps and `stream_options`."""
        tree = self.tree
        checks.array(tree, "messages")
        self.choices = checks.whole(tree, "n", 1) or 1
        more = tree.get("best_of")  # of the older API; some servers take it here too, and write that many answers
        if type(more) is int:
            self.choices = max(self.choices, min(more, 1 << 53))
        # with both, a server that knows one of them only goes by that one: the larger is the cap that holds
        caps = [checks.whole(tree, name) for name in ("max_tokens", "max_completion_tokens")]
        self.max_output = max((cap for cap in caps if cap is not None), default=None)
        options = checks.optional_object(tree, "stream_options")
        asked = options.get("include_usage") if options else None
        if asked is not None and type(asked) is not bool:
            checks.wrong_type("stream_options.include_usage", "a boolean", asked)
        self._asked_for_usage = asked is True

    def usage_edits(self) -> tuple[Edit, ...]:
        """Ask for the usage chunk in a stream, unless the caller did."""
        if not self.stream or self._asked_for_usage:
            return ()
        place = self.places.get("stream_options")
        if place is None:
            return (spans.insert_member(self.body, 0, self.places, b'"stream_options":{"include_usage":true}'),)
        if self.tree["stream_options"] is None:
            return (Edit(place.start, place.end, b'{"include_usage":true}'),)
        found = spans.members(self.body, place.start, place.end)
        inner = found.get("include_usage")
        if inner is None:
            return (spans.insert_member(self.body, place.start, found, b'"include_usage":true'),)
        return (Edit(inner.start, inner.end, b"true"),)


class _Choice(msgspec.Struct):
    finish_reason: msgspec.Raw = msgspec.Raw(b"null")


_CHOICES: Final = msgspec.json.Decoder(list[_Choice])


def _choice_texts(part: object) -> Iterator[str]:
    """Texts of a `message` or a `delta`."""
    if not is_object(part):
        return
    yield from strings(part.get("reasoning_content"), part.get("reasoning"), part.get("content"), part.get("refusal"))
    calls = part.get("tool_calls")
    for call in [*(calls if is_array(calls) else ()), {"function": part.get("function_call")}]:
        function = call.get("function") if is_object(call) else None
        if is_object(function):
            yield from strings(function.get("name"), function.get("arguments"))
    audio = part.get("audio")
    if is_object(audio):
        yield from strings(audio.get("transcript"))


def _texts(body: dict[str, object], part: str) -> Iterator[str]:
    choices = body.get("choices")
    for choice in choices if is_array(choices) else ():
        if is_object(choice):
            yield from _choice_texts(choice.get(part))


class ChatJsonReader(JsonReader):
    """A Chat Completions answer in one JSON body."""

    def read(self, head: dict[str, msgspec.Raw]) -> None:
        """`usage`, and `finish_reason` of each choice."""
        self.usage = openai_usage.chat(parse(head.get("usage")))
        try:
            choices = _CHOICES.decode(head.get("choices", b"[]"))
        except msgspec.DecodeError:
            return
        self.finish_reasons = tuple(strings(*(parse(choice.finish_reason) for choice in choices)))

    def texts(self, body: dict[str, object]) -> Iterator[str]:
        """The texts of each choice's message."""
        return _texts(body, "message")


class ChatSseReader(SseReader):
    """A Chat Completions stream, passed on as it came."""

    def __init__(self, limit: int = sse.DEFAULT_EVENT_LIMIT, kept: int = DEFAULT_KEPT) -> None:
        """As `SseReader`."""
        super().__init__(limit, kept)
        self._last: dict[str, object] = {}  # chunk with choices
        self._open: dict[int, bool] = {}  # by index of the choice: whether it goes on

    def observe(self, event: bytes) -> None:
        """Note what one chunk says."""
        self._note(sse.fields(event).data)

    def _note(self, data: bytes | None) -> dict[str, object] | None:
        """Note what the chunk says; the parsed chunk, or None where the event carries no JSON object."""
        if data is None:
            return None
        if data == b"[DONE]":
            self.finished = True
            return None
        chunk = parse(data)
        if not is_object(chunk):
            return None
        if self.model is None:
            self.model = text(chunk.get("model"))
        choices = chunk.get("choices")
        if is_array(choices) and choices:
            self.events += 1
            self._last = chunk
            for choice in choices:
                if is_object(choice):
                    self._note_choice(choice)
        raw = chunk.get("usage") or _groq_usage(chunk)
        if raw:
            self.usage = openai_usage.chat(raw) or self.usage
        if chunk.get("error"):
            self.error = error_type(chunk["error"])
        return chunk

    def _note_choice(self, choice: dict[str, object]) -> None:
        index, reason = choice.get("index", 0), choice.get("finish_reason")
        if type(index) is int:
            self._open.setdefault(index, True)
        if type(reason) is str and reason:
            self.finish_reasons += (reason,)
            if type(index) is int:
                self._open[index] = False
        delta = choice.get("delta")
        if not is_object(delta):
            return
        content = delta.get("content")
        if type(content) is str and len(delta) == 1:  # most chunks
            self.written += size(content)
        elif delta:
            self.written += sum(map(size, _choice_texts(delta)))

    def texts(self, data: dict[str, object]) -> Iterator[str]:
        """The texts of each choice's delta."""
        return _texts(data, "delta")

    def stop(self) -> bytes:
        """A last chunk for each choice that goes on, with the ids of the stream."""
        head = {name: self._last[name] for name in _HEAD if name in self._last}
        return b"".join(
            b"data: " + orjson.dumps({**head, "choices": [{"index": index, **_CUT}]}) + b"\n\n"
            for index, goes_on in sorted(self._open.items())
            if goes_on
        )

    def farewell(self, rejection: Rejection) -> bytes:
        """An error chunk, then `[DONE]`."""
        return b"data: " + orjson.dumps({"error": error_object(rejection)}) + b"\n\ndata: [DONE]\n\n"


def _groq_usage(chunk: dict[str, object]) -> object:
    inner = chunk.get("x_groq")
    return inner.get("usage") if is_object(inner) else None


class ChatStripReader(ChatSseReader):
    """A stream whose usage we asked for in the caller's place: what goes on is the stream without its traces.

    Only an event that is not complete is held back.
    """

    def feed(self, data: bytes, *, end: bool) -> bytes:
        """Follow the stream and hand on its complete events, without usage."""
        self._keep(data)
        return b"".join([self._strip(event) for event in self._splitter.feed(data, end=end)])

    def _strip(self, event: bytes) -> bytes:
        data = sse.fields(event).data
        chunk = self._note(data)
        if data is None or chunk is None or "usage" not in chunk:
            return event
        if chunk["usage"] is None and event.count(b'"usage"') == 1 and _NULL_USAGE in event:
            return event.replace(_NULL_USAGE, b"", 1)
        if chunk["usage"] is not None and not chunk.get("choices"):
            return b""
        return _without_usage(event, data)

    @property
    def half_sent(self) -> bool:
        """Never: what is not complete is held back, and dropped at an abort."""
        return False


def _without_usage(event: bytes, data: bytes) -> bytes:
    """The event with the `usage` member taken out of its JSON; as it came where that cannot be found."""
    try:
        found = spans.members(data)
    except Rejection:
        return event
    stripped = spans.splice(data, [spans.remove_member(found, "usage")])
    if data in event:
        return event.replace(data, stripped, 1)
    lines = event.splitlines(keepends=True)
    rest = b"".join(line for line in lines if not line.startswith(_NAMED_DATA))
    return b"".join(b"data: " + line + b"\n" for line in stripped.split(b"\n")) + rest


class OpenAIChat(Dialect):
    """`POST /v1/chat/completions`."""

    name = "openai_chat"
    api = "openai"
    operation = "chat"

    def read_request(self, body: bytes) -> RequestView:
        """Read and check the request."""
        return ChatRequest(body)

    def reader(self, *, stream: bool, strip_usage: bool = False, limits: ReadLimits = DEFAULT_LIMITS) -> ResponseReader:
        """A reader for the JSON body or the stream."""
        if not stream:
            return ChatJsonReader(limits.body)
        return ChatStripReader(limits.event) if strip_usage else ChatSseReader(limits.event)

    def editor(self, *, stream: bool, texts: TextFilter, limits: ReadLimits = DEFAULT_LIMITS) -> ResponseEditor:
        """An editor for the JSON body or the stream."""
        return ChatStreamEditor(texts, limits) if stream else JsonEditor(texts, limits)

    def error(self, rejection: Rejection) -> ErrorAnswer:
        """OpenAI's error shape."""
        return openai_error(rejection)
