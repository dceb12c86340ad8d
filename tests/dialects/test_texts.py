"""Every text position of every request format: planted values are found, where they are, as what they are, in order."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from extproc.dialects import registry, spans
from extproc.dialects.dialect import Edit

# Each text is "<kind>@<number>": what the walk must call it and when it must come
SCHEMA = {
    "type": "object",
    "title": "schema@03",
    "description": "tool_description@04",
    "required": ["city"],
    "properties": {
        "description": {
            "type": "string",
            "description": "tool_description@05",
            "enum": ["schema@06"],
            "default": "schema@07",
        },
        "city": {"anyOf": [{"type": "string", "examples": ["schema@08"]}], "items": {"const": "schema@09"}},
    },
}
CHAT = {
    "messages": [
        {"role": "system", "content": "text@12", "name": "name@13"},
        {"role": "developer", "content": [{"type": "text", "text": "text@14", "extra": "text@15"}]},
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "text@16"},
                {"type": "image_url", "image_url": {"url": "url@17", "detail": "auto"}},
                {"type": "input_audio", "input_audio": {"data": "url@18"}},
                {"type": "file", "file": {"file_data": "url@19", "filename": "name@20", "file_id": "f"}},
            ],
        },
        {
            "role": "assistant",
            "content": None,
            "refusal": "text@21",
            "tool_calls": [
                {"id": "c", "type": "function", "function": {"name": "name@22", "arguments": "tool_arguments@23"}}
            ],
            "function_call": {"name": "name@24", "arguments": "tool_arguments@25"},
            "reasoning_content": "text@26",
        },
        {"role": "tool", "tool_call_id": "c", "content": "tool_result@27"},
        {"role": "tool", "tool_call_id": "c", "content": [{"type": "text", "text": "tool_result@28"}]},
        "text@29",
    ],
    "metadata": {"k": "metadata@31", "id": "metadata@32"},
    "model": "m",
    "user": "metadata@33",
    "stop": ["metadata@34"],
    "unknown": {"type": "metadata@35", "deep": [["metadata@36"]]},
    "tool_choice": "auto",
    "prediction": {"type": "content", "content": "text@30"},
    "response_format": {
        "type": "json_schema",
        "json_schema": {"name": "name@10", "schema": {"description": "tool_description@11"}},
    },
    "tools": [
        {
            "type": "function",
            "function": {"name": "name@01", "description": "tool_description@02", "parameters": SCHEMA},
        }
    ],
}
RESPONSES = {
    "model": "m",
    "input": [
        {"role": "user", "content": "text@14"},
        {
            "type": "message",
            "role": "user",
            "content": [
                {"type": "input_text", "text": "text@15"},
                {"type": "input_image", "image_url": "url@16", "detail": "auto"},
                {"type": "input_file", "file_data": "url@17", "filename": "name@18", "file_url": "url@19"},
            ],
        },
        {"type": "function_call", "call_id": "c", "name": "name@20", "arguments": "tool_arguments@21"},
        {"type": "function_call_output", "call_id": "c", "output": "tool_result@22"},
        {"type": "function_call_output", "call_id": "c", "output": [{"type": "input_text", "text": "tool_result@23"}]},
        {"type": "custom_tool_call", "call_id": "c", "name": "name@24", "input": "tool_arguments@25"},
        {"type": "custom_tool_call_output", "call_id": "c", "output": "tool_result@26"},
        {
            "type": "reasoning",
            "id": "r",
            "encrypted_content": "x",
            "summary": [{"type": "summary_text", "text": "text@27"}],
        },
        {"type": "local_shell_call", "action": {"type": "tool_arguments@28", "command": ["tool_arguments@29"]}},
        {"type": "shell_call_output", "output": [{"stdout": "tool_result@30", "outcome": {"type": "exit"}}]},
        {"type": "computer_call_output", "output": {"type": "computer_screenshot", "image_url": "url@31"}},
    ],
    "metadata": {"role": "metadata@32"},
    "user": "metadata@33",
    "safety_identifier": "metadata@34",
    "previous_response_id": "resp_1",
    "prompt": {"id": "pmpt_1", "variables": {"city": "text@13"}},
    "instructions": "text@12",
    "text": {"format": {"type": "json_schema", "name": "name@10", "schema": {"description": "tool_description@11"}}},
    "tools": [{"type": "function", "name": "name@01", "description": "tool_description@02", "parameters": SCHEMA}],
}
ANTHROPIC = {
    "model": "c",
    "messages": [
        {"role": "user", "content": "text@14"},
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "text@15", "cache_control": {"type": "ephemeral"}},
                {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "url@16"}},
                {"type": "image", "source": {"type": "url", "url": "url@17"}},
                {
                    "type": "document",
                    "title": "text@18",
                    "context": "text@19",
                    "source": {"type": "text", "data": "text@20"},
                },
                {
                    "type": "tool_result",
                    "tool_use_id": "t",
                    "content": [
                        {"type": "text", "text": "tool_result@21"},
                        {"type": "image", "source": {"type": "base64", "data": "url@22"}},
                    ],
                },
                {"type": "tool_result", "tool_use_id": "t", "content": "tool_result@23"},
            ],
        },
        {
            "role": "assistant",
            "content": [
                {"type": "thinking", "thinking": "text@24", "signature": "s"},
                {"type": "redacted_thinking", "data": "sealed"},
                {
                    "type": "tool_use",
                    "id": "t",
                    "name": "name@25",
                    "input": {"type": "tool_arguments@26", "a": ["tool_arguments@27"]},
                },
            ],
        },
    ],
    "metadata": {"user_id": "metadata@28"},
    "stop_sequences": ["metadata@29"],
    "system": [{"type": "text", "text": "text@13"}],
    "output_config": {"format": {"type": "json_schema", "schema": {"enum": ["schema@12"]}}},
    "mcp_servers": [{"type": "url", "url": "url@10", "authorization_token": "schema@11"}],
    "tools": [
        {
            "name": "name@01",
            "description": "tool_description@02",
            "input_schema": SCHEMA,
            "cache_control": {"type": "e"},
        }
    ],
}
REQUESTS = {
    "openai_chat": CHAT,
    "openai_responses": RESPONSES,
    "anthropic_messages": ANTHROPIC,
    "anthropic_count_tokens": ANTHROPIC,
}
CASES = [(name, indent) for name in REQUESTS for indent in (None, 1)]


@pytest.mark.parametrize(("name", "indent"), CASES)
def test_every_position(name: str, indent: int | None) -> None:
    """Every planted text is found once, by its kind, in logical order, with the exact span of its literal."""
    body = json.dumps(REQUESTS[name], indent=indent).encode()
    planted = sorted(
        {word for word in json.dumps(REQUESTS[name]).split('"') if "@" in word}, key=lambda word: word[-2:]
    )
    found = list(registry.DIALECTS[name].read_request(body).texts())
    assert [text.value for text in found if "@" in text.value] == planted
    for text in found:
        assert json.loads(body[text.start : text.end]) == text.value
        if "@" in text.value:
            assert text.kind == text.value.split("@")[0], text.path


@pytest.mark.parametrize("name", REQUESTS)
def test_ids_and_constants_are_left_alone(name: str) -> None:
    """Replacing every text that the walk finds leaves ids, roles, types, signatures and the model as they were."""
    body = json.dumps(REQUESTS[name]).encode()
    view = registry.DIALECTS[name].read_request(body)
    edited = spans.splice(body, [Edit(text.start, text.end, b'"X"') for text in view.texts()])
    left = {word for word in edited.decode().split('"') if "@" in word}
    assert left == set()
    for constant in ("assistant", "object", "sealed", "encrypted_content", "user"):
        assert edited.count(f'"{constant}"'.encode()) == body.count(f'"{constant}"'.encode())


def test_paths_name_the_place() -> None:
    """A path reads like the field it stands for."""
    view = registry.DIALECTS["openai_chat"].read_request(json.dumps(CHAT).encode())
    paths = {text.value: text.path for text in view.texts()}
    assert paths["text@16"] == "messages[2].content[0].text"
    assert paths["tool_arguments@23"] == "messages[3].tool_calls[0].function.arguments"
    assert paths["schema@06"] == "tools[0].function.parameters.properties.description.enum[0]"
    assert paths["metadata@32"] == "metadata.id"


@pytest.mark.parametrize("value", ["text@1", ["text@1"], {"a": "text@1"}])
@pytest.mark.parametrize("key", ["id", "role", "type"])
def test_a_text_cannot_hide_in_a_wrong_shape(key: str, value: object) -> None:
    """Where an id or a constant belongs, objects and arrays are looked into."""
    body = json.dumps({"model": "m", "messages": [{key: value}]}).encode()
    texts = [text.value for text in registry.DIALECTS["openai_chat"].read_request(body).texts()]
    assert texts == ([] if isinstance(value, str) else ["text@1"])


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=10,
)


@given(st.lists(VALUES, max_size=4), VALUES, VALUES)
def test_any_shape_is_walked(messages: list[object], tools: object, other: object) -> None:
    """Whatever the caller puts into a field, each text found is where its span says, and none is found twice."""
    tree = {"tools": tools, "x": other, "model": "m", "messages": messages}
    body = json.dumps(tree).encode()
    texts = list(registry.DIALECTS["openai_chat"].read_request(body).texts())
    assert all(json.loads(body[text.start : text.end]) == text.value for text in texts)
    assert len({text.start for text in texts}) == len(texts)
