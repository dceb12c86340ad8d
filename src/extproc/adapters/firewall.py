"""The firewall of a VM or of a node: nftables rules from `envoy/egress.nft`, loaded, compared and removed as one table.

The template is a rule set that nft takes as it is; `render` puts other values into its `define` lines and leaves out the
sections (`#[name` to `#]`) that a mode does not need. nft loads a file as one transaction: all of it or nothing, with no
moment between the old rules and the new ones (nft(8), "-f").
"""

from __future__ import annotations

import contextlib
import json
import os
import pwd
import re
import shutil
import socket
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from difflib import unified_diff
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from pathlib import Path
from typing import Final, TypeAlias

from extproc.errors import ConfigError

Network: TypeAlias = IPv4Network | IPv6Network

TABLE: Final = ("inet", "extproc_egress")
ENVOY_USER: Final = "extproc-envoy"
MODES: Final = {"host": {"host"}, "gateway": {"gateway"}, "both": {"host", "gateway"}}
# RFC 1918, RFC 6598 and RFC 4193: what is inside; metadata addresses among them stay closed
PRIVATE: Final = tuple(map(ip_network, ("10.0.0.0/8", "100.64.0.0/10", "172.16.0.0/12", "192.168.0.0/16", "fc00::/7")))
RESOLV_CONF: Final = (Path("/etc/resolv.conf"), Path("/run/systemd/resolve/resolv.conf"))

_DEFINE: Final = re.compile(r"^define (\w+) = ([^#\n]*?)( *#[^\n]*)?$", re.MULTILINE)
_SECTION: Final = re.compile(r"^ *#\[(\w+)\n(.*?)^ *#\]\n", re.MULTILINE | re.DOTALL)
_INTERFACE: Final = re.compile(r"[A-Za-z0-9_.-]{1,15}|[A-Za-z0-9_.-]{1,14}\*")  # IFNAMSIZ is 16, with the final NUL
# What nft lists of a set that packets fill: who is in it, which is no difference in the rules
_FILLED: Final = re.compile(r"(\bflags dynamic\b[^{}]*?)\s+elements = \{[^{}]*\}")
_APPS: Final = re.compile(r"^define APPS = (.*)$", re.MULTILINE)
# Networks wider than these are no inside: they hold most of the world
_WIDEST: Final = {4: 8, 6: 7}
_LAST_USER: Final = 2**32 - 2  # 2**32 - 1 stands for no user (chown(2))
_COMPLAINT: Final = re.compile(r"(?:/dev/stdin|-):\d+:\d+-\d+: ")  # nft's, of a place in what it reads
_NFT: Final = "install the package nftables"
_TIMEOUT: Final = 30.0


@dataclass(frozen=True, slots=True)
class Rules:
    """What the rule set is to say. `users`: user ids that may go out. `keep`: ports of ours. `apps`: interface names.

    `admin`: ports of this machine for `users` and root only. These three are for processes of this machine, `apps` and
    `gateways` for those behind it. `gateways`: addresses behind `apps` that may go out. `transparent`: port 443 leads to Envoy's redirect entry.
    """

    mode: str = "host"
    users: tuple[int, ...] = ()
    resolvers: tuple[str, ...] = ()
    inside: tuple[Network, ...] = PRIVATE
    keep: tuple[int, ...] = (22,)
    admin: tuple[int, ...] = (9901, 9464)
    apps: tuple[str, ...] = ()
    gateways: tuple[Network, ...] = ()
    transparent: bool = False
    entry_port: int = 15001
    trap_port: int = 15443


@dataclass(frozen=True, slots=True)
class Status:
    """What is loaded. `differences`: lines of a diff from what should be; None where that could not be found out."""

    loaded: bool
    differences: tuple[str, ...] | None = ()
    counters: Mapping[str, int] = field(default_factory=dict)  # packets by kind


def render(template: str, rules: Rules) -> str:
    """Make the rule set. Raises ConfigError for values that make none."""
    _check(rules)
    sections = MODES[rules.mode] | ({"transparent"} if rules.transparent else set())
    text = template
    while (kept := _SECTION.sub(lambda match: match[2] if match[1] in sections else "", text)) != text:
        text = kept  # sections stand inside sections
    values = _values(rules)
    missing = values.keys() - {match[1] for match in _DEFINE.finditer(text)}
    if missing:
        raise ConfigError(
            "egress.nft", f"has no define {', '.join(sorted(missing))}", "copy it from the project's envoy/"
        )
    for name in [name for name, value in values.items() if not value]:  # nft knows no empty list
        text = re.sub(rf"^ *(define {name} =.*|elements = \${name})\n", "", text, flags=re.MULTILINE)
    return _DEFINE.sub(lambda match: f"define {match[1]} = {values.get(match[1], match[2])}{match[3] or ''}", text)


def _check(rules: Rules) -> None:
    if not rules.users and "host" in MODES[rules.mode]:
        raise ConfigError("--user", "nobody could go out", f"name Envoy's user: --user {ENVOY_USER}")
    behind = "gateway" in MODES[rules.mode]
    if behind != bool(rules.apps):
        hint = "for example --mode gateway --from eth1"
        if behind:
            raise ConfigError("--from", f"mode {rules.mode} needs the interfaces that apps are behind", hint)
        raise ConfigError("--from", "belongs to mode gateway or both", hint)
    if rules.gateways and not behind:
        raise ConfigError("--gateway-address", "belongs to mode gateway or both")
    for name in rules.apps:
        if _INTERFACE.fullmatch(name) is None:
            raise ConfigError("--from", f"{name!r} is no interface name", "for example eth1, docker0 or cali*")
    _check_width("--allow", rules.inside)
    _check_width("--gateway-address", rules.gateways)
    for port in (*rules.keep, *rules.admin, rules.entry_port, rules.trap_port):
        if not 0 < port < 65536:
            raise ConfigError("egress", f"{port} is no port", "ports: 1 to 65535")


def _check_width(option: str, networks: Sequence[Network]) -> None:
    for network in networks:
        if network.prefixlen < _WIDEST[network.version]:
            hint = "name the networks that apps need; no firewall at all is `extproc egress remove`"
            raise ConfigError(option, f"{network} lets nearly everything out", hint)


def _values(rules: Rules) -> dict[str, str]:
    """`define` name -> value; empty for an empty list."""
    resolvers = [ip_address(text) for text in rules.resolvers]
    return {
        "ENVOY": _listed(rules.users),
        "RESOLVERS4": _listed([a for a in resolvers if a.version == 4]),
        "RESOLVERS6": _listed([a for a in resolvers if a.version == 6]),
        "INSIDE4": _listed([n for n in rules.inside if n.version == 4]),
        "INSIDE6": _listed([n for n in rules.inside if n.version == 6]),
        "KEEP": _listed(rules.keep),
        "ADMIN": _listed(rules.admin),
        "APPS": _listed([f'"{name}"' for name in rules.apps]),
        "GATEWAYS4": _listed([n for n in rules.gateways if n.version == 4]),
        "GATEWAYS6": _listed([n for n in rules.gateways if n.version == 6]),
        "ENTRY": str(rules.entry_port),
        "TRAP": str(rules.trap_port),
    }


def _listed(values: Sequence[object]) -> str:
    return f"{{ {', '.join(dict.fromkeys(map(str, values)))} }}" if values else ""


def user_id(name: str) -> int:
    """Find the number of a user who is named by name or number. Raises ConfigError."""
    if name.isdecimal():
        if int(name) > _LAST_USER:
            raise ConfigError("--user", f"{name} is no user id: the last one is {_LAST_USER}", "see: getent passwd")
        return int(name)
    try:
        return pwd.getpwnam(name).pw_uid
    except KeyError:
        hint = f"make it: useradd --system --shell /usr/sbin/nologin {name}; or name another with --user"
        raise ConfigError("--user", f"there is no user {name!r} here", hint) from None


def system_resolvers(files: Sequence[Path] = RESOLV_CONF) -> tuple[str, ...]:
    """List the name servers that this machine asks, without those on loopback, which ask others (resolv.conf(5))."""
    for path in files:
        found = []
        with contextlib.suppress(OSError):
            for line in path.read_text(errors="replace").splitlines():
                words = line.split()
                if len(words) > 1 and words[0] == "nameserver":
                    with contextlib.suppress(ValueError):
                        found.append(ip_address(words[1].partition("%")[0]))
        outside = tuple(str(address) for address in found if not address.is_loopback)
        if outside:
            return outside
    return ()


def missing_interfaces(text: str) -> tuple[str, ...]:
    """List the interfaces that a rule set binds apps by and that fit none of this machine's: so it binds nobody there."""
    found = _APPS.search(text)
    wanted = re.findall(r'"([^"]+)"', found[1]) if found and "iifname != $APPS" in text else []
    here = [name for _, name in socket.if_nameindex()]

    def fits(pattern: str) -> bool:
        if pattern.endswith("*"):
            return any(name.startswith(pattern[:-1]) for name in here)
        return pattern in here

    return tuple(pattern for pattern in wanted if not fits(pattern))


# ---- nft ------------------------------------------------------------------------------------------------------------


def load(text: str) -> None:
    """Load a rule set in one transaction, in place of an earlier one. Raises ConfigError; then nothing has changed."""
    _nft("-f", "-", text=text)


def check(text: str) -> None:
    """Ask nft about a rule set, in an empty network namespace. Raises ConfigError for what it refuses.

    Without nft, or where this user may make no namespace, nothing is asked: `load` will tell.
    """
    rights = () if os.geteuid() == 0 else ("--map-root-user",)
    try:
        done = _run(["unshare", *rights, "--net", _nft_path(), "-c", "-f", "-"], text)
    except ConfigError:
        return
    if done.returncode and _COMPLAINT.search(done.stderr):
        said = " ".join(done.stderr.split())[:1000]
        raise ConfigError("nft", f"refuses the rules: {said}", "change the option that this value comes from")


def remove() -> bool:
    """Remove the table; whether it was there. Raises ConfigError."""
    there = is_loaded()
    family, name = TABLE
    _nft("-f", "-", text=f"table {family} {name}\ndelete table {family} {name}\n")
    return there


def is_loaded() -> bool:
    """Whether the table is there. Raises ConfigError."""
    return any(line.split()[1:] == list(TABLE) for line in _nft("list", "tables").splitlines())


def status(wanted: str | None) -> Status:
    """Compare what is loaded with `wanted`, a rule set's text, or None where nobody knows it. Raises ConfigError."""
    if not is_loaded():
        return Status(loaded=False, differences=None)
    have = _FILLED.sub(r"\1", _nft("--stateless", "list", "table", *TABLE))
    should = None if wanted is None else _listing(wanted)
    if should is None:
        return Status(loaded=True, differences=None, counters=_counters())
    lines = unified_diff(should.splitlines(), have.splitlines(), "installed", "loaded", n=0, lineterm="")
    return Status(loaded=True, differences=tuple(lines), counters=_counters())


def listens(port: int, files: Sequence[Path] = (Path("/proc/net/tcp"), Path("/proc/net/tcp6"))) -> bool:
    """Whether somebody here listens on a TCP port (proc_net_tcp: local address, state 0A)."""
    for path in files:
        with contextlib.suppress(OSError):
            for line in path.read_text().splitlines()[1:]:
                words = line.split()
                if words[3] == "0A" and int(words[1].rpartition(":")[2], 16) == port:
                    return True
    return False


def _listing(text: str) -> str | None:
    """List `text` as nft would after loading it: tried in an empty network namespace, which ends with the command."""
    script = f'"$0" -f - && "$0" --stateless list table {" ".join(TABLE)}'
    done = _run(["unshare", "--net", "sh", "-c", script, _nft_path()], text)
    return done.stdout if done.returncode == 0 else None


def _counters() -> dict[str, int]:
    found = json.loads(_nft("-j", "list", "counters", "table", *TABLE))["nftables"]
    return {str(item["counter"]["name"]): int(item["counter"]["packets"]) for item in found if "counter" in item}


def _nft_path() -> str:
    path = shutil.which("nft", path="/usr/sbin:/sbin:/usr/bin:/usr/local/sbin") or shutil.which("nft")
    if path is None:
        raise ConfigError("nft", "is not installed", _NFT)
    return path


def _nft(*words: str, text: str = "") -> str:
    done = _run([_nft_path(), *words], text)
    if done.returncode == 0:
        return done.stdout
    said = " ".join(done.stderr.split())[:1000]
    if "Operation not permitted" in said:
        raise ConfigError("egress", "only root can see and change the firewall", "use sudo; --dry-run needs no rights")
    raise ConfigError(
        "nft", said or f"ended with {done.returncode}", "see --dry-run; docs/egress.md tells what the kernel needs"
    )


def _run(command: list[str], text: str) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(command, input=text, capture_output=True, text=True, timeout=_TIMEOUT, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ConfigError(command[0], f"cannot be run ({type(error).__name__})", _NFT) from error
