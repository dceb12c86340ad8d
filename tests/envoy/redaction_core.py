"""The core with redaction on, for playbooks: a scanner that knows what was planted, and nothing that takes time."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import PurePath
from typing import Any

from extproc.config import load
from extproc.exchange.effects import FindEntities, FoundEntities
from extproc.exchange.setup import Setup
from extproc.policies.profiles import Scanners
from extproc.runtime import Detection, build
from extproc.text import Check, Finding, never
from gateway import CONFIG
from playbook import Playbook
from talk import SSE, sent_on

PATHS = {
    "openai": "/v1/chat/completions",
    "responses": "/v1/responses",
    "anthropic": "/v1/messages",
}
SECTION = "\nredaction: {profiles: {standard: {names: off, deny: {CODENAME: [xyz], EMPLOYEE_ID: [xyz]}}}}\n"


class Planted:
    """An `effects.Scanner` that finds these values, by kind, wherever they stand."""

    version = b"planted values  "

    def __init__(self, values: Mapping[str, str]) -> None:
        """`values`: value -> kind."""
        self._kinds = dict(values)
        self._pattern = re.compile("|".join(re.escape(one) for one in sorted(values, key=len, reverse=True)))

    def scan(self, text: str, check: Check = never) -> tuple[Finding, ...]:
        found = self._pattern.finditer(text)
        return tuple(Finding(self._kinds[one.group()], one.start(), one.end(), 1.0, "planted") for one in found)

    def is_long(self, texts: Sequence[str]) -> bool:
        return False


def redacting(values: Mapping[str, str], section: str = SECTION) -> Setup:
    """A gateway that finds these values; `section` is its redaction section."""
    config = load((CONFIG + section).encode(), "gateway.yaml", base=PurePath("/nowhere"))
    planted = Planted(values)
    assert config.redaction is not None
    scanners = {name: Scanners(planted, planted, None) for name in config.redaction.profiles}
    return build(config, detection=Detection(scanners, b"k" * 32)).setup


def playbook(setup: Setup) -> Playbook:
    """One exchange; what it wants to have searched is searched."""
    play = Playbook(setup)
    play.answers = {**play.answers, FindEntities: _find}
    return play


def _find(effect: FindEntities) -> FoundEntities:
    return FoundEntities(tuple(effect.scanner.scan(text) for text in effect.texts), 0.0, 0, len(effect.texts))


def ask(play: Playbook, api: str, text: str) -> bytes:
    """A streamed call with `text` in it; what was sent on in place of its body."""
    said = [{"role": "user", "content": text}]
    body: dict[str, Any] = {"model": "gpt-4o-mini", "stream": True}
    if api == "responses":
        body["input"] = text
    elif api == "openai":
        body |= {"messages": said, "stream_options": {"include_usage": True}}
    else:
        body |= {"model": "claude-haiku-4-5", "max_tokens": 99, "messages": said}
    return send(play, api, body)


def send(play: Playbook, api: str, body: dict[str, Any]) -> bytes:
    """A call with this body; what was sent on in its place. Fails where nothing was changed."""
    claude = {"p_authority": "api.anthropic.com", "authorization": "", "x_api_key": "exk-test"}
    play.request(PATHS[api], **({**claude, "anthropic_version": "2023-06-01"} if api == "anthropic" else {}))
    (action,) = play.body(json.dumps(body).encode())
    assert action.data is not None, "nothing was found in the request"
    return action.data


def answer(play: Playbook, pieces: Sequence[bytes], **fields: str) -> bytes:
    """Give a streamed answer in these pieces; what the caller gets."""
    play.response(content_type=SSE, **fields)
    out = []
    for at, piece in enumerate(pieces, 1):
        out.append(sent_on(play.answer(piece, end=at == len(pieces)), piece))
        play.now -= 0.0099  # thousands of pieces, and the whole answer has its time limit
    return b"".join(out)


def data_of(stream: bytes) -> Iterator[Any]:
    """The JSON data of a stream's events, read in the plainest way."""
    for line in stream.splitlines():
        text = line.removeprefix(b"data:").strip()
        if line.startswith(b"data:") and text.startswith(b"{"):
            yield json.loads(text)


def spoken(stream: bytes) -> dict[tuple[Any, ...], str]:
    """What a stream says, by channel."""
    return spoken_events(data_of(stream))


def spoken_events(events: Iterable[Any]) -> dict[tuple[Any, ...], str]:
    """What events say, by channel: content, reasoning, arguments; Responses' whole texts have channels of their own."""
    told: dict[tuple[Any, ...], str] = {}

    def add(text: object, *channel: Any) -> None:
        if isinstance(text, str) and text:
            told[channel] = told.get(channel, "") + text

    for event in events:
        kind = event.get("type") or ""
        for choice in event.get("choices") or ():
            delta = choice.get("delta") or {}
            for name in ("content", "reasoning_content", "refusal"):
                add(delta.get(name), name, choice["index"])
            for call in delta.get("tool_calls") or ():
                add((call.get("function") or {}).get("arguments"), "arguments", choice["index"], call["index"])
                add((call.get("function") or {}).get("name"), "name", choice["index"], call["index"])
        if kind == "content_block_delta":
            for name in ("text", "thinking", "partial_json"):
                add(event["delta"].get(name), name, event["index"])
        elif kind == "content_block_start":
            add(event["content_block"].get("name"), "name", event["index"])
        elif kind.startswith("response.") and kind.endswith(".delta"):
            add(event["delta"], kind.removesuffix(".delta"), event.get("output_index"))
        elif kind.startswith("response.") and kind.endswith(".done"):
            add(event.get("text") or event.get("arguments"), kind, event.get("output_index"))
        elif kind == "response.output_item.added":
            add(event["item"].get("name"), "name", event["output_index"])
        elif kind == "response.completed":
            add(json.dumps(event["response"]["output"]), kind)
    return told
