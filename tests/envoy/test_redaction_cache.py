"""A chat that grows goes out with the same beginning every time, whichever worker takes the turn: prompt caches stay warm."""

from __future__ import annotations

import itertools
import json
from typing import Any

import pytest

from envoy.machine import Machine
from envoy.redaction_calls import CHAT, MESSAGES, post, said
from envoy.redaction_values import Plants

pytestmark = pytest.mark.envoy

TURNS = 20


def opening(path: str, v: Plants) -> dict[str, Any]:
    """A request whose messages come last, so that a turn more only adds to its end."""
    schema = {"type": "object", "properties": {"who": {"type": "string", "enum": [v.email(), v.iban()]}}}
    if path == MESSAGES:
        tools = [{"name": "find", "description": f"For {v.codename()}", "input_schema": schema}]
        head = {"model": "smart", "max_tokens": 99, "system": f"Serve {v.email()}", "tool_choice": {"type": "none"}}
        return {**head, "tools": tools, "messages": []}
    function = {"name": "find", "description": f"For {v.codename()}", "parameters": schema}
    tools = [{"type": "function", "function": function}]
    said_first = [{"role": "system", "content": f"Serve {v.email()}, <EMAIL_ADDRESS_4> too."}]
    return {"model": "fast", "tool_choice": "none", "tools": tools, "messages": said_first}


@pytest.mark.parametrize("path", [CHAT, MESSAGES])
def test_the_shared_prefix_stays(redacting: Machine, plants: Plants, path: str) -> None:
    """20 turns on connections of their own over two workers: each forwarded body begins with the one before."""
    api = "anthropic" if path == MESSAGES else "openai"
    body = opening(path, plants)
    first = len(plants.all)
    known: list[str] = []
    for turn in range(TURNS):
        known.append(plants())
        text = f"Turn {turn}: {known[-1]}, as {known[turn // 2]} said, <CREDIT_CARD_{turn}> and {plants.email()}"
        body["messages"].append({"role": "user", "content": text})
        answer = said(post(redacting, path, body))
        assert answer == text
        body["messages"].append({"role": "assistant", "content": answer})
    sent = [seen.body for seen in redacting.seen(api)]

    assert len(sent) == TURNS
    for before, after in itertools.pairwise(sent):
        assert before.endswith(b"]}")
        assert after.startswith(before[:-2])
        assert len(json.loads(after)["messages"]) == len(json.loads(before)["messages"]) + 2
    assert redacting.holding(plants.all[first:]) == {}
    text = json.loads(sent[-1])["messages"][-1]["content"]
    assert "<EMAIL_ADDRESS_" in text


def test_two_workers_took_part(redacting: Machine, plants: Plants) -> None:
    """Both scan, and both give a value the same placeholder: what the turns above rest on."""
    value = plants.email()
    before = workers(redacting)
    for _ in range(12):
        post(
            redacting, CHAT, {"model": "fast", "messages": [{"role": "user", "content": f"of {plants.iban()} {value}"}]}
        )
    after = workers(redacting)

    assert {seen.body for seen in redacting.seen("openai")} == {
        b'{"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "of <IBAN_CODE_1> <EMAIL_ADDRESS_1>"}]}'
    }
    assert len([name for name in after if after[name] > before.get(name, 0)]) == 2


def workers(gateway: Machine) -> dict[str, int]:
    """Requests that each worker's endpoint has had, from Envoy's list of clusters."""
    found = {}
    for line in gateway.get("admin", "/clusters").splitlines():
        cluster, _, rest = line.partition("::")
        if cluster == "extproc" and "::rq_total::" in rest:
            place, _, count = rest.partition("::rq_total::")
            found[place] = int(count)
    return found
