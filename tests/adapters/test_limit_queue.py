"""Settlements are told until they are acknowledged, bounded in number and in time."""

from __future__ import annotations

import asyncio
import math
import time
from typing import Any

import pytest
import structlog

from adapters.limit_rig import OPEN, Tape, charges, organisation
from extproc.adapters import limit_queue
from extproc.adapters.limit_desk import Lines
from extproc.adapters.limit_queue import Settlement, SettleQueue
from extproc.adapters.limit_shard import Reservation, Shard
from extproc.adapters.valkey_client import ConnectionLostError, RefusedError, StoreAwayError


class Rack:
    """A queue whose store is played by the test: `sent` are the calls without an answer."""

    def __init__(self) -> None:
        self.tape = Tape()
        self.sent: list[tuple[str, Any]] = []
        self.acknowledged: list[str] = []
        self.failures = 0
        self.taken = True
        self.shard = Shard(organisation(), lambda _shard, _reason: None)
        self.queue = SettleQueue(self._send, self._done, self._failed, self.tape)

    def _send(self, item: Settlement, done: Any) -> None:
        self.sent.append((item.name, done))

    def _done(self, item: Settlement, reply: Any) -> bool:
        self.acknowledged.append(item.name)
        return self.taken

    def _failed(self, item: Settlement, error: BaseException) -> None:
        self.failures += 1

    def add(self, name: str, *, soon: bool = True, local: bool = False) -> Settlement:
        reservation = Reservation(self.shard, name, charges(OPEN, self.shard.name, 1, 1))
        reservation.local = local
        item = Settlement(reservation, (1, 1))
        self.queue.add(item, soon=soon)
        return item

    def answer(self, place: int = 0, error: BaseException | None = None) -> None:
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        if error is None:
            future.set_result([])
        else:
            future.set_exception(error)
        self.sent.pop(place)[1](future)


async def test_acknowledged_ones_are_gone() -> None:
    """Many are under way at once, answered in any order."""
    rack = Rack()
    for name in "abc":
        rack.add(name)
    assert [name for name, _ in rack.sent] == ["a", "b", "c"]
    rack.answer(1)
    rack.answer()
    rack.answer()
    assert rack.acknowledged == ["b", "a", "c"]
    assert len(rack.queue) == 0
    assert await rack.queue.flush(0.0) == 0


async def test_a_failed_one_is_told_again_after_a_pause() -> None:
    """Not at once: the store would be asked by all at the same moment."""
    rack = Rack()
    item = rack.add("a")
    rack.answer(error=ConnectionLostError("gone"))
    rack.queue.tick()
    assert (rack.sent, rack.failures, len(rack.queue)) == ([], 1, 1)
    item.due = 0.0
    rack.queue.tick()
    rack.answer()
    assert len(rack.queue) == 0


async def test_one_without_an_answer_is_told_again_and_counts_once() -> None:
    """The first answer acknowledges it, the second is nobody's."""
    rack = Rack()
    item = rack.add("a")
    item.sent -= 10
    rack.queue.tick()
    item.due = 0.0
    rack.queue.tick()
    assert len(rack.sent) == 2
    rack.answer()
    rack.answer()
    assert rack.acknowledged == ["a"]


async def test_an_answer_that_takes_nothing_is_told_again() -> None:
    """The store's clock was another one: the call is made anew."""
    rack = Rack()
    rack.taken = False
    item = rack.add("a")
    rack.answer()
    assert len(rack.queue) == 1
    rack.taken, item.due = True, 0.0
    rack.queue.pump()
    rack.answer()
    assert len(rack.queue) == 0


async def test_nothing_is_sent_while_the_store_is_away() -> None:
    """Then all goes out, so many at once, in the order of the calls' ends."""
    rack = Rack()
    rack.shard.lost("gone")
    for n in range(400):
        rack.add(f"n{n}")
    rack.queue.tick()
    assert rack.sent == []
    assert rack.tape.told["queue"] == [400]
    rack.shard.back()
    rack.queue.pump()
    assert [name for name, _ in rack.sent] == [f"n{n}" for n in range(256)]
    for _ in range(3):  # lost again: those that were under way wait their pause, unless it is back before
        rack.answer(error=ConnectionLostError("gone"))
    rack.queue.wake(rack.shard)
    while rack.sent:
        rack.answer()
    assert sorted(rack.acknowledged) == sorted(f"n{n}" for n in range(400))
    assert rack.queue.holds(rack.shard) is False


async def test_what_the_store_has_forgotten_is_given_up() -> None:
    """After an hour it would be charged a second time: counted as lost instead."""
    rack = Rack()
    rack.shard.lost("gone")
    old = rack.add("old")
    rack.add("young")
    old.until -= limit_queue.REMEMBERED
    rack.queue.tick()
    assert rack.tape.told["lost"] == [1]
    assert len(rack.queue) == 1
    assert rack.queue.holds(rack.shard)


async def test_memory_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """The oldest goes first."""
    monkeypatch.setattr(limit_queue, "MOST", 10)
    rack = Rack()
    rack.shard.lost("gone")
    for n in range(15):
        rack.add(f"n{n}")
    assert len(rack.queue) == 10
    assert sum(rack.tape.told["lost"]) == 5
    rack.shard.back()
    rack.queue.pump()
    assert [name for name, _ in rack.sent] == [f"n{n}" for n in range(5, 15)]


async def test_memory_is_bounded_while_the_store_refuses(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is there, and takes nothing: the oldest goes all the same, and one line says so."""
    monkeypatch.setattr(limit_queue, "MOST", 10)
    rack = Rack()
    with structlog.testing.capture_logs() as lines:
        for n in range(30):
            rack.add(f"n{n}")
            rack.answer(error=RefusedError("OOM", "full"))
        assert len(rack.queue) == 10
        assert rack.tape.told["lost"] == [1] * 20
        assert [line["count"] for line in lines] == [1]
        rack.queue._lines = Lines(1, 0.0)
        rack.queue.tick()
        assert [line["count"] for line in lines] == [1, 19]


async def test_what_the_store_never_heard_of_is_never_too_old() -> None:
    """A call of the worker's own books cannot be counted twice before it was sent: no absence is too long for it."""
    rack = Rack()
    rack.shard.lost("gone")
    item = rack.add("a", local=True)
    assert item.until == math.inf
    rack.shard.back()
    rack.queue.wake(rack.shard)
    rack.answer(error=StoreAwayError("not sent"))
    assert item.until == math.inf
    item.due = 0.0
    rack.queue.tick()
    rack.answer(error=ConnectionLostError("gone"))  # this one may have been done
    assert item.until < time.monotonic() + limit_queue.REMEMBERED
    item.due = 0.0
    rack.queue.tick()
    rack.answer(error=RefusedError("ERR"))
    assert item.until < time.monotonic() + limit_queue.REMEMBERED


async def test_what_comes_after_the_store_has_forgotten_is_not_sent() -> None:
    """A call that was cut off for more than an hour: it was charged when its lease ended, and nobody knows that any more."""
    rack = Rack()
    reservation = Reservation(rack.shard, "old", charges(OPEN, rack.shard.name, 1, 1))
    reservation.renewed -= limit_queue.REMEMBERED
    rack.queue.add(Settlement(reservation, (1, 1)))
    assert rack.sent == []
    assert rack.tape.told["lost"] == [1]
    assert len(rack.queue) == 0


async def test_flushing_is_bounded() -> None:
    """It says how many are left."""
    rack = Rack()
    rack.add("a")
    assert await rack.queue.flush(0.1) == 1


async def test_what_can_wait_a_moment_is_told_together() -> None:
    """None of them at once, all of them soon, in their order; it counts as not acknowledged meanwhile."""
    rack = Rack()
    for name in "abc":
        rack.add(name, soon=False)
    assert rack.sent == []
    assert len(rack.queue) == 3
    await asyncio.sleep(limit_queue.PATIENCE * 5)
    assert [name for name, _ in rack.sent] == ["a", "b", "c"]


async def test_many_do_not_wait_for_the_moment() -> None:
    """As soon as there are as many as go together, they go."""
    rack = Rack()
    for number in range(limit_queue._TOGETHER):
        rack.add(f"n{number}", soon=False)
    assert len(rack.sent) == limit_queue._TOGETHER


async def test_what_waits_a_moment_when_the_store_goes_is_kept() -> None:
    """It goes out when the store is back, once."""
    rack = Rack()
    rack.add("a", soon=False)
    rack.shard.lost("gone")
    await asyncio.sleep(limit_queue.PATIENCE * 5)
    assert rack.sent == []
    rack.shard.back()
    rack.queue.wake(rack.shard)
    assert [name for name, _ in rack.sent] == ["a"]


async def test_flushing_waits_for_no_moment() -> None:
    """A worker that ends tells all at once."""
    rack = Rack()
    rack.add("a", soon=False)
    flushing = asyncio.ensure_future(rack.queue.flush(1.0))
    await asyncio.sleep(0)
    assert [name for name, _ in rack.sent] == ["a"]
    rack.answer()
    assert await flushing == 0
