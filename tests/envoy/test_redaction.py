"""Redaction through real Envoy with the vendors' SDKs: what is planted never arrives, and the caller never notices."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable
from typing import Any

import pytest

from envoy import redaction_bodies as bodies
from envoy.machine import Machine
from envoy.redaction_bodies import skeleton, strings
from envoy.redaction_core import spoken_events
from envoy.redaction_values import Plants
from envoy.ways import Way, client, collect, settle

pytestmark = pytest.mark.envoy

SYNC = Way("base_url", "h1", "sync")
ASYNC = Way("base_url_tls", "h2", "async")
PLACEHOLDER = re.compile(rb"<[A-Z][A-Z_]*_[0-9]+>")
CHAT = ("openai", lambda sdk: sdk.chat.completions)
RESPONSES = ("openai", lambda sdk: sdk.responses)
MESSAGES = ("anthropic", lambda sdk: sdk.messages)
CALLS: list[tuple[str, Any, Callable[[Plants], dict[str, Any]]]] = [
    ("chat", CHAT, bodies.chat),
    ("responses", RESPONSES, bodies.responses),
    ("responses-string", RESPONSES, bodies.responses_string),
    ("messages", MESSAGES, bodies.messages),
    ("messages-plain", MESSAGES, bodies.messages_plain),
]


async def said_by(gateway: Machine, kind: Any, way: Way, body: dict[str, Any], **faults: str) -> list[str]:
    """Make a call that echoes all it is told; every string of the answer, of a stream joined by channel."""
    api, place = kind
    headers = {"x-sim-echo": "all"} | {f"x-sim-{name}": value for name, value in faults.items()}
    sdk = client(gateway, api, way, default_headers=headers)
    try:
        answer = await settle(place(sdk).create(**body))
        if not body.get("stream"):
            return list(strings(answer.model_dump()))
        events = [event.model_dump() for event in await collect(answer)]
        return list(spoken_events(events).values())
    finally:
        await settle(sdk.close())


def documents(said: Iterable[str]) -> list[Any]:
    """Those of the strings that are arguments of tools, parsed."""
    return [json.loads(one) for one in said if one.startswith('{"text_')]


@pytest.mark.parametrize(("kind", "make"), [call[1:] for call in CALLS], ids=[call[0] for call in CALLS])
@pytest.mark.parametrize("stream", [False, True], ids=["json", "stream"])
@pytest.mark.parametrize("way", [SYNC, ASYNC], ids=["sync", "async"])
async def test_every_position(
    redacting: Machine, plants: Plants, kind: Any, make: Callable[[Plants], dict[str, Any]], stream: bool, way: Way
) -> None:
    """The vendor sees none of the values at all; the caller gets every one of them back, in valid arguments too."""
    before = len(plants.all)
    body = make(plants) | ({"stream": True} if stream else {})
    values = plants.all[before:]
    said = await said_by(redacting, kind, way, body, piece="4" if stream else "0")

    (seen,) = redacting.seen(kind[0])
    assert redacting.holding(values) == {}
    assert skeleton(without_options(seen.json())) == skeleton(body)
    assert len(PLACEHOLDER.findall(seen.body)) >= len(values) * 0.8
    texts = [value for value in values if value not in plants.in_names]
    assert [value for value in texts if not any(value in one for one in said)] == []
    assert not PLACEHOLDER.search("".join(said).encode())
    if "tools" in body:
        assert called(body) & set(said)
        found = documents(said)
        assert found or kind is MESSAGES
        assert not [value for one in found for value in texts if not any(value in text for text in one.values())]


def called(body: dict[str, Any]) -> set[str]:
    """Names of the tools in a request."""
    return {tool.get("function", tool)["name"] for tool in body["tools"]} - {"other"}


def without_options(tree: dict[str, Any]) -> dict[str, Any]:
    """Without what the gateway adds to a stream of Chat Completions."""
    return {key: value for key, value in tree.items() if key != "stream_options"}
