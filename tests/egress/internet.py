"""An internet in a network namespace: what an app would reach if nothing kept it in. Its servers are threads of the test.

Every server answers at once, so that a road that is open shows it.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import ssl
import threading
from collections.abc import AsyncIterator, Callable, Coroutine
from pathlib import Path
from typing import Any

from envoy.machine import SimThread
from envoy.namespaces import LENIENT, METADATA, OUTSIDE, RESOLVERS, VENDOR_ADDRESSES, Namespaces, run
from extproc.adapters.pki import Authority

_CLONE_NEWNET = 0x40000000
TLS_PORTS = (443, 853, 2443, 8443)
PLAIN_PORTS = (22, 53, 80, 8080)
QUIC_PORTS = (443, 853)
ECHO_PORTS = (123, 3478, 51820)
PAGE = b"HTTP/1.1 200 OK\r\nContent-Length: 7\r\n\r\noutside"


def enter(namespace: str) -> None:
    """Move this thread, and no other, into a network namespace. Raises OSError."""
    libc = ctypes.CDLL(None, use_errno=True)
    with Path("/run/netns", namespace).open() as place:
        if libc.setns(place.fileno(), _CLONE_NEWNET):
            raise OSError(ctypes.get_errno(), f"setns {namespace}")


class Inside:
    """An event loop in a thread that lives in a namespace."""

    def __init__(self, namespace: str) -> None:
        self.loop = asyncio.new_event_loop()
        self._entered: list[OSError | None] = []
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(namespace,), name=namespace, daemon=True)
        self._servers: list[asyncio.Server | asyncio.DatagramTransport] = []

    def _run(self, namespace: str) -> None:
        try:
            enter(namespace)
        except OSError as error:
            self._entered.append(error)
        self._ready.set()
        if not self._entered:
            self.loop.run_forever()

    def start(self) -> None:
        """Begin; raises what kept the thread out."""
        self._thread.start()
        assert self._ready.wait(10)
        if self._entered:
            raise self._entered[0] or OSError("setns")

    def call(self, work: Coroutine[Any, Any, Any], timeout: float = 20) -> Any:
        """Run a coroutine there."""
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(timeout)

    def listen(
        self,
        address: str,
        port: int,
        handle: Callable[..., Coroutine[Any, Any, None]],
        tls: ssl.SSLContext | None = None,
    ) -> None:
        """A TCP or TLS server."""
        self._servers.append(self.call(asyncio.start_server(handle, address, port, ssl=tls)))

    def datagrams(self, address: str, port: int, answer: Callable[[bytes], bytes]) -> None:
        """A UDP server on one address: an answer must come from the address that was asked."""

        class Protocol(asyncio.DatagramProtocol):
            def connection_made(self, transport: asyncio.BaseTransport) -> None:
                self.transport: Any = transport

            def datagram_received(self, data: bytes, source: Any) -> None:
                self.transport.sendto(answer(data), source)

        made = self.loop.create_datagram_endpoint(Protocol, local_addr=(address, port))
        self._servers.append(self.call(made)[0])

    def stop(self) -> None:
        """Close all."""

        async def close() -> None:
            for server in self._servers:
                server.close()
            mine = asyncio.current_task()
            handlers = [task for task in asyncio.all_tasks() if task is not mine]
            for task in handlers:
                task.cancel()
            await asyncio.gather(*handlers, return_exceptions=True)
            await asyncio.sleep(0.05)  # for what they aborted to be gone

        if self.loop.is_running():
            self.call(close())
            self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join(10)
        self.loop.close()


class Internet:
    """The servers of `inet`: `far` shows a certificate of nobody's trust, `lenient` takes every request there is."""

    def __init__(self, names: Namespaces, authority: Authority) -> None:
        self.inside = Inside(names.inet)
        self._leaf = authority.issue(["outside.example"])

    def start(self) -> None:
        self.inside.start()
        tls = self._leaf.server_context(("http/1.1",))
        for address in OUTSIDE:
            if address == LENIENT:
                self.inside.listen(address, 80, lenient)
                continue
            for port in TLS_PORTS:
                self.inside.listen(address, port, page, tls)
            for port in PLAIN_PORTS:
                self.inside.listen(address, port, banner)
            for port in QUIC_PORTS:
                self.inside.datagrams(address, port, versions)
            for port in ECHO_PORTS:
                self.inside.datagrams(address, port, lambda packet: packet)
            self.inside.datagrams(address, 53, lambda query: query[:2] + b"\x81\x80" + query[4:])
        assert {*RESOLVERS, *METADATA} <= set(OUTSIDE)

    def stop(self) -> None:
        self.inside.stop()


@contextlib.asynccontextmanager
async def served(writer: asyncio.StreamWriter) -> AsyncIterator[None]:
    """For the time of one connection, which is gone afterwards, whatever the other side does."""
    try:
        with contextlib.suppress(OSError):
            yield
            await writer.drain()
            await asyncio.sleep(0.2)  # for the other side to read
    finally:
        writer.transport.abort()


async def page(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """An HTTP answer to whatever comes first."""
    async with served(writer):
        await reader.read(4096)
        writer.write(PAGE)


async def banner(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Speaks first."""
    async with served(writer):
        writer.write(b"SSH-2.0-outside\r\n")
        await reader.read(4096)


async def lenient(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Takes any HTTP/1.1 and any HTTP/2 as it is: what no gateway may be."""
    async with served(writer):
        data = await reader.read(1 << 16)
        if data.startswith(b"PRI "):  # settings, then `:status: 200` (RFC 7541 appendix A, index 8) that ends stream 1
            writer.write(bytes.fromhex("000000040000000000") + bytes.fromhex("000001010500000001") + b"\x88")
        elif b"Upgrade: websocket" in data:
            writer.write(b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
        else:
            seen = b"x" * (data.count(b"x-llmi-") + data.count(b"x-envoy-"))
            writer.write(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: %d\r\n\r\n%s" % (len(seen), seen))


def versions(packet: bytes) -> bytes:
    """A QUIC version negotiation (RFC 9000 section 17.2.1)."""
    target, rest = packet[6 : 6 + packet[5]], packet[6 + packet[5] :]
    source = rest[1 : 1 + rest[0]]
    ids = bytes([len(source)]) + source + bytes([len(target)]) + target
    return bytes([0x80 | os.urandom(1)[0]]) + bytes(4) + ids + b"\x00\x00\x00\x01"


class VendorsInside(SimThread):
    """Simulated vendors on `inet`'s own loopback; its rules lead the vendors' addresses to them."""

    def __init__(self, names: Namespaces, *args: Any) -> None:
        super().__init__(*args)
        self._names = names
        self._thread = threading.Thread(target=self._serve, name="vendors", daemon=True)

    def _serve(self) -> None:
        enter(self._names.inet)
        self._loop.run_forever()

    def start(self) -> None:
        super().start()
        inet = self._names.prefix("inet")
        for name in ("all", "default"):
            run(*inet, "sysctl", "-qw", f"net.ipv4.conf.{name}.route_localnet=1")
        rules = ["table ip vendors {", "chain lead {", "type nat hook prerouting priority dstnat;"]
        for api, sim in self.sims.items():
            address = VENDOR_ADDRESSES[f"api.{api}.com"]
            rules.append(f"ip daddr {address} tcp dport 443 dnat to 127.0.0.1:{sim.port}")
        run(*inet, "nft", "\n".join([*rules, "}", "}"]))
