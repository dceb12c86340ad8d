"""The composition, as processes: a worker by itself, and the sidecar with its workers. Envoy's part is played by a client."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
import structlog
import valkey

from adapters.envoyish import Stream, answer, begin, body, piece
from envoy.machine import free_ports
from extproc import bootstrap
from extproc.adapters import sockets
from extproc.adapters.keyfile import KeyFile, make_pepper
from extproc.adapters.keys import Hasher, Owner
from talk import CHAT, CHAT_ANSWER

CONFIG = """
version: 1
providers:
  openai: {{api: openai, hosts: [api.openai.com]}}
keys: {{file: keys.json, pepper: {{file: pepper}}}}
access: [{{team: demo}}]
aliases:
  fast: {{provider: openai, model: {model}}}
workers: {{count: 2, drain: 20s}}
metrics: {{address: "127.0.0.1:{port}"}}
"""
FAST = CHAT.replace(b"gpt-4o-mini", b"fast")
UNIT = 20.0  # seconds that a process may take for anything


def until(what: Callable[[], Any], limit: float = UNIT) -> Any:
    """Wait for a true value."""
    deadline = time.monotonic() + limit
    while True:
        value = what()
        if value:
            return value
        assert time.monotonic() < deadline, f"waited {limit} s"
        time.sleep(0.02)


class Place:
    """A configuration with keys, and the processes that a test starts on it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.state = folder / "st"
        self.log = folder / "log"
        self.socket = folder / "w.sock"
        self.port = free_ports(1)[0]
        self.processes: list[subprocess.Popen[bytes]] = []
        self.controls: list[socket.socket] = []
        self.write("gpt-4o-mini")
        make_pepper(folder / "pepper")
        self.keys = KeyFile(folder / "keys.json", Hasher((folder / "pepper").read_bytes().strip()))
        made = self.keys.create(Owner("demo", "app"))
        self.key, self.key_id = made.secret, made.entry.id

    @property
    def config(self) -> Path:
        return self.folder / "gateway.yaml"

    def write(self, model: str, *, text: str = "") -> None:
        """Write gateway.yaml by rename."""
        new = self.folder / "new"
        new.write_text(text or CONFIG.format(model=model, port=self.port))
        new.rename(self.config)

    def start(self, *words: str, **options: Any) -> subprocess.Popen[bytes]:
        """`extproc …` on this place; its output goes to the log."""
        with self.log.open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "extproc", *words, "--config", str(self.config), "--state", str(self.state)],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True, **options,
            )  # fmt: skip
        self.processes.append(process)
        return process

    def worker(self) -> tuple[subprocess.Popen[bytes], socket.socket]:
        """A worker that serves; (process, our end of its control line)."""
        self.state.mkdir(exist_ok=True)
        ours, theirs = sockets.control_pair()
        self.controls.append(ours)
        with theirs:
            process = self.start(
                *("worker", "--socket", str(self.socket), "--control-fd", str(theirs.fileno())),
                pass_fds=[theirs.fileno()],
            )
        heard: list[bytes] = []
        until(lambda: heard.extend(sockets.receive(ours)) or sockets.READY in heard)
        return process, ours

    def lines(self, **wanted: object) -> list[dict[str, Any]]:
        """Log lines with these fields."""
        told = [json.loads(line) for line in self.log.read_text().splitlines() if line.startswith("{")]
        return [line for line in told if all(line.get(name) == value for name, value in wanted.items())]

    def get(self, path: str) -> tuple[int, str]:
        """GET from the metrics endpoint."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=10) as found:
                return found.status, found.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode()
        except (urllib.error.URLError, ConnectionError):
            return 0, ""

    def workers(self) -> list[dict[str, Any]]:
        """The workers that /healthz tells of."""
        text = self.get("/healthz")[1]
        return json.loads(text)["workers"] if text else []

    def ready(self) -> list[dict[str, Any]]:
        """Those that are ready, once there are two."""
        return until(lambda: found if len(found := [w for w in self.workers() if w["state"] == "ready"]) == 2 else [])


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    """A place; what was started there is ended."""
    made = Place(tmp_path)
    yield made
    for control in made.controls:
        control.close()
    for process in made.processes:
        if process.poll() is None:
            process.kill()
        process.wait(UNIT)


def sent_model(reply: Any) -> str:
    """The model that went on to the provider; empty where the call was refused."""
    if reply.WhichOneof("response") != "request_body":
        return ""
    return json.loads(reply.request_body.response.body_mutation.body or CHAT)["model"]


async def opened(place: Place, path: Path | None = None) -> tuple[grpc.aio.Channel, Stream]:
    """A stream whose request headers went through."""
    channel = grpc.aio.insecure_channel(f"unix:{path or place.socket}")
    stream = Stream(channel)
    reply = await stream.ask(begin(authorization=f"Bearer {place.key}"))
    assert reply.WhichOneof("response") == "request_headers", reply
    return channel, stream


async def one_call(place: Place, path: Path | None = None) -> str:
    """A whole exchange by the alias; the model it stood for, or the refusal's status."""
    async with grpc.aio.insecure_channel(f"unix:{path or place.socket}") as channel:
        stream = Stream(channel)
        first = await stream.ask(begin(authorization=f"Bearer {place.key}"))
        if first.WhichOneof("response") == "immediate_response":
            await stream.end()
            return str(first.immediate_response.status.code)
        model = sent_model(await stream.ask(body(FAST)))
        await stream.ask(answer(content_length=str(len(CHAT_ANSWER))))
        await stream.ask(piece(CHAT_ANSWER, end=True))
        await stream.end()
        return model


# ---- one worker


async def test_a_worker_serves_and_takes_a_new_configuration(place: Place) -> None:
    """A rename brings the new alias live; a stream that had begun keeps the old one."""
    process, _control = place.worker()
    assert await one_call(place) == "gpt-4o-mini"
    channel, old = await opened(place)
    place.write("gpt-4o")
    until(lambda: place.lines(event="configuration is live", generation=2), 2)

    assert await one_call(place) == "gpt-4o"
    assert sent_model(await old.ask(body(FAST))) == "gpt-4o-mini"
    await old.end()
    await channel.close()
    assert process.poll() is None


async def test_a_broken_configuration_changes_nothing_and_is_told(place: Place) -> None:
    """The old one stays; log and supervisor's line say so, and the line is cleared by a good one."""
    _process, control = place.worker()
    place.write("", text="version: 1\nproviders: {}\nnonsense: 1\n")
    (refused,) = until(lambda: place.lines(event="configuration refused, the old one stays"))
    assert "nonsense" in refused["reason"]
    said: list[str | None] = []

    def heard() -> str | None:
        said.extend(map(sockets.status_text, sockets.receive(control)))
        return said[-1] if said else None

    until(heard)
    assert "nonsense" in (said[-1] or "")
    assert await one_call(place) == "gpt-4o-mini"
    place.write("gpt-4o")
    until(lambda: heard() == "")
    assert await one_call(place) == "gpt-4o"


async def test_a_revoked_key_is_refused_within_a_second(place: Place) -> None:
    """From `revoke` to the refusal."""
    place.worker()
    assert await one_call(place) == "gpt-4o-mini"
    began = time.monotonic()
    place.keys.revoke(place.key_id)
    while await one_call(place) != "401":
        assert time.monotonic() - began < 1.5
        await asyncio.sleep(0.02)

    assert time.monotonic() - began < 1.0


async def test_a_worker_ends_with_its_supervisor(place: Place) -> None:
    """The control line is closed: the worker drains and ends by itself."""
    process, control = place.worker()
    control.close()

    assert await asyncio.to_thread(process.wait, UNIT) == 0
    assert place.lines(event="supervisor is gone, worker drains")


async def test_sigterm_drains(place: Place) -> None:
    """The open stream finishes, its record is written, then the worker ends with 0; it said that it drains."""
    process, control = place.worker()
    channel, stream = await opened(place)
    process.send_signal(signal.SIGTERM)
    until(lambda: sockets.DRAINING in sockets.receive(control))
    await asyncio.sleep(1.0)
    assert process.poll() is None
    assert sent_model(await stream.ask(body(FAST))) == "gpt-4o-mini"
    await stream.ask(answer(content_length=str(len(CHAT_ANSWER))))
    await stream.ask(piece(CHAT_ANSWER, end=True))
    await stream.end()
    await channel.close()

    assert await asyncio.to_thread(process.wait, UNIT) == 0
    (record,) = place.lines(event="exchange")
    assert (record["outcome"], record["model"]) == ("ok", "gpt-4o-mini")


@pytest.mark.parametrize(
    ("broken", "place_of_it"),
    [("keys.json", "keys.file"), ("pepper", "keys.pepper.file"), ("gateway.yaml", "gateway.yaml")],
)
def test_a_worker_that_cannot_start_says_why(place: Place, broken: str, place_of_it: str) -> None:
    """A missing file is one line with place and cure, exit code 1, no traceback."""
    (place.folder / broken).unlink()
    process = place.start("worker", "--socket", str(place.socket))

    assert process.wait(UNIT) == 1
    said = place.log.read_text()
    assert place_of_it in said
    assert "Traceback" not in said


def test_a_socket_that_cannot_be_made_is_told(place: Place) -> None:
    """The folder of the socket is not there."""
    process = place.start("worker", "--socket", str(place.folder / "none" / "w.sock"))

    assert process.wait(UNIT) == 1
    assert "cannot listen on this Unix socket" in place.log.read_text()


# ---- the sidecar


def run(work: Any) -> Any:
    """A coroutine, in a thread of its own: gRPC's loop must not be shared between tests."""
    box: list[Any] = []
    thread = threading.Thread(target=lambda: box.append(asyncio.run(work)))
    thread.start()
    thread.join(30)
    assert box, "the calls did not end"
    return box[0]


def test_serve_runs_two_workers_replaces_a_dead_one_and_adds_their_numbers(place: Place) -> None:
    """Both names serve; /metrics is the sum; a killed worker is replaced and its counts stay; SIGTERM ends all with 0."""
    process = place.start("serve")
    before = place.ready()
    names = [place.state / "envoy" / "run" / f"worker-{slot}.sock" for slot in (0, 1)]
    assert [run(one_call(place, name)) for name in names] == ["gpt-4o-mini"] * 2
    status, text = place.get("/metrics")
    assert status == 200
    assert "llm_config_reload_ok" in text
    until(lambda: counted(place) == 2)
    os.kill(before[0]["pid"], signal.SIGKILL)
    until(lambda: {w["pid"] for w in place.workers() if w["state"] == "ready"} - {w["pid"] for w in before})
    place.ready()
    assert [run(one_call(place, name)) for name in names] == ["gpt-4o-mini"] * 2
    until(lambda: counted(place) == 4)
    process.send_signal(signal.SIGTERM)

    assert process.wait(UNIT) == 0
    until(lambda: not any(alive(w["pid"]) for w in before))
    assert not list((place.state / "envoy" / "run").glob("*.sock"))


def test_serve_runs_the_embedded_store_around_its_workers(place: Place) -> None:
    """With limits and no store named: a Valkey of its own, told of in /healthz, started again, ended last."""
    rule = "quotas: {rules: [{name: calls, kind: requests, window: day, limit: 5}]}\n"
    place.write("", text=CONFIG.format(model="gpt-4o-mini", port=place.port) + rule)
    process = place.start("serve")
    place.ready()

    def store() -> dict[str, Any]:
        return json.loads(place.get("/healthz")[1])["store"]

    first = store()
    assert (first["ok"], first["restarts"]) == (True, 0)
    assert (place.state / "store" / "valkey.sock").is_socket()
    os.kill(first["pid"], signal.SIGKILL)
    until(lambda: store()["ok"] and store()["restarts"] == 1)
    second = store()["pid"]
    assert second != first["pid"]
    process.send_signal(signal.SIGTERM)

    assert process.wait(UNIT) == 0
    assert not alive(second)
    ended = [line["event"] for line in place.lines() if line.get("what") == "died"]
    assert len(ended) == 2, "the workers went first, in order"


def counted(place: Place) -> int:
    """Calls that the metrics count, over all workers."""
    lines = place.get("/metrics")[1].splitlines()
    found = [line for line in lines if line.startswith("gen_ai_server_request_duration_seconds_count{")]
    return int(sum(float(line.rpartition(" ")[2]) for line in found))


def alive(pid: int) -> bool:
    """Whether the process is there."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_a_refused_reload_shows_in_healthz_and_metrics(place: Place) -> None:
    """Both workers tell; the metric falls to 0; a good file clears both. Calls are served all along."""
    place.start("serve")
    place.ready()
    place.write("", text=CONFIG.format(model="m", port=place.port) + "surprise: 1\n")
    until(lambda: all("surprise" in worker["status"] for worker in place.workers()))
    status, _ = place.get("/healthz")
    assert status == 200
    until(lambda: reload_ok(place) == 0)
    place.write("gpt-4o")
    until(lambda: all(not worker["status"] for worker in place.workers()))
    until(lambda: reload_ok(place) == 1)


def test_a_refused_key_file_shows_in_healthz(place: Place) -> None:
    """Damaged keys: the old table stays, and who looks can see it."""
    place.start("serve")
    place.ready()
    file = place.folder / "keys.json"
    good = file.read_bytes()
    file.write_bytes(b"{")
    until(lambda: all("key file refused" in worker["status"] for worker in place.workers()))
    assert run(one_call(place, place.state / "envoy" / "run" / "worker-0.sock")) == "gpt-4o-mini"
    file.write_bytes(good)
    until(lambda: all(not worker["status"] for worker in place.workers()))


def reload_ok(place: Place) -> float:
    """The least of `llm_config_reload_ok`."""
    lines = place.get("/metrics")[1].splitlines()
    values = [float(line.rpartition(" ")[2]) for line in lines if line.startswith("llm_config_reload_ok")]
    assert values
    return min(values)


def test_a_second_sidecar_in_the_same_state_folder_is_refused(place: Place) -> None:
    """It says who is there, and the first one's numbers are left alone."""
    place.start("serve")
    place.ready()
    assert run(one_call(place, place.state / "envoy" / "run" / "worker-0.sock")) == "gpt-4o-mini"
    second = place.start("serve")

    assert second.wait(UNIT) == 1
    said = place.log.read_text()
    assert f"in use by another supervisor (process {place.processes[0].pid})" in said
    assert counted(place) == 1


@pytest.mark.parametrize("broken", ["keys.json", "pepper"])
def test_serve_without_keys_says_so_at_once(place: Place, broken: str) -> None:
    """Before any worker is tried."""
    (place.folder / broken).unlink()
    process = place.start("serve")

    assert process.wait(UNIT) == 1
    said = place.log.read_text()
    assert "error: keys." in said
    assert "worker" not in said


def test_a_taken_metrics_port_is_told(place: Place) -> None:
    """Place, reason, cure."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", place.port))
        taken.listen(1)
        process = place.start("serve")
        assert process.wait(UNIT) == 1

    assert f"metrics.address: cannot listen at 127.0.0.1:{place.port}" in place.log.read_text()
    assert "Traceback" not in place.log.read_text()


LIMITS = """
quotas:
  store: {lease: 600ms}
  rules:
  - {name: calls, kind: requests, window: day, limit: 4}
  - {name: tokens, kind: output_tokens, window: day, limit: 100000, scope: [team]}
  - {name: flights, kind: requests, window: concurrent, limit: 10}
"""


def books(place: Place) -> dict[str, tuple[int, int]]:
    """(used, reserved) by limit, as the embedded store has them."""
    client = valkey.Valkey(unix_socket_path=str(place.state / "store" / "valkey.sock"), socket_timeout=5)
    found: dict[str, tuple[int, int]] = {}
    for key in client.scan_iter("xq:*:c:*"):
        fields = client.hgetall(key)
        found[key.decode().split(":")[3]] = (int(fields.get(b"u", 0)), int(fields.get(b"r", 0)))
    client.close()
    return found


async def test_limits_hold_over_workers_and_survive_their_death(place: Place) -> None:
    """Two workers, one budget: calls are charged what they used, a call whose worker was killed what it had reserved."""
    place.write("", text=CONFIG.format(model="gpt-4o-mini", port=place.port) + LIMITS)
    place.start("serve")
    pids = [worker["pid"] for worker in sorted(place.ready(), key=lambda worker: worker["slots"])]
    first, second = (place.state / "envoy" / "run" / f"worker-{slot}.sock" for slot in (0, 1))
    assert [await one_call(place, path) for path in (first, second)] == ["gpt-4o-mini"] * 2
    used = until(lambda: found if (found := books(place))["calls"] == (2, 0) else None)
    assert used["flights"] == (0, 0)

    channel, stream = await opened(place, first)
    await stream.ask(body(FAST))
    held = books(place)
    assert (held["calls"], held["flights"]) == ((2, 1), (0, 1))
    os.kill(pids[0], signal.SIGKILL)
    await channel.close()
    charged = used["tokens"][0] + held["tokens"][1]
    until(lambda: books(place) == {"calls": (3, 0), "tokens": (charged, 0), "flights": (0, 0)})
    until(lambda: place.lines(event="reservations expired, charged as reserved", count=1))

    assert await one_call(place, second) == "gpt-4o-mini"
    channel, stream = await opened(place, second)
    refusal = await stream.ask(body(FAST))
    assert (refusal.immediate_response.status.code, books(place)["calls"]) == (429, (4, 0))
    await stream.end()
    await channel.close()


def test_serve_renews_certificates_after_a_crash(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """A mistake in a renewal is logged, by type and place and not by what it quotes, and the next one comes."""
    done, runs = asyncio.Event(), iter(range(2))

    class Crashing:
        """Leaves whose first look crashes."""

        async def run(self) -> None:
            await asyncio.sleep(0.01)
            if next(runs) == 0:
                raise ValueError("quotes a key")
            done.set()
            await asyncio.sleep(60)

    class Waiting:
        """A sidecar that runs until the second look."""

        def __init__(self, *_: object) -> None:
            self.supervisor = None

        async def run(self) -> None:
            await asyncio.wait_for(done.wait(), 5)

    for name, value in (
        ("exists", lambda _: True),
        ("certificates", lambda *_: Crashing()),
        ("Sidecar", Waiting),
        ("stop_on_signals", lambda _: None),
    ):
        monkeypatch.setattr(bootstrap, name, value)
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    try:
        bootstrap.serve(bootstrap.Place(place.config, place.state, place.log))
    finally:
        structlog.reset_defaults()
        root.handlers[:] = handlers
        root.setLevel(level)
    (line,) = place.lines(level="error")

    assert line["event"] == "the renewal of certificates crashed, it goes on"
    assert line["exception"].startswith("ValueError at test_bootstrap.py:")  # where it was raised
    assert "quotes" not in place.log.read_text()
