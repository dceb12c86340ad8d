"""OpenAI's Responses: https://platform.openai.com/docs/api-reference/responses and .../responses-streaming."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from extproc.sim.answer import SimAnswer, json_answer, named_event, sse_answer
from extproc.sim.echo import echo_of, offered
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
    parts: tuple[_Part, ...]
    usage: dict[str, Any]

    @property
    def incomplete(self) -> bool:
        return any(isinstance(part.content, Output) and part.content.truncated for part in self.parts)


@dataclass(frozen=True, slots=True)
class _Part:
    """One item of the output: a message, a summary of reasoning, or a call of a tool."""

    id: str
    content: Output | ToolCall
    is_reasoning: bool = False


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
    limit = positive(body, "max_output_tokens")
    said = last_user_text(items)
    answered = bool(items) and isinstance(items[-1], Mapping) and str(items[-1].get("type", "")).endswith("_output")
    echo = echo_of(body, hints, said)
    found = None if answered else chosen_tool(body, ("name",))
    contents: list[Output | ToolCall]
    summary = False
    if echo is not None:
        summary = bool(body.get("reasoning"))
        said_again = echo.document if _wants_json(body) else echo.output
        calls = () if answered else echo.calls(offered(body))
        contents = [*([echo.output] if summary else []), said_again, *calls]
    elif found:
        contents = [ToolCall(found[0], sample(found[1]))]
    else:
        contents = [_structured(body, limit) or reply(said, limit, hints)]
    prompt = count_tokens(asked) + count_tokens(body.get("instructions")) + count_tokens(body.get("tools")) + 6
    reasoning = reasoning_tokens(model)
    spoken = reasoning + sum(len(one.pieces) + (4 if isinstance(one, ToolCall) else 0) for one in contents)
    usage = {
        "input_tokens": prompt,
        "input_tokens_details": {"cached_tokens": min(hints.cached, prompt)},
        "output_tokens": spoken,
        "output_tokens_details": {"reasoning_tokens": reasoning},
        "total_tokens": prompt + spoken,
    }
    number = identifier("resp_", hints.seed, length=48)
    return _Turn(body, model, number, tuple(_parts(number, contents, summary=summary)), usage)


def _parts(number: str, contents: list[Output | ToolCall], *, summary: bool) -> Iterator[_Part]:
    for index, content in enumerate(contents):
        is_reasoning = summary and not index
        prefix = "rs_" if is_reasoning else "fc_" if isinstance(content, ToolCall) else "msg_"
        seed = (number, str(index)) if index else (number,)
        yield _Part(identifier(prefix, *seed, length=48), content, is_reasoning)


def _wants_json(body: Json) -> bool:
    wanted = body.get("text")
    wanted = wanted.get("format") if isinstance(wanted, Mapping) else None
    return isinstance(wanted, Mapping) and wanted.get("type") in ("json_schema", "json_object")


def _structured(body: Json, limit: int | None) -> Output | None:
    if not _wants_json(body):
        return None
    schema = body["text"]["format"].get("schema")
    value = sample(schema) if schema else {"answer": "simulated"}
    return cut(split_tokens(orjson.dumps(value).decode()), limit)


def _text_part(text: str) -> dict[str, Any]:
    return {"type": "output_text", "annotations": [], "logprobs": [], "text": text}


def _item(turn: _Turn, part: _Part, *, done: bool) -> dict[str, Any]:
    content = part.content
    if isinstance(content, ToolCall):
        arguments = "".join(content.pieces) if done else ""
        status = "completed" if done else "in_progress"
        call = {"id": part.id, "type": "function_call", "status": status, "arguments": arguments}
        index = turn.parts.index(part)
        return {**call, "call_id": identifier("call_", turn.id, *([str(index)] if index else [])), "name": content.name}
    if part.is_reasoning:
        summary = [{"type": "summary_text", "text": content.text}] if done else []
        return {"id": part.id, "type": "reasoning", "summary": summary}
    status = "in_progress" if not done else "incomplete" if content.truncated else "completed"
    said = [_text_part(content.text)] if done else []
    return {"id": part.id, "type": "message", "status": status, "content": said, "role": "assistant"}


def _response(turn: _Turn, *, done: bool) -> dict[str, Any]:
    body = turn.body
    status = "in_progress" if not done else "incomplete" if turn.incomplete else "completed"
    reasoning = body.get("reasoning")
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
        "output": [_item(turn, part, done=True) for part in turn.parts] if done else [],
        "parallel_tool_calls": body.get("parallel_tool_calls", True),
        "previous_response_id": body.get("previous_response_id"),
        "reasoning": reasoning if isinstance(reasoning, Mapping) else {"effort": None, "summary": None},
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
    for index, part in enumerate(turn.parts):
        yield {"type": "response.output_item.added", "output_index": index, "item": _item(turn, part, done=False)}
        yield from _part_events(turn, index, part)
        yield {"type": "response.output_item.done", "output_index": index, "item": _item(turn, part, done=True)}
    last = "response.incomplete" if turn.incomplete else "response.completed"
    yield {"type": last, "response": _response(turn, done=True)}


def _part_events(turn: _Turn, index: int, part: _Part) -> Iterator[Event]:
    if isinstance(part.content, ToolCall):
        return _call_events(turn, {"item_id": part.id, "output_index": index}, part.content)
    if part.is_reasoning:
        return _summary_events({"item_id": part.id, "output_index": index, "summary_index": 0}, part.content)
    return _text_events(turn, {"item_id": part.id, "output_index": index, "content_index": 0}, part.content)


def _padding(turn: _Turn, piece: str) -> str:
    return identifier("", turn.id, piece, length=16)[len(piece) :]


def _text_events(turn: _Turn, where: Event, output: Output) -> Iterator[Event]:
    yield {"type": "response.content_part.added", **where, "part": _text_part("")}
    for piece in output.pieces:
        event = {"type": "response.output_text.delta", **where, "delta": piece, "logprobs": []}
        yield {**event, "obfuscation": _padding(turn, piece)}
    yield {"type": "response.output_text.done", **where, "text": output.text, "logprobs": []}
    yield {"type": "response.content_part.done", **where, "part": _text_part(output.text)}


def _summary_events(where: Event, output: Output) -> Iterator[Event]:
    yield {"type": "response.reasoning_summary_part.added", **where, "part": {"type": "summary_text", "text": ""}}
    for piece in output.pieces:
        yield {"type": "response.reasoning_summary_text.delta", **where, "delta": piece}
    yield {"type": "response.reasoning_summary_text.done", **where, "text": output.text}
    part = {"type": "summary_text", "text": output.text}
    yield {"type": "response.reasoning_summary_part.done", **where, "part": part}


def _call_events(turn: _Turn, where: Event, tool: ToolCall) -> Iterator[Event]:
    for piece in tool.pieces:
        event = {"type": "response.function_call_arguments.delta", **where, "delta": piece}
        yield {**event, "obfuscation": _padding(turn, piece)}
    done = {"type": "response.function_call_arguments.done", **where, "arguments": "".join(tool.pieces)}
    yield {**done, "name": tool.name}
