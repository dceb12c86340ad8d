"""How the small name model sees a text: its tokens, and what is known of one token without its neighbours.

Training and scanning share this module, so a token cannot mean one thing to one and another to the other. Any change
to what is computed here needs a new `VERSION` and new weights.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from enum import IntFlag
from typing import Final, NamedTuple
from zlib import crc32

VERSION: Final = 1
TOKEN: Final = re.compile(r" ?(?:[^\W\d_]+|\d+|[^\w\s]|_)|\s+")
"""A run of letters, a run of digits or one other sign, each with the one blank before it, or a run of white space.

Nothing falls between two tokens: the lengths of all tokens add up to the length of the text.
"""

WORDS: Final = 1 << 15
PIECES: Final = 1 << 14
SHAPES: Final = 64
KNOWLEDGE: Final = 64
MAX_PIECES: Final = 10
LONGEST: Final = 24
"""Letters of a word that count; no name has more, and what follows would only fill the memo."""

NO_TOKEN: Final = "\0"
"""What stands before the first and after the last token of a text."""


class Known(IntFlag):
    """What the lexicon says about a lower-cased word."""

    FIRST = 1
    LAST = 2
    PLACE = 4
    RARE_WORD = 8
    COMMON_WORD = 16
    CODE_WORD = 32


class TokenFeatures(NamedTuple):
    """Rows of the embedding tables whose sum stands for a token: one each, and the letter pieces of a word."""

    word: int
    shape: int
    known: int
    pieces: tuple[int, ...]


Lexicon = Mapping[int, int] | Callable[[int], int]


def word_hash(word: str) -> int:
    """32 bits for a lower-cased word; lone surrogates are hashed as question marks."""
    return crc32(word.encode("utf-8", "replace"))


def _case(body: str) -> int:
    """0 to 7: how a run of letters is written."""
    if body.islower():
        return 0
    if len(body) == 1:
        return 2 if body.isupper() else 1
    if body.isupper():
        return 3
    if body[0].isupper():
        return 4 if body[1:].islower() else 5
    return 6 if body[0].islower() else 7  # camelCase; scripts without case


def _shape(token: str, body: str) -> int:
    """0 to 63: kind of token, its case and length, and whether a blank stands before it."""
    if not body:
        return 60 + min(token.count("\n"), 2)
    blank = token[0] == " "
    if body[0].isalpha():
        size = 0 if len(body) < 3 else 1 if len(body) < 11 else 2
        kind = min(_case(body) * 3 + size, 23)
    elif body[0].isdigit():
        kind = 24 + min(len(body), 5) - 1
    else:
        kind = 29
    return kind * 2 + blank


def _pieces(word: str) -> tuple[int, ...]:
    """Hashes of beginnings, endings and inner threes of a word of letters."""
    marked = f"<{word}>"
    parts = [marked[:3], marked[:4], marked[:5], marked[-3:], marked[-4:], marked[-5:]]
    parts += [f"~{word[at : at + 3]}" for at in range(1, min(len(word) - 3, 5))]
    return tuple(1 + word_hash(part) % (PIECES - 1) for part in parts[:MAX_PIECES])


def features(token: str, known: Callable[[int], int]) -> TokenFeatures:
    """What the model may know of `token`, as `TOKEN` finds it; `known` gives the `Known` bits of a word's hash.

    Row 0 of the pieces means none.
    """
    body = token.strip()
    shape = _shape(token, body)
    if token == NO_TOKEN:
        return TokenFeatures(0, 63, 0, ())
    if not body:
        return TokenFeatures(1 + min(token.count("\n"), 2), shape, 0, ())
    if body[0].isalpha():
        word = body[:LONGEST].lower()
        hashed = word_hash(word)
        return TokenFeatures(4 + hashed % (WORDS - 4), shape, known(hashed), _pieces(word))
    text = "0" * min(len(body), 6) if body[0].isdigit() else body
    return TokenFeatures(4 + word_hash(text) % (WORDS - 4), shape, 0, ())
