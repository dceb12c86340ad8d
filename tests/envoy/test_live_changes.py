"""Changes while calls go on: keys, configuration, Envoy's files, vendor keys."""

from __future__ import annotations

import json
import secrets
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from envoy.machine import Machine, running
from envoy.ways import numbers, raw, wait_for
from extproc.adapters.pki import write_sds_secret

pytestmark = pytest.mark.envoy

ALIAS = "fast: {provider: openai, model: gpt-4o-mini}"


@pytest.fixture(scope="module")
def shared_live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    """The gateway of `live`."""
    with running(tmp_path_factory.mktemp("live")) as machine:
        yield machine


@pytest.fixture
def live(shared_live: Machine) -> Machine:
    """A gateway whose files tests may change."""
    shared_live.forget()
    return shared_live


def ask(machine: Machine, model: str = "fast", key: str = "", **options: Any) -> httpx2.Response:
    """One call."""
    body = {"model": model, "messages": [{"role": "user", "content": "hi there"}], **options}
    headers = {"authorization": f"Bearer {key or machine.key}"}
    with raw(machine) as http:
        return http.post(f"{machine.url()}/v1/chat/completions", json=body, headers=headers)


def rename_over(path: Path, text: str) -> None:
    """Change a file as its watchers want it."""
    new = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    new.write_text(text)
    new.chmod(0o600)
    new.rename(path)


def generation(machine: Machine) -> float:
    """The configuration that every worker has."""
    return numbers(machine, "metrics")["llm_config_generation", frozenset()]


def changed(machine: Machine, old: str, new: str) -> None:
    """Change gateway.yaml and wait until every worker has it."""
    before, text = generation(machine), machine.config.read_text()
    assert old in text
    rename_over(machine.config, text.replace(old, new))
    assert wait_for(lambda: generation(machine) > before, 5)


class Streaming(threading.Thread):
    """A slow stream in a thread; `begun` is set at its first byte."""

    def __init__(self, machine: Machine, model: str = "fast", tokens: int = 60) -> None:
        super().__init__(daemon=True)
        self.machine, self.feature, self.begun = machine, secrets.token_hex(6), threading.Event()
        self.got, self.broke = b"", ""
        self.headers = {"authorization": f"Bearer {machine.key}", "x-llm-feature": self.feature}
        self.headers |= {"x-sim-chunk-ms": "50", "x-sim-tokens": str(tokens)}
        self.body = {"model": model, "stream": True, "messages": [{"role": "user", "content": "hi"}]}

    def run(self) -> None:
        """Read it to its end."""
        url = f"{self.machine.url()}/v1/chat/completions"
        with raw(self.machine) as http, http.stream("POST", url, json=self.body, headers=self.headers) as answer:
            try:
                for piece in answer.iter_raw():
                    self.got += piece
                    self.begun.set()
            except httpx2.HTTPError as error:
                self.broke = repr(error)

    def finish(self) -> dict[str, Any]:
        """Its record, once it is over; it ended whole."""
        self.join(20)
        assert (self.broke, self.got.rstrip().endswith(b"data: [DONE]")) == ("", True)
        (record,) = self.machine.wait_records(1, labels={"feature": self.feature})
        return record


def test_a_revoked_key_is_refused_within_a_second(live: Machine) -> None:
    """By every worker; a key made just before works within a second."""
    made = json.loads(live.cli("keys", "create", "--team", "demo", "--app", "gone", "--json").stdout)
    made_at = time.monotonic()
    assert wait_for(lambda: ask(live, key=made["key"]).status_code == 200)
    assert time.monotonic() - made_at < 1.2
    assert live.cli("keys", "revoke", made["id"]).returncode == 0
    revoked_at = time.monotonic()
    wait_for(lambda: ask(live, key=made["key"]).status_code == 401, 3)
    time.sleep(max(0.0, revoked_at + 1 - time.monotonic()))
    answers = [ask(live, key=made["key"]) for _ in range(8)]
    assert {answer.status_code for answer in answers} == {401}
    assert {answer.headers["x-llm-error"] for answer in answers} == {"caller_revoked_key"}
    assert ask(live).status_code == 200


def test_an_alias_is_pointed_elsewhere(live: Machine) -> None:
    """The next calls of every worker go to the other model; the list of models tells both."""
    assert ask(live).json()["model"].startswith("gpt-4o-mini")
    changed(live, ALIAS, ALIAS.replace("gpt-4o-mini", "gpt-4o"))
    try:
        for _ in range(6):
            ask(live)
        assert [seen.json()["model"] for seen in live.seen("openai")] == ["gpt-4o-mini"] + ["gpt-4o"] * 6
    finally:
        changed(live, ALIAS.replace("gpt-4o-mini", "gpt-4o"), ALIAS)


def test_a_broken_configuration_is_not_taken(live: Machine) -> None:
    """The old one stays in use; metric, health and log say so; the next good one is taken."""
    good = live.config.read_text()
    ok = ("llm_config_reload_ok", frozenset[tuple[str, str]]())

    def in_log() -> bool:
        lines = (live.state / "extproc.log").read_text().splitlines()
        return any("aliasses" in line and json.loads(line)["level"] == "error" for line in lines)

    assert numbers(live, "metrics")[ok] == 1
    rename_over(live.config, good.replace("aliases:", "aliasses:"))
    try:
        assert wait_for(lambda: numbers(live, "metrics")[ok] == 0, 5)
        assert ask(live).status_code == 200
        assert wait_for(lambda: "aliasses" in live.get("metrics", "/healthz"))
        assert wait_for(in_log)
    finally:
        rename_over(live.config, good)
    assert wait_for(lambda: numbers(live, "metrics")[ok] == 1, 5)
    assert wait_for(lambda: "aliasses" not in live.get("metrics", "/healthz"))


def test_a_mounted_configuration_is_swapped(live: Machine) -> None:
    """A Kubernetes volume: gateway.yaml -> ..data/gateway.yaml, and ..data is swapped by rename."""
    folder, good = live.folder, live.config.read_text()

    def mount(name: str, text: str) -> None:
        (folder / name).mkdir()
        (folder / name / "gateway.yaml").write_text(text)
        (folder / "..data_tmp").symlink_to(name)
        (folder / "..data_tmp").rename(folder / "..data")

    before = generation(live)
    mount("..one", good.replace(ALIAS, ALIAS.replace("gpt-4o-mini", "gpt-4.1")))
    (folder / ".link").symlink_to("..data/gateway.yaml")
    (folder / ".link").rename(live.config)
    assert wait_for(lambda: generation(live) > before)
    ask(live)
    before = generation(live)
    mount("..two", good.replace(ALIAS, ALIAS.replace("gpt-4o-mini", "gpt-4.1-nano")))
    assert wait_for(lambda: generation(live) > before)
    ask(live)
    assert [seen.json()["model"] for seen in live.seen("openai")] == ["gpt-4.1", "gpt-4.1-nano"]
    before = generation(live)
    rename_over(live.config, good)
    assert wait_for(lambda: generation(live) > before)


def test_a_stream_outlives_a_change_that_would_refuse_it(live: Machine) -> None:
    """It keeps the configuration that it began with, prices included; the next call is refused."""
    stream = Streaming(live)
    stream.start()
    assert stream.begun.wait(10)
    changed(live, "- {team: demo}", "- {team: nobody}")
    try:
        assert ask(live).headers["x-llm-error"].startswith("policy_")
        assert stream.is_alive()
        record = stream.finish()
    finally:
        changed(live, "- {team: nobody}", "- {team: demo}")
    assert (record["outcome"], record["usage_source"], record["model"]) == ("ok", "reported", "gpt-4o-mini")


@pytest.mark.parametrize(
    ("file", "old", "new", "counter"),
    [
        ("rds.yaml", "num_retries: 2", "num_retries: 1", "envoy_http_rds_update_success_total"),
        ("cds.yaml", "max_requests: 4096", "max_requests: 4095", "envoy_cluster_manager_cds_update_success_total"),
    ],
)
def test_a_stream_outlives_a_push_of_envoys_files(live: Machine, file: str, old: str, new: str, counter: str) -> None:
    """Routes and clusters change under an open stream: it ends whole, and the change is in force for the next call."""

    def updates() -> float:
        return sum(value for (name, _), value in numbers(live, "admin").items() if name == counter)

    path = live.state / "envoy/xds" / file
    text, before = path.read_text(), updates()
    assert old in text
    stream = Streaming(live)
    stream.start()
    assert stream.begun.wait(10)
    rename_over(path, text.replace(old, new))
    try:
        assert wait_for(lambda: updates() > before, 10)
        assert ask(live).status_code == 200
        assert stream.is_alive()
        assert stream.finish()["outcome"] == "ok"
        assert new.replace(" ", "").replace(":", '":') in live.get("admin", "/config_dump").replace(" ", "")
    finally:
        before = updates()
        rename_over(path, text)
        assert wait_for(lambda: updates() > before, 10)


def test_a_refused_push_leaves_the_old_state(live: Machine) -> None:
    """A slip in routes: Envoy says so in its counters, and calls go on."""
    path = live.state / "envoy/xds/rds.yaml"
    text = path.read_text()

    def rejected() -> float:
        found = numbers(live, "admin").items()
        return sum(value for (name, _), value in found if name == "envoy_http_rds_update_rejected_total")

    before = rejected()
    rename_over(path, text.replace("num_retries: 2", "num_retreis: 2"))
    try:
        assert wait_for(lambda: rejected() > before, 10)
        assert ask(live).status_code == 200
    finally:
        rename_over(path, text)


def test_a_rotated_vendor_key_is_live(live: Machine) -> None:
    """The vendor takes the new key only; an SDS file renamed over the old one is enough, and an open stream goes on."""
    sim, fresh = live.vendors.sims["openai"], f"vendor-{secrets.token_hex(12)}"
    keys: Any = sim._settings.vendors.keys
    old = keys["openai"]
    stream = Streaming(live)
    stream.start()
    assert stream.begun.wait(10)
    path = live.state / "envoy/sds/openai-key.yaml"
    live.vendors.do(lambda: keys.update(openai=(fresh,)))
    try:
        assert ask(live).status_code == 401
        write_sds_secret(path, "openai-key", fresh)
        assert wait_for(lambda: ask(live).status_code == 200, 3)
        assert live.seen("openai")[-1].fields["authorization"] == f"Bearer {fresh}"
        assert stream.finish()["outcome"] == "ok"
    finally:
        live.vendors.do(lambda: keys.update(openai=old))
        write_sds_secret(path, "openai-key", old[0])
        assert wait_for(lambda: ask(live).status_code == 200, 3)


def test_the_keys_of_all_vendors_are_in_no_log(live: Machine) -> None:
    """Whatever the tests above did: neither vendor keys nor callers' keys are in any file that is a log."""
    logs = [live.state / "extproc.log", *(live.state / "envoy/run").glob("*.log"), live.folder / "up.out"]
    text = b"".join(path.read_bytes() for path in logs)
    assert len(text) > 1000
    for secret in (*live.vendor_keys.values(), live.key):
        assert secret.encode() not in text
