"""Configuration errors with a place, and many of them at once."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from extproc.errors import ConfigError

_TOLD: Final = 50  # errors in one message; `errors` holds all

Loc = tuple[str | int, ...]
"""Where in the document: mapping keys and list indexes from the root."""


class Problem(ConfigError):
    """One mistake. `line` counts from 1; None where there is no line (a missing key, a default)."""

    def __init__(self, path: str, reason: str, hint: str = "", *, line: int | None = None) -> None:
        super().__init__(path, reason, hint)
        self.line: Final = line

    def __str__(self) -> str:
        """`path (line 3): reason (hint)`."""
        place = self.path if self.line is None else f"{self.path} (line {self.line})"
        return f"{place}: {self.reason}" + (f" ({self.hint})" if self.hint else "")


class ConfigErrors(ConfigError):
    """All mistakes of one file, in the order of their lines. A `ConfigError`, so that one `except` serves both."""

    def __init__(self, name: str, errors: Iterable[Problem]) -> None:
        found = tuple(sorted(errors, key=_order))
        count = "1 error" if len(found) == 1 else f"{len(found)} errors"
        told = [f"\n  {error}" for error in found[:_TOLD]]
        more = f"\n  … and {len(found) - _TOLD} more" if len(found) > _TOLD else ""
        super().__init__(name, count + "".join(told) + more)
        self.errors: Final[tuple[Problem, ...]] = found


def _order(problem: Problem) -> tuple[bool, int, str]:
    return (problem.line is None, problem.line or 0, problem.path)


def path_of(loc: Loc) -> str:
    """Write `("a", "b", 0, "o1*")` as `a.b[0]["o1*"]`: keys that are not plain words are quoted."""
    path = ""
    for part in loc:
        if isinstance(part, int):
            path += f"[{part}]"
        elif part.replace("_", "a").replace("-", "a").isalnum():
            path += f".{part}" if path else part
        else:
            path += f'["{part}"]'
    return path
