"""Editing streams and bodies of Responses."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dialects.filters import Drip, Patient, Same, Swap, events, every_cut, responses_result, run, swap
from extproc.dialects.openai_responses import OpenAIResponses
from extproc.dialects.openai_responses_edit import ResponsesStreamEditor

RESPONSES = OpenAIResponses()
TEXT = "Hé <P_1>, <P_2"
SUMMARY = "why <P_2>"
ARGUMENTS = '{"to":["<P_1>"],"n":"<P'
ECHO = {
    "instructions": "You serve <P_1>",
    "tools": [{"type": "function", "name": "P_2", "description": "mails <P_2>", "parameters": {"enum": ["<P_1>"]}}],
    "metadata": {"id": "<P_2>"},
    "prompt": {"id": "<P_1>", "variables": {"id": "<P_1>"}},
    "user": "<P_1>",
    "previous_response_id": "<P_1>",
}


def framed(trees: list[dict]) -> bytes:
    """A numbered stream."""
    out = []
    for number, tree in enumerate(trees):
        data = json.dumps(
            {"type": tree["type"], "sequence_number": number, **tree}, separators=(",", ":"), ensure_ascii=False
        )
        out.append(f"event: {tree['type']}\ndata: {data}\n\n")
    return "".join(out).encode()


def response(kind: str, output: list) -> dict:
    """An event that carries the whole response, with the request echoed in it."""
    return {"type": kind, "response": {"id": "<P_1>", "object": "response", "model": "<P_1>", **ECHO, "output": output}}


ITEMS = [
    {"type": "reasoning", "id": "rs", "encrypted_content": "<P_1>", "summary": [{"type": "summary_text", "text": SUMMARY}]},
    {"type": "message", "id": "msg", "role": "assistant", "content": [{"type": "output_text", "text": TEXT, "annotations": []}]},
    {"type": "function_call", "id": "fc", "call_id": "c", "name": "P_2", "arguments": ARGUMENTS},
    {"type": "custom_tool_call", "id": "ct", "call_id": "d", "name": "f", "input": "run <P_1>"},
]  # fmt: skip
AT = {"item_id": "i", "output_index": 1, "content_index": 0}
STREAM = framed(
    [
        response("response.created", []),
        {"type": "response.output_item.added", "output_index": 0, "item": {**ITEMS[0], "summary": []}},
        {"type": "response.reasoning_summary_text.delta", "output_index": 0, "summary_index": 0, "delta": "why <P_"},
        {"type": "response.reasoning_summary_text.delta", "output_index": 0, "summary_index": 0, "delta": "2>"},
        {"type": "response.reasoning_summary_text.done", "output_index": 0, "summary_index": 0, "text": SUMMARY},
        {"type": "response.output_item.done", "output_index": 0, "item": ITEMS[0]},
        {"type": "response.content_part.added", **AT, "part": {"type": "output_text", "text": ""}},
        {"type": "response.output_text.delta", **AT, "delta": "Hé <", "logprobs": [], "obfuscation": "ab"},
        {"type": "response.output_text.delta", **AT, "delta": "P_1", "logprobs": [], "obfuscation": "ab"},
        {"type": "response.function_call_arguments.delta", "output_index": 2, "delta": '{"to":["<P'},
        {"type": "response.output_text.delta", **AT, "delta": ">, <P_2", "logprobs": [{"token": "<P_2>"}], "obfuscation": "ab"},
        {"type": "response.output_text.annotation.added", **AT, "annotation": {"type": "url_citation", "title": "<P_2>"}},
        {"type": "response.output_text.done", **AT, "text": TEXT},
        {"type": "response.content_part.done", **AT, "part": {"type": "output_text", "text": TEXT}},
        {"type": "response.output_item.done", "output_index": 1, "item": ITEMS[1]},
        {"type": "response.function_call_arguments.delta", "output_index": 2, "delta": '_1>"],"n"'},
        {"type": "response.function_call_arguments.delta", "output_index": 2, "delta": ':"<P'},
        {"type": "response.function_call_arguments.done", "output_index": 2, "arguments": ARGUMENTS},
        {"type": "response.output_item.done", "output_index": 2, "item": ITEMS[2]},
        {"type": "response.custom_tool_call_input.delta", "output_index": 3, "delta": "run <P_1"},
        {"type": "response.output_text.delta", "output_index": 9, "content_index": 0, "delta": "plain"},
        {"type": "response.custom_tool_call_input.delta", "output_index": 3, "delta": ">"},
        {"type": "response.custom_tool_call_input.done", "output_index": 3, "input": "run <P_1>"},
        {"type": "response.audio.delta", "delta": "<P_1>"},
        response("response.completed", ITEMS),
    ]
)  # fmt: skip


def swapped(value: object, key: str = "") -> object:
    """What becomes of a complete part of an answer."""
    if isinstance(value, dict):
        free = key in ("metadata", "variables")
        return {name: child if name in FIXED and not free else swapped(child, name) for name, child in value.items()}
    if isinstance(value, list):
        return [swapped(child) for child in value]
    if not isinstance(value, str):
        return value
    return swap("json" if key == "arguments" else "name" if key == "name" else "text", value)


FIXED = ("id", "model", "encrypted_content", "previous_response_id", "logprobs", "type")


def wanted() -> tuple[dict, list]:
    """What a client must have in the end."""
    grown, others = responses_result(STREAM)
    sound = [key for key in grown if key[3] == "response.audio.delta"]
    for key, text in grown.items():
        if key not in sound:
            grown[key] = swap("json" if "arguments" in key[3] else "text", text)
    return grown, swapped(others)


@pytest.mark.parametrize("texts", [Swap, Patient])
def test_wherever_it_is_cut(texts: type[Swap]) -> None:
    """Deltas, their complete texts and the echoed request: the same bytes go out whatever the pieces were."""
    cuts = every_cut(STREAM, 1 if texts is Swap else 7)
    outs = {run(ResponsesStreamEditor(texts()), STREAM, cut) for cut in cuts}
    (out,) = outs
    assert responses_result(out) == wanted()
    deltas = [
        event for event in events(out) if event["type"] == "response.output_text.delta" and event["output_index"] == 1
    ]
    done = next(event for event in events(out) if event["type"] == "response.output_text.done")
    assert "".join(event["delta"] for event in deltas) == done["text"] == swap("text", TEXT)


@pytest.mark.parametrize("texts", [Swap, Patient])
def test_numbers_have_no_gap(texts: type[Swap]) -> None:
    """Extra deltas take a number, and all later events move up, read or not, down to a stream without names."""
    nameless = b"\n\n".join(one.partition(b"\n")[2] for one in STREAM.split(b"\n\n"))
    for stream in (STREAM, nameless):
        out = events(run(ResponsesStreamEditor(texts()), stream))
        assert len(out) == stream.count(b"data:") + 2
        assert [event["sequence_number"] for event in out] == list(range(len(out)))
        added = out[12]
        assert (added["delta"], added["logprobs"], "obfuscation" in added) == ("<P_2", [], False)


def test_same_bytes() -> None:
    """A filter that changes nothing gives every byte back."""
    for stream in (STREAM, STREAM.replace(b"\n", b"\r\n")):
        assert run(RESPONSES.editor(stream=True, texts=Same()), stream) == stream


ENDS = [
    {"type": "response.content_part.done", **AT, "part": {}},
    {"type": "response.output_item.done", "output_index": 1, "item": {}},
    response("response.failed", []),
    {"type": "error", "message": "x"},
    None,
]


@pytest.mark.parametrize("end", ENDS)
def test_an_end_without_its_done_event(end: dict | None) -> None:
    """The end of the part, the item, the response or the stream lets go what is held back."""
    delta = {"type": "response.output_text.delta", **AT, "delta": "a <P"}
    out = events(run(ResponsesStreamEditor(Swap()), framed([delta, end] if end else [delta])))
    assert [event["type"] for event in out] == [delta["type"], delta["type"], *([end["type"]] if end else [])]
    assert [event["sequence_number"] for event in out] == list(range(len(out)))
    assert out[0]["delta"] + out[1]["delta"] == "a <P"


def test_the_end_of_another_part_ends_nothing() -> None:
    """A placeholder goes on over the end of another part, item or kind of text."""
    first, rest = ({"type": "response.output_text.delta", **AT, "delta": text} for text in ("a <P", "_2>"))
    for between in (
        {"type": "response.content_part.done", **AT, "content_index": 1, "part": {}},
        {"type": "response.output_item.done", "output_index": 0, "item": {}},
        {"type": "response.refusal.done", **AT, "refusal": ""},
        {"type": "response.reasoning_summary_part.done", "output_index": 1, "summary_index": 0, "part": {}},
    ):
        out = events(run(ResponsesStreamEditor(Swap()), framed([first, between, rest])))
        assert [event.get("delta") for event in out] == ["a ", None, "q@example.org"]


def test_json_body() -> None:
    """Output items of every kind and the echoed request are edited in place; ids and sealed content are not."""
    tree = response("x", [*ITEMS, {"type": "image_generation_call", "id": "ig", "result": "PF8x"}])["response"]
    for indent in (None, 2):
        body = json.dumps(tree, indent=indent).encode()
        assert run(RESPONSES.editor(stream=False, texts=Same()), body, [7]) == body
        assert json.loads(run(RESPONSES.editor(stream=False, texts=Swap()), body, [7])) == swapped(tree)


PIECES = st.lists(st.tuples(st.integers(0, 1), st.integers(0, 1), st.text(max_size=8), st.booleans()), max_size=12)


@given(PIECES, st.integers(), st.data())
def test_a_filter_that_holds_back_at_random(pieces: list, seed: int, data: st.DataObject) -> None:
    """Whatever is held back, whenever, the client has the same texts in the end, and every number once."""
    trees = []
    for item, part, text, last in pieces:
        at = {"output_index": item, "content_index": part}
        trees.append({"type": "response.output_text.delta", **at, "delta": text})
        if last:
            trees.append({"type": "response.output_text.done", **at, "text": "x"})
    stream = framed(trees)
    cuts = data.draw(st.lists(st.integers(0, len(stream)), max_size=5).map(sorted))
    texts = Drip(seed)
    out = run(ResponsesStreamEditor(texts), stream, cuts)
    assert responses_result(out) == responses_result(stream)
    assert [event["sequence_number"] for event in events(out)] == list(range(len(events(out))))
    assert texts.held == {}
