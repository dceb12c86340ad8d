"""What calls are charged through real Envoy, however they end: as the vendor reports, else as counted, never zero."""

from __future__ import annotations

import os
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import httpx2
import pytest

from envoy import recorded_cases
from envoy.limits_machine import (
    SAID,
    Ask,
    Books,
    call,
    fresh,
    labelled,
    nanos,
    rule,
    section,
)
from envoy.machine import LIMITS, Machine, free_ports, running
from envoy.ways import raw as plain

pytestmark = pytest.mark.envoy

TURN: list[Any] = [{"role": "user", "content": SAID}]
TOOL = {"name": "weather", "description": "d"}
SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
CHARGED = ("requests", "input_tokens", "output_tokens", "tokens", "money")
HUGE = 1_000_000
RULES = (
    *(rule(f"charge_{kind}", kind, "month", HUGE, match={"feature": "charge-*"}) for kind in CHARGED),
    *(rule(f"unpriced_{kind}", kind, "month", HUGE, match={"feature": "unpriced-*"}) for kind in CHARGED[:-1]),
    *(rule(f"fail_{kind}", kind, "day", HUGE, "provider feature", match={"feature": "fail-*"}) for kind in CHARGED),
)
BROKEN = """
  broken:
    api: openai
    hosts: [broken.example]
    credential: {{env: TEST_OPENAI_KEY}}
    upstream: {{address: "127.0.0.1:PORT", ca: {ca}}}
"""
POOL = "  pool: {provider: broken, model: gpt-4o-mini, fallback: [openai]}"
PRICING = """
pricing:
  overrides: [{provider: broken, model: "*", input: 50, output: 200}]
"""


@pytest.fixture(scope="module")
def shared_limited(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    """A gateway with the store that it starts itself; one of its providers does not answer."""
    (port,) = free_ports(1)
    folder: Path = tmp_path_factory.mktemp("lim")
    extra = LIMITS + PRICING + section(RULES)
    with running(folder, extra=extra, providers=BROKEN.replace("PORT", str(port)), aliases=POOL) as machine:
        yield machine


# ---- charges ----------------------------------------------------------------------------------------------------


def assert_charged_as_on_record(machine: Machine, books: Books, feature: str, prefix: str = "charge") -> dict[str, Any]:
    """Each kind's counter is what the record says, to the billionth of a dollar, and nothing is reserved."""
    (record,) = machine.wait_records(1, labels={"feature": feature})
    books.settled()
    read, written = record.get("tokens_in", 0), record.get("tokens_out", 0)
    wanted = {"requests": 1, "input_tokens": read, "output_tokens": written, "tokens": read + written}
    if prefix == "charge":
        wanted["money"] = nanos(record.get("cost_usd", "0"))
    got = {name: count for name, count in books.of(feature).items() if name.startswith(prefix)}
    assert {name: count.used for name, count in got.items()} == {f"{prefix}_{kind}": n for kind, n in wanted.items()}
    assert {count.reserved for count in got.values()} == {0}
    return record


CHAT, RESPONSES, MESSAGES = "/openai/v1/chat/completions", "/openai/v1/responses", "/anthropic/v1/messages"
CLAUDE: dict[str, Any] = {"model": "claude-haiku-4-5", "max_tokens": 60, "messages": TURN}
GPT: dict[str, Any] = {"model": "gpt-4o-mini", "messages": TURN}
LONG = "A long text that is worth keeping. " * 400
CACHING = [{"type": "text", "text": LONG, "cache_control": {"type": "ephemeral"}}]
OPENAI_TOOL = {"type": "function", "function": {**TOOL, "parameters": SCHEMA}}
CASES: dict[str, tuple[str, dict[str, Any], dict[str, str], dict[str, int]]] = {
    "n": (CHAT, {**GPT, "n": 2}, {}, {}),
    "n_stream": (CHAT, {**GPT, "n": 3, "stream": True}, {}, {}),
    "tools": (CHAT, {**GPT, "tools": [OPENAI_TOOL]}, {}, {}),
    "tools_stream": (CHAT, {**GPT, "tools": [OPENAI_TOOL], "stream": True}, {}, {}),
    "claude_tools": (MESSAGES, {**CLAUDE, "tools": [{**TOOL, "input_schema": SCHEMA}]}, {}, {}),
    "cached": (CHAT, GPT, {"cached-tokens": "7"}, {"tokens_cached": 7}),
    "cached_stream": (CHAT, {**GPT, "stream": True}, {"cached-tokens": "7"}, {"tokens_cached": 7}),
    "claude_cached": (MESSAGES, CLAUDE, {"cached-tokens": "5"}, {"tokens_cached": 5}),
    "claude_written": (MESSAGES, {**CLAUDE, "system": CACHING}, {}, {}),
    "claude_stream": (MESSAGES, {**CLAUDE, "system": CACHING, "stream": True}, {"cached-tokens": "9"}, {}),
    "reasoning": (CHAT, {**GPT, "model": "o4-mini"}, {}, {"tokens_reasoning": 64}),
    "responses": (RESPONSES, {"model": "gpt-4o-mini", "input": SAID, "stream": True}, {}, {}),
    "embeddings": ("/openai/v1/embeddings", {"model": "text-embedding-3-small", "input": ["one", SAID]}, {}, {}),
}


@pytest.mark.parametrize("name", CASES)
def test_what_is_charged_is_what_the_vendor_reports(limited: Machine, books: Books, name: str) -> None:
    """Several answers, tools, caches, reasoning, embeddings."""
    path, body, sim, wanted = CASES[name]
    feature = fresh("charge")
    with plain(limited) as http:
        headers = {"authorization": f"Bearer {limited.key}", "anthropic-version": "2023-06-01"}
        answer = http.post(limited.url() + path, json=body, headers=headers | labelled(feature, **sim))
    assert answer.status_code == 200, answer.text
    record = assert_charged_as_on_record(limited, books, feature)
    assert record["usage_source"] == "reported"
    assert Decimal(record["cost_usd"]) > 0
    assert {kind: record[kind] for kind in wanted} == wanted
    if name.startswith("claude_written"):
        assert record["tokens_cache_write"] > 1000
    if not body.get("stream"):
        usage = answer.json()["usage"]
        parts = ("input_tokens", "cache_read_input_tokens", "cache_creation_input_tokens")
        read = usage["prompt_tokens"] if "prompt_tokens" in usage else sum(usage[part] for part in parts)
        assert record["tokens_in"] == read
        assert record.get("tokens_out", 0) == usage.get("completion_tokens", usage.get("output_tokens", 0))


def send_recorded(machine: Machine, one: recorded_cases.Call) -> str:
    """Make a recorded call; the feature that it is counted under. A model without a price has no limit on money."""
    machine.vendors.do(lambda: machine.vendors.sims[one.case.api].cases.add(one.name, one.answer))
    headers = {"content-type": "application/json", "anthropic-version": "2023-06-01", "x-sim-case": one.name}
    headers["authorization"] = f"Bearer {machine.key}"
    for prefix in ("charge", "unpriced"):
        feature = fresh(prefix)
        with plain(machine) as http:
            answer = http.post(
                machine.url() + one.path, content=one.sent, headers={**headers, "x-llm-feature": feature}
            )
        if answer.headers.get("x-llm-error") != "policy_price_unknown":
            break
    assert answer.status_code == one.answer.status, (one.name, answer.text)
    return feature


@pytest.mark.recorded
def test_recorded_answers_are_charged_as_they_report(limited: Machine, books: Books) -> None:
    """Each recorded case whose answer reports its usage: counters, record and the case's own account are the same."""
    found = recorded_cases.names() if recorded_cases.ROOT.is_dir() else []
    if not found:
        assert os.environ.get("RECORDED_REQUIRED") != "1", f"no recorded case under {recorded_cases.ROOT}"
        pytest.skip("no recorded bodies beside this checkout")
    planned = [one for one in (recorded_cases.calls(name, 0, 0) for name in found) if _reports(one)]
    made = {send_recorded(limited, one): one for one in planned}
    priced = 0
    for feature, one in made.items():
        prefix = feature.partition("-")[0]
        record = assert_charged_as_on_record(limited, books, feature, prefix)
        assert one.usage is not None
        assert record.get("tokens_in", 0) == one.usage["input"], one.name
        assert record.get("tokens_out", 0) == (one.usage["output"] or 0), one.name
        priced += prefix == "charge" and "cost_usd" in record
    assert len(made) >= 30
    assert priced >= 20


def _reports(one: recorded_cases.Call) -> bool:
    return (
        one.answer.status == 200
        and one.usage is not None
        and not one.usage.get("partial")
        and one.case.path != recorded_cases.COUNT
    )


@pytest.mark.parametrize("kind", ["chat", "responses", "messages"])
def test_a_caller_who_hangs_up_is_charged(limited: Machine, books: Books, kind: str) -> None:
    """After the first piece of a stream: input and what came are charged, as an estimate, never zero."""
    feature = fresh("charge")
    ask = Ask(kind, stream=True, cap=2000)
    path = {"chat": CHAT, "responses": RESPONSES, "messages": MESSAGES}[kind]
    headers = {"authorization": f"Bearer {limited.key}", "anthropic-version": "2023-06-01"}
    headers |= labelled(feature, tokens=500, chunk_ms=20)
    with (
        plain(limited) as http,
        http.stream("POST", limited.url() + path, json=ask.tree, headers=headers) as answer,
    ):
        assert b"data:" in next(answer.iter_raw())
    record = assert_charged_as_on_record(limited, books, feature)
    assert (record["outcome"], record["usage_source"]) == ("cut_short", "estimated")
    assert record["tokens_in"] > 5
    assert record["tokens_out"] < 500
    assert books.of(feature)["charge_money"].used > 0


@pytest.mark.parametrize("stream", [False, True])
def test_a_caller_who_does_not_wait_is_charged_for_what_was_read(limited: Machine, books: Books, stream: bool) -> None:
    """The vendor has the call and has said nothing when the caller goes: the input is charged, estimated."""
    feature = fresh("charge")
    headers = {"authorization": f"Bearer {limited.key}", **labelled(feature, delay_ms=5000)}
    with plain(limited) as http, pytest.raises(httpx2.ReadTimeout):
        http.post(limited.url() + CHAT, json=Ask(stream=stream).tree, headers=headers, timeout=0.7)
    record = assert_charged_as_on_record(limited, books, feature)
    assert (record["outcome"], record["usage_source"]) == ("cut_short", "estimated")
    assert (record["tokens_in"] > 5, record.get("tokens_out", 0)) == (True, 0)


def test_a_stream_that_the_vendor_breaks_off_is_charged(limited: Machine, books: Books) -> None:
    """What came until then is counted."""
    feature = fresh("charge")
    headers = {"authorization": f"Bearer {limited.key}"}
    headers |= labelled(feature, tokens=200, chunk_ms=2, reset_after=9000)
    with (
        plain(limited) as http,
        http.stream("POST", limited.url() + CHAT, json=Ask(stream=True, cap=500).tree, headers=headers) as answer,
        pytest.raises(httpx2.HTTPError),
    ):
        for _ in answer.iter_raw():
            pass
    record = assert_charged_as_on_record(limited, books, feature)
    assert (record["outcome"], record["usage_source"]) == ("cut_short", "estimated")
    assert 10 < record["tokens_out"] < 200


def test_a_call_that_the_vendor_refuses_is_not_charged(limited: Machine, books: Books) -> None:
    """Its 400 passes through: one request, no token, no money; all that was held is given back."""
    feature = fresh("charge")
    reply = call(limited, Ask(sim=(("status", "400"),)), feature)
    limited.wait_records(1, labels={"feature": feature})
    books.settled()
    counts = books.of(feature)
    assert reply.status == 400
    assert {name: count.used for name, count in counts.items() if count.used} == {"charge_requests": 1}
    assert {count.reserved for count in counts.values()} == {0}


def test_a_failover_moves_the_charge(limited: Machine, books: Books) -> None:
    """The first provider does not answer: its counters get theirs back, the second's are charged what it cost there."""
    feature = fresh("fail")
    reply = call(limited, Ask(model="pool"), feature)
    (record,) = limited.wait_records(1, labels={"feature": feature})
    books.settled()
    assert (reply.status, record["provider"]) == (200, "openai")
    all_counts = books.all()
    broken = [all_counts[f"fail_{kind}", f"broken/{feature}"] for kind in CHARGED]
    assert {count.out for count in broken} == {0}
    used = {kind: all_counts[f"fail_{kind}", f"openai/{feature}"].used for kind in CHARGED}
    assert used["requests"] == 1
    assert used["tokens"] == record["tokens_in"] + record["tokens_out"] > 0
    assert used["money"] == nanos(record["cost_usd"]) > 0
