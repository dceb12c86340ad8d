r"""Other spellings of a text: what a reader takes for the same, and a detector does not.

Copies from word processors, PDFs and web pages hold no-break spaces, typographic hyphens, characters without width and
full-width digits; Markdown puts `\` before signs and `_` around words; links say `%40`. Each view here is a piece of a
text in plain spelling, with the place that each of its characters has in the text.

Only pieces around such characters are made anew, and only those in which something with a form may stand: most texts
have none.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from typing import Final, NamedTuple, TypeAlias

_AROUND: Final = 200  # characters looked at on each side: the words before a value say what it is
_STRETCH: Final = 400  # characters more, up to a place where a word ends

_INVISIBLE: Final = "\u00ad\u034f\u061c\u180e\u200b-\u200f\u202a-\u202e\u2060-\u2064\u2066-\u206f\ufeff"
_SPACES: Final = "\u00a0\u1680\u2000-\u200a\u202f\u205f\u3000"
_DASHES: Final = (
    "\u058a\u05be\u1400\u1806\u2010-\u2015\u2212\u2e17\u2e1a\u2e3a\u2e3b\u2e40\u2e5d\u301c\u3030\u30a0"
    "\ufe31\ufe32\ufe58\ufe63\U00010ead"
)
_MINUS: Final = 0x2212  # not a dash to Unicode
_WIDE: Final = range(0xFF01, 0xFF5F)  # full-width forms, in the order of ASCII
_WIDE_LESS: Final = 0xFEE0
_ZEROS: Final = (
    "\u0660\u06f0\u07c0\u0966\u09e6\u0a66\u0ae6\u0b66\u0be6\u0c66\u0ce6\u0d66\u0de6\u0e50\u0ed0\u0f20\u1040\u1090"
    "\u17e0\u1810\u1946\u19d0\u1a80\u1a90\u1b50\u1bb0\u1c40\u1c50\ua620\ua8d0\ua900\ua9d0\ua9f0\uaa50\uabf0\uff10"
    "\U000104a0\U00010d30\U00011066\U000110f0\U00011136\U000111d0\U000112f0\U00011450\U000114d0\U00011650"
    "\U000116c0\U00011730\U000118e0\U00011950\U00011c50\U00011d50\U00011da0\U00016a60\U00016ac0\U00016b50"
    "\U0001d7ce\U0001d7d8\U0001d7e2\U0001d7ec\U0001d7f6\U0001e140\U0001e2f0\U0001e950\U0001fbf0"
)  # the first digit of each row of ten outside ASCII
_DIGITS: Final = "".join(f"{zero}-{chr(ord(zero) + 9)}" for zero in _ZEROS)
_CODED: Final = {
    "%20": " ", "%2b": "+", "%2d": "-", "%2e": ".", "%3a": ":", "%40": "@",
    "&nbsp;": " ", "&#160;": " ", "&#xa0;": " ", "&#8209;": "-", "&#x2011;": "-", "&shy;": "", "&#173;": "",
    "&#64;": "@", "&#x40;": "@", "&commat;": "@",
}  # fmt: skip
_WRITTEN: Final = r"\\(?=[-.@_+:/()#*~=])|(?i:" + "|".join(_CODED) + ")"
_CLASS: Final = f"\\\\%&{_SPACES}{_DASHES}\uff01-\uff5e{_DIGITS}{_INVISIBLE}"
_SIGN: Final = re.compile(f"[{_CLASS}]")
_ASCII_SIGN: Final = re.compile(r"[\\%&]")  # all that an ASCII text can have of them, searched in half the time
# An invisible character counts between the characters of a value; in front of it or between emojis it hides nothing.
_SPOT: Final = re.compile(
    rf"[{_SPACES}{_DASHES}\uff01-\uff5e{_DIGITS}]|{_WRITTEN}"
    rf"|(?<=[\w@.+:/() -])[{_INVISIBLE}]+(?=[\w@.+:/() -])"
)
_SIGNS: Final = frozenset(  # the characters of the class: to see that a text has none of them is four times as fast
    chr(code)
    for first, last in re.findall(r"(.)(?:-(.))?", _CLASS.removeprefix("\\\\"), re.DOTALL)
    for code in range(ord(first), ord(last or first) + 1)
) | {"\\"}
_SHORTER: Final = re.compile(rf"{_WRITTEN}|[{_INVISIBLE}]+")
_HIDDEN: Final = re.compile(f"[{_INVISIBLE}]")
_FORMED: Final = re.compile(r"[\d@]")
_LETTER: Final = re.compile("[A-Za-z]")
_GAP: Final = r"""\s"'`,;<>(){}\[\]|"""
_UNDERLINED: Final = re.compile(f"(?<![^{_GAP}])[^{_GAP}_]*+_[^{_GAP}]*+")
_TWO_DIGITS: Final = re.compile(r"\d\D*\d")
_OUTER: Final = re.compile(r"(?<![^\W_])_+|_+(?![^\W_])")
_SURE: Final = 0.5  # of what is a part of a word: ids and names of variables are full of weak patterns
_KEPT: Final = 8192  # characters remembered at a time
_ENDS: Final = (" ", "\n", "\t", '"', ",")

_Span: TypeAlias = tuple[int, int]


class View(NamedTuple):
    """A piece in plain spelling. `places`: of each of its characters in the text, ascending.

    `names`: whether it is worth the look of a model that finds names, which reads most other spellings as they are.
    `least`: the score from which on findings in it count.
    """

    text: str
    places: Sequence[int]
    names: bool = False
    least: float = 0.0

    def span(self, start: int, end: int) -> _Span:
        """Where a part of the piece (not empty) stands in the text, with everything that was left out inside."""
        return self.places[start], self.places[end - 1] + 1


def views(text: str) -> Iterator[View]:
    """Every piece of `text` that has another spelling; none for a text in plain spelling."""
    if not _SIGNS.isdisjoint(text):
        for start, end in _pieces(text, _spots(text)):
            view = _plain(text, start, end)
            if _FORMED.search(view.text) or view.names:
                yield view
    if "_" in text:
        for start, end in _pieces(text, _underlined(text)):
            yield from _parted(text, start, end)


def _spots(text: str) -> Iterator[_Span]:
    """Characters, escapes and codes that look like something else."""
    done = 0
    for sign in (_ASCII_SIGN if text.isascii() else _SIGN).finditer(text):
        spot = _SPOT.match(text, sign.start()) if sign.start() >= done else None
        if spot is not None:
            done = spot.end()
            yield spot.span()


def _pieces(text: str, spots: Iterable[_Span]) -> Iterator[_Span]:
    """The surroundings of `spots` (ascending), joined where they meet; they end between words, if words end there."""
    first = last = -1
    for start, end in spots:
        left, right = _left(text, start), _right(text, end)
        if left <= last:
            last = max(last, right)
            continue
        if last >= 0:
            yield first, last
        first, last = left, right
    if last >= 0:
        yield first, last


def _left(text: str, start: int) -> int:
    near = start - _AROUND
    if near <= 0:
        return 0
    far = max(0, near - _STRETCH)
    found = max(text.rfind(sign, far, near) for sign in _ENDS)
    return found + 1 if found >= 0 else far


def _right(text: str, end: int) -> int:
    near = end + _AROUND
    far = min(len(text), near + _STRETCH)
    return min((found for sign in _ENDS if (found := text.find(sign, near, far)) >= 0), default=far)


def _plain(text: str, start: int, end: int) -> View:
    """The piece without what has no width, with one character for each escape or code, folded to ASCII."""
    parts: list[str] = []
    places: list[int] = []
    done = start
    for match in _SHORTER.finditer(text, start, end):
        at = match.start()
        parts.append(text[done:at])
        places.extend(range(done, at))
        char = _CODED.get(match[0].lower(), "")
        if char:
            parts.append(char)
            places.append(at)
        done = match.end()
    parts.append(text[done:end])
    places.extend(range(done, end))
    plain = "".join(parts).translate(_TABLE)
    hidden = _HIDDEN.search(text, start, end) is not None and _LETTER.search(plain) is not None
    return View(plain, places, hidden)


def _underlined(text: str) -> Iterator[_Span]:
    """Words with a `_` in which something with a form may stand: an address, or a number of some kind."""
    for match in _UNDERLINED.finditer(text):
        word = match[0]
        if "@" in word or _TWO_DIGITS.search(word):
            yield match.span()


def _parted(text: str, start: int, end: int) -> Iterator[View]:
    """The piece without the `_` around words (in an address there are others), and without any."""
    plain = _plain(text, start, end)
    outer = _OUTER.sub(lambda match: " " * len(match[0]), plain.text)
    if outer != plain.text and "@" in outer:
        yield View(outer, plain.places, least=_SURE)
    yield View(plain.text.replace("_", " "), plain.places, least=_SURE)


class _Table(dict[int, str]):
    """For `str.translate`: the ASCII character that one looks like, worked out when it is first seen."""

    def __missing__(self, code: int) -> str:
        if len(self) >= _KEPT:
            self.clear()
        self[code] = alike = _alike(code)
        return alike


_TABLE: Final = _Table()


def _alike(code: int) -> str:
    char = chr(code)
    if code < 0x80:
        return char
    if code in _WIDE:
        return chr(code - _WIDE_LESS)
    category = unicodedata.category(char)
    if category == "Zs":
        return " "
    if category == "Pd" or code == _MINUS:
        return "-"
    return str(unicodedata.decimal(char)) if category == "Nd" else char
