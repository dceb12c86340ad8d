"""What one worker counts for its calls: the instruments, and the label children that calls of one kind count into."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Mapping
from typing import Final, TypeAlias

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from extproc.exchange.facts import Outcome, UsageSource
from extproc.exchange.record import Record
from extproc.usage import Usage

Add: TypeAlias = Callable[[float], None]

OTHER: Final = "other"  # stands for every value over the cap
NONE: Final = "none"  # an empty value: Prometheus takes an empty label for an absent one

# OpenTelemetry's advised ExplicitBucketBoundaries
_TOKEN_BUCKETS: Final = tuple(4**power for power in range(14))
_DURATION_BUCKETS: Final = tuple(0.01 * 2**power for power in range(14))
_FIRST_TOKEN_BUCKETS: Final = (
    *(0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1),
    *(0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0),
)
_POLICY_BUCKETS: Final = (0.00005, 0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.1, 0.5)

_KINDS: Final = ("input", "output", "cached_input", "cache_creation_input", "reasoning")
_GEN_AI: Final = ("gen_ai_operation_name", "gen_ai_provider_name", "gen_ai_request_model", "gen_ai_response_model")
CALLED: Final = frozenset({Outcome.OK, Outcome.PROVIDER_ERROR, Outcome.UNREACHABLE, Outcome.CUT_SHORT})


class LabelValues:
    """The distinct values that labels may have: `limit` of each kind, then `other`."""

    def __init__(self, limit: int, overflow: Counter) -> None:
        """Start with no value known. `overflow`: counts the samples with a replaced value, by label."""
        self._limit = limit
        self._overflow = overflow
        self._known: dict[str, set[str]] = {}

    def take(self, kind: str, value: str, *, admit: bool = True) -> tuple[str, Counter | None]:
        """Give the value to use, and the counter to raise where it stands for another. `admit` False: learn nothing."""
        if not value:
            return NONE, None
        known = self._known.setdefault(kind, set())
        if value in known:
            return value, None
        if admit and len(known) < self._limit:
            known.add(value)
            return value, None
        return OTHER, self._overflow.labels(kind)


class CallInstruments:
    """What one worker counts for its calls."""

    def __init__(self, registry: CollectorRegistry) -> None:
        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(name, text, labels, registry=registry)

        def histogram(name: str, text: str, buckets: tuple[float, ...], *labels: str) -> Histogram:
            return Histogram(name, text, labels, buckets=buckets, registry=registry)

        who = ("team", "app", "provider", "model")
        self.requests = counter("llm_requests", "Calls by how they ended.", *who, "endpoint", "outcome")
        self.tokens = counter(
            "llm_tokens",
            "Tokens; input includes cached_input and cache_creation_input, output reasoning.",
            *who,
            "kind",
        )
        self.cost = counter("llm_cost_usd", "Known cost in US dollars (binary floating point; the log is exact).", *who)
        self.cost_unknown = counter("llm_cost_unknown", "Calls whose price is not known.", "provider", "model")
        self.refusals = counter("llm_refusals", "Calls that were refused, by x-llm-error.", "error", "team", "endpoint")
        self.estimated = counter("llm_estimated", "Calls whose usage is our estimate.", "provider", "model")
        self.overflow = counter(
            "llm_label_overflow", "Values counted as `other`: over the limit of distinct ones, or unknown.", "label"
        )
        self.policy = histogram("llm_policy_seconds", "Seconds of our own processing in a call.", _POLICY_BUCKETS)
        self.usage = histogram(
            "gen_ai_client_token_usage", "Tokens of a call, by type.", _TOKEN_BUCKETS, *_GEN_AI, "gen_ai_token_type"
        )
        self.duration = histogram(
            "gen_ai_server_request_duration_seconds",
            "Seconds until the last byte of the answer.",
            _DURATION_BUCKETS,
            *_GEN_AI,
            "error_type",
        )
        self.first_token = histogram(
            "gen_ai_server_time_to_first_token_seconds",
            "Seconds until the first byte of a streamed answer, of successful calls.",
            _FIRST_TOKEN_BUCKETS,
            *_GEN_AI,
        )
        self.in_flight = Gauge("llm_in_flight", "Calls that are open.", registry=registry, multiprocess_mode="livesum")


def adder(counter: Counter | Gauge) -> Add:
    """The `inc` of the number behind an instrument: without the checks of arguments that are ours."""
    add: Add = counter._value.inc  # noqa: SLF001  it has no public way
    return add


def observer(histogram: Histogram) -> Add:
    """As `histogram.observe`, which walks the buckets one by one. The amount must not be negative or NaN."""
    bounds: list[float] = histogram._upper_bounds  # noqa: SLF001  as above
    add_sum: Add = histogram._sum.inc  # noqa: SLF001
    add_one: list[Add] = [bucket.inc for bucket in histogram._buckets]  # noqa: SLF001

    def observe(amount: float) -> None:
        add_sum(amount)
        add_one[bisect_left(bounds, amount)](1.0)

    return observe


class CallCell:
    """The label children that records of one kind count into: found by one dictionary look-up per record."""

    __slots__ = ("always", "cost", "duration", "first_token", "tokens", "unknown_cost", "usage")

    def __init__(self, instruments: CallInstruments, labels: Mapping[str, str], outcome: str, error: str) -> None:
        who = (labels["team"], labels["app"], labels["provider"], labels["model"])
        at = (labels["provider"], labels["model"])
        gen_ai = (labels["operation"], labels["provider"], labels["request_model"], labels["response_model"])
        self.always = [adder(instruments.requests.labels(*who, labels["endpoint"], outcome))]
        if outcome == Outcome.REFUSED:
            self.always.append(adder(instruments.refusals.labels(error, labels["team"], labels["endpoint"])))
        self.tokens: Mapping[str, Add] = {}
        self.usage: Mapping[str, Add] = {}
        self.cost: Add | None = None
        self.unknown_cost: Add | None = None
        self.duration: Add | None = None
        self.first_token: Add | None = None
        if outcome in CALLED:
            self.tokens = {kind: adder(instruments.tokens.labels(*who, kind)) for kind in _KINDS}
            self.usage = {kind: observer(instruments.usage.labels(*gen_ai, kind)) for kind in ("input", "output")}
            self.cost = adder(instruments.cost.labels(*who))
            self.duration = observer(instruments.duration.labels(*gen_ai, error))
            self.unknown_cost = adder(instruments.cost_unknown.labels(*at))
        if outcome == Outcome.OK:
            self.first_token = observer(instruments.first_token.labels(*gen_ai))

    def count(self, record: Record) -> None:
        """Count one record."""
        for add in self.always:
            add(1.0)
        if self.duration is not None:
            self.duration(max(0.0, record.duration))
        if self.first_token is not None and record.stream and record.time_to_first_byte is not None:
            self.first_token(max(0.0, record.time_to_first_byte))
        if record.usage is not None and record.usage_source != UsageSource.NONE:  # a count of tokens uses none
            self._count_usage(record.usage)
        if self.cost is not None and self.unknown_cost is not None:
            if record.cost is not None:
                self.cost(float(record.cost))
            elif record.cost_reason:
                self.unknown_cost(1.0)

    def _count_usage(self, usage: Usage) -> None:
        for kind, add in self.tokens.items():
            count = getattr(usage, kind)
            if count and count > 0:  # a counter never falls, whatever a provider reports
                add(count)
        for kind, observe in self.usage.items():
            count = getattr(usage, kind)
            if count is not None:
                observe(count)
