"""Anthropic's Messages, token counts and models: https://docs.anthropic.com/en/api/messages and .../messages-streaming."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

from extproc.sim.answer import SimAnswer, json_answer, named_event, sse_answer
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


def messages(body: Json, hints: Hints) -> SimAnswer:
    """The answer to POST /v1/messages, JSON or stream. Raises BadRequestError."""
    said = _checked(body)
    limit = positive(body, "max_tokens")
    if limit is None:
        raise BadRequestError("max_tokens: Field required", "max_tokens")
    output, tool = reply(last_user_text(said), limit, hints), _tool(body, said)
    spoken = len(tool.pieces) + 20 if tool else len(output.pieces)
    usage = _usage(body, spoken, hints)
    number = identifier("msg_", hints.seed)
    message: dict[str, Any] = {"model": body["model"], "id": number, "type": "message", "role": "assistant"}
    reason = "tool_use" if tool else "max_tokens" if output.truncated else "end_turn"
    if body.get("stream") is True:
        return sse_answer(named_event(event) for event in _events(message, usage, reason, tool or output))
    block = _block(tool, number) | {"input": tool.arguments} if tool else {"type": "text", "text": output.text}
    message |= {"content": [block], "stop_reason": reason, "stop_sequence": None, "usage": usage}
    return json_answer(message)


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
    content = said[-1].get("content") if isinstance(said[-1], Mapping) else None
    parts = content if isinstance(content, list) else []
    answered = any(isinstance(part, Mapping) and part.get("type") == "tool_result" for part in parts)
    found = None if answered or forbidden else chosen_tool(body, ("name",))
    return ToolCall(found[0], sample(found[1])) if found else None


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


def _block(tool: ToolCall, number: str) -> dict[str, Any]:
    return {"type": "tool_use", "id": identifier("toolu_", number), "name": tool.name, "input": {}}


def _events(message: Json, usage: Json, reason: str, content: ToolCall | Output) -> Iterator[dict[str, Any]]:
    start = {
        **message,
        "content": [],
        "stop_reason": None,
        "stop_sequence": None,
        "usage": {**usage, "output_tokens": 1},
    }
    yield {"type": "message_start", "message": start}
    if isinstance(content, ToolCall):
        block: dict[str, Any] = _block(content, message["id"])
        deltas = [{"type": "input_json_delta", "partial_json": piece} for piece in ("", *content.pieces)]
    else:
        block = {"type": "text", "text": ""}
        deltas = [{"type": "text_delta", "text": piece} for piece in content.pieces]
    yield {"type": "content_block_start", "index": 0, "content_block": block}
    yield {"type": "ping"}
    for delta in deltas:
        yield {"type": "content_block_delta", "index": 0, "delta": delta}
    yield {"type": "content_block_stop", "index": 0}
    kept = ("input_tokens", "cache_creation_input_tokens", "cache_read_input_tokens", "output_tokens")
    last = {"stop_reason": reason, "stop_sequence": None}
    yield {"type": "message_delta", "delta": last, "usage": {name: usage[name] for name in kept}}
    yield {"type": "message_stop"}
