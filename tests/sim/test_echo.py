"""Echoes: the request's texts come back wherever an answer can hold a text, JSON and streamed alike."""

from __future__ import annotations

import json
from typing import Any

import pytest

from extproc.sim import SimAnswer, Vendors, answer_request, synthetic
from extproc.sim.faults import BadFaultError, apply

SAID = 'Say "Ünïcode" \\ twice,\nthen 🚀.'
CHAT: dict[str, Any] = {"model": "gpt-4o", "messages": [{"role": "user", "content": SAID}]}
MESSAGES: dict[str, Any] = {**CHAT, "model": "claude-sonnet-4-6", "max_tokens": 2}
RESPONSES: dict[str, Any] = {"model": "gpt-4o", "input": SAID}
LAST = {"x-sim-echo": "last"}
PIECES = ["", "1", "5", "0"]


def tools(*names: str) -> list[dict[str, Any]]:
    """Definitions as Messages and Responses have them."""
    return [{"type": "function", "name": name, "parameters": {}} for name in names]


def chat_tools(*names: str) -> list[dict[str, Any]]:
    """Definitions as Chat has them."""
    return [{"type": "function", "function": {"name": name}} for name in names]


def data(answer: SimAnswer) -> list[Any]:
    """The events of a stream."""
    lines = [line[6:] for line in answer.body.split(b"\n") if line.startswith(b"data: ")]
    return [json.loads(line) for line in lines if line != b"[DONE]"]


def _without_ids(item: dict[str, Any]) -> dict[str, Any]:
    """They are made from the request's bytes, which say `stream` or do not."""
    return {key: value for key, value in item.items() if key not in ("id", "call_id")}


def headers(piece: str) -> dict[str, str]:
    """Ask for an echo in deltas of that size."""
    return LAST | ({"x-sim-piece": piece} if piece else {})


@pytest.mark.parametrize("piece", PIECES)
def test_chat_stream_is_the_json_answer(piece: str) -> None:
    """Two choices with content, reasoning and two interleaved calls of tools say the same streamed and whole."""
    asked = {**CHAT, "n": 2, "tools": chat_tools("one", "two"), "reasoning_effort": "low"}
    whole = json.loads(synthetic("openai_chat", asked, headers(piece)).body)["choices"]
    told: dict[tuple[Any, ...], str] = {}
    for chunk in data(synthetic("openai_chat", {**asked, "stream": True}, headers(piece))):
        for choice in chunk["choices"]:
            for key in ("content", "reasoning_content"):
                told[choice["index"], key] = told.get((choice["index"], key), "") + (choice["delta"].get(key) or "")
            for call in choice["delta"].get("tool_calls") or ():
                where = (choice["index"], call["index"])
                told[where] = told.get(where, "") + call["function"]["arguments"]

    assert len(whole) == 2
    for choice in whole:
        message, index = choice["message"], choice["index"]
        assert message["content"] == message["reasoning_content"] == SAID
        assert (told[index, "content"], told[index, "reasoning_content"]) == (SAID, SAID)
        assert [call["function"]["name"] for call in message["tool_calls"]] == ["one", "two"]
        assert len({call["id"] for one in whole for call in one["message"]["tool_calls"]}) == 4
        for at, call in enumerate(message["tool_calls"]):
            assert told[index, at] == call["function"]["arguments"]
            assert json.loads(told[index, at]) == {"text_0": SAID}


@pytest.mark.parametrize("piece", PIECES)
def test_messages_stream_is_the_json_answer(piece: str) -> None:
    """Thinking with its signature, text and two calls of tools, not cut by max_tokens."""
    asked = {**MESSAGES, "tools": tools("one", "two"), "thinking": {"type": "enabled", "budget_tokens": 1024}}
    whole = json.loads(synthetic("anthropic_messages", asked, headers(piece)).body)
    told: dict[int, dict[str, str]] = {}
    for event in data(synthetic("anthropic_messages", {**asked, "stream": True}, headers(piece))):
        if event["type"] == "content_block_delta":
            for key, value in event["delta"].items():
                block = told.setdefault(event["index"], {})
                block[key] = value if key == "type" else block.get(key, "") + value

    thinking, text, *calls = whole["content"]
    assert (thinking["thinking"], text["text"]) == (SAID, SAID)
    assert told[0]["thinking"] == SAID
    assert told[0]["signature"] == thinking["signature"] != ""
    assert told[1]["text"] == SAID
    assert [call["name"] for call in calls] == ["one", "two"]
    for index, call in enumerate(calls, 2):
        assert json.loads(told[index]["partial_json"]) == call["input"] == {"text_0": SAID}


@pytest.mark.parametrize("piece", PIECES)
def test_responses_stream_is_the_json_answer(piece: str) -> None:
    """A summary of reasoning, a message and two calls; every `done` event repeats its deltas."""
    asked = {**RESPONSES, "tools": tools("one", "two"), "reasoning": {"summary": "auto"}}
    whole = json.loads(synthetic("openai_responses", asked, headers(piece)).body)["output"]
    events = data(synthetic("openai_responses", {**asked, "stream": True}, headers(piece)))
    told: dict[int, str] = {}
    for event in events:
        if event["type"].endswith(".delta"):
            told[event["output_index"]] = told.get(event["output_index"], "") + event["delta"]
        elif event["type"].endswith(("text.done", "arguments.done")):
            assert told[event["output_index"]] == event.get("text", event.get("arguments"))

    done = [event["item"] for event in events if event["type"] == "response.output_item.done"]
    assert events[-1]["response"]["output"] == done
    assert [_without_ids(item) for item in done] == [_without_ids(item) for item in whole]
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    assert [item["type"] for item in whole] == ["reasoning", "message", "function_call", "function_call"]
    assert told[0] == whole[0]["summary"][0]["text"] == SAID
    assert told[1] == whole[1]["content"][0]["text"] == SAID
    assert [json.loads(told[at]) for at in (2, 3)] == [{"text_0": SAID}] * 2
    assert len({item["id"] for item in whole}) == 4


def test_pieces_have_the_size_that_was_asked_for() -> None:
    """No delta is longer than the piece; none is cut where one was asked for."""
    for piece, longest in (("3", 3), ("0", len(SAID))):
        chunks = data(synthetic("openai_chat", {**CHAT, "stream": True}, headers(piece)))
        sizes = [len(chunk["choices"][0]["delta"].get("content") or "") for chunk in chunks]
        assert max(sizes) == longest


def test_every_text_of_the_request_comes_back() -> None:
    """System, user, names, tools, arguments and metadata; constants, ids and inline files do not."""
    call = {"id": "c1", "type": "function", "function": {"name": "find", "arguments": '{"of":"whale"}'}}
    picture = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
    asked = {
        "model": "sim-echo-all",
        "messages": [
            {"role": "system", "content": "be brief"},
            {"role": "user", "name": "ann", "content": [{"type": "text", "text": "look"}, picture]},
            {"role": "assistant", "content": None, "tool_calls": [call]},
            {"role": "tool", "tool_call_id": "c1", "content": "12 m"},
        ],
        "metadata": {"ticket": "T-1"},
    }
    said = json.loads(synthetic("openai_chat", asked).body)["choices"][0]["message"]["content"]

    assert said.split("\n") == ["be brief", "ann", "look", "find", '{"of":"whale"}', "12 m", "T-1"]


def test_the_name_of_the_model_asks_too() -> None:
    """For who cannot set a header."""
    said = json.loads(synthetic("openai_chat", {**CHAT, "model": "sim-echo"}).body)["choices"][0]["message"]

    assert said["content"] == SAID


def test_structured_output_is_a_document() -> None:
    """Where JSON is asked for, the content is an object that holds the texts."""
    chat = {**CHAT, "response_format": {"type": "json_object"}}
    responses = {**RESPONSES, "text": {"format": {"type": "json_object"}}}
    content = json.loads(synthetic("openai_chat", chat, LAST).body)["choices"][0]["message"]["content"]
    output = json.loads(synthetic("openai_responses", responses, LAST).body)["output"][0]["content"][0]["text"]

    assert json.loads(content) == json.loads(output) == {"text_0": SAID}


@pytest.mark.parametrize(
    ("more", "called"),
    [({}, 2), ({"parallel_tool_calls": False}, 1), ({"tool_choice": "none"}, 0)],
)
def test_how_many_tools_are_called(more: dict[str, Any], called: int) -> None:
    """All that are offered, unless the request says otherwise; none where it brings a tool's result."""
    asked = {**CHAT, "tools": chat_tools("one", "two"), **more}
    message = json.loads(synthetic("openai_chat", asked, LAST).body)["choices"][0]["message"]
    result = {**asked, "messages": [*CHAT["messages"], {"role": "tool", "tool_call_id": "c", "content": "done"}]}
    after = json.loads(synthetic("openai_chat", result, LAST).body)["choices"][0]["message"]

    assert len(message.get("tool_calls", ())) == called
    assert "tool_calls" not in after


def test_a_single_call_for_anthropic() -> None:
    """`disable_parallel_tool_use` is heeded."""
    asked = {
        **MESSAGES,
        "tools": tools("one", "two"),
        "tool_choice": {"type": "auto", "disable_parallel_tool_use": True},
    }
    content = json.loads(synthetic("anthropic_messages", asked, LAST).body)["content"]

    assert [block["type"] for block in content] == ["text", "tool_use"]


def test_typing_errors_are_told() -> None:
    """An unknown kind of echo, and a piece that is no number."""
    answer = answer_request(Vendors(), "POST", "/v1/chat/completions", LAST, json.dumps(CHAT).encode())
    for faults in ({"echo": "lst"}, {"echo": "last", "piece": "-1"}, {"piece": "x"}):
        with pytest.raises(BadFaultError, match="x-sim-"):
            apply(answer, faults, "openai")
    assert apply(answer, {"echo": "last", "piece": "1"}, "openai") is answer
