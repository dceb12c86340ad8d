"""First byte and total by model class; a stream that outlives its total ends politely."""

from __future__ import annotations

import pytest

from extproc.exchange.actions import BodyMode, ContinueBody, Reset, StreamBody
from extproc.exchange.setup import Modes
from gateway import play
from talk import CHAT, CHAT_STREAM, KEY, MESSAGES_STREAM, call, chat_chunks, claude, claude_stream, forwarded, sent_on

SSE = "text/event-stream"
DUPLEX = Modes(BodyMode.FULL_DUPLEX_STREAMED, BodyMode.FULL_DUPLEX_STREAMED)


def times(out) -> tuple[str, str, str]:
    names = ("x-llmi-class", "x-envoy-upstream-rq-per-try-timeout-ms", "x-envoy-upstream-rq-timeout-ms")
    return tuple(out.set[name] for name in names)


def test_a_plain_call_gets_the_default_class():
    """Milliseconds, as Envoy takes them."""
    assert ("standard", "10000", "60000") == times(forwarded(call(play())))


def test_a_stream_leaves_room_for_a_polite_end():
    """Envoy's own cut comes ten seconds after ours."""
    assert ("standard", "10000", "70000") == times(forwarded(call(play(), CHAT_STREAM)))


def test_the_class_follows_the_model():
    """A glob on the resolved name."""
    assert ("long", "100000", "300000") == times(forwarded(call(play(), CHAT.replace(b"gpt-4o-mini", b"o1-pro"))))


def test_the_class_is_on_record():
    """For the metrics."""
    talk = play()
    call(talk)

    assert "standard" == talk.finish().timeout_class


def test_a_passed_through_call_has_timeouts_too():
    """The default class: its model is not known."""
    out = forwarded(play().request("/v1/files", p_authority="open.example"))

    assert ("standard", "10000", "60000") == times(out)


def late(talk, seconds: float = 61.0) -> None:
    talk.now += seconds


def test_a_stream_over_its_total_ends_with_openais_error_event_and_terminator():
    """The caller's SDK raises the vendor's error instead of a broken pipe."""
    talk = play()
    call(talk, CHAT_STREAM)
    talk.response(content_type=SSE)
    asked, _ = chat_chunks(["a", "b"], None)
    first = asked[: asked.index(b"\n\n") + 2]
    talk.answer(first, end=False)
    late(talk)
    end = sent_on(talk.answer(first, end=False), first)

    assert end.startswith(b'data: {"error":{')
    assert end.endswith(b"data: [DONE]\n\n")
    assert (Reset("stream_ended_by_policy"),) == talk.answer(first, end=False)
    assert () == talk.answer(first, end=False)
    record = talk.finish()
    assert ("provider_timeout", "estimated", 200) == (record.error, record.usage_source, record.status)
    assert record.usage.output >= 1


def test_a_stream_over_its_total_ends_with_anthropics_error_event():
    """Anthropic's streams have no terminator."""
    talk = play()
    claude(talk, MESSAGES_STREAM)
    talk.response(content_type=SSE)
    talk.answer(claude_stream(["a"])[:200], end=False)
    late(talk)
    end = sent_on(talk.answer(b"x", end=False), b"x")

    assert b'event: error\ndata: {"type":"error","error":{"type":"timeout_error"' in end
    assert (ContinueBody(request=False, data=b""),) == talk.answer(b"rest", end=True)
    assert "estimated" == talk.finish().usage_source


def test_the_end_of_a_stream_that_stood_in_the_middle_of_an_event_is_parseable():
    """The piece that came too late was never sent, so the event that it would have closed is closed for it."""
    talk = play()
    claude(talk, MESSAGES_STREAM)
    talk.response(content_type=SSE)
    stream = claude_stream(["hello"])
    talk.answer(stream[:250], end=False)
    assert not stream[:250].endswith(b"\n\n")
    late(talk)
    rest = stream[250 : stream.index(b"\n\n", 250) + 2]
    end = sent_on(talk.answer(rest, end=False), rest)

    assert end.startswith(b"\n\nevent: error\n")


def test_a_late_last_piece_is_let_through():
    """Nothing is won by taking the end away."""
    talk = play()
    call(talk, CHAT_STREAM)
    talk.response(content_type=SSE)
    asked, plain = chat_chunks(["a"], {"prompt_tokens": 1, "completion_tokens": 1})
    late(talk)

    assert plain == sent_on(talk.answer(asked), asked)
    assert "ok" == talk.finish().outcome


def test_a_json_answer_over_its_total_is_reset():
    """Half a JSON body has no polite end."""
    talk = play()
    call(talk)
    talk.response()
    talk.answer(b'{"id":', end=False)
    late(talk)

    assert (Reset("provider_timeout"),) == talk.answer(b"1", end=False)


def test_in_full_duplex_the_polite_end_is_the_last_piece():
    """And what still comes is swallowed."""
    talk = play(DUPLEX)
    call(talk, CHAT_STREAM)
    talk.response(content_type=SSE)
    late(talk)
    (last,) = talk.answer(b"data: x\n\n", end=False)

    assert isinstance(last, StreamBody)
    assert last.end
    assert last.data.endswith(b"data: [DONE]\n\n")
    assert () == talk.answer(b"y", end=False)


@pytest.mark.parametrize("details", ["upstream_response_timeout", "upstream_per_try_timeout", "stream_idle_timeout"])
def test_envoys_own_timeout_is_504_in_the_vendors_shape_and_is_not_free(details):
    """The provider has worked on it: the call is settled by an estimate."""
    talk = play()
    call(talk)
    (answer,) = talk.response(504, details=details)
    record = talk.finish()

    assert (504, "provider_timeout") == (answer.status, dict(answer.headers)["x-llm-error"])
    assert ("unreachable", "estimated") == (record.outcome, record.usage_source)
    assert record.usage.input > 0
    assert KEY not in repr(answer)
