"""A piece of a model's answer as detectors see it, and what may change in it where it is a piece of a JSON document."""

from __future__ import annotations

import json
import re
from bisect import bisect_left
from typing import Final, NamedTuple

_ESCAPE: Final = re.compile(
    r"\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}|\\u[0-9a-fA-F]{4}|\\[\"\\/bfnrt]"
)
_TOKEN: Final = re.compile(r'\\.|"|[^\s"{}\[\],:\\]+', re.DOTALL)
"""Of JSON: an escape, a quote, a part of a string or a scalar."""
_KEY_FOLLOWS: Final = re.compile(r'"\s*:')


class Cell(NamedTuple):
    """What may change in a JSON document: what is between two quotes, or a scalar. Offsets into the view."""

    start: int
    end: int
    quoted: bool
    key: bool


class View:
    """A piece of a text as detectors see it: of a JSON document, with its escapes undone."""

    def __init__(self, context: str, raw: str, *, is_json: bool) -> None:
        before = _unescape(context)[0] if is_json else context
        after, self.offsets = _unescape(raw) if is_json else (raw, None)
        self.text: Final = before + after
        self.base: Final = len(before)
        self.raw: Final = raw

    def to_raw(self, index: int) -> int:
        """Where a character of the view begins in `raw`."""
        index -= self.base
        return index if self.offsets is None else self.offsets[index]

    def from_raw(self, index: int) -> int:
        """The first character of the view that begins at or after `index` of `raw`."""
        return self.base + (index if self.offsets is None else bisect_left(self.offsets, index))


def cells(view: View, *, inside: bool) -> tuple[list[Cell], list[int]]:
    """What may change in a JSON document, and where its quotes are in `view.raw`."""
    found: list[Cell] = []
    quotes: list[int] = []
    raw, place = view.raw, view.from_raw
    begun = 0
    for token in _TOKEN.finditer(raw):
        start = token.start()
        if token[0] == '"':
            quotes.append(start)
            if inside:
                key = _KEY_FOLLOWS.match(raw, start) is not None
                found.append(Cell(place(begun), place(start), quoted=True, key=key))
            inside, begun = not inside, token.end()
        elif not inside:
            found.append(Cell(place(start), place(token.end()), quoted=False, key=False))
    if inside:
        found.append(Cell(place(begun), place(len(raw)), quoted=True, key=False))
    return found, quotes


def _unescape(raw: str) -> tuple[str, list[int] | None]:
    """A piece of a JSON document without its escapes, and where each character of that began (None: where it is)."""
    if "\\" not in raw:
        return raw, None
    parts: list[str] = []
    offsets: list[int] = []
    at = 0
    for match in _ESCAPE.finditer(raw):
        parts += (raw[at : match.start()], json.loads(f'"{match[0]}"'))
        offsets += (*range(at, match.start()), match.start())
        at = match.end()
    offsets += range(at, len(raw) + 1)
    return "".join((*parts, raw[at:])), offsets
