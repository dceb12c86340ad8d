"""Prometheus instruments of a worker and of the supervisor.

Names: OpenTelemetry's GenAI metrics in Prometheus form (https://opentelemetry.io/docs/specs/semconv/gen-ai/gen-ai-metrics/,
with their advised buckets); our own begin with `llm_`. Workers write to memory-mapped files that survive a kill -9; the
supervisor adds them up (`metrics_server`).
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar, Final

from prometheus_client import CollectorRegistry, Counter, Gauge, multiprocess, values
from prometheus_client.mmap_dict import MmapedDict, mmap_key

from extproc.adapters.fleet import What, WorkerEvent
from extproc.adapters.metrics_calls import CALLED, CallCell, CallInstruments, LabelValues, adder, observer
from extproc.adapters.metrics_limits import LimitMetrics
from extproc.adapters.metrics_redaction import RedactionMetrics
from extproc.exchange.facts import Outcome, UsageSource
from extproc.exchange.record import Record

_DOUBLE: Final = struct.Struct("d").pack
# the vendor did not know what was asked for: a caller must not fill our label values with names that do not exist
_NO_SUCH: Final = frozenset({400, 404, 405, 422})
_MAX_CELLS: Final = 4096


class _SharedValue:
    """One number in a memory-mapped file. Follows the interface of `prometheus_client.values`.

    prometheus_client's own class takes a lock and asks for the process id at every increment, in case of threads and
    forks. A worker has neither: leaving them out halves the cost of a call's numbers.
    """

    _multiprocess: ClassVar = True
    folder: ClassVar[Path]
    worker: ClassVar[str]
    files: ClassVar[dict[str, MmapedDict]] = {}

    def __init__(  # noqa: PLR0913, PLR0917  prometheus_client's own signature
        self,
        typ: str,
        metric_name: str,
        name: str,
        labelnames: Sequence[str],
        labelvalues: Sequence[str],
        help_text: str,
        multiprocess_mode: str = "",
        **_: object,
    ) -> None:
        prefix = f"{typ}_{multiprocess_mode}" if typ == "gauge" else typ
        if prefix not in self.files:
            path = str(self.folder / f"{prefix}_{self.worker}.db")
            self.files[prefix] = MmapedDict(path)  # type: ignore[no-untyped-call]  # untyped
        self._file = self.files[prefix]
        self._key = mmap_key(metric_name, name, list(labelnames), list(labelvalues), help_text)
        self._value, _at = self._file.read_value(self._key)  # type: ignore[no-untyped-call]  # untyped
        # where the number stands in the file; its time stands behind it
        self._start: int = self._file._positions[self._key]  # noqa: SLF001  it has no public way
        self._end = self._start + 8

    def inc(self, amount: float) -> None:
        self._value += amount
        # the map is another one after the file has grown
        self._file._m[self._start : self._end] = _DOUBLE(self._value)  # noqa: SLF001

    def set(self, value: float, timestamp: float | None = None) -> None:
        self._value = value
        self._file.write_value(self._key, value, timestamp or 0.0)  # type: ignore[no-untyped-call]  # untyped

    def get(self) -> float:
        return float(self._value)

    def set_exemplar(self, _exemplar: object) -> None:
        """Drop it: files have no place for exemplars."""

    def get_exemplar(self) -> None:
        """Say that there is none."""


def share_values(folder: Path, worker: str) -> None:
    """Let all instruments made from now on keep their values in files of `folder` that bear the worker's id.

    Call once, first thing in a worker process. No two live processes may have one id; a dead one's id should be used
    again: its counters go on. Instruments are then for one thread only.
    """
    _SharedValue.folder = folder
    _SharedValue.worker = worker
    values.ValueClass = _SharedValue


def clear_shared_values(folder: Path) -> None:
    """Make the folder, and empty it of an earlier run's files: called by the supervisor before any worker starts."""
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    for path in folder.glob("*.db"):
        path.unlink(missing_ok=True)


class MetricsSink:
    """Counts records; one object a worker, used from the event loop's thread only."""

    def __init__(self, registry: CollectorRegistry, value_limit: int) -> None:
        """Make the instruments. `value_limit`: distinct values of one label (`labels.metric_values`)."""
        self._instruments = CallInstruments(registry)
        self._values = LabelValues(value_limit, self._instruments.overflow)
        self._cells: dict[tuple[object, ...], tuple[CallCell, tuple[Counter, ...]]] = {}
        self._in_flight = adder(self._instruments.in_flight)
        self._policy = observer(self._instruments.policy)
        self._redaction = RedactionMetrics(registry, self._values)
        self.limits = LimitMetrics(registry, self._values)

    def opened(self) -> None:
        """Count a call in."""
        self._in_flight(1.0)

    def closed(self) -> None:
        """Count a call out."""
        self._in_flight(-1.0)

    def write(self, record: Record) -> None:
        """Count the record in every instrument."""
        key = (
            *(record.team, record.app, record.provider, record.model, record.endpoint, record.outcome),
            *(record.operation, record.requested_model, record.response_model, record.status, record.error),
            record.usage_source,
        )
        found = self._cells.get(key)
        if found is None:
            found = self._make(key, record)
        cell, overflow = found
        cell.count(record)
        for counter in overflow:
            counter.inc()
        self._policy(max(0.0, record.policy_seconds))
        if record.redaction is not None:
            self._redaction.count(record, record.redaction)
        if record.quota is not None:
            self.limits.count(record, record.quota)

    observe = write

    def _make(self, key: tuple[object, ...], record: Record) -> tuple[CallCell, tuple[Counter, ...]]:
        known = record.outcome in CALLED and record.status not in _NO_SUCH
        wanted = {
            "team": ("team", record.team, True),
            "app": ("app", record.app, True),
            "provider": ("provider", record.provider, True),
            "endpoint": ("endpoint", record.endpoint, True),
            "operation": ("operation", record.operation, True),
            "model": ("model", record.model or record.requested_model, known),
            "request_model": ("model", record.requested_model, known),
            "response_model": ("response_model", record.response_model, known),
        }
        labels: dict[str, str] = {}
        overflow: dict[str, Counter] = {}
        for name, (kind, value, admit) in wanted.items():
            labels[name], counter = self._values.take(kind, value, admit=admit)
            if counter is not None:
                overflow[kind] = counter
        cell = CallCell(self._instruments, labels, record.outcome, _error_type(record))
        if record.usage_source == UsageSource.ESTIMATED:
            cell.always.append(adder(self._instruments.estimated.labels(labels["provider"], labels["model"])))
        if len(self._cells) >= _MAX_CELLS:
            self._cells.clear()  # keys hold what callers send; the children stay, a cell is cheap to make again
        self._cells[key] = (cell, tuple(overflow.values()))
        return self._cells[key]


def _error_type(record: Record) -> str:
    """OpenTelemetry's `error.type`: our own code, else the vendor's status, else how it ended; empty for success."""
    if record.error:
        return record.error
    if record.outcome == Outcome.PROVIDER_ERROR and record.status >= 400:
        return str(record.status)
    return "" if record.outcome in {Outcome.OK, Outcome.ANSWERED} else record.outcome


class StateMetrics:
    """What a worker says of the files it watches: config and key table. Of several workers the worst counts."""

    def __init__(self, registry: CollectorRegistry) -> None:
        """Make the gauges."""

        def gauge(name: str, text: str, mode: str) -> Gauge:
            return Gauge(name, text, registry=registry, multiprocess_mode=mode)  # type: ignore[arg-type]  # a Literal

        self._generation = gauge(
            "llm_config_generation", "Config generation in use (of the slowest worker).", "livemin"
        )
        self._config_ok = gauge(
            "llm_config_reload_ok", "1: the newest config is in use; 0: refused by a worker.", "livemin"
        )
        self._config_at = gauge("llm_config_reload_timestamp_seconds", "Last attempt to load the config.", "livemax")
        self._keys = gauge("llm_keys", "Virtual keys in the table (of the worker that knows fewest).", "livemin")
        self._keys_ok = gauge(
            "llm_keys_reload_ok", "1: the newest key file is in use; 0: refused by a worker.", "livemin"
        )
        self._keys_at = gauge("llm_keys_reload_timestamp_seconds", "Last attempt to load the key file.", "livemax")

    def config(self, *, generation: int, ok: bool, at: float) -> None:
        """Tell of an attempt to load the config. `at`: UNIX seconds."""
        self._generation.set(generation)
        self._config_ok.set(float(ok))
        self._config_at.set(at)

    def keys(self, *, count: int, ok: bool, at: float) -> None:
        """Tell of an attempt to load the key file. `at`: UNIX seconds."""
        self._keys.set(count)
        self._keys_ok.set(float(ok))
        self._keys_at.set(at)


class FleetMetrics:
    """The supervisor's own: a listener for `Supervisor`."""

    def __init__(self, registry: CollectorRegistry, folder: Path) -> None:
        """Make the instruments. `folder`: the workers' shared values; a dead worker's gauges are removed from it."""
        self._folder = folder
        self._workers = Gauge("llm_workers", "Worker processes, by state.", ["state"], registry=registry)
        self._starts = Counter("llm_worker_starts", "Worker processes started.", registry=registry)
        self._deaths = Counter(
            "llm_worker_deaths",
            "Worker processes that ended; planned=false is a crash or a kill.",
            ["planned"],
            registry=registry,
        )
        self._live: dict[int, str] = {}
        for planned in ("true", "false"):
            self._deaths.labels(planned)
        self._show()

    def __call__(self, event: WorkerEvent) -> None:
        """Count the event."""
        if event.what is What.STARTED:
            self._starts.inc()
            self._live[event.pid] = "starting"
        elif event.what in {What.READY, What.DRAINING}:
            self._live[event.pid] = event.what.value
        elif event.what is What.DIED:
            self._live.pop(event.pid, None)
            self._deaths.labels("true" if event.planned else "false").inc()
            multiprocess.mark_process_dead(event.worker, str(self._folder))  # type: ignore[no-untyped-call]  # untyped
        self._show()

    def _show(self) -> None:
        for state in ("starting", "ready", "draining"):
            self._workers.labels(state).set(sum(one == state for one in self._live.values()))
