"""What one worker counts of limits: amounts by kind of scope, calls by limit, and how the store is.

No label holds a subject's name (a team, a user): `scope` says by which dimensions a limit counts (`team`, `app/model`),
`rule` is the limit's name in the configuration. Money is in US dollars here, and everywhere else in billionths.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from extproc.adapters.limit_events import LimitEvents
from extproc.adapters.metrics_calls import Add, LabelValues, adder, observer
from extproc.exchange.facts import UsageSource
from extproc.exchange.record import QuotaSummary, Record
from extproc.limits import counters
from extproc.limits.counters import NANO, Charge, Kind, Reserved, Rule, Standing

_RESERVE_BUCKETS: Final = (0.00005, 0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25)
_RATIO_BUCKETS: Final = (0.1, 0.25, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 1.1, 1.25, 1.5, 2.0, 4.0)
_MAX_CELLS: Final = 4096

SENT: Final = "sent"
FAILED: Final = "failed"
DROPPED: Final = "dropped"


class _ByLimit:
    """Counters by what limits are: a limit counts into children of its own."""

    def __init__(self, registry: CollectorRegistry) -> None:
        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(name, text, (*labels, "scope", "kind", "window"), registry=registry)

        self.reserved = counter(
            "llm_limit_reserved", "Amounts held when calls were admitted, in the unit of `kind` (money: US dollars)."
        )
        self.settled = counter("llm_limit_settled", "Amounts that calls really used, in the unit of `kind`.")
        self.overshoot = counter(
            "llm_limit_overshoot", "Amounts by which settled use went above a hard limit, in the unit of `kind`."
        )
        self.local = counter(
            "llm_limit_local",
            "Amounts spent by replicas on their own while the store was away, counted when it is back.",
        )
        self.refused = counter(
            "llm_limit_refused",
            "Calls refused, by each limit that had no room (a call may count under several).",
            "rule",
        )
        self.over = counter("llm_limit_over", "Calls admitted above a soft limit.", "rule")


class _Others:
    """What has no limit's labels."""

    def __init__(self, registry: CollectorRegistry) -> None:
        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(name, text, labels, registry=registry)

        self.denied = counter(
            "llm_limit_denied", "Calls refused because the store is away and this limit says deny.", "rule"
        )
        self.alerts = counter("llm_limit_alerts", "Thresholds reached, by per cent of the limit.", "rule", "level")
        self.webhook = counter(
            "llm_limit_webhook", "Alerts for the webhook: sent, failed (given up), dropped (queue full).", "result"
        )
        self.extensions = counter(
            "llm_limit_extensions", "What running streams asked for on top: granted, refused.", "result"
        )
        self.stopped = counter("llm_limit_stopped", "Streams ended because no more could be held for them.")
        self.ratio = Histogram(
            "llm_limit_estimate_ratio",
            "Real input tokens over the estimate that was reserved: above 1 it was too low.",
            ["model"],
            buckets=_RATIO_BUCKETS,
            registry=registry,
        )


class _StoreState:
    """How the store is, and what its absence and the death of workers leave behind."""

    def __init__(self, registry: CollectorRegistry) -> None:
        def counter(name: str, text: str) -> Counter:
            return Counter(name, text, registry=registry)

        self.seconds = Histogram(
            "llm_limit_reserve_seconds",
            "Seconds that calls waited for their reservation.",
            buckets=_RESERVE_BUCKETS,
            registry=registry,
        )
        self.up = Gauge(
            "llm_limit_store_up",
            "1: the store of limits answers; 0: away (of the worker that is worst off).",
            registry=registry,
            multiprocess_mode="livemin",
        )
        self.breaks = counter("llm_limit_store_breaks", "Times that a worker found the store of limits away.")
        self.queue = Gauge(
            "llm_limit_settle_queue",
            "Settlements that the store has not acknowledged yet.",
            registry=registry,
            multiprocess_mode="livesum",
        )
        self.expired = counter(
            "llm_limit_expired", "Reservations whose worker is gone: charged as reserved when their lease ended."
        )
        self.lost = counter(
            "llm_limit_lost", "Settlements given up: the store was away for longer than it remembers a reservation."
        )


class _Cell:
    """The numbers that one limit counts into."""

    __slots__ = ("local", "over", "overflow", "overshoot", "refused", "reserved", "rule", "scale", "settled")

    def __init__(self, instruments: _ByLimit, values: LabelValues, rule: Rule) -> None:
        scope, scopes_over = values.take("scope", "/".join(rule.scope))
        name, names_over = values.take("rule", rule.name)
        labels = (scope, rule.kind.value, rule.window.value)
        self.rule = rule
        self.scale = 1 / NANO if rule.kind is Kind.MONEY else 1.0
        self.overflow = tuple(one for one in (scopes_over, names_over) if one is not None)
        self.reserved: Add = adder(instruments.reserved.labels(*labels))
        self.settled: Add = adder(instruments.settled.labels(*labels))
        self.overshoot: Add = adder(instruments.overshoot.labels(*labels))
        self.local: Add = adder(instruments.local.labels(*labels))
        self.refused: Add = adder(instruments.refused.labels(name, *labels))
        self.over: Add = adder(instruments.over.labels(name, *labels))


class LimitMetrics(LimitEvents):
    """Counts what happens to limits; one object a worker, used from the event loop's thread only."""

    def __init__(self, registry: CollectorRegistry, values: LabelValues) -> None:
        """Make the instruments. `values`: the distinct values of labels, shared with the other instruments."""
        self._by_limit = _ByLimit(registry)
        self._others = _Others(registry)
        self._store = _StoreState(registry)
        self._values = values
        self._cells: dict[int, _Cell] = {}  # by the identity of the rule, which its cell keeps alive
        self._ratios: dict[str, tuple[Add, Counter | None]] = {}
        self._seconds = observer(self._store.seconds)
        self._granted = adder(self._others.extensions.labels("granted"))
        self._withheld = adder(self._others.extensions.labels("refused"))
        self._webhook = {result: self._others.webhook.labels(result) for result in (SENT, FAILED, DROPPED)}
        self._store.up.set(1.0)
        self._is_up = True

    def count(self, record: Record, summary: QuotaSummary) -> None:
        """Count what only the record knows: how good the estimate was, and that a stream was stopped."""
        if summary.stopped:
            self._others.stopped.inc()
        real = record.usage.input if record.usage is not None else None
        if summary.estimated_input and real and real > 0 and record.usage_source == UsageSource.REPORTED:
            observe, overflow = self._ratios.get(record.model) or self._ratio(record.model)
            observe(real / summary.estimated_input)
            if overflow is not None:
                overflow.inc()

    def _ratio(self, model: str) -> tuple[Add, Counter | None]:
        shown, overflow = self._values.take("model", model)
        if len(self._ratios) >= _MAX_CELLS:
            self._ratios.clear()
        self._ratios[model] = (observer(self._others.ratio.labels(shown)), overflow)
        return self._ratios[model]

    def webhook(self, result: str) -> None:
        """Count an alert for the webhook: `SENT`, `FAILED` or `DROPPED`."""
        self._webhook[result].inc()

    def reserved(self, charges: Sequence[Charge], reply: Reserved, seconds: float) -> None:
        """Count the amounts, the soft limits that are exceeded, and the time."""
        for charge in charges:
            cell = self._cell(charge.counter.rule)
            cell.reserved(charge.amount * cell.scale)
        for index in reply.over:
            self._cell(charges[index].counter.rule).over(1.0)
        self._seconds(max(0.0, seconds))

    def refused(self, charges: Sequence[Charge], reply: Reserved, seconds: float) -> None:
        """Count the call under each limit that had no room."""
        for index in reply.refused:
            self._cell(charges[index].counter.rule).refused(1.0)
        self._seconds(max(0.0, seconds))

    def denied(self, charges: Sequence[Charge], rule: str) -> None:
        """Count the call under the limit that denies."""
        name, overflow = self._values.take("rule", rule)
        if overflow is not None:
            overflow.inc()
        self._others.denied.labels(name).inc()

    def extended(self, charge: Charge, *, granted: bool) -> None:
        """Count the outcome."""
        (self._granted if granted else self._withheld)(1.0)

    def settled(self, charges: Sequence[Charge], held: Sequence[int], *, local: bool) -> None:
        """Count the amounts."""
        for charge in charges:
            if charge.amount > 0:  # a counter never falls
                cell = self._cell(charge.counter.rule)
                cell.settled(charge.amount * cell.scale)

    def overshoot(self, counter: counters.Counter, amount: int) -> None:
        """Count the amount."""
        cell = self._cell(counter.rule)
        cell.overshoot(max(0, amount) * cell.scale)

    def alert(self, counter: counters.Counter, level: int, standing: Standing) -> None:
        """Count it by limit and level."""
        name, overflow = self._values.take("rule", counter.rule.name)
        if overflow is not None:
            overflow.inc()
        self._others.alerts.labels(name, str(level)).inc()

    def expired(self, count: int) -> None:
        """Count them."""
        self._store.expired.inc(count)

    def away(self, away: bool, reason: str) -> None:
        """Show the store's state; going away counts once until it is back."""
        if away and self._is_up:
            self._store.breaks.inc()
        self._is_up = not away
        self._store.up.set(float(not away))

    def local_spent(self, counter: counters.Counter, amount: int) -> None:
        """Count the amount."""
        cell = self._cell(counter.rule)
        cell.local(max(0, amount) * cell.scale)

    def queue(self, length: int) -> None:
        """Show the length."""
        self._store.queue.set(length)

    def lost(self, count: int) -> None:
        """Count them."""
        self._store.lost.inc(count)

    def _cell(self, rule: Rule) -> _Cell:
        cell = self._cells.get(id(rule))
        if cell is None:
            if len(self._cells) >= _MAX_CELLS:
                self._cells.clear()  # the children stay, a cell is cheap to make again
            cell = self._cells[id(rule)] = _Cell(self._by_limit, self._values, rule)
        for counter in cell.overflow:
            counter.inc()
        return cell
