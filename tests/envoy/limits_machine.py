"""Callers that go at once, several replicas before one store, and the books as the store has them.

The books are read as plain hashes, without the code under test; what their fields mean stands in `limits/common.lua`.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import re
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from decimal import ROUND_CEILING, Decimal
from pathlib import Path
from typing import Any, Self

import valkey as library

from envoy import raw
from envoy.machine import Machine
from extproc.adapters.valkey_process import socket_path

ORGANISATION = "default"
_KEY = re.compile(rb"xq:\{(?P<org>[^}]*)\}:c:(?P<rule>[^:]+):[^:]+:(?P<window>[^:]+):(?P<value>.*)")
NANO = 1_000_000_000


# ---- the books --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Count:
    """A counter of the store: `used` is what is out of a bucket and not reserved."""

    used: int
    reserved: int

    @property
    def out(self) -> int:
        return self.used + self.reserved


NOTHING = Count(0, 0)


class Books:
    """What the store holds for one organisation."""

    def __init__(self, client: library.Valkey, organisation: str = ORGANISATION) -> None:
        self._client = client
        self._prefix = f"xq:{{{organisation}}}:"

    def all(self) -> dict[tuple[str, str], Count]:
        """By rule and value."""
        keys = list(self._client.scan_iter(match=f"{self._prefix}c:*", count=10_000))
        pipe = self._client.pipeline(transaction=False)
        for key in keys:
            pipe.hgetall(key)
        found = {}
        for key, fields in zip(keys, pipe.execute(), strict=True):
            parts = _KEY.fullmatch(key)
            assert parts is not None, key
            numbers = {name.decode(): int(value) for name, value in fields.items()}
            reserved = numbers.get("r", 0)
            used = numbers["o"] - reserved if "o" in numbers else numbers.get("u", 0)
            found[parts["rule"].decode(), parts["value"].decode()] = Count(used, reserved)
        return found

    def one(self, rule: str, value: str) -> Count:
        """One counter; nothing where there is none."""
        return self.all().get((rule, value), NOTHING)

    def of(self, feature: str) -> dict[str, Count]:
        """By rule: the counters whose value ends with this feature."""
        return {rule: count for (rule, value), count in self.all().items() if value.split("/")[-1] == feature}

    def settled(self, within: float = 10) -> None:
        """Wait until no reservation is open."""
        deadline = time.monotonic() + within
        while left := self._client.zcard(f"{self._prefix}leases"):
            assert time.monotonic() < deadline, f"{left} reservations are still open"
            time.sleep(0.02)


class Watch(threading.Thread):
    """Looks at the books again and again; `peak`: the most that was out on each counter."""

    def __init__(self, books: Books, pause: float = 0.02) -> None:
        super().__init__(daemon=True)
        self._books, self._pause, self._stop_now = books, pause, threading.Event()
        self.peak: dict[tuple[str, str], int] = {}
        self.looks = 0

    def run(self) -> None:
        """Until the `with` block ends."""
        while not self._stop_now.wait(self._pause):
            self.look()

    def look(self) -> None:
        """Look once."""
        for key, count in self._books.all().items():
            self.peak[key] = max(self.peak.get(key, 0), count.out)
        self.looks += 1

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop_now.set()
        self.join(10)


# ---- calls ------------------------------------------------------------------------------------------------------

CAP = 40
"""Output tokens that each call below allows itself, and uses."""
SAID = "Say something about the weather in Lisbon, and be brief."
PATHS = {
    "chat": "/openai/v1/chat/completions",
    "responses": "/openai/v1/responses",
    "messages": "/anthropic/v1/messages",
}
SHAPES = tuple((path, stream) for path in PATHS for stream in (False, True))


@dataclass(frozen=True)
class Ask:
    """A call: `kind` of `PATHS`; `sim`: what the simulated vendor is asked for; `cap` None: no cap of its own."""

    kind: str = "chat"
    stream: bool = False
    model: str = ""
    cap: int | None = CAP
    sim: tuple[tuple[str, str], ...] = ()
    more: tuple[tuple[str, Any], ...] = ()

    @property
    def tree(self) -> dict[str, Any]:
        """The body."""
        said = [{"role": "user", "content": SAID}]
        tree: dict[str, Any] = {"model": self.model or ("smart" if self.kind == "messages" else "fast")}
        tree |= {"input": SAID} if self.kind == "responses" else {"messages": said}
        names = {"chat": "max_completion_tokens", "responses": "max_output_tokens", "messages": "max_tokens"}
        if self.cap is not None:
            tree[names[self.kind]] = self.cap
        return tree | ({"stream": True} if self.stream else {}) | dict(self.more)

    def request(self, machine: Machine, feature: str) -> bytes:
        """Its bytes, by the machine's first key."""
        fields = [("content-type", "application/json"), ("x-llm-feature", feature)]
        if self.kind == "messages":
            fields += [("x-api-key", machine.key), ("anthropic-version", "2023-06-01")]
        else:
            fields += [("authorization", f"Bearer {machine.key}")]
        fields += [(f"x-sim-{name}", value) for name, value in self.sim]
        return raw.post(PATHS[self.kind], fields, json.dumps(self.tree).encode())


def held(ask: Ask, milliseconds: int, tokens: int = CAP) -> Ask:
    """The same call, whose vendor waits so long before it says so many tokens."""
    return Ask(
        ask.kind, ask.stream, ask.model, ask.cap, (("delay-ms", str(milliseconds)), ("tokens", str(tokens))), ask.more
    )


@dataclass
class Storm:
    """Calls released at once, spread evenly over the machines; `replies` in the order of the calls."""

    replies: list[raw.Reply] = field(default_factory=list)

    @property
    def admitted(self) -> list[int]:
        return [place for place, reply in enumerate(self.replies) if reply.status == 200]

    @property
    def refused(self) -> list[int]:
        return [place for place, reply in enumerate(self.replies) if reply.status != 200]

    def statuses(self) -> dict[tuple[int, str], int]:
        """How many answers there were of each status and error."""
        found: dict[tuple[int, str], int] = {}
        for reply in self.replies:
            key = (reply.status, reply.headers.get("x-llm-error", ""))
            found[key] = found.get(key, 0) + 1
        return found

    def all_decided_at_once(self) -> bool:
        """Whether each refusal came before the first admitted call was over, which frees what it did not use."""
        ended = [self.replies[place].ended for place in self.admitted]
        return not ended or all(self.replies[place].ended < min(ended) for place in self.refused)


async def _storm(machines: Sequence[Machine], asks: Sequence[Ask], feature: str) -> Storm:
    barrier = asyncio.Barrier(len(asks))
    replies = [raw.Reply() for _ in asks]

    async def one(place: int, ask: Ask) -> None:
        machine = machines[place % len(machines)]
        reader, writer = await asyncio.open_connection("127.0.0.1", machine.ports["base_url"])
        data = ask.request(machine, feature)
        await barrier.wait()
        try:
            async with asyncio.timeout(40):
                writer.write(data)
                await raw.read(reader, replies[place])
        finally:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()

    async with asyncio.TaskGroup() as group:
        for place, ask in enumerate(asks):
            group.create_task(one(place, ask))
    return Storm(replies)


def storm(machines: Sequence[Machine], asks: Sequence[Ask], feature: str) -> Storm:
    """Make the calls at once; returns when each has its whole answer."""
    return asyncio.run(_storm(machines, asks, feature))


def call(machine: Machine, ask: Ask, feature: str) -> raw.Reply:
    """One call."""
    return storm([machine], [ask], feature).replies[0]


def until(what: Callable[[], object], within: float = 10) -> None:
    """Look until it is so; AssertionError where it does not come to be."""
    deadline = time.monotonic() + within
    while not what():
        assert time.monotonic() < deadline, "did not come to be in time"
        time.sleep(0.02)


def clear_of_the_end(period: int, seconds: float) -> None:
    """Wait where a calendar window of `period` seconds ends so soon: calls after that count in the next one."""
    left = period - time.time() % period
    if left < seconds:
        time.sleep(left + 0.05)


@contextlib.contextmanager
def replicas(folder: Path, count: int, workers: int, extra: str) -> Iterator[list[Machine]]:
    """Gateways with their own Envoys, vendors and keys, and the same configuration otherwise."""
    with contextlib.ExitStack() as stack:
        machines = []
        for number in range(count):
            machine = Machine(folder / f"replica-{number}", extra=extra, workers=workers)
            stack.callback(machine.vendors.stop)
            stack.callback(machine.stop_gateway)
            machine.start()
            machines.append(machine)
        yield machines
        codes = [machine.stop_gateway() for machine in machines]
        assert codes == [0] * count, [(machine.folder / "up.out").read_text() for machine in machines]


def rule(name: str, kind: str, window: str, limit: object, scope: str = "feature", **more: Any) -> dict[str, Any]:
    """A rule for the calls whose feature begins with its name (`more` may say otherwise); `scope`: parted by blanks."""
    own = {"name": name, "kind": kind, "window": window, "limit": limit, "scope": scope.split()}
    return {**own, "match": {"feature": f"{name}-*"}, **more}


def section(rules: Sequence[dict[str, Any]], **more: Any) -> str:
    """`quotas:` as a line of gateway.yaml: JSON is YAML."""
    return "\nquotas: " + json.dumps({**more, "rules": list(rules)}) + "\n"


_names = itertools.count(1)


def fresh(prefix: str) -> str:
    """A feature, and so counters, of its own."""
    return f"{prefix}-{next(_names)}"


def labelled(feature: str, **sim: object) -> dict[str, str]:
    """Header fields: which counters the call is for, what the simulated vendor is asked for."""
    return {"x-llm-feature": feature, **{f"x-sim-{name.replace('_', '-')}": str(value) for name, value in sim.items()}}


def nanos(dollars: str) -> int:
    """Billionths, rounded up."""
    return int((Decimal(dollars) * NANO).to_integral_value(ROUND_CEILING))


@contextlib.contextmanager
def embedded(machine: Machine) -> Iterator[Books]:
    """The books of a gateway with the store that it starts itself."""
    with contextlib.closing(
        library.Valkey(unix_socket_path=str(socket_path(machine.state)), socket_timeout=5)
    ) as of_it:
        yield Books(of_it)
