"""Hostile input: any body is refused or goes on with the allowed edits only; any order of events ends; one record."""

from __future__ import annotations

import json

import orjson
from hypothesis import example, given
from hypothesis import strategies as st

from extproc.errors import ProtocolError
from extproc.exchange.actions import Answer, BodyMode, ContinueBody, ContinueHeaders, StreamBody
from extproc.exchange.events import (
    RequestBody,
    RequestHeaders,
    RequestTrailers,
    ResponseBody,
    ResponseHeaders,
    ResponseTrailers,
)
from extproc.exchange.setup import Modes
from gateway import play
from talk import CHAT, CHAT_ANSWER, CHAT_STREAM, KEY, MESSAGES, PROXY, answered, call, chat_chunks, headers, refused

DUPLEX = Modes(BodyMode.FULL_DUPLEX_STREAMED, BodyMode.FULL_DUPLEX_STREAMED)
PATHS = ("/v1/chat/completions", "/v1/responses", "/v1/embeddings")
modes = st.sampled_from([Modes(), DUPLEX, Modes(BodyMode.BUFFERED, BodyMode.STREAMED)])


@st.composite
def damaged(draw) -> bytes:
    """A good body with a few bytes overwritten, taken out, doubled, or put in."""
    body = bytearray(
        draw(st.sampled_from([CHAT, CHAT_STREAM, MESSAGES, b'{"model":"fast","input":["a"],"stream":true}']))
    )
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, len(body)))
        size = draw(st.integers(0, 12))
        new = draw(
            st.binary(max_size=6) | st.sampled_from([b'"model":"x",', b"{", b"}", b"\\u0000", b'"', b"NaN", b"[]"])
        )
        body[at : at + size] = new * draw(st.integers(1, 2))
    return bytes(body)


def only_known_edits(original: bytes, out: bytes) -> None:
    """What went on is the original, read the same by a strict parser but for model and the question for usage."""
    before, after = orjson.loads(original), orjson.loads(out)
    resolved = {"fast": "gpt-4o-mini", "pool": "gpt-4o"}
    assert resolved.get(before["model"], before["model"]) == after["model"]
    options = after.get("stream_options")
    if options != before.get("stream_options"):
        assert before["stream"] is True
        assert {**(before.get("stream_options") or {}), "include_usage": True} == options
    rest = [{k: v for k, v in tree.items() if k not in ("model", "stream_options")} for tree in (before, after)]
    assert rest[0] == rest[1]


def unambiguous(body: bytes) -> bool:
    """Whether every parser reads the same: no key twice in an object."""
    twice: list[bool] = []

    def look(pairs: list) -> dict:
        twice.append(len(dict(pairs)) != len(pairs))
        return dict(pairs)

    json.loads(body, object_pairs_hook=look)
    return not any(twice)


@given(damaged() | st.binary(max_size=80), st.sampled_from(PATHS))
@example(b'{"model":"fast","messages":[],"mod\\u0065l":"x"}', PATHS[0])
@example(b'{"model":"gpt-4o","messages":[],"\xf0\x9f":1}', PATHS[0])
def test_any_body_is_refused_or_goes_on_with_the_allowed_edits_only(body, path):
    """Design invariant 8."""
    talk = play()
    actions = call(talk, body, path)
    if answered(actions):
        status, code = refused(actions)
        assert status in (400, 404, 413)
        assert code.startswith(("caller_", "policy_"))
        assert () == talk.body(b"more")
        assert "refused" == talk.finish().outcome
        return
    (go,) = actions
    assert isinstance(go, ContinueBody)
    assert unambiguous(body)
    if go.data is not None:
        only_known_edits(body, go.data)
        assert dict(go.change.set)["content-length"] == str(len(go.data))
    assert talk.finish().usage.input >= 0


odd = st.text(st.characters(max_codepoint=255), max_size=40)
names = st.sampled_from([
    "authorization", "x-api-key", "proxy-authorization", "content-type", "content-encoding", "cookie", "x-llm-user",
    "x-llm-tenant", "x-llmi-class", "anthropic-version", "content-length", "x-strange",
])  # fmt: skip


@given(st.lists(st.tuples(names, odd | st.just(f"Bearer {KEY}")), max_size=6), odd, odd, st.booleans(), odd)
def test_any_headers_end_in_an_answer_or_a_go_on(fields, path, host, end, proxy):
    """No header value crashes the gateway, and none of them opens it without a key."""
    talk = play()
    pseudo = ((":method", "POST"), (":path", "/" + path), (":authority", host))
    event = RequestHeaders(talk.at(), headers(*pseudo, *fields), end, {PROXY: proxy})
    actions = talk.tell(event)
    keyed = any(KEY in value for _, value in fields) or "exk-" in path + proxy

    assert answered(actions) or keyed
    assert talk.finish().outcome in ("refused", "answered", "cut_short")


asked, _plain = chat_chunks(["Hel", "lo"], {"prompt_tokens": 2, "completion_tokens": 2})
request_headers = st.builds(
    lambda path, end: RequestHeaders(
        100.0,
        headers(
            (":method", "POST"), (":path", path), (":authority", "api.openai.com"), ("authorization", f"Bearer {KEY}")
        ),
        end,
    ),
    st.sampled_from([*PATHS, "/v1/models", "/v1/files"]),
    st.booleans(),
)  # fmt: skip
response_headers = st.builds(
    lambda media, status, end, details: ResponseHeaders(
        100.0, headers((":status", status), ("content-type", media)), end, {"response.code_details": details}
    ),
    st.sampled_from(["application/json", "text/event-stream"]),
    st.sampled_from(["200", "500", "x", ""]),
    st.booleans(),
    st.sampled_from(["via_upstream", "via_upstream", "upstream_response_timeout", "no_route"]),
)
data = st.sampled_from([b"", CHAT, CHAT_STREAM, CHAT[:20], CHAT_ANSWER, asked, asked[:50], asked[50:], b"\xff"])
any_event = st.one_of(
    request_headers,
    st.builds(lambda piece, end: RequestBody(100.1, piece, end), data, st.booleans()),
    st.just(RequestTrailers(100.2)),
    response_headers,
    st.builds(
        lambda at, piece, end: ResponseBody(at, piece, end), st.sampled_from([100.3, 999.0]), data, st.booleans()
    ),
    st.just(ResponseTrailers(100.4)),
)


@given(st.lists(any_event, max_size=9) | st.lists(any_event, max_size=6).map(
    lambda rest: [
        RequestHeaders(100.0, headers((":method", "POST"), (":path", PATHS[0]), (":authority", "api.openai.com"),
                                      ("authorization", f"Bearer {KEY}")), end=False),
        RequestBody(100.1, CHAT_STREAM, end=True),
        ResponseHeaders(100.2, headers((":status", "200"), ("content-type", "text/event-stream")), end=False),
        *rest,
    ]), modes)  # fmt: skip
def test_any_order_of_events_on_the_whole_gateway(sequence, mode):
    """Design invariants 6 and 7: actions or a protocol error, no body after a refusal, exactly one record."""
    talk = play(mode)
    refusal = False
    for event in sequence:
        try:
            actions = talk.tell(event)
        except ProtocolError:
            break
        for action in actions:
            forwards = isinstance(action, ContinueBody | StreamBody | ContinueHeaders) and action.request
            assert not (refusal and forwards)
            refusal = refusal or isinstance(action, Answer)
    reached = talk.exchange.facts.response.from_provider
    record = talk.finish()

    assert "id-1" == record.id
    assert record.bytes_in >= 0
    assert record.cost is None or record.cost >= 0
    if reached and record.status == 200 and record.endpoint in ("openai_chat", "openai_responses"):
        assert record.usage_source in ("estimated", "reported")
    if record.usage_source == "none":
        assert record.cost is None


@given(st.lists(any_event, max_size=6), modes)
def test_state_is_keyed_by_the_exchange_alone(sequence, mode):
    """Design invariant 10: two exchanges with the same `x-request-id` do not know of each other."""
    first, second = play(mode), play(mode)
    for event in sequence:
        try:
            first.tell(event)
        except ProtocolError:
            break
    talk = second
    same = headers(
        (":method", "POST"), (":path", PATHS[0]), (":authority", "api.openai.com"), ("authorization", f"Bearer {KEY}"),
        ("x-request-id", "same"),
    )  # fmt: skip
    expected = play(mode)

    assert talk.tell(RequestHeaders(100.0, same, end=False)) == expected.tell(RequestHeaders(100.0, same, end=False))
    assert talk.tell(RequestBody(100.1, CHAT, end=True)) == expected.tell(RequestBody(100.1, CHAT, end=True))
