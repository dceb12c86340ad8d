"""What is limited, for whom, over which time; what is reserved and settled. Amounts are whole numbers of their unit."""

from __future__ import annotations

from decimal import ROUND_CEILING, Decimal
from enum import StrEnum
from typing import Final, NamedTuple

import msgspec

NANO: Final = 1_000_000_000
"""Money is counted in billionths of a US dollar, so that a single cached token still counts."""

LARGEST: Final = 1 << 53
"""Amounts stay below: the store's scripts compute in doubles, which hold whole numbers exactly up to here."""


class Kind(StrEnum):
    """What is counted, and its unit."""

    REQUESTS = "requests"
    INPUT_TOKENS = "input_tokens"
    OUTPUT_TOKENS = "output_tokens"
    TOKENS = "tokens"  # input and output
    MONEY = "money"  # billionths of a US dollar


class Window(StrEnum):
    """Over which time."""

    MINUTE = "minute"
    HOUR = "hour"
    DAY = "day"
    MONTH = "month"
    BUCKET = "bucket"  # a token bucket: `limit` flows back in `period`, `burst` at once at most
    CONCURRENT = "concurrent"  # calls in flight


class Away(StrEnum):
    """What a limit says while the store is away."""

    DENY = "deny"
    BOUNDED = "allow-bounded"


class Span(NamedTuple):
    """A calendar window and the one after it, UNIX milliseconds: [start, end) and [end, next_end).

    Both, because the one who computes it has only an estimate of the store's clock, which decides.
    """

    start: int
    end: int
    next_end: int


class Rule(msgspec.Struct, frozen=True):
    """One limit of the configuration, compiled.

    `scope`: the dimensions of `Subject` that have a counter each (combined); `match`: (dimension, pattern) pairs that a
    call must all fit. A call without a value in one of the `scope` dimensions is counted under the empty value.
    """

    name: str
    kind: Kind
    window: Window
    limit: int
    scope: tuple[str, ...] = ("organisation",)
    match: tuple[tuple[str, str], ...] = ()
    hard: bool = True
    burst: int = 0  # bucket: the most that can go at once
    period: int = 0  # bucket: milliseconds in which `limit` flows back
    zone: str = "UTC"  # calendar windows: whose midnight
    away: Away = Away.DENY
    share: float = 0.0  # of the limit, that one replica may spend while the store is away
    alerts: tuple[int, ...] = (50, 80, 100)  # per cent of the limit, ascending
    overrides: tuple[tuple[str, int], ...] = ()  # value of the scope (as `Counter.value`) -> its own limit


class Subject(msgspec.Struct, frozen=True):
    """Whose call it is and where it goes: the dimensions that rules can scope by. Unknown ones are empty."""

    organisation: str
    tenant: str = ""
    team: str = ""
    app: str = ""
    key: str = ""
    user: str = ""
    feature: str = ""
    model: str = ""
    provider: str = ""


class Counter(msgspec.Struct, frozen=True):
    """One rule for one subject: a counter in the store.

    `value` is what it is for, as operators read and write it: the values of the scope's dimensions in their order,
    joined by `/`, each percent-encoded where it holds another character than letters, digits and `._-:@+=`;
    `key` its name in the store: `xq:{<organisation>}:c:<rule>:<kind>:<window>:<value>`, bytes, the organisation quoted
    as values are. What stands between the braces decides the shard (Redis Cluster specification, hash tags): one organisation lives on one.
    """

    rule: Rule
    organisation: str
    value: str
    key: bytes


class Charge(msgspec.Struct, frozen=True):
    """An amount on a counter."""

    counter: Counter
    amount: int


class Standing(msgspec.Struct, frozen=True):
    """How a counter stands after a reservation was tried: all amounts in the unit of its kind.

    `limit` has live overrides and top-ups in it. `used` is settled, `reserved` held by calls in flight (this one's own
    too where it was admitted). `resets_at`: UNIX seconds when the window ends; for a bucket when it will be full again;
    0.0 for calls in flight. `admits_at`: UNIX seconds from which on the amount asked for would be admitted as things
    stand: `inf` where it never would be (more than the whole limit), 0.0 where that cannot be told or was admitted.
    """

    used: int
    reserved: int
    limit: int
    resets_at: float = 0.0
    admits_at: float = 0.0

    @property
    def remaining(self) -> int:
        """What is left, never negative."""
        return max(0, self.limit - self.used - self.reserved)


class Reserved(msgspec.Struct, frozen=True):
    """The answer to a reservation. Parallel to its charges: `standings`.

    `refused`: indexes of the hard limits that have no room; with any, nothing is held anywhere. `over`: indexes of the
    soft limits that are exceeded. `local`: the store is away, and this replica counts by itself.
    """

    standings: tuple[Standing, ...]
    refused: tuple[int, ...] = ()
    over: tuple[int, ...] = ()
    at: float = 0.0  # the store's clock, UNIX seconds
    local: bool = False


class Extended(msgspec.Struct, frozen=True):
    """The answer to an extension, which is never waited for: what is known by now.

    `held`: the amounts that are held now, parallel to the reservation's charges. `refused`: index of a limit that has
    refused a later extension; None while none has.
    """

    held: tuple[int, ...]
    refused: int | None = None


def nano(dollars: Decimal) -> int:
    """US dollars in billionths, rounded up: what is charged is never less than what was spent."""
    return int((dollars * NANO).to_integral_value(ROUND_CEILING))


def dollars(amount: int) -> Decimal:
    """Billionths of a US dollar as dollars."""
    return Decimal(amount).scaleb(-9)
