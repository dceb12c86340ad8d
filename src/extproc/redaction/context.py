"""Words that stand before a result and make it more likely: "SSN: 123…"; Presidio's rule, without reading it all.

Presidio's enhancer looks at the last five words before a result, and at the word the result begins in (at the next one,
where that says nothing), and raises the score where one of them contains one of the recognizer's context words. Words
that say nothing are not counted.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from typing import Final

FACTOR: Final = 0.35
"""What a context word adds to a score (Presidio's default)."""
LEAST: Final = 0.4
"""The least score that a result with a context word has (Presidio's default)."""
WORDS: Final = 6
"""How many words are looked at: five, and the one in which the result begins (Presidio's default)."""

STOP_WORDS: Final = frozenset(
    [
        "a",
        "about",
        "after",
        "all",
        "also",
        "am",
        "an",
        "and",
        "any",
        "are",
        "as",
        "at",
        "be",
        "been",
        "being",
        "but",
        "by",
        "can",
        "could",
        "did",
        "do",
        "does",
        "for",
        "from",
        "had",
        "has",
        "have",
        "he",
        "her",
        "here",
        "him",
        "his",
        "how",
        "i",
        "if",
        "in",
        "into",
        "is",
        "it",
        "its",
        "just",
        "let",
        "like",
        "may",
        "me",
        "might",
        "must",
        "my",
        "no",
        "nor",
        "not",
        "of",
        "off",
        "on",
        "or",
        "our",
        "out",
        "please",
        "shall",
        "she",
        "should",
        "so",
        "some",
        "such",
        "than",
        "that",
        "the",
        "their",
        "them",
        "then",
        "there",
        "these",
        "they",
        "this",
        "those",
        "to",
        "too",
        "very",
        "was",
        "we",
        "were",
        "what",
        "when",
        "where",
        "which",
        "while",
        "who",
        "whom",
        "whose",
        "why",
        "will",
        "with",
        "would",
        "you",
        "your",
    ]
)
"""Words of English that say nothing, skipped when words are counted."""

TOKEN: Final = re.compile(r"\w+|[^\w\s]")
"""How a text is cut: words, and single signs."""

_WORD: Final = re.compile(r"\w+")
_LOCAL: Final = 24  # offsets that are looked up one by one
_NEARBY: Final = 96  # characters that are looked at first


class Context:
    """The words before offsets of one text. The first few are looked up where they stand, more in an index."""

    def __init__(self, text: str) -> None:
        self._text: Final = text
        self._token = (0, 0)  # the token of which the words are known
        self._words = ""
        self._asked = 0
        self._index: _Index | None = None

    def supports(self, start: int, words: tuple[str, ...]) -> bool:
        """Whether one of `words` (lower case) is part of a word before offset `start`, or of the word there."""
        near = self._near(start)
        return any(word in near for word in words)

    def _near(self, start: int) -> str:
        """The last words up to the token that covers `start`, or comes next, and the word after that.

        Lower case, a line to each: none of the words that are looked for goes over the end of one.
        """
        if self._token[0] <= start < self._token[1]:
            return self._words
        self._asked += 1
        if self._asked > _LOCAL:
            if self._index is None:
                self._index = _Index(self._text)
            return self._index.near(start)
        token = TOKEN.search(self._text, self._word_start(start)) if start < len(self._text) else None
        self._token = token.span() if token is not None else (len(self._text), len(self._text))
        words = self._last(self._token[1])
        if token is not None and not _tells(token.group()):
            words += self._next(token.end())
        self._words = "\n".join(words)
        return self._words

    def _word_start(self, start: int) -> int:
        """Where the word begins that `start` is inside of."""
        if start == len(self._text) or _is_word(self._text[start]):
            while start > 0 and _is_word(self._text[start - 1]):
                start -= 1
        return start

    def _last(self, end: int) -> tuple[str, ...]:
        """The last words that say something before `end`, from right to left."""
        size = _NEARBY
        while True:
            low = self._word_start(max(0, end - size))
            telling: list[str] = []
            for word in reversed(_WORD.findall(self._text, low, end)):
                lower = word.lower()
                if lower not in STOP_WORDS:
                    telling.append(lower)
                    if len(telling) == WORDS:
                        return tuple(telling)
            if low == 0:
                return tuple(telling)
            size *= 2

    def _next(self, start: int) -> tuple[str, ...]:
        """The first word that says something at or behind `start`; lower case."""
        for token in TOKEN.finditer(self._text, start):
            if _tells(token.group()):
                return (token.group().lower(),)
        return ()


class _Index:
    """All words of a text, for texts with many results."""

    def __init__(self, text: str) -> None:
        self._ends: Final[list[int]] = []  # of every token
        self._told: Final[list[int]] = []  # by token: how many words said something up to it, it included
        self._words: Final[list[str]] = []  # those words, lower case
        for token in TOKEN.finditer(text):
            if _tells(token.group()):
                self._words.append(token.group().lower())
            self._ends.append(token.end())
            self._told.append(len(self._words))

    def near(self, start: int) -> str:
        """As `Context` has it."""
        token = bisect_right(self._ends, start)
        if token == len(self._ends):
            return "\n".join(self._words[-WORDS:])
        told = self._told[token]
        says = told > (self._told[token - 1] if token else 0)
        return "\n".join(self._words[max(0, told - WORDS) : told if says else told + 1])


def _tells(token: str) -> bool:
    return _is_word(token[0]) and token.lower() not in STOP_WORDS


def _is_word(char: str) -> bool:
    return char.isalnum() or char == "_"
