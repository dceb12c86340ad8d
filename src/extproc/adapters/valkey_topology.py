"""The store of limits, wherever it is: one server, the primary that Sentinels name, or a cluster.

A call goes to the node that has its key. What a node refuses without having done anything is sorted out here (a script
it does not know, a slot that has moved), bounded; a call whose outcome is unknown fails, and repeating it is its
caller's matter. Nothing waits for a connection that is away, but to a node that an answer has just named.
"""

from __future__ import annotations

import asyncio
import ssl
import time
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Final, Protocol
from weakref import WeakSet

from extproc.adapters.valkey_client import (
    AskError,
    Connection,
    Endpoint,
    Login,
    LoginError,
    MovedError,
    NoScriptError,
    ReadOnlyError,
    RefusedError,
    Reply,
    StoreAwayError,
    StoreError,
    connect,
)
from extproc.adapters.valkey_cluster import Cluster
from extproc.adapters.valkey_link import Finder, Link
from extproc.config import quotas
from extproc.config.store_url import StoreUrl
from extproc.config.units import SecretRef
from extproc.errors import ConfigError

TRIES: Final = 5
"""Answers of "not here", "not yet" and "which script?" that one call follows."""

_PLACE: Final = "quotas.store"
_AGAIN: Final = 0.01  # seconds until a slot that is being moved may have both keys of a call
_CONNECT: Final = 1.0  # seconds for a connection, with name look-up, TLS and login
_ASK: Final = 0.4  # seconds for an answer of a Sentinel
_POLL: Final = 5.0  # seconds between two questions to the Sentinels while all seems well


class Nodes(Protocol):
    """The servers of a store."""

    @property
    def links(self) -> Collection[Link]:
        """All of them."""

    @property
    def trouble(self) -> str:
        """Why one is away; empty where none is."""

    def link(self, key: bytes) -> Link:
        """The one that has this key. Raises `StoreAwayError` where none is known."""

    def moved(self, error: MovedError, asked: Link) -> Link:
        """The one that an answer points to. Raises `StoreError` where it cannot be followed."""

    def start(self, changed: Callable[[Link], None]) -> None:
        """Begin to connect."""

    async def close(self) -> None:
        """End all connections."""


class Store:
    """What `script` and `call` need to know of servers. One per worker, on the event loop's thread."""

    def __init__(self, nodes: Nodes) -> None:
        """Made by `make_store`; nothing runs before `connect`."""
        self.on_connected: Callable[[str], None] | None = None
        """Told the server's name each time a connection is there."""
        self.on_lost: Callable[[str, str], None] | None = None
        """Told the server's name and the reason each time one is lost."""
        self._nodes = nodes
        self._up: WeakSet[Link] = WeakSet()

    @property
    def connected(self) -> bool:
        """Whether every server that is known has a connection."""
        links = self._nodes.links
        return bool(links) and all(link.connection is not None for link in links)

    @property
    def trouble(self) -> str:
        """Why a server is away; empty where none is. Holds no secret."""
        return self._nodes.trouble

    def since(self, key: bytes) -> float | None:
        """`time.monotonic` since when the server of this key is connected without a break; None while it is not."""
        try:
            link = self._nodes.link(key)
        except StoreAwayError:
            return None
        return link.since if link.connection is not None else None

    async def connect(self, within: float = 1.0) -> bool:
        """Begin, and wait at most so many seconds; whether everything is connected. It goes on trying either way."""
        self._nodes.start(self._changed)
        until = time.monotonic() + within
        while not self.connected and time.monotonic() < until:
            await asyncio.sleep(0.005)
        return self.connected

    async def close(self) -> None:
        """End all connections; what waits for an answer fails."""
        await self._nodes.close()

    def send(self, key: bytes, args: Sequence[bytes]) -> asyncio.Future[Reply]:
        """Send a command as it is, with nothing sorted out that the server refuses: a call without a coroutine.

        Raises `StoreAwayError`; the future fails with `ConnectionLostError` or `RefusedError`.
        """
        return self._nodes.link(key).call(args)

    async def call(self, key: bytes, args: Sequence[bytes]) -> Reply:
        """Send a command to the server of `key`, which is one of the command's own.

        Raises `StoreAwayError` (not sent), `ConnectionLostError` (outcome unknown), `RefusedError` (not done).
        """
        link = self._nodes.link(key)
        try:
            return await link.call(args)
        except RefusedError as error:
            return await self._again(link, args, error, b"")

    async def script(self, key: bytes, sha: bytes, source: bytes, args: Sequence[bytes]) -> Reply:
        """EVALSHA: `args` are the number of keys, the keys, the arguments; `sha` the script's SHA-1 in hex.

        A server that does not know the script is given `source`. Raises like `call`.
        """
        link = self._nodes.link(key)
        whole = (b"EVALSHA", sha, *args)
        try:
            return await link.call(whole)
        except RefusedError as error:
            return await self._again(link, whole, error, source)

    async def _again(self, link: Link, args: Sequence[bytes], error: RefusedError, source: bytes) -> Reply:
        """Follow what a server says instead of doing it, `TRIES` times."""
        asking = False
        for _ in range(TRIES):
            if isinstance(error, NoScriptError) and source:
                await link.load(args[1], source)
            elif isinstance(error, MovedError):
                link, asking = self._nodes.moved(error, link), isinstance(error, AskError)
                await link.wait(_CONNECT)
            elif error.code == "TRYAGAIN":
                await asyncio.sleep(_AGAIN)
            else:
                break
            try:
                if asking:  # holds for the next command of the connection: both are sent in one turn of the loop
                    link.call((b"ASKING",)).cancel()
                return await link.call(args)
            except RefusedError as next_error:
                error = next_error
        if isinstance(error, ReadOnlyError):
            link.drop(f"{link.name} is no longer the primary")
        raise error

    def _changed(self, link: Link) -> None:
        """Tell of what begins and ends, not of attempts."""
        if link.connection is not None:
            self._up.add(link)
            if self.on_connected is not None:
                self.on_connected(link.name)
        elif link in self._up:
            self._up.discard(link)
            if self.on_lost is not None:
                self.on_lost(link.name, link.reason)


class One:
    """A store of one server at a time."""

    def __init__(self, name: str, finder: Finder) -> None:
        """`finder`: how its connection is made."""
        self._link = Link(name, finder, self._tell)
        self._changed: Callable[[Link], None] = lambda _link: None

    @property
    def links(self) -> Collection[Link]:
        """The one."""
        return (self._link,)

    @property
    def trouble(self) -> str:
        """Why it is away."""
        return self._link.reason

    def link(self, key: bytes) -> Link:
        """The one has all keys."""
        return self._link

    def moved(self, error: MovedError, asked: Link) -> Link:
        """Nobody said that it is a cluster."""
        raise StoreError(f"{asked.name} is a node of a cluster: write valkey+cluster:// in {_PLACE}.url") from error

    def start(self, changed: Callable[[Link], None]) -> None:
        """Begin to connect."""
        self._changed = changed
        self._link.start()

    async def close(self) -> None:
        """End the connection."""
        await self._link.close()

    def _tell(self, link: Link) -> None:
        self._changed(link)


class Sentinels:
    """Finds the primary: what most of the Sentinels that answer say."""

    def __init__(self, hosts: Sequence[Endpoint], service: str, login: Callable[[], Login]) -> None:
        """`service`: the name that the Sentinels know the primary by. `login`: for the primary; the Sentinels' own TLS."""
        self._hosts = tuple(hosts)
        self._service = service
        self._login = login
        self._asked = 0.0

    async def find(self) -> Connection:
        """A connection to the primary, which says itself that it is. Raises `StoreError`."""
        login = self._login()
        connection = await connect(await self._primary(login), login)
        try:
            async with asyncio.timeout(_CONNECT):
                role = await connection.call((b"ROLE",))
        except (TimeoutError, StoreError):
            role = None
        if isinstance(role, list) and role and role[0] == b"master":
            self._asked = time.monotonic()
            return connection
        connection.close()
        raise StoreAwayError(f"{connection.endpoint} is not the primary of {self._service} yet")

    async def leave(self, connection: Connection) -> str:
        """From time to time: whether the Sentinels name another primary by now (a split network tells nobody)."""
        if time.monotonic() - self._asked < _POLL:
            return ""
        self._asked = time.monotonic()
        try:
            primary = await self._primary(self._login())
        except StoreError:
            return ""  # no Sentinel answers: the primary does
        if primary == connection.endpoint:
            return ""
        return f"the Sentinels name {primary} as the primary of {self._service}, no longer {connection.endpoint}"

    async def _primary(self, login: Login) -> Endpoint:
        said = await asyncio.gather(*(self._ask(host, login) for host in self._hosts), return_exceptions=True)
        named = Counter(answer for answer in said if isinstance(answer, Endpoint))
        if named:
            return named.most_common(1)[0][0]
        failed = [answer for answer in said if isinstance(answer, StoreError)]
        raise StoreAwayError(
            f"no Sentinel names the primary of {self._service}: {failed[0] if failed else 'no answer'}"
        )

    async def _ask(self, host: Endpoint, login: Login) -> Endpoint:
        try:
            connection = await connect(host, Login(tls=login.tls, timeout=_ASK))
        except LoginError:  # Sentinels with a password: the store's own
            connection = await connect(host, Login(login.username, login.password, tls=login.tls, timeout=_ASK))
        try:
            async with asyncio.timeout(_ASK):
                answer = await connection.call((b"SENTINEL", b"GET-MASTER-ADDR-BY-NAME", self._service.encode()))
        except TimeoutError:
            raise StoreAwayError(f"{host} did not answer within {_ASK:g} s") from None
        finally:
            connection.close()
        match answer:
            case [bytes() as name, bytes() as port] if port.isdigit():
                return Endpoint(name.decode("utf-8", "replace"), int(port))
            case _:
                raise StoreAwayError(f"{host} does not know {self._service}")


def make_store(config: quotas.Store, embedded: Path, environ: Mapping[str, str]) -> Store:
    """The store that the configuration names. `embedded`: the socket of the embedded server.

    Raises `ConfigError` where the password or the certificates are not there.
    """
    place = config.place
    tls = _trust(config) if place.tls else None
    _password(config.password, environ)

    def login() -> Login:
        try:
            password = _password(config.password, environ)
        except ConfigError as error:
            raise StoreAwayError(str(error)) from error
        return Login(config.username or "", password, place.database, tls, _CONNECT)

    return Store(_nodes(place, embedded, login))


def _nodes(place: StoreUrl, embedded: Path, login: Callable[[], Login]) -> Nodes:
    hosts = [Endpoint(host, port) for host, port in place.hosts]
    if place.form == "cluster":
        return Cluster(hosts, login)
    if place.form == "sentinel":
        sentinels = Sentinels(hosts, place.service, login)
        return One(place.service, Finder(sentinels.find, sentinels.leave))
    path = {"embedded": str(embedded), "unix": place.path}.get(place.form, "")
    endpoint = Endpoint(path=path) if path else hosts[0]

    async def find() -> Connection:
        return await connect(endpoint, login())

    return One(str(endpoint), Finder(find))


def _password(reference: SecretRef | None, environ: Mapping[str, str]) -> bytes | None:
    """The password; its file is read again for each connection, so that it may be changed."""
    if reference is None:
        return None
    if reference.env is not None:
        found = environ.get(reference.env, "").encode().strip()
        if not found:
            raise ConfigError(f"{_PLACE}.password.env", f"the variable {reference.env} is not set", "set it")
        return found
    try:
        found = Path(reference.file or "").read_bytes().strip()
    except OSError as error:
        raise ConfigError(
            f"{_PLACE}.password.file", f"cannot be read: {error.strerror}", "write the password into it"
        ) from None
    if not found:
        raise ConfigError(f"{_PLACE}.password.file", "is empty", "write the password into it")
    return found


def _trust(config: quotas.Store) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cafile=None if config.ca is None else str(config.ca))
    except (OSError, ValueError) as error:
        reason = (error.strerror if isinstance(error, OSError) else None) or "holds no certificate"
        raise ConfigError(f"{_PLACE}.ca", f"cannot be used: {reason}", "name a PEM file with certificates") from None
