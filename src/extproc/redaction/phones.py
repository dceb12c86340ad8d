"""Phone numbers, by Google's metadata for the regions that were configured, run only where digits stand close.

A number with a country code is found whatever the regions; one without where it is valid in one of them, or of a
possible length and announced ("call me at"). Presidio's recognizer takes an IP address for a phone number, the digits of
a fraction and short bare numbers; here they are none.
"""

from __future__ import annotations

import hashlib
import re
import secrets
import threading
from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from phonenumbers import (
    COUNTRY_CODE_TO_REGION_CODE,
    Leniency,
    PhoneMetadata,
    PhoneNumberFormat,
    PhoneNumberMatcher,
    example_number,
    format_number,
)

from extproc.redaction.context import Context
from extproc.redaction.finders import Gate, Range, Raw, distinct
from extproc.text import Check

KIND: Final = "PHONE_NUMBER"

_PLUS: Final = "+\uff0b"
_LEAD: Final = "+\uff0b([\uff08\uff3b"  # what a number may begin with
# What may stand between the digits of a number, as in phonenumbers; and the same as gates see it (see `folding`).
_BETWEEN: Final = r"x\u2010-\u2015\u2212\u30fc\uff0d-\uff0f \u00a0\u00ad\u200b\u2060\u3000()\uff08\uff09\uff3b\uff3d.\[\]/~\u2053\u223c\uff5e-"
_FOLDED: Final = r"xX ()\[\]./~_\x01\x0b-"
_GATE: Final = rf"\d(?:[{_FOLDED}]{{0,4}}\d){{4}}"
_PLUS_GATE: Final = rf"\+[{_FOLDED}]{{0,4}}{_GATE}"
_CLUSTER: Final = re.compile(rf"\d(?:[{_BETWEEN}]{{0,4}}\d){{4,}}")
_AHEAD: Final = 21  # characters from the first digit of a cluster to the end of its fifth, at most
_LISTED: Final = re.compile(r"(?<=\d{9})\s+(?=[+(]?\d{9})")  # numbers in a row, each in one piece
_EXTENSION: Final = re.compile(
    r"[^\n\d]{0,12}?(?:xt|\uff58\uff54|\u0434\u043e\u0431|anexo|int|\uff49\uff4e\uff54|[x\uff58#\uff03~\uff5e;])[^\n\d]{0,16}",
    re.IGNORECASE,
)  # between a number and its extension
_BEFORE: Final = 12  # characters before a cluster that the matcher looks at, at most
_BEHIND: Final = 40  # characters behind one: an extension
_QUAD: Final = re.compile(r"(?<![\d.])\d{1,3}(?:\.\d{1,3}){3}(?!\.?\d)")
_DATE: Final = re.compile(r"(?:\d{4}[-/.]\d{1,2}[-/.]\d{1,2}|\d{1,2}[-/.]\d{1,2}[-/.]\d{4})")
_FRACTION: Final = re.compile(r"\d\.\d+")
_TIME: Final = 3  # characters behind a date that make a time stamp of it
_ROW: Final = 40  # digits from which on a cluster is a table rather than a number
_GROUP: Final = re.compile(r"\d+")
_GROUPS: Final = 6  # groups that a number in a row has at most
_SHORTEST: Final = 5  # digits of the shortest cluster
_DIALLED: Final = 22  # digits of the longest number with all that is dialled before it
_MOST: Final = 15  # digits of the longest number (ITU-T E.164)
_PLUS_OR_BRACKET: Final = _PLUS + "("
_BARE: Final = 7  # digits that a number without a country code has at least, where nothing announces it
_NATIONAL: Final = range(7, 16)  # digits of a number that is announced
_UNSUPPORTED: Final = 0.3  # the score of what needs a word before it: below the least that counts
_ANNOUNCED: Final = ("phone", "mobile", "call", "fax", "whatsapp", "dial", "sms", "telefon")
_MEMO: Final = 4096  # stretches of text of which the outcome is remembered
_KINDS: Final = (
    "fixed_line", "mobile", "toll_free", "premium_rate", "shared_cost", "personal_number", "voip", "pager", "uan",
    "voicemail",
)  # fmt: skip


class _Region:
    """What can be known of a stretch of text before Google's matcher is run on it for a region."""

    def __init__(self, name: str) -> None:
        metadata = PhoneMetadata.metadata_for_region(name, None)
        if metadata is None or metadata.country_code is None:
            raise ValueError(f"{name!r} is not a region with phone numbers")
        # A number is valid if it is one of any region with the same country code, as Canada has that of the US.
        shared = [
            PhoneMetadata.metadata_for_region(region, None)
            for region in COUNTRY_CODE_TO_REGION_CODE[metadata.country_code]
        ]
        kinds = [getattr(region, kind) for region in shared if region is not None for kind in _KINDS]
        patterns = {kind.national_number_pattern for kind in kinds if kind is not None and kind.national_number_pattern}
        abroad = metadata.international_prefix
        self.name: Final = name
        self._whole: Final = re.compile(
            rf"\d{{0,4}}(?:{'|'.join(sorted(patterns))})" + (f"|(?:{abroad}).*" if abroad else "")
        )
        # A region in which parsing adds digits to what is written: there is no telling by what is written.
        self._rewrites: Final = re.fullmatch(r"(?:\\\d+)?", metadata.national_prefix_transform_rule or "") is None

    def possible(self, digits: str) -> bool:
        """Whether these digits may be one valid number of the region, with or without what is dialled before it."""
        return self._rewrites or self._whole.fullmatch(digits) is not None


class PhoneFinder:
    """Numbers that are valid in some regions (ISO 3166 codes). Satisfies `finders.Finder`.

    What was found in a stretch of text is remembered for the next few thousand, under a keyed digest of the stretch;
    the digits themselves are not kept. Raises `ValueError` for a region that is not known.
    """

    kind: Final = KIND

    def __init__(self, regions: Sequence[str], score: float, context: tuple[str, ...]) -> None:
        self.name: str = "phones"
        self.context: Final = context
        self.gates: tuple[Gate, ...] = (Gate(_GATE),)
        self._score: Final = score
        self._leniency = Leniency.VALID
        self._regions: Final = tuple(_Region(region) for region in regions)
        for region in self._regions:  # its expressions are compiled now, not while a request waits
            example = example_number(region.name)
            if example is not None:
                self._numbers(format_number(example, PhoneNumberFormat.INTERNATIONAL))
        self._key: Final = secrets.token_bytes(16)
        self._memo: Final[dict[bytes, tuple[Range, ...]]] = {}
        self._lock: Final = threading.Lock()  # a worker scans on its loop, and in a thread

    def find(self, text: str, hits: Mapping[int, Sequence[int] | None], check: Check) -> list[Raw]:
        """Numbers as they are written in one of the regions, or with a country code."""
        found: list[Raw] = []
        text, clusters = _clusters(text, hits)
        for begin, end in _stretches(text, clusters, self._regions):
            for start, stop in self._spans(text, begin, end):
                bare = text[start] not in _PLUS and _digits(text[start:stop]) < _BARE
                found.append((start, stop, _UNSUPPORTED if bare else self._score))
            check()
        return distinct(found)

    def _spans(self, text: str, begin: int, end: int) -> Iterator[Range]:
        """The numbers in a stretch, in offsets of the text."""
        stretch = text[begin:end]
        digest = hashlib.blake2b(stretch.encode(errors="surrogatepass"), digest_size=16, key=self._key).digest()
        with self._lock:
            spans = self._memo.pop(digest, None)
        if spans is None:
            spans = self._numbers(stretch)
        with self._lock:
            self._memo[digest] = spans  # at the end: the oldest goes first
            if len(self._memo) > _MEMO:
                del self._memo[next(iter(self._memo))]
        for start, stop in spans:
            if not _is_fraction(text, begin + start, begin + stop):
                yield (begin + start, begin + stop)

    def _numbers(self, stretch: str) -> tuple[Range, ...]:
        spans: set[Range] = set()
        for region in self._due(stretch):
            matches = PhoneNumberMatcher(stretch, region.name, leniency=self._leniency)
            spans.update((match.start, match.end) for match in matches)
        return tuple(sorted(spans))

    def _due(self, stretch: str) -> list[_Region]:
        """The regions whose numbers may be in a stretch; one at least where a country code may be."""
        candidates = set(_joined([_in_ascii(group) for group in _GROUP.findall(stretch)]))
        due = [region for region in self._regions if any(map(region.possible, candidates))]
        if not due and any(plus in stretch for plus in _PLUS):
            due = list(self._regions[:1])
        return due


def _in_ascii(digits: str) -> str:
    return digits if digits.isascii() else "".join(str(int(char)) for char in digits)


def _joined(groups: Sequence[str]) -> Iterator[str]:
    """The digits of every group, and of groups in a row, that are enough for a number and not too many."""
    for number in range(len(groups)):
        digits = ""
        for group in groups[number:]:
            digits += group
            if len(digits) > _DIALLED:
                break
            if len(digits) >= _SHORTEST:
                yield digits


class PossiblePhoneFinder(PhoneFinder):
    """Numbers of a possible length, valid or not: after a `+`, or where words before say that it is a phone number.

    Many numbers that people write are not in the metadata: new ranges, typing errors, made-up examples.
    """

    def __init__(self, regions: Sequence[str], score: float) -> None:
        super().__init__(regions, score, _ANNOUNCED)
        self.name = "possible_phones"
        self.gates = (Gate(_PLUS_GATE), Gate(_GATE, context=True))
        self._leniency = Leniency.POSSIBLE

    def find(self, text: str, hits: Mapping[int, Sequence[int] | None], check: Check) -> list[Raw]:
        """Numbers with a `+`, and with less than the least score those that need a word before them."""
        found: list[Raw] = []
        words = Context(text)
        text, clusters = _clusters(text, hits)
        for begin, end in _stretches(text, clusters, self._regions):
            within = clusters[bisect_left(clusters, (begin, 0)) : bisect_left(clusters, (end, 0))]
            announced = any(words.supports(first, _ANNOUNCED) for first, _ in within)
            if not announced and not any(plus in text[begin:end] for plus in _PLUS):
                continue
            for start, stop in self._spans(text, begin, end):
                if text[start] in _PLUS:
                    found.append((start, stop, self._score))
                elif _digits(text[start:stop]) in _NATIONAL and _DATE.fullmatch(text, start, stop) is None:
                    found.append((start, stop, _UNSUPPORTED))
            check()
        return distinct(found)

    def _due(self, stretch: str) -> list[_Region]:
        return list(self._regions)


def _digits(value: str) -> int:
    return sum(char.isdecimal() for char in value)


def _is_fraction(text: str, start: int, end: int) -> bool:
    """Whether digits are what follows a decimal point, or a number below one."""
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
        for cluster in _CLUSTER.finditer(text):
            yield _with_lead(text, *cluster.span())
        return
    done = 0
    for end in ends:
        if end <= done:
            continue
        begun = _CLUSTER.search(text, max(done, end - _AHEAD), end)
        found = _CLUSTER.match(text, begun.start()) if begun is not None else None
        if found is not None:  # what the gate takes for a cluster may be none
            done = found.end()
            yield _with_lead(text, *found.span())


def _with_lead(text: str, start: int, end: int) -> Range:
    for _ in range(2):
        if start and text[start - 1] in _LEAD:
            start -= 1
    return start, end


def _stretches(text: str, clusters: Sequence[Range], regions: Sequence[_Region]) -> Iterator[Range]:
    """Clusters of digits, each with what may belong to it; a number and its extension as one."""
    parts = _parts(text, clusters)
    part = next(parts, None)
    last = 0
    while part is not None:
        first, end = part
        part = next(parts, None)
        if end - first > _ROW and _digits(text[first:end]) > _ROW:
            yield from _row(text, first, end, regions)
            last = end
            continue
        reach = end
        limit = len(text)
        if part is not None:
            extended = _EXTENSION.fullmatch(text, end, part[0]) is not None
            reach = part[1] if extended else end
            limit = len(text) if extended else part[0] + _TIME
        yield (max(last, first - _BEFORE), min(len(text), limit, reach + _BEHIND))
        last = end


def _parts(text: str, clusters: Sequence[Range]) -> Iterator[Range]:
    """Clusters of digits; of a list of numbers in one piece each, every one."""
    for first, end in clusters:
        begin = first
        for gap in _LISTED.finditer(text, first, end):
            yield (begin, gap.start())
            begin = gap.end()
        yield (begin, end)


def _row(text: str, start: int, end: int, regions: Sequence[_Region]) -> Iterator[Range]:
    """The groups of a long row of digits that may be numbers, each as a stretch of its own."""
    groups = [match.span() for match in _GROUP.finditer(text, start, end)]
    for number, (first, _) in enumerate(groups):
        lead = 1 if first > start and text[first - 1] in _PLUS_OR_BRACKET else 0
        digits = ""
        for begin, stop in groups[number : number + _GROUPS]:
            digits += _in_ascii(text[begin:stop])
            if len(digits) > _MOST:
                break
            if len(digits) >= _BARE and any(region.possible(digits) for region in regions):
                yield (first - lead, stop if stop < end else min(len(text), end + _BEHIND))
