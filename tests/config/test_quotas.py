"""The section `quotas`: what is written arrives as meant, defaults are safe, every mistake has its place and cure."""

from __future__ import annotations

from decimal import Decimal
from pathlib import PurePath

import pytest
from hypothesis import given
from hypothesis import strategies as st

from extproc.config import Config, ConfigErrors, Problem, load
from extproc.config.quotas import Quotas, compile_rules
from extproc.limits.counters import Away, Kind, Rule, Window
from extproc.limits.rules import Rules

HEAD = "version: 1\nproviders:\n  openai: {api: openai, hosts: [api.openai.com]}\n  local: {api: openai}\n"

FULL = """quotas:
  organisation: acme
  time_zone: Europe/Berlin
  store:
    url: valkeys+sentinel://h1:26379,h2:26379/mymaster
    username: gateway
    password: {env: VALKEY_PASSWORD}
    ca: ca.pem
    timeout: 20ms
    lease: 5s
  output_tokens: {"gpt-4o*": 4096, "*": 2048}
  exact_input: true
  unknown_price: allow
  headers: true
  webhook: {url: "https://hooks.example/x?y=1", authorization: {env: HOOK}}
  rules:
  - name: team_month
    kind: money
    limit: 500.25
    window: month
    scope: [team]
    match: {team: search, model: "gpt-4o*"}
    when_away: allow-bounded
    share: 0.25
    alerts: [90]
    time_zone: America/New_York
    overrides: {search: 900, legal: 0.000000001}
  - {name: burst, kind: requests, limit: 100, window: bucket, period: 60s, burst: 20, mode: soft, scope: [app, model],
     overrides: {"web/openai%2fgpt-4o": 7}}
  - {name: flying, kind: requests, limit: 10, window: concurrent, alerts: []}
  - {name: tokens, kind: tokens, limit: 1000000, window: day}
  - {name: spend, kind: money, limit: 0, window: hour}
"""


def read(text: str) -> Config:
    return load((HEAD + text).encode(), "gateway.yaml", base=PurePath("/etc/gateway"))


def section(text: str) -> Quotas:
    found = read(text).quotas
    assert found is not None
    return found


def compiled(text: str) -> Rule:
    (rule,) = compile_rules(section(f"quotas: {{rules: [{text}]}}\n"))
    return rule


def mistakes(text: str) -> tuple[Problem, ...]:
    with pytest.raises(ConfigErrors) as caught:
        read(text)
    return caught.value.errors


def test_all_of_it_is_read() -> None:
    """Every key arrives, paths joined to the folder of the file."""
    quotas = section(FULL)
    assert (quotas.organisation, quotas.exact_input, quotas.unknown_price, quotas.headers) == (
        "acme",
        True,
        "allow",
        True,
    )
    assert list(quotas.output_tokens.items()) == [("gpt-4o*", 4096), ("*", 2048)]
    assert quotas.webhook is not None
    assert (quotas.webhook.url, quotas.webhook.authorization and quotas.webhook.authorization.env) == (
        "https://hooks.example/x?y=1",
        "HOOK",
    )
    store = quotas.store
    assert (store.username, store.ca, store.timeout, store.lease) == (
        "gateway",
        PurePath("/etc/gateway/ca.pem"),
        0.02,
        5.0,
    )
    assert (store.place.form, store.place.service, store.place.tls) == ("sentinel", "mymaster", True)


def test_rules_are_compiled() -> None:
    """Money in billionths, times in milliseconds, the zone of the section where a rule has none."""
    month, burst, flying, tokens, spend = compile_rules(section(FULL))
    assert month == Rule(
        name="team_month",
        kind=Kind.MONEY,
        window=Window.MONTH,
        limit=500_250_000_000,
        scope=("team",),
        match=(("team", "search"), ("model", "gpt-4o*")),
        zone="America/New_York",
        away=Away.BOUNDED,
        share=0.25,
        alerts=(90,),
        overrides=(("search", 900_000_000_000), ("legal", 1)),
    )
    assert (burst.limit, burst.burst, burst.period, burst.hard) == (100, 20, 60_000, False)
    assert burst.overrides == (("web/openai%2Fgpt-4o", 7),)
    assert (flying.window, flying.alerts, flying.burst, flying.zone) == (Window.CONCURRENT, (), 0, "Europe/Berlin")
    assert (tokens.limit, tokens.kind, tokens.scope, tokens.alerts) == (
        1_000_000,
        Kind.TOKENS,
        ("organisation",),
        (50, 80, 100),
    )
    assert spend.limit == 0
    assert Rules((month, burst, flying, tokens, spend)).rule("burst") is burst


def test_without_the_section_nothing_is_limited() -> None:
    """And that is a None."""
    assert read("").quotas is None


def test_defaults() -> None:
    """The embedded store, UTC, no tokenizer, an unknown price refused."""
    quotas = section("quotas: {rules: [{name: a, kind: money, limit: 1, window: day}]}\n")
    assert (quotas.organisation, quotas.time_zone, quotas.unknown_price) == ("default", "UTC", "deny")
    assert (quotas.store.url, quotas.store.timeout, quotas.store.lease) == ("embedded", 0.05, 15.0)
    assert (quotas.exact_input, quotas.headers, quotas.webhook) == (False, False, None)
    assert dict(quotas.output_tokens) == {"*": 4096}


@pytest.mark.parametrize(
    ("text", "away"),
    [
        ("kind: money", Away.DENY),
        ("kind: money, mode: soft", Away.BOUNDED),
        ("kind: money, when_away: allow-bounded, share: 0.5", Away.BOUNDED),
        ("kind: requests", Away.BOUNDED),
        ("kind: requests, when_away: deny", Away.DENY),
    ],
)
def test_what_holds_while_the_store_is_away(text: str, away: Away) -> None:
    """A hard limit on money refuses, unless it says otherwise; a soft one, which refuses nothing, does not then either."""
    assert compiled(f"{{name: a, limit: 1, window: day, {text}}}").away is away


def test_a_bucket_of_nobody_has_no_burst() -> None:
    """And one that says nothing of it has its limit."""
    bucket = "{name: a, kind: requests, window: bucket, period: 1s, limit: %s}"
    assert [compiled(bucket % limit).burst for limit in (5, 0)] == [5, 0]
    assert compiled("{name: a, kind: requests, window: bucket, period: 1s, limit: 0, burst: 9}").burst == 0


RULE = "name: a, kind: requests, limit: 5, window: day"

MISTAKES = [
    ("quotas:", "quotas", "empty", "`rules`"),
    ("quotas: {}", "quotas.rules", "missing", "add it"),
    ("quotas: {rules: []}", "quotas.rules", "too few", "at least 1"),
    ("quotas: {rulez: [], rules: [{R}]}", "quotas.rulez", "known key", "`rules`"),
    ("quotas: {organisation: 'a{b', rules: [{R}]}", "quotas.organisation", "not an organisation", "without"),
    ("quotas: {organisation: '', rules: [{R}]}", "quotas.organisation", "not an organisation", "1 to 128"),
    ("quotas: {time_zone: Europe/Atlantis, rules: [{R}]}", "quotas.time_zone", "not a time zone", "Europe/Berlin"),
    ("quotas: {time_zone: ../../etc/passwd, rules: [{R}]}", "quotas.time_zone", "not a time zone", "IANA"),
    ("quotas: {time_zone: Europe, rules: [{R}]}", "quotas.time_zone", "not a time zone", "IANA"),
    ("quotas: {time_zone: /etc, rules: [{R}]}", "quotas.time_zone", "not a time zone", "IANA"),
    ("quotas: {store: {url: 'htp://x'}, rules: [{R}]}", "quotas.store.url", "scheme", "valkey://"),
    ("quotas: {store: {password: hunter}, rules: [{R}]}", "quotas.store.password", "by reference", "{env: NAME}"),
    ("quotas: {store: {password: {env: P}}, rules: [{R}]}", "quotas.store", "embedded store needs none", "`url`"),
    ("quotas: {store: {url: 'valkey://h', username: u}, rules: [{R}]}", "quotas.store", "without a", "add password"),
    ("quotas: {store: {url: 'valkey://h', ca: ca.pem}, rules: [{R}]}", "quotas.store", "TLS", "valkeys://"),
    ("quotas: {store: {timeout: 50}, rules: [{R}]}", "quotas.store.timeout", "not a duration", "250ms"),
    ("quotas: {store: {lease: 10ms}, rules: [{R}]}", "quotas.store.lease", "too small", "at least 0.3"),
    ("quotas: {output_tokens: {'*': 0}, rules: [{R}]}", 'quotas.output_tokens["*"]', "too small", "at least 1"),
    ("quotas: {unknown_price: ask, rules: [{R}]}", "quotas.unknown_price", "choices", "deny or allow"),
    ("quotas: {webhook: {url: 'ftp://x'}, rules: [{R}]}", "quotas.webhook.url", "not a web address", "https://"),
    ("quotas: {webhook: {url: 'https://x:y/'}, rules: [{R}]}", "quotas.webhook.url", "not a web address", "https://"),
    ("quotas: {webhook: {url: 'https://u:p@x/'}, rules: [{R}]}", "quotas.webhook.url", "by reference", "authorization"),
    (
        "quotas: {webhook: {url: 'http://x/', authorization: {env: A}}, rules: [{R}]}",
        "quotas.webhook",
        "in the clear",
        "https://",
    ),
    ("quotas: {rules: [{R}, {R, mode: soft}]}", "quotas.rules[1].name", "rules[0] already", "name of its own"),
]

RULE_MISTAKES = [
    ("name: A b, kind: requests, limit: 5, window: day", "name", "not a valid name", "lower-case"),
    ("name: a, kind: dollars, limit: 5, window: day", "kind", "choices", "money"),
    ("name: a, kind: money, limit: 5, window: year", "window", "choices", "month"),
    ("name: a, kind: tokens, limit: 5, window: concurrent", "window", "calls in flight", "kind: requests"),
    ("name: a, kind: money, limit: 5, window: concurrent", "window", "calls in flight", "kind: requests"),
    ("name: a, kind: requests, limit: -1, window: day", "limit", "negative", "0 (nobody"),
    ("name: a, kind: tokens, limit: 1.5, window: day", "limit", "not a whole number", "money"),
    ("name: a, kind: money, limit: 9000001, window: day", "limit", "too large", "9000000"),
    ("name: a, kind: money, limit: 0.0000000001, window: day", "limit", "billionth", "9 decimals"),
    ("name: a, kind: tokens, limit: 9007199254740992, window: day", "limit", "too large", "less than 9007199254740992"),
    ("name: a, kind: tokens, limit: many, window: day", "limit", "not a number", "without a unit"),
    ("name: a, kind: tokens, window: day", "limit", "missing", "add it"),
    (f"{RULE}, scope: [planet]", "scope[0]", "choices", "organisation"),
    (f"{RULE}, scope: [team, team]", "scope", "twice", "once"),
    (f"{RULE}, scope: []", "scope", "too few", "at least 1"),
    (f"{RULE}, match: {{planet: x}}", "match.planet", "choices", "organisation"),
    (f"{RULE}, match: {{team: '[a]'}}", "match.team", "not a pattern", "*"),
    (f"{RULE}, match: {{provider: locl}}", "match.provider", "no provider `locl`", "`local`"),
    (f"{RULE}, mode: firm", "mode", "choices", "hard or soft"),
    (f"{RULE}, period: 60s", "period", "buckets only", "window: bucket"),
    (f"{RULE}, burst: 3", "burst", "buckets only", "window: bucket"),
    ("name: a, kind: requests, limit: 5, window: bucket", "period", "missing", "period: 60s"),
    ("name: a, kind: requests, limit: 5, window: bucket, period: 100ms", "period", "too small", "at least 1"),
    ("name: a, kind: requests, limit: 5, window: bucket, period: 1s, burst: 0", "burst", "nobody", "limit: 0"),
    ("name: a, kind: requests, limit: 5, window: bucket, period: 1s, burst: 2.5", "burst", "not a whole", "money"),
    (
        "name: a, kind: requests, limit: 5, window: bucket, period: 1s, time_zone: UTC",
        "time_zone",
        "no effect",
        "take it out",
    ),
    (f"{RULE}, time_zone: Berlin", "time_zone", "not a time zone", "Europe/Berlin"),
    (f"{RULE}, when_away: allow", "when_away", "choices", "deny or allow-bounded"),
    (f"{RULE}, share: 0", "share", "too small", "more than 0"),
    (f"{RULE}, share: 1.5", "share", "too large", "at most 1"),
    (f"{RULE}, when_away: deny, share: 0.5", "share", "no effect", "allow-bounded"),
    ("name: a, kind: money, limit: 5, window: day, share: 0.5", "share", "no effect", "allow-bounded"),
    (f"{RULE}, alerts: [80, 50]", "alerts", "not ascending", "least first"),
    (f"{RULE}, alerts: [50, 50]", "alerts", "not ascending", "1 to 100"),
    (f"{RULE}, alerts: [0]", "alerts", "not ascending", "1 to 100"),
    (f"{RULE}, alerts: [101]", "alerts", "not ascending", "1 to 100"),
    (f"{RULE}, overrides: {{a: -5}}", "overrides.a", "negative", "0 (nobody"),
    (f"{RULE}, overrides: {{a: 1.5}}", "overrides.a", "not a whole", "money"),
    (f"{RULE}, overrides: {{a/b: 1}}", 'overrides["a/b"]', "not a value of organisation", "%2F"),
    (f"{RULE}, scope: [app, model], overrides: {{a: 1}}", "overrides.a", "not a value of app/model", "by /"),
    (f"{RULE}, overrides: {{'A b': 1, A%20b: 2}}", 'overrides["A%20b"]', "already", "once"),
]


@pytest.mark.parametrize(("text", "path", "reason", "hint"), MISTAKES, ids=[row[0][:60] for row in MISTAKES])
def test_a_mistake_in_the_section(text: str, path: str, reason: str, hint: str) -> None:
    """One message, at its path and line, with the cure."""
    (problem,) = mistakes(text.replace("{R", "{" + RULE) + "\n")
    assert (problem.path, problem.line) == (path, 5)
    assert reason in problem.reason
    assert hint in problem.hint


@pytest.mark.parametrize(("text", "path", "reason", "hint"), RULE_MISTAKES, ids=[row[0][:90] for row in RULE_MISTAKES])
def test_a_mistake_in_a_rule(text: str, path: str, reason: str, hint: str) -> None:
    """The same for what stands in a rule, the second here."""
    (problem,) = mistakes(f"quotas: {{rules: [{{{RULE.replace('name: a', 'name: first')}}}, {{{text}}}]}}\n")
    assert problem.path == f"quotas.rules[1].{path}"
    assert problem.line == 5
    assert reason in problem.reason
    assert hint in problem.hint


def test_a_mistake_in_one_rule_does_not_hide_what_others_share() -> None:
    """Names given twice and unknown providers are told beside a rule that is wrong by itself."""
    found = mistakes(f"quotas:\n  rules: [{{{RULE}}}, {{{RULE}}}, {{{RULE}, burst: 2}}]\nworkers: {{count: 0}}\n")
    assert [problem.path for problem in found] == ["quotas.rules[1].name", "quotas.rules[2].burst", "workers.count"]


def test_passwords_are_never_repeated() -> None:
    """Wherever they were put."""
    word = "hunter" + "2"
    for store in (f"password: {word}", f"url: 'valkey://:{word}@h'", f"url: '{word}'", f"ca: ca.pem, url: {word}"):
        for problem in mistakes(f"quotas: {{store: {{{store}}}, rules: [{{{RULE}}}]}}\n"):
            assert word not in str(problem)


@given(st.decimals(min_value=0, max_value=9_000_000, places=9))
def test_money_is_exact(amount: Decimal) -> None:
    """What is written in dollars is what is counted in billionths."""
    from extproc.config.quotas import QuotaRule

    rule = QuotaRule(name="a", kind="money", window="day", limit=amount)
    made = compile_rules(Quotas(rules=(rule,)))[0]
    assert Decimal(made.limit).scaleb(-9) == amount


@given(st.text(max_size=30))
def test_any_zone_is_taken_or_refused(text: str) -> None:
    """A name is looked up in the database only, never elsewhere in the file system."""
    import json

    try:
        assert section(f"quotas: {{time_zone: {json.dumps(text)}, rules: [{{{RULE}}}]}}\n").time_zone == text
    except ConfigErrors as error:
        assert all(problem.hint for problem in error.errors)  # noqa: PT017  either way is right
