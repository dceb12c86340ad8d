"""Placeholders: what goes out in place of a value, and how a value is known again when its placeholder comes back."""

from __future__ import annotations

import hmac
import re
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from itertools import count
from operator import attrgetter
from typing import Final

from extproc.redaction.operators import Allow, Block, Blocked, Irreversible, Operators, Pseudonym, identifier
from extproc.redaction.resolve import resolve
from extproc.text import Finding

LITERAL: Final = "LITERAL"
"""The kind of a text that looks like a placeholder which stands for something else."""

NAME: Final = r"[A-Z][A-Z0-9_]{0,31}_(?:[1-9][0-9]{0,8}|[a-z][a-z0-9]{11})"
"""A placeholder without its brackets: kind and number, or kind and twelve letters and digits."""

_PLACEHOLDER: Final = re.compile(f"<({NAME})>")
_BARE: Final = re.compile(NAME)
_CODE_ALPHABET: Final = "abcdefghijkmnpqrstuvwxyz23456789"  # 32: without the pairs 0 o and 1 l, which are mistaken
_CODE_LENGTH: Final = 12
_SHORTEST_REPEAT: Final = 6
_MOST_REPEATS: Final = 256


class Pseudonyms:
    """The placeholders of ONE request. Give it the texts in their logical order, all of them, each once.

    `<KIND_n>` counts by first appearance of a value, per kind; with a key it is `<KIND_xxxxxxxxxxxx>`, the same for a
    tenant in every request. What a text becomes depends on it and on those before it only, so that a chat that grows
    goes out with the same beginning every time, whichever process it passes.

    Text that looks like a placeholder before it stands for something is kept, and is never given to a value. Text that
    looks like one that does is a value itself: `<LITERAL_n>`. So each placeholder in what goes out stands for one text.

    A value that was found once is found again, character for character, in this text and the later ones, where
    detectors that lean on the words around it may not see it; single words are left out, for they may be ordinary
    words elsewhere, as are values of less than 6 characters and all after the first 256 (`repeated` counts).
    """

    def __init__(self, key: bytes | None = None, tenant: str = "", *, repeats: bool = True) -> None:
        """`key`: None for numbers, else what codes are derived from. `repeats`: see above."""
        self._key: Final = key
        self._tenant: Final = tenant
        self._repeats: Final = repeats
        self._names: dict[tuple[str, str], str] = {}  # (kind, value) -> name
        self._values: dict[str, str] = {}  # name -> value
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

    def _identifier(self, text: str, findings: Sequence[Finding], operators: Operators) -> str:
        chosen = [(finding.kind, operators.of(finding.kind)) for finding in findings]
        for kind, operator in chosen:
            if isinstance(operator, Irreversible):
                return self._bare_literal(identifier(operator.apply(kind, text)))
        for kind, operator in chosen:
            if isinstance(operator, Pseudonym):
                return self._bare_name(kind, text)
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
        return _PLACEHOLDER.sub(self._literal, text) if "<" in text else text

    def _literal(self, match: re.Match[str]) -> str:
        if match[1] in self._values:
            return f"<{self._name(LITERAL, match[0])}>"
        self._reserved.add(match[1])
        return match[0]

    def _name(self, kind: str, value: str) -> str:
        name = self._names.get((kind, value))
        if name is None:
            names = self._numbered(kind) if self._key is None else self._coded(self._key, kind, value)
            name = next(one for one in names if one not in self._reserved and one not in self._values)
            self._names[kind, value] = name
            self._values[name] = value
        return name

    def _numbered(self, kind: str) -> Iterator[str]:
        for number in count(self._numbers.get(kind, 0) + 1):
            self._numbers[kind] = number
            yield f"{kind}_{number}"

    def _coded(self, key: bytes, kind: str, value: str) -> Iterator[str]:
        """59 bits of HMAC-SHA-256 (RFC 2104). Where two values meet, the later one takes the next of its codes."""
        parts = [part.encode("utf-8", "surrogatepass") for part in (self._tenant, kind, value)]
        told = b"".join(len(part).to_bytes(4, "big") + part for part in parts)
        for attempt in count():
            bits = int.from_bytes(hmac.digest(key, attempt.to_bytes(4, "big") + told, "sha256")[:8], "big")
            letters = [_CODE_ALPHABET[bits & 15]]  # a letter: what begins with a digit looks like a number
            for place in range(1, _CODE_LENGTH):
                letters.append(_CODE_ALPHABET[bits >> (5 * place - 1) & 31])
            yield f"{kind}_{''.join(letters)}"

    def _with_repeats(self, text: str, findings: Sequence[Finding], operators: Operators) -> Sequence[Finding]:
        for finding in findings:
            value = text[finding.start : finding.end]
            if len(self._known) < _MOST_REPEATS and _can_repeat(value):
                if not isinstance(operators.of(finding.kind), Allow | Block):
                    self._known.setdefault(value, finding.kind)
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
