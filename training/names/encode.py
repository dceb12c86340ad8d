"""Examples to numbers: one row a distinct token, one label a place in the stream of tokens."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from generator import Example

from extproc.redaction.name_features import MAX_PIECES, NO_TOKEN, REACH, TOKEN, features

LABELS = {"P": 1, "L": 3}
IGNORED = -1


class Encoded(NamedTuple):
    """`stream` holds rows of `rows`, in windows; `labels` goes with it: 0 none, 1/2 person, 3/4 place, -1 unknown."""

    rows: np.ndarray
    stream: np.ndarray
    labels: np.ndarray


def _labels(tokens: Sequence[str], example: Example) -> list[int]:
    spans = sorted(example.spans, key=lambda span: span[1])
    starts = [span[1] for span in spans]
    labels, at, last = [], 0, -1
    for token in tokens:
        begin, end = at + len(token) - len(token.lstrip()), at + len(token)
        at = end
        which = bisect_right(starts, begin) - 1
        if which < 0 or begin >= spans[which][2] or begin == end:
            labels.append(0)
            continue
        kind = spans[which][0]
        labels.append(IGNORED if kind == "?" else LABELS[kind] + (which == last))
        last = which
    return labels


def encode(examples: Sequence[Example], known: dict[int, int], window: int) -> Encoded:
    """All examples one after another, a gap of `NO_TOKEN` between them, cut into windows of `window` tokens."""
    rows: dict[str, int] = {NO_TOKEN: 0}
    stream: list[int] = []
    labels: list[int] = []
    for example in examples:
        tokens = TOKEN.findall(example.text)
        stream += [rows.setdefault(token, len(rows)) for token in tokens]
        labels += _labels(tokens, example)
        stream += [0] * REACH
        labels += [IGNORED] * REACH
    table = np.zeros((len(rows), 3 + MAX_PIECES), np.int32)
    for token, row in rows.items():
        word, shape, bits, pieces = features(token, lambda key: known.get(key, 0))
        table[row, :3] = word, shape, bits
        table[row, 3 : 3 + len(pieces)] = pieces
    count = len(stream) // window
    shape = (count, window)
    return Encoded(
        table,
        np.array(stream[: count * window], np.int32).reshape(shape),
        np.array(labels[: count * window], np.int32).reshape(shape),
    )
