"""Envoy alone with the shipped files: no policy stage, no vendor. What it does by itself can be asked here."""

from __future__ import annotations

import contextlib
import json
import subprocess
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from envoy.machine import ENTRIES, free_ports
from envoy.ways import wait_for
from extproc.adapters.envoy_binary import envoy_command, find_envoy
from extproc.adapters.envoy_files import Node, read_yaml
from extproc.adapters.envoy_render import Address, Overrides, render
from extproc.adapters.pki import Authority, create_ca, write_sds_certificate, write_sds_secret

SHIPPED = Path(__file__).resolve().parents[2] / "envoy"
NAMES = {"intercept-openai": "api.openai.com", "intercept-anthropic": "api.anthropic.com", "gateway": "localhost"}
KEY = "vendor-key-of-a-test"


@dataclass
class Plain:
    """A running Envoy. `ports`: entry -> port."""

    state: Path
    ports: dict[str, int]
    authority: Authority
    pid: int = 0  # while it runs

    def admin(self, path: str) -> str:
        """GET from the admin port."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.ports['admin']}{path}", timeout=5) as answer:
            return answer.read().decode()

    def stats(self, prefix: str) -> dict[str, int]:
        """Counters and gauges whose name begins so."""
        found = json.loads(self.admin(f"/stats?format=json&filter=^{prefix}"))["stats"]
        return {item["name"]: item["value"] for item in found if "value" in item}

    def events(self, name: str) -> list[dict[str, Any]]:
        """Lines of the access log with this `event`, as far as they are written."""
        log = self.state / "run" / "access.log"
        lines = log.read_text().splitlines() if log.exists() else []
        return [line for line in map(json.loads, lines) if line["event"] == name]

    def wait_events(self, name: str, count: int) -> list[dict[str, Any]]:
        """Wait until there are at least `count` of them."""
        found: list[dict[str, Any]] = wait_for(
            lambda: (e := self.events(name)) if len(self.events(name)) >= count else []
        )
        return found


def prepare(state: Path, change: Callable[[Node, Node], None], bind: str = "127.0.0.1") -> Plain:
    """Write a state folder: the shipped files, free ports, certificates; then `change(bootstrap, clusters)`."""
    ports = dict(zip(ENTRIES, free_ports(len(ENTRIES)), strict=True))
    addresses = {name: Address("127.0.0.1" if name == "admin" else bind, port) for name, port in ports.items()}
    bootstrap = render(SHIPPED, state, Overrides(listeners=addresses, workers=1, access_log="run/access.log"))
    authority = create_ca(state / "ca", "ca of a test")
    for name, host in NAMES.items():
        write_sds_certificate(state / "sds" / f"{name}.yaml", name, authority.issue([host]))
    for provider in ("openai", "anthropic"):
        write_sds_secret(state / "sds" / f"{provider}-key.yaml", f"{provider}-key", KEY)
    clusters = state / "xds" / "cds.yaml"
    documents = read_yaml(bootstrap), read_yaml(clusters)
    change(*documents)
    for path, document in zip((bootstrap, clusters), documents, strict=True):
        path.write_text(yaml.safe_dump(document, sort_keys=False))
    return Plain(state, ports, authority)


@contextlib.contextmanager
def running(plain: Plain, prefix: tuple[str, ...] = ()) -> Iterator[Plain]:
    """Run it. `prefix`: a command to run it in; the admin port is then asked inside."""
    command = [*prefix, *envoy_command(find_envoy(), concurrency=1, drain=5)]
    log = (plain.state / "run" / "envoy.log").open("wb")
    with log:
        process = subprocess.Popen(command, cwd=plain.state, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    try:
        deadline = time.monotonic() + 30
        while not _ready(plain, prefix):
            said = (plain.state / "run" / "envoy.log").read_text(errors="replace")
            assert process.poll() is None, said[-3000:]
            assert time.monotonic() < deadline, said[-3000:]
            time.sleep(0.1)
        plain.pid = process.pid
        yield plain
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _ready(plain: Plain, prefix: tuple[str, ...]) -> bool:
    probe = f"import urllib.request as u; u.urlopen('http://127.0.0.1:{plain.ports['admin']}/ready', timeout=2)"
    if prefix:
        return subprocess.run([*prefix, "python3", "-c", probe], capture_output=True, check=False).returncode == 0
    try:
        return plain.admin("/ready").strip() == "LIVE"
    except OSError:
        return False
