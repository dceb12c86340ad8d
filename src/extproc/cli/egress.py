"""`extproc egress`: the firewall that leaves no other way out, and whether it does."""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import re
from collections.abc import Callable
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Final

from extproc.adapters import firewall
from extproc.adapters.firewall import ENVOY_USER, MODES, PRIVATE, Network, Rules
from extproc.adapters.pki import write_atomic
from extproc.cli.output import FAILED, OK, add_json, print_json, say
from extproc.cli.place import add_place, state_folder
from extproc.errors import ConfigError

NAME: Final = "egress"
HELP: Final = "install, remove and check the firewall that leaves no other way out"
RULES: Final = "egress.nft"  # the template's name, and that of what was installed, in the state folder
VERIFY: Final = "extproc.cli.egress_verify"
_REMOVED: Final = "# `extproc egress remove` was here: no rules\n"
_MISSING: Final = "--from {}: no interface here has this name, so nobody is bound by it (see: ip link)"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the actions."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    install = actions.add_parser("install", help="load the rules, in place of earlier ones (root)")
    remove = actions.add_parser("remove", help="remove the rules (root)")
    status = actions.add_parser("status", help="is what was installed loaded, and what has it stopped? (root)")
    _add_rules(install)
    for action in (install, remove):
        action.add_argument("--dry-run", action="store_true", help="print what would be loaded, and load nothing")
    for action in (install, remove, status):
        add_place(action)
        action.set_defaults(json=False)
    add_json(status)
    if importlib.util.find_spec(VERIFY) is not None:
        verify = importlib.import_module(VERIFY)
        verify.add_arguments(actions.add_parser("verify", help=verify.HELP))


def _add_rules(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--mode", choices=list(MODES), default="host", help="whom it binds: processes here, apps behind here, or both")
    add("--user", action="append", metavar="USER", help=f"who may go out; may be repeated (default: {ENVOY_USER})")
    add(
        "--allow",
        type=_network,
        action="append",
        metavar="NETWORK",
        help="networks that stay open to all; may be repeated; `none` for none (default: private ones, without metadata)",
    )
    add("--resolver", type=_address, action="append", metavar="ADDRESS", help="DNS servers (default: resolv.conf's)")
    add("--from", dest="apps", action="append", default=[], metavar="INTERFACE", help="apps are behind it; cali* works")
    add(
        "--gateway-address",
        type=_network,
        action="append",
        default=[],
        metavar="NETWORK",
        help="addresses behind these interfaces that may go out: an Envoy in a pod",
    )
    add("--transparent", action="store_true", help="lead port 443 to Envoy's redirect entry, not to the trap")
    add("--entry-port", type=int, default=15001, help="of Envoy's redirect entry (default: 15001)")
    add("--trap-port", type=int, default=15443, help="of Envoy's trap (default: 15443)")
    add("--keep-port", type=int, action="append", metavar="PORT", help="of ours, kept open meanwhile (default: 22)")
    add(
        "--admin-port",
        type=int,
        action="append",
        metavar="PORT",
        help="closed to apps on this machine; may be repeated (default: Envoy's 9901 and the metrics' 9464)",
    )
    add("--rules", type=Path, metavar="FILE", help=f"the template (default: {RULES} of the Envoy files)")


def run(args: argparse.Namespace) -> int:
    """Perform the action. Raises `ConfigError`."""
    if args.action == "verify":
        code: int = importlib.import_module(VERIFY).run(args)
        return code
    actions: dict[str, Callable[[argparse.Namespace], int]] = {
        "install": _install,
        "remove": _remove,
        "status": _status,
    }
    return actions[args.action](args)


def _install(args: argparse.Namespace) -> int:
    text = _rule_set(args)
    if args.dry_run:
        firewall.check(text)
        print(text, end="")
        return OK
    path = _installed(args)
    _load_and_keep(text, path)
    for name in firewall.missing_interfaces(text):
        say(_MISSING.format(name))
    say(f"the rules are loaded until the next boot; {path} holds them, for nftables.service to load")
    if not firewall.listens(args.trap_port):
        say(
            f"nobody listens on the trap port {args.trap_port}: attempts are refused, but not recorded, until Envoy runs"
        )
    return OK


def _load_and_keep(text: str, path: Path) -> None:
    """Write the rules beside their place, load them, put them there: what cannot be kept is not loaded, and the reverse."""
    made = [folder for folder in (path.parent, *path.parent.parents) if not folder.exists()]
    new = path.with_name(f".{path.name}.new")
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        write_atomic(new, text.encode(), mode=0o644)
    except OSError as error:
        _take_back(new, made)
        reason = f"cannot be written ({error.strerror}), so nothing was loaded"
        raise ConfigError(str(path), reason, "name a folder that root may write: --state") from None
    try:
        firewall.load(text)
    except ConfigError:
        _take_back(new, made)
        raise
    new.replace(path)


def _take_back(new: Path, made: list[Path]) -> None:
    with contextlib.suppress(OSError):
        new.unlink(missing_ok=True)
        for folder in made:
            folder.rmdir()


def _rule_set(args: argparse.Namespace) -> str:
    path: Path = args.rules or _envoy_folder() / RULES
    try:
        template = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            str(path), f"cannot be read ({type(error).__name__})", "name the template with --rules"
        ) from None
    allowed = PRIVATE if args.allow is None else tuple(network for network in args.allow if network is not None)
    users = args.user or ([ENVOY_USER] if "host" in MODES[args.mode] else [])
    resolvers = tuple(args.resolver or firewall.system_resolvers())
    if not resolvers:
        say("no DNS server is known here, so DNS is closed to all but Envoy: name one with --resolver")
    rules = Rules(
        mode=args.mode,
        users=tuple(firewall.user_id(name) for name in users),
        resolvers=resolvers,
        inside=allowed,
        keep=tuple(args.keep_port or [22]),
        admin=tuple(args.admin_port or [9901, 9464]),
        apps=tuple(args.apps),
        gateways=tuple(network for network in args.gateway_address if network is not None),
        transparent=args.transparent,
        entry_port=args.entry_port,
        trap_port=args.trap_port,
    )
    return firewall.render(template, rules)


def _envoy_folder() -> Path:
    """Ask `up`, which is loaded for this only: it knows the whole gateway."""
    folder: Path = importlib.import_module("extproc.cli.up").envoy_folder()
    return folder


def _remove(args: argparse.Namespace) -> int:
    family, name = firewall.TABLE
    if args.dry_run:
        print(f"delete table {family} {name}")
        return OK
    there = firewall.remove()
    path = _installed(args)
    if path.is_file():  # not unlinked: an `include` of it in /etc/nftables.conf would stop all rules at the next boot
        try:
            write_atomic(path, _REMOVED.encode(), mode=0o644)
        except OSError as error:
            reason = f"cannot be written ({error.strerror}): the rules are removed, and this file still has them"
            raise ConfigError(str(path), reason, "empty it, or the next boot loads them") from None
    say("the rules are removed: every road is open" if there else "there were no rules")
    return OK


def _status(args: argparse.Namespace) -> int:
    path = _installed(args)
    wanted = path.read_text(encoding="utf-8") if path.is_file() else None
    found = firewall.status(wanted)
    missing = firewall.missing_interfaces(wanted or "") if found.loaded else ()
    as_installed = found.loaded and found.differences == ()
    if args.json:
        differences = None if found.differences is None else list(found.differences)
        told = {"loaded": found.loaded, "as_installed": as_installed, "differences": differences}
        print_json({**told, "packets": dict(found.counters), "missing_interfaces": list(missing)})
        return OK if as_installed else FAILED
    for line in found.differences or ():
        print(line)
    for name, packets in found.counters.items():
        print(f"{name:10} {packets}")
    for name in missing:
        say(_MISSING.format(name))
    say(_verdict(found, path))
    return OK if as_installed else FAILED


def _verdict(found: firewall.Status, path: Path) -> str:
    if not found.loaded:
        return "the rules are not loaded: extproc egress install"
    if found.differences is None:
        return f"rules are loaded, but {path} does not tell which they should be: install them again, or name --state"
    if found.differences:
        return "what is loaded is not what was installed: extproc egress install loads it again"
    return "loaded as installed; the numbers are packets"


def _installed(args: argparse.Namespace) -> Path:
    return state_folder(args) / RULES


def _network(text: str) -> Network | None:
    if text == "none":
        return None
    try:
        return ip_network(_without_zone(text))
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{error}: write 10.0.0.0/8") from None


def _address(text: str) -> str:
    try:
        return str(ip_address(_without_zone(text)))
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _without_zone(text: str) -> str:
    """The text again. Raises ArgumentTypeError for an address with a zone (RFC 4007 section 11), which no packet has."""
    if "%" in text:
        plain = re.sub(r"%[^/]*", "", text)
        raise argparse.ArgumentTypeError(f"{text!r}: a rule knows no interface behind an address: write {plain}")
    return text
