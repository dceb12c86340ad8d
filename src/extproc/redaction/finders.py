"""What every kind of pattern has in common: where it may match, how that is confirmed, which results are kept.

A finder names *gates*, expressions for the one Hyperscan pass. Where a gate reports that a match may end, the finder's
own regular expression is run on the characters in which that match can begin: the results are those of a run over the
whole text, at a fraction of the cost.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Final, NamedTuple, Protocol, TypeAlias

from extproc.redaction.hyper import Expression
from extproc.text import Check

Raw: TypeAlias = tuple[int, int, float]
"""Start, end (offsets in characters), score of one result of a finder."""

Range: TypeAlias = tuple[int, int]
"""Offsets in characters of a part of a text, the end not included."""

_CHUNK: Final = 4096  # characters between two looks at the clock
_BEYOND: Final = 4  # characters that a look-ahead of Presidio's patterns reads behind their end, at most
_LONGEST: Final = 512  # the width from which on a pattern counts as unbounded

WHITE: Final = "\t\n\x0b\x0c\r \x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000"
"""What `regex` takes for white space, as the inside of a character class. (Python's `re` adds four controls.)"""

_WORD: Final = re.compile(f"[^{WHITE}]+")
_SPACES: Final = re.compile(f"[{WHITE}]+")


class Gate(NamedTuple):
    """An expression for the pass. `context`: worth a look only where a context word of the finder is in the text."""

    pattern: str
    caseless: bool = True
    dotall: bool = True
    multiline: bool = True
    single: bool = False
    unicode: bool = True
    context: bool = False


def expression(number: int, gate: Gate) -> Expression:
    """The gate as the pass takes it, under a number."""
    return Expression(number, gate.pattern, gate.caseless, gate.dotall, gate.multiline, gate.single, gate.unicode)


class Finder(Protocol):
    """Finds one kind of entity in the places where its gates matched."""

    @property
    def kind(self) -> str:
        """Of every result."""

    @property
    def name(self) -> str:
        """Of the rule: where a finding comes from."""

    @property
    def context(self) -> tuple[str, ...]:
        """Words (lower case) that raise the score of a result they precede."""

    @property
    def gates(self) -> tuple[Gate, ...]:
        """What the pass has to look for."""

    def find(self, text: str, hits: Mapping[int, Sequence[int] | None], check: Check) -> list[Raw]:
        """Results in `text`. `hits`: by number of the gate, where matches may end; None: anywhere."""


class Match(Protocol):
    """A match of `re`, `regex` or RE2."""

    def span(self, group: int = 0, /) -> tuple[int, int]:
        """Start and end of a group; -1, -1 where it took no part."""


class Regex(Protocol):
    """A compiled expression of `re`, `regex` or RE2."""

    def finditer(self, string: str, pos: int = ..., endpos: int = ..., /) -> Iterator[Match]:
        """Matches from left to right that do not overlap."""


def confirm(regex: Regex, text: str, starts: Iterable[Range], width: int, check: Check) -> Iterator[Match]:
    """Matches of an expression of at most `width` characters that begin within `starts` (ascending, disjoint).

    They are the matches of a run over the whole text, if every match of that run begins within `starts`.
    """
    position = 0
    reach = width + _BEYOND
    for first, last in starts:
        begin = max(first, position)
        while begin < last:
            end = min(begin + _CHUNK, last)
            for match in regex.finditer(text, begin, min(len(text), end + reach)):
                start, position = match.span()
                if start >= end:
                    position = end
                    break
                yield match
            begin = max(end, position)
            check()


def in_words(regex: Regex, text: str, words: Iterable[Range], check: Check) -> Iterator[Match]:
    """Matches of an expression that matches no white space, within `words`."""
    for begin, end in words:
        yield from regex.finditer(text, begin, end)
        check()


def starts_near(ends: Sequence[int] | None, width: int, length: int) -> Iterator[Range]:
    """Where matches of at most `width` characters begin that end at one of `ends` (ascending); None: anywhere."""
    if ends is None:
        yield (0, length)
        return
    first = last = -1
    for end in ends:
        begin = max(0, end - width)
        if begin <= last:
            last = end
            continue
        if last >= 0:
            yield (first, last)
        first, last = begin, end
    if last >= 0:
        yield (first, last)


def words_near(text: str, ends: Sequence[int] | None) -> Iterator[Range]:
    """The stretches without white space that end at, or reach over, one of `ends` (ascending); None: all of them."""
    if ends is None:
        for word in _WORD.finditer(text):
            yield word.span()
        return
    done = 0
    for end in ends:
        if end <= done:
            continue
        begin = _word_start(text, done, end)
        rest = _WORD.match(text, end)
        done = rest.end() if rest else end
        yield (begin, done)


def _word_start(text: str, floor: int, end: int) -> int:
    """Behind the last white space of `text[floor:end]`; `floor` where there is none."""
    size = 64
    while True:
        low = max(floor, end - size)
        after = max((space.end() for space in _SPACES.finditer(text, low, end)), default=None)
        if after is not None:
            return after
        if low == floor:
            return floor
        size *= 4


def distinct(results: Iterable[Raw]) -> list[Raw]:
    """Presidio's `remove_duplicates`, in one sweep: no score of 0, nothing inside another of at least its score."""
    kept: list[Raw] = []
    reach: dict[float, int] = {}  # by score: the furthest end of what was kept
    for result in sorted(set(results), key=lambda raw: (raw[0], -raw[1], -raw[2])):
        _, end, score = result
        if score <= 0 or any(other >= score and furthest >= end for other, furthest in reach.items()):
            continue
        reach[score] = max(end, reach.get(score, 0))
        kept.append(result)
    return kept


def width(pattern: str) -> int | None:
    """The longest match an expression can have, in characters; None where there is no telling, or no bound."""
    try:
        parser = importlib.import_module("re._parser")
        longest: int = parser.parse(pattern, re.DOTALL | re.MULTILINE | re.IGNORECASE).getwidth()[1]
    except (ImportError, AttributeError, re.error, RecursionError, OverflowError):
        return None
    return longest if longest <= _LONGEST else None
