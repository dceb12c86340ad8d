"""Phone numbers, by Google's metadata for the regions that were configured, run only where digits stand close.

A number with a country code is found whatever the regions; one without where it is valid in one of them, or of a
possible length and announced ("call me at"). Presidio's recognizer takes an IP address for a phone number, the digits of
a fraction and short bare numbers; here they are none.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Final, NamedTuple

from extproc.redaction.context import Context
from extproc.redaction.finders import Gate, Range, Raw, distinct
from extproc.redaction.phone_regions import CLUSTER, GROUP, PLUS, Numbers, contains, in_ascii
from extproc.text import Check

KIND: Final = "PHONE_NUMBER"

_LEAD: Final = "+\uff0b([\uff08\uff3b"  # what a number may begin with
# What may stand between the digits of a number (see `CLUSTER`), as gates see it (see `folding`).
_FOLDED: Final = r"xX ()\[\]./~_\x01\x0b-"
_GATE: Final = rf"\d(?:[{_FOLDED}]{{0,4}}\d){{4}}"
_PLUS_GATE: Final = rf"\+[{_FOLDED}]{{0,4}}{_GATE}"
_AHEAD: Final = 21  # characters from the first digit of a cluster to the end of its fifth, at most
_LISTED: Final = re.compile(r"(?<=\d{9})\s+(?=[+(]?\d{9})")  # numbers in a row, each in one piece
_EXTENSION: Final = re.compile(
    r"[^\n\d]{0,12}?(?:xt|\uff58\uff54|\u0434\u043e\u0431|anexo|int|\uff49\uff4e\uff54|[x\uff58#\uff03~\uff5e])[^\n\d]{0,16}",
    re.IGNORECASE,
)  # between a number and its extension
_BEFORE: Final = 12  # characters before a cluster that the matcher looks at, at most
_BEHIND: Final = 40  # characters behind one: an extension
_QUAD: Final = re.compile(r"(?<![\d.])\d{1,3}(?:\.\d{1,3}){3}(?!\.?\d)")
_DATE: Final = re.compile(r"(?:\d{4}[-/.]\d{1,2}[-/.]\d{1,2}|\d{1,2}[-/.]\d{1,2}[-/.]\d{4})")
_FRACTION: Final = re.compile(r"\d\.\d+")
_BELOW_ONE: Final = re.compile(r"[(\[]*0\.\d++(?=[,\n)\]}]| ?\Z)")  # in a list of them, or at the end
_TIME: Final = 3  # characters behind a date that make a time stamp of it
_ROW: Final = 40  # digits from which on a cluster is a table rather than a number
_AROUND: Final = 200  # characters in which the words stand that announce a number
_IN_A_ROW: Final = re.compile(r"\d+(?:[ .-]\d+)*")  # what is read as its digits, in a row
_ROW_EXTENSION: Final = re.compile(r" ?x ?\d{1,7}(?!\d)", re.IGNORECASE)
_GROUPS: Final = 6  # groups that a number in a row has at most
_MOST: Final = 15  # digits of the longest number (ITU-T E.164)
_PLUS_OR_BRACKET: Final = PLUS + "("
_BARE: Final = 7  # digits that a number without a country code has at least, where nothing announces it
_NATIONAL: Final = range(7, 16)  # digits of a number that is announced
_UNSUPPORTED: Final = 0.3  # the score of what needs a word before it: below the least that counts
_ANNOUNCED: Final = ("phone", "mobile", "call", "fax", "whatsapp", "dial", "sms", "telefon")


class _Stretch(NamedTuple):
    """A part of a text in which there may be a number, most likely made of `digits`, and perhaps others.

    `sure`: it is one for certain, and nothing else.
    """

    start: int
    end: int
    digits: Range
    sure: bool = False


class PhoneFinder:
    """Numbers that are valid in some regions. Satisfies `finders.Finder`."""

    kind: Final = KIND

    def __init__(self, numbers: Numbers, score: float, context: tuple[str, ...]) -> None:
        self.name: Final = "phones"
        self.context: Final = context
        self.gates: tuple[Gate, ...] = (Gate(_GATE),)
        self._score: Final = score
        self._numbers: Final = numbers

    def find(self, text: str, hits: Mapping[int, Sequence[int] | None], check: Check) -> list[Raw]:
        """Numbers as they are written in one of the regions, or with a country code."""
        found: list[Raw] = []
        text, clusters = _clusters(text, hits)
        for begin, end, _, sure in _stretches(text, clusters, self._numbers):
            spans = ((0, end - begin),) if sure else self._numbers.valid(text[begin:end])
            for start, stop in _placed(text, begin, spans):
                bare = text[start] not in PLUS and _digits(text[start:stop]) < _BARE
                found.append((start, stop, _UNSUPPORTED if bare else self._score))
            check()
        return distinct(found)


class PossiblePhoneFinder:
    """Numbers of a possible length, valid or not: after a `+`, or where words before say that it is a phone number.

    Many numbers that people write are not in the metadata: new ranges, typing errors, made-up examples. Satisfies
    `finders.Finder`.
    """

    kind: Final = KIND

    def __init__(self, numbers: Numbers, score: float) -> None:
        self.name: Final = "possible_phones"
        self.context: Final = _ANNOUNCED
        self.gates: tuple[Gate, ...] = (Gate(_PLUS_GATE), Gate(_GATE, context=True))
        self._score: Final = score
        self._numbers: Final = numbers

    def find(self, text: str, hits: Mapping[int, Sequence[int] | None], check: Check) -> list[Raw]:
        """Numbers with a `+`, and with less than the least score those that need a word before them."""
        found: list[Raw] = []
        words = Context(text)
        text, clusters = _clusters(text, hits)
        for begin, end, digits, sure in _stretches(text, clusters, self._numbers):
            stretch = text[begin:end]
            if sure or not (any(plus in stretch for plus in PLUS) or _announced(text, digits[0], words)):
                continue
            wanted = (digits[0] - begin, digits[1] - begin)
            if contains(self._numbers.valid(stretch), wanted):
                continue  # the other finder has it
            for start, stop in _placed(text, begin, self._numbers.possible(stretch, wanted)):
                if text[start] in PLUS:
                    found.append((start, stop, self._score))
                elif _digits(text[start:stop]) in _NATIONAL and _DATE.fullmatch(text, start, stop) is None:
                    found.append((start, stop, _UNSUPPORTED))
            check()
        return distinct(found)


def _announced(text: str, first: int, words: Context) -> bool:
    """Whether a word before `first` says that a phone number follows. Most often there is none far and wide."""
    around = text[max(0, first - _AROUND) : first + _AROUND].lower()
    return any(word in around for word in _ANNOUNCED) and words.supports(first, _ANNOUNCED)


def _placed(text: str, begin: int, spans: Iterable[Range]) -> Iterator[Range]:
    """Ranges of the stretch that begins at `begin`, in offsets of the text; without fractions."""
    for start, stop in spans:
        if not _is_fraction(text, begin + start, begin + stop):
            yield (begin + start, begin + stop)


def _digits(value: str) -> int:
    return sum(char.isdecimal() for char in value)


def _is_fraction(text: str, start: int, end: int) -> bool:
    """Whether digits are what follows a decimal point, or a number below one; also in brackets."""
    while text[start] in "([":
        start += 1
    return (start > 1 and _FRACTION.fullmatch(text, start - 2, end) is not None) or (
        text[start] == "0" and _FRACTION.fullmatch(text, start, end) is not None
    )


def _clusters(text: str, hits: Mapping[int, Sequence[int] | None]) -> tuple[str, list[Range]]:
    """Where digits stand close, and the text with line ends for dotted quads, which are IP addresses and no number's part."""
    ends = None if None in hits.values() else sorted({end for each in hits.values() for end in each or ()})
    found = list(_rows_of_digits(text, ends))
    if any("." in text[first:last] and _QUAD.search(text[first:last]) for first, last in found):
        text = _QUAD.sub(lambda quad: "\n" * len(quad.group()), text)
        found = list(_rows_of_digits(text, ends))
    return text, found


def _rows_of_digits(text: str, ends: Sequence[int] | None) -> Iterator[Range]:
    if ends is None:
        for cluster in CLUSTER.finditer(text):
            yield _with_lead(text, *cluster.span())
        return
    done = 0
    for end in ends:
        while done < end:  # other digits may stand before those that the gate saw
            begun = CLUSTER.search(text, max(done, end - _AHEAD), end)
            found = CLUSTER.match(text, begun.start()) if begun is not None else None
            if found is None:  # what the gate takes for a cluster may be none
                break
            done = found.end()
            yield _with_lead(text, *found.span())


def _with_lead(text: str, start: int, end: int) -> Range:
    for _ in range(2):
        if start and text[start - 1] in _LEAD:
            start -= 1
    return start, end


def _stretches(text: str, clusters: Sequence[Range], numbers: Numbers) -> Iterator[_Stretch]:
    """Clusters of digits, each with what may belong to it; a number and its extension as one."""
    parts = _parts(text, clusters)
    part = next(parts, None)
    last = 0
    while part is not None:
        first, end = part
        part = next(parts, None)
        if (below := _BELOW_ONE.match(text, first)) is not None and below.end() == end:
            last = end
            continue
        if end - first > _ROW and _digits(text[first:end]) > _ROW:
            yield from _row(text, first, end, numbers)
            last = end
            continue
        reach = end
        limit = len(text)
        if part is not None:
            extended = _EXTENSION.fullmatch(text, end, part[0]) is not None
            reach = part[1] if extended else end
            limit = len(text) if extended else part[0] + _TIME
        yield _Stretch(max(last, first - _BEFORE), min(len(text), limit, reach + _BEHIND), (first, reach))
        last = end


def _parts(text: str, clusters: Sequence[Range]) -> Iterator[Range]:
    """Clusters of digits; of a list of numbers in one piece each, every one."""
    for first, end in clusters:
        begin = first
        for gap in _LISTED.finditer(text, first, end):
            yield (begin, gap.start())
            begin = gap.end()
        yield (begin, end)


def _row(text: str, start: int, end: int, numbers: Numbers) -> Iterator[_Stretch]:
    """The groups of a long row of digits that may be numbers; as numbers, where the digits alone can tell."""
    groups = [match.span() for match in GROUP.finditer(text, start, end)]
    written = [in_ascii(text[first:stop]) for first, stop in groups]
    known: dict[str, bool] = {}
    for number, (first, _) in enumerate(groups):
        lead = 1 if first > start and text[first - 1] in _PLUS_OR_BRACKET else 0
        digits = ""
        for place in range(number, min(number + _GROUPS, len(groups))):
            digits += written[place]
            if len(digits) > _MOST:
                break
            if len(digits) < _BARE:
                continue
            may_be = known.get(digits)
            if may_be is None:
                may_be = known[digits] = numbers.may_be(digits)
            if may_be or (lead and text[first - 1] in PLUS):
                yield _in_row(text, (first, groups[place][1]), lead, end, numbers.are_one(digits))


def _in_row(text: str, digits: Range, lead: int, end: int, sure: bool) -> _Stretch:
    """The stretch of some digits of a row that ends at `end`; `lead`: characters before that may belong to them."""
    first, stop = digits
    core = (first - lead, stop)
    if stop == end:
        return _Stretch(first - lead, min(len(text), end + _BEHIND), core)
    extension = _ROW_EXTENSION.match(text, stop, end)
    if extension is not None:
        return _Stretch(first - lead, extension.end(), core)
    sure = sure and not lead and _IN_A_ROW.fullmatch(text, first, stop) is not None
    return _Stretch(first - lead, stop, core, sure)
