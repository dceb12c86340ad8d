"""Placeholders: what goes out in place of a value, and how a value is known again when its placeholder comes back."""

from __future__ import annotations

import base64
import hmac
import re
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from operator import attrgetter
from typing import Final

from extproc.redaction.operators import Blocked, Irreversible, Operators, Pseudonym, identifier
from extproc.redaction.resolve import resolve
from extproc.text import Finding

LITERAL: Final = "LITERAL"
"""The kind of a text that looks like a placeholder which stands for something else."""

NAME: Final = r"[A-Z][A-Z0-9_]{0,31}_(?:[1-9][0-9]{0,8}|[a-z][a-z0-9]{11})"
"""A placeholder without its brackets: kind and number, or kind and twelve letters and digits."""

_PLACEHOLDER: Final = re.compile(f"<({NAME})>")
_BARE: Final = re.compile(NAME)
_ENDING: Final = re.compile(
    r"\.(?:csv|docx?|gif|html?|jpe?g|json|jsonl|md|mp[34]|pdf|png|pptx?|py|svg|tsv|txt|wav|webp|xlsx?|xml|ya?ml|zip)\Z",
    re.IGNORECASE,
)
_LETTERS: Final = "abcdefghijkmnpqr"
_SHORTEST_REPEAT: Final = 6
_MOST_REPEATS: Final = 100
_CERTAIN: Final = 1.0


class Pseudonyms:
    """The placeholders of ONE request. Give it the texts in their logical order, all of them, each once.

    `<KIND_n>` counts by first appearance of a value, per kind; with a key it is `<KIND_xxxxxxxxxxxx>`, the same for a
    tenant in every request. What a text becomes depends on it and on those before it only, so that a chat that grows
    goes out with the same beginning every time, whichever process it passes.

    Text that looks like a placeholder before it stands for something is kept, and is never given to a value. Text that
    looks like one that does is a value itself: `<LITERAL_n>`. So each placeholder in what goes out stands for one text.

    A value that was found once is found again, character for character, in this text and the later ones, where
    detectors that lean on the words around it may not see it (`repeated` counts). Left out are what was found with the
    score 1, which says that it is found wherever it stands; single words, for they may be ordinary ones elsewhere; values
    of less than 6 characters; and all after the first 100.
    """

    def __init__(self, key: bytes | None = None, tenant: str = "", *, repeats: bool = True) -> None:
        """`key`: None for numbers, else what codes are derived from. `repeats`: see above."""
        self._key: Final = key
        self._tenant: Final = tenant
        self._repeats: Final = repeats
        self._names: dict[tuple[str, str], str] = {}  # (kind, value) -> name
        self._values: dict[str, str] = {}  # name -> value
        self._latest: dict[str, str] = {}  # value -> name
        self._numbers: dict[str, int] = {}
        self._reserved: set[str] = set()  # names that stand in the request as they are
        self._bare: set[str] = set()
        self._known: dict[str, str] = {}  # value -> kind
        self.repeated = 0

    def table(self) -> Mapping[str, str]:
        """What to restore: placeholder -> value. Those without brackets stand for whole identifiers."""
        return {
            **{f"<{name}>": value for name, value in self._values.items()},
            **{name: self._values[name] for name in sorted(self._bare)},
        }

    def may_change(self, text: str) -> bool:
        """Whether a text in which nothing was found still has to be given to `redact`: if it says no, it may be."""
        return bool(self._known) or "<" in text or _BARE.fullmatch(text) is not None

    def redact(self, text: str, findings: Sequence[Finding], operators: Operators, *, bare: bool = False) -> str:
        """What goes out in place of `text`: the very same object where nothing changes.

        `findings` do not overlap and are in order (`resolve`), or `ValueError` is raised. `bare`: the text is an
        identifier, where vendors take no brackets; it is replaced as a whole, by `KIND_n`. Raises `Blocked` where an
        operator says so and `LookupError` for a kind without an operator.
        """
        _check(text, findings)
        if kinds := operators.blocked(findings):
            raise Blocked(kinds)
        if bare:
            return self._identifier(text, findings, operators)
        if self._repeats and (findings or self._known):
            findings = self._with_repeats(text, findings, operators)
        if not findings:
            return self._literals(text)
        parts: list[str] = []
        kept: list[str] = []  # what goes out as it is since the last placeholder: may look like one where it is joined
        at = 0
        for finding in findings:
            value = text[finding.start : finding.end]
            operator = operators.of(finding.kind)
            kept.append(text[at : finding.start])
            at = finding.end
            if isinstance(operator, Pseudonym):
                parts += (self._literals("".join(kept)), f"<{self._name(finding.kind, value)}>")
                kept.clear()
            else:
                kept.append(operator.apply(finding.kind, value) if isinstance(operator, Irreversible) else value)
        kept.append(text[at:])
        parts.append(self._literals("".join(kept)))
        changed = "".join(parts)
        return text if changed == text else changed

    def again(self, value: str) -> str:
        """The placeholder of a value that has one, whatever its kind; else the value."""
        name = self._latest.get(value)
        return value if name is None else f"<{name}>"

    def stands_in(self, text: str, *, shortest: int) -> frozenset[str]:
        """The kinds of the values of at least `shortest` characters that have a placeholder and occur in `text`."""
        return frozenset(
            kind for kind, value in self._names if kind != LITERAL and len(value) >= shortest and value in text
        )

    def _identifier(self, text: str, findings: Sequence[Finding], operators: Operators) -> str:
        chosen = [(finding.kind, operators.of(finding.kind)) for finding in findings]
        stem, ending = split_ending(text)
        for kind, operator in chosen:
            if isinstance(operator, Irreversible):
                return self._bare_literal(identifier(operator.apply(kind, stem)) + ending)
        for kind, operator in chosen:
            if isinstance(operator, Pseudonym):
                return self._bare_name(kind, stem) + ending
        return self._bare_literal(text)

    def _bare_literal(self, text: str) -> str:
        """An identifier that goes out as it is, unless it or a part of it looks like a placeholder of ours."""
        whole = _BARE.fullmatch(text)
        names = [whole.group()] if whole else _PLACEHOLDER.findall(text)
        if not self._values.keys().isdisjoint(names):
            return self._bare_name(LITERAL, text)
        self._reserved.update(names)
        return text

    def _bare_name(self, kind: str, value: str) -> str:
        name = self._name(kind, value)
        self._bare.add(name)
        return name

    def _literals(self, text: str) -> str:
        if "<" not in text:
            return text
        changed = _PLACEHOLDER.sub(self._literal, text)
        return text if changed == text else changed

    def _literal(self, match: re.Match[str]) -> str:
        if match[1] in self._values:
            return f"<{self._name(LITERAL, match[0])}>"
        self._reserved.add(match[1])
        return match[0]

    def _name(self, kind: str, value: str) -> str:
        name = self._names.get((kind, value))
        if name is None:
            attempt = self._numbers.get(kind, 0) if self._key is None else 0
            while True:
                attempt += 1
                code = attempt if self._key is None else _code(self._key, attempt, (self._tenant, kind, value))
                name = f"{kind}_{code}"
                if name not in self._reserved and name not in self._values:
                    break
            self._numbers[kind] = attempt
            self._names[kind, value] = name
            self._values[name] = value
            self._latest.setdefault(value, name)
        return name

    def _with_repeats(self, text: str, findings: Sequence[Finding], operators: Operators) -> Sequence[Finding]:
        for finding in findings:
            if finding.score < _CERTAIN and len(self._known) < _MOST_REPEATS:
                value = text[finding.start : finding.end]
                if _can_repeat(value) and finding.kind in operators.kinds:
                    self._known.setdefault(value, finding.kind)
        if not self._known:
            return findings
        more = [
            Finding(kind, start, start + len(value), 0.0, "repeat")
            for value, kind in self._known.items()
            if value in text
            for start in _occurrences(value, text)
            if not _covered(findings, start, start + len(value))
        ]
        if not more:
            return findings
        self.repeated += len(more)
        return resolve((*findings, *more))


def _code(key: bytes, attempt: int, what: tuple[str, ...]) -> str:
    """59 bits of HMAC-SHA-256 (RFC 2104) in base32 (RFC 4648), which has no 0 and no 1. `attempt` counts on where a code is taken by another value or a literal."""
    parts = [part.encode("utf-8", "surrogatepass") for part in what]
    told = b"".join(len(part).to_bytes(4, "big") + part for part in parts)
    digest = hmac.digest(key, attempt.to_bytes(4, "big") + told, "sha256")
    first = _LETTERS[digest[-1] & 15]  # what begins with a digit looks like a number
    return first + base64.b32encode(digest[:7])[:11].decode("ascii").lower()


def split_ending(name: str) -> tuple[str, str]:
    """A file's name without and its ending with the dot, by which vendors tell types; an ending that says more is none."""
    match = _ENDING.search(name)
    return (name, "") if match is None or not match.start() else (name[: match.start()], match.group())


def _check(text: str, findings: Sequence[Finding]) -> None:
    at = 0
    for finding in findings:
        if not at <= finding.start < finding.end <= len(text):
            raise ValueError(f"findings overlap or lie outside the text: {finding.kind}")
        at = finding.end


def _covered(findings: Sequence[Finding], start: int, end: int) -> bool:
    before = bisect_right(findings, start, key=attrgetter("start")) - 1
    return before >= 0 and findings[before].end >= end


def _can_repeat(value: str) -> bool:
    return len(value) >= _SHORTEST_REPEAT and not value.isalpha()


def _occurrences(value: str, text: str) -> Iterator[int]:
    """Where `value` stands as whole words."""
    start = text.find(value)
    while start >= 0:
        end = start + len(value)
        cut_before = start > 0 and _of_word(text[start - 1]) and _of_word(value[0])
        cut_after = end < len(text) and _of_word(text[end]) and _of_word(value[-1])
        if not cut_before and not cut_after:
            yield start
        start = text.find(value, start + 1)


def _of_word(char: str) -> bool:
    return char.isalnum() or char == "_"
