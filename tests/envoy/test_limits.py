"""Limits through real Envoy: what the vendors' own SDKs make of refusals, headers, and streams that are stopped."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from decimal import Decimal
from pathlib import Path
from typing import Any

import anthropic
import httpx2
import openai
import pytest

from envoy.limits_machine import SAID, Books, fresh, labelled, nanos, rule, section
from envoy.machine import LIMITS, Machine, running
from envoy.ways import Way, client
from extproc.adapters.tokens import Tokenizers
from valkeys import Server, server

pytestmark = pytest.mark.envoy

TURN: list[Any] = [{"role": "user", "content": SAID}]
STOP_AT = 1500
RULES = (
    rule("refill", "requests", "bucket", 1, period="2s"),
    rule("spent", "money", "month", 0.000001),
    rule("short", "tokens", "day", 50),
    rule("two", "requests", "hour", 2),
    rule("shown_requests", "requests", "day", 100, match={"feature": "shown-*"}),
    rule("shown_tokens", "tokens", "bucket", 90_000, period="168h", match={"feature": "shown-*"}),
    rule("shown_money", "money", "month", 2.5, match={"feature": "shown-*"}),
    rule("priced", "money", "month", 1000),
    rule("soft", "requests", "day", 1, mode="soft"),
    rule("stop", "tokens", "day", STOP_AT),
    rule("stop_money", "money", "month", 0.0008),
)
QUOTAS = section(RULES, headers=True, output_tokens={"*": 64})


@pytest.fixture(scope="module")
def shared_limited(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    """A gateway with the store that it starts itself."""
    with running(tmp_path_factory.mktemp("lim"), extra=LIMITS + QUOTAS) as machine:
        yield machine


@contextmanager
def sdk(machine: Machine, api: str = "openai", retries: int = 0) -> Iterator[Any]:
    """The vendor's own client, on the base URL."""
    made = client(machine, api, Way("base_url", "h1", "sync"), max_retries=retries)
    with closing(made):
        yield made


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
    assert abs(int(headers["retry-after"]) - until_end) < 5
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
