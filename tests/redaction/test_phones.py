"""Phone numbers: what Google's matcher finds, and what it need not be asked about."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import phonenumbers
import pytest
from hypothesis import given
from hypothesis import strategies as st

from extproc.redaction.context import Context
from extproc.redaction.finders import distinct, expression
from extproc.redaction.hyper import Database
from extproc.redaction.phones import PhoneFinder, PossiblePhoneFinder
from extproc.text import never

REGIONS = ("US", "GB", "DE", "IT", "BR", "AR")
FINDER = PhoneFinder(REGIONS, 0.4, ())
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

    assert [] == found(PhoneFinder(("US", "GB"), 0.4, ()), paris)
    assert [paris] == found(PhoneFinder(("US", "FR"), 0.4, ()), paris)
    assert ["+33 1 42 68 53 00"] == found(PhoneFinder(("US",), 0.4, ()), "+33 1 42 68 53 00")
    with pytest.raises(ValueError, match="'XX' is not a region"):
        PhoneFinder(("US", "XX"), 0.4, ())


def test_a_shared_country_code():
    """Canada's numbers are written as those of the US are."""
    assert ["780-999-2181"] == found(PhoneFinder(("US",), 0.4, ()), "call 780-999-2181")


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
    finder = PhoneFinder(("US", "GB"), 0.4, ())
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
    finder = PossiblePhoneFinder(("US", "GB"), 0.4)
    text = "+912911929743 or call 733 961 627; the order 733 961 628 of 1972-01-23"
    results = finder.find(text, {0: None, 1: None}, never)

    assert ("+912911929743", 0.4) in [(text[start:end], score) for start, end, score in results]
    announced = [text[start:end] for start, end, score in results if Context(text).supports(start, finder.context)]
    assert "733 961 627" in announced
    assert "1972-01-23" not in announced
    assert [] == finder.find("order 733 961 628", {1: None}, never)


def test_no_number_is_kept():
    """What is remembered is spans under a digest."""
    finder = PhoneFinder(("US",), 0.4, ())
    for number in range(5000):
        finder.find(f"212-555-{number:04}", {0: None}, never)

    assert len(finder._memo) <= 4096
    assert not any(b"555" in key and b"212" in key for key in finder._memo)
    assert all(type(place) is int for spans in finder._memo.values() for span in spans for place in span)


def test_two_threads_share_a_finder():
    """A worker scans on its loop and in a thread."""
    texts = [f"212-555-{number:04} and 020 7946 {number:04}" for number in range(400)]
    finder = PhoneFinder(("US", "GB"), 0.4, ())
    expected = [found(finder, text) for text in texts]
    with ThreadPoolExecutor(3) as pool:
        assert expected == list(pool.map(lambda text: found(finder, text), texts))
    assert 2 == len(expected[0])
