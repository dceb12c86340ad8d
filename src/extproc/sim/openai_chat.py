"""OpenAI's Chat Completions: https://platform.openai.com/docs/api-reference/chat."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any

import orjson

from extproc.sim.answer import SimAnswer, data_event, json_answer, sse_answer
from extproc.sim.echo import echo_of, offered
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


def required(body: Json, name: str, kind: type) -> Any:
    """A field without which OpenAI answers 400."""
    value = body.get(name)
    if value is None:
        raise BadRequestError(f"Missing required parameter: '{name}'.", name)
    if not isinstance(value, kind):
        raise BadRequestError(f"Invalid type for '{name}': expected another type.", name)
    return value


def model_of(body: Json) -> str:
    """The model's name, or OpenAI's own complaint."""
    model = body.get("model")
    if not isinstance(model, str) or not model:
        raise BadRequestError("you must provide a model parameter")
    return model


def chosen_tool(body: Json, name_at: tuple[str, ...]) -> tuple[str, object] | None:
    """The (name, schema) of the tool to call: the one that `tool_choice` names, else the first; None for no tool."""
    offered = body.get("tools") or []
    if not isinstance(offered, list):
        raise BadRequestError("Invalid type for 'tools': expected an array.", "tools")
    tools = [_function(tool) for tool in offered if isinstance(tool, Mapping)]
    named = [tool for tool in tools if isinstance(tool.get("name"), str)]
    choice = body.get("tool_choice")
    if not named or choice == "none":
        return None
    for key in name_at:
        choice = choice.get(key) if isinstance(choice, Mapping) else None
    tool = next((tool for tool in named if tool["name"] == choice), named[0])
    return tool["name"], tool.get("parameters", tool.get("input_schema"))


def _function(tool: Json) -> Json:
    inner = tool.get("function")
    return inner if isinstance(inner, Mapping) else tool


@dataclass(frozen=True, slots=True)
class _Turn:
    """What one request gets: the same content for every choice."""

    body: Json
    model: str
    id: str
    output: Output | None  # None: the answer is calls of tools and nothing else
    tools: tuple[ToolCall, ...]
    reasoning: Output | None
    usage: dict[str, Any]

    @property
    def finish_reason(self) -> str:
        if self.tools:
            return "tool_calls"
        return "length" if self.output is not None and self.output.truncated else "stop"

    def call(self, choice: int, index: int, arguments: str) -> dict[str, Any]:
        """One call of a tool, as a message has it."""
        number = identifier("call_", self.id, str(choice), *([str(index)] if index else []))
        return {"id": number, "type": "function", "function": {"name": self.tools[index].name, "arguments": arguments}}


def chat(body: Json, hints: Hints) -> SimAnswer:
    """The answer to POST /v1/chat/completions, JSON or stream. Raises BadRequestError."""
    turn = _turn(body, hints)
    count = positive(body, "n") or 1
    if body.get("stream") is True:
        return sse_answer((*_stream(turn, count), b"data: [DONE]\n\n"))
    choices = [_choice(turn, index) for index in range(count)]
    head = {"id": turn.id, "object": "chat.completion", "created": CREATED, "model": turn.model, "choices": choices}
    return json_answer(
        {**head, "usage": turn.usage, "service_tier": "default", "system_fingerprint": "fp_sim"}, indent=True
    )


def _turn(body: Json, hints: Hints) -> _Turn:
    model, messages = model_of(body), required(body, "messages", list)
    if not messages:
        raise BadRequestError("Invalid 'messages': empty array. Expected an array with minimum length 1.", "messages")
    limit = positive(body, "max_completion_tokens", "max_tokens")
    said = last_user_text(messages)
    answered = isinstance(messages[-1], Mapping) and messages[-1].get("role") == "tool"
    echo = echo_of(body, hints, said)
    found = None if answered else chosen_tool(body, ("function", "name"))
    output: Output | None
    if echo is not None:
        tools = () if answered else echo.calls(offered(body))
        output = echo.document if _wants_json(body) else echo.output
        reasoning = echo.output if body.get("reasoning_effort") else None
    else:
        tools = (ToolCall(found[0], sample(found[1])),) if found else ()
        output = _structured(body, limit) or reply(said, limit, hints)
        output = None if tools else output
        reasoning = None
    spoken = sum(len(tool.pieces) + 4 for tool in tools) + (len(output.pieces) if output else 0)
    prompt = count_tokens(messages) + count_tokens(body.get("tools")) + 3
    usage = _usage(prompt, spoken * (positive(body, "n") or 1), reasoning_tokens(model), hints)
    return _Turn(body, model, identifier("chatcmpl-", hints.seed), output, tools, reasoning, usage)


def _wants_json(body: Json) -> bool:
    wanted = body.get("response_format")
    return isinstance(wanted, Mapping) and wanted.get("type") in ("json_schema", "json_object")


def _structured(body: Json, limit: int | None) -> Output | None:
    if not _wants_json(body):
        return None
    schema = (body["response_format"].get("json_schema") or {}).get("schema")
    value = sample(schema) if schema else {"answer": "simulated"}
    return cut(split_tokens(orjson.dumps(value).decode()), limit)


def _usage(prompt: int, spoken: int, reasoning: int, hints: Hints) -> dict[str, Any]:
    completion = spoken + reasoning
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
        "prompt_tokens_details": {"cached_tokens": min(hints.cached, prompt), "audio_tokens": 0},
        "completion_tokens_details": {
            "reasoning_tokens": reasoning,
            "audio_tokens": 0,
            "accepted_prediction_tokens": 0,
            "rejected_prediction_tokens": 0,
        },
    }


def _choice(turn: _Turn, index: int) -> dict[str, Any]:
    content = turn.output.text if turn.output else None
    message: dict[str, Any] = {"role": "assistant", "content": content, "refusal": None, "annotations": []}
    if turn.reasoning is not None:
        message["reasoning_content"] = turn.reasoning.text
    if turn.tools:
        message["tool_calls"] = [turn.call(index, at, "".join(tool.pieces)) for at, tool in enumerate(turn.tools)]
    return {"index": index, "message": message, "logprobs": None, "finish_reason": turn.finish_reason}


def _deltas(turn: _Turn, index: int) -> Iterator[dict[str, Any]]:
    """The deltas of one choice; calls of several tools come in turns."""
    if turn.output is not None:
        yield {"role": "assistant", "content": "", "refusal": None}
        for piece in turn.reasoning.pieces if turn.reasoning is not None else ():
            yield {"reasoning_content": piece}
        for piece in turn.output.pieces:
            yield {"content": piece}
    for at in range(len(turn.tools)):
        delta: dict[str, Any] = {"tool_calls": [{"index": at, **turn.call(index, at, "")}]}
        yield delta if turn.output is not None else {"role": "assistant", "content": None, **delta, "refusal": None}
    for pieces in zip_longest(*(tool.pieces for tool in turn.tools)):
        for at, piece in enumerate(pieces):
            if piece is not None:
                yield {"tool_calls": [{"index": at, "function": {"arguments": piece}}]}


def _stream(turn: _Turn, count: int) -> Iterator[bytes]:
    """Chunks of all choices in turns. With include_usage every chunk has `"usage":null`, and one more has the counts."""
    options = turn.body.get("stream_options")
    options = options if isinstance(options, Mapping) else {}
    with_usage, padded = options.get("include_usage") is True, options.get("include_obfuscation") is not False
    head = {"id": turn.id, "object": "chat.completion.chunk", "created": CREATED, "model": turn.model}
    head.update(service_tier="default", system_fingerprint="fp_sim")
    padding = identifier("", turn.id, length=48)

    def chunk(number: int, choices: list[dict[str, Any]], usage: object = None) -> bytes:
        body: dict[str, Any] = {**head, "choices": choices}
        if with_usage:
            body["usage"] = usage
        if padded:
            body["obfuscation"] = padding[number % 31 : number % 31 + 1 + number * 7 % 16]
        return data_event(body)

    number = 0
    for deltas in zip(*(_deltas(turn, index) for index in range(count)), strict=True):
        for index, delta in enumerate(deltas):
            yield chunk(number, [{"index": index, "delta": delta, "logprobs": None, "finish_reason": None}])
            number += 1
    for index in range(count):
        yield chunk(number, [{"index": index, "delta": {}, "logprobs": None, "finish_reason": turn.finish_reason}])
        number += 1
    if with_usage:
        yield chunk(number, [], turn.usage)
