"""The limits of a worker as a whole: opened from a configuration, seen in the health detail, changed live, drained."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from adapters.limit_rig import organisation, until
from extproc.adapters import limit_service
from extproc.adapters.limit_service import AWAY, LimitService, prepare
from extproc.adapters.metrics import MetricsSink
from extproc.config import Config, load
from extproc.errors import ConfigError, LimitsAwayError
from extproc.exchange.effects import Reserve, Settle
from extproc.limits.counters import Charge, Subject
from extproc.limits.rules import Rules
from valkeys import Server, server

CONFIG = """
version: 1
providers: {{openai: {{api: openai, hosts: [api.openai.com]}}}}
keys: {{file: keys.json, pepper: {{file: pepper}}}}
access: [{{team: demo}}]
{quotas}
"""
QUOTAS = """
quotas:
  organisation: {organisation}
  store: {{url: "unix://{path}", timeout: 2s, lease: {lease}}}
  rules:
  - {{name: budget, kind: money, window: month, limit: {limit}}}
"""


@pytest.fixture(scope="module")
def valkey() -> Iterator[Server]:
    with server() as one:
        yield one


def config(path: object = "", limit: object = 1, lease: str = "15s", name: str = "default") -> Config:
    """Without a path: no quotas."""
    quotas = QUOTAS.format(path=path, limit=limit, lease=lease, organisation=name) if path else ""
    return load(CONFIG.format(quotas=quotas).encode(), "gateway.yaml", base=Path("/etc"))


@asynccontextmanager
async def opened(given: Config, folder: Path) -> AsyncIterator[tuple[LimitService, dict[str, str], CollectorRegistry]]:
    """(the service, what is wrong by name, its metrics)."""
    registry, notes = CollectorRegistry(), {}
    sink = MetricsSink(registry, 10)
    service = LimitService(given, folder, {}, sink.limits, notes.__setitem__)
    await service.open()
    running = asyncio.ensure_future(service.run())
    try:
        yield service, notes, registry
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        await service.drain()


def charges(rules: Rules, name: str, amount: int) -> tuple[Charge, ...]:
    return tuple(Charge(counter, amount) for counter in rules.counters(Subject(name)))


def rules_of(service: LimitService) -> Any:
    return service.limits._chores.rules


async def test_a_worker_holds_settles_and_counts(valkey: Server, tmp_path: Path) -> None:
    """From gateway.yaml to the store, and what is left is told when the worker ends."""
    name = organisation()
    async with opened(config(valkey.path, name=name), tmp_path) as (service, notes, registry):
        amounts = charges(rules_of(service), name, 10**8)
        reply = await service.limits.reserve(Reserve("a", name, amounts))
        assert (reply.refused, reply.standings[0].limit) == ((), 10**9)
        assert (await service.limits.reserve(Reserve("b", name, charges(rules_of(service), name, 10**9)))).refused
        service.limits.settle(Settle("a", (5 * 10**7,)))
        assert not notes.get(AWAY)
    assert valkey.client().hmget(amounts[0].counter.key, "u", "r") == [b"50000000", b"0"]
    told = {sample.name for family in registry.collect() for sample in family.samples if sample.value}
    assert {"llm_limit_reserved_total", "llm_limit_settled_total", "llm_limit_refused_total"} <= told


async def test_health_says_since_when_the_store_is_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And that it is back, when it is."""
    monkeypatch.setattr(limit_service, "_LOOK", 0.05)
    with server() as valkey:
        name = organisation()
        async with opened(config(valkey.path, name=name), tmp_path) as (service, notes, _):
            amounts = charges(rules_of(service), name, 1)
            await service.limits.reserve(Reserve("a", name, amounts))
            valkey.kill()
            service.limits.settle(Settle("a", (1,)))
            await until(lambda: "settlements waiting" in notes.get(AWAY, ""))
            with pytest.raises(LimitsAwayError):
                await service.limits.reserve(Reserve("b", name, amounts))
            assert notes[AWAY].startswith("since 20")
            assert notes[AWAY].endswith("settlements waiting: 1")
            valkey.start()
            await until(lambda: not notes[AWAY])


async def test_a_worker_starts_without_its_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It says so, and does what the limits say for that."""
    monkeypatch.setattr(limit_service, "_CONNECT", 0.05)
    async with opened(config(tmp_path / "nobody"), tmp_path) as (service, notes, _):
        assert notes[AWAY]
        with pytest.raises(LimitsAwayError, match="budget"):
            await service.limits.reserve(Reserve("a", "default", charges(rules_of(service), "default", 1)))


async def test_new_limits_are_taken_and_another_store_is_not(valkey: Server, tmp_path: Path) -> None:
    """What was used stays; where it is kept can only be changed by a restart."""
    name = organisation()
    async with opened(config(valkey.path, name=name), tmp_path) as (service, _, _):
        change = prepare(service, config(valkey.path, limit=3, name=name))
        service.commit(change)
        assert rules_of(service).rule("budget").limit == 3 * 10**9
        with pytest.raises(ConfigError, match="restart") as caught:
            prepare(service, config(valkey.path, lease="20s"))
        assert caught.value.path == "quotas.store"
        service.commit(prepare(service, config()))
        assert rules_of(service).rule("budget").limit == 3 * 10**9


async def test_limits_need_a_restart_where_there_were_none(valkey: Server) -> None:
    """No store was opened for them; a configuration without any is taken."""
    with pytest.raises(ConfigError, match="restart"):
        prepare(None, config(valkey.path))
    assert prepare(None, config()) is None
