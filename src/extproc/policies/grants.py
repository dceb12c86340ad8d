"""Access rules, compiled: who may use which models, providers and endpoints. Deny by default; matching rules add up."""

from __future__ import annotations

from fnmatch import fnmatchcase

import msgspec

from extproc.exchange.effects import Caller


def matches(patterns: tuple[str, ...], value: str) -> bool:
    """Whether any glob matches, case-sensitively."""
    for pattern in patterns:  # noqa: SIM110  a generator would cost more than what it does here
        if pattern in ("*", value) or fnmatchcase(value, pattern):
            return True
    return False


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
        self._by_endpoint: dict[tuple[str, str, str, str], tuple[Rule, ...]] = {}

    def of(self, caller: Caller) -> tuple[Rule, ...]:
        """The rules that cover `caller`; none means that it may do nothing."""
        key = (caller.team, caller.app, caller.tenant)
        found = self._memo.get(key)
        if found is None:
            found = tuple(rule for rule in self._rules if rule.covers(caller))
            if len(self._memo) < 10_000:
                self._memo[key] = found
        return found

    def at(self, caller: Caller, endpoint: str) -> tuple[Rule, ...]:
        """The rules that cover `caller` and open `endpoint`."""
        key = (caller.team, caller.app, caller.tenant, endpoint)
        found = self._by_endpoint.get(key)
        if found is None:
            found = tuple(rule for rule in self.of(caller) if matches(rule.endpoints, endpoint))
            if len(self._by_endpoint) < 10_000:
                self._by_endpoint[key] = found
        return found


def allows(rules: tuple[Rule, ...], provider: str, models: tuple[str, ...]) -> bool:
    """Whether one rule allows `provider` and any of the names a model goes by (alias, resolved)."""
    for rule in rules:
        if matches(rule.providers, provider):
            for model in models:
                if matches(rule.models, model):
                    return True
    return False
