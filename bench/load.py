"""The load generator: HTTP/1.1 keep-alive over raw sockets, closed loop, every latency kept.

Reads one JSON command a line (`Command`), runs it, prints one JSON line with what it saw. A process of its own, so that
its work is in nobody's account.
"""

from __future__ import annotations

import asyncio
import json
import re
import sys
import time
from dataclasses import dataclass, field
from typing import Any

import uvloop

STAMP = re.compile(rb'"content":"(\d{20})"')
HEAD_END = b"\r\n\r\n"
CHUNKS_END = b"\r\n0\r\n\r\n"


@dataclass
class Command:
    """`seconds`: new calls are begun this long; `size`: bytes of the request body; `bench`: what the provider is told."""

    port: int
    key: str
    size: int
    connections: int
    seconds: float
    bench: str = ""
    hold: bool = False  # keep the calls open until the next command, and answer as soon as all have begun

    def request(self) -> bytes:
        question = {"model": "gpt-4o-mini", "messages": [{"role": "system", "content": "You are terse."}]}
        if self.bench:
            question["stream"] = True
        turn = {"role": "user", "content": "How do I keep a sourdough starter alive in a cold kitchen? " * 4}
        while len(json.dumps(question, separators=(",", ":"))) + 330 < self.size and len(question["messages"]) < 8:
            question["messages"].append(turn)
        question["messages"].append({"role": "user", "content": ""})
        short = self.size - len(json.dumps(question, separators=(",", ":")))
        question["messages"][-1]["content"] = ("The quick brown fox jumps over the lazy dog. " * (short // 45 + 1))[
            :short
        ]
        body = json.dumps(question, separators=(",", ":")).encode()
        head = (
            "POST /v1/chat/completions HTTP/1.1\r\nhost: api.openai.com\r\naccept: application/json\r\n"
            "user-agent: OpenAI/Python 1.99.0\r\nx-stainless-lang: python\r\nx-stainless-runtime: CPython\r\n"
            f"authorization: Bearer {self.key}\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n"
        )
        bench = f"x-bench: {self.bench}\r\n" if self.bench else ""
        return head.encode() + bench.encode() + b"\r\n" + body


@dataclass
class Seen:
    """What all connections of one command saw. Times in ns."""

    until: float
    request: bytes
    calls: list[int] = field(default_factory=list)
    first: list[int] = field(default_factory=list)  # first byte of the body of a stream
    chunks: list[int] = field(default_factory=list)  # provider's write to our read
    errors: int = 0
    example: str = ""


class Caller(asyncio.Protocol):
    """One connection that makes one call after the other until the time is over."""

    def __init__(self, seen: Seen, done: asyncio.Future[None], *, stream: bool) -> None:
        self._seen = seen
        self._stream = stream
        self._buffer = bytearray()
        self._size = -1  # bytes of the whole answer, once known
        self._first = 0
        self.done = done
        self.began = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport
        self._call()

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.done.done():
            self._seen.errors += 1
            self.done.set_result(None)

    def close(self) -> None:
        self._transport.close()

    def _call(self) -> None:
        self._buffer.clear()
        self._size, self._first = -1, 0
        self._at = time.monotonic_ns()
        self._transport.write(self._seen.request)

    def data_received(self, data: bytes) -> None:
        now = time.monotonic_ns()
        buffer = self._buffer
        buffer += data
        if self._stream:
            self._measure(data, now)
            if not buffer.endswith(CHUNKS_END):
                return
        else:
            if self._size < 0:
                head = buffer.find(HEAD_END)
                if head < 0:
                    return
                found = re.search(rb"content-length: (\d+)", buffer[:head])
                self._size = head + 4 + (int(found[1]) if found else 0)
            if len(buffer) < self._size:
                return
        self._ended(now)

    def _measure(self, data: bytes, now: int) -> None:
        stamps = STAMP.findall(data)
        if stamps and not self._first:
            self._first = now - self._at
            if not self.began.done():
                self.began.set_result(None)
        self._seen.chunks += [now - int(stamp) for stamp in stamps]

    def _ended(self, now: int) -> None:
        seen = self._seen
        if self._buffer.startswith(b"HTTP/1.1 200"):
            seen.calls.append(now - self._at)
            if self._first:
                seen.first.append(self._first)
        else:
            seen.errors += 1
            seen.example = bytes(self._buffer[:600]).decode("latin-1")
        if now < seen.until and seen.errors < 100:
            self._call()
            return
        if not self.done.done():
            self.done.set_result(None)
        self._transport.close()


def _spread(values: list[int]) -> dict[str, float]:
    """Median and 99th percentile, in ms."""
    if not values:
        return {}
    values.sort()
    last = len(values) - 1
    return {"p50": values[last // 2] / 1e6, "p99": values[round(last * 0.99)] / 1e6, "n": len(values)}


async def run(command: Command) -> tuple[dict[str, Any], list[Caller]]:
    loop = asyncio.get_running_loop()
    began = time.monotonic_ns()
    seen = Seen(began + int(command.seconds * 1e9), command.request())
    callers = [Caller(seen, loop.create_future(), stream=bool(command.bench)) for _ in range(command.connections)]
    for caller in callers:
        await loop.create_connection(lambda caller=caller: caller, "127.0.0.1", command.port)
    waits = [caller.began if command.hold else caller.done for caller in callers]
    await asyncio.wait(waits, timeout=command.seconds + 60)
    late = sum(not wait.done() for wait in waits)
    took = (time.monotonic_ns() - began) / 1e9
    result = {
        "calls": len(seen.calls),
        "seconds": took,
        "errors": seen.errors + late,
        "example": seen.example,
        "latency": _spread(seen.calls),
        "first": _spread(seen.first),
        "chunk": _spread(seen.chunks),
    }
    return result, callers


async def main() -> None:
    loop = asyncio.get_running_loop()
    held: list[Caller] = []
    while line := await loop.run_in_executor(None, sys.stdin.readline):
        for caller in held:
            caller.done.cancelled() or caller.done.done() or caller.done.set_result(None)
            caller.close()
        command = Command(**json.loads(line))
        result, callers = await run(command)
        held = callers if command.hold else []
        print(json.dumps(result), flush=True)


if __name__ == "__main__":
    uvloop.run(main())
