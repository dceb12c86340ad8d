"""OpenAI's Responses: https://platform.openai.com/docs/api-reference/responses and .../responses-streaming."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from extproc.sim.answer import SimAnswer, json_answer, named_event, sse_answer
from extproc.sim.openai_chat import chosen_tool, model_of, required
from extproc.sim.text import (
    CREATED,
    BadRequestError,
    Hints,
    Json,
    Output,
    ToolCall,
    count_tokens,
    cut,
    identifier,
    last_user_text,
    positive,
    reasoning_tokens,
    reply,
    sample,
    split_tokens,
)

Event = dict[str, Any]


@dataclass(frozen=True, slots=True)
class _Turn:
    body: Json
    model: str
    id: str
    output: Output
    tool: ToolCall | None
    usage: dict[str, Any]

    @property
    def item_id(self) -> str:
        return identifier("fc_" if self.tool else "msg_", self.id, length=48)

    @property
    def incomplete(self) -> bool:
        return self.tool is None and self.output.truncated


def responses(body: Json, hints: Hints) -> SimAnswer:
    """The answer to POST /v1/responses, JSON or stream (which ends without `[DONE]`). Raises BadRequestError."""
    turn = _turn(body, hints)
    if body.get("stream") is not True:
        return json_answer(_response(turn, done=True), indent=True)
    events = enumerate(_events(turn))
    return sse_answer(named_event({"type": event.pop("type"), "sequence_number": n, **event}) for n, event in events)


def _turn(body: Json, hints: Hints) -> _Turn:
    model, asked = model_of(body), required(body, "input", object)
    if not isinstance(asked, str | list):
        raise BadRequestError("Invalid type for 'input': expected one of a string or an array.", "input")
    items = [{"role": "user", "content": asked}] if isinstance(asked, str) else asked
    tool = None
    last = items[-1] if items else None
    if not (isinstance(last, Mapping) and str(last.get("type", "")).endswith("_output")):
        found = chosen_tool(body, ("name",))
        tool = ToolCall(found[0], sample(found[1])) if found else None
    limit = positive(body, "max_output_tokens")
    output = _structured(body, limit) or reply(last_user_text(items), limit, hints)
    prompt = count_tokens(asked) + count_tokens(body.get("instructions")) + count_tokens(body.get("tools")) + 6
    reasoning = reasoning_tokens(model)
    spoken = reasoning + (len(tool.pieces) + 4 if tool else len(output.pieces))
    usage = {
        "input_tokens": prompt,
        "input_tokens_details": {"cached_tokens": min(hints.cached, prompt)},
        "output_tokens": spoken,
        "output_tokens_details": {"reasoning_tokens": reasoning},
        "total_tokens": prompt + spoken,
    }
    return _Turn(body, model, identifier("resp_", hints.seed, length=48), output, tool, usage)


def _structured(body: Json, limit: int | None) -> Output | None:
    wanted = body.get("text")
    wanted = wanted.get("format") if isinstance(wanted, Mapping) else None
    if not isinstance(wanted, Mapping) or wanted.get("type") not in ("json_schema", "json_object"):
        return None
    value = sample(wanted["schema"]) if wanted.get("schema") else {"answer": "simulated"}
    return cut(split_tokens(orjson.dumps(value).decode()), limit)


def _part(text: str) -> dict[str, Any]:
    return {"type": "output_text", "annotations": [], "logprobs": [], "text": text}


def _item(turn: _Turn, *, done: bool) -> dict[str, Any]:
    status = "in_progress" if not done else "incomplete" if turn.incomplete else "completed"
    if turn.tool is not None:
        arguments = "".join(turn.tool.pieces) if done else ""
        call = {"id": turn.item_id, "type": "function_call", "status": status, "arguments": arguments}
        return {**call, "call_id": identifier("call_", turn.id), "name": turn.tool.name}
    content = [_part(turn.output.text)] if done else []
    return {"id": turn.item_id, "type": "message", "status": status, "content": content, "role": "assistant"}


def _response(turn: _Turn, *, done: bool) -> dict[str, Any]:
    body = turn.body
    status = "in_progress" if not done else "incomplete" if turn.incomplete else "completed"
    return {
        "id": turn.id,
        "object": "response",
        "created_at": CREATED,
        "status": status,
        "background": False,
        "completed_at": CREATED + 1 if status == "completed" else None,
        "error": None,
        "incomplete_details": {"reason": "max_output_tokens"} if status == "incomplete" else None,
        "instructions": body.get("instructions"),
        "max_output_tokens": body.get("max_output_tokens"),
        "model": turn.model,
        "output": [_item(turn, done=True)] if done else [],
        "parallel_tool_calls": body.get("parallel_tool_calls", True),
        "previous_response_id": body.get("previous_response_id"),
        "reasoning": {"effort": None, "summary": None},
        "service_tier": "default",
        "store": body.get("store", True),
        "temperature": body.get("temperature", 1.0),
        "text": body.get("text") or {"format": {"type": "text"}, "verbosity": "medium"},
        "tool_choice": body.get("tool_choice", "auto"),
        "tools": body.get("tools") or [],
        "top_p": body.get("top_p", 1.0),
        "truncation": "disabled",
        "usage": turn.usage if done else None,
        "user": body.get("user"),
        "metadata": body.get("metadata") or {},
    }


def _events(turn: _Turn) -> Iterator[Event]:
    yield {"type": "response.created", "response": _response(turn, done=False)}
    yield {"type": "response.in_progress", "response": _response(turn, done=False)}
    yield {"type": "response.output_item.added", "output_index": 0, "item": _item(turn, done=False)}
    yield from _call_events(turn, turn.tool) if turn.tool is not None else _text_events(turn)
    yield {"type": "response.output_item.done", "output_index": 0, "item": _item(turn, done=True)}
    last = "response.incomplete" if turn.incomplete else "response.completed"
    yield {"type": last, "response": _response(turn, done=True)}


def _text_events(turn: _Turn) -> Iterator[Event]:
    where = {"item_id": turn.item_id, "output_index": 0, "content_index": 0}
    yield {"type": "response.content_part.added", **where, "part": _part("")}
    for piece in turn.output.pieces:
        padding = identifier("", turn.id, piece, length=16)[len(piece) :]
        yield {"type": "response.output_text.delta", **where, "delta": piece, "logprobs": [], "obfuscation": padding}
    yield {"type": "response.output_text.done", **where, "text": turn.output.text, "logprobs": []}
    yield {"type": "response.content_part.done", **where, "part": _part(turn.output.text)}


def _call_events(turn: _Turn, tool: ToolCall) -> Iterator[Event]:
    where = {"item_id": turn.item_id, "output_index": 0}
    for piece in tool.pieces:
        padding = identifier("", turn.id, piece, length=16)[len(piece) :]
        yield {"type": "response.function_call_arguments.delta", **where, "delta": piece, "obfuscation": padding}
    done = {"type": "response.function_call_arguments.done", **where, "arguments": "".join(tool.pieces)}
    yield {**done, "name": tool.name}
