"""Looks for what is sensitive in what a model itself writes, whole or in a stream that is cut anywhere.

A stream is judged in windows whose places follow from the text alone, never from how it was cut, so that the same text
gives the same result however it comes. A window begins up to 128 characters before what has not gone on yet and ends
128 after that point. What goes on is a part that has 64 characters of the window behind it, ends between two words, and
does not end within something found: that much of what follows an entity is seen before it goes. Where no such part is
there (a long word, an entity without an end, a private key) the window doubles, up to 8192 characters; what was found
at its very end is then taken to go on to the end of the word.
"""

from __future__ import annotations

import json
import re
from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from typing import Final, NamedTuple

from extproc.errors import ErrorCode, Rejection
from extproc.redaction.operators import Allow, Block, Operators, Pseudonym
from extproc.redaction.pseudonyms import NAME
from extproc.redaction.restore import Restorer
from extproc.text import Channel, ChannelKind, Finding, TextFilter

CONTEXT: Final = 128
LOOK_AHEAD: Final = 64
WINDOW: Final = 128
LARGEST_WINDOW: Final = 8192

Scan = Callable[[str], tuple[Finding, ...]]
Noted = Callable[[str, str], None]

_PLACEHOLDER: Final = re.compile(f"<{NAME}>")
_WORD: Final = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/=_.-@:%&?~#$!*\\"
"""What words, keys, addresses and links are made of: ASCII, for text without spaces between words must go on too."""
_BLOCK_BEGINS: Final = re.compile(r"-----BEGIN [A-Z ]{0,40}PRIVATE KEY|PuTTY-User-Key-File-[0-9]")
_BLOCK_ENDS: Final = re.compile(r"-----END [A-Z ]{0,40}PRIVATE KEY[A-Z ]{0,10}-----|Private-MAC: *[0-9a-fA-F]{32,}")
_ESCAPE: Final = re.compile(
    r"\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}|\\u[0-9a-fA-F]{4}|\\[\"\\/bfnrt]"
)
_TOKEN: Final = re.compile(r'\\.|"|[^\s"{}\[\],:\\]+', re.DOTALL)  # of JSON: an escape, a quote, a part of a string or scalar
_KEY_FOLLOWS: Final = re.compile(r'"\s*:')


class _Cell(NamedTuple):
    """What may change in a JSON document: what is between two quotes, or a scalar. Offsets into the view."""

    start: int
    end: int
    quoted: bool
    key: bool


class _View:
    """A piece of a text as detectors see it: of a JSON document, with its escapes undone."""

    def __init__(self, context: str, raw: str, *, json_text: bool) -> None:
        before = _unescape(context)[0] if json_text else context
        after, self.offsets = _unescape(raw) if json_text else (raw, None)
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


class _Stream:
    """One channel: `text[start:]` has not gone on yet; what is before is context."""

    def __init__(self, kind: ChannelKind, text: str = "") -> None:
        self.kind: Final = kind
        self.text = text
        self.start = 0
        self.window = WINDOW
        self.inside = False  # JSON: within a string, at `start`
        self.swallow = False  # the word at `start` is the rest of something that was found


class OutputScan:
    """A `text.TextFilter` that edits or stops what a detector finds; `inner` gets what is left, to restore originals.

    Looking comes before restoring: what the caller sent and gets back is not looked at, and placeholders are no
    findings. In `json` channels the document stays valid: within strings escapes are kept whole, a number becomes a
    string, and of a finding over several members the values are edited. Identifiers pass unseen.

    An operator that blocks makes a `Rejection` (400) that names the kinds: what comes before goes on first, and every
    later call raises it again.
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
        if any(isinstance(operators.of(kind), Pseudonym) for kind in operators.kinds):
            raise ValueError("what a model says cannot have a pseudonym")
        self._scan: Final = scan
        self._operators: Final = operators
        self._inner: Final = inner
        self._noted: Final = noted
        if placeholder is None:
            placeholder = inner.knows if isinstance(inner, Restorer) else _is_none
        self._placeholder: Final = placeholder
        self._streams: dict[Channel, _Stream] = {}
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
            text = self._judge(stream, last=False)
        return text if self._inner is None or not text else self._inner.piece(channel, text)

    def end(self, channel: Channel) -> str:
        """The channel is complete -> what was held back."""
        self._raise_if_stopped()
        stream = self._streams.pop(channel, None)
        text = self._judge(stream, last=True) if stream is not None else ""
        if self._inner is None:
            return text
        return (self._inner.piece(channel, text) if text else "") + self._inner.end(channel)

    def whole(self, kind: ChannelKind, text: str) -> str:
        """A complete text -> the edited text, the very same object where nothing changed."""
        self._raise_if_stopped()
        if kind != "name":
            edited = self._judge(_Stream(kind, text), last=True)
            self._raise_if_stopped()
            text = text if edited == text else edited
        return text if self._inner is None else self._inner.whole(kind, text)

    def _raise_if_stopped(self) -> None:
        if self._stopped is not None:
            raise self._stopped

    def _judge(self, stream: _Stream, *, last: bool) -> str:
        """What can go on, edited. At the end (`last`) that is everything."""
        parts: list[str] = []
        while self._stopped is None:
            rest = len(stream.text) - stream.start
            if rest < stream.window and not (last and rest):
                break
            parts.append(self._step(stream, last=last and rest < max(stream.window, len(stream.text))))
        begin = max(0, stream.start - CONTEXT)
        stream.text = stream.text[begin:]
        stream.start -= begin
        text = "".join(parts)
        if not text:
            self._raise_if_stopped()
        return text
