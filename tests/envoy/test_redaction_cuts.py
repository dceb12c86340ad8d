"""Streams of our own that hold placeholders everywhere, cut at every byte: through the whole core, without a network."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from envoy.redaction_core import answer, playbook, redacting, send, spoken
from envoy.redaction_values import HARD
from extproc.sim import synthetic

VALUES = {f"T1~{HARD}~": "CODENAME", "kim" + chr(64) + "planted.example": "EMAIL_ADDRESS", "E123456": "EMPLOYEE_ID"}
TEXT = " / ".join((*VALUES, next(iter(VALUES)), "<EMAIL_ADDRESS_1> é🚀"))
SAID = [{"role": "user", "content": TEXT}]
NAMES = ("find_E123456", "other")
CHAT_TOOLS = [{"type": "function", "function": {"name": name, "parameters": {}}} for name in NAMES]
TOOLS = [{"type": "function", "name": name, "parameters": {}} for name in NAMES]
CLAUDE_TOOLS = [{"name": name, "input_schema": {}} for name in NAMES]
CALLS: dict[str, tuple[Any, dict[str, Any]]] = {
    "openai": ("openai_chat", {"model": "gpt-4o-mini", "messages": SAID, "n": 2, "tools": CHAT_TOOLS}),
    "responses": ("openai_responses", {"model": "gpt-4o-mini", "input": TEXT, "tools": TOOLS}),
    "anthropic": (
        "anthropic_messages",
        {"model": "claude-haiku-4-5", "max_tokens": 99, "messages": SAID, "tools": CLAUDE_TOOLS},
    ),
}
STRIDES = (1, 5, 37)
WORK = 3_000_000  # bytes that are played in two pieces for each stream: of long ones not every cut in two is tried


def cut_everywhere(stream: bytes) -> Iterator[list[bytes]]:
    """Every place is a cut: into two, and into pieces of each of the strides."""
    for at in range(1, len(stream)):
        yield [stream[:at], stream[at:]]
    for size in STRIDES:
        for first in range(1, size + 1):
            places = range(first, len(stream), size)
            yield [stream[a:b] for a, b in zip([0, *places], [*places, len(stream)], strict=True)]


def check(api: str, whole: bytes) -> None:
    """The text, in every channel; arguments are documents that hold it; names are what the caller named them."""
    told = spoken(whole)
    if api == "openai":
        assert told.pop(("content", 0)) == told.pop(("content", 1)) == TEXT
        names = [told.pop(("name", choice, call)) for choice in (0, 1) for call in (0, 1)]
        documents = [told.pop(("arguments", choice, call)) for choice in (0, 1) for call in (0, 1)]
    elif api == "responses":
        assert told.pop(("response.output_text", 0)) == told.pop(("response.output_text.done", 0)) == TEXT
        items = json.loads(told.pop(("response.completed",)))
        assert items[0]["content"][0]["text"] == TEXT
        names = [item["name"] for item in items[1:]] + [told.pop(("name", index)) for index in (1, 2)]
        documents = [item["arguments"] for item in items[1:]]
        for index in (1, 2):
            documents.append(told.pop(("response.function_call_arguments", index)))
            documents.append(told.pop(("response.function_call_arguments.done", index)))
    else:
        assert told.pop(("text", 0)) == TEXT
        names = [told.pop(("name", index)) for index in (1, 2)]
        documents = [told.pop(("partial_json", index)) for index in (1, 2)]
    assert not told
    assert {tuple(names[at : at + 2]) for at in range(0, len(names), 2)} == {NAMES}
    assert [json.loads(document) for document in documents] == [{"text_0": TEXT}] * len(documents)


@pytest.mark.parametrize("api", CALLS)
@pytest.mark.parametrize("piece", ["3", "0"], ids=["small deltas", "one delta"])
def test_every_cut(api: str, piece: str) -> None:
    """Two choices, two tools called at once, quotes and emojis: the caller reads what was written, at every cut alike."""
    endpoint, body = CALLS[api]
    setup = redacting(VALUES)
    sent = send(playbook(setup), api, body | {"stream": True})
    assert not any(json.dumps(value)[1:-1].encode() in sent for value in VALUES)
    assert json.loads(sent)["model"] == body["model"]
    stream = synthetic(endpoint, sent, {"x-sim-echo": "last", "x-sim-piece": piece}).body
    play = playbook(setup)
    send(play, api, body | {"stream": True})
    whole = answer(play, [stream])

    check(api, whole)
    step = -(-(len(stream) ** 2) // WORK)
    for turn, pieces in enumerate(cut_everywhere(stream)):
        if len(pieces) == 2 and turn % step:
            continue
        play = playbook(setup)
        send(play, api, body | {"stream": True})
        assert answer(play, pieces) == whole, list(map(len, pieces))
