"""Tier 0: everything that has a form. One pass over a text says what can be in it; only that is looked for.

The results are those of Presidio's `AnalyzerEngine` with its pattern recognizers, of which the expressions, checks and
scores are taken; cards, IBANs and phone numbers are found by finders of our own, an operator's patterns beside them.
"""

from __future__ import annotations

import sys
from bisect import bisect_right
from collections.abc import Sequence
from typing import Final, NamedTuple

import msgspec
from presidio_analyzer.predefined_recognizers import PhoneRecognizer

from extproc.redaction import cards, context, phones
from extproc.redaction.custom import CustomFinder, CustomPattern, DenyFinder, DenyList, allowed
from extproc.redaction.finders import Finder, Raw, distinct, expression
from extproc.redaction.hyper import Database, Expression, Hits, literal
from extproc.redaction.ibans import IbanFinder
from extproc.redaction.phone_regions import Numbers
from extproc.redaction.presidio import finder, recognizers
from extproc.text import Check, DatabaseStore, Finding, never

THRESHOLD: Final = 0.4
"""The least score that counts. Presidio's own default is 0, at which every number is a driver's license."""

DEFAULT_KINDS: Final = frozenset(
    (  # noqa: SIM905  as a list it takes half a page
        "CREDIT_CARD CRYPTO EMAIL_ADDRESS IBAN_CODE IP_ADDRESS MAC_ADDRESS MEDICAL_LICENSE PHONE_NUMBER"
        " UK_NHS UK_NINO US_BANK_NUMBER US_DRIVER_LICENSE US_ITIN US_PASSPORT US_SSN"
    ).split()
)
"""Kinds that are looked for where nothing else is said. URL, DATE_TIME and UUID are in every other text."""

DEFAULT_REGIONS: Final = ("US", "GB", "DE", "FR")
"""Regions of which phone numbers without a country code are recognised; each costs time on every row of digits."""

# One in eleven numbers of ten digits is of this kind: a phone number in the same place is the better guess.
_CHECK_DIGIT_ONLY: Final = "UK_NHS"
_CHECKED_WORDS: Final = ("nhs", "health")

_EVERYWHERE: Final[Sequence[int] | None] = None


class PatternOptions(msgspec.Struct, frozen=True):
    """What a `PatternDetector` looks for. `kinds`: of Presidio's names; `regions`: ISO 3166 codes, for phones."""

    kinds: frozenset[str] = DEFAULT_KINDS
    threshold: float = THRESHOLD
    regions: tuple[str, ...] = DEFAULT_REGIONS
    custom: tuple[CustomPattern, ...] = ()
    deny: tuple[DenyList, ...] = ()
    allow: tuple[str, ...] = ()


class _Place(NamedTuple):
    """Whose gate an expression is: finder and gate by number, and whether it needs a context word to be there."""

    finder: int
    gate: int
    words: frozenset[int] | None  # expressions, one of which has to match too


class PatternDetector:
    """Finds what has a form. Satisfies `text.Detector`.

    Takes a second or two to build where the store has no compiled database. Raises `ValueError` for a kind or region
    that is not known, `CustomPatternError` (a `ValueError`) for a pattern that cannot be used.
    """

    def __init__(self, options: PatternOptions, store: DatabaseStore | None = None) -> None:
        self._threshold: Final = options.threshold
        self._allowed: Final = allowed(options.allow)
        self._finders: Final = _finders(options)
        self._places: Final[dict[int, _Place]] = {}
        self._database: Final = Database(self._expressions(), store)

    def scan(self, text: str, check: Check = never) -> list[Finding]:
        """Everything with a form in `text`; findings of different kinds may overlap."""
        hits = self._database.scan(text)
        if not hits.ends:
            return []
        due = self._due(hits)
        if not due:
            return []
        check()
        words = context.Context(text)
        findings: list[Finding] = []
        for number, gates in due.items():
            one = self._finders[number]
            raws = self._boosted(one, one.find(text, gates, check), words)
            findings.extend(Finding(one.kind, start, end, score, one.name) for start, end, score in raws)
        return _without_guesses(self._kept(text, findings), words)

    def _due(self, hits: Hits) -> dict[int, dict[int, Sequence[int] | None]]:
        """By finder: the gates that matched, and where."""
        due: dict[int, dict[int, Sequence[int] | None]] = {}
        for identifier, ends in hits.ends.items():
            place = self._places.get(identifier)
            if place is None or (place.words is not None and place.words.isdisjoint(hits.ends)):
                continue
            due.setdefault(place.finder, {})[place.gate] = ends if hits.complete else _EVERYWHERE
        return due

    def _boosted(self, one: Finder, raws: list[Raw], words: context.Context) -> list[Raw]:
        if not raws or not one.context:
            return raws
        boosted: list[Raw] = []
        for start, end, score in sorted(raws):
            if score < 1.0 and words.supports(start, one.context):
                boosted.append((start, end, min(max(score + context.FACTOR, context.LEAST), 1.0)))
            else:
                boosted.append((start, end, score))
        return boosted

    def _kept(self, text: str, findings: list[Finding]) -> list[Finding]:
        """Without what scores too little, what lies inside an equal or better finding of its kind, what is allowed."""
        kept: list[Finding] = []
        by_kind: dict[str, dict[Raw, str]] = {}
        for finding in findings:
            if finding.score >= self._threshold:
                by_kind.setdefault(finding.kind, {}).setdefault(finding[1:4], finding.rule)
        for kind, rules in by_kind.items():
            for raw in distinct(rules):
                if self._allowed and text[raw[0] : raw[1]].strip().casefold() in self._allowed:
                    continue
                kept.append(Finding(kind, *raw, rules[raw]))
        return kept

    def _expressions(self) -> list[Expression]:
        """Every gate, and every context word that a gate needs, under numbers of their own."""
        expressions: list[Expression] = []
        words: dict[str, int] = {}
        for number, one in enumerate(self._finders):
            for gate_number, gate in enumerate(one.gates):
                needed: frozenset[int] | None = None
                if gate.context:
                    needed = frozenset(_word(word, words, expressions) for word in one.context if word.isidentifier())
                self._places[len(expressions)] = _Place(number, gate_number, needed)
                expressions.append(expression(len(expressions), gate))
        return expressions


def _without_guesses(findings: list[Finding], words: context.Context) -> list[Finding]:
    """Without what only its check digit speaks for, where it is (a part of) a phone number and nothing before it helps."""
    numbers = sorted((found.start, found.end) for found in findings if found.kind == phones.KIND)
    if not numbers or not any(found.kind == _CHECK_DIGIT_ONLY for found in findings):
        return findings
    kept: list[Finding] = []
    for found in findings:
        if found.kind == _CHECK_DIGIT_ONLY:
            before = bisect_right(numbers, (found.start, sys.maxsize))  # none lies inside another: the last one decides
            if before and numbers[before - 1][1] >= found.end and not words.supports(found.start, _CHECKED_WORDS):
                continue
        kept.append(found)
    return kept


def _word(word: str, known: dict[str, int], expressions: list[Expression]) -> int:
    """The number of the expression that finds a context word, in any case and inside of others."""
    if word not in known:
        known[word] = len(expressions)
        expressions.append(Expression(len(expressions), literal(word), caseless=True, single=True))
    return known[word]


def _finders(options: PatternOptions) -> tuple[Finder, ...]:
    finders: list[Finder] = []
    phone = options.kinds & {phones.KIND}
    for recognizer in recognizers(options.kinds - phone):
        kind = recognizer.supported_entities[0]
        words = tuple(word.lower() for word in recognizer.context or ())
        if kind == cards.KIND:
            finders.append(cards.CardFinder(words))
        elif recognizer.name == "IbanRecognizer":
            finders.append(IbanFinder(recognizer))
        else:
            finders.append(finder(recognizer, options.threshold))
    if phone and options.regions:
        words = tuple(word.lower() for word in PhoneRecognizer.CONTEXT)
        numbers = Numbers(options.regions)
        finders.append(phones.PhoneFinder(numbers, PhoneRecognizer.SCORE, words))
        finders.append(phones.PossiblePhoneFinder(numbers, PhoneRecognizer.SCORE))
    finders.extend(CustomFinder(pattern, options.threshold) for pattern in options.custom)
    finders.extend(DenyFinder(deny) for deny in options.deny)
    return tuple(finders)
