"""Each road goes red when its own rule is taken away, and no other road does: a suite that cannot fail proves nothing."""

from __future__ import annotations

import signal
import subprocess
import threading
import time
from pathlib import Path

import pytest

from egress import sabotages
from egress.place import Place, held, read
from egress.sabotages import ALONE, ALSO, ENVOY, RULES, TIMED, WITHIN, no_policy
from extproc.roads import proxied, suite

pytestmark = [pytest.mark.envoy, pytest.mark.netns]

ESTABLISHED = "ct state established,related"
TRACKING = "table inet tracking { chain c { type filter hook forward priority 0; ct state new counter; }; }"


def test_every_road_has_its_sabotage() -> None:
    """The table is the suite's list of roads, without the one that is meant."""
    assert {*RULES, *ENVOY, *TIMED} == set(suite.NAMES) - {proxied.GATEWAY.name}


@pytest.mark.parametrize("road", RULES)
def test_a_hole_in_the_firewall(place: Place, road: str) -> None:
    """One exception before the rules: this road is open, with bytes from the far end, and the others are not."""
    with place.letting(RULES[road]):
        verdict = place.verify()
    assert verdict.code == 1
    assert set(verdict.open()) == WITHIN.get(road, {road})
    assert verdict.outcome("gateway") == "by design"


@pytest.mark.parametrize("road", ALSO)
def test_another_hole_on_the_same_road(place: Place, road: str) -> None:
    """DNS over QUIC; every UDP port but those of DNS and QUIC."""
    with place.letting(ALSO[road]):
        verdict = place.verify(
            "--only", "gateway", *(word for one in ("dot", "quic", "other-udp") for word in ("--only", one))
        )
    assert (verdict.code, verdict.open()) == (1, [road]), verdict.rows


@pytest.mark.parametrize("road", ENVOY)
def test_a_setting_of_envoy_taken_away(place: Place, road: str) -> None:
    """Another Envoy in front of the same workers, wrong in one thing."""
    with place.variant(ENVOY[road]) as ports:
        verdict = place.verify("--only", road, ports=ports)
    assert verdict.code == 1
    assert verdict.outcome(road) == "open"


@pytest.mark.parametrize("road", ALONE)
def test_one_setting_of_envoy_alone(place: Place, road: str) -> None:
    """Without the policy stage the attempt is still refused, by this one setting: it opens when that is changed too."""
    tried, change = ALONE[road]
    found = []
    for edits in ((no_policy,), (no_policy, change)):
        with place.variant(lambda tree, edits=edits: [edit(tree) for edit in edits]) as ports:
            attempts = place.verify("--only", road, ports=ports).rows[road]["attempts"]
        found.append(next(one["outcome"] for one in attempts if one["tried"] == tried))
    assert found == ["closed", "open"]


def test_the_variant_itself_opens_nothing(place: Place) -> None:
    """The second Envoy with nothing changed is as tight as the first: what opens a road above is the one thing."""
    only = [word for road in ENVOY for word in ("--only", road)]
    with place.variant(lambda _: None) as ports:
        verdict = place.verify(*only, ports=ports)
    assert (verdict.code, verdict.open()) == (0, []), verdict.told


@pytest.mark.parametrize("match", [(), (ESTABLISHED,)], ids=["cut", "established passes"])
def test_a_connection_from_before_the_policy(place: Place, match: tuple[str, ...]) -> None:
    """It is cut when the rules come; rules that let pass what is established leave it open, and the row says so."""
    place.unlock()
    place.gw("nft", TRACKING)  # as a node has it: the connection is known to be established
    try:
        with held(place) as (process, go_on), place.letting(*match):
            done = go_on()
    finally:
        place.gw("nft", "delete table inet tracking")
        place.lock()
    verdict = read(subprocess.CompletedProcess(process.args, process.returncode, *done))
    assert verdict.outcome("before-policy") == ("open" if match else "closed"), verdict.rows["before-policy"]
    assert verdict.code == (1 if match else 0)


def kill_workers(place: Place) -> str:
    """A command that ends every worker at once: the supervisor starts new ones."""
    pids = [str(worker["pid"]) for worker in workers(place)]
    assert pids
    return f"kill -{signal.SIGKILL.value} {' '.join(pids)}"


def workers(place: Place) -> list[dict[str, object]]:
    """The worker processes, asked for in the gateway's namespace."""
    return place.inside(place.machine.workers_now)


def test_the_time_in_which_the_policy_stage_restarts(place: Place) -> None:
    """All workers are killed under the calls: nothing passes in the meantime."""
    before = {worker["pid"] for worker in workers(place)}
    words = ("--only", "restart-window", "--restart-command", kill_workers(place), "--window", "3")
    verdict = place.verify(*words, plain=False)
    assert (verdict.code, verdict.outcome("restart-window")) == (0, "closed"), verdict.rows
    assert before.isdisjoint(worker["pid"] for worker in workers(place))


def test_the_time_in_which_envoy_restarts(place: Place) -> None:
    """Envoy itself is killed and started again under the calls: nothing passes, and the calls have seen it."""
    flag = place.shared / "restart-now"

    def restarts() -> None:
        deadline = time.monotonic() + 30
        while not flag.exists() and time.monotonic() < deadline:
            time.sleep(0.05)
        place.restart_variant()

    with place.variant(lambda _: None) as ports:
        thread = threading.Thread(target=restarts)
        thread.start()
        words = ("--only", "restart-window", "--restart-command", f"touch {flag}", "--window", "3")
        verdict = place.verify(*words, ports=ports, plain=False)
        thread.join(40)
        after = place.verify("--only", "gateway", ports=ports)
    assert (verdict.code, verdict.outcome("restart-window")) == (0, "closed"), verdict.rows
    assert after.outcome("gateway") == "by design"


def test_a_restart_that_nobody_saw_shows_nothing(place: Place) -> None:
    """A command that restarts nothing: the row is not tried, and the exit code says that it is not known."""
    verdict = place.verify("--only", "restart-window", "--restart-command", "true", "--window", "1")
    assert (verdict.code, verdict.outcome("restart-window")) == (2, "not tried"), verdict.rows


def test_a_policy_stage_that_fails_open(place: Place) -> None:
    """`failure_mode_allow`: closed while the workers live, open in the moment that they do not."""
    with place.variant(sabotages.lenient_when_alone) as ports:
        calm = place.verify("--only", "other-key", ports=ports)
        command = kill_workers(place)
        words = ("--only", "restart-window", "--restart-command", command, "--window", "3")
        verdict = place.verify(*words, ports=ports, plain=False)
    assert calm.outcome("other-key") == "closed", calm.rows
    assert (verdict.code, verdict.outcome("restart-window")) == (1, "open"), verdict.rows
    assert "without a key" in verdict.rows["restart-window"]["evidence"]


def test_no_process_is_left(place: Place) -> None:
    """The variants are gone, and the gateway still stands."""
    assert place.machine.process is not None
    assert place.machine.process.poll() is None
    listed = place.names.prefix("gw")[-1]
    pids = subprocess.run(["ip", "netns", "pids", listed], capture_output=True, text=True, check=True).stdout.split()
    files = [Path("/proc", pid, "cmdline") for pid in pids]
    commands = [file.read_bytes() for file in files if file.exists()]
    assert sum(b"envoy" in command.split(b"\0")[0] for command in commands) == 1
