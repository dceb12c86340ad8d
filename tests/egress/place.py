"""An app, a gateway and an internet in namespaces of their own, and the suite run in the app's place."""

from __future__ import annotations

import contextlib
import copy
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from egress.internet import Internet, VendorsInside, enter
from envoy.machine import HOSTS, Machine, free_ports
from envoy.namespaces import (
    GATEWAY_ADDRESS,
    GATEWAY_NAME,
    METADATA,
    RESOLVERS,
    UNKNOWN,
    UNKNOWN6,
    VENDOR_ADDRESSES,
    VENDOR_ADDRESSES6,
    Namespaces,
    run,
    with_internet,
)
from extproc.adapters.envoy_binary import envoy_command, find_envoy
from extproc.adapters.pki import create_ca

ROOT = Path(__file__).resolve().parents[2]
REDIRECT_PORT, TRAP_PORT = 15001, 15443
OTHER_PORT = 8443  # one is enough: each port is a rule's one line
NOBODY = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--bounding-set=-all", "--inh-caps=-all")
TABLE = ("inet", "extproc_egress")


class GatewayInside(Machine):
    """`extproc up` in `gw`; the vendors are in `inet`, at addresses of their own."""

    def __init__(self, names: Namespaces, folder: Path) -> None:
        super().__init__(
            folder, workers=2, options=("--bind", "0.0.0.0", "--name", GATEWAY_NAME), prefix=names.prefix("gw")
        )
        self.ports |= {"redirect": REDIRECT_PORT, "trap": TRAP_PORT}
        authority = create_ca(folder / "far-ca", "vendors of this test")
        self.vendor_ca = folder / "far-ca" / "ca.pem"
        self.vendors.discard()
        self.vendors = VendorsInside(names, authority, self.vendor_keys, self.alpn)
        self.internet = Internet(names, authority)
        self.access = "- {team: payments, models: [gpt-4o-mini]}"

    def start(self) -> None:
        self.internet.start()
        super().start()

    def write_config(self, extra: str | None = None) -> None:
        """The vendors' own addresses, as the gateway's resolver would tell them."""
        super().write_config(extra)
        text = self.config.read_text()
        for api, sim in self.vendors.sims.items():
            text = text.replace(f'"127.0.0.1:{sim.port}"', f'"{VENDOR_ADDRESSES[HOSTS[api]]}:443"')
        self.config.write_text(text)

    def stop(self) -> None:
        try:
            super().stop()
        finally:
            self.internet.stop()


@dataclass
class Verdict:
    """What the suite said: its exit code, and each road's row."""

    code: int
    rows: dict[str, dict[str, Any]]
    told: str

    def outcome(self, road: str) -> str:
        return self.rows[road]["outcome"]

    def open(self) -> list[str]:
        return [road for road, row in self.rows.items() if row["outcome"] == "open"]


class Place:
    """The three namespaces with everything in them."""

    def __init__(self, names: Namespaces, machine: GatewayInside, shared: Path) -> None:
        self.names, self.machine, self.shared = names, machine, shared
        self.restart_variant: Callable[[], None] = lambda: None

    def lock(self, *options: str) -> None:
        """Load the rule set as an operator would, in the gateway's namespace."""
        words = ("--mode", "gateway", "--from", f"vg{self.mark}", "--user", "0", "--resolver", "192.0.2.53")
        self.gw(sys.executable, "-m", "extproc", "egress", "install", *words, *self._state(), *options)

    def unlock(self) -> None:
        """Remove the rules."""
        self.gw(sys.executable, "-m", "extproc", "egress", "remove", *self._state())

    def _state(self) -> tuple[str, str]:
        return "--state", str(self.machine.state)

    @property
    def mark(self) -> str:
        return self.names.app.rpartition("-")[2]

    def gw(self, *command: str) -> str:
        """Run a command in the gateway's namespace."""
        return run(*self.names.prefix("gw"), *command, timeout=60)

    def app(self, *command: str, **options: Any) -> subprocess.CompletedProcess[str]:
        """Run a command in the app's namespace, with an app's environment."""
        environment = {
            "PATH": os.environ["PATH"],
            "SSL_CERT_FILE": str(self.machine.bundle),
            "OPENAI_API_KEY": self.machine.key,
            "ANTHROPIC_API_KEY": self.machine.key,
            **options.pop("env", {}),
        }
        full = [*self.names.prefix("app"), *command]
        defaults = {"capture_output": True, "text": True, "timeout": 90, "check": False, "env": environment}
        return subprocess.run(full, **(defaults | options))

    def words(self, *options: str, ports: dict[str, int] | None = None) -> list[str]:
        """The command line of the suite for this place."""
        used = ports or self.machine.ports
        words = [sys.executable, "-m", "extproc", "egress", "verify", "--json", "--gateway", GATEWAY_ADDRESS]
        for host, address in VENDOR_ADDRESSES.items():
            words += ["--vendor", f"{host}={address},{VENDOR_ADDRESSES6[host]}"]
        words += ["--unlisted", f"{UNKNOWN[0]}={UNKNOWN[1]},{UNKNOWN6}", "--other-port", str(OTHER_PORT)]
        for address in RESOLVERS:
            words += ["--outside", address]
        for address in METADATA:
            words += ["--metadata", address]
        words += ["--private", str(used["admin"]), "--timeout", "3"]
        words += [w for name in ("base_url", "connect") for w in ("--port", f"{name}={used[name]}")]
        for name, option in (("ca.pem", "--ca"), ("key", "--key"), ("other", "--other-key")):
            words += [option, str(self.shared / name)]
        return [*words, *options]

    def verify(self, *options: str, ports: dict[str, int] | None = None, plain: bool = True, **more: Any) -> Verdict:
        """Run the suite as nobody without any capability, or as root (for commands that restart something)."""
        prefix = NOBODY if plain else ()
        return read(self.app(*prefix, *self.words(*options, ports=ports), **more))

    def inside(self, work: Callable[[], Any]) -> Any:
        """Run a function in a thread that lives in the gateway's namespace; what it returned."""
        found: list[Any] = []

        def run_it() -> None:
            enter(self.names.gw)
            found.append(work())

        thread = threading.Thread(target=run_it, daemon=True)
        thread.start()
        thread.join(20)
        assert found, "the work in the gateway's namespace failed"
        return found[0]

    @contextlib.contextmanager
    def letting(self, *matches: str) -> Iterator[None]:
        """The rules, with an exception in front of them for each match."""
        self.lock()
        try:
            for match in matches:
                for chain, verdict in (("lead_prerouting", "return"), ("forward", "accept")):
                    if "established" not in match or chain == "forward":
                        self.gw("nft", f"insert rule {' '.join(TABLE)} {chain} {match} {verdict}")
            yield
        finally:
            self.lock()

    @contextlib.contextmanager
    def variant(self, edit: Callable[[dict[str, Any]], None]) -> Iterator[dict[str, int]]:
        """A second Envoy before the same workers, with one thing changed; its ports. `restart_variant` restarts it."""
        folder = Path(tempfile.mkdtemp(prefix="llm-variant-"))
        state = self.machine.state / "envoy"
        ports = dict(zip(("base_url", "connect", "admin"), free_ports(3), strict=True))
        started: list[subprocess.Popen[bytes]] = []

        def start() -> None:
            for process in started:
                process.kill()
                process.wait(10)
            with (folder / "run" / "out").open("wb") as out:
                process = subprocess.Popen(command, cwd=folder, stdout=out, stderr=out, start_new_session=True)
            started.append(process)
            self._wait_for(ports, process, folder / "run" / "out")

        command = [*self.names.prefix("gw"), *envoy_command(find_envoy(), concurrency=1, drain=5)]
        try:
            shutil.copytree(state, folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns("*.sock", "*.log"))
            for sock in (state / "run").glob("*.sock"):
                (folder / "run" / sock.name).symlink_to(sock)
            bootstrap = changed(yaml.safe_load((state / "bootstrap.yaml").read_text()), ports)
            edit(bootstrap)
            (folder / "bootstrap.yaml").write_text(yaml.safe_dump(bootstrap))
            start()
            self.restart_variant = start
            yield ports
        finally:
            for process in started:
                process.kill()
                process.wait(10)
            shutil.rmtree(folder, ignore_errors=True)

    def _wait_for(self, ports: dict[str, int], process: subprocess.Popen[bytes], out: Path) -> None:
        """Until it says that it is live, and its filters have their routes."""
        url = f"http://127.0.0.1:{ports['admin']}/ready"
        code = f"import urllib.request as u; print(u.urlopen({url!r}, timeout=2).read().decode())"
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            assert process.poll() is None, out.read_text()[-2000:]
            ask = [*self.names.prefix("gw"), sys.executable, "-c", code]
            if "LIVE" in subprocess.run(ask, capture_output=True, text=True, timeout=10, check=False).stdout:
                return
            time.sleep(0.1)
        raise AssertionError(out.read_text()[-2000:])


def changed(bootstrap: dict[str, Any], ports: dict[str, int]) -> dict[str, Any]:
    """The same gateway on other ports, with the entries that the suite uses and no other."""
    made = copy.deepcopy(bootstrap)
    made["admin"]["address"] = {"socket_address": {"address": "127.0.0.1", "port_value": ports["admin"]}}
    kept = []
    for listener in made["static_resources"]["listeners"]:
        if listener["name"] in ports:
            listener["address"]["socket_address"] = {"address": "0.0.0.0", "port_value": ports[listener["name"]]}
        if listener["name"] in ports or "internal_listener" in listener:
            kept.append(listener)
    made["static_resources"]["listeners"] = kept
    return made


def read(done: subprocess.CompletedProcess[str]) -> Verdict:
    """What the suite printed."""
    assert done.stdout, done.stderr
    told = json.loads(done.stdout)
    return Verdict(done.returncode, {row["road"]: row for row in told["roads"]}, done.stderr)


@contextlib.contextmanager
def standing(folder: Path) -> Iterator[Place]:
    """Everything, for the time of a `with` block; all of it is removed at its end."""
    shared = Path(tempfile.mkdtemp(prefix="llm-app-"))  # what an app is given: not under a folder that is root's alone
    try:
        with with_internet() as names:
            run(
                *names.prefix("app"), "sysctl", "-qw", "net.ipv4.ping_group_range=0 65535"
            )  # as container engines set it
            machine = GatewayInside(names, folder)
            try:
                machine.start()
                place = Place(names, machine, shared)
                _hand_out(machine, shared)
                yield place
            finally:
                if machine.process is not None:
                    machine.stop()
                else:
                    machine.vendors.stop()
                    machine.internet.stop()
    finally:
        shutil.rmtree(shared, ignore_errors=True)


def _hand_out(machine: GatewayInside, shared: Path) -> None:
    shared.chmod(0o755)
    made = machine.cli("keys", "create", "--team", "payments", "--app", "other", "--tenant", "another")
    assert made.returncode == 0, made.stderr
    for name, text in (("ca.pem", machine.ca.read_text()), ("key", machine.key), ("other", made.stdout.strip())):
        (shared / name).write_text(text)
        (shared / name).chmod(0o644)


@contextlib.contextmanager
def held(place: Place) -> Iterator[tuple[subprocess.Popen[str], Callable[[], tuple[str, str]]]]:
    """The suite with connections open from before; the function tells it that the policy is in, and returns what it wrote."""
    command = [*place.names.prefix("app"), *NOBODY, *place.words("--only", "before-policy", "--hold")]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    process = subprocess.Popen(command, text=True, env={"PATH": os.environ["PATH"]}, **pipes)
    try:
        assert process.stderr is not None
        assert " are open" in process.stderr.readline()
        yield process, lambda: process.communicate("\n", timeout=60)
    finally:
        if process.poll() is None:
            process.kill()
            process.communicate(timeout=10)
