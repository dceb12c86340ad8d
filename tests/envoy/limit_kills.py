"""Scenes in which a part of the gateway is killed: it is well, calls are at a step of their way, a part dies."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from envoy.limit_calls import (
    CAP,
    NOTHING,
    Amounts,
    Call,
    Store,
    all_answers,
    as_reserved,
    health,
    quotas,
    state,
    statuses,
    wait_until,
)
from envoy.machine import Machine, running
from envoy.test_kill import ready

COUNT = 8  # calls of a test: with two workers each has some


@contextmanager
def mortal(folder: Path) -> Iterator[Machine]:
    """A gateway with limits whose parts may be killed."""
    with running(folder, extra=quotas()) as machine:
        yield machine


def well(machine: Machine) -> Machine:
    """All of it up, nothing remembered."""
    asyncio.run(wait_until(lambda: health(machine)["ok"], 20))
    ready(machine)
    asyncio.run(serves(machine))
    machine.forget()
    return machine


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


def made(
    machine: Machine, name: str, *, seconds: float, stream: bool | None = None, capped: bool = False
) -> list[Call]:
    """Calls of all sorts: streamed or not, with a cap or without.

    `capped`: all with one, so that what a stream holds does not grow while it runs.
    """
    return [
        Call(
            machine,
            f"{name}.{number}",
            seconds=seconds,
            stream=number % 2 == 0 if stream is None else stream,
            cap=CAP if capped or number % 4 < 2 else 0,
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
    await wait_until(lambda: on_record(machine, calls))
    return held


def on_record(machine: Machine, calls: Sequence[Call]) -> bool:
    """Whether all have ended for their workers: the settlement goes out before the record is written."""
    found = {one["labels"]["feature"] for one in machine.records() if "labels" in one}
    return {call.label for call in calls} <= found
