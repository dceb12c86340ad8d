"""Everything that is measured, on loopback: a cheap provider, `extproc up`, and no-op processors beside its workers.

One Envoy carries all variants. Two listeners are added to the project's own Envoy files: `bench_plain`, without the
ext_proc filter, and `bench_noop`, whose ext_proc filter leads to the no-op processors. Their routes name the provider's
cluster, since nobody names it for them. All else (two hops, TLS, credential injection, access log) is the same.
"""

from __future__ import annotations

import contextlib
import copy
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from extproc.adapters.pki import create_ca
from extproc.cli.ports import PORTS

HERE = Path(__file__).resolve().parent
PROJECT = HERE.parent
HOST = "api.openai.com"
ENTRIES = tuple(PORTS)
VARIANTS = ("plain", "noop", "ours")
MAX_BODY = 32 << 20

CONFIG = """
version: 1
providers:
  openai:
    api: openai
    hosts: [{host}]
    credential: {{env: BENCH_PROVIDER_KEY}}
    upstream: {{address: "127.0.0.1:{provider}", ca: {ca}}}
  anthropic:
    api: anthropic
    hosts: [api.anthropic.com]
    credential: {{env: BENCH_PROVIDER_KEY}}
    upstream: {{address: "127.0.0.1:{provider}", ca: {ca}}}
keys: {{file: keys.json, pepper: {{file: pepper}}}}
access:
- {{team: demo}}
workers: {{count: {workers}, drain: 2s}}
metrics: {{address: "127.0.0.1:{metrics}"}}
"""


def free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


def cpu_seconds(pid: int) -> float:
    """CPU time of all threads of a process, ended ones too, in ns resolution (clock_getcpuclockid(3))."""
    return time.clock_gettime(((~pid) << 3) | 2)


def memory(pid: int) -> int:
    """Resident bytes of a process."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def write_envoy_files(folder: Path, ports: Mapping[str, int], processors: int) -> None:
    """The project's Envoy files with the two listeners of the yardsticks."""
    shutil.copytree(PROJECT / "envoy", folder)
    path = folder / "bootstrap.yaml"
    bootstrap = yaml.safe_load(path.read_text())
    routes = yaml.safe_load((folder / "xds" / "rds.yaml").read_text())
    clusters = yaml.safe_load((folder / "xds" / "cds.yaml").read_text())
    listeners = bootstrap["static_resources"]["listeners"]
    entry = next(item for item in listeners if item["name"] == "base_url")
    for variant in ("plain", "noop"):
        listeners.append(_listener(entry, routes["resources"][0], variant, ports[variant]))
    cluster = copy.deepcopy(next(item for item in clusters["resources"] if item["name"] == "extproc"))
    cluster["name"] = cluster["load_assignment"]["cluster_name"] = "noop"
    pipes = [{"endpoint": {"address": {"pipe": {"path": f"run/noop-{n}.sock"}}}} for n in range(processors)]
    cluster["load_assignment"]["endpoints"] = [{"lb_endpoints": pipes}]
    clusters["resources"].append(cluster)
    path.write_text(yaml.safe_dump(bootstrap, sort_keys=False))
    (folder / "xds" / "cds.yaml").write_text(yaml.safe_dump(clusters, sort_keys=False))


def _listener(entry: Any, routes: Any, variant: str, port: int) -> Any:
    listener = copy.deepcopy(entry)
    listener["name"] = f"bench_{variant}"
    listener["address"]["socket_address"]["port_value"] = port
    (chain,) = listener["filter_chains"]
    chain["name"] = listener["name"]
    manager = chain["filters"][0]["typed_config"]
    del manager["rds"]
    manager["route_config"] = copy.deepcopy(routes)
    del manager["route_config"]["@type"]
    manager["route_config"] |= {"name": listener["name"], "validate_clusters": False}
    for route in manager["route_config"]["virtual_hosts"][0]["routes"]:
        plugin = route["route"]["inline_cluster_specifier_plugin"]["extension"]["typed_config"]
        plugin["priority_groups"] = [{"name": "openai", "clusters": [{"cluster_name": "openai", "weight": 1}]}]
    if variant == "plain":
        manager["http_filters"] = [item for item in manager["http_filters"] if item["name"] != "llm.policy"]
    else:
        policy = next(item for item in manager["http_filters"] if item["name"] == "llm.policy")
        policy["typed_config"]["grpc_service"] = {"envoy_grpc": {"cluster_name": "noop"}}
    return listener


@dataclass
class Gateway:
    """`workers`: of ours, and as many no-op processors; `concurrency`: Envoy's worker threads."""

    folder: Path
    workers: int = 1
    concurrency: int = 1
    extra: str = ""  # more of the configuration
    processes: list[subprocess.Popen[bytes]] = field(default_factory=list)
    pids: dict[str, list[int]] = field(default_factory=dict)

    def start(self) -> None:
        names = (*ENTRIES, "metrics", "plain", "noop")
        self.ports = dict(zip(names, free_ports(len(names)), strict=True))
        self.ports["ours"] = self.ports["base_url"]
        self.folder.mkdir(parents=True)
        provider = self._provider()
        write_envoy_files(self.folder / "envoy", self.ports, self.workers)
        self.config = self.folder / "gateway.yaml"
        values = {"host": HOST, "provider": provider, "ca": self.folder / "ca" / "ca.pem", "workers": self.workers}
        self.config.write_text(CONFIG.format(**values, metrics=self.ports["metrics"]) + self.extra)
        self._up()
        self._noop()
        self.key = (self.state / "first-key").read_text().strip()

    def _provider(self) -> int:
        leaf = create_ca(self.folder / "ca", "provider of the benchmark").issue([HOST, "api.anthropic.com"])
        files = []
        for name, data in (("cert.pem", leaf.cert_pem), ("cert.key", leaf.key_pem)):
            path = self.folder / name
            path.touch(mode=0o600)
            path.write_bytes(data)
            files.append(str(path))
        process = subprocess.Popen([sys.executable, str(HERE / "vendor.py"), *files], stdout=subprocess.PIPE)
        self.processes.append(process)
        if process.stdout is None:
            raise RuntimeError("the provider has no output")
        return int(process.stdout.readline())

    def _up(self) -> None:
        self.state = self.folder / "st"
        ports = [word for name in ENTRIES for word in ("--port", f"{name}={self.ports[name]}")]
        out = self.folder / "up.out"
        with out.open("wb") as file:
            process = subprocess.Popen(
                [
                    *(sys.executable, "-m", "extproc", "up", "--config", str(self.config), "--state", str(self.state)),
                    *("--envoy-files", str(self.folder / "envoy"), "--concurrency", str(self.concurrency), *ports),
                ],
                cwd=self.folder,
                env={**os.environ, "BENCH_PROVIDER_KEY": secrets.token_hex(16), "EXTPROC_ENVOY": _envoy()},
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=file,
            )
        self.processes.append(process)
        _wait(lambda: b"is up" in out.read_bytes() or process.poll() is not None)
        if process.poll() is not None:
            raise RuntimeError(f"the gateway did not start:\n{out.read_text()}")
        with urllib.request.urlopen(f"http://127.0.0.1:{self.ports['metrics']}/healthz", timeout=10) as answer:
            self.pids["ours"] = [worker["pid"] for worker in json.load(answer)["workers"]]
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        self.pids["envoy"] = [pid for pid in map(int, children) if "envoy" in Path(f"/proc/{pid}/comm").read_text()]
        if not self.pids["envoy"]:
            raise RuntimeError("Envoy was not found among the children of `extproc up`")

    def _noop(self) -> None:
        self.pids["noop"], self.pids["plain"] = [], []
        for number in range(self.workers):
            path = self.state / "envoy" / "run" / f"noop-{number}.sock"
            process = subprocess.Popen(
                [sys.executable, str(HERE / "noop.py"), str(path), str(MAX_BODY)], stdout=subprocess.DEVNULL
            )
            self.processes.append(process)
            self.pids["noop"].append(process.pid)

    def stop(self) -> None:
        for process in reversed(self.processes):
            process.send_signal(signal.SIGTERM)
        for process in reversed(self.processes):
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _envoy() -> str:
    from extproc.adapters.envoy_binary import find_envoy

    return str(find_envoy())


def _wait(ready: Any, limit: float = 60) -> None:
    until = time.monotonic() + limit
    while not ready():
        if time.monotonic() > until:
            raise RuntimeError("a part of the benchmark did not start in time")
        time.sleep(0.05)


@contextlib.contextmanager
def running(folder: Path, **options: int) -> Iterator[Gateway]:
    gateway = Gateway(folder, **options)
    try:
        gateway.start()
        yield gateway
    finally:
        gateway.stop()
