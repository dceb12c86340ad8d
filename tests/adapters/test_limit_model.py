"""Two replicas on one Valkey against a model, whatever dies or stalls: after the leases every counter is what it must be.

Each call has a counter of its own, so what it was charged can be seen; the counter of all must be the sum. The model
knows what each call may have been charged: mostly one amount. Two where an owner died before the store had told it
whether it had heard: then either may be, and nothing else.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Coroutine, Iterable
from contextlib import ExitStack
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule, run_state_machine_as_test

from adapters.limit_parties import ROOM, Call, Replica, losing, rules
from adapters.limit_rig import Proxy, Tape, organisation, until
from extproc.adapters.limit_store import LimitStore, Settings
from extproc.adapters.valkey_topology import make_store
from extproc.config import quotas
from extproc.errors import LimitsAwayError
from extproc.exchange.effects import Extend, Reserve, Settle
from extproc.limits.counters import Away, Charge, Counter, Subject
from extproc.limits.scripts import Name, leases_key
from valkeys import Server, server

T = TypeVar("T")

LEASE = 0.6
SWEEP = 1.2  # seconds between two looks for leases that have run out
SHORT = Settings(timeout=0.15, lease=LEASE)
WITHIN = 15.0
LOST = st.sampled_from(["reply", "", "", "request"])


class Gateway(RuleBasedStateMachine):
    """The machine; `away` says what the limits do without the store."""

    away = Away.DENY
    checked: ClassVar[int] = 0  # calls whose counters were compared

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.stack = ExitStack()
        self.server: Server = self.stack.enter_context(server("--appendonly", "yes", "--appendfsync", "no"))
        self.state = "up"
        self.isolated = False
        self.quota_rules = rules(self.away)
        self.name = organisation()
        self.number = 0
        self.calls: list[Call] = []
        self.replicas: list[Replica] = []

    # ---- helpers

    def do(self, work: Coroutine[Any, Any, T]) -> T:
        """Run on the loop, where the work in the background goes on too."""

        async def bounded() -> T:
            async with asyncio.timeout(3 * WITHIN):
                return await work

        return self.loop.run_until_complete(bounded())

    async def made(self, proxy: Proxy) -> Replica:
        """A replica that has just started."""
        store = make_store(quotas.Store(url=f"unix://{proxy.path}"), Path("/nowhere"), {})
        tape = Tape()
        limits = LimitStore(store, SHORT, self.quota_rules, tape)
        store.on_connected = lambda _name: limits.kick()
        limits.start(self.name)
        await store.connect(0.3)
        return Replica(limits, store, proxy, tape)

    def charges(self, key: str, amount: int) -> tuple[Charge, ...]:
        """Of a call."""
        counters = self.quota_rules.counters(Subject(self.name, team="t", key=key))
        return Charge(counters[0], amount), Charge(counters[1], amount), Charge(counters[2], 1)

    def heard(self) -> None:
        """Forget what the store has acknowledged by now."""
        for replica in self.replicas:
            if not replica.limits.unsettled:
                replica.untold.clear()

    @property
    def calm(self) -> bool:
        """Whether everybody sees the store, all is told, and the model knows all amounts."""
        if self.state != "up" or any(len(call.may) > 1 for call in self.calls):
            return False
        there = all(not one.limits.away_since and one.proxy.flowing.is_set() for one in self.replicas)
        return there and not any(one.limits.unsettled for one in self.replicas)

    def total(self) -> int:
        """What is used or held by all calls, where the model knows it."""
        return sum(next(iter(call.may)) for call in self.calls if not (call.local and call.open))

    def some(self, replica: int, pick: int) -> tuple[Replica, Call | None]:
        """One of the open calls of a replica."""
        one = self.replicas[replica]
        names = sorted(one.calls)
        return one, one.calls[names[pick % len(names)]] if names else None

    # ---- calls

    @initialize(amounts=st.lists(st.integers(1, 300), min_size=4, max_size=6), lost=st.tuples(LOST, LOST))
    def begin(self, amounts: list[int], lost: tuple[str, str]) -> None:
        """Two replicas with some calls; the last one of each may lose its connection."""

        async def work() -> None:
            for number in range(2):
                proxy = Proxy(self.server, self.server.folder / f"p{number}.sock")
                await proxy.open()
                self.replicas.append(await self.made(proxy))

        self.do(work())
        for place, amount in enumerate(amounts):
            self._reserve(place % 2, amount, lost[place % 2] if place >= len(amounts) - 2 else "")

    @rule(replica=st.integers(0, 1), amounts=st.lists(st.integers(1, 500), min_size=1, max_size=4), lost=LOST)
    def reserve(self, replica: int, amounts: list[int], lost: str) -> None:
        """Some calls; the last one may lose its connection."""
        for amount in amounts[:-1]:
            self._reserve(replica, amount, "")
        self._reserve(replica, amounts[-1], lost)

    def _reserve(self, replica: int, amount: int, lost: str) -> None:
        """Held, refused, or denied; where the model knows everything, exactly when there is room."""
        one = self.replicas[replica]
        self.number += 1
        name = f"c{self.number:03}"
        charges = self.charges(name, amount)
        call = Call(name, charges[1].counter, {amount})
        self.heard()
        fits = self.total() + amount <= ROOM if self.calm and not lost else None
        self.calls.append(call)
        try:
            with losing(one.proxy, lost, Name.RESERVE):
                reply = self.do(one.limits.reserve(Reserve(name, self.name, charges)))
        except LimitsAwayError:
            call.may, call.open = {0}, False
            one.untold.append((call, {amount}))
            return
        if not reply.local:
            assert fits is None or fits is not bool(reply.refused), (fits, reply)
            assert reply.refused or reply.standings[0].used + reply.standings[0].reserved <= ROOM
        if reply.local:  # asked in vain before: whether that was held is unknown until its release is acknowledged
            one.untold.append((call, {amount}))
        if reply.refused:
            call.may, call.open = {0}, False
            return
        call.local = reply.local
        if call.local:
            call.may = {0}
        one.calls[name] = call

    @rule(replica=st.integers(0, 1), pick=st.integers(0, 99), more=st.integers(1, 300))
    def extend(self, replica: int, pick: int, more: int) -> None:
        """Hold more."""
        one, call = self.some(replica, pick)
        if call is None:
            return

        async def work() -> None:
            reservation = one.limits._open[call.name]
            amount = reservation.held[0] + more
            known, away = len(one.tape.told["extended"]), one.limits.away_since
            one.limits.extend(Extend(call.name, (amount, amount, 1)))
            await until(lambda: not reservation.busy)
            if call.local:
                return
            told = one.tape.told["extended"][known:]
            if away or reservation.shadow is not None or not told:
                call.may = call.may | {amount}
            elif told[-1][1]:
                call.may = {amount}

        self.do(work())

    @rule(replica=st.integers(0, 1), pick=st.integers(0, 99), real=st.integers(0, 600), twice=st.booleans(), lost=LOST)
    def settle(self, replica: int, pick: int, real: int, twice: bool, lost: str) -> None:
        """The call is over; nothing is changed by saying it twice."""
        one, call = self.some(replica, pick)
        if call is None:
            return
        del one.calls[call.name]
        one.untold.append((call, call.may))
        call.may, call.open = {real}, False

        async def work() -> None:
            for _ in range(2 if twice else 1):
                one.limits.settle(Settle(call.name, (real, real, 1)))
            if lost:
                await asyncio.sleep(0.02)

        with losing(one.proxy, lost, Name.SETTLE):
            self.do(work())

    # ---- what goes wrong

    @rule(replica=st.integers(0, 1))
    def die(self, replica: int) -> None:
        """A replica is gone in the middle of everything, and another one takes its place."""
        old = self.replicas[replica]
        self.heard()
        for call in old.calls.values():
            call.open = False
        for call, other in old.untold:
            call.may = call.may | other

        async def work() -> Replica:
            await old.limits.close()
            await old.store.close()
            return await self.made(old.proxy)

        self.replicas[replica] = self.do(work())

    @rule(replica=st.integers(0, 1))
    def cut(self, replica: int) -> None:
        """Its connection breaks."""
        self.replicas[replica].proxy.cut()

    @rule(replica=st.integers(0, 1))
    def stall(self, replica: int) -> None:
        """Its network swallows everything, or goes on."""
        flowing = self.replicas[replica].proxy.flowing
        (flowing.clear if flowing.is_set() else flowing.set)()

    @precondition(lambda self: not self.isolated and self.state == "up")
    @rule(replica=st.integers(0, 1), broken=st.booleans(), real=st.integers(0, 200))
    def isolate(self, replica: int, broken: bool, real: int) -> None:
        """It sees nothing for so long that the other one expires what it holds, and one of its calls ends then.

        Once in an example, since it takes long.
        """
        self.isolated = True
        for _ in range(2):
            self._reserve(replica, 100, "")
        proxy = self.replicas[replica].proxy
        proxy.flowing.clear()
        self.do(asyncio.sleep(2 * LEASE + SWEEP))
        if broken:
            proxy.cut()
        proxy.flowing.set()
        self.settle(replica, -1, real, twice=False, lost="")

    @precondition(lambda self: self.state == "up")
    @rule(number=st.sampled_from([signal.SIGKILL, signal.SIGKILL, signal.SIGTERM, signal.SIGSTOP]))
    def hurt(self, number: signal.Signals) -> None:
        """The server dies, or stands still."""
        os.kill(self.server.pid, number)
        self.state = "frozen" if number is signal.SIGSTOP else "down"
        if self.state == "down":
            assert self.server.process is not None
            self.server.process.wait(10)

    @precondition(lambda self: self.state != "up")
    @rule()
    def heal(self) -> None:
        """It is back, with what its log file has."""
        if self.state == "frozen":
            os.kill(self.server.pid, signal.SIGCONT)
        else:
            self.server.start()
        self.state = "up"

    @rule(seconds=st.sampled_from([0.02, 0.1, LEASE + 0.1]))
    def wait(self, seconds: float) -> None:
        """Time passes."""
        self.do(asyncio.sleep(seconds))

    # ---- the end

    def teardown(self) -> None:
        """All is well again: after the leases the counters are the model's."""
        try:
            if self.replicas:
                if self.state != "up":
                    self.heal()
                self.do(self._end())
        finally:
            self.do(self._close())
            self.loop.close()
            self.stack.close()

    async def _end(self) -> None:
        for replica in self.replicas:
            replica.proxy.flowing.set()
        await self._quiet()
        open_calls = [call for replica in self.replicas for call in replica.calls.values()]
        for call in open_calls:
            used, reserved = self.books(call.counter)
            assert used + reserved in call.may, (call, used, reserved)
        for replica in self.replicas:
            for call in replica.calls.values():
                replica.limits.settle(Settle(call.name, (7, 7, 1)))
                call.may, call.open = {7}, False
            replica.calls.clear()
        await self._quiet()
        found = {call.name: self.books(call.counter) for call in self.calls}
        assert all(reserved == 0 for _, reserved in found.values()), found
        wrong = {call.name: (found[call.name], call.may) for call in self.calls if found[call.name][0] not in call.may}
        assert not wrong, wrong
        type(self).checked += len(found)
        everything, _, flights = (charge.counter for charge in self.charges("", 0))
        assert self.books(everything) == (sum(used for used, _ in found.values()), 0)
        assert self.books(flights) == (0, 0)
        assert not any(replica.tape.told["lost"] for replica in self.replicas)

    async def _quiet(self) -> None:
        """Wait until the store knows all that the replicas know, and nothing is held by one that is gone."""
        client: Any = self.server.client()
        try:
            await until(lambda: not any(one.limits.away_since for one in self.replicas), WITHIN)
            await until(lambda: not any(one.limits.unsettled for one in self.replicas), WITHIN)
            mine = {name for one in self.replicas for name in self._held(one)}
            await until(lambda: {one.decode() for one in client.zrange(leases_key(self.name), 0, -1)} <= mine, WITHIN)
        finally:
            client.close()

    @staticmethod
    def _held(replica: Replica) -> Iterable[str]:
        return [reservation.handle.id for reservation in replica.limits._open.values()]

    def books(self, counter: Counter) -> tuple[int, int]:
        """(used, reserved)."""
        client: Any = self.server.client()
        try:
            fields = client.hgetall(counter.key)
        finally:
            client.close()
        return int(fields.get(b"u", 0)), int(fields.get(b"r", 0))

    async def _close(self) -> None:
        for replica in self.replicas:
            await replica.limits.close()
            await replica.store.close()
            await replica.proxy.close()


class OpenGateway(Gateway):
    """Without the store calls are let through, counted by each replica itself."""

    away = Away.BOUNDED


@pytest.mark.parametrize("machine", [Gateway, OpenGateway])
def test_counters_equal_the_model(machine: type[Gateway]) -> None:
    """Whatever happens, in whatever order."""
    examples = int(os.environ.get("LIMIT_MODEL_EXAMPLES", "6"))
    few = settings(
        max_examples=examples,
        stateful_step_count=40,
        deadline=None,
        phases=(Phase.reuse, Phase.generate),  # an example takes a second: making it smaller would take minutes
        suppress_health_check=list(HealthCheck),
    )
    machine.checked = 0
    run_state_machine_as_test(machine, settings=few)
    assert machine.checked >= 4 * examples
