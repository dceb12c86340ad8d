"""The scripts on a real server, case by case; `test_ledger.py` compares them with the ledger over random operations."""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
from valkey import Valkey
from valkey.exceptions import ResponseError

from extproc.limits.counters import LARGEST, Kind, Rule, Span, Window
from extproc.limits.scripts import (
    TOMBSTONE,
    Booking,
    Calls,
    Handle,
    Name,
    Reply,
    State,
    counters_pattern,
    due,
    expire,
    grant,
    leases_key,
    override,
    overrides_key,
    overrides_version_key,
    read_overrides,
    record_counters,
    record_key,
    renew,
    reset,
    script,
    terms,
)
from limits.store import ask, book, bucket, call, clock, counter, flights, month
from valkeys import cluster

LEASE = 60_000
CALLS = Calls()
ONE = Handle("acme", "one")
TWO = Handle("acme", "two")


def reserve(client: Valkey, handle: Handle, bookings: Sequence[Booking], lease: int = LEASE) -> Reply:
    return ask(client, Name.RESERVE, CALLS.reserve(handle, bookings, lease), bookings)


def extend(client: Valkey, handle: Handle, bookings: Sequence[Booking], lease: int = LEASE) -> Reply:
    return ask(client, Name.EXTEND, CALLS.extend(handle, bookings, lease), bookings)


def settle(client: Valkey, handle: Handle, bookings: Sequence[Booking], extra: Sequence[Booking] = ()) -> Reply:
    return ask(client, Name.SETTLE, CALLS.settle(handle, bookings, extra), [*bookings, *extra])


def lapse(client: Valkey, handle: Handle, bookings: Sequence[Booking]) -> Reply:
    return ask(client, Name.EXPIRE, expire(handle, client.get(record_key(handle))), bookings)


def dump(client: Valkey) -> dict[bytes, object]:
    """Everything that the server holds."""
    readers = {
        b"hash": client.hgetall,
        b"string": client.get,
        b"zset": lambda key: client.zrange(key, 0, -1, withscores=True),
    }
    return {key: readers[client.type(key)](key) for key in client.scan_iter()}


def amounts(reply: Reply) -> list[tuple[int, int, int]]:
    """Used, reserved and limit of every counter."""
    return [(line.standing.used, line.standing.reserved, line.standing.limit) for line in reply.lines]


def three(client: Valkey, money: int, tokens: int, flying: int = 1) -> list[Booking]:
    """A calendar window of 100, a bucket of 100, three calls in flight."""
    rules = (month(), bucket(period=86_400_000), flights())
    counted = [counter("acme", rule) for rule in rules]
    return [book(one, amount, clock(client)) for one, amount in zip(counted, (money, tokens, flying), strict=True)]


def test_settle_puts_back_what_was_not_used(client: Valkey) -> None:
    """Reserve, extend and settle move amounts from reserved to used, and a repetition of each changes nothing."""
    held = three(client, 40, 30)
    assert amounts(reserve(client, ONE, held)) == [(0, 40, 100), (0, 30, 100), (0, 1, 3)]
    again = reserve(client, ONE, held)
    assert (again.state, amounts(again)) == (State.AGAIN, [(0, 40, 100), (0, 30, 100), (0, 1, 3)])
    more = three(client, 60, 35)
    assert amounts(extend(client, ONE, more)) == [(0, 60, 100), (0, 35, 100), (0, 1, 3)]
    assert amounts(extend(client, ONE, more)) == [(0, 60, 100), (0, 35, 100), (0, 1, 3)]
    real = three(client, 51, 10, 0)
    done = settle(client, ONE, real)
    assert (done.state, amounts(done)) == (State.SETTLED, [(51, 0, 100), (10, 0, 100), (0, 0, 3)])
    assert [line.held for line in done.lines] == [60, 35, 1]
    before = dump(client)
    assert settle(client, ONE, real).state is State.ENDED
    assert reserve(client, ONE, held).state is State.FINISHED
    assert extend(client, ONE, held).state is State.FINISHED
    assert lapse(client, ONE, held).state is State.FINISHED
    assert dump(client) == before


@pytest.mark.parametrize("asked", [(101, 1, 1), (1, 101, 1), (1, 1, 4)])
def test_all_or_nothing(client: Valkey, asked: tuple[int, int, int]) -> None:
    """One hard limit without room: no counter, no record and no lease is written."""
    reserve(client, ONE, three(client, 10, 10))
    before = dump(client)
    refused = reserve(client, TWO, three(client, *asked))
    assert refused.state is State.REFUSED
    assert refused.refused == (next(place for place, amount in enumerate(asked) if amount > 1),)
    assert [line.held for line in refused.lines] == [0, 0, 0]
    assert dump(client) == before


def test_soft_limit_lets_pass_and_says_so(client: Valkey) -> None:
    """A soft limit takes what is above it."""
    booking = book(counter("acme", month(limit=10, hard=False)), 25, clock(client))
    taken = reserve(client, ONE, [booking])
    assert (taken.state, taken.over, amounts(taken)) == (State.GRANTED, (0,), [(0, 25, 10)])
    assert taken.reserved().standings[0].remaining == 0


def test_expired_is_charged_as_reserved_and_corrected(client: Valkey) -> None:
    """After its lease a reservation counts as used and its call is over; a late settlement corrects that, once."""
    held = three(client, 40, 30)
    reserve(client, ONE, held, lease=200)
    reserve(client, TWO, three(client, 5, 5))
    assert lapse(client, ONE, held).state is State.ALIVE
    time.sleep(0.21)
    assert call(client, Name.DUE, due("acme"))[1] == [b"one"]
    gone = lapse(client, ONE, held)
    assert (gone.state, amounts(gone)) == (State.EXPIRED, [(40, 5, 100), (30, 5, 100), (0, 1, 3)])
    assert call(client, Name.DUE, due("acme"))[1] == []
    assert lapse(client, ONE, held).state is State.FINISHED
    late = settle(client, ONE, three(client, 7, 3, 0))
    assert (late.state, amounts(late)) == (State.LATE, [(7, 5, 100), (3, 5, 100), (0, 1, 3)])
    assert settle(client, ONE, three(client, 7, 3, 0)).state is State.ENDED


def test_extension_revives_what_expired(client: Valkey) -> None:
    """The owner was slow, not dead: its charge becomes a reservation again, on the new total."""
    held = three(client, 40, 30)
    reserve(client, ONE, held, lease=1)
    time.sleep(0.005)
    assert lapse(client, ONE, held).state is State.EXPIRED
    revived = extend(client, ONE, three(client, 50, 30))
    assert (revived.state, amounts(revived)) == (State.REVIVED, [(0, 50, 100), (0, 30, 100), (0, 1, 3)])
    assert client.zscore(leases_key("acme"), "one") > clock(client)
    assert amounts(settle(client, ONE, three(client, 50, 30, 0))) == [(50, 0, 100), (30, 0, 100), (0, 0, 3)]


def test_renewed_lease_does_not_expire(client: Valkey) -> None:
    """One call renews all; it names those that are not there any more."""
    held = three(client, 1, 1)
    reserve(client, ONE, held, lease=1)
    time.sleep(0.005)
    now, *lost = call(client, Name.RENEW, renew("acme", ["nobody", "one"], LEASE))
    assert lost == [0]
    assert client.zscore(leases_key("acme"), "one") == now + LEASE
    assert client.zcard(leases_key("acme")) == 1
    assert lapse(client, ONE, held).state is State.ALIVE


def test_release_overtakes_reserve(client: Valkey) -> None:
    """A reservation that was given up before it arrived holds nothing."""
    nothing = three(client, 0, 0, 0)
    assert settle(client, ONE, nothing).state is State.CHARGED
    assert reserve(client, ONE, three(client, 10, 10)).state is State.FINISHED
    assert client.keys("*:c:*") == []
    assert client.zcard(leases_key("acme")) == 0


def test_lost_reservation_is_charged_once(client: Valkey) -> None:
    """The store has forgotten the reserve (fail-over): the settlement charges what was used."""
    real = three(client, 60, 20, 0)
    assert extend(client, ONE, real).state is State.UNKNOWN
    lost = settle(client, ONE, real)
    assert (lost.state, amounts(lost)) == (State.CHARGED, [(60, 0, 100), (20, 0, 100), (0, 0, 3)])
    assert settle(client, ONE, real).state is State.ENDED


def test_extra_counter(client: Valkey) -> None:
    """What nobody had reserved is charged with the settlement, by the same id, once."""
    other = book(counter("acme", month("other")), 9, clock(client))
    reserve(client, ONE, three(client, 10, 10))
    done = settle(client, ONE, three(client, 1, 1, 0), [other])
    assert amounts(done) == [(1, 0, 100), (1, 0, 100), (0, 0, 3), (9, 0, 100)]
    assert settle(client, ONE, three(client, 1, 1, 0), [other]).state is State.ENDED
    assert client.hget(other.counter.key, "u") == b"9"


def test_window_changes(client: Valkey) -> None:
    """A new window begins empty; what was reserved in the old one is settled there; two windows on its books are gone."""
    now = clock(client)
    spans = [Span(now + 300 * n - 10, now + 300 * n + 290, now + 300 * n + 590) for n in range(3)]
    counted = counter("acme", month())
    reserve(client, ONE, [Booking(counted, 70, 100, spans[0])])
    time.sleep(max(0.0, spans[0].end + 2 - clock(client)) / 1000)
    second = reserve(client, TWO, [Booking(counted, 80, 100, spans[0])])  # by the span that holds both
    assert amounts(second) == [(0, 80, 100)]
    assert second.lines[0].standing.resets_at == spans[1].end / 1000
    old = settle(client, ONE, [Booking(counted, 33, 100, spans[1])])
    assert amounts(old) == [(33, 0, 100)]
    assert client.hmget(counted.key, "u", "r", "pu", "pr") == [b"0", b"80", b"33", b"0"]
    time.sleep(max(0.0, spans[1].end + 2 - clock(client)) / 1000)
    third = Handle("acme", "third")
    reserve(client, third, [Booking(counted, 5, 100, spans[2])])
    time.sleep(max(0.0, spans[2].end + 2 - clock(client)) / 1000)
    fourth = Booking(counted, 6, 100, Span(spans[2].start, spans[2].end, spans[2].end + 10**6))
    reserve(client, Handle("acme", "fourth"), [fourth])
    free = extend(client, TWO, [fourth._replace(amount=500)])
    assert (free.state, free.lines[0].gone, free.lines[0].held) == (State.GRANTED, True, 500)
    gone = settle(client, TWO, [fourth])
    assert (gone.state, gone.lines[0].gone, gone.lines[0].held) == (State.SETTLED, True, 500)
    assert client.hmget(counted.key, "u", "r", "pu", "pr") == [b"0", b"6", b"0", b"5"]


def test_books_of_the_window_before(client: Valkey) -> None:
    """What was reserved in the window before is extended, expires, lives again and is corrected there, by its limit."""
    now = clock(client)
    counted = counter("acme", month())
    end = now + 300
    first = Booking(counted, 70, 100, Span(now - 10**6, end, end + 10**6))
    ask(client, Name.ADJUST, grant(first._replace(amount=20)), [first])
    reserve(client, ONE, [first], lease=1)
    time.sleep(max(0.0, end + 2 - clock(client)) / 1000)
    later = Booking(counted, 5, 100, Span(end, end + 10**6, end + 2 * 10**6))
    reserve(client, TWO, [later])

    def before(reply: Reply) -> tuple[object, ...]:
        assert client.hmget(counted.key, "u", "r") == [b"0", b"5"]
        assert reply.lines[0].standing.resets_at == end / 1000
        return (reply.state, *amounts(reply), *client.hmget(counted.key, "pu", "pr"))

    assert before(lapse(client, ONE, [first])) == (State.EXPIRED, (70, 0, 120), b"70", b"0")
    assert before(extend(client, ONE, [later._replace(amount=121)])) == (State.REFUSED, (70, 0, 120), b"70", b"0")
    assert before(extend(client, ONE, [later._replace(amount=120)], lease=1)) == (
        State.REVIVED,
        (0, 120, 120),
        b"0",
        b"120",
    )
    assert before(extend(client, ONE, [later._replace(amount=90)], lease=1)) == (
        State.GRANTED,
        (0, 90, 120),
        b"0",
        b"90",
    )
    time.sleep(0.005)
    assert before(lapse(client, ONE, [first])) == (State.EXPIRED, (90, 0, 120), b"90", b"0")
    assert before(settle(client, ONE, [later._replace(amount=33)])) == (State.LATE, (33, 0, 120), b"33", b"0")


def test_top_up_of_a_bucket_ends_when_it_is_full(client: Valkey) -> None:
    """It makes room at once, and is over when everything has flowed back."""
    flow = book(counter("acme", bucket(limit=100, burst=20, period=1000)), 20)
    reserve(client, ONE, [flow])
    ask(client, Name.ADJUST, grant(flow._replace(amount=15)), [flow])
    topped = reserve(client, TWO, [flow._replace(amount=10)])
    assert (topped.state, topped.lines[0].standing.limit) == (State.GRANTED, 35)
    time.sleep(0.35)
    assert reserve(client, Handle("acme", "third"), [flow]).lines[0].standing.limit == 20


@pytest.mark.parametrize("shift", [-(10**7), 10**7])
def test_clock_decides(client: Valkey, shift: int) -> None:
    """Spans of another time are answered by the store's clock, and nothing happens."""
    booking = book(counter("acme", month()), 1, clock(client) + shift, width=1000)
    for reply in (reserve(client, ONE, [booking]), settle(client, TWO, [booking])):
        assert (reply.state, reply.lines) == (State.CLOCK, ())
        assert abs(reply.now - clock(client)) < 5000
    assert dump(client) == {}


def test_when_it_admits_again(client: Valkey) -> None:
    """A refusal says from when on the amount would pass."""
    now = clock(client)
    window = book(counter("acme", month()), 80, now)
    assert window.span is not None
    flow = book(counter("acme", bucket(limit=100, burst=50, period=10_000)), 50)
    flying = book(counter("acme", flights(limit=1)), 1)
    reserve(client, ONE, [window, flow, flying])
    refused = reserve(client, TWO, [window, flow._replace(amount=30), flying])
    standings = refused.reserved().standings
    assert refused.refused == (0, 1, 2)
    assert standings[0].admits_at == standings[0].resets_at == window.span.end / 1000
    assert 0 <= standings[1].admits_at - refused.now / 1000 <= 3.0
    assert 0 <= standings[1].resets_at - refused.now / 1000 <= 5.0
    assert (standings[2].admits_at, standings[2].resets_at) == (0.0, 0.0)
    never = reserve(client, TWO, [window._replace(amount=101), flow._replace(amount=51), flying._replace(amount=2)])
    assert [line.standing.admits_at for line in never.lines] == [math.inf] * 3


def test_bucket_flows_back(client: Valkey) -> None:
    """What is out drains with the limit per period, and a settlement may take it above the burst."""
    flow = book(counter("acme", bucket(limit=1000, burst=100, period=1000)), 100)
    first = reserve(client, ONE, [flow])
    time.sleep(0.05)
    second = reserve(client, TWO, [flow._replace(amount=1)])
    passed = second.now - first.now
    assert second.lines[0].standing.used + second.lines[0].standing.reserved == max(0, 100 - passed) + 1
    over = settle(client, TWO, [flow._replace(amount=900)])
    assert over.lines[0].standing.used + over.lines[0].standing.reserved > over.lines[0].standing.limit


def test_bucket_of_a_month(client: Valkey) -> None:
    """With large amounts and a long period the division is not exact any more, but what is kept stays a whole number."""
    rule = bucket(limit=8 * 10**15 + 7, burst=8 * 10**15, period=31 * 86_400_000)
    flow = book(counter("acme", rule), 8 * 10**15)
    first = reserve(client, ONE, [flow])
    for number in range(20):
        time.sleep(0.002)
        last = reserve(client, Handle("acme", f"n{number}"), [flow._replace(amount=1000)])
        assert last.state is State.GRANTED
    flowed = (last.now - first.now) * rule.limit // rule.period
    standing = last.lines[0].standing
    assert abs(standing.used + standing.reserved - (8 * 10**15 - flowed + 20 * 1000)) <= 20


def test_changed_limit_keeps_what_is_used(client: Valkey) -> None:
    """Another limit judges the same books."""
    wide = three(client, 60, 60)
    reserve(client, ONE, wide)
    narrow = [wide[0]._replace(limit=70), wide[1]._replace(limit=70), wide[2]._replace(limit=1)]
    refused = reserve(client, TWO, narrow)
    assert refused.refused == (0, 1, 2)
    assert amounts(refused) == [(0, 60, 70), (0, 60, 70), (0, 1, 1)]
    assert settle(client, ONE, three(client, 60, 60, 0)).state is State.SETTLED


def test_top_up_and_reset(client: Valkey) -> None:
    """A top-up makes room in the window that runs; a reset forgets what was used and leaves calls in flight alone."""
    reserve(client, ONE, three(client, 50, 50))
    settle(client, ONE, three(client, 50, 50, 0))
    reserve(client, TWO, three(client, 40, 40))
    window, flow, flying = three(client, 25, 25)
    assert reserve(client, Handle("acme", "no"), [window, flow]).refused == (0, 1)
    for booking in (window, flow):
        assert amounts(ask(client, Name.ADJUST, grant(booking), [booking])) == [(50, 40, 125)]
    assert reserve(client, Handle("acme", "yes"), [window, flow]).state is State.GRANTED
    back = window._replace(amount=-100)
    assert amounts(ask(client, Name.ADJUST, grant(back), [back])) == [(50, 65, 100)]
    assert amounts(ask(client, Name.ADJUST, reset(window), [window])) == [(0, 65, 100)]
    assert amounts(ask(client, Name.ADJUST, reset(flow), [flow])) == [(0, 65, 125)]
    assert amounts(ask(client, Name.ADJUST, reset(flying), [flying])) == [(0, 1, 3)]
    with pytest.raises(ValueError, match="no top-up"):
        grant(flying)


def test_alerts_are_told_once(client: Valkey) -> None:
    """Each threshold of a window is told by the one call that reaches it; a refusal tells the last."""
    told = []
    for number, used in enumerate((40, 9, 1, 29, 1, 15, 2)):
        handle, booking = Handle("acme", f"n{number}"), book(counter("acme", month()), used, clock(client))
        assert reserve(client, handle, [booking]).state is State.GRANTED
        told.append(settle(client, handle, [booking]).lines[0].alert)
    assert told == [0, 0, 50, 0, 80, 0, 0]
    refused = [reserve(client, ONE, [book(counter("acme", month()), 4, clock(client))]) for _ in range(3)]
    assert [reply.lines[0].alert for reply in refused] == [100, 0, 0]
    flying = book(counter("acme", flights(limit=1)), 1)
    replies = [reserve(client, Handle("acme", f"f{number}"), [flying]) for number in range(4)]
    assert [reply.lines[0].alert for reply in replies] == [0, 100, 0, 0]


def test_too_large_for_ever_is_no_alert(client: Valkey) -> None:
    """A call that is larger than the whole limit says nothing about the budget."""
    refused = reserve(client, ONE, [book(counter("acme", month()), 101, clock(client))])
    assert (refused.state, refused.lines[0].alert) == (State.REFUSED, 0)


def test_numbers_that_cannot_be_counted(client: Valkey) -> None:
    """Amounts and limits from 2**53 on are refused before they are sent; sums of a soft limit stay at the largest."""
    most = LARGEST - 1
    soft = counter("acme", month(limit=most, hard=False, alerts=()))
    now = clock(client)
    for wrong in (LARGEST, -1):
        with pytest.raises(ValueError, match="cannot be counted"):
            CALLS.reserve(ONE, [book(soft, wrong, now)], LEASE)
        with pytest.raises(ValueError, match="cannot be counted"):
            terms(book(soft, 1, now)._replace(limit=wrong))
        with pytest.raises(ValueError, match="cannot be counted"):
            override(soft, wrong)
    assert amounts(reserve(client, ONE, [book(soft, most, now)])) == [(0, most, most)]
    beside = reserve(client, TWO, [book(soft, 7, now)])
    assert (beside.state, beside.over, beside.lines[0].held) == (State.GRANTED, (0,), 0)
    assert client.hget(soft.key, "r") == b"%d" % most
    assert amounts(settle(client, ONE, [book(soft, most, now)])) == [(most, 0, most)]
    assert amounts(settle(client, TWO, [book(soft, most, now)])) == [(most, 0, most)]


def test_what_uses_nothing_passes_a_limit_that_was_overrun(client: Valkey) -> None:
    """Embeddings have no output: a limit on output is none of theirs."""
    counted = counter("acme", month(limit=5))
    now = clock(client)
    settle(client, ONE, [book(counted, 9, now)])
    assert reserve(client, TWO, [book(counted, 0, now)]).state is State.GRANTED
    assert reserve(client, Handle("acme", "three"), [book(counted, 1, now)]).state is State.REFUSED


def test_alerts_begin_anew_where_the_limit_was_raised(client: Valkey) -> None:
    """The higher limit has thresholds of its own; the same limit tells each once."""
    counted = counter("acme", month(limit=10))
    now = clock(client)

    def told(name: str, amount: int, limit: int) -> int:
        booking = book(counted, amount, now)._replace(limit=limit)
        return settle(client, Handle("acme", name), [booking]).lines[0].alert

    assert [told("a", 10, 10), told("b", 1, 10)] == [100, 0]
    assert [told("c", 1, 1000), told("d", 490, 1000), told("e", 1, 1000), told("f", 500, 1000)] == [0, 50, 0, 100]


def test_a_window_of_the_future_is_no_prison(client: Valkey) -> None:
    """A store whose clock was wrong for a moment has opened it: the right window takes its place."""
    counted = counter("acme", month())
    now = clock(client)
    client.hset(counted.key, mapping={"s": now + 10**12, "e": now + 2 * 10**12, "u": 100, "r": 0, "g": 0, "a": 100})

    reply = reserve(client, ONE, [book(counted, 1, now)])
    assert (reply.state, amounts(reply)) == (State.GRANTED, [(0, 1, 100)])


def test_terms_that_make_no_sense() -> None:
    """What no script could work with is refused where the arguments are made."""
    with pytest.raises(ValueError, match="twice"):
        CALLS.reserve(ONE, [book(counter("acme", flights()), 1)] * 2, LEASE)
    with pytest.raises(ValueError, match="needs a span"):
        terms(Booking(counter("acme", month()), 1, 100))
    with pytest.raises(ValueError, match="bucket of"):
        terms(book(counter("acme", bucket(period=0)), 1))
    with pytest.raises(ValueError, match="not a record"):
        record_counters(b"something else")


def test_terms_are_encoded_anew_when_they_change() -> None:
    """What is kept encoded is for this rule, this limit and this span only."""
    calls, counted = Calls(), counter("acme", month())
    first = book(counted, 1, 10**12)
    seen = {
        calls.reserve(ONE, [booking], LEASE)[-1]
        for booking in (first, first._replace(limit=5), book(counted, 1, 2 * 10**12), first)
    }
    seen.add(calls.reserve(ONE, [book(counter("acme", month(hard=False)), 1, 10**12)], LEASE)[-1])
    assert len(seen) == 4


def test_somebody_else_wrote(client: Valkey) -> None:
    """Values that are not ours: an error that names the key, and nothing is changed, on no counter."""
    held = three(client, 10, 10)
    for field, value in (("u", "much"), ("r", "-1"), ("e", "0.5"), ("g", "1e300"), ("a", "nan")):
        client.flushall()
        reserve(client, ONE, held)
        client.hset(held[0].counter.key, field, value)
        before = dump(client)
        for ask_it in (
            lambda: reserve(client, TWO, held),
            lambda: settle(client, ONE, held),
            lambda: extend(client, ONE, held),
        ):
            with pytest.raises(ResponseError, match=r"XQBAD .*month"):
                ask_it()
        assert dump(client) == before
    client.flushall()
    client.set(held[2].counter.key, "a string")
    with pytest.raises(ResponseError, match="WRONGTYPE"):
        reserve(client, ONE, held)
    assert client.keys() == [held[2].counter.key]


@pytest.mark.parametrize("text", ["r2\nnew 1 0 terms", "", "r1", "x"])
def test_record_of_another_version(client: Valkey, text: str) -> None:
    """A record that this version cannot read is left alone."""
    held = three(client, 10, 10)
    client.set(record_key(ONE), text)
    before = dump(client)
    for ask_it in (
        lambda: reserve(client, ONE, held),
        lambda: settle(client, ONE, held),
        lambda: extend(client, ONE, held),
    ):
        with pytest.raises(ResponseError, match="XQBAD not a record"):
            ask_it()
    assert dump(client) == before


def test_other_counters_than_reserved(client: Valkey) -> None:
    """A settlement or an extension on other counters than the record's is an error, and changes nothing."""
    held = three(client, 10, 10)
    reserve(client, ONE, held)
    before = dump(client)
    for wrong in (held[:2], [held[1], held[0], held[2]]):
        for ask_it in (settle, extend):
            with pytest.raises(ResponseError, match="XQARGS"):
                ask_it(client, ONE, wrong)
    assert dump(client) == before


def test_two_versions_side_by_side(client: Valkey) -> None:
    """Another version of the scripts has another name on the server, and works on the same books."""
    held = three(client, 10, 10)
    for name in (Name.RESERVE, Name.SETTLE):
        source = script(name).source + b"\n-- another version\n"
        sha = client.script_load(source)
        assert sha.encode() != script(name).sha
        assert hashlib.sha1(script(name).source).hexdigest().encode() == script(name).sha
    old = hashlib.sha1(script(Name.RESERVE).source + b"\n-- another version\n").hexdigest()
    assert client.execute_command("EVALSHA", old, *CALLS.reserve(ONE, held, LEASE))[0] == State.GRANTED
    assert settle(client, ONE, held).state is State.SETTLED


def test_nothing_stays_for_ever(client: Valkey) -> None:
    """Every key has an end but the index, the overrides, and what a live reservation needs."""
    held = three(client, 10, 10)
    reserve(client, ONE, held)
    reserve(client, TWO, held, lease=1)
    assert {key for key in client.scan_iter() if client.pttl(key) < 0} == {
        leases_key("acme"), record_key(ONE), record_key(TWO), held[2].counter.key
    }  # fmt: skip
    time.sleep(0.005)
    lapse(client, TWO, held)
    settle(client, ONE, held)
    settle(client, Handle("acme", "third"), three(client, 0, 0, 0))
    assert client.zcard(leases_key("acme")) == 0
    times = {key: client.pttl(key) for key in client.scan_iter()}
    assert len(times) == 6  # an empty index is no key
    assert all(0 < left <= 3 * 10**9 for left in times.values()), times
    assert TOMBSTONE - 10_000 < times[record_key(ONE)] <= TOMBSTONE


def test_overrides(client: Valkey) -> None:
    """A live override is read back, each change has a version of its own, and a broken one is left out."""
    counted = counter("acme", month(), "search/gpt")
    versions = [call(client, Name.OVERRIDE, override(counted, limit)) for limit in (900, 7)]
    client.hset(overrides_key("acme"), "month|broken", "many")
    assert read_overrides(client.hgetall(overrides_key("acme"))) == {("month", "search/gpt"): 7}
    versions.append(call(client, Name.OVERRIDE, override(counted, None)))
    assert len(set(versions)) == 3
    assert client.get(overrides_version_key("acme")) == b"%d" % versions[-1]
    assert read_overrides(client.hgetall(overrides_key("acme"))) == {}


def test_pattern_takes_the_organisation_literally(client: Valkey) -> None:
    """An organisation with signs of a pattern in its name finds its own counters only."""
    odd, other = counter("a*[b]?", flights()), counter("axxbx", flights())
    for one in (odd, other):
        reserve(client, Handle(one.organisation, "x"), [book(one, 1)])
    assert list(client.scan_iter(counters_pattern("a*[b]?"))) == [odd.key]


def everything(client: Valkey, organisation: str) -> None:
    """Each script on each path."""
    now = clock(client)
    rules = (month(alerts=(10,)), bucket(), flights(), Rule("soft", Kind.TOKENS, Window.DAY, 1, hard=False))
    held = [book(counter(organisation, rule), 2, now) for rule in rules]
    one, two = Handle(organisation, "one"), Handle(organisation, "two")
    states = [reserve(client, one, held).state, reserve(client, two, held, lease=1).state]
    assert states == [State.GRANTED, State.REFUSED]
    light = [booking._replace(amount=1) for booking in held]
    assert reserve(client, two, light, lease=1).state is State.GRANTED
    assert extend(client, one, held).state is State.GRANTED
    time.sleep(0.005)
    assert call(client, Name.DUE, due(organisation))[1] == [b"two"]
    call(client, Name.RENEW, renew(organisation, ["one"], LEASE))
    assert lapse(client, two, light).state is State.EXPIRED
    assert settle(client, two, light).state is State.LATE
    assert settle(client, one, held, [book(counter(organisation, month("extra")), 3, now)]).state is State.SETTLED
    for arguments in (grant(held[0]), reset(held[1])):
        assert call(client, Name.ADJUST, arguments)[0] == State.GRANTED
    call(client, Name.OVERRIDE, override(held[0].counter, 5))


def test_touches_declared_keys_only(client: Valkey, socket: Path) -> None:
    """What a script writes or reads is among the keys it was called with (a cluster's rule)."""
    for name in Name:
        client.script_load(script(name).source)
    with Valkey(unix_socket_path=str(socket)) as second, second.monitor() as monitor:
        everything(client, "acme")
        client.echo("the end")
        declared: set[str] = set()
        touched = 0
        for entry in monitor.listen():
            words = entry["command"].split(" ")
            if entry["client_type"] == "lua":
                assert words[0] == "TIME" or words[1] in declared, words
                touched += 1
            elif words[0] == "EVALSHA":
                declared = set(words[3 : 3 + int(words[2])])
            elif words[0] == "ECHO":
                break
    assert touched > 100


def test_on_a_cluster() -> None:
    """On a cluster node, with the server's own check for keys of other slots switched on."""
    with cluster(1) as (node,), node.client() as client:
        for organisation in ("acme", "other", "third"):
            everything(client, organisation)
        strict = client.script_load(b"#!lua\n" + script(Name.RESERVE).source)
        held = [book(counter("strict", flights()), 1), book(counter("strict", month()), 1, clock(client))]
        arguments = CALLS.reserve(Handle("strict", "one"), held, LEASE)
        assert client.execute_command("EVALSHA", strict, *arguments)[0] == State.GRANTED
        with pytest.raises(ResponseError, match=r"CROSSSLOT|same slot"):
            reserve(client, ONE, [book(counter("elsewhere", flights()), 1)])
