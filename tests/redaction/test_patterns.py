"""The detector as a whole: what it finds by default, what it leaves, and how it behaves."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from extproc.errors import BudgetExceededError
from extproc.redaction.cards import luhn
from extproc.redaction.patterns import DEFAULT_KINDS, PatternDetector, PatternOptions
from extproc.text import Finding


@pytest.fixture(scope="module")
def detector() -> PatternDetector:
    return PatternDetector(PatternOptions())


def kinds(detector: PatternDetector, text: str) -> dict[str, str]:
    return {one.kind: text[one.start : one.end] for one in detector.scan(text)}


def test_what_is_found_by_default(detector):
    """One of each kind, with its text."""
    text = (
        "mail ann@example.com, card 4111 1111 1111 1111, IBAN DE89370400440532013000, host 10.0.0.1, mac 00:1A:2B:3C:4D:5E,"
        " ssn 536-90-4399, call +44 20 7946 0958, wallet 1A1zP1eP5QGefi2DMPTfTL5SLmv7DivfNa, nino AB 12 34 56 C,"
        " driver license A1234567, bank account 12345678901, itin 912-70-1234, passport A12345678, NHS 943 476 5919,"
        " DEA ab1234563"
    )

    assert kinds(detector, text).keys() == DEFAULT_KINDS


def test_what_is_left_by_default(detector):
    """Links, dates and UUIDs are in every other text."""
    text = "see https://example.com/x of 2024-01-15, id 3f2b8c1e-9d4a-4c7b-8a6e-0f1d2c3b4a5e, README.md, foo.py, v1.2.3"

    assert [] == detector.scan(text)
    asked = PatternDetector(PatternOptions(kinds=frozenset({"URL", "DATE_TIME", "UUID"})))
    assert {"URL", "DATE_TIME", "UUID"} == kinds(asked, text).keys()


def test_offsets_are_in_characters(detector):
    """Whatever stands before; a lone surrogate is one."""
    before = "\U0001f600\u00e9a\u0301\ud800\u6771 "
    (found,) = detector.scan(before + "ann@example.com")

    assert Finding("EMAIL_ADDRESS", len(before), len(before) + 15, 1.0, "EmailRecognizer") == found


def test_words_before_raise_scores(detector):
    """Nine digits alone are nothing; behind a word they are what the word says."""
    assert [] == detector.scan("it has 536904399 parts")
    assert "US_SSN" in kinds(detector, "my ssn is 536904399")


def test_check_digits_yield_to_phone_numbers(detector):
    """One in eleven phone numbers has an NHS number's check digit."""
    assert {"PHONE_NUMBER": "303-661-3900"} == kinds(detector, "reach her on 303-661-3900.")
    assert "UK_NHS" in kinds(detector, "NHS 303-661-3900")


def test_nothing_to_do_costs_nothing(detector):
    """A text without a hit is not looked at again; an empty one neither."""
    looks: list[int] = []

    assert [] == detector.scan("nothing here at all", lambda: looks.append(1))
    assert [] == detector.scan("")
    assert [] == looks


def test_time_that_is_up_ends_the_scan(detector):
    """What the check raises is not caught."""

    def up() -> None:
        raise BudgetExceededError("up")

    with pytest.raises(BudgetExceededError):
        detector.scan("ann@example.com", up)


def test_the_clock_is_looked_at_in_long_texts(detector):
    """Between finders, and between chunks of a text."""
    looks: list[int] = []
    detector.scan("10.0.0.1 and 536-90-4399 " * 4000, lambda: looks.append(1))

    assert len(looks) > 30


def test_no_finding_is_lost_past_the_cap(detector):
    """A text of many thousand results gives them all."""
    rng = random.Random(5)

    def card() -> str:
        body = "4" + "".join(rng.choice("0123456789") for _ in range(14))
        return body + next(digit for digit in "0123456789" if luhn(body + digit))

    text = "\n".join(f"u{number}@example.com 10.0.{number % 250}.7 {card()}" for number in range(3000))
    found = detector.scan(text)

    assert 3000 == sum(one.kind == "EMAIL_ADDRESS" for one in found)
    assert 3000 == sum(one.kind == "IP_ADDRESS" for one in found)
    assert 3000 == sum(one.kind == "CREDIT_CARD" for one in found)


def test_allowed_texts():
    """An address that may be seen is not found; others are."""
    detector = PatternDetector(PatternOptions(kinds=frozenset({"EMAIL_ADDRESS"}), allow=("Info@Example.com",)))
    text = "info@example.com, ann@example.com"

    assert ["ann@example.com"] == [text[one.start : one.end] for one in detector.scan(text)]


def test_wrong_options_are_refused():
    """A kind or a region that is not known."""
    with pytest.raises(ValueError, match="TELEPATHY"):
        PatternDetector(PatternOptions(kinds=frozenset({"TELEPATHY"})))
    with pytest.raises(ValueError, match="'XX'"):
        PatternDetector(PatternOptions(kinds=frozenset({"PHONE_NUMBER"}), regions=("XX",)))


def test_no_kinds_find_nothing():
    """Nor do no regions find phone numbers."""
    assert [] == PatternDetector(PatternOptions(kinds=frozenset())).scan("ann@example.com")
    alone = PatternDetector(PatternOptions(kinds=frozenset({"PHONE_NUMBER"}), regions=()))
    assert [] == alone.scan("+44 20 7946 0958")


DETECTOR_KINDS = frozenset({"EMAIL_ADDRESS", "IP_ADDRESS", "US_SSN", "CREDIT_CARD"})


@pytest.fixture(scope="module")
def few() -> PatternDetector:
    return PatternDetector(PatternOptions(kinds=DETECTOR_KINDS))


@given(st.text(alphabet=st.characters(exclude_categories=()), max_size=60), st.text(max_size=20))
def test_any_text_can_be_scanned(few, before, behind):
    """And what stands in the middle is found, whatever is around it."""
    middle = " ann@example.com "
    text = before + middle + behind
    found = few.scan(text)

    at = len(before) + 1
    assert any(one.start <= at and at + 15 <= one.end for one in found if one.kind == "EMAIL_ADDRESS")
    assert all(0 <= one.start < one.end <= len(text) and 0.4 <= one.score <= 1 for one in found)
