"""Anthropic Messages and token counting."""

from __future__ import annotations

import json

import pytest

from extproc.dialects.anthropic_count_tokens import AnthropicCountTokens
from extproc.dialects.anthropic_messages import AnthropicMessages
from extproc.errors import ErrorCode, Rejection
from extproc.usage import Usage

MESSAGES = AnthropicMessages()


def event(kind: str, **fields: object) -> bytes:
    """One streamed event."""
    return f"event: {kind}\ndata: {json.dumps({'type': kind, **fields})}\n\n".encode()


START = event(
    "message_start",
    message={"model": "c-1", "usage": {"input_tokens": 3, "cache_read_input_tokens": 10, "output_tokens": 1}},
)
STREAM = (
    START
    + event("content_block_start", index=0, content_block={"type": "tool_use", "name": "f", "input": {}})
    + event("ping")
    + event("content_block_delta", index=0, delta={"type": "input_json_delta", "partial_json": '{"a"'})
    + event("content_block_delta", index=0, delta={"type": "text_delta", "text": "hi"})
    + event("content_block_stop", index=0)
    + event("message_delta", delta={"stop_reason": "tool_use"}, usage={"output_tokens": 7, "input_tokens": None})
    + event("message_stop")
)


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"messages": 1}, "messages"),
        ({"system": 1}, "system"),
        ({"max_tokens": "9"}, "max_tokens"),
        ({"max_tokens": -1}, "max_tokens"),
        ({"max_tokens": 2**53 + 1}, "max_tokens"),
        ({"max_tokens": True}, "max_tokens"),
        ({"model": []}, "model"),
    ],
)
def test_wrong_fields(fields: dict[str, object], param: str) -> None:
    """Fields of a wrong type are refused by name."""
    with pytest.raises(Rejection) as caught:
        MESSAGES.read_request(json.dumps({"model": "c", "messages": [], **fields}).encode())
    assert caught.value.param == param


def test_read() -> None:
    """Model, stream and cap; one choice; usage is reported unasked."""
    view = MESSAGES.read_request(b'{"model":"c","max_tokens":8,"messages":[],"stream":true}')
    assert (view.model, view.stream, view.max_output, view.choices, view.usage_edits()) == ("c", True, 8, 1, ())
    assert MESSAGES.read_request(b'{"model":"c","max_tokens":null,"messages":[]}').max_output is None


def test_the_cost_vector() -> None:
    """Input includes both cache counts, which the vendor's own `input_tokens` leaves out."""
    raw = {"input_tokens": 3, "cache_creation_input_tokens": 12304, "cache_read_input_tokens": 0, "output_tokens": 550}
    reader = MESSAGES.reader(stream=False)
    reader.feed(json.dumps({"model": "c-1", "stop_reason": "end_turn", "usage": raw}).encode(), end=True)
    assert reader.usage == Usage(input=12307, output=550, cached_input=0, cache_creation_input=12304)
    assert (reader.model, reader.finish_reasons, reader.finished) == ("c-1", ("end_turn",), True)


@pytest.mark.parametrize("size", [1, 64, 10_000])
@pytest.mark.parametrize("line_end", [b"\n", b"\r\n"])
def test_stream(size: int, line_end: bytes) -> None:
    """The start's counts are overlaid by the deltas' running totals; null overlays nothing."""
    stream = STREAM.replace(b"\n", line_end)
    reader = MESSAGES.reader(stream=True, strip_usage=True)
    for i in range(0, len(stream), size):
        piece = stream[i : i + size]
        assert reader.feed(piece, end=False) is piece
    assert reader.usage == Usage(input=13, output=7, cached_input=10)
    assert (reader.model, reader.finished, reader.events) == ("c-1", True, 2)
    assert reader.finish_reasons == ("tool_use",)
    assert "".join(reader.output_texts()) == 'f{"a"hi'


def test_stream_cut_short() -> None:
    """Before the end the start's counts stand, and the answer is not finished."""
    reader = MESSAGES.reader(stream=True)
    reader.feed(START, end=True)
    assert (reader.usage, reader.finished) == (Usage(input=13, output=1, cached_input=10), False)


def test_error_in_a_stream_and_abort() -> None:
    """An error event is known by its type; ours has the vendor's shape and closes a half-sent event."""
    reader = MESSAGES.reader(stream=True)
    reader.feed(event("error", error={"type": "overloaded_error", "message": "x"}) + b"event: con", end=False)
    assert reader.error == "overloaded_error"
    end = reader.abort(Rejection(503, ErrorCode.PROVIDER_OVERLOADED, 'a "b"'))
    assert end.startswith(b"\n\nevent: error\ndata: ")
    assert end.endswith(b"\n\n")
    error = json.loads(end.split(b"data: ")[1])
    assert error["type"] == "error"
    assert error["error"] == {"type": "overloaded_error", "message": 'a "b"'}


def test_error_answer() -> None:
    """An error body is known by its type."""
    reader = MESSAGES.reader(stream=False)
    reader.feed(b'{"type":"error","error":{"type":"authentication_error","message":"x"}}', end=True)
    assert reader.error == "authentication_error"


def test_texts_of_an_answer() -> None:
    """Thinking, text, and tool calls with their input."""
    blocks = [{"thinking": "hm"}, {"text": "a"}, {"name": "f", "input": {"x": 1}}]
    reader = MESSAGES.reader(stream=False)
    reader.feed(json.dumps({"content": blocks}).encode(), end=True)
    assert reader.output_texts() == ["hm", "a", "f", '{"x":1}']


def test_count_tokens() -> None:
    """A count reports its input, is not billed, and reads the same request."""
    count = AnthropicCountTokens()
    reader = count.reader(stream=False)
    reader.feed(b'{"input_tokens":42}', end=True)
    assert reader.usage == Usage(input=42)
    assert not count.billable
    assert count.read_request(b'{"model":"c","messages":[]}').model == "c"
