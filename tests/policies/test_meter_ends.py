"""Answers that are compressed, too large, cut short or never came: what was used is on record all the same."""

from __future__ import annotations

import gzip
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from extproc.errors import EffectError
from extproc.exchange.actions import Answer, BodyMode, Reset
from extproc.exchange.effects import CountTokens
from gateway import play
from talk import (
    CHAT,
    CHAT_ANSWER,
    CHAT_STREAM,
    MESSAGES,
    MESSAGES_STREAM,
    SSE,
    USAGE,
    call,
    chat_chunks,
    claude,
    claude_stream,
    pieces,
    refused,
    sent_on,
    streamed,
)

SPLIT = st.lists(st.integers(1, 40), min_size=1, max_size=60)


# ---- encodings and sizes


@pytest.mark.parametrize(("name", "pack"), [("gzip", gzip.compress), ("deflate", zlib.compress)])
def test_a_compressed_answer_is_decoded_and_read(name, pack):
    """A provider that compresses though nobody asked."""
    talk = play()
    call(talk)
    packed = pack(CHAT_ANSWER)
    (head,) = talk.response(content_encoding=name, content_length=str(len(packed)))
    (reply,) = talk.answer(packed)

    assert "content-encoding" in head.change.remove
    assert CHAT_ANSWER == reply.data
    assert str(len(CHAT_ANSWER)) == dict(reply.change.set)["content-length"]
    assert "reported" == talk.finish().usage_source


@given(SPLIT)
def test_a_compressed_stream_is_decoded_and_stripped_under_any_cut(sizes):
    """The cuts fall anywhere in the compressed bytes."""
    talk = play()
    call(talk, CHAT_STREAM)
    asked, plain = chat_chunks(["Hel", "lo"], USAGE)

    assert plain == streamed(talk, pieces(gzip.compress(asked, mtime=0), sizes), content_encoding="gzip")
    assert 4 == talk.finish().usage.output


@pytest.mark.parametrize("name", ["br", "zstd", "gzip, gzip", "x"])
def test_an_encoding_that_cannot_be_undone_is_502_and_not_free(name):
    """Nothing was released yet; the provider has billed."""
    talk = play()
    call(talk)

    assert (502, "provider_bad_response") == refused(talk.response(content_encoding=name))
    record = talk.finish()
    assert ("provider_error", "estimated") == (record.outcome, record.usage_source)
    assert record.usage.input > 0


def test_a_damaged_compressed_answer_is_502():
    """Buffered: nothing was released."""
    talk = play()
    call(talk)
    talk.response(content_encoding="gzip", content_length="9")

    assert (502, "provider_bad_response") == refused(talk.answer(b"not gzip!"))


def test_a_compressed_answer_that_ends_too_early_is_502_before_trailers_too():
    """Envoy sends a buffered body without the end flag where trailers follow; the judgement does not wait for them."""
    talk = play()
    call(talk)
    talk.response(content_encoding="gzip", content_length="30")

    assert (502, "provider_bad_response") == refused(talk.answer(gzip.compress(CHAT_ANSWER)[:-20], end=False))


def test_a_small_answer_that_unpacks_beyond_the_cap_is_cut():
    """In one piece or in many."""
    for cut in (1 << 20, 512):
        talk = play()
        call(talk)
        talk.response(content_encoding="gzip", content_type=SSE)
        packed = gzip.compress(b": hi\n\n" * (1 << 19))
        for at in range(0, len(packed), cut):
            talk.answer(packed[at : at + cut], end=False)
        record = talk.finish()
        assert ("provider_response_too_large", "estimated") == (record.error, record.usage_source)


def test_an_answer_that_announces_more_than_the_cap_is_502_and_not_free():
    """Before a byte of it is taken."""
    talk = play()
    call(talk)

    assert (502, "provider_response_too_large") == refused(talk.response(content_length=str((2 << 20) + 1)))
    record = talk.finish()
    assert ("provider_error", "estimated") == (record.outcome, record.usage_source)


def test_an_answer_of_exactly_the_cap_passes():
    """The boundary belongs to the provider."""
    talk = play()
    call(talk)

    assert not isinstance(talk.response(content_length=str(2 << 20))[0], Answer)


def test_a_length_that_is_no_number_is_no_length():
    """Not a crash."""
    for value in ("²", "-1", "1e3", "", "9" * 30 + "x"):
        talk = play()
        call(talk)
        assert talk.response(content_length=value)[0].body_mode is BodyMode.STREAMED


def test_a_stream_that_outgrows_the_cap_ends_politely():
    """With the vendor's error event."""
    talk = play()
    call(talk, CHAT_STREAM)
    talk.response(content_type=SSE)
    asked, _ = chat_chunks(["x" * 1000], None)
    chunk = asked[: asked.index(b"\n\n") + 2]
    end = b""
    for _ in range(3000):
        end = sent_on(talk.answer(chunk, end=False), chunk)
        if talk.exchange.facts.rejection is not None:
            break

    assert b'"error"' in end
    assert end.endswith(b"data: [DONE]\n\n")
    record = talk.finish()
    assert ("provider_response_too_large", "estimated") == (record.error, record.usage_source)


def test_a_json_answer_that_outgrows_the_cap_is_reset():
    """Half a JSON body has no polite end."""
    talk = play()
    call(talk)
    talk.response()
    talk.answer(b" " * (2 << 20), end=False)

    assert (Reset("provider_response_too_large"),) == talk.answer(b" ", end=False)
    assert "estimated" == talk.finish().usage_source


# ---- hang-ups


def conversation(talk, stop: int) -> bool:
    """A streamed call that is hung up on after `stop` steps; whether it had reached the provider by then."""
    asked, _ = chat_chunks(["one two", "three", "four"], USAGE)
    cut = pieces(asked, [150])
    steps = [
        lambda: talk.request(),
        lambda: talk.body(CHAT_STREAM),
        lambda: talk.response(content_type=SSE),
        *(lambda piece=piece: talk.answer(piece, end=False) for piece in cut),
        lambda: talk.answer(b""),
    ]
    for step in steps[:stop]:
        step()
    return stop >= 2


@pytest.mark.parametrize("stop", range(12))
def test_a_hang_up_at_any_point_is_on_record_and_never_free_once_sent(stop):
    """The provider bills; an estimate is marked as one."""
    talk = play()
    reached = conversation(talk, stop)
    record = talk.finish()

    assert "id-1" == record.id
    if not reached:
        assert ("none", None) == (record.usage_source, record.usage)
        return
    assert record.usage.input > 0
    assert record.usage_source in ("estimated", "reported")
    assert ("reported" == record.usage_source) is ("ok" == record.outcome)


@given(st.integers(0, 700))
def test_a_stream_that_is_cut_anywhere_counts_what_was_sent(cut):
    """At least as many tokens as content events were seen."""
    talk = play()
    claude(talk, MESSAGES_STREAM)
    talk.response(content_type=SSE)
    stream = claude_stream(["one two three", "four"])
    talk.answer(stream[:cut], end=False)
    seen = stream[:cut].count(b"content_block_delta\ndata") and talk.exchange.facts.response.reader.events
    record = talk.finish()

    assert record.usage.input > 0
    assert (record.usage.output or 0) >= seen


def test_a_stream_of_openai_that_ends_without_done_is_an_estimate():
    """Cut before its usage."""
    talk = play()
    call(talk, CHAT_STREAM)
    asked, _ = chat_chunks(["one two three"], USAGE)
    streamed(talk, [asked[: asked.index(b"\n\n") + 2]])
    record = talk.finish()

    assert ("estimated", "cut_short", 3) == (record.usage_source, record.outcome, record.usage.output)


def test_a_json_answer_that_is_cut_is_estimated_by_its_length():
    """It cannot be read, but it is not nothing."""
    talk = play()
    call(talk)
    talk.response()
    talk.answer(CHAT_ANSWER[:120], end=False)
    record = talk.finish()

    assert ("estimated", 40) == (record.usage_source, record.usage.output)


def test_a_success_without_usage_is_estimated_from_its_texts():
    """Some compatible servers report none."""
    talk = play()
    call(talk)
    talk.response()
    talk.answer(b'{"choices":[{"message":{"content":"one two three"},"finish_reason":"stop"}]}')
    record = talk.finish()

    assert ("estimated", 2, 3, "ok") == (
        record.usage_source, record.usage.input, record.usage.output, record.outcome,
    )  # fmt: skip


def test_a_counter_that_fails_does_not_make_a_call_free():
    """By length then."""
    talk = play()
    talk.answers = {**talk.answers, CountTokens: lambda _: EffectError("away")}
    call(talk)
    record = talk.finish()

    assert "estimated" == record.usage_source
    assert record.usage.input > 0


@pytest.mark.parametrize("field", [b"x", b"tools", b"metadata"])
@pytest.mark.parametrize("depth", [900, 980, 1015, 1021])
def test_a_request_too_deep_to_find_its_texts_is_on_record_and_not_free(field, depth):
    """By its length then: nesting is no way to hide from the meter."""
    talk = play()
    body = CHAT[:-1] + b',"' + field + b'":' + b"[" * depth + b'"x"' + b"]" * depth + b"}"
    call(talk, body)
    record = talk.finish()

    assert "estimated" == record.usage_source
    assert record.usage.input > 0


def estimate(path: str, body: bytes) -> int:
    """Tokens read by a call that was hung up on at once."""
    talk = play()
    call(talk, body, path)
    return talk.finish().usage.input


def test_an_image_is_not_estimated_by_the_text_of_its_base64():
    """Some thousand tokens rather than some hundred thousand; the texts beside it count as texts."""
    image = b'{"type":"image_url","image_url":{"url":"data:image/png;base64,' + b"A " * 100_000 + b'"}}'
    text = b'{"type":"text","text":"three words here"}'
    body = b'{"model":"gpt-4o","messages":[{"role":"user","content":[' + text + b"," + image + b"]}]}"

    assert 1503 == estimate("/v1/chat/completions", body)


def test_token_ids_are_not_free():
    """They are no texts."""
    assert estimate("/v1/embeddings", b'{"model":"text-embedding-3-small","input":[' + b"1000," * 99 + b"1]}") >= 100


def test_a_refusal_before_the_provider_uses_nothing():
    """Whatever the reason."""
    requests = ((CHAT.replace(b"gpt-4o-mini", b"smart"), {}), (b"{", {}), (CHAT, {"authorization": ""}))
    for body, fields in requests:
        talk = play()
        refused(call(talk, body, **fields))
        record = talk.finish()
        assert ("none", None, None) == (record.usage_source, record.usage, record.cost)


@pytest.mark.parametrize("details", ["no_healthy_upstream", "cluster_not_found", "upstream_reset_before_x{overflow}"])
def test_a_provider_that_was_never_reached_uses_nothing(details):
    """Envoy's own answer."""
    talk = play()
    call(talk)
    refused(talk.response(503, details=details))
    record = talk.finish()

    assert ("none", "unreachable") == (record.usage_source, record.outcome)


@pytest.mark.parametrize("status", [400, 404, 429, 500])
def test_an_error_of_the_provider_uses_nothing(status):
    """It did no work."""
    talk = play()
    claude(talk)
    talk.response(status)
    talk.answer(b'{"type":"error","error":{"type":"x","message":"no"}}')
    record = talk.finish()

    assert ("none", "provider_error", status) == (record.usage_source, record.outcome, record.status)


def test_an_error_inside_a_stream_is_a_providers_error():
    """With status 200."""
    talk = play()
    claude(talk, MESSAGES_STREAM)
    error = b'event: error\ndata: {"type":"error","error":{"type":"overloaded_error","message":"Overloaded"}}\n\n'
    begun = claude_stream(["a"]).partition(b"event: message_delta")[0]
    streamed(talk, [begun, error])
    record = talk.finish()

    assert ("provider_error", "overloaded_error", "estimated") == (
        record.outcome, record.error_detail, record.usage_source,
    )  # fmt: skip


def test_running_counts_go_out_while_a_stream_runs():
    """A stream that Envoy loses leaves its last count in the access log."""
    talk = play()
    claude(talk, MESSAGES_STREAM)
    talk.response(content_type=SSE)
    (reply,) = talk.answer(claude_stream(["x"] * 40)[:-150], end=False)
    seen = dict(reply.metadata["llm"])

    assert ("estimated", 40, 3) == (seen["usage_source"], seen["tokens_out"], seen["tokens_in"])
    assert "final" not in seen


def test_an_answer_without_a_body_is_no_crash():
    """204, or a HEAD-like answer."""
    talk = play()
    claude(talk, MESSAGES)
    talk.response(200, end=True)

    assert "estimated" == talk.finish().usage_source
