"""An operator's own patterns and lists: what they find, and why one is refused."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from extproc.redaction.custom import (
    CustomFinder,
    CustomPattern,
    CustomPatternError,
    DenyFinder,
    DenyList,
    allowed,
    check_kind,
    compile_linear,
)
from extproc.redaction.patterns import PatternDetector, PatternOptions
from extproc.text import Finding, never

EMPLOYEE = CustomPattern("EMPLOYEE_ID", r"\bE\d{6}\b")


def detector(*custom: CustomPattern, deny: tuple[DenyList, ...] = (), allow: tuple[str, ...] = ()) -> PatternDetector:
    return PatternDetector(PatternOptions(kinds=frozenset(), custom=custom, deny=deny, allow=allow))


def test_patterns_are_found():
    """With their kind and score, in characters."""
    found = detector(EMPLOYEE).scan("\u00e9\U0001f600 E123456, e123456, E1234567")

    assert [Finding("EMPLOYEE_ID", 3, 10, 0.8, "custom")] == found


def test_case_may_be_ignored():
    """Of ASCII letters, and of others."""
    found = detector(CustomPattern("CITY", "m\u00fcnchen", ignore_case=True)).scan("in M\u00dcNCHEN, M\u00fcnchen")

    assert [(3, 10), (12, 19)] == sorted((one.start, one.end) for one in found)


def test_classes_are_of_ascii():
    """As RE2 has them: a letter outside ASCII ends a word."""
    assert [(1, 8)] == [one[1:3] for one in detector(EMPLOYEE).scan("\u00e9E123456\u00e9")]


def test_properties_of_unicode():
    """RE2's own classes for scripts and kinds of letters."""
    found = detector(CustomPattern("TICKET", r"\p{Cyrillic}{2}-\d{3}")).scan("\u0430\u0431-123, ab-123")

    assert [(0, 6)] == [one[1:3] for one in found]


def test_context_lifts_a_low_score():
    """A pattern below the threshold counts behind one of its words."""
    badge = CustomPattern("BADGE", r"\b\d{4}\b", score=0.2, context=("Badge",))

    assert [Finding("BADGE", 6, 10, 0.55, "custom")] == detector(badge).scan("badge 1234")
    assert [] == detector(badge).scan("order 1234")


def test_lone_surrogates_are_signs():
    """They neither crash nor hide anything."""
    assert [(2, 9)] == [one[1:3] for one in detector(EMPLOYEE).scan("\ud800 E123456")]


@pytest.mark.parametrize(
    ("pattern", "hint"),
    [
        (r"a(?=b)", "look-ahead"),
        (r"(?<!a)b", "look-ahead"),
        (r"(a)\1", "back-references"),
        (r"((a{100}){100}){100}", ""),
        (r"(unclosed", "RE2"),
        (r"a*", "optional"),
        ("", "1 to"),
        ("a" * 3000, "1 to"),
    ],
)
def test_patterns_that_cannot_be_used(pattern, hint):
    """Refused with a reason and a cure."""
    with pytest.raises(CustomPatternError) as caught:
        CustomFinder(CustomPattern("KIND", pattern), 0.4)

    assert caught.value.reason
    assert hint in caught.value.hint


@pytest.mark.parametrize("kind", ["", "employee", "1A", "A" * 33, "A B", "EMPLOYEE_1", "E-1", "A\n"])
def test_kinds_that_cannot_stand_in_a_placeholder(kind):
    """Capitals, digits and underscores; no number at the end."""
    with pytest.raises(CustomPatternError):
        check_kind(kind)
    with pytest.raises(CustomPatternError):
        DenyFinder(DenyList(kind, ("x",)))


def test_scores_that_never_count():
    """Zero, more than one, or below the threshold without words."""
    for score in (0.0, 1.5, 0.2):
        with pytest.raises(CustomPatternError, match="score"):
            CustomFinder(CustomPattern("KIND", "a", score=score), 0.4)
    assert CustomFinder(CustomPattern("KIND_2A", "a", score=0.2, context=("b",)), 0.4).gates[0].context


def denied(text: str, *terms: str) -> list[str]:
    found = detector(deny=(DenyList("PROJECT", terms),)).scan(text)
    assert {("PROJECT", 1.0, "deny")} >= {(one.kind, one.score, one.rule) for one in found}
    return [text[one.start : one.end] for one in sorted(found, key=lambda one: one.start)]


def test_terms_of_a_deny_list():
    """As words of their own, in any case, also with signs and in other scripts."""
    text = "bluebird BLUEBIRD bluebirdy C++ C+++ xC++ \u6771\u4eac \u6771\u4eac\u30bf blue bird"

    assert ["bluebird", "BLUEBIRD", "C++", "C++", "\u6771\u4eac", "blue bird"] == denied(
        text, "Bluebird", "C++", "\u6771\u4eac", "Blue bird"
    )


@pytest.mark.parametrize(
    "text",
    [
        "get_Bluebird_now", "BLUEBIRD_KEY", "bluebird-7", "bluebird7", "7bluebird", "_bluebird", "getBluebirdNow",
        "bluebirdNow", "getBLUEBIRDNow", "URLBluebird", "BLUEBIRDKey", "Bluebird's", "Bluebirds", "BLUEBIRDS",
        "\u00e4Bluebird\u00c4",
    ],
)  # fmt: skip
def test_terms_in_identifiers(text):
    """Signs, digits, and for longer terms a change of case and a plural end a word."""
    assert ["bluebird"] == [value.lower() for value in denied(text, "Bluebird")]


@pytest.mark.parametrize(
    "text", ["bluebirdy", "mybluebird", "MYBLUEBIRD", "Bluebirdsong", "Bluebirdss", "bluebird\u00e9", "\u00e9bluebird"]
)
def test_terms_in_other_words(text):
    """Letters beside a term make another word of it."""
    assert [] == denied(text, "Bluebird")


def test_short_terms_in_identifiers():
    """Of a few letters there are too many by chance: no change of case, no plural."""
    assert ["AB", "ab"] == denied("AB_1 my-ab getABNow isAb ABs", "AB")


def test_terms_with_digits():
    """A digit or letter beside a digit is a part of the same number."""
    assert ["Project 7", "project 7"] == denied("Project 77 Project 7 Project 7b project 7_x", "Project 7")
    assert ["C++"] == denied("C++11 xC++", "C++")


def test_deny_lists_may_heed_case():
    """Where a term is an ordinary word too."""
    finder = detector(deny=(DenyList("PROJECT", ("Apollo",), ignore_case=False),))

    assert [(0, 6)] == [one[1:3] for one in finder.scan("Apollo apollo APOLLO")]


def test_empty_terms_are_refused():
    """They would be everywhere."""
    for terms in ((), ("",), ("ok", " ")):
        with pytest.raises(CustomPatternError, match="empty"):
            DenyFinder(DenyList("KIND", terms))


def test_allow_lists_suppress_whole_findings():
    """In any case; a part of a finding is not enough."""
    finder = detector(EMPLOYEE, deny=(DenyList("PROJECT", ("Bluebird",)),), allow=("e123456", " BLUEBIRD "))

    assert [] == finder.scan("E123456 Bluebird")
    assert ["EMPLOYEE_ID"] == [one.kind for one in finder.scan("E123456 E123457")]
    assert frozenset({"a", "stra\u00dfe".casefold()}) == allowed((" A ", "Stra\u00dfe", " "))


def test_hostile_text_takes_linear_time():
    """A pattern that is exponential elsewhere finds its one match behind 100,000 near ones."""
    nested = compile_linear(r"(a+)+b")
    text = "a" * 100_000

    assert [] == list(nested.finditer(text))
    found = detector(CustomPattern("KIND", r"(a|aa)+b")).scan(text + "b")
    assert [(0, 100_001)] == [one[1:3] for one in found]


def test_many_hits_are_not_lost():
    """Past the point at which the pass stops counting."""
    found = detector(EMPLOYEE, deny=(DenyList("PROJECT", ("x",)),)).scan("E123456 x " * 4000)

    assert 8000 == len(found)


TERMS = DenyFinder(DenyList("KIND", ("foo", "foo bar", "b\u00e4r")))


@given(st.text(alphabet="fo bar\u00e4 _.7F", max_size=40))
def test_terms_are_whole_words(text):
    """No result has a letter beside it, and no free-standing term is missed."""
    spans = {raw[:2] for raw in TERMS.find(text, dict.fromkeys(range(3)), never)}
    for start, end in spans:
        assert text[start:end].lower() in {"foo", "foo bar", "b\u00e4r"}
        if end - start == 3:  # a short term
            assert not (text[start - 1 : start] if start else " ").isalpha()
            assert not (text[end : end + 1] or " ").isalpha()
    for word in ("foo", "b\u00e4r"):
        for edge in (" ", "_", "7", "."):
            there = f"{edge}{text}{edge}".lower().find(f"{edge}{word}{edge}")
            assert (there >= 0) <= any(word in text[start:end].lower() for start, end in spans)
