"""Editing streams: framing, odd events, and the filter's hint; what all formats share."""

from __future__ import annotations

import json
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dialects.filters import Patient, Same, Swap, chat_result, every_cut, run, swap
from extproc.dialects import registry
from extproc.dialects.dialect import ReadLimits
from extproc.dialects.openai_chat_edit import ChatStreamEditor
from extproc.errors import ErrorCode, Rejection
from extproc.text import Channel

STREAMED = ("openai_chat", "openai_responses", "anthropic_messages")


def data(content: str) -> bytes:
    """The data of a chunk."""
    return json.dumps({"choices": [{"index": 0, "delta": {"content": content}, "finish_reason": None}]}).encode()


@pytest.mark.parametrize(
    ("event", "wanted"),
    [
        (b": <P_2>\n\n", b": <P_2>\n\n"),
        (b"event: <P_2>\nid: 1\n\n", b"event: <P_2>\nid: 1\n\n"),
        (b"data\n\n", b"data\n\n"),
        (b"data:\n\n", b"data:\n\n"),
        (b"data: not JSON <P_2>\n\n", b"data: not JSON q@example.org\n\n"),
        (b"data: <P_1>\n\n", b"data: " + swap("text", "<P_1>").strip().encode() + b"\ndata: \n\n"),
        (b'data: "<P_2>"\n\n', b'data: "q@example.org"\n\n'),
        (b'data: ["<P_2>"]\n\n', b'data: ["q@example.org"]\n\n'),
        (b'data:{"x":"<P_2>"}\n\n', b'data:{"x":"q@example.org"}\n\n'),
        (b'\xef\xbb\xbfdata: {"x":"<P_2>"}\n\n', b'\xef\xbb\xbfdata: {"x":"q@example.org"}\n\n'),
        (b'data: {"x":"<P_2>"}\r\n\r\n', b'data: {"x":"q@example.org"}\r\n\r\n'),
        (b'id: 7\rdata: {"x":"<P_2>"}\rretry: 5\r\r', b'id: 7\rdata: {"x":"q@example.org"}\rretry: 5\r\r'),
        (b'data: {"x":\nid: 7\ndata: "<P_2>"}\n: c\n\n', b'id: 7\ndata: {"x":\ndata: "q@example.org"}\n: c\n\n'),
        (b'data: {"x":"\\u003cP_2>"}\n\n', b'data: {"x":"q@example.org"}\n\n'),
        (b'data: {"x":"\\ud83d <P_2>"}\n\n', b'data: {"x":"\\ud83d q@example.org"}\n\n'),
        (b'data: {"x":"\xff <P_2>"}\n\n', b'data: {"x":"\xff q@example.org"}\n\n'),
        (b'data: {"x":"<P_2>"}', b'data: {"x":"q@example.org"}'),
    ],
)
@pytest.mark.parametrize("name", STREAMED)
def test_odd_events(name: str, event: bytes, wanted: bytes) -> None:
    """Events without data pass; what is no JSON is a plain text; the other lines of an edited event stay."""
    dialect = registry.DIALECTS[name]
    for cuts in every_cut(event):
        assert run(dialect.editor(stream=True, texts=Same()), event, cuts) == event
        assert run(dialect.editor(stream=True, texts=Swap()), event, cuts) == wanted
        assert run(dialect.editor(stream=True, texts=Patient()), event, cuts) == wanted


def test_a_pair_cut_in_two() -> None:
    """The halves of a surrogate pair in two deltas reach the filter as they are, and the client as they came."""
    stream = b"".join(
        b'data: {"choices":[{"index":0,"delta":{"content":"%s"}}]}\n\n' % text
        for text in (b"a \\ud83d", b"\\ude00 <", b"P")
    )
    assert run(ChatStreamEditor(Same()), stream) == stream
    out = run(ChatStreamEditor(Swap()), stream)
    assert chat_result(out)[0]["delta"]["content"] == "a \ud83d\ude00 <P"

    class Late(Same):
        def piece(self, channel: Channel, text: str) -> str:
            return ""

        def end(self, channel: Channel) -> str:
            return "\ud83d"

    assert run(ChatStreamEditor(Late()), stream).endswith(b'"content":"\\ud83d"},"finish_reason":null}]}\n\n')


def test_an_event_that_is_too_long() -> None:
    """A single event over the limit ends the call."""
    editor = ChatStreamEditor(Same(), ReadLimits(event=100))
    with pytest.raises(Rejection) as caught:
        editor.feed(b"data: " + b"x" * 200, end=False)
    assert caught.value.code is ErrorCode.PROVIDER_BAD_RESPONSE


def test_a_refusal_of_the_filter_is_let_through() -> None:
    """What the filter raises, the editor raises."""

    class Strict(Same):
        def piece(self, channel: Channel, text: str) -> str:
            raise Rejection(400, ErrorCode.POLICY_CONTENT_BLOCKED, "no")

    with pytest.raises(Rejection) as caught:
        ChatStreamEditor(Strict()).feed(b"data: " + data("x") + b"\n\n", end=False)
    assert caught.value.code is ErrorCode.POLICY_CONTENT_BLOCKED


def test_the_hint_is_only_a_hint() -> None:
    """An event is read although it has no trigger where something is held back, a name comes, or an escape hides one."""
    for stream in (
        b"data: " + data("<P") + b"\n\n" + b"data: " + data("_2> x") + b"\n\n",
        b"data: " + data("\\u").replace(b"\\\\u", b"\\u003cP_2>") + b"\n\n",
        b'data: {"choices":[{"index":0,"delta":{"tool_calls":[{"index":0,"function":{"name":"P_2"}}]},"finish_reason":null}]}\n\n',
    ):
        out = run(ChatStreamEditor(Swap()), stream)
        assert out != stream
        assert out == run(ChatStreamEditor(Patient()), stream)
        assert b"q@example.org" in out or b'"name":"q"' in out


def test_events_go_on_at_once() -> None:
    """Each byte that completes an event lets all of it go, unless the filter holds a part of its text back."""
    stream = b"".join(b"data: " + data(f"word {i}") + b"\n\n" for i in range(5))
    editor = ChatStreamEditor(Swap())
    gone = b""
    for i in range(len(stream)):
        gone += editor.feed(stream[i : i + 1], end=False)
        whole = stream[: i + 1].rfind(b"\n\n")
        assert gone == stream[: whole + 2 if whole >= 0 else 0]


PARTS = st.lists(
    st.sampled_from(["<P_1>", "<P_2>", "<P", "_1>", "<", ">", "é", "\U0001f600", '"', "\\", "x "]), max_size=12
)


@given(PARTS, st.lists(st.integers(0, 60), max_size=8), st.booleans(), st.sampled_from([Swap, Patient]))
def test_text_cut_anywhere(parts: list[str], cuts: list[int], ascii_only: bool, texts: type[Swap]) -> None:
    """However a text is cut into deltas, the client has what it would have had in one piece."""
    text = "".join(parts)
    places = sorted({min(cut, len(text)) for cut in cuts} | {0, len(text)})
    pieces = [text[a:b] for a, b in pairwise(places)]
    chunks = [
        {"choices": [{"index": 0, "delta": {"content": piece}, "finish_reason": None}]} for piece in ["", *pieces]
    ]
    chunks.append({"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]})
    stream = b"".join(b"data: " + json.dumps(one, ensure_ascii=ascii_only).encode() + b"\n\n" for one in chunks)
    out = run(ChatStreamEditor(texts()), stream)
    assert chat_result(out)[0]["delta"]["content"] == swap("text", text)
