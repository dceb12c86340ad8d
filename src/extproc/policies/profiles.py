"""Which redaction profile a call gets: by team, app, tenant, data class and every provider it may go to."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from extproc.exchange.effects import Scanner
from extproc.exchange.facts import Facts
from extproc.policies.grants import matches
from extproc.redaction.operators import Hash, Operators

_MOST_REMEMBERED = 10_000


class Scanners(msgspec.Struct, frozen=True):
    """The compiled detectors of one profile.

    `texts` scans everything but `identifiers`, the names of tools, where a name model would find people in code; and
    `answers` what the model says: None where that is not scanned.
    """

    texts: Scanner
    identifiers: Scanner
    answers: Scanner | None = None


class Attachments(msgspec.Struct, frozen=True):
    """What may be attached: media types as globs in lower case, the largest inline file in bytes, links or not."""

    types: tuple[str, ...]
    largest: int
    links: bool


class Output(msgspec.Struct, frozen=True):
    """What is done about entities that the model itself writes; `operators` hold mask, replace, block and allow only."""

    scanner: Scanner
    operators: Operators


class OnTrouble(msgspec.Struct, frozen=True):
    """What happens to a call that could not be inspected: True lets it pass, marked; False refuses it."""

    forward_on_budget: bool = False
    forward_on_error: bool = False
    budget: float = 0.25  # seconds


class Profile(msgspec.Struct, frozen=True):
    """One compiled profile."""

    name: str
    shadow: bool
    scanners: Scanners
    operators: Operators
    attachments: Attachments
    keyed: bool
    keyed_history: bool
    argument_keys: bool
    restore: bool
    on_trouble: OnTrouble
    output: Output | None = None
    user_ids: Hash | None = None  # None: without a key, users get numbered placeholders like everything else


class ProfileRule(msgspec.Struct, frozen=True):
    """Globs on who calls and where the call may go, and the name of the profile; empty: nothing is looked at."""

    team: str
    app: str
    tenant: str
    data_class: str
    provider: str
    profile: str

    def covers(self, who: tuple[str, str, str, str], provider: str) -> bool:
        """`who`: team, app, tenant, data class."""
        mine = (self.team, self.app, self.tenant, self.data_class)
        return matches((self.provider,), provider) and all(
            matches((pattern,), value) for pattern, value in zip(mine, who, strict=True)
        )


class Profiles:
    """The rules, compiled once per configuration. The first that covers a call and a provider decides.

    A call may go to any provider of its chain: of their profiles the one that stands first in `profiles` holds, so that
    a failover never sees less redacted text than it would as a first choice. The same goes for the profiles with and
    without the data class that the caller stated. The tenant is the key's: a label cannot choose a profile.
    """

    def __init__(self, profiles: Mapping[str, Profile], rules: tuple[ProfileRule, ...]) -> None:
        """`profiles`: strictest first. `rules`: end with one that covers everything, or nothing is looked at there."""
        self._profiles = profiles
        self._strictness = {name: index for index, name in enumerate(profiles)}
        self._rules = rules
        self._memo: dict[tuple[tuple[str, str, str, str], tuple[str, ...]], Profile | None] = {}

    @staticmethod
    def tenant(facts: Facts) -> str:
        """For whom keyed pseudonyms are stable: the key's tenant, else the caller's label, else the team."""
        caller = facts.caller
        if caller is None:
            return ""
        return caller.tenant or facts.labels.get("tenant", "") or caller.team

    def of(self, facts: Facts) -> Profile | None:
        """The profile of this call; None where nothing is looked at."""
        caller = facts.caller
        providers = facts.target.chain if facts.target is not None else ()
        team, app, tenant = (caller.team, caller.app, caller.tenant) if caller is not None else ("", "", "")
        who = (team, app, tenant, facts.labels.get("data_class", ""))
        key = (who, providers)
        if key not in self._memo:
            if len(self._memo) >= _MOST_REMEMBERED:
                self._memo.clear()  # labels are the caller's own words
            self._memo[key] = self._choose(who, providers)
        return self._memo[key]

    def _choose(self, who: tuple[str, str, str, str], providers: tuple[str, ...]) -> Profile | None:
        plain = (*who[:3], "")  # the data class is the caller's own word: it can make things stricter only
        names = {self._first(one, provider) for provider in providers for one in (who, plain)} - {""}
        if not names:
            return None
        return self._profiles[min(names, key=self._strictness.__getitem__)]

    def _first(self, who: tuple[str, str, str, str], provider: str) -> str:
        return next((rule.profile for rule in self._rules if rule.covers(who, provider)), "")
