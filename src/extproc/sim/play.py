"""How an answer is performed on a connection, whatever the protocol."""

from __future__ import annotations

import asyncio
import fcntl
import socket
import struct
import termios
from abc import ABC, abstractmethod
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any, Final

from extproc.sim.answer import SimAnswer
from extproc.sim.seen import SeenRequest

_FLUSH_TRIES: Final = 200
_FLUSH_PAUSE: Final = 0.005


@dataclass(frozen=True, slots=True)
class Host:
    """What a connection asks of the server."""

    handle: Callable[[SeenRequest], SimAnswer]
    next_number: Callable[[], int]
    spawn: Callable[[Coroutine[Any, Any, None]], asyncio.Task[None]]
    hung_up: Callable[[], None]
    max_body: int


class Gate:
    """Open while the transport takes more; closed while its buffer is over the high-water mark."""

    def __init__(self) -> None:
        self._open = asyncio.Event()
        self._open.set()

    def close(self) -> None:
        """Let writers wait."""
        self._open.clear()

    def open(self) -> None:
        """Let writers go on."""
        self._open.set()

    @property
    def is_open(self) -> bool:
        """Whether a writer need not wait."""
        return self._open.is_set()

    async def wait(self) -> None:
        """Return when open."""
        await self._open.wait()


class Engine(ABC):
    """One connection's protocol."""

    @abstractmethod
    def data_received(self, data: bytes) -> None:
        """Take bytes from the client."""

    @abstractmethod
    def connection_lost(self) -> None:
        """Stop whatever is under way."""

    @abstractmethod
    def shutdown(self) -> None:
        """Say good-bye in the protocol's own way and close."""


class Sink(ABC):
    """Where one response goes."""

    @abstractmethod
    def head(self, answer: SimAnswer) -> None:
        """Send status and header fields."""

    @abstractmethod
    async def body(self, chunk: bytes) -> None:
        """Send a piece of the body, when the client takes it."""

    @abstractmethod
    def end(self) -> None:
        """Send the end of the body."""

    @abstractmethod
    async def reset(self) -> None:
        """Break off: what was sent arrives, an end does not."""


async def play(answer: SimAnswer, sink: Sink) -> None:
    """Perform `answer`: waits, chunks, and the fault that it asks for."""
    if answer.delay_ms:
        await asyncio.sleep(answer.delay_ms / 1000)
    if answer.reset_after == -1:
        await sink.reset()
        return
    sink.head(answer)
    if answer.first_byte_ms:
        await asyncio.sleep(answer.first_byte_ms / 1000)
    stops = [at for at in (answer.reset_after, answer.stall_after) if at is not None]
    left = min(stops, default=None)
    for index, chunk in enumerate(answer.chunks):
        if index and answer.chunk_ms:
            await asyncio.sleep(answer.chunk_ms / 1000)
        if left is not None and len(chunk) >= left:
            await sink.body(chunk[:left])
            await _break_off(answer, sink)
            return
        await sink.body(chunk)
        if left is not None:
            left -= len(chunk)
    sink.end()


async def _break_off(answer: SimAnswer, sink: Sink) -> None:
    if answer.reset_after is not None and (answer.stall_after is None or answer.reset_after <= answer.stall_after):
        await sink.reset()
        return
    await asyncio.Event().wait()  # a stall: the client's hang-up or our shutdown cancels this task


async def reset_connection(transport: asyncio.Transport) -> None:
    """End a TCP connection by RST once the client's kernel has what was written; without the wait it might be lost."""
    sock = transport.get_extra_info("socket")
    for _ in range(_FLUSH_TRIES):
        unsent = struct.unpack("i", fcntl.ioctl(sock.fileno(), termios.TIOCOUTQ, b"\0" * 4))[0]
        if not transport.get_write_buffer_size() and not unsent:
            break
        await asyncio.sleep(_FLUSH_PAUSE)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    transport.abort()
