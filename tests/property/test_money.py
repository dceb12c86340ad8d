"""Money through the whole gateway: exact, never negative, unknown rather than zero."""

from __future__ import annotations

import json
from decimal import Decimal

from hypothesis import given
from hypothesis import strategies as st

from gateway import play
from talk import call

tokens = st.integers(0, 10**7)


def cost(model: str, usage: dict) -> tuple[Decimal | None, str]:
    """Play one call of this model with this usage."""
    talk = play()
    call(talk, json.dumps({"model": model, "messages": []}).encode())
    talk.response()
    talk.answer(json.dumps({"choices": [], "model": model, "usage": usage}).encode())
    record = talk.finish()
    return record.cost, record.cost_reason


@given(tokens, tokens)
def test_the_price_of_a_call_is_exact(read, written):
    """$1 and $10 a million."""
    amount, reason = cost("priced", {"prompt_tokens": read, "completion_tokens": written})

    assert (Decimal(read + 10 * written) / 1_000_000, "") == (amount, reason)


@given(tokens, tokens, tokens, tokens)
def test_prices_add_up(read, written, more_read, more_written):
    """Design invariant 9: two calls cost what one of both would."""
    first, _ = cost("priced", {"prompt_tokens": read, "completion_tokens": written})
    second, _ = cost("priced", {"prompt_tokens": more_read, "completion_tokens": more_written})
    both, _ = cost("priced", {"prompt_tokens": read + more_read, "completion_tokens": written + more_written})

    assert first + second == both


@given(st.integers(-(10**6), 10**6), st.integers(-(10**6), 10**6), st.sampled_from(["priced", "unheard-of-model"]))
def test_no_usage_that_a_provider_reports_makes_money_negative_or_a_price_up(read, written, model):
    """Nonsense is unknown, with a reason."""
    amount, reason = cost(model, {"prompt_tokens": read, "completion_tokens": written})

    assert amount is None or amount >= 0
    assert (amount is None) is bool(reason)
    assert amount is None or model == "priced"
