"""What a phone number is in a region, by Google's metadata; and Google's matcher, kept from what cannot be a number.

The matcher parses every run of digits, and every part of it, at some 50 µs each. Most cannot be a valid number by their
digits alone, which a regular expression made of the same metadata tells in less than one.
"""

from __future__ import annotations

import hashlib
import re
import secrets
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Final

from phonenumbers import (
    COUNTRY_CODE_TO_REGION_CODE,
    Leniency,
    NumberFormat,
    PhoneMetadata,
    PhoneNumberDesc,
    PhoneNumberFormat,
    PhoneNumberMatch,
    PhoneNumberMatcher,
    example_number,
    format_number,
)

from extproc.redaction.finders import Range

PLUS: Final = "+\uff0b"
GROUP: Final = re.compile(r"\d+")
_BETWEEN: Final = r"xX\u2010-\u2015\u2212\u30fc\uff0d-\uff0f \u00a0\u00ad\u200b\u2060\u3000()\uff08\uff09\uff3b\uff3d.\[\]/~\u2053\u223c\uff5e-"
CLUSTER: Final = re.compile(rf"\d(?:[{_BETWEEN}]{{0,4}}\d){{4,}}")
"""Digits that stand as close as those of a number do, by phonenumbers, and are enough for one."""

_KINDS: Final = (
    "fixed_line", "mobile", "toll_free", "premium_rate", "shared_cost", "personal_number", "voip", "pager", "uan",
    "voicemail",
)  # fmt: skip
_SHORTEST: Final = 5  # digits of the shortest number that is looked for
_DIALLED: Final = 22  # digits of the longest number with all that is dialled before it
_NOTHING: Final = r"(?!)"
_MEMO: Final = 4096  # stretches of text of which the outcome is remembered
# What is read as its digits and nothing else: no country code, extension or letter.
_PLAIN: Final = re.compile(
    r"[\d\s\u2010-\u2015\u2212\u30fc\uff0d-\uff0f\u00ad\u200b\u2060()\uff08\uff09\uff3b\uff3d.\[\]/-]*"
)


class Region:
    """The numbers of a region (an ISO 3166 code). Raises `ValueError` for one that is not known."""

    def __init__(self, name: str) -> None:
        own = PhoneMetadata.metadata_for_region(name, None)
        if own is None or own.country_code is None:
            raise ValueError(f"{name!r} is not a region with phone numbers")
        # A number is valid if it is one of any region with the same country code, as Canada has that of the US.
        code = own.country_code
        shared = [PhoneMetadata.metadata_for_region(region, None) for region in COUNTRY_CODE_TO_REGION_CODE[code]]
        every = [region for region in shared if region is not None]
        main = every[0]
        prefix, other = (region.national_prefix_for_parsing or "" for region in (own, main))
        plain = prefix == other and re.compile(prefix).groups == 0
        numbers = _any_of(kind for region in every for kind in _kinds(region))
        self.name: Final = name
        # A region in which parsing adds digits to what is written: there is no telling by what is written.
        self._rewrites: Final = any(
            re.fullmatch(r"(?:\\\d+)?", region.national_prefix_transform_rule or "") is None for region in (own, main)
        )
        national = _national(prefix, numbers, main)
        self.told: Final = national if plain and not self._rewrites else _NOTHING
        self.national: Final = f"{national}|{code}(?:{prefix})?(?:{prefix})?{numbers}" if plain else rf"\d*{numbers}"
        self.abroad: Final = f"(?:{own.international_prefix})[1-9].*" if own.international_prefix else ""
        self._possible: Final = re.compile(self.pattern)

    @property
    def pattern(self) -> str:
        """A regular expression for the digits of which `possible` is true."""
        if self._rewrites:
            return r"\d*"
        return f"{self.national}|{self.abroad or _NOTHING}"

    def possible(self, digits: str) -> bool:
        """Whether these ASCII digits may be one valid number of the region, with or without what is dialled before."""
        return self._possible.fullmatch(digits) is not None


def _national(prefix: str, numbers: str, region: PhoneMetadata) -> str:
    """A region's own numbers as they are written there: with a prefix (as `0`) where that is never left out."""
    prefixed: list[str] = []
    formats: list[str] = []
    allowed: list[str] = []  # look-aheads: numbers that need no prefix
    for form in region.number_format:
        leading = form.leading_digits_pattern
        this = rf"(?:(?={leading[-1] if leading else ''})(?:{form.pattern})\Z)"
        formats.append(this)
        if _needs_prefix(form):
            prefixed.append(this)
        else:
            allowed.append(f"{_not_one(prefixed)}(?={this})")
    if not prefix or not prefixed:
        return f"(?:{prefix})?{numbers}"
    allowed += [_not_one(formats), f"(?={prefix})"]
    return f"(?:(?:{prefix})|(?:{'|'.join(allowed)})){numbers}"


def _not_one(patterns: Sequence[str]) -> str:
    return f"(?!{'|'.join(patterns)})" if patterns else ""


def _needs_prefix(form: NumberFormat) -> bool:
    """Whether numbers of this format are always written with the national prefix."""
    rule = form.national_prefix_formatting_rule or ""
    return re.fullmatch(r"(?:\(?\\1\)?)?", rule) is None and not form.national_prefix_optional_when_formatting


class Numbers:
    """Phone numbers in stretches of text, by Google's matcher, for some regions.

    What was found in a stretch is remembered for the next few thousand, under a keyed digest of the stretch; the digits
    themselves are not kept. Safe to use from several threads. Raises `ValueError` for a region that is not known.
    """

    def __init__(self, regions: Sequence[str]) -> None:
        self.regions: Final = tuple(map(Region, regions))
        self._any: Final = re.compile("|".join(region.pattern for region in self.regions) or _NOTHING)
        self._told: Final = re.compile("|".join(region.told for region in self.regions) or _NOTHING)
        self._key: Final = secrets.token_bytes(16)
        self._memo: Final[dict[bytes, tuple[Range, ...]]] = {}
        self._lock: Final = threading.Lock()  # a worker scans on its loop, and in a thread
        for region in self.regions:  # its expressions are compiled now, not while a request waits
            example = example_number(region.name)
            if example is not None:
                self.valid(format_number(example, PhoneNumberFormat.INTERNATIONAL))
                self.valid(format_number(example, PhoneNumberFormat.NATIONAL))

    def valid(self, stretch: str) -> tuple[Range, ...]:
        """Numbers that are valid in one of the regions, or with a country code; ascending."""
        return self._known(b"v", stretch, self._valid)

    def may_be(self, digits: str) -> bool:
        """Whether these ASCII digits may be one valid number, as it is dialled in one of the regions."""
        return self._any.fullmatch(digits) is not None

    def are_one(self, digits: str) -> bool:
        """Whether these ASCII digits are one valid number, as one of the regions writes it: there need be no other look."""
        return self._told.fullmatch(digits) is not None

    def possible(self, stretch: str, wanted: Range) -> tuple[Range, ...]:
        """Numbers of a length that is possible in one of the regions, or with a country code; ascending.

        Where a number of one region contains `wanted` (a range of the stretch), those that follow are not asked.
        """
        return self._known(b"p%d-%d " % wanted, stretch, lambda text: _possible(text, wanted, self.regions))

    def _known(self, mark: bytes, stretch: str, find: Callable[[str], tuple[Range, ...]]) -> tuple[Range, ...]:
        data = mark + stretch.encode(errors="surrogatepass")
        digest = hashlib.blake2b(data, digest_size=16, key=self._key).digest()
        with self._lock:
            spans = self._memo.pop(digest, None)
        if spans is None:
            spans = find(stretch)
        with self._lock:
            self._memo[digest] = spans  # at the end: the oldest goes first
            if len(self._memo) > _MEMO:
                del self._memo[next(iter(self._memo))]
        return spans

    def _valid(self, stretch: str) -> tuple[Range, ...]:
        spans: set[Range] = set()
        for region in self._due(stretch):
            spans.update(_matches(stretch, region, Leniency.VALID))
        return tuple(sorted(spans))

    def _due(self, stretch: str) -> list[Region]:
        """The regions whose numbers may be in a stretch; one at least where a country code may be."""
        rows = CLUSTER.findall(stretch)
        joined = {digits for row in rows for digits in _joined([in_ascii(group) for group in GROUP.findall(row)])}
        candidates = [digits for digits in joined if self.may_be(digits)]
        due = [region for region in self.regions if any(map(region.possible, candidates))]
        if not due and any(plus in stretch for plus in PLUS):
            due = list(self.regions[:1])
        return due


class _Matcher(PhoneNumberMatcher):
    """Google's matcher for valid numbers, which does not parse digits that are none in its region."""

    def __init__(self, text: str, region: Region) -> None:
        super().__init__(text, region.name, leniency=Leniency.VALID)
        self._region: Final = region

    def _parse_and_verify(self, candidate: str, offset: int) -> PhoneNumberMatch | None:
        if _PLAIN.fullmatch(candidate) is not None:
            digits = in_ascii("".join(GROUP.findall(candidate)))
            if not self._region.possible(digits):
                return None
        return super()._parse_and_verify(candidate, offset)


def _matches(text: str, region: Region, leniency: int) -> Iterator[Range]:
    valid = leniency == Leniency.VALID
    matcher = _Matcher(text, region) if valid else PhoneNumberMatcher(text, region.name, leniency=leniency)
    return ((match.start, match.end) for match in matcher)


def _possible(stretch: str, wanted: Range, regions: Iterable[Region]) -> tuple[Range, ...]:
    spans: set[Range] = set()
    for region in regions:
        spans.update(_matches(stretch, region, Leniency.POSSIBLE))
        if contains(spans, wanted):
            break
    return tuple(sorted(spans))


def contains(spans: Iterable[Range], wanted: Range) -> bool:
    """Whether one of the spans contains a range."""
    return any(start <= wanted[0] and wanted[1] <= end for start, end in spans)


def in_ascii(digits: str) -> str:
    """The same digits, of whatever script, as ASCII ones."""
    return digits if digits.isascii() else "".join(str(int(char)) for char in digits)


def _joined(groups: Sequence[str]) -> Iterator[str]:
    """The digits of every group, and of groups in a row, that are enough for a number and not too many."""
    for number in range(len(groups)):
        digits = ""
        for group in groups[number : number + _DIALLED]:
            digits += group
            if len(digits) > _DIALLED:
                break
            if len(digits) >= _SHORTEST:
                yield digits


def _kinds(region: PhoneMetadata) -> Iterator[str]:
    """The patterns of a region's numbers."""
    for name in _KINDS:
        kind: PhoneNumberDesc | None = getattr(region, name)
        if kind is not None and kind.national_number_pattern:
            yield kind.national_number_pattern


def _any_of(patterns: Iterable[str]) -> str:
    return f"(?:{'|'.join(sorted(set(patterns)))})"
