"""The ledger and the store's scripts keep the same books: random operations, every answer and every counter compared."""

from __future__ import annotations

import itertools
import time
from collections import Counter
from pathlib import Path
from typing import ClassVar

from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from valkey import Valkey

from extproc.limits.counters import Window
from extproc.limits.ledger import Ledger, stored_standing
from extproc.limits.rules import key_prefix
from extproc.limits.scripts import (
    Booking,
    Calls,
    Handle,
    Name,
    Reply,
    State,
    due,
    expire,
    grant,
    leases_key,
    record_key,
    renew,
    reset,
)
from limits.store import ask, book, bucket, call, counter, flights, month, tiles

WIDTH = 40  # milliseconds: a calendar window of these tests
LEASES = (8, 60_000)
NUMBERS = itertools.count()
RULES = (
    month("hard", 100, alerts=(50, 80, 100)),
    month("soft", 60, hard=False, alerts=(10,)),
    bucket("rate", 100, burst=40, period=300),
    bucket("slow", 7, burst=30, period=999, hard=False, alerts=()),
    flights("three", 3),
    flights("two", 2, hard=False),
)
CHOICE = st.lists(st.sampled_from(range(len(RULES))), min_size=1, max_size=3, unique=True)
AMOUNTS = st.lists(st.integers(0, 45), min_size=3, max_size=3)


class Comparison(RuleBasedStateMachine):
    """Does everything twice."""

    client: Valkey
    seen: ClassVar[Counter[State]] = Counter()

    def __init__(self) -> None:
        super().__init__()
        self.organisation = f"Acme & Söhne {next(NUMBERS)}"
        self.counters = [counter(self.organisation, one) for one in RULES]
        self.limits = [one.limit for one in RULES]
        self.calls, self.ledger = Calls(), Ledger()
        self.reserved: dict[str, list[int]] = {}  # which counters an id was first used with

    @initialize()
    def begin(self) -> None:
        assert self.client.exists(leases_key(self.organisation)) == 0

    def bookings(self, places: list[int], amounts: list[int], shift: int = 0) -> list[Booking]:
        span = tiles(int(time.time() * 1000) + shift, WIDTH)
        made = []
        for place, amount in zip(places, amounts, strict=False):
            counted = self.counters[place]
            window = counted.rule.window
            wanted = int(amount > 9) if window is Window.CONCURRENT else amount
            made.append(Booking(counted, wanted, self.limits[place], span if window is Window.MONTH else None))
        return made

    def handle(self, name: str) -> Handle:
        return Handle(self.organisation, name)

    def known(self, pick: int) -> str:
        """One of the latest ids, or one that nobody has used."""
        return [*self.reserved, f"id{next(NUMBERS)}"][-5:][pick]

    def same(self, theirs: Reply, ours: Reply) -> None:
        self.seen[theirs.state] += 1
        assert theirs == ours, f"{theirs}\n{ours}"

    @rule(
        pick=st.sampled_from([0, -1, -1, -1]),
        places=CHOICE,
        amounts=AMOUNTS,
        lease=st.sampled_from(LEASES),
        shift=st.sampled_from([0, 0, 0, 0, -30, 30, -200]),
    )
    def reserve(self, pick: int, places: list[int], amounts: list[int], lease: int, shift: int) -> None:
        """Also with a span of another time, and with an id that has been used."""
        name = self.known(pick)
        bookings = self.bookings(self.reserved.setdefault(name, places), amounts, shift)
        theirs = ask(self.client, Name.RESERVE, self.calls.reserve(self.handle(name), bookings, lease), bookings)
        self.same(theirs, self.ledger.reserve(name, bookings, theirs.now, lease))

    @precondition(lambda self: self.reserved)
    @rule(pick=st.sampled_from([0, -1, -1, -2, -2]), amounts=AMOUNTS, lease=st.sampled_from(LEASES))
    def extend(self, pick: int, amounts: list[int], lease: int) -> None:
        names = list(self.reserved)
        name = names[max(pick, -len(names))]
        bookings = self.bookings(self.reserved[name], amounts)
        theirs = ask(self.client, Name.EXTEND, self.calls.extend(self.handle(name), bookings, lease), bookings)
        self.same(theirs, self.ledger.extend(name, bookings, theirs.now, lease))

    @rule(
        pick=st.sampled_from([0, -1, -2, -2, -2]),
        places=CHOICE,
        amounts=AMOUNTS,
        nothing=st.booleans(),
        more=st.integers(0, 30),
    )
    def settle(self, pick: int, places: list[int], amounts: list[int], nothing: bool, more: int) -> None:
        """Twice. Known and unknown ones, releases, and amounts on a counter that was not reserved on."""
        name = self.known(max(pick, -1 - len(self.reserved)))
        places = self.reserved.setdefault(name, places)
        bookings = self.bookings(places, [0, 0, 0] if nothing else amounts)
        extra = self.bookings([place for place in (0, 2) if place not in places and more], [more] * 2)
        arguments, both = self.calls.settle(self.handle(name), bookings, extra), [*bookings, *extra]
        for _ in range(2):
            theirs = ask(self.client, Name.SETTLE, arguments, both)
            self.same(theirs, self.ledger.settle(name, bookings, theirs.now, extra))
        assert theirs.state in {State.ENDED, State.CHARGED, State.CLOCK}

    @rule()
    def sweep(self) -> None:
        """Everything that is due expires, and nothing else."""
        now, names = call(self.client, Name.DUE, due(self.organisation))
        live = {name for name, hold in self.ledger._holds.items() if hold.state == "live" and hold.ends <= now}
        assert {name.decode() for name in names} == live
        for name in sorted(live):
            record = self.client.get(record_key(self.handle(name)))
            bookings = self.ledger._holds[name].bookings
            theirs = ask(self.client, Name.EXPIRE, expire(self.handle(name), record), bookings)
            self.same(theirs, self.ledger.expire_one(name, theirs.now))
            assert theirs.state is State.EXPIRED

    @rule(pick=st.sampled_from([0, -1, -2]))
    def expire_any(self, pick: int) -> None:
        """One that lives, is over or was never there."""
        name = self.known(max(pick, -1 - len(self.reserved)))
        record = self.client.get(record_key(self.handle(name)))
        bookings = self.ledger._holds[name].bookings if name in self.ledger._holds else ()
        theirs = ask(self.client, Name.EXPIRE, expire(self.handle(name), record), bookings)
        self.same(theirs, self.ledger.expire_one(name, theirs.now))

    @rule(lease=st.sampled_from(LEASES))
    def renew(self, lease: int) -> None:
        names = [*list(self.reserved)[-3:], "nobody"]
        now, *lost = call(self.client, Name.RENEW, renew(self.organisation, names, lease))
        holds = self.ledger._holds
        assert lost == [at for at, name in enumerate(names) if name not in holds or holds[name].state != "live"]
        self.ledger.renew(names, now, lease)

    @rule(place=st.integers(0, 5), amount=st.integers(-20, 40), forget=st.booleans())
    def adjust(self, place: int, amount: int, forget: bool) -> None:
        """A top-up, some of it taken back, or what was used forgotten."""
        (booking,) = self.bookings([place], [0])
        booking = booking._replace(amount=amount)
        if forget or place > 3:
            theirs = ask(self.client, Name.ADJUST, reset(booking), [booking])
            self.same(theirs, self.ledger.reset(booking, theirs.now))
        else:
            theirs = ask(self.client, Name.ADJUST, grant(booking), [booking])
            self.same(theirs, self.ledger.grant(booking, theirs.now))

    @rule(place=st.integers(0, 5), limit=st.integers(0, 200))
    def change_limit(self, place: int, limit: int) -> None:
        self.limits[place] = limit % 5 if place > 3 else limit

    @rule(milliseconds=st.sampled_from([1, 3, 10, 45]))
    def wait(self, milliseconds: int) -> None:
        time.sleep(milliseconds / 1000)

    @invariant()
    def every_counter(self) -> None:
        bookings = self.bookings(list(range(len(RULES))), [0] * len(RULES))
        pipe = self.client.pipeline()
        pipe.time()
        for counted in self.counters:
            pipe.hgetall(counted.key)
        (seconds, micros), *found = pipe.execute()
        now = seconds * 1000 + micros // 1000
        for booking, fields in zip(bookings, found, strict=True):
            key = booking.counter.key
            theirs, ours = stored_standing(booking, fields, now), self.ledger.standing(booking, now)
            assert theirs == ours, f"{booking} at {now}: {fields}\n{theirs}\n{ours}"
            windows = self.ledger._windows.get(key, ())
            if booking.span is not None and fields:
                latest = windows[-1]
                assert [int(fields[name]) for name in (b"s", b"e", b"u", b"r", b"g", b"a")] == [
                    latest.start, latest.end, latest.used, latest.reserved, latest.granted, latest.told
                ]  # fmt: skip
                if len(windows) == 2:
                    before = windows[0]
                    assert [int(fields[name]) for name in (b"ps", b"pe", b"pu", b"pr")] == [
                        before.start, before.end, before.used, before.reserved
                    ]  # fmt: skip

    def teardown(self) -> None:
        for key in self.client.scan_iter(f"{key_prefix(self.organisation)}*"):
            self.client.delete(key)


def test_same_books(socket: Path) -> None:
    """Whatever is done, in whatever order: every answer and every counter of the store is the ledger's."""
    with Valkey(unix_socket_path=str(socket)) as client:
        machine = type("Connected", (Comparison,), {"client": client})
        run_state_machine_as_test(
            machine,
            settings=settings(
                max_examples=100,
                stateful_step_count=40,
                deadline=None,
                phases=[Phase.explicit, Phase.generate],
                suppress_health_check=list(HealthCheck),
            ),
        )
    common = {State.GRANTED, State.REFUSED, State.AGAIN, State.FINISHED, State.SETTLED, State.CHARGED, State.EXPIRED}
    assert common <= set(Comparison.seen)


def test_forgets_what_has_no_use_any_more() -> None:
    """Ended reservations go after an hour, or at once where nobody asks for them; counters when their time is over."""
    for ledger, kept in ((Ledger(), 1), (Ledger(tombstone=0), 0)):
        bookings = [book(counter("o", one), 1, 10**12, 1000) for one in RULES]
        ledger.reserve("a", bookings, 10**12, 1000)
        ledger.settle("a", bookings, 10**12)
        now = 10**12 + 120_000
        fresh = [book(counter("o", one, "other"), 1, now, 1000) for one in RULES]
        ledger.reserve("b", fresh, now, 1000)
        assert len(ledger._holds) == 1 + kept
        ledger.settle("b", fresh, now)
        ledger.reserve("c", [], now + 10**8, 1000)
        assert set(ledger._holds) == {"c"}
        assert (ledger._pages, ledger._windows, ledger._until) == ({}, {}, {})


def test_expires_what_is_due() -> None:
    """All leases that have run out, by their ids; the others live on, and so do renewed ones."""
    ledger, flying = Ledger(), book(counter("o", flights(limit=9)), 1)
    for name, lease in (("a", 10), ("b", 20), ("c", 30), ("d", 10)):
        ledger.reserve(name, [flying], 1000, lease)
    ledger.renew(["d", "nobody"], 1005, 100)
    assert [(name, reply.state) for name, reply in ledger.expire(1020)] == [("a", State.EXPIRED), ("b", State.EXPIRED)]
    assert ledger.standing(flying, 1020).reserved == 2
