"""Of findings that overlap, which one says what a character is."""

from __future__ import annotations

from collections.abc import Iterable
from heapq import heappop, heappush
from itertools import pairwise
from operator import attrgetter
from typing import Final, TypeAlias

from extproc.text import Finding

_PLACE: Final = attrgetter("start", "end")
_Piece: TypeAlias = tuple[int, int, int]  # the rank of its finding, start, end


def resolve(findings: Iterable[Finding]) -> tuple[Finding, ...]:
    """Findings by start, none of which overlap, over the very characters that `findings` cover.

    Where several claim a character the highest score has it, then the longest, then the first by kind, start and rule,
    so that the order in which they come does not matter. A loser keeps what is left of it: a part of something
    sensitive is sensitive. Overlapping findings of one kind that end up side by side become one. O(n log n).
    """
    ordered = sorted(findings, key=_PLACE)
    if all(left.end <= right.start for left, right in pairwise(ordered)):
        return tuple(finding for finding in ordered if finding.start < finding.end)
    ordered.sort(key=_by_worth)
    return tuple(_join(ordered, _sweep(ordered)))


def _by_worth(finding: Finding) -> tuple[float, int, str, int, str]:
    return -finding.score, finding.start - finding.end, finding.kind, finding.start, finding.rule


def _sweep(ranked: list[Finding]) -> list[_Piece]:
    """Go from start to start and end to end; the best of those that are open there has the characters up to the next."""
    waiting = sorted(range(len(ranked)), key=lambda rank: -ranked[rank].start)  # the next one last
    opened: list[int] = []
    pieces: list[_Piece] = []
    at = 0
    while waiting or opened:
        if not opened:
            at = max(at, ranked[waiting[-1]].start)
        while waiting and ranked[waiting[-1]].start <= at:
            heappush(opened, waiting.pop())
        best = opened[0]
        if ranked[best].end <= at:
            heappop(opened)
            continue
        stop = min(ranked[best].end, ranked[waiting[-1]].start) if waiting else ranked[best].end
        if pieces and pieces[-1][0] == best and pieces[-1][2] == at:
            pieces[-1] = (best, pieces[-1][1], stop)
        else:
            pieces.append((best, at, stop))
        at = stop
    return pieces


def _join(ranked: list[Finding], pieces: list[_Piece]) -> list[Finding]:
    joined: list[Finding] = []
    last = -1  # the rank of the finding of the last piece
    for rank, start, end in pieces:
        finding = ranked[rank]
        before = joined[-1] if joined else None
        if before is not None and before.end == start and before.kind == finding.kind:
            overlap = ranked[last].end > start or finding.start < start
            if overlap:
                better = before if before.score >= finding.score else finding
                joined[-1] = better._replace(start=before.start, end=end)
                last = rank
                continue
        joined.append(finding._replace(start=start, end=end))
        last = rank
    return joined
