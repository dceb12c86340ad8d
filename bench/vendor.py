"""A very cheap provider: TLS, HTTP/1.1 keep-alive, canned bytes. `vendor.py CERTIFICATE KEY` prints its port.

The request header `x-bench` says how to answer: absent: JSON; `stream=N,MS`: N events, one every MS milliseconds, each
with the time of its writing (CLOCK_MONOTONIC, ns); `hold`: one event, and then nothing until the caller leaves.
"""

from __future__ import annotations

import asyncio
import json
import ssl
import sys
import time

import uvloop

MODEL = "gpt-4o-mini"
USAGE = {"prompt_tokens": 400, "completion_tokens": 180, "total_tokens": 580}


def _json_answer() -> bytes:
    message = {"role": "assistant", "content": "All is well. " * 50}
    choices = [{"index": 0, "message": message, "finish_reason": "stop"}]
    head = {"id": "chatcmpl-bench", "object": "chat.completion", "created": 1735689600, "model": MODEL}
    body = json.dumps({**head, "choices": choices, "usage": USAGE}).encode()
    return b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%s" % (len(body), body)


def _event(delta: dict[str, str], usage: dict[str, int] | None = None) -> bytes:
    choices = [] if usage else [{"index": 0, "delta": delta, "finish_reason": None}]
    head = {"id": "chatcmpl-bench", "object": "chat.completion.chunk", "created": 1735689600, "model": MODEL}
    return (
        b"data: " + json.dumps({**head, "choices": choices, "usage": usage}, separators=(",", ":")).encode() + b"\n\n"
    )


def _chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


JSON_ANSWER = _json_answer()
STREAM_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
# the place of the stamp: 20 digits of nanoseconds
BEFORE, AFTER = _event({"content": "STAMP"}).split(b"STAMP")
LAST = _chunk(_event({}, USAGE)) + _chunk(b"data: [DONE]\n\n") + b"0\r\n\r\n"


class Connection(asyncio.Protocol):
    """One connection; requests one after another."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._need = 0  # bytes of the request that is being read; 0: its head is not complete
        self._how = b""
        self._task: asyncio.Task[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def connection_lost(self, exc: Exception | None) -> None:
        if self._task is not None:
            self._task.cancel()

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        while self._buffer:
            if not self._need:
                end = self._buffer.find(b"\r\n\r\n")
                if end < 0:
                    return
                head = bytes(self._buffer[:end]).lower() + b"\r\n"
                self._how = _field(head, b"x-bench")
                self._need = end + 4 + int(_field(head, b"content-length") or b"0")
            if len(self._buffer) < self._need:
                return
            del self._buffer[: self._need]
            self._need = 0
            self._answer()

    def _answer(self) -> None:
        if not self._how:
            self._transport.write(JSON_ANSWER)
        elif self._how == b"hold":
            self._transport.write(STREAM_HEAD + _chunk(BEFORE + b"%020d" % time.monotonic_ns() + AFTER))
        else:
            count, _, pause = self._how.removeprefix(b"stream=").partition(b",")
            self._task = asyncio.ensure_future(self._stream(int(count), int(pause) / 1000))

    async def _stream(self, count: int, pause: float) -> None:
        self._transport.write(STREAM_HEAD)
        for number in range(count):
            if number:
                await asyncio.sleep(pause)
            self._transport.write(_chunk(BEFORE + b"%020d" % time.monotonic_ns() + AFTER))
        self._transport.write(LAST)


def _field(head: bytes, name: bytes) -> bytes:
    start = head.find(b"\r\n" + name + b": ")
    if start < 0:
        return b""
    start += len(name) + 4
    return head[start : head.index(b"\r\n", start)]


async def main(certificate: str, key: str) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    server = await asyncio.get_running_loop().create_server(Connection, "127.0.0.1", 0, ssl=context, backlog=1024)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(main(*sys.argv[1:3]))
