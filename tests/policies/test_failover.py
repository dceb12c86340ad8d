"""A provider chain: who may be tried, who is on record, what a repeat of the reported usage is worth."""

from __future__ import annotations

import json
from pathlib import PurePath

import pytest

from extproc.config import load
from extproc.exchange.effects import Caller
from extproc.runtime import build
from playbook import Playbook

CONFIG = """
version: 1
providers:
  first: {api: openai, hosts: [api.openai.com]}
  second: {api: openai, hosts: [b.openai.example]}
access:
- {team: demo}
- {team: narrow, providers: [first]}
aliases:
  pool: {provider: first, model: gpt-4o, fallback: [second]}
pricing:
  overrides:
  - {provider: first, model: "*", input: 1, output: 1}
  - {provider: second, model: "*", input: 3, output: 3}
"""
BODY = json.dumps({"model": "pool", "messages": [{"role": "user", "content": "hi"}]}).encode()
ANSWER = json.dumps(
    {
        "model": "gpt-4o",
        "choices": [{"index": 0, "message": {"role": "assistant", "content": "x"}, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 1000000, "completion_tokens": 0, "total_tokens": 1000000},
    }
).encode()


def play(team: str = "demo") -> Playbook:
    setup = build(load(CONFIG.encode(), "gateway.yaml", base=PurePath("/nowhere"))).setup
    return Playbook(setup, caller=Caller(key_id="k", team=team, app="a"))


@pytest.mark.parametrize(("team", "providers"), [("demo", ["first", "second"]), ("narrow", ["first"])])
def test_a_failover_is_no_way_around_the_access_rules(team, providers):
    """The chain that Envoy gets holds only providers that this key may use."""
    talk = play(team)
    talk.request()
    (reply,) = talk.body(BODY)

    assert providers == [group["name"] for group in reply.metadata["llm.candidates"]["priority_groups"]]


@pytest.mark.parametrize(("answered", "cost"), [("first", "1"), ("second", "3"), ("", "1")])
def test_the_provider_that_answered_is_on_record_at_its_own_rates(answered, cost):
    """The inner hop says who answered; without its word it is the first of the chain."""
    talk = play()
    talk.request()
    talk.body(BODY)
    talk.response(content_length=str(len(ANSWER)), **({"x_llmi_provider": answered} if answered else {}))
    (reply,) = talk.answer(ANSWER)
    record = talk.finish()

    assert (answered or "first", cost) == (record.provider, format(record.cost.normalize(), "f"))
    assert reply.metadata["llm"].get("provider", "first") == (answered or "first")


def test_a_usage_that_came_with_the_end_is_reported_even_without_the_last_mark():
    """`[DONE]` is missing: the vendor's own count still wins over ours."""
    talk = play()
    talk.request()
    talk.body(BODY[:-1] + b', "stream": true, "stream_options": {"include_usage": true}}')
    talk.response(content_type="text/event-stream")
    talk.answer(b'data: {"choices":[{"index":0,"delta":{"content":"a"},"finish_reason":"stop"}]}\n\n', end=False)
    talk.answer(b'data: {"choices":[],"usage":{"prompt_tokens":5,"completion_tokens":3}}\n\n', end=True)
    record = talk.finish()

    assert ("reported", 5, 3) == (record.usage_source, record.usage.input, record.usage.output)


def test_background_responses_are_refused_until_they_can_be_metered():
    """Their usage is reported on another path, later."""
    talk = play()
    talk.request("/v1/responses")
    (answer,) = talk.body(b'{"model":"gpt-4o","input":"x","background":true}')

    assert (400, ("x-llm-error", "caller_invalid_field")) == (answer.status, answer.headers[-1])


@pytest.mark.parametrize(
    ("why", "source"),
    [("connection_termination", "estimated"), ("remote_reset", "estimated"), ("remote_connection_failure", "none")],
)
def test_a_provider_that_had_the_request_when_it_was_reset_is_not_free(why, source):
    """It may have billed; one that could not be reached did nothing."""
    talk = play()
    talk.request()
    talk.body(BODY)
    talk.response(503, x_llmi_inner="upstream_reset_before_response_started{" + why + "}")
    record = talk.finish()

    assert (source, "unreachable") == (record.usage_source, record.outcome)
