"""One connection to a Valkey or Redis server: calls go out as they come, answers are matched by their order (RESP2).

Leaner than a general client, since a call waits for it: a call costs one packed command, one future and its share of a
send; libvalkey reads the answers in C. There is no pool, no retry and no timeout a call: callers cancel what they no
longer wait for, and its answer is then dropped when it comes. Who keeps connections alive is `valkey_topology`.
"""

from __future__ import annotations

import asyncio
import ssl
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final, NamedTuple, TypeAlias, cast

from libvalkey import ProtocolError, Reader, pack_command

Reply: TypeAlias = "int | bytes | list[Reply] | StoreError | None"
"""An answer of RESP2. Errors stand only within lists: one that is the whole answer is raised."""

MOST_WAITING: Final = 8192
"""Calls of one connection that may wait for their answer."""

_NAME: Final = b"extproc"  # what CLIENT LIST of the server shows
_LONGEST_TEXT: Final = 200
_ECHO: Final = ", with args beginning with"  # from here on the server repeats what it was sent


class StoreError(Exception):
    """A call to the store failed."""


class StoreAwayError(StoreError):
    """There is no connection, or too much waits on it: the call was not sent."""


class ConnectionLostError(StoreError):
    """The connection was lost with the call under way: it may have been done, or not."""


class RefusedError(StoreError):
    """The server answered with an error. `code`: its first word (`NOSCRIPT`), in which clients find the kind of error."""

    def __init__(self, code: str, text: str = "") -> None:
        super().__init__(f"{code} {text}".rstrip())
        self.code: Final = code


class NoScriptError(RefusedError):
    """The server does not know the script of this digest; nothing was done."""


class MovedError(RefusedError):
    """Another node of the cluster has the key's slot; nothing was done. `host` empty: the one that was asked."""

    def __init__(self, code: str, text: str) -> None:
        super().__init__(code, text)
        slot, _, address = text.partition(" ")
        host, _, port = address.rpartition(":")
        self.slot: Final = int(slot) if slot.isdecimal() else -1
        self.host: Final = host
        self.port: Final = int(port) if port.isdecimal() else 0


class AskError(MovedError):
    """The slot is being moved, and for this one call another node is to be asked; nothing was done."""


class ReadOnlyError(RefusedError):
    """The server is a replica by now: another one is the primary; nothing was done."""


class UnavailableError(RefusedError):
    """The server cannot serve this now (it loads, its cluster or its disk is in trouble); nothing was done."""


class OutOfMemoryError(RefusedError):
    """The server has reached its `maxmemory`; what it refused was not done."""


class LoginError(RefusedError):
    """The server wants another password, or its access list forbids this; nothing was done."""


_KINDS: Final[dict[str, type[RefusedError]]] = {
    "NOSCRIPT": NoScriptError,
    "MOVED": MovedError,
    "ASK": AskError,
    "READONLY": ReadOnlyError,
    "OOM": OutOfMemoryError,
    **dict.fromkeys(
        ("LOADING", "BUSY", "CLUSTERDOWN", "TRYAGAIN", "MASTERDOWN", "MISCONF", "NOREPLICAS"), UnavailableError
    ),
    **dict.fromkeys(("NOAUTH", "WRONGPASS", "NOPERM"), LoginError),
}


def refused(text: str) -> RefusedError:
    """The typed error of an error reply. What the server repeats of the command is cut off: it may be a secret."""
    code, _, rest = text.partition(" ")
    return _KINDS.get(code, RefusedError)(code, rest.partition(_ECHO)[0][:_LONGEST_TEXT])


class Endpoint(NamedTuple):
    """Where a server listens: `path` of a Unix socket, else `host` (IPv6 without brackets) and `port`."""

    host: str = ""
    port: int = 0
    path: str = ""

    def __str__(self) -> str:
        """For logs: `unix:/run/valkey.sock`, `host:6379`, `[::1]:6379`."""
        if self.path:
            return f"unix:{self.path}"
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True)
class Login:
    """How a connection begins. `timeout`: seconds for all of it, name look-up and TLS included."""

    username: str = ""  # empty: the server's default user
    password: bytes | None = field(default=None, repr=False)
    database: int = 0
    tls: ssl.SSLContext | None = field(default=None, repr=False)
    timeout: float = 1.0


class Connection(asyncio.Protocol):
    """One connection, made by `connect`. All of it belongs to the event loop's thread."""

    def __init__(self, endpoint: Endpoint, most: int = MOST_WAITING) -> None:
        """`most`: calls that may wait; further ones fail at once."""
        self.endpoint: Final = endpoint
        self.on_lost: Callable[[str], None] | None = None
        """Called once, with the reason, when the connection is gone; not by `close`."""
        self._most = most
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._reader = Reader(replyError=refused, notEnoughData=self)
        self._waiting: deque[asyncio.Future[Reply]] = deque()
        self._out: list[bytes] = []
        self._reason = "not connected yet"

    def __repr__(self) -> str:
        """Where to, and how much waits."""
        return f"Connection({self.endpoint}, {len(self._waiting)} waiting)"

    @property
    def alive(self) -> bool:
        """Whether calls are taken."""
        return self._transport is not None

    @property
    def waiting(self) -> int:
        """Calls without an answer yet, those that nobody waits for any more included."""
        return len(self._waiting)

    def call(self, args: Sequence[bytes]) -> asyncio.Future[Reply]:
        """Send a command; the future gets its answer, or a `RefusedError` or `ConnectionLostError`.

        The caller may cancel the future. What is called in one turn of the loop goes out in one send. Raises
        `StoreAwayError` where the connection is gone or `most` calls wait.
        """
        if self._transport is None:
            raise StoreAwayError(self._reason)
        if len(self._waiting) >= self._most:
            raise StoreAwayError(f"{self._most} calls wait for {self.endpoint} already")
        return self._send(args if isinstance(args, tuple) else tuple(args))

    def probe(self) -> asyncio.Future[Reply]:
        """PING, whatever waits: its answer says that all calls before it are answered. Raises `StoreAwayError`."""
        if self._transport is None:
            raise StoreAwayError(self._reason)
        return self._send((b"PING",))

    def close(self, reason: str = "closed") -> None:
        """End the connection now; what waits fails with `ConnectionLostError`."""
        self.on_lost = None
        self._end(reason)

    def abort(self, reason: str) -> None:
        """End the connection as if it had been lost."""
        self._end(reason)

    # --- asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Calls may be made from here on."""
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        """Give each whole answer to the call that is first in line."""
        reader, waiting = self._reader, self._waiting
        try:
            reader.feed(data)
            while (reply := reader.gets()) is not self:
                future = waiting.popleft()
                if future.done():  # cancelled: its answer has come, and nobody wants it
                    continue
                if isinstance(reply, RefusedError):
                    future.set_exception(reply)
                else:
                    future.set_result(reply)
        except ProtocolError:
            self._end(f"{self.endpoint} does not speak the protocol of Valkey and Redis")
        except IndexError:
            self._end(f"{self.endpoint} answered what nobody had asked")

    def connection_lost(self, exc: Exception | None) -> None:
        """The other side, or the network, has ended it."""
        self._end(f"connection to {self.endpoint} lost" + (f": {_plain(exc)}" if exc is not None else ""))

    # --- the rest

    def _send(self, args: tuple[bytes, ...]) -> asyncio.Future[Reply]:
        future: asyncio.Future[Reply] = self._loop.create_future()
        self._waiting.append(future)
        out = self._out
        out.append(pack_command(args))
        if len(out) == 1:
            self._loop.call_soon(self._flush)
        return future

    def _flush(self) -> None:
        out, self._out = self._out, []
        if self._transport is not None:
            self._transport.write(out[0] if len(out) == 1 else b"".join(out))

    def _end(self, reason: str) -> None:
        transport, self._transport = self._transport, None
        if transport is None:
            return
        self._reason = reason
        self._out = []
        transport.abort()
        waiting, self._waiting = self._waiting, deque()
        for future in waiting:
            if not future.done():
                future.set_exception(ConnectionLostError(reason))
        if self.on_lost is not None:
            self.on_lost(reason)


async def connect(endpoint: Endpoint, login: Login, *, most: int = MOST_WAITING) -> Connection:
    """Connect, log in, choose the database and see that the server answers.

    Raises `StoreAwayError` where nobody answers in time, `LoginError` where the password is refused, `UnavailableError`
    where the server loads its data, another `RefusedError` for what else it says.
    """
    connection = Connection(endpoint, most)
    greeted = False
    try:
        async with asyncio.timeout(login.timeout):
            await _open(connection, login.tls)
            await _greet(connection, login)
        greeted = True
    except TimeoutError:
        raise StoreAwayError(f"{endpoint} did not answer within {login.timeout:g} s") from None
    except ConnectionLostError as error:
        raise StoreAwayError(str(error)) from error
    except OSError as error:
        raise StoreAwayError(f"{endpoint} cannot be reached: {_plain(error)}") from error
    finally:
        if not greeted:
            connection.close()
    return connection


async def _open(connection: Connection, tls: ssl.SSLContext | None) -> None:
    loop, (host, port, path) = asyncio.get_running_loop(), connection.endpoint
    if path:
        await loop.create_unix_connection(lambda: connection, path)
    elif tls is None:
        await loop.create_connection(lambda: connection, host, port)
    else:
        await loop.create_connection(lambda: connection, host, port, ssl=tls, server_hostname=host)


async def _greet(connection: Connection, login: Login) -> None:
    if login.password is not None:
        user = (login.username.encode(),) if login.username else ()
        try:
            await connection.call((b"AUTH", *user, login.password))
        except RefusedError as error:  # also of a server that has no password and wants none
            raise LoginError(error.code, _said(error)) from error
    with suppress(RefusedError):  # for operators who look at the server; its access list may forbid it
        await connection.call((b"CLIENT", b"SETNAME", _NAME))
    if login.database:
        await connection.call((b"SELECT", b"%d" % login.database))
    await connection.call((b"PING",))


def _said(error: RefusedError) -> str:
    return str(error).removeprefix(error.code).lstrip()


def _plain(error: Exception) -> str:
    """What went wrong, without addresses and library internals."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return error.verify_message
    return (error.strerror if isinstance(error, OSError) else None) or type(error).__name__
