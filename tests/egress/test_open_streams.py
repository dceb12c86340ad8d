"""What a platform team changes cuts no open stream: pushes of RDS, CDS and SDS, and a further provider by a rollout."""

from __future__ import annotations

import asyncio
import json
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from envoy import raw
from envoy.load import PATH, body, fields
from envoy.machine import Machine, running
from envoy.ways import wait_for

pytestmark = pytest.mark.envoy

STREAMS = 50
TOKENS, PAUSE_MS = 30, 200  # six seconds and more
FURTHER = """
  other:
    api: openai
    hosts: [api.other.example]
    credential: {{env: TEST_OPENAI_KEY}}
    upstream: {{address: "127.0.0.1:{openai}", ca: {ca}, server_name: api.openai.com}}
    models: [other-model]
"""


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    """A gateway with two providers."""
    with running(tmp_path_factory.mktemp("streams")) as made:
        yield made


class Crowd:
    """`STREAMS` slow streams, each on a connection of its own."""

    def __init__(self, machine: Machine) -> None:
        self.machine, self.whole = machine, 0
        self.cut: list[raw.Reply] = []

    async def run(self) -> None:
        """Open them all; returns when the last has ended."""
        await asyncio.gather(*(self._one() for _ in range(STREAMS)))

    async def _one(self) -> None:
        slow = (("x-sim-chunk-ms", str(PAUSE_MS)), ("x-sim-tokens", str(TOKENS)))
        data = raw.post(PATH, fields(self.machine, *slow), body(stream=True))
        try:
            reply = await raw.send(self.machine.ports["base_url"], data)
        except raw.CutError as error:
            self.cut.append(error.reply)
            return
        if reply.status == 200 and reply.body.rstrip().endswith(b"data: [DONE]"):
            self.whole += 1
        else:
            self.cut.append(reply)

    def open(self) -> int:
        """How many the gateway has under way."""
        lines = self.machine.get("admin", "/stats?filter=^http.llm.downstream_rq_active$").splitlines()
        return sum(int(line.rpartition(" ")[2]) for line in lines)


def during(machine: Machine, work: Callable[[], None]) -> Crowd:
    """Do something while every stream is open; all are still open when it is done."""
    crowd = Crowd(machine)

    async def run() -> None:
        streams = asyncio.ensure_future(crowd.run())
        assert await asyncio.to_thread(wait_for, lambda: crowd.open() >= STREAMS, 5)
        await asyncio.to_thread(work)
        assert (crowd.whole, crowd.cut, streams.done()) == (0, [], False), "a stream ended before the change was in"
        await streams

    asyncio.run(run())
    return crowd


def edit(path: Path, change: Callable[[Any], None]) -> None:
    """Change a YAML file of Envoy's, by rename."""
    tree = yaml.safe_load(path.read_text())
    change(tree)
    new = path.with_name(f".{path.name}.new")
    new.write_text(yaml.safe_dump(tree))
    new.chmod(0o600)
    new.rename(path)


def stat(machine: Machine, name: str) -> int:
    """One of Envoy's numbers."""
    text = machine.get("admin", f"/stats?filter=^{name.replace('.', '[.]')}$")
    return int(text.rpartition(": ")[2] or 0)


def pushed(machine: Machine, number: str, path: Path, change: Callable[[Any], None]) -> None:
    """Push a file and wait until Envoy has taken it; the one that counts refusals stays."""
    refused = number.replace("update_success", "update_rejected")
    before, no = stat(machine, number), stat(machine, refused)
    edit(path, change)
    assert wait_for(lambda: stat(machine, number) > before, 5), f"{path.name} was not taken"
    assert stat(machine, refused) == no


def test_pushes_under_open_streams(machine: Machine) -> None:
    """A route, a cluster in use, a further cluster and a vendor's key: Envoy takes each, and 50 of 50 streams end whole."""
    state = machine.state / "envoy"

    def route(tree: Any) -> None:
        for one in tree["resources"][0]["virtual_hosts"][0]["routes"]:
            one["route"]["idle_timeout"] = "111s"

    def clusters(tree: Any) -> None:
        plain = next(one for one in tree["resources"] if one["name"] == "openai_tls")
        plain["connect_timeout"] = "3.5s"
        tree["resources"].append({**plain, "name": "another_tls"})

    def key(tree: Any) -> None:
        (secret,) = tree["resources"]
        secret["generic_secret"]["secret"] = {"inline_string": machine.vendor_keys["openai"] + "-next"}

    def push() -> None:
        pushed(machine, "http.llm.rds.llm.update_success", state / "xds" / "rds.yaml", route)
        pushed(machine, "cluster_manager.cds.update_success", state / "xds" / "cds.yaml", clusters)
        edit(state / "sds" / "openai-key.yaml", key)
        assert wait_for(lambda: "another_tls" in machine.get("admin", "/clusters"))

    drained = stat(machine, "listener_manager.listener_modified")
    crowd = during(machine, push)
    assert (crowd.whole, crowd.cut) == (STREAMS, [])
    assert stat(machine, "listener_manager.listener_modified") == drained == 0
    assert '"idle_timeout": "111s"' in machine.get("admin", "/config_dump?resource=dynamic_route_configs")
    answer = asyncio.run(raw.send(machine.ports["base_url"], raw.post(PATH, fields(machine), body())))
    assert answer.status != 200, "the vendor took a key that it does not know: the pushed one was not used"


def test_the_drain_time_is_not_shorter_than_a_stream(machine: Machine) -> None:
    """`--drain-time-s` is `workers.drain`: what a listener that goes away leaves to its open streams."""
    options = json.loads(machine.get("admin", "/server_info"))["command_line_options"]
    assert options["drain_time"] == "20s"
    assert "drain: 20s" in machine.config.read_text()
    assert 20 > 2 * TOKENS * PAUSE_MS / 1000


def test_a_further_provider_by_a_rollout(tmp_path: Path) -> None:
    """A new provider needs listeners, so a new Envoy: it starts beside the old, which drains. 50 of 50 streams end whole."""
    with running(tmp_path / "old") as old, running(tmp_path / "new", providers=FURTHER) as new:

        def roll() -> None:
            data = raw.post("/other/v1/chat/completions", fields(new), body().replace(b'"fast"', b'"other-model"'))
            answer = asyncio.run(raw.send(new.ports["base_url"], data))
            assert answer.status == 200, answer
            assert old.process is not None
            old.process.send_signal(signal.SIGTERM)
            time.sleep(0.5)
            assert old.process.poll() is None

        crowd = during(old, roll)
        assert (crowd.whole, crowd.cut) == (STREAMS, [])
        assert old.stop_gateway() == 0
        before, after = chains(old), chains(new)
    assert {name: after[name] for name in before} == before, "a filter chain that was there has changed"
    added = set(after) - set(before)
    entries = ("intercept", "redirect", "intercept_internal")
    assert {listener for listener, _ in added} == {*entries, "egress_other"}
    assert len(added) == len(entries) + 1


def chains(machine: Machine) -> dict[tuple[str, str], Any]:
    """(listener, chain) -> its configuration; the proxy's list of hosts, which is meant to grow, is left out."""
    tree = yaml.safe_load((machine.state / "envoy" / "bootstrap.yaml").read_text())
    found = {}
    for listener in tree["static_resources"]["listeners"]:
        for number, chain in enumerate(listener["filter_chains"]):
            if listener["name"] == "connect":
                hosts = chain["filters"][-1]["typed_config"]["route_config"]["virtual_hosts"]
                hosts[:] = [{**host, "domains": None} for host in hosts]
            found[listener["name"], chain.get("name", str(number))] = chain
    return found
