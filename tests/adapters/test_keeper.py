"""Jobs in the background go on, whatever one run of them does."""

from __future__ import annotations

import asyncio

import structlog

from extproc.adapters.keeper import Job, Keeper


async def test_a_job_that_crashes_is_done_again_and_its_message_is_not_logged() -> None:
    """Type and place are; others are not held up."""
    runs = {"bad": 0, "good": 0}

    async def bad() -> None:
        runs["bad"] += 1
        raise KeyError("what a caller wrote")

    async def good() -> None:
        runs["good"] += 1

    with structlog.testing.capture_logs() as lines:
        keeper = Keeper((Job("bad", 0.01, bad), Job("good", 0.01, good)))
        keeper.start()
        while min(runs.values()) < 3:
            await asyncio.sleep(0.01)
        await keeper.close()
    assert keeper.crashes >= 2
    assert "KeyError" in lines[0]["exception"]
    assert "caller wrote" not in str(lines)


async def test_a_closed_keeper_ends_what_runs() -> None:
    """Nothing is done afterwards."""
    began: list[int] = []
    ended: list[str] = []

    async def long() -> None:
        began.append(1)
        try:
            await asyncio.sleep(60)
        finally:
            ended.append("cancelled")

    keeper = Keeper((Job("long", 0.001, long),))
    keeper.start()
    while not began:
        await asyncio.sleep(0.005)
    await keeper.close()
    await asyncio.sleep(0.02)
    assert (began, ended) == ([1], ["cancelled"])
