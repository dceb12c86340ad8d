"""Settlements are told until they are acknowledged, bounded in number and in time."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from adapters.limit_rig import OPEN, Tape, charges, organisation
from extproc.adapters import limit_queue
from extproc.adapters.limit_queue import Settlement, SettleQueue
from extproc.adapters.limit_shard import Reservation, Shard
from extproc.adapters.valkey_client import ConnectionLostError


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

    def add(self, name: str) -> Settlement:
        item = Settlement(Reservation(self.shard, name, charges(OPEN, self.shard.name, 1, 1)), (1, 1))
        self.queue.add(item)
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


async def test_flushing_is_bounded() -> None:
    """It says how many are left."""
    rack = Rack()
    rack.add("a")
    assert await rack.queue.flush(0.1) == 1
