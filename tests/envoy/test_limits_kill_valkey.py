"""Kill -9 of the embedded Valkey at every step of a call: nothing that was acknowledged is lost, nothing counts twice.

No call that runs notices; a call that wants to reserve meanwhile is denied, as configured.
"""

from __future__ import annotations

import asyncio
import os
import signal

import pytest

from envoy.limit_calls import (
    NOTHING,
    Amounts,
    Store,
    all_answers,
    as_reserved,
    stopped,
)
from envoy.limit_kills import begin, by_outcome, ended_untold, in_flight, made, serves
from envoy.machine import Machine
from envoy.test_kill import ready

pytestmark = pytest.mark.envoy


def test_valkey_dies_before_anything_is_reserved(killable: Machine) -> None:
    """It stands still when the calls ask, and is killed then: denied, and nothing is charged."""
    calls = made(killable, "v0", seconds=0)

    async def scene() -> None:
        await begin(calls, 0.5)
        await asyncio.sleep(0.3)
        pid = Store(killable).pid
        with stopped(pid):
            await all_answers(calls)
            os.kill(pid, signal.SIGKILL)

    asyncio.run(scene())
    denied = {(call.reply.status, call.reply.headers["x-llm-error"]) for call in calls}
    assert denied == {(503, "gateway_limits_unavailable")}
    assert not killable.seen()
    Store(killable).check({call.label: NOTHING for call in calls})
    asyncio.run(serves(killable))


def test_valkey_dies_while_calls_reserve(killable: Machine) -> None:
    """Killed just before the bodies end: who is admitted is charged as reported, who is denied nothing."""
    calls = made(killable, "v1", seconds=0.1)

    async def scene() -> None:
        await begin(calls, 0.5)
        await asyncio.sleep(0.3)
        Store(killable).signal(signal.SIGKILL)
        await all_answers(calls)

    asyncio.run(scene())
    failed = {call.reply.headers["x-llm-error"] for call in calls if not call.whole}
    assert failed <= {"gateway_limits_unavailable"}
    Store(killable).check(by_outcome(calls, {}))
    asyncio.run(serves(killable))


@pytest.mark.parametrize(("name", "stream", "pieces"), [("v2", False, 0), ("v3", True, 5)])
def test_valkey_dies_while_calls_run(killable: Machine, name: str, stream: bool, pieces: int) -> None:
    """No call notices; each is charged as reported."""
    calls = made(killable, name, seconds=2, stream=stream)

    async def scene() -> int:
        await begin(calls)
        answers = asyncio.ensure_future(all_answers(calls))
        await in_flight(killable, calls, pieces=pieces)
        killed = Store(killable).signal(signal.SIGKILL)
        await answers
        return killed

    killed = asyncio.run(scene())
    assert all(call.whole for call in calls)
    Store(killable).check({call.label: call.reported() for call in calls})
    assert Store(killable).pid not in {0, killed}
    asyncio.run(serves(killable))


def test_valkey_dies_before_it_has_heard_of_the_end(killable: Machine) -> None:
    """The settlements were sent and are lost with its socket: they are told again, and count once."""
    calls = made(killable, "v4", seconds=1)

    async def scene() -> int:
        await ended_untold(killable, calls)
        return Store(killable).signal(signal.SIGKILL)

    killed = asyncio.run(scene())
    Store(killable).check({call.label: call.reported() for call in calls})
    assert Store(killable).pid not in {0, killed}
    asyncio.run(serves(killable))


def test_valkey_and_all_workers_die_before_the_settlement(killable: Machine) -> None:
    """Nobody is left who knows what was used: charged as reserved, from the store's log file."""
    calls = made(killable, "v5", seconds=1, capped=True)

    async def scene() -> dict[str, Amounts]:
        held = await ended_untold(killable, calls)
        for pid in (*ready(killable).values(), Store(killable).pid):
            os.kill(pid, signal.SIGKILL)
        return held

    held = asyncio.run(scene())
    assert set(held) == {call.label for call in calls}
    Store(killable).check({label: as_reserved(amounts) for label, amounts in held.items()})
    asyncio.run(serves(killable))
