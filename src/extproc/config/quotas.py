"""Limits and budgets: what is counted, for whom, over which time, and where it is kept.

What is written here is compiled to `limits.counters.Rule` by `compile_rules`. Rules that need several entries at once (a
name given twice) are in `checks`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from decimal import Decimal
from typing import Annotated, Final, Literal, Self, TypeAlias
from urllib.parse import urlsplit
from zoneinfo import ZoneInfo

from pydantic import AfterValidator, Field, ValidationInfo, field_validator, model_validator
from pydantic_core import PydanticCustomError

from extproc.config.store_url import EMBEDDED, StoreUrl, read_store_url
from extproc.config.units import Duration, FilePath, Glob, Kind, Name, SecretRef, Section, bad
from extproc.limits import counters
from extproc.limits.counters import Away, Rule, Window, nano
from extproc.limits.rules import read_value

Dimension: TypeAlias = Literal["organisation", "tenant", "team", "app", "key", "user", "feature", "model", "provider"]

LARGEST_MONEY: Final = 9_000_000
"""US dollars: the store counts billionths in doubles, which are exact up to 2**53."""
DEFAULT_OUTPUT: Final = 4096
"""Tokens reserved for an answer where neither the call nor a pattern of `output_tokens` says how many."""

_ORGANISATION: Final = re.compile(r"[^\x00-\x1f\x7f{}]{1,128}")
_ZONE: Final = re.compile(r"[A-Za-z0-9_+-]{1,32}(?:/[A-Za-z0-9_+-]{1,32}){0,2}")
_USER: Final = re.compile(r"[\x21-\x7e]{1,128}")
_CALENDAR: Final = frozenset({"minute", "hour", "day", "month"})
_LOOPBACK: Final = frozenset({"localhost", "127.0.0.1", "::1"})
_NO_ADDRESS: Final = ("is not a web address", "write https://host/path")
_PLACES: Final = 9  # of decimals: billionths


def _organisation(value: str) -> str:
    if _ORGANISATION.fullmatch(value) is None:
        raise bad("is not an organisation", "write 1 to 128 characters, without control characters, { and }")
    return value


def _zone(value: str) -> str:
    try:
        if _ZONE.fullmatch(value) is not None:
            ZoneInfo(value)
            return value
    except (KeyError, ValueError, OSError):  # unknown; not a key at all; a folder of the database
        pass
    raise bad("is not a time zone", "write a name of the IANA database: UTC, Europe/Berlin, America/New_York")


def _user(value: str) -> str:
    if _USER.fullmatch(value) is None:
        raise bad("is not a user name", "write 1 to 128 visible characters: gateway")
    return value


def _store_url(value: str) -> str:
    read_store_url(value)
    return value


def _webhook_url(value: str) -> str:
    if not value.isascii() or not value.isprintable() or " " in value:
        raise bad(*_NO_ADDRESS)
    try:
        parts = urlsplit(value)
        named = parts.scheme in {"http", "https"} and parts.hostname and parts.port != 0
    except ValueError:  # a port that is no number
        raise bad(*_NO_ADDRESS) from None
    if not named:
        raise bad(*_NO_ADDRESS)
    if "@" in parts.netloc:
        raise bad("holds a user name or password: secrets only by reference", "write `authorization: {env: NAME}`")
    return value


def _some(values: tuple[str, ...]) -> tuple[str, ...]:
    if not values:
        raise bad("has too few entries", "at least 1")
    if len(set(values)) != len(values):
        raise bad("names a dimension twice", "write each once")
    return values


def _ascending(values: tuple[int, ...]) -> tuple[int, ...]:
    if any(not 1 <= value <= 100 for value in values) or sorted(set(values)) != list(values):
        raise bad("are not ascending per cents", "write numbers from 1 to 100, the least first: [50, 80, 100]")
    return values


Organisation = Annotated[str, AfterValidator(_organisation), Kind("text")]
Zone = Annotated[str, AfterValidator(_zone), Kind("time zone")]
Amount = Annotated[Decimal, Kind("number")]
Dimensions = Annotated[tuple[Dimension, ...], AfterValidator(_some), Kind("list of dimensions")]


def _amount(value: Decimal, kind: str) -> Decimal:
    """Judge an amount in the unit of its kind."""
    if value < 0:
        raise bad("is negative", "write 0 (nobody may call) or more")
    if kind == "money":
        if value > LARGEST_MONEY:
            raise bad("is too large", f"at most {LARGEST_MONEY} dollars")
        if value != round(value, _PLACES):
            raise bad("is finer than a billionth of a dollar", f"write at most {_PLACES} decimals")
    elif value != value.to_integral_value():
        raise bad("is not a whole number", "only money has fractions")
    elif value >= counters.LARGEST:
        raise bad("is too large", f"less than {counters.LARGEST}")
    return value


def _units(value: Decimal, kind: str) -> int:
    return nano(value) if kind == "money" else int(value)


class QuotaRule(Section):
    """One limit. A call must pass all that match it."""

    name: Name = Field(
        description="What it is called in refusals, metrics and `extproc limits`. What was used is kept under it: give a "
        "rule another name when its scope changes."
    )
    kind: Literal["requests", "input_tokens", "output_tokens", "tokens", "money"] = Field(
        description="What is counted; `tokens` are input and output."
    )
    window: Literal["minute", "hour", "day", "month", "bucket", "concurrent"] = Field(
        description="Over which time: a stretch of the calendar, a token bucket, or calls in flight (`requests` only)."
    )
    limit: Amount = Field(
        description="How much: US dollars for money (at most 9000000), else a whole number. 0: nobody may call."
    )
    scope: Dimensions = Field(
        default=("organisation",),
        description="What has a counter each: one or more of `organisation`, `tenant`, `team`, `app`, `key`, `user`, "
        "`feature`, `model`, `provider`; several count per combination. `user` and `feature` may be the caller's own word.",
    )
    match: Mapping[Dimension, Glob] = Field(
        default={}, description="Pattern by dimension: only calls that fit all are counted. Nothing written: all calls."
    )
    mode: Literal["hard", "soft"] = Field(
        default="hard", description="`soft` refuses nothing: header, metric and alert only."
    )
    period: Annotated[Duration | None, Kind("duration")] = Field(
        default=None,
        ge=1,
        le=7 * 86400,
        validate_default=True,
        description="Buckets only, required there: time in which `limit` flows back.",
    )
    burst: Amount | None = Field(
        default=None, description="Buckets only: the most that can go at once. Nothing written: `limit`."
    )
    when_away: Literal["deny", "allow-bounded"] | None = Field(
        default=None,
        description="While the store is away: refuse, or let each replica spend `share` of the limit. Nothing written: "
        "`deny` for hard limits on money, `allow-bounded` for the others.",
    )
    share: float = Field(
        default=0.1, gt=0, le=1, description="Part of the limit that a replica may spend while the store is away."
    )
    alerts: Annotated[tuple[int, ...], AfterValidator(_ascending)] = Field(
        default=(50, 80, 100), description="Per cents of the limit at which there is an alert, once per window."
    )
    time_zone: Zone | None = Field(
        default=None, description="Whose midnight ends days and months. Nothing written: `quotas.time_zone`."
    )
    overrides: Mapping[str, Amount] = Field(
        default={},
        max_length=10_000,
        description="Value of the scope -> its own limit. Several dimensions are joined by `/`, in the order of `scope`; "
        "a `/` within a value is written `%2F`. `extproc limits` sets others live.",
    )

    @field_validator("window", mode="after")
    @classmethod
    def _calls_in_flight(cls, window: str, info: ValidationInfo) -> str:
        if window == "concurrent" and info.data.get("kind", "requests") != "requests":
            raise bad("counts calls in flight, so its kind is `requests`", "write `kind: requests`, or another window")
        return window

    @field_validator("limit", "burst", mode="after")
    @classmethod
    def _in_its_unit(cls, value: Decimal | None, info: ValidationInfo) -> Decimal | None:
        if value is None or "kind" not in info.data:
            return value
        if info.field_name == "burst" and value == 0:
            raise bad("is 0: nobody could call", "write `limit: 0` for that")
        return _amount(value, info.data["kind"])

    @field_validator("burst", mode="after")
    @classmethod
    def _burst_of_bucket(cls, value: Decimal | None, info: ValidationInfo) -> Decimal | None:
        if value is not None:
            _of_bucket(info)
        return value

    @field_validator("period", mode="after")
    @classmethod
    def _period_of_bucket(cls, value: float | None, info: ValidationInfo) -> float | None:
        if value is None and info.data.get("window") == "bucket":
            raise bad("is missing", "a bucket needs the time in which `limit` flows back: period: 60s")
        if value is not None:
            _of_bucket(info)
        return value

    @field_validator("share", mode="after")
    @classmethod
    def _share_of_bounded(cls, value: float, info: ValidationInfo) -> float:
        written = info.data.get("when_away")
        money = info.data.get("kind") == "money" and info.data.get("mode") == "hard"
        if written == "deny" or (money and "when_away" in info.data and written is None):
            raise bad("has no effect: this limit denies while the store is away", "add `when_away: allow-bounded`")
        return value

    @field_validator("time_zone", mode="after")
    @classmethod
    def _zone_of_calendar(cls, value: str | None, info: ValidationInfo) -> str | None:
        if value is not None and info.data.get("window", "day") not in _CALENDAR:
            raise bad("has no effect on this window", "take it out: only minute, hour, day and month have a time zone")
        return value

    @property
    def away(self) -> Away:
        """What holds while the store is away, defaults in place."""
        if self.when_away is not None:
            return Away(self.when_away)
        return Away.DENY if self.kind == "money" and self.mode == "hard" else Away.BOUNDED

    def problems(self) -> Iterator[tuple[str, str, str]]:
        """What is wrong with overrides: value of the scope as written, reason, hint."""
        seen: set[str] = set()
        for written, limit in self.overrides.items():
            try:
                value = read_value(self.scope, written)
                _amount(limit, self.kind)
            except PydanticCustomError as error:
                yield written, error.message(), str((error.context or {})["hint"])
            except ValueError:
                reason = f"is not a value of {'/'.join(self.scope)}"
                yield written, reason, "join one value for each dimension by /, and write %2F for a / within a value"
            else:
                if value in seen:
                    yield written, "stands for a value that has an override already", "write each value once"
                seen.add(value)


def _of_bucket(info: ValidationInfo) -> None:
    if info.data.get("window", "bucket") != "bucket":
        raise bad("is for buckets only", "write `window: bucket`, or take it out")


class Store(Section):
    """Where limits are kept: a Valkey or Redis that all replicas share, or one of its own for a single replica."""

    url: Annotated[str, AfterValidator(_store_url), Kind("address of a store")] = Field(
        default=EMBEDDED,
        description="`embedded` (started by `up` and `serve`), `unix:///run/valkey.sock`, `valkey://host:6379/0`, "
        "`valkey+sentinel://h1:26379,h2:26379/mymaster` or `valkey+cluster://h1:6379,h2:6379`; with TLS `valkeys://`, "
        "`valkeys+sentinel://`, `valkeys+cluster://`; `redis` for `valkey` is the same.",
    )
    username: Annotated[str, AfterValidator(_user)] | None = Field(
        default=None, description="User of the store's access list, with `password`."
    )
    password: SecretRef | None = Field(default=None, description="The store's password.")
    ca: FilePath | None = Field(
        default=None, description="Certificates that the store's is checked against. Nothing written: the system's."
    )
    timeout: Duration = Field(default=0.05, ge=0.001, le=10, description="Longest wait for a reservation.")
    lease: Duration = Field(
        default=15.0,
        ge=0.3,
        le=3600,
        description="Time after which what a dead worker had reserved is charged, and its calls in flight end.",
    )

    @model_validator(mode="after")
    def _fits(self) -> Self:
        place = self.place
        if self.username is not None and self.password is None:
            raise bad("has a `username` without a `password`", "add password: {env: NAME}")
        if place.form == EMBEDDED and self.password is not None:
            raise bad("has a `password`, and the embedded store needs none", "take it out, or write `url`")
        if self.ca is not None and not place.tls:
            raise bad("has a `ca`, and its `url` is not one with TLS", "write valkeys://, or take `ca` out")
        return self

    @property
    def place(self) -> StoreUrl:
        """The address, taken apart."""
        return read_store_url(self.url)


class Webhook(Section):
    """Where alerts are sent: one POST with a JSON object each."""

    url: Annotated[str, AfterValidator(_webhook_url), Kind("web address")] = Field(description="Address to POST to.")
    authorization: SecretRef | None = Field(default=None, description="Value of the header `authorization`.")

    @model_validator(mode="after")
    def _not_in_the_clear(self) -> Self:
        parts = urlsplit(self.url)
        if parts.scheme == "http" and parts.hostname not in _LOOPBACK:
            raise bad("would tell in the clear what teams spend", "write https://")
        return self


class Quotas(Section):
    """Limits and budgets. Without this section nothing is limited."""

    organisation: Organisation = Field(
        default="default",
        description="Organisation of keys that name none. All counters of one organisation are on one shard of a cluster.",
    )
    time_zone: Zone = Field(
        default="UTC", description="Whose midnight ends days and months, where a rule says nothing."
    )
    store: Store = Field(default=Store(), description="Where limits are kept.")
    output_tokens: Mapping[Glob, Annotated[int, Field(ge=1, le=10_000_000)]] = Field(
        default={"*": DEFAULT_OUTPUT},
        max_length=1000,
        description="Pattern on the model -> tokens that are reserved for an answer where the call sets no cap of its own. "
        f"The first that matches wins; where none does, {DEFAULT_OUTPUT}.",
    )
    exact_input: bool = Field(
        default=False,
        description="Whether input is counted by a tokenizer before it is reserved, which takes longer than an estimate.",
    )
    unknown_price: Literal["deny", "allow"] = Field(
        default="deny",
        description="A call under a limit on money whose price nobody knows: refuse it, or let it go uncounted.",
    )
    headers: bool = Field(default=False, description="Whether answers tell what is left of budgets (`x-llm-budget-*`).")
    webhook: Webhook | None = Field(default=None, description="Where alerts are sent, beside log and metrics.")
    rules: tuple[QuotaRule, ...] = Field(max_length=1000, description="The limits. A call must pass all.")

    @field_validator("rules", mode="after")
    @classmethod
    def _one_at_least(cls, rules: tuple[QuotaRule, ...]) -> tuple[QuotaRule, ...]:
        """Not as a bound of the field's: pydantic takes a list whose items are wrong for an empty one."""
        if not rules:
            raise bad("has too few entries", "at least 1; without a limit, take `quotas` out")
        return rules


def compile_rules(quotas: Quotas) -> tuple[Rule, ...]:
    """The rules as the store counts by them: money in billionths of a dollar, times in milliseconds."""
    return tuple(_compiled(rule, quotas.time_zone) for rule in quotas.rules)


def _compiled(rule: QuotaRule, zone: str) -> Rule:
    limit = _units(rule.limit, rule.kind)
    bucket = rule.window == "bucket"
    burst = limit if rule.burst is None else _units(rule.burst, rule.kind)
    return Rule(
        name=rule.name,
        kind=counters.Kind(rule.kind),
        window=Window(rule.window),
        limit=limit,
        scope=rule.scope,
        match=tuple(rule.match.items()),
        hard=rule.mode == "hard",
        burst=burst if bucket and limit else 0,
        period=round((rule.period or 0) * 1000),
        zone=rule.time_zone or zone,
        away=rule.away,
        share=rule.share,
        alerts=rule.alerts,
        overrides=tuple(
            (read_value(rule.scope, value), _units(own, rule.kind)) for value, own in rule.overrides.items()
        ),
    )
