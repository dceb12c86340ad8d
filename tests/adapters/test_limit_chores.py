"""What is done beside calls: dead workers' reservations are charged, and what nobody uses is forgotten."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from adapters.limit_rig import PATIENT, RULES, charges, organisation, rig, until
from extproc.adapters import limit_chores
from extproc.adapters.limit_store import Settings
from extproc.exchange.effects import Reserve
from extproc.limits import scripts
from valkeys import Server, server

SHORT = Settings(timeout=2.0, lease=0.4)


@pytest.fixture(scope="module")
def valkey() -> Iterator[Server]:
    with server() as one:
        yield one


async def test_an_expired_charge_is_told_as_any_other(valkey: Server) -> None:
    """The worker that expires it tells the threshold, by the rule as it knows it."""
    async with rig(valkey, settings=SHORT) as dead, rig(valkey, settings=SHORT) as alive:
        await dead.limits.close()
        await dead.reserve("a", 600, 1, 1)
        alive.organisation = dead.organisation
        await alive.reserve("own", 1, 1, 1)
        await until(lambda: alive.tape.told["expired"])
        assert alive.tape.told["alert"] == [("budget", "search", 50)]
        assert alive.books() == [(600, 1), (1, 1), (0, 1)]


async def test_many_are_expired_at_once(valkey: Server) -> None:
    """More than one look at the index finds."""
    async with rig(valkey, settings=SHORT) as dead, rig(valkey, settings=SHORT) as alive:
        await dead.limits.close()
        for n in range(scripts.DUE + 20):
            amounts = charges(RULES, dead.organisation, 1, 1, 0)
            assert not (await dead.limits.reserve(Reserve(f"a{n}", dead.organisation, amounts))).refused
        alive.organisation = dead.organisation
        await alive.reserve("own", 0, 0, 0)
        await until(lambda: sum(alive.tape.told["expired"]) == scripts.DUE + 20)
        assert alive.books()[:2] == [(scripts.DUE + 20, 0)] * 2


async def test_a_record_that_is_none_is_complained_of_and_hinders_nothing(valkey: Server) -> None:
    """Somebody wrote into our keys: the others are expired all the same, however many there are of it."""
    async with rig(valkey, settings=SHORT) as dead, rig(valkey, settings=SHORT) as alive:
        await dead.limits.close()
        name = dead.organisation
        for n in range(scripts.DUE):
            valkey.client().zadd(scripts.leases_key(name), {f"bad{n}": 1})
            valkey.client().set(scripts.record_key(scripts.Handle(name, f"bad{n}")), "nonsense")
        await dead.reserve("a", 5, 5, 1)
        alive.organisation = name
        await alive.reserve("own", 0, 0, 0)
        await until(lambda: alive.tape.told["expired"])
        assert alive.books() == [(5, 0), (5, 0), (0, 0)]
        await until(lambda: valkey.client().zcard(scripts.leases_key(name)) == 1)  # its own


async def test_nobody_is_expired_before_owners_could_renew(valkey: Server) -> None:
    """A worker that has just met the store again waits one lease."""
    async with rig(valkey, settings=SHORT) as one:
        name = one.organisation
        await one.reserve("own", 1, 1, 1)
        shard = one.limits._shards[name]
        valkey.client().zadd(scripts.leases_key(name), {"gone": 1})
        shard.lost("test")
        shard.back()
        await one.limits._chores.sweep()
        assert valkey.client().zscore(scripts.leases_key(name), "gone") == 1.0
        await until(lambda: valkey.client().zscore(scripts.leases_key(name), "gone") is None)


async def test_organisations_that_nobody_uses_are_forgotten(valkey: Server) -> None:
    """But the worker's own, and those with open calls."""
    async with rig(valkey, settings=PATIENT) as one:
        quiet, busy = organisation(), organisation()
        for name in (quiet, busy):
            await one.limits.reserve(Reserve(name, name, charges(RULES, name, 1, 1, 1)))
        one.limits._open.pop(quiet)
        for shard in one.limits._shards.values():
            shard.used = time.monotonic() - limit_chores._UNUSED - 1
        await one.limits._chores._tidy()
        assert set(one.limits._shards) == {one.organisation, busy}
