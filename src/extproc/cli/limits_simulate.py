"""`extproc limits simulate`: replays traffic against a configuration, and says who would have been limited, and when.

Calls are taken in the order in which they began: reserved at their beginning, settled when they were over, by the same
rules and books as a gateway's. The result depends on the file and the configuration alone.
"""

from __future__ import annotations

import argparse
import heapq
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO, Final

import msgspec
from msgspec.structs import replace

from extproc.cli.amounts import exact, moment, per_cent, shown, stamp
from extproc.cli.limits_store import quotas_of
from extproc.cli.output import OK, fail, print_json, print_table, say
from extproc.cli.place import found_config, read_config
from extproc.cli.traffic import Call, Reader, in_order
from extproc.config import Config
from extproc.config.quotas import compile_rules
from extproc.errors import ConfigError
from extproc.limits.counters import LARGEST, Counter, Kind, Standing, Window, nano
from extproc.limits.ledger import Ledger
from extproc.limits.rules import Rules, output_tokens
from extproc.limits.scripts import Booking, Reply, State
from extproc.limits.windows import span
from extproc.runtime import make_catalog
from extproc.usage import Usage

LIMITED: Final = 3
"""Exit code: somebody would have been limited."""

_CALENDAR: Final = frozenset({Window.MINUTE, Window.HOUR, Window.DAY, Window.MONTH})
_HEAD: Final = ("RULE", "VALUE", "CALLS", "LIMITED", "FIRST", "HIGHEST", "LIMIT", "HIGHEST %", "USED IN ALL")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what the action takes."""
    parser.add_argument(
        "traffic", type=Path, metavar="FILE", help="JSON lines: our log of calls, or see docs; - reads standard input"
    )
    parser.add_argument("--top", type=int, default=50, metavar="N", help="lines of the table (default: 50; 0: all)")


def run(args: argparse.Namespace) -> int:
    """Replay and print: 0 if nobody would have been limited, 3 if somebody would, 1 where the file is of no use."""
    config = read_config(found_config(args))
    simulation = Simulation(config)
    reader = Reader(quotas_of(config).organisation)
    with _file(args.traffic) as file:
        simulation.run(in_order(reader.read(file)))
    if not simulation.calls:
        bad = f"; line {reader.first_bad[0].line} {reader.first_bad[0].reason}" if reader.first_bad else ""
        hint = "write JSON lines: our own log of calls, or the format in docs/limits.md"
        return fail(ConfigError(str(args.traffic), f"holds no call{bad}", hint), as_json=args.json)
    found = sorted(simulation.seen.values(), key=_order)
    if args.json:
        print_json(_document(simulation, reader, found))
    else:
        _print(simulation, reader, found, args.top)
    return LIMITED if simulation.refused or simulation.over else OK


@contextmanager
def _file(path: Path) -> Iterator[BinaryIO]:
    if str(path) == "-":
        yield sys.stdin.buffer
        return
    try:
        file = path.open("rb")
    except OSError as error:
        raise ConfigError(str(path), f"cannot be read: {error.strerror}", "name a file of JSON lines") from None
    with file:
        yield file


def _order(seen: Seen) -> tuple[object, ...]:
    share = seen.highest / seen.limit if seen.limit else float(seen.highest > 0)
    return (-seen.limited, -share, seen.counter.rule.name, seen.counter.organisation, seen.counter.value)


def _named(seen: Seen, own: str) -> str:
    counter = seen.counter
    return counter.value if counter.organisation == own else f"{counter.organisation}: {counter.value}"


def _print(simulation: Simulation, reader: Reader, found: list[Seen], top: int) -> None:
    rows = []
    for seen in found[:top] if top > 0 else found:
        rule = seen.counter.rule
        soft = "" if rule.hard else " (soft)"
        rows.append(
            (
                *(rule.name + soft, _named(seen, simulation.organisation), str(seen.calls), str(seen.limited)),
                *(moment(seen.first / 1000), shown(seen.highest, rule.kind), shown(seen.limit, rule.kind)),
                *(per_cent(seen.highest, seen.limit), shown(seen.total, rule.kind)),
            )
        )
    print_table(_HEAD, rows)
    if len(rows) < len(found):
        say(f"{len(found) - len(rows)} more: --top 0 shows all")
    began, ended = moment(simulation.began / 1000), moment(simulation.ended / 1000)
    say(
        f"{simulation.calls} calls from {began} to {ended}: {simulation.refused} refused, {simulation.over} above a soft limit"
    )
    if simulation.unpriced:
        say(f"{simulation.unpriced} of the refused fall under a budget, and their price is not known")
    if reader.not_sent:
        say(f"passed over, since the gateway refused or answered them itself: {reader.not_sent}")
    for bad in reader.first_bad:
        say(f"line {bad.line}: {bad.reason}")
    if reader.bad > len(reader.first_bad):
        say(f"{reader.bad - len(reader.first_bad)} more lines cannot be used")


def _document(simulation: Simulation, reader: Reader, found: list[Seen]) -> dict[str, object]:
    return {
        "calls": simulation.calls,
        "refused": simulation.refused,
        "over_soft": simulation.over,
        "price_unknown": simulation.unpriced,
        "not_sent": reader.not_sent,
        "bad_lines": reader.bad,
        "first_bad_lines": [msgspec.structs.asdict(bad) for bad in reader.first_bad],
        "from": stamp(simulation.began / 1000),
        "to": stamp(simulation.ended / 1000),
        "limits": [_line(seen) for seen in found],
    }


def _line(seen: Seen) -> dict[str, object]:
    counter, rule = seen.counter, seen.counter.rule
    return {
        "rule": rule.name,
        "organisation": counter.organisation,
        "scope": "/".join(rule.scope),
        "value": counter.value,
        "kind": rule.kind.value,
        "window": rule.window.value,
        "mode": "hard" if rule.hard else "soft",
        "calls": seen.calls,
        "limited": seen.limited,
        "first_limited_at": stamp(seen.first / 1000),
        "highest": exact(seen.highest, rule.kind),
        "limit": exact(seen.limit, rule.kind),
        "used_in_all": exact(seen.total, rule.kind),
    }


class Seen(msgspec.Struct):
    """What became of one limit for one value. Amounts in the unit of its kind.

    `limited`: calls refused by it (hard), or admitted above it (soft). `highest`: the most that was used and reserved at
    a time; `total`: what was used in all windows together.
    """

    counter: Counter
    calls: int = 0
    limited: int = 0
    first: int = 0  # UNIX milliseconds of the first that was limited
    highest: int = 0
    limit: int = 0  # when `highest` was reached
    total: int = 0

    def stood(self, standing: Standing) -> None:
        """Note how full it is."""
        filled = standing.used + standing.reserved
        if filled >= self.highest:
            self.highest, self.limit = filled, standing.limit


class _Open(msgspec.Struct, frozen=True):
    """A call that runs, and what it will have used."""

    name: str
    bookings: tuple[Booking, ...]
    real: tuple[int, ...]


class Simulation:
    """Replays calls against limits. Feed it `run` with calls in the order in which they began."""

    def __init__(self, config: Config) -> None:
        """Raises `ConfigError` where the configuration has no limits."""
        quotas = quotas_of(config)
        self.organisation = quotas.organisation
        self.rules = Rules(compile_rules(quotas))
        self.seen: dict[bytes, Seen] = {}
        self.calls = self.refused = self.over = self.unpriced = 0
        self.began = self.ended = 0
        self._output = tuple(quotas.output_tokens.items())
        self._price_needed = quotas.unknown_price == "deny"
        self._aliases = config.aliases
        self._providers = tuple(config.providers)
        self._catalog = make_catalog(config)
        self._ledger = Ledger()
        self._open: list[tuple[int, int, _Open]] = []

    def run(self, calls: Iterable[Call]) -> None:
        """Replay them all, and let those that are open at the end come to theirs."""
        for call in calls:
            self._settle_until(call.start)
            self._begin(call)
        self._settle_until(None)

    def _begin(self, call: Call) -> None:
        self.calls += 1
        self.began = self.began or call.start
        self.ended = max(self.ended, call.start + call.duration)
        call = self._resolved(call)
        counters = self.rules.counters(call.subject)
        if not counters:
            return
        worst, real = self._usage(call)
        money = any(counter.rule.kind is Kind.MONEY for counter in counters)
        reserved, spent = (self._cost(call, worst), self._cost(call, real)) if money else (0, 0)
        if call.cost is not None and money:
            reserved, spent = call.cost if reserved is None else reserved, call.cost
        if reserved is None and self._price_needed:
            self.unpriced += 1
            self.refused += 1
            return
        bookings = tuple(
            self._booking(counter, _amount(counter, worst, reserved or 0), call.start) for counter in counters
        )
        name = f"{self.calls:x}"
        reply = self._ledger.reserve(name, bookings, call.start, call.duration + 1)
        self._note(bookings, reply, call.start)
        if reply.state is State.GRANTED:
            amounts = tuple(_amount(counter, real, spent or 0) for counter in counters)
            heapq.heappush(self._open, (call.start + call.duration, self.calls, _Open(name, bookings, amounts)))

    def _note(self, bookings: tuple[Booking, ...], reply: Reply, at: int) -> None:
        self.refused += bool(reply.refused)
        self.over += bool(reply.over) and not reply.refused
        limited = reply.refused or reply.over
        for place, (booking, line) in enumerate(zip(bookings, reply.lines, strict=True)):
            seen = self._of(booking.counter)
            seen.calls += 1
            seen.stood(line.standing)
            if place in limited:
                seen.limited += 1
                seen.first = seen.first or at

    def _settle_until(self, moment: int | None) -> None:
        while self._open and (moment is None or self._open[0][0] <= moment):
            at, _, done = heapq.heappop(self._open)
            bookings = [one._replace(amount=amount) for one, amount in zip(done.bookings, done.real, strict=True)]
            reply = self._ledger.settle(done.name, bookings, at)
            for booking, line in zip(bookings, reply.lines, strict=True):
                seen = self._of(booking.counter)
                seen.total += booking.amount
                if not line.gone:
                    seen.stood(line.standing)

    def _of(self, counter: Counter) -> Seen:
        seen = self.seen.get(counter.key)
        if seen is None:
            seen = self.seen[counter.key] = Seen(counter)
        return seen

    def _usage(self, call: Call) -> tuple[Usage, Usage]:
        """The worst case, and what was used."""
        real = Usage(input=call.input or 0, output=call.output or 0)
        if call.max_output is not None:
            written = call.max_output
        elif call.operation in {"", "chat"} and (call.input is not None or call.output is not None):
            written = output_tokens(self._output, call.subject.model, 0)
        else:
            written = 0
        return Usage(input=call.input or 0, output=written), real

    def _resolved(self, call: Call) -> Call:
        """With the provider and the model of its alias, where the file names one."""
        subject = call.subject
        alias = self._aliases.get(subject.model)
        if alias is None or subject.provider:
            return call
        return replace(call, subject=replace(subject, model=alias.model, provider=alias.provider))

    def _cost(self, call: Call, usage: Usage) -> int | None:
        """Billionths of a dollar; at the dearest provider that sells the model where the file names none."""
        if not usage.input and not usage.output:
            return 0
        at = datetime.fromtimestamp(call.start / 1000, UTC)
        providers = (call.subject.provider,) if call.subject.provider else self._providers
        priced = (self._catalog.price(one, (call.subject.model,), usage, at).amount for one in providers)
        return max((nano(amount) for amount in priced if amount is not None), default=None)

    @staticmethod
    def _booking(counter: Counter, amount: int, at: int) -> Booking:
        rule = counter.rule
        there = span(rule.window, rule.zone, at) if rule.window in _CALENDAR else None
        return Booking(counter, min(amount, LARGEST - 1), rule.limit, there)


def _amount(counter: Counter, usage: Usage, money: int) -> int:
    kind = counter.rule.kind
    if kind is Kind.REQUESTS:
        return 1
    if kind is Kind.MONEY:
        return money
    read, written = usage.input or 0, usage.output or 0
    return {Kind.INPUT_TOKENS: read, Kind.OUTPUT_TOKENS: written}.get(kind, read + written)
