"""Which limits a call falls under, and the names of their counters.

What callers write (a model, a user, a feature) becomes part of a counter's name: it is quoted, bounded in length, and
what is remembered of it is bounded too.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase
from functools import lru_cache
from hashlib import blake2b
from typing import Final
from urllib.parse import quote, unquote_to_bytes

import msgspec

from extproc.limits.counters import Counter, Rule, Subject, Window

DIMENSIONS: Final = Subject.__struct_fields__
"""What rules can scope and match by."""

LONGEST_VALUE: Final = 200
"""Bytes of one dimension's value in a counter's name; a longer one is named by its digest."""

_PLAIN: Final = "._-:@+="
_DIGEST: Final = re.compile(r"~[0-9a-f]{32}")
_REMEMBERED: Final = 4096  # subjects
_LONGEST_SUBJECT: Final = 2000  # characters of a subject that is remembered


class Rules:
    """All limits of a configuration. What it remembers of subjects is bounded; the rest is immutable."""

    def __init__(self, rules: tuple[Rule, ...]) -> None:
        """Compile once per configuration. Raises ValueError for a scope or a match by what is no dimension."""
        for rule in rules:
            unknown = {*rule.scope, *(dimension for dimension, _ in rule.match)} - set(DIMENSIONS)
            if unknown:
                raise ValueError(f"{rule.name}: {', '.join(sorted(unknown))} is no dimension of a call")
        self.rules: Final = rules
        self._overridden: Final = {
            rule.name: {value: with_limit(rule, limit) for value, limit in rule.overrides} for rule in rules
        }
        self._remembered = lru_cache(maxsize=_REMEMBERED)(self._find)

    def counters(self, subject: Subject) -> tuple[Counter, ...]:
        """The counters of a call, in the order of the rules.

        The limit of the configuration's override for a value is in its counter's `rule`. Raises ValueError for an
        organisation that cannot stand between the braces of a key (see `check_organisation`).
        """
        if sum(map(len, msgspec.structs.astuple(subject))) > _LONGEST_SUBJECT:
            return self._find(subject)
        return self._remembered(subject)

    def rule(self, name: str) -> Rule | None:
        """The rule of that name, with its own limit."""
        return next((rule for rule in self.rules if rule.name == name), None)

    def counter(self, rule: Rule, organisation: str, value: str) -> Counter:
        """The counter of a rule for a value that is written as `Counter.value` (see `read_value`)."""
        key = f"{key_prefix(organisation)}c:{rule.name}:{rule.kind.value}:{rule.window.value}:{value}"
        return Counter(self._overridden.get(rule.name, {}).get(value, rule), organisation, value, key.encode())

    def _find(self, subject: Subject) -> tuple[Counter, ...]:
        check_organisation(subject.organisation)
        quoted: dict[str, str] = {}
        found: list[Counter] = []
        for rule in self.rules:
            if not _fits(rule, subject):
                continue
            for dimension in rule.scope:
                if dimension not in quoted:
                    quoted[dimension] = quoted_value(getattr(subject, dimension))
            value = "/".join([quoted[dimension] for dimension in rule.scope])
            found.append(self.counter(rule, subject.organisation, value))
        return tuple(found)


def _fits(rule: Rule, subject: Subject) -> bool:
    for dimension, pattern in rule.match:
        value = getattr(subject, dimension)
        if pattern not in ("*", value) and not fnmatchcase(value, pattern):
            return False
    return True


@lru_cache(maxsize=1024)
def key_prefix(organisation: str) -> str:
    """What all keys of an organisation begin with; its name is quoted as values are. Raises as `check_organisation`."""
    check_organisation(organisation)
    return f"xq:{{{quoted_value(organisation)}}}:"


def check_organisation(organisation: str) -> None:
    """Raise ValueError where a key would not be cut at this organisation.

    Redis Cluster takes what stands between the first `{` and the next `}` for the shard, if that is not empty.
    """
    if not organisation or "{" in organisation or "}" in organisation:
        raise ValueError("an organisation is not empty and holds no braces")


def limit_of(counter: Counter, live: Mapping[tuple[str, str], int]) -> int:
    """The limit that holds, before top-ups: of the live overrides (rule's name, value), or of the configuration."""
    return live.get((counter.rule.name, counter.value), counter.rule.limit)


def with_limit(rule: Rule, limit: int) -> Rule:
    """The rule with another limit. A bucket's burst changes in proportion; a limit of 0 lets nobody through."""
    return msgspec.structs.replace(rule, limit=limit, burst=burst_at(rule, limit), overrides=())


def burst_at(rule: Rule, limit: int) -> int:
    """What can go at once where `limit` is in the place of the rule's own: in proportion; 0 for other windows."""
    if rule.window is not Window.BUCKET or limit == 0:
        return 0
    if rule.limit == 0:
        return limit
    return max(1, rule.burst * limit // rule.limit)


def quoted_value(value: str) -> str:
    """One dimension's value as it stands in `Counter.value`; a long one as `~` and 32 digits of its digest."""
    return _quoted(value.encode("utf-8", "surrogatepass"))


def read_value(scope: tuple[str, ...], text: str) -> str:
    """What an operator writes for a value of `scope`, as it stands in `Counter.value`.

    Characters may be written plain or percent-encoded, but for `/` and `~` within a value. Raises ValueError where there
    are more or fewer values than the scope has dimensions.
    """
    parts = text.split("/")
    if len(parts) != len(scope):
        raise ValueError(f"has {len(parts)} values for {len(scope)} dimensions")
    return "/".join(part if _DIGEST.fullmatch(part) else _quoted(unquote_to_bytes(part)) for part in parts)


def _quoted(raw: bytes) -> str:
    if len(raw) > LONGEST_VALUE:
        return "~" + blake2b(raw, digest_size=16, person=b"extproc-limit-v").hexdigest()
    return quote(raw, safe=_PLAIN).replace("~", "%7E")  # `quote` leaves it; here it marks a digest


def output_tokens(caps: Iterable[tuple[str, int]], model: str, default: int) -> int:
    """Tokens to reserve for an answer of `model`: of the first pattern that matches, else `default`."""
    for pattern, tokens in caps:
        if pattern in ("*", model) or fnmatchcase(model, pattern):
            return tokens
    return default
