"""Names by a transformer: slower than the small model by a factor of some fifty, and better in both directions.

The weights are those of Rampart (National Design Studio, CC BY 4.0), a BERT of six layers that labels the tokens of a
text; `adapters/transformer_model.py` finds and prepares them. Of its labels only those are used that it is good at:
parts of names and of addresses, and telephone numbers. A window of 480 characters takes some 13 ms on one core. Both
the tokenizer and ONNX Runtime work without Python's global lock, so one thread beside the event loop is enough.
"""

from __future__ import annotations

import json
import re
import string
from collections.abc import Collection, Iterable, Iterator, Sequence
from importlib import import_module
from typing import Any, Final, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from extproc.errors import ConfigError, EffectError
from extproc.redaction.transformer_windows import Window, join_ranges, touching, windows, with_context
from extproc.text import Check, Detector, Finding, never

RULE: Final = "transformer"
STRICT_EXTRA: Final = 'pip install "extproc[strict]"'

_WINDOW: Final = 480
_SMALLEST_WINDOW: Final = 30
# without what is around it a line of code is mistaken for names four times as often; more than this adds little
_CONTEXT: Final = 64
# the model was made for 512 tokens; fewer bound the time between two checks. Ordinary text has about 140 a window
_MOST_TOKENS: Final = 192
# short lines go through the model together: 38 % less time for eight lines of 16 tokens, 24 % for four of 32
_BATCH_TOKENS: Final = 128

_PARTS: Final = {
    "PERSON": ("GIVEN_NAME", "SURNAME"),
    "LOCATION": ("BUILDING_NUMBER", "STREET_NAME", "SECONDARY_ADDRESS", "CITY", "STATE", "ZIP_CODE"),
    "PHONE_NUMBER": ("PHONE",),
}
KINDS: Final = frozenset(_PARTS)
"""What can be asked for."""

# what may stand between two words of one entity
_JOINTS: Final = {
    "PERSON": re.compile(r"[ \u00a0]{0,2}|[-'\u2019]|\. ?"),
    "LOCATION": re.compile(r"[\s,./-]{0,3}"),
    "PHONE_NUMBER": re.compile(r"[\s()./+-]{0,3}"),
}
_SIGNS: Final = string.punctuation + "\u00a0\u2013\u2014\u2018\u2019\u201c\u201d\u00ab\u00bb"
# "Hartung AG & Co. KG", "Davis and Sons": a name that a legal form follows at once is a company's. Only forms that mean
# nothing else; what is also an ordinary word ("Group") counts where it is written as a name is
_COMPANY: Final = re.compile(
    r",? (?:(?:and|&) (?:[Ss]ons|Partners|Associates)|et [Ff]ils|und S\u00f6hne|en [Zz]onen|& Co"
    r"|Group|Limited|Corporation|AG|KG|KGaA|OHG|(?i:gmbh|inc|incorporated|ltd|llc|llp|plc|pty|ltda)"
    r"|S\.?L\.?U|S\.?p\.?A|S\.?[Rr]\.?[Ll]|[Ss]p\. ?z ?o\.? ?o)(?!\w)"
)


HINTED: Final = frozenset({"PERSON"})
"""Kinds of which another model's findings are taken into account."""

# the odds of a word are multiplied by the one or the other, whether another model found it with this score or not
_SURE: Final = 0.5
_FOUND: Final = 12.0
_NOT_FOUND: Final = 0.6


class ModelMissingError(ConfigError):
    """A model that a policy asks for is not there, or is not the one it should be. Refuses the start."""


class Weights(NamedTuple):
    """A model: ONNX bytes, the tokenizer's JSON, and its labels by number (`O`, `B-GIVEN_NAME`, ...)."""

    model: bytes
    tokenizer: bytes
    labels: tuple[str, ...]


class Thresholds(NamedTuple):
    """A run of words that are each at least `extend` likely is an entity if one of them is at least `accept` likely.

    Measured on the development sets (see `docs/redaction.md`).
    """

    accept: float = 0.65
    extend: float = 0.35


class LineFinder(Detector, Protocol):
    """A detector that also says which lines are worth a second look."""

    def flagged_lines(self, text: str, threshold: float, check: Check = never) -> list[tuple[int, int]]:
        """Start and end of the lines that hold a word which is a name by at least `threshold`."""


class _Piece(NamedTuple):
    """A window with its token ids, the places of its words, and for every word the number of its first token."""

    window: Window
    ids: list[int]
    places: list[tuple[int, int]]
    firsts: list[int]


class _Word(NamedTuple):
    start: int
    end: int
    likely: Sequence[float]  # by kind, in the order of the detector


class TransformerDetector:
    """Finds PERSON, and LOCATION and PHONE_NUMBER where asked. Any number of threads may share one.

    Raises `ModelMissingError` where ONNX Runtime or the tokenizers library is not installed, or the bytes are no model.
    """

    def __init__(
        self,
        weights: Weights,
        kinds: Collection[str] = frozenset({"PERSON"}),
        thresholds: Thresholds = Thresholds(),  # noqa: B008  immutable
    ) -> None:
        """`kinds`: of `KINDS`; others are not this detector's to find, and ignored."""
        self._kinds: Final = tuple(kind for kind in _PARTS if kind in kinds)
        self._columns: Final = [_columns(weights.labels, kind) for kind in self._kinds]
        self._thresholds: Final = thresholds
        self._engine: Final = _Engine(weights)

    def scan(self, text: str, check: Check = never) -> list[Finding]:
        """All findings in `text`. Raises `EffectError` where the model fails."""
        return self.scan_ranges(text, [(0, len(text))], check)

    def scan_ranges(
        self, text: str, ranges: Iterable[tuple[int, int]], check: Check = never, hints: Sequence[Finding] | None = None
    ) -> list[Finding]:
        """Findings that touch the given ranges of characters, which are read with what is around them.

        `hints`: what another model found in the text; what it found, too, is likelier, and what it did not is less so.
        Calls `check` before every run of the model. Raises `EffectError` where the model fails, ValueError for a range
        that is not one of the text.
        """
        wanted = join_ranges(text, ranges)
        if not self._kinds or not wanted:
            return []
        spans = join_ranges(text, [with_context(text, span, _CONTEXT) for span in wanted])
        pieces = [piece for span in spans for piece in self._pieces(text, span, _WINDOW, check)]
        words: list[list[_Word]] = [[] for _ in pieces]
        for batch in _batches(pieces):
            check()
            for number, likely in zip(batch, self._engine.run([pieces[at].ids for at in batch]), strict=True):
                words[number] = self._words(pieces[number], likely)
        ordered = _in_order(words)
        if hints is not None:
            for column, kind in enumerate(self._kinds):
                if kind in HINTED:
                    _weigh(ordered, column, [hint for hint in hints if hint.kind == kind])
        return touching(self._findings(text, ordered), wanted)

    def _pieces(self, text: str, span: tuple[int, int], size: int, check: Check) -> Iterator[_Piece]:
        for window in windows(text, span, size, size // 7):
            check()
            piece = self._engine.read(text, window)
            if len(piece.ids) > _MOST_TOKENS and size > _SMALLEST_WINDOW:
                yield from self._pieces(text, (window.start, window.end), size // 2, check)
            elif piece.ids:
                yield piece

    def _words(self, piece: _Piece, likely: npt.NDArray[np.float32]) -> list[_Word]:
        """The words that the window speaks for, each with the mean of its tokens."""
        tokens = np.stack([likely[:, columns].sum(axis=1) for columns in self._columns], axis=1)
        lengths = np.diff([*piece.firsts, len(piece.ids)])
        means = np.add.reduceat(tokens, piece.firsts, axis=0) / lengths[:, None]
        return [
            _Word(start, end, mean)
            for (start, end), mean in zip(piece.places, means.tolist(), strict=True)
            if piece.window.owns(start, end)
        ]

    def _findings(self, text: str, words: list[_Word]) -> Iterator[Finding]:
        for column, kind in enumerate(self._kinds):
            for run in _runs(text, words, (kind, column), self._thresholds.extend):
                scores = [word.likely[column] for word in run]
                if max(scores) < self._thresholds.accept:
                    continue
                if kind == "PERSON" and _COMPANY.match(text, run[-1].end):
                    continue
                score = min(1.0, round(sum(scores) / len(scores), 3))
                start = run[0].start
                if kind == "PHONE_NUMBER" and text[max(0, start - 1) : start] == "+":
                    start -= 1
                yield Finding(kind, start, run[-1].end, score, RULE)


class StrictNames:
    """The transformer, on the lines that a fast model finds worth it, and knowing what that one found.

    The fast model sees capitals, which the transformer does not; together they find more than either, with fewer
    mistakes. One thread at a time.
    """

    def __init__(self, fast: LineFinder, transformer: TransformerDetector, threshold: float = 0.02) -> None:
        """`threshold`: how likely a name must be, to the fast model, for its line to be read by the transformer."""
        self._fast: Final = fast
        self._transformer: Final = transformer
        self._threshold: Final = threshold

    def scan(self, text: str, check: Check = never) -> list[Finding]:
        """All findings in `text`. Raises what either model raises."""
        lines = self._fast.flagged_lines(text, self._threshold, check)
        if not lines:
            return []
        hints = [one for one in self._fast.scan(text, check) if one.score >= _SURE]
        return self._transformer.scan_ranges(text, lines, check, hints)


class _Engine:
    """The tokenizer and the model."""

    def __init__(self, weights: Weights) -> None:
        try:
            onnxruntime = import_module("onnxruntime")
            raised = import_module("onnxruntime.capi.onnxruntime_pybind11_state")
            tokenizers = import_module("tokenizers")
        except ImportError as error:
            raise ModelMissingError("names: strict", f"{error.name} is not installed", STRICT_EXTRA) from error
        # the library's errors have no base of their own
        self._broken: Final = (raised.Fail, raised.InvalidArgument, raised.RuntimeException)
        unreadable = (*self._broken, raised.InvalidProtobuf, raised.InvalidGraph, raised.NotImplemented)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.log_severity_level = 3
        try:
            self._session: Final[Any] = onnxruntime.InferenceSession(
                weights.model, options, providers=["CPUExecutionProvider"]
            )
            json.loads(weights.tokenizer)  # the library's own error for what is not JSON has no type
            self._tokenizer: Final[Any] = tokenizers.Tokenizer.from_str(weights.tokenizer.decode())
        except (*unreadable, ValueError) as error:
            raise ModelMissingError("names: strict", "these weights are not a model", STRICT_EXTRA) from error
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        self._tokenizer.encode_special_tokens = True  # "[SEP]" in a caller's text is text
        self._first, self._last = (self._tokenizer.token_to_id(token) for token in ("[CLS]", "[SEP]"))
        self._labels: Final = len(weights.labels)

    def read(self, text: str, window: Window) -> _Piece:
        """Cut a window into tokens and words, with the places of the words in `text`."""
        part = text[window.start : window.end]
        try:
            part.encode()
        except UnicodeEncodeError:  # a lone surrogate; one character stays one character
            part = part.encode(errors="replace").decode()
        encoding = self._tokenizer.encode(part, add_special_tokens=False)
        offsets, numbers = encoding.offsets, encoding.word_ids
        firsts = [at for at, number in enumerate(numbers) if at == 0 or number != numbers[at - 1]]
        lasts = [at - 1 for at in (*firsts[1:], len(numbers))][: len(firsts)]
        places = [
            (window.start + offsets[first][0], window.start + offsets[last][1])
            for first, last in zip(firsts, lasts, strict=True)
        ]
        return _Piece(window, encoding.ids, places, firsts)

    def run(self, batch: Sequence[list[int]]) -> list[npt.NDArray[np.float32]]:
        """How likely every token of every piece has every label: an array of tokens x labels a piece."""
        longest = max(map(len, batch)) + 2
        ids = np.zeros((len(batch), longest), np.int64)
        mask = np.zeros_like(ids)
        for row, tokens in enumerate(batch):
            ids[row, : len(tokens) + 2] = [self._first, *tokens, self._last]
            mask[row, : len(tokens) + 2] = 1
        feed = {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)}
        try:
            logits = self._session.run(None, feed)[0]
        except self._broken as error:
            raise EffectError("the transformer could not read a text") from error
        if logits.shape != (*ids.shape, self._labels) or not np.isfinite(logits).all():
            raise EffectError("the transformer's answer makes no sense")
        odds = np.exp(logits - logits.max(axis=2, keepdims=True))
        odds /= odds.sum(axis=2, keepdims=True)
        return [odds[row, 1 : len(tokens) + 1] for row, tokens in enumerate(batch)]


def _columns(labels: Sequence[str], kind: str) -> list[int]:
    """The numbers of the labels that make up a kind."""
    wanted = {f"{prefix}-{part}" for part in _PARTS[kind] for prefix in "BI"}
    columns = [number for number, label in enumerate(labels) if label in wanted]
    if len(columns) != len(wanted):
        raise ModelMissingError("names: strict", f"this model has no labels for {kind}", STRICT_EXTRA)
    return columns


def _batches(pieces: Sequence[_Piece]) -> Iterator[list[int]]:
    """Numbers of pieces to run together: short ones of nearly the same length, so that little is padding."""
    batch: list[int] = []
    for number in sorted(range(len(pieces)), key=lambda at: len(pieces[at].ids)):
        length = len(pieces[number].ids) + 2
        if batch:
            shortest = len(pieces[batch[0]].ids) + 2
            if length * (len(batch) + 1) > _BATCH_TOKENS or length > shortest + shortest // 8 + 1:
                yield batch
                batch = []
        batch.append(number)
    if batch:
        yield batch


def _in_order(words: Iterable[Iterable[_Word]]) -> list[_Word]:
    """The words of all windows by their place. One that two windows speak for is as likely as either says."""
    ordered: list[_Word] = []
    for word in sorted(one for window in words for one in window):
        last = ordered[-1] if ordered else None
        if last is not None and (last.start, last.end) == (word.start, word.end):
            ordered[-1] = last._replace(likely=[max(pair) for pair in zip(last.likely, word.likely, strict=True)])
        else:
            ordered.append(word)
    return ordered


def _weigh(words: list[_Word], column: int, hints: Iterable[Finding]) -> None:
    """Change how likely the words are a kind by whether the hints, which are all of that kind, touch them."""
    places = sorted((hint.start, hint.end) for hint in hints)
    at = 0
    for number, word in enumerate(words):
        while at < len(places) and places[at][1] <= word.start:
            at += 1
        factor = _FOUND if at < len(places) and places[at][0] < word.end else _NOT_FOUND
        likely = list(word.likely)
        likely[column] = likely[column] * factor / (1 + likely[column] * (factor - 1))
        words[number] = word._replace(likely=likely)


def _runs(text: str, words: Iterable[_Word], kind: tuple[str, int], extend: float) -> Iterator[list[_Word]]:
    """Words that are at least `extend` likely a kind (its name, its column), with but a joint between two of them.

    Signs are no words: those between two words are the joint's to judge, those at either end no part of a run.
    """
    name, column = kind
    joint = _JOINTS[name]
    run: list[_Word] = []
    for word in words:
        if word.likely[column] < extend:
            continue
        if not text[word.start : word.end].strip(_SIGNS):
            continue
        if run and not joint.fullmatch(text, run[-1].end, max(run[-1].end, word.start)):
            yield run
            run = []
        run.append(word)
    if run:
        yield run
