"""What one worker counts of what was found in texts. Kinds and numbers only: no text, no value, no place in a text."""

from __future__ import annotations

from typing import Final

from prometheus_client import CollectorRegistry, Counter, Histogram

from extproc.adapters.metrics_calls import Add, LabelValues, adder, observer
from extproc.errors import ErrorCode
from extproc.exchange.record import Record, RedactionSummary

_SCAN_BUCKETS: Final = (
    *(0.00002, 0.00005, 0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01),
    *(0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5),
)
_MAX_CELLS: Final = 4096


class RedactionMetrics:
    """Counts the redaction of records; one object a worker, used from the event loop's thread only."""

    def __init__(self, registry: CollectorRegistry, values: LabelValues) -> None:
        """Make the instruments. `values`: the distinct values of labels, shared with the other instruments."""

        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(name, text, labels, registry=registry)

        self._values = values
        self._entities = counter(
            "llm_redaction_entities",
            "Entities found, by what became of them; in mode `shadow`, what would have.",
            *("kind", "operator", "team", "mode"),
        )
        texts = counter(
            "llm_redaction_texts", "Texts looked at: known by the cache (hit), or searched (miss).", "result"
        )
        self._failures = counter(
            "llm_redaction_failures",
            "Requests whose texts could not be searched, by reason (budget, error) and outcome (refused, forwarded).",
            *("reason", "outcome"),
        )
        seconds = Histogram(
            "llm_redaction_scan_seconds",
            "Seconds of looking for entities in a call, the cache included.",
            buckets=_SCAN_BUCKETS,
            registry=registry,
        )
        restored = counter("llm_redaction_restored", "Placeholders in answers that became their originals again.")
        self._seconds = observer(seconds)
        self._restored = adder(restored)
        self._hits = adder(texts.labels("hit"))
        self._misses = adder(texts.labels("miss"))
        self._cells: dict[tuple[str, str, str, str], tuple[Add, tuple[Counter, ...]]] = {}

    def count(self, record: Record, found: RedactionSummary) -> None:
        """Count what one call's texts held. `found` is the record's own."""
        self._seconds(max(0.0, found.seconds))
        if found.cached:
            self._hits(found.cached)
        if found.scanned:
            self._misses(found.scanned)
        if found.restored:
            self._restored(found.restored)
        if found.failed:
            refused = record.error == ErrorCode.GATEWAY_INSPECTION_FAILED
            self._failures.labels(found.failed, "refused" if refused else "forwarded").inc()
        for kind, operator, amount in found.entities:
            if amount <= 0:  # a counter never falls
                continue
            key = (kind, operator, record.team, found.mode)
            add, overflow = self._cells.get(key) or self._make(key)
            add(amount)
            for counter in overflow:
                counter.inc()

    def _make(self, key: tuple[str, str, str, str]) -> tuple[Add, tuple[Counter, ...]]:
        kind, operator, team, mode = key
        shown_kind, kinds_over = self._values.take("kind", kind)
        shown_team, teams_over = self._values.take("team", team)
        add = adder(self._entities.labels(shown_kind, operator, shown_team, mode))
        if len(self._cells) >= _MAX_CELLS:
            self._cells.clear()  # the children stay, a cell is cheap to make again
        self._cells[key] = (add, tuple(over for over in (kinds_over, teams_over) if over is not None))
        return self._cells[key]
