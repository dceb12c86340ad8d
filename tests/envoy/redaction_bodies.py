"""Requests with a value at every position that can hold a text, for each format."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from envoy.redaction_values import Plants

PICTURE = "data:image/png;base64,aVBORw0KGgo="
PAPER = "data:application/pdf;base64,JVBERi0xLjQ="


def schema(v: Plants) -> dict[str, Any]:
    """Of a tool's arguments, with values wherever a schema has texts."""
    who = {"type": "string", "description": f"Such as {v()}", "enum": [v(), "b"], "default": v(), "examples": [v()]}
    return {"type": "object", "title": v(), "properties": {"who": who, "deep": {"anyOf": [{"const": v()}]}}}


def arguments(v: Plants) -> dict[str, Any]:
    """Of a call, nested."""
    return {"to": v(), "parts": [{"text": f"Dear {v()},", "cc": [v(), {"bcc": v()}]}], "n": 3, "ok": True, "none": None}


def chat(v: Plants) -> dict[str, Any]:
    """Chat Completions."""
    tool = v.named("find_{}")
    function = {"name": tool, "arguments": json.dumps(arguments(v), ensure_ascii=False, indent=1)}
    picture = {"type": "image_url", "image_url": {"url": f"https://files.acme.com/a.png?for={v.email()}&x=1"}}
    paper = {"type": "file", "file": {"filename": v.named("of {} now.pdf"), "file_data": PAPER}}
    parts = [{"type": "text", "text": f"Look at {v()} and {v()}."}, picture, paper]
    parts.append({"type": "image_url", "image_url": {"url": PICTURE}})
    return {
        "model": "fast",
        "messages": [
            {"role": "system", "content": f"Serve {v()} only."},
            {"role": "developer", "content": [{"type": "text", "text": f"Never say {v()}"}]},
            {"role": "user", "name": v.named("u-{}"), "content": parts},
            {
                "role": "assistant",
                "content": [{"type": "text", "text": f"It is {v()}"}, {"type": "refusal", "refusal": f"Not {v()}"}],
                "tool_calls": [{"id": "call_1", "type": "function", "function": function}],
            },
            {"role": "tool", "tool_call_id": "call_1", "content": f"Found {v()}"},
            {"role": "assistant", "content": f"So it is {v()}", "refusal": f"or not {v()}"},
            {"role": "user", "content": f"Tell {v()} and {v()}"},
        ],
        "tools": [
            {"type": "function", "function": {"name": tool, "description": f"For {v()}", "parameters": schema(v)}},
            {"type": "function", "function": {"name": "other", "parameters": {}}},
        ],
        "metadata": {"ticket": f"of {v()}"},
        "user": v.user(),
        "stop": [f"end {v()}"],
        "prediction": {"type": "content", "content": f"Perhaps {v()}"},
        "reasoning_effort": "low",
        "n": 2,
    }


def responses(v: Plants) -> dict[str, Any]:
    """Responses, with an array as its input."""
    tool = v.named("find_{}")
    content = [
        {"type": "input_text", "text": f"See {v()}"},
        {"type": "input_image", "image_url": f"https://files.acme.com/b.png?for={v.email()}"},
        {"type": "input_image", "image_url": PICTURE},
        {"type": "input_file", "filename": v.named("of {} x.pdf"), "file_data": PAPER},
        {"type": "input_file", "file_url": f"https://files.acme.com/{v.email()}/c.pdf"},
    ]
    call = {"type": "function_call", "call_id": "c1", "name": tool, "arguments": json.dumps(arguments(v))}
    shell = {
        "type": "exec",
        "command": ["grep", v()],
        "env": {"WHO": v()},
        "working_directory": f"/home/{v.employee()}",
    }
    said = [{"type": "output_text", "text": f"I said {v()}", "annotations": []}]
    search = {"type": "mcp_call", "id": "m1", "name": "s", "server_label": "box", "arguments": json.dumps({"q": v()})}
    return {
        "model": "fast",
        "instructions": f"Serve {v()}",
        "input": [
            {"role": "user", "content": f"Plainly {v()}"},
            {"role": "developer", "content": f"Strictly {v()}"},
            {"type": "message", "role": "user", "content": content},
            {"type": "message", "id": "msg_1", "status": "completed", "role": "assistant", "content": said},
            {"type": "reasoning", "id": "rs_1", "summary": [{"type": "summary_text", "text": f"Thought of {v()}"}]},
            call,
            {"type": "function_call_output", "call_id": "c1", "output": f"Got {v()}"},
            {"type": "function_call_output", "call_id": "c1", "output": [{"type": "input_text", "text": f"Got {v()}"}]},
            {"type": "custom_tool_call", "call_id": "c2", "name": "free", "input": f"do {v()}"},
            {"type": "custom_tool_call_output", "call_id": "c2", "output": f"did {v()}"},
            {"type": "local_shell_call", "id": "l1", "call_id": "c3", "status": "completed", "action": shell},
            {**search, "output": f"hit {v()}"},
            {"role": "user", "content": f"Last {v()}"},
        ],
        "tools": [{"type": "function", "name": tool, "description": f"For {v()}", "parameters": schema(v)}],
        "metadata": {"ticket": f"of {v()}"},
        "user": v.user(),
        "safety_identifier": v.user(),
        "prompt_cache_key": v.user(),
        "reasoning": {"effort": "low", "summary": "auto"},
    }


def responses_string(v: Plants) -> dict[str, Any]:
    """Responses, with a string as its input."""
    return {"model": "fast", "input": f"Tell {v()} of {v()}"}


def messages(v: Plants) -> dict[str, Any]:
    """Messages."""
    tool = v.named("find_{}")
    document = {"type": "document", "source": {"type": "text", "media_type": "text/plain", "data": f"Of {v()}"}}
    document |= {"title": f"By {v()}", "context": f"For {v()}", "citations": {"enabled": True}}
    pictures = [
        {"type": "image", "source": {"type": "url", "url": f"https://files.acme.com/d.png?for={v.email()}"}},
        {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": PICTURE.partition(",")[2]}},
    ]
    blocks = {"type": "document", "source": {"type": "content", "content": [{"type": "text", "text": f"In {v()}"}]}}
    result = [{"type": "text", "text": f"Got {v()}"}]
    return {
        "model": "smart",
        "max_tokens": 99,
        "system": [{"type": "text", "text": f"Serve {v()}", "cache_control": {"type": "ephemeral"}}],
        "messages": [
            {"role": "user", "content": f"Plainly {v()}"},
            {
                "role": "assistant",
                "content": [
                    {"type": "text", "text": f"I said {v()}"},
                    {"type": "tool_use", "id": "t1", "name": tool, "input": arguments(v)},
                    {"type": "tool_use", "id": "t2", "name": tool, "input": {"a": v()}},
                ],
            },
            {
                "role": "user",
                "content": [
                    {"type": "tool_result", "tool_use_id": "t1", "content": f"Got {v()}"},
                    {"type": "tool_result", "tool_use_id": "t2", "content": result, "is_error": True},
                    document,
                    blocks,
                    *pictures,
                    {"type": "text", "text": f"And {v()} with {v()}"},
                ],
            },
            {"role": "assistant", "content": f"Then {v()}"},
            {"role": "user", "content": [{"type": "text", "text": f"Last {v()}"}]},
        ],
        "tools": [
            {"name": tool, "description": f"For {v()}", "input_schema": schema(v), "input_examples": [{"q": v()}]}
        ],
        "metadata": {"user_id": v.user()},
        "stop_sequences": [f"end {v()}"],
    }


def messages_plain(v: Plants) -> dict[str, Any]:
    """Messages, with a string as its system prompt."""
    said = [{"role": "user", "content": f"Tell {v()}"}]
    return {"model": "smart", "max_tokens": 99, "system": f"Serve {v()}", "messages": said}


def strings(value: Any) -> Iterator[str]:
    """Every string in a tree."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for child in value.values():
            yield from strings(child)
    elif isinstance(value, list):
        for child in value:
            yield from strings(child)


def skeleton(value: Any) -> Any:
    """A tree without its strings: keys, numbers and shape. A string that is a document is one still."""
    if isinstance(value, dict):
        return {key: skeleton(child) for key, child in value.items()}
    if isinstance(value, list):
        return [skeleton(child) for child in value]
    if isinstance(value, str):
        if value[:1] in ("{", "["):
            return ("document", skeleton(json.loads(value)))
        return "text"
    return value
