"""What is counted of limits: amounts by kind of scope, calls by limit, the store's state. No subject's name is a label."""

from __future__ import annotations

import pytest
from prometheus_client import CollectorRegistry, generate_latest

from adapters.sample_records import record
from extproc.adapters.limit_events import All, LimitEvents
from extproc.adapters.metrics import MetricsSink
from extproc.adapters.metrics_limits import SENT, LimitMetrics
from extproc.exchange.record import QuotaSummary
from extproc.limits.counters import NANO, Charge, Counter, Kind, Reserved, Rule, Standing, Window
from extproc.usage import Usage

BUDGET = Rule("team_month", Kind.MONEY, Window.MONTH, 500 * NANO, ("team",))
RATE = Rule("app_rate", Kind.TOKENS, Window.MINUTE, 1000, ("app", "model"), hard=False)
CHARGES = (
    Charge(Counter(BUDGET, "acme", "secretive-team", b"a"), NANO // 2),
    Charge(Counter(RATE, "acme", "secretive-app/gpt-4o", b"b"), 700),
)
STANDINGS = (Standing(0, 0, 500 * NANO), Standing(0, 0, 1000))
MONTH = {"scope": "team", "kind": "money", "window": "month"}
MINUTE = {"scope": "app/model", "kind": "tokens", "window": "minute"}


@pytest.fixture
def registry() -> CollectorRegistry:
    return CollectorRegistry()


@pytest.fixture
def sink(registry: CollectorRegistry) -> MetricsSink:
    return MetricsSink(registry, value_limit=3)


@pytest.fixture
def limits(sink: MetricsSink) -> LimitMetrics:
    return sink.limits


def test_a_call_is_counted_from_its_reservation_to_its_end(registry: CollectorRegistry, limits: LimitMetrics) -> None:
    """Money in dollars, tokens as they are; a soft limit that is exceeded counts a call."""
    limits.reserved(CHARGES, Reserved(STANDINGS, over=(1,)), 0.0003)
    limits.settled([Charge(CHARGES[0].counter, NANO // 4), Charge(CHARGES[1].counter, 650)], (1, 1), local=False)
    limits.overshoot(CHARGES[1].counter, 30)
    get = registry.get_sample_value
    assert get("llm_limit_reserved_total", MONTH) == pytest.approx(0.5)
    assert get("llm_limit_reserved_total", MINUTE) == 700
    assert get("llm_limit_settled_total", MONTH) == pytest.approx(0.25)
    assert get("llm_limit_settled_total", MINUTE) == 650
    assert get("llm_limit_overshoot_total", MINUTE) == 30
    assert get("llm_limit_over_total", {"rule": "app_rate", **MINUTE}) == 1
    assert get("llm_limit_over_total", {"rule": "team_month", **MONTH}) == 0
    assert get("llm_limit_reserve_seconds_count") == 1
    assert get("llm_limit_reserve_seconds_sum") == pytest.approx(0.0003)


def test_a_refusal_counts_each_limit_without_room(registry: CollectorRegistry, limits: LimitMetrics) -> None:
    """And nothing as reserved."""
    limits.refused(CHARGES, Reserved(STANDINGS, refused=(0,)), 0.0002)
    limits.refused(CHARGES, Reserved(STANDINGS, refused=(0, 1)), 0.0002)
    limits.denied(CHARGES, "team_month")
    get = registry.get_sample_value
    assert get("llm_limit_refused_total", {"rule": "team_month", **MONTH}) == 2
    assert get("llm_limit_refused_total", {"rule": "app_rate", **MINUTE}) == 1
    assert get("llm_limit_reserved_total", MONTH) == 0
    assert get("llm_limit_denied_total", {"rule": "team_month"}) == 1


def test_the_stores_state_is_shown(registry: CollectorRegistry, limits: LimitMetrics) -> None:
    """Going away counts once, however often it is told."""
    get = registry.get_sample_value
    assert get("llm_limit_store_up") == 1
    for _ in range(3):
        limits.away(away=True, reason="connection lost")
    limits.queue(7)
    limits.lost(2)
    limits.expired(3)
    assert get("llm_limit_store_up") == 0
    assert get("llm_limit_store_breaks_total") == 1
    assert (get("llm_limit_settle_queue"), get("llm_limit_lost_total"), get("llm_limit_expired_total")) == (7, 2, 3)
    limits.away(away=False, reason="")
    limits.local_spent(CHARGES[0].counter, NANO)
    assert get("llm_limit_store_up") == 1
    assert get("llm_limit_local_total", MONTH) == pytest.approx(1.0)


def test_alerts_extensions_and_the_webhook(registry: CollectorRegistry, limits: LimitMetrics) -> None:
    """Each by its outcome."""
    limits.alert(CHARGES[0].counter, 80, STANDINGS[0])
    limits.extended(CHARGES[0], granted=True)
    limits.extended(CHARGES[0], granted=False)
    limits.webhook(SENT)
    get = registry.get_sample_value
    assert get("llm_limit_alerts_total", {"rule": "team_month", "level": "80"}) == 1
    assert get("llm_limit_extensions_total", {"result": "granted"}) == 1
    assert get("llm_limit_extensions_total", {"result": "refused"}) == 1
    assert get("llm_limit_webhook_total", {"result": "sent"}) == 1
    assert get("llm_limit_webhook_total", {"result": "failed"}) == 0


@pytest.mark.parametrize(
    ("changes", "seen"),
    [
        ({}, 1),
        ({"usage_source": "estimated"}, 0),
        ({"usage": None}, 0),
        ({"usage": Usage(0, 0)}, 0),
        ({"quota": QuotaSummary()}, 0),
        ({"quota": QuotaSummary(estimated_input=0)}, 0),
    ],
)
def test_the_estimate_is_judged_by_what_the_vendor_reports(
    registry: CollectorRegistry, sink: MetricsSink, changes: dict[str, object], seen: int
) -> None:
    """The ratio is of real to estimated input; our own count judges nothing."""
    sink.write(record(**{"quota": QuotaSummary(estimated_input=1500), **changes}))
    labels = {"model": "gpt-4o-mini"}
    assert (registry.get_sample_value("llm_limit_estimate_ratio_count", labels) or 0) == seen
    assert (registry.get_sample_value("llm_limit_estimate_ratio_sum", labels) or 0) == pytest.approx(0.8 * seen)


def test_stopped_streams_are_counted(registry: CollectorRegistry, sink: MetricsSink) -> None:
    """Those that ran into a limit on their way; others not."""
    sink.write(record(quota=QuotaSummary(stopped=True)))
    sink.write(record(quota=QuotaSummary()))
    sink.write(record())
    assert registry.get_sample_value("llm_limit_stopped_total") == 1


def test_names_of_limits_are_bounded_and_no_subject_is_named(registry: CollectorRegistry, limits: LimitMetrics) -> None:
    """Over the cap they are `other`, and no count is lost. The page holds neither team nor app."""
    for number in range(10):
        rule = Rule(f"rule_{number}", Kind.REQUESTS, Window.HOUR, 1, ("user",))
        charge = Charge(Counter(rule, "acme", f"user-{number}", b"k"), 1)
        limits.refused([charge], Reserved((Standing(1, 0, 1),), refused=(0,)), 0.0001)
    page = generate_latest(registry).decode()
    lines = [line for line in page.splitlines() if line.startswith("llm_limit_refused_total{")]
    assert len(lines) == 4
    assert sum(float(line.rsplit(" ", 1)[1]) for line in lines) == 10
    assert registry.get_sample_value("llm_label_overflow_total", {"label": "rule"}) == 7
    limits.reserved(CHARGES, Reserved(STANDINGS), 0.0001)
    page = generate_latest(registry).decode()
    assert "user-" not in page
    assert "secretive" not in page


def test_a_reload_gives_a_name_to_another_limit(registry: CollectorRegistry, limits: LimitMetrics) -> None:
    """It is counted by what it is now; an override of the same rule is the same number."""
    counter = Counter(Rule("r", Kind.REQUESTS, Window.HOUR, 1), "acme", "acme", b"k")
    changed = Counter(Rule("r", Kind.TOKENS, Window.HOUR, 1), "acme", "acme", b"k")
    override = Counter(Rule("r", Kind.TOKENS, Window.HOUR, 9), "acme", "acme", b"k")
    for one in (counter, changed, override):
        limits.reserved([Charge(one, 5)], Reserved((Standing(0, 5, 1),)), 0.0001)
    get = registry.get_sample_value
    assert get("llm_limit_reserved_total", {"scope": "organisation", "kind": "requests", "window": "hour"}) == 5
    assert get("llm_limit_reserved_total", {"scope": "organisation", "kind": "tokens", "window": "hour"}) == 10


def test_every_event_is_told_to_all(limits: LimitMetrics) -> None:
    """The metrics take every event there is, alone or among others."""
    several: LimitEvents = All((limits, limits))
    several.settled(CHARGES, (1, 1), local=True)
    cell = limits._cell(BUDGET)
    assert cell.rule is BUDGET
    assert limits._by_limit.settled.labels(*MONTH.values())._value.get() == pytest.approx(1.0)
