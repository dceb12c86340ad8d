"""What was found is counted by kind, operator and team; the numbers of labels are bounded."""

from __future__ import annotations

import pytest
from prometheus_client import CollectorRegistry, generate_latest

from adapters.sample_records import STREAMED, record
from extproc.adapters.metrics import MetricsSink
from extproc.exchange.record import RedactionSummary

FOUND = RedactionSummary(
    profile="standard",
    mode="enforce",
    entities=(("EMAIL_ADDRESS", "pseudonym", 3), ("API_KEY", "mask", 1)),
    seconds=0.0004,
    cached=5,
    scanned=2,
    restored=4,
)


@pytest.fixture
def registry() -> CollectorRegistry:
    return CollectorRegistry()


@pytest.fixture
def sink(registry: CollectorRegistry) -> MetricsSink:
    return MetricsSink(registry, value_limit=3)


def entities(registry: CollectorRegistry, **labels: str) -> float:
    """The sum of the entities with these labels."""
    return sum(
        sample.value
        for metric in registry.collect()
        for sample in metric.samples
        if sample.name == "llm_redaction_entities_total" and labels.items() <= sample.labels.items()
    )


def test_every_number_of_a_call_is_counted(registry: CollectorRegistry, sink: MetricsSink) -> None:
    """Entities, texts, time and what was restored add up over calls."""
    for _ in range(2):
        sink.write(record(redaction=FOUND))

    assert entities(registry, kind="EMAIL_ADDRESS", operator="pseudonym", team="demo", mode="enforce") == 6
    assert entities(registry, kind="API_KEY", operator="mask", team="demo", mode="enforce") == 2
    assert registry.get_sample_value("llm_redaction_texts_total", {"result": "hit"}) == 10
    assert registry.get_sample_value("llm_redaction_texts_total", {"result": "miss"}) == 4
    assert registry.get_sample_value("llm_redaction_restored_total") == 8
    assert registry.get_sample_value("llm_redaction_scan_seconds_count") == 2
    assert registry.get_sample_value("llm_redaction_scan_seconds_sum") == pytest.approx(0.0008)


def test_a_call_without_redaction_counts_nowhere(registry: CollectorRegistry, sink: MetricsSink) -> None:
    """Where nothing was looked at there is no time of looking."""
    sink.write(STREAMED)

    assert registry.get_sample_value("llm_redaction_scan_seconds_count") == 0
    assert entities(registry) == 0


@pytest.mark.parametrize(
    ("failed", "error", "outcome"),
    [
        ("budget", "gateway_inspection_failed", "refused"),
        ("error", "gateway_inspection_failed", "refused"),
        ("budget", "", "forwarded"),
        ("error", "provider_timeout", "forwarded"),
    ],
)
def test_a_failure_says_what_became_of_the_call(
    registry: CollectorRegistry, sink: MetricsSink, failed: str, error: str, outcome: str
) -> None:
    """An operator who lets unsearched calls go has an alarm for each."""
    summary = RedactionSummary(profile="standard", mode="enforce", failed=failed)
    sink.write(record(redaction=summary, error=error))

    assert registry.get_sample_value("llm_redaction_failures_total", {"reason": failed, "outcome": outcome}) == 1


def test_kinds_and_teams_over_the_limit_are_other(registry: CollectorRegistry, sink: MetricsSink) -> None:
    """No count is lost, and the overflow is counted."""
    for number in range(10):
        found = RedactionSummary(profile="p", mode="shadow", entities=((f"KIND_{chr(65 + number)}", "pseudonym", 2),))
        sink.write(record(redaction=found, team=f"team-{number}"))

    assert entities(registry, mode="shadow") == 20
    assert entities(registry, kind="other", team="other") == 14
    assert registry.get_sample_value("llm_label_overflow_total", {"label": "kind"}) == 7


def test_the_page_holds_kinds_and_no_more(registry: CollectorRegistry, sink: MetricsSink) -> None:
    """What is scraped names the kinds, and none of the record's other words of redaction."""
    sink.write(record(redaction=FOUND))
    page = generate_latest(registry).decode()

    labels = {line for line in page.splitlines() if line.startswith("llm_redaction_entities_total{")}
    assert labels == {
        'llm_redaction_entities_total{kind="EMAIL_ADDRESS",mode="enforce",operator="pseudonym",team="demo"} 3.0',
        'llm_redaction_entities_total{kind="API_KEY",mode="enforce",operator="mask",team="demo"} 1.0',
    }
