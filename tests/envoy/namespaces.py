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
VENDOR_ADDRESSES = {"api.openai.com": "198.18.0.10", "api.anthropic.com": "198.18.0.11"}
UNKNOWN = ("other.example", "198.18.0.12")


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
    """The names of the two."""

    app: str
    gw: str

    def prefix(self, name: str) -> tuple[str, ...]:
        """What runs a command in `app` or `gw`."""
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
        (etc / "hosts").write_text("\n".join(["127.0.0.1 localhost", *known, ""]))
        yield made
    finally:
        shutil.rmtree(etc, ignore_errors=True)
        with contextlib.suppress(OSError):  # not ours alone
            etc.parent.rmdir()
        for name in (made.app, made.gw):
            subprocess.run(["ip", "netns", "delete", name], capture_output=True, check=False)
