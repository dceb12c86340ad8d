"""Editing streams and bodies of Messages."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dialects.filters import Drip, Patient, Same, Swap, events, every_cut, messages_result, run, swap
from extproc.dialects.anthropic_messages import AnthropicMessages
from extproc.dialects.anthropic_messages_edit import MessagesStreamEditor

MESSAGES = AnthropicMessages()


def event(kind: str, **fields: object) -> bytes:
    """One streamed event."""
    tree = {"type": kind, **fields}
    return f"event: {kind}\ndata: {json.dumps(tree, separators=(',', ':'), ensure_ascii=False)}\n\n".encode()


def start(index: int, **block: object) -> bytes:
    """A block begins."""
    return event("content_block_start", index=index, content_block=block)


def delta(index: int, kind: str, **fields: object) -> bytes:
    """A block grows."""
    return event("content_block_delta", index=index, delta={"type": kind, **fields})


def stop(index: int) -> bytes:
    """A block ends."""
    return event("content_block_stop", index=index)


STREAM = b"".join(
    [
        event("message_start", message={"id": "msg_1", "type": "message", "role": "assistant", "model": "c", "content": []}),
        event("ping"),
        start(0, type="thinking", thinking="", signature=""),
        delta(0, "thinking_delta", thinking="about <P_1> and <P"),
        delta(0, "signature_delta", signature="<P_1>"),
        stop(0),
        start(1, type="text", text="", citations=[]),
        delta(1, "text_delta", text="Hé <"),
        delta(1, "text_delta", text="P_"),
        delta(1, "citations_delta", citation={"type": "char_location", "cited_text": "<P_2>", "document_title": "<P_1>"}),
        delta(1, "text_delta", text="1>, <P_2"),
        stop(1),
        start(2, type="tool_use", id="toolu_1", name="P_2", input={}),
        start(3, type="server_tool_use", id="srvtoolu_1", name="web_search", input={"<P_1>": "<P_2>", "id": "<P_1>"}),
        delta(2, "input_json_delta", partial_json=""),
        delta(2, "input_json_delta", partial_json='{"to": ["<P'),
        delta(3, "input_json_delta", partial_json='{"q":"<P_2'),
        delta(2, "input_json_delta", partial_json='_1>"]'),
        delta(3, "input_json_delta", partial_json='>"}'),
        delta(2, "input_json_delta", partial_json="}"),
        stop(2),
        stop(3),
        start(4, type="web_search_tool_result", tool_use_id="srvtoolu_1", content=[{"type": "web_search_result", "title": "<P_2>", "encrypted_content": "<P_1>"}]),
        stop(4),
        start(5, type="text", text="now <P"),
        stop(5),
        event("message_delta", delta={"stop_reason": "stop_sequence", "stop_sequence": "<P_2>"}, usage={"output_tokens": 9}),
        event("message_stop"),
    ]
)  # fmt: skip


def wanted() -> list:
    """What a client must have in the end."""
    result = messages_result(STREAM)
    thinking, text, tool, search, found, last = [one for one in result[:-1] if one["type"] not in
        ("message_start", "ping", "message_delta", "message_stop")]  # fmt: skip
    assert (thinking["thinking"], thinking["signature"]) == ("about <P_1> and <P", "<P_1>")
    text["text"] = swap("text", text["text"])
    text["citation"] = {key: swap("text", value) for key, value in text["citation"].items()}
    tool["name"] = "q" if tool["name"] == "P_2" else "?"
    tool["partial_json"] = swap("json", tool["partial_json"])
    search["partial_json"] = swap("json", search["partial_json"])
    search["input"] = {key: swap("text", value) for key, value in search["input"].items()}
    found["content"][0]["title"] = "q@example.org"
    assert last["text"] == "now <P"
    result[-3]["delta"]["stop_sequence"] = "q@example.org"
    return result


@pytest.mark.parametrize("texts", [Swap, Patient])
def test_wherever_it_is_cut(texts: type[Swap]) -> None:
    """Interleaved blocks, split placeholders: the same bytes go out whatever the pieces were, and tool inputs stay JSON."""
    outs = {run(MessagesStreamEditor(texts()), STREAM, cuts) for cuts in every_cut(STREAM, 1 if texts is Swap else 7)}
    (out,) = outs
    assert messages_result(out) == wanted()
    for one in messages_result(out):
        json.loads(one.get("partial_json", "{}"))


def test_same_bytes() -> None:
    """A filter that changes nothing gives every byte back, with and without event names and in CRLF."""
    nameless = b"\n\n".join(one.partition(b"\n")[2] for one in STREAM.split(b"\n\n"))
    for stream in (STREAM, STREAM.replace(b"\n", b"\r\n"), nameless):
        assert run(MESSAGES.editor(stream=True, texts=Same()), stream) == stream
        assert messages_result(run(MESSAGES.editor(stream=True, texts=Swap()), stream)) == wanted()


def test_what_is_left_goes_before_the_stop() -> None:
    """Held-back text comes in one more delta of its block, framed like the others, before the block stops."""
    for line_end in (b"\n", b"\r\n"):
        stream = (start(0, type="text", text="") + delta(0, "text_delta", text="a <P") + stop(0)).replace(
            b"\n", line_end
        )
        out = run(MessagesStreamEditor(Swap()), stream)
        extra = delta(0, "text_delta", text="<P").replace(b"\n", line_end)
        assert out == stream.replace(b" <P", b" ").replace(
            b"event: content_block_stop", extra + b"event: content_block_stop"
        )


@pytest.mark.parametrize("end", [event("message_stop"), event("error", error={"type": "overloaded_error"}), b""])
def test_blocks_that_never_stop(end: bytes) -> None:
    """The end of the message, an error or the end of the stream lets go what is held back."""
    stream = start(0, type="tool_use", id="t", name="f", input={}) + delta(
        0, "input_json_delta", partial_json='{"a":"<P'
    )
    out = run(MessagesStreamEditor(Swap()), stream + end)
    assert out.endswith(end)
    assert [one["type"] for one in events(out)][2] == "content_block_delta"
    assert messages_result(out)[-1][0]["partial_json"] == '{"a":"<P'


def test_json_body() -> None:
    """Texts, tool names and every string of a tool's input are edited in place; thinking, ids and signatures are not."""
    tree = {
        "id": "<P_1>",
        "type": "message",
        "model": "<P_1>",
        "content": [
            {"type": "thinking", "thinking": "<P_1>", "signature": "<P_1>"},
            {"type": "thinking", "thinking": "<P_1>", "signature": ""},
            {"type": "redacted_thinking", "data": "<P_1>"},
            {"type": "text", "text": "a <P_1>", "citations": [{"cited_text": "<P_2>", "encrypted_index": "<P_1>"}]},
            {
                "type": "tool_use",
                "id": "<P_1>",
                "name": "P_1",
                "input": {"id": "<P_1>", "<P_1>": ["<P_2>", 1, {"x": "P_1"}]},
            },
        ],
        "stop_reason": "tool_use",
        "stop_sequence": None,
        "usage": {"input_tokens": 1, "service_tier": "standard"},
    }
    for indent in (None, 2):
        body = json.dumps(tree, indent=indent).encode()
        for cuts in ([], [10], range(1, len(body))):
            assert run(MESSAGES.editor(stream=False, texts=Same()), body, cuts) == body
            edited = json.loads(run(MESSAGES.editor(stream=False, texts=Swap()), body, cuts))
            wanted = json.loads(json.dumps(tree))
            value = swap("text", "<P_1>")
            wanted["content"][3].update(text="a " + value)
            wanted["content"][3]["citations"][0]["cited_text"] = "q@example.org"
            wanted["content"][4].update(name="zoe", input={"id": value, "<P_1>": ["q@example.org", 1, {"x": "P_1"}]})
            assert edited == wanted


PIECES = st.lists(
    st.tuples(st.integers(0, 2), st.sampled_from(["text", "partial_json"]), st.text(max_size=8), st.booleans()),
    max_size=12,
)


@given(PIECES, st.integers(), st.sampled_from([b"\n", b"\r\n", b"\r"]), st.data())
def test_a_filter_that_holds_back_at_random(pieces: list, seed: int, line_end: bytes, data: st.DataObject) -> None:
    """Whatever is held back, whenever, the client has the same blocks in the end."""
    kinds = {"text": "text_delta", "partial_json": "input_json_delta"}
    parts = [start(index, type="text", text="") for index in range(3)]
    ended: set[int] = set()
    for index, field, text, last in pieces:
        if index not in ended:
            parts.append(delta(index, kinds[field], **{field: text}))
            if last:
                parts.append(stop(index))
                ended.add(index)
    stream = b"".join(parts).replace(b"\n", line_end)
    cuts = data.draw(st.lists(st.integers(0, len(stream)), max_size=5).map(sorted))
    texts = Drip(seed)
    assert messages_result(run(MessagesStreamEditor(texts), stream, cuts)) == messages_result(stream)
    assert texts.held == {}
