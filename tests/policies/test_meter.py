"""How much was used: reported, estimated, or none; and the traces of our asking are taken out again."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from extproc.exchange.actions import BodyMode
from gateway import play
from talk import (
    CHAT_ANSWER,
    CHAT_STREAM,
    MESSAGES_STREAM,
    SSE,
    USAGE,
    call,
    chat_chunks,
    claude,
    claude_stream,
    forwarded,
    pieces,
    sent_on,
    streamed,
)

ASK = b'"stream_options":{"include_usage":true}'
SPLIT = st.lists(st.integers(1, 40), min_size=1, max_size=60)


# ---- asking for usage and taking its traces out


def test_usage_is_asked_for_in_the_callers_place():
    """One member, last; every other byte as it was."""
    assert CHAT_STREAM[:-1] + b"," + ASK + b"}" == forwarded(call(play(), CHAT_STREAM)).body


@pytest.mark.parametrize(
    ("given_options", "sent"),
    [
        (b'{"include_usage":true}', None),
        (b'{"include_usage": false}', b'{"include_usage": true}'),
        (b"null", b'{"include_usage":true}'),
        (b"{}", b'{"include_usage":true}'),
        (b'{"x":1}', b'{"x":1,"include_usage":true}'),
    ],
)
def test_stream_options_of_the_caller_stay(given_options, sent):
    """Whoever asked already is not asked for; other options keep their bytes."""
    body = CHAT_STREAM[:-1] + b',"stream_options":' + given_options + b"}"
    out = forwarded(call(play(), body)).body

    assert (None if sent is None else body.replace(given_options, sent)) == out


def test_what_is_no_openai_chat_stream_is_not_asked_for():
    """Others report unasked."""
    assert forwarded(call(play())).body is None
    assert forwarded(claude(play(), MESSAGES_STREAM)).body is None
    assert forwarded(call(play(), b'{"model":"gpt-4o","stream":true,"input":"x"}', "/v1/responses")).body is None


def test_the_alias_and_the_question_are_two_edits_of_one_body():
    """Both spans, one splice."""
    out = forwarded(call(play(), CHAT_STREAM.replace(b"gpt-4o-mini", b"fast"))).body

    assert CHAT_STREAM[:-1] + b"," + ASK + b"}" == out


@given(SPLIT, st.lists(st.text(st.characters(codec="utf-8"), max_size=8), min_size=1, max_size=4))
def test_the_callers_stream_is_what_it_would_have_been(sizes, words):
    """Design invariant 2: any cut, the same bytes out, the same usage."""
    talk = play()
    call(talk, CHAT_STREAM)
    asked, plain = chat_chunks(words, USAGE)
    out = streamed(talk, pieces(asked, sizes))
    record = talk.finish()

    assert plain == out
    assert (9, 4, 8, "reported", "ok") == (
        record.usage.input, record.usage.output, record.usage.cached_input, record.usage_source, record.outcome,
    )  # fmt: skip


def test_byte_by_byte_is_no_different():
    """The finest cut there is."""
    talk = play()
    call(talk, CHAT_STREAM)
    asked, plain = chat_chunks(["Hel", "lo"], USAGE)

    assert plain == streamed(talk, [asked[at : at + 1] for at in range(len(asked))])
    assert 4 == talk.finish().usage.output


@pytest.mark.parametrize("line", [b"\r\n", b"\r"])
def test_other_line_ends_are_stripped_as_well(line):
    """All three are legal."""
    talk = play()
    call(talk, CHAT_STREAM)
    asked, plain = (text.replace(b"\n", line) for text in chat_chunks(["a", "b"], USAGE))

    assert plain == streamed(talk, pieces(asked, [7, 1, 3]))
    assert "reported" == talk.finish().usage_source


def test_a_caller_who_asked_for_usage_gets_it():
    """The very bytes of the provider, as the same object."""
    talk = play()
    call(talk, CHAT_STREAM[:-1] + b"," + ASK + b"}")
    asked, _ = chat_chunks(["a"], USAGE)

    assert asked == streamed(talk, pieces(asked, [11]))
    assert 9 == talk.finish().usage.input


def test_a_stream_whose_usage_is_taken_out_has_no_announced_length():
    """It would be too long."""
    talk = play()
    call(talk, CHAT_STREAM)
    (head,) = talk.response(content_type=SSE, content_length="1000")

    assert "content-length" in head.change.remove
    assert head.body_mode is BodyMode.STREAMED


@given(SPLIT)
def test_anthropics_streams_pass_untouched(sizes):
    """Usage from the first and the last event."""
    talk = play()
    claude(talk, MESSAGES_STREAM)
    stream = claude_stream(["Hel", "lo"])

    assert stream == streamed(talk, pieces(stream, sizes))
    record = talk.finish()
    assert (3, 5, "reported", "ok") == (
        record.usage.input, record.usage.output, record.usage_source, record.outcome,
    )  # fmt: skip


@given(SPLIT)
def test_responses_streams_pass_untouched(sizes):
    """Usage from the terminal event."""
    done = {"model": "gpt-4o", "status": "completed", "usage": {"input_tokens": 7, "output_tokens": 6}}
    stream = b'event: response.output_text.delta\ndata: {"type":"response.output_text.delta","delta":"a"}\n\n'
    stream += b"event: response.completed\ndata: "
    stream += json.dumps({"type": "response.completed", "response": done}).encode() + b"\n\n"
    talk = play()
    call(talk, b'{"model":"gpt-4o","stream":true,"input":"x"}', "/v1/responses")

    assert stream == streamed(talk, pieces(stream, sizes))
    assert (7, 6) == (talk.exchange.facts.usage.input, talk.finish().usage.output)


# ---- JSON answers


@pytest.mark.parametrize("length", [True, False])
def test_a_json_answer_is_read_buffered_where_its_size_is_known(length):
    """Streamed where it is not: a buffered answer over Envoy's limit would hang."""
    talk = play()
    call(talk)
    (head,) = talk.response(**({"content_length": str(len(CHAT_ANSWER))} if length else {}))
    out = sent_on(talk.answer(CHAT_ANSWER), CHAT_ANSWER)
    record = talk.finish()

    assert head.body_mode is (BodyMode.BUFFERED if length else BodyMode.STREAMED)
    assert CHAT_ANSWER == out
    assert (9, 2, "reported", "ok") == (
        record.usage.input, record.usage.output, record.usage_source, record.outcome,
    )  # fmt: skip


def test_a_buffered_answer_before_trailers_is_read_all_the_same():
    """Envoy sends it without the end flag then."""
    from extproc.exchange.events import ResponseTrailers

    talk = play()
    call(talk)
    talk.response(content_length=str(len(CHAT_ANSWER)))
    talk.answer(CHAT_ANSWER, end=False)
    talk.tell(ResponseTrailers(talk.at()))

    assert ("reported", "ok") == (talk.exchange.facts.usage_source, talk.finish().outcome)


def test_a_big_json_answer_is_streamed():
    """Over the buffer limit, under the cap."""
    talk = play()
    call(talk)

    assert talk.response(content_length=str((1 << 20) + 1))[0].body_mode is BodyMode.STREAMED


def test_embeddings_have_no_output():
    """Input only, and no estimate for vectors."""
    talk = play()
    call(talk, b'{"model":"text-embedding-3-small","input":["a","b"]}', "/v1/embeddings")
    talk.response()
    talk.answer(b'{"object":"list","data":[],"usage":{"prompt_tokens":2,"total_tokens":2}}')
    record = talk.finish()

    assert (2, None, "reported") == (record.usage.input, record.usage.output, record.usage_source)


def test_embeddings_that_are_cut_short_are_estimated_by_their_input():
    """Half a vector is no output."""
    talk = play()
    call(talk, b'{"model":"text-embedding-3-small","input":"three words here"}', "/v1/embeddings")
    talk.response()
    talk.answer(b'{"data":[0.1', end=False)
    record = talk.finish()

    assert (3, None, "estimated") == (record.usage.input, record.usage.output, record.usage_source)


def test_counting_tokens_uses_none():
    """The count is on record, but nothing was used: neither the metrics nor Envoy's counters add it up."""
    talk = play()
    claude(talk, b'{"model":"claude-haiku-4-5","messages":[]}', "/v1/messages/count_tokens")
    talk.response()
    seen = dict(talk.answer(b'{"input_tokens": 14}')[0].metadata["llm"])
    record = talk.finish()

    assert ("none", "ok", 14) == (record.usage_source, record.outcome, record.usage.input)
    assert "tokens_in" not in seen
