"""Cutting a long text into windows that a model can read, so that every character is read with what surrounds it."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from extproc.text import Finding


class Window(NamedTuple):
    """Characters `start` to `end` are read together; the window speaks for `own_start` to `own_end` of them.

    What a window says near its edges it says without context. So two windows overlap, and each speaks for its half of
    the overlap.
    """

    start: int
    end: int
    own_start: int
    own_end: int

    def owns(self, start: int, end: int) -> bool:
        """Whether any character of `start` to `end` is one that this window speaks for."""
        return start < self.own_end and end > self.own_start


def windows(text: str, span: tuple[int, int], size: int, overlap: int) -> Iterator[Window]:
    """Windows of at most `size` characters that together own every character of `span` exactly once.

    They are cut between words where there is such a place within the overlap. `overlap` is at most half of `size`.
    Raises ValueError for other sizes and for a span that is not one of the text.
    """
    start, end = span
    if not 0 < overlap * 2 <= size or not 0 <= start <= end <= len(text):
        raise ValueError(f"no windows of {size} characters with {overlap} in common over {span} of {len(text)}")
    own = start
    while start < end:
        stop = end if end - start <= size else _between_words(text, start + size - overlap // 2, start + size)
        following = end if stop == end else _between_words(text, stop - overlap, stop - overlap // 2)
        middle = end if stop == end else (following + stop) // 2
        yield Window(start, stop, own, middle)
        start, own = following, middle


def join_ranges(text: str, ranges: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """The ranges by start, those that overlap or have only white space between them as one. Empty ones are left out.

    Raises ValueError for a range that is not one of the text.
    """
    joined: list[tuple[int, int]] = []
    for start, end in sorted(ranges):
        if not 0 <= start <= end <= len(text):
            raise ValueError(f"the range {start}-{end} is not one of a text of {len(text)} characters")
        if start == end:
            continue
        last = joined[-1] if joined else None
        if last is not None and (start <= last[1] or text[last[1] : start].isspace()):
            joined[-1] = (last[0], max(last[1], end))
        else:
            joined.append((start, end))
    return joined


def unite(findings: Iterable[Finding]) -> list[Finding]:
    """Findings of one kind that overlap become one, with the highest score: halves that two windows saw."""
    united: list[Finding] = []
    last: dict[str, int] = {}
    for finding in sorted(findings, key=lambda one: (one.start, one.end)):
        at = last.get(finding.kind)
        if at is not None and finding.start < united[at].end:
            before = united[at]
            united[at] = before._replace(end=max(before.end, finding.end), score=max(before.score, finding.score))
        else:
            last[finding.kind] = len(united)
            united.append(finding)
    return united


def with_context(text: str, span: tuple[int, int], most: int) -> tuple[int, int]:
    """The span and up to `most` characters on either side, in whole words where that is possible."""
    start, end = span
    before = 0
    if start > most:
        places = range(start - most, start)
        before = next((place for place in places if _is_between_words(text, place)), start - most)
    after = len(text) if end + most >= len(text) else _between_words(text, end, end + most)
    return before, after


def touching(findings: Iterable[Finding], ranges: list[tuple[int, int]]) -> list[Finding]:
    """Those of the findings that share a character with one of the ranges, which are by start and do not overlap."""
    starts = [start for start, _ in ranges]
    kept = []
    for finding in findings:
        at = bisect_left(starts, finding.end) - 1
        if at >= 0 and ranges[at][1] > finding.start:
            kept.append(finding)
    return kept


def _between_words(text: str, low: int, high: int) -> int:
    """The last place after `low` and up to `high` that is not within a word; `high` where there is none."""
    return next((place for place in range(high, low, -1) if _is_between_words(text, place)), high)


def _is_between_words(text: str, place: int) -> bool:
    """Whether the characters on both sides of `place`, which is not an end of the text, are not of one word."""
    return not (text[place - 1].isalnum() and text[place].isalnum())
