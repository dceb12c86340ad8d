"""The record and the metadata that derive from the facts."""

from __future__ import annotations

from decimal import Decimal

from hypothesis import given
from hypothesis import strategies as st

from extproc.errors import ErrorCode, Rejection
from extproc.exchange.effects import Caller
from extproc.exchange.facts import Cost, Facts, Origin, Outcome, UsageSource
from extproc.exchange.record import Ended, final_metadata, make_record, request_metadata, usage_metadata
from extproc.usage import Usage

ENDED = Ended(id="x", at=12.5, policy_seconds=0.25)


def facts(**fields) -> Facts:
    return Facts(Origin(at=10.0, wall=1_790_000_000.0), **fields)


def test_an_exchange_of_which_nothing_is_known_has_a_record():
    """Envoy hung up before the first word was understood."""
    record = make_record(facts(), ENDED)

    assert ("x", 2.5, 0.25, "cut_short", "none", 0) == (
        record.id, record.duration, record.policy_seconds, record.outcome, record.usage_source, record.status,
    )  # fmt: skip
    assert (None, None) == (record.cost, record.usage)


def test_a_refusal_says_what_and_why():
    """The code for machines, the message for people."""
    record = make_record(
        facts(rejection=Rejection(401, ErrorCode.CALLER_MISSING_KEY, "No key."), outcome=Outcome.REFUSED), ENDED
    )

    assert ("caller_missing_key", "No key.") == (record.error, record.error_detail[:7])


counts = st.none() | st.integers(0, 10**9)


@given(st.builds(Usage, counts, counts, counts, counts, counts))
def test_unknown_counts_are_absent_and_zero_is_zero(usage):
    """A counter that is absent is not a counter that is zero."""
    values = usage_metadata(usage)

    assert list(values.values()) == [
        count
        for count in (usage.input, usage.output, usage.cached_input, usage.cache_creation_input, usage.reasoning)
        if count is not None
    ]
    assert {} == usage_metadata(None)


def test_money_goes_to_envoy_in_whole_micro_dollars():
    """Its counters take integers; what is less than half of one is none."""
    cost = facts(cost=Cost(Decimal("0.0000285")), usage=Usage(1), usage_source=UsageSource.REPORTED)

    assert 28 == final_metadata(cost)["cost_microusd"]
    assert {"tokens_in": 1, "usage_source": "reported"}.items() <= final_metadata(cost).items()


def test_an_unknown_price_is_said_where_the_call_was_good():
    """Counted and alarmed."""
    unknown = facts(cost=Cost(None, "no rates"), outcome=Outcome.OK)

    assert "no rates" == final_metadata(unknown)["cost_unknown"]
    assert "cost_microusd" not in final_metadata(unknown)


def test_a_count_of_tokens_is_not_usage():
    """Nothing for Envoy to add up."""
    counted = final_metadata(facts(usage=Usage(14), usage_source=UsageSource.NONE))

    assert not {"tokens_in", "usage_source"} & counted.keys()


def test_labels_do_not_overwrite_the_identity():
    """Their names are a closed set that holds none of the others."""
    values = request_metadata(facts(caller=Caller("k1", "demo", "app"), labels={"user": "u", "feature": "f"}))

    assert {"team": "demo", "app": "app", "key_id": "k1", "user": "u", "feature": "f"}.items() <= values.items()
