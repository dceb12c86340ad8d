"""Phone numbers: what Google's matcher finds, and what it need not be asked about."""

from __future__ import annotations

import phonenumbers
import pytest
from hypothesis import given
from hypothesis import strategies as st

from extproc.redaction.context import Context
from extproc.redaction.finders import distinct, expression
from extproc.redaction.hyper import Database
from extproc.redaction.phone_regions import Numbers
from extproc.redaction.phones import PhoneFinder, PossiblePhoneFinder
from extproc.text import never

REGIONS = ("US", "GB", "DE", "IT", "BR", "AR")
FINDER = PhoneFinder(Numbers(REGIONS), 0.4, ())
GATE = Database([expression(0, FINDER.gates[0])])


def found(finder, text: str) -> list[str]:
    return [text[start:end] for start, end, _ in finder.find(text, {0: None}, never)]


def gated(text: str) -> list[tuple[int, int, float]]:
    """As in a detector: only where the pass says so."""
    hits = GATE.scan(text).ends
    return FINDER.find(text, hits, never) if hits else []


def reference(text: str) -> list[tuple[int, int]]:
    """What Google's matcher finds in the whole text, region by region."""
    spans = {
        (match.start, match.end, 1.0)
        for region in REGIONS
        for match in phonenumbers.PhoneNumberMatcher(text, region, leniency=phonenumbers.Leniency.VALID)
    }
    return [(start, end) for start, end, _ in distinct(spans)]


@pytest.mark.parametrize(
    "number",
    [
        "(212) 555-2368", "212-555-2368", "212.555.2368", "+1 212 555 2368", "+44 20 7946 0958", "020 7946 0958",
        "\uff0b44 20 7946 0958", "+49 30 901820", "030 901820", "(212) 555-2368 ext. 1234", "212-555-2368 x123",
        "+39 06 6982 1234", "011 44 20 7946 0958", "\u0662\u0661\u0662 \u0665\u0665\u0665 \u0662\u0663\u0666\u0668",
    ],
)  # fmt: skip
def test_numbers_of_the_regions(number):
    """National and international, with extensions, in other digits."""
    text = f"it is {number}, ask for me"

    assert [number] == found(FINDER, text)
    assert [(6, 6 + len(number))] == [(start, end) for start, end, _ in gated(text)]


def test_regions_decide():
    """A number of a region that was not named needs its country code."""
    paris = "01 42 68 53 00"

    assert [] == found(PhoneFinder(Numbers(("US", "GB")), 0.4, ()), paris)
    assert [paris] == found(PhoneFinder(Numbers(("US", "FR")), 0.4, ()), paris)
    assert ["+33 1 42 68 53 00"] == found(PhoneFinder(Numbers(("US",)), 0.4, ()), "+33 1 42 68 53 00")
    with pytest.raises(ValueError, match="'XX' is not a region"):
        PhoneFinder(Numbers(("US", "XX")), 0.4, ())


def test_a_shared_country_code():
    """Canada's numbers are written as those of the US are."""
    assert ["780-999-2181"] == found(PhoneFinder(Numbers(("US",)), 0.4, ()), "call 780-999-2181")


@pytest.mark.parametrize(
    "text", ["10.160.14.148", "0.2125552368", "10.2125552368", "2024-01-15", "2024-01-15 10:11:12", "12345"]
)
def test_what_is_no_number(text):
    """Addresses, fractions, dates, short rows of digits."""
    assert [] == [raw for raw in FINDER.find(text, {0: None}, never) if raw[2] >= 0.4]


ATOMS = st.sampled_from(
    ["212 555 2368", "020 7946 0958", "+1", "+44 20 7946 0958", "ext. 12", " x ", "12", "2024-01-15", ":34", "(212)", "555-2368",
     "\u0663\u0660", ", ", "\n", "a", "\u00e9", "-", "/", "  ", "030 901820", "7"]
)  # fmt: skip


@given(st.lists(ATOMS, max_size=7).map("".join))
def test_nothing_that_the_whole_text_has_is_missed(text):
    """Whatever the matcher finds in the whole text is found, or lies inside of what is found."""
    spans = [(start, end) for start, end, _ in gated(text)]
    for first, last in reference(text):
        fraction = first > 1 and text[first - 1] == "." and text[first - 2].isdigit()
        assert fraction or any(start <= first and last <= end for start, end in spans)


def test_a_table_of_numbers():
    """Rows of many digits are looked at group by group."""
    finder = PhoneFinder(Numbers(("US", "GB")), 0.4, ())
    numbers = [f"212 555 2{number:03}" for number in range(100, 160)]
    row = " ".join(numbers)
    spans = [(start, end) for start, end, _ in finder.find(row, {0: None}, never)]

    for number in numbers:
        at = row.index(number)
        assert any(start <= at and at + len(number) <= end for start, end in spans)
    listed = [f"2125552{number:03}" for number in range(100, 400)]
    assert listed == found(finder, " ".join(listed))


def test_possible_numbers():
    """After a plus, or announced; below the least score where nothing announces them yet."""
    finder = PossiblePhoneFinder(Numbers(("US", "GB")), 0.4)
    text = "+912911929743 or call 733 961 627; the order 733 961 628 of 1972-01-23"
    results = finder.find(text, {0: None, 1: None}, never)

    assert ("+912911929743", 0.4) in [(text[start:end], score) for start, end, score in results]
    announced = [text[start:end] for start, end, score in results if Context(text).supports(start, finder.context)]
    assert "733 961 627" in announced
    assert "1972-01-23" not in announced
    assert [] == finder.find("order 733 961 628", {1: None}, never)


def test_numbers_with_an_extension_in_a_table():
    """The extension belongs to its number."""
    finder = PhoneFinder(Numbers(("US", "GB")), 0.4, ())
    row = "212 555 2100 x12 " * 4 + "020 7946 0958"

    assert ["212 555 2100 x12"] * 4 + ["020 7946 0958"] == [
        value for value in found(finder, row) if value.startswith(("212", "020"))
    ]


def test_fractions_are_passed_over():
    """A list of numbers below one is no list of phone numbers; a number behind one is still seen."""
    assert [] == found(FINDER, "[0.30901820, 0.2125552368, 0.30901821]")
    assert ["030 901820"] == found(FINDER, "0.30901820, 030 901820")


def test_a_number_behind_other_digits():
    """The gate for a plus sees its own digits; those before are another's."""
    finder = PossiblePhoneFinder(Numbers(("US", "GB")), 0.4)
    text = "147075746 or 15799247005+5424353121"
    hits = Database([expression(0, finder.gates[0])]).scan(text).ends

    assert "+5424353121" in [text[start:end] for start, end, _ in finder.find(text, hits, never)]


def test_words_far_away_announce_nothing():
    """Words of a sentence before, with others in between."""
    finder = PossiblePhoneFinder(Numbers(("US", "GB")), 0.4)

    assert [] == finder.find("call me; we shipped seven large blue boxes today, 733 961 628", {1: None}, never)
    assert ["733 961 627"] == [
        value for value in ["733 961 627"] if finder.find(f"call me at {value}", {1: None}, never) == [(11, 22, 0.3)]
    ]
