"""The immutable summary of one exchange: log line, metrics, metadata, cost and audit all derive from it."""

from __future__ import annotations

from decimal import Decimal
from functools import lru_cache

import msgspec

from extproc.exchange.actions import Fixed
from extproc.exchange.facts import Cost, Facts, Outcome, Quota, Redaction, UsageSource
from extproc.usage import Usage


class RedactionSummary(msgspec.Struct, frozen=True):
    """What was found in the request, and in the answer where it is scanned, and what became of it. No value, no text."""

    profile: str
    mode: str  # `enforce` | `shadow`
    entities: tuple[tuple[str, str, int], ...] = ()  # (kind, operator, count)
    seconds: float = 0.0  # of scanning
    cached: int = 0  # texts whose findings were known
    scanned: int = 0  # texts that were not
    restored: int = 0  # placeholders of the answer that became their originals again
    failed: str = ""  # `budget` | `error`: not inspected
    blocked: tuple[str, ...] = ()  # kinds for which the call was refused


class QuotaLine(msgspec.Struct, frozen=True):
    """One limit that the call was counted under. Amounts in the unit of `kind` (money: billionths of a US dollar)."""

    rule: str
    scope: str  # the dimensions, joined by `/`: `team`, `app/model`
    kind: str
    window: str
    reserved: int
    settled: int


class QuotaSummary(msgspec.Struct, frozen=True):
    """What limits did with the call. `estimated_input`: tokens, before the provider said how many there were."""

    lines: tuple[QuotaLine, ...] = ()
    refused_by: str = ""  # name of the limit that had no room
    over: tuple[str, ...] = ()  # names of the soft limits that were exceeded
    estimated_input: int | None = None
    local: bool = False  # the store was away: this replica counted by itself
    stopped: bool = False  # the stream was ended because no more could be reserved


class Record(msgspec.Struct, frozen=True):
    """One exchange. No body, no key, no header value but the allow-listed labels.

    Times: `started_at` UNIX seconds, `duration`, `time_to_first_byte` and `policy_seconds` seconds. Money: US dollars.
    """

    id: str
    started_at: float
    duration: float
    entry: str
    source: str
    api: str
    endpoint: str
    operation: str
    provider: str
    requested_model: str
    model: str
    response_model: str
    stream: bool
    status: int
    outcome: str
    error: str
    error_detail: str
    key_id: str
    team: str
    app: str
    tenant: str
    user: str
    labels: dict[str, str]
    usage: Usage | None
    usage_source: str
    cost: Decimal | None
    cost_reason: str
    time_to_first_byte: float | None
    bytes_in: int
    bytes_out: int
    timeout_class: str
    policy_seconds: float
    redaction: RedactionSummary | None = None
    quota: QuotaSummary | None = None
    organisation: str = ""  # of the key, where it names one


class Ended(msgspec.Struct, frozen=True):
    """What only the host knows of an exchange: its server-made id and the time."""

    id: str
    at: float  # monotonic seconds, now
    policy_seconds: float  # CPU or wall seconds spent in our own processing


def make_record(facts: Facts, ended: Ended) -> Record:
    """Sum the facts up."""
    caller, endpoint, target, response = facts.caller, facts.endpoint, facts.target, facts.response
    dialect = endpoint.dialect if endpoint is not None else None
    reader = response.reader
    cost = facts.cost or Cost(None)
    first = response.first_byte_at
    rejection = facts.rejection
    return Record(
        id=ended.id,
        started_at=facts.origin.wall,
        duration=ended.at - facts.origin.at,
        entry=facts.origin.entry,
        source=facts.origin.source,
        api=endpoint.api if endpoint is not None else "",
        endpoint=dialect.name if dialect is not None else "",
        operation=dialect.operation if dialect is not None else "",
        provider=response.provider or target.provider
        if target is not None
        else (endpoint.provider if endpoint is not None else ""),
        requested_model=facts.requested_model,
        model=target.model if target is not None else "",
        response_model=(reader.model or "") if reader is not None else "",
        stream=facts.stream,
        status=response.status,
        outcome=facts.outcome.value,
        error=rejection.code.value if rejection is not None else "",
        error_detail=(rejection.detail or rejection.message)
        if rejection is not None
        else ((reader.error or "") if reader else ""),
        key_id=caller.key_id if caller is not None else "",
        team=caller.team if caller is not None else "",
        app=caller.app if caller is not None else "",
        tenant=facts.labels.get("tenant", ""),
        user=facts.labels.get("user", ""),
        labels=facts.labels,
        usage=facts.usage,
        usage_source=facts.usage_source.value,
        cost=cost.amount,
        cost_reason=cost.reason,
        time_to_first_byte=None if first is None else first - facts.origin.at,
        bytes_in=facts.request_bytes,
        bytes_out=response.bytes,
        timeout_class=facts.response.timeout_class,
        policy_seconds=ended.policy_seconds,
        redaction=_summary(facts.redaction) if facts.redaction is not None else None,
        quota=_quota(facts.quota) if facts.quota is not None else None,
        organisation=caller.organisation if caller is not None else "",
    )


def _quota(noted: Quota) -> QuotaSummary:
    settled = noted.settled or (0,) * len(noted.charges)
    local = noted.reserved is not None and noted.reserved.local
    lines = []
    for charge, real in zip(noted.charges, settled, strict=True):
        rule = charge.counter.rule
        held = charge.amount if noted.held else 0
        lines.append(QuotaLine(rule.name, "/".join(rule.scope), rule.kind.value, rule.window.value, held, real))
    return QuotaSummary(tuple(lines), noted.refused_by, noted.over, noted.estimated_input, local, noted.stopped)


def _summary(noted: Redaction) -> RedactionSummary:
    return RedactionSummary(
        profile=noted.profile,
        mode="shadow" if noted.shadow else "enforce",
        entities=tuple((kind, operator, times) for (kind, operator), times in noted.entities.items()),
        seconds=noted.seconds,
        cached=noted.cached,
        scanned=noted.scanned,
        restored=noted.restored,
        failed=noted.failed,
        blocked=noted.blocked,
    )


def request_metadata(facts: Facts) -> Fixed:
    """The `llm` dynamic metadata as the request goes out: who, what, where. Calls that are alike share it."""
    caller, endpoint, target = facts.caller, facts.endpoint, facts.target
    who = (caller.team, caller.app, caller.key_id) if caller is not None else None
    where = None
    if endpoint is not None:
        name = endpoint.dialect.name if endpoint.dialect is not None else "unread"
        where = (name, target.provider if target is not None else endpoint.provider)
    models = (target.model, facts.requested_model) if target is not None and target.model else None
    return _request_metadata(who, where, models, (("stream", facts.stream), *facts.labels.items()))


@lru_cache(maxsize=4096)
def _request_metadata(
    who: tuple[str, str, str] | None,
    where: tuple[str, str] | None,
    models: tuple[str, str] | None,
    others: tuple[tuple[str, bool | str], ...],
) -> Fixed:
    (_, stream), *labels = others
    values: dict[str, object] = {"decision": "allow", "stream": stream}
    if who is not None:
        values["team"], values["app"], values["key_id"] = who
    if where is not None:
        values["endpoint"], values["provider"] = where
    if models is not None:
        values["model"], values["requested_model"] = models
    values.update(labels)
    return Fixed(values)


def final_metadata(facts: Facts) -> dict[str, object]:
    """The `llm` dynamic metadata once the outcome is known. Money in micro-dollars: Envoy's counters take integers."""
    values: dict[str, object] = {"final": True, "outcome": facts.outcome.value}
    if facts.response.provider:
        values["provider"] = facts.response.provider
    if facts.rejection is not None:
        values.update(decision="refuse", error=facts.rejection.code.value)
    if facts.usage is not None and facts.usage_source is not UsageSource.NONE:  # a count of tokens uses none
        values.update(usage_metadata(facts.usage), usage_source=facts.usage_source.value)
    if facts.cost is not None and facts.cost.amount is not None:
        values["cost_microusd"] = int((facts.cost.amount * 1_000_000).to_integral_value())
    elif facts.cost is not None and facts.outcome is Outcome.OK and facts.cost.reason:
        values["cost_unknown"] = facts.cost.reason
    return values


_USAGE_NAMES = (
    ("input", "tokens_in"),
    ("output", "tokens_out"),
    ("cached_input", "tokens_cached"),
    ("cache_creation_input", "tokens_cache_write"),
    ("reasoning", "tokens_reasoning"),
)


def usage_metadata(usage: Usage | None) -> dict[str, object]:
    """The reported kinds only; unknown is absent rather than zero."""
    if usage is None:
        return {}
    return {name: count for kind, name in _USAGE_NAMES if (count := getattr(usage, kind)) is not None}
