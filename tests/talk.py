"""What tests on the compiled gateway say and look for: keys, bodies, streams, and what went on to the provider."""

from __future__ import annotations

import json
from typing import NamedTuple

from extproc.exchange.actions import Action, Answer, ContinueBody, ContinueHeaders, StreamBody
from extproc.exchange.effects import Caller
from extproc.exchange.events import RequestHeaders
from extproc.exchange.headers import Headers
from playbook import Playbook

KEY = "exk-" + "k" * 32
OTHER_KEY = "exk-" + "o" * 32
VENDOR_KEY = "sk-" + "v" * 40
NARROW = Caller(key_id="k2", team="narrow", app="app")
STRANGER = Caller(key_id="k3", team="nobody", app="app")
PROXY = "filter_state['llm.proxy_auth']"

CHAT = b'{"model":"gpt-4o-mini","messages":[{"role":"user","content":"hi there"}]}'
CHAT_STREAM = b'{"model":"gpt-4o-mini","stream":true,"messages":[{"role":"user","content":"hi there"}]}'
MESSAGES = b'{"model":"claude-haiku-4-5","max_tokens":9,"messages":[{"role":"user","content":"hi there"}]}'
MESSAGES_STREAM = MESSAGES[:-1] + b',"stream":true}'
SSE = "text/event-stream"
USAGE = {"prompt_tokens": 9, "completion_tokens": 4, "prompt_tokens_details": {"cached_tokens": 8}}
CHAT_ANSWER = json.dumps(
    {
        "id": "c1",
        "object": "chat.completion",
        "model": "gpt-4o-mini-2024-07-18",
        "choices": [{"index": 0, "message": {"role": "assistant", "content": "Hello."}, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 9, "completion_tokens": 2, "total_tokens": 11},
    }
).encode()


class Forwarded(NamedTuple):
    """The commit: what went on to the provider. `body` None: as it came."""

    set: dict[str, str]
    remove: set[str]
    body: bytes | None
    metadata: dict


def headers(*fields: tuple[str, str | bytes]) -> Headers:
    """Header fields in order, repeats kept."""
    return Headers((name, value if isinstance(value, bytes) else value.encode("latin-1")) for name, value in fields)


def begin(play: Playbook, *fields: tuple[str, str | bytes], path: str = "/v1/chat/completions", **more) -> tuple:
    """Request headers that hold these fields beside a call of OpenAI's (`host`, `method`, `end`, `attributes`)."""
    pseudo = (
        (":method", more.get("method", "POST")),
        (":path", path),
        (":authority", more.get("host", "api.openai.com")),
        ("content-type", "application/json"),
    )
    event = RequestHeaders(play.at(), headers(*pseudo, *fields), more.get("end", False), more.get("attributes", {}))
    return play.tell(event)


def call(play: Playbook, body: bytes = CHAT, path: str = "/v1/chat/completions", **fields: str) -> tuple[Action, ...]:
    """A whole request; the actions of the last word of it."""
    actions = play.request(path, **fields)
    return actions if answered(actions) else play.body(body)


def claude(play: Playbook, body: bytes = MESSAGES, path: str = "/v1/messages", **fields: str) -> tuple[Action, ...]:
    """A whole request to Anthropic, as its SDK sends it."""
    base = {
        "p_authority": "api.anthropic.com",
        "authorization": "",
        "x_api_key": KEY,
        "anthropic_version": "2023-06-01",
    }
    return call(play, body, path, **(base | fields))


def answered(actions: tuple[Action, ...]) -> Answer | None:
    """The answer in the provider's place, if that is what the actions are."""
    return actions[0] if actions and isinstance(actions[0], Answer) else None


def refused(actions: tuple[Action, ...]) -> tuple[int, str]:
    """Status and `x-llm-error` of a refusal; fails where it is none, or where a body went on beside it."""
    answer = answered(actions)
    assert answer is not None, actions
    assert len(actions) == 1
    assert json.loads(answer.body)["error"]["message"]
    return answer.status, dict(answer.headers)["x-llm-error"]


def forwarded(actions: tuple[Action, ...]) -> Forwarded:
    """The commit among the actions; fails where the call was not let through."""
    head = actions[0]
    assert isinstance(head, ContinueBody | ContinueHeaders), actions
    assert head.request
    assert head.reroute
    body = head.data if isinstance(head, ContinueBody) else None
    for action in actions[1:]:
        assert isinstance(action, StreamBody)
        body = action.data
    return Forwarded(dict(head.change.set), set(head.change.remove), body, dict(head.metadata or {}))


def event(data: object) -> bytes:
    """One event of OpenAI's chat streams."""
    return b"data: " + (data if isinstance(data, bytes) else json.dumps(data, separators=(",", ":")).encode()) + b"\n\n"


def chat_chunks(words: list[str], usage: dict | None) -> tuple[bytes, bytes]:
    """(as the provider sends it when asked for usage, as the caller would have had it without asking)."""
    asked, plain = [], []
    for position, word in enumerate(words):
        last = position == len(words) - 1
        choice = {"index": 0, "delta": {"content": word}, "finish_reason": "stop" if last else None}
        chunk = {"id": "c1", "object": "chat.completion.chunk", "model": "gpt-4o-mini", "choices": [choice]}
        plain.append(event(chunk))
        asked.append(event({**chunk, "usage": None}))
    asked.append(event({"id": "c1", "object": "chat.completion.chunk", "model": "m", "choices": [], "usage": usage}))
    return b"".join(asked) + event(b"[DONE]"), b"".join(plain) + event(b"[DONE]")


def claude_stream(words: list[str], *, output: int = 5) -> bytes:
    """A Messages stream."""
    start = {"model": "claude-haiku-4-5", "usage": {"input_tokens": 3, "output_tokens": 1}}
    events: list[dict] = [{"type": "message_start", "message": start}]
    events += [
        {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": word}} for word in words
    ]
    events.append({"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": output}})
    events.append({"type": "message_stop"})
    return b"".join(f"event: {one['type']}\ndata: {json.dumps(one)}\n\n".encode() for one in events)


def sent_on(actions: tuple[Action, ...], original: bytes) -> bytes:
    """The bytes that the caller gets for a piece of the answer that was `original`."""
    (action,) = actions
    assert isinstance(action, ContinueBody), action
    assert not action.request
    return original if action.data is None else action.data


def pieces(data: bytes, sizes: list[int]) -> list[bytes]:
    """`data` cut at these sizes, over and over."""
    found, position, turn = [], 0, 0
    while position < len(data):
        found.append(data[position : position + sizes[turn % len(sizes)]])
        position += len(found[-1])
        turn += 1
    return found or [b""]


def streamed(talk, cut: list[bytes], **fields: str) -> bytes:
    """Play the answer in these pieces; what the caller gets."""
    talk.response(content_type=SSE, **fields)
    out = [sent_on(talk.answer(piece, end=at == len(cut) - 1), piece) for at, piece in enumerate(cut)]
    return b"".join(out)
