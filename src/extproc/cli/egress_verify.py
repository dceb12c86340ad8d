"""`extproc egress verify`: run in an app's place, it tries every road past the gateway and says which are open."""

from __future__ import annotations

import argparse
import ipaddress
import re
import shlex
import socket
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any, Final

from extproc.adapters.pki import CA_CERTIFICATE
from extproc.cli.output import FAILED, OK, WRONG_USE, add_json, print_json, print_table, say
from extproc.cli.place import CA_FOLDER, FIRST_KEY, add_place, config_path, read_config, state_folder
from extproc.errors import ConfigError
from extproc.roads import anchor, entry, proxied, resolvers, suite, timed
from extproc.roads.road import Door, Gateway, Outcome, Road, Scope, Target
from extproc.roads.wire import is_address

HELP: Final = "try every road past the gateway, from an app's place, and say which are open"
UNLISTED: Final = (
    *("api.mistral.ai", "api.groq.com", "api.deepseek.com", "openrouter.ai", "api.together.xyz", "api.x.ai"),
    *("generativelanguage.googleapis.com", "api.cohere.com", "api.fireworks.ai", "router.huggingface.co"),
)
OUTSIDE: Final = ("1.1.1.1", "8.8.8.8", "9.9.9.9", "2606:4700:4700::1111", "2001:4860:4860::8888")
METADATA: Final = (
    *("169.254.169.254", "169.254.170.2", "169.254.170.23", "100.100.100.200", "168.63.129.16", "192.0.0.192"),
    *("fd00:ec2::254", "fd00:ec2::23", "fd20:ce::254", "fe80::a9fe:a9fe"),
)
PORTS: Final = (22, 80, 853, 2443, 8080, 8443)
PRIVATE: Final = (9901, 9464)
ENTRIES: Final = {"base_url": 8080, "connect": 3128}
_HOST: Final = re.compile(r"[A-Za-z0-9._-]+")  # what can stand in a Host line and a CONNECT
_RESOLVING: Final = 15.0
_HOLDING: Final = 600.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    targets = parser.add_argument_group(
        "what to reach; HOST[=ADDRESS,...] also where the name is rewritten or unknown here"
    )
    targets.add_argument("--vendor", action="append", metavar="HOST", help="a listed host (default: gateway.yaml's)")
    targets.add_argument("--unlisted", action="append", metavar="HOST", help="an LLM host that is not listed")
    targets.add_argument(
        "--outside", action="append", metavar="ADDRESS", help="a resolver outside, also a place to call"
    )
    targets.add_argument("--metadata", action="append", metavar="ADDRESS", help="a metadata service")
    ports = ", ".join(map(str, PORTS))
    targets.add_argument("--other-port", action="append", type=_port, metavar="PORT", help=f"default: {ports}")
    ports = ", ".join(map(str, resolvers.UDP_PORTS))
    targets.add_argument("--other-udp", action="append", type=_port, metavar="PORT", help=f"default: {ports}")
    gateway = parser.add_argument_group("the gateway, as this app sees it")
    gateway.add_argument("--gateway", default="127.0.0.1", metavar="HOST", help="default: 127.0.0.1")
    listed = ", ".join(f"{name} {port}" for name, port in ENTRIES.items())
    gateway.add_argument(
        "--port",
        action="append",
        default=[],
        metavar="ENTRY=PORT",
        help=f"default: {listed}; also base_url_tls; 0: none. Requests go by the first of base_url, base_url_tls, connect",
    )
    gateway.add_argument(
        "--private",
        action="append",
        type=_private,
        metavar="[HOST:]PORT",
        help="a port that apps must not reach, at the gateway or at every address of HOST (pods behind a Service)",
    )
    gateway.add_argument(
        "--ca", type=Path, metavar="FILE", help="its root alone, no bundle (default: the state folder's)"
    )
    gateway.add_argument("--key", type=Path, metavar="FILE", help="this app's key (default: the state folder's first)")
    gateway.add_argument("--other-key", type=Path, metavar="FILE", help="a key of another tenant")
    parser.add_argument(
        "--only", action="append", choices=suite.NAMES, metavar="ROAD", help="try this road (repeatable)"
    )
    parser.add_argument("--timeout", type=_seconds, default=3.0, metavar="S", help="wait for an answer (default: 3)")
    parser.add_argument(
        "--hold",
        action="store_true",
        help="first open connections, then wait for a line on standard input: load the policy",
    )
    parser.add_argument("--restart-command", metavar="COMMAND", help="restarts the gateway; calls are tried meanwhile")
    parser.add_argument("--window", type=_seconds, default=5.0, metavar="S", help="for how long (default: 5)")
    add_place(parser)
    add_json(parser)


def run(args: argparse.Namespace) -> int:
    """Try the roads: 0 if all are closed or by design, 1 if one is open, 2 if it could not be found out."""
    try:
        return _verify(args)
    except ConfigError as error:
        reason = f"{error.path}: {error.reason}" + (f"; {error.hint}" if error.hint else "")
    except OSError as error:
        reason = str(error)
    say(f"could not run: {reason}")  # not 1, as other commands have it: that is an open road
    return WRONG_USE


def _verify(args: argparse.Namespace) -> int:
    wanted = frozenset(args.only or suite.NAMES) | {proxied.GATEWAY.name}
    restart = _restart(args)
    scope = scope_of(args)
    held = None
    if args.hold:
        held = timed.hold(scope)
        say(f"{len(held)} direct connections are open. Load the policy, then press Enter.")
        if reason := timed.wait_holding(held, sys.stdin, _HOLDING):
            say(f"{reason}; nothing was tried")
            return WRONG_USE
    before, last = suite.timed_roads(held, restart)
    rows = suite.run(scope, _chosen((*suite.ROADS, before), wanted))
    rows += suite.run(scope, _chosen((last,), wanted))  # alone: it takes the gateway away from the others
    _tell(rows, as_json=args.json)
    return _code(rows)


def _restart(args: argparse.Namespace) -> timed.Restart | None:
    """The command, taken apart before anything is tried. Raises ConfigError."""
    if args.restart_command is None:
        return None
    try:
        words = shlex.split(args.restart_command)
    except ValueError as error:
        reason = f"cannot be taken apart ({error})"
        raise ConfigError("--restart-command", reason, "quote it as for a shell, each quote closed") from None
    if not words:
        raise ConfigError("--restart-command", "names no command", "for example: 'systemctl restart extproc'")
    return timed.Restart(words, args.window)


def _chosen(roads: Sequence[Road], wanted: frozenset[str]) -> list[Road]:
    return [road for road in roads if road.name in wanted]


def _code(rows: Sequence[suite.Row]) -> int:
    if any(row.outcome is Outcome.OPEN for row in rows):
        return FAILED
    if any(row.broken for row in rows):
        say("could not run in part: see the rows that say so")
        return WRONG_USE
    if not suite.governs(rows):
        say("could not run: the gateway itself did not answer, so what is closed may be a network that is down")
        return WRONG_USE
    if left := {row.road: row.missing for row in rows if row.missing}:
        told = ", ".join(f"{road} {count}" for road, count in left.items())
        say(f"not tried, so not known: {sum(left.values())} attempts ({told}); the rows say what is missing")
        return WRONG_USE
    return OK


def _tell(rows: Sequence[suite.Row], *, as_json: bool) -> None:
    if as_json:
        print_json({"roads": [_as_json(row) for row in rows], "outcome": _summary(rows)})
    else:
        print_table(("ROAD", "OUTCOME", "EVIDENCE"), [(row.road, row.outcome, row.evidence[:160]) for row in rows])
    for row in () if as_json else rows:
        opened = [one for one in row.tried if one.outcome is Outcome.OPEN]
        for one in opened[1:]:
            say(f"also open: {row.road}: {one.tried}: {one.evidence}")
    say(", ".join(f"{count} {outcome}" for outcome, count in _summary(rows).items()))


def _summary(rows: Sequence[suite.Row]) -> dict[str, int]:
    return {outcome.value: sum(row.outcome is outcome for row in rows) for outcome in Outcome}


def _as_json(row: suite.Row) -> dict[str, Any]:
    tried = [
        {"tried": one.tried, "outcome": one.outcome, "evidence": one.evidence, "seconds": round(one.seconds, 3)}
        for one in row.tried
    ]
    named = {"road": row.road, "about": row.about, "outcome": row.outcome, "evidence": row.evidence}
    return {**named, "broken": row.broken, "missing": row.missing, "attempts": tried}


def scope_of(args: argparse.Namespace) -> Scope:
    """What the command line and the configuration name, looked up. Raises ConfigError, and OSError for a file."""
    hosts = args.vendor or _configured(args)
    listed = {host.partition("=")[0] for host in hosts}
    unlisted = args.unlisted or [host for host in UNLISTED if host not in listed]
    if not unlisted:
        raise ConfigError(
            "--unlisted", "is missing: each host of the default list is a vendor here", "name another host"
        )
    doors = [host for host, _ in args.private or () if host]
    known = _look_up([host for host in (*hosts, *unlisted, args.gateway, *doors) if "=" not in host])
    outside, metadata = tuple(args.outside or OUTSIDE), tuple(args.metadata or METADATA)
    for address in (*outside, *metadata):
        if not is_address(address):
            raise ConfigError(address, "is not an IP address", "name addresses: no name need resolve here")
    gateway = _gateway(args, known)
    return Scope(
        vendors=tuple(_target(host, known, gateway) for host in hosts),
        unlisted=tuple(_target(host, known, gateway) for host in unlisted),
        outside=outside,
        metadata=metadata,
        ports=tuple(args.other_port or PORTS),
        gateway=gateway,
        timeout=args.timeout,
        udp_ports=tuple(args.other_udp or resolvers.UDP_PORTS),
    )


def _configured(args: argparse.Namespace) -> list[str]:
    path = config_path(args)
    if path is None:
        raise ConfigError(
            "gateway.yaml", "is not here", "name the vendors with --vendor HOST, or the file with --config"
        )
    hosts = [host for provider in read_config(path).providers.values() for host in provider.hosts]
    if not hosts:
        raise ConfigError(str(path), "has no provider with `hosts`", "name the vendors with --vendor HOST")
    return hosts


def _gateway(args: argparse.Namespace, known: dict[str, tuple[str, ...]]) -> Gateway:
    ports = dict(ENTRIES)
    for given in args.port:
        name, _, number = given.partition("=")
        if name not in entry.ENTRIES or not number.isdecimal() or int(number) > 65535:
            raise ConfigError("--port", f"{given!r} is not ENTRY=PORT", f"entries: {', '.join(entry.ENTRIES)}")
        ports[name] = int(number)
    if not is_address(args.gateway):
        _check_host("--gateway", args.gateway)
    private = [("", port) for port in PRIVATE] if args.private is None else args.private
    state = state_folder(args)
    ca: Path = args.ca or state / CA_FOLDER / CA_CERTIFICATE
    anchor.check_alone(ca)
    return Gateway(
        host=args.gateway,
        addresses=known.get(args.gateway, ()),
        ports={name: port for name, port in ports.items() if port},
        ca=ca,
        private=tuple(port for host, port in private if not host),
        key=_key(args.key or state / FIRST_KEY, needed=args.key is not None),
        other_key=_key(args.other_key, needed=True) if args.other_key else "",
        doors=tuple(Door(host, port, known.get(host, ())) for host, port in private if host),
    )


def _key(path: Path, *, needed: bool) -> str:
    """The one virtual key of a file; empty where it need not be there and is not. Raises ConfigError and OSError."""
    if not needed and not path.is_file():
        return ""
    try:
        key = path.read_text("ascii").strip()
    except UnicodeDecodeError:
        key = ""
    if not key.isprintable() or " " in key or not key:
        raise ConfigError(str(path), "does not hold one virtual key", "write into it what `extproc keys create` prints")
    return key


def _look_up(hosts: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Host -> addresses; none for a name that does not resolve here, or not in time."""
    pool = ThreadPoolExecutor(max_workers=16)
    asked = {host: pool.submit(socket.getaddrinfo, host, None, 0, socket.SOCK_STREAM) for host in dict.fromkeys(hosts)}
    wait(asked.values(), timeout=_RESOLVING)
    pool.shutdown(wait=False, cancel_futures=True)
    return {
        host: tuple(dict.fromkeys(str(info[4][0]) for info in future.result()))
        for host, future in asked.items()
        if future.done() and future.exception() is None
    }


def _target(text: str, known: dict[str, tuple[str, ...]], gateway: Gateway) -> Target:
    """A host with its own addresses: those that were named, or the public ones that its name leads to.

    Where a name leads to the gateway or to a private address, as rewritten DNS does, that is no address of the host's.
    """
    host, _, named = text.partition("=")
    _check_host(text, host)
    addresses = tuple(named.split(",")) if named else known.get(host, ())
    for address in addresses:
        if not is_address(address):
            raise ConfigError(text, f"{address!r} is not an IP address", "write HOST or HOST=ADDRESS,ADDRESS")
    led = tuple(
        address
        for address in addresses
        if address in gateway.addresses or (not named and not ipaddress.ip_address(address).is_global)
    )
    own = [address for address in addresses if address not in led]
    v4 = tuple(address for address in own if ":" not in address)
    return Target(host, v4, tuple(address for address in own if ":" in address), led)


def _check_host(given: str, host: str) -> None:
    if _HOST.fullmatch(host) is None:
        raise ConfigError(given, f"{host!r} is no host name", "write it in ASCII, without scheme, port and path")


def _seconds(text: str) -> float:
    value = float(text)
    if not 0 < value <= 120:
        raise argparse.ArgumentTypeError("give seconds, more than 0 and 120 at most")
    return value


def _port(text: str) -> int:
    value = int(text)
    if not 0 < value < 65536:
        raise argparse.ArgumentTypeError("a port is 1 to 65535")
    return value


def _private(text: str) -> tuple[str, int]:
    """HOST:PORT, [ADDRESS]:PORT or PORT, taken apart; the host is empty where none is named."""
    host, colon, port = text.rpartition(":")
    bare = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    if colon and not (_HOST.fullmatch(host) or (bare != host and is_address(bare))):
        raise argparse.ArgumentTypeError(f"{text!r} is not PORT, HOST:PORT or [ADDRESS]:PORT")
    return bare, _port(port)
