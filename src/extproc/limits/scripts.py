"""What the store's scripts are asked, and what they answer. Pure: bytes in, bytes out.

A script is called as `EVALSHA <sha> <arguments>`; the first argument is the number of keys. Each does all it says or
nothing, by the store's own clock, and may be repeated: the record of a reservation says how far it has come, and stays
for an hour after its end. Every key that a script touches is among its declared ones and has the organisation's hash
tag (Redis Cluster specification). What is written where stands in `common.lua`.

An error reply of ours begins with `XQBAD` (somebody else wrote into our keys) or `XQARGS` (other counters than were
reserved): nothing was changed then. Of a soft limit no more is held than can be counted exactly.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from enum import IntEnum, StrEnum
from functools import cache
from importlib import resources
from operator import le
from typing import Final, NamedTuple

import msgspec

from extproc.limits.counters import LARGEST, Counter, Reserved, Rule, Span, Standing, Window
from extproc.limits.rules import burst_at, key_prefix

TOMBSTONE: Final = 3_600_000
"""Milliseconds that the record of a reservation stays after its end."""

DUE: Final = 100
"""Leases that one look at the index finds at most."""

_TOMBSTONE: Final = b"%d" % TOMBSTONE
_WIDTH: Final = 7  # numbers for each counter
_MOST_KNOWN: Final = 20_000  # counters whose terms are kept encoded
_LONGEST_PERIOD: Final = 31_622_400_000  # milliseconds: a year


class Name(StrEnum):
    """The scripts."""

    RESERVE = "reserve"
    EXTEND = "extend"
    SETTLE = "settle"
    EXPIRE = "expire"
    RENEW = "renew"
    DUE = "due"
    ADJUST = "adjust"
    OVERRIDE = "override"


class State(IntEnum):
    """What a script says of a reservation."""

    GRANTED = 0
    REFUSED = 1  # by a hard limit: nothing has changed
    AGAIN = 2  # this id holds already what it asked for
    FINISHED = 3  # it has been settled, released or expired before: nothing has changed
    CLOCK = 4  # the spans do not fit the store's clock, which is in `now`: nothing has changed
    UNKNOWN = 5  # the store has no such reservation: nothing has changed
    REVIVED = 6  # it had expired, and is held again
    SETTLED = 7
    LATE = 8  # it had expired: what it was charged then has been corrected
    CHARGED = 9  # nobody had reserved it here: charged as used
    ENDED = 10  # it has been settled or released before: nothing has changed
    EXPIRED = 11  # charged as reserved
    ALIVE = 12  # its lease has not run out: nothing has changed


class Script(msgspec.Struct, frozen=True):
    """A Lua script: `sha` (hexadecimal SHA-1 of `source`) is what EVALSHA takes, `source` what SCRIPT LOAD takes."""

    name: Name
    source: bytes
    sha: bytes


class Handle(NamedTuple):
    """Which reservation. `id` is unique over all workers, and has neither spaces nor braces."""

    organisation: str
    id: str


class Booking(NamedTuple):
    """An amount on a counter, and the terms of today.

    `limit`: the rule's, or an override; a top-up is not in it. `span`: of calendar windows only, by the best guess of
    the store's clock.
    """

    counter: Counter
    amount: int
    limit: int
    span: Span | None = None


class Line(NamedTuple):
    """A counter as a script left it.

    `held`: what the reservation holds (reserve, extend), or held until now (settle, expire). `alert`: the threshold that
    this call was the first to reach, per cent, or 0. `gone`: the books of the reservation's window are no more.
    """

    standing: Standing
    held: int
    alert: int = 0
    gone: bool = False


class Reply(msgspec.Struct, frozen=True):
    """The answer of `reserve`, `extend`, `settle`, `expire` and `adjust`.

    `now`: the store's clock, UNIX milliseconds. `lines` are parallel to the bookings; empty where the state says that
    nothing was looked at. `refused`, `over`: places of hard and soft limits that have no room for it.
    """

    state: State
    now: int
    lines: tuple[Line, ...] = ()
    refused: tuple[int, ...] = ()
    over: tuple[int, ...] = ()

    def reserved(self) -> Reserved:
        """The same as the policies know it."""
        standings = tuple([line.standing for line in self.lines])
        return Reserved(standings, self.refused, self.over, self.now / 1000)


@cache
def script(name: Name) -> Script:
    """A script with what all share before it. Reads the package's files at the first use."""
    folder = resources.files("extproc.limits")
    source = (folder / f"{name}.lua").read_bytes()
    if name not in {Name.RENEW, Name.DUE, Name.OVERRIDE}:
        source = (folder / "common.lua").read_bytes() + source
    return Script(name, source, hashlib.sha1(source, usedforsecurity=False).hexdigest().encode())


def leases_key(organisation: str) -> bytes:
    """Index of live reservations: id -> end of the lease, milliseconds."""
    return f"{key_prefix(organisation)}leases".encode()


def record_key(handle: Handle) -> bytes:
    """The record of a reservation."""
    return f"{key_prefix(handle.organisation)}r:{handle.id}".encode()


def overrides_key(organisation: str) -> bytes:
    """Live overrides: `<rule>|<value>` -> limit, in the unit of its kind."""
    return f"{key_prefix(organisation)}overrides".encode()


def overrides_version_key(organisation: str) -> bytes:
    """A number that is another one after each change of the overrides."""
    return f"{key_prefix(organisation)}overrides:version".encode()


def counters_pattern(organisation: str) -> bytes:
    """For SCAN MATCH: every counter of an organisation. What is quoted has no sign of a pattern."""
    return f"{key_prefix(organisation)}c:*".encode()


def terms(booking: Booking) -> bytes:
    """A counter's terms as `common.lua` reads them. Raises ValueError where they cannot be counted exactly."""
    counter, _, limit, span = booking
    rule = counter.rule
    mode = b"h" if rule.hard else b"s"
    alerts = b",".join([b"%d" % level for level in rule.alerts]) or b"-"
    if not 0 <= limit < LARGEST:
        raise ValueError(f"{rule.name}: a limit of {limit} cannot be counted")
    if rule.window is Window.CONCURRENT:
        return b"k%b %d 0 0 0 %b" % (mode, limit, alerts)
    if rule.window is Window.BUCKET:
        most = burst_at(rule, limit)
        if not (0 < rule.period <= _LONGEST_PERIOD and 0 <= most < LARGEST):
            raise ValueError(f"{rule.name}: a bucket of {most} in {rule.period} ms cannot be counted")
        return b"b%b %d %d %d 0 %b" % (mode, most, limit, rule.period, alerts)
    if span is None or not 0 < span.start < span.end < span.next_end < LARGEST:
        raise ValueError(f"{rule.name}: a calendar window needs a span")
    return b"c%b %d %d %d %d %b" % (mode, limit, span.start, span.end, span.next_end, alerts)


class Calls:
    """Makes the arguments of the scripts. Keeps the terms of counters encoded, since they rarely change."""

    def __init__(self) -> None:
        """One for each worker is enough; it is not for several threads."""
        self._known: dict[bytes, tuple[Rule, int, Span | None, bytes]] = {}

    def reserve(self, handle: Handle, bookings: Sequence[Booking], lease: int) -> list[bytes]:
        """Hold these amounts for `lease` milliseconds, all or none. Raises ValueError as `terms` does."""
        return self._held(handle, bookings, lease)

    def extend(self, handle: Handle, bookings: Sequence[Booking], lease: int) -> list[bytes]:
        """Hold these totals instead. Bookings as reserved, in their order. Raises ValueError as `terms` does."""
        return self._held(handle, bookings, lease)

    def _held(self, handle: Handle, bookings: Sequence[Booking], lease: int) -> list[bytes]:
        arguments = self._keys(handle, bookings)
        arguments.append(handle.id.encode())
        arguments.append(b"%d" % lease)
        self._amounts(arguments, bookings)
        return arguments

    def settle(self, handle: Handle, bookings: Sequence[Booking], extra: Sequence[Booking] = ()) -> list[bytes]:
        """What was really used; all zero releases. Bookings as reserved; `extra` on counters that are not among them.

        Raises ValueError as `terms` does.
        """
        everything = [*bookings, *extra]
        arguments = self._keys(handle, everything)
        arguments += (handle.id.encode(), b"%d" % len(bookings), b"%d" % TOMBSTONE)
        self._amounts(arguments, everything)
        return arguments

    @staticmethod
    def _keys(handle: Handle, bookings: Sequence[Booking]) -> list[bytes]:
        keys = [booking.counter.key for booking in bookings]
        if len(set(keys)) != len(keys):
            raise ValueError("a counter is booked twice in one call")
        prefix = key_prefix(handle.organisation)
        return [b"%d" % (len(keys) + 2), f"{prefix}leases".encode(), f"{prefix}r:{handle.id}".encode(), *keys]

    def _amounts(self, arguments: list[bytes], bookings: Sequence[Booking]) -> None:
        known = self._known
        for booking in bookings:
            counter, amount, limit, span = booking
            if not 0 <= amount < LARGEST:
                raise ValueError(f"{counter.rule.name}: an amount of {amount} cannot be counted")
            arguments.append(b"%d" % amount)
            entry = known.get(counter.key)
            if entry is None or entry[0] is not counter.rule or entry[1] != limit or entry[2] != span:
                if len(known) >= _MOST_KNOWN:
                    known.clear()
                entry = known[counter.key] = (counter.rule, limit, span, terms(booking))
            arguments.append(entry[3])


def held(
    keys: Sequence[bytes], identity: bytes, amounts: Sequence[int], plans: Sequence[bytes], lease: int
) -> list[bytes]:
    """As `Calls.reserve`, of what is encoded already: `keys` are index, record and counters, `plans` the terms.

    Raises ValueError for an amount that cannot be counted exactly, and where a counter is booked twice.
    """
    if len(set(keys)) != len(keys):
        raise ValueError("a counter is booked twice in one call")
    if min(amounts) < 0 or max(amounts) >= LARGEST:
        raise ValueError("an amount cannot be counted")
    arguments = [b"%d" % len(keys), *keys, identity, b"%d" % lease]
    for amount, plan in zip(amounts, plans, strict=True):
        arguments += (b"%d" % amount, plan)
    return arguments


def settled(reserved: Sequence[bytes], amounts: Sequence[int]) -> list[bytes]:
    """As `Calls.settle`, under the terms that `reserved`, the arguments of the reservation, have."""
    count = len(amounts)
    first = count + 6  # place of the first terms
    arguments = [*reserved[: count + 4], b"%d" % count, _TOMBSTONE]
    for place, amount in enumerate(amounts):
        arguments += (b"%d" % amount, reserved[first + 2 * place])
    return arguments


def expire(handle: Handle, record: bytes | None) -> list[bytes]:
    """Arguments of `expire` for what GET of `record_key` answered. Raises ValueError where that is not a record."""
    keys = record_counters(record) if record is not None else ()
    keys = (leases_key(handle.organisation), record_key(handle), *keys)
    return [b"%d" % len(keys), *keys, handle.id.encode(), b"%d" % TOMBSTONE]


def record_counters(record: bytes) -> tuple[bytes, ...]:
    """The keys of the counters that a record holds amounts on; none where it is settled."""
    head, *lines = record.split(b"\n")
    fields = [line.split(b" ", 1) for line in lines]
    if head not in {b"r1", b"e1", b"s1"} or any(len(field) != 2 for field in fields):
        raise ValueError("not a record of a reservation")
    return tuple([field[0] for field in fields])


def renew(organisation: str, ids: Sequence[str], lease: int) -> list[bytes]:
    """Arguments of `renew`: these reservations live for `lease` milliseconds more. For all of a worker at once."""
    return [b"1", leases_key(organisation), b"%d" % lease, *[name.encode() for name in ids]]


def due(organisation: str) -> list[bytes]:
    """Arguments of `due`: at most `DUE` reservations whose lease has run out."""
    return [b"1", leases_key(organisation), b"%d" % DUE]


def grant(booking: Booking) -> list[bytes]:
    """Arguments of `adjust`: a top-up by the booking's amount (negative: taken back) in the window that runs.

    Raises ValueError for calls in flight, which have no window, and as `terms` does.
    """
    if booking.counter.rule.window is Window.CONCURRENT:
        raise ValueError(f"{booking.counter.rule.name}: calls in flight have no top-up, only an override")
    if not -LARGEST < booking.amount < LARGEST:
        raise ValueError(f"{booking.counter.rule.name}: an amount of {booking.amount} cannot be counted")
    return [b"1", booking.counter.key, b"grant", b"%d" % booking.amount, terms(booking)]


def reset(booking: Booking) -> list[bytes]:
    """Arguments of `adjust`: what was used in the window that runs counts no longer. The amount is not looked at."""
    return [b"1", booking.counter.key, b"reset", b"0", terms(booking)]


def override(counter: Counter, limit: int | None) -> list[bytes]:
    """Arguments of `override`: a live limit of its own for the counter's value; None takes it away."""
    if limit is not None and not 0 <= limit < LARGEST:
        raise ValueError(f"{counter.rule.name}: a limit of {limit} cannot be counted")
    keys = overrides_key(counter.organisation), overrides_version_key(counter.organisation)
    field = f"{counter.rule.name}|{counter.value}".encode()
    return [b"2", *keys, field, b"" if limit is None else b"%d" % limit]


def read_overrides(fields: Mapping[bytes, bytes]) -> dict[tuple[str, str], int]:
    """HGETALL of `overrides_key` -> limits by rule and value. What is no whole number is left out."""
    found: dict[tuple[str, str], int] = {}
    for field, limit in fields.items():
        rule, _, value = field.decode("utf-8", "replace").partition("|")
        if limit.isdigit() and int(limit) < LARGEST:
            found[rule, value] = int(limit)
    return found


def read(raw: Sequence[int], bookings: Sequence[Booking]) -> Reply:
    """The answer of `reserve`, `extend`, `settle`, `expire` or `adjust`; `bookings` as they were given, extra last.

    A bucket's `used` and `reserved` are what is out of it: what was reserved and has flowed back is in neither.
    """
    state, now = State(raw[0]), raw[1]
    if len(raw) == 2:
        return Reply(state, now)
    lines = []
    refused: tuple[int, ...] = ()
    over: tuple[int, ...] = ()
    at = 2
    for place, booking in enumerate(bookings):
        used, reserved, limit, end, flag, alert, held = raw[at : at + _WIDTH]
        at += _WIDTH
        admits_at = 0.0
        resets_at = end / 1000
        if flag == 1:
            refused = (*refused, place)
            admits_at = _admits_at(booking, (used + reserved, limit), now, resets_at)
        elif flag == 2:
            over = (*over, place)
        if booking.counter.rule.window is Window.BUCKET:
            resets_at = _flows(used + reserved, booking, now)
        lines.append(Line(Standing(used, reserved, limit, resets_at, admits_at), held, alert, flag == 3))
    return Reply(state, now, tuple(lines), refused, over)


def granted(raw: Sequence[int], counters: Sequence[Counter]) -> Reserved | None:
    """The answer of `reserve` where it is a plain yes; None where `read` has to look at it, as at every bucket."""
    if raw[0] != State.GRANTED or any(raw[6::_WIDTH]) or any(raw[7::_WIDTH]):
        return None
    standings = []
    at = 2
    for counter in counters:
        if counter.rule.window is Window.BUCKET:
            return None
        standings.append(Standing(raw[at], raw[at + 1], raw[at + 2], raw[at + 3] / 1000))
        at += _WIDTH
    return Reserved(tuple(standings), at=raw[1] / 1000)


def is_plain(raw: Sequence[int]) -> bool:
    """Whether an answer of `settle` says that it is done, and that nobody need be told of anything."""
    return (
        raw[0] != State.CLOCK
        and not any(raw[7::_WIDTH])  # no alert
        and all(map(le, raw[2::_WIDTH], raw[4::_WIDTH]))  # none used above its limit
    )


def _flows(amount: int, booking: Booking, now: int) -> float:
    """When `amount` will have flowed back into a bucket, UNIX seconds."""
    if amount <= 0:
        return now / 1000
    if booking.limit <= 0:
        return math.inf
    return (now - (-amount * booking.counter.rule.period // booking.limit)) / 1000


def _admits_at(booking: Booking, standing: tuple[int, int], now: int, resets_at: float) -> float:
    """From when on a refused amount would be admitted, UNIX seconds, where `standing` is (out, limit)."""
    out, limit = standing
    if booking.amount > limit:
        return math.inf
    if booking.counter.rule.window is Window.CONCURRENT:
        return 0.0
    if booking.counter.rule.window is Window.BUCKET:
        return _flows(out + booking.amount - limit, booking, now)
    return resets_at
