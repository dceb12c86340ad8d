"""Write docs/metrics.md from the instruments themselves; `--check` compares and fails on a difference."""

from __future__ import annotations

import difflib
import sys
import tempfile
from collections.abc import Container
from pathlib import Path

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.metrics import MetricWrapperBase

from extproc.adapters.metrics import FleetMetrics, MetricsSink, StateMetrics
from extproc.adapters.metrics_calls import NONE, OTHER, LabelValues
from extproc.adapters.metrics_limits import LimitMetrics

TARGET = Path(__file__).parents[1] / "docs" / "metrics.md"

HEAD = f"""\
# Metrics

<!-- Written by scripts/metrics_reference.py from the code: `make docs`. -->

One endpoint serves the numbers of all workers, added up: `http://127.0.0.1:9464/metrics` by default
(`metrics.address` in `gateway.yaml`). `/healthz` beside it says in JSON how the workers are.

- Names that begin with `gen_ai_` are OpenTelemetry's GenAI metrics in Prometheus form, with OpenTelemetry's buckets; our own begin with `llm_`.
- A label has at most `labels.metric_values` distinct values in a worker; more are counted as `{OTHER}` (and in
  `llm_label_overflow_total`). A model that we or the provider refused takes no place. An empty value is `{NONE}`.
- Counters outlive a worker, however it ends, and start again from zero with the supervisor.
- Money here is binary floating point, for graphs and alarms. The exact amount is on each call's log line (`cost_usd`).
- Kinds of tokens overlap: `input` includes `cached_input` and `cache_creation_input`, `output` includes `reasoning`. Do not add them up.
"""

TAIL = """\
## Alarms worth having

| When | Expression |
|---|---|
| calls are not priced | `increase(llm_cost_unknown_total[15m]) > 0` |
| a worker crashed | `increase(llm_worker_deaths_total{planned="false"}[5m]) > 0` |
| the newest config or key file was refused | `llm_config_reload_ok == 0 or llm_keys_reload_ok == 0` |
| requests went on unsearched, as `on_budget` or `on_error` allow | `increase(llm_redaction_failures_total{outcome="forwarded"}[5m]) > 0` |
| requests are refused since they could not be searched | `increase(llm_redaction_failures_total{outcome="refused"}[5m]) > 0` |
| the store of limits is away | `llm_limit_store_up == 0` |
| calls are refused because it is away | `increase(llm_limit_denied_total[5m]) > 0` |
| settlements wait, or were given up | `llm_limit_settle_queue > 1000 or increase(llm_limit_lost_total[1h]) > 0` |
| workers died with calls in flight, which were charged as reserved | `increase(llm_limit_expired_total[15m]) > 0` |
| alerts do not reach the webhook | `increase(llm_limit_webhook_total{result!="sent"}[1h]) > 0` |
| input is estimated too low | `histogram_quantile(0.95, sum by (le) (rate(llm_limit_estimate_ratio_bucket[1h]))) > 1.1` |
| label values are lost to the cap | `increase(llm_label_overflow_total[1h]) > 0` |
"""


def section(title: str, registry: CollectorRegistry, without: Container[str] = ()) -> str:
    """One table: name as it is scraped, kind, labels, meaning, buckets. `without`: what stands in another."""
    lines = [f"## {title}", "", "| Name | Kind | Labels | Meaning |", "|---|---|---|---|"]
    for instrument in _instruments(registry):
        (metric,) = instrument.describe()
        if metric.name in without:
            continue
        name = f"{metric.name}_total" if isinstance(instrument, Counter) else metric.name
        labels = ", ".join(f"`{label}`" for label in instrument._labelnames)  # noqa: SLF001  there is no public way
        text = metric.documentation
        if isinstance(instrument, Histogram):
            bounds = ", ".join(f"{bound:.12g}" for bound in instrument._upper_bounds[:-1])  # noqa: SLF001  same
            text += f" Buckets: {bounds}."
        lines.append(f"| `{name}` | {metric.type} | {labels} | {text} |")
    return "\n".join([*lines, ""])


def _instruments(registry: CollectorRegistry) -> list[MetricWrapperBase]:
    found = list(registry._collector_to_names)  # noqa: SLF001  there is no public way to list collectors
    return [one for one in found if isinstance(one, (Counter, Gauge, Histogram))]


def render() -> str:
    """Give the whole page."""
    calls, state, fleet = CollectorRegistry(), CollectorRegistry(), CollectorRegistry()
    MetricsSink(calls, 1)
    StateMetrics(state)
    with tempfile.TemporaryDirectory() as folder:
        FleetMetrics(fleet, Path(folder))
    limits = CollectorRegistry()
    LimitMetrics(limits, LabelValues(1, Counter("llm_label_overflow", "", ["label"], registry=None)))
    known = {metric.name for instrument in _instruments(limits) for metric in instrument.describe()}
    tables = [
        section("Calls", calls, without=known),
        section("Limits", limits),
        section("Config and keys", state),
        section("Worker processes", fleet),
    ]
    return "\n".join([HEAD, *tables, TAIL])


def main(arguments: list[str]) -> int:
    """Write the page, or compare."""
    wanted = render()
    if arguments != ["--check"]:
        TARGET.write_text(wanted)
        return 0
    found = TARGET.read_text() if TARGET.exists() else ""
    diff = list(
        difflib.unified_diff(found.splitlines(), wanted.splitlines(), "docs/metrics.md", "the code", lineterm="")
    )
    print("\n".join(diff) if diff else "docs/metrics.md is up to date")
    return 1 if diff else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
