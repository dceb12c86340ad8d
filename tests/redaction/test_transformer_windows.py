"""Windows: every character has one that speaks for it, and words stay whole where they can."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from extproc.redaction.transformer_windows import Window, join_ranges, touching, unite, windows, with_context
from extproc.text import Finding

texts = st.text(st.sampled_from("ab \n,é日😀"), max_size=400)


@st.composite
def spans(draw):
    """A text and a range of it."""
    text = draw(texts)
    start, end = sorted((draw(st.integers(0, len(text))), draw(st.integers(0, len(text)))))
    return text, (start, end)


@st.composite
def ranges_of(draw):
    """A text and some ranges of it."""
    text = draw(texts)
    place = st.integers(0, len(text))
    return text, [tuple(sorted(pair)) for pair in draw(st.lists(st.tuples(place, place), max_size=6))]


@given(spans(), st.integers(2, 50), st.data())
def test_every_character_is_owned_once(text_and_span, size, data):
    """And read by the window that owns it; no window is longer than asked for."""
    text, (start, end) = text_and_span
    overlap = data.draw(st.integers(1, size // 2))

    found = list(windows(text, (start, end), size, overlap))

    owned = [place for window in found for place in range(window.own_start, window.own_end)]
    assert list(range(start, end)) == owned
    for window in found:
        assert start <= window.start <= window.own_start <= window.own_end <= window.end <= end
        assert 0 < window.end - window.start <= size


def test_words_are_not_cut():
    """Where there is a space within the overlap."""
    text = "some words of a sentence " * 20

    for window in windows(text, (0, len(text)), 100, 30):
        assert window.start == 0 or text[window.start - 1] == " " or text[window.start] == " "
        assert window.end == len(text) or text[window.end - 1] == " " or text[window.end] == " "


def test_neighbours_overlap():
    """By half of what was asked for at least, so that each sees beyond what it speaks for."""
    text = "some words of a sentence " * 20
    found = list(windows(text, (0, len(text)), 100, 40))

    for before, after in itertools.pairwise(found):
        assert before.end - after.start >= 20
        assert after.start < before.own_end < before.end


@pytest.mark.parametrize(
    ("span", "size", "overlap"), [((0, 4), 10, 2), ((2, 1), 10, 2), ((-1, 2), 10, 2), ((0, 3), 10, 6), ((0, 3), 10, 0)]
)
def test_impossible_windows_are_refused(span, size, overlap):
    """A span outside of the text, one that goes backwards, overlaps that would not move on."""
    with pytest.raises(ValueError, match="no windows of"):
        list(windows("abc", span, size, overlap))


def test_a_window_owns_what_touches_its_part():
    """One character is enough."""
    window = Window(0, 20, 5, 15)

    assert [False, True, True, True, False] == [
        window.owns(*span) for span in ((0, 5), (4, 6), (7, 9), (14, 30), (15, 18))
    ]


@given(ranges_of())
def test_joined_ranges_cover_the_same(text_and_ranges):
    """And nothing more but white space; they are in order and apart."""
    text, ranges = text_and_ranges
    joined = join_ranges(text, ranges)

    before = {place for start, end in ranges for place in range(start, end)}
    after = {place for start, end in joined for place in range(start, end)}
    assert before <= after
    assert not "".join(text[place] for place in after - before).strip()
    assert all(left[1] < right[0] for left, right in itertools.pairwise(joined))


@pytest.mark.parametrize("span", [(0, 4), (-1, 2), (2, 1)])
def test_a_range_outside_of_the_text_is_refused(span):
    """It would be a silent gap."""
    with pytest.raises(ValueError, match="is not one of a text of 3"):
        join_ranges("abc", [span])


@given(spans(), st.integers(0, 60))
def test_context_is_around_the_span(text_and_span, most):
    """Never less than the span, never more than was allowed, and all there is near the ends."""
    text, (start, end) = text_and_span

    before, after = with_context(text, (start, end), most)

    assert max(0, start - most) <= before <= start
    assert end <= after <= min(len(text), end + most)
    assert before == 0 or start > most
    assert after == len(text) or end + most < len(text)


def test_context_begins_and_ends_between_words():
    """Half a word would be taken for another word."""
    text = "first second third fourth fifth"

    before, after = with_context(text, (13, 18), 9)

    assert " second third fourth" == text[before:after].rstrip()


def test_findings_that_touch_a_range():
    """By at least one character; ranges are by start."""
    found = [Finding("PERSON", start, start + 4, 1.0) for start in (0, 6, 10, 20, 30)]

    kept = touching(found, [(3, 8), (24, 26), (33, 40)])

    assert [0, 6, 30] == [finding.start for finding in kept]
    assert [] == touching(found, [])


def test_halves_become_one():
    """Of one kind, where they overlap; the better score holds, and other kinds do not matter."""
    found = [
        Finding("PERSON", 10, 20, 0.7, "a"),
        Finding("LOCATION", 12, 14, 0.5, "a"),
        Finding("PERSON", 15, 25, 0.9, "a"),
        Finding("PERSON", 25, 30, 0.6, "a"),
    ]

    assert [
        Finding("PERSON", 10, 25, 0.9, "a"),
        Finding("LOCATION", 12, 14, 0.5, "a"),
        Finding("PERSON", 25, 30, 0.6, "a"),
    ] == unite(reversed(found))
