"""What a worker does for limits beside its calls: leases are renewed, those of dead workers expired, overrides read."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from typing import Final, cast

import structlog

from extproc.adapters.keeper import Job, Keeper
from extproc.adapters.limit_desk import Desk
from extproc.adapters.limit_events import LimitEvents
from extproc.adapters.limit_settle import Settler
from extproc.adapters.limit_shard import Reservation, Shard
from extproc.adapters.valkey_client import StoreError
from extproc.limits.counters import Counter, Standing
from extproc.limits.rules import Rules
from extproc.limits.scripts import (
    Handle,
    Name,
    State,
    due,
    expire,
    leases_key,
    overrides_key,
    overrides_version_key,
    read_overrides,
    record_counters,
    record_key,
    renew,
)

_SECOND: Final = 1.0
_PROBE: Final = 0.1  # seconds between two looks at a shard that is away
_TICK: Final = 0.25
_TIDY: Final = 60.0
_UNUSED: Final = 600.0  # seconds without a call, after which an organisation is no longer looked after
_AT_ONCE: Final = 500  # reservations that one call renews
_SIDE_BY_SIDE: Final = 64  # looks at shards that are away
_LOOKS: Final = 10  # at the index of leases, one after the other
_WIDTH: Final = 7  # numbers of a counter in a script's answer


class Chores:
    """The work in the background. A store that is away is no error: what was left is done when it is back."""

    def __init__(
        self,
        desk: Desk,
        books: tuple[dict[str, Shard], Mapping[str, Reservation]],
        settler: Settler,
        events: LimitEvents,
        lease: int,
    ) -> None:
        """`books`: shards by organisation and open reservations, the store's own. `lease`: milliseconds."""
        self._desk: Final = desk
        self._shards, self._open = books
        self._settler: Final = settler
        self._events: Final = events
        self._lease: Final = lease
        self.rules: Rules | None = None
        self.home = ""  # the organisation that is always looked after
        self._kicked: set[asyncio.Future[None]] = set()
        self._log = structlog.get_logger("extproc.limits")
        self._keeper: Final = Keeper(
            (
                Job("renew leases", lease / 3000, self.renew),
                Job("expire leases", _SECOND, self.sweep),
                Job("read overrides", _SECOND, self.poll),
                Job("look for the store", _PROBE, self.probe),
                Job("settle", _TICK, self._tick),
                Job("forget organisations", _TIDY, self._tidy),
            )
        )

    def start(self) -> None:
        """Begin."""
        self._keeper.start()

    async def close(self) -> None:
        """End."""
        for task in self._kicked:
            task.cancel()
        await asyncio.gather(*self._kicked, return_exceptions=True)
        await self._keeper.close()

    def kick(self) -> None:
        """See at once whether the store answers."""
        task = asyncio.ensure_future(self.probe())
        self._kicked.add(task)
        task.add_done_callback(self._kicked.discard)

    async def renew(self) -> None:
        """Renew the leases of all calls that are under way."""
        groups: dict[Shard, list[Reservation]] = {}
        for one in self._open.values():
            if not (one.local or one.shard.away):
                groups.setdefault(one.shard, []).append(one)
        for shard, members in groups.items():
            for begin in range(0, len(members), _AT_ONCE):
                await self._renew(shard, members[begin : begin + _AT_ONCE])

    async def _renew(self, shard: Shard, members: Sequence[Reservation]) -> None:
        now = time.monotonic()
        try:
            args = renew(shard.name, [one.handle.id for one in members], self._lease)
            missing = set((await self._desk.numbers(shard, Name.RENEW, args))[1:])
        except (StoreError, TimeoutError) as error:
            self._desk.note(shard, error)
            return
        for place, one in enumerate(members):
            if place not in missing:  # what has expired meanwhile lives again with its next extension
                one.renewed = now

    async def sweep(self) -> None:
        """Charge what owners that are gone had reserved. Not before those who were cut off could renew theirs."""
        for shard in tuple(self._shards.values()):
            if shard.away or time.monotonic() - shard.back_since < self._lease / 1000:
                continue
            try:
                expired = await self._sweep(shard)
            except (StoreError, TimeoutError) as error:
                self._desk.note(shard, error)
                continue
            if expired:
                self._log.warning("reservations expired, charged as reserved", organisation=shard.name, count=expired)
                self._events.expired(expired)

    async def _sweep(self, shard: Shard) -> int:
        expired = 0
        for _ in range(_LOOKS):
            found = cast("list[list[bytes]]", await self._desk.numbers(shard, Name.DUE, due(shard.name)))[1]
            for name in found:
                expired += await self._expire(Handle(shard.name, name.decode("utf-8", "replace")), shard)
            if not found:
                break
        return expired

    async def _expire(self, handle: Handle, shard: Shard) -> bool:
        record = cast("bytes | None", await self._desk.command(shard, b"GET", record_key(handle)))
        try:
            args = expire(handle, record)
        except ValueError as error:
            self._desk.complain(f"{handle.id}: {error}")
            # it would stand first in the index for ever, and many of its kind would hide the others
            await self._desk.command(shard, b"ZREM", leases_key(handle.organisation), handle.id.encode())
            return False
        raw = await self._desk.numbers(shard, Name.EXPIRE, args)
        if raw[0] != State.EXPIRED or record is None:
            return False
        for place, key in enumerate(record_counters(record)):
            used, reserved, limit, end, _, alert, _ = raw[2 + place * _WIDTH : 2 + (place + 1) * _WIDTH]
            counter = self._counter(shard.name, key) if alert else None
            if counter is not None:
                self._events.alert(counter, alert, Standing(used, reserved, limit, end / 1000))
        return True

    def _counter(self, organisation: str, key: bytes) -> Counter | None:
        """The counter of a key that another worker made; None where the configuration has no such rule any more."""
        parts = key.decode("utf-8", "replace").removeprefix(f"xq:{{{organisation}}}:c:").split(":", 3)
        rule = self.rules.rule(parts[0]) if self.rules is not None and len(parts) == 4 else None
        return None if rule is None or self.rules is None else self.rules.counter(rule, organisation, parts[3])

    async def poll(self) -> None:
        """Read the live overrides of each organisation where they have changed."""
        for shard in tuple(self._shards.values()):
            if not shard.away:
                await self.learn(shard)

    async def learn(self, shard: Shard) -> bool:
        """Read an organisation's overrides. False where the store does not answer: the last known stay."""
        try:
            version = cast("bytes | None", await self._desk.command(shard, b"GET", overrides_version_key(shard.name)))
            if (version or b"") == shard.version:
                return True
            flat = cast("list[bytes]", await self._desk.command(shard, b"HGETALL", overrides_key(shard.name)))
        except (StoreError, TimeoutError) as error:
            self._desk.note(shard, error)
            return False
        first = shard.version is None
        shard.limits = read_overrides(dict(zip(flat[::2], flat[1::2], strict=True)))
        shard.version = version or b""
        if not first:
            self._log.info("limits were changed live", organisation=shard.name, overrides=len(shard.limits))
        return True

    async def probe(self) -> None:
        """See whether the shards that are away answer again."""
        away = [shard for shard in self._shards.values() if shard.away]
        for begin in range(0, len(away), _SIDE_BY_SIDE):
            await asyncio.gather(*(self._look(shard) for shard in away[begin : begin + _SIDE_BY_SIDE]))

    async def _look(self, shard: Shard) -> None:
        asked = time.monotonic()
        try:
            seconds, micros = cast("list[bytes]", await self._desk.command(shard, b"TIME"))
        except (StoreError, TimeoutError):
            return
        shard.clock.learn(int(seconds) * 1000 + int(micros) // 1000, asked)
        shard.back()
        self._settler.queue.wake(shard)

    async def _tick(self) -> None:
        self._settler.queue.tick()

    async def _tidy(self) -> None:
        now = time.monotonic()
        busy = {one.shard.name for one in self._open.values()}
        for name, shard in tuple(self._shards.items()):
            unused = now - shard.used > _UNUSED and name != self.home and name not in busy
            if unused and not shard.away and not self._settler.queue.holds(shard):
                del self._shards[name]
