"""An operator's own patterns, deny-lists and allow-lists.

Patterns are run by RE2, whose time grows with the length of the text and no faster, whatever the pattern; what RE2
cannot do (look-around, back-references) is refused with a reason. They stand in the same Hyperscan database as all
others.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

import msgspec
import re2
import regex  # type: ignore[import-untyped]  # no stubs

from extproc.redaction.finders import Gate, Raw, Regex, confirm, distinct, expression, starts_near
from extproc.redaction.hyper import encodable, literal, refusal
from extproc.text import Check

_KIND: Final = re.compile(r"[A-Z][A-Z0-9_]{0,31}")
_NUMBERED: Final = re.compile(r"_[0-9]+\Z")
_LONGEST_PATTERN: Final = 2000  # characters
_MEMORY: Final = 8 << 20  # bytes that RE2 may use for one pattern; a larger one is refused
_DENIED: Final = 1.0  # the score of a term of a deny-list
_LETTERS: Final = 5  # that a term has at least whose plural counts, and whose edges a change of case may be
_LETTER: Final = r"[^\W\d_]"
_BUMP: Final = r"(?<=\p{Ll})(?=\p{Lu})|(?<=\p{Lu})(?=\p{Lu}\p{Ll})"  # where words meet in getBlueBird, in URLBird
_LOOK_AROUND: Final = re.compile(r"\(\?(?:[=!]|<[=!])")
_BACK_REFERENCE: Final = re.compile(r"\\[1-9]|\(\?P=")


class CustomPatternError(ValueError):
    """A pattern, term or kind of an operator's own that cannot be used.

    `reason` says why, in words that may follow a config path; `hint` what to do about it.
    """

    def __init__(self, reason: str, hint: str = "") -> None:
        super().__init__(reason + (f" ({hint})" if hint else ""))
        self.reason: Final = reason
        self.hint: Final = hint


class CustomPattern(msgspec.Struct, frozen=True):
    """A regular expression in RE2's syntax for entities of one kind.

    `score` is between 0 and 1; one below the threshold counts only where one of the `context` words (any case) stands
    among the five words before.
    """

    kind: str
    regex: str
    score: float = 0.8
    context: tuple[str, ...] = ()
    ignore_case: bool = False


class DenyList(msgspec.Struct, frozen=True):
    """Terms that are entities of one kind wherever they stand as words of their own, or as words of an identifier."""

    kind: str
    terms: tuple[str, ...]
    ignore_case: bool = True


def check_kind(kind: str) -> None:
    """Raise `CustomPatternError` for a kind that could not stand in a placeholder."""
    if _KIND.fullmatch(kind) is None:
        raise CustomPatternError(
            f"{kind!r} is not a kind of entity", "capitals, digits and _, at most 32, as EMPLOYEE_ID"
        )
    if _NUMBERED.search(kind) is not None:
        raise CustomPatternError(
            f"{kind!r} ends in a number", "placeholders are numbered: EMPLOYEE_ID becomes EMPLOYEE_ID_1"
        )


class CustomFinder:
    """One pattern of an operator's own. Satisfies `finders.Finder`. Raises `CustomPatternError`."""

    def __init__(self, pattern: CustomPattern, threshold: float) -> None:
        check_kind(pattern.kind)
        if not 0 < pattern.score <= 1:
            raise CustomPatternError(f"a score of {pattern.score:g}", "more than 0, at most 1")
        if pattern.score < threshold and not pattern.context:
            raise CustomPatternError(
                f"a score of {pattern.score:g} never counts", f"at least {threshold:g}, or context words"
            )
        self.kind: Final = pattern.kind
        self.name: Final = "custom"
        self.context: Final = tuple(word.lower() for word in pattern.context)
        self._score: Final = pattern.score
        self._regex: Final = compile_linear(pattern.regex, ignore_case=pattern.ignore_case)
        gate = Gate(
            pattern.regex,
            caseless=pattern.ignore_case,
            dotall=False,
            multiline=False,
            single=True,
            unicode=False,
            context=pattern.score < threshold,
        )
        reason = refusal(expression(0, gate))
        if reason is not None:
            raise CustomPatternError(f"the pattern cannot be searched for: {reason}", "write it more simply")
        self.gates: Final = (gate,)

    def find(self, text: str, hits: Mapping[int, Sequence[int] | None], check: Check) -> list[Raw]:
        """Matches from left to right that do not overlap; empty ones do not count."""
        found: list[Raw] = []
        for match in self._regex.finditer(encodable(text)):
            start, end = match.span()
            if start < end:
                found.append((start, end, self._score))
        check()
        return distinct(found)


class DenyFinder:
    """One deny-list. Satisfies `finders.Finder`. Raises `CustomPatternError` for an empty term or a wrong kind."""

    def __init__(self, deny: DenyList) -> None:
        check_kind(deny.kind)
        if not deny.terms or not all(term.strip() for term in deny.terms):
            raise CustomPatternError("an empty term", "a term is at least one character that is no space")
        self.kind: Final = deny.kind
        self.name: Final = "deny"
        self.context: Final[tuple[str, ...]] = ()
        terms = sorted({term.strip() for term in deny.terms})
        flags = regex.IGNORECASE if deny.ignore_case else 0
        self._terms: Final[tuple[tuple[Regex, int], ...]] = tuple(
            (regex.compile(_as_word(term), flags), len(term)) for term in terms
        )
        self.gates: Final = tuple(
            Gate(literal(term), caseless=deny.ignore_case, dotall=False, multiline=False) for term in terms
        )

    def find(self, text: str, hits: Mapping[int, Sequence[int] | None], check: Check) -> list[Raw]:
        """The terms, each where it is not a part of a longer word (see `_as_word`)."""
        found: list[Raw] = []
        for number, ends in hits.items():
            term, length = self._terms[number]
            starts = starts_near(ends, length, len(text))
            found.extend((*match.span(), _DENIED) for match in confirm(term, text, starts, length, check))
        return distinct(found)


def _as_word(term: str) -> str:
    """The pattern of a term between the edges of words.

    No letter stands beside a letter of the term, nor a digit or letter beside its digits: `get_Bluebird_2` has the term
    in it, `Bluebirdy` has not. For terms of a few letters an edge is also where the case changes, as in
    `getBluebirdNow`, and a plural's `s` may follow.
    """
    long = sum(char.isalpha() for char in term) >= _LETTERS
    before, behind = ((r"[^\W_]" if edge.isdecimal() else _LETTER) for edge in (term[0], term[-1]))
    first, last = [rf"(?<!{before})"], [rf"(?!{behind})"]
    if long and term[0].isalpha():
        first.append(f"(?-i:{_BUMP})")
    if long and term[-1].isalpha():
        last += [f"(?-i:{_BUMP})", f"(?=s(?!{behind}))"]
    return f"(?:{'|'.join(first)}){regex.escape(term)}(?:{'|'.join(last)})"


def compile_linear(pattern: str, *, ignore_case: bool = False) -> Regex:
    """Compile for RE2. Raises `CustomPatternError` for what RE2 cannot do, and for a pattern that matches nothing."""
    if not pattern or len(pattern) > _LONGEST_PATTERN:
        raise CustomPatternError(f"a pattern of {len(pattern)} characters", f"1 to {_LONGEST_PATTERN}")
    options = re2.Options()
    options.max_mem = _MEMORY
    options.log_errors = False
    options.case_sensitive = not ignore_case
    try:
        compiled: Regex = re2.compile(pattern, options)
    except re2.error as error:
        raise _refused(pattern, error) from None
    if next(compiled.finditer(""), None) is not None:
        raise CustomPatternError("the pattern matches an empty text", "every part of it is optional; ask for something")
    return compiled


def _refused(pattern: str, error: re2.error) -> CustomPatternError:
    said = error.args[0] if error.args else ""
    reason = said.decode(errors="replace") if isinstance(said, bytes) else str(said)
    if _LOOK_AROUND.search(pattern):
        hint = "look-ahead and look-behind cannot be matched in linear time; use \\b, or match a little more"
    elif _BACK_REFERENCE.search(pattern):
        hint = "back-references cannot be matched in linear time; write the alternatives out"
    elif "too large" in reason:
        hint = "nested repetitions multiply; use smaller bounds"
    else:
        hint = "the syntax is RE2's"
    return CustomPatternError(f"not a pattern that can be used: {reason}", hint)


def allowed(terms: Iterable[str]) -> frozenset[str]:
    """An allow-list as it is looked up: whole texts of findings, in any case."""
    return frozenset(term.strip().casefold() for term in terms if term.strip())
