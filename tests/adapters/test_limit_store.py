"""Amounts are held and settled on a real Valkey, once each, whatever happens to the connection or to the server."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Iterator, Sequence

import msgspec
import pytest
import structlog

from adapters.limit_rig import OPEN, RULES, Rig, charges, organisation, proxied, rig, until
from extproc.adapters.limit_desk import Desk, Lines
from extproc.adapters.limit_shard import Shard
from extproc.adapters.limit_store import Settings
from extproc.adapters.valkey_cluster import slot_of
from extproc.errors import EffectError, LimitsAwayError
from extproc.exchange.effects import Extend, Reserve, Settle
from extproc.limits import scripts
from extproc.limits.counters import Charge, Extended, Kind, Rule, Subject, Window
from extproc.limits.rules import Rules
from valkeys import Server, cluster, sentinels, server, wait_for

SHORT = Settings(timeout=2.0, lease=0.6)


@pytest.fixture(scope="module")
def valkey() -> Iterator[Server]:
    with server() as one:
        yield one


async def test_what_is_held_is_settled_to_what_was_used(valkey: Server) -> None:
    """Held before the call, charged as used after it, told to those who count."""
    async with rig(valkey) as one:
        reply = await one.reserve("a", 100, 500, 1)
        assert not reply.refused
        assert [(each.used, each.reserved) for each in reply.standings] == [(0, 100), (0, 500), (0, 1)]
        assert one.books() == [(0, 100), (0, 500), (0, 1)]
        one.settle("a", 80, 600, 1)
        await one.settled()
        assert one.books() == [(80, 0), (600, 0), (0, 0)]
        assert one.tape.told["settled"] == [((80, 600, 1), (100, 500, 1), False)]


async def test_all_or_nothing(valkey: Server) -> None:
    """One hard limit without room: nothing is held anywhere, and settling it later changes nothing."""
    async with rig(valkey) as one:
        reply = await one.reserve("a", 1001, 1, 1)
        one.settle("a", 5, 5, 1)
        await one.settled()
        assert reply.refused == (0,)
        assert one.books() == [(0, 0)] * 3
        assert len(one.tape.told["refused"]) == 1


async def test_a_second_settlement_charges_nothing(valkey: Server) -> None:
    """Whoever says twice that a call is over is heard once."""
    async with rig(valkey) as one:
        await one.reserve("a", 100, 500, 1)
        one.settle("a", 80, 400, 1)
        one.settle("a", 80, 400, 1)
        await one.settled()
        assert one.books() == [(80, 0), (400, 0), (0, 0)]


async def test_a_burst_passes_no_limit(valkey: Server) -> None:
    """64 at once, from four workers, for room for 10: ten are admitted."""
    name = ""
    admitted = []
    async with rig(valkey) as one, rig(valkey) as two, rig(valkey) as three, rig(valkey) as four:
        name = one.organisation
        amounts = charges(RULES, name, 100, 1, 1)
        workers = [one, two, three, four]
        replies = await asyncio.gather(
            *(workers[n % 4].limits.reserve(Reserve(f"c{n}", name, amounts)) for n in range(64))
        )
        admitted = [n for n, reply in enumerate(replies) if not reply.refused]
        assert len(admitted) == 10
        for n in admitted:
            workers[n % 4].limits.settle(Settle(f"c{n}", (90, 1, 1)))
        for each in workers:
            await each.settled()
        assert one.books() == [(900, 0), (10, 0), (0, 0)]


async def test_extra_is_charged_where_nobody_had_reserved(valkey: Server) -> None:
    """Another provider answered: its counters are charged, those of the reservation too, named twice or not."""
    async with rig(valkey) as one:
        other = RULES.counters(Subject(one.organisation, team="other", app="chat", key="k1"))[0]
        amounts = one.charges(0, 7, 0)
        await one.reserve("a", 100, 500, 1)
        one.settle("a", 0, 10, 1, extra=(Charge(other, 33), Charge(other, 2), amounts[1]))
        await one.settled()
        assert one.books() == [(0, 0), (17, 0), (0, 0)]
        assert valkey.client().hget(other.key, "u") == b"35"


async def test_extra_of_an_unknown_call_is_charged(valkey: Server) -> None:
    """Without a reservation there is still a bill."""
    async with rig(valkey) as one:
        one.settle("never reserved", extra=one.charges(12, 0, 0))
        await one.settled()
        assert one.books()[0] == (12, 0)


async def test_a_reservation_grows_in_the_background(valkey: Server) -> None:
    """It answers at once what is held; the newest totals win; more than there is room for is refused and said next time."""
    async with rig(valkey) as one:
        await one.reserve("a", 100, 500, 1)
        assert one.extend("a", 200, 600, 1) == Extended((100, 500, 1))
        one.extend("a", 250, 650, 1)
        one.extend("a", 300, 700, 1)
        await until(lambda: one.extend("a", 300, 700, 1) == Extended((300, 700, 1)))
        assert one.books() == [(0, 300), (0, 700), (0, 1)]
        one.extend("a", 1001, 700, 1)
        await until(lambda: one.extend("a", 300, 700, 1).refused == 0)
        one.settle("a", 310, 700, 1)
        await one.settled()
        assert one.books() == [(310, 0), (700, 0), (0, 0)]


async def test_growing_is_told_once_for_each_call(valkey: Server) -> None:
    """However many counters it has, granted or refused."""
    async with rig(valkey) as one:
        await one.reserve("a", 10, 10, 1)
        for tokens in (20, 30):
            one.extend("a", 20, tokens, 1)
            await until(lambda tokens=tokens: one.limits._open["a"].held == (20, tokens, 1))
        one.extend("a", 5000, 30, 1)
        await until(lambda: one.limits._open["a"].refused == 0)
        assert [granted for _, granted in one.tape.told["extended"]] == [True, True, False]


async def test_a_call_grows_under_the_limits_of_today(valkey: Server) -> None:
    """The configuration was changed while it runs: raised, it may go on; lowered, it may not."""

    def times(factor: float) -> Rules:
        return Rules(tuple(msgspec.structs.replace(rule, limit=round(rule.limit * factor)) for rule in RULES.rules))

    async with rig(valkey) as one:
        await one.reserve("a", 900, 10, 1)
        one.limits.take(times(2))
        one.extend("a", 1500, 10, 1)
        await until(lambda: one.limits._open["a"].held == (1500, 10, 1))
        one.limits.take(times(0.5))
        one.extend("a", 1501, 10, 1)
        await until(lambda: one.limits._open["a"].refused == 0)
        one.limits.take(Rules(()))  # a limit that is gone stays as it was for calls that hold it
        one.settle("a", 1500, 10, 1)
        await one.settled()
        assert one.books() == [(1500, 0), (10, 0), (0, 0)]


async def test_what_nobody_settled_is_charged_as_reserved(valkey: Server) -> None:
    """A policy crashed at the end of the call: its lease is not renewed for ever. What was settled is not charged again."""
    async with rig(valkey, settings=SHORT) as one:
        await one.reserve("a", 100, 500, 1)
        await one.reserve("b", 100, 500, 1)
        one.settle("b", 1, 2, 1)
        for name in ("a", "b", "never"):
            one.limits.forget(name)
        await until(lambda: one.books() == [(101, 0), (502, 0), (0, 0)])
        assert one.limits._open == {}


async def test_the_first_call_of_an_organisation_waits_no_longer(valkey: Server) -> None:
    """Its live limits are read before it is reserved: all questions together have the time for one."""
    async with proxied(valkey, OPEN, Settings(timeout=0.4)) as (one, proxy):
        await one.reserve("warm", 1, 1)

        def slow(data: bytes) -> bool:
            """Each question is answered in time, if only just."""
            proxy.flowing.clear()
            asyncio.get_running_loop().call_later(0.3, proxy.flowing.set)
            return False

        name = organisation()
        proxy.cut_request = slow
        reply = await one.limits.reserve(Reserve("a", name, charges(OPEN, name, 1, 1)))
        proxy.cut_request = None
        assert reply.local
        assert one.limits.away_since == 0.0


async def test_lines_are_bounded(valkey: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """A store that comes and goes, or goes for many organisations at once, does not fill the log."""
    async with rig(valkey) as one:
        shard = one.limits._shards[one.organisation]
        with structlog.testing.capture_logs() as lines:
            for _ in range(50):
                shard.lost("test")
                shard.back()
        assert len(lines) == 20
        assert len(one.tape.told["away"]) == 100
        monkeypatch.setattr(one.limits, "_lines", Lines(1, 60.0))
        with structlog.testing.capture_logs() as lines:
            shard.lost("test")
            shard.back()
        assert [line["event"] for line in lines] == ["limits are kept without the store"]


async def test_an_unknown_reservation_cannot_grow(valkey: Server) -> None:
    """A mistake of the caller's, which fails closed."""
    async with rig(valkey) as one:
        with pytest.raises(EffectError):
            one.limits.extend(Extend("nobody", (1,)))


async def test_a_lost_reservation_is_held_anew_when_it_grows(valkey: Server) -> None:
    """A fail-over lost the record: the next extension reserves the whole of it again."""
    async with rig(valkey) as one:
        await one.reserve("a", 100, 500, 1)
        for key in valkey.client().keys(f"xq:{{{one.organisation}}}:*"):
            valkey.client().delete(key)
        one.extend("a", 200, 600, 1)
        await until(lambda: one.books() == [(0, 200), (0, 600), (0, 1)])
        one.settle("a", 150, 600, 1)
        await one.settled()
        assert one.books() == [(150, 0), (600, 0), (0, 0)]


async def test_overshoot_and_alerts_are_told(valkey: Server) -> None:
    """Each threshold once, the overshoot by what this call added to it."""
    async with rig(valkey) as one:
        for name in "abc":
            await one.reserve(name, 100, 0, 1)
        for name, real in (("a", 600), ("b", 700), ("c", 100)):
            one.settle(name, real, 0, 1)
            await one.settled()
        assert one.tape.told["overshoot"] == [("budget", 300), ("budget", 100)]
        assert one.tape.told["alert"] == [("budget", "search", 50), ("budget", "search", 100)]


async def test_alerts_come_once_in_all_workers(valkey: Server) -> None:
    """50, then 100 per cent by a refusal; another worker's calls tell neither again."""
    async with rig(valkey) as one, rig(valkey) as two:
        name = one.organisation
        for worker in (one, two):
            for call in range(2):
                handle = f"{call}"
                await worker.limits.reserve(Reserve(handle, name, charges(RULES, name, 150, 0, 1)))
                worker.limits.settle(Settle(handle, (150, 0, 1)))
                await worker.settled()
        for worker in (two, one):
            await worker.limits.reserve(Reserve("last", name, charges(RULES, name, 900, 0, 1)))
        told = [*one.tape.told["alert"], *two.tape.told["alert"]]
        assert told == [("budget", "search", 50), ("budget", "search", 100)]


@pytest.mark.parametrize("lost", ["request", "reply"])
async def test_a_reservation_without_an_answer_holds_nothing(valkey: Server, lost: str) -> None:
    """The connection ends before the server has it, or after: either way the call takes the other path, and all is free."""
    async with proxied(valkey) as (one, proxy):
        await one.reserve("warm", 1, 1, 1)
        setattr(proxy, f"cut_{lost}", lambda data: scripts.script(scripts.Name.RESERVE).sha in data)
        with pytest.raises(LimitsAwayError, match="budget"):
            await one.reserve("a", 100, 500, 1)
        await until(lambda: one.limits.away_since == 0.0)
        await one.settled()
        assert one.books() == [(0, 1), (0, 1), (0, 1)]
        assert one.tape.told["away"][0][0] is True
        assert one.tape.told["away"][-1] == (False, "")


@pytest.mark.parametrize("lost", ["request", "reply"])
async def test_a_settlement_without_an_answer_counts_once(valkey: Server, lost: str) -> None:
    """It is told again until the store says that it knows."""
    async with proxied(valkey) as (one, proxy):
        for name in ("a", "b", "c"):
            await one.reserve(name, 100, 500, 1)
        setattr(proxy, f"cut_{lost}", lambda data: scripts.script(scripts.Name.SETTLE).sha in data)
        for name in ("a", "b", "c"):
            one.settle(name, 70, 300, 1)
        await one.settled()
        assert one.books() == [(210, 0), (900, 0), (0, 0)]


async def test_a_store_that_stalls_costs_the_time_allowed_and_then_none(
    valkey: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first calls wait their time; then nobody asks any more. Afterwards the books are right."""
    asked: list[scripts.Name] = []
    numbers = Desk.numbers

    async def listening(desk: Desk, shard: Shard, name: scripts.Name, args: Sequence[bytes]) -> list[int]:
        asked.append(name)
        return await numbers(desk, shard, name, args)

    monkeypatch.setattr(Desk, "numbers", listening)
    async with proxied(valkey, OPEN, Settings(timeout=0.1)) as (one, proxy):
        await until(lambda: one.limits.away_since == 0.0)
        await one.reserve("warm", 1, 1)
        proxy.flowing.clear()
        replies = [await one.reserve(f"a{n}", 10, 1) for n in range(5)]
        assert [reply.local for reply in replies] == [True] * 5
        assert one.limits.away_since > 0.0
        assert 2 <= asked.count(scripts.Name.RESERVE) <= 4  # the first one, and at most as many as it takes
        for n in range(5):
            one.settle(f"a{n}", 8, 1)
        proxy.flowing.set()
        await until(lambda: one.limits.away_since == 0.0)
        await one.settled()
        assert one.books() == [(40, 1), (0, 1)]
        assert one.tape.told["local_spent"] == [("tokens", 40)]


async def test_a_caller_that_goes_while_it_waits_holds_nothing(valkey: Server) -> None:
    """Its stream was cancelled between question and answer."""
    async with proxied(valkey) as (one, proxy):
        await one.reserve("warm", 1, 1, 1)
        proxy.flowing.clear()
        task = asyncio.ensure_future(one.reserve("a", 100, 500, 1))
        await asyncio.sleep(0.02)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        one.settle("a", 5, 5, 1)
        proxy.flowing.set()
        await one.settled()
        assert one.books() == [(0, 1), (0, 1), (0, 1)]


async def test_a_server_killed_between_reserve_and_settle_charges_once() -> None:
    """Kill -9, the calls end meanwhile, it starts again with its log: all is charged as used, nothing is held."""
    with server("--appendonly", "yes", "--appendfsync", "no") as valkey:
        async with rig(valkey) as one:
            for n in range(20):
                await one.reserve(f"a{n}", 10, 100, 1)
            for n in range(5):
                one.settle(f"a{n}", 5, 50, 1)
            valkey.kill()
            for n in range(5, 20):
                one.settle(f"a{n}", 5, 50, 1)
            with pytest.raises(LimitsAwayError):
                await one.reserve("denied", 10, 100, 1)
            assert one.limits.unsettled >= 15
            valkey.start()
            await until(lambda: one.limits.away_since == 0.0)
            await one.settled()
            assert one.books() == [(100, 0), (1000, 0), (0, 0)]
            assert not (await one.reserve("after", 10, 100, 1)).refused


async def test_a_server_that_has_lost_everything_is_charged_what_was_used() -> None:
    """A fail-over lost the reservations, and the scripts: what is told afterwards is charged in full."""
    with server() as valkey:
        async with rig(valkey) as one:
            await one.reserve("a", 10, 100, 1)
            valkey.kill()
            valkey.start()
            await until(lambda: one.store.connected)
            one.settle("a", 7, 70, 1)
            await one.settled()
            assert one.books() == [(7, 0), (70, 0), (0, 0)]


async def test_a_dead_owner_is_charged_as_reserved_and_corrected_late(valkey: Server) -> None:
    """Nobody renews the lease: another worker charges what was held, once; the owner's late word puts it right."""
    async with (
        rig(valkey, settings=SHORT) as dead,
        rig(valkey, settings=SHORT) as alive,
        rig(valkey, settings=SHORT) as too,
    ):
        name = dead.organisation
        await dead.limits._chores.close()  # it does nothing any more
        await dead.reserve("a", 100, 500, 1)
        for worker in (alive, too):
            worker.organisation = name
            await worker.reserve("own", 1, 1, 1)
        await until(lambda: dead.books() == [(100, 2), (500, 2), (0, 2)])
        assert sum(alive.tape.told["expired"]) + sum(too.tape.told["expired"]) == 1
        dead.settle("a", 30, 300, 1)
        await until(lambda: dead.books() == [(30, 2), (300, 2), (0, 2)])


async def test_living_owners_keep_what_they_hold(valkey: Server) -> None:
    """Leases are renewed for as long as a call runs."""
    async with rig(valkey, settings=SHORT) as one:
        await one.reserve("a", 100, 500, 1)
        await asyncio.sleep(2.0)
        assert one.books() == [(0, 100), (0, 500), (0, 1)]
        assert one.tape.told["expired"] == []


async def test_overrides_are_live(valkey: Server) -> None:
    """Set and unset by the store's own script; followed within about a second; known before the first call of a worker."""
    async with rig(valkey) as one:
        assert (await one.reserve("a", 1500, 1, 1)).refused == (0,)
        counter = one.charges(0, 0, 0)[0].counter
        override = scripts.script(scripts.Name.OVERRIDE)

        def put(limit: int | None) -> None:
            valkey.client().evalsha(
                valkey.client().script_load(override.source), *_arguments(scripts.override(counter, limit))
            )

        put(2000)
        await until(lambda: one.limits._shards[one.organisation].limits != {})
        assert not (await one.reserve("b", 1500, 1, 1)).refused
        async with rig(valkey) as fresh:
            fresh.organisation = one.organisation
            assert (await fresh.reserve("c", 1, 1, 1)).standings[0].limit == 2000
        put(None)
        await until(lambda: one.limits._shards[one.organisation].limits == {})
        assert (await one.reserve("d", 1, 1, 1)).refused == (0,)


def _arguments(raw: list[bytes]) -> list[bytes | int]:
    return [int(raw[0]), *raw[1:]]


async def test_draining_tells_everything_in_time(valkey: Server) -> None:
    """What was settled last is in the store when the worker ends."""
    async with rig(valkey) as one:
        for n in range(50):
            await one.reserve(f"a{n}", 1, 10, 1)
        for n in range(50):
            one.settle(f"a{n}", 1, 10, 1)
        await one.limits.drain(5.0)
        assert one.limits.unsettled == 0
        assert one.books() == [(50, 0), (500, 0), (0, 0)]


async def test_draining_ends_without_the_store() -> None:
    """It waits no longer than it is told to, and says how much was not told."""
    with server() as valkey:
        async with rig(valkey) as one:
            await one.reserve("a", 1, 10, 1)
            valkey.kill()
            one.settle("a", 1, 10, 1)
            began = time.monotonic()
            await one.limits.drain(0.2)
            assert time.monotonic() - began < 5.0
            assert one.tape.told["lost"] == [1]


async def test_books_that_somebody_else_wrote_let_nobody_through(valkey: Server) -> None:
    """A counter that is no count of ours: an error, nothing is changed."""
    async with rig(valkey) as one:
        key = one.charges(0, 0, 0)[0].counter.key
        valkey.client().hset(key, "u", "many")
        with pytest.raises(EffectError) as caught:
            await one.reserve("a", 100, 500, 1)
        assert not isinstance(caught.value, LimitsAwayError)
        valkey.client().delete(key)
        assert one.books() == [(0, 0)] * 3


async def test_a_call_without_limits_costs_no_question(valkey: Server) -> None:
    """Nothing to hold: admitted."""
    async with rig(valkey) as one:
        reply = await one.limits.reserve(Reserve("a", one.organisation, ()))
        one.limits.settle(Settle("a", ()))
        assert (reply.refused, reply.standings, reply.local) == ((), (), False)
        assert one.limits.unsettled == 0


async def test_an_amount_that_cannot_be_counted_is_refused(valkey: Server) -> None:
    """And a settlement of as much is charged as far as one can count."""
    async with rig(valkey) as one:
        with pytest.raises(EffectError):
            await one.reserve("a", 1 << 60, 1, 1)
        await one.reserve("b", 1, 1, 1)
        one.settle("b", 1 << 60, -5, 1)
        await one.settled()
        assert one.books()[0] == ((1 << 53) - 1, 0)
        assert one.books()[1] == (0, 0)


async def test_a_clock_far_off_is_put_right_by_the_store(valkey: Server) -> None:
    """A worker whose clock is days behind asks twice once, then knows."""
    async with rig(valkey) as one:
        await one.reserve("a", 1, 1, 1)
        shard = one.limits._shards[one.organisation]
        shard.clock._offset -= 40 * 86_400_000
        assert not (await one.reserve("b", 1, 1, 1)).refused
        assert abs(shard.clock.now() - time.time() * 1000) < 5_000
        assert one.books() == [(0, 2), (0, 2), (0, 2)]


async def test_changed_rules_keep_what_is_used(valkey: Server) -> None:
    """A hot reload with a lower limit: what was used under the old one counts."""
    lower = Rules(tuple(Rule(each.name, each.kind, each.window, each.limit // 2, each.scope) for each in RULES.rules))
    async with rig(valkey) as one:
        await one.reserve("a", 400, 1, 1)
        one.settle("a", 400, 1, 1)
        await one.settled()
        one.limits.take(lower)
        one.rules = lower
        reply = await one.reserve("b", 200, 1, 1)
        assert reply.refused == (0,)
        assert (reply.standings[0].used, reply.standings[0].limit) == (400, 500)


async def test_buckets_are_held_and_given_back(valkey: Server) -> None:
    """What was not used of a bucket is back at once."""
    rules = Rules((Rule("bucket", Kind.TOKENS, Window.BUCKET, 100, ("app",), burst=100, period=3_600_000),))
    async with rig(valkey, rules) as one:
        assert not (await one.reserve("a", 100)).refused
        assert (await one.reserve("b", 50)).refused == (0,)
        one.settle("a", 20)
        await one.settled()
        assert not (await one.reserve("c", 80)).refused


async def test_a_crash_in_the_background_is_survived(valkey: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """A job that raises is done again the next time; calls go on."""
    async with rig(valkey, settings=Settings(timeout=2.0, lease=0.3)) as one:
        chores = one.limits._chores
        times: list[int] = []

        async def broken() -> None:
            times.append(1)
            raise KeyError("x")

        monkeypatch.setattr(chores, "_shards", None)
        await until(lambda: chores._keeper.crashes >= 3)
        monkeypatch.undo()
        assert not (await one.reserve("a", 1, 1, 1)).refused
        assert all(not task.done() for task in chores._keeper._tasks)


def test_the_rig_reads_what_the_server_has(valkey: Server) -> None:
    """The tests' own look at the books is not the store's."""
    wait_for(lambda: valkey.client().ping())
    one = Rig.__new__(Rig)
    one.server, one.rules, one.organisation = valkey, RULES, "o-none"
    assert one.books() == [(0, 0)] * 3


@pytest.mark.parametrize("seed", range(4))
async def test_whatever_is_cut_the_books_are_those_of_a_model(valkey: Server, seed: int) -> None:
    """Connections end at random while calls come and go: in the end each ended call is charged once, nothing is held."""
    dice = random.Random(seed)
    async with proxied(valkey, OPEN) as (one, proxy):
        expected = [0, 0]

        async def call(name: str) -> None:
            await asyncio.sleep(dice.random() * 0.3)
            reserved, real = dice.randrange(50), dice.randrange(60)
            reply = await one.reserve(name, reserved, 1)
            if reply.refused:
                return
            await asyncio.sleep(dice.random() * 0.05)
            if dice.random() < 0.5:
                one.extend(name, reserved + 20, 1)
            await asyncio.sleep(dice.random() * 0.05)
            one.settle(name, real, 1)
            expected[0] += real

        async def trouble() -> None:
            for _ in range(12):
                await asyncio.sleep(dice.random() * 0.05)
                what = dice.randrange(3)
                if what == 0:
                    proxy.cut()
                elif what == 1:
                    proxy.cut_request = bool
                else:
                    proxy.cut_reply = bool

        await asyncio.gather(trouble(), *(call(f"c{n}") for n in range(80)))
        proxy.cut_request = proxy.cut_reply = None
        await until(lambda: one.limits.away_since == 0.0)
        await one.settled()
        assert [used for used, _ in one.books()] == expected
        # what was reserved by calls whose outcome nobody knew is released
        assert [held for _, held in one.books()] == [0, 0]


async def test_an_organisation_whose_node_is_gone_hinders_no_other() -> None:
    """A cluster of three: one node stops, its organisation is judged by own books, the others by the store."""
    with cluster() as nodes:
        hosts = ",".join(f"127.0.0.1:{node.port}" for node in nodes)
        async with rig(nodes[0], OPEN, url=f"valkey+cluster://{hosts}") as one:
            names = _one_for_each(nodes)
            for name in names:
                assert not (await one.limits.reserve(Reserve(name, name, charges(OPEN, name, 10, 1)))).local
            nodes[0].kill()
            await until(lambda: not one.store.connected)
            replies = [
                await one.limits.reserve(Reserve(f"{name}+", name, charges(OPEN, name, 10, 1))) for name in names
            ]
            assert [reply.local for reply in replies] == [True, False, False]
            for name in names[1:]:
                one.limits.settle(Settle(name, (5, 1)))
                one.limits.settle(Settle(f"{name}+", (5, 1)))
            await one.settled()
            assert one.limits.away_since > 0.0


async def test_a_fail_over_loses_no_settlement() -> None:
    """The primary dies with calls under way: what ends meanwhile is charged at the new one, once, from what it knows."""
    with sentinels() as group:
        async with rig(group.replica, OPEN, url=group.url) as one:
            for name in "abc":
                await one.reserve(name, 100, 1)
            await until(lambda: one.books() == [(0, 300), (0, 3)])  # the replica has it
            group.primary.kill()
            for name in "ab":
                one.settle(name, 70, 1)
            await until(lambda: one.limits.away_since > 0.0)
            assert (await one.reserve("d", 10, 1)).local
            one.settle("d", 9, 1)
            await until(lambda: one.limits.away_since == 0.0, 30.0)
            await one.settled()
            assert one.books() == [(149, 100), (0, 1)]
            one.settle("c", 100, 1)
            await one.settled()
            assert not (await one.reserve("e", 1, 1)).local
            assert one.books() == [(249, 1), (0, 1)]


def _one_for_each(nodes: list[Server]) -> list[str]:
    """An organisation on each node, in their order."""
    found: dict[int, str] = {}
    step = 16384 / len(nodes)
    for n in range(10_000):
        found.setdefault(int(slot_of(scripts.leases_key(f"org{n}")) // step), f"org{n}")
        if len(found) == len(nodes):
            break
    return [found[place] for place in range(len(nodes))]
