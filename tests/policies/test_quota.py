"""The worst case is reserved before a call goes out, and what it used is settled however it ends."""

from __future__ import annotations

import json

import pytest

from extproc.errors import EffectError, LimitsAwayError
from extproc.exchange.effects import Caller, Extend, Reserve, Settle
from extproc.exchange.events import RequestBody
from extproc.limits.counters import Reserved
from limited import RULES, Store, play
from talk import (
    CHAT,
    CHAT_ANSWER,
    CHAT_STREAM,
    MESSAGES,
    MESSAGES_STREAM,
    SSE,
    answered,
    call,
    chat_chunks,
    claude,
    claude_stream,
    forwarded,
    refused,
    sent_on,
)


def without(store: Store) -> None:
    """Nothing is held any more."""
    assert store.held == {}


def test_the_worst_case_is_reserved_and_what_was_used_is_settled():
    """Output is the caller's own cap; money is both at the provider's rates; each counter gets its own kind."""
    store = Store()
    talk = play(store)
    body = CHAT[:-1] + b',"max_completion_tokens":50}'
    forwarded(call(talk, body))
    asked = store.reserved()

    assert (asked["calls"], asked["written"], asked["open"], asked["there"]) == (1, 50, 1, 1)
    assert asked["both"] == asked["read"] + 50
    assert 9 < asked["read"] < len(body) * 2
    assert asked["money"] == asked["read"] * 150 + 50 * 600  # gpt-4o-mini: 0.15 and 0.60 dollars a million
    talk.response(content_length=str(len(CHAT_ANSWER)))
    talk.answer(CHAT_ANSWER)
    record = talk.finish()

    assert store.settled == {"money": 9 * 150 + 2 * 600, "calls": 1, "read": 9, "written": 2, "both": 11, "open": 1} | {
        "there": 1
    }
    assert record.quota is not None
    assert record.quota.estimated_input == asked["read"]
    assert {line.rule: (line.reserved, line.settled) for line in record.quota.lines}["written"] == (50, 2)
    without(store)


def test_counters_are_those_of_the_caller():
    """By what the key says; the organisation is the configured one."""
    store = Store()
    call(play(store))
    effect = store.told[0]
    assert isinstance(effect, Reserve)

    values = {charge.counter.rule.name: charge.counter.value for charge in effect.charges}
    assert values == {
        "money": "demo", "calls": "app/gpt-4o-mini", "read": "acme", "written": "acme", "both": "ann", "open": "k1",
        "there": "openai",
    }  # fmt: skip
    assert effect.organisation == "acme"
    assert {charge.counter.key.split(b":c:")[0] for charge in effect.charges} == {b"xq:{acme}"}


def test_an_organisation_of_the_key_has_books_of_its_own():
    """What the key says goes before the configuration."""
    store = Store()
    call(play(store, caller=Caller("k1", "demo", "app", organisation="other")))

    assert isinstance(store.told[0], Reserve)
    assert store.told[0].organisation == "other"


def test_without_a_cap_the_configured_output_is_reserved_for_each_choice():
    """`n` answers may be as long each."""
    for more, output in ((b"", 1000), (b',"n":3', 3000), (b',"n":2,"max_tokens":10', 20)):
        store = Store()
        call(play(store), CHAT[:-1] + more + b"}")
        assert store.reserved()["written"] == output


def test_responses_and_messages_count_against_the_same_budgets():
    """One counter whatever the endpoint."""
    keys = set()
    for talk in (call, claude):
        store = Store()
        if talk is call:
            call(play(store), b'{"model":"gpt-4o-mini","input":"hi","max_output_tokens":50}', "/v1/responses")
        else:
            claude(play(store), MESSAGES)
        first = store.told[0]
        assert isinstance(first, Reserve)
        keys.add(first.charges[0].counter.key)
        assert store.reserved()["written"] == (50 if talk is call else 9)
    assert len(keys) == 1


def test_embeddings_reserve_input_only():
    """They have no output."""
    store = Store()
    talk = play(store)
    call(talk, b'{"model":"text-embedding-3-small","input":"hi there"}', "/v1/embeddings")
    assert store.reserved()["written"] == 0
    answer = (
        b'{"object":"list","data":[],"model":"text-embedding-3-small","usage":{"prompt_tokens":2,"total_tokens":2}}'
    )
    talk.response(content_length=str(len(answer)))
    talk.answer(answer)
    talk.finish()

    assert (store.settled["read"], store.settled["both"], store.settled["money"]) == (2, 2, 40)


def test_what_no_vendor_bills_counts_as_a_request():
    """Counting tokens uses none."""
    store = Store()
    claude(play(store), MESSAGES, "/v1/messages/count_tokens")

    assert set(store.reserved()) == {"calls", "open"}


def test_a_listing_is_not_limited():
    """It never reaches a provider."""
    store = Store()
    talk = play(store)
    assert answered(talk.request("/v1/models", end=True)) is not None
    assert store.told == []


@pytest.mark.parametrize(
    ("name", "status", "code"),
    [
        ("money", 402, "policy_budget_exceeded"),
        ("calls", 429, "policy_rate_limited"),
        ("both", 429, "policy_rate_limited"),
        ("open", 429, "policy_concurrency_limited"),
    ],
)
def test_no_room_is_refused_and_nothing_is_settled(name, status, code):
    """The vendor's shape, the limit's name in the record."""
    store = Store(refuse=(name,))
    talk = play(store)

    assert (status, code) == refused(call(talk))
    record = talk.finish()
    assert record.quota is not None
    assert (record.quota.refused_by, record.error) == (name, code)
    assert all(line.reserved == line.settled == 0 for line in record.quota.lines)
    assert [type(effect) for effect in store.told] == [Reserve]


def test_the_answer_shows_what_is_left():
    """In the vendor's names, and budgets where the configuration says so."""
    talk = play(Store(over=("read",)))
    call(talk)
    head = talk.response(content_length=str(len(CHAT_ANSWER)))[0]
    sent = dict(head.change.set)

    assert sent["x-ratelimit-limit-requests"] == "9"  # the tightest
    assert sent["x-llm-quota"] == "exceeded; rule=read"
    assert any(name.startswith("x-llm-budget-") for name in sent)


def test_a_store_that_is_away_is_said_to_be():
    """503, so that the caller tries again."""
    for error in (LimitsAwayError("money"), EffectError("no")):
        store = Store(fails=error)
        talk = play(store)
        assert (503, "gateway_limits_unavailable") == refused(call(talk))
        assert talk.finish().quota is not None


def test_a_model_without_a_price_may_not_spend_a_budget():
    """Unknown is never zero; the configuration may say otherwise."""
    body = CHAT.replace(b"gpt-4o-mini", b"nobody-knows")
    assert (403, "policy_price_unknown") == refused(call(play(Store()), body))
    store = Store()
    forwarded(call(play(store, RULES.replace("headers:", "unknown_price: allow\n  headers:")), body))

    assert store.reserved()["money"] == 0


def test_a_call_that_the_provider_never_had_gives_all_back():
    """Unreachable: nothing used, the slot free."""
    store = Store()
    talk = play(store)
    call(talk)
    talk.response(503, details="upstream_reset_before_response_started{connection_failure}")
    talk.finish()

    assert set(store.settled.values()) == {0}
    without(store)


def test_a_call_that_the_provider_refused_counts_as_a_call_only():
    """It did no work."""
    store = Store()
    talk = play(store)
    call(talk)
    error = b'{"error":{"message":"no","type":"server_error"}}'
    talk.response(500, content_length=str(len(error)))
    talk.answer(error)
    talk.finish()

    assert store.settled == dict.fromkeys(("money", "read", "written", "both"), 0) | {"calls": 1, "open": 1, "there": 1}


def test_a_caller_that_hangs_up_pays_for_what_there_was():
    """An estimate, marked, and never zero."""
    store = Store()
    talk = play(store)
    call(talk, CHAT_STREAM)
    talk.response(content_type=SSE)
    talk.answer(chat_chunks(["one", "two", "three"], None)[0], end=False)
    record = talk.finish()

    assert record.usage_source == "estimated"
    assert store.settled["written"] >= 1
    assert store.settled["read"] >= 1
    assert store.settled["money"] > 0
    without(store)


def test_a_caller_that_hangs_up_before_the_answer_is_settled_too():
    """However it ends, once."""
    store = Store()
    talk = play(store)
    call(talk)
    talk.finish()

    without(store)
    assert sum(isinstance(effect, Settle) for effect in store.told) == 1


def pool(store: Store, answered: str) -> None:
    """A call of a chain that is answered by one of its providers."""
    talk = play(store)
    call(talk, CHAT.replace(b"gpt-4o-mini", b"pool"))
    talk.response(content_length=str(len(CHAT_ANSWER)), x_llmi_provider=answered)
    talk.answer(CHAT_ANSWER)
    talk.finish()


@pytest.mark.parametrize("answered", ["openai", "openai_b"])
def test_the_limits_of_every_provider_that_may_answer_are_asked_and_the_one_that_did_is_charged(answered):
    """A failover is no way around a provider's own limit."""
    store = Store()
    pool(store, answered)
    first = store.told[0]
    assert isinstance(first, Reserve)
    asked = [(charge.counter.value, charge.amount) for charge in first.charges if charge.counter.rule.name == "there"]
    assert asked == [("openai", 1), ("openai_b", 1)]
    settle = store.told[-1]
    assert isinstance(settle, Settle)
    charged = {
        charge.counter.value: amount
        for charge, amount in zip(first.charges, settle.amounts, strict=True)
        if charge.counter.rule.name == "there"
    }

    assert charged == {"openai": int(answered == "openai"), "openai_b": int(answered == "openai_b")}
    assert settle.extra == ()


@pytest.mark.parametrize("full", ["openai", "openai_b"])
def test_a_provider_without_room_is_left_out_of_the_chain(full):
    """Another one of the chain may answer, and only that one."""
    other = {"openai": "openai_b", "openai_b": "openai"}[full]
    store = Store(full=(full,))
    sent = forwarded(call(play(store), CHAT.replace(b"gpt-4o-mini", b"pool")))

    assert [group["name"] for group in sent.metadata["llm.candidates"]["priority_groups"]] == [other]
    assert sent.metadata["llm"]["provider"] == other
    assert [type(effect) for effect in store.told] == [Reserve, Reserve]


def test_a_chain_without_room_anywhere_is_refused():
    """By the first reason."""
    store = Store(full=("openai", "openai_b"))
    assert (429, "policy_rate_limited") == refused(call(play(store), CHAT.replace(b"gpt-4o-mini", b"pool")))
    store = Store(refuse=("money",))
    assert (402, "policy_budget_exceeded") == refused(call(play(store), CHAT.replace(b"gpt-4o-mini", b"pool")))
    assert len(store.told) == 1


def test_a_vendors_own_refusal_keeps_its_own_numbers():
    """Ours would say that there is room."""
    talk = play(Store())
    call(talk)
    head = talk.response(429, content_length="2", x_ratelimit_remaining_requests="0")[0]

    assert not [name for name, _ in head.change.set if name.startswith("x-ratelimit")]


def test_a_call_that_was_given_up_before_it_went_out_costs_nothing():
    """The caller hung up while its texts were searched."""
    store = Store()
    talk = play(store)
    talk.request()
    steps = talk.exchange.receive(RequestBody(talk.at(), CHAT, True))
    effect = next(steps)
    while not isinstance(effect, Reserve):
        effect = steps.send(talk.answers[type(effect)](effect))
    granted = store.reserve(effect)
    talk.exchange.facts.quota.held = True
    assert isinstance(granted, Reserved)
    talk.finish()

    assert set(store.settled.values()) == {0}


def test_tokens_are_counted_exactly_where_that_is_asked_for():
    """By the tokenizer, with a few for the structure."""
    store = Store()
    call(play(store, RULES.replace("headers:", "exact_input: true\n  headers:")))

    assert 2 < store.reserved()["read"] < 30


def long_stream(words: int) -> list[bytes]:
    """A chat stream of so many content events."""
    head = {"id": "c1", "object": "chat.completion.chunk", "created": 1, "model": "gpt-4o-mini"}
    chunk = {**head, "choices": [{"index": 0, "delta": {"content": "word "}, "finish_reason": None}]}
    return [b"data: " + json.dumps(chunk).encode() + b"\n\n"] * words


def test_a_stream_without_a_cap_reserves_more_as_it_runs():
    """Before what is held runs out; the totals grow; nothing is sent differently."""
    store = Store()
    talk = play(store)
    call(talk, CHAT_STREAM)
    talk.response(content_type=SSE)
    for piece in long_stream(3000):
        talk.answer(piece, end=False)
    asked = [effect.amounts[store.names.index("written")] for effect in store.told if isinstance(effect, Extend)]

    assert asked == sorted(set(asked))
    assert asked[0] < 2000 <= 3000 <= asked[-1] < 6000
    assert next(iter(store.held.values()))["written"] == asked[-1]
    talk.finish()
    without(store)


def test_a_stream_that_may_not_have_more_is_ended_in_the_vendors_shape():
    """What was generated so far goes out, then the finish reason, the error and the terminator; then the stream is cut."""
    store = Store(cap={"written": 1500})
    talk = play(store)
    call(talk, CHAT_STREAM)
    talk.response(content_type=SSE)
    got = b""
    ended = 0
    for number, piece in enumerate(long_stream(3000)):
        got += sent_on(talk.answer(piece, end=False), piece)
        if b"[DONE]" in got:
            ended = number
            break

    assert 700 <= ended < 1000  # characters are counted three to a token
    assert b'"finish_reason":"length"' in got
    assert b"rate_limit" in got
    record = talk.finish()
    assert record.quota is not None
    assert (record.quota.stopped, record.quota.refused_by) == (True, "written")
    assert (record.error, record.usage_source) == ("policy_rate_limited", "estimated")
    assert store.settled["written"] >= 700
    without(store)


def test_an_extension_under_way_ends_nothing():
    """Only a refusal does."""
    store = Store(pending=True)
    talk = play(store)
    call(talk, CHAT_STREAM)
    talk.response(content_type=SSE)
    for piece in long_stream(2000):
        assert b"error" not in sent_on(talk.answer(piece, end=False), piece)
    talk.finish()

    assert 10 < sum(isinstance(effect, Extend) for effect in store.told) < 300


def test_a_stream_with_a_cap_of_its_own_asks_for_no_more():
    """All that it may use is held from the start."""
    store = Store()
    talk = play(store)
    call(talk, CHAT_STREAM[:-1] + b',"max_tokens":4000}')
    talk.response(content_type=SSE)
    for piece in long_stream(3000):
        talk.answer(piece, end=False)
    talk.finish()

    assert not any(isinstance(effect, Extend) for effect in store.told)


def test_estimates_follow_what_providers_report():
    """Many calls of a kind: the reservation comes near the truth."""
    store = Store()
    claude(play(store), MESSAGES)
    before = store.reserved()["read"]
    for _ in range(60):
        store = Store()
        talk = play(store)
        claude(talk, MESSAGES_STREAM)
        talk.response(content_type=SSE)
        talk.answer(claude_stream(["hi"]))
        talk.finish()
    store = Store()
    claude(play(store), MESSAGES)

    assert 0 < store.reserved()["read"] != before


def test_a_stream_is_ended_between_events():
    """Half an event would hide why it ended: a stopped stream goes on to the end of the one that has begun."""
    store = Store(cap={"written": 1500})
    talk = play(store)
    call(talk, CHAT_STREAM)
    talk.response(content_type=SSE)
    got = b""
    for piece in long_stream(3000):
        for half in (piece[:50], piece[50:]):
            got += sent_on(talk.answer(half, end=False), half)
        if b"[DONE]" in got:
            break

    found = [line.removeprefix(b"data: ") for line in got.split(b"\n") if line]
    assert found[-1] == b"[DONE]"
    assert "error" in json.loads(found[-2])
    assert all(json.loads(line) for line in found[:-1])


def test_a_cap_beyond_all_numbers_is_an_amount_like_any_other():
    """What the store is asked for stays a number that it can count with."""
    store = Store()
    call(play(store), CHAT[:-1] + b',"n":9007199254740991,"max_tokens":9007199254740991}')

    assert store.reserved()["written"] == store.reserved()["money"] == (1 << 53) - 1
