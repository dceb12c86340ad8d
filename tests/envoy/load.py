"""Calls that go on while something is broken, and what became of each."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass, field

from envoy import raw
from envoy.machine import Machine

PATH = "/openai/v1/chat/completions"
TOKENS = 60
PAUSE_MS = 40


def body(*, stream: bool = False) -> bytes:
    """A small chat request."""
    tree = {"model": "fast", "messages": [{"role": "user", "content": "hi there"}]}
    return json.dumps({**tree, "stream": True} if stream else tree).encode()


def fields(machine: Machine, *more: tuple[str, str]) -> list[tuple[str, str]]:
    """Header fields of a call by the first key."""
    return [("content-type", "application/json"), ("authorization", f"Bearer {machine.key}"), *more]


def slow_stream(machine: Machine, label: str) -> bytes:
    """A request whose answer takes `TOKENS * PAUSE_MS` and more."""
    more = (("x-sim-chunk-ms", str(PAUSE_MS)), ("x-sim-tokens", str(TOKENS)), ("x-llm-feature", label))
    return raw.post(PATH, fields(machine, *more), body(stream=True))


@dataclass
class Load:
    """`loops` callers, each with one call at a time, and `streams` slow streams that are opened first."""

    machine: Machine
    loops: int = 16
    streams: int = 4
    label: str = "load"
    replies: list[raw.Reply] = field(default_factory=list)
    whole: list[raw.Reply] = field(default_factory=list)
    cut: list[raw.Reply] = field(default_factory=list)
    _stop: bool = False

    async def run(self) -> None:
        """Call until `stop`; the streams play to their end."""
        async with asyncio.TaskGroup() as group:
            for number in range(self.streams):
                group.create_task(self._stream(f"{self.label}-s{number}"))
            await asyncio.sleep(0.3)
            for number in range(self.loops):
                group.create_task(self._loop(number))

    def stop(self) -> None:
        self._stop = True

    @property
    def failed(self) -> list[raw.Reply]:
        """Unary calls without a good answer."""
        return [reply for reply in self.replies if reply.status != 200]

    async def _loop(self, number: int) -> None:
        count = 0
        while not self._stop:
            count += 1
            label = ("x-llm-feature", f"{self.label}-{number}-{count}")
            data = raw.post(PATH, fields(self.machine, label), body())
            try:
                reply = await raw.send(self.machine.ports["base_url"], data)
            except raw.CutError as error:
                reply = error.reply
            reply.label = label[1]
            self.replies.append(reply)

    async def _stream(self, label: str) -> None:
        try:
            reply = await raw.send(self.machine.ports["base_url"], slow_stream(self.machine, label))
            self.whole.append(reply)
        except raw.CutError as error:
            reply = error.reply
            self.cut.append(reply)
        reply.label = label
