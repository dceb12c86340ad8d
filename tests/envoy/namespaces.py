"""Network namespaces for a test: an app that is routed through a gateway, and nothing else. Needs root."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

APP_ADDRESS = "10.199.77.2"
GATEWAY_ADDRESS = "10.199.77.1"
GATEWAY_NAME = "gateway.example"
VENDOR_ADDRESSES = {"api.openai.com": "198.18.0.10", "api.anthropic.com": "198.18.0.11"}
UNKNOWN = ("other.example", "198.18.0.12")
# with an internet: the app's and the gateway's addresses by IPv6, the link behind the gateway, and what is out there
APP_ADDRESS6, GATEWAY_ADDRESS6 = "fd77::2", "fd77::1"
OUTER = {4: ("10.199.78.1", "10.199.78.2"), 6: ("fd78::1", "fd78::2")}
VENDOR_ADDRESSES6 = {"api.openai.com": "2001:db8::10", "api.anthropic.com": "2001:db8::11"}
UNKNOWN6 = "2001:db8::12"
RESOLVERS = ("1.1.1.1", "2606:4700:4700::1111")
METADATA = ("169.254.169.254", "fd00:ec2::254")
LENIENT = "198.18.0.13"  # an address for a server that takes everything
OUTSIDE = (
    *(*VENDOR_ADDRESSES.values(), *VENDOR_ADDRESSES6.values(), UNKNOWN[1], UNKNOWN6),
    *(*RESOLVERS, *METADATA, LENIENT),
)


def run(*command: str, timeout: float = 30) -> str:
    """Run a command; what it wrote. Raises AssertionError with its complaint."""
    done = subprocess.run(command, capture_output=True, text=True, timeout=timeout, check=False)
    assert done.returncode == 0, f"{' '.join(command)}: {done.stderr}"
    return done.stdout


def why_not() -> str:
    """Why namespaces cannot be made here; empty where they can."""
    for tool in ("ip", "nft"):
        if shutil.which(tool) is None:
            return f"the command {tool} is missing (packages iproute2, nftables)"
    if os.geteuid() != 0:
        return "only root can make network namespaces"
    name = f"llm-probe-{secrets.token_hex(3)}"
    made = subprocess.run(["ip", "netns", "add", name], capture_output=True, text=True, check=False)
    if made.returncode:
        return f"ip netns add: {made.stderr.strip()}"
    try:
        rules = "add table ip probe; add chain ip probe c { type nat hook prerouting priority dstnat; }"
        tried = subprocess.run(["ip", "netns", "exec", name, "nft", rules], capture_output=True, text=True, check=False)
        return f"nft: {tried.stderr.strip()}" if tried.returncode else ""
    finally:
        run("ip", "netns", "delete", name)


@dataclass(frozen=True)
class Namespaces:
    """Their names; `inet` only where one was asked for."""

    app: str
    gw: str
    inet: str = ""

    def prefix(self, name: str) -> tuple[str, ...]:
        """What runs a command in `app`, `gw` or `inet`."""
        return ("ip", "netns", "exec", getattr(self, name))


@contextlib.contextmanager
def namespaces() -> Iterator[Namespaces]:
    """`app` -- veth -- `gw`: the app's only route leads to gw, which forwards nothing; its hosts file is its DNS."""
    mark = secrets.token_hex(3)
    made = Namespaces(f"llm-app-{mark}", f"llm-gw-{mark}")
    etc = Path("/etc/netns") / made.app
    inside = f"va{mark}", f"vg{mark}"
    try:
        for name in (made.app, made.gw):
            run("ip", "netns", "add", name)
            run("ip", "-n", name, "link", "set", "lo", "up")
        run("ip", "link", "add", inside[0], "netns", made.app, "type", "veth", "peer", inside[1], "netns", made.gw)
        for name, link, address in ((made.app, inside[0], APP_ADDRESS), (made.gw, inside[1], GATEWAY_ADDRESS)):
            run("ip", "-n", name, "address", "add", f"{address}/30", "dev", link)
            run("ip", "-n", name, "link", "set", link, "up")
        run("ip", "-n", made.app, "route", "add", "default", "via", GATEWAY_ADDRESS)
        etc.mkdir(parents=True)
        known = [f"{address} {host}" for host, address in (*VENDOR_ADDRESSES.items(), UNKNOWN)]
        known.append(f"{GATEWAY_ADDRESS} {GATEWAY_NAME}")
        (etc / "hosts").write_text("\n".join(["127.0.0.1 localhost", *known, ""]))
        yield made
    finally:
        shutil.rmtree(etc, ignore_errors=True)
        with contextlib.suppress(OSError):  # not ours alone
            etc.parent.rmdir()
        for name in (made.app, made.gw):
            subprocess.run(["ip", "netns", "delete", name], capture_output=True, check=False)


@contextlib.contextmanager
def with_internet() -> Iterator[Namespaces]:
    """`app` -- `gw` -- `inet`, IPv4 and IPv6: gw forwards everything, so only rules that a test loads keep the app in."""
    with namespaces() as two:
        made = Namespaces(two.app, two.gw, two.gw.replace("llm-gw", "llm-inet"))
        mark = two.app.rpartition("-")[2]
        links = f"vo{mark}", f"vi{mark}"
        try:
            run("ip", "netns", "add", made.inet)
            run("ip", "-n", made.inet, "link", "set", "lo", "up")
            run("ip", "link", "add", links[0], "netns", made.gw, "type", "veth", "peer", links[1], "netns", made.inet)
            for name, link, side in ((made.gw, links[0], 0), (made.inet, links[1], 1)):
                run("ip", "-n", name, "address", "add", f"{OUTER[4][side]}/30", "dev", link)
                run("ip", "-n", name, "address", "add", f"{OUTER[6][side]}/64", "dev", link, "nodad")
                run("ip", "-n", name, "link", "set", link, "up")
            for name, link, address in (
                (made.app, f"va{mark}", APP_ADDRESS6),
                (made.gw, f"vg{mark}", GATEWAY_ADDRESS6),
            ):
                run("ip", "-n", name, "address", "add", f"{address}/64", "dev", link, "nodad")
            for address in OUTSIDE:
                run("ip", "-n", made.inet, "address", "add", address, "dev", "lo")
            for name, v4, v6 in (
                (made.app, "", GATEWAY_ADDRESS6),
                (made.gw, OUTER[4][1], OUTER[6][1]),
                (made.inet, OUTER[4][0], OUTER[6][0]),
            ):
                if v4:
                    run("ip", "-n", name, "route", "add", "default", "via", v4)
                run("ip", "-n", name, "-6", "route", "add", "default", "via", v6)
            for key in ("net.ipv4.ip_forward", "net.ipv6.conf.all.forwarding"):
                run(*made.prefix("gw"), "sysctl", "-qw", f"{key}=1")
            hosts = Path("/etc/netns") / made.app / "hosts"
            more = [f"{address} {host}" for host, address in VENDOR_ADDRESSES6.items()] + [f"{UNKNOWN6} {UNKNOWN[0]}"]
            hosts.write_text(hosts.read_text() + "\n".join([*more, ""]))
            yield made
        finally:
            subprocess.run(["ip", "netns", "delete", made.inet], capture_output=True, check=False)
