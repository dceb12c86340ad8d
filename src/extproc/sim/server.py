"""The server: listeners, the choice of an answer, and a graceful end."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import itertools
import signal
import ssl
from collections import deque
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final, Literal, Self, cast

from extproc.adapters.pki import Leaf
from extproc.errors import ConfigError
from extproc.sim import faults
from extproc.sim.answer import SimAnswer, json_answer
from extproc.sim.cases import Cases, UnknownCaseError
from extproc.sim.control import Control
from extproc.sim.http1 import Http1
from extproc.sim.http2 import Http2
from extproc.sim.play import Engine, Gate, Host
from extproc.sim.seen import RequestLog, SeenRequest
from extproc.sim.vendors import Api, Vendors, answer_request

_PREFACE: Final = b"PRI * HTTP/2.0"
_CACHED_BODY: Final = 64 << 10
_CACHED_ANSWERS: Final = 512


@dataclass(frozen=True, slots=True)
class Settings:
    """How to serve. Port 0 takes a free one. Without `certificate` it is plain HTTP (HTTP/2 by prior knowledge too).

    `keep` requests are remembered; `max_body` is in bytes; open answers get `grace` seconds at the end;
    `control_port` None means no control port.
    """

    vendors: Vendors = field(default_factory=Vendors)
    certificate: Leaf | None = None
    address: str = "127.0.0.1"
    port: int = 0
    control_port: int | None = None
    alpn: tuple[str, ...] = ("h2", "http/1.1")
    cases: Path | None = None
    keep: int = 1000
    max_body: int = 64 << 20
    grace: float = 2.0


class _NamedSSLObject(ssl.SSLObject):
    """Remembers the SNI, which a server-side SSLObject does not."""

    sni: str | None = None


class Simulator:
    """Vendors on one loopback port: `async with Simulator("openai", certificate=leaf) as sim: sim.port`."""

    def __init__(
        self,
        api: Api | Literal["both"] = "both",
        certificate: Leaf | None = None,
        *,
        settings: Settings | None = None,
    ) -> None:
        """`settings` has the rest; `api` and `certificate` win over it. Raises ConfigError for a public address."""
        base = settings or Settings()
        vendors = base.vendors if api == "both" else replace(base.vendors, apis=(api,))
        self._settings = replace(base, vendors=vendors, certificate=certificate or base.certificate)
        if not _is_loopback(base.address):
            raise ConfigError("address", "the simulator serves loopback only", "use 127.0.0.1 or ::1")
        self.requests: Final = RequestLog(base.keep)
        self.cases: Final = Cases(base.cases)
        self._script: deque[tuple[str | None, SimAnswer]] = deque()
        self._cache: dict[tuple[str, str, bool, bytes], SimAnswer] = {}
        self._numbers = itertools.count(1)
        self._connections: set[_Connection] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._servers: list[asyncio.Server] = []
        self.port = 0
        self.control_port = 0

    async def __aenter__(self) -> Self:
        """Listen."""
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        """Close."""
        await self.close()

    async def start(self) -> None:
        """Listen; `port` and `control_port` say where."""
        settings = self._settings
        context = _tls(settings) if settings.certificate is not None else None
        host = self._host(self._handle)
        self.port = await self._listen(host, settings.port, context)
        if settings.control_port is not None:
            control = Control(self.requests, self.cases, self.script, self.clear_script)
            self.control_port = await self._listen(self._host(control.handle), settings.control_port, None)

    async def close(self) -> None:
        """Stop listening, give open answers `grace` seconds, then close every connection."""
        for server in self._servers:
            server.close()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=self._settings.grace)
        for task in tuple(self._tasks):
            task.cancel()
        for connection in tuple(self._connections):
            connection.shutdown()
        gone = [connection.gone for connection in self._connections]
        if gone:
            await asyncio.wait(gone, timeout=self._settings.grace)
        for connection in tuple(self._connections):
            connection.abort()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def script(self, *answers: SimAnswer, path: str | None = None) -> None:
        """The next requests (with `path`: the next ones to that path) get these answers, one each, as they are."""
        self._script.extend((path, answer) for answer in answers)

    def clear_script(self) -> None:
        """Forget the scripted answers that are left."""
        self._script.clear()

    @property
    def scripted(self) -> int:
        """How many scripted answers are left."""
        return len(self._script)

    def _handle(self, seen: SeenRequest) -> SimAnswer:
        self.requests.add(seen)
        if self._script:
            for index, (path, answer) in enumerate(self._script):
                if path is None or path == seen.path:
                    del self._script[index]
                    return answer
        fields, vendors = seen.fields, self._settings.vendors
        wanted = faults.asked(fields)
        if not wanted:
            return self._cached(seen)
        api = vendors.api_of(seen.path, fields)
        try:
            name = wanted.get("case")
            answer = self.cases.get(name) if name is not None else self._fresh(seen)
            return faults.apply(answer, wanted, api)
        except UnknownCaseError as error:
            return json_answer({"simulator": f"there is no case named {error}"}, 400)
        except faults.BadFaultError as error:
            return json_answer({"simulator": str(error)}, 400)

    def _fresh(self, seen: SeenRequest) -> SimAnswer:
        return answer_request(self._settings.vendors, seen.method, seen.target, seen.fields, seen.body)

    def _cached(self, seen: SeenRequest) -> SimAnswer:
        """Answers are a pure function of the request: load tests repeat theirs, and should measure something else."""
        if self._settings.vendors.keys or len(seen.body) > _CACHED_BODY:
            return self._fresh(seen)
        key = (seen.method, seen.target, "anthropic-version" in seen.fields, seen.body)
        answer = self._cache.get(key)
        if answer is None:
            if len(self._cache) >= _CACHED_ANSWERS:
                self._cache.clear()
            answer = self._cache[key] = self._fresh(seen)
        return answer

    def _host(self, handle: Callable[[SeenRequest], SimAnswer]) -> Host:
        return Host(handle, self._numbers.__next__, self._spawn, self._hung_up, self._settings.max_body)

    def _hung_up(self) -> None:
        self.requests.hangups += 1

    def _spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _listen(self, host: Host, port: int, context: ssl.SSLContext | None) -> int:
        loop, numbers = asyncio.get_running_loop(), itertools.count(1)

        def connect() -> _Connection:
            return _Connection(host, next(numbers), self._connections)

        server = await loop.create_server(connect, self._settings.address, port, ssl=context, backlog=1024)
        self._servers.append(server)
        return int(server.sockets[0].getsockname()[1])


class _Connection(asyncio.Protocol):
    """A connection until its protocol is known: ALPN says it, or the first bytes do."""

    def __init__(self, host: Host, number: int, register: set[_Connection]) -> None:
        self._host, self._number, self._register = host, number, register
        self._gate = Gate()
        self._engine: Engine | None = None
        self._transport: asyncio.Transport | None = None
        self._early = b""
        self.gone: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # a cast, not a check: uvloop's transports do not derive from asyncio's
        stream = self._transport = cast("asyncio.Transport", transport)
        self._register.add(self)
        tls = stream.get_extra_info("ssl_object")
        if tls is not None:
            self._choose(stream, tls.selected_alpn_protocol() == "h2", getattr(tls, "sni", None))

    def _choose(self, transport: asyncio.Transport, is_http2: bool, server_name: str | None) -> Engine:
        kind = Http2 if is_http2 else Http1
        self._engine = kind(transport, self._gate, self._host, (self._number, server_name))
        return self._engine

    def data_received(self, data: bytes) -> None:
        engine = self._engine
        if engine is None:
            self._early += data
            if len(self._early) < len(_PREFACE) and _PREFACE.startswith(self._early):
                return
            if self._transport is None:
                raise RuntimeError("bytes before the connection")
            data, self._early = self._early, b""
            engine = self._choose(self._transport, data.startswith(_PREFACE), None)
        engine.data_received(data)

    def connection_lost(self, exc: Exception | None) -> None:
        self._register.discard(self)
        self._gate.open()
        if self._engine is not None:
            self._engine.connection_lost()
        if not self.gone.done():
            self.gone.set_result(None)

    def pause_writing(self) -> None:
        self._gate.close()

    def resume_writing(self) -> None:
        self._gate.open()

    def shutdown(self) -> None:
        if self._engine is not None:
            self._engine.shutdown()
        elif self._transport is not None:
            self._transport.close()

    def abort(self) -> None:
        if self._transport is not None:
            self._transport.abort()


def _tls(settings: Settings) -> ssl.SSLContext:
    if settings.certificate is None:
        raise ConfigError("certificate", "TLS needs a certificate")
    context = settings.certificate.server_context(settings.alpn)
    context.sslobject_class = _NamedSSLObject

    def remember(connection: ssl.SSLObject | ssl.SSLSocket, name: str | None, _: ssl.SSLContext) -> None:
        if isinstance(connection, _NamedSSLObject):
            connection.sni = name

    context.sni_callback = remember
    return context


def _is_loopback(address: str) -> bool:
    try:
        return ipaddress.ip_address(address).is_loopback
    except ValueError:
        return False


async def run(settings: Settings, ready: Callable[[Simulator], None]) -> None:
    """Serve until SIGINT or SIGTERM; `ready` is told once it listens."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    try:
        async with Simulator(settings=settings) as simulator:
            ready(simulator)
            await stop.wait()
    finally:
        for number in (signal.SIGINT, signal.SIGTERM):
            with contextlib.suppress(RuntimeError):
                loop.remove_signal_handler(number)
