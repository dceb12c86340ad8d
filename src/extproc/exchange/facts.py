"""What is known of one exchange. One writer a field (named beside it); every policy and the record may read all.

Never here: the caller's key, the original of anything redacted, a body.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from decimal import Decimal
from enum import StrEnum
from typing import TypeAlias

import msgspec

from extproc.dialects.dialect import Dialect, RequestView, ResponseReader
from extproc.errors import Rejection
from extproc.exchange.effects import Caller
from extproc.limits.counters import Charge, Reserved
from extproc.usage import Usage

Octets: TypeAlias = bytes
"""The type, where a field of that name stands in its way."""


class UsageSource(StrEnum):
    """How we know what was used."""

    REPORTED = "reported"  # the vendor's own final count
    ESTIMATED = "estimated"  # the answer was cut short, or carried no usage: counted by us
    NONE = "none"  # nothing was used: refused, failed before the provider, or not billable
    UNREAD = "unread"  # passed through without reading: bytes only


class Outcome(StrEnum):
    """How the exchange ended."""

    OK = "ok"  # the provider answered and all of it was seen
    REFUSED = "refused"  # we answered in the provider's place with an error
    ANSWERED = "answered"  # we answered in the provider's place, by design (models list)
    PROVIDER_ERROR = "provider_error"  # the provider answered with an error status or an error in the stream
    UNREACHABLE = "unreachable"  # Envoy could not get an answer
    CUT_SHORT = "cut_short"  # the stream ended before the answer was complete: hang-up, reset, crash


class Target(msgspec.Struct, frozen=True):
    """Where a call goes: the ordered provider chain (each tried in turn) and the resolved model."""

    provider: str
    model: str
    chain: tuple[str, ...]  # providers, the first is `provider`


class Endpoint(msgspec.Struct, frozen=True):
    """What the caller called. `dialect` None: an unknown path, passed through unread by configured rule."""

    api: str  # `openai` | `anthropic`: whose client it is
    provider: str  # the provider that this host or base URL stands for
    path: str  # as it goes to the vendor: a base-URL prefix is gone
    dialect: Dialect | None


class Cost(msgspec.Struct, frozen=True):
    """US dollars, or unknown (`amount` None) with the reason; unknown is counted and alarmed, never taken for zero."""

    amount: Decimal | None
    reason: str = ""  # why unknown
    source: str = ""  # where the rates are from: `catalogue` or `config`


@dataclass(slots=True)
class Origin:
    """Where and when the exchange began. The clocks are the host's; the rest is written by `endpoint`."""

    at: float  # monotonic seconds
    wall: float  # UNIX seconds
    source: str = ""  # the caller's address, as Envoy saw it
    entry: str = ""  # the filter chain that the call came in by
    id: str = ""  # server-made, unique over all workers


@dataclass(slots=True)
class Response:
    """What is known of the answer so far. Written by the machine and `meter`."""

    awaited: bool = False  # machine: the request has gone out, so that a provider may be working
    status: int = 0
    from_provider: bool = False
    provider: str = ""  # meter: who answered, as the inner hop says; may be a later one of the chain
    started_at: float | None = None  # first response header
    first_byte_at: float | None = None  # first body byte: the time to first token of a stream
    bytes: int = 0
    reader: ResponseReader | None = None  # meter
    unsent: Octets = b""  # redact, quota: what may go on before a refusal that ends a stream
    stream: bool = False  # meter: the answer came as a stream of events
    timeout_class: str = ""  # timeouts: how long it may take


@dataclass(slots=True)
class Redaction:
    """What was found in one exchange and what became of it: kinds and counts, never a value."""

    profile: str
    shadow: bool
    entities: dict[tuple[str, str], int] = field(default_factory=dict)  # (kind, operator) -> how many
    seconds: float = 0.0
    cached: int = 0
    scanned: int = 0
    restored: int = 0
    failed: str = ""  # `budget` | `error`
    blocked: tuple[str, ...] = ()

    def count(self, kind: str, operator: str, times: int = 1) -> None:
        """Count what was found."""
        self.entities[kind, operator] = self.entities.get((kind, operator), 0) + times


@dataclass(slots=True)
class Quota:
    """What was reserved for one exchange, and what was charged in the end."""

    charges: tuple[Charge, ...]
    estimated_input: int | None = None  # tokens; None where the call has none to count
    held: bool = False  # the store, or this replica in its place, holds the charges
    reserved: Reserved | None = None
    settled: tuple[int, ...] = ()  # parallel to `charges`
    refused_by: str = ""  # name of the limit
    over: tuple[str, ...] = ()  # names of the soft limits that are exceeded
    stopped: bool = False  # a stream was ended because no more could be held


@dataclass(slots=True)
class Facts:
    """The shared facts. 15 fields at most."""

    origin: Origin  # host, endpoint
    endpoint: Endpoint | None = None  # endpoint
    caller: Caller | None = None  # authenticate
    labels: dict[str, str] = field(default_factory=dict)  # labels
    request: RequestView | None = None  # machine, from the dialect
    request_bytes: int = 0  # machine
    target: Target | None = None  # alias; quota leaves out providers without room
    response: Response = field(default_factory=Response)  # machine, meter
    usage: Usage | None = None  # meter
    usage_source: UsageSource = UsageSource.NONE  # meter
    cost: Cost | None = None  # price
    redaction: Redaction | None = None  # redact
    quota: Quota | None = None  # quota
    rejection: Rejection | None = None  # machine
    outcome: Outcome = Outcome.CUT_SHORT  # machine; until the end is seen, it was cut short

    @property
    def stream(self) -> bool:
        """Whether the caller asked for a stream."""
        return self.request is not None and self.request.stream

    @property
    def requested_model(self) -> str:
        """The model as the caller wrote it; empty where the endpoint has none."""
        return (self.request.model or "") if self.request is not None else ""
