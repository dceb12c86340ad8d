"""Looks for what is sensitive in what a model itself writes, whole or in a stream that is cut anywhere.

A stream is judged in windows whose places follow from the text alone, never from how it was cut, so that the same text
gives the same result however it comes. A window begins up to 64 characters before what has not gone on yet and ends
128 after that point, later more: who reads along is far behind by then, and larger windows cost less. What goes on is a part that has 64 characters of the window behind it, ends between two words, and
does not end within something found: that much of what follows an entity is seen before it goes. Where no such part is
there (a long word, an entity without an end, a private key) the window doubles, up to 8192 characters; what was found
at its very end is then taken to go on to the end of the word.

A complete text that was streamed before, as vendors repeat them, becomes what the stream became. A long one is judged
in the same windows, a short one at once; each is judged once in an answer.
"""

from __future__ import annotations

import copy
import json
import re
from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from typing import Final

from extproc.errors import ErrorCode, Rejection
from extproc.redaction.operators import Allow, Block, Operators, Pseudonym
from extproc.redaction.output_views import Cell, View
from extproc.redaction.output_views import cells as cells_of
from extproc.redaction.pseudonyms import LITERAL, NAME
from extproc.redaction.restore import Restorer
from extproc.text import Channel, ChannelKind, Finding, TextFilter

CONTEXT: Final = 64
LOOK_AHEAD: Final = 64
WINDOW: Final = 128
WINDOWS: Final = ((20_000, 1024), (6_000, 512), (2_000, 256))
"""From which character of a channel on a window is how large."""
DOCUMENT_WINDOW: Final = 256  # the least in `json` channels: programs wait for the whole of those
LARGEST_WINDOW: Final = 8192
LONG: Final = 4096  # characters from which on a complete text is judged in windows
REMEMBERED: Final = 1_000_000  # characters of an answer that are kept, to know them when they are repeated

Scan = Callable[[str], tuple[Finding, ...]]
Noted = Callable[[str, str], None]

_PLACEHOLDER: Final = re.compile(f"<{NAME}>")
_WORD: Final = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/=_.-@:%&?~#$!*\\"
"""What words, keys, addresses and links are made of: ASCII, for text without spaces between words must go on too."""
_SWALLOWED: Final = _WORD.removesuffix("\\")  # a backslash may belong to the quote behind it
_BLOCK_BEGINS: Final = re.compile(r"-----BEGIN [A-Z ]{0,40}PRIVATE KEY|PuTTY-User-Key-File-[0-9]")
_BLOCK_ENDS: Final = re.compile(r"-----END [A-Z ]{0,40}PRIVATE KEY[A-Z ]{0,10}-----|Private-MAC: *[0-9a-fA-F]{32,}")


class _Stream:
    """One channel: `text[start:]` has not gone on yet; what is before is context."""

    def __init__(self, kind: ChannelKind, text: str = "") -> None:
        self.kind: Final = kind
        self.text = text
        self.start = 0
        self.forgotten = 0
        self.window = self.least
        self.inside = False  # JSON: within a string, at `start`
        self.swallow = False  # the word at `start` is the rest of something that was found
        self.length = 0  # of all pieces
        self.pieces: list[str] | None = []  # None: too long to be kept
        self.edited: list[str] = []
        self.tail: str | None = None  # what the end will give, where that is known and no piece came since

    @property
    def least(self) -> int:
        """The size of a window that begins here, if a part of it can go on."""
        at = self.forgotten + self.start
        size = next((size for begin, size in WINDOWS if at >= begin), WINDOW)
        return max(size, DOCUMENT_WINDOW) if self.kind == "json" else size

    def keep(self, piece: str, edited: str) -> None:
        """Remember what came and what became of it."""
        self.tail = None
        self.length += len(piece)
        if self.pieces is None:
            return
        if self.length > REMEMBERED:
            self.pieces, self.edited = None, []
            return
        self.pieces.append(piece)
        self.edited.append(edited)

    def was(self, kind: ChannelKind, text: str) -> bool:
        """Whether all that came is `text`."""
        if self.kind != kind or self.length != len(text) or not self.pieces:
            return False
        self.pieces = ["".join(self.pieces)]
        return self.pieces[0] == text

    def pass_over(self) -> None:
        """Leave out the rest of a word that was found."""
        if self.swallow and self.start < len(self.text):
            kept = self.text[self.start :].lstrip(_SWALLOWED)
            self.start = len(self.text) - len(kept)
            self.swallow = not kept

    def forget(self) -> None:
        """Keep no more of what has gone on than the next window needs."""
        begin = max(0, self.start - CONTEXT)
        if begin:
            self.text = self.text[begin:]
            self.start -= begin
            self.forgotten += begin


class OutputScan:
    """A `text.TextFilter` that edits or stops what a detector finds; `inner` gets what is left, to restore originals.

    Looking comes before restoring: what the caller sent and gets back is not looked at, and placeholders are no
    findings. In `json` channels the document stays valid: within strings escapes are kept whole, a number becomes a
    string, and of a finding over several members the values are edited. Identifiers pass unseen.

    An operator that blocks makes a `Rejection` (400) that names the kinds. While a stream is under way what comes before
    goes on first and the next call raises, as does every later one.
    """

    trigger: None = None
    """Every text has to be seen."""

    def __init__(
        self,
        scan: Scan,
        operators: Operators,
        inner: TextFilter | None = None,
        noted: Noted | None = None,
        placeholder: Callable[[str], bool] | None = None,
    ) -> None:
        """`scan`: findings that do not overlap, by start; called often and on the spot, so it has to be quick.

        `noted` is told kind and operator of each finding. `placeholder`: whether `<KIND_n>` is one of ours; by default
        those that `inner` restores. Raises `ValueError` for pseudonyms, which nobody could turn back.
        """
        if operators.reversible - {LITERAL}:
            raise ValueError("what a model says cannot have a pseudonym")
        self._scan: Final = scan
        self._operators: Final = operators
        self._inner: Final = inner
        self._noted: Final = noted
        known = inner.knows if isinstance(inner, Restorer) else frozenset[str]().__contains__
        self._placeholder: Final = placeholder or known
        self._streams: dict[Channel, _Stream] = {}
        self._known: dict[tuple[ChannelKind, str], str] = {}  # complete texts, the oldest first
        self._size = 0  # of the texts in it
        self._stopped: Rejection | None = None

    @property
    def holding(self) -> bool:
        """Whether a part of any channel is held back."""
        inner = isinstance(self._inner, Restorer) and self._inner.holding
        return inner or any(stream.start < len(stream.text) for stream in self._streams.values())

    def piece(self, channel: Channel, text: str) -> str:
        """The next piece of a channel -> what can go on now."""
        self._raise_if_stopped()
        if channel.kind != "name":
            stream = self._streams.get(channel)
            if stream is None:
                stream = self._streams[channel] = _Stream(channel.kind)
            stream.text += text
            edited = self._judge(stream, last=False)
            stream.keep(text, edited)
            text = edited
        return text if self._inner is None or not text else self._inner.piece(channel, text)

    def end(self, channel: Channel) -> str:
        """The channel is complete -> what was held back."""
        self._raise_if_stopped()
        stream = self._streams.pop(channel, None)
        text = "" if stream is None else self._tail(stream)
        self._raise_if_stopped()  # nobody may call again
        if stream is not None and stream.pieces:
            self._remember(stream.kind, "".join(stream.pieces), "".join(stream.edited) + text)
        if self._inner is None:
            return text
        return (self._inner.piece(channel, text) if text else "") + self._inner.end(channel)

    def whole(self, kind: ChannelKind, text: str) -> str:
        """A complete text -> the edited text, the very same object where nothing changed."""
        self._raise_if_stopped()
        if kind != "name":
            edited = self._known.get((kind, text))
            if edited is None:
                edited = self._complete(kind, text)
                self._raise_if_stopped()
                self._remember(kind, text, edited)
            text = text if edited == text else edited
        return text if self._inner is None else self._inner.whole(kind, text)

    def _raise_if_stopped(self) -> None:
        if self._stopped is not None:
            raise self._stopped

    def _complete(self, kind: ChannelKind, text: str) -> str:
        """What becomes of a complete text."""
        for stream in self._streams.values():
            if stream.was(kind, text):  # its end comes only after this
                edited = self._tail(copy.copy(stream))
                stream.tail = edited
                return "".join(stream.edited) + edited
        alone = _Stream(kind, text)
        begin = self._judge(alone, last=False) if len(text) > LONG else ""
        self._raise_if_stopped()
        return begin + self._judge(alone, last=True)

    def _tail(self, stream: _Stream) -> str:
        """What a stream gives at its end."""
        return self._judge(stream, last=True) if stream.tail is None else stream.tail

    def _remember(self, kind: ChannelKind, text: str, edited: str) -> None:
        if (kind, text) in self._known or len(text) > REMEMBERED:
            return
        self._known[kind, text] = edited
        self._size += len(text)
        while self._size > REMEMBERED:
            oldest = next(iter(self._known))
            self._size -= len(oldest[1])
            del self._known[oldest]

    def _judge(self, stream: _Stream, *, last: bool) -> str:
        """What can go on, edited. At the end (`last`) that is everything."""
        parts: list[str] = []
        if last:
            stream.pass_over()
            if stream.start < len(stream.text):
                parts.append(self._step(stream, len(stream.text) - stream.start, last=True))
        while not last and self._stopped is None:
            stream.pass_over()
            if len(stream.text) - stream.start < stream.window:
                break
            parts.append(self._step(stream, stream.window, last=False))
        stream.forget()
        text = "".join(parts)
        if not text:
            self._raise_if_stopped()
        return text

    def _step(self, stream: _Stream, size: int, *, last: bool) -> str:
        """Judge one window, which has `size` characters that did not go on yet; nothing may go on by it."""
        is_json = stream.kind == "json"
        start = stream.start
        view = View(stream.text[max(0, start - CONTEXT) : start], stream.text[start : start + size], is_json=is_json)
        cells, quotes = cells_of(view, inside=stream.inside) if is_json else ((), ())
        findings = self._found(view)
        stop = len(view.text)
        if not last:
            forced = size >= LARGEST_WINDOW
            stop = _stop(view, findings, cells, forced=forced)
            if stop <= view.base:
                stream.window *= 2
                return ""
            stream.swallow = forced and any(one.start < stop < one.end for one in findings)
        edited = self._edit(view, findings, cells if is_json else None, stop)
        end = view.to_raw(stop)
        stream.inside ^= bisect_left(quotes, end) % 2 == 1
        stream.start += end
        stream.window = stream.least
        return edited

    def _found(self, view: View) -> list[Finding]:
        text = view.text
        findings = [one for one in self._scan(text) if one.end > view.base]
        if findings and "<" in text:
            for match in _PLACEHOLDER.finditer(text):
                if self._placeholder(match[0]):
                    findings = [part for one in findings for part in _outside(one, match.start(), match.end())]
        return findings

    def _edit(self, view: View, findings: Sequence[Finding], cells: Sequence[Cell] | None, stop: int) -> str:
        """What goes on in place of the view up to `stop`. `cells`: None for plain text."""
        parts: list[str] = []
        at = view.base
        for finding in findings:
            if finding.start >= stop:
                break
            operator = self._operators.of(finding.kind)
            if self._noted is not None:
                self._noted(finding.kind, operator.name)
            if isinstance(operator, Block):
                self._stopped = _rejection(self._operators.blocked(findings))
                stop = max(at, finding.start)
                break
            if isinstance(operator, Allow | Pseudonym):
                continue
            for start, end, quoted in _places(finding, cells, at, stop):
                new = operator.apply(finding.kind, view.text[start:end])
                if cells is not None:
                    new = json.dumps(new, ensure_ascii=False)
                parts += (view.raw[view.to_raw(at) : view.to_raw(start)], new[1:-1] if quoted else new)
                at = end
        parts.append(view.raw[view.to_raw(at) : view.to_raw(stop)])
        return "".join(parts)


def _stop(view: View, findings: Sequence[Finding], cells: Sequence[Cell], *, forced: bool) -> int:
    """Up to where the view can go on; its base where nothing can."""
    text, base = view.text, view.base
    limit = view.from_raw(len(view.raw) - LOOK_AHEAD)
    stop = limit
    if text[limit] in _WORD:
        stop = base + len(text[base:limit].rstrip(_WORD))
    for begin in _BLOCK_BEGINS.finditer(text, base):
        if begin.start() < stop and _BLOCK_ENDS.search(text, begin.end()) is None:
            stop = begin.start()
            break
    for finding in findings:
        if finding.start < stop < finding.end:
            stop = finding.start
    for cell in cells:
        if not cell.quoted and cell.start < stop < cell.end:
            stop = cell.start
    if stop > base:
        return stop
    if forced:
        return limit
    ends = [one.end for one in findings if one.start <= base < one.end <= limit]
    ends = [end for end in ends if all(cell.quoted or not cell.start < end < cell.end for cell in cells)]
    return max(ends, default=base)


def _places(finding: Finding, cells: Sequence[Cell] | None, at: int, stop: int) -> Iterator[tuple[int, int, bool]]:
    """What is replaced because of a finding: start, end, whether it is within the quotes of a JSON string."""
    if cells is None:
        yield max(at, finding.start), min(finding.end, stop), False
        return
    met = [cell for cell in cells if cell.start < finding.end and finding.start < cell.end]
    for cell in met:
        if cell.key and len(met) > 1:
            continue
        if cell.quoted:
            start, end = max(at, finding.start, cell.start), min(finding.end, cell.end, stop)
        else:
            start, end = cell.start, min(cell.end, stop)
        if at <= start < end:
            yield start, end, cell.quoted
            at = end


def _outside(finding: Finding, start: int, end: int) -> Iterator[Finding]:
    """What is left of a finding without the characters from `start` to `end`."""
    if finding.start < start:
        yield finding._replace(end=min(finding.end, start))
    if finding.end > end:
        yield finding._replace(start=max(finding.start, end))


def _rejection(kinds: tuple[str, ...]) -> Rejection:
    named = ", ".join(kinds)
    message = f"The answer was stopped, because your organisation does not let its content pass ({named})."
    return Rejection(400, ErrorCode.POLICY_CONTENT_BLOCKED, message, detail=named)
