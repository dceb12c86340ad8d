"""HTTP/1.1 by hand: the request's bytes are the test's own, the answer's body is what came, byte for byte."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import h11


class CutError(Exception):
    """The connection ended inside an answer, or before one. `reply` is what had come."""

    def __init__(self, reply: Reply) -> None:
        super().__init__(f"cut after status {reply.status} and {len(reply.body)} bytes")
        self.reply = reply


@dataclass
class Reply:
    """One answer; `status` 0 is none. Times are monotonic seconds; `label` is the test's own."""

    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    began: float = field(default_factory=time.monotonic)
    ended: float = 0.0
    label: str = ""

    @property
    def seconds(self) -> float:
        return self.ended - self.began

    def json(self) -> Any:
        return json.loads(self.body)


def post(
    path: str, fields: Iterable[tuple[str, str | bytes]], body: bytes, pieces: Sequence[int] | None = None
) -> bytes:
    """A POST as bytes; with `pieces` (places to cut at) the body goes out in chunked coding."""
    chunked = pieces is not None
    framing = ("transfer-encoding", "chunked") if chunked else ("content-length", str(len(body)))
    head = [f"POST {path} HTTP/1.1".encode(), b"host: 127.0.0.1"]
    for name, value in (*fields, framing):
        head.append(name.encode() + b": " + (value if isinstance(value, bytes) else value.encode()))
    data = b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in cut(body, pieces or ()) if part)
    return b"\r\n".join(head) + b"\r\n\r\n" + (data + b"0\r\n\r\n" if chunked else body)


def cut(body: bytes, places: Sequence[int]) -> list[bytes]:
    """`body` cut at these places."""
    return [body[a:b] for a, b in zip([0, *places], [*places, len(body)], strict=True)]


async def send(port: int, data: bytes, *, method: str = "POST", timeout: float = 30) -> Reply:
    """One request on a connection of its own. Raises CutError, and OSError where nobody listens."""
    reply = Reply()
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        async with asyncio.timeout(timeout):
            writer.write(data)
            await read(reader, reply, method)
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()
    return reply


async def read(reader: asyncio.StreamReader, reply: Reply, method: str = "POST") -> None:
    """Read one answer into `reply`. Raises CutError."""
    parser = h11.Connection(h11.CLIENT)
    parser.send(h11.Request(method=method, target="/", headers=[("host", "x"), ("content-length", "0")]))
    parser.send(h11.EndOfMessage())
    try:
        while True:
            event = parser.next_event()
            if event is h11.NEED_DATA:
                parser.receive_data(await reader.read(1 << 16))
            elif isinstance(event, h11.Response):
                reply.status = event.status_code
                reply.headers = {name.decode(): value.decode("latin-1") for name, value in event.headers}
            elif isinstance(event, h11.Data):
                reply.body += bytes(event.data)
            elif isinstance(event, h11.EndOfMessage):
                break
            elif isinstance(event, h11.ConnectionClosed):
                raise CutError(reply)
    except (h11.RemoteProtocolError, ConnectionError) as error:
        raise CutError(reply) from error
    finally:
        reply.ended = time.monotonic()


def assert_vendor_shaped(api: str, reply: Reply) -> None:
    """The error is an object of the shape that the vendor's SDK reads (their API references, "Errors")."""
    assert reply.headers["content-type"].startswith("application/json"), reply
    body = reply.json()
    error = body["error"]
    assert isinstance(error["message"], str)
    assert error["message"]
    assert isinstance(error["type"], str)
    if api == "anthropic":
        assert body["type"] == "error"
    else:
        assert {"message", "type", "param", "code"} <= set(error)
