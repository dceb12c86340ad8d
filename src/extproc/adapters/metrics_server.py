"""One HTTP endpoint for the numbers of all workers: `/metrics` (Prometheus) and `/healthz` (JSON).

Runs in the supervisor's process. Reading is done in a thread, so that a scrape does not hold up the supervisor.
"""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Callable, Mapping
from contextlib import suppress
from http import HTTPStatus
from pathlib import Path
from typing import Final

import msgspec
import orjson
from prometheus_client import CollectorRegistry, multiprocess
from prometheus_client.exposition import choose_encoder

from extproc.errors import ConfigError

_MAX_HEAD: Final = 16 * 1024  # bytes of a request's head
_MAX_TIME: Final = 10.0  # seconds for a client to say what it wants, and to take the answer
_MAX_OPEN: Final = 16  # connections
_RETRIES: Final = 2

JSON: Final = "application/json"
TEXT: Final = "text/plain; charset=utf-8"


class _Answer(msgspec.Struct, frozen=True):
    status: int
    kind: str
    body: bytes


def split_address(address: str) -> tuple[str, int]:
    """Take `127.0.0.1:9464` or `[::1]:9464` apart. Raises `ConfigError`."""
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal() or int(port) > 65535:
        raise ConfigError("metrics.address", f"not an address: {address!r}", "write host:port, like 127.0.0.1:9464")
    return host.removeprefix("[").removesuffix("]"), int(port)


class MetricsServer:
    """Serves until `close`. `health` gives the JSON of `/healthz`; its key `ok` decides between 200 and 503."""

    def __init__(self, folder: Path, own: CollectorRegistry, health: Callable[[], Mapping[str, object]]) -> None:
        """Take the folder of the workers' shared values and the supervisor's own registry."""
        self._folder = folder
        self._own = own
        self._health = health
        self._server: asyncio.Server | None = None
        self._open = 0

    async def start(self, address: str) -> int:
        """Listen at `host:port`; return the port. Raises `ConfigError` where that is not possible."""
        host, port = split_address(address)
        try:
            self._server = await asyncio.start_server(self._serve, host, port, limit=_MAX_HEAD)
        except OSError as error:
            raise ConfigError(
                "metrics.address", f"cannot listen at {address}: {error.strerror}", "free the port or choose another"
            ) from error
        bound: int = self._server.sockets[0].getsockname()[1]
        return bound

    async def close(self) -> None:
        """Stop listening."""
        if self._server is not None:
            self._server.close()
            await self._server.wait_closed()

    def render(self, accept: str = "") -> tuple[str, bytes]:
        """Give (content type, body) of `/metrics`. Blocks: reads the files of all workers."""
        encode, kind = choose_encoder(accept)
        for _ in range(_RETRIES):
            # a worker may be just making or growing its file; the next look finds it whole
            with suppress(struct.error, ValueError, RuntimeError, FileNotFoundError):
                return kind, encode(self._collect())
        return kind, encode(self._collect())

    def _collect(self) -> CollectorRegistry:
        registry = CollectorRegistry()
        multiprocess.MultiProcessCollector(registry, path=str(self._folder))  # type: ignore[no-untyped-call]  # untyped
        registry.register(self._own)
        return registry

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._open += 1
        try:
            async with asyncio.timeout(_MAX_TIME):
                head = await reader.readuntil(b"\r\n\r\n")
                answer = await self._answer(head)
                writer.write(_encode(answer, with_body=not head.startswith(b"HEAD ")))
                await writer.drain()
        except (TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError, ConnectionError):
            pass  # a client that says nothing sensible, too much, or goes away gets no answer
        finally:
            self._open -= 1
            writer.close()
            with suppress(ConnectionError):
                await writer.wait_closed()

    async def _answer(self, head: bytes) -> _Answer:
        if self._open > _MAX_OPEN:
            return _Answer(HTTPStatus.SERVICE_UNAVAILABLE, TEXT, b"too many connections\n")
        request, *lines = head.decode("latin-1").split("\r\n")
        method, _, rest = request.partition(" ")
        path = rest.partition(" ")[0].partition("?")[0]
        if method not in {"GET", "HEAD"}:
            return _Answer(HTTPStatus.METHOD_NOT_ALLOWED, TEXT, b"GET only\n")
        if path == "/healthz":
            health = self._health()
            status = HTTPStatus.OK if health.get("ok") else HTTPStatus.SERVICE_UNAVAILABLE
            return _Answer(status, JSON, orjson.dumps(health, default=msgspec.to_builtins) + b"\n")
        if path != "/metrics":
            return _Answer(HTTPStatus.NOT_FOUND, TEXT, b"/metrics and /healthz are here\n")
        headers = {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        try:
            kind, body = await asyncio.to_thread(self.render, headers.get("accept", ""))
        except (struct.error, ValueError, RuntimeError, OSError) as error:
            return _Answer(
                HTTPStatus.INTERNAL_SERVER_ERROR, TEXT, f"cannot read the workers' numbers: {error}\n".encode()
            )
        return _Answer(HTTPStatus.OK, kind, body)


def _encode(answer: _Answer, *, with_body: bool) -> bytes:
    head = (
        f"HTTP/1.1 {answer.status:d} {HTTPStatus(answer.status).phrase}\r\ncontent-type: {answer.kind}\r\n"
        f"content-length: {len(answer.body)}\r\ncache-control: no-store\r\nconnection: close\r\n\r\n"
    )
    return head.encode("latin-1") + (answer.body if with_body else b"")
