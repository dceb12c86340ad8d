"""Envoy's counters, the gateway's metrics, the records and the access log tell the same of the same calls."""

from __future__ import annotations

import json
import secrets
import time
from collections import Counter
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import pytest

from envoy.machine import Machine, running
from envoy.ways import numbers, raw, wait_for

pytestmark = pytest.mark.envoy

CHAT: dict[str, Any] = {"model": "fast", "messages": [{"role": "user", "content": "hi there"}]}
CLAUDE: dict[str, Any] = {**CHAT, "model": "smart", "max_tokens": 60}
# path, body, faults; the answers' own usage is what must be counted
CALLS: list[tuple[str, dict[str, Any], dict[str, str]]] = [
    ("/v1/chat/completions", CHAT, {}),
    ("/v1/chat/completions", CHAT, {"x-sim-cached-tokens": "5"}),
    ("/v1/chat/completions", {**CHAT, "stream": True, "stream_options": {"include_usage": True}}, {}),
    ("/v1/embeddings", {"model": "text-embedding-3-small", "input": "one two three"}, {}),
    ("/v1/messages", CLAUDE, {"x-sim-cached-tokens": "3"}),
    ("/v1/messages/count_tokens", {"model": "smart", "messages": CHAT["messages"]}, {}),
    ("/v1/chat/completions", CHAT, {"x-sim-status": "400"}),
    ("/v1/chat/completions", {"model": 3}, {}),
    ("/v1/chat/completions", {"model": 3}, {}),
]


@pytest.fixture(scope="module")
def counted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Machine, list[dict[str, int]], str]]:
    """A fresh gateway that did `CALLS` and no other; the usage that the vendors reported; the calls' label."""
    with running(tmp_path_factory.mktemp("numbers")) as machine:
        feature = secrets.token_hex(6)
        headers = {"authorization": f"Bearer {machine.key}", "x-llm-feature": feature}
        usages = []
        with raw(machine) as http:
            for path, body, faults in CALLS:
                extra = {"anthropic-version": "2023-06-01"} if path.startswith("/v1/messages") else {}
                answer = http.post(machine.url() + path, json=body, headers=headers | faults | extra)
                usages.append(usage_of(path, answer.status_code, answer.content))
        assert len(machine.wait_records(len(CALLS), labels={"feature": feature})) == len(CALLS)
        yield machine, usages, feature


def usage_of(path: str, status: int, content: bytes) -> dict[str, int]:
    """What the vendor reported, in one meaning, read without the gateway's own code."""
    if status != 200 or path.endswith("count_tokens"):
        return {}
    if content.startswith(b"data:"):
        content = [line for line in content.split(b"\n") if b'"usage":{' in line][-1].removeprefix(b"data: ")
    usage = json.loads(content)["usage"]
    if "input_tokens" in usage:
        cached, written = usage["cache_read_input_tokens"], usage["cache_creation_input_tokens"]
        found = {"input": usage["input_tokens"] + cached + written, "cached": cached}
        return {**found, "output": usage["output_tokens"]}
    cached = usage.get("prompt_tokens_details", {}).get("cached_tokens", 0)
    return {"input": usage["prompt_tokens"], "cached": cached, "output": usage.get("completion_tokens", 0)}


def summed(machine: Machine, source: str, name: str, *by: str, **where: str) -> dict[Any, float]:
    """Samples of one name with these labels, added up by the labels `by`."""
    total: Counter[Any] = Counter()
    for (sample, labels), value in numbers(machine, source).items():
        found = dict(labels)
        if sample == name and where.items() <= found.items():
            key = tuple(found[label] for label in by)
            total[key if len(by) != 1 else key[0]] += value  # type: ignore[assignment]  # floats
    return {key: value for key, value in total.items() if value}


@pytest.mark.parametrize("source", ["admin", "metrics"])
def test_requests_are_counted_by_outcome(counted: Any, source: str) -> None:
    """By team, app, provider and outcome."""
    machine, _, _ = counted
    name = "envoy_llm_requests_total" if source == "admin" else "llm_requests_total"
    assert wait_for(
        lambda: (
            summed(machine, source, name, "provider", "outcome", team="demo", app="demo")
            == {
                ("openai", "ok"): 4,
                ("anthropic", "ok"): 2,
                ("openai", "provider_error"): 1,
                ("openai", "refused"): 2,
            }
        )
    ), summed(machine, source, name, "provider", "outcome")


@pytest.mark.parametrize("source", ["admin", "metrics"])
def test_tokens_are_what_the_vendors_reported(counted: Any, source: str) -> None:
    """Input, output and cached, added up over all calls; the count of tokens itself uses none."""
    machine, usages, _ = counted
    label, name = ("direction", "envoy_llm_tokens_total") if source == "admin" else ("kind", "llm_tokens_total")
    cached = "cache_read" if source == "admin" else "cached_input"
    got = summed(machine, source, name, label, team="demo", app="demo")
    wanted = {kind: sum(usage.get(kind, 0) for usage in usages) for kind in ("input", "output", "cached")}
    assert wanted["cached"] == 8
    assert (got["input"], got["output"], got[cached]) == (wanted["input"], wanted["output"], wanted["cached"])


def test_cost_is_the_sum_of_the_records(counted: Any) -> None:
    """Exact on record; Envoy counts whole micro-dollars, so it may be off by half of one per call."""
    machine, _, feature = counted
    costs = [Decimal(one["cost_usd"]) for one in machine.records(labels={"feature": feature}) if "cost_usd" in one]
    total = sum(costs, Decimal(0))
    (metric,) = summed(machine, "metrics", "llm_cost_usd_total", "team").values()
    (counter,) = summed(machine, "admin", "envoy_llm_cost_microusd_total", "team").values()
    assert total > 0
    assert metric == pytest.approx(float(total), rel=1e-9)
    assert abs(Decimal(counter) / 1_000_000 - total) <= Decimal("0.0000005") * len(costs)


@pytest.mark.parametrize("source", ["admin", "metrics"])
def test_refusals_are_counted_by_error(counted: Any, source: str) -> None:
    """With the team, and the word that the caller got."""
    machine, _, _ = counted
    name = "envoy_llm_refusals_total" if source == "admin" else "llm_refusals_total"
    assert summed(machine, source, name, "team", "error") == {("demo", "caller_invalid_field"): 2}


@pytest.mark.parametrize("source", ["admin", "metrics"])
def test_nothing_is_in_flight(counted: Any, source: str) -> None:
    """The gauges go back to zero."""
    machine, _, _ = counted
    name = "envoy_llm_in_flight" if source == "admin" else "llm_in_flight"
    assert name in {sample for sample, _ in numbers(machine, source)}
    assert wait_for(lambda: not summed(machine, source, name))


def test_an_open_call_is_in_flight(counted: Any) -> None:
    """Both gauges count a stream while it is open."""
    machine, _, _ = counted
    headers = {"authorization": f"Bearer {machine.key}", "x-sim-chunk-ms": "100", "x-sim-tokens": "100"}
    body = {**CHAT, "model": "nobody-knows", "stream": True}
    with raw(machine) as http:
        url = f"{machine.url()}/v1/chat/completions"
        with http.stream("POST", url, json=body, headers=headers) as answer:
            pieces = answer.iter_raw()  # kept: a generator that goes closes the connection
            next(pieces)
            found = [
                summed(machine, "admin", "envoy_llm_in_flight", "entry"),
                summed(machine, "metrics", "llm_in_flight"),
            ]
    assert found == [{"base_url": 1}, {(): 1}]


def test_the_access_log_has_the_policy_stages_account(counted: Any) -> None:
    """One line per call with the `llm` object, one per attempt with the same request id, and no body or key."""
    machine, usages, feature = counted
    deadline = time.monotonic() + 10
    while True:
        lines = machine.access_log()
        calls = [line for line in lines if line["event"] == "request" and line["llm"].get("feature") == feature]
        if len(calls) == len(CALLS) or time.monotonic() > deadline:
            break
        time.sleep(0.1)
    for line, (_, _, faults), usage in zip(calls, CALLS, usages, strict=True):
        llm = line["llm"]
        attempts = [one for one in lines if one["event"] == "attempt" and one["request_id"] == line["request_id"]]
        assert (llm["team"], llm["app"], llm["final"]) == ("demo", "demo", True)
        assert len(attempts) == (0 if llm["outcome"] == "refused" else 1)
        assert "status" not in faults or line["status"] == 400
        if usage:
            got = (llm["tokens_in"], llm.get("tokens_out", 0), llm["usage_source"])
            assert got == (usage["input"], usage["output"], "reported")
            assert llm["cost_microusd"] >= 0
    assert machine.key not in json.dumps(lines)
