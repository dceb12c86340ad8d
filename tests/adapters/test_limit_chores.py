"""What is done beside calls: dead workers' reservations are charged, and what nobody uses is forgotten."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from adapters.limit_rig import OPEN, PATIENT, RULES, charges, organisation, proxied, rig, until
from extproc.adapters import limit_chores
from extproc.adapters.limit_store import Settings
from extproc.exchange.effects import Reserve, Settle
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
    """A newer gateway may own it: it stays, behind all others, however many there are of it."""
    async with rig(valkey, settings=SHORT) as dead, rig(valkey, settings=SHORT) as alive:
        await dead.limits.close()
        name, client = dead.organisation, valkey.client()
        bad = [f"bad{n}" for n in range(300)]
        for one in bad:
            client.set(scripts.record_key(scripts.Handle(name, one)), "nonsense")
        client.zadd(scripts.leases_key(name), dict.fromkeys(bad, 1))
        await dead.reserve("a", 5, 5, 1)
        alive.organisation = name
        await alive.reserve("own", 0, 0, 0)
        await until(lambda: alive.tape.told["expired"])
        assert alive.books() == [(5, 0), (5, 0), (0, 0)]
        await until(lambda: client.zcount(scripts.leases_key(name), 0, 1) == 0)
        assert client.zcard(scripts.leases_key(name)) == len(bad) + 1  # and its own


async def test_a_counter_of_another_type_hinders_no_other(valkey: Server) -> None:
    """The script refuses that one reservation, which is looked at again a lease later; the others are charged."""
    async with rig(valkey, settings=SHORT) as dead, rig(valkey, settings=SHORT) as alive:
        await dead.limits.close()
        name, client = dead.organisation, valkey.client()
        for call in "abc":
            await dead.reserve(call, 5, 5, 1)
        broken = dead.limits._open["a"].handle
        record = client.get(scripts.record_key(broken))
        client.set(scripts.record_key(broken), record.replace(b"c:budget:", b"c:elsewhere:"))
        wrong = dead.charges(0, 0, 0)[0].counter.key.replace(b"c:budget:", b"c:elsewhere:")
        client.set(wrong, "a string")
        alive.organisation = name
        await alive.reserve("own", 0, 0, 0)
        await until(lambda: sum(alive.tape.told["expired"]) == 2)
        assert alive.books()[0] == (10, 5)
        assert client.zscore(scripts.leases_key(name), broken.id) > 0
        client.delete(wrong)
        await until(lambda: sum(alive.tape.told["expired"]) == 3)


async def test_a_name_that_is_no_text_hinders_nothing(valkey: Server) -> None:
    """It cannot be one of ours: put back."""
    async with rig(valkey, settings=SHORT) as alive:
        key = scripts.leases_key(alive.organisation)
        valkey.client().zadd(key, {b"\xff\xfe": 1})
        await alive.reserve("own", 0, 0, 0)
        await until(lambda: valkey.client().zscore(key, b"\xff\xfe") > 1)
        assert alive.books() == [(0, 0), (0, 0), (0, 0)]


async def test_each_look_takes_on_other_reservations(valkey: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers that sweep at the same time do not all work on the first ones of the index."""
    monkeypatch.setattr(limit_chores, "_TAKEN", 10)
    async with rig(valkey, settings=PATIENT) as one:
        await one.reserve("own", 0, 0, 0)
        key = scripts.leases_key(one.organisation)
        valkey.client().zadd(key, {f"n{n}": n + 1 for n in range(500)})
        shard = one.limits._shards[one.organisation]
        looks = [await one.limits._chores._due(shard) for _ in range(20)]
        assert {len(look) for look in looks} == {10}
        assert len({look[0] for look in looks}) > 1


async def test_calls_that_were_cut_off_hold_their_slots_again(valkey: Server) -> None:
    """Longer than a lease: another worker charged them meanwhile. They run on, so they are in flight again."""
    async with rig(valkey, settings=SHORT) as alive, proxied(valkey, settings=SHORT) as (cut, proxy):
        alive.organisation = cut.organisation
        await alive.reserve("own", 0, 0, 0)
        for n in range(40):  # more than one portion
            await cut.reserve(f"a{n}", 5, 5, 1)
        proxy.flowing.clear()
        await until(lambda: sum(alive.tape.told["expired"]) == 40)
        assert alive.books() == [(200, 0), (200, 0), (0, 0)]
        proxy.flowing.set()
        await until(lambda: alive.books() == [(0, 200), (0, 200), (0, 40)])
        assert cut.tape.told["extended"] == []
        for n in range(40):
            cut.settle(f"a{n}", 1, 2, 1)
        await cut.settled()
        assert alive.books() == [(40, 0), (80, 0), (0, 0)]


async def test_calls_that_the_store_has_lost_hold_again(valkey: Server) -> None:
    """A fail-over lost the records: the next renewal reserves them anew."""
    async with rig(valkey, settings=SHORT) as one:
        await one.reserve("a", 5, 6, 1)
        for key in valkey.client().keys(f"xq:{{{one.organisation}}}:*"):
            valkey.client().delete(key)
        await until(lambda: one.books() == [(0, 5), (0, 6), (0, 1)])
        one.limits.settle(Settle("a", (4, 3, 1)))
        await until(lambda: one.limits.unsettled == 0)
        assert one.books() == [(4, 0), (3, 0), (0, 0)]


async def test_a_store_that_takes_no_writes_stays_away(valkey: Server) -> None:
    """Reading it is no sign that it is back: it goes away once, not several times a second."""
    async with rig(valkey, OPEN) as one:
        await one.reserve("warm", 1, 1)
        valkey.client().config_set("min-replicas-to-write", 1)
        try:
            assert (await one.reserve("a", 1, 1)).local
            for _ in range(5):
                await one.limits._chores.probe()
            assert [away for away, _ in one.tape.told["away"]] == [True]
        finally:
            valkey.client().config_set("min-replicas-to-write", 0)
        await until(lambda: one.limits.away_since == 0.0)
        assert valkey.client().pttl(limit_chores.probe_key(one.limits._shards[one.organisation])) <= 1000


async def test_overrides_are_read_of_those_that_have_calls(valkey: Server) -> None:
    """Who has had none for minutes is not asked for each second; its next call reads them first."""
    async with rig(valkey) as one:
        quiet = organisation()
        await one.limits.reserve(Reserve("a", quiet, charges(RULES, quiet, 1, 1, 1)))
        shard = one.limits._shards[quiet]
        shard.used -= limit_chores._QUIET + 1
        counter = charges(RULES, quiet, 0, 0, 0)[0].counter
        valkey.client().hset(scripts.overrides_key(quiet), f"budget|{counter.value}", 77)
        valkey.client().set(scripts.overrides_version_key(quiet), 1)
        await one.limits._chores.poll()
        assert shard.limits == {}
        reply = await one.limits.reserve(Reserve("b", quiet, charges(RULES, quiet, 1, 1, 1)))
        assert reply.standings[0].limit == 77
        assert one.limits._shards[one.organisation].version is not None


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
