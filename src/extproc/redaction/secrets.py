"""Finds secrets: keys of vendors, private keys, JWTs, connection strings, and what is assigned to telling names.

One pass of Hyperscan says which of some six hundred rules can match; each of those runs its own pattern over the text
with RE2 (linear time, whatever the text), and a judge per rule drops stand-ins, words and what has no entropy. Each
character outside of ASCII is a `?` to the rules and itself to the judges, so that offsets are characters all the way.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

import re2

from extproc.redaction.secret_contexts import COUNTED
from extproc.redaction.secret_filters import JUDGES, entropy
from extproc.redaction.secret_gate import Gate
from extproc.redaction.secret_rules import KINDS, Rule, rules
from extproc.text import Check, DatabaseStore, Finding, never

_REST_OF_KEY: Final = re.compile(r"[A-Za-z0-9_+/.~:%@!=-]*")
_REST_OF_PASSWORD: Final = re.compile(r"[^\s\"'`,;<>()\\]*")
_TRAILING: Final = ".:,;"  # no secret ends in these where nothing closes it; a sentence does


class SecretDetector:
    """A `text.Detector` for secrets.

    `kinds` are those looked for, all of `secret_rules.KINDS` by default; a `ValueError` names any other. `store` keeps
    the compiled database and the package's catalogue between starts: without, building one takes some six seconds.
    """

    def __init__(self, store: DatabaseStore | None = None, kinds: frozenset[str] | None = None) -> None:
        unknown = (kinds or frozenset()) - KINDS
        if unknown:
            raise ValueError(f"no kinds of secrets: {', '.join(sorted(unknown))}")
        every = rules(store)
        self._gate: Final = Gate([rule.pattern for rule in every], store)
        self._matchers: Final = tuple(_Matcher(rule) if kinds is None or rule.kind in kinds else None for rule in every)

    def scan(self, text: str, check: Check = never) -> list[Finding]:
        """All secrets in `text`, by start; none lies within another. `check` is called before each rule that runs."""
        data = text.encode("ascii", "replace")
        found: list[Finding] = []
        for number in self._gate.scan(data):
            matcher = self._matchers[number]
            if matcher is not None:
                check()
                found.extend(matcher.find(text, data, check))
        return _outermost(found) if len(found) > 1 else found


class _Matcher:
    """One rule with its pattern compiled: all at the start, since each costs a call that comes later milliseconds."""

    def __init__(self, rule: Rule) -> None:
        self._rule: Final = rule
        self._judge: Final = JUDGES[rule.judge]
        self._pattern: Final = _compiled(rule.pattern)
        self._required: Final = tuple(_compiled(required) for required in rule.require)
        self._groups: Final = (rule.group,) if rule.group else tuple(range(1, self._pattern.groups + 1))

    def find(self, text: str, data: bytes, check: Check) -> Iterator[Finding]:
        """What the rule finds in `text`, which is `data` but for its characters outside of ASCII."""
        rule, position = self._rule, 0
        match = self._pattern.search(data, position)
        while match is not None:
            start, end = self._span(match)
            last = _trimmed(text, start, end)
            score = self._score(text[start:last])
            if score is not None:
                if rule.again and end - start == COUNTED:
                    end = self._whole(text, end)
                    last = _trimmed(text, start, end)
                yield Finding(rule.kind, start, last, score, rule.id)
            position = max(position + 1, start if score is None and rule.again else end)
            check()
            match = self._pattern.search(data, position)

    def _whole(self, text: str, end: int) -> int:
        """Where the value ends that the pattern stopped counting at `end`."""
        rest = (_REST_OF_PASSWORD if self._rule.kind == "PASSWORD" else _REST_OF_KEY).match(text, end)
        return end if rest is None else rest.end()

    def _span(self, match: re2._Match) -> tuple[int, int]:
        for group in self._groups:
            span: tuple[int, int] = match.span(group)
            if span[0] >= 0:
                return span
        whole: tuple[int, int] = match.span(0)
        return whole

    def _score(self, value: str) -> float | None:
        rule = self._rule
        if rule.entropy and entropy(value) < rule.entropy:
            return None
        if self._required:
            data = value.encode("ascii", "replace")
            if not all(required.search(data) for required in self._required):
                return None
        return self._judge(value)


def _compiled(pattern: str) -> re2._Regexp:
    options = re2.Options()
    options.encoding = re2.Options.Encoding.LATIN1  # bytes are characters
    options.log_errors = False
    return re2.compile(pattern.encode(), options)


def _trimmed(text: str, start: int, end: int) -> int:
    while end > start + 1 and text[end - 1] in _TRAILING:
        end -= 1
    return end


def _outermost(found: list[Finding]) -> list[Finding]:
    """Without those that lie within another; of equal ones the best score stays, then the first rule's."""
    kept: list[Finding] = []
    for finding in sorted(found, key=lambda one: (one.start, -one.end, -one.score)):
        if not kept or finding.end > kept[-1].end:
            kept.append(finding)
    return kept
