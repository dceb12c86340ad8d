"""`extproc keys`: make, list, revoke and rotate virtual keys."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

from pydantic_core import PydanticCustomError

from extproc.adapters.first_run import check_pepper
from extproc.adapters.keyfile import KeyFile, KeyFileError, NewKey, make_pepper
from extproc.adapters.keys import Entry, Hasher, Owner, read_pepper
from extproc.cli.output import OK, add_json, fail, print_json, print_table, say
from extproc.cli.place import add_place, config_path, read_config, state_folder
from extproc.config.model import Keys
from extproc.config.units import SecretRef, parse_duration
from extproc.errors import ConfigError

NAME: Final = "keys"
HELP: Final = "make, list, revoke and rotate the keys that callers use"

_LONGEST: Final = 36_500 * 86_400.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the actions."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    create = actions.add_parser("create", help="make a key and show it once")
    create.add_argument("--team", required=True, help="team that the key stands for")
    create.add_argument("--app", required=True, help="app that the key stands for")
    create.add_argument("--tenant", default="", help="tenant, if there is one")
    create.add_argument("--user", default="", help="user, if the key is one person's")
    create.add_argument(
        "--organisation",
        default="",
        metavar="NAME",
        help="organisation whose budgets count (default: the configured one)",
    )
    create.add_argument("--expires", type=_duration, metavar="TIME", help="life of the key: 12h, 30d (default: no end)")
    create.add_argument("--note", default="", help="for whom and what, in your words")
    listing = actions.add_parser("list", help="show the keys, without their secrets")
    revoke = actions.add_parser("revoke", help="end a key now; live in every worker within a second")
    revoke.add_argument("id", help="the key's id: the part between the first two dashes")
    rotate = actions.add_parser("rotate", help="make the successor of a key; the old one ends after a while")
    rotate.add_argument("id", help="the key's id")
    rotate.add_argument("--grace", type=_duration, default=timedelta(hours=1), metavar="TIME", help="default: 1h")
    for action in (create, listing, revoke, rotate):
        add_place(action)
        add_json(action)


def run(args: argparse.Namespace) -> int:
    """Perform the action; 0 if it was done."""
    actions: dict[str, Callable[[argparse.Namespace], None]] = {
        "create": _create,
        "list": _list,
        "revoke": _revoke,
        "rotate": _rotate,
    }
    try:
        actions[args.action](args)
    except (ConfigError, KeyFileError, OSError) as error:
        return fail(error, as_json=args.json)
    return OK


def key_settings(args: argparse.Namespace) -> Keys:
    """Find the key file and the pepper: those of the configuration, or of a state folder that has none."""
    path = config_path(args)
    if path is not None:
        return read_config(path).keys
    folder = state_folder(args).absolute()
    if args.state is None and not folder.is_dir():
        hint = "name it with --config, or a state folder with --state; `extproc up` makes both"
        raise ConfigError("gateway.yaml", "is not here", hint)
    return Keys(file=folder / "keys.json", pepper=SecretRef(file=folder / "pepper"))


def open_key_file(keys: Keys) -> KeyFile:
    """Open the key file for changes. Raises `ConfigError` where the pepper cannot be read."""
    check_pepper(keys)
    return KeyFile(Path(keys.file), Hasher(read_pepper(keys.pepper, os.environ)))


def _create(args: argparse.Namespace) -> None:
    keys = key_settings(args)
    _first_time(keys, say=(lambda _text: None) if args.json else say)
    owner = Owner(args.team, args.app, args.tenant, args.user, args.organisation)
    _show_once(open_key_file(keys).create(owner, expires=args.expires, note=args.note), args)


def _first_time(keys: Keys, say: Callable[[str], None]) -> None:
    """Make the pepper with the first key. Where there are keys, a missing pepper is a loss, not a first time."""
    check_pepper(keys)
    pepper = keys.pepper.file
    if pepper is None or Path(keys.file).exists() or Path(pepper).exists():
        return
    for path in (Path(keys.file), Path(pepper)):
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    if make_pepper(Path(pepper)):
        say(f"made {pepper}: keep it secret, and apart from backups of the key file")


def _rotate(args: argparse.Namespace) -> None:
    key_file = open_key_file(key_settings(args))
    new = key_file.rotate(args.id, grace=args.grace)
    if not args.json:
        old = next(entry for entry in key_file.entries() if entry.id == args.id)
        say(f"the old key {args.id} ends at {_time(old.expires)}")
    _show_once(new, args)


def _revoke(args: argparse.Namespace) -> None:
    entry = open_key_file(key_settings(args)).revoke(args.id)
    if args.json:
        print_json(_public(entry))
    else:
        say(f"revoked {entry.id} ({entry.team}/{entry.app})")


def _list(args: argparse.Namespace) -> None:
    entries = open_key_file(key_settings(args)).entries()
    if args.json:
        print_json([_public(entry) for entry in entries])
        return
    if not entries:
        say("no keys yet: extproc keys create --team TEAM --app APP")
        return
    now = datetime.now(UTC)
    named = any(e.organisation for e in entries)  # most have one organisation, which nobody needs to see
    rows = [
        (
            *(e.id, e.state(now), *([e.organisation] if named else []), e.team, e.app, e.tenant, e.user),
            *(_time(e.created), _time(e.expires), e.note),
        )
        for e in entries
    ]
    owner = (*(["ORGANISATION"] if named else []), "TEAM", "APP", "TENANT", "USER")
    print_table(("ID", "STATE", *owner, "CREATED", "EXPIRES", "NOTE"), rows)


def _show_once(new: NewKey, args: argparse.Namespace) -> None:
    if args.json:
        print_json({**_public(new.entry), "key": new.secret})
        return
    entry = new.entry
    end = "without an end" if entry.expires is None else f"until {_time(entry.expires)}"
    say(f"key {entry.id} for {entry.team}/{entry.app}, {end}. It is shown this once:")
    print(new.secret)


def _public(entry: Entry) -> dict[str, str | None]:
    """Select what may be shown of an entry: not the digest."""
    return {
        "id": entry.id,
        "state": entry.state(datetime.now(UTC)),
        "team": entry.team,
        "app": entry.app,
        "tenant": entry.tenant,
        "user": entry.user,
        "organisation": entry.organisation,
        "created": entry.created.isoformat(),
        "expires": None if entry.expires is None else entry.expires.isoformat(),
        "revoked": None if entry.revoked is None else entry.revoked.isoformat(),
        "replaces": entry.replaces or None,
        "note": entry.note,
    }


def _time(moment: datetime | None) -> str:
    return "never" if moment is None else moment.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%SZ")


def _duration(text: str) -> timedelta:
    try:
        seconds = parse_duration(text)
    except PydanticCustomError as error:
        reason = f"{text!r} {error.message()}: write 90s, 12h, 30d"
        raise argparse.ArgumentTypeError(reason) from None
    if seconds > _LONGEST:
        raise argparse.ArgumentTypeError(f"{text!r} is longer than a hundred years")
    return timedelta(seconds=seconds)
