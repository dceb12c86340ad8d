"""A whole gateway for a test: simulated vendors in a thread of this process, `extproc up` as its own process.

Everything listens on loopback, on ports that were free a moment before. What the vendors saw and what is on record can
be asked.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from extproc.adapters.pki import Authority, create_ca
from extproc.sim.answer import SimAnswer
from extproc.sim.seen import SeenRequest
from extproc.sim.server import Settings, Simulator
from extproc.sim.vendors import Vendors

T = TypeVar("T")

HOSTS = {"openai": "api.openai.com", "anthropic": "api.anthropic.com"}
ENTRIES = ("intercept", "connect", "base_url", "base_url_tls", "redirect", "trap", "admin")

CONFIG = """
version: 1
providers:
  openai:
    api: openai
    hosts: [api.openai.com]
    credential: {{env: TEST_OPENAI_KEY}}
    upstream: {{address: "127.0.0.1:{openai}", ca: {ca}}}
    models: [gpt-4o-mini]
  anthropic:
    api: anthropic
    hosts: [api.anthropic.com]
    credential: {{env: TEST_ANTHROPIC_KEY}}
    upstream: {{address: "127.0.0.1:{anthropic}", ca: {ca}}}
    models: [claude-haiku-4-5]
{providers}
keys: {{file: keys.json, pepper: {{file: pepper}}}}
access:
- {{team: demo}}
{access}
aliases:
  fast: {{provider: openai, model: gpt-4o-mini}}
  smart: {{provider: anthropic, model: claude-haiku-4-5}}
{aliases}
{extra}
workers: {{count: {workers}, drain: 20s}}
metrics: {{address: "127.0.0.1:{metrics}"}}
"""

LIMITS = """
limits: {request_body: 32MiB, response_body: 64MiB}
"""


def free_ports(count: int) -> list[int]:
    """Ports that are free now; held together while they are found, so that no two are the same."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


class SimThread:
    """Simulated vendors: one simulator per api, on an event loop in a thread."""

    def __init__(self, authority: Authority, keys: dict[str, str], alpn: tuple[str, ...]) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="simulator", daemon=True)
        self._authority = authority
        self._keys = keys
        self._alpn = alpn
        self.sims: dict[str, Simulator] = {}

    def start(self) -> None:
        self._thread.start()
        for api, host in HOSTS.items():
            vendors = Vendors((api,), {api: (self._keys[api],)})
            settings = Settings(vendors=vendors, certificate=self._authority.issue([host]), keep=5000, alpn=self._alpn)
            self.sims[api] = Simulator(settings=settings)
            self.call(self.sims[api].start())

    def discard(self) -> None:
        """Give up what was never started."""
        self._loop.close()

    def call(self, work: Any, timeout: float = 20) -> Any:
        """Run a coroutine on the simulators' loop."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(timeout)

    def do(self, what: Callable[[], T]) -> T:
        """Run a function on the simulators' loop."""

        async def run() -> T:
            return what()

        return self.call(run())

    def stop(self) -> None:
        for sim in self.sims.values():
            self.call(sim.close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()


@dataclass
class Machine:
    """See the module text. `options`: more arguments for `up`; `prefix`: a command to run `up` in (a namespace).

    `alpn`: what the vendors speak.
    """

    folder: Path
    extra: str = LIMITS
    providers: str = ""  # more of them, in YAML; {openai}, {anthropic} and {ca} stand for the vendors' ports and CA
    access: str = ""  # more rules, in YAML
    aliases: str = ""  # more of them, in YAML
    workers: int = 2
    options: tuple[str, ...] = ()
    prefix: tuple[str, ...] = ()
    alpn: tuple[str, ...] = ("h2", "http/1.1")
    environment: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        names = (*ENTRIES, "metrics")
        self.ports = dict(zip(names, free_ports(len(names)), strict=True))
        self.vendor_keys = {api: f"vendor-{secrets.token_hex(12)}" for api in HOSTS}
        self.folder.mkdir(parents=True, exist_ok=True)
        self.state = self.folder / "st"
        authority = create_ca(self.folder / "vendor-ca", "vendors of this test")
        self.vendor_ca = self.folder / "vendor-ca" / "ca.pem"
        self.vendors = SimThread(authority, self.vendor_keys, self.alpn)
        self.process: subprocess.Popen[bytes] | None = None

    # ---- life

    def start(self) -> None:
        """Start vendors and gateway; returns when every entry takes calls."""
        self.vendors.start()
        self.write_config()
        self.launch()

    def write_config(self, extra: str | None = None) -> None:
        """Write gateway.yaml (by rename, as a live change should be)."""
        if extra is not None:
            self.extra = extra
        vendors = {api: sim.port for api, sim in self.vendors.sims.items()} | {"ca": self.vendor_ca}
        text = CONFIG.format(
            **vendors,
            providers=self.providers.format(**vendors),
            extra=self.extra,
            access=self.access,
            aliases=self.aliases,
            workers=self.workers,
            metrics=self.ports["metrics"],
        )
        new = self.folder / ".gateway.yaml.new"
        new.write_text(text)
        new.rename(self.config)

    @property
    def config(self) -> Path:
        return self.folder / "gateway.yaml"

    def launch(self) -> None:
        """Start `extproc up` and wait until it says that it is up."""
        ports = [word for name in ENTRIES for word in ("--port", f"{name}={self.ports[name]}")]
        command = [
            *self.prefix,
            *(sys.executable, "-m", "extproc", "up", "--config", str(self.config), "--state", str(self.state)),
            *ports,
            *self.options,
        ]
        keys = {f"TEST_{api.upper()}_KEY": key for api, key in self.vendor_keys.items()}
        out = (self.folder / "up.out").open("wb")
        with out:
            self.process = subprocess.Popen(
                command,
                cwd=Path(__file__).resolve().parents[2],
                env={**os.environ, **keys, **self.environment},
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                start_new_session=True,
            )
        deadline = time.monotonic() + 110  # detectors are compiled on the first start
        while b"is up" not in (self.folder / "up.out").read_bytes():
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise AssertionError(f"the gateway did not start:\n{(self.folder / 'up.out').read_text()}")
            time.sleep(0.05)
        self.key = (self.state / "first-key").read_text().strip()
        self.bundle = self.state / "ca" / "bundle.pem"
        self.ca = self.state / "ca" / "ca.pem"

    def stop(self) -> None:
        """Drain and end everything; the gateway's exit code must be 0."""
        code = self.stop_gateway()
        self.vendors.stop()
        assert code == 0, (self.folder / "up.out").read_text()

    def stop_gateway(self, number: signal.Signals = signal.SIGTERM) -> int:
        """End `up` alone; its exit code."""
        if self.process is None or self.process.poll() is not None:
            return 0
        self.process.send_signal(number)
        try:
            return self.process.wait(40)
        except subprocess.TimeoutExpired:
            self.process.kill()
            return self.process.wait()

    # ---- vendors

    def seen(self, api: str = "openai") -> list[SeenRequest]:
        """What a vendor was sent, oldest first."""
        return self.vendors.do(lambda: list(self.vendors.sims[api].requests))

    def holding(self, values: Iterable[str]) -> dict[str, dict[int, list[str]]]:
        """By vendor: which requests hold any of these values, in whatever spelling, and which of them."""
        wanted = list(values)
        found = {
            api: self.vendors.do(lambda sim=sim: sim.requests.holding(wanted)) for api, sim in self.vendors.sims.items()
        }
        return {api: held for api, held in found.items() if held}

    def forget(self) -> None:
        """Forget what the vendors were sent, and scripted answers that are left."""

        def clear() -> None:
            for sim in self.vendors.sims.values():
                sim.requests.clear()
                sim.clear_script()

        self.vendors.do(clear)

    def script(self, api: str, *answers: SimAnswer) -> None:
        """The vendor's next answers."""
        self.vendors.do(lambda: self.vendors.sims[api].script(*answers))

    # ---- what the gateway says

    def url(self, entry: str = "base_url") -> str:
        """The base of an entry."""
        scheme = "https" if entry == "base_url_tls" else "http"
        host = "localhost" if entry == "base_url_tls" else "127.0.0.1"
        return f"{scheme}://{host}:{self.ports[entry]}"

    def records(self, **wanted: object) -> list[dict[str, Any]]:
        """Records on file whose fields have these values."""
        found = []
        log = self.state / "extproc.log"
        for line in log.read_text().splitlines() if log.exists() else []:
            entry = json.loads(line)
            if entry.get("event") == "exchange" and all(entry.get(name) == value for name, value in wanted.items()):
                found.append(entry)
        return found

    def wait_records(self, count: int, timeout: float = 10, **wanted: object) -> list[dict[str, Any]]:
        """Wait for at least `count` records with these fields: they are written when Envoy has closed the stream."""
        deadline = time.monotonic() + timeout
        while True:
            found = self.records(**wanted)
            if len(found) >= count or time.monotonic() > deadline:
                return found
            time.sleep(0.05)

    def access_log(self) -> list[dict[str, Any]]:
        """Envoy's access log (it is written at most a second late)."""
        return [json.loads(line) for line in (self.state / "envoy/run/access.log").read_text().splitlines()]

    def get(self, name: str, path: str) -> str:
        """GET from `admin` or `metrics`."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.ports[name]}{path}", timeout=10) as answer:
            return answer.read().decode()

    def workers_now(self) -> list[dict[str, Any]]:
        """The worker processes, as /healthz tells them: `worker`, `pid`, `state`."""
        return json.loads(self.get("metrics", "/healthz"))["workers"]

    def wait_live(self, generation: int = 2, timeout: float = 10) -> None:
        """Wait until every worker has this generation of gateway.yaml."""
        deadline = time.monotonic() + timeout
        while f"llm_config_generation {float(generation)}" not in self.get("metrics", "/metrics"):
            assert time.monotonic() < deadline, "the changed gateway.yaml did not become live"
            time.sleep(0.1)

    def cli(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Run an `extproc` command on this gateway's files."""
        place = ["--config", str(self.config), "--state", str(self.state)]
        command = [sys.executable, "-m", "extproc", *words, *place]
        return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


@contextlib.contextmanager
def running(folder: Path, **options: Any) -> Iterator[Machine]:
    """A machine for the time of a `with` block."""
    machine = Machine(folder, **options)
    with contextlib.ExitStack() as half_done:
        half_done.callback(machine.vendors.stop)
        half_done.callback(machine.stop_gateway)
        machine.start()
        half_done.pop_all()
    try:
        yield machine
    finally:
        machine.stop()
