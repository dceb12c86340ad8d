"""Pieces of answers as detectors see them: escapes undone, places known, and what may change in a document."""

from __future__ import annotations

import json
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from extproc.redaction.output_views import Cell, View, cells


def test_a_plain_text_is_seen_as_it_is():
    """Behind its context, with places counted from its own beginning."""
    view = View("a\\nb", "c\\nd", is_json=False)

    assert ("a\\nbc\\nd", 4) == (view.text, view.base)
    assert [0, 3] == [view.to_raw(4), view.to_raw(7)]
    assert [4, 7] == [view.from_raw(0), view.from_raw(3)]


@given(st.text(max_size=40), st.text(max_size=40), st.booleans())
def test_escapes_are_undone(context, text, ascii_only):
    """Each character knows where it began, and what is between two places is its escape and no more."""
    before, raw = (json.dumps(part, ensure_ascii=ascii_only)[1:-1] for part in (context, text))
    view = View(before, raw, is_json=True)

    assert context + text == view.text
    bounds = [view.to_raw(index) for index in range(view.base, len(view.text) + 1)]
    assert (0, len(raw)) == (bounds[0], bounds[-1])
    assert list(text) == [json.loads(f'"{raw[a:b]}"') for a, b in pairwise(bounds)]
    assert list(range(view.base, len(view.text) + 1)) == [view.from_raw(place) for place in bounds]


def test_what_may_change_in_a_document():
    """Keys, strings and scalars; quotes within strings are none of the document's."""
    raw = '{"k": "a\\"b", "n": -12, "t": [true, "z"]}'
    view = View("", raw, is_json=True)
    found, quotes = cells(view, inside=False)

    assert ["k", 'a"b', "n", "-12", "t", "true", "z"] == [view.text[cell.start : cell.end] for cell in found]
    assert [True, False, True, False, True, False, False] == [cell.key for cell in found]
    assert [True, True, True, False, True, False, True] == [cell.quoted for cell in found]
    assert 10 == len(quotes)
    assert {'"'} == {raw[place] for place in quotes}


def test_a_piece_may_begin_and_end_within_a_string():
    """Of which the part that is there may change."""
    found, quotes = cells(View("", 'end", "begin', is_json=True), inside=True)

    assert [Cell(0, 3, quoted=True, key=False), Cell(7, 12, quoted=True, key=False)] == found
    assert [3, 6] == quotes
