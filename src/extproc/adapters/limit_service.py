"""The limits of one worker and what belongs to them: the store's connection, alerts, health, changes of configuration."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, NamedTuple

import structlog

from extproc.adapters.alerts import Alerts, Hook, open_hook
from extproc.adapters.limit_events import All
from extproc.adapters.limit_store import LimitStore, Settings
from extproc.adapters.metrics_limits import LimitMetrics
from extproc.adapters.valkey_process import socket_path
from extproc.adapters.valkey_topology import make_store
from extproc.config import Config
from extproc.config.quotas import Quotas, compile_rules
from extproc.errors import ConfigError
from extproc.limits.rules import Rules

AWAY: Final = "store of limits away"
"""What the health detail calls it."""

_CONNECT: Final = 1.0  # seconds that a worker waits for the store before it serves without it
_FLUSH: Final = 2.0  # seconds that a worker that ends waits for the store to know all
_LAST_ALERTS: Final = 1.0  # … and for the webhook to take what is left; together less than a supervisor waits
_CLOSE: Final = 0.5
_LOOK: Final = 1.0


class Change(NamedTuple):
    """Of a new configuration, checked: what the limits take of it."""

    rules: Rules
    hook: Hook | None


class LimitService:
    """`open` once on the running loop, `run` in the background, `drain` at the end."""

    def __init__(
        self,
        config: Config,
        state: Path,
        environ: Mapping[str, str],
        metrics: LimitMetrics,
        note: Callable[[str, str], None],
    ) -> None:
        """`config` has quotas. `note`: told what is wrong, by name, and empty when it is right again.

        Raises `ConfigError` where a password, a certificate or the webhook's secret is not there.
        """
        quotas = _quotas(config)
        self._quotas: Final = quotas
        self._environ: Final = environ
        self._note: Final = note
        change = self._read(quotas)
        self._alerts: Final = Alerts(change.hook, metrics.webhook)
        embedded = socket_path(state) if quotas.store.place.form == "embedded" else state
        self._store: Final = make_store(quotas.store, embedded, environ)
        settings = Settings(quotas.store.timeout, quotas.store.lease, config.workers.count)
        self.limits: Final = LimitStore(self._store, settings, change.rules, All((metrics, self._alerts)))
        self._store.on_connected = lambda _server: self.limits.kick()

    async def open(self, number: int = 0) -> None:
        """Begin. Waits a moment for the store; without it, limits do what they say for that.

        `number`: of this worker among those of the replica that live, from 0 on.
        """
        self.limits.start(self._quotas.organisation, number)
        if not await self._store.connect(_CONNECT):
            self._note(AWAY, self._store.trouble)

    async def run(self) -> None:
        """Keep the health detail."""
        while True:
            await asyncio.sleep(_LOOK)
            since, waiting = self.limits.away_since, self.limits.unsettled
            if since:
                at = datetime.fromtimestamp(since, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
                self._note(AWAY, f"since {at}; settlements waiting: {waiting}")
            else:
                self._note(AWAY, "")

    async def drain(self) -> None:
        """Tell the store what is left to tell, the webhook too, and end. Takes four seconds at most."""
        await self.limits.drain(_FLUSH)
        await _within(_LAST_ALERTS, self._alerts.close())
        await _within(_CLOSE, self._store.close())

    def prepare(self, config: Config) -> Change | None:
        """Check a new configuration; None where it limits nothing any more. Raises `ConfigError`."""
        if config.quotas is None:
            return None
        if config.quotas.store != self._quotas.store:
            raise ConfigError("quotas.store", "is another one than that which is in use", "restart the gateway")
        return self._read(config.quotas)

    def commit(self, change: Change | None) -> None:
        """Take it. Without limits only what is under way is settled."""
        if change is not None:
            self.limits.take(change.rules)
            self._alerts.use(change.hook)

    def _read(self, quotas: Quotas) -> Change:
        hook = quotas.webhook
        opened = None if hook is None else open_hook(hook.url, hook.authorization, self._environ)
        return Change(Rules(compile_rules(quotas)), opened)


def prepare(service: LimitService | None, config: Config) -> Change | None:
    """`service.prepare`; a worker that was started without limits has no store to keep them in. Raises `ConfigError`."""
    if service is not None:
        return service.prepare(config)
    if config.quotas is not None:
        raise ConfigError("quotas", "was not there when the gateway started", "restart the gateway")
    return None


async def _within(seconds: float, work: Coroutine[object, object, None]) -> None:
    """Let it work for so long; then end it."""
    task = asyncio.ensure_future(work)
    await asyncio.wait([task], timeout=seconds)
    if not task.done():
        task.cancel()
        structlog.get_logger("extproc.limits").error("what was left to tell at the end was cut short", seconds=seconds)
    await asyncio.gather(task, return_exceptions=True)


def _quotas(config: Config) -> Quotas:
    if config.quotas is None:
        raise ConfigError("quotas", "is missing")
    return config.quotas
