"""Amounts, values and moments of limits, as people read and write them."""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable
from datetime import UTC, datetime
from decimal import Decimal, InvalidOperation
from typing import Final

from extproc.errors import ConfigError
from extproc.limits.counters import LARGEST, NANO, Kind, Rule, dollars, nano
from extproc.limits.rules import read_value

_FINE: Final = 100  # dollars: smaller amounts are shown to the hundredth of a cent
_CLOSE: Final = 5  # names that are offered in the place of a wrong one


def shown(amount: int, kind: Kind, *, down: bool = False) -> str:
    """`1,234` requests or tokens; `$12.3456` of money, rounded up: `down` is for what is left."""
    if kind is not Kind.MONEY:
        return f"{amount:,}"
    places = 2 if abs(amount) >= _FINE * NANO else 4
    step = 10 ** (9 - places)
    whole = (amount // step if down else -(-amount // step)) * step
    return f"{'-' if whole < 0 else ''}${abs(dollars(whole)):,.{places}f}"


def exact(amount: int, kind: Kind) -> int | str:
    """For JSON: money as an exact decimal text of dollars, the rest as it is."""
    return format(dollars(amount), "f") if kind is Kind.MONEY else amount


def read_amount(text: str, kind: Kind, *, negative: bool = False) -> int:
    """What an operator writes, in the unit of the kind. Raises `ConfigError`."""
    unit = "dollars: 12.50" if kind is Kind.MONEY else "a whole number"
    try:
        value = Decimal(text.replace(",", "").replace("_", "").lstrip("$"))
        amount = nano(value) if kind is Kind.MONEY else int(value)
        if kind is not Kind.MONEY and amount != value:
            raise InvalidOperation
    except (InvalidOperation, ValueError, OverflowError):
        raise ConfigError("AMOUNT", "is not an amount", f"write {unit}") from None
    if abs(amount) >= LARGEST:
        raise ConfigError("AMOUNT", "is too large to be counted", f"write less than {shown(LARGEST, kind)}")
    if amount < 0 and not negative:
        raise ConfigError("AMOUNT", "is negative", f"write {unit}, 0 or more")
    return amount


def per_cent(part: int, whole: int) -> str:
    """`87 %`, rounded up, so that 100 is all of it; `-` of nothing."""
    return f"{-(-part * 100 // whole)} %" if whole > 0 else "-"


def moment(seconds: float) -> str:
    """UNIX seconds as UTC; `-` for none, `never` for one that does not come."""
    if math.isinf(seconds):
        return "never"
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%SZ") if seconds else "-"


def stamp(seconds: float) -> str | None:
    """UNIX seconds for JSON: RFC 3339, None for none."""
    if not seconds or math.isinf(seconds):
        return None
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def near(wrong: str, known: Iterable[str]) -> str:
    """Say which names look like the wrong one, or which there are."""
    names = sorted(set(known))
    close = difflib.get_close_matches(wrong, names, _CLOSE, 0.5)
    if close:
        return f"did you mean {', '.join(close)}?"
    return f"there are: {', '.join(names[:20])}{', …' if len(names) > 20 else ''}" if names else "there are none"


def find_rule(name: str, rules: Iterable[Rule]) -> Rule:
    """The limit of that name. Raises `ConfigError`, which names those that look like it."""
    known = {rule.name: rule for rule in rules}
    if name not in known:
        raise ConfigError("RULE", f"{name!r} is no limit of this configuration", near(name, known))
    return known[name]


def find_value(rule: Rule, text: str) -> str:
    """The value of the limit's scope as counters have it. Raises `ConfigError`."""
    try:
        return read_value(rule.scope, text)
    except ValueError as error:
        reason = f"{error}: {rule.name} counts by {'/'.join(rule.scope)}"
        raise ConfigError("VALUE", reason, "join them by /, write a / within one as %2F") from None
