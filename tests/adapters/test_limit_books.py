"""What commands read and change of limits: on a real server, beside what the scripts themselves answer."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

import valkeys
from extproc.adapters.limit_books import Book, Books, BooksError
from extproc.adapters.valkey_client import StoreError
from extproc.adapters.valkey_topology import Store, make_store
from extproc.config import quotas
from extproc.limits.counters import NANO, Kind, Rule, Subject, Window
from extproc.limits.rules import Rules
from extproc.limits.scripts import Booking, Calls, Handle, Name, Reply, State, read, script
from extproc.limits.windows import span

RULES = Rules(
    (
        Rule("budget", Kind.MONEY, Window.DAY, 10 * NANO, ("team",), overrides=(("vip", 100 * NANO),)),
        Rule("rate", Kind.TOKENS, Window.BUCKET, 100, ("app", "model"), burst=1000, period=60_000),
        Rule("flights", Kind.REQUESTS, Window.CONCURRENT, 5),
    )
)
BUDGET, RATE, FLIGHTS = RULES.rules


@pytest.fixture(scope="module")
def server() -> Iterator[valkeys.Server]:
    with valkeys.server() as one:
        yield one


@pytest.fixture
async def store(server: valkeys.Server) -> AsyncIterator[Store]:
    made = make_store(quotas.Store(url=f"unix://{server.path}"), Path(), {})
    assert await made.connect(5)
    yield made
    await made.close()


@pytest.fixture
def organisation() -> str:
    return f"org[{secrets.token_hex(4)}]*"


def booked(organisation: str, team: str, amounts: tuple[int, int, int]) -> list[Booking]:
    counters = RULES.counters(Subject(organisation, team=team, app="chat", model="gpt/4"))
    now = time.time_ns() // 1_000_000
    there = (span(Window.DAY, "UTC", now), None, None)
    return [Booking(c, a, c.rule.limit, s) for c, a, s in zip(counters, amounts, there, strict=True)]


async def ask(store: Store, name: Name, args: list[bytes], bookings: list[Booking]) -> Reply:
    one = script(name)
    return read(await store.script(args[1], one.sha, one.source, args), bookings)


async def reserve(
    store: Store, organisation: str, bookings: list[Booking], name: str = "a", lease: int = 60_000
) -> Reply:
    return await ask(store, Name.RESERVE, Calls().reserve(Handle(organisation, name), bookings, lease), bookings)


async def settle(store: Store, organisation: str, bookings: list[Booking], name: str = "a") -> Reply:
    return await ask(store, Name.SETTLE, Calls().settle(Handle(organisation, name), bookings), bookings)


async def everything(books: Books, rule: Rule | None = None) -> dict[str, Book]:
    return {f"{book.counter.rule.name}|{book.counter.value}": book async for book in books.all(rule)}


async def test_reading_agrees_with_the_scripts(store: Store, organisation: str) -> None:
    """Each counter shows what the script that changed it last said of it; reading changes nothing."""
    books = Books(store, RULES, organisation)
    assert await everything(books) == {}
    found: dict[str, Book] = {}
    for state, change, amounts, name in (
        (State.GRANTED, reserve, (3 * NANO, 400, 1), "a"),
        (State.SETTLED, settle, (NANO // 3, 371, 1), "a"),
        (State.GRANTED, reserve, (2 * NANO, 500, 1), "b"),
    ):
        bookings = booked(organisation, "search", amounts)
        done = await change(store, organisation, bookings, name)
        assert done.state is state
        by_key = {booking.counter.key: line.standing for booking, line in zip(bookings, done.lines, strict=True)}
        for _ in range(2):
            found = await everything(books)
            for book in found.values():
                told, seen = by_key[book.counter.key], book.standing
                assert (seen.reserved, seen.limit) == (told.reserved, told.limit)
                assert seen.used == pytest.approx(told.used, abs=20 if book.counter.rule is RATE else 0)
                assert seen.resets_at == pytest.approx(told.resets_at, abs=0.65 if book.counter.rule is RATE else 0)
    assert set(found) == {"budget|search", "rate|chat/gpt%2F4", f"flights|{quoted(organisation)}"}
    assert (await books.leases()).live == 1


def quoted(organisation: str) -> str:
    return RULES.counters(Subject(organisation))[2].value


async def test_a_bucket_is_shown_as_it_drains(store: Store, organisation: str) -> None:
    """What has flowed back since the last call counts as free, to the token."""
    books = Books(store, RULES, organisation)
    done = await reserve(store, organisation, booked(organisation, "t", (0, 1000, 0)))
    await settle(store, organisation, booked(organisation, "t", (0, 1000, 0)))
    await asyncio.sleep(1.3)
    book = await books.one(RATE, "chat/gpt%2F4")
    expected = 1000 - (await books.now() - done.now) * 100 // 60_000
    assert expected <= book.standing.used <= expected + 1
    assert book.standing.used <= 998


async def test_only_that_organisation_and_that_limit(store: Store, organisation: str) -> None:
    """Its name is no pattern; a limit can be picked out."""
    other = organisation.replace("[", "").replace("]", "x")
    for one, team in ((organisation, "mine"), (other, "theirs")):
        await reserve(store, one, booked(one, team, (NANO, 10, 1)), secrets.token_hex(4))
    books = Books(store, RULES, organisation)
    assert {"budget|mine"} == set(await everything(books, BUDGET))
    assert len(await everything(books)) == 3
    assert [value async for value in books.values(BUDGET)] == ["mine"]


async def test_top_up_reset_and_override(store: Store, organisation: str) -> None:
    """Before and after are told; a top-up can be taken back, a reset leaves what calls in flight hold."""
    books = Books(store, RULES, organisation)
    await reserve(store, organisation, booked(organisation, "search", (4 * NANO, 0, 0)))
    await settle(store, organisation, booked(organisation, "search", (4 * NANO, 0, 0)))
    await reserve(store, organisation, booked(organisation, "search", (5 * NANO, 0, 0)), "b")
    before, after = await books.grant(BUDGET, "search", 7 * NANO)
    assert (before.top_up, before.standing.limit) == (0, 10 * NANO)
    assert (after.top_up, after.standing.limit, after.standing.remaining) == (7 * NANO, 17 * NANO, 8 * NANO)
    before, after = await books.override(BUDGET, "search", 20 * NANO)
    assert (before.override, after.override, after.standing.limit) == (None, 20 * NANO, 27 * NANO)
    before, after = await books.reset(BUDGET, "search")
    assert (before.standing.used, after.standing.used, after.standing.reserved) == (4 * NANO, 0, 5 * NANO)
    _, after = await books.grant(BUDGET, "search", -100 * NANO)
    assert after.top_up == 0
    before, after = await books.override(BUDGET, "search", None)
    assert (before.override, after.override, after.standing.limit) == (20 * NANO, None, 10 * NANO)
    assert await books.overrides() == {}
    with pytest.raises(ValueError, match="no top-up"):
        await books.grant(FLIGHTS, quoted(organisation), 1)


async def test_a_top_up_admits_what_had_no_room(store: Store, organisation: str) -> None:
    """It counts in the window that runs, at the next call."""
    books = Books(store, RULES, organisation)
    too_much = booked(organisation, "search", (11 * NANO, 0, 0))
    assert (await reserve(store, organisation, too_much)).state is State.REFUSED
    await books.grant(BUDGET, "search", NANO)
    assert (await reserve(store, organisation, too_much)).state is State.GRANTED


async def test_overrides_of_the_configuration_are_told(store: Store, organisation: str) -> None:
    """And give way to live ones."""
    books = Books(store, RULES, organisation)
    book = await books.one(BUDGET, "vip")
    assert (book.configured, book.override, book.standing.limit) == (True, None, 100 * NANO)
    _, after = await books.override(BUDGET, "vip", 5 * NANO)
    assert (after.configured, after.override, after.standing.limit) == (True, 5 * NANO, 5 * NANO)


async def test_overdue_reservations_are_counted(store: Store, organisation: str) -> None:
    """Those that nobody has renewed."""
    await reserve(store, organisation, booked(organisation, "t", (1, 1, 1)), lease=1)
    await reserve(store, organisation, booked(organisation, "t", (1, 1, 1)), "b")
    await asyncio.sleep(0.01)
    leases = await Books(store, RULES, organisation).leases()
    assert (leases.live, leases.overdue) == (2, 1)


async def test_many_counters_are_read_in_pieces(store: Store, server: valkeys.Server, organisation: str) -> None:
    """Each once, though the scan may tell of one twice; what is not ours is an error that names the key."""
    books = Books(store, RULES, organisation)
    now = await books.now()
    client = server.client()
    pipe = client.pipeline()
    for number in range(3000):
        key = RULES.counter(BUDGET, organisation, f"team-{number}").key
        pipe.hset(key, mapping={"s": now - 1000, "e": now + 100_000, "u": number + 1, "r": 0, "g": 0, "a": 0})
    pipe.execute()
    found = await everything(books)
    assert len(found) == 3000
    assert found["budget|team-41"].standing.used == 42
    client.hset(RULES.counter(BUDGET, organisation, "team-7").key, "u", "seven")
    with pytest.raises(BooksError, match="team-7"):
        await everything(books)


async def test_counters_of_old_limits_are_passed_over(store: Store, server: valkeys.Server, organisation: str) -> None:
    """A limit that is gone, or counts something else by now, has no row."""
    for name in ("gone:money:day:x", "budget:tokens:day:x", "budget"):
        server.client().hset(f"xq:{{{organisation}}}:c:{name}", mapping={"s": 1, "e": 2**50, "u": 5})
    assert await everything(Books(store, RULES, organisation)) == {}


async def test_a_store_that_goes_away_is_an_error_not_a_wait() -> None:
    """It fails at once."""
    with valkeys.server() as one:
        made = make_store(quotas.Store(url=f"unix://{one.path}"), Path(), {})
        assert await made.connect(5)
        one.kill()
        await asyncio.sleep(0.05)
        with pytest.raises(StoreError):
            await Books(made, RULES, "acme").now()
        await made.close()
