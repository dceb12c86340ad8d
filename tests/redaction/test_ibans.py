"""IBANs: in any case, in groups, with a country's own form."""

from __future__ import annotations

import pytest

from extproc.redaction.ibans import IbanFinder
from extproc.redaction.presidio import recognizers
from extproc.text import never

IBANS = (
    "GB82 WEST 1234 5698 7654 32", "DE89370400440532013000", "FR14 2004 1010 0505 0001 3M02 606",
    "NL91-ABNA-0417-1643-00", "NO9386011117947", "MT84MALT011000012345MTLCAST001S",
)  # fmt: skip


@pytest.fixture(scope="module")
def finder() -> IbanFinder:
    return IbanFinder(recognizers(frozenset({"IBAN_CODE"}))[0])


@pytest.mark.parametrize("written", IBANS)
def test_ibans_of_any_case(finder, written):
    """As printed, in lower case, and mixed; the score is full."""
    for text in (written, written.lower(), written.title()):
        assert [(3, 3 + len(text), 1.0)] == finder.find(f"to {text} today", {0: None}, never)


@pytest.mark.parametrize("written", IBANS)
def test_wrong_ones_are_not_found(finder, written):
    """A changed check digit, another country's length, a part of a word."""
    wrong = written[:3] + str((int(written[3]) + 1) % 10) + written[4:]

    assert [] == finder.find(wrong, {0: None}, never)
    assert [] == finder.find("x" + written, {0: None}, never)
    assert [] == finder.find("ZZ" + written[2:], {0: None}, never)


def test_what_follows_is_left_out(finder):
    """Short words behind an IBAN look like a last group of it."""
    text = "pay DE89370400440532013000 2 days from now"

    assert [(4, 26, 1.0)] == finder.find(text, {0: None}, never)
    assert [(4, 26, 1.0)] == finder.find(text, {0: [26, 28]}, never)
    assert ("IBAN_CODE", "IbanRecognizer") == (finder.kind, finder.name)
