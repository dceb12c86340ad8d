"""A worker's estimate of the store's clock, and deadlines that stand in a row."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from extproc.adapters.limit_clock import Deadlines, StoreClock


class Hands:
    """A monotonic clock that a test turns."""

    def __init__(self) -> None:
        self.seconds = 100.0

    def __call__(self) -> float:
        return self.seconds


@given(
    skew=st.integers(-(10**9), 10**9),
    trips=st.lists(st.tuples(st.floats(0, 0.2), st.floats(0, 0.2), st.floats(0, 5)), min_size=1, max_size=20),
)
def test_after_a_reply_the_error_is_no_longer_than_its_trip(skew: int, trips: list[tuple[float, float, float]]) -> None:
    """Whatever the machine's clock says: the store's time is known as exactly as the quickest reply allows."""
    hands = Hands()
    clock = StoreClock(hands, lambda: 1_000_000.0)

    def store() -> float:
        return hands.seconds * 1000 + skew * 1.0 + 2e9

    best = float("inf")
    for there, back, pause in trips:
        asked = hands.seconds
        hands.seconds += there
        told = int(store())
        hands.seconds += back
        clock.learn(told, asked)
        best = min(best, (there + back) * 1000)
        assert abs(clock.now() - store()) <= best + 3
        hands.seconds += pause


async def test_what_is_late_fails_and_what_is_done_stays() -> None:
    """Each has its own time, in a row with one timer."""
    deadlines = Deadlines(0.05)
    loop = asyncio.get_running_loop()
    first: asyncio.Future[Any] = loop.create_future()
    done: asyncio.Future[Any] = loop.create_future()
    deadlines.watch(first)
    deadlines.watch(done)
    done.set_result(1)
    await asyncio.sleep(0.02)
    second: asyncio.Future[Any] = loop.create_future()
    deadlines.watch(second)
    with pytest.raises(TimeoutError):
        await first
    assert not second.done()
    with pytest.raises(TimeoutError):
        await second
    assert done.result() == 1


async def test_closed_deadlines_end_nothing() -> None:
    """What waits goes on waiting."""
    deadlines = Deadlines(0.01)
    future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
    deadlines.watch(future)
    deadlines.close()
    await asyncio.sleep(0.05)
    assert not future.done()
