"""Presidio's recognizers: the source of truth for most kinds of patterns, run only where they can match.

What they are made of (expressions, scores, checksums, context words) is taken from the installed package when a detector
is built; nothing of it is written down here. No model is loaded, no network is used, Presidio's engine is not run.
Importing presidio-analyzer imports spaCy (about a second and 70 MB); only this module and the optional spaCy engine
import it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Final, Protocol, cast

import presidio_analyzer.predefined_recognizers as predefined
import re2
import regex  # type: ignore[import-untyped]  # no stubs
import tldextract
from presidio_analyzer import PatternRecognizer, RecognizerRegistry

from extproc.redaction.finders import (
    WHITE,
    Gate,
    Match,
    Raw,
    Regex,
    confirm,
    distinct,
    in_words,
    starts_near,
    width,
    words_near,
)
from extproc.redaction.hyper import encodable
from extproc.text import Check

LANGUAGE: Final = "en"
OWN: Final = frozenset({"CREDIT_CARD", "IBAN_CODE", "PHONE_NUMBER"})
"""Kinds for which this package has finders of its own."""

_ONE_WORD: Final = frozenset({"IpRecognizer", "DateRecognizer"})  # their expressions match no white space
_DOTTED_I: Final = {0x130: "i"}  # the one letter that ignoring case means more to `regex` than to RE2
_URL_GATE: Final = r"[a-z0-9.-]\.[a-z]{2}"  # what every link has; the lists of suffixes take long to compile
_URL_MEMORY: Final = 64 << 20  # bytes that RE2 may use for its states
_EMAIL_LOCAL: Final = r"(?r)[!#$%&'*+\-/=?^_`{|}~\.\w]+"
_EMAIL_DOMAIN: Final = r"\w+(?:-+\w+)*(?:\.\w+(?:-+\w+)*)+\b"
_ENCODED_AT: Final = "%(?:25)*40"  # `@` in a link; encoded once more for each link that it stands in
_ENCODED_GATE: Final = rf"[\w!#$&'*+/=?^`{{|}}~-]{_ENCODED_AT}\w[\w.-]*\.\w"
# What an address may contain, but is nearly always the end of what stands before it: a path, a query, a table's cell;
# in a link also every encoded sign but `%`, `+`, `-`, `.`, `_`.
_EMAIL_BEFORE: Final = r"[/?=&|]|%(?:25)*(?!25|2[BDE]|5F)[0-9A-F]{2}"


class Part(Protocol):
    """An expression of a recognizer (Presidio's `Pattern`)."""

    regex: str
    score: float


class Result(Protocol):
    """What a recognizer finds (Presidio's `RecognizerResult`)."""

    start: int
    end: int
    score: float


class Recognizer(Protocol):
    """What is used of a recognizer (Presidio's `PatternRecognizer`)."""

    name: str
    supported_entities: list[str]
    supported_language: str
    context: list[str] | None
    patterns: list[Part]
    global_regex_flags: int

    def analyze(self, text: str, entities: list[str], nlp_artifacts: object = None, /) -> list[Result] | None:
        """All that it finds."""

    def validate_result(self, value: str, /) -> bool | None:
        """Whether a match is right for certain (True), or wrong (False)."""

    def invalidate_result(self, value: str, /) -> bool | None:
        """Whether a match is wrong for certain."""


def recognizers(kinds: frozenset[str]) -> list[Recognizer]:
    """Presidio's pattern recognizers for English that find one of `kinds`, in the order of its registry.

    Those that its default registry has switched on come as the registry makes them; others are made with their
    defaults. Raises `ValueError` for a kind that no recognizer finds.
    """
    registry = RecognizerRegistry()
    registry.load_predefined_recognizers(languages=[LANGUAGE])
    registered = registry.get_recognizers(language=LANGUAGE, all_fields=True)
    found = [cast("Recognizer", recognizer) for recognizer in registered if isinstance(recognizer, PatternRecognizer)]
    known: set[type] = {type(recognizer) for recognizer in found}
    for other in vars(predefined).values():
        if isinstance(other, type) and issubclass(other, PatternRecognizer) and other not in known:
            made = cast("Callable[[], Recognizer]", other)()
            if made.supported_language == LANGUAGE:
                found.append(made)
    chosen = [recognizer for recognizer in found if kinds.intersection(recognizer.supported_entities)]
    missing = kinds.difference(*(recognizer.supported_entities for recognizer in chosen))
    if missing:
        raise ValueError(f"no recognizer finds {', '.join(sorted(missing))}")
    return chosen


class PresidioFinder:
    """One recognizer of Presidio: its expressions, its checks, its scores. Satisfies `finders.Finder`."""

    def __init__(self, recognizer: Recognizer, threshold: float) -> None:
        self.kind: str = recognizer.supported_entities[0]
        self.name: str = recognizer.name
        self.context: tuple[str, ...] = tuple(word.lower() for word in recognizer.context or ())
        self._recognizer = recognizer
        self._validates: Final = _overrides(recognizer, "validate_result")
        self._invalidates: Final = _overrides(recognizer, "invalidate_result")
        self._analyzes: Final = _overrides(recognizer, "analyze")
        self._patterns: Final = tuple(
            (self._compile(pattern.regex), float(pattern.score), width(pattern.regex))
            for pattern in recognizer.patterns
        )
        self.gates: tuple[Gate, ...] = tuple(
            self._gate(pattern.regex, pattern.score < threshold and not self._validates and not self._analyzes)
            for pattern in recognizer.patterns
        )

    def find(self, text: str, hits: Mapping[int, Sequence[int] | None], check: Check) -> list[Raw]:
        """What the recognizer itself would find, without its own look at every character of the text."""
        if self._analyzes:  # it does more than match patterns: there is no telling what
            results = self._recognizer.analyze(text, [self.kind], None) or ()
            return distinct((result.start, result.end, result.score) for result in results)
        found: list[Raw] = []
        for number, ends in hits.items():
            expression, score, longest = self._patterns[number]
            for match in self._matches(expression, text, ends, longest, check):
                start, end = match.span()
                if start < end:
                    found.append((start, end, self._judge(text[start:end], score)))
            check()
        return distinct(found)

    def _matches(
        self, expression: Regex, text: str, ends: Sequence[int] | None, longest: int | None, check: Check
    ) -> Iterator[Match]:
        if longest is not None:
            return confirm(expression, text, starts_near(ends, longest, len(text)), longest, check)
        if self.name in _ONE_WORD:
            return in_words(expression, text, words_near(text, ends), check)
        return expression.finditer(text)

    def _judge(self, value: str, score: float) -> float:
        """The score of a match: of the pattern, or 1 or 0 where a check can tell."""
        if self._validates:
            valid = self._recognizer.validate_result(value)
            if valid is not None:
                score = 1.0 if valid else 0.0
        if self._invalidates and self._recognizer.invalidate_result(value):
            score = 0.0
        return score

    def _compile(self, pattern: str) -> Regex:
        compiled: Regex = regex.compile(pattern, flags=self._recognizer.global_regex_flags)
        return compiled

    def _gate(self, pattern: str, context: bool) -> Gate:
        flags = self._recognizer.global_regex_flags
        return Gate(
            pattern,
            caseless=bool(flags & regex.IGNORECASE),
            dotall=bool(flags & regex.DOTALL),
            multiline=bool(flags & regex.MULTILINE),
            context=context,
        )


def _overrides(recognizer: Recognizer, method: str) -> bool:
    """Whether a recognizer does something of its own where Presidio's base class does what we do."""
    return getattr(type(recognizer), method) is not getattr(PatternRecognizer, method)


class EmailFinder(PresidioFinder):
    """E-mail addresses: a look at every `@`, as Presidio's expression takes quadratic time on what is nearly one.

    Presidio takes the path or query before an address in a link for a part of it, judges the link's host, and loses the
    address with it. Here what is behind the last `/`, `?`, `=`, `&` or `|` is the address, and `%40` is an `@` too.

    The public suffixes come from the snapshot in tldextract's package; nothing is ever fetched.
    """

    def __init__(self, recognizer: Recognizer, threshold: float) -> None:
        super().__init__(recognizer, threshold)
        self._suffixes: Final = tldextract.TLDExtract(suffix_list_urls=(), cache_dir=None)
        self._suffixes("example.com")  # reads the list: not while a request waits
        self._local: Final = regex.compile(_EMAIL_LOCAL)
        self._domain: Final = regex.compile(_EMAIL_DOMAIN)
        self._before: Final = regex.compile(_EMAIL_BEFORE, regex.IGNORECASE)
        self._encoded: Final = regex.compile(_ENCODED_AT)
        self._letter: Final = regex.compile(r"\w")
        self.gates = (*(gate._replace(single=True) for gate in self.gates), Gate(_ENCODED_GATE, single=True))

    def find(self, text: str, hits: Mapping[int, Sequence[int] | None], check: Check) -> list[Raw]:
        """Addresses whose domain has a public suffix."""
        found: list[Raw] = []
        for number in hits:
            if number == len(self._patterns):
                found.extend(self._in_links(text))
                continue
            expression, score, _ = self._patterns[number]
            for start, end in self._spans(expression, text):
                own = self._start(text, start, text.rindex("@", start, end), end)
                judged = self._judge(text[own:end], score)
                if own > start and not judged:  # Presidio's word, which is about the host of a link
                    judged = self._judge(text[start:end], score)
                found.append((own, end, judged))
            check()
        return distinct(found)

    def _spans(self, expression: Regex, text: str) -> Iterator[tuple[int, int]]:
        """The matches of Presidio's expression."""
        done, at = 0, text.find("@")
        while at >= 0:
            domain = self._domain.match(text, at + 1)
            local = self._local.match(text, done, at) if at and text[at - 1] != "." else None
            if domain is not None and local is not None:
                for match in expression.finditer(text, local.start(), domain.end() + 1):
                    yield match.span()
                    done = match.span()[1]
                    break
            at = text.find("@", at + 1)

    def _in_links(self, text: str) -> Iterator[Raw]:
        """Addresses with an encoded `@`."""
        done = 0
        for sign in self._encoded.finditer(text):
            at, behind = sign.span()
            domain = self._domain.match(text, behind)
            local = self._local.match(text, done, at) if at and text[at - 1] != "." else None
            if domain is not None and local is not None:
                start = self._start(text, self._first_letter(text, local.start(), at), at, domain.end())
                if start < at:
                    yield (start, domain.end(), self._judge(domain.group(), 1.0))
            done = behind

    def _start(self, text: str, start: int, at: int, end: int) -> int:
        """Where the address begins of which Presidio says that it is `text[start:end]`."""
        before = list(self._before.finditer(text, start, at))
        if not before:
            return start
        own = self._first_letter(text, before[-1].end(), at)
        # A mailing list's return address has the reader's in it: `list-ann=example.com@lists.example.org`.
        returned = before[-1].group() == "=" and self._suffixes(text[own:at]).fqdn
        return start if own == at or returned else own

    def _first_letter(self, text: str, start: int, end: int) -> int:
        letter = self._letter.search(text, start, end)
        return end if letter is None else letter.start()

    def _judge(self, value: str, score: float) -> float:
        return 1.0 if self._suffixes(value).fqdn else 0.0


class UrlFinder(PresidioFinder):
    """Links, by Presidio's expressions run by RE2: the engine they are written for takes seconds on a hostile text."""

    def __init__(self, recognizer: Recognizer, threshold: float) -> None:
        super().__init__(recognizer, threshold)
        self.gates = tuple(Gate(_URL_GATE, single=True) for _ in self.gates)

    def find(self, text: str, hits: Mapping[int, Sequence[int] | None], check: Check) -> list[Raw]:
        """The matches of Presidio's expressions."""
        return super().find(encodable(text).translate(_DOTTED_I), dict.fromkeys(hits), check)

    def _matches(
        self, expression: Regex, text: str, ends: Sequence[int] | None, longest: int | None, check: Check
    ) -> Iterator[Match]:
        return expression.finditer(text)

    def _compile(self, pattern: str) -> Regex:
        options = re2.Options()
        options.max_mem = _URL_MEMORY
        compiled: Regex = re2.compile("(?ims)" + _for_re2(pattern), options)
        return compiled


def finder(recognizer: Recognizer, threshold: float) -> PresidioFinder:
    """The finder that runs a recognizer. `threshold`: the least score that counts."""
    if recognizer.name == "EmailRecognizer":
        return EmailFinder(recognizer, threshold)
    if recognizer.name == "UrlRecognizer":
        return UrlFinder(recognizer, threshold)
    return PresidioFinder(recognizer, threshold)


def _for_re2(pattern: str) -> str:
    """The same expression with Unicode's digits and spaces, which RE2 has under other names only."""
    spaces = "".join(char if char == "-" else f"\\x{{{ord(char):x}}}" for char in WHITE)
    return pattern.replace(r"[^\s", f"[^{spaces}").replace(r"\d", r"\p{Nd}")
