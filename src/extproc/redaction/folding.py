"""Characters on which Hyperscan's idea of a word, a digit or a space differs from that of `regex` and Python.

Hyperscan knows an older Unicode, and takes no combining mark for a part of a word. A gate that differs would miss what
the judge behind it finds; so each such character is replaced, for the gate only, by one on which all agree.
"""

from __future__ import annotations

import re
from array import array
from collections.abc import Iterable
from functools import lru_cache
from importlib.metadata import version
from typing import Final, TypeAlias

import hyperscan
import msgspec
import regex

from extproc.text import DatabaseStore

Ranges: TypeAlias = tuple[tuple[int, int], ...]
"""Code points, first and last included, ascending."""

_CLASSES: Final = ("w", "d", "s")
_DIGIT, _WORD, _SPACE, _OTHER = "\u0663", "\u00aa", "\u3000", "\u00b7"
DOTTED_I: Final = "\u0130"  # `regex` matches it with "i" where case is ignored, Hyperscan does not
_KEPT: Final = 4096  # stand-ins remembered at a time; there are some 60,000 characters to replace
_BLOCKS: Final = ((0x80, 0xD800), (0xE000, 0x110000))  # all of Unicode but ASCII, on which they agree, and surrogates


class Folding:
    """Replaces the characters in question, one for one, so that offsets hold."""

    def __init__(self, ranges: Ranges) -> None:
        self._any: Final = re.compile("[" + "".join(f"{chr(first)}-{chr(last)}" for first, last in ranges) + "]")
        self._table: Final = _StandIns(self._any)

    def fold(self, text: str) -> str:
        """The text as Hyperscan has to see it; the very same object where nothing needs replacing."""
        return text if self._any.search(text) is None else text.translate(self._table)


class _StandIns(dict[int, str]):
    """For `str.translate`: what stands for a code point, worked out when it is first seen."""

    def __init__(self, differing: re.Pattern[str]) -> None:
        super().__init__()
        self._differing = differing

    def __missing__(self, code: int) -> str:
        if len(self) >= _KEPT:
            self.clear()
        char = chr(code)
        self[code] = stand_in = _stand_in(char) if self._differing.match(char) else char
        return stand_in


def folding(store: DatabaseStore | None = None) -> Folding:
    """The folding for the installed Hyperscan and `regex`: from `store` where it is there, worked out otherwise."""
    if store is None:
        return Folding(differences())
    key = f"folding-{version('hyperscan')}-{version('regex')}"
    data = store.get(key)
    if data is not None:
        try:
            return Folding(msgspec.json.decode(data, type=Ranges))
        except msgspec.DecodeError:  # damaged: as good as absent
            pass
    ranges = differences()
    store.put(key, msgspec.json.encode(ranges))
    return Folding(ranges)


@lru_cache(maxsize=1)
def differences() -> Ranges:
    """Where the two differ, worked out in one pass over all of Unicode (a third of a second)."""
    points = array("I")
    for first, end in _BLOCKS:
        points.extend(range(first, end))
    every = points.tobytes().decode(f"utf-32-{'le' if array('H', [1]).tobytes()[0] else 'be'}")
    differing = {ord(DOTTED_I)}
    for name in _CLASSES:
        theirs = _members(every, _changes(every, name))
        ours = {ord(char) for match in regex.finditer(f"\\{name}+", every) for char in match.group()}
        differing |= theirs ^ ours
    return tuple(_ranges(sorted(differing)))


def _stand_in(char: str) -> str:
    if char == DOTTED_I:
        return "i"
    if regex.match(r"\d", char):
        return _DIGIT
    if regex.match(r"\w", char):
        return _WORD
    return _SPACE if regex.match(r"\s", char) else _OTHER


def _changes(every: str, name: str) -> list[int]:
    """Offsets in characters at which a run of characters of class `name`, or of others, begins, as Hyperscan sees it."""
    database = hyperscan.Database(mode=hyperscan.HS_MODE_BLOCK)
    change = f"\\{name}\\{name.upper()}|\\{name.upper()}\\{name}"
    database.compile(expressions=[change.encode()], ids=[0], flags=[hyperscan.HS_FLAG_UTF8 | hyperscan.HS_FLAG_UCP])
    data = every.encode()
    ends: list[int] = []
    database.scan(
        data,
        match_event_handler=lambda _id, _start, end, _flags, _context: ends.append(end),
        scratch=hyperscan.Scratch(database),
    )
    changes: list[int] = []
    last = characters = 0
    for end in sorted(set(ends)):
        characters += len(data[last:end].decode())
        changes.append(characters - 1)
        last = end
    return changes


def _members(every: str, changes: list[int]) -> set[int]:
    """The code points of the runs that are of the class. The first character, a control, is of none."""
    bounds = [*changes, len(every)]
    return {ord(char) for begin, end in zip(bounds[::2], bounds[1::2], strict=False) for char in every[begin:end]}


def _ranges(points: Iterable[int]) -> list[tuple[int, int]]:
    ranges: list[tuple[int, int]] = []
    for point in points:
        if ranges and ranges[-1][1] == point - 1:
            ranges[-1] = (ranges[-1][0], point)
        else:
            ranges.append((point, point))
    return ranges
