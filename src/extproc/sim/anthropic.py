"""Anthropic's Messages, token counts and models: https://docs.anthropic.com/en/api/messages and .../messages-streaming."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

from extproc.sim.answer import SimAnswer, json_answer, named_event, sse_answer
from extproc.sim.echo import echo_of, offered
from extproc.sim.openai_chat import chosen_tool
from extproc.sim.text import (
    BadRequestError,
    Hints,
    Json,
    Output,
    ToolCall,
    count_tokens,
    identifier,
    last_user_text,
    positive,
    reply,
    sample,
)

MODELS: Final = {
    "claude-opus-4-8": "Claude Opus 4.8",
    "claude-sonnet-4-6": "Claude Sonnet 4.6",
    "claude-haiku-4-5": "Claude Haiku 4.5",
}


@dataclass(frozen=True, slots=True)
class Thinking:
    """What the model says it thought, in the pieces of a stream."""

    pieces: tuple[str, ...]

    @property
    def text(self) -> str:
        """The whole text."""
        return "".join(self.pieces)


Content: TypeAlias = Output | ToolCall | Thinking


def messages(body: Json, hints: Hints) -> SimAnswer:
    """The answer to POST /v1/messages, JSON or stream. Raises BadRequestError."""
    said = _checked(body)
    limit = positive(body, "max_tokens")
    if limit is None:
        raise BadRequestError("max_tokens: Field required", "max_tokens")
    content = _content(body, said, limit, hints)
    spoken = sum(len(part.pieces) + (20 if isinstance(part, ToolCall) else 0) for part in content)
    usage = _usage(body, spoken, hints)
    number = identifier("msg_", hints.seed)
    blocks = [_block(part, number, index) for index, part in enumerate(content)]
    message: dict[str, Any] = {"model": body["model"], "id": number, "type": "message", "role": "assistant"}
    last = content[-1]
    reason = "tool_use" if isinstance(last, ToolCall) else "max_tokens" if _is_cut(last) else "end_turn"
    if body.get("stream") is True:
        return sse_answer(named_event(event) for event in _events(message, usage, reason, (blocks, content)))
    message |= {"content": blocks, "stop_reason": reason, "stop_sequence": None, "usage": usage}
    return json_answer(message)


def _is_cut(part: Content) -> bool:
    return isinstance(part, Output) and part.truncated


def _content(body: Json, said: list[Any], limit: int, hints: Hints) -> list[Content]:
    question = last_user_text(said)
    echo = echo_of(body, hints, question)
    if echo is None:
        return [_tool(body, said) or reply(question, limit, hints)]
    thinking = body.get("thinking")
    enabled = isinstance(thinking, Mapping) and thinking.get("type") in ("enabled", "adaptive")
    calls = () if _is_answered(said) else echo.calls(offered(body))
    return [*([Thinking(echo.output.pieces)] if enabled else []), echo.output, *calls]


def count(body: Json, _hints: Hints) -> SimAnswer:
    """The answer to POST /v1/messages/count_tokens."""
    _checked(body)
    return json_answer({"input_tokens": _prompt(body)})


def models() -> SimAnswer:
    """The answer to GET /v1/models."""
    names = list(MODELS)
    data = [_model(name) for name in names]
    return json_answer({"data": data, "has_more": False, "first_id": names[0], "last_id": names[-1]})


def model(name: str) -> SimAnswer | None:
    """The answer to GET /v1/models/{name}; None for a model that is not there."""
    return json_answer(_model(name)) if name in MODELS else None


def _model(name: str) -> dict[str, str]:
    return {"type": "model", "id": name, "display_name": MODELS[name], "created_at": "2026-01-01T00:00:00Z"}


def _checked(body: Json) -> list[Any]:
    if not isinstance(body.get("model"), str):
        raise BadRequestError("model: Field required", "model")
    said = body.get("messages")
    if said is None:
        raise BadRequestError("messages: Field required", "messages")
    if not isinstance(said, list):
        raise BadRequestError("messages: Input should be a valid list", "messages")
    if not said:
        raise BadRequestError("messages: at least one message is required", "messages")
    return said


def _tool(body: Json, said: list[Any]) -> ToolCall | None:
    choice = body.get("tool_choice")
    forbidden = isinstance(choice, Mapping) and choice.get("type") == "none"
    found = None if _is_answered(said) or forbidden else chosen_tool(body, ("name",))
    return ToolCall(found[0], sample(found[1])) if found else None


def _is_answered(said: list[Any]) -> bool:
    """Whether the last message brings a tool's result."""
    content = said[-1].get("content") if isinstance(said[-1], Mapping) else None
    parts = content if isinstance(content, list) else []
    return any(isinstance(part, Mapping) and part.get("type") == "tool_result" for part in parts)


def _prompt(body: Json) -> int:
    return sum(count_tokens(body.get(name)) for name in ("system", "messages", "tools")) + 4


def _usage(body: Json, spoken: int, hints: Hints) -> dict[str, Any]:
    """`input_tokens` leaves out what was read from or written to a cache; a request that marks a cache writes half."""
    total = _prompt(body)
    read = min(hints.cached, total)
    written = total // 2 if not read and b'"cache_control"' in hints.seed else 0
    return {
        "input_tokens": total - read - written,
        "cache_creation_input_tokens": written,
        "cache_read_input_tokens": read,
        "cache_creation": {"ephemeral_5m_input_tokens": written, "ephemeral_1h_input_tokens": 0},
        "output_tokens": spoken,
        "service_tier": "standard",
    }


def _block(part: Content, number: str, index: int) -> dict[str, Any]:
    """A block of content as a JSON answer has it."""
    seed = (number, str(index)) if index else (number,)
    if isinstance(part, ToolCall):
        return {"type": "tool_use", "id": identifier("toolu_", *seed), "name": part.name, "input": part.arguments}
    if isinstance(part, Thinking):
        return {"type": "thinking", "thinking": part.text, "signature": _signature(part)}
    return {"type": "text", "text": part.text}


def _signature(part: Thinking) -> str:
    """Stands over the very text, as the vendor's does."""
    return base64.b64encode(hashlib.sha512(part.text.encode()).digest()).decode()


def _events(
    message: Json, usage: Json, reason: str, content: tuple[list[dict[str, Any]], list[Content]]
) -> Iterator[dict[str, Any]]:
    start = {
        **message,
        "content": [],
        "stop_reason": None,
        "stop_sequence": None,
        "usage": {**usage, "output_tokens": 1},
    }
    yield {"type": "message_start", "message": start}
    for index, (block, part) in enumerate(zip(*content, strict=True)):
        empty = {
            name: {} if name == "input" else "" for name in ("input", "text", "thinking", "signature") if name in block
        }
        yield {"type": "content_block_start", "index": index, "content_block": block | empty}
        if not index:
            yield {"type": "ping"}
        for delta in _deltas(part):
            yield {"type": "content_block_delta", "index": index, "delta": delta}
        yield {"type": "content_block_stop", "index": index}
    kept = ("input_tokens", "cache_creation_input_tokens", "cache_read_input_tokens", "output_tokens")
    last = {"stop_reason": reason, "stop_sequence": None}
    yield {"type": "message_delta", "delta": last, "usage": {name: usage[name] for name in kept}}
    yield {"type": "message_stop"}


def _deltas(part: Content) -> Iterator[dict[str, Any]]:
    if isinstance(part, ToolCall):
        for piece in ("", *part.pieces):
            yield {"type": "input_json_delta", "partial_json": piece}
    elif isinstance(part, Thinking):
        for piece in part.pieces:
            yield {"type": "thinking_delta", "thinking": piece}
        yield {"type": "signature_delta", "signature": _signature(part)}
    else:
        for piece in part.pieces:
            yield {"type": "text_delta", "text": piece}
