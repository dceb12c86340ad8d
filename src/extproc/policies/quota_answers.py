"""What a caller is told about limits: refusals in plain words, and headers that the vendors' SDKs know.

Names that the operator configured, and the model, are shown; what came in a header, and the key, never is. Numbers are
those of the limit itself and of the caller's own call: never what others have used. Header names: the vendors' references
on rate limits; `x-should-retry` is what both official SDKs obey before anything else.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from functools import lru_cache
from math import ceil, inf
from typing import Final, TypeAlias
from urllib.parse import unquote

from extproc.errors import ErrorCode, Rejection
from extproc.limits.counters import NANO, Charge, Counter, Kind, Reserved, Rule, Standing, Window

Headers: TypeAlias = tuple[tuple[str, str], ...]

_LONGEST_RETRY: Final = 60  # seconds; an SDK that waits longer looks as if it hung
_NO_RETRY: Final = ("x-should-retry", "false")
_LAST: Final = 253_402_300_799  # the last second of the year 9999, which is as far as dates go
_SAFE: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:@/+=*-]{0,99}")
_OWNERS: Final = ("organisation", "tenant", "team", "app", "key", "user")
_TARGETS: Final = ("feature", "model", "provider")
_UNSHOWN: Final = frozenset({"key", "user", "feature"})
_UNITS: Final = {
    Kind.REQUESTS: "request",
    Kind.TOKENS: "token",
    Kind.INPUT_TOKENS: "input token",
    Kind.OUTPUT_TOKENS: "output token",
}
_EACH: Final = {Window.MINUTE: "a minute", Window.HOUR: "an hour", Window.DAY: "a day", Window.MONTH: "a month"}
_PERIODS: Final = {1_000: "a second", 60_000: "a minute", 3_600_000: "an hour", 86_400_000: "a day"}
_CURES: Final = {
    Kind.MONEY: "lower max_tokens, send less, or choose a cheaper model",
    Kind.TOKENS: "lower max_tokens or send less",
    Kind.INPUT_TOKENS: "send less",
    Kind.OUTPUT_TOKENS: "lower max_tokens",
}

# by API and kind: the families of headers that a limit can show in
_FAMILIES: Final[dict[str, dict[Kind, tuple[str, ...]]]] = {
    "openai": {
        Kind.REQUESTS: ("requests",),
        Kind.TOKENS: ("tokens",),
        Kind.INPUT_TOKENS: ("tokens",),
        Kind.OUTPUT_TOKENS: ("tokens",),
    },
    "anthropic": {
        Kind.REQUESTS: ("requests",),
        Kind.TOKENS: ("tokens",),
        Kind.INPUT_TOKENS: ("tokens", "input-tokens"),
        Kind.OUTPUT_TOKENS: ("tokens", "output-tokens"),
    },
}
_OPENAI: Final = {
    family: tuple(f"x-ratelimit-{what}-{family}" for what in ("limit", "remaining", "reset"))
    for family in ("requests", "tokens")
}
_ANTHROPIC: Final = {
    family: tuple(f"anthropic-ratelimit-{family}-{what}" for what in ("limit", "remaining", "reset"))
    for family in ("requests", "tokens", "input-tokens", "output-tokens")
}


# ---- refusals ---------------------------------------------------------------------------------------------------


def refusal(api: str, charges: Sequence[Charge], reserved: Reserved) -> tuple[Rejection, int]:
    """The refusal for `reserved.refused`, and the index of the limit that it names.

    That is one that would never admit the call, else a budget, else the one with the longest wait. `api`: `openai` or
    `anthropic`, whose rate-limit headers go with it; any other has none. Status: 402 for money, 429 for all else; 503
    where the store is away and what may be used without it is used up, since the limit itself may well have room.
    """
    index = min(reserved.refused, key=lambda at: _rank(charges[at], reserved.standings[at], reserved.at))
    charge, standing = charges[index], reserved.standings[index]
    rule = charge.counter.rule
    if reserved.local:
        return _unknown(charge), index
    wait = _wait(standing, reserved.at)
    headers = rate_headers(api, charges, reserved)
    if wait > _LONGEST_RETRY or _is_budget(rule):
        headers = (*headers, _NO_RETRY)
    status, code = _code(rule)
    rejection = Rejection(
        status,
        code,
        _message(charge, standing, reserved.at),
        retry_after=None if wait == inf else max(1, ceil(wait)),
        detail=f"limit {rule.name}",
        headers=headers,
    )
    return rejection, index


def stop(charge: Charge) -> Rejection:
    """Why a stream ends early: the limit of `charge` has no room for more of it."""
    rule = charge.counter.rule
    status, code = _code(rule)
    what = "budget" if _is_budget(rule) else "limit"
    message = f"The {what}{_scope(charge.counter)} is used up: this answer was stopped before its end."
    return Rejection(status, code, message, detail=f"limit {rule.name}")


def _unknown(charge: Charge) -> Rejection:
    what = "budget" if _is_budget(charge.counter.rule) else "limit"
    message = (
        f"The gateway cannot ask how much is left of the {what}{_scope(charge.counter)}, and what may be used without "
        "asking is used up. Try again in a moment."
    )
    detail = f"limit {charge.counter.rule.name}: the store is away"
    return Rejection(503, ErrorCode.GATEWAY_LIMITS_UNAVAILABLE, message, retry_after=1, detail=detail)


def _rank(charge: Charge, standing: Standing, at: float) -> tuple[bool, bool, float]:
    return standing.admits_at != inf, not _is_budget(charge.counter.rule), -_wait(standing, at)


def _is_budget(rule: Rule) -> bool:
    """Money that is gone once it is spent; what calls in flight may cost together comes back when they end."""
    return rule.kind is Kind.MONEY and rule.window is not Window.CONCURRENT


def _wait(standing: Standing, at: float) -> float:
    """Seconds; 0.0 where nobody knows, `inf` where waiting does not help."""
    until = standing.admits_at or standing.resets_at
    return max(0.0, until - at) if until == inf or at > 0 else 0.0


def _code(rule: Rule) -> tuple[int, ErrorCode]:
    if _is_budget(rule):
        return 402, ErrorCode.POLICY_BUDGET_EXCEEDED
    if rule.window is Window.CONCURRENT:
        return 429, ErrorCode.POLICY_CONCURRENCY_LIMITED
    return 429, ErrorCode.POLICY_RATE_LIMITED


def _message(charge: Charge, standing: Standing, at: float) -> str:
    rule, scope = charge.counter.rule, _scope(charge.counter)
    kind, limit = rule.kind, _limit(rule, standing)
    money, name = kind is Kind.MONEY, "budget" if _is_budget(rule) else "limit"
    if standing.admits_at == inf:
        if kind is Kind.REQUESTS:
            return f"The limit{scope} ({limit}) lets no call pass."
        size = f"cost up to {_amount(kind, charge.amount)}" if money else f"use {_amount(kind, charge.amount)}"
        return f"This call may {size}, more than the whole {name}{scope} ({limit}): {_CURES[kind]}."
    then = _then(standing, at)
    if rule.window is Window.CONCURRENT:
        return f"Too many calls in flight: the {name}{scope} is {limit}; {then}."
    if not money:
        need = "" if kind is Kind.REQUESTS else f"; this call may use {charge.amount}"
        return f"Rate limit{scope}: {limit}{need}; {then}."
    if rule.window is not Window.BUCKET and standing.resets_at:
        then = f"it starts again at {_time(standing.resets_at)}"
    if standing.remaining == 0:
        return f"The budget{scope} ({limit}) is used up; {then}."
    cost = _amount(kind, charge.amount)
    return f"The budget{scope} ({limit}) has no room left for this call, which may cost up to {cost}; {then}."


def _then(standing: Standing, at: float) -> str:
    wait = _wait(standing, at)
    if wait == 0:
        return "try again in a moment"
    if wait <= _LONGEST_RETRY:
        return f"try again in {max(1, ceil(wait))} s"
    return f"try again at {_time(standing.admits_at or standing.resets_at)}"


def _limit(rule: Rule, standing: Standing) -> str:
    if rule.window is Window.CONCURRENT:
        return f"{_amount(rule.kind, standing.limit)} at once"
    if rule.window is not Window.BUCKET:
        return f"{_amount(rule.kind, standing.limit)} {_EACH[rule.window]}"
    each = f"{_amount(rule.kind, rule.limit)} {_PERIODS.get(rule.period) or f'in {rule.period / 1000:g} s'}"
    return each if standing.limit == rule.limit else f"{each}, {_amount(rule.kind, standing.limit)} at once"


def _amount(kind: Kind, amount: int) -> str:
    """With its unit: `1 request`, `$1,500.00`."""
    if kind is Kind.MONEY:
        whole, _, rest = _dollars(amount).partition(".")
        return f"${int(whole):,}.{rest}"
    return f"{amount} {_UNITS[kind]}{'' if amount == 1 else 's'}"


def _dollars(amount: int) -> str:
    """Billionths as dollars: all digits that are not zero, two at least after the point."""
    whole, rest = divmod(amount, NANO)
    digits = f"{rest:09d}".rstrip("0")
    return f"{whole}.{digits:0<2}"


def _scope(counter: Counter) -> str:
    """Whose limit it is, with a space before it: ` of team search, app chat for model gpt-4o`."""
    rule = counter.rule
    values = dict(zip(rule.scope, map(unquote, counter.value.split("/")), strict=False))
    for dimension, pattern in rule.match:
        if dimension in _TARGETS or "*" not in pattern:
            values.setdefault(dimension, pattern)
    owners = ", ".join(_names(_OWNERS, values))
    targets = ", ".join(_names(_TARGETS, values))
    return (f" of {owners}" if owners else "") + (f" for {targets}" if targets else "")


def _names(dimensions: tuple[str, ...], values: dict[str, str]) -> Iterator[str]:
    for dimension in dimensions:
        value = values.get(dimension)
        if value is None:
            continue
        if not value:
            yield f"calls without {'an' if dimension[0] in 'ao' else 'a'} {dimension}"
        elif dimension in _UNSHOWN or not _SAFE.fullmatch(value):
            yield f"this {dimension}"
        else:
            yield f"{dimension} {value}"


# ---- headers ----------------------------------------------------------------------------------------------------


def rate_headers(api: str, charges: Sequence[Charge], reserved: Reserved) -> Headers:
    """The vendor's rate-limit headers, filled from our hard limits on requests and tokens; empty for any other `api`.

    Of each family the tightest limit is shown: the smallest remaining share, the latest reset among equals. Budgets and
    calls in flight are not shown here.
    """
    families = _FAMILIES.get(api)
    if families is None:
        return ()
    tightest: dict[str, Standing] = {}
    for charge, standing in zip(charges, reserved.standings, strict=True):
        rule = charge.counter.rule
        shown = families.get(rule.kind)
        if shown is None or not rule.hard or rule.window is Window.CONCURRENT:
            continue
        for family in shown:
            known = tightest.get(family)
            if known is None or _tightness(standing) < _tightness(known):  # most families have one limit
                tightest[family] = standing
    headers: list[tuple[str, str]] = []
    openai = api == "openai"
    names = _OPENAI if openai else _ANTHROPIC
    for family, standing in tightest.items():
        limit, remaining, reset = names[family]
        until = standing.resets_at
        when = _duration(until - reserved.at) if openai else _time(until)
        headers += ((limit, str(standing.limit)), (remaining, str(standing.remaining)), (reset, when))
    return tuple(headers)


def budget_headers(charges: Sequence[Charge], reserved: Reserved) -> Headers:
    """The tightest budget: `x-llm-budget-remaining`, `-limit` (US dollars), `-reset` (RFC 3339); empty without one."""
    budgets = [
        standing
        for charge, standing in zip(charges, reserved.standings, strict=True)
        if _is_budget(charge.counter.rule)
    ]
    if not budgets:
        return ()
    tightest = min(budgets, key=_tightness)
    shown = (
        ("x-llm-budget-remaining", _dollars(tightest.remaining)),
        ("x-llm-budget-limit", _dollars(tightest.limit)),
    )
    return (*shown, ("x-llm-budget-reset", _time(tightest.resets_at))) if tightest.resets_at else shown


def _tightness(standing: Standing) -> tuple[float, float]:
    share = standing.remaining / standing.limit if standing.limit > 0 else 0.0
    return share, -standing.resets_at


def _duration(seconds: float) -> str:
    """As OpenAI writes it: `17ms`, `1s`, `6m0s`, `24h0m0s`; rounded up."""
    if seconds <= 0:
        return "0s"
    if seconds < 1:
        return f"{ceil(seconds * 1000)}ms"
    return _seconds(ceil(min(seconds, _LAST)))


@lru_cache(maxsize=256)
def _seconds(seconds: int) -> str:
    """Calls of one second share their reset."""
    minutes, rest = divmod(seconds, 60)
    if not minutes:
        return f"{rest}s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h{minutes}m{rest}s" if hours else f"{minutes}m{rest}s"


def _time(at: float) -> str:
    """RFC 3339 in UTC, whole seconds, rounded up."""
    return _second(ceil(min(max(at, 0.0), _LAST)))


@lru_cache(maxsize=256)
def _second(at: int) -> str:
    """Calls of one window share their reset."""
    return datetime.fromtimestamp(at, UTC).isoformat()[:19] + "Z"
