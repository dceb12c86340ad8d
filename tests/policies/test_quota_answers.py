"""What callers are told about limits: which one, in which words, with which status and headers; SDKs obey them."""

from __future__ import annotations

import re
from math import inf

import anthropic
import httpx2
import openai
import pytest
from hypothesis import given
from hypothesis import strategies as st

from extproc.dialects import registry
from extproc.errors import ErrorCode, Rejection
from extproc.limits.counters import NANO, Charge, Counter, Kind, Reserved, Rule, Standing, Window
from extproc.policies.quota_answers import budget_headers, rate_headers, refusal, stop

NOW = 1_795_000_000.0
DECEMBER = 1_796_083_200.0
"""2026-12-01T00:00:00Z."""


def charge(
    kind: Kind = Kind.REQUESTS,
    window: Window = Window.MINUTE,
    amount: int = 1,
    scope: str = "app=chat",
    **fields: object,
) -> Charge:
    """A charge under a rule whose scope is written `team=search,app=chat`."""
    pairs = [pair.split("=", 1) for pair in scope.split(",") if pair]
    names, values = tuple(pair[0] for pair in pairs), "/".join(pair[1] for pair in pairs)
    rule = Rule("r", kind, window, limit=60, scope=names, **{"burst": 60, "period": 60_000, **fields})
    return Charge(Counter(rule, "acme", values, b"key"), amount)


def standing(limit: int = 60, used: int = 60, until: float = NOW + 12, **fields: object) -> Standing:
    """Used up by default, admitted again when the window ends."""
    return Standing(used, 0, limit, **{"resets_at": until, "admits_at": until, **fields})


def refused(*pairs: tuple[Charge, Standing], api: str = "openai", local: bool = False) -> tuple[Rejection, int]:
    """The refusal where all of them have no room."""
    charges, standings = zip(*pairs, strict=True)
    return refusal(api, charges, Reserved(standings, tuple(range(len(pairs))), at=NOW, local=local))


BUDGET = charge(Kind.MONEY, Window.MONTH, 3 * NANO, "team=search")


# ---- words --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("of", "stands", "message"),
    [
        (
            BUDGET,
            standing(500 * NANO, 500 * NANO, DECEMBER),
            "The budget of team search ($500.00 a month) is used up; it starts again at 2026-12-01T00:00:00Z.",
        ),
        (
            BUDGET,
            standing(1500 * NANO, 1499 * NANO, DECEMBER),
            (
                "The budget of team search ($1,500.00 a month) has no room left for this call, "
                "which may cost up to $3.00; it starts again at 2026-12-01T00:00:00Z."
            ),
        ),
        (
            BUDGET,
            standing(2 * NANO, 0, DECEMBER, admits_at=inf),
            (
                "This call may cost up to $3.00, more than the whole budget of team search ($2.00 a month): "
                "lower max_tokens, send less, or choose a cheaper model."
            ),
        ),
        (
            charge(scope="app=chat,model=gpt-4o"),
            standing(),
            "Rate limit of app chat for model gpt-4o: 60 requests a minute; try again in 12 s.",
        ),
        (
            charge(window=Window.DAY, scope="model=meta%2Fllama"),
            standing(1, 1, NOW + 7200),
            "Rate limit for model meta/llama: 1 request a day; try again at 2026-11-18T13:06:40Z.",
        ),
        (
            charge(Kind.TOKENS, amount=500),
            standing(1000, 900, NOW + 0.4),
            "Rate limit of app chat: 1000 tokens a minute; this call may use 500; try again in 1 s.",
        ),
        (
            charge(Kind.OUTPUT_TOKENS, Window.HOUR, 5000),
            standing(1000, 0, admits_at=inf),
            (
                "This call may use 5000 output tokens, more than the whole limit of app chat (1000 output tokens an hour): "
                "lower max_tokens."
            ),
        ),
        (
            charge(window=Window.DAY),
            standing(0, 0, admits_at=inf),
            "The limit of app chat (0 requests a day) lets no call pass.",
        ),
        (
            charge(window=Window.CONCURRENT),
            Standing(0, 10, 10),
            "Too many calls in flight: the limit of app chat is 10 requests at once; try again in a moment.",
        ),
        (
            charge(Kind.MONEY, Window.CONCURRENT, NANO),
            Standing(0, NANO, 3 * NANO // 2),
            "Too many calls in flight: the limit of app chat is $1.50 at once; try again in a moment.",
        ),
        (
            charge(window=Window.BUCKET, period=90_000, burst=5),
            standing(5, 5),
            "Rate limit of app chat: 60 requests in 90 s, 5 requests at once; try again in 12 s.",
        ),
        (
            charge(window=Window.BUCKET),
            standing(60, 60),
            "Rate limit of app chat: 60 requests a minute; try again in 12 s.",
        ),
    ],
)
def test_message(of: Charge, stands: Standing, message: str) -> None:
    """The limit, whose it is, and what helps."""
    rejection, index = refused((of, stands))
    assert (rejection.message, index) == (message, 0)


@pytest.mark.parametrize(
    ("scope", "fields", "words"),
    [
        ("organisation=acme", {}, " of organisation acme:"),
        ("key=k1,user=ann%40example.com", {}, " of this key, this user:"),
        ("team=a%0Ab%22", {}, " of this team:"),
        ("feature=x,provider=openai", {}, " for this feature, provider openai:"),
        ("team=", {}, " of calls without a team:"),
        ("app=,model=", {}, " of calls without an app for calls without a model:"),
        ("", {"match": (("team", "search"), ("model", "gpt-4o*"))}, " of team search for model gpt-4o*:"),
        ("team=search", {"match": (("team", "s*"), ("tenant", "t*"))}, " of team search:"),
    ],
)
def test_whose_limit_it_is(scope: str, fields: dict[str, object], words: str) -> None:
    """Configured names are shown. Keys, and what came in headers, never are; nor is what would need escaping."""
    rejection, _ = refused((charge(scope=scope, **fields), standing()))
    assert rejection.message.startswith(f"Rate limit{words} 60 requests a minute;")
    assert "k1" not in rejection.message
    assert "ann" not in rejection.message


def test_what_others_used_is_not_told() -> None:
    """A limit that many share says nothing of their numbers."""
    used = 123_456_789
    for kind in (Kind.MONEY, Kind.TOKENS, Kind.REQUESTS):
        of = charge(kind, Window.DAY, 20_000_000, "organisation=acme")
        rejection, _ = refused((of, standing(125_000_000, used)), api="")
        shown = rejection.message + rejection.detail + str(rejection.headers)
        assert not re.search(r"123456789|0\.123456789|1543211", shown)


# ---- which one, and with which status -----------------------------------------------------------------------------


def test_the_limit_that_matters_is_named() -> None:
    """One that never admits the call, else a budget, else the longest wait."""
    soon, late = (charge(), standing(until=NOW + 5)), (charge(window=Window.DAY), standing(until=NOW + 500))
    budget = (BUDGET, standing(NANO * 5, NANO * 5, NOW + 50))
    never = (charge(Kind.TOKENS, amount=99), standing(9, 0, admits_at=inf))
    flight = (charge(window=Window.CONCURRENT), Standing(0, 9, 9))
    assert refused(soon, late, flight)[1] == 1
    assert refused(soon, late, budget)[1] == 2
    assert refused(soon, budget, late, never)[1] == 3
    assert refused(flight, soon)[1] == 1
    charges, standings = zip(late, soon, strict=True)
    assert refusal("openai", charges, Reserved(standings, (1,), at=NOW))[1] == 1


@pytest.mark.parametrize(
    ("of", "stands", "status", "code", "after", "retried"),
    [
        (charge(), standing(until=NOW + 11.2), 429, ErrorCode.POLICY_RATE_LIMITED, 12, True),
        (charge(), standing(until=NOW - 5), 429, ErrorCode.POLICY_RATE_LIMITED, 1, True),
        (charge(), standing(until=NOW + 61), 429, ErrorCode.POLICY_RATE_LIMITED, 61, False),
        (charge(Kind.TOKENS), standing(admits_at=inf), 429, ErrorCode.POLICY_RATE_LIMITED, None, False),
        (charge(), standing(until=NOW + 30, admits_at=0.0), 429, ErrorCode.POLICY_RATE_LIMITED, 30, True),
        (charge(window=Window.CONCURRENT), Standing(0, 9, 9), 429, ErrorCode.POLICY_CONCURRENCY_LIMITED, 1, True),
        (charge(Kind.MONEY, Window.CONCURRENT), Standing(0, 9, 9), 429, ErrorCode.POLICY_CONCURRENCY_LIMITED, 1, True),
        (BUDGET, standing(NANO, NANO, NOW + 5), 402, ErrorCode.POLICY_BUDGET_EXCEEDED, 5, False),
    ],
)
def test_status_and_wait(
    of: Charge, stands: Standing, status: int, code: ErrorCode, after: int | None, retried: bool
) -> None:
    """Whole seconds, one at least; SDKs are told not to retry where it takes more than a minute, or money."""
    rejection, _ = refused((of, stands))
    assert (rejection.status, rejection.code, rejection.retry_after) == (status, code, after)
    assert (dict(rejection.headers).get("x-should-retry") != "false") is retried
    assert rejection.detail == "limit r"


def test_while_the_store_is_away_the_gateway_is_to_blame() -> None:
    """What may be spent without asking is used up: the limit itself may have room, so nothing is said of it."""
    rejection, index = refused((BUDGET, standing(NANO, NANO)), local=True)
    assert (rejection.status, rejection.code, rejection.retry_after, index) == (
        503,
        ErrorCode.GATEWAY_LIMITS_UNAVAILABLE,
        1,
        0,
    )
    assert "budget of team search" in rejection.message
    assert "$" not in rejection.message


def test_a_stopped_stream_names_the_limit() -> None:
    """The code says whether it was money."""
    money, tokens = stop(BUDGET), stop(charge(Kind.OUTPUT_TOKENS))
    assert (money.status, money.code) == (402, ErrorCode.POLICY_BUDGET_EXCEEDED)
    assert money.message == "The budget of team search is used up: this answer was stopped before its end."
    assert (tokens.status, tokens.code) == (429, ErrorCode.POLICY_RATE_LIMITED)
    assert tokens.message == "The limit of app chat is used up: this answer was stopped before its end."


# ---- headers ------------------------------------------------------------------------------------------------------


def headers(api: str, *pairs: tuple[Charge, Standing]) -> dict[str, str]:
    """The rate-limit headers of an admitted call."""
    charges, standings = zip(*pairs, strict=True)
    found = rate_headers(api, charges, Reserved(standings, at=NOW))
    assert len(dict(found)) == len(found)
    return dict(found)


LIMITS = (
    (charge(), standing(60, 1, NOW + 59.5)),
    (charge(window=Window.DAY), standing(1000, 990, NOW + 7200)),
    (charge(Kind.TOKENS), standing(1000, 100, NOW + 360)),
    (charge(Kind.INPUT_TOKENS), standing(1000, 400, NOW + 0.017)),
    (charge(Kind.OUTPUT_TOKENS), standing(1000, 300, NOW + 1)),
    (charge(window=Window.CONCURRENT), Standing(0, 10, 10)),
    (charge(Kind.TOKENS, hard=False), standing(5, 5)),
    (BUDGET, standing(NANO, NANO)),
)


def test_openai_headers() -> None:
    """Of each family the tightest hard limit, with durations as the vendor writes them."""
    assert headers("openai", *LIMITS) == {
        "x-ratelimit-limit-requests": "1000",
        "x-ratelimit-remaining-requests": "10",
        "x-ratelimit-reset-requests": "2h0m0s",
        "x-ratelimit-limit-tokens": "1000",
        "x-ratelimit-remaining-tokens": "600",
        "x-ratelimit-reset-tokens": "17ms",
    }


def test_anthropic_headers() -> None:
    """The vendor has two families more, and writes times in RFC 3339."""
    assert headers("anthropic", *LIMITS) == {
        "anthropic-ratelimit-requests-limit": "1000",
        "anthropic-ratelimit-requests-remaining": "10",
        "anthropic-ratelimit-requests-reset": "2026-11-18T13:06:40Z",
        "anthropic-ratelimit-tokens-limit": "1000",
        "anthropic-ratelimit-tokens-remaining": "600",
        "anthropic-ratelimit-tokens-reset": "2026-11-18T11:06:41Z",
        "anthropic-ratelimit-input-tokens-limit": "1000",
        "anthropic-ratelimit-input-tokens-remaining": "600",
        "anthropic-ratelimit-input-tokens-reset": "2026-11-18T11:06:41Z",
        "anthropic-ratelimit-output-tokens-limit": "1000",
        "anthropic-ratelimit-output-tokens-remaining": "700",
        "anthropic-ratelimit-output-tokens-reset": "2026-11-18T11:06:41Z",
    }


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [(-1, "0s"), (0, "0s"), (0.0001, "1ms"), (1, "1s"), (59.2, "1m0s"), (360, "6m0s"), (86_399, "23h59m59s")],
)
def test_durations(seconds: float, shown: str) -> None:
    """Rounded up, so that who waits that long finds room."""
    found = headers("openai", (charge(), standing(until=NOW + seconds)))
    assert found["x-ratelimit-reset-requests"] == shown


def test_no_headers_without_limits_or_vendor() -> None:
    """Nothing of ours is invented."""
    assert headers("gemini", *LIMITS) == {}
    assert headers("openai", LIMITS[-1]) == {}
    assert rate_headers("openai", (), Reserved(())) == ()
    assert budget_headers((LIMITS[0][0],), Reserved((LIMITS[0][1],))) == ()


def test_budget_headers() -> None:
    """The tightest budget, in dollars."""
    other = charge(Kind.MONEY, Window.DAY, NANO, hard=False)
    charges = (BUDGET, other, LIMITS[0][0])
    standings = (standing(500 * NANO, 1, DECEMBER), standing(100 * NANO, 60 * NANO + 5, DECEMBER + 0.5), LIMITS[0][1])
    assert budget_headers(charges, Reserved(standings)) == (
        ("x-llm-budget-remaining", "39.999999995"),
        ("x-llm-budget-limit", "100.00"),
        ("x-llm-budget-reset", "2026-12-01T00:00:01Z"),
    )
    assert len(budget_headers((BUDGET,), Reserved((Standing(0, 0, NANO),)))) == 2


AMOUNT = st.integers(0, 1 << 53)
TIMES = st.one_of(st.just(0.0), st.floats(0, 1e18), st.just(inf))


@given(
    st.lists(
        st.tuples(
            st.sampled_from(Kind),
            st.sampled_from(Window),
            AMOUNT,
            st.builds(Standing, AMOUNT, AMOUNT, AMOUNT, TIMES, TIMES),
        ),
        min_size=1,
        max_size=5,
    ),
    st.sampled_from(["openai", "anthropic", ""]),
    st.floats(0, 1e12),
)
def test_any_numbers_make_an_answer(rows: list[tuple[Kind, Window, int, Standing]], api: str, at: float) -> None:
    """Whatever the store says: one refusal, headers that are headers, and no number below zero."""
    charges = tuple(charge(kind, window, amount) for kind, window, amount, _ in rows)
    reserved = Reserved(tuple(row[3] for row in rows), tuple(range(len(rows))), at=at)
    rejection, index = refusal(api, charges, reserved)
    assert 0 <= index < len(rows)
    assert rejection.retry_after is None or rejection.retry_after >= 1
    shown = (*rejection.headers, *budget_headers(charges, reserved))
    assert all(re.fullmatch(r"[a-z-]+", name) and re.fullmatch(r"[0-9A-Za-z.:-]+", value) for name, value in shown)
    assert not any(value.startswith("-") for _, value in shown)
    assert rejection.message.isascii()
    assert rejection.message.isprintable()


# ---- what the SDKs make of it -------------------------------------------------------------------------------------


def tries(api: str, rejection: Rejection) -> tuple[int, Exception]:
    """How often an SDK, allowed one retry, asks an upstream that answers with this refusal; and what it raises."""
    answer, seen = registry.error(api, rejection), []

    def respond(request: httpx2.Request) -> httpx2.Response:
        seen.append(request)
        return httpx2.Response(
            answer.status, headers=[*answer.headers, *rejection.headers, ("retry-after-ms", "1")], content=answer.body
        )

    http = httpx2.Client(transport=httpx2.MockTransport(respond))
    messages = [{"role": "user", "content": "hi"}]
    if api == "openai":
        client = openai.OpenAI(api_key="k", base_url="http://x/v1", http_client=http, max_retries=1)
        with pytest.raises(openai.APIStatusError) as caught:
            client.chat.completions.create(model="m", messages=messages)
    else:
        claude = anthropic.Anthropic(api_key="k", base_url="http://x", http_client=http, max_retries=1)
        with pytest.raises(anthropic.APIStatusError) as caught:
            claude.messages.create(model="m", max_tokens=9, messages=messages)
    return len(seen), caught.value


@pytest.mark.parametrize(("api", "sdk"), [("openai", openai), ("anthropic", anthropic)])
def test_sdks_retry_what_soon_has_room_and_nothing_else(api: str, sdk: object) -> None:
    """A short wait is retried. A long one, one that does not help, and a budget are raised at once, each as its type."""
    count, error = tries(api, refused((charge(), standing()), api=api)[0])
    assert (count, type(error)) == (2, sdk.RateLimitError)
    for of, stands in (
        (charge(), standing(until=NOW + 3600)),
        (charge(Kind.TOKENS, amount=99), standing(9, 0, admits_at=inf)),
    ):
        count, error = tries(api, refused((of, stands), api=api)[0])
        assert (count, type(error)) == (1, sdk.RateLimitError)
    count, error = tries(api, refused((BUDGET, standing(NANO, NANO, DECEMBER)), api=api)[0])
    assert (count, error.status_code) == (1, 402)
    assert "budget of team search" in str(error)
