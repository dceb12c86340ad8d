"""Kill -9 of Envoy at every step of a call: `up` ends, and after the next start each counter is what it must be.

What was cut off is charged as estimated, what nobody could tell the store as reserved.
"""

from __future__ import annotations

import asyncio
import os
import signal

import pytest

from envoy.limit_calls import (
    CAP,
    NOTHING,
    TOKENS,
    Amounts,
    Store,
    all_answers,
    as_reserved,
    estimated,
    wait_until,
)
from envoy.limit_kills import begin, ended_untold, in_flight, made, serves
from envoy.machine import Machine
from envoy.test_kill import envoy_pid, gone, ready

pytestmark = pytest.mark.envoy


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


def test_envoy_dies_before_anything_is_reserved(killable: Machine) -> None:
    """Callers lose their connections; nothing is charged."""
    calls = made(killable, "e1", seconds=0.1)

    async def scene() -> None:
        await begin(calls, 0.5)
        await asyncio.sleep(0.3)
        await asyncio.to_thread(killed_envoy, killable)
        await all_answers(calls)

    asyncio.run(scene())
    assert all(call.cut for call in calls)
    again(killable)
    Store(killable).check({call.label: NOTHING for call in calls})
    asyncio.run(serves(killable))


@pytest.mark.parametrize(("name", "stream", "pieces"), [("e2", False, 0), ("e3", True, 5)])
def test_envoy_dies_while_calls_run(killable: Machine, name: str, stream: bool, pieces: int) -> None:
    """Hung up for all of them: each is charged what the vendor had produced, counted by us."""
    calls = made(killable, name, seconds=4, stream=stream)

    async def scene() -> None:
        await begin(calls)
        answers = asyncio.ensure_future(all_answers(calls))
        await in_flight(killable, calls, pieces=pieces)
        await asyncio.to_thread(killed_envoy, killable)
        await answers

    asyncio.run(scene())
    assert all(call.cut for call in calls)
    again(killable)
    expected = {call.label: estimated(killable, call) for call in calls}
    assert all(pieces < amounts["tokens"] < TOKENS + CAP for amounts in expected.values())
    Store(killable).check(expected)
    asyncio.run(serves(killable))


def test_envoy_dies_before_the_store_has_heard_of_the_end(killable: Machine) -> None:
    """The workers end with settlements to tell, and wait until the store has them."""
    calls = made(killable, "e4", seconds=1)

    async def scene() -> None:
        pid = Store(killable).pid
        try:
            await ended_untold(killable, calls)
            os.kill(envoy_pid(killable), signal.SIGKILL)
            await asyncio.sleep(0.7)
        finally:
            os.kill(pid, signal.SIGCONT)

    asyncio.run(scene())
    assert killable.process is not None
    assert killable.process.wait(30) == 1
    again(killable)
    Store(killable).check({call.label: call.reported() for call in calls})
    asyncio.run(serves(killable))


def test_envoy_and_valkey_die_before_the_settlement(killable: Machine) -> None:
    """The store stands still for as long as the workers wait: charged as reserved after the next start."""
    calls = made(killable, "e5", seconds=1, capped=True)

    async def scene() -> dict[str, Amounts]:
        held = await ended_untold(killable, calls)
        valkey = Store(killable).pid
        os.kill(envoy_pid(killable), signal.SIGKILL)
        workers = ready(killable).values()
        await wait_until(lambda: all(gone(pid) for pid in workers))
        os.kill(valkey, signal.SIGKILL)
        return held

    held = asyncio.run(scene())
    assert killable.process is not None
    assert killable.process.wait(30) == 1
    again(killable)
    Store(killable).check({label: as_reserved(amounts) for label, amounts in held.items()})
    asyncio.run(serves(killable))
