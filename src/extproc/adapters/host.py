"""Drives exchanges: feeds events in, performs the effects they yield, hands the actions out.

The transports stand above this and below Envoy; they know messages, this knows exchanges.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Generator
from typing import Protocol, TypeVar

from extproc.adapters.keys import KeyStore
from extproc.adapters.tokens import Tokenizers
from extproc.errors import EffectError
from extproc.exchange.actions import Action
from extproc.exchange.effects import CountTokens, Effect, FindKey
from extproc.exchange.events import Event
from extproc.exchange.facts import Origin
from extproc.exchange.machine import Exchange, Modes
from extproc.exchange.record import Ended, Record
from extproc.runtime import Runtime

T = TypeVar("T")


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


class Host:
    """What the exchanges of one worker share. `current` is swapped on reload; an exchange keeps what it began with."""

    def __init__(self, runtime: Runtime, keys: KeyStore, tokenizers: Tokenizers, sinks: tuple[Sink, ...]) -> None:
        """`sinks`: where records go (log, metrics)."""
        self.current = runtime
        self._keys = keys
        self._tokenizers = tokenizers
        self._sinks = sinks
        self._numbers = itertools.count(1)
        self._prefix = f"{time.time_ns():x}"
        self.open = 0
        self.gauge: Gauge | None = None

    def begin(self, modes: Modes, at: float) -> Conversation:
        """A conversation for one ext_proc stream."""
        exchange = Exchange(self.current.setup, Origin(at, time.time()), modes)
        return Conversation(self, exchange, f"{self._prefix}-{next(self._numbers):x}")

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

    def find_key(self, effect: FindKey) -> object:
        """Synchronous: the table is in memory."""
        return self._keys.find(effect.secret, time.time())

    async def count_tokens(self, effect: CountTokens) -> int:
        """In a thread: a long text takes milliseconds, and the loop has streams to serve."""
        try:
            return await asyncio.to_thread(self._tokenizers.count, effect.model, effect.texts)
        except (OSError, ValueError) as error:
            raise EffectError("token counting failed") from error

    def publish(self, record: Record) -> None:
        """Give the record to every sink."""
        for sink in self._sinks:
            sink.write(record)


class Conversation:
    """One exchange with its effects performed. `run` per event, `close` once."""

    __slots__ = ("_closed", "_exchange", "_host", "_id", "_spent")

    def __init__(self, host: Host, exchange: Exchange, identity: str) -> None:
        """Made by `Host.begin`."""
        self._host = host
        self._exchange = exchange
        self._id = identity
        self._spent = 0.0
        self._closed = False
        host.enter()

    async def run(self, event: Event) -> tuple[Action, ...]:
        """Feed one event. Raises what the exchange raises: `ProtocolError`, or a bug's exception."""
        began = time.perf_counter()
        steps = self._exchange.receive(event)
        try:
            # most events need nothing of the outside, or what is in memory: they are done without a coroutine more
            effect = next(steps)
            while isinstance(effect, FindKey):
                effect = steps.send(self._host.find_key(effect))
            return await self._drive(steps, effect)
        except StopIteration as stop:
            actions: tuple[Action, ...] = stop.value
            return actions
        finally:
            self._spent += time.perf_counter() - began

    def fail(self) -> tuple[Action, ...]:
        """The answer to a crash."""
        return self._exchange.fail()

    async def close(self) -> None:
        """Finish the exchange and publish its record; a second call does nothing."""
        if self._closed:
            return
        self._closed = True
        self._host.leave()
        ended = Ended(id=self._id, at=time.monotonic(), policy_seconds=self._spent)
        steps = self._exchange.finish(ended)
        try:
            record = await self._drive(steps, next(steps))
        except StopIteration as stop:
            record = stop.value
        self._host.publish(record)

    async def _drive(self, steps: Generator[Effect, object, T], effect: Effect) -> T:
        """Perform `effect` and those that follow."""
        try:
            while True:
                try:
                    answer: object = (
                        self._host.find_key(effect)
                        if isinstance(effect, FindKey)
                        else await self._host.count_tokens(effect)
                    )
                except EffectError as error:
                    effect = steps.throw(error)
                else:
                    effect = steps.send(answer)
        except StopIteration as stop:
            result: T = stop.value
            return result
