"""Drives exchanges: feeds events in, performs the effects they yield, hands the actions out.

The transports stand above this and below Envoy; they know messages, this knows exchanges.
"""

from __future__ import annotations

import asyncio
import itertools
import secrets
import time
from collections.abc import Callable, Coroutine, Generator
from types import CoroutineType
from typing import Final, Protocol, TypeVar

from extproc.adapters.keys import KeyStore
from extproc.adapters.scans import Scans
from extproc.adapters.tokens import Tokenizers
from extproc.errors import EffectError
from extproc.exchange.actions import Action
from extproc.exchange.effects import CountTokens, Effect, Extend, FindEntities, FindKey, FoundEntities, Reserve, Settle
from extproc.exchange.events import Event
from extproc.exchange.facts import Origin
from extproc.exchange.machine import Exchange
from extproc.exchange.record import Ended, Record, make_record
from extproc.exchange.setup import Modes
from extproc.limits.counters import Extended, Reserved
from extproc.runtime import Runtime

T = TypeVar("T")

BATCH_SECONDS: Final = 0.02
"""How long a record may wait for company."""


class Sink(Protocol):
    """Takes every record, exactly once."""

    def write(self, record: Record) -> None:
        """Must not block and must not raise."""


class Gauge(Protocol):
    """Counts open exchanges."""

    def opened(self) -> None:
        """One more."""

    def closed(self) -> None:
        """One less."""


class Limits(Protocol):
    """Keeps limits: see the effects of these names."""

    def reserve(self, effect: Reserve) -> Coroutine[object, object, Reserved]:
        """Hold amounts. Raises `EffectError`, with `LimitsAwayError` among them."""

    def extend(self, effect: Extend) -> Extended:
        """Hold more. Raises `EffectError` where nothing is known of the reservation."""

    def settle(self, effect: Settle) -> None:
        """The call is over."""

    def forget(self, identity: str) -> None:
        """The exchange of this id is over: what is still held for it was never settled. Must not raise."""


class Host:
    """What the exchanges of one worker share. `current` is swapped on reload; an exchange keeps what it began with."""

    def __init__(
        self,
        runtime: Runtime,
        keys: KeyStore,
        tokenizers: Tokenizers,
        sinks: tuple[Sink, ...],
        scans: Scans | None = None,
    ) -> None:
        """`sinks`: where records go (log, metrics). `scans` None: no text can be searched, which fails closed."""
        self.current = runtime
        self._keys = keys
        self._tokenizers = tokenizers
        self._scans = scans
        self._sinks = sinks
        self._numbers = itertools.count(1)
        self._prefix = f"{time.time_ns():x}{secrets.token_hex(3)}"  # workers of two machines may start in one moment
        self._searches: set[asyncio.Future[FoundEntities]] = set()
        self._settling: set[asyncio.Future[Record]] = set()
        self._records: list[Record] = []
        self._timer: asyncio.TimerHandle | None = None
        self.open = 0
        self.gauge: Gauge | None = None
        self.limits: Limits | None = None

    def begin(self, modes: Modes, at: float) -> Conversation:
        """A conversation for one ext_proc stream."""
        identity = f"{self._prefix}-{next(self._numbers):x}"
        exchange = Exchange(self.current.setup, Origin(at, time.time(), id=identity), modes)
        return Conversation(self, exchange, identity)

    def enter(self) -> None:
        """An exchange has begun."""
        self.open += 1
        if self.gauge is not None:
            self.gauge.opened()

    def leave(self) -> None:
        """An exchange is over."""
        self.open -= 1
        if self.gauge is not None:
            self.gauge.closed()

    def perform(self, effect: Effect) -> object:
        """The answer to an effect, or a coroutine that gives it where it has to be waited for. Both raise `EffectError`.

        Keys are in memory, and most texts are known or short: those are answered here.
        """
        if isinstance(effect, FindKey):
            return self._keys.find(effect.secret, time.time())
        if isinstance(effect, FindEntities):
            if self._scans is None:
                raise EffectError("nothing here can search texts")
            answer = self._scans.find(effect)
            return self._ahead(answer) if effect.ahead and isinstance(answer, CoroutineType) else answer
        if isinstance(effect, CountTokens):
            return self.count_tokens(effect)
        if self.limits is None:
            raise EffectError("nothing here keeps limits")
        if isinstance(effect, Reserve):
            return self.limits.reserve(effect)
        if isinstance(effect, Extend):
            return self.limits.extend(effect)
        self.limits.settle(effect)
        return None

    def _ahead(self, search: Coroutine[object, object, FoundEntities]) -> FoundEntities:
        """Let it go on by itself: the record of the call that asked for it does not wait."""
        task = asyncio.ensure_future(search)
        self._searches.add(task)
        task.add_done_callback(self._searched)
        return FoundEntities(())

    def _searched(self, task: asyncio.Future[FoundEntities]) -> None:
        self._searches.discard(task)
        if not task.cancelled():
            task.exception()  # nobody wanted the answer: a later call that does is told what failed

    async def count_tokens(self, effect: CountTokens) -> int:
        """In a thread: a long text takes milliseconds, and the loop has streams to serve."""
        try:
            return await asyncio.to_thread(self._tokenizers.count, effect.model, effect.texts)
        except (OSError, ValueError) as error:
            raise EffectError("token counting failed") from error

    def settle(
        self, work: Coroutine[object, object, Record], done: Callable[[asyncio.Future[Record]], None]
    ) -> asyncio.Future[Record]:
        """Run what is left of an exchange's end in a task of the host's own, which no cancelled stream takes along."""
        task = asyncio.ensure_future(work)
        self._settling.add(task)
        task.add_done_callback(self._settling.discard)
        task.add_done_callback(done)
        return task

    async def settled(self) -> None:
        """Wait until every exchange that has ended is on record."""
        while self._settling:
            await asyncio.wait(self._settling)
        self.flush()

    def forget(self, identity: str) -> None:
        """Let go of what a policy reserved for an exchange and, because one of them crashed, did not settle."""
        if self.limits is not None:
            self.limits.forget(identity)

    def publish(self, record: Record) -> None:
        """Take a record; the sinks get it within `BATCH_SECONDS`, together with others.

        Between two calls the caches have forgotten what a sink needs: a record costs half as much in a batch.
        """
        self._records.append(record)
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(BATCH_SECONDS, self.flush)

    def flush(self) -> None:
        """Give the records that wait to every sink now."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        records, self._records = self._records, []
        for sink in self._sinks:
            for record in records:
                sink.write(record)


class Conversation:
    """One exchange with its effects performed. `run` per event, `end` once."""

    __slots__ = ("_ended", "_exchange", "_host", "_id", "_published", "_spent", "_task")

    def __init__(self, host: Host, exchange: Exchange, identity: str) -> None:
        """Made by `Host.begin`."""
        self._host = host
        self._exchange = exchange
        self._id = identity
        self._spent = 0.0
        self._ended: Ended | None = None
        self._task: asyncio.Future[Record] | None = None
        self._published = False
        host.enter()

    async def run(self, event: Event) -> tuple[Action, ...]:
        """Feed one event. Raises what the exchange raises: `ProtocolError`, or a bug's exception."""
        began = time.perf_counter()
        steps = self._exchange.receive(event)
        try:
            # most events need nothing of the outside, or what is in memory: they are done without a coroutine more
            effect = next(steps)
            while True:
                try:
                    answer = self._host.perform(effect)
                except EffectError as error:
                    effect = steps.throw(error)
                    continue
                if isinstance(answer, CoroutineType):
                    return await self._drive(steps, answer)
                effect = steps.send(answer)
        except StopIteration as stop:
            actions: tuple[Action, ...] = stop.value
            return actions
        finally:
            self._spent += time.perf_counter() - began

    @property
    def complete(self) -> bool:
        """Whether nothing can come any more: the stream may be ended without waiting for Envoy to do so."""
        return self._exchange.complete

    def fail(self) -> tuple[Action, ...]:
        """The answer to a crash."""
        return self._exchange.fail()

    def end(self) -> None:
        """Finish the exchange and publish its record; a second call does nothing.

        Never waits: a transport's handler may be cancelled again at any `await`, and the record must not depend on it.
        What needs the outside (counting tokens) is finished by a task of the host.
        """
        if self._ended is not None:
            return
        self._host.leave()
        self._ended = Ended(id=self._id, at=time.monotonic(), policy_seconds=self._spent)
        steps = self._exchange.finish(self._ended)
        try:
            effect = next(steps)
            while True:
                try:
                    answer = self._host.perform(effect)
                except EffectError as error:
                    effect = steps.throw(error)
                    continue
                if isinstance(answer, CoroutineType):
                    self._task = self._host.settle(self._drive(steps, answer), self._settled)
                    return
                effect = steps.send(answer)  # a reservation is settled here: no task for it
        except StopIteration as stop:
            self._publish(stop.value)

    async def close(self) -> None:
        """`end`, and wait until the record is published."""
        self.end()
        if self._task is not None:
            await asyncio.wait([self._task])
        self._host.flush()

    def give_up(self) -> None:
        """A policy's `finish` crashed: the record is made of what is known."""
        if self._ended is not None and not self._published:
            self._publish(make_record(self._exchange.facts, self._ended))

    def _settled(self, task: asyncio.Future[Record]) -> None:
        if task.cancelled() or task.exception() is not None:
            self.give_up()
        else:
            self._publish(task.result())

    def _publish(self, record: Record) -> None:
        self._published = True
        self._host.publish(record)
        self._host.forget(self._id)

    async def _answer(self, effect: Effect) -> object:
        answer = self._host.perform(effect)
        return await answer if isinstance(answer, CoroutineType) else answer

    async def _drive(self, steps: Generator[Effect, object, T], waiting: Coroutine[object, object, object]) -> T:
        """Wait for an answer, and perform the effects that follow."""
        try:
            while True:
                try:
                    answer = await waiting
                except EffectError as error:
                    effect = steps.throw(error)
                else:
                    effect = steps.send(answer)
                waiting = self._answer(effect)
        except StopIteration as stop:
            result: T = stop.value
            return result
