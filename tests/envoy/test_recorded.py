"""Every recorded case of the dialects that are read, through real Envoy, three times, each time cut up otherwise.

A case with one half gets a stand-in for the other: an answer without a request the small request of
`recorded_cases.REQUESTS` (asking for a stream where the answer is one), a request without an answer the recorded answer
named in `recorded_cases.ANSWERS` (`STREAMED_ANSWERS` where it asks for a stream). A request without `model` gets one, and
two recorded requests that are none for their path (the legacy completion, a body without messages) are sent as they are
once, must be refused, and then stood in for. Pass 1 sends an alias in the model's place; a chat stream asks for usage
itself in pass 0 only.
"""

from __future__ import annotations

import asyncio
import os
import random
import time
from typing import Any

import pytest

from envoy import raw, recorded_cases
from envoy.machine import Machine
from envoy.recorded_cases import Call

pytestmark = [pytest.mark.recorded, pytest.mark.envoy]

PASSES = 3
AT_ONCE = 16
KINDS = {
    "input": "tokens_in",
    "output": "tokens_out",
    "cached_input": "tokens_cached",
    "cache_creation_input": "tokens_cache_write",
    "reasoning": "tokens_reasoning",
}


def all_calls(seed: int) -> tuple[list[Call], int]:
    """Every call, and how many cases they are of."""
    names = recorded_cases.names() if recorded_cases.ROOT.is_dir() else []
    if not names:
        assert os.environ.get("RECORDED_REQUIRED") != "1", f"no recorded case under {recorded_cases.ROOT}"
        pytest.skip("no recorded bodies beside this checkout")
    planned = [recorded_cases.calls(name, turn, seed) for name in names for turn in range(PASSES)]
    return [*planned, *recorded_cases.own_requests(seed)], len(names)


async def send_all(gateway: Machine, planned: list[Call]) -> dict[str, raw.Reply]:
    """Make the calls, some at once."""
    gate = asyncio.Semaphore(AT_ONCE)
    replies: dict[str, raw.Reply] = {}

    async def one(call: Call) -> None:
        fields = [("content-type", "application/json"), ("x-llm-feature", call.name), ("x-sim-case", call.name)]
        if call.case.api == "anthropic":
            fields += [("x-api-key", gateway.key), ("anthropic-version", "2023-06-01")]
        else:
            fields += [("authorization", f"Bearer {gateway.key}")]
        async with gate:
            data = raw.post(call.path, fields, call.sent, call.places)
            replies[call.name] = await raw.send(gateway.ports["base_url"], data)

    async with asyncio.TaskGroup() as group:
        for call in planned:
            group.create_task(one(call))
    return replies


def by_call(gateway: Machine) -> dict[str, list[bytes]]:
    """The request bodies that the vendors saw, by the call's name."""
    found: dict[str, list[bytes]] = {}
    for api in recorded_cases.ALIASES:
        for seen in gateway.seen(api):
            found.setdefault(seen.fields.get("x-sim-case", ""), []).append(seen.body)
    return found


def complaints(call: Call, reply: raw.Reply, seen: list[bytes], record: dict[str, Any] | None) -> list[str]:
    """What is wrong with one call."""
    if call.refused is not None:
        found = (reply.status, reply.headers.get("x-llm-error"))
        wrong = [] if found == call.refused else [f"refused with {found}"]
        return wrong + (["the vendor saw it"] if seen else [])
    wrong = []
    if not seen or set(seen) != {call.forwarded}:
        wrong.append(f"vendor saw {[body[:300] for body in seen]} for {call.forwarded[:300]!r}")
    if reply.status != call.answer.status:
        wrong.append(f"status {reply.status}")
    if reply.headers.get("content-type") != call.answer.header("content-type"):
        wrong.append(f"content-type {reply.headers.get('content-type')}")
    if reply.body != call.received:
        wrong.append(f"{len(reply.body)} bytes came back for {len(call.received)}")
    return wrong + usage_complaints(call, record)


def usage_complaints(call: Call, record: dict[str, Any] | None) -> list[str]:
    """What is wrong with the usage on record."""
    if record is None:
        return ["no record"]
    counted = {kind: record.get(name) for kind, name in KINDS.items()}
    wanted, source = call.usage, record["usage_source"]
    if call.answer.status >= 400:
        return [] if source == "none" and not any(counted.values()) else [f"{source} {counted} for an error"]
    if wanted is None:
        return [] if source == "estimated" and counted["input"] else [f"{source} {counted} where none is reported"]
    if wanted.get("partial"):
        good = source == "estimated" and counted["input"] == wanted["input"]
        return [] if good else [f"{source} {counted} for a partial {wanted}"]
    free = call.case.path == recorded_cases.COUNT
    good = counted == {kind: wanted[kind] for kind in KINDS} and source == ("none" if free else "reported")
    return [] if good else [f"{source} {counted} for {wanted}"]


def test_recorded_cases_go_through_byte_for_byte(gateway: Machine, capsys: pytest.CaptureFixture[str]) -> None:
    """Bytes are the recorded ones both ways but for the two allowed edits, usage is the case's, errors pass through."""
    seed = int(os.environ.get("RECORDED_SEED", random.randrange(1 << 32)))
    planned, cases = all_calls(seed)
    for call in planned:
        sim = gateway.vendors.sims[call.case.api]
        gateway.vendors.do(lambda sim=sim, call=call: sim.cases.add(call.name, call.answer))
    begun = time.monotonic()
    replies = asyncio.run(send_all(gateway, planned))
    taken = time.monotonic() - begun
    seen = by_call(gateway)
    ours = {call.name for call in planned if call.refused is None}  # a refusal by path is labelled by nobody
    records: dict[str, dict[str, Any]] = {}
    for _ in range(100):
        records = {label: one for one in gateway.records() if (label := one.get("labels", {}).get("feature")) in ours}
        if len(records) == len(ours):
            break
        time.sleep(0.1)
    wrong = {
        call.name: found
        for call in planned
        if (found := complaints(call, replies[call.name], seen.get(call.name, []), records.get(call.name)))
    }
    with capsys.disabled():
        print(
            f"\nrecorded: {cases} cases, {len(planned)} calls through Envoy in {taken:.1f} s"
            f" (RECORDED_SEED={seed}), {len(wrong)} with differences"
        )
    assert not wrong, "\n".join(f"{name}: {found}" for name, found in sorted(wrong.items()))
    assert len({call.name for call in planned}) == len(planned)
    assert cases >= 100
    assert sum(call.sent != call.forwarded for call in planned) >= cases  # an alias or an injection each
    assert sum(call.received != call.answer.body for call in planned) >= 4  # streams that lose their usage chunk
