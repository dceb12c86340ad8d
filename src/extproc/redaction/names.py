"""Names of people and places, found by a small convolutional model in numpy: a fraction of a millisecond a page.

The weights are made by `make train-names` (see `docs/names.md`). What a token contributes does not depend on its
neighbours, so it is kept in a bounded memo; only the layers above it run for every text.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from extproc.redaction.name_features import MAX_PIECES, NO_TOKEN, REACH, TAPS, TOKEN, Weights, features, load
from extproc.text import Check, Finding, never

Floats = npt.NDArray[np.float32]

CHUNK: Final = 3000
"""Characters between two checks of the budget: about a millisecond of work."""
SEARCH: Final = 1000
"""How far past `CHUNK` a blank is looked for to cut at; without one the text is cut where it stands."""
GAP: Final = (NO_TOKEN,) * REACH
"""Stands around every text, as it did in training; texts that are scored together do not see each other."""
MEMO: Final = 16_384
"""Most tokens in the memo: 1 kB each."""
GROWTH: Final = 2048
BATCH: Final = 600
"""Tokens up to which short texts are put together."""
NONE: Final = (0,) * MAX_PIECES
JOINTS: Final = frozenset({".", "-", "'", "\u2019"})
SUMS: Final = np.array([[1, 0, 0], [1, 1, 0], [1, 1, 0], [1, 0, 1], [1, 0, 1]], np.float32)
"""Classes to all of them, those of a person, those of a place."""
EXTENSION: Final = 0.5
"""A name goes on while its tokens reach this share of the threshold."""


class _Scores(NamedTuple):
    """For each token of a text: probabilities of person and place, and that a new name begins with it."""

    person: Floats
    place: Floats
    begins: npt.NDArray[np.bool_]

    def part(self, start: int, end: int) -> _Scores:
        """Those of some tokens."""
        return _Scores(self.person[start:end], self.place[start:end], self.begins[start:end])


class NameDetector:
    """PERSON and LOCATION findings. One thread at a time.

    `weights` is the content of the weights file; ValueError says that it is damaged or of another version. A token
    counts from `threshold` (0 to 1) on: lower finds more, and more that is no name.
    """

    def __init__(self, weights: bytes, threshold: float = 0.3) -> None:
        if not 0.0 < threshold < 1.0:
            raise ValueError(f"threshold {threshold} is not between 0 and 1")
        self._weights: Final[Weights] = load(weights)
        self._threshold: Final = threshold
        self._memo: dict[str, int] = {}
        self._table: Floats = np.zeros((0, 0), np.float32)
        self._forget()

    def scan(self, text: str, check: Check = never) -> list[Finding]:
        """Names in `text`, by start, not overlapping; `check` is called about once a millisecond."""
        if not text:
            return []
        tokens, scores = self._scored(text, check)
        return _found(tokens, scores, self._threshold)

    def scan_many(self, texts: Sequence[str], check: Check = never) -> list[list[Finding]]:
        """As `scan` for each text; short ones together, which spares most of the cost of each."""
        found: list[list[Finding]] = []
        waiting: list[list[str]] = []
        size = 0
        for text in texts:
            short = len(text) <= BATCH
            tokens = TOKEN.findall(text) if short else []
            if waiting and (not short or size + len(tokens) > BATCH):
                found += self._together(waiting, check)
                waiting, size = [], 0
            if short:
                waiting.append(tokens)
                size += len(tokens) + len(GAP)
            else:
                found.append(self.scan(text, check))
        return found + self._together(waiting, check)

    def flagged_lines(self, text: str, threshold: float, check: Check = never) -> list[tuple[int, int]]:
        """Ranges of whole lines, line ends left out, where any token reaches `threshold`; neighbours are one range."""
        if not text:
            return []
        tokens, scores = self._scored(text, check)
        hits = np.nonzero(np.maximum(scores.person, scores.place) >= threshold)[0]
        if not len(hits):
            return []
        starts = _starts(tokens)
        ranges: list[tuple[int, int]] = []
        for hit in hits.tolist():
            begin, end = int(starts[hit]), int(starts[hit]) + len(tokens[hit])
            if ranges and end <= ranges[-1][1]:
                continue
            first = text.rfind("\n", 0, begin) + 1
            last = text.find("\n", max(begin, end - 1))
            last = len(text) if last < 0 else last
            if ranges and first <= ranges[-1][1] + 1:
                ranges[-1] = (ranges[-1][0], max(last, ranges[-1][1]))
            elif last > first:
                ranges.append((first, last))
        return ranges

    def _together(self, waiting: Sequence[list[str]], check: Check) -> list[list[Finding]]:
        """Findings of some short texts that are scored as one stream."""
        if not waiting:
            return []
        check()
        stream: list[str] = [*GAP]
        places: list[int] = []
        for tokens in waiting:
            places.append(len(stream))
            stream += tokens
            stream += GAP
        scores = self._run(stream)
        return [
            _found(tokens, scores.part(at, at + len(tokens)), self._threshold)
            for tokens, at in zip(waiting, places, strict=True)
        ]

    def _scored(self, text: str, check: Check) -> tuple[list[str], _Scores]:
        """All tokens of a text, and their scores: chunk by chunk, each with what stands around it."""
        everything: list[str] = []
        parts: list[_Scores] = []
        before: list[str] = list(GAP)
        chunks = _chunks(text)
        chunk = next(chunks)
        while chunk:
            check()
            after = next(chunks, [])
            around = [*after[:REACH], *GAP][:REACH]
            scores = self._run(before + chunk + around)
            parts.append(scores.part(len(before), len(before) + len(chunk)))
            everything += chunk
            before = (before + chunk)[-REACH:]
            chunk = after
        if len(parts) == 1:
            return everything, parts[0]
        person, place, begins = zip(*parts, strict=True)
        return everything, _Scores(np.concatenate(person), np.concatenate(place), np.concatenate(begins))

    def _run(self, tokens: list[str]) -> _Scores:
        """Scores of a stream of tokens."""
        rows = self._rows(tokens)
        weights = self._weights
        width = weights.width
        wide = self._table.take(rows, axis=0)
        hidden: Floats = wide[:, 2 * width : 3 * width] + weights.first_bias
        for tap in (0, 1, 3, 4):
            shift, part = tap - 2, wide[:, tap * width : (tap + 1) * width]
            if shift < 0:
                hidden[-shift:] += part[:shift]
            else:
                hidden[:-shift] += part[shift:]
        np.maximum(hidden, 0, out=hidden)
        for reach, before, here, after, bias in weights.layers:
            more = hidden @ here
            more += bias
            more[reach:] += hidden[:-reach] @ before
            more[:-reach] += hidden[reach:] @ after
            np.maximum(more, 0, out=more)
            hidden += more
        logits: Floats = hidden @ weights.last
        logits += weights.last_bias
        return _probabilities(logits)

    def _rows(self, tokens: list[str]) -> list[int]:
        """Rows of the memo for all tokens; those not yet in it are added in one go."""
        rows = list(map(self._memo.get, tokens))
        if None in rows:
            missing = {token for token, row in zip(tokens, rows, strict=True) if row is None}
            if len(self._memo) + len(missing) > MEMO:
                self._forget()
                missing = set(tokens) - self._memo.keys()
            self._learn(sorted(missing))
            rows = [self._memo[token] for token in tokens]
        return rows  # type: ignore[return-value]  # None was looked for

    def _forget(self) -> None:
        self._memo = {}
        self._table = np.zeros((GROWTH, TAPS * self._weights.width), np.float32)
        self._learn([NO_TOKEN])

    def _learn(self, tokens: list[str]) -> None:
        """Puts new tokens into the memo: the sum of their embeddings, through the first layer."""
        weights, at = self._weights, len(self._memo)
        known = [features(token, weights.known_bits) for token in tokens]
        pieces = np.array([token.pieces + NONE[len(token.pieces) :] for token in known], np.intp)
        words, shapes, bits = np.array([token[:3] for token in known], np.intp).T
        total = weights.pieces[pieces].sum(axis=1, dtype=np.float32) * weights.pieces_scale
        total += weights.words[words] * weights.words_scale
        total += weights.shapes[shapes]
        total += weights.known[bits]
        while at + len(known) > len(self._table):
            self._table = np.concatenate([self._table, np.zeros((GROWTH, self._table.shape[1]), np.float32)])
        self._table[at : at + len(known)] = total @ weights.first
        self._memo.update(zip(tokens, range(at, at + len(known)), strict=True))


def _chunks(text: str) -> Iterator[list[str]]:
    """The tokens of a text, some thousand characters at a time, cut at a blank where there is one."""
    at, length = 0, len(text)
    while at < length:
        end = length
        if length - at > CHUNK + SEARCH:
            blank = text.find(" ", at + CHUNK, at + CHUNK + SEARCH)
            line = text.find("\n", at + CHUNK, blank if blank > 0 else at + CHUNK + SEARCH)
            end = line if line > 0 else blank if blank > 0 else at + CHUNK + SEARCH
        yield TOKEN.findall(text, at, end)
        at = end


def _starts(tokens: Sequence[str]) -> npt.NDArray[np.int64]:
    """Where each token starts, its blank left out."""
    ends = np.cumsum(np.fromiter(map(len, tokens), np.int64, len(tokens)))
    return np.concatenate([[0], ends[:-1]])


def _probabilities(logits: Floats) -> _Scores:
    odds = np.exp(np.clip(logits, -60.0, 60.0, out=logits))  # beyond that they run over, or all to nothing
    sums = odds @ SUMS
    person, place = sums[:, 1] / sums[:, 0], sums[:, 2] / sums[:, 0]
    return _Scores(person, place, (odds[:, 1] > odds[:, 2]) & (odds[:, 3] <= odds[:, 4]))


def _found(tokens: Sequence[str], scores: _Scores, threshold: float) -> list[Finding]:
    """Runs of tokens that are taken for one kind of name."""
    best = np.maximum(scores.person, scores.place)
    if not len(best) or float(best.max()) < threshold:
        return []
    starts = _starts(tokens)
    found: list[Finding] = []
    for kind, first, last in _runs(tokens, scores, best >= threshold * EXTENSION):
        score = float((scores.person if kind == "PERSON" else scores.place)[first : last + 1].max())
        if score < threshold:
            continue
        begin, end = _trimmed(tokens, first, last)
        if begin <= end and not _is_code(tokens, begin, end):
            at = int(starts[begin]) + (tokens[begin][0] == " ")
            found.append(Finding(kind, at, int(starts[end]) + len(tokens[end]), min(score, 1.0), "names"))
    return found


def _trimmed(tokens: Sequence[str], first: int, last: int) -> tuple[int, int]:
    """A run without the signs and blanks at its ends; the last comes before the first where nothing is left."""
    while first <= last and not tokens[first].strip()[:1].isalnum():
        first += 1
    while last >= first and not _may_end(tokens, first, last):
        last -= 1
    return first, last


def _is_code(tokens: Sequence[str], first: int, last: int) -> bool:
    """Whether a run has no word of two letters, or is one small word that is called or part of a longer identifier."""
    words = [token.strip() for token in tokens[first : last + 1] if token.strip()[:1].isalpha()]
    if len(words) != 1:
        return max(map(len, words), default=0) < 2
    if len(words[0]) < 2:
        return True
    before = tokens[first - 1] if first and tokens[first][0] != " " else ""
    after = tokens[last + 1] if last + 1 < len(tokens) else ""
    return words[0].islower() and (after in {"(", "_"} or before == "_")


def _may_end(tokens: Sequence[str], first: int, last: int) -> bool:
    """Whether a name may end with this token: a word, or the full stop of a single letter ("Anna K.")."""
    if tokens[last].strip()[:1].isalnum():
        return True
    return tokens[last] == "." and last > first and len(tokens[last - 1].strip()) == 1


def _runs(tokens: Sequence[str], scores: _Scores, candidate: npt.NDArray[np.bool_]) -> Iterator[tuple[str, int, int]]:
    """Kind, first and last token of every run of candidates of one kind; a single joint in a name is bridged."""
    kind, first, last = "", 0, -2
    for at in np.nonzero(candidate)[0].tolist():
        this = "PERSON" if scores.person[at] >= scores.place[at] else "LOCATION"
        follows = at == last + 1 or (at == last + 2 and tokens[last + 1] in JOINTS and tokens[at][0] != " ")
        fresh = this == "PERSON" and bool(scores.begins[at]) and tokens[at][0] == " " and scores.person[at] > 0.6
        if follows and this == kind and not (fresh and tokens[last].strip()[:1] in {",", ";", "&"}):
            last = at
            continue
        if kind:
            yield kind, first, last
        kind, first, last = this, at, at
    if kind:
        yield kind, first, last
