"""While the store is away: who may go on, how much at most, and what is told of it afterwards."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adapters.limit_rig import OPEN, RULES, Tape, charges, organisation, proxied, rig, until
from extproc.adapters.limit_fallback import Fallback, Part, idle
from extproc.adapters.limit_shard import Reservation, Shard
from extproc.adapters.limit_store import Settings
from extproc.errors import LimitsAwayError
from extproc.limits.counters import Away, Kind, Rule, Window
from extproc.limits.rules import Rules
from valkeys import Server, server

ALONE = Part()
QUICK = Settings(timeout=2.0, workers=2)


@pytest.fixture(scope="module")
def valkey() -> Iterator[Server]:
    with server() as one:
        yield one


class Absence:
    """A shard that is away, and a worker's own books."""

    def __init__(self, rules: Rules, part: Part = ALONE) -> None:
        self.tape = Tape()
        self.books = Fallback(part, self.tape)
        self.shard = Shard(organisation(), lambda _shard, _reason: None)
        self.shard.lost("gone")
        self.rules = rules

    def open(self, name: str, *amounts: int) -> Reservation:
        return Reservation(self.shard, name, charges(self.rules, self.shard.name, *amounts))

    def reserve(self, name: str, *amounts: int) -> tuple[Reservation, Any]:
        one = self.open(name, *amounts)
        return one, self.books.reserve(one)


def bounded(window: Window, limit: int, share: float, **more: Any) -> Rules:
    kind = Kind.REQUESTS if window is Window.CONCURRENT else Kind.TOKENS
    return Rules((Rule("r", kind, window, limit, away=Away.BOUNDED, share=share, **more),))


def test_deny_denies() -> None:
    """A hard limit that says so lets nobody through, whatever the others say; a soft one refuses nothing."""
    one = Absence(RULES)
    with pytest.raises(LimitsAwayError, match="budget") as caught:
        one.reserve("a", 1, 1, 1)
    assert caught.value.rule == "budget"
    assert one.tape.told["denied"] == ["budget"]
    soft = Rules((Rule("soft", Kind.MONEY, Window.MONTH, 1000, hard=False, away=Away.DENY),))
    assert not Absence(soft).reserve("a", 1)[1].refused


@settings(max_examples=60, deadline=None)
@given(
    window=st.sampled_from(list(Window)),
    limit=st.integers(0, 500),
    share=st.sampled_from([0.01, 0.1, 0.3, 0.5, 1.0]),
    workers=st.integers(1, 5),
    steps=st.lists(st.tuples(st.integers(0, 60), st.integers(0, 60), st.booleans(), st.integers(0, 4)), max_size=40),
)
def test_no_more_than_the_share_is_ever_admitted(
    window: Window, limit: int, share: float, workers: int, steps: list[tuple[int, int, bool, int]]
) -> None:
    """All workers together, over several absences: what is reserved and used stays within the share of the limit."""
    if window is Window.CONCURRENT:
        steps = [(min(first, 1), min(second, 1), *more) for first, second, *more in steps]
    more = {"burst": limit, "period": 1 << 40} if window is Window.BUCKET else {}
    all_workers = [Absence(bounded(window, limit, share, **more), Part(number, workers)) for number in range(workers)]
    held: dict[str, int] = {}
    used = 0
    for number, (amount, real, extends, which) in enumerate(steps):
        one, name = all_workers[which % workers], f"n{number}"
        reservation, reply = one.reserve(name, amount)
        if reply.refused:
            continue
        assert reply.local
        held[name] = amount
        if extends:
            held[name] = one.books.extend(reservation, (amount + 1,)).held[0]
        assert used + sum(held.values()) <= limit * round(share * 100) // 100
        if real <= held[name]:
            one.books.settle(reservation, (real,))
            used += 0 if window is Window.CONCURRENT else real
            del held[name]


@given(whole=st.integers(0, 10_000), workers=st.integers(1, 64))
def test_parts_are_the_whole(whole: int, workers: int) -> None:
    """As equal as whole numbers can be; a worker with too high a number never gets more than one that it may stand for."""
    parts = [Part(number, workers).of(whole) for number in range(workers)]
    assert sum(parts) == whole
    assert max(parts) - min(parts) <= 1
    assert Part(workers, workers).of(whole) == min(parts)


def test_a_small_limit_lets_somebody_through() -> None:
    """20 calls in flight, a tenth of it, four workers: two calls, not none."""
    rules = bounded(Window.CONCURRENT, 20, 0.1)
    replies = [Absence(rules, Part(number, 4)).reserve("a", 1)[1].refused for number in range(4)]
    assert replies.count(()) == 2


def test_a_share_of_nothing_is_known_as_such() -> None:
    """Whoever writes `allow-bounded` for so small a limit has `deny`."""
    assert [idle(bounded(Window.HOUR, limit, 0.1).rules[0]) for limit in (0, 9, 10)] == [False, True, False]
    bucket = bounded(Window.BUCKET, 100, 0.1, burst=5, period=1000).rules[0]
    assert idle(bucket)
    assert not idle(RULES.rules[0])


def test_growing_is_told_once_for_each_call() -> None:
    """However many counters it has, granted or refused."""
    one = Absence(OPEN)
    reservation, _ = one.reserve("a", 100, 1)
    one.books.extend(reservation, (150, 1))
    one.books.extend(reservation, (5000, 1))
    strict = Absence(RULES)
    strict.books.extend(strict.open("a", 100, 500, 1), (101, 600, 1))
    told = [granted for _, granted in one.tape.told["extended"]]
    assert (told, [granted for _, granted in strict.tape.told["extended"]]) == ([True, False], [False])


def test_what_was_spent_is_told_once() -> None:
    """By counter, when the store is back; calls in flight spend nothing."""
    one = Absence(OPEN)
    for name in "ab":
        reservation, _ = one.reserve(name, 100, 1)
        one.books.settle(reservation, (60, 1))
    assert one.tape.told["local_spent"] == []
    one.shard.back()
    one.books.report(one.shard)
    one.books.report(one.shard)
    assert one.tape.told["local_spent"] == [("tokens", 120)]


def test_a_call_of_the_store_grows_here_by_what_is_more() -> None:
    """What goes beyond what the store holds comes out of the share; a limit that says deny gives no more."""
    one = Absence(OPEN)
    reservation = one.open("a", 5000, 1)
    assert one.books.extend(reservation, (5900, 1)).held == (5900, 1)
    refused = one.books.extend(reservation, (6001, 1))
    assert (refused.held, refused.refused) == ((5900, 1), 0)
    one.books.settle(reservation, (5800, 1))
    assert one.reserve("b", 200, 1)[1].refused == ()
    assert one.reserve("c", 1, 1)[1].refused == (0,)
    strict = Absence(RULES)
    held = strict.open("a", 100, 500, 1)
    assert strict.books.extend(held, (100, 600, 1)).held == (100, 600, 1)
    again = strict.books.extend(held, (101, 600, 1))
    assert (again.held, again.refused) == ((100, 600, 1), 0)


async def test_a_replica_spends_its_share_and_no_more(valkey: Server) -> None:
    """A tenth of 10,000 tokens for two workers: 500 each; refused beyond that, and charged once when the store is back."""
    async with proxied(valkey, OPEN, QUICK) as (one, proxy):
        await one.reserve("warm", 1, 1)
        one.settle("warm", 1, 1)
        await one.settled()
        proxy.flowing.clear()
        proxy.cut()
        await until(lambda: not one.store.connected)
        replies = [await one.reserve(f"a{n}", 100, 1) for n in range(7)]
        admitted = [n for n, reply in enumerate(replies) if not reply.refused]
        assert all(reply.local for reply in replies)
        assert len(admitted) == 2  # of 50 calls in flight a tenth is five, of which each worker has two
        for n in admitted:
            one.settle(f"a{n}", 200, 1)
        more = [await one.reserve(f"b{n}", 100, 1) for n in range(2)]
        assert [reply.refused for reply in more] == [(), (0,)]
        one.settle("b0", 90, 1)
        assert one.limits.unsettled == 3
        proxy.flowing.set()
        await until(lambda: one.limits.away_since == 0.0)
        await one.settled()
        assert one.books() == [(491, 0), (0, 0)]
        assert one.tape.told["local_spent"] == [("tokens", 490)]
        assert not (await one.reserve("c", 100, 1)).local


async def test_a_call_admitted_here_that_ends_when_the_store_is_back(valkey: Server) -> None:
    """Charged in full then, told at once."""
    async with proxied(valkey, OPEN) as (one, proxy):
        await one.reserve("warm", 0, 1)
        proxy.flowing.clear()
        proxy.cut()
        assert (await one.reserve("a", 100, 1)).local
        proxy.flowing.set()
        await until(lambda: one.limits.away_since == 0.0)
        assert one.extend("a", 150, 1).held == (150, 1)
        one.settle("a", 120, 1)
        await one.settled()
        assert one.books() == [(120, 0), (0, 1)]
        assert one.tape.told["local_spent"] == [("tokens", 120)]


async def test_a_call_of_the_store_that_grew_here_is_held_there_again(valkey: Server) -> None:
    """The next extension after the absence moves all of it into the store."""
    async with proxied(valkey, OPEN) as (one, proxy):
        await one.reserve("a", 100, 1)
        proxy.flowing.clear()
        proxy.cut()
        await until(lambda: not one.store.connected)
        assert (await one.reserve("b", 10, 1)).local
        assert one.extend("a", 300, 1).held == (300, 1)
        proxy.flowing.set()
        await until(lambda: one.limits.away_since == 0.0)
        one.extend("a", 300, 1)
        await until(lambda: one.books()[0] == (0, 300))
        one.settle("a", 250, 1)
        one.settle("b", 10, 1)
        await one.settled()
        assert one.books() == [(260, 0), (0, 0)]


async def test_without_a_store_from_the_beginning(valkey: Server) -> None:
    """A worker that starts while the store is away judges by its own books at once."""
    async with rig(valkey, OPEN) as one:
        await one.store.close()
        assert (await one.reserve("a", 100, 1)).local
        assert one.limits.away_since > 0.0
