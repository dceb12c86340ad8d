"""OpenAI Responses: requests and answers."""

from __future__ import annotations

import json

import pytest

from extproc.dialects.openai_responses import OpenAIResponses
from extproc.errors import ErrorCode, Rejection
from extproc.usage import Usage

RESPONSES = OpenAIResponses()
USAGE = {"input_tokens": 9, "output_tokens": 4, "input_tokens_details": {"cached_tokens": 2}}


def event(kind: str, **fields: object) -> bytes:
    """One streamed event."""
    return f"event: {kind}\ndata: {json.dumps({'type': kind, **fields})}\n\n".encode()


STREAM = (
    event("response.created", response={"model": "m-1", "usage": None})
    + event("response.output_text.delta", delta="He")
    + event("response.output_text.delta", delta="y")
    + event("response.output_text.done", text="Hey")
    + event("response.incomplete", response={"incomplete_details": {"reason": "max_output_tokens"}, "usage": USAGE})
)


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"input": 7}, "input"),
        ({"input": {}}, "input"),
        ({"instructions": 1}, "instructions"),
        ({"max_output_tokens": "x"}, "max_output_tokens"),
        ({"max_output_tokens": -1}, "max_output_tokens"),
        ({"max_output_tokens": 2**53 + 1}, "max_output_tokens"),
        ({"stream_options": 3}, "stream_options"),
        ({"stream": []}, "stream"),
    ],
)
def test_wrong_fields(fields: dict[str, object], param: str) -> None:
    """Fields of a wrong type are refused by name."""
    with pytest.raises(Rejection) as caught:
        RESPONSES.read_request(json.dumps({"model": "m", **fields}).encode())
    assert caught.value.param == param


def test_read() -> None:
    """Input may be a string, a list, or absent; streams report usage unasked."""
    for given in ({"input": "hi"}, {"input": []}, {"prompt": {"id": "p"}}):
        view = RESPONSES.read_request(
            json.dumps({"model": "m", "stream": True, "max_output_tokens": 3, **given}).encode()
        )
        assert (view.model, view.stream, view.max_output, view.choices, view.usage_edits()) == ("m", True, 3, 1, ())
    assert RESPONSES.read_request(b'{"model":"m","max_output_tokens":null}').max_output is None


@pytest.mark.parametrize("size", [1, 50, 10_000])
@pytest.mark.parametrize("named", [True, False])
def test_stream(size: int, named: bool) -> None:
    """The end event gives usage and reason, with or without event names, at any chunk size."""
    stream = STREAM if named else b"\n".join(line for line in STREAM.split(b"\n") if not line.startswith(b"event"))
    reader = RESPONSES.reader(stream=True)
    for i in range(0, len(stream), size):
        piece = stream[i : i + size]
        assert reader.feed(piece, end=False) is piece
    assert reader.usage == Usage(input=9, output=4, cached_input=2)
    assert (reader.model, reader.finished, reader.events) == ("m-1", True, 2)
    assert reader.finish_reasons == ("max_output_tokens",)
    assert reader.output_texts() == ["He", "y"]


def test_errors_in_a_stream() -> None:
    """Both shapes of the error event and a failed response are noticed."""
    for sent, kind in [
        (event("error", error={"type": "insufficient_quota"}), "insufficient_quota"),
        (event("error", code="server_error", message="x"), "server_error"),
        (event("response.failed", response={"error": {"code": "rate_limit_exceeded"}}), "rate_limit_exceeded"),
    ]:
        reader = RESPONSES.reader(stream=True)
        reader.feed(sent, end=True)
        assert reader.error == kind


def test_json_answer() -> None:
    """Usage, status and the texts of every kind of item."""
    answer = {
        "model": "m-1",
        "status": "completed",
        "error": None,
        "incomplete_details": None,
        "output": [
            {"type": "reasoning", "summary": [{"type": "summary_text", "text": "hm"}]},
            {
                "type": "message",
                "content": [{"type": "output_text", "text": "a"}, {"type": "refusal", "refusal": "no"}],
            },
            {"type": "function_call", "name": "f", "arguments": "{}"},
        ],
        "usage": USAGE,
    }
    reader = RESPONSES.reader(stream=False)
    reader.feed(json.dumps(answer).encode(), end=True)
    assert reader.usage == Usage(input=9, output=4, cached_input=2)
    assert (reader.error, reader.finish_reasons, reader.finished) == (None, ("completed",), True)
    assert reader.output_texts() == ["hm", "a", "no", "f", "{}"]


def test_abort() -> None:
    """The error event carries the error both ways that clients look for it."""
    reader = RESPONSES.reader(stream=True)
    reader.feed(STREAM[:20], end=False)
    end = reader.abort(Rejection(504, ErrorCode.PROVIDER_TIMEOUT, "late"))
    assert end.startswith(b"\n\nevent: error\ndata: ")
    data = json.loads(end.split(b"data: ")[1])
    assert data["type"] == "error"
    assert data["message"] == data["error"]["message"] == "late"
