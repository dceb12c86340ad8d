"""Editing streams of Chat Completions."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dialects.filters import Drip, Patient, Same, Swap, chat_result, events, every_cut, run, swap
from extproc.dialects.openai_chat import OpenAIChat
from extproc.dialects.openai_chat_edit import ChatStreamEditor

CHAT = OpenAIChat()


def chunk(*choices: tuple[int, dict, str | None], **fields: object) -> bytes:
    """One chunk in the vendor's spelling."""
    listed = [{"index": index, "delta": delta, "finish_reason": reason} for index, delta, reason in choices]
    tree = {"id": "c-1", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": listed, **fields}
    return b"data: " + json.dumps(tree, separators=(",", ":"), ensure_ascii=False).encode() + b"\n\n"


def call(index: int, **function: str) -> dict:
    """A delta of one tool call."""
    first = {"id": f"call_{index}", "type": "function"} if "name" in function else {}
    return {"tool_calls": [{"index": index, **first, "function": function}]}


STREAM = b"".join(
    [
        b": hi\n\n",
        chunk((0, {"role": "assistant", "content": ""}, None), (1, {"role": "assistant", "content": "É <"}, None)),
        chunk((0, {"content": "Dear <P"}, None), obfuscation="xyz"),
        chunk((1, {"content": "P_2"}, None)),
        b"event: ping\n\n",
        chunk((0, {"content": "_1>"}, None), (1, {"content": "> and <P_9>"}, None)),
        chunk((0, {"content": ", <P_1> <P_"}, None)),
        chunk((0, call(0, name="P_1", arguments=""), None)),
        chunk((0, call(0, arguments='{"to":"<P'), None)),
        chunk((0, call(1, name="mail", arguments='{"a":["<P_2>"'), None)),
        chunk((0, {"tool_calls": [{"index": 1, "function": {"arguments": "]"}}, {"index": 0, "function": {"arguments": "_1"}}]}, None)),
        chunk((0, call(0, arguments='>"}'), None)),
        chunk((1, {"refusal": "No, <P_1"}, None)),
        chunk((0, call(1, arguments="}"), None)),
        chunk((1, {"content": " <P_2"}, "stop"), usage=None),
        chunk((0, {}, "tool_calls"), service_tier="default"),
        chunk(usage={"prompt_tokens": 1}),
        b"data: [DONE]\n\n",
    ]
)  # fmt: skip
WANTED = {
    0: {
        "delta": {
            "role": "assistant",
            "content": swap("text", "Dear <P_1>, <P_1> <P_"),
            "tool_calls": [
                {"index": 0, "id": "call_0", "type": "function", "function": {"name": "zoe", "arguments": swap("json", '{"to":"<P_1>"}')}},
                {"index": 1, "id": "call_1", "type": "function", "function": {"name": "mail", "arguments": swap("json", '{"a":["<P_2>"]}')}},
            ],
        },
        "finish_reason": "tool_calls",
    },
    1: {
        "delta": {"role": "assistant", "content": swap("text", "É <P_2> and <P_9> <P_2"), "refusal": "No, <P_1"},
        "finish_reason": "stop",
    },
}  # fmt: skip


@pytest.mark.parametrize("texts", [Swap, Patient])
def test_wherever_it_is_cut(texts: type[Swap]) -> None:
    """Two choices, parallel calls, placeholders over several deltas: the same bytes go out whatever the pieces were."""
    outs = {run(ChatStreamEditor(texts()), STREAM, cuts) for cuts in every_cut(STREAM, 1 if texts is Swap else 7)}
    (out,) = outs
    assert chat_result(out) == WANTED
    for choice in (0, 1):
        for tool_call in WANTED[choice]["delta"].get("tool_calls", ()):
            json.loads(tool_call["function"]["arguments"])


def test_hint_changes_nothing() -> None:
    """With and without the filter's hint the same bytes go out; with it, fewer texts are asked about."""
    hinted, patient = Swap(), Patient()
    stream = STREAM + b"".join(chunk((0, {"content": f"word {i}"}, None)) for i in range(50))
    assert run(ChatStreamEditor(hinted), stream) == run(ChatStreamEditor(patient), stream)
    assert hinted.calls < patient.calls - 40


def test_untouched_events_keep_their_bytes() -> None:
    """Only events with a change differ, and a filter that changes nothing gives every byte back."""
    assert run(CHAT.editor(stream=True, texts=Same()), STREAM) == STREAM
    before = STREAM.split(b"\n\n")
    after = set(run(ChatStreamEditor(Swap()), STREAM).split(b"\n\n"))
    for event in before:
        assert event in after or any(part in event for part in (b"<", b"P_", b'"_1', b'">'))


def test_what_is_left_goes_before_the_end() -> None:
    """Text that was held back comes in a chunk of its own, before the chunk that ends the choice, and says nothing twice."""
    stream = chunk((0, {"role": "assistant", "content": "a <P"}, None), obfuscation="xy", usage=None) + chunk(
        (0, {}, "stop")
    )
    first, extra, last = events(run(ChatStreamEditor(Swap()), stream))
    assert first["choices"][0]["delta"] == {"role": "assistant", "content": "a "}
    assert extra == {
        **{k: v for k, v in first.items() if k != "obfuscation"},
        "choices": [{"index": 0, "delta": {"content": "<P"}, "finish_reason": None}],
    }
    assert last["choices"][0]["finish_reason"] == "stop"


@pytest.mark.parametrize("end", [b"data: [DONE]\n\n", b"", b"data: [DONE]"])
def test_an_end_without_a_reason(end: bytes) -> None:
    """Where no finish reason comes, what is held back goes out before `[DONE]`, or at the end of the stream."""
    stream = chunk((0, call(0, name="f", arguments='{"a":"<P'), None))
    out = run(ChatStreamEditor(Swap()), stream + end)
    assert out.endswith(end)
    assert chat_result(out)[0]["delta"]["tool_calls"] == [
        {"index": 0, "id": "call_0", "type": "function", "function": {"name": "f", "arguments": '{"a":"<P'}}
    ]


def test_a_stream_cut_off_within_an_event() -> None:
    """An event without its blank line is closed before more is said."""
    out = run(ChatStreamEditor(Swap()), chunk((0, {"content": "x <P"}, None)).rstrip(b"\n"))
    assert chat_result(out)[0]["delta"] == {"content": "x <P"}


def test_content_in_parts() -> None:
    """A vendor that streams content as an array of parts is understood too."""
    stream = b"".join(
        chunk((0, {"content": [{"type": "text", "text": text}]}, reason))
        for text, reason in (("a <P", None), ("_1> <", None), ("P_2", "length"))
    )
    merged = chat_result(run(ChatStreamEditor(Swap()), stream))
    assert merged[0]["delta"]["content"] == [{"type": "text", "text": swap("text", "a <P_1> <P_2")}]
    merged = chat_result(run(ChatStreamEditor(Swap()), stream[: stream.rindex(b"data: ")] + chunk((0, {}, "stop"))))
    assert merged[0]["delta"]["content"] == [{"type": "text", "text": swap("text", "a <P_1> <")}]


def test_annotations_and_errors_are_complete() -> None:
    """What comes in one piece is edited in one piece: citations, error messages, members nobody foresaw."""
    stream = (
        chunk((0, {"annotations": [{"type": "url_citation", "url_citation": {"title": "<P_2>"}}]}, None))
        + b'data: {"error":{"message":"about <P_2>","type":"server_error"}}\n\n'
        + b'data: {"choices":[],"citations":["<P_2> <P"]}\n\n'
    )
    first, error, last = events(run(ChatStreamEditor(Swap()), stream))
    assert first["choices"][0]["delta"]["annotations"][0]["url_citation"]["title"] == "q@example.org"
    assert error["error"]["message"] == "about q@example.org"
    assert last["citations"] == ["q@example.org <P"]


DELTAS = st.lists(
    st.tuples(
        st.integers(0, 2),
        st.one_of(
            st.text(max_size=8).map(lambda text: {"content": text}),
            st.text(max_size=8).map(lambda text: {"reasoning_content": text, "content": ""}),
            st.tuples(st.integers(0, 2), st.text(max_size=8)).map(lambda pair: call(pair[0], arguments=pair[1])),
        ),
        st.sampled_from([None, None, None, "stop"]),
    ),
    max_size=12,
)


@given(DELTAS, st.integers(), st.sampled_from([b"\n", b"\r\n", b"\r"]), st.data())
def test_a_filter_that_holds_back_at_random(deltas: list, seed: int, line_end: bytes, data: st.DataObject) -> None:
    """Whatever is held back, whenever, the client has the same message in the end; no channel is ended twice."""
    stream = b"".join(chunk(delta) for delta in deltas).replace(b"\n", line_end)
    cuts = data.draw(st.lists(st.integers(0, len(stream)), max_size=5).map(sorted))
    texts = Drip(seed)
    out = run(ChatStreamEditor(texts), stream, cuts)
    assert chat_result(out) == chat_result(stream)
    assert texts.held == {}
