"""Phone numbers, by Google's metadata for the regions that were configured, run only where digits stand close.

A number with a country code is found for every region; one without only if it is valid in a configured region.
"""

from __future__ import annotations

import hashlib
import re
import secrets
from collections.abc import Iterator, Mapping, Sequence
from typing import Final

import phonenumbers
from phonenumbers import PhoneMetadata, PhoneNumberMatcher

from extproc.redaction.finders import Gate, Range, Raw, distinct
from extproc.text import Check

KIND: Final = "PHONE_NUMBER"

_FEWEST: Final = 5  # digits in a row that are worth a look
_GATE: Final = r"\d(?:[^A-Za-z0-9\n\r]{0,4}\d){4}"
_CLUSTER: Final = re.compile(r"[+＋(\[（［]{0,2}\d(?:[^A-Za-z0-9\n\r]{0,4}\d){4,}")
_MARGIN: Final = 40  # characters on either side that the matcher may take into account, an extension for one
_MEMO: Final = 4096  # clusters of which the outcome is remembered
_KINDS: Final = (
    "fixed_line", "mobile", "toll_free", "premium_rate", "shared_cost", "personal_number", "voip", "pager", "uan",
    "voicemail",
)  # fmt: skip


class PhoneFinder:
    """Phone numbers of some regions (ISO 3166 codes). Satisfies `finders.Finder`.

    What was found in a cluster of digits is remembered for the next few thousand, under a keyed digest of the cluster;
    the digits themselves are not kept. Raises `ValueError` for a region that is not known.
    """

    def __init__(self, regions: Sequence[str], score: float, context: tuple[str, ...], leniency: int = 1) -> None:
        self.kind: Final = KIND
        self.name: Final = "phones"
        self.context: Final = context
        self.gates: Final = (Gate(_GATE, single=True),)
        self._score: Final = score
        self._leniency: Final = leniency
        self._shortest: Final = {region: shortest(region) for region in regions}
        self._key: Final = secrets.token_bytes(16)
        self._memo: dict[bytes, tuple[Range, ...]] = {}

    def find(self, text: str, hits: Mapping[int, Sequence[int] | None], check: Check) -> list[Raw]:
        """Numbers that are valid in one of the regions."""
        found: list[Raw] = []
        for begin, end in _stretches(text):
            found.extend((begin + start, begin + stop, self._score) for start, stop in self._known(text[begin:end]))
            check()
        return distinct(found)

    def _known(self, stretch: str) -> tuple[Range, ...]:
        digest = hashlib.blake2b(stretch.encode(errors="surrogatepass"), digest_size=16, key=self._key).digest()
        spans = self._memo.pop(digest, None)
        if spans is None:
            spans = self._numbers(stretch)
        self._memo[digest] = spans  # at the end: the oldest goes first
        if len(self._memo) > _MEMO:
            self._memo.pop(next(iter(self._memo)), None)
        return spans

    def _numbers(self, stretch: str) -> tuple[Range, ...]:
        most = max(sum(char.isdecimal() for char in cluster.group()) for cluster in _CLUSTER.finditer(stretch))
        international = "+" in stretch or "\uff0b" in stretch
        spans: set[Range] = set()
        for region, fewest in self._shortest.items():
            if most >= fewest or international:
                matches = PhoneNumberMatcher(stretch, region, leniency=self._leniency)
                spans.update((match.start, match.end) for match in matches)
        return tuple(sorted(spans))


def shortest(region: str) -> int:
    """The digits of the shortest valid number of a region. Raises `ValueError` for one that is not known."""
    metadata = PhoneMetadata.metadata_for_region(region, None)
    if metadata is None:
        raise ValueError(f"{region!r} is not a region with phone numbers")
    lengths = (getattr(metadata, kind).possible_length for kind in _KINDS if getattr(metadata, kind) is not None)
    return min((length for each in lengths for length in each if length > 0), default=_FEWEST)


def _stretches(text: str) -> Iterator[Range]:
    """Clusters of digits with what may belong to them; clusters that stand close to each other as one."""
    first = last = -1
    for cluster in _CLUSTER.finditer(text):
        begin, end = max(0, cluster.start() - _MARGIN), min(len(text), cluster.end() + _MARGIN)
        if begin <= last:
            last = end
            continue
        if last >= 0:
            yield (first, last)
        first, last = begin, end
    if last >= 0:
        yield (first, last)
