"""Streams that end at a limit: a finish reason of the format, an error, a terminator; and what the official SDKs make of it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator

import anthropic
import httpx2
import openai
import pytest
from hypothesis import given
from hypothesis import strategies as st

from extproc.dialects import registry
from extproc.dialects.dialect import ResponseReader
from extproc.dialects.reading import LIMIT_CODES, whole_events
from extproc.errors import ErrorCode, Rejection

MESSAGE = "The budget of team search is used up: this answer was stopped before its end."
BUDGET = Rejection(402, ErrorCode.POLICY_BUDGET_EXCEEDED, MESSAGE)
MESSAGES = [{"role": "user", "content": "hi"}]


def chunk(index: int, delta: dict[str, object], reason: str | None = None) -> bytes:
    """A Chat Completions chunk as the vendor writes them."""
    choice = {"index": index, "delta": delta, "logprobs": None, "finish_reason": reason}
    body = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 17, "model": "m-1", "choices": [choice]}
    return f"data: {json.dumps(body, separators=(',', ':'))}\n\n".encode()


def event(kind: str, **fields: object) -> bytes:
    """A named event of the two newer formats."""
    return f"event: {kind}\ndata: {json.dumps({'type': kind, **fields}, separators=(',', ':'))}\n\n".encode()


CHAT = chunk(0, {"role": "assistant", "content": ""}) + chunk(0, {"content": "Hel"}) + chunk(0, {"content": "lo"})
RESPONSES = (
    event(
        "response.created",
        sequence_number=0,
        response={
            "id": "resp_1",
            "object": "response",
            "created_at": 17,
            "model": "m-1",
            "status": "in_progress",
            "instructions": "told <EMAIL_1>",
            "output": [],
            "parallel_tool_calls": True,
            "tool_choice": "auto",
            "tools": [],
        },
    )
    + event(
        "response.output_item.added",
        sequence_number=1,
        output_index=0,
        item={"id": "msg_1", "type": "message", "role": "assistant", "status": "in_progress", "content": []},
    )
    + event(
        "response.content_part.added",
        sequence_number=2,
        item_id="msg_1",
        output_index=0,
        content_index=0,
        part={"type": "output_text", "text": "", "annotations": []},
    )
    + b"".join(
        event(
            "response.output_text.delta",
            sequence_number=number,
            item_id="msg_1",
            output_index=0,
            content_index=0,
            delta=text,
            logprobs=[],
        )
        for number, text in ((3, "Hel"), (4, "lo"))
    )
)
START = {
    "id": "msg_1",
    "type": "message",
    "role": "assistant",
    "model": "m-1",
    "content": [],
    "stop_reason": None,
    "stop_sequence": None,
    "usage": {"input_tokens": 3, "output_tokens": 1},
}
CLAUDE = (
    event("message_start", message=START)
    + event("content_block_start", index=0, content_block={"type": "text", "text": ""})
    + event("content_block_delta", index=0, delta={"type": "text_delta", "text": "Hel"})
    + event("content_block_delta", index=0, delta={"type": "text_delta", "text": "lo"})
)
STREAMS = {"openai_chat": CHAT, "openai_responses": RESPONSES, "anthropic_messages": CLAUDE}


def read(dialect: str, stream: bytes, *, strip: bool = False) -> ResponseReader:
    """A reader to which `stream` was fed."""
    reader = registry.DIALECTS[dialect].reader(stream=True, strip_usage=strip)
    reader.feed(stream, end=False)
    return reader


def events(data: bytes) -> list[tuple[str, dict[str, object] | str]]:
    """Name and data of each event."""
    found = []
    for part in data.decode().split("\n\n"):
        fields = dict(line.split(": ", 1) for line in part.splitlines())
        if fields:
            text = fields["data"]
            found.append((fields.get("event", ""), text if text == "[DONE]" else json.loads(text)))
    return found


# ---- what is sent -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("strip", [True, False])
def test_chat_ends_every_choice_that_goes_on(strip: bool) -> None:
    """A chunk of the stream's own shape for each open choice, `length`, then the error, then `[DONE]`."""
    stream = CHAT + chunk(1, {"content": "a"}) + chunk(2, {"content": "b"}) + chunk(1, {}, "stop")
    (_, first), (_, second), (_, error), (_, done) = events(read("openai_chat", stream, strip=strip).abort(BUDGET))
    assert first == {
        "id": "chatcmpl-1",
        "object": "chat.completion.chunk",
        "created": 17,
        "model": "m-1",
        "choices": [{"index": 0, "delta": {}, "logprobs": None, "finish_reason": "length"}],
    }
    assert second["choices"][0]["index"] == 2
    assert error["error"] == {
        "message": MESSAGE,
        "type": "insufficient_quota",
        "param": None,
        "code": "insufficient_quota",
    }
    assert done == "[DONE]"


def test_responses_end_incomplete() -> None:
    """`response.incomplete` with the ids of the stream and none of its texts, then the error; numbers go on."""
    (name, body), (last, error) = events(read("openai_responses", RESPONSES).abort(BUDGET))
    assert (name, last) == ("response.incomplete", "error")
    assert (body["sequence_number"], error["sequence_number"]) == (5, 6)
    response = body["response"]
    assert (response["id"], response["model"], response["status"]) == ("resp_1", "m-1", "incomplete")
    assert response["incomplete_details"] == {"reason": "max_output_tokens"}
    assert "EMAIL" not in json.dumps(body)
    assert error["error"]["code"] == "insufficient_quota"


def test_messages_close_the_block_first() -> None:
    """The open block is closed, the message ends for its cap with the output counted so far, then the error."""
    (first, block), (second, delta), (third, error) = events(read("anthropic_messages", CLAUDE).abort(BUDGET))
    assert (first, block["index"]) == ("content_block_stop", 0)
    assert second == "message_delta"
    assert delta["delta"] == {"stop_reason": "max_tokens", "stop_sequence": None}
    assert delta["usage"] == {"output_tokens": 2}
    assert (third, error["error"]) == ("error", {"type": "billing_error", "message": MESSAGE})


@pytest.mark.parametrize("named", [True, False])
def test_messages_close_what_is_open_only(named: bool) -> None:
    """Blocks that have ended are left alone, with and without event names; a message that has ended is too."""
    stream = CLAUDE + event("content_block_stop", index=0)
    stream += event("content_block_start", index=1, content_block={"type": "text", "text": ""})
    stream += event("content_block_start", index=2, content_block={"type": "text", "text": ""})
    stream += event("content_block_stop", index=1)
    ended = stream + event("message_delta", delta={"stop_reason": "end_turn"}, usage={"output_tokens": 2})
    if not named:
        stream, ended = (
            b"\n".join(line for line in data.split(b"\n") if not line.startswith(b"event")) for data in (stream, ended)
        )
    found = events(read("anthropic_messages", stream).abort(BUDGET))
    assert [(name, body.get("index")) for name, body in found] == [
        ("content_block_stop", 2),
        ("message_delta", None),
        ("error", None),
    ]
    assert [name for name, _ in events(read("anthropic_messages", ended).abort(BUDGET))][1:] == ["error"]


@pytest.mark.parametrize("dialect", STREAMS)
def test_other_refusals_end_as_before(dialect: str) -> None:
    """Only limits pretend that the cap was reached."""
    late = Rejection(504, ErrorCode.PROVIDER_TIMEOUT, "late")
    for code in LIMIT_CODES:
        end = read(dialect, STREAMS[dialect]).abort(Rejection(429, code, "x"))
        assert sum(end.count(word) for word in (b'"length"', b"response.incomplete\n", b'"max_tokens"')) == 1
    end = read(dialect, STREAMS[dialect]).abort(late)
    assert not any(word in end for word in (b"length", b"incomplete", b"max_tokens", b"content_block_stop"))
    assert b"late" in end


@pytest.mark.parametrize("dialect", STREAMS)
def test_nothing_open_is_only_an_error(dialect: str) -> None:
    """Before the first event, and after junk, there is nothing to end."""
    junk = b'data: {"choices":[7,{"index":[],"delta":7,"finish_reason":{}}]}\n\ndata: []\n\ndata: {"type":"x"}\n\n'
    for stream in (b"", junk):
        end = read(dialect, stream).abort(BUDGET)
        assert [body for _, body in events(end) if body != "[DONE]" and "error" not in body] == []
        assert MESSAGE.encode() in end


@pytest.mark.parametrize("dialect", STREAMS)
def test_half_an_event_is_told(dialect: str) -> None:
    """Who stops a stream can wait for the end of the event; a stripped stream never sends half a one."""
    reader = read(dialect, STREAMS[dialect])
    assert not reader.half_sent
    reader.feed(b"data: {", end=False)
    assert reader.half_sent
    assert not read("openai_chat", CHAT + b"data: {", strip=True).half_sent
    assert not registry.DIALECTS[dialect].reader(stream=False).half_sent


@pytest.mark.parametrize("line_end", [b"\n", b"\r\n", b"\r"])
@pytest.mark.parametrize("dialect", STREAMS)
def test_a_piece_is_cut_where_its_last_event_ends(dialect: str, line_end: bytes) -> None:
    """Wherever a stream was cut into pieces: what goes on, and the end, are whole events, and every one can be read."""
    stream = STREAMS[dialect].replace(b"\n", line_end)
    for at in range(1, len(stream) + 1, 7):
        reader = registry.DIALECTS[dialect].reader(stream=True)
        before, piece = stream[: max(0, at - 40)], stream[max(0, at - 40) : at]
        reader.feed(before, end=False)
        whole = whole_events(reader.feed(piece, end=False))
        assert piece.startswith(whole)
        if not whole and reader.half_sent:
            continue
        sent = (before + whole + reader.abort(BUDGET)).replace(line_end, b"\n")
        assert MESSAGE in json.dumps(events(sent)[-2:])


# ---- what is counted ----------------------------------------------------------------------------------------------


def chat_texts(texts: list[str]) -> bytes:
    """Content, reasoning and arguments in turn."""
    kinds: list[Callable[[str], dict[str, object]]] = [
        lambda text: {"content": text},
        lambda text: {"role": "assistant", "reasoning_content": text},
        lambda text: {"tool_calls": [{"index": 0, "function": {"arguments": text}}]},
    ]
    return b"".join(chunk(0, kinds[number % 3](text)) for number, text in enumerate(texts))


def response_texts(texts: list[str]) -> bytes:
    """Text, summaries and arguments in turn."""
    kinds = ("output_text", "reasoning_summary_text", "function_call_arguments")
    return b"".join(event(f"response.{kinds[n % 3]}.delta", item_id="i", delta=text) for n, text in enumerate(texts))


def claude_texts(texts: list[str]) -> bytes:
    """Text, thinking and arguments in turn."""
    kinds = (("text_delta", "text"), ("thinking_delta", "thinking"), ("input_json_delta", "partial_json"))
    deltas = [{"type": kinds[n % 3][0], kinds[n % 3][1]: text} for n, text in enumerate(texts)]
    return b"".join(event("content_block_delta", index=0, delta=delta) for delta in deltas)


WRITERS = {"openai_chat": chat_texts, "openai_responses": response_texts, "anthropic_messages": claude_texts}


@pytest.mark.parametrize("dialect", WRITERS)
@pytest.mark.parametrize("spaced", [True, False])
@given(
    texts=st.lists(
        st.text(st.one_of(st.characters(exclude_categories=["Cs"]), st.sampled_from('"\\:{}\n'))), max_size=6
    )
)
def test_written_is_the_bytes_of_all_texts(dialect: str, spaced: bool, texts: list[str]) -> None:
    """Whatever the kind, the escapes and the spacing: bytes in UTF-8, of a stream with or without event names."""
    stream = WRITERS[dialect](texts)
    if spaced:
        lines = [line for line in stream.split(b"\n") if line.startswith(b"data: ")]
        stream = b"".join(b"data: " + json.dumps(json.loads(line[6:])).encode() + b"\n\n" for line in lines)
    reader = read(dialect, stream)
    assert reader.written == sum(len(text.encode()) for text in texts)
    assert reader.written == sum(len(text.encode()) for text in reader.output_texts())
    assert reader.events == len(texts)


def test_text_that_looks_like_a_delta_is_not_taken_for_one() -> None:
    """The quotes within a string are escaped, so that generated text decides nothing."""
    trick = '{"delta":"' + "x" * 50 + '","text":"' + "y" * 50 + '"}'
    for dialect, writer in WRITERS.items():
        assert read(dialect, writer([trick] * 3)).written == 3 * len(trick)


# ---- what the SDKs make of it -------------------------------------------------------------------------------------


def answering(data: bytes) -> httpx2.Client:
    """A transport that answers with the stream `data`."""
    head = {"content-type": "text/event-stream"}
    return httpx2.Client(
        transport=httpx2.MockTransport(lambda request: httpx2.Response(200, headers=head, content=data))
    )


def stopped(dialect: str) -> bytes:
    """The stream so far and its end."""
    return STREAMS[dialect] + read(dialect, STREAMS[dialect]).abort(BUDGET)


def drain(stream: Iterator[object], seen: list[object]) -> None:
    """Read to the end, keeping what was seen."""
    for item in stream:
        seen.append(item)


def test_openai_sdk_chat() -> None:
    """The text so far and the finish reason are kept; then the error is raised with our message."""
    client = openai.OpenAI(api_key="k", base_url="http://x/v1", http_client=answering(stopped("openai_chat")))
    seen: list[object] = []
    with pytest.raises(openai.APIError) as caught:
        drain(client.chat.completions.create(model="m", messages=MESSAGES, stream=True), seen)
    assert caught.value.message == MESSAGE
    assert caught.value.code == "insufficient_quota"
    choices = [item.choices[0] for item in seen]
    assert "".join(choice.delta.content or "" for choice in choices) == "Hello"
    assert choices[-1].finish_reason == "length"


def test_openai_sdk_chat_helper() -> None:
    """The accumulating helper holds the text so far in its snapshot when it raises."""
    client = openai.OpenAI(api_key="k", base_url="http://x/v1", http_client=answering(stopped("openai_chat")))
    seen: list[object] = []
    with client.chat.completions.stream(model="m", messages=MESSAGES) as stream:
        with pytest.raises(openai.APIError, match="budget of team search"):
            drain(iter(stream), seen)
        choice = stream.current_completion_snapshot.choices[0]
    assert (choice.message.content, choice.finish_reason) == ("Hello", "length")


def responses(client: openai.OpenAI, seen: list[object], *, helper: bool) -> None:
    """Read a Responses stream, by the accumulating helper or as it comes."""
    if not helper:
        drain(client.responses.create(model="m", input="hi", stream=True), seen)
        return
    with client.responses.stream(model="m", input="hi") as stream:
        drain(iter(stream), seen)


@pytest.mark.parametrize("helper", [True, False])
def test_openai_sdk_responses(helper: bool) -> None:
    """The deltas and the incomplete response are kept; then the error is raised with our message."""
    client = openai.OpenAI(api_key="k", base_url="http://x/v1", http_client=answering(stopped("openai_responses")))
    seen: list[object] = []
    with pytest.raises(openai.APIError) as caught:
        responses(client, seen, helper=helper)
    assert caught.value.message == MESSAGE
    deltas = [item.delta for item in seen if item.type == "response.output_text.delta"]
    assert "".join(deltas) == "Hello"
    assert seen[-1].type == "response.incomplete"
    assert seen[-1].response.incomplete_details.reason == "max_output_tokens"


def test_anthropic_sdk() -> None:
    """The snapshot holds the text and the stop reason; then the error is raised with our message."""
    client = anthropic.Anthropic(api_key="k", base_url="http://x", http_client=answering(stopped("anthropic_messages")))
    with client.messages.stream(model="m", max_tokens=9, messages=MESSAGES) as stream:
        with pytest.raises(anthropic.APIStatusError) as caught:
            drain(iter(stream), [])
        snapshot = stream.current_message_snapshot
    assert MESSAGE in caught.value.message
    assert caught.value.body["error"]["type"] == "billing_error"
    assert (snapshot.content[0].text, snapshot.stop_reason) == ("Hello", "max_tokens")
    assert snapshot.usage.output_tokens == 2
