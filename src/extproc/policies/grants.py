"""Access rules, compiled: who may use which models, providers and endpoints. Deny by default; matching rules add up."""

from __future__ import annotations

from fnmatch import fnmatchcase

import msgspec

from extproc.exchange.effects import Caller


def matches(patterns: tuple[str, ...], value: str) -> bool:
    """Whether any glob matches, case-sensitively."""
    return any(pattern in ("*", value) or fnmatchcase(value, pattern) for pattern in patterns)


class Rule(msgspec.Struct, frozen=True):
    """One access rule: globs on the caller, globs on what it may use."""

    team: str
    app: str
    tenant: str
    models: tuple[str, ...]
    providers: tuple[str, ...]
    endpoints: tuple[str, ...]

    def covers(self, caller: Caller) -> bool:
        """Whether the rule speaks of this caller."""
        return (
            matches((self.team,), caller.team)
            and matches((self.app,), caller.app)
            and matches((self.tenant,), caller.tenant)
        )


class Grants:
    """All rules, with the rules of a caller remembered (callers are few, calls are many)."""

    def __init__(self, rules: tuple[Rule, ...]) -> None:
        """Compiled once per configuration."""
        self._rules = rules
        self._memo: dict[tuple[str, str, str], tuple[Rule, ...]] = {}

    def of(self, caller: Caller) -> tuple[Rule, ...]:
        """The rules that cover `caller`; none means that it may do nothing."""
        key = (caller.team, caller.app, caller.tenant)
        found = self._memo.get(key)
        if found is None:
            found = tuple(rule for rule in self._rules if rule.covers(caller))
            if len(self._memo) < 10_000:
                self._memo[key] = found
        return found


def allows(rules: tuple[Rule, ...], provider: str, models: tuple[str, ...]) -> bool:
    """Whether one rule allows `provider` and any of the names a model goes by (alias, resolved)."""
    return any(
        matches(rule.providers, provider) and any(matches(rule.models, model) for model in models) for rule in rules
    )
