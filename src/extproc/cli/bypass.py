"""`extproc bypass report`: who tried to go around the gateway, where, how often, since when; adoption per team."""

from __future__ import annotations

import argparse
from datetime import UTC, datetime, timedelta
from ipaddress import ip_network
from pathlib import Path
from typing import Final

from pydantic_core import PydanticCustomError

from extproc.adapters.bypass import NOT_HERE, Attempt, Network, Report, as_json, read_report
from extproc.cli.bypass_page import page
from extproc.cli.output import OK, add_json, print_json, print_table, say
from extproc.cli.place import add_place, state_folder
from extproc.cli.try_call import LOG_NAME
from extproc.config.units import parse_duration
from extproc.errors import ConfigError

NAME: Final = "bypass"
HELP: Final = "report who tried to go around the gateway"
EVENTS: Final = Path("envoy") / "run" / "access.log"  # in the state folder; `up` keeps an earlier part as access.log.1

_HEAD: Final = ("COUNT", "SOURCE", "TEAM", "TARGET", "ROAD", "PROTOCOL", "FIRST", "LAST")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the actions."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    report = actions.add_parser("report", help="from the trap's events and the record log")
    report.add_argument(
        "--since", type=_since, metavar="TIME", help="from then on: 24h, 7d, 2026-11-01, 2026-11-01T08:00:00Z"
    )
    report.add_argument(
        "--events",
        type=Path,
        action="append",
        metavar="FILE",
        help=f"Envoy's access log; may be repeated (default: {EVENTS} of the state folder, and its .1)",
    )
    report.add_argument(
        "--records",
        type=Path,
        action="append",
        metavar="FILE",
        help=f"record log, for governed calls and teams; may be repeated (default: {LOG_NAME} of the state folder)",
    )
    report.add_argument(
        "--team",
        type=_team,
        action="append",
        default=[],
        metavar="TEAM=NETWORK",
        help="whose addresses these are: search=10.4.0.0/16; may be repeated (default: as the record log shows)",
    )
    report.add_argument("--top", type=_count, default=50, metavar="N", help="lines of the table (default: 50; 0: all)")
    report.add_argument("--html", type=Path, metavar="FILE", help="write the report as one HTML page as well")
    add_place(report)
    add_json(report)


def run(args: argparse.Namespace) -> int:
    """Print the report. Raises `ConfigError` where a file that was named is not there."""
    report = read_report(_files(args), args.since, {network: team for team, network in args.team})
    if args.html is not None:
        args.html.write_text(page(report, datetime.now(UTC)), encoding="utf-8")
        say(f"wrote {args.html}")
    if args.json:
        print_json(as_json(report))
        return OK
    _show(report, args.top)
    return OK


def _files(args: argparse.Namespace) -> list[Path]:
    """The files that were named, which must be there, else the state folder's, of which the events must."""
    state = state_folder(args)
    events = args.events or [state / EVENTS]
    earlier = (state / EVENTS).with_name(f"{EVENTS.name}.1")
    if args.events is None and earlier.is_file():
        events = [earlier, *(path for path in events if path.exists())]
    for path in [*events, *(args.records or [])]:
        if not path.exists() or path.is_dir():  # a pipe is as good: /dev/stdin
            hint = "name Envoy's access log with --events; a gateway that has run has it in its state folder"
            raise ConfigError(str(path), "is not there", hint)
    records = args.records or [path for path in [state / LOG_NAME] if path.is_file()]
    return list(dict.fromkeys([*events, *records]))  # both may be one file, where everything is collected


def _show(report: Report, top: int) -> None:
    _show_adoption(report)
    shown = report.attempts[:top] if top else report.attempts
    if shown:
        print()
        print_table(_HEAD, [_row(attempt) for attempt in shown])
    if len(shown) < len(report.attempts):
        say(f"{len(report.attempts) - len(shown)} more lines; --top 0 shows all")
    if not report.attempts:
        say("nobody tried to go around" + ("" if report.since is None else f" since {stamp(report.since)}"))
    say(NOT_HERE)
    if report.bad:
        say(f"{report.bad} of {report.lines} lines could not be read")


def _show_adoption(report: Report) -> None:
    if not report.adoption:
        return
    rows = [(a.team, str(a.governed), str(a.blocked), f"{a.share:.1%}") for a in report.adoption]
    print_table(("TEAM", "GOVERNED", "BLOCKED", "ADOPTION"), rows)


def _row(attempt: Attempt) -> tuple[str, ...]:
    return (
        *(str(attempt.count), attempt.source, attempt.team, printable(attempt.target), attempt.road, attempt.protocol),
        *(stamp(attempt.first), stamp(attempt.last)),
    )


def printable(text: str) -> str:
    """A name as it may stand on a terminal: a caller chose it."""
    return "".join(char if char.isprintable() else "?" for char in text[:80])


def stamp(moment: datetime) -> str:
    """A time to the second, in UTC."""
    return moment.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%SZ")


def _since(text: str) -> datetime:
    try:
        return datetime.now(UTC) - timedelta(seconds=parse_duration(text))
    except (PydanticCustomError, OverflowError):
        pass
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no time: write 24h, 7d, 2026-11-01") from None
    return moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)


def _count(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is no number of lines: write 50, or 0 for all")
    return int(text)


def _team(text: str) -> tuple[str, Network]:
    team, _, network = text.partition("=")
    try:
        return team.strip() or _no_team(), ip_network(network, strict=False)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not TEAM=NETWORK: write search=10.4.0.0/16") from None


def _no_team() -> str:
    raise ValueError("no team")
