"""What stands for a character outside ASCII has the classes that the character has."""

from __future__ import annotations

import pytest
import regex  # type: ignore[import-untyped]
from hypothesis import example, given
from hypothesis import strategies as st

from extproc.redaction.folding import fold

ALIKE = {"\u0130": "i", "\u017f": "s", "\u212a": "k", "\uff0b": "+"}


# The planes that have characters, surrogates among them; the others are empty or private.
EVERY = (*range(0x80, 0x40000), *range(0xE0000, 0xE1000), *range(0x10FFF0, 0x110000))


@pytest.fixture(scope="module")
def both() -> tuple[str, str]:
    """All characters outside ASCII, and what stands for them."""
    every = "".join(map(chr, EVERY))
    return every, fold(every, unicode=True).decode("ascii")


@pytest.mark.parametrize("name", ["w", "d", "s"])
def test_classes_of_all_of_unicode_are_kept(both, name):
    """Every character outside ASCII and its stand-in agree on `\\w`, `\\d` and `\\s`, as `regex` has them."""
    every, folded = both

    assert len(folded) == len(every)
    members = regex.compile(rf"\{name}+")
    assert [match.span() for match in members.finditer(every)] == [match.span() for match in members.finditer(folded)]


def test_no_letter_stands_for_another(both):
    """A letter outside ASCII becomes a sign that no class of ASCII letters or digits holds, but for three."""
    assert ALIKE == {char: stand_in for char, stand_in in zip(*both, strict=True) if stand_in not in "_0\x0b\x01"}
    for char, stand_in in ALIKE.items():
        assert regex.fullmatch(regex.escape(stand_in), char, regex.IGNORECASE) or char == "\uff0b"


def test_ascii_letters_that_ignore_case_are_all_known():
    """`regex` takes no other character for an ASCII letter where case is ignored."""
    letters = regex.compile("[a-z]", regex.IGNORECASE)

    found = {char for char in map(chr, range(0x80, 0x110000)) if letters.match(char)}
    assert {"\u0130", "\u017f", "\u212a"} == found


@given(st.text(alphabet=st.characters(exclude_categories=())))
@example("\ud800 a\udfffb\ud83d\ude00")
@example("")
def test_offsets_hold(text):
    """One byte for a character, ASCII as it is; lone surrogates too."""
    for unicode in (True, False):
        folded = fold(text, unicode=unicode)

        assert len(folded) == len(text)
        assert [byte for byte, char in zip(folded, text, strict=True) if char.isascii()] == [
            ord(char) for char in text if char.isascii()
        ]


def test_for_ascii_patterns_nothing_else_is_a_letter():
    """RE2's classes are of ASCII: all other characters are signs."""
    assert b"a\x01\x01\x01\x01b" == fold("a\u00e9\u0663\u212a\u00a0b", unicode=False)
