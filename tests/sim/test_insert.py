"""Texts put into answers that exist already."""

from __future__ import annotations

import json
from typing import Any

import pytest

from extproc.sim import SimAnswer, synthetic
from extproc.sim.faults import apply
from extproc.sim.insert import insert_text

TEXT = 'put "in" <HERE_1>\n'
ASK = [{"role": "user", "content": "Tell me of the sea"}]
CALLS: list[tuple[Any, dict[str, Any]]] = [
    ("openai_chat", {"model": "gpt-4o", "messages": ASK, "n": 2}),
    ("openai_responses", {"model": "gpt-4o", "input": "Tell me of the sea"}),
    ("anthropic_messages", {"model": "claude-haiku-4-5", "max_tokens": 99, "messages": ASK}),
]


def said(answer: SimAnswer) -> dict[Any, str]:
    """The text of each channel of a stream; every whole text in a Responses stream must be its channel's."""
    told: dict[Any, str] = {}
    for line in answer.body.splitlines():
        if not line.startswith(b"data: {"):
            continue
        event = json.loads(line[6:])
        for choice in event.get("choices") or ():
            told[choice["index"]] = told.get(choice["index"], "") + (choice["delta"].get("content") or "")
        delta = event.get("delta")
        if isinstance(delta, str):
            told[0] = told.get(0, "") + delta
        elif isinstance(delta, dict):
            told[0] = told.get(0, "") + delta.get("text", "")
        if event.get("type") == "response.output_text.done":
            assert event["text"] == told[0]
        if event.get("type") == "response.completed":
            assert event["response"]["output"][0]["content"][0]["text"] == told[0]
    return told


@pytest.mark.parametrize(("endpoint", "body"), CALLS, ids=[call[0] for call in CALLS])
@pytest.mark.parametrize("piece", [0, 1, 4])
def test_each_channel_begins_with_it(endpoint: Any, body: dict[str, Any], piece: int) -> None:
    """The text stands before the first text of every channel; what was there follows; numbers of events stay in order."""
    plain = synthetic(endpoint, {**body, "stream": True})
    answer = insert_text(plain, TEXT, piece)

    assert said(answer) == {channel: TEXT + text for channel, text in said(plain).items()}
    assert len(said(plain)) == body.get("n", 1)
    events = [json.loads(line[6:]) for line in answer.body.splitlines() if line.startswith(b"data: {")]
    numbers = [event["sequence_number"] for event in events if "sequence_number" in event]
    assert numbers == list(range(len(numbers)))


@pytest.mark.parametrize(("endpoint", "body"), CALLS, ids=[call[0] for call in CALLS])
def test_json(endpoint: Any, body: dict[str, Any]) -> None:
    """A JSON answer says it first."""
    assert json.dumps(TEXT)[1:-1].encode() in insert_text(synthetic(endpoint, body), TEXT).body


def test_other_events_keep_their_bytes() -> None:
    """Spaces, a comment, an event without text and one that is no JSON are as they were; so are line ends."""
    first = b': hi\r\n\r\ndata:{"choices": [ ] }\r\n\r\n'
    last = b'data: {"choices":[{"index":0,"delta":{"content":"b"}}] }\r\n\r\ndata: [DONE]\r\n\r\n'
    delta = b'data: {"choices":[{"index":0,"delta":{"content":"a"}}]}\r\n\r\n'
    stream = SimAnswer(200, (("content-type", "text/event-stream"),), (first + delta + last,))
    out = insert_text(stream, "x").body

    assert out == first + delta.replace(b'"a"', b'"xa"') + last


def test_it_is_asked_for_by_header() -> None:
    """`x-sim-insert`, with `x-sim-piece` for its deltas."""
    plain = synthetic("openai_chat", {**CALLS[0][1], "stream": True})
    answer = apply(plain, {"insert": "<A_1>", "piece": "2"}, "openai")

    assert said(answer) == {channel: "<A_1>" + text for channel, text in said(plain).items()}
