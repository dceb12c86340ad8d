"""Strings of a JSON document that is held in a string."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from extproc.dialects import embedded

TRICKY = st.text(st.sampled_from('a":\\, {}[]\né\u2028\U0001f600/<>'), max_size=8)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | TRICKY,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TRICKY, inner, max_size=3),
    max_leaves=10,
)
DOCUMENTS = st.tuples(
    st.lists(VALUES, max_size=3) | st.dictionaries(TRICKY, VALUES, max_size=3),
    st.sampled_from([None, 1]),
    st.booleans(),
).map(lambda drawn: json.dumps(drawn[0], indent=drawn[1], ensure_ascii=drawn[2]))


def values(tree: object) -> list[str]:
    """Every string value, in document order."""
    if isinstance(tree, str):
        return [tree]
    if type(tree) is int and tree >= 10_000_000:
        return [str(tree)]
    inner = tree.values() if isinstance(tree, dict) else tree if isinstance(tree, list) else ()
    return [text for child in inner for text in values(child)]


def names(tree: object) -> list[str]:
    """Every string value and every name of a member, in document order."""
    if isinstance(tree, str):
        return [tree]
    if type(tree) is int and tree >= 10_000_000:
        return [str(tree)]
    if type(tree) is int and tree >= 10_000_000:
        return [str(tree)]
    if isinstance(tree, dict):
        return [text for name, child in tree.items() for text in (name, *names(child))]
    return [text for child in tree for text in names(child)] if isinstance(tree, list) else []


@given(DOCUMENTS)
def test_every_string_is_found(document: str) -> None:
    """Values, and names where asked for, in order, each exactly at its literal, whatever they hold."""
    tree = json.loads(document)
    for keys, wanted in ((False, values(tree)), (True, names(tree))):
        found = embedded.leaves(document, keys=keys)
        assert [value for _, _, value in found] == wanted
        assert all(str(json.loads(document[start:end])) == value for start, end, value in found)


@given(DOCUMENTS, st.data())
def test_edits_change_only_their_strings(document: str, data: st.DataObject) -> None:
    """The document stays valid with any text put in, differs in the edited strings only, and keeps the names."""
    found = embedded.leaves(document)
    chosen = data.draw(st.lists(st.sampled_from(found), unique=True)) if found else []
    edits = [(start, end, data.draw(TRICKY)) for start, end, _ in chosen]
    edited = embedded.splice(document, edits)
    new = {start: text for start, _, text in edits}
    assert values(json.loads(edited)) == [new.get(start, value) for start, _, value in found]
    if not edits:
        assert edited == document
    outside = document
    for start, end, _ in sorted(edits, reverse=True):
        outside = outside[:start] + outside[end:]
    inside = edited
    for start, end, value in reversed(embedded.leaves(edited)):
        index = embedded.leaves(edited).index((start, end, value))
        if found[index][0] in new:
            inside = inside[:start] + inside[end:]
    assert inside == outside


@pytest.mark.parametrize(
    "document",
    ["", "text", '"text"', "1", "null", '{"a":"x"', '{"a":"x"} y', "{'a':'x'}", '{"a":NaN}', '["\ud800"]', '["\\ud800"]',
     '{"a":"\n"}', "[" * 5000 + "]" * 5000],
)  # fmt: skip
def test_what_is_no_document(document: str) -> None:
    """Text, bare values, unfinished or damaged documents, lone surrogates and abysses have no leaves."""
    assert embedded.leaves(document) is None


def test_names_that_repeat() -> None:
    """Of a name that comes twice both values are found: a reader of the document may take either."""
    assert [value for _, _, value in embedded.leaves('{"a":"x","a":"y"}')] == ["x", "y"]


@pytest.mark.parametrize("edits", [[(0, 2, ""), (1, 3, "")], [(2, 1, "")], [(0, 99, "")]])
def test_wrong_edits_are_a_bug(edits: list) -> None:
    """Overlapping edits and edits outside the document raise."""
    with pytest.raises(ValueError, match="overlaps"):
        embedded.splice('["x"]', edits)


@given(DOCUMENTS)
def test_the_view_reads_as_the_document_without_escapes(document: str) -> None:
    """Every part stands where it says, and what is between the parts is the document's own."""
    text, parts = embedded.view(document)
    assert all(text[part.at : part.at + len(part.value)] == part.value for part in parts)
    assert [part.value for part in parts] == names(json.loads(document))
    assert [(part.start, part.end) for part in parts] == [one[:2] for one in embedded.leaves(document, keys=True)]
    assert all(part.key == embedded.is_key(document, part.end) for part in parts)
    outside, inside = document, text
    for part in reversed(parts):
        quote = 1 if document[part.start] == '"' else 0
        outside = outside[: part.start + quote] + outside[part.end - quote :]
        inside = inside[: part.at] + inside[part.at + len(part.value) :]
    assert outside == inside
