"""`extproc limits`: show, top up, override and reset what is counted; replay traffic against a configuration."""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import Callable, Coroutine, Sequence
from fnmatch import fnmatchcase
from typing import Any, Final

from extproc.adapters.limit_books import Book, BooksError, Leases
from extproc.adapters.valkey_client import StoreError
from extproc.cli import limits_simulate
from extproc.cli.amounts import exact, find_rule, find_value, moment, near, per_cent, read_amount, shown, stamp
from extproc.cli.limits_store import Opened, opened
from extproc.cli.output import OK, add_json, fail, print_json, print_table, say
from extproc.cli.place import add_place
from extproc.errors import ConfigError
from extproc.limits.counters import Rule, Window
from extproc.limits.rules import quoted_value

NAME: Final = "limits"
HELP: Final = "show, top up, override and reset limits; replay traffic against a configuration"

_HEAD: Final = ("RULE", "VALUE", "WINDOW", "USED", "RESERVED", "LIMIT", "LEFT", "USED %", "RESETS", "NOTE")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the actions."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    show = actions.add_parser("show", help="what is used, reserved and left, from the store")
    show.add_argument("--rule", metavar="RULE", help="of this limit only")
    show.add_argument("--value", metavar="VALUE", help="of this value only; * and ? stand for any characters")
    show.add_argument("--top", type=int, default=100, metavar="N", help="lines of the table (default: 100; 0: all)")
    grant = actions.add_parser("grant", help="top up the window that runs; or set a limit of its own for a value")
    reset = actions.add_parser("reset", help="forget what was used in the window that runs; calls in flight stay")
    for action in (grant, reset):
        action.add_argument("rule", metavar="RULE", help="name of the limit")
        action.add_argument("value", metavar="VALUE", help="whose: the values of its scope, joined by /")
    grant.add_argument(
        "amount", metavar="AMOUNT", nargs="?", help="dollars for money, else a whole number; - takes back"
    )
    grant.add_argument("--new", action="store_true", help="also where nothing has been counted for this value yet")
    way = grant.add_mutually_exclusive_group()
    way.add_argument("--set", action="store_true", help="AMOUNT is the limit of this value from now on, until --unset")
    way.add_argument("--unset", action="store_true", help="the limit is that of the configuration again")
    for action in (show, grant, reset):
        action.add_argument("--organisation", metavar="NAME", help="default: quotas.organisation")
    simulate = actions.add_parser("simulate", help="replay a traffic file: who would have been limited, and when")
    limits_simulate.add_arguments(simulate)
    for action in (show, grant, reset, simulate):
        add_place(action)
        add_json(action)


def run(args: argparse.Namespace) -> int:
    """Perform the action; 0 if it was done. `simulate` has its own."""
    if args.action == "simulate":
        return limits_simulate.run(args)
    actions: dict[str, Callable[[argparse.Namespace], Coroutine[Any, Any, None]]] = {
        "show": _show,
        "grant": _grant,
        "reset": _reset,
    }
    try:
        asyncio.run(actions[args.action](args))
    except (BooksError, StoreError, ValueError) as error:
        return fail(error, as_json=args.json)
    return OK


async def _show(args: argparse.Namespace) -> None:
    async with opened(args) as given:
        rule = find_rule(args.rule, given.rules.rules) if args.rule else None
        if rule is not None and args.value and not set(args.value) & set("*?["):
            found = [await given.books.one(rule, _value(given, rule, args.value))]
        else:
            found = [book async for book in given.books.all(rule) if _wanted(book, args.value)]
        leases = await given.books.leases()
        now = await given.books.now()
    order = {one.name: place for place, one in enumerate(given.rules.rules)}
    found.sort(key=lambda book: (order[book.counter.rule.name], -_share(book), book.counter.value))
    if args.json:
        print_json(
            {
                "organisation": given.organisation,
                "at": stamp(now / 1000),
                "reservations": {"open": leases.live, "overdue": leases.overdue},
                "counters": [public(book) for book in found],
            }
        )
        return
    _print(found, args.top)
    _say_leases(leases)


def _wanted(book: Book, value: str | None) -> bool:
    return value is None or fnmatchcase(book.counter.value, value)


def _print(found: Sequence[Book], top: int) -> None:
    if not found:
        say("nothing is counted at the moment")
        return
    shown_rows = found[:top] if top > 0 else found
    print_table(_HEAD, [_row(book) for book in shown_rows])
    if len(shown_rows) < len(found):
        say(f"{len(found) - len(shown_rows)} more: --top 0 shows all")


def _say_leases(leases: Leases) -> None:
    overdue = f", {leases.overdue} of them overdue" if leases.overdue else ""
    calls = "1 call holds" if leases.live == 1 else f"{leases.live} calls hold"
    say(f"{calls} a reservation{overdue}")


async def _grant(args: argparse.Namespace) -> None:
    if (args.amount is None) is not args.unset:
        hint = "extproc limits grant RULE VALUE AMOUNT [--set], or --unset without an amount"
        raise ConfigError("AMOUNT", "is missing" if args.amount is None else "has no meaning with --unset", hint)
    async with opened(args) as given:
        rule = find_rule(args.rule, given.rules.rules)
        value = _value(given, rule, args.value)
        if not args.new and not args.unset:
            await _check_known(given, rule, value)
        if args.unset:
            pair = await given.books.override(rule, value, None)
        elif args.set:
            pair = await given.books.override(rule, value, read_amount(args.amount, rule.kind))
        else:
            if rule.window is Window.CONCURRENT:
                raise ConfigError(
                    "RULE", f"{rule.name} counts calls in flight: there is no window to top up", "use --set"
                )
            pair = await given.books.grant(rule, value, read_amount(args.amount, rule.kind, negative=True))
    _changed(pair, args)


async def _reset(args: argparse.Namespace) -> None:
    async with opened(args) as given:
        rule = find_rule(args.rule, given.rules.rules)
        value = _value(given, rule, args.value)
        await _check_known(given, rule, value)
        pair = await given.books.reset(rule, value)
    _changed(pair, args)


def _value(given: Opened, rule: Rule, text: str) -> str:
    value = find_value(rule, text)
    own = quoted_value(given.organisation)
    for dimension, part in zip(rule.scope, value.split("/"), strict=True):
        if dimension == "organisation" and part != own:
            reason = f"{part!r} is not the organisation {given.organisation!r}"
            raise ConfigError("VALUE", reason, f"{rule.name} counts by {'/'.join(rule.scope)}; see --organisation")
    return value


async def _check_known(given: Opened, rule: Rule, value: str) -> None:
    """Raise `ConfigError` where nothing was ever counted for the value, nor has it a limit of its own: a typing error."""
    known = {value for value, _ in rule.overrides}
    known |= {of for name, of in await given.books.overrides() if name == rule.name}
    if value in known or rule.scope == ("organisation",):
        return
    known |= {found async for found in given.books.values(rule)}
    if value not in known:
        hint = f"{near(value, known)} --new does it all the same".strip()
        raise ConfigError("VALUE", f"nothing has been counted for {value!r} by {rule.name}", hint)


def _changed(pair: tuple[Book, Book], args: argparse.Namespace) -> None:
    before, after = pair
    if args.json:
        print_json({"before": public(before), "after": public(after)})
        return
    print_table(("", *_HEAD), [("before", *_row(before)), ("after", *_row(after))])


def _share(book: Book) -> float:
    standing = book.standing
    return (standing.used + standing.reserved) / standing.limit if standing.limit else float("inf")


def _row(book: Book) -> tuple[str, ...]:
    rule, standing = book.counter.rule, book.standing
    amounts = (standing.used, standing.reserved, standing.limit)
    used = standing.reserved if rule.window is Window.CONCURRENT else standing.used
    return (
        *(rule.name, book.counter.value, rule.window.value),
        *(shown(amount, rule.kind) for amount in amounts),
        shown(standing.remaining, rule.kind, down=True),
        *(per_cent(used, standing.limit), moment(standing.resets_at), _note(book)),
    )


def _note(book: Book) -> str:
    rule = book.counter.rule
    notes = ["soft"] if not rule.hard else []
    if book.override is not None:
        notes.append("override (live)")
    elif book.configured:
        notes.append("override")
    if book.top_up:
        notes.append(f"top-up {shown(book.top_up, rule.kind)}")
    return ", ".join(notes)


def public(book: Book) -> dict[str, object]:
    """One counter as JSON: amounts in the unit of its kind, money as decimal text of dollars."""
    rule, standing = book.counter.rule, book.standing
    return {
        "rule": rule.name,
        "scope": "/".join(rule.scope),
        "value": book.counter.value,
        "kind": rule.kind.value,
        "window": rule.window.value,
        "mode": "hard" if rule.hard else "soft",
        "used": exact(standing.used, rule.kind),
        "reserved": exact(standing.reserved, rule.kind),
        "limit": exact(standing.limit, rule.kind),
        "remaining": exact(standing.remaining, rule.kind),
        "top_up": exact(book.top_up, rule.kind),
        "override": None if book.override is None else exact(book.override, rule.kind),
        "resets_at": stamp(standing.resets_at),
    }
