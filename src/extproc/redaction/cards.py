"""Payment card numbers: 12 to 19 digits with the prefix of a card network, a length it issues, and a right check digit.

Presidio's recognizer knows neither Mastercard's 2-series nor numbers of 12, 18 or 19 digits, and takes any prefix.
Prefixes and lengths: ISO/IEC 7812 and the networks' own tables, as collected in
https://en.wikipedia.org/wiki/Payment_card_number (issuer identification numbers).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Final, NamedTuple

from extproc.redaction.finders import Gate, Raw, distinct, starts_near
from extproc.text import Check

KIND: Final = "CREDIT_CARD"

_SCORE: Final = 1.0  # a right check digit, as in Presidio
_FEWEST, _MOST = 12, 19  # digits
_LONGEST: Final = _MOST + _MOST - 1  # characters: the digits, and a space or dash between each two
_GATE: Final = r"[0-9](?:[ -]?[0-9]){11,18}"
_ROW: Final = re.compile(r"[0-9]+(?:[ -][0-9]+)*")
_GROUP: Final = re.compile(r"[0-9]+")
# How numbers are printed, in digits to a group; in a row of more groups only these are taken for one.
_PRINTED: Final = frozenset(
    {(4, 4, 4, 4), (4, 6, 5), (4, 6, 4), (4, 4, 4, 4, 3), (4, 4, 4, 4, 2), (4, 4, 4, 1), (6, 13)}
)
_BEGINNINGS: Final = frozenset({4, 6}) | frozenset(range(_FEWEST, _MOST + 1))  # digits of a first group
_FILLER: Final = 1  # a number of so few different digits is a filler, not a card


class _Network(NamedTuple):
    """Numbers between two prefixes of equal length (both included), and the lengths that are issued."""

    first: str
    last: str
    lengths: frozenset[int]


def _lengths(*lengths: int) -> frozenset[int]:
    return frozenset(lengths)


_NETWORKS: Final = (
    _Network("4", "4", _lengths(13, 16, 18, 19)),  # Visa
    _Network("51", "55", _lengths(16)),  # Mastercard
    _Network("2221", "2720", _lengths(16)),  # Mastercard, 2-series
    _Network("34", "34", _lengths(15)),  # American Express
    _Network("37", "37", _lengths(15)),
    _Network("300", "305", _lengths(14, 16, 17, 18, 19)),  # Diners Club
    _Network("3095", "3095", _lengths(14, 16, 17, 18, 19)),
    _Network("36", "36", _lengths(14, 15, 16, 17, 18, 19)),
    _Network("38", "39", _lengths(14, 16, 17, 18, 19)),
    _Network("6011", "6011", _lengths(16, 17, 18, 19)),  # Discover
    _Network("644", "649", _lengths(16, 17, 18, 19)),
    _Network("65", "65", _lengths(16, 17, 18, 19)),  # and RuPay, Troy, Verve
    _Network("62", "62", _lengths(16, 17, 18, 19)),  # UnionPay
    _Network("81", "82", _lengths(16)),  # UnionPay, RuPay
    _Network("35", "35", _lengths(16, 17, 18, 19)),  # JCB (3528 to 3589 today)
    _Network("1800", "1800", _lengths(15)),  # JCB, older
    _Network("2131", "2131", _lengths(15)),
    _Network("50", "50", _lengths(12, 13, 14, 15, 16, 17, 18, 19)),  # Maestro, Elo, RuPay, Verve
    _Network("56", "58", _lengths(12, 13, 14, 15, 16, 17, 18, 19)),  # Maestro
    _Network("0604", "0604", _lengths(12, 13, 14, 15, 16, 17, 18, 19)),  # Maestro, older
    _Network("60", "60", _lengths(12, 13, 14, 15, 16, 17, 18, 19)),  # Maestro, RuPay, Hipercard
    _Network("61", "61", _lengths(12, 13, 14, 15, 16, 17, 18, 19)),  # Maestro
    _Network("63", "63", _lengths(12, 13, 14, 15, 16, 17, 18, 19)),  # Maestro, InstaPayment, LankaPay
    _Network("66", "69", _lengths(12, 13, 14, 15, 16, 17, 18, 19)),  # Maestro
    _Network("2200", "2204", _lengths(16, 17, 18, 19)),  # Mir
    _Network("2205", "2205", _lengths(16)),  # BORICA
    _Network("9792", "9792", _lengths(16)),  # Troy
    _Network("8600", "8600", _lengths(16)),  # UzCard
    _Network("9860", "9860", _lengths(16)),  # Humo
)


class CardFinder:
    """Card numbers, in one piece or with single spaces or dashes between digits. Satisfies `finders.Finder`."""

    def __init__(self, context: tuple[str, ...] = ()) -> None:
        self.kind: Final = KIND
        self.name: Final = "cards"
        self.context: Final = context
        self.gates: Final = (Gate(_GATE),)

    def find(self, text: str, hits: Mapping[int, Sequence[int] | None], check: Check) -> list[Raw]:
        """Numbers that a network may have issued; in a longer row of groups, the groups that make up a number."""
        found: list[Raw] = []
        done = 0
        for ends in hits.values():
            for first, last in starts_near(ends, _LONGEST, len(text)):
                begin = _run_start(text, max(first, done))
                while (row := _ROW.search(text, begin, min(len(text), last + _LONGEST))) is not None:
                    if row.start() >= last:
                        break
                    found.extend(_cards(text, row.start(), row.end()))
                    begin = done = row.end()
                check()
        return distinct(found)


def _run_start(text: str, start: int) -> int:
    """Where the digits begin that `start` is among."""
    while start > 0 and "0" <= text[start - 1] <= "9":
        start -= 1
    return start


def _cards(text: str, start: int, end: int) -> Iterator[Raw]:
    """The cards in a row of groups of digits with single spaces or dashes between them."""
    groups = [match.span() for match in _GROUP.finditer(text, start, end)]
    for number, (first, behind) in enumerate(groups):
        if (number > 0 and behind - first not in _BEGINNINGS) or _is_inside_before(text, first):
            continue
        digits = ""
        lengths: tuple[int, ...] = ()
        for begin, stop in groups[number : number + _MOST]:
            digits += text[begin:stop]
            if len(digits) > _MOST:
                break
            lengths += (stop - begin,)
            likely = len(lengths) == 1 or lengths in _PRINTED or (first, stop) == (start, end)
            if len(digits) >= _FEWEST and likely and not _is_inside_behind(text, stop) and is_card(digits):
                yield (first, stop, _SCORE)


def _is_inside_before(text: str, start: int) -> bool:
    """Whether what begins here is a part of a word, or of a decimal number."""
    before = text[start - 1] if start else ""
    return before.isalnum() or before == "_" or (before == "." and start > 1 and text[start - 2].isdecimal())


def _is_inside_behind(text: str, end: int) -> bool:
    """Whether what ends here is a part of a word, or of a decimal number."""
    behind = text[end : end + 2]
    return behind[:1].isalnum() or behind[:1] == "_" or (behind[:1] == "." and behind[1:].isdecimal())


def is_card(digits: str) -> bool:
    """Whether a network may have issued this number: prefix, length, check digit."""
    return is_issued(digits) and len(set(digits)) > _FILLER and luhn(digits)


def is_issued(digits: str) -> bool:
    """Whether a network issues numbers with this prefix and length."""
    return any(
        len(digits) in network.lengths and network.first <= digits[: len(network.first)] <= network.last
        for network in _NETWORKS
    )


def luhn(digits: str) -> bool:
    """Whether the last digit is the check digit of the others (ISO/IEC 7812-1, annex B)."""
    total = 0
    for place, char in enumerate(reversed(digits)):
        digit = int(char)
        if place % 2:
            digit = digit * 2 - 9 if digit > 4 else digit * 2
        total += digit
    return total % 10 == 0
