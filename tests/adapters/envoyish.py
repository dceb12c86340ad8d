"""Envoy's side of an ext_proc stream: a real gRPC server on a Unix socket, and a client that speaks Envoy's messages."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc

from extproc.adapters._pb import extproc_pb2 as pb
from extproc.adapters._pb import health_pb2
from extproc.adapters.grpc_server import SERVICE, Processor, make_server
from extproc.adapters.health import Health
from extproc.adapters.host import Host
from extproc.adapters.keyfile import KeyFile
from extproc.adapters.keys import FileKeyStore, Hasher, Owner, read_key_file
from extproc.adapters.tokens import Tokenizers
from extproc.exchange.record import Record
from extproc.runtime import Runtime

PEPPER = "f" * 64
BUFFERED = 2
_NUMBERS = itertools.count()


def begin(path: str = "/v1/chat/completions", *, end: bool = False, **headers: str) -> pb.ProcessingRequest:
    """Request headers: the first message of a stream. `_` in a name stands for `-`."""
    fields = {
        ":method": "GET" if end else "POST",
        ":path": path,
        ":authority": "api.openai.com",
        "content-type": "application/json",
    } | {name.replace("_", "-"): value for name, value in headers.items()}
    message = pb.ProcessingRequest(
        request_headers=pb.HttpHeaders(headers=pb.HeaderMap(), end_of_stream=end),
        protocol_config=pb.ProtocolConfiguration(request_body_mode=BUFFERED),  # type: ignore[arg-type]
    )
    for name, value in fields.items():
        message.request_headers.headers.headers.add(key=name, raw_value=value.encode())
    return message


def body(data: bytes) -> pb.ProcessingRequest:
    """The whole request body."""
    return pb.ProcessingRequest(request_body=pb.HttpBody(body=data, end_of_stream=True))


def answer(status: int = 200, **headers: str) -> pb.ProcessingRequest:
    """Response headers from the provider."""
    message = pb.ProcessingRequest(response_headers=pb.HttpHeaders(headers=pb.HeaderMap()))
    fields = {":status": str(status), "content-type": "application/json"}
    for name, value in (fields | {name.replace("_", "-"): text for name, text in headers.items()}).items():
        message.response_headers.headers.headers.add(key=name, raw_value=value.encode())
    message.attributes["envoy.filters.http.ext_proc"].update({"response.code_details": "via_upstream"})
    return message


def piece(data: bytes, *, end: bool = False) -> pb.ProcessingRequest:
    """(A piece of) the response body."""
    return pb.ProcessingRequest(response_body=pb.HttpBody(body=data, end_of_stream=end))


class Stream:
    """One ext_proc stream."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        method = channel.stream_stream(f"/{SERVICE}/Process")
        self.call: Any = method()

    async def say(self, message: pb.ProcessingRequest | bytes) -> None:
        """Send, and wait for nothing."""
        await self.call.write(message if isinstance(message, bytes) else message.SerializeToString())

    async def ask(self, message: pb.ProcessingRequest | bytes) -> pb.ProcessingResponse:
        """Send one message and read one reply."""
        await self.say(message)
        return await self.hear()

    async def hear(self) -> pb.ProcessingResponse:
        """The next reply."""
        reply = await asyncio.wait_for(self.call.read(), 10)
        assert reply is not grpc.aio.EOF, "the stream ended without a reply"
        return pb.ProcessingResponse.FromString(reply)

    async def end(self) -> grpc.StatusCode:
        """Half-close, as Envoy does when the exchange is over; the status of the stream."""
        await self.call.done_writing()
        return await self.status()

    async def status(self) -> grpc.StatusCode:
        """The status that the stream ended with."""
        return await asyncio.wait_for(self.call.code(), 10)


@dataclass
class Books:
    """A sink that keeps the records, and a gauge."""

    records: list[Record] = field(default_factory=list)
    now: int = 0

    def write(self, record: Record) -> None:
        self.records.append(record)

    def opened(self) -> None:
        self.now += 1

    def closed(self) -> None:
        self.now -= 1

    async def wait(self, count: int) -> list[Record]:
        """The records, once there are `count`; a moment more shows that there are not too many."""
        async with asyncio.timeout(10):
            while len(self.records) < count:
                await asyncio.sleep(0.01)
        await asyncio.sleep(0.05)
        return self.records


@dataclass
class Gateway:
    """A worker's server in this process."""

    server: grpc.aio.Server
    channel: grpc.aio.Channel
    host: Host
    books: Books
    health: Health
    key: str

    def stream(self) -> Stream:
        return Stream(self.channel)

    def begin(self, **fields: Any) -> pb.ProcessingRequest:
        """Request headers with a key that is known."""
        return begin(**({"authorization": f"Bearer {self.key}"} | fields))

    async def healthy(self, service: str = "") -> int:
        """Ask for the health as Envoy does."""
        check = self.channel.unary_unary(
            "/grpc.health.v1.Health/Check",
            request_serializer=health_pb2.HealthCheckRequest.SerializeToString,
            response_deserializer=health_pb2.HealthCheckResponse.FromString,
        )
        return (await check(health_pb2.HealthCheckRequest(service=service), timeout=10)).status


def make_host(folder: Path, runtime: Runtime) -> tuple[Host, Books, str]:
    """A host with one key of team demo; (host, its books, the key)."""
    books = Books()
    hasher = Hasher(PEPPER.encode())
    key = KeyFile(folder / "keys.json", hasher).create(Owner("demo", "app"), note="test").secret
    store = FileKeyStore(hasher)
    store.apply(read_key_file(folder / "keys.json"))
    host = Host(runtime, store, Tokenizers(folder / "tokens"), (books,))
    host.gauge = books
    return host, books, key


@asynccontextmanager
async def serving(folder: Path, runtime: Runtime, max_message: int = 1 << 20) -> AsyncIterator[Gateway]:
    """A served gateway; stopped at the end."""
    host, books, key = make_host(folder, runtime)
    health = Health()
    server = make_server(Processor(host), (health.handler(),), max_message)
    address = f"unix:{folder / f's{next(_NUMBERS)}.sock'}"
    assert server.add_insecure_port(address)
    await server.start()
    health.set(serving=True)
    options = [("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", -1)]
    async with grpc.aio.insecure_channel(address, options=options) as channel:
        yield Gateway(server, channel, host, books, health, key)
    await server.stop(0)
