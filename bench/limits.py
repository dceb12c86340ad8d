"""`make bench-limits`: the gateway with limits (three scopes, embedded Valkey) beside the gateway without, through Envoy.

Two gateways run at once, each with its Envoy, one worker and the same provider; one of them has `quotas`. They are
measured by turns, and what limits add is taken within a turn. `--quick`: fewer and shorter turns.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any

from limits_core import QUOTAS
from load import Command
from measure import SETTLE, Case, Load
from rig import PROJECT, Gateway, cpu_seconds

OUT = Path(__file__).resolve().parent / "limits.json"
SIDES = ("off", "on")
CASES = (
    Case("2 KB", 2048, repetitions=15),
    Case("100 chunks", 2048, bench="stream=100,5", seconds=1.2, repetitions=7),
)
QUICK = {"2 KB": (5, 0.5), "100 chunks": (2, 0.7)}
Run = dict[str, Any]
GOAL_P50 = 0.35  # ms that limits may add at one call at a time
GOAL_CPU = 120.0  # µs of Python


class Side(Gateway):
    """A gateway without the yardsticks' processors."""

    def _noop(self) -> None:
        self.pids["store"] = []
        with urllib.request.urlopen(f"http://127.0.0.1:{self.ports['metrics']}/healthz", timeout=5) as answer:
            store = json.load(answer).get("store")
        if store is not None:
            self.pids["store"] = [store["pid"]]


@contextlib.contextmanager
def both(folder: Path) -> Iterator[dict[str, Side]]:
    """One gateway without limits, one with."""
    sides = {"off": Side(folder / "off"), "on": Side(folder / "on", extra=QUOTAS)}
    with contextlib.ExitStack() as stack:
        for side in sides.values():
            stack.callback(side.stop)
            side.start()
        yield sides


def warm_up(side: Side, load: Load) -> None:
    """Call until it answers, and then for a while."""
    for _ in range(100):
        result = load.run(Command(side.ports["ours"], side.key, 2048, 1, 0.0))
        if result["calls"]:
            load.run(Command(side.ports["ours"], side.key, 2048, 8, 1.0))
            return
        time.sleep(0.2)
    raise RuntimeError(f"the gateway does not answer: {result['example']}")


def cell(side: Side, load: Load, case: Case, connections: int) -> Run:
    """Measure once. CPU times are µs per call."""
    groups = {"python": side.pids["ours"], "envoy": side.pids["envoy"], "store": side.pids["store"]}
    before = {name: sum(map(cpu_seconds, pids)) for name, pids in groups.items()}
    result = load.run(Command(side.ports["ours"], side.key, case.size, connections, case.seconds, case.bench))
    time.sleep(SETTLE)
    if result["errors"] or not result["calls"]:
        raise RuntimeError(f"{case.name}: {result['errors']} of the calls failed: {result['example']}")
    for name, pids in groups.items():
        result[f"{name}_us"] = (sum(map(cpu_seconds, pids)) - before[name]) * 1e6 / result["calls"]
    result["rps"] = result["calls"] / result["seconds"]
    return result


def row(
    sides: dict[str, Side], load: Load, case: Case, connections: int, tell: Callable[[str], None]
) -> dict[str, Any]:
    """All turns of a case; in each, both sides once, the first one by turns."""
    runs: dict[str, list[Run]] = {name: [] for name in SIDES}
    for repetition in range(case.repetitions):
        tell(f"{case.name}, {connections} at a time, {repetition + 1}/{case.repetitions}")
        for name in SIDES if repetition % 2 else reversed(SIDES):
            runs[name].append(cell(sides[name], load, case, connections))
    return {"case": case.name, "connections": connections, "stream": bool(case.bench), "runs": runs}


def _value(run: Run, path: str) -> float:
    found: Any = run
    for part in path.split("."):
        found = found[part]
    return float(found)


def added(row: dict[str, Any], path: str) -> list[float]:
    """What limits add, turn by turn, ascending."""
    runs = row["runs"]
    return sorted(_value(on, path) - _value(off, path) for on, off in zip(runs["on"], runs["off"], strict=True))


def _spread(values: list[float], form: str) -> str:
    """Median, and the middle half of the values."""
    quarter = len(values) // 4
    return f"{median(values):{form}} ({values[quarter]:{form}} to {values[-1 - quarter]:{form}})"


def _both(row: dict[str, Any], path: str, form: str) -> str:
    return " / ".join(f"{median(_value(run, path) for run in row['runs'][name]):{form}}" for name in SIDES)


def markdown(result: dict[str, Any]) -> str:
    """The report."""
    head = ["calls", "p50 ms off / on", "added p50 ms", "added p99 ms", "Python µs off / on", "added Python µs"]
    head += ["added Envoy µs", "Valkey µs"]
    lines = [
        f"{result['at']}, {result['machine']}{', quick' if result['quick'] else ''}; median (middle half of the turns)",
        "",
        f"| {' | '.join(head)} |",
        f"| {' | '.join(['---', *['---:'] * (len(head) - 1)])} |",
    ]
    for one in result["rows"]:
        time_of = "first" if one["stream"] else "latency"
        cells = [
            f"{one['case']}, {one['connections']} at a time" + (" (first chunk)" if one["stream"] else ""),
            _both(one, f"{time_of}.p50", ".2f"),
            _spread(added(one, f"{time_of}.p50"), "+.3f"),
            _spread(added(one, f"{time_of}.p99"), "+.2f"),
            _both(one, "python_us", ".0f"),
            _spread(added(one, "python_us"), "+.0f"),
            _spread(added(one, "envoy_us"), "+.0f"),
            f"{median(run['store_us'] for run in one['runs']['on']):.0f}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    first = next((one for one in result["rows"] if one["case"] == "2 KB" and one["connections"] == 1), None)
    if first is not None:
        for name, path, goal, unit in (
            ("added p50", "latency.p50", GOAL_P50, "ms"),
            ("added Python CPU", "python_us", GOAL_CPU, "µs"),
        ):
            found = median(added(first, path))
            lines.append("")
            lines.append(f"{name}: {found:.2f} {unit}, goal {goal:g}: {'' if found <= goal else 'not '}reached")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer and shorter turns")
    parser.add_argument("--case", action="append", help="only this case (2 KB, 100 chunks)")
    parser.add_argument("--at-once", type=int, action="append", help="only so many calls at a time (1, 16)")
    args = parser.parse_args()
    cases = [case for case in CASES if not args.case or case.name in args.case]
    if args.quick:
        cases = [replace(case, repetitions=QUICK[case.name][0], seconds=QUICK[case.name][1]) for case in cases]
    load = Load()
    result: dict[str, Any] = {
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": f"{os.cpu_count()} CPUs, {platform.machine()}, Python {platform.python_version()}",
        "quick": args.quick,
        "rows": [],
    }

    def tell(text: str) -> None:
        print(f"  {text}", file=sys.stderr, flush=True)

    try:
        with tempfile.TemporaryDirectory(prefix="xl-") as folder, both(Path(folder)) as sides:
            for side in sides.values():
                warm_up(side, load)
            for case in cases:
                for number in args.at_once or case.connections:
                    result["rows"].append(row(sides, load, case, number, tell))
    finally:
        load.stop()
    text = markdown(result)
    OUT.write_text(json.dumps({**result, "table": text}, indent=1))
    print(text)
    tell(f"every run is in {OUT.relative_to(PROJECT)}")


if __name__ == "__main__":
    main()
