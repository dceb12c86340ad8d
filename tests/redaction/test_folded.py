"""What a reader takes for the same is shown to detectors in plain spelling, each character with its place."""

from __future__ import annotations

import re
import sys
import unicodedata

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from extproc.redaction.folded import views

NUMBER = "536-22-1234"
SPELLINGS = [
    "536\u201122\u20131234",
    "536\u221222-1234",
    "536\u200b-22-12\u00ad34",
    r"536\-22\-1234",
    "536%2D22%2d1234",
    "536&#8209;22-1234",
    "".join(chr(ord(char) + 0xFEE0) for char in NUMBER),
    "".join(chr(0x660 + int(char)) if char.isdigit() else char for char in NUMBER),
    f"_{NUMBER}_",
    f"export_{NUMBER}_x",
]


@pytest.mark.parametrize("spelling", SPELLINGS)
@pytest.mark.parametrize("before", ["", "Her number: ", "so \u2013 to say \u200b \u00e9: "])
def test_other_spellings_are_seen_in_full(spelling: str, before: str) -> None:
    """The number stands in a view between word boundaries, and its place is that of the other spelling."""
    text = f"{before}{spelling} and more"
    spans = {view.span(*match.span()) for view in views(text) for match in re.finditer(rf"\b{NUMBER}\b", view.text)}
    value = spelling.removeprefix("export").removesuffix("x").strip("_")
    assert spans == {(text.index(value), text.index(value) + len(value))}


@pytest.mark.parametrize(
    ("text", "view"),
    [
        ("4539\u00a05787\u202f6362\u30001486", "4539 5787 6362 1486"),
        ("4539&nbsp;5787%206362 1486", "4539 5787 6362 1486"),
        (r"ann\_lee\@x\.io", "ann_lee@x.io"),
        ("ann%40x.io", "ann@x.io"),
        ("ann\uff20x.io", "ann@x.io"),
        ("_ann_lee@x.io_", " ann_lee@x.io "),
        ("5\\-\u2212 1", "5-- 1"),
    ],
)
def test_plain_spelling(text: str, view: str) -> None:
    """Spaces, signs and digits of other scripts, escapes and codes become what they look like."""
    assert view in [one.text for one in views(text)]


@pytest.mark.parametrize(
    "text",
    [
        "Plain words, 536-22-1234, ann@x.io.",
        "Caf\u00e9 \u2013 no number\u00a0here",
        "snake_case and __init__ and foo_1",
        r"C:\temp\file and \n",
        "100 % of 3 & 4",
        "\U0001f468\u200d\U0001f469\u200d\U0001f467 ok",
        "\u200b536-22-1234\ufeff",
        "\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645",
        "",
    ],
)
def test_most_texts_have_one_spelling(text: str) -> None:
    """Nothing is made anew where no value can be hidden: words, emojis, Persian, invisible characters around a value."""
    assert list(views(text)) == []


def test_only_pieces_around_are_made_anew() -> None:
    """A long text costs as much as its few places; pieces that meet are one, and end between words."""
    filler = "word " * 1000
    pieces = list(views(f"{filler}536\u201122\u20111234 x 536\u201122\u20111234 {filler}5\u20117"))
    assert len(pieces) == 2
    assert all(len(piece.text) < 1000 for piece in pieces)
    assert set(pieces[0].text.split()) == {"word", NUMBER, "x"}


def test_names_are_looked_for_only_behind_invisible_characters() -> None:
    """Name models read other spaces and dashes as they are."""
    assert [view.names for view in views("Jane Mil\u200bler")] == [True]
    assert not any(view.names for view in views("Jane\u00a0Miller 1\u20132 _x_12_"))


def test_parts_of_words_need_a_sure_finding() -> None:
    """Names of variables and ids are full of weak patterns."""
    assert {view.least for view in views("run_1700000000")} == {0.5}
    assert {view.least for view in views("5\u20117")} == {0.0}


def test_every_look_alike_of_unicode_is_known() -> None:
    """All decimal digits, spaces, dashes and full-width signs, whatever the version of Unicode."""
    for code in range(0x80, sys.maxunicode + 1):
        char = chr(code)
        category = unicodedata.category(char)
        if category not in {"Nd", "Zs", "Pd"}:
            continue
        alike = {"Zs": " ", "Pd": "-"}.get(category) or str(unicodedata.decimal(char))
        assert [view.text for view in views(f"1{char}2")] == [f"1{alike}2"], hex(code)
    wide = "".join(map(chr, range(0xFF01, 0xFF5F)))
    assert next(views(wide)).text == "".join(map(chr, range(0x21, 0x7F)))


PIECES = st.sampled_from(
    ["_", "\\", "-", "\\-", "%40", "%", "&nbsp;", "\u200b", "\u00ad", "\u00a0", "\u2011", "\uff11", "1", "a", " ", "\n",
     "@", "\ud800", "\U0001d7ce", "x" * 300]
)  # fmt: skip


@given(st.lists(PIECES, max_size=40).map("".join))
@example("\u200b".join("1" * 5))
def test_places_hold(text: str) -> None:
    """Each character of a view has a place of its own, ascending; ASCII letters and digits are the very same there."""
    for view in views(text):
        assert len(view.text) == len(view.places)
        assert list(view.places) == sorted(set(view.places))
        assert 0 <= view.places[0] <= view.places[-1] < len(text)
        for char, place in zip(view.text, view.places, strict=True):
            if text[place].isalnum() and text[place].isascii():
                assert char == text[place]
        start, end = view.span(0, len(view.text))
        assert 0 <= start < end <= len(text)
