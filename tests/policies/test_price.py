"""What a call cost, through the whole gateway."""

from __future__ import annotations

import json
from decimal import Decimal

import pytest

from gateway import play
from talk import CHAT, CHAT_ANSWER, CHAT_STREAM, call, chat_chunks, claude

SSE = "text/event-stream"
PRICED = CHAT.replace(b"gpt-4o-mini", b"priced")


def metadata(actions) -> dict:
    return dict(actions[0].metadata["llm"])


def test_an_override_prices_the_call_exactly():
    """9 tokens at $1 and 2 at $10 a million."""
    talk = play()
    call(talk, PRICED)
    talk.response(content_length=str(len(CHAT_ANSWER)))
    seen = metadata(talk.answer(CHAT_ANSWER))
    record = talk.finish()

    assert Decimal("0.000029") == record.cost
    assert {"cost_microusd": 29, "tokens_in": 9, "tokens_out": 2, "final": True}.items() <= seen.items()


def test_a_stream_is_priced_when_its_last_event_is_seen():
    """So that Envoy's counters have it, though the body goes on."""
    talk = play()
    call(talk, CHAT_STREAM.replace(b"gpt-4o-mini", b"priced"))
    talk.response(content_type=SSE)
    asked, _ = chat_chunks(["a"], {"prompt_tokens": 9, "completion_tokens": 2})

    assert 29 == metadata(talk.answer(asked, end=False))["cost_microusd"]
    talk.answer(b"")
    assert Decimal("0.000029") == talk.finish().cost


def test_the_anthropic_vector_of_the_field():
    """Raw 3 in, 12,304 written to the cache, 550 out at $3/$3.75/$15 a million: $0.054399."""
    talk = play()
    claude(talk, b'{"model":"claude-sonnet-4-5","max_tokens":9,"messages":[]}')
    raw = {"input_tokens": 3, "cache_creation_input_tokens": 12304, "cache_read_input_tokens": 0, "output_tokens": 550}
    talk.response()
    talk.answer(json.dumps({"model": "claude-sonnet-4-5", "content": [], "usage": raw}).encode())
    record = talk.finish()

    assert 12_307 == record.usage.input
    assert Decimal("0.054399") == record.cost


def test_an_unknown_price_is_unknown_and_says_so():
    """Never zero."""
    talk = play()
    call(talk, CHAT.replace(b"gpt-4o-mini", b"nobody-knows-this"))
    answer = CHAT_ANSWER.replace(b"gpt-4o-mini-2024-07-18", b"nobody-knows-this")
    talk.response(content_length=str(len(answer)))
    seen = metadata(talk.answer(answer))
    record = talk.finish()

    assert record.cost is None
    assert record.cost_reason
    assert "cost_microusd" not in seen
    assert record.cost_reason == seen["cost_unknown"]
    assert ("reported", 9) == (record.usage_source, record.usage.input)


def test_an_estimate_is_priced_too():
    """A hang-up is not free."""
    talk = play()
    call(talk, CHAT_STREAM.replace(b"gpt-4o-mini", b"priced"))
    talk.response(content_type=SSE)
    asked, _ = chat_chunks(["a", "b c"], None)
    talk.answer(asked[:-60], end=False)
    record = talk.finish()

    assert "estimated" == record.usage_source
    assert record.cost > 0


@pytest.mark.parametrize("status", [400, 429, 500, 529])
def test_a_call_that_the_provider_refused_costs_nothing(status):
    """And its cost is not "unknown" either: nothing was used."""
    talk = play()
    call(talk, PRICED)
    talk.response(status)
    talk.answer(b'{"error":{"message":"no","type":"x"}}')
    record = talk.finish()

    assert ("provider_error", "none", None, "") == (
        record.outcome, record.usage_source, record.cost, record.cost_reason,
    )  # fmt: skip


def test_counting_tokens_is_free():
    """The vendor charges nothing."""
    talk = play()
    claude(talk, b'{"model":"claude-haiku-4-5","messages":[]}', "/v1/messages/count_tokens")
    talk.response()
    talk.answer(b'{"input_tokens": 14}')

    assert talk.finish().cost is None
