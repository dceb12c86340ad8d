"""A run in windows gives what a run over the whole text gives; duplicates go as in Presidio."""

from __future__ import annotations

import re

import regex  # type: ignore[import-untyped]
from hypothesis import given
from hypothesis import strategies as st
from presidio_analyzer import EntityRecognizer, RecognizerResult

from extproc.redaction import finders
from extproc.redaction.finders import Gate, confirm, distinct, expression, in_words, starts_near, width, words_near
from extproc.text import never

DIGITS = regex.compile(r"\b\d{2,4}(?:-\d)?\b(?!x)")
TEXTS = st.text(alphabet="0123- x\n", max_size=60)


def spans(matches) -> list[tuple[int, int]]:
    return [match.span() for match in matches]


@given(TEXTS, st.integers(1, 7))
def test_windows_find_what_the_whole_text_has(text, chunk):
    """With every end told, and with none; in chunks of any length."""
    whole = spans(DIGITS.finditer(text))
    ends = sorted({match.end() for match in DIGITS.finditer(text, overlapped=True)} | {end for _, end in whole})
    before, finders._CHUNK = finders._CHUNK, chunk
    try:
        for known in (ends, None):
            assert whole == spans(confirm(DIGITS, text, starts_near(known, 6, len(text)), 6, never))
    finally:
        finders._CHUNK = before


@given(TEXTS)
def test_words_hold_every_match_without_white_space(text):
    """Of expressions without a bound only the words around the ends are looked at."""
    signs = re.compile(r"[\d-]+x")
    ends = sorted(match.end() for match in signs.finditer(text))

    assert spans(signs.finditer(text)) == spans(in_words(signs, text, words_near(text, ends), never))
    assert spans(signs.finditer(text)) == spans(in_words(signs, text, words_near(text, None), never))


def test_a_long_word_is_found_from_its_end():
    """However far back it begins."""
    text = "a b " + "x" * 5000 + " c"

    assert [(4, 5004)] == list(words_near(text, [5004]))
    assert [(0, 1), (2, 3), (4, 5004), (5005, 5006)] == list(words_near(text, None))


def test_the_clock_is_looked_at():
    """Once for every chunk of a long text."""
    looks: list[int] = []
    list(confirm(DIGITS, " " * 50_000, [(0, 50_000)], 6, lambda: looks.append(1)))

    assert len(looks) >= 10


def test_white_space_is_that_of_regex():
    """Which is not quite that of Python: four controls are none."""
    every = "".join(map(chr, [*range(0xD800), *range(0xE000, 0x110000)]))

    assert regex.findall(r"\s", every) == re.findall(f"[{finders.WHITE}]", every)


RESULTS = st.lists(
    st.tuples(st.integers(0, 12), st.integers(1, 12), st.sampled_from([0.0, 0.3, 0.4, 0.5, 1.0])).map(
        lambda raw: (raw[0], raw[0] + raw[1], raw[2])
    ),
    max_size=25,
)


@given(RESULTS)
def test_duplicates_go_as_in_presidio(results):
    """One sweep, and the same results as its comparison of all with all."""
    theirs = EntityRecognizer.remove_duplicates([RecognizerResult("KIND", *raw) for raw in results])

    assert sorted((found.start, found.end, found.score) for found in theirs) == sorted(distinct(results))


def test_widths():
    """The longest match in characters; none where there is no bound."""
    assert 9 == width(r"\b\d{3}-?\d{2,5}\b")
    assert width(r"\d+") is None
    assert width(r"\d{1,100000}") is None
    assert width(r"(unclosed") is None


def test_gates_are_expressions():
    """Under a number, with all their flags."""
    gate = Gate("a", caseless=False, dotall=False, multiline=True, single=True, unicode=False, context=True)

    assert (3, "a", False, False, True, True, False) == tuple(expression(3, gate))
