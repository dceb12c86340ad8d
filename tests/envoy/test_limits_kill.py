"""Kill -9 at every step of a call, of every part: after the lease each counter is what it must be, and calls go again.

Four steps (before the reservation, after it, in the middle of the answer, before the settlement) and three parts (a
worker, the embedded Valkey, Envoy). What a dead worker held is charged as reserved; what was cut off is charged as
estimated; a whole answer is charged as the vendor reported it, whoever died meanwhile.
"""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Iterator, Sequence

import pytest

from envoy.limit_calls import (
    CAP,
    NOTHING,
    TOKENS,
    Amounts,
    Call,
    Store,
    all_answers,
    as_reserved,
    estimated,
    health,
    quotas,
    state,
    statuses,
    stopped,
    wait_until,
)
from envoy.machine import Machine, running
from envoy.test_kill import envoy_pid, gone, ready

pytestmark = pytest.mark.envoy

COUNT = 8  # calls of a test: with two workers each has some


@pytest.fixture(scope="module")
def mortal(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    """A gateway with limits whose parts may be killed."""
    with running(tmp_path_factory.mktemp("lk"), extra=quotas()) as machine:
        yield machine


@pytest.fixture
def gateway(mortal: Machine) -> Machine:
    """All of it up, nothing remembered."""
    asyncio.run(wait_until(lambda: health(mortal)["ok"], 20))
    ready(mortal)
    asyncio.run(serves(mortal))
    mortal.forget()
    return mortal


async def serves(machine: Machine) -> None:
    """Calls are admitted again, by every worker."""
    store = Store(machine)
    await wait_until(lambda: store.pid and store.client.ping() and statuses(machine) == [""] * machine.workers, 20)
    good, until = 0, time.monotonic() + 15
    while good < 2 * machine.workers:
        call = Call(machine, "after", seconds=0)
        await call.begin()
        await call.answer()
        good = good + 1 if call.whole else 0
        assert time.monotonic() < until, call.reply


def made(machine: Machine, name: str, *, seconds: float, stream: bool | None = None) -> list[Call]:
    """Calls of all sorts: streamed or not, with a cap or without."""
    return [
        Call(
            machine,
            f"{name}.{number}",
            seconds=seconds,
            stream=number % 2 == 0 if stream is None else stream,
            cap=CAP if number % 4 < 2 else 0,
        )
        for number in range(COUNT)
    ]


async def begin(calls: Sequence[Call], most: float = 1.0) -> None:
    """Send all."""
    for call in calls:
        await call.begin(most)


async def in_flight(machine: Machine, calls: Sequence[Call], *, pieces: int = 0) -> dict[str, Amounts]:
    """Wait until the vendor has every call, and of streams so many pieces have come; what each holds by then."""
    store = Store(machine)
    await wait_until(lambda: len(machine.seen()) == len(calls))
    await wait_until(lambda: all(call.pieces >= pieces for call in calls if call.stream))
    held = {call.label: store.reserved(call.label) for call in calls}
    assert all(amounts["calls"] == amounts["flights"] == 1 for amounts in held.values()), held
    assert all(amounts["tokens"] > CAP for amounts in held.values()), held
    return held


def by_outcome(calls: Sequence[Call], held: dict[str, Amounts]) -> dict[str, Amounts]:
    """Whole answers as reported; others, whose worker died, as reserved, or nothing where nothing was."""
    return {call.label: call.reported() if call.whole else as_reserved(held.get(call.label, NOTHING)) for call in calls}


# ---- a worker ---------------------------------------------------------------------------------------------------


def test_a_worker_dies_before_it_has_reserved(gateway: Machine) -> None:
    """Its calls fail and cost nothing, those of the other worker go on."""
    calls = made(gateway, "w1", seconds=0.1)

    async def scene() -> None:
        await begin(calls, 0.5)
        await asyncio.sleep(0.3)  # the workers have the headers
        os.kill(ready(gateway)[0], signal.SIGKILL)
        await all_answers(calls)

    asyncio.run(scene())
    failed = [call for call in calls if not call.whole]
    assert 0 < len(failed) < COUNT
    assert {(call.reply.status, call.reply.headers["x-llm-error"]) for call in failed} == {(503, "gateway_unavailable")}
    Store(gateway).check(by_outcome(calls, {}))
    asyncio.run(serves(gateway))


@pytest.mark.parametrize(("name", "stream", "pieces"), [("w2", False, 0), ("w3", True, 5)])
def test_a_worker_dies_after_it_has_reserved(gateway: Machine, name: str, stream: bool, pieces: int) -> None:
    """Before the first byte of the answer, and in the middle of it: charged as reserved; other calls as reported."""
    calls = made(gateway, name, seconds=2, stream=stream)

    async def scene() -> dict[str, Amounts]:
        await begin(calls)
        answers = asyncio.ensure_future(all_answers(calls))
        held = await in_flight(gateway, calls, pieces=pieces)
        os.kill(ready(gateway)[0], signal.SIGKILL)
        await answers
        return held

    held = asyncio.run(scene())
    assert 0 < sum(call.whole for call in calls) < COUNT
    expected = by_outcome(calls, held)
    assert all(expected[call.label]["tokens"] > call.pieces for call in calls), (
        "never less than what the caller has received"
    )
    Store(gateway).check(expected)
    asyncio.run(serves(gateway))


async def ended_untold(machine: Machine, calls: Sequence[Call]) -> dict[str, Amounts]:
    """The calls have ended, with a record of each, and their settlements are not acknowledged; what each holds."""
    await begin(calls)
    answers = asyncio.ensure_future(all_answers(calls))
    held = await in_flight(machine, calls)
    pid = Store(machine).pid
    os.kill(pid, signal.SIGSTOP)
    await wait_until(lambda: state(pid) == "T")
    await answers
    assert all(call.whole for call in calls)
    await wait_until(lambda: _on_record(machine, calls))
    return held


def _on_record(machine: Machine, calls: Sequence[Call]) -> bool:
    """Whether all have ended for their workers: the settlement goes out before the record is written."""
    found = {one["labels"]["feature"] for one in machine.records() if "labels" in one}
    return {call.label for call in calls} <= found


def test_workers_die_after_they_have_told_a_store_that_stands_still(gateway: Machine) -> None:
    """What stood in its socket counts when it goes on: as reported, once.

    They must end before three questions without an answer say that it is away, 50 ms each: else the scene is played
    again.
    """
    for label in ("w4a", "w4b", "w4c", "w4d"):
        gateway.forget()
        call = Call(gateway, label, seconds=1, stream=True)
        took = asyncio.run(_told_late(gateway, call))
        if took < 0.1:
            break
        asyncio.run(serves(gateway))
    assert took < 0.1, "the machine is too busy for this"
    Store(gateway).check({call.label: call.reported()})
    asyncio.run(serves(gateway))


async def _told_late(machine: Machine, call: Call) -> float:
    """The store stands still for the last events of a stream, and all workers are killed; seconds between the two."""
    await begin([call])
    answer = asyncio.ensure_future(call.answer())
    await in_flight(machine, [call], pieces=TOKENS)  # three more events end it
    workers = ready(machine).values()
    with stopped(Store(machine).pid):
        at = time.monotonic()
        await answer
        took = time.monotonic() - at
        await wait_until(lambda: _on_record(machine, [call]))  # by then it was sent
        for worker in workers:
            os.kill(worker, signal.SIGKILL)
        await wait_until(lambda: all(gone(pid) for pid in workers))
    assert call.whole
    return took


def test_workers_die_before_they_could_settle(gateway: Machine) -> None:
    """The store was known to be away when the calls ended: nobody ever told it, so they cost what was reserved."""
    calls = made(gateway, "w5", seconds=5, stream=False)

    async def scene() -> dict[str, Amounts]:
        await begin(calls)
        answers = asyncio.ensure_future(all_answers(calls))
        held = await in_flight(gateway, calls)
        with stopped(Store(gateway).pid):
            await wait_until(lambda: all("store of limits away" in one for one in statuses(gateway)))
            await answers
            assert all(call.whole for call in calls)
            await asyncio.sleep(0.3)
            for worker in ready(gateway).values():
                os.kill(worker, signal.SIGKILL)
        return held

    held = asyncio.run(scene())
    Store(gateway).check({label: as_reserved(amounts) for label, amounts in held.items()})
    asyncio.run(serves(gateway))


# ---- Valkey -----------------------------------------------------------------------------------------------------


def test_valkey_dies_before_anything_is_reserved(gateway: Machine) -> None:
    """It stands still when the calls ask, and is killed then: denied, and nothing is charged."""
    calls = made(gateway, "v0", seconds=0)

    async def scene() -> None:
        await begin(calls, 0.5)
        await asyncio.sleep(0.3)
        pid = Store(gateway).pid
        with stopped(pid):
            await all_answers(calls)
            os.kill(pid, signal.SIGKILL)

    asyncio.run(scene())
    denied = {(call.reply.status, call.reply.headers["x-llm-error"]) for call in calls}
    assert denied == {(503, "gateway_limits_unavailable")}
    assert not gateway.seen()
    Store(gateway).check({call.label: NOTHING for call in calls})
    asyncio.run(serves(gateway))


def test_valkey_dies_while_calls_reserve(gateway: Machine) -> None:
    """Killed just before the bodies end: who is admitted is charged as reported, who is denied nothing."""
    calls = made(gateway, "v1", seconds=0.1)

    async def scene() -> None:
        await begin(calls, 0.5)
        await asyncio.sleep(0.3)
        Store(gateway).signal(signal.SIGKILL)
        await all_answers(calls)

    asyncio.run(scene())
    failed = {call.reply.headers["x-llm-error"] for call in calls if not call.whole}
    assert failed <= {"gateway_limits_unavailable"}
    Store(gateway).check(by_outcome(calls, {}))
    asyncio.run(serves(gateway))


@pytest.mark.parametrize(("name", "stream", "pieces"), [("v2", False, 0), ("v3", True, 5)])
def test_valkey_dies_while_calls_run(gateway: Machine, name: str, stream: bool, pieces: int) -> None:
    """No call notices; each is charged as reported."""
    calls = made(gateway, name, seconds=2, stream=stream)

    async def scene() -> int:
        await begin(calls)
        answers = asyncio.ensure_future(all_answers(calls))
        await in_flight(gateway, calls, pieces=pieces)
        killed = Store(gateway).signal(signal.SIGKILL)
        await answers
        return killed

    killed = asyncio.run(scene())
    assert all(call.whole for call in calls)
    Store(gateway).check({call.label: call.reported() for call in calls})
    assert Store(gateway).pid not in {0, killed}
    asyncio.run(serves(gateway))


def test_valkey_dies_before_it_has_heard_of_the_end(gateway: Machine) -> None:
    """The settlements were sent and are lost with its socket: they are told again, and count once."""
    calls = made(gateway, "v4", seconds=1)

    async def scene() -> None:
        await ended_untold(gateway, calls)
        Store(gateway).signal(signal.SIGKILL)

    asyncio.run(scene())
    Store(gateway).check({call.label: call.reported() for call in calls})
    asyncio.run(serves(gateway))


def test_valkey_and_all_workers_die_before_the_settlement(gateway: Machine) -> None:
    """Nobody is left who knows what was used: charged as reserved, from the store's log file."""
    calls = made(gateway, "v5", seconds=1)

    async def scene() -> dict[str, Amounts]:
        held = await ended_untold(gateway, calls)
        for pid in (*ready(gateway).values(), Store(gateway).pid):
            os.kill(pid, signal.SIGKILL)
        return held

    held = asyncio.run(scene())
    Store(gateway).check({label: as_reserved(amounts) for label, amounts in held.items()})
    asyncio.run(serves(gateway))


# ---- Envoy ------------------------------------------------------------------------------------------------------


def killed_envoy(machine: Machine) -> None:
    """Kill -9 Envoy: `up` takes the rest down in order, and says that it failed."""
    envoy = envoy_pid(machine)
    os.kill(envoy, signal.SIGKILL)
    assert machine.process is not None
    assert machine.process.wait(30) == 1
    assert gone(envoy)


def again(machine: Machine) -> None:
    """Start it again on what it has left behind."""
    machine.launch()
    ready(machine)


def test_envoy_dies_before_anything_is_reserved(gateway: Machine) -> None:
    """Callers lose their connections; nothing is charged."""
    calls = made(gateway, "e1", seconds=0.1)

    async def scene() -> None:
        await begin(calls, 0.5)
        await asyncio.sleep(0.3)
        await asyncio.to_thread(killed_envoy, gateway)
        await all_answers(calls)

    asyncio.run(scene())
    assert all(call.cut for call in calls)
    again(gateway)
    Store(gateway).check({call.label: NOTHING for call in calls})
    asyncio.run(serves(gateway))


@pytest.mark.parametrize(("name", "stream", "pieces"), [("e2", False, 0), ("e3", True, 5)])
def test_envoy_dies_while_calls_run(gateway: Machine, name: str, stream: bool, pieces: int) -> None:
    """Hung up for all of them: each is charged what the vendor had produced, counted by us."""
    calls = made(gateway, name, seconds=4, stream=stream)

    async def scene() -> None:
        await begin(calls)
        answers = asyncio.ensure_future(all_answers(calls))
        await in_flight(gateway, calls, pieces=pieces)
        await asyncio.to_thread(killed_envoy, gateway)
        await answers

    asyncio.run(scene())
    assert all(call.cut for call in calls)
    again(gateway)
    expected = {call.label: estimated(gateway, call) for call in calls}
    assert all(pieces < amounts["tokens"] < TOKENS + CAP for amounts in expected.values())
    Store(gateway).check(expected)
    asyncio.run(serves(gateway))


def test_envoy_dies_before_the_store_has_heard_of_the_end(gateway: Machine) -> None:
    """The workers end with settlements to tell, and wait until the store has them."""
    calls = made(gateway, "e4", seconds=1)

    async def scene() -> None:
        pid = Store(gateway).pid
        try:
            await ended_untold(gateway, calls)
            os.kill(envoy_pid(gateway), signal.SIGKILL)
            await asyncio.sleep(0.7)
        finally:
            os.kill(pid, signal.SIGCONT)

    asyncio.run(scene())
    assert gateway.process is not None
    assert gateway.process.wait(30) == 1
    again(gateway)
    Store(gateway).check({call.label: call.reported() for call in calls})
    asyncio.run(serves(gateway))


def test_envoy_and_valkey_die_before_the_settlement(gateway: Machine) -> None:
    """The store stands still for as long as the workers wait: charged as reserved after the next start."""
    calls = made(gateway, "e5", seconds=1)

    async def scene() -> dict[str, Amounts]:
        held = await ended_untold(gateway, calls)
        valkey = Store(gateway).pid
        os.kill(envoy_pid(gateway), signal.SIGKILL)
        workers = ready(gateway).values()
        await wait_until(lambda: all(gone(pid) for pid in workers))
        os.kill(valkey, signal.SIGKILL)
        return held

    held = asyncio.run(scene())
    assert gateway.process is not None
    assert gateway.process.wait(30) == 1
    again(gateway)
    Store(gateway).check({label: as_reserved(amounts) for label, amounts in held.items()})
    asyncio.run(serves(gateway))
