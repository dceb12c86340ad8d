"""Which words count for a result: those Presidio's enhancer would look at."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from presidio_analyzer.context_aware_enhancers import LemmaContextAwareEnhancer

from extproc.redaction import context
from extproc.redaction.context import FACTOR, LEAST, STOP_WORDS, TOKEN, WORDS, Context

CARD = ("card", "visa")


@pytest.mark.parametrize(
    ("text", "start", "expected"),
    [
        ("my card 4111", 8, True),
        ("my Creditcards: 4111", 16, True),
        ("card one two three four 4111", 24, True),
        ("card one two three four five 4111", 29, False),
        ("card the of and to is my one two three four 4111", 45, True),
        ("4111 card", 0, False),
        ("(4111 card", 0, False),
        ("( card", 0, True),
        ("visa4111", 4, True),
        ("", 0, False),
        ("visa ", 5, True),
        ("VISA\u00e9\u0301 4", 7, True),
    ],
)
def test_words_before(text, start, expected):
    """The word it is in and the five before it that say something; parts of them, in any case."""
    assert expected == Context(text).supports(start, CARD)


def test_numbers_are_presidios():
    """Taken from the installed package."""
    enhancer = LemmaContextAwareEnhancer()

    assert enhancer.context_similarity_factor == FACTOR
    assert enhancer.min_score_with_context_similarity == LEAST
    assert enhancer.context_prefix_count + 1 == WORDS
    assert 0 == enhancer.context_suffix_count


def reference(text: str, start: int) -> set[str]:
    """What Presidio's enhancer gathers, from our tokens."""
    tokens = list(TOKEN.finditer(text))
    words = [token.group().lower() for token in tokens]
    telling = [word for word in words if (word[0].isalnum() or word[0] == "_") and word not in STOP_WORDS]
    index = next((number for number, token in enumerate(tokens) if start < token.end()), None)
    if index is None:
        return set(telling[-WORDS:])
    enhancer = LemmaContextAwareEnhancer()
    before = enhancer._add_n_words_backward(index, WORDS - 1, words, telling)
    behind = enhancer._add_n_words_forward(index, 0, words, telling)
    return {*before, *behind}


@given(st.text(alphabet="abthe \n.,_1\u00e9\u0130", max_size=120), st.integers(0, 120))
def test_it_gathers_what_presidio_gathers(text, start):
    """Word for word, by both ways of looking them up."""
    words = Context(text)
    one = words._near(min(start, len(text)))
    index = context._Index(text)

    both = [set(filter(None, given.split("\n"))) for given in (one, index.near(min(start, len(text))))]
    assert [reference(text, min(start, len(text)))] * 2 == both


def test_many_offsets_go_by_an_index():
    """The same answers, also far from any word."""
    text = "card " + "- " * 400 + "1 " * 100
    words = Context(text)
    answers = [words.supports(offset, CARD) for offset in range(5, len(text), 2)]

    assert answers == [Context(text).supports(offset, CARD) for offset in range(5, len(text), 2)]
    assert answers[0]
    assert not answers[-1]
