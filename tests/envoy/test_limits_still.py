"""A store that stands still costs its time at most, and only until that is known; nothing is charged twice for it."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from envoy.limit_calls import NOTHING, Store, quotas, statuses, stopped, wait_until
from envoy.limit_crowd import AWAY, Still, median, milliseconds, some
from envoy.machine import Machine, running
from extproc.adapters.limit_shard import FAILURES

pytestmark = pytest.mark.envoy

WAITED = 45.0  # ms: more than a call takes, less than the time for a reservation, 50
ROUNDS = 3  # at the figures that a busy machine can spoil


async def _scene(machine: Machine, label: str) -> Still:
    before = await some(machine, label, 10)
    with stopped(Store(machine).pid):
        first = await some(machine, label, 12)
        await wait_until(lambda: all("store of limits away: since" in one for one in statuses(machine)))
        known = await some(machine, label, 12)
    await wait_until(lambda: statuses(machine) == [""] * machine.workers)
    return Still(before, first, known, await some(machine, label, 10))


@pytest.mark.parametrize("away", ["deny", "allow-bounded"])
def test_a_store_that_stands_still_costs_at_most_its_time(
    tmp_path: Path, away: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """50 ms for the first calls, nothing once it is known; health tells it; afterwards all is as before."""
    expected, good = {}, False
    with running(tmp_path / "lw", extra=quotas(away, lease=3.0)) as machine:
        for number in range(ROUNDS):
            label = f"still-{number}"
            still = asyncio.run(_scene(machine, label))
            assert all(call.whole for call in (*still.before, *still.after))
            for call in (*still.first, *still.known):
                if away == "deny":
                    assert (call.reply.status, call.reply.headers["x-llm-error"]) == (503, AWAY)
                else:
                    assert call.whole
            told = [call.reported() for call in still.whole()]
            expected[label] = {kind: sum(one[kind] for one in told) for kind in NOTHING}
            records = machine.wait_records(44, labels={"feature": label})
            own = sorted(one["policy_ms"] for one in records)
            waited = sum(one > WAITED for one in own)
            with capsys.disabled():
                print(
                    f"\n{away}: a call takes {median(still.before):.0f} ms; while Valkey stands still"
                    f" {milliseconds(still.first)[-1]:.0f} at most ({own[-1]:.0f} of it ours), {waited} waited;"
                    f" known: {median(still.known):.0f}"
                )
            assert len(records) == 44
            assert waited > 0, "the first one waits for its answer"
            good = waited <= FAILURES * machine.workers and own[-1] < 100 and median(still.known) < WAITED
            if good:
                break
        assert good, "each worker waits three times for 50 ms, and never again"
        Store(machine).check(expected)
