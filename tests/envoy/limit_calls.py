"""Calls under limits for tests that break parts of the gateway: each call has counters of its own, named by its label.

What a call must have been charged is worked out from what its caller got, not from what the gateway says of it.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import time
import urllib.error
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import valkey as library

from envoy import load, raw
from envoy.machine import LIMITS, Machine

LEASE = 1.0
TOKENS = 40  # that the vendor writes
CAP = 90  # that half of the callers allow
KINDS = ("calls", "tokens", "spend", "flights")
Amounts = Mapping[str, int]
"""By the name of a limit, in its unit; money in billionths of a dollar."""

NOTHING: Amounts = dict.fromkeys(KINDS, 0)
INPUT_PRICE, OUTPUT_PRICE = 150, 600  # billionths of a dollar for a token of gpt-4o-mini

RULES = """
quotas:
  store: {{lease: {lease}s}}
  output_tokens: {{"*": 120}}
  rules:
  - {{name: calls, kind: requests, limit: 100000, window: month, scope: [feature], when_away: {away}}}
  - {{name: tokens, kind: tokens, limit: 100000000, window: month, scope: [feature], when_away: {away}}}
  - {{name: spend, kind: money, limit: 100000, window: month, scope: [feature], when_away: {away}}}
  - {{name: flights, kind: requests, limit: 100000, window: concurrent, scope: [feature], when_away: {away}}}
"""

_KEYS = {"calls": "requests:month", "tokens": "tokens:month", "spend": "money:month", "flights": "requests:concurrent"}
_PREFIX = "xq:{default}:"


def quotas(away: str = "deny", lease: float = LEASE) -> str:
    """Sections of gateway.yaml: four limits with room for all, counted by label."""
    share = ", share: 1" if away == "allow-bounded" else ""
    return LIMITS + RULES.format(away=away + share, lease=lease)


class Call:
    """One call, a step at a time. `stream`: with as many pieces as tokens, else in one piece at the end."""

    tokens = TOKENS
    """That the vendor writes."""

    def __init__(
        self,
        machine: Machine,
        label: str,
        *,
        seconds: float,
        stream: bool = False,
        cap: int = CAP,
    ) -> None:
        """It takes the vendor `seconds` to write all tokens. `cap` 0: the caller sets none."""
        self.machine, self.label, self.stream = machine, label, stream
        tree: dict[str, Any] = {"model": "fast", "messages": [{"role": "user", "content": f"hi there, {label}"}]}
        if cap:
            tree["max_tokens"] = cap
        pace = ("x-sim-delay-ms", str(round(seconds * 1000)))
        if stream:
            tree |= {"stream": True, "stream_options": {"include_usage": True}}
            pace = ("x-sim-chunk-ms", str(round(seconds * 1000 / self.tokens)))
        more = (pace, ("x-sim-tokens", str(self.tokens)), ("x-llm-feature", label))
        self.data = raw.post(load.PATH, load.fields(machine, *more), json.dumps(tree).encode())
        self.reply = raw.Reply(label=label)
        self.cut = False
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
        self._rest = self.data

    async def begin(self, most: float = 1.0) -> None:
        """Connect and send that part of the request; less than 1 keeps back the end of its body."""
        self._streams = await asyncio.open_connection("127.0.0.1", self.machine.ports["base_url"])
        self.reply.began = time.monotonic()
        size = len(self.data) if most >= 1 else len(self.data) - 20
        self._streams[1].write(self._rest[:size])
        self._rest = self._rest[size:]

    async def answer(self) -> raw.Reply:
        """Send what is left, and read the answer; a broken one is `cut`."""
        assert self._streams is not None
        reader, writer = self._streams
        try:
            async with asyncio.timeout(30):
                writer.write(self._rest)
                await raw.read(reader, self.reply)
        except (raw.CutError, ConnectionError):
            self.cut = True
        finally:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()
        return self.reply

    @property
    def pieces(self) -> int:
        """Tokens of a stream that have come so far."""
        return self.reply.body.count(b'"delta":{"content":')

    @property
    def whole(self) -> bool:
        """Whether the caller has all of a good answer."""
        ended = not self.stream or self.reply.body.endswith(b"data: [DONE]\n\n")
        return not self.cut and self.reply.status == 200 and ended

    def reported(self) -> Amounts:
        """What the vendor reported in the answer that the caller has."""
        if self.stream:
            events = [json.loads(line[6:]) for line in self.reply.body.split(b"\n\n") if line.startswith(b"data: {")]
            usage = next(event["usage"] for event in events if event.get("usage"))
        else:
            usage = self.reply.json()["usage"]
        return worth(usage["prompt_tokens"], usage["completion_tokens"])


def worth(read: int, written: int) -> Amounts:
    """One call of so many tokens."""
    spend = read * INPUT_PRICE + written * OUTPUT_PRICE
    return {"calls": 1, "tokens": read + written, "spend": spend, "flights": 0}


def as_reserved(held: Amounts) -> Amounts:
    """What is charged for a call whose worker died: all that it held, but its place among those in flight."""
    return {**held, "flights": 0}


async def all_answers(calls: Sequence[Call]) -> None:
    """Read all answers to their end."""
    await asyncio.gather(*(call.answer() for call in calls))


async def wait_until(what: Callable[[], object], within: float = 15.0) -> None:
    """Look until it is so, while the calls go on."""
    until = time.monotonic() + within
    while not what():
        assert time.monotonic() < until, f"not within {within} s: {what}"
        await asyncio.sleep(0.01)


class Store:
    """The embedded store of a machine, seen past the gateway."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        path = str(machine.state / "store" / "valkey.sock")
        self.client: Any = library.Valkey(unix_socket_path=path, socket_timeout=5)

    @property
    def pid(self) -> int:
        """The server's process; 0 while none answers."""
        told = health(self.machine)["store"]
        return int(told["pid"]) if told["ok"] else 0

    def raw(self, label: str) -> dict[str, dict[bytes, bytes]]:
        """The fields of a label's counters."""
        return {kind: self.client.hgetall(f"{_PREFIX}c:{kind}:{key}:{label}") for kind, key in _KEYS.items()}

    def reserved(self, label: str) -> Amounts:
        """What is held under this label."""
        return {kind: int(fields.get(b"r", 0)) for kind, fields in self.raw(label).items()}

    def used(self, label: str) -> Amounts:
        """What was charged under this label."""
        return {kind: int(fields.get(b"u", 0)) for kind, fields in self.raw(label).items()}

    def quiet(self) -> bool:
        """Whether nobody holds anything, on any counter, and no reservation is open."""
        with contextlib.suppress(library.exceptions.ConnectionError, library.exceptions.BusyLoadingError):
            if self.client.zcard(f"{_PREFIX}leases"):
                return False
            held = [self.client.hmget(key, "r", "pr") for key in self.client.scan_iter(f"{_PREFIX}c:*", 1000)]
            open_records = [
                key for key in self.client.scan_iter(f"{_PREFIX}r:*", 1000) if self.client.get(key).startswith(b"r1")
            ]
            return not open_records and not any(int(value or 0) for pair in held for value in pair)
        return False

    def check(self, expected: Mapping[str, Amounts]) -> None:
        """After the lease every counter is as expected, and stays so; the operator's command says the same."""
        until = time.monotonic() + 3 * LEASE + 12
        while not self.quiet() and time.monotonic() < until:
            time.sleep(0.05)
        assert self.quiet(), {label: self.raw(label) for label in expected}
        found = {label: self.used(label) for label in expected}
        assert found == dict(expected), f"found {found}, expected {expected}"
        time.sleep(LEASE + 0.2)  # what is told late must not change it
        assert self.quiet()
        found = {label: self.used(label) for label in expected}
        assert found == dict(expected), f"changed later: found {found}, expected {expected}"
        shown: dict[str, dict[str, int]] = {label: {} for label in expected}
        told = self.machine.cli("limits", "show", "--json")
        for one in json.loads(told.stdout)["counters"]:
            scale = 10**9 if one["kind"] == "money" else 1
            assert float(one["reserved"]) == 0, one
            if one["value"] in shown:
                shown[one["value"]][one["rule"]] = round(float(one["used"]) * scale)
        counted = {label: {kind: n for kind, n in amounts.items() if n} for label, amounts in expected.items()}
        assert shown == counted, f"shown {shown}, expected {counted}"

    def signal(self, number: signal.Signals) -> int:
        """Signal the server; its pid."""
        pid = self.pid
        assert pid, "no server runs"
        os.kill(pid, number)
        return pid


@contextlib.contextmanager
def stopped(pid: int) -> Iterator[None]:
    """A process that stands still; it goes on afterwards, if it is still there."""
    os.kill(pid, signal.SIGSTOP)
    until = time.monotonic() + 5
    while state(pid) not in "TZ" and time.monotonic() < until:
        time.sleep(0.001)
    try:
        yield
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)


def state(pid: int) -> str:
    """The kernel's letter for what a process does; `Z` for one that has ended."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return "Z"


def statuses(machine: Machine) -> list[str]:
    """What each ready worker says is wrong."""
    return [one["status"] for one in health(machine)["workers"] if one["state"] == "ready"]


def health(machine: Machine) -> dict[str, Any]:
    """What /healthz tells, whether all is well or not (503)."""
    try:
        return dict(json.loads(machine.get("metrics", "/healthz")))
    except urllib.error.HTTPError as error:
        with error:
            return dict(json.loads(error.read()))


def estimated(machine: Machine, call: Call) -> Amounts:
    """What the gateway counted of a call that was cut: at least what the caller has, at most what the vendor could."""
    (record,) = [one for one in machine.wait_records(1, stream=call.stream) if one["labels"] == {"feature": call.label}]
    assert record["usage_source"] == "estimated", record
    assert record["tokens_in"] > 0
    assert call.pieces <= record["tokens_out"] <= TOKENS
    return worth(record["tokens_in"], record["tokens_out"])
