"""Rules that span sections: every name that is used is declared, and what is joined fits together.

They work on the sections that are valid by themselves, so that a mistake elsewhere does not hide these.
"""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field

from extproc.config.model import Timeouts
from extproc.config.problems import Loc
from extproc.config.providers import Alias, PriceOverride, Provider
from extproc.config.quotas import QuotaRule
from extproc.config.redaction import KINDS, NO_PROFILE, Operator, Profile, Redaction


@dataclass(frozen=True, slots=True)
class Parts:
    """The valid entries of a file. `names` holds the providers that are written, valid or not; indexes are as written."""

    names: Collection[str]
    providers: Mapping[str, Provider]
    aliases: Mapping[str, Alias]
    overrides: Mapping[int, PriceOverride]
    timeouts: Timeouts | None
    redaction: Redaction | None = None
    quotas: Mapping[int, QuotaRule] = field(default_factory=dict)


Finding = tuple[Loc, str, str]
"""Where, reason, hint."""


def check(parts: Parts) -> Iterator[Finding]:
    """Yield what does not fit together."""
    yield from _hosts(parts)
    yield from _clusters(parts)
    for name, alias in parts.aliases.items():
        yield from _alias(name, alias, parts)
    for index, override in parts.overrides.items():
        if override.provider not in parts.names:
            yield _unknown(("pricing", "overrides", index, "provider"), override.provider, parts.names)
    if parts.timeouts is not None:
        yield from _timeouts(parts.timeouts)
    if parts.redaction is not None:
        yield from _redaction(parts.redaction, parts.names)
    yield from _quotas(parts.quotas, parts.names)


def closest(word: str, known: Collection[str], what: str) -> str:
    """Hint at the known word that `word` is a slip of, or list what there is."""
    near = difflib.get_close_matches(word, known, n=1, cutoff=0.6)
    if near:
        return f"did you mean `{near[0]}`?"
    if not known:
        return f"there is no {what}"
    listed = ", ".join(sorted(known)[:20])
    return f"known: {listed}" + (", …" if len(known) > 20 else "")


def _unknown(loc: Loc, name: str, known: Collection[str]) -> Finding:
    return loc, f"there is no provider `{name}`", closest(name, known, "provider")


def _hosts(parts: Parts) -> Iterator[Finding]:
    owner: dict[str, str] = {}
    for name, provider in parts.providers.items():
        for index, host in enumerate(provider.hosts):
            first = owner.setdefault(host, name)
            if first != name:
                reason = f"the host {host} belongs to provider `{first}` already"
                hint = "a host stands for one provider; reach the other by alias or fallback, without `hosts`"
                yield ("providers", name, "hosts", index), reason, hint


def _clusters(parts: Parts) -> Iterator[Finding]:
    owner: dict[str, str] = {}
    for name, provider in parts.providers.items():
        cluster = provider.cluster or name
        first = owner.setdefault(cluster, name)
        if first != name:
            reason = f"the cluster {cluster} belongs to provider `{first}` already"
            yield ("providers", name, "cluster"), reason, "give each provider a cluster of its own"


def _alias(name: str, alias: Alias, parts: Parts) -> Iterator[Finding]:
    if alias.provider not in parts.names:
        yield _unknown(("aliases", name, "provider"), alias.provider, parts.names)
    first = parts.providers.get(alias.provider)
    for index, fallback in enumerate(alias.fallback):
        loc: Loc = ("aliases", name, "fallback", index)
        other = parts.providers.get(fallback)
        if fallback not in parts.names:
            yield _unknown(loc, fallback, parts.names)
        elif first is not None and other is not None and first.api != other.api:
            reason = f"`{fallback}` speaks {other.api}, `{alias.provider}` speaks {first.api}"
            same = sorted(key for key, known in parts.providers.items() if known.api == first.api)
            hint = f"another wire format needs the translation stage; with the same `api`: {', '.join(same)}"
            yield loc, reason, hint


def _timeouts(timeouts: Timeouts) -> Iterator[Finding]:
    known = timeouts.classes.keys()
    if timeouts.default not in known:
        yield (
            ("timeouts", "default"),
            f"there is no class `{timeouts.default}`",
            closest(timeouts.default, known, "class"),
        )
    for pattern, name in timeouts.models.items():
        if name not in known:
            yield ("timeouts", "models", pattern), f"there is no class `{name}`", closest(name, known, "class")


def _redaction(redaction: Redaction, providers: Collection[str]) -> Iterator[Finding]:
    known = (*redaction.profiles, NO_PROFILE)
    used: list[tuple[Loc, str]] = [(("redaction", "default"), redaction.default)]
    for index, rule in enumerate(redaction.rules):
        used.append((("redaction", "rules", index, "profile"), rule.profile))
        if not set(rule.provider) & set("*?") and rule.provider not in providers:
            yield _unknown(("redaction", "rules", index, "provider"), rule.provider, providers)
    for loc, name in used:
        if name not in known:
            yield loc, f"there is no profile `{name}`", closest(name, known, "profile")
    for name, profile in redaction.profiles.items():
        at: Loc = ("redaction", "profiles", name)
        yield from _kinds(profile, at)
        if redaction.key is None:
            yield from _keyed(profile, at)


def _operators(profile: Profile, at: Loc) -> Iterator[tuple[Loc, str, Operator]]:
    for kind, operator in profile.entities.items():
        yield (*at, "entities", kind), kind, operator
    for kind, operator in profile.output.entities.items():
        yield (*at, "output", "entities", kind), kind, operator


def _kinds(profile: Profile, at: Loc) -> Iterator[Finding]:
    known = KINDS | profile.own_kinds()
    for loc, kind, _ in _operators(profile, at):
        if kind not in known:
            hint = closest(kind, known, "kind")
            yield loc, f"nothing finds the kind `{kind}`", f"{hint}; `patterns` and `deny` define kinds of your own"


def _keyed(profile: Profile, at: Loc) -> Iterator[Finding]:
    """Everything that needs `redaction.key`, which is not there."""
    hint = "add `key: {file: state/redaction.key}` to `redaction`; `extproc up` makes the file"
    for loc, _, operator in _operators(profile, at):
        if operator.action == "hash":
            yield loc, "needs a key: without one, hashes of short values are guessed", hint
    if profile.placeholders == "keyed":
        yield (*at, "placeholders"), "needs a key", hint
    if profile.stored_history == "keyed":
        yield (*at, "stored_history"), "needs a key", hint


def _quotas(rules: Mapping[int, QuotaRule], providers: Collection[str]) -> Iterator[Finding]:
    first: dict[str, int] = {}
    for index, rule in rules.items():
        at: Loc = ("quotas", "rules", index)
        earlier = first.setdefault(rule.name, index)
        if earlier != index:
            reason = f"is the name of rules[{earlier}] already"
            yield (*at, "name"), reason, "give each rule a name of its own: what was used is kept under it"
        provider = rule.match.get("provider", "*")
        if not set(provider) & set("*?") and provider not in providers:
            yield _unknown((*at, "match", "provider"), provider, providers)
        for value, reason, hint in rule.problems():
            yield (*at, "overrides", value), reason, hint
