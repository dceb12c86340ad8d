"""What commands print: results on standard output, everything else on standard error.

So `$(extproc keys create …)` is the key and nothing else. With `--json` results and errors are JSON, one object each.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Iterator, Sequence
from typing import Final, TextIO

from extproc.config import ConfigErrors, Problem
from extproc.errors import ConfigError

OK: Final = 0
FAILED: Final = 1
WRONG_USE: Final = 2  # as argparse has it

_RED: Final = "31"
_BOLD: Final = "1"
_DIM: Final = "2"


def add_json(parser: argparse.ArgumentParser) -> None:
    """Give a command `--json`."""
    parser.add_argument("--json", action="store_true", help="print JSON, for scripts")


def print_json(value: object) -> None:
    """Print one JSON document."""
    print(json.dumps(value, indent=2, ensure_ascii=False))


def say(text: str) -> None:
    """Tell the human something that is not the result."""
    print(text, file=sys.stderr)


def print_table(headers: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print rows under their headers, each column as wide as its widest value."""
    widths = [max(len(cell) for cell in column) for column in zip(headers, *rows, strict=True)]
    head = "  ".join(cell.ljust(width) for cell, width in zip(headers, widths, strict=True)).rstrip()
    print(_painted(head, _BOLD, sys.stdout))
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def fail(error: Exception, *, as_json: bool) -> int:
    """Print an error and return the exit code. A `ConfigError` is told by place, reason and cure."""
    items = list(items_of(error))
    if as_json:
        print(json.dumps({"errors": items}, ensure_ascii=False), file=sys.stderr)
        return FAILED
    if isinstance(error, ConfigErrors):
        say(f"{error.path}:")
    for item in items:
        place = str(item["path"]) + (f" (line {item['line']})" if item["line"] else "")
        label = _painted("error", _RED, sys.stderr)
        say(f"{label}: {place}: {item['reason']}" if place else f"{label}: {item['reason']}")
        if item["hint"]:
            say(_painted(f"       {item['hint']}", _DIM, sys.stderr))
    return FAILED


def items_of(error: Exception) -> Iterator[dict[str, str | int | None]]:
    """Take an error apart for JSON: path, line (None: no line), reason, hint; one item for each thing to mend."""
    if isinstance(error, ConfigErrors):
        for problem in error.errors:
            yield from items_of(problem)
    elif isinstance(error, ConfigError):
        line = error.line if isinstance(error, Problem) else None
        yield {"path": error.path, "line": line, "reason": error.reason, "hint": error.hint}
    elif isinstance(error, OSError) and error.filename and error.strerror:
        yield {"path": str(error.filename), "line": None, "reason": error.strerror, "hint": ""}
    else:
        yield {"path": "", "line": None, "reason": str(error), "hint": ""}


def _painted(text: str, colour: str, stream: TextIO) -> str:
    """Colour text for a terminal, unless its user asked for none (https://no-color.org)."""
    if os.environ.get("NO_COLOR") or not stream.isatty():
        return text
    return f"\033[{colour}m{text}\033[0m"
