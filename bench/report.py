"""From runs to a table. Ratios and added times are taken within a repetition, and then the median of them."""

from __future__ import annotations

from collections.abc import Callable
from statistics import median
from typing import Any

Run = dict[str, Any]
NAMES = {"plain": "plain Envoy", "noop": "no-op", "ours": "extproc"}


def _value(run: Run, path: str) -> float:
    found: Any = run
    for part in path.split("."):
        found = found[part]
    return float(found)


def _median(runs: list[Run], path: str) -> float:
    return median(_value(run, path) for run in runs)


def _paired(row: Any, of: str, over: str, judge: Callable[[Run, Run], float]) -> list[float]:
    return sorted(judge(one, other) for one, other in zip(row["runs"][of], row["runs"][over], strict=True))


def ratio(row: Any, of: str, over: str, path: str) -> str:
    """Median of the paired ratios, with the lowest and the highest."""
    found = _paired(row, of, over, lambda one, other: _value(one, path) / _value(other, path))
    return f"{median(found):.2f} ({found[0]:.2f} to {found[-1]:.2f})"


def _added(row: Any, variant: str, path: str) -> str:
    found = _paired(row, variant, "plain", lambda one, other: _value(one, path) - _value(other, path))
    return f"{median(found):+.2f}"


def _line(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _table(head: list[str], rows: list[list[str]]) -> list[str]:
    return [_line(head), _line(["---", *["---:"] * (len(head) - 1)]), *map(_line, rows)]


def _calls(row: Any, variant: str) -> list[str]:
    runs, plain = row["runs"][variant], variant == "plain"
    return [
        f"{row['case']}, {row['connections']} at a time: {NAMES[variant]}",
        f"{_median(runs, 'rps'):.0f}",
        f"{_median(runs, 'latency.p50'):.2f} / {_median(runs, 'latency.p99'):.2f}",
        "" if plain else f"{_added(row, variant, 'latency.p50')} / {_added(row, variant, 'latency.p99')}",
        "" if plain else f"{_median(runs, 'python_us'):.0f}",
        f"{_median(runs, 'envoy_us'):.0f}",
    ]


def _streams(row: Any, variant: str) -> list[str]:
    runs, plain = row["runs"][variant], variant == "plain"
    python = _median(runs, "python_us")
    return [
        f"{row['connections']} at a time: {NAMES[variant]}",
        f"{_median(runs, 'first.p50'):.2f} / {_median(runs, 'first.p99'):.2f}",
        "" if plain else _added(row, variant, "first.p50"),
        f"{_median(runs, 'chunk.p50'):.2f} / {_median(runs, 'chunk.p99'):.2f}",
        "" if plain else f"{_added(row, variant, 'chunk.p50')} / {_added(row, variant, 'chunk.p99')}",
        "" if plain else f"{python:.0f}",
        "" if plain else f"{python / 100:.0f}",
        f"{_median(runs, 'envoy_us'):.0f}",
    ]


def _ratios(row: Any) -> list[str]:
    return [
        f"{row['case']}, {row['connections']} at a time",
        ratio(row, "ours", "noop", "python_us"),
        ratio(row, "ours", "noop", "envoy_us"),
        "" if row["stream"] else ratio(row, "ours", "noop", "rps"),
        "" if row["stream"] else ratio(row, "ours", "plain", "rps"),
        ratio(row, "ours", "plain", "envoy_us"),
    ]


def markdown(result: dict[str, Any]) -> str:
    """The whole report."""
    calls = [row for row in result["rows"] if not row["stream"]]
    streams = [row for row in result["rows"] if row["stream"]]
    lines = [f"{result['at']}, {result['machine']}{', quick' if result['quick'] else ''}", ""]
    if calls:
        head = ["calls", "requests/s", "p50 / p99 ms", "added p50 / p99 ms", "Python µs/call", "Envoy µs/call"]
        lines += [*_table(head, [_calls(row, variant) for row in calls for variant in NAMES]), ""]
    if streams:
        head = [
            *("streams of 100 chunks, 5 ms apart", "first chunk p50 / p99 ms", "added p50 ms", "chunk p50 / p99 ms"),
            *("added p50 / p99 ms", "Python µs/stream", "Python µs/chunk", "Envoy µs/stream"),
        ]
        lines += [*_table(head, [_streams(row, variant) for row in streams for variant in NAMES]), ""]
    head = ["extproc as a multiple, median (lowest to highest)", "of no-op: Python CPU", "of no-op: Envoy CPU"]
    head += ["of no-op: requests/s", "of plain: requests/s", "of plain: Envoy CPU"]
    lines += [*_table(head, [_ratios(row) for row in result["rows"]]), ""]
    if "held" in result:
        kept = {name: f"{size / 1024:.0f} KiB" for name, size in result["held"]["bytes"].items()}
        lines.append(
            f"Memory of a worker for each open, waiting stream ({result['held']['count']} of them): "
            f"extproc {kept['ours']}, no-op {kept['noop']}."
        )
    return "\n".join(lines)
