"""Strings of a JSON document that is itself held in a string, such as the arguments of a tool call.

A text found in the raw document could span escapes, keys or structure; so each string is looked at by itself, decoded, and
what is put back is a JSON string literal again. The document stays valid, and every character outside the edited strings
stays as it was.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final, NamedTuple

import orjson

from extproc.dialects.spans import literal

_STRING: Final = re.compile(r'"(?:[^"\\]|\\.)*+"(\s*:)?|[1-9][0-9]{7,}(?![0-9.eE])', re.DOTALL)
_BEHIND_KEY: Final = re.compile(r"\s*:")


def leaves(document: str, *, keys: bool = False) -> list[tuple[int, int, str]] | None:
    """`(start, end, value)` of every string value, in document order; offsets in characters, quotes included.

    With `keys` the names of members come too (see `is_key`). Whole numbers of eight digits or more come as their digits.
    None where `document` is no strict JSON object or array: text that looks
    like JSON, a bare string, or an unfinished document; it is to be looked at as plain text then.
    """
    try:
        tree = orjson.loads(document)
    except orjson.JSONDecodeError:
        return None
    if type(tree) is not dict and type(tree) is not list:
        return None
    found = []
    for match in _STRING.finditer(document):
        after = match.start(1)
        if document[match.start()] != '"':
            if document[match.start() - 1] not in ".-+eE":  # not the rest of a fraction, of an exponent
                found.append((*match.span(), match.group()))
            continue
        if after < 0:
            start, end = match.span()
        elif keys:
            start, end = match.start(), after
        else:
            continue
        value = document[start + 1 : end - 1]
        found.append((start, end, orjson.loads(document[start:end]) if "\\" in value else value))
    return found


class Part(NamedTuple):
    """A string (or a long number) of a document: `document[start:end]`, which stands at `at` of the document's view."""

    start: int
    end: int
    value: str
    at: int
    key: bool


def view(document: str) -> tuple[str, list[Part]] | None:
    """The document as it reads, with no escapes in its strings, and its parts in order, names of members among them.

    What is found in the view is found with the name of the member before it, and never with half an escape. None where
    `document` is no strict JSON object or array.
    """
    found = leaves(document, keys=True)
    if found is None:
        return None
    pieces: list[str] = []
    parts: list[Part] = []
    position = length = 0
    for start, end, value in found:
        quote = 1 if document[start] == '"' else 0
        before = document[position : start + quote]
        pieces += (before, value)
        length += len(before)
        parts.append(Part(start, end, value, length, is_key(document, end)))
        length += len(value)
        position = end - quote
    pieces.append(document[position:])
    return "".join(pieces), parts


def is_key(document: str, end: int) -> bool:
    """Whether the string that ends at `end` is the name of a member."""
    return _BEHIND_KEY.match(document, end) is not None


def splice(document: str, edits: Iterable[tuple[int, int, str]]) -> str:
    """The document with the strings at `(start, end, new text)` replaced; offsets as `leaves` gives them, in any order."""
    pieces: list[str] = []
    position = 0
    for start, end, new in sorted(edits):
        if not position <= start <= end <= len(document):
            message = f"edit {start}..{end} overlaps another or leaves the document of {len(document)} characters"
            raise ValueError(message)
        pieces += (document[position:start], literal(new).decode())
        position = end
    pieces.append(document[position:])
    return "".join(pieces)
