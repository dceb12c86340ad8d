"""Limits through real Envoy: what the vendors' SDKs make of them, what calls are charged, what an operator changes live."""

from __future__ import annotations

import itertools
import json
import re
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from decimal import ROUND_CEILING, Decimal
from pathlib import Path
from typing import Any

import anthropic
import httpx2
import openai
import pytest
import valkey as library

from envoy import recorded_cases
from envoy.limits_machine import NANO, SAID, Ask, Books, call, rule, section, until
from envoy.machine import LIMITS, Machine, free_ports, running
from envoy.ways import Way, client
from envoy.ways import raw as plain
from extproc.adapters.tokens import Tokenizers
from extproc.adapters.valkey_process import socket_path
from valkeys import Server, server

pytestmark = pytest.mark.envoy

TURN: list[Any] = [{"role": "user", "content": SAID}]
TOOL = {"name": "weather", "description": "d"}
SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
CHARGED = ("requests", "input_tokens", "output_tokens", "tokens", "money")
STOP_AT = 1500
HUGE = 1_000_000
RULES = (
    *(rule(f"charge_{kind}", kind, "month", HUGE, match={"feature": "charge-*"}) for kind in CHARGED),
    *(rule(f"unpriced_{kind}", kind, "month", HUGE, match={"feature": "unpriced-*"}) for kind in CHARGED[:-1]),
    *(rule(f"fail_{kind}", kind, "day", HUGE, "provider feature", match={"feature": "fail-*"}) for kind in CHARGED),
    rule("refill", "requests", "bucket", 1, period="2s"),
    rule("spent", "money", "month", 0.000001),
    rule("short", "tokens", "day", 50),
    rule("two", "requests", "hour", 2),
    rule("shown_requests", "requests", "day", 100, match={"feature": "shown-*"}),
    rule("shown_tokens", "tokens", "bucket", 90_000, period="60s", match={"feature": "shown-*"}),
    rule("shown_money", "money", "month", 2.5, match={"feature": "shown-*"}),
    rule("priced", "money", "month", HUGE),
    rule("soft", "requests", "day", 1, mode="soft"),
    rule("stop", "tokens", "day", STOP_AT),
    rule("stop_money", "money", "month", 0.0008),
    rule("live", "requests", "day", 2, overrides={"live-own": 3}),
    rule("changed", "requests", "day", 2),
)
SECTION: dict[str, Any] = {"headers": True, "output_tokens": {"*": 64}}
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
names = itertools.count(1)


def extra(rules: tuple[dict[str, Any], ...] = RULES) -> str:
    """The rest of gateway.yaml."""
    return LIMITS + PRICING + section(rules, **SECTION)


@pytest.fixture(scope="module")
def shared_limited(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    """A gateway with the store that it starts itself; one of its providers does not answer."""
    (port,) = free_ports(1)
    folder: Path = tmp_path_factory.mktemp("lim")
    with running(folder, extra=extra(), providers=BROKEN.replace("PORT", str(port)), aliases=POOL) as machine:
        yield machine


@pytest.fixture
def limited(shared_limited: Machine) -> Machine:
    """Without a memory of earlier tests."""
    shared_limited.forget()
    return shared_limited


@pytest.fixture
def books(limited: Machine) -> Iterator[Books]:
    """What its store holds."""
    with closing(library.Valkey(unix_socket_path=str(socket_path(limited.state)), socket_timeout=5)) as of_store:
        yield Books(of_store)


@contextmanager
def sdk(machine: Machine, api: str = "openai", retries: int = 0) -> Iterator[Any]:
    """The vendor's own client, on the base URL."""
    made = client(machine, api, Way("base_url", "h1", "sync"), max_retries=retries)
    with closing(made):
        yield made


def labelled(feature: str, **sim: object) -> dict[str, str]:
    """Header fields: which counters the call is for, what the simulated vendor is asked for."""
    return {"x-llm-feature": feature, **{f"x-sim-{name.replace('_', '-')}": str(value) for name, value in sim.items()}}


def say(made: Any, feature: str, **more: Any) -> Any:
    """The header fields of the answer to one call by either SDK."""
    options = {"extra_headers": labelled(feature), "messages": TURN, **more}
    if isinstance(made, openai.OpenAI):
        answer = made.chat.completions.with_raw_response.create(model="gpt-4o-mini", **options)
    else:
        answer = made.messages.with_raw_response.create(model="claude-haiku-4-5", max_tokens=60, **options)
    answer.http_response.close()
    assert answer.status_code == 200
    return answer.headers


def tell(machine: Machine, api: str, feature: str, retries: int = 0) -> Any:
    """The same by a client of its own."""
    with sdk(machine, api, retries) as made:
        return say(made, feature)


def fresh(prefix: str) -> str:
    """A feature, and so counters, of its own."""
    return f"{prefix}-{next(names)}"


def nanos(dollars: str) -> int:
    """Billionths, rounded up."""
    return int((Decimal(dollars) * NANO).to_integral_value(ROUND_CEILING))


# ---- what the SDKs make of it -----------------------------------------------------------------------------------

ERRORS = {"openai": openai, "anthropic": anthropic}


@pytest.mark.parametrize("api", ["openai", "anthropic"])
def test_a_rate_limit_is_waited_for(limited: Machine, api: str) -> None:
    """429 raises the SDK's RateLimitError with `retry-after`; with retries on, the call that follows it passes."""
    feature = fresh("refill")
    tell(limited, api, feature)
    with pytest.raises(ERRORS[api].RateLimitError) as caught:
        tell(limited, api, feature)
    headers = caught.value.response.headers
    assert headers["x-llm-error"] == "policy_rate_limited"
    assert 1 <= int(headers["retry-after"]) <= 2
    assert "x-should-retry" not in headers
    assert "1 request in 2 s" in str(caught.value)
    begun = time.monotonic()
    assert "x-llm-error" not in tell(limited, api, feature, retries=2)
    assert time.monotonic() - begun < 8
    records = limited.wait_records(4, labels={"feature": feature})
    assert [one["outcome"] for one in records].count("ok") == 2
    assert len(limited.seen(api)) == 2  # the vendor saw those that passed, and no other


@pytest.mark.parametrize("api", ["openai", "anthropic"])
@pytest.mark.parametrize(
    ("prefix", "status", "code"), [("spent", 402, "policy_budget_exceeded"), ("short", 429, "policy_rate_limited")]
)
def test_what_will_not_pass_is_not_tried_again(limited: Machine, api: str, prefix: str, status: int, code: str) -> None:
    """A budget, or a limit that the call alone is too large for: `x-should-retry: false`, and the SDK asks once."""
    feature = fresh(prefix)
    with pytest.raises(ERRORS[api].APIStatusError) as caught:
        tell(limited, api, feature, retries=3)
    error = caught.value
    assert (error.status_code, error.response.headers["x-llm-error"]) == (status, code)
    assert error.response.headers["x-should-retry"] == "false"
    assert isinstance(error, ERRORS[api].RateLimitError) == (status == 429)
    assert "more than the whole" in str(error)
    assert len(limited.wait_records(1, labels={"feature": feature})) == 1
    assert limited.seen(api) == []


@pytest.mark.parametrize("api", ["openai", "anthropic"])
def test_a_full_hour_is_told_and_not_waited_for(limited: Machine, api: str) -> None:
    """The window ends in more than a minute (or a little less at its end): the SDK is told when."""
    feature = fresh("two")
    left = [tell(limited, api, feature)[REQUESTS[api][1]] for _ in range(2)]
    assert left == ["1", "0"]
    with pytest.raises(ERRORS[api].RateLimitError) as caught:
        tell(limited, api, feature)
    headers, until_end = caught.value.response.headers, 3600 - time.time() % 3600
    assert abs(int(headers["retry-after"]) - until_end) < 5 or until_end > 3595
    assert (headers.get("x-should-retry") == "false") == (int(headers["retry-after"]) > 60)


REQUESTS = {
    "openai": tuple(f"x-ratelimit-{what}-requests" for what in ("limit", "remaining", "reset")),
    "anthropic": tuple(f"anthropic-ratelimit-requests-{what}" for what in ("limit", "remaining", "reset")),
}
TOKENS = {
    "openai": tuple(f"x-ratelimit-{what}-tokens" for what in ("limit", "remaining", "reset")),
    "anthropic": tuple(f"anthropic-ratelimit-tokens-{what}" for what in ("limit", "remaining", "reset")),
}
RESET = {
    "openai": re.compile(r"\d+ms|(\d+h)?(\d+m)?\d+s"),
    "anthropic": re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ"),
}


@pytest.mark.parametrize("api", ["openai", "anthropic"])
@pytest.mark.parametrize("stream", [False, True])
def test_the_headers_tell_what_is_left(limited: Machine, api: str, stream: bool) -> None:
    """In the vendor's own rate-limit headers; of budgets in ours, where they are switched on."""
    feature = fresh("shown")
    with sdk(limited, api) as made:
        first, second = (say(made, feature, stream=stream) for _ in range(2))
    limit, remaining, reset = REQUESTS[api]
    assert [(one[limit], one[remaining]) for one in (first, second)] == [("100", "99"), ("100", "98")]
    assert RESET[api].fullmatch(first[reset])
    limit, remaining, reset = TOKENS[api]
    assert first[limit] == "90000"
    assert 89_000 < int(second[remaining]) < int(first[remaining]) < 90_000
    assert RESET[api].fullmatch(first[reset])
    budget = Decimal(first["x-llm-budget-remaining"])
    assert Decimal("2.49") < budget < Decimal("2.5")
    assert first["x-llm-budget-limit"] == "2.50"
    assert re.fullmatch(r"\d{4}-\d\d-01T00:00:00Z", first["x-llm-budget-reset"])
    assert "x-llm-quota" not in first


@pytest.mark.parametrize("api", ["openai", "anthropic"])
def test_a_soft_limit_is_told_and_passes(limited: Machine, api: str) -> None:
    """A header names the rule; nothing is refused."""
    feature = fresh("soft")
    answers = [tell(limited, api, feature) for _ in range(3)]
    told = [answer.get("x-llm-quota") for answer in answers]
    assert told == [None, "exceeded; rule=soft", "exceeded; rule=soft"]
    assert REQUESTS[api][0] not in answers[0]  # soft limits are no reason to slow down


def test_a_price_that_nobody_knows(limited: Machine, books: Books) -> None:
    """Under a budget: 403, PermissionDeniedError; nothing is held. Without a budget the same model passes."""
    feature = fresh("priced")
    unknown: dict[str, Any] = {"model": "nobody-knows", "messages": TURN}
    with sdk(limited, retries=2) as made:
        with pytest.raises(openai.PermissionDeniedError) as caught:
            made.chat.completions.create(**unknown, extra_headers=labelled(feature))
        answer = made.chat.completions.create(**unknown)
    assert caught.value.response.headers["x-llm-error"] == "policy_price_unknown"
    assert books.of(feature) == {}
    assert len(limited.wait_records(1, labels={"feature": feature})) == 1
    assert answer.choices[0].finish_reason == "stop"


# ---- a stream that is stopped -----------------------------------------------------------------------------------


def read_chat(made: Any, headers: dict[str, str]) -> str:
    """The text of a chat stream; raises what the SDK raises, which is told the text."""
    text = ""
    try:
        for chunk in made.chat.completions.create(
            model="gpt-4o-mini", messages=TURN, stream=True, extra_headers=headers
        ):
            text += "".join(choice.delta.content or "" for choice in chunk.choices)
    except openai.APIError as error:
        error.add_note(text)
        raise
    return text


def read_responses(made: Any, headers: dict[str, str]) -> str:
    """The same for Responses."""
    text = ""
    try:
        for event in made.responses.create(model="gpt-4o-mini", input=SAID, stream=True, extra_headers=headers):
            text += event.delta if event.type == "response.output_text.delta" else ""
            if event.type in ("error", "response.failed"):
                raise openai.APIError(_message(event), httpx2.Request("POST", "http://x"), body=None)
    except openai.APIError as error:
        error.add_note(text)
        raise
    return text


def _message(event: Any) -> str:
    return str(event.message if event.type == "error" else event.response.error.message)


@pytest.mark.parametrize("read", [read_chat, read_responses])
@pytest.mark.parametrize("prefix", ["stop", "stop_money"])
def test_a_stream_is_stopped_where_nothing_is_left(
    limited: Machine, books: Books, tmp_path: Path, read: Any, prefix: str
) -> None:
    """The SDK has the text so far and our message; what was written is charged, estimated, within the limit."""
    feature = fresh(prefix)
    with sdk(limited) as made, pytest.raises(openai.APIError, match="stopped before its end") as caught:
        read(made, labelled(feature, tokens=4000, chunk_ms=1))
    (text,) = caught.value.__notes__
    assert "word50" in text
    assert "word3999" not in text
    (record,) = limited.wait_records(1, labels={"feature": feature})
    books.settled()
    count = books.one(prefix, feature)
    assert record["usage_source"] == "estimated"
    assert record["error"] == ("policy_budget_exceeded" if prefix == "stop_money" else "policy_rate_limited")
    charged = nanos(record["cost_usd"]) if prefix == "stop_money" else record["tokens_in"] + record["tokens_out"]
    limit = nanos("0.0008") if prefix == "stop_money" else STOP_AT
    assert (count.used, count.reserved) == (charged, 0)
    assert limit / 3 < count.used <= limit
    produced = Tokenizers(tmp_path).count("gpt-4o-mini", [text])
    assert produced <= record["tokens_out"] <= produced + 16


def test_a_stream_that_fits_is_not_stopped(limited: Machine, books: Books) -> None:
    """It asks for more as it runs, and gives back what it did not use."""
    feature = fresh("stop")
    with sdk(limited) as made:
        text = read_chat(made, labelled(feature, tokens=300, chunk_ms=1))
    (record,) = limited.wait_records(1, labels={"feature": feature})
    books.settled()
    assert "word299" in text
    assert (record["outcome"], record["usage_source"]) == ("ok", "reported")
    assert books.one("stop", feature).used == record["tokens_in"] + record["tokens_out"]


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


# ---- what an operator changes live ------------------------------------------------------------------------------


def limits(machine: Machine, *words: str) -> Any:
    """`extproc limits`, as JSON."""
    done = machine.cli("limits", *words, "--json")
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(done.stdout)


def shown(machine: Machine, name: str, value: str) -> dict[str, Any]:
    """One counter, as the command shows it."""
    (found,) = limits(machine, "show", "--rule", name, "--value", value)["counters"]
    return found


def passes(machine: Machine, feature: str) -> int:
    """How many calls pass until one is refused."""
    for count in range(20):
        if call(machine, Ask(), feature).status != 200:
            return count
    raise AssertionError("nothing is limited")


def test_show_grant_and_reset(limited: Machine, books: Books) -> None:
    """A top-up, a live override, its end and a reset change what the next call may do, in every worker."""
    feature = fresh("live")
    assert passes(limited, feature) == 2
    books.settled()
    found = shown(limited, "live", feature)
    assert (found["used"], found["reserved"], found["limit"], found["remaining"]) == (2, 0, 2, 0)
    after = limits(limited, "grant", "live", feature, "3")["after"]
    assert (after["limit"], after["remaining"], after["top_up"]) == (5, 3, 3)
    assert passes(limited, feature) == 3
    books.settled()
    assert limits(limited, "reset", "live", feature)["after"]["used"] == 0
    assert passes(limited, feature) in {2, 5}  # whether a reset takes the top-up along is the store's to say
    limits(limited, "grant", "live", feature, "9", "--set")
    books.settled()
    limits(limited, "reset", "live", feature)
    until(lambda: call(limited, Ask(), feature).status == 200)
    until(lambda: shown(limited, "live", feature)["limit"] >= 9)


def test_an_override_of_the_configuration(limited: Machine) -> None:
    """One value has a limit of its own."""
    assert passes(limited, "live-own") == 3


def test_a_changed_limit_keeps_what_is_used_and_reserved(limited: Machine, books: Books) -> None:
    """gateway.yaml is edited while one call has ended and one is open: they count on, under the new limit."""
    feature = fresh("changed")
    assert call(limited, Ask(), feature).status == 200
    books.settled()
    slow = Ask(stream=True, sim=(("delay-ms", "100"), ("chunk-ms", "60"), ("tokens", "100")), cap=200)
    open_call = threading.Thread(target=call, args=(limited, slow, feature), daemon=True)
    open_call.start()
    until(lambda: books.one("changed", feature).reserved == 1)
    assert call(limited, Ask(), feature).status == 429
    generation = 1
    try:
        for limit, more in ((4, 2), (1, 0)):
            changed = tuple({**one, "limit": limit} if one["name"] == "changed" else one for one in RULES)
            limited.write_config(extra(changed))
            generation += 1
            limited.wait_live(generation)
            assert passes(limited, feature) == more
        count = books.one("changed", feature)
        assert (count.out, open_call.is_alive()) == (4, True)
        open_call.join(20)
        books.settled()
        assert books.one("changed", feature) == type(count)(4, 0)
    finally:
        limited.write_config(extra())
        limited.wait_live(generation + 1)


# ---- the store is away ------------------------------------------------------------------------------------------


@pytest.fixture
def outside(tmp_path: Path) -> Iterator[tuple[Machine, Server]]:
    """A gateway before a store of somebody else's."""
    rules = (
        rule("budget", "money", "month", 5, "organisation", match={}),
        rule("calls", "requests", "day", 40, "organisation", match={}),
    )
    with server("--appendonly", "yes", "--appendfsync", "always") as store:
        text = section(rules, store={"url": f"unix://{store.path}"})
        with running(tmp_path / "gw", extra=LIMITS + text, workers=1) as machine:
            yield machine, store


@pytest.mark.parametrize("api", ["openai", "anthropic"])
def test_the_store_is_away_and_comes_back(outside: tuple[Machine, Server], api: str) -> None:
    """503, which SDKs take for a reason to try again; when the store is back, the call that was tried again passes."""
    machine, store = outside
    tell(machine, api, "x")
    with closing(store.client()) as of_store:
        Books(of_store).settled()
        before = Books(of_store).one("budget", "default").used
    store.kill()
    with pytest.raises(ERRORS[api].InternalServerError) as caught:
        tell(machine, api, "x")
    headers = caught.value.response.headers
    assert (caught.value.status_code, headers["x-llm-error"]) == (503, "gateway_limits_unavailable")
    assert headers["retry-after"] == "1"
    assert "x-should-retry" not in headers
    timer = threading.Timer(0.5, store.launch)
    timer.start()
    tell(machine, api, "x", retries=4)
    timer.join()
    store.wait()
    with closing(store.client()) as of_store:
        Books(of_store).settled()
        counts = Books(of_store).all()
    assert counts["calls", "default"].used == 2
    assert counts["budget", "default"].used == 2 * before > 0
