"""How the small name model sees a text: its tokens, what is known of one without its neighbours, and the weights file.

Training and scanning share this module, so a token cannot mean one thing to one and another to the other. Any change
to what is computed here needs a new `VERSION` and new weights.
"""

from __future__ import annotations

import hashlib
import io
import re
import zipfile
import zlib
from collections.abc import Callable, Mapping
from enum import IntFlag
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.generic]
Floats = npt.NDArray[np.float32]

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

TAPS: Final = 5
"""Tokens that the first layer looks at: two before, itself, two after."""
REACHES: Final = (1, 2, 4)
"""How far before and after the layers above look."""
REACH: Final = TAPS // 2 + sum(REACHES)
"""Tokens before and after one that can change what is thought of it."""
CLASSES: Final = 5
"""Nothing, a person begins, goes on, a place begins, goes on."""
NO_TOKEN: Final = "\0"  # noqa: S105  a token of text
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


def word_hash(word: str) -> int:
    """32 bits for a lower-cased word; lone surrogates are hashed as question marks."""
    return zlib.crc32(word.encode("utf-8", "replace"))


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
    """Hashes of beginnings, endings and inner threes of a word of letters; none is 0."""
    raw = f"<{word}>".encode("utf-32-le", "replace")
    ends = len(raw)
    parts = [raw[:12], raw[:16], raw[:20], raw[-12:] + b"e", raw[-16:] + b"e", raw[-20:] + b"e"]
    parts += [raw[at : at + 12] + b"i" for at in range(8, min(ends - 16, 24), 4)]
    return tuple([1 + zlib.crc32(part) % (PIECES - 1) for part in parts[:MAX_PIECES]])


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


class Weights:
    """The model in memory: tables of bytes with a scale for each column, layers as floating-point numbers.

    `first` gives for a token what it contributes to each of the `TAPS` places around it; a layer is its reach, what the
    token before, itself and the token after contribute, and a bias.
    """

    def __init__(self, arrays: Mapping[str, Array]) -> None:
        """ValueError where an array is missing or its shape or type is not what the others call for."""
        self._arrays = arrays
        self.width: Final = self._array("first_bias", np.float16, (None,)).shape[0]
        size = self._array("words_scale", np.float32, (None,)).shape[0]
        self.words: Final = self._array("words", np.int8, (WORDS, size))
        self.words_scale: Final = self._floats("words_scale", np.float32, (size,))
        self.pieces: Final = self._array("pieces", np.int8, (PIECES, size))
        self.pieces_scale: Final = self._floats("pieces_scale", np.float32, (size,))
        self.shapes: Final = self._floats("shapes", np.float16, (SHAPES, size))
        self.known: Final = self._floats("known", np.float16, (KNOWLEDGE, size))
        first = self._floats("first", np.float16, (TAPS * size, self.width))
        swapped = first.reshape(TAPS, size, self.width).transpose(1, 0, 2)
        self.first: Final = np.ascontiguousarray(swapped.reshape(size, TAPS * self.width))
        self.first_bias: Final = self._floats("first_bias", np.float16, (self.width,))
        self.layers: Final = [self._layer(at, reach) for at, reach in enumerate(REACHES)]
        self.last: Final = self._floats("last", np.float16, (self.width, CLASSES))
        self.last_bias: Final = self._floats("last_bias", np.float16, (CLASSES,))
        self._hashes: Final = self._array("lexicon", np.uint32, (None,))
        self._bits: Final = self._array("lexicon_bits", np.uint8, (len(self._hashes),))
        if not np.isfinite(self.last).all() or (len(self._bits) and int(self._bits.max()) >= KNOWLEDGE):
            raise ValueError("the weights hold values out of range")

    def _layer(self, at: int, reach: int) -> tuple[int, Floats, Floats, Floats, Floats]:
        whole = self._floats(f"layer{at}", np.float16, (3 * self.width, self.width)).reshape(3, self.width, self.width)
        return reach, whole[0], whole[1], whole[2], self._floats(f"layer{at}_bias", np.float16, (self.width,))

    def known_bits(self, hashed: int) -> int:
        """`Known` bits of a word by its hash; 0 for a word that is not in the lexicon."""
        at = int(self._hashes.searchsorted(np.uint32(hashed)))
        return int(self._bits[at]) if at < len(self._hashes) and int(self._hashes[at]) == hashed else 0

    def _array(self, name: str, kind: type[np.generic], shape: tuple[int | None, ...]) -> npt.NDArray[np.generic]:
        found = self._arrays.get(name)
        if found is None or found.dtype != kind or len(found.shape) != len(shape):
            raise ValueError(f"the weights have no usable {name}")
        if any(want is not None and want != have for want, have in zip(shape, found.shape, strict=True)):
            raise ValueError(f"the shape of {name} is {found.shape}, not {shape}")
        return found

    def _floats(self, name: str, kind: type[np.generic], shape: tuple[int, ...]) -> Floats:
        return self._array(name, kind, shape).astype(np.float32)


def digest(arrays: Mapping[str, Array]) -> bytes:
    """SHA-256 over names, types, shapes and contents of all arrays but `digest` itself."""
    sha = hashlib.sha256()
    for name in sorted(arrays):
        if name != "digest":
            array = np.ascontiguousarray(arrays[name])
            sha.update(f"{name} {array.dtype.str} {array.shape}\n".encode())
            sha.update(array.tobytes())
    return sha.digest()


def load(data: bytes) -> Weights:
    """The content of a weights file -> the model. ValueError: damaged, incomplete, or of another version."""
    try:
        with np.load(io.BytesIO(data), allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
    except (OSError, EOFError, KeyError, ValueError, zipfile.BadZipFile, zlib.error, NotImplementedError) as error:
        raise ValueError("the weights cannot be read") from error
    stored = arrays.get("digest")
    if stored is None or stored.tobytes() != digest(arrays):
        raise ValueError("the weights are damaged: their digest differs")
    version = arrays.get("version")
    if version is None or version.shape != () or int(version) != VERSION:
        raise ValueError(f"the weights are not of version {VERSION}; make them again with `make train-names`")
    return Weights(arrays)
