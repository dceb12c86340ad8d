from __future__ import annotations

import json
import subprocess
import sys
from decimal import Decimal
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry

from adapters.sample_records import STREAMED, record
from extproc.adapters.fleet import What, WorkerEvent
from extproc.adapters.metrics import FleetMetrics, MetricsSink, StateMetrics, clear_shared_values
from extproc.usage import Usage

WHO = {"team": "demo", "app": "shop", "provider": "openai", "model": "gpt-4o-mini"}
GEN_AI = {
    "gen_ai_operation_name": "chat",
    "gen_ai_provider_name": "openai",
    "gen_ai_request_model": "fast",
    "gen_ai_response_model": "gpt-4o-mini-2024-07-18",
}


@pytest.fixture
def registry() -> CollectorRegistry:
    return CollectorRegistry()


@pytest.fixture
def sink(registry: CollectorRegistry) -> MetricsSink:
    return MetricsSink(registry, value_limit=3)


def total(registry: CollectorRegistry, name: str, **labels: str) -> float:
    """The sum of all samples of this name with these labels."""
    return sum(
        sample.value
        for metric in registry.collect()
        for sample in metric.samples
        if sample.name == name and labels.items() <= sample.labels.items()
    )


def label_values(registry: CollectorRegistry, name: str, label: str) -> set[str]:
    return {sample.labels[label] for metric in registry.collect() for sample in metric.samples if sample.name == name}


def test_a_streamed_call_counts_in_every_instrument(registry: CollectorRegistry, sink: MetricsSink) -> None:
    """Requests, tokens by kind, cost, OpenTelemetry's histograms, our own time."""
    sink.write(STREAMED)
    sink.write(STREAMED)

    assert registry.get_sample_value("llm_requests_total", {**WHO, "endpoint": "openai_chat", "outcome": "ok"}) == 2
    assert registry.get_sample_value("llm_tokens_total", {**WHO, "kind": "input"}) == 2400
    assert registry.get_sample_value("llm_tokens_total", {**WHO, "kind": "cached_input"}) == 2000
    assert registry.get_sample_value("llm_cost_usd_total", WHO) == pytest.approx(0.000024)
    usage = {**GEN_AI, "gen_ai_token_type": "output"}
    assert registry.get_sample_value("gen_ai_client_token_usage_sum", usage) == 600
    assert registry.get_sample_value("gen_ai_client_token_usage_bucket", {**usage, "le": "256.0"}) == 0
    assert registry.get_sample_value("gen_ai_client_token_usage_bucket", {**usage, "le": "1024.0"}) == 2
    assert registry.get_sample_value("gen_ai_server_time_to_first_token_seconds_sum", GEN_AI) == pytest.approx(0.8)
    duration = {**GEN_AI, "error_type": ""}
    assert registry.get_sample_value("gen_ai_server_request_duration_seconds_count", duration) == 2
    assert registry.get_sample_value("llm_policy_seconds_count") == 2
    assert registry.get_sample_value("llm_cost_unknown_total", {"provider": "openai", "model": "gpt-4o-mini"}) == 0


def test_the_time_to_first_token_is_of_streams_only(registry: CollectorRegistry, sink: MetricsSink) -> None:
    """A JSON answer's first byte says nothing of the first token."""
    sink.write(record(stream=False))

    assert total(registry, "gen_ai_server_time_to_first_token_seconds_count") == 0
    assert total(registry, "gen_ai_server_request_duration_seconds_count") == 1


def test_a_refusal_counts_as_refusal_and_not_as_a_call_to_a_model(
    registry: CollectorRegistry, sink: MetricsSink
) -> None:
    """No duration, no tokens, no unknown price; a caller that is not known has the team `none`."""
    refused = record(
        outcome="refused", error="caller_invalid_key", status=401, team="", app="", model="", usage=None, cost=None
    )
    sink.write(refused)

    assert total(registry, "llm_refusals_total", error="caller_invalid_key", team="none", endpoint="openai_chat") == 1
    assert total(registry, "llm_requests_total", outcome="refused", team="none") == 1
    assert total(registry, "gen_ai_server_request_duration_seconds_count") == 0
    assert total(registry, "llm_cost_unknown_total") == 0


def test_an_unknown_price_is_counted_and_never_zero_cost(registry: CollectorRegistry, sink: MetricsSink) -> None:
    """Finance is alarmed by this counter."""
    sink.write(record(cost=None, cost_reason="no rate for this model"))

    assert total(registry, "llm_cost_unknown_total", provider="openai", model="gpt-4o-mini") == 1
    assert total(registry, "llm_cost_usd_total") == 0


def test_estimates_and_errors_are_told_apart(registry: CollectorRegistry, sink: MetricsSink) -> None:
    """An estimate is counted; `error_type` is our code, the vendor's status, or how it ended."""
    sink.write(record(outcome="cut_short", usage_source="estimated", status=200))
    sink.write(record(outcome="provider_error", status=529))
    sink.write(record(outcome="unreachable", status=503, error="provider_unreachable"))

    assert total(registry, "llm_estimated_total", model="gpt-4o-mini") == 1
    errors = label_values(registry, "gen_ai_server_request_duration_seconds_count", "error_type")
    assert errors == {"cut_short", "529", "provider_unreachable"}


def test_values_over_the_limit_become_other_and_are_counted(registry: CollectorRegistry, sink: MetricsSink) -> None:
    """Known values go on being counted under their name."""
    for number in [*range(10), 0]:
        sink.write(record(team=f"team-{number}"))

    assert label_values(registry, "llm_requests_total", "team") == {"team-0", "team-1", "team-2", "other"}
    assert total(registry, "llm_requests_total", team="team-0") == 2
    assert total(registry, "llm_requests_total", team="other") == 7
    assert total(registry, "llm_label_overflow_total", label="team") == 7


def test_models_that_do_not_exist_take_no_place(registry: CollectorRegistry, sink: MetricsSink) -> None:
    """A caller that asks for invented models, refused by us or by the vendor, does not crowd the real ones out."""
    for number in range(20):
        invented = f"invented-{number}"
        wrong = {"requested_model": invented, "model": invented, "response_model": ""}
        sink.write(record(**wrong, outcome="refused", error="policy_model_not_allowed", status=403))
        sink.write(record(**wrong, outcome="provider_error", status=404))
    sink.write(STREAMED)

    assert label_values(registry, "llm_requests_total", "model") == {"other", "gpt-4o-mini"}


@given(
    st.lists(st.tuples(st.text(max_size=3), st.text(max_size=3), st.sampled_from(["ok", "refused", "provider_error"])))
)
def test_no_series_is_lost_and_their_number_is_bounded(calls: list[tuple[str, str, str]]) -> None:
    """Whatever is called: the sum is the number of calls, and no label has more values than allowed."""
    registry = CollectorRegistry()
    sink = MetricsSink(registry, value_limit=2)
    for team, model, outcome in calls:
        sink.write(record(team=team, model=model, outcome=outcome))

    assert total(registry, "llm_requests_total") == len(calls)
    assert len(label_values(registry, "llm_requests_total", "team")) <= 2 + 2
    assert len(label_values(registry, "llm_requests_total", "model")) <= 2 + 2


def test_the_cache_of_label_sets_is_bounded(registry: CollectorRegistry, sink: MetricsSink) -> None:
    """Endless new model names grow no memory."""
    for number in range(5000):
        sink.write(record(model=f"m{number}", outcome="refused", error="policy_model_not_allowed"))

    assert len(sink._cells) <= 4096
    assert total(registry, "llm_refusals_total") == 5000


def test_open_calls_are_a_gauge(registry: CollectorRegistry, sink: MetricsSink) -> None:
    """In and out."""
    sink.opened()
    sink.opened()
    sink.closed()

    assert registry.get_sample_value("llm_in_flight") == 1


def test_reloads_are_visible(registry: CollectorRegistry) -> None:
    """A refused config is a 0 that an alarm can watch."""
    state = StateMetrics(registry)
    state.config(generation=4, ok=False, at=1_000.0)
    state.keys(count=3, ok=True, at=2_000.0)

    assert registry.get_sample_value("llm_config_reload_ok") == 0
    assert registry.get_sample_value("llm_config_generation") == 4
    assert registry.get_sample_value("llm_keys") == 3
    assert registry.get_sample_value("llm_keys_reload_timestamp_seconds") == 2_000


def test_the_supervisor_counts_its_workers(registry: CollectorRegistry, tmp_path: Path) -> None:
    """Starts, deaths by kind, and how many are ready now; a dead worker's gauges go, its counters stay."""
    for name in ("gauge_livesum_w0.db", "gauge_livesum_w1.db", "counter_w0.db"):
        (tmp_path / name).touch()
    fleet = FleetMetrics(registry, tmp_path)
    for what, pid in ((What.STARTED, 1), (What.READY, 1), (What.STARTED, 2), (What.DIED, 1)):
        fleet(WorkerEvent(what, f"w{pid - 1}", pid))

    assert registry.get_sample_value("llm_worker_starts_total") == 2
    assert registry.get_sample_value("llm_worker_deaths_total", {"planned": "false"}) == 1
    assert registry.get_sample_value("llm_workers", {"state": "ready"}) == 0
    assert registry.get_sample_value("llm_workers", {"state": "starting"}) == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["counter_w0.db", "gauge_livesum_w1.db"]

    clear_shared_values(tmp_path)
    assert list(tmp_path.iterdir()) == []


COUNT = """
import os, signal, sys
from pathlib import Path
from prometheus_client import CollectorRegistry
from adapters.sample_records import STREAMED
from extproc.adapters.metrics import MetricsSink, StateMetrics, share_values

share_values(Path(sys.argv[1]), sys.argv[2])
registry = CollectorRegistry()
sink = MetricsSink(registry, 200)
sink.opened()
for _ in range(int(sys.argv[3])):
    sink.write(STREAMED)
StateMetrics(registry).config(generation=int(sys.argv[3]), ok=True, at=1.0)
os.kill(os.getpid(), signal.SIGKILL)
"""


def count_in_a_process(folder: Path, worker: str, calls: int) -> None:
    env = {"PYTHONPATH": str(Path(__file__).parents[1])}
    done = subprocess.run(
        [sys.executable, "-c", COUNT, str(folder), worker, str(calls)],
        env=env,
        timeout=30,
        check=False,
        stderr=subprocess.PIPE,
    )
    assert done.returncode == -9, done.stderr.decode()


def test_numbers_of_all_workers_add_up_and_survive_kill_9(tmp_path: Path) -> None:
    """Two workers, one of them killed and followed by another under the same id: nothing is lost, no file is added."""
    from extproc.adapters.metrics_server import MetricsServer

    own = CollectorRegistry()
    fleet = FleetMetrics(own, tmp_path)
    count_in_a_process(tmp_path, "w0", 3)
    count_in_a_process(tmp_path, "w1", 5)
    files = {path.name for path in tmp_path.iterdir()}
    fleet(WorkerEvent(What.DIED, "w0", 1))
    count_in_a_process(tmp_path, "w0", 4)

    kind, body = MetricsServer(tmp_path, own, dict).render()

    lines = body.decode().splitlines()
    assert kind.startswith("text/plain")
    wanted = 'llm_requests_total{app="shop",endpoint="openai_chat",model="gpt-4o-mini",outcome="ok",'
    assert [line.rpartition(" ")[2] for line in lines if line.startswith(wanted)] == ["12.0"]
    assert "llm_in_flight 2.0" in lines
    assert "llm_config_generation 4.0" in lines
    assert 'llm_worker_deaths_total{planned="false"} 1.0' in lines
    assert "# HELP llm_requests_total Calls by how they ended." in lines
    assert {path.name for path in tmp_path.iterdir()} == files


def test_costs_are_summed_over_many_small_ones(registry: CollectorRegistry, sink: MetricsSink) -> None:
    """Binary floating point is good to a fraction of a cent here; the exact sum is the log's."""
    for _ in range(1000):
        sink.write(record(cost=Decimal("0.054399"), usage=Usage(3, 550)))

    assert total(registry, "llm_cost_usd_total") == pytest.approx(54.399, abs=1e-6)
    assert json.dumps(total(registry, "llm_tokens_total", kind="output")) == "550000.0"
