"""Who takes part in the model of limits: the rules, calls and what they may come to cost, replicas."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from adapters.limit_rig import Proxy, Tape
from extproc.adapters.limit_store import LimitStore
from extproc.adapters.valkey_topology import Store
from extproc.limits.counters import Away, Counter, Kind, Rule, Window
from extproc.limits.rules import Rules
from extproc.limits.scripts import Name, script

ROOM = 2000


def rules(away: Away) -> Rules:
    """A limit for all, one that counts each call by itself, one on calls in flight."""
    share = 1.0 if away is Away.BOUNDED else 0.0
    return Rules(
        (
            Rule("all", Kind.MONEY, Window.MONTH, ROOM, ("team",), away=away, share=share),
            Rule("own", Kind.MONEY, Window.MONTH, 10**9, ("key",), away=away, share=share),
            Rule("open", Kind.REQUESTS, Window.CONCURRENT, 100, ("team",), away=away, share=share),
        )
    )


@contextmanager
def losing(proxy: Proxy, what: str, name: Name) -> Iterator[None]:
    """The connection breaks with the next call of a script: before the server has it, or before its answer is heard."""
    if what:
        setattr(proxy, f"cut_{what}", lambda data: script(name).sha in data)
    try:
        yield
    finally:
        proxy.cut_request = proxy.cut_reply = None


@dataclass
class Call:
    """One call. `may`: what it may come to be charged; of an open one, what the store may hold for it."""

    name: str
    counter: Counter  # its own
    may: set[int]
    local: bool = False
    open: bool = True


@dataclass
class Replica:
    """One worker's limits behind a network that can be cut or stalled."""

    limits: LimitStore
    store: Store
    proxy: Proxy
    tape: Tape = field(default_factory=Tape)
    calls: dict[str, Call] = field(default_factory=dict)  # that are open
    untold: list[tuple[Call, set[int]]] = field(default_factory=list)  # ended: what else it may cost if nobody hears
