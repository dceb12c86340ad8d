"""What is known of words: given names, family names, places, ordinary words and words of code; by hash."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import symspellpy
from people import LOCALES, People

from extproc.redaction.name_features import LONGEST, TOKEN, Known, word_hash

COMMON_RANK = 6_000
DICTIONARY_RANK = 45_000
CODE_COUNT = 12


def _words(values: Iterable[str]) -> Iterable[str]:
    for value in values:
        for token in TOKEN.findall(value):
            word = token.strip()
            if len(word) > 1 and word[0].isalpha():
                yield word[:LONGEST].lower()


def build(people: People, small: Counter[str]) -> tuple[np.ndarray, np.ndarray]:
    """Hashes in rising order (uint32) and the `Known` bits of each (uint8)."""
    known: dict[str, int] = {}

    def mark(values: Iterable[str], bit: Known) -> None:
        for word in _words(values):
            known[word] = known.get(word, 0) | bit

    for locale in LOCALES:
        mark(people.first[locale], Known.FIRST)
        mark(people.last[locale], Known.LAST)
    mark(people.census_first, Known.FIRST)
    mark(people.census_last, Known.LAST)
    mark([*people.cities[:15_000], *people.countries()], Known.PLACE)
    listed = (Path(symspellpy.__file__).parent / "frequency_dictionary_en_82_765.txt").read_text(encoding="utf-8-sig")
    ranked = [line.split()[0] for line in listed.splitlines()]
    mark(ranked[:COMMON_RANK], Known.COMMON_WORD)
    mark(ranked[COMMON_RANK:DICTIONARY_RANK], Known.RARE_WORD)
    mark([word for word, count in small.items() if count >= CODE_COUNT], Known.CODE_WORD)
    by_hash: dict[int, int] = {}
    for word, bits in known.items():
        by_hash[word_hash(word)] = by_hash.get(word_hash(word), 0) | bits
    hashes = np.array(sorted(by_hash), np.uint32)
    return hashes, np.array([by_hash[int(key)] for key in hashes], np.uint8)
