"""Kill -9 of a worker at every step of a call: after the lease each counter is what it must be, and calls go again.

Four steps: before the reservation, after it, in the middle of the answer, before the settlement. What a dead worker
held is charged as reserved; a whole answer is charged as the vendor reported it, if that could be told. The same of
Valkey and of Envoy: test_limits_kill_valkey.py, test_limits_kill_envoy.py.
"""

from __future__ import annotations

import asyncio
import math
import os
import signal
import time

import pytest

from envoy.limit_calls import (
    TOKENS,
    Amounts,
    Call,
    Store,
    all_answers,
    as_reserved,
    statuses,
    stopped,
    wait_until,
)
from envoy.limit_kills import COUNT, begin, by_outcome, in_flight, made, on_record, serves
from envoy.machine import Machine
from envoy.test_kill import gone, ready

pytestmark = pytest.mark.envoy

TRIES = 8  # at a scene that has to be quick


def test_a_worker_dies_before_it_has_reserved(killable: Machine) -> None:
    """Its calls fail and cost nothing, those of the other worker go on."""
    calls = made(killable, "w1", seconds=0.1)

    async def scene() -> None:
        await begin(calls, 0.5)
        await asyncio.sleep(0.3)  # the workers have the headers
        os.kill(ready(killable)[0], signal.SIGKILL)
        await all_answers(calls)

    asyncio.run(scene())
    failed = [call for call in calls if not call.whole]
    assert 0 < len(failed) < COUNT
    assert {(call.reply.status, call.reply.headers["x-llm-error"]) for call in failed} == {(503, "gateway_unavailable")}
    Store(killable).check(by_outcome(calls, {}))
    asyncio.run(serves(killable))


@pytest.mark.parametrize(("name", "stream", "pieces"), [("w2", False, 0), ("w3", True, 5)])
def test_a_worker_dies_after_it_has_reserved(killable: Machine, name: str, stream: bool, pieces: int) -> None:
    """Before the first byte of the answer, and in the middle of it: charged as reserved; other calls as reported."""
    calls = made(killable, name, seconds=2, stream=stream)

    async def scene() -> dict[str, Amounts]:
        await begin(calls)
        answers = asyncio.ensure_future(all_answers(calls))
        await in_flight(killable, calls, pieces=pieces)
        worker, store = ready(killable)[0], Store(killable)
        os.kill(worker, signal.SIGKILL)
        await wait_until(lambda: gone(worker))
        held = {call.label: store.reserved(call.label) for call in calls}  # a stream may hold more by now
        await answers
        return held

    held = asyncio.run(scene())
    assert 0 < sum(call.whole for call in calls) < COUNT
    expected = by_outcome(calls, held)
    assert all(expected[call.label]["tokens"] > call.pieces for call in calls), (
        "never less than what the caller has received"
    )
    Store(killable).check(expected)
    asyncio.run(serves(killable))


def test_workers_die_after_they_have_told_a_store_that_stands_still(killable: Machine) -> None:
    """What stood in its socket counts when it goes on: as reported, once.

    They must end before three questions without an answer say that it is away, 50 ms each: else the scene is played
    again.
    """
    took, tries = math.inf, 0
    while took > 0.1:
        assert tries < TRIES, "the machine is too busy for this"
        tries += 1
        asyncio.run(serves(killable))
        killable.forget()
        call = Call(killable, f"w4.{tries}", seconds=1, stream=True)
        took = asyncio.run(_told_late(killable, call))
        Store(killable).check({call.label: call.reported()} if took <= 0.1 else {})
    asyncio.run(serves(killable))


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
        await wait_until(lambda: on_record(machine, [call]))  # by then it was sent
        for worker in workers:
            os.kill(worker, signal.SIGKILL)
        await wait_until(lambda: all(gone(pid) for pid in workers))
    assert call.whole
    return took


def test_workers_die_before_they_could_settle(killable: Machine) -> None:
    """The store was known to be away when the calls ended: nobody ever told it, so they cost what was reserved."""
    calls = made(killable, "w5", seconds=5, stream=False)

    async def scene() -> dict[str, Amounts]:
        await begin(calls)
        answers = asyncio.ensure_future(all_answers(calls))
        held = await in_flight(killable, calls)
        with stopped(Store(killable).pid):
            await wait_until(lambda: all("store of limits away" in one for one in statuses(killable)))
            await answers
            assert all(call.whole for call in calls)
            await asyncio.sleep(0.3)
            for worker in ready(killable).values():
                os.kill(worker, signal.SIGKILL)
        return held

    held = asyncio.run(scene())
    Store(killable).check({label: as_reserved(amounts) for label, amounts in held.items()})
    asyncio.run(serves(killable))
