"""Nothing that was recognised stands in anything that the processes wrote or tell. Runs behind the other tests of redaction."""

from __future__ import annotations

import contextlib
import json
import re
import secrets
from pathlib import Path

import httpx2
import pytest

from envoy.machine import Machine
from envoy.redaction_calls import CHAT, EMBEDDINGS, MESSAGES, RESPONSES, answer_saying, chat, messages, post
from envoy.redaction_values import SHAPES, Plants
from envoy.ways import raw, wait_for
from extproc.sim.leaks import found_in

pytestmark = pytest.mark.envoy

TOLD = (
    ("metrics", "/metrics"),
    ("metrics", "/healthz"),
    ("admin", "/stats"),
    ("admin", "/clusters"),
    ("admin", "/config_dump"),
)


def calls_that_fail(gateway: Machine, v: Plants) -> None:
    """Every way in which a call with values can end badly."""
    post(gateway, CHAT, json.dumps(chat(f"of {v.email()}")).encode()[:-3])
    post(gateway, CHAT, b'{"model":"fast","messages":[],"messages":"' + v.email().encode() + b'"}')
    post(gateway, CHAT, {"model": "unheard-of", "messages": [{"role": "user", "content": v.card()}]})
    post(
        gateway,
        CHAT,
        {"model": "fast", "messages": [{"role": "user", "content": v.ssn(), v.email(): 1}], "n": v.iban()},
    )
    post(gateway, "/openai/v1/audio", chat(v.email()))
    post(gateway, CHAT, chat(f"of {v.ssn()} and {v.iban()}"), "blocking")
    post(gateway, MESSAGES, messages(f"of {v.ssn()}", stream=True), "blocking")
    post(gateway, CHAT, chat(" ".join(secrets.token_hex(4) for _ in range(20_000)) + v.email()), "hasty")
    post(gateway, CHAT, chat(" ".join(secrets.token_hex(4) for _ in range(20_000)) + v.email()), "hasty_open")
    post(gateway, RESPONSES, {"model": "fast", "input": f"of {v.email()}", "previous_response_id": "resp_1"})
    post(gateway, CHAT, chat(f"of {v.email()} {v.api_key()}"), "shadow")
    post(gateway, EMBEDDINGS, {"model": "text-embedding-3-small", "input": [v.email(), v.api_key()]})
    for status in ("400", "429", "500"):
        post(gateway, CHAT, chat(f"of {v.email()}"), status=status)
    for path in (CHAT, MESSAGES):
        answer_saying(gateway, path, f"{'Well. ' * 60}{v.email()} {v.card()}")
        post(gateway, path, messages("hi") if path == MESSAGES else chat("hi"), "blocking_output")
    with contextlib.suppress(httpx2.TransportError):  # or an error in the answer's place: either may be first
        post(gateway, CHAT, chat(f"of {v.email()}", stream=True), reset_after="300", piece="2")
    data = json.dumps(chat(f"of {v.codename()} {v.email()}", stream=True)).encode()
    headers = {"authorization": f"Bearer {gateway.key}", "content-type": "application/json"}
    headers |= {"x-sim-echo": "last", "x-sim-piece": "1", "x-sim-chunk-ms": "50"}
    with raw(gateway) as http, http.stream("POST", gateway.url() + CHAT, content=data, headers=headers) as reply:
        next(reply.iter_raw())  # and hang up


def written(gateway: Machine) -> dict[str, bytes]:
    """Every file of the gateway's, what its processes said, and what can be asked of it."""
    files = [path for path in gateway.folder.rglob("*") if path.is_file() and not path.is_symlink()]
    found = {str(path.relative_to(gateway.folder)): path.read_bytes() for path in files}
    found |= {f"{name}{path}": gateway.get(name, path).encode() for name, path in TOLD}
    return found


def test_nothing_recognised_is_written(redacting: Machine, plants: Plants) -> None:
    """Logs, access log, stores, metrics, health, Envoy's statistics and settings, standard output: no value in any."""
    calls = 25
    before = len(redacting.records())
    calls_that_fail(redacting, plants)
    assert wait_for(lambda: len(redacting.records()) >= before + calls - 6)
    assert wait_for(lambda: len(redacting.access_log()) > before + calls)
    values = list(dict.fromkeys(plants.all))
    everything = written(redacting)

    assert {"up.out", "st/extproc.log", "st/envoy/run/access.log", "metrics/metrics"} <= set(everything)
    assert any(Path(name).parent.name == "detectors" for name in everything)
    assert len(values) > 25
    cores = {core(value) for value in values}
    assert cores <= planted_in(" ".join(cores).encode(), cores)
    assert {name: found for name, data in everything.items() if (found := planted_in(data, cores))} == {}
    said = everything["st/extproc.log"] + everything["st/envoy/run/access.log"] + everything["up.out"]
    assert found_in(said, values[-200:]) == []  # nor below any encoding
    assert b"EMAIL_ADDRESS" in everything["metrics/metrics"]


def planted_in(data: bytes, cores: set[str]) -> set[str]:
    """Which of these occur: whatever has the shape of a value, at any place, is looked up."""
    return {found.decode() for shape in SHAPES for found in re.findall(rb"(?=(" + shape + rb"))", data)} & cores


def core(value: str) -> str:
    """The part of a value that every spelling has: of a code name what stands before the quotes."""
    return value.partition("~")[0] if value.startswith("T") else value
