"""The only composition root: configuration in, running processes out."""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

import structlog
import uvloop
from prometheus_client import CollectorRegistry

from extproc.adapters.detection import FOLDER, WARM, Detectors
from extproc.adapters.first_run import CA_FOLDER, certificates, provider_hosts
from extproc.adapters.fleet import Launch, Plan, StartError
from extproc.adapters.grpc_server import Processor, make_server
from extproc.adapters.health import Health
from extproc.adapters.host import Host
from extproc.adapters.keys import FileKeyStore, Hasher, KeyRows, read_key_file, read_pepper
from extproc.adapters.leaves import Leaves
from extproc.adapters.limit_service import Change, LimitService, prepare
from extproc.adapters.logs import LineWriter, configure
from extproc.adapters.metrics import FleetMetrics, MetricsSink, StateMetrics, clear_shared_values, share_values
from extproc.adapters.metrics_server import MetricsServer
from extproc.adapters.minting import SOCKET, Minter, MintServer
from extproc.adapters.pki_chain import exists
from extproc.adapters.records import RecordLog
from extproc.adapters.scans import Scans
from extproc.adapters.sockets import FolderLock, ParentLink
from extproc.adapters.supervisor import Supervisor, log_event, stop_on_signals
from extproc.adapters.tokens import Tokenizers
from extproc.adapters.valkey_process import EmbeddedStore
from extproc.adapters.watch import Target, Watcher, read_file
from extproc.adapters.worker import Parts, Worker
from extproc.config import Config, load
from extproc.config.store_url import EMBEDDED
from extproc.errors import ConfigError
from extproc.limits.estimates import Estimates
from extproc.redaction.cache import FindingCache
from extproc.runtime import Detection, build

WORKER_COMMAND: Final = "worker"
DETECTORS: Final = "EXTPROC_DETECTORS"
# seconds that the supervisor waits beyond the worker's own drain before it kills
_DRAIN_SLACK: Final = 5.0
_SHARED: Final = "metrics"  # folder of the workers' shared values, under the state folder
# what /healthz calls a file that was refused
_REFUSED_CONFIG: Final = "configuration refused, the old one stays"
_REFUSED_KEYS: Final = "key file refused, the old table stays"
_FINDINGS: Final = 32 << 20  # bytes of remembered findings in each worker
# numpy's library asks before its first use; threads of its own make its small products slower, on a busy machine by far
_ONE_THREAD: Final = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
_TOKENS: Final = "tiktoken"  # tiktoken's cache, under the state folder


@dataclass(frozen=True, slots=True)
class Place:
    """Where a gateway lives on this machine."""

    config: Path
    state: Path
    log: Path | None = None  # where log lines go; None: standard output

    @property
    def sockets(self) -> Path:
        """The folder of the workers' sockets: `run/` beside Envoy's files, so that Envoy finds it by a relative path."""
        return self.state / "envoy" / "run"

    @property
    def detectors(self) -> Path:
        """Where compiled patterns are kept: `EXTPROC_DETECTORS`, which several gateways may share, or the state folder."""
        return Path(os.environ.get(DETECTORS) or self.state / FOLDER)


def make_writer(place: Place) -> LineWriter:
    """The process's one writer of log lines. Several processes may append to the file."""
    if place.log is None:
        return LineWriter()
    return LineWriter(os.open(place.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600))


def set_up_logging(config: Config, writer: LineWriter) -> None:
    """Set this process's logging up as the configuration says."""
    configure(config.log.format, config.log.level, writer)


def read_config(place: Place) -> tuple[Config, bytes]:
    """The configuration and the bytes it came from. Raises `ConfigError`."""
    data = read_file(place.config)
    return _parse(place, data), data


def _parse(place: Place, data: bytes) -> Config:
    return load(data, str(place.config), base=place.config.absolute().parent)


def own(place: Place) -> FolderLock:
    """Make the state folder, and give the lock that keeps a second gateway out of it: it would overwrite Envoy's files.

    Entering the lock raises `ConfigError` where another process has it.
    """
    place.state.mkdir(parents=True, exist_ok=True, mode=0o700)
    return FolderLock(place.state)


def open_keys(config: Config) -> tuple[FileKeyStore, bytes]:
    """The key table and the bytes it came from. Raises `ConfigError` where the pepper or the key file cannot be used."""
    store = FileKeyStore(Hasher(read_pepper(config.keys.pepper, os.environ)))
    data = read_key_file(Path(config.keys.file))
    store.apply(data)
    return store, data


class _Troubles:
    """What a worker was given and could not take: told to the supervisor, which shows it in /healthz until it is mended."""

    def __init__(self, parent: ParentLink | None) -> None:
        self._parent = parent
        self._known: dict[str, str] = {}

    def note(self, what: str, reason: str = "") -> None:
        """`reason` empty: `what` is in order."""
        if not reason and what not in self._known:
            return
        self._known[what] = reason
        if self._parent is not None:
            self._parent.report("; ".join(f"{name}: {text}" for name, text in self._known.items() if text))


def prepare_detection(place: Place, config: Config) -> Detection:
    """Detectors for the configuration's profiles; takes seconds at the first start on a machine. Raises `ConfigError`."""
    return Detectors(place.detectors).prepare(config, os.environ)


def _warm(scans: Scans, detection: Detection) -> None:
    scans.warm([one.texts for one in detection.scanners.values()], WARM)


_Prepared = tuple[Config, Detection, Change | None]
_Serving = tuple[Host, Detectors, Scans, LimitService | None]


class _Reload:
    """Brings a changed gateway.yaml live: parse and compile in a thread, swap on the loop, keep the old one on error."""

    def __init__(
        self, place: Place, serving: _Serving, state: StateMetrics, troubles: _Troubles, estimates: Estimates
    ) -> None:
        self._place = place
        self._host, self._detectors, self._scans, self._limits = serving
        self._state = state
        self._troubles = troubles
        self._estimates = estimates
        self._log = structlog.get_logger("extproc.config")

    def watcher(self, seen: bytes) -> Watcher[_Prepared]:
        """Watch from `seen` on."""
        target: Target[_Prepared] = Target(self._prepare, self._commit, self._failed)
        return Watcher(self._place.config, target, seen=seen)

    def _prepare(self, data: bytes) -> _Prepared:
        config = _parse(self._place, data)
        change = prepare(self._limits, config)
        return config, self._detectors.prepare(config, os.environ), change

    def _commit(self, prepared: _Prepared) -> None:
        config, detection, change = prepared
        generation = self._host.current.generation + 1
        _warm(self._scans, detection)
        self._host.current = build(config, generation, detection, self._estimates)
        if self._limits is not None:
            self._limits.commit(change)
        self._state.config(generation=generation, ok=True, at=time.time())
        self._troubles.note(_REFUSED_CONFIG)
        self._log.info("configuration is live", generation=generation)

    def _failed(self, error: ConfigError) -> None:
        generation = self._host.current.generation
        self._state.config(generation=generation, ok=False, at=time.time())
        self._troubles.note(_REFUSED_CONFIG, str(error))
        self._log.error("configuration refused, the old one stays", reason=str(error), generation=generation)


def _key_watcher(
    config: Config, keys: tuple[FileKeyStore, bytes], state: StateMetrics, troubles: _Troubles
) -> Callable[[], Awaitable[None]]:
    store, seen = keys
    log = structlog.get_logger("extproc.keys")

    def note(*, ok: bool) -> None:
        state.keys(count=store.status().keys, ok=ok, at=time.time())

    def commit(rows: KeyRows) -> None:
        store.commit(rows)
        note(ok=True)
        troubles.note(_REFUSED_KEYS)
        log.info("key table is live", keys=store.status().keys)

    def failed(error: ConfigError) -> None:
        store.refuse(error)
        note(ok=False)
        troubles.note(_REFUSED_KEYS, str(error))
        log.error("key file refused, the old table stays", reason=str(error))

    note(ok=True)
    target: Target[KeyRows] = Target(store.prepare, commit, failed)
    return Watcher(Path(config.keys.file), target, seen=seen, read=read_key_file).run


async def _parts(
    place: Place, given: tuple[Config, bytes], writer: LineWriter, launch: Launch, parent: ParentLink | None
) -> Parts:
    """Everything that one worker runs."""
    config, data = given
    registry = CollectorRegistry()
    state = StateMetrics(registry)
    metrics = MetricsSink(registry, config.labels.metric_values)
    keys = open_keys(config)
    scans = Scans(FindingCache(_FINDINGS, os.urandom(32)))
    detectors = Detectors(place.detectors)
    detection = detectors.prepare(config, os.environ)
    _warm(scans, detection)
    estimates = Estimates()
    runtime = build(config, detection=detection, estimates=estimates)
    sinks = (RecordLog(writer, config.log.format), metrics)
    tokens = Tokenizers(place.state / _TOKENS)
    if config.quotas is not None and config.quotas.exact_input:  # else only what was cut off is counted
        await asyncio.to_thread(tokens.warm)
    host = Host(runtime, keys[0], tokens, sinks, scans)
    host.gauge = metrics
    state.config(generation=1, ok=True, at=time.time())
    health = Health()
    server = make_server(Processor(host), (health.handler(),), config.limits.request_body)
    troubles = _Troubles(parent)
    limits = None
    if config.quotas is not None:
        limits = LimitService(config, place.state, os.environ, metrics.limits, troubles.note)
        host.limits = limits.limits
        await limits.open(launch.number)
    reload = _Reload(place, (host, detectors, scans, limits), state, troubles, estimates).watcher(data)
    watchers = (reload.run, _key_watcher(config, keys, state, troubles), *(() if limits is None else (limits.run,)))

    async def settled() -> None:
        await host.settled()
        if limits is not None:
            await limits.drain()
        scans.close()

    return Parts(server, health, watchers, lambda: host.open, settled, config.workers.drain)


def run_worker(place: Place, launch: Launch) -> None:
    """Be one worker process until it is told to stop. Raises `ConfigError`."""
    shared = place.state / _SHARED
    shared.mkdir(parents=True, exist_ok=True, mode=0o700)  # a worker may run without a supervisor
    share_values(shared, launch.worker)
    given = read_config(place)
    writer = make_writer(place)
    set_up_logging(given[0], writer)
    structlog.contextvars.bind_contextvars(worker=launch.worker)

    async def main() -> None:
        parent = ParentLink(launch.control_fd) if launch.control_fd >= 0 else None
        await Worker(await _parts(place, given, writer, launch, parent), launch.socket, parent).run()

    try:
        uvloop.run(main())
    finally:
        writer.close()


def _command(place: Place, launch: Launch) -> Sequence[str]:
    return [
        *(sys.executable, "-m", "extproc", WORKER_COMMAND),
        *("--config", str(place.config), "--state", str(place.state)),
        *(() if place.log is None else ("--log", str(place.log))),
        *("--socket", str(launch.socket), "--worker", launch.worker, "--control-fd", str(launch.control_fd)),
    ]


class Sidecar:
    """The supervisor, its workers and the metrics endpoint: what `serve` runs alone and `up` runs beside Envoy."""

    def __init__(self, place: Place, config: Config) -> None:
        """Compose; nothing runs yet."""
        registry = CollectorRegistry()
        shared = place.state / _SHARED
        clear_shared_values(shared)
        plan = Plan(
            folder=place.sockets,
            command=partial(_command, place),
            count=config.workers.count,
            environment={**_ONE_THREAD, **os.environ, "PYTHONUNBUFFERED": "1"},
            drain=config.workers.drain + _DRAIN_SLACK,
        )
        self._address = config.metrics.address
        self._log = place.log
        embedded = config.quotas is not None and config.quotas.store.url == EMBEDDED
        self._store = EmbeddedStore(place.state) if embedded else None
        self._minting = _minting(place, config)
        self.supervisor = Supervisor(plan, (log_event, FleetMetrics(registry, shared)))
        self._metrics = MetricsServer(shared, registry, self._health)

    def _health(self) -> dict[str, object]:
        workers = self.supervisor.workers
        store = {} if self._store is None else {"store": self._store.status}
        return {"ok": any(worker.state == "ready" for worker in workers), **store, "workers": workers}

    async def ready(self, running: asyncio.Future[None]) -> None:
        """Return when every worker slot is served; raises what ended `running` if it ended before."""
        waiting = asyncio.ensure_future(self.supervisor.wait_ready())
        await asyncio.wait([waiting, running], return_when=asyncio.FIRST_COMPLETED)
        waiting.cancel()
        if running.done():
            running.result()

    async def run(self) -> None:
        """Run until the supervisor was stopped and all workers have drained. Raises `ConfigError` if no worker starts."""
        await self._metrics.start(self._address)
        try:
            if self._store is not None:
                await self._store.start()
            if self._minting is not None:
                await self._minting.start()
            await self.supervisor.run()
        except StartError as error:
            said = "in its lines above" if self._log is None else f"above and in {self._log}"
            raise ConfigError("workers", str(error), f"the worker says why {said}") from error
        finally:
            if self._minting is not None:
                await self._minting.stop()
            if self._store is not None:
                await self._store.stop()
            await self._metrics.close()


def _minting(place: Place, config: Config) -> MintServer | None:
    """The supervisor mints, as the one process that lives as long as Envoy. Raises `ConfigError`."""
    if not config.interception.minting:
        return None
    minter = Minter(place.state / CA_FOLDER, provider_hosts(config), config.interception.leaf_life)
    return MintServer(minter, place.sockets / SOCKET)


async def renewing_for_ever(leaves: Leaves) -> None:
    """Keep the leaves fresh; a crash is logged and the next look comes all the same: else they would end, and every call."""
    log = structlog.get_logger("extproc.certificates")
    while True:
        # it waits before each look, so that this does not spin
        (crash,) = await asyncio.gather(leaves.run(), return_exceptions=True)
        log.error("the renewal of certificates crashed, it goes on", exc_info=crash)


def serve(place: Place) -> None:
    """Run the sidecar alone, until SIGTERM. Raises `ConfigError`."""
    config, _ = read_config(place)
    open_keys(config)
    writer = make_writer(place)
    set_up_logging(config, writer)

    async def main() -> None:
        # a CA in the state folder means that certificates come from here; else somebody else puts them before Envoy
        envoy = place.sockets.parent
        leaves = certificates(place.state, config, envoy) if exists(place.state / CA_FOLDER) else None
        sidecar = Sidecar(place, config)
        stop_on_signals(sidecar.supervisor)
        renewing = None if leaves is None else asyncio.ensure_future(renewing_for_ever(leaves))
        try:
            await sidecar.run()
        finally:
            if renewing is not None:
                renewing.cancel()

    try:
        with own(place):
            asyncio.run(main())
    finally:
        writer.close()
