"""Every text position of every request format: planted values are found, where they are, as what they are, in order."""

from __future__ import annotations

import json

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from extproc.dialects import registry, spans
from extproc.dialects.dialect import KEY, Edit, show_path
from extproc.errors import Rejection

# Each text is "<kind>@<place>": what the walk must call it; places in alphabetical order are the order of the walk
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
                {"id": "c", "type": "function", "function": {"name": "tool_name@22", "arguments": "json@23"}},
                {"id": "d", "type": "custom", "custom": {"name": "tool_name@23b", "input": "tool_arguments@23c"}},
                {
                    "id": "e",
                    "type": "function",
                    "function": {"name": "tool_name@23d", "arguments": ["tool_arguments@23e"]},
                },
            ],
            "function_call": {"name": "tool_name@24", "arguments": "json@25"},
            "reasoning_content": "text@26",
            "reasoning_details": [
                {"type": "reasoning.text", "text": "signed@26b", "signature": "s"},
                {"type": "reasoning.text", "text": "text@26c", "signature": None},
            ],
            "annotations": [{"type": "url_citation", "url_citation": {"url": "url@26d", "title": "text@26e"}}],
        },
        {"role": "tool", "tool_call_id": "c", "content": "tool_result@27"},
        {"role": "tool", "tool_call_id": "c", "content": [{"type": "text", "text": "tool_result@28"}]},
        {"role": "function", "name": "tool_name@28b", "content": "tool_result@28c"},
        "text@29",
    ],
    "metadata": {"k": "metadata@31", "id": "metadata@32"},
    "model": "m",
    "user": "metadata@33",
    "stop": ["metadata@34"],
    "unknown": {"type": "metadata@35", "deep": [["metadata@36"]]},
    "tool_choice": {"type": "function", "function": {"name": "tool_name@09a"}},
    "function_call": {"name": "tool_name@09b"},
    "web_search_options": {"user_location": {"type": "approximate", "approximate": {"city": "metadata@37"}}},
    "prediction": {"type": "content", "content": "text@30"},
    "response_format": {
        "type": "json_schema",
        "json_schema": {"name": "name@10", "schema": {"description": "tool_description@11"}},
    },
    "tools": [
        {
            "type": "function",
            "function": {"name": "tool_name@01", "description": "tool_description@02", "parameters": SCHEMA},
        },
        {
            "type": "custom",
            "custom": {
                "name": "tool_name@09_",
                "format": {"type": "grammar", "grammar": {"definition": "schema@09__"}},
            },
        },
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
        {"type": "function_call", "call_id": "c", "name": "tool_name@20", "arguments": "json@21"},
        {"type": "function_call_output", "call_id": "c", "output": "tool_result@22"},
        {"type": "function_call_output", "call_id": "c", "output": [{"type": "input_text", "text": "tool_result@23"}]},
        {"type": "custom_tool_call", "call_id": "c", "name": "tool_name@24", "input": "tool_arguments@25"},
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
        {
            "type": "mcp_call",
            "server_label": "tool_name@31a",
            "name": "tool_name@31b",
            "arguments": "json@31c",
            "output": "tool_result@31d",
            "error": "text@31e",
        },
        {
            "type": "mcp_list_tools",
            "tools": [
                {
                    "name": "tool_name@31f",
                    "description": "tool_description@31g",
                    "input_schema": {"const": "schema@31h"},
                }
            ],
        },
        {
            "type": "file_search_call",
            "queries": ["text@31i"],
            "results": [
                {"file_id": "f", "filename": "name@31j", "text": "text@31k", "attributes": {"id": "tool_result@31l"}}
            ],
        },
        {"type": "code_interpreter_call", "code": "text@31m", "outputs": [{"type": "logs", "logs": "tool_result@31n"}]},
        {"type": "web_search_call", "action": {"type": "tool_arguments@31o", "query": "tool_arguments@31p"}},
        {
            "type": "message",
            "role": "assistant",
            "content": [
                {
                    "type": "output_text",
                    "text": "text@31q",
                    "annotations": [{"type": "url_citation", "url": "url@31r", "title": "text@31s"}],
                },
                {"type": "refusal", "refusal": "text@31t"},
            ],
        },
    ],
    "metadata": {"role": "metadata@32"},
    "user": "metadata@33",
    "safety_identifier": "metadata@34",
    "previous_response_id": "resp_1",
    "prompt": {
        "id": "pmpt_1",
        "version": "text@12b",
        "variables": {
            "id": "text@13",
            "role": {"type": "input_text", "text": "text@13b"},
            "image": {"type": "input_image", "image_url": "url@13c"},
        },
    },
    "tool_choice": {
        "type": "allowed_tools",
        "mode": "schema@09k",
        "tools": [{"type": "mcp", "server_label": "tool_name@09l"}],
    },
    "instructions": "text@12",
    "text": {"format": {"type": "json_schema", "name": "name@10", "schema": {"description": "tool_description@11"}}},
    "tools": [
        {"type": "function", "name": "tool_name@01", "description": "tool_description@02", "parameters": SCHEMA},
        {
            "type": "mcp",
            "server_label": "tool_name@09a",
            "server_url": "url@09b",
            "headers": {"X-Api-Key": "credential@09c", "X-User": "metadata@09c1"},
            "authorization": "credential@09d",
            "allowed_tools": ["tool_name@09e"],
            "require_approval": {"never": {"tool_names": ["tool_name@09f"]}},
        },
        {
            "type": "file_search",
            "vector_store_ids": ["vs_1"],
            "filters": {"type": "eq", "key": "schema@09g", "value": "schema@09h"},
        },
        {
            "type": "web_search",
            "user_location": {"type": "approximate", "city": "schema@09i"},
            "allowed_domains": ["schema@09j"],
        },
    ],
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
                {"type": "thinking", "thinking": "signed@24", "signature": "s"},
                {"type": "thinking", "thinking": "text@24b", "signature": ""},
                {"type": "redacted_thinking", "data": "sealed"},
                {
                    "type": "tool_use",
                    "id": "t",
                    "name": "tool_name@25",
                    "input": {"type": "tool_arguments@26", "a": ["tool_arguments@27"]},
                },
                {
                    "type": "mcp_tool_use",
                    "id": "u",
                    "name": "tool_name@27a",
                    "server_name": "tool_name@27b",
                    "input": {},
                },
                {
                    "type": "web_search_tool_result",
                    "tool_use_id": "w",
                    "content": [
                        {
                            "type": "web_search_result",
                            "title": "tool_result@27c",
                            "url": "url@27d",
                            "encrypted_content": "x",
                        }
                    ],
                },
                {
                    "type": "text",
                    "text": "text@27e",
                    "citations": [{"type": "char_location", "cited_text": "text@27f", "document_title": "text@27g"}],
                },
            ],
        },
    ],
    "metadata": {"user_id": "metadata@28"},
    "stop_sequences": ["metadata@29"],
    "system": [{"type": "text", "text": "text@13"}],
    "output_config": {"format": {"type": "json_schema", "schema": {"enum": ["schema@12"]}}},
    "mcp_servers": [
        {
            "type": "url",
            "url": "url@10",
            "name": "tool_name@10b",
            "tool_configuration": {"allowed_tools": ["tool_name@10c"]},
            "authorization_token": "credential@11",
        }
    ],
    "tool_choice": {"type": "tool", "name": "tool_name@09c"},
    "tools": [
        {
            "name": "tool_name@01",
            "description": "tool_description@02",
            "input_schema": SCHEMA,
            "cache_control": {"type": "e"},
            "input_examples": [{"id": "schema@09a"}],
        },
        {"type": "web_search_20250305", "name": "tool_name@09b"},
    ],
}
EMBEDDINGS = {"model": "e", "input": ["input@1", "input@2"], "user": "metadata@3", "encoding_format": "float"}
REQUESTS = {
    "openai_chat": CHAT,
    "openai_responses": RESPONSES,
    "openai_embeddings": EMBEDDINGS,
    "anthropic_messages": ANTHROPIC,
    "anthropic_count_tokens": ANTHROPIC,
}
LEAST = {"openai_embeddings": 3}  # positions in which a value is planted; 40 in the formats of a chat
CASES = [(name, layout) for name in REQUESTS for layout in (None, 1, "ascii")]


def encode(tree: object, layout: object) -> bytes:
    """A request as a compact, an indented, or a needlessly escaped body."""
    if layout == "ascii":
        return json.dumps(tree).replace("@", "\\u0040").encode()
    return json.dumps(tree, indent=layout).encode()


def planted(tree: object) -> list[str]:
    """The planted values, in the order in which they must come."""
    words = {word for word in json.dumps(tree).split('"') if "@" in word}
    return sorted(words, key=lambda word: word.split("@")[1])


@pytest.mark.parametrize(("name", "layout"), CASES)
def test_every_position(name: str, layout: object) -> None:
    """Every planted text is found once, by its kind, in logical order, and its place is exactly its literal."""
    body = encode(REQUESTS[name], layout)
    view = registry.DIALECTS[name].read_request(body)
    found = list(view.texts())
    wanted = planted(REQUESTS[name])
    assert len(wanted) >= LEAST.get(name, 40)
    assert [text.value for text in found if "@" in text.value] == wanted
    assert [text.kind for text in found if "@" in text.value] == [word.split("@")[0] for word in wanted]
    for text in found:
        start, end = view.place(text.path)
        assert (body[start : start + 1], body[end - 1 : end]) == (b'"', b'"')
        assert json.loads(body[start:end]) == text.value
        assert view.value(text.path) == text.value


@pytest.mark.parametrize("name", REQUESTS)
def test_ids_and_constants_are_left_alone(name: str) -> None:
    """Replacing every text that the walk finds leaves ids, roles, types, signatures and the model as they were."""
    body = json.dumps(REQUESTS[name]).encode()
    view = registry.DIALECTS[name].read_request(body)
    edited = spans.splice(body, [Edit(*view.place(text.path), b'"X"') for text in view.texts()])
    left = {word for word in edited.decode().split('"') if "@" in word}
    assert left == set()
    assert list(orjson.loads(edited)) == list(REQUESTS[name])
    for constant in ("assistant", "object", "sealed", "encrypted_content", "user", "vs_1", "pmpt_1", "s"):
        assert edited.count(f'"{constant}"'.encode()) == body.count(f'"{constant}"'.encode())


def test_paths_name_the_place() -> None:
    """A path reads like the field it stands for; the name of a member, which the caller chose, is not shown."""
    view = registry.DIALECTS["openai_chat"].read_request(json.dumps(CHAT).encode())
    paths = {text.value: show_path(text.path) for text in view.texts()}
    assert paths["text@16"] == "messages[2].content[0].text"
    assert paths["json@23"] == "messages[3].tool_calls[0].function.arguments"
    assert paths["schema@06"] == "tools[0].function.parameters.properties.description.enum[0]"
    assert paths["metadata@32"] == "metadata.{key}"
    assert show_path(("messages", 0, "input", "secret", KEY)) == "messages[0].input.{key}"
    assert view.value(("messages", 99)) is None
    assert view.value(("messages", "x")) is None


@pytest.mark.parametrize("value", ["text@1", ["text@1"], {"a": "text@1"}])
@pytest.mark.parametrize("key", ["id", "role", "type", "data", "name", "file_id", "signature"])
def test_a_text_cannot_hide_in_a_wrong_shape(key: str, value: object) -> None:
    """Where an id or a constant belongs, objects and arrays are looked into, and strings that look like neither."""
    body = json.dumps(
        {"model": "m", "messages": [{key: value, **({"type": "redacted_thinking"} if key == "data" else {})}]}
    )
    texts = [text.value for text in registry.DIALECTS["openai_chat"].read_request(body.encode()).texts()]
    assert texts == ["text@1"]


@pytest.mark.parametrize(
    ("key", "value", "opaque"),
    [
        ("id", "call_Ab1-2.3:4/5+6=|7", True),
        ("id", "", True),
        ("id", "20240101", False),
        ("id", "4000-0000-0000", False),
        ("id", "12345678-1234-1234-1234-123456789abc", True),
        ("type", "two words", False),
        ("status", "ann@x", False),
        ("detail", "x" * 513, False),
        ("signature", "Ab1/" * 1000 + "==", True),
        ("encrypted_content", "Ab1/" * 1000 + " ==", False),
    ],
)
def test_what_looks_like_an_id_is_left_alone(key: str, value: str, opaque: bool) -> None:
    """Whatever else stands in its place is a text, and so is a number as long as somebody's."""
    body = json.dumps({"model": "m", "messages": [{"role": "user", key: value}]}).encode()
    texts = [(text.kind, text.value) for text in registry.DIALECTS["openai_chat"].read_request(body).texts()]
    assert texts == ([] if opaque else [("metadata", value)])


@pytest.mark.parametrize(
    ("name", "fields"),
    [
        ("openai_responses", {"reasoning": {"effort": "high", "note": "an@x"}, "include": ["a.b", "an@x"]}),
        ("openai_responses", {"truncation": "an@x", "conversation": {"id": "conv_1", "more": ["an@x"]}}),
        ("openai_chat", {"audio": {"voice": "alloy", "format": "an@x"}, "service_tier": "an@x"}),
        ("anthropic_messages", {"thinking": {"type": "enabled", "note": "an@x"}, "tool_choice": "an@x"}),
    ],
)
def test_top_level_constants_hide_no_text(name: str, fields: dict[str, object]) -> None:
    """What does not look like a constant of the vendor is a text, at any depth; the model's name has rules of its own."""
    body = json.dumps({"model": "m@1", "messages": [], **fields}).encode()
    texts = list(registry.DIALECTS[name].read_request(body).texts())
    assert [text.value for text in texts] == ["an@x"] * json.dumps(fields).count("an@x")
    assert {text.kind for text in texts} == {"metadata"}


def test_constants_of_a_schema_hide_no_text() -> None:
    """Pointers to names in the schema, and names of properties, stay: those are never changed."""
    schema = {
        "$ref": "#/$defs/Ann Lee",
        "$schema": "https://json-schema.org/draft/2020-12/schema#",
        "type": ["string", "null", "an@1"],
        "format": "an@2",
        "$id": "an@3",
        "required": ["Ann Lee", "city", "an@4", {"x": "an@5"}],
        "properties": {"Ann Lee": {"type": "string", "format": "date-time"}},
    }
    body = json.dumps({"model": "m", "tools": [{"name": "t", "input_schema": schema}], "messages": []}).encode()
    texts = [text.value for text in registry.DIALECTS["anthropic_messages"].read_request(body).texts()]
    assert texts == ["t", "an@1", "an@2", "an@3", "an@4", "an@5"]


@pytest.mark.parametrize(
    ("header", "kind"),
    [
        ("Authorization", "credential"),
        ("x-api-key", "credential"),
        ("apikey", "credential"),
        ("X-Session-Token", "credential"),
        ("Cookie", "credential"),
        ("x-user-email", "metadata"),
        ("x-keyboard", "metadata"),
    ],
)
def test_headers_of_tool_servers(header: str, kind: str) -> None:
    """Only those by which a server knows who calls are given on unseen."""
    tool = {"type": "mcp", "headers": {header: "an@x"}}
    body = json.dumps({"model": "m", "input": "", "tools": [tool]}).encode()
    texts = [text.kind for text in registry.DIALECTS["openai_responses"].read_request(body).texts() if text.value]
    assert texts == [kind]


@pytest.mark.parametrize(
    ("part", "kinds"),
    [
        ({"type": "thinking", "signature": "s", "thinking": "a", "extra": {"text": "b"}}, ["signed", "text"]),
        ({"type": "reasoning.text", "signature": "s", "text": "a", "extra": "b"}, ["signed", "text"]),
        ({"type": "text", "signature": "s", "text": "a"}, ["text"]),
        ({"type": "thinking", "signature": "", "thinking": "a"}, ["text"]),
        ({"type": "thinking", "signature": ["s"], "thinking": "a"}, ["text", "text"]),
        ({"type": "thinking", "signature": "s", "thinking": ["a"]}, ["text"]),
    ],
)
def test_only_thinking_is_signed(part: dict[str, object], kinds: list[str]) -> None:
    """A signature covers the thinking beside it, and is no cover for anything else."""
    body = json.dumps({"model": "m", "messages": [{"role": "assistant", "content": [part]}]}).encode()
    view = registry.DIALECTS["anthropic_messages"].read_request(body)
    assert [text.kind for text in view.texts()] == kinds


THOUGHT = {"type": "thinking", "signature": "s", "thinking": "a"}
DETAIL = {"type": "reasoning.text", "signature": "s", "text": "a"}


@pytest.mark.parametrize(
    ("name", "messages", "kinds"),
    [
        ("anthropic_messages", [{"role": "assistant", "content": [THOUGHT]}], ["signed"]),
        ("anthropic_messages", [{"role": "user", "content": [THOUGHT]}], ["text"]),
        ("anthropic_messages", [{"role": "user", "content": [{"role": "assistant", **THOUGHT}]}], ["text"]),
        ("anthropic_messages", [{"role": "assistant", "content": ""}, [THOUGHT]], ["text", "text"]),
        ("openai_chat", [{"role": "assistant", "content": [THOUGHT]}], ["text"]),
        ("openai_chat", [{"role": "assistant", "reasoning_details": [DETAIL]}], ["signed"]),
        ("openai_chat", [{"role": "user", "reasoning_details": [DETAIL]}], ["text"]),
    ],
)
def test_only_assistants_sign(name: str, messages: list[object], kinds: list[str]) -> None:
    """Nobody else's words are under a vendor's signature, and only one vendor signs blocks of thinking."""
    body = json.dumps({"model": "m", "messages": messages, "prediction": [{"content": [DETAIL]}]}).encode()
    texts = list(registry.DIALECTS[name].read_request(body).texts())
    assert [text.kind for text in texts if text.path[0] == "messages"] == kinds
    assert {text.kind for text in texts if text.path[0] == "prediction"} <= {"text", "metadata"}


@pytest.mark.parametrize("choice", ["auto", {"type": "auto"}, None])
def test_constants_of_tool_choice(choice: object) -> None:
    """A choice that names no tool holds no text."""
    for name in ("openai_chat", "openai_responses", "anthropic_messages"):
        body = json.dumps({"model": "m", "messages": [], "tool_choice": choice}).encode()
        assert list(registry.DIALECTS[name].read_request(body).texts()) == []


@pytest.mark.parametrize(
    ("name", "fields", "path"),
    [
        ("openai_responses", {"previous_response_id": "resp_1"}, "previous_response_id"),
        ("openai_responses", {"conversation": {"id": "conv_1"}, "input": "x"}, "conversation"),
        ("openai_responses", {"prompt": {"id": "pmpt_1"}}, "prompt.id"),
        ("openai_responses", {"input": [{"type": "item_reference", "id": "msg_1"}]}, "input[0].id"),
        ("openai_responses", {"input": [{"id": "msg_1"}]}, "input[0].id"),
        ("openai_responses", {"input": [{"content": [{"type": "input_file", "file_id": "f"}]}]}, "input[0].content[0].file_id"),
        ("openai_responses", {"tools": [{"type": "file_search", "vector_store_ids": ["v"]}]}, "tools[0].vector_store_ids"),
        ("openai_responses", {"tools": [{"type": "code_interpreter", "container": "cntr_1"}]}, "tools[0].container"),
        (
            "openai_responses",
            {"tools": [{"type": "code_interpreter", "container": {"type": "auto", "file_ids": ["f"]}}]},
            "tools[0].container.file_ids",
        ),
        ("openai_responses", {"input": [{"type": "code_interpreter_call", "container_id": "c"}]}, "input[0].container_id"),
        ("openai_chat", {"messages": [{"content": [{"type": "file", "file": {"file_id": "f"}}]}]}, "messages[0].content[0].file.file_id"),
        ("openai_chat", {"messages": [{"role": "assistant", "audio": {"id": "a"}}]}, "messages[0].audio.id"),
        ("anthropic_messages", {"container": "c"}, "container"),
        (
            "anthropic_messages",
            {"messages": [{"content": [{"type": "document", "source": {"type": "file", "file_id": "f"}}]}]},
            "messages[0].content[0].source.file_id",
        ),
        ("anthropic_messages", {"messages": [{"content": [{"type": "container_upload", "file_id": "f"}]}]}, "messages[0].content[0].file_id"),
        # what only looks like it: values that are absent, arguments and schemas of the caller's own tools, full items
        ("openai_responses", {"previous_response_id": None, "conversation": None, "prompt": None}, None),
        ("openai_responses", {"input": [{"type": "message", "id": "msg_1", "role": "user", "content": "x"}]}, None),
        ("openai_responses", {"tools": [{"type": "code_interpreter", "container": {"type": "auto", "file_ids": []}}]}, None),
        (
            "anthropic_messages",
            {"messages": [{"content": [{"type": "tool_use", "name": "n", "input": {"file_id": "f", "container_id": "c"}}]}]},
            None,
        ),
        ("anthropic_messages", {"tools": [{"input_schema": {"properties": {"file_id": {"type": "string"}}}}]}, None),
        ("openai_chat", {"metadata": {"file_id": "f"}, "audio": {"voice": "v", "format": "wav"}}, None),
        ("openai_embeddings", {"input": "x"}, None),
    ],
)  # fmt: skip
def test_stored_history(name: str, fields: dict[str, object], path: str | None) -> None:
    """The first field by which a request leans on what the vendor stored is named."""
    body = json.dumps({"model": "m", "messages": [], **fields}).encode()
    assert registry.DIALECTS[name].read_request(body).stored_history == path


def test_keys_of_arguments() -> None:
    """Names of the members of tool arguments can be asked for, each with the place of its own literal."""
    arguments = {"city": {'na"me': [{"x": 1}]}, "e": []}
    tree = {
        "model": "m",
        "metadata": {"no": "no"},
        "messages": [{"role": "assistant", "content": [{"type": "tool_use", "name": "n", "input": arguments}]}],
    }
    body = json.dumps(tree, indent=1).encode()
    view = registry.DIALECTS["anthropic_messages"].read_request(body)
    keys = list(view.argument_keys())
    assert [key.value for key in keys] == ["city", 'na"me', "x", "e"]
    assert {key.kind for key in keys} == {"key"}
    assert [text.value for text in view.texts_and_keys()] == [*("n", "city", 'na"me', "x", "e"), "no"]
    edited = spans.splice(body, [Edit(*view.place(key.path), b'"k%d"' % index) for index, key in enumerate(keys)])
    tree["messages"][0]["content"][0]["input"] = {"k0": {"k1": [{"k2": 1}]}, "k3": []}
    assert json.loads(edited) == tree


def test_too_deep_to_walk() -> None:
    """A body that a parser reads but the walk cannot finish is refused, never half-inspected."""
    deep = b"[" * 1000 + b'"x"' + b"]" * 1000
    body = b'{"model":"m","messages":[{"content":' + deep + b"}]}"
    with pytest.raises(Rejection) as caught:
        list(registry.DIALECTS["openai_chat"].read_request(body).texts())
    assert caught.value.status == 400


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=10,
)
WORDS = st.sampled_from(["input", "tools", "variables", "data", "name", "type", "arguments", "properties", "container"])
NESTED = st.recursive(
    st.text(max_size=3) | st.integers(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(WORDS, inner, max_size=3),
    max_leaves=12,
)


def strings(value: object) -> list[str]:
    """Every string value below."""
    if isinstance(value, str):
        return [value]
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return [text for child in inner for text in strings(child)]


@given(st.lists(VALUES | NESTED, max_size=4), VALUES | NESTED, VALUES | NESTED)
def test_any_shape_is_walked(messages: list[object], tools: object, other: object) -> None:
    """Whatever the caller puts into a field, each text is where its place says, none comes twice, none in a new field is lost."""
    tree = {"tools": tools, "x": other, "model": "m", "messages": messages}
    body = json.dumps(tree).encode()
    view = registry.DIALECTS["openai_chat"].read_request(body)
    texts = list(view.texts())
    places = [view.place(text.path) for text in texts]
    literals = [json.loads(body[start:end]) for start, end in places]
    assert [value if isinstance(value, str) else str(abs(value)) for value in literals] == [
        text.value for text in texts
    ]
    assert len(set(places)) == len(texts)
    assert [text.value for text in texts if text.path[0] == "x"] == strings(other)


PLAIN_KEYS = st.sampled_from(["text", "content", "input", "variables", "metadata", "url", "x"])
PLAIN = st.recursive(
    st.text(min_size=1, max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(PLAIN_KEYS, inner, max_size=3),
    max_leaves=12,
)


@given(st.lists(PLAIN, max_size=4))
def test_no_string_is_lost(messages: list[object]) -> None:
    """Where no key is one of the vendor's constants, every string of the messages is a text, in order."""
    body = json.dumps({"model": "m", "messages": messages}).encode()
    assert [text.value for text in registry.DIALECTS["openai_chat"].read_request(body).texts()] == strings(messages)


def test_long_numbers_in_free_form_values_are_texts() -> None:
    """A card is one as a number too, however it is written; parameters of the vendor's are not touched."""
    body = (
        b'{"model": "m", "seed": 2125550142, "metadata": {"card": 4111111111111111, "n": 1234567}, "messages": ['
        b'{"role": "assistant", "content": [{"type": "tool_use", "name": "n", "input": {"to":'
        b" [99999999999, -4333333333333333, 4222222222222222.0, 4.5e18, 12345678.5, -1.0]}}]}]}"
    )
    view = registry.DIALECTS["anthropic_messages"].read_request(body)
    found = {text.value: body[slice(*view.place(text.path))] for text in view.texts() if text.value.isdecimal()}
    assert found == {
        "99999999999": b"99999999999",
        "4333333333333333": b"-4333333333333333",
        "4222222222222222": b"4222222222222222.0",
        "4500000000000000000": b"4.5e18",
        "4111111111111111": b"4111111111111111",
    }
