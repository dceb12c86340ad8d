"""Several detectors as one."""

from __future__ import annotations

import re

import msgspec
import pytest

from extproc.errors import BudgetExceededError
from extproc.redaction.scanner import Plain, ScanSettings, TextScanner
from extproc.text import Check, Finding, never


class Words:
    """Finds a pattern."""

    def __init__(self, kind: str, pattern: str, score: float = 0.9) -> None:
        self._kind = kind
        self._pattern = re.compile(pattern)
        self._score = score

    def scan(self, text: str, check: Check = never) -> list[Finding]:
        return [Finding(self._kind, *match.span(), self._score) for match in self._pattern.finditer(text)]


class Fixed:
    """Finds what it was told."""

    def __init__(self, *findings: Finding) -> None:
        self._findings = findings

    def scan(self, text: str, check: Check = never) -> list[Finding]:
        return list(self._findings)


MAIL, LINK = Words("EMAIL_ADDRESS", r"\w+@\w+\.org"), Words("URL", r"\w+\.org", 1.0)
BOTH = ScanSettings(frozenset({"EMAIL_ADDRESS", "URL"}))


def test_findings_are_resolved():
    """In order, without overlaps: the better one wins."""
    found = TextScanner((MAIL, LINK), BOTH).scan("see b.org or ann@a.org")

    assert (
        Finding("URL", 4, 9, 1.0),
        Finding("EMAIL_ADDRESS", 13, 17, 0.9),
        Finding("URL", 17, 22, 1.0),
    ) == found


def test_kinds_that_nobody_asked_for_take_nothing_away():
    """They are gone before anything is resolved."""
    only = ScanSettings(frozenset({"EMAIL_ADDRESS"}))

    assert (Finding("EMAIL_ADDRESS", 0, 9, 0.9),) == TextScanner((MAIL, LINK), only).scan("ann@a.org")


def test_allowed_values_are_no_findings():
    """Whatever their case; what overlaps one is still found."""
    allowing = msgspec.structs.replace(BOTH, allow=("B.org", "A.ORG", "Straße"))

    assert (Finding("EMAIL_ADDRESS", 6, 15, 0.9),) == TextScanner((MAIL, LINK), allowing).scan("b.org ann@a.org")
    assert () == TextScanner((Words("URL", "STRASSE"),), allowing).scan("STRASSE")


def test_remains_have_no_white_space_around_them():
    """Of a finding that lost a part; one that has nothing else left is gone."""
    found = (Finding("A", 0, 9, 0.5), Finding("B", 0, 3, 1.0), Finding("B", 4, 7, 1.0))

    assert (Finding("B", 0, 3, 1.0), Finding("B", 4, 7, 1.0), Finding("A", 8, 9, 0.5)) == TextScanner(
        (Fixed(*found),), ScanSettings(frozenset("AB"))
    ).scan("Ann Lee x")


@pytest.mark.parametrize("span", [(-1, 2), (1, 1), (2, 1), (0, 9)])
def test_impossible_findings_are_an_error(span):
    """A detector that is wrong about places is not believed."""
    with pytest.raises(ValueError, match="A"):
        TextScanner((Fixed(Finding("A", *span, 1.0)),), ScanSettings(frozenset("A"))).scan("text")


def test_errors_of_detectors_come_through():
    """And the check is asked after each of them."""

    class Broken:
        def scan(self, text: str, check: Check = never) -> list[Finding]:
            raise RuntimeError("broken")

    def over() -> None:
        raise BudgetExceededError("time is up")

    with pytest.raises(RuntimeError, match="broken"):
        TextScanner((MAIL, Broken()), BOTH).scan("ann@a.org")
    with pytest.raises(BudgetExceededError):
        TextScanner((MAIL,), BOTH).scan("ann@a.org", over)


def test_version_stands_for_everything_that_decides():
    """Sixteen bytes: the same for the same, another for every difference."""
    one = TextScanner((MAIL, LINK), BOTH).version
    replace = msgspec.structs.replace
    others = [
        TextScanner((MAIL, Fixed()), BOTH),
        TextScanner((MAIL,), BOTH),
        TextScanner((MAIL, LINK), replace(BOTH, kinds=frozenset({"URL"}))),
        TextScanner((MAIL, LINK), replace(BOTH, allow=("URL",))),
        TextScanner((MAIL, LINK), replace(BOTH, allow=("UR", "L"))),
        TextScanner((MAIL, LINK), replace(BOTH, allow=("U", "RL"))),
        TextScanner((MAIL, LINK), replace(BOTH, identity=b"weights 2")),
    ]

    assert 16 == len(one)
    assert one == TextScanner((MAIL, LINK), BOTH).version
    assert len({one, *(other.version for other in others)}) == 8


def test_long_texts_are_long():
    """Together, and many short ones; where every scan takes long, any text is."""
    scanner = TextScanner((MAIL,), BOTH)

    assert (False, True) == (scanner.is_long(["x" * 3850]), scanner.is_long(["x" * 3851]))
    assert (False, True) == (scanner.is_long(["x" * 1850] * 2), scanner.is_long(["x" * 1850, "x" * 1851]))
    assert scanner.is_long(["x"] * 40)
    assert TextScanner((MAIL,), msgspec.structs.replace(BOTH, inline=0)).is_long(["x"])
    assert not TextScanner((MAIL,), msgspec.structs.replace(BOTH, inline=0)).is_long([])


def test_an_escape_is_no_letter_of_the_word_behind_it() -> None:
    """Offsets are those of the text as it is."""

    words = Words("WORD", r"\bAnn\b")
    text = r'{"body": "from:\nAnn\tand \rAnn'
    found = Plain(words).scan(text)

    assert ["Ann", "Ann"] == [text[one.start : one.end] for one in found]
    assert [] == words.scan(text)


SSN = Words("US_SSN", r"\b\d{3}-\d\d-\d{4}\b", 0.5)
PEOPLE = Words("PERSON", r"\b(Ann|Miller)\b", 0.8)
HIDING = ScanSettings(frozenset({"US_SSN", "PERSON", "EMAIL_ADDRESS"}))


@pytest.mark.parametrize(
    "value",
    ["536\u201122\u20131234", "5\u200b36-22-12\u00ad34", r"536\-22\-1234", "\uff15\uff13\uff16-22-1234", "536-22-1234"],
)
@pytest.mark.parametrize("around", ["{}", "so: {}, ok", "_{}_", "export_{}_x"])
def test_other_spellings_of_a_value_are_found(value: str, around: str) -> None:
    """The finding covers the value as it is spelled."""
    text = around.format(value)

    found = TextScanner((SSN, PEOPLE), HIDING).scan(text)
    assert [("US_SSN", value)] == [(one.kind, text[one.start : one.end]) for one in found]


def test_names_in_other_spellings() -> None:
    """Characters without width hide no name; a part of an identifier is none."""
    scanner = TextScanner((PEOPLE,), HIDING)

    assert (Finding("PERSON", 3, 10, 0.8),) == scanner.scan("by Mil\u00adler")
    assert () == scanner.scan("Ann_12_Miller_34 x_Ann_12")


def test_parts_of_words_need_a_sure_finding() -> None:
    """What scores low counts between blanks only, however they are spelled."""
    weak = Words("US_SSN", r"\b\d{9}\b", 0.4)

    assert () == TextScanner((weak,), HIDING).scan("run_536221234")
    assert (Finding("US_SSN", 4, 13, 0.4),) == TextScanner((weak,), HIDING).scan("run \uff1536221234")


def test_allowed_values_are_allowed_in_other_spellings() -> None:
    """What an operator lets pass is a value, not its spelling."""
    allowing = msgspec.structs.replace(HIDING, allow=("536-22-1234",))

    assert () == TextScanner((SSN,), allowing).scan("536\u201122\u20111234")


def test_impossible_findings_in_other_spellings_are_an_error() -> None:
    """A place that is in the text, and not in the piece of it that was searched."""

    class Once:
        def scan(self, text: str, check: Check = never) -> list[Finding]:
            return [] if "\u200b" in text else [Finding("US_SSN", 0, len(text) + 1, 1.0)]

    with pytest.raises(ValueError, match="US_SSN"):
        TextScanner((Once(),), HIDING).scan("1\u200b2")
