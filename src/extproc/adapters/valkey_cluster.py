"""The nodes of a cluster: which one has which keys, learned from the nodes and from their answers."""

from __future__ import annotations

import asyncio
import secrets
from binascii import crc_hqx
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from typing import Final

import structlog

from extproc.adapters.valkey_client import (
    AskError,
    Connection,
    Endpoint,
    Login,
    MovedError,
    Reply,
    StoreAwayError,
    StoreError,
    connect,
)
from extproc.adapters.valkey_link import FIRST_PAUSE, LONGEST_PAUSE, Finder, Link, unending

SLOTS: Final = 16384
_REFRESH: Final = 30.0  # seconds between two looks at the map while all seems well
_ANSWER: Final = 1.0  # seconds that a node may take to tell the map


def slot_of(key: bytes) -> int:
    """The slot of a key: CRC16 (XMODEM) of what stands between its first braces, or of all of it where that is empty."""
    start = key.find(b"{")
    if start >= 0:
        end = key.find(b"}", start + 1)
        if end > start + 1:
            key = key[start + 1 : end]
    return crc_hqx(key, 0) % SLOTS


class Cluster:
    """A link to each primary. The map is asked for when a node is lost or says that a slot has moved."""

    def __init__(self, seeds: Sequence[Endpoint], login: Callable[[], Login]) -> None:
        """`seeds`: some nodes; the others are learned from them. Nodes share one password."""
        self._seeds = tuple(seeds)
        self._login = login
        self._links: dict[Endpoint, Link] = {}
        self._owners: list[Link | None] = [None] * SLOTS
        self._stale = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._changed: Callable[[Link], None] = lambda _link: None
        self._reason = "no node of the cluster has answered yet"
        self._log = structlog.get_logger("extproc.store")

    @property
    def links(self) -> Collection[Link]:
        """The nodes that are known."""
        return self._links.values()

    @property
    def trouble(self) -> str:
        """Why a node is away, or why no node is known."""
        away = (f"{link.name}: {link.reason}" for link in self._links.values() if link.connection is None)
        return next(away, "") if self._links else self._reason

    def link(self, key: bytes) -> Link:
        """The node that has this key."""
        link = self._owners[slot_of(key)]
        if link is None:
            raise StoreAwayError(self._reason if not self._links else "no node of the cluster has the slot of this key")
        return link

    def moved(self, error: MovedError, asked: Link) -> Link:
        """The node that an answer points to; the map is put right."""
        own = asked.connection.endpoint.host if asked.connection is not None else asked.name.rpartition(":")[0]
        if not error.port:
            raise error
        link = self._know(Endpoint((error.host or own).strip("[]"), error.port))
        if not isinstance(error, AskError):
            if 0 <= error.slot < SLOTS:
                self._owners[error.slot] = link
            self._stale.set()
        return link

    def start(self, changed: Callable[[Link], None]) -> None:
        """Begin to learn the map."""
        self._changed = changed
        if self._task is None:
            self._task = asyncio.ensure_future(unending(self._learn, "the map of the cluster"))

    async def close(self) -> None:
        """End all connections."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        await asyncio.gather(*(link.close() for link in self._links.values()))

    # --- the map

    async def _learn(self) -> None:
        pause = FIRST_PAUSE
        while True:
            self._stale.clear()
            try:
                await self._refresh()
            except StoreError as error:
                if str(error) != self._reason:
                    self._reason = str(error)
                    self._log.warning("the cluster of the store does not answer", reason=self._reason)
                self._stale.set()
            else:
                pause = FIRST_PAUSE
            with suppress(TimeoutError):
                async with asyncio.timeout(_REFRESH):
                    await self._stale.wait()
            await asyncio.sleep(pause * (0.5 + secrets.randbelow(501) / 1000))
            pause = min(pause * 2, LONGEST_PAUSE)

    async def _refresh(self) -> None:
        owners: list[Link | None] = [None] * SLOTS
        for first, last, endpoint in await self._map():
            link = self._know(endpoint)
            owners[first : last + 1] = [link] * (last + 1 - first)
        self._owners = owners
        await self._forget({link for link in owners if link is not None})

    async def _map(self) -> list[tuple[int, int, Endpoint]]:
        """The ranges of slots with their primaries, as the first node that answers tells them."""
        failed: StoreError = StoreAwayError("no node of the cluster answers")
        for link in tuple(self._links.values()):
            if link.connection is not None:
                try:
                    return await _ranges(link.connection)
                except StoreError as error:
                    failed = error
        for seed in self._seeds:
            try:
                connection = await connect(seed, self._login())
                try:
                    return await _ranges(connection)
                finally:
                    connection.close()
            except StoreError as error:
                failed = error
        raise failed

    def _know(self, endpoint: Endpoint) -> Link:
        link = self._links.get(endpoint)
        if link is None:

            async def find() -> Connection:
                return await connect(endpoint, self._login())

            link = self._links[endpoint] = Link(str(endpoint), Finder(find), self._tell)
            link.start()
        return link

    async def _forget(self, needed: set[Link]) -> None:
        """End links without slots once nothing waits on them."""
        for endpoint, link in tuple(self._links.items()):
            if link not in needed and (link.connection is None or not link.connection.waiting):
                del self._links[endpoint]
                await link.close()

    def _tell(self, link: Link) -> None:
        if link.connection is None:
            self._stale.set()  # its replica may have taken over
        self._changed(link)


async def _ranges(connection: Connection) -> list[tuple[int, int, Endpoint]]:
    try:
        async with asyncio.timeout(_ANSWER):
            told = await connection.call((b"CLUSTER", b"SLOTS"))
    except TimeoutError:
        raise StoreAwayError(f"{connection.endpoint} did not tell the map of the cluster") from None
    ranges = [_range(row, connection.endpoint) for row in told] if isinstance(told, list) else []
    found = [one for one in ranges if one is not None]
    if not found:
        raise StoreAwayError(f"{connection.endpoint} knows no node that has slots")
    return found


def _range(row: Reply, asked: Endpoint) -> tuple[int, int, Endpoint] | None:
    match row:
        case [int() as first, int() as last, [bytes() | None as host, int() as port, *_], *_] if (
            0 <= first <= last < SLOTS and host != b"?"
        ):
            # without a host of its own, a node is to be met where this one was
            return first, last, Endpoint(host.decode("utf-8", "replace") if host else asked.host, port)
        case _:
            return None
