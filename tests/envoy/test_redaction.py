"""Redaction through real Envoy with the vendors' SDKs: what is planted never arrives, and the caller never notices."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable
from typing import Any

import pytest

from envoy import recorded_cases
from envoy import redaction_bodies as bodies
from envoy.machine import Machine
from envoy.redaction_bodies import skeleton, strings
from envoy.redaction_calls import answer_saying, chat, messages, post, said
from envoy.redaction_core import spoken, spoken_events
from envoy.redaction_values import Plants
from envoy.ways import Way, client, collect, settle
from extproc.sim.answer import SimAnswer
from extproc.sim.faults import apply
from extproc.sim.insert import insert_text

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
    headers = {"x-sim-echo": faults.pop("echo", "all")} | {f"x-sim-{name}": value for name, value in faults.items()}
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
    heard = await said_by(redacting, kind, way, body, piece="4" if stream else "0")

    (seen,) = redacting.seen(kind[0])
    assert redacting.holding(values) == {}
    assert skeleton(without_options(seen.json())) == skeleton(body)
    assert len(PLACEHOLDER.findall(seen.body)) >= len(values) * 0.8
    texts = [value for value in values if value not in plants.in_names]
    assert [value for value in texts if not any(value in one for one in heard)] == []
    assert not PLACEHOLDER.search("".join(heard).encode())
    if "tools" in body:
        assert called(body) & set(heard)
        found = documents(heard)
        assert found or kind is MESSAGES
        assert not [value for one in found for value in texts if not any(value in text for text in one.values())]


def called(body: dict[str, Any]) -> set[str]:
    """Names of the tools in a request."""
    return {tool.get("function", tool)["name"] for tool in body["tools"]} - {"other"}


def without_options(tree: dict[str, Any]) -> dict[str, Any]:
    """Without what the gateway adds to a stream of Chat Completions."""
    return {key: value for key, value in tree.items() if key != "stream_options"}


@pytest.mark.parametrize("kind", [CHAT, RESPONSES, MESSAGES], ids=["chat", "responses", "messages"])
@pytest.mark.parametrize(
    "faults", [{"split": "1"}, {"split": "seed:5"}, {"gzip": "1"}, {"gzip": "1", "split": "7"}], ids=str
)
@pytest.mark.parametrize("stream", [False, True], ids=["json", "stream"])
async def test_cut_and_compressed_answers(
    redacting: Machine, plants: Plants, kind: Any, faults: dict[str, str], stream: bool
) -> None:
    """However the answer's bytes arrive, packed too, the caller reads it plainly."""
    text = f"{plants()} and {plants()}, {plants.codename()}"
    ask = [{"role": "user", "content": text}]
    plain = {
        CHAT[0]: {"model": "fast", "messages": ask},
        MESSAGES[0]: {"model": "smart", "max_tokens": 99, "messages": ask},
    }
    body: dict[str, Any] = {"model": "fast", "input": text} if kind is RESPONSES else plain[kind[0]]
    body |= {"stream": True} if stream else {}
    heard = await said_by(redacting, kind, SYNC, body, piece="3", echo="last", **faults)

    assert text in heard


@pytest.mark.parametrize("stream", [False, True], ids=["json", "stream"])
def test_what_was_compressed_says_so_no_more(redacting: Machine, plants: Plants, stream: bool) -> None:
    """An answer that is edited goes on without `content-encoding`, with the length it has."""
    value = plants.email()
    reply = post(redacting, "/openai/v1/chat/completions", chat(f"of {value}", stream=stream), gzip="1")

    assert "content-encoding" not in reply.headers
    assert stream or int(reply.headers["content-length"]) == len(reply.content)
    assert value in reply.text


@pytest.mark.parametrize(
    ("text", "forwarded"),
    [
        ("<EMAIL_ADDRESS_1> wrote to {}.", "<EMAIL_ADDRESS_1> wrote to <EMAIL_ADDRESS_2>."),
        ("{} wrote <EMAIL_ADDRESS_1>.", "<EMAIL_ADDRESS_1> wrote <LITERAL_1>."),
        ("<<EMAIL_ADDRESS_1>> <LITERAL_1> {} <PERSON_7", "<<EMAIL_ADDRESS_1>> <LITERAL_1> <EMAIL_ADDRESS_2> <PERSON_7"),
        (r"\u003cEMAIL_ADDRESS_1> {}", r"\u003cEMAIL_ADDRESS_1> <EMAIL_ADDRESS_1>"),
    ],
)
@pytest.mark.parametrize("stream", [False, True], ids=["json", "stream"])
def test_what_looks_like_a_placeholder(
    redacting: Machine, plants: Plants, text: str, forwarded: str, stream: bool
) -> None:
    """What the user typed comes back as typed, and never as somebody's value."""
    typed = text.format(plants.email())
    body = chat(typed, stream=stream, tools=[{"type": "function", "function": {"name": "f"}}])
    reply = post(redacting, "/openai/v1/chat/completions", body, piece="2")

    assert redacting.seen("openai")[-1].json()["messages"][0]["content"] == forwarded
    assert said(reply) == typed


@pytest.mark.parametrize("stream", [False, True], ids=["json", "stream"])
def test_what_the_model_makes_up(redacting: Machine, plants: Plants, stream: bool) -> None:
    """A placeholder that stands for nothing is text; one in other letters too."""
    value = plants.email()
    invented = "<EMAIL_ADDRESS_7> <email_address_1> EMAIL_ADDRESS_1 <EMAIL_ADDRESS_1> <EMAIL_ADDRESS_"
    answer_saying(redacting, "/openai/v1/chat/completions", invented, stream=stream)
    reply = post(redacting, "/openai/v1/chat/completions", chat(f"of {value}", stream=stream))

    assert said(reply).startswith(invented.replace("<EMAIL_ADDRESS_1>", value) + "This is")


@pytest.mark.parametrize("kind", [CHAT, RESPONSES], ids=["chat", "responses"])
@pytest.mark.parametrize("stream", [False, True], ids=["json", "stream"])
async def test_structured_output(redacting: Machine, plants: Plants, kind: Any, stream: bool) -> None:
    """An answer that is a JSON document is one after restoring, whatever the values hold."""
    text = f"of {plants.codename()}"
    if kind is CHAT:
        ask = {"messages": [{"role": "user", "content": text}], "response_format": {"type": "json_object"}}
    else:
        ask = {"input": text, "text": {"format": {"type": "json_object"}}}
    body = {"model": "fast", **ask} | ({"stream": True} if stream else {})
    heard = await said_by(redacting, kind, SYNC, body, piece="3", echo="last")

    assert {"text_0": text} in documents(heard)


LONG = 8000
RECORDED = ("openai-chat", "openai-responses", "anthropic-messages")


@pytest.mark.recorded
def test_recorded_streams(redacting: Machine, plants: Plants) -> None:
    """Streams that vendors sent, saying a placeholder in small deltas, in pieces of every size: the original comes out."""
    names = (
        [name for name in recorded_cases.names() if name.startswith(RECORDED)] if recorded_cases.ROOT.is_dir() else []
    )
    if not names:
        pytest.skip("no recorded bodies beside this checkout")
    tried = 0
    for turn, name in enumerate(names):
        case = recorded_cases.load(name)
        if case.body is None or not case.stream or case.meta["status"] != 200:
            continue
        plain = SimAnswer(200, (("content-type", "text/event-stream"),), (case.body,), content_length=False)
        saying = insert_text(plain, "<EMAIL_ADDRESS_1>, <EMAIL_ADDRESS_1>! ", 1 + turn % 5)
        if saying.body == plain.body:
            continue
        value = plants.email()
        body = messages(f"of {value}", stream=True) if case.api == "anthropic" else chat(f"of {value}", stream=True)
        body = {"model": "fast", "input": f"of {value}", "stream": True} if "responses" in name else body
        size = ("1" if len(saying.body) < LONG else "11", "seed:1", "97")[turn % 3]
        redacting.script(case.api, apply(saying, {"split": size}, "openai"))
        reply = post(redacting, f"/{case.api}{case.path}", body)
        told = {key: text.replace("<EMAIL_ADDRESS_1>", value) for key, text in spoken(saying.body).items()}
        assert spoken(reply.content) == told, name
        tried += 1
    assert tried >= 20
