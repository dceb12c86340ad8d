r"""Texts as a gate sees them: one ASCII character for each, that belongs to the same classes.

Hyperscan is fast on ASCII and slow on the rest of Unicode, of which it knows an old version. So a gate is shown `_` for a
letter outside ASCII, `0` for such a digit, a vertical tab for a space, and a control character for anything else: what
matched before matches still, and offsets hold. What then matches too much is sorted out by who confirms.

A pattern may say `\\w`, `\\d`, `\\s`, `\\b` and mean Unicode, as in `regex`; or mean ASCII, as in RE2, where nothing
outside ASCII is a letter. There is a folding for each.
"""

from __future__ import annotations

import codecs
from collections.abc import Callable
from typing import Final

import regex  # type: ignore[import-untyped]  # no stubs

_UNICODE: Final = "extproc-fold-unicode"
_ASCII: Final = "extproc-fold-ascii"
_DIGIT, _LETTER, _SPACE, _OTHER = "0", "_", "\x0b", "\x01"
_ALIKE: Final = {"\u212a": "k", "\u017f": "s", "\u0130": "i"}  # ASCII letters to `regex`, where case is ignored
_WIDE_PLUS: Final = {"\uff0b": "+"}  # begins a phone number too
_KEPT: Final = 8192  # characters remembered at a time


class _Table(dict[int, str]):
    """For `str.translate`: what stands for a code point, worked out when it is first seen."""

    def __init__(self, *, unicode: bool) -> None:
        super().__init__()
        self._unicode = unicode

    def __missing__(self, code: int) -> str:
        if len(self) >= _KEPT:
            self.clear()
        char = chr(code)
        self[code] = stand_in = _stand_in(char) if self._unicode else _OTHER
        return stand_in


def fold(text: str, *, unicode: bool) -> bytes:
    """A byte for every character. `unicode`: what the classes of the patterns mean."""
    name = _UNICODE if unicode else _ASCII
    try:
        return text.encode("ascii", name)
    except LookupError:  # the first time in this process
        codecs.register_error(name, _handler(_Table(unicode=unicode)))
        return text.encode("ascii", name)


def _handler(table: _Table) -> Callable[[UnicodeError], tuple[str, int]]:
    def replace(error: UnicodeError) -> tuple[str, int]:
        if not isinstance(error, UnicodeEncodeError):
            raise error
        return error.object[error.start : error.end].translate(table), error.end

    return replace


def _stand_in(char: str) -> str:
    alike = _ALIKE.get(char) or _WIDE_PLUS.get(char)
    if alike is not None:
        return alike
    if regex.match(r"\d", char):
        return _DIGIT
    if regex.match(r"\w", char):
        return _LETTER
    return _SPACE if regex.match(r"\s", char) else _OTHER
