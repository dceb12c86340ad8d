"""Calls by hand, whose bytes are the test's own: a profile is chosen by the label, the simulator is told what to answer."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from typing import Any

import httpx2

from envoy import ways
from envoy.machine import Machine
from envoy.redaction_core import data_of, spoken_events
from extproc.sim.answer import SimAnswer
from extproc.sim.insert import insert_text
from extproc.sim.vendors import synthetic

CHAT = "/openai/v1/chat/completions"
RESPONSES = "/openai/v1/responses"
EMBEDDINGS = "/openai/v1/embeddings"
MESSAGES = "/anthropic/v1/messages"
COUNT = "/anthropic/v1/messages/count_tokens"


def chat(*texts: str, **more: Any) -> dict[str, Any]:
    """A chat in which the user says these."""
    return {"model": "fast", **more, "messages": [{"role": "user", "content": text} for text in texts]}


def messages(*texts: str, **more: Any) -> dict[str, Any]:
    """The same for Anthropic."""
    return {**chat(*texts), "model": "smart", "max_tokens": 99, **more}


def _request(gateway: Machine, path: str, body: dict[str, Any] | bytes, profile: str, told: dict[str, str]) -> Any:
    key, tenant = told.pop("key", gateway.key), told.pop("tenant", "")
    headers = {"content-type": "application/json", "x-sim-echo": "last"}
    headers |= {f"x-sim-{name.replace('_', '-')}": value for name, value in told.items()}
    if path.startswith("/anthropic"):
        headers |= {"x-api-key": key, "anthropic-version": "2023-06-01"}
    else:
        headers["authorization"] = f"Bearer {key}"
    if profile:
        headers["x-llm-data-class"] = profile
    if tenant:
        headers["x-llm-tenant"] = tenant
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    return {"method": "POST", "url": f"{gateway.url()}{path}", "content": data, "headers": headers}


def post(gateway: Machine, path: str, body: dict[str, Any] | bytes, profile: str = "", **told: str) -> httpx2.Response:
    """Send it. `told`: the simulator's faults, `key` and `tenant` of the caller; it echoes unless told otherwise."""
    with ways.raw(gateway) as http:
        return http.request(**_request(gateway, path, body, profile, told))


def received(gateway: Machine, path: str, body: dict[str, Any], profile: str) -> tuple[bytes, bool]:
    """What comes of an answer, and whether it was cut off behind that."""
    got = b""
    with ways.raw(gateway) as http, http.stream(**_request(gateway, path, body, profile, {})) as reply:
        assert reply.status_code == 200
        try:
            for piece in reply.iter_raw():
                got += piece
        except httpx2.RemoteProtocolError:
            return got, True
    return got, False


def said(reply: httpx2.Response) -> str:
    """The text of an answer, JSON or streamed."""
    assert reply.status_code == 200, reply.text
    if reply.headers["content-type"].startswith("text/event-stream"):
        told = spoken_events(data_of(reply.content))
        first = next(channel for channel in told if channel[0] in ("content", "text", "response.output_text"))
        return told[first]
    tree = reply.json()
    if "choices" in tree:
        return tree["choices"][0]["message"]["content"]
    return tree["content"][0]["text"] if "content" in tree else tree["output"][0]["content"][0]["text"]


def refused(reply: httpx2.Response) -> tuple[int, str, str, str | None]:
    """Status, `x-llm-error`, message and parameter of a refusal in the vendor's shape."""
    tree = reply.json()
    error = tree["error"]
    assert error["type"]
    assert ("param" in error) == (tree.get("type") != "error")
    return reply.status_code, reply.headers["x-llm-error"], error["message"], error.get("param")


def answer_saying(gateway: Machine, path: str, text: str, *, stream: bool = False, piece: int = 7) -> SimAnswer:
    """Let the vendor's next answer begin with `text`, in small deltas."""
    api = "anthropic" if path == MESSAGES else "openai"
    body = messages("hi", stream=stream) if path == MESSAGES else chat("hi", stream=stream)
    if path == RESPONSES:
        body = {"model": "m", "input": "hi", "stream": stream}
    endpoint: Any = {CHAT: "openai_chat", RESPONSES: "openai_responses", MESSAGES: "anthropic_messages"}[path]
    answer = insert_text(synthetic(endpoint, body), text, piece if stream else 0)
    if stream:  # event by event, as a vendor does
        events = re.split(rb"(?<=\n\n)", answer.body)
        answer = replace(answer, chunks=tuple(filter(None, events)), chunk_ms=1)
    gateway.script(api, answer)
    return answer
