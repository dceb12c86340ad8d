"""One cell: one variant under one load for a short time, with the CPU time that it took."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from load import Command
from rig import VARIANTS, Gateway, cpu_seconds, memory

SETTLE = 0.05  # seconds: what comes after the last byte (records, log) belongs to the cell


@dataclass(frozen=True)
class Case:
    """`size`: bytes of the request; `bench`: what the provider is told (see vendor.py); `connections` of each row."""

    name: str
    size: int
    bench: str = ""
    connections: tuple[int, ...] = (1, 16)
    seconds: float = 0.8
    repetitions: int = 7


class Load:
    """The load generator's process."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("load.py"))], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )

    def run(self, command: Command) -> dict[str, Any]:
        stdin, stdout = self._process.stdin, self._process.stdout
        if stdin is None or stdout is None:
            raise RuntimeError("the load generator has no pipes")
        stdin.write(json.dumps(asdict(command)).encode() + b"\n")
        stdin.flush()
        line = stdout.readline()
        if not line:
            raise RuntimeError("the load generator ended")
        return json.loads(line)

    def stop(self) -> None:
        self._process.terminate()
        self._process.wait(10)


def warm_up(gateway: Gateway, load: Load) -> None:
    """Call every variant until it answers, and then for a while: caches fill, connections open."""
    for variant in VARIANTS:
        for _ in range(50):
            result = load.run(Command(gateway.ports[variant], gateway.key, 2048, 1, 0.0))
            if result["calls"]:
                break
            time.sleep(0.2)
        else:
            raise RuntimeError(f"{variant} does not answer: {result['example']}")
        load.run(Command(gateway.ports[variant], gateway.key, 2048, 8, 1.0))


def cell(gateway: Gateway, load: Load, variant: str, case: Case, connections: int) -> dict[str, Any]:
    """Measure once. CPU times are µs per call."""
    pids = gateway.pids
    groups = {"python": pids[variant], "envoy": pids["envoy"]}
    before = {name: sum(map(cpu_seconds, group)) for name, group in groups.items()}
    command = Command(gateway.ports[variant], gateway.key, case.size, connections, case.seconds, case.bench)
    result = load.run(command)
    time.sleep(SETTLE)
    if result["errors"] or not result["calls"]:
        raise RuntimeError(f"{variant}, {case.name}: {result['errors']} of the calls failed: {result['example']}")
    for name, group in groups.items():
        result[f"{name}_us"] = (sum(map(cpu_seconds, group)) - before[name]) * 1e6 / result["calls"]
    result["rps"] = result["calls"] / result["seconds"]
    return result


def row(gateway: Gateway, load: Load, case: Case, connections: int, tell: Callable[[str], None]) -> dict[str, Any]:
    """All repetitions of a case at one concurrency; in each, every variant once, in an order that rotates."""
    runs: dict[str, list[dict[str, Any]]] = {variant: [] for variant in VARIANTS}
    for repetition in range(case.repetitions):
        tell(f"{case.name}, {connections} at a time, {repetition + 1}/{case.repetitions}")
        turn = repetition % len(VARIANTS)
        for variant in (*VARIANTS[turn:], *VARIANTS[:turn]):
            runs[variant].append(cell(gateway, load, variant, case, connections))
    return {"case": case.name, "connections": connections, "stream": bool(case.bench), "runs": runs}


def held_streams(gateway: Gateway, load: Load, count: int) -> dict[str, int]:
    """Resident bytes a stream, of streams that have begun and then wait."""
    found = {}
    for variant in ("noop", "ours"):
        (pid,) = gateway.pids[variant]
        command = Command(gateway.ports[variant], gateway.key, 2048, count, 0.0, "hold", hold=True)
        before = memory(pid)
        result = load.run(command)
        time.sleep(0.5)
        if result["errors"]:
            raise RuntimeError(f"{variant}: {result['errors']} of {count} streams did not begin: {result['example']}")
        found[variant] = (memory(pid) - before) // count
        load.run(Command(gateway.ports[variant], gateway.key, 2048, 1, 0.0))
    return found
