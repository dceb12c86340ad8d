"""One log line per exchange: who called what, how it ended, what it used and cost. No body, no key, no secret.

The line is made from the `Record` alone, which holds none of these by construction.
"""

from __future__ import annotations

from collections.abc import Callable, MutableMapping
from datetime import UTC, datetime
from operator import attrgetter
from typing import Final

import structlog

from extproc.adapters.logs import PIPE_ATOMIC, LineLogger, LineWriter, escape_controls, to_json
from extproc.exchange.record import QuotaSummary, Record, RedactionSummary
from extproc.usage import Usage

# Values that a caller or a vendor chose are cut, so that a line stays within what a pipe takes in one piece (4096 bytes):
# the workers share one pipe, and a longer line could be torn by another's.
_ANY_CHARACTERS: Final = 64  # characters that need no look: 384 bytes at most, all escaped
_MAX_BYTES: Final = 256
_MAX_KINDS: Final = 12  # of 32 characters at most
_BY_CALLER: Final = ("requested_model", "model", "response_model", "error_detail", "tenant", "user", "source")
_PLAIN: Final = (
    *(
        "id",
        "entry",
        "source",
        "api",
        "endpoint",
        "operation",
        "provider",
        "requested_model",
        "model",
        "response_model",
    ),
    *(
        "stream",
        "status",
        "outcome",
        "error",
        "error_detail",
        "key_id",
        "organisation",
        "team",
        "app",
        "tenant",
        "user",
    ),
    *("usage_source", "cost_reason", "bytes_in", "bytes_out", "timeout_class"),
)
_TOKENS: Final = (
    ("input", "tokens_in"),
    ("output", "tokens_out"),
    ("cached_input", "tokens_cached"),
    ("cache_creation_input", "tokens_cache_write"),
    ("reasoning", "tokens_reasoning"),
)


_plain: Final[Callable[[Record], tuple[object, ...]]] = attrgetter(*_PLAIN)
_by_caller: Final[Callable[[Record], tuple[str, ...]]] = attrgetter(*_BY_CALLER)


def as_fields(record: Record) -> dict[str, object]:
    """Give the fields of the line. Empty and unknown ones are absent; times in ms; `cost_usd` is an exact decimal text."""
    fields = {name: value for name, value in zip(_PLAIN, _plain(record), strict=True) if value != ""}
    for name, text in zip(_BY_CALLER, _by_caller(record), strict=True):
        if len(text) > _ANY_CHARACTERS:
            fields[name] = _cut(text)
    fields["duration_ms"] = round(record.duration * 1000, 3)
    fields["policy_ms"] = round(record.policy_seconds * 1000, 3)
    if record.time_to_first_byte is not None:
        fields["first_byte_ms"] = round(record.time_to_first_byte * 1000, 3)
    if record.labels:
        fields["labels"] = record.labels
    if record.usage is not None:
        fields.update(_tokens(record.usage))
    if record.cost is not None:
        fields["cost_usd"] = format(record.cost, "f")
    if record.redaction is not None:
        fields["redaction"] = _redaction(record.redaction)
    if record.quota is not None and (told := _quota(record.quota)):
        fields["quota"] = told
    return fields


def _quota(told: QuotaSummary) -> dict[str, object]:
    """What limits did to the call, in names of rules; absent where there is nothing to say. Amounts are in the metrics."""
    fields: dict[str, object] = {
        name: value for name in ("refused_by", "estimated_input", "local", "stopped") if (value := getattr(told, name))
    }
    if told.over:
        fields["over"] = told.over[:_MAX_KINDS]
    return fields


def _redaction(found: RedactionSummary) -> dict[str, object]:
    """Counts by `KIND.operator`, the time in ms; what is zero is absent. Many kinds are cut, and the sum of all stays."""
    fields: dict[str, object] = {
        "profile": found.profile,
        "mode": found.mode,
        "scan_ms": round(found.seconds * 1000, 3),
    }
    if found.entities:
        by_kind: dict[str, int] = {}
        for kind, operator, count in found.entities:
            by_kind[f"{kind}.{operator}"] = by_kind.get(f"{kind}.{operator}", 0) + count
        fields["found"] = sum(by_kind.values())
        fields["entities"] = dict(list(by_kind.items())[:_MAX_KINDS])
    for name in ("cached", "scanned", "restored", "failed"):
        if value := getattr(found, name):
            fields[name] = value
    if found.blocked:
        fields["blocked"] = found.blocked[:_MAX_KINDS]
    return fields


def _in_short(found: dict[str, object]) -> dict[str, object]:
    return {name: value for name, value in found.items() if name not in {"entities", "blocked"}}


def _cut(text: str) -> str:
    short = text.encode("utf-8", "replace")[:_MAX_BYTES].decode("utf-8", "ignore")
    if not short.isprintable():
        short = "".join(char if char.isprintable() else "?" for char in short)
    return short if len(short) == len(text) else short + "…"


def _tokens(usage: Usage) -> dict[str, int]:
    return {name: count for kind, name in _TOKENS if (count := getattr(usage, kind)) is not None}


def _stamp(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


def _readable() -> Callable[[MutableMapping[str, object]], bytes | str]:
    show = structlog.dev.ConsoleRenderer(colors=False)
    return lambda event: show(None, "info", escape_controls(None, "info", event))


class RecordLog:
    """Writes records. `form`: json | console."""

    def __init__(self, writer: LineWriter, form: str = "json") -> None:
        """Share the process's `writer`, so that records and other lines keep their order."""
        # structlog's renderers without its logger, which costs more than the rest of the line
        self._render = _readable() if form == "console" else to_json
        self._lines = LineLogger(writer)

    def write(self, record: Record) -> None:
        """Write one line."""
        line = {"level": "info", **as_fields(record), "event": "exchange"}
        line["timestamp"] = _stamp(record.started_at + record.duration)
        data = self._render(line)
        if len(data) >= PIPE_ATOMIC and record.redaction is not None:  # the longest names of everything at once
            line["redaction"] = _in_short(_redaction(record.redaction))
            data = self._render(line)
        self._lines.msg(data)
