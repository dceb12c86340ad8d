"""The demo gateway with limits, and a store that answers as it is told and remembers what it was asked."""

from __future__ import annotations

from dataclasses import dataclass, field

from extproc.errors import EffectError
from extproc.exchange.effects import Caller, Extend, Reserve, Settle
from extproc.limits.counters import Extended, Reserved, Standing
from gateway import CONFIG, runtime
from playbook import Playbook

RULES = """
quotas:
  organisation: acme
  output_tokens: {"gpt-4o*": 1000, "*": 2000}
  headers: true
  rules:
  - {name: money, kind: money, window: month, limit: 5, scope: [team]}
  - {name: calls, kind: requests, window: minute, limit: 60, scope: [app, model]}
  - {name: read, kind: input_tokens, window: minute, limit: 100000}
  - {name: written, kind: output_tokens, window: minute, limit: 100000}
  - {name: both, kind: tokens, window: day, limit: 1000000, scope: [user]}
  - {name: open, kind: requests, window: concurrent, limit: 9, scope: [key]}
  - {name: there, kind: requests, window: day, limit: 9, scope: [provider], match: {provider: "openai*"}}
"""


@dataclass
class Store:
    """Answers the three effects and remembers them. `refuse`: names of limits without room, `full`: providers; `cap`: amounts at most."""

    refuse: tuple[str, ...] = ()
    full: tuple[str, ...] = ()  # values of the limit `there`
    over: tuple[str, ...] = ()
    cap: dict[str, int] = field(default_factory=dict)
    fails: EffectError | None = None
    pending: bool = False
    held: dict[str, dict[str, int]] = field(default_factory=dict)
    told: list[object] = field(default_factory=list)
    settled: dict[str, int] = field(default_factory=dict)
    extra: dict[str, int] = field(default_factory=dict)
    names: tuple[str, ...] = ()

    def reserve(self, effect: Reserve) -> object:
        self.told.append(effect)
        if self.fails is not None:
            return self.fails
        self.names = tuple(charge.counter.rule.name for charge in effect.charges)
        at = 1_790_000_000.0
        standings = tuple(
            Standing(0, charge.amount, charge.counter.rule.limit, at + 30, at + 30) for charge in effect.charges
        )
        indexes = {name: index for index, name in enumerate(self.names)}
        refused = tuple(indexes[name] for name in self.refuse) + tuple(
            index
            for index, charge in enumerate(effect.charges)
            if charge.counter.rule.name == "there" and charge.counter.value in self.full
        )
        if not refused:
            self.held[effect.id] = {charge.counter.rule.name: charge.amount for charge in effect.charges}
        return Reserved(standings, refused, tuple(indexes[name] for name in self.over), at)

    def extend(self, effect: Extend) -> object:
        self.told.append(effect)
        held = self.held[effect.id]
        if self.pending:
            return Extended(tuple(held.values()))
        wanted = dict(zip(self.names, effect.amounts, strict=True))
        for index, name in enumerate(self.names):
            if wanted[name] > self.cap.get(name, wanted[name]):
                return Extended(tuple(held.values()), index)
        held.update(wanted)
        return Extended(tuple(held.values()))

    def settle(self, effect: Settle) -> object:
        self.told.append(effect)
        assert effect.id in self.held
        del self.held[effect.id]
        self.settled = dict(zip(self.names, effect.amounts, strict=True))
        self.extra = {charge.counter.value: charge.amount for charge in effect.extra}
        return None

    def reserved(self) -> dict[str, int]:
        """What the one reservation asked for."""
        asked = [effect for effect in self.told if isinstance(effect, Reserve)]
        assert len(asked) == 1
        return {charge.counter.rule.name: charge.amount for charge in asked[0].charges}


CALLER = Caller("k1", "demo", "app", user="ann")


def play(store: Store, rules: str = RULES, caller: Caller = CALLER, config: str = CONFIG) -> Playbook:
    """The demo gateway with limits."""
    talk = Playbook(runtime(config + rules).setup, caller=caller)
    talk.answers = {**talk.answers, Reserve: store.reserve, Extend: store.extend, Settle: store.settle}
    return talk
