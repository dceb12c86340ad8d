"""What a worker does for limits beside its calls: leases are renewed, those of dead workers expired, overrides read."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import Final, cast

import structlog

from extproc.adapters.keeper import Job, Keeper
from extproc.adapters.limit_desk import Desk
from extproc.adapters.limit_events import LimitEvents
from extproc.adapters.limit_settle import Settler
from extproc.adapters.limit_shard import Reservation, Shard
from extproc.adapters.valkey_client import LoginError, OutOfMemoryError, RefusedError, StoreError, UnavailableError
from extproc.limits.counters import Counter, Standing
from extproc.limits.rules import Rules, key_prefix
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
_QUIET: Final = 120.0  # seconds without a call, after which overrides are read again with the next call only
_UNUSED: Final = 600.0  # seconds without a call, after which an organisation is no longer looked after
_AT_ONCE: Final = 500  # reservations that one call renews
_REVIVED: Final = 32  # reservations that are held anew at once, so that calls need not wait behind them
_BREATH: Final = 0.02  # seconds between two such portions
_SIDE_BY_SIDE: Final = 64  # organisations that are asked for at once
_SWEEP: Final = 0.5  # seconds of each second for which leases of one organisation are expired
_FOUND: Final = b"2000"  # leases that have run out, of those that one look finds at most
_TAKEN: Final = 200  # of these taken on after one look: other workers take on others
_EXPIRED: Final = 50  # at once: a store that works on them keeps reservations waiting
_WRITTEN_FOR: Final = b"1000"  # milliseconds
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
        self.revive: Callable[[Reservation], None] | None = None  # holds anew what the store has expired or lost
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
        self._begin(self.probe())

    def _begin(self, work: Coroutine[object, object, None]) -> None:
        task = asyncio.ensure_future(work)
        self._kicked.add(task)
        task.add_done_callback(self._kicked.discard)

    async def renew(self) -> None:
        """Renew the leases of all calls that are under way."""
        groups: dict[Shard, list[str]] = {}
        for name, one in self._open.items():
            if not (one.local or one.shard.away):
                groups.setdefault(one.shard, []).append(name)
        for shard, names in groups.items():
            await self._renew(shard, names)

    async def _renew(self, shard: Shard, names: Sequence[str]) -> None:
        for begin in range(0, len(names), _AT_ONCE):
            members = {name: self._open[name] for name in names[begin : begin + _AT_ONCE] if name in self._open}
            now = time.monotonic()
            try:
                args = renew(shard.name, [one.handle.id for one in members.values()], self._lease)
                missing = set((await self._desk.numbers(shard, Name.RENEW, args))[1:])
            except (StoreError, TimeoutError) as error:
                self._desk.note(shard, error)
                return
            gone = []
            for place, (name, one) in enumerate(members.items()):
                if place in missing:
                    gone.append((name, one))
                else:
                    one.renewed = now
            await self._revive(gone)

    async def _revive(self, gone: Sequence[tuple[str, Reservation]]) -> None:
        """Cut off for longer than a lease, a call has been charged by another worker: it runs on, so it holds again."""
        for begin in range(0, len(gone), _REVIVED):
            for name, one in gone[begin : begin + _REVIVED]:
                if self._open.get(name) is one and self.revive is not None and not one.shard.away:
                    self.revive(one)
            await asyncio.sleep(_BREATH)

    async def sweep(self) -> None:
        """Charge what owners that are gone had reserved. Not before those who were cut off could renew theirs."""
        for shard in tuple(self._shards.values()):
            if shard.away or time.monotonic() - shard.back_since < self._lease / 1000:
                continue
            expired = 0
            try:
                # all workers look: each takes on a part of its own
                until = time.monotonic() + _SWEEP
                while found := await self._due(shard):
                    for begin in range(0, len(found), _EXPIRED):
                        expired += await self._expire(shard, found[begin : begin + _EXPIRED])
                    if time.monotonic() >= until:
                        break
            except (StoreError, TimeoutError) as error:
                self._desk.note(shard, error)
            if expired:
                self._log.warning("reservations expired, charged as reserved", organisation=shard.name, count=expired)
                self._events.expired(expired)

    async def _due(self, shard: Shard) -> list[bytes]:
        """Names of reservations whose lease has run out: some of them, one after the other from anywhere."""
        args = [*due(shard.name)[:-1], _FOUND]
        found = cast("list[list[bytes]]", await self._desk.numbers(shard, Name.DUE, args))[1]
        begin = random.randint(0, max(0, len(found) - _TAKEN))  # noqa: S311
        return found[begin : begin + _TAKEN]

    async def _expire(self, shard: Shard, names: Sequence[bytes]) -> int:
        """How many of these were charged. What one of them is refused for hinders no other."""
        handles = [Handle(shard.name, name.decode("utf-8", "replace")) for name in names]
        keys = [record_key(handle) for handle in handles]
        records = cast("list[bytes | None]", await self._desk.command(shard, b"MGET", *keys))
        answers = await asyncio.gather(
            *(self._expire_one(shard, handle, record) for handle, record in zip(handles, records, strict=True)),
            return_exceptions=True,
        )
        expired, broken = 0, None
        for name, answer in zip(names, answers, strict=True):
            if isinstance(answer, bool):
                expired += answer
            elif isinstance(answer, ValueError) or _is_of_one(answer):
                self._desk.complain(f"{name.decode('utf-8', 'replace')} cannot be expired: {answer}")
                # it may be a newer gateway's: it stays, but not before all others
                later = b"%d" % (shard.clock.now() + self._lease)
                await self._desk.command(shard, b"ZADD", leases_key(shard.name), b"XX", later, name)
            else:
                broken = answer
        if broken is not None:
            raise broken
        return expired

    async def _expire_one(self, shard: Shard, handle: Handle, record: bytes | None) -> bool:
        if "\ufffd" in handle.id:
            raise ValueError("not a name of ours")
        raw = await self._desk.numbers(shard, Name.EXPIRE, expire(handle, record))
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
        parts = key.decode("utf-8", "replace").removeprefix(f"{key_prefix(organisation)}c:").split(":", 3)
        rule = self.rules.rule(parts[0]) if self.rules is not None and len(parts) == 4 else None
        return None if rule is None or self.rules is None else self.rules.counter(rule, organisation, parts[3])

    async def poll(self) -> None:
        """Read the live overrides where they have changed, of the organisations that have had calls lately."""
        quiet = time.monotonic() - _QUIET
        asked = []
        for shard in self._shards.values():
            if shard.used < quiet and shard.name != self.home:
                shard.version = None  # its next call reads them first
            elif not shard.away:
                asked.append(shard)
        for begin in range(0, len(asked), _SIDE_BY_SIDE):
            await asyncio.gather(*(self.learn(shard) for shard in asked[begin : begin + _SIDE_BY_SIDE]))

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
        """Whether it takes what is written: a store that can only be read is away."""
        try:
            await self._desk.command(shard, b"SET", probe_key(shard), b"1", b"PX", _WRITTEN_FOR)
            asked = time.monotonic()
            seconds, micros = cast("list[bytes]", await self._desk.command(shard, b"TIME"))
        except (StoreError, TimeoutError):
            return
        if not shard.away:
            return  # another look was quicker
        shard.clock.learn(int(seconds) * 1000 + int(micros) // 1000, asked)
        shard.back()
        self._settler.queue.wake(shard)
        # at once: others wait a lease before they expire what is not renewed
        names = [name for name, one in self._open.items() if one.shard is shard and not one.local]
        self._begin(self._renew(shard, names))

    async def _tick(self) -> None:
        self._settler.queue.tick()

    async def _tidy(self) -> None:
        now = time.monotonic()
        busy = {one.shard.name for one in self._open.values()}
        for name, shard in tuple(self._shards.items()):
            unused = now - shard.used > _UNUSED and name != self.home and name not in busy
            if unused and not shard.away and not self._settler.queue.holds(shard):
                del self._shards[name]


def probe_key(shard: Shard) -> bytes:
    """A key of the organisation's that is written to see whether its shard takes it."""
    return shard.key.removesuffix(b"leases") + b"probe"


def _is_of_one(error: object) -> bool:
    """Whether the store refused a call for what that call is about, and not because it can do nothing now."""
    return isinstance(error, RefusedError) and not isinstance(error, LoginError | OutOfMemoryError | UnavailableError)
