"""Finds what looks like a secret in a configuration file, wherever it stands: values, keys, comments.

A file that goes through version control and chat must not hold one. No finding ever repeats the text.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

from extproc.config.document import Document, Tree
from extproc.config.problems import Loc, Problem, path_of

_EDGE: Final = r"(?<![A-Za-z0-9])"
_LOOKS_LIKE_SECRET: Final = re.compile(
    "|".join(
        (
            rf"{_EDGE}(?:sk|rk|exk)-(?=[A-Za-z0-9_-]{{0,200}}[0-9])[A-Za-z0-9_-]{{16,}}",  # OpenAI, Anthropic, our own keys
            rf"{_EDGE}AIza[A-Za-z0-9_-]{{35}}",  # Google
            rf"{_EDGE}(?:AKIA|ASIA)[A-Z0-9]{{16}}",  # AWS
            rf"{_EDGE}(?:gsk|hf|ghp|gho|ghs|xai)_[A-Za-z0-9]{{20,}}",
            rf"{_EDGE}eyJ[A-Za-z0-9_-]{{10,}}\.eyJ[A-Za-z0-9_-]{{10,}}\.",  # a signed JWT
            r"-----BEGIN [A-Z ]*PRIVATE KEY-----",
        )
    )
)
_HINT: Final = "take it out (and rotate it, if the file was shared); write {env: NAME} or {file: path}"


def looks_like_secret(text: str) -> bool:
    """Whether `text` holds something in the form of a known kind of key."""
    return _LOOKS_LIKE_SECRET.search(text) is not None


def find_secrets(document: Document) -> Iterator[tuple[Loc, Problem]]:
    """One problem for each value, key or comment that holds what looks like a secret."""
    seen: set[int] = set()
    for loc, text in _texts(document.tree, ()):
        if looks_like_secret(text):
            line = document.line(loc)
            seen.add(line or 0)
            shown = tuple("…" if isinstance(part, str) and looks_like_secret(part) else part for part in loc)
            yield loc, Problem(path_of(shown), "looks like a secret: secrets only by reference", _HINT, line=line)
    for number, text in enumerate(document.text.splitlines(), start=1):
        comment = text.partition("#")[2]
        if number not in seen and looks_like_secret(comment):
            yield (), Problem("comment", "looks like a secret: secrets only by reference", _HINT, line=number)


def _texts(tree: Tree, loc: Loc) -> Iterator[tuple[Loc, str]]:
    if isinstance(tree, dict):
        for key, value in tree.items():
            yield (*loc, key), key
            yield from _texts(value, (*loc, key))
    elif isinstance(tree, list):
        for index, value in enumerate(tree):
            yield from _texts(value, (*loc, index))
    elif isinstance(tree, str):
        yield loc, tree
