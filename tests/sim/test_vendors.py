"""The synthetic answers, without a network."""

from __future__ import annotations

import base64
import json
import struct
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from extproc.sim import SimAnswer, Vendors, answer_request, synthetic

CHAT: dict[str, Any] = {"model": "gpt-4o", "messages": [{"role": "user", "content": "Tell me of the sea"}]}
MESSAGES: dict[str, Any] = {**CHAT, "model": "claude-sonnet-4-6", "max_tokens": 200}
RESPONSES: dict[str, Any] = {"model": "gpt-4o", "input": "Tell me of the sea"}
TOOL_SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}, "days": {"type": "integer"}}}


def events(answer: SimAnswer) -> list[tuple[str | None, Any]]:
    """(event name, parsed data) of a stream; checks the framing."""
    found = []
    assert answer.body.endswith(b"\n\n")
    for block in answer.body.decode()[:-2].split("\n\n"):
        *name, data = block.split("\n")
        assert data.startswith("data: ")
        assert len(name) <= 1
        text = data.removeprefix("data: ")
        found.append(
            (name[0].removeprefix("event: ") if name else None, text if text == "[DONE]" else json.loads(text))
        )
    return found


class TestChat:
    """Chat Completions."""

    def test_unary(self) -> None:
        """The answer says what it is, repeats the question and adds up its tokens."""
        body = json.loads(synthetic("openai_chat", CHAT).body)

        said = body["choices"][0]["message"]["content"]
        assert "simulator" in said
        assert "Tell me of the sea" in said
        usage = body["usage"]
        assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]

    def test_stream_without_usage(self) -> None:
        """Not asked for, no chunk speaks of usage; the pieces are the unary text; the end is [DONE]."""
        found = events(synthetic("openai_chat", {**CHAT, "stream": True}))
        unary = json.loads(synthetic("openai_chat", CHAT).body)

        assert found[-1] == (None, "[DONE]")
        chunks = [data for _, data in found[:-1]]
        assert not any("usage" in chunk for chunk in chunks)
        text = "".join(chunk["choices"][0]["delta"].get("content") or "" for chunk in chunks)
        assert text == unary["choices"][0]["message"]["content"]
        assert chunks[-1]["choices"][0]["finish_reason"] == "stop"

    def test_stream_with_usage(self) -> None:
        """Asked for, every chunk says null but one more at the end, which has no choices."""
        asked = {**CHAT, "stream": True, "stream_options": {"include_usage": True}}
        found = events(synthetic("openai_chat", asked))
        *chunks, last = [data for _, data in found[:-1]]

        assert all(chunk["usage"] is None and chunk["choices"] for chunk in chunks)
        assert last["choices"] == []
        assert last["usage"]["completion_tokens"] == len(chunks) - 2

    def test_obfuscation_can_be_declined(self) -> None:
        """The padding field is there unless the caller says no."""
        with_it = synthetic("openai_chat", {**CHAT, "stream": True}).body
        without = synthetic(
            "openai_chat", {**CHAT, "stream": True, "stream_options": {"include_obfuscation": False}}
        ).body

        assert b'"obfuscation"' in with_it
        assert b'"obfuscation"' not in without

    def test_several_choices(self) -> None:
        """`n` choices, each whole, billed each."""
        one = json.loads(synthetic("openai_chat", CHAT).body)
        three = json.loads(synthetic("openai_chat", {**CHAT, "n": 3}).body)
        streamed = [data for _, data in events(synthetic("openai_chat", {**CHAT, "n": 3, "stream": True}))[:-1]]

        assert [choice["index"] for choice in three["choices"]] == [0, 1, 2]
        assert three["usage"]["completion_tokens"] == 3 * one["usage"]["completion_tokens"]
        ended = [c["choices"][0]["index"] for c in streamed if c["choices"][0]["finish_reason"]]
        assert ended == [0, 1, 2]

    def test_limit_cuts(self) -> None:
        """`max_completion_tokens` cuts the text and says so."""
        body = json.loads(synthetic("openai_chat", {**CHAT, "max_completion_tokens": 3}).body)

        assert body["choices"][0]["finish_reason"] == "length"
        assert body["usage"]["completion_tokens"] == 3

    def test_tool_then_text(self) -> None:
        """A tool is called with arguments that fit its schema; its result is answered with text."""
        tools = [{"type": "function", "function": {"name": "weather", "parameters": TOOL_SCHEMA}}]
        called = json.loads(synthetic("openai_chat", {**CHAT, "tools": tools}).body)["choices"][0]
        call = called["message"]["tool_calls"][0]
        history = [*CHAT["messages"], called["message"], {"role": "tool", "tool_call_id": call["id"], "content": "sun"}]
        told = json.loads(synthetic("openai_chat", {**CHAT, "tools": tools, "messages": history}).body)["choices"][0]

        assert called["finish_reason"] == "tool_calls"
        assert json.loads(call["function"]["arguments"]) == {"city": "simulated", "days": 1}
        assert told["finish_reason"] == "stop"

    def test_reasoning_and_cache(self) -> None:
        """A reasoning model bills tokens that it does not show; cached tokens are part of the prompt."""
        body = json.loads(synthetic("openai_chat", {**CHAT, "model": "o3"}, {"x-sim-cached-tokens": "4"}).body)

        assert body["usage"]["completion_tokens_details"]["reasoning_tokens"] == 64
        assert body["usage"]["completion_tokens"] > 64
        assert body["usage"]["prompt_tokens_details"]["cached_tokens"] == 4

    def test_length_by_header(self) -> None:
        """A load test gets exactly as many pieces as it asks for."""
        found = events(synthetic("openai_chat", {**CHAT, "stream": True}, {"x-sim-tokens": "100"}))

        assert len(found) == 100 + 3  # role, pieces, finish, [DONE]


class TestResponses:
    """Responses."""

    @pytest.mark.parametrize("extra", [{}, {"max_output_tokens": 2}, {"tools": [{"type": "function", "name": "f"}]}])
    def test_stream_tells_what_unary_tells(self, extra: dict[str, Any]) -> None:
        """Events are numbered, named like their type, end without [DONE], and carry the unary answer at the end."""
        answer = synthetic("openai_responses", {**RESPONSES, **extra, "stream": True})
        unary = json.loads(synthetic("openai_responses", {**RESPONSES, **extra}).body)
        found = events(answer)
        last = found[-1][1]["response"]

        assert [data["sequence_number"] for _, data in found] == list(range(len(found)))
        assert all(name == data["type"] for name, data in found)
        assert last["status"] == unary["status"] == ("incomplete" if "max_output_tokens" in extra else "completed")
        assert last["usage"] == unary["usage"]
        kind = "response.function_call_arguments" if "tools" in extra else "response.output_text"
        deltas = "".join(data["delta"] for name, data in found if name == kind + ".delta")
        done = next(data for name, data in found if name == kind + ".done")
        assert deltas == (done.get("text") or done.get("arguments"))


class TestEmbeddings:
    """Embeddings."""

    def test_both_encodings_agree(self) -> None:
        """Numbers and base64 say the same, in the length asked for; each input has its own vector."""
        asked = {"model": "text-embedding-3-small", "input": ["a", "b"], "dimensions": 8}
        plain = json.loads(synthetic("openai_embeddings", asked).body)["data"]
        packed = json.loads(synthetic("openai_embeddings", {**asked, "encoding_format": "base64"}).body)["data"]

        assert len(plain) == 2
        assert plain[0]["embedding"] != plain[1]["embedding"]
        for one, other in zip(plain, packed, strict=True):
            assert struct.unpack("<8f", base64.b64decode(other["embedding"])) == pytest.approx(one["embedding"])
            assert sum(x * x for x in one["embedding"]) == pytest.approx(1)

    def test_token_input(self) -> None:
        """A list of token numbers is one input."""
        body = json.loads(synthetic("openai_embeddings", {"model": "m", "input": [1, 2, 3]}).body)

        assert len(body["data"]) == 1
        assert body["usage"] == {"prompt_tokens": 3, "total_tokens": 3}


class TestMessages:
    """Anthropic's Messages."""

    def test_stream_tells_what_unary_tells(self) -> None:
        """The order of events, a ping, the text and the counts."""
        found = events(synthetic("anthropic_messages", {**MESSAGES, "stream": True}))
        unary = json.loads(synthetic("anthropic_messages", MESSAGES).body)
        names = [name for name, _ in found]

        assert all(name == data["type"] for name, data in found)
        assert names[:3] == ["message_start", "content_block_start", "ping"]
        assert names[-3:] == ["content_block_stop", "message_delta", "message_stop"]
        text = "".join(d["delta"]["text"] for n, d in found if n == "content_block_delta")
        assert text == unary["content"][0]["text"]
        assert found[-2][1]["usage"]["output_tokens"] == unary["usage"]["output_tokens"]

    def test_tool(self) -> None:
        """A tool's input arrives as pieces of JSON; its result is answered with text."""
        tools = [{"name": "weather", "input_schema": TOOL_SCHEMA}]
        found = events(synthetic("anthropic_messages", {**MESSAGES, "tools": tools, "stream": True}))
        result = {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "t", "content": "sun"}]}
        told = synthetic(
            "anthropic_messages", {**MESSAGES, "tools": tools, "messages": [*MESSAGES["messages"], result]}
        )

        pieces = "".join(d["delta"]["partial_json"] for n, d in found if n == "content_block_delta")
        assert json.loads(pieces) == {"city": "simulated", "days": 1}
        assert found[-2][1]["delta"]["stop_reason"] == "tool_use"
        assert json.loads(told.body)["stop_reason"] == "end_turn"

    def test_cache_counts_stand_beside_input(self) -> None:
        """`input_tokens` leaves out cached ones: the three add up to the count without a cache."""
        plain = json.loads(synthetic("anthropic_messages", MESSAGES).body)["usage"]
        read = json.loads(synthetic("anthropic_messages", MESSAGES, {"x-sim-cached-tokens": "3"}).body)["usage"]

        assert read["cache_read_input_tokens"] == 3
        assert read["input_tokens"] == plain["input_tokens"] - 3
        counted = json.loads(synthetic("anthropic_count_tokens", MESSAGES).body)
        assert counted == {"input_tokens": plain["input_tokens"]}


class TestRefusals:
    """Errors in the vendors' own shapes."""

    @pytest.mark.parametrize(
        ("method", "path", "status"),
        [("POST", "/v1/nothing", 404), ("GET", "/v1/chat/completions", 405), ("GET", "/v1/models/nobody", 404)],
    )
    def test_openai(self, method: str, path: str, status: int) -> None:
        """`error` with message, type, param and code."""
        answer = answer_request(Vendors(("openai",)), method, path, {}, b"")

        assert answer.status == status
        assert set(json.loads(answer.body)["error"]) == {"message", "type", "param", "code"}

    @pytest.mark.parametrize(
        ("headers", "path", "body", "status", "kind"),
        [
            ({}, "/v1/messages", b"{}", 400, "invalid_request_error"),
            ({"anthropic-version": "2023-06-01"}, "/v1/messages", b"{", 400, "invalid_request_error"),
            ({"anthropic-version": "2023-06-01"}, "/v1/messages", b'{"model":"m"}', 400, "invalid_request_error"),
            ({"anthropic-version": "2023-06-01"}, "/v1/other", b"{}", 404, "not_found_error"),
        ],
    )
    def test_anthropic(self, headers: dict[str, str], path: str, body: bytes, status: int, kind: str) -> None:
        """`type: error` around the error, and a request id."""
        answer = answer_request(Vendors(("anthropic",)), "POST", path, headers, body)
        said = json.loads(answer.body)

        assert (answer.status, said["type"], said["error"]["type"]) == (status, "error", kind)
        assert answer.header("request-id") is not None

    @pytest.mark.parametrize(
        "body",
        [
            b"",
            b"[]",
            b"{}",
            b'{"model":"m"}',
            b'{"model":"m","messages":{}}',
            b'{"model":"m","messages":[]}',
            b'{"model":"m","messages":[{"role":"user","content":"x"}],"n":0}',
        ],
    )
    def test_bad_chat(self, body: bytes) -> None:
        """What OpenAI refuses is a 400 of its type."""
        answer = synthetic("openai_chat", body)

        assert answer.status == 400
        assert json.loads(answer.body)["error"]["type"] == "invalid_request_error"

    def test_key(self) -> None:
        """With keys named, only they pass, wherever that vendor's SDK puts them."""
        good, other = "key-" + "a" * 8, "key-" + "b" * 8
        vendors = Vendors(keys={"openai": [good], "anthropic": [good]})
        version = {"anthropic-version": "2023-06-01"}

        def status(headers: dict[str, str]) -> int:
            return answer_request(vendors, "GET", "/v1/models", headers, b"").status

        assert status({"authorization": f"Bearer {good}"}) == 200
        assert status({"authorization": f"Bearer {other}"}) == 401
        assert status({"x-api-key": good}) == 401  # not OpenAI's place
        assert status({}) == 401
        assert status({**version, "x-api-key": good}) == 200
        assert status({**version, "x-api-key": other}) == 401


NAMES = st.sampled_from(["role", "content", "function", "name", "type", "text"])
PARTS = st.one_of(st.text(max_size=3), st.dictionaries(NAMES, st.text(max_size=5)))
VALUES = st.one_of(st.none(), st.booleans(), st.integers(-9, 9), st.text(max_size=5), st.lists(PARTS, max_size=3))
FIELDS = st.sampled_from(["model", "messages", "input", "tools", "n", "stream", "max_tokens", "text", "tool_choice"])


@given(st.dictionaries(FIELDS, VALUES))
def test_any_object_is_answered(body: dict[str, Any]) -> None:
    """No JSON object makes a vendor crash, and equal requests get equal bytes."""
    for endpoint in ("openai_chat", "openai_responses", "openai_embeddings", "anthropic_messages"):
        answer = synthetic(endpoint, body)

        assert answer.status in (200, 400)
        assert answer == synthetic(endpoint, body)


def test_deep_nesting_is_answered() -> None:
    """A request that nests deeper than a recursive reader can go is answered all the same."""
    deep = b"[" * 900 + b"]" * 900
    body = b'{"model":"m","max_tokens":9,"messages":[{"role":"user","content":' + deep + b"}]}"

    assert synthetic("openai_chat", body).status == 200
    assert synthetic("anthropic_messages", body).status == 200
