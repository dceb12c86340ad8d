"""The walk over every text of a request, in a fixed logical order, with each string's exact place.

The walk is exhaustive by construction: it emits every string below a field unless the key is one of a few whose values
are constants or opaque ids of the vendor. A shape that nobody foresaw is therefore still inspected.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from extproc.dialects.dialect import TextSpan
from extproc.dialects.spans import Node, is_object

# Values that the vendor defines or issued: constants, ids, signatures. Changing one breaks the call.
_OPAQUE: Final = frozenset(
    {
        "cache_control", "call_id", "container_id", "detail", "encrypted_content", "encrypted_index", "file_id", "id",
        "media_type", "role", "signature", "status", "tool_call_id", "tool_use_id", "type", "vector_store_ids",
    }
)  # fmt: skip
_KINDS: Final = {
    "description": "tool_description",
    "file_data": "url",
    "file_url": "url",
    "filename": "name",
    "image_url": "url",
    "name": "name",
    "output": "tool_result",
    "outputs": "tool_result",
    "server_url": "url",
    "url": "url",
}
# Values of any shape, in which every key is the caller's own
_FREE_FORM: Final = {
    "action": "tool_arguments",
    "arguments": "tool_arguments",
    "input": "tool_arguments",
    "metadata": "metadata",
    "operation": "tool_arguments",
}
_TOOL_SCHEMAS: Final = frozenset({"input_schema", "json_schema", "output_schema", "parameters", "schema"})
_SCHEMA_OPAQUE: Final = frozenset(
    {"$anchor", "$id", "$ref", "$schema", "contentEncoding", "contentMediaType", "format", "required", "type"}
)
_SCHEMA_MAPS: Final = frozenset({"$defs", "definitions", "dependentSchemas", "patternProperties", "properties"})
_SCHEMA_LISTS: Final = frozenset({"allOf", "anyOf", "oneOf", "prefixItems"})
_SCHEMA_VALUES: Final = frozenset({"additionalProperties", "contains", "else", "if", "items", "not", "then"})


def every(node: Node, path: str, kind: str) -> Iterator[TextSpan]:
    """Every string value below `node`, whatever its key."""
    if type(node.value) is str:
        yield TextSpan(path, kind, node.start, node.end, node.value)
        return
    for key, child in node.fields():
        yield from every(child, f"{path}.{key}", kind)
    for index, child in enumerate(node.items()):
        yield from every(child, f"{path}[{index}]", kind)


def content(node: Node, path: str, kind: str) -> Iterator[TextSpan]:
    """Texts of a message, an item, a content part or an array of them; `kind` is what plain text in it is."""
    if type(node.value) is str:
        yield TextSpan(path, kind, node.start, node.end, node.value)
        return
    keys = node.value if is_object(node.value) else {}
    kind = _turn_kind(keys, kind)
    for key, child in node.fields():
        if key in _OPAQUE and not _holds_more(child):
            continue
        place = f"{path}.{key}"
        if key in _FREE_FORM:
            yield from every(child, place, _FREE_FORM[key])
        elif key == "data":
            yield from _data(child, place, keys.get("type"))
        else:
            yield from content(child, place, _KINDS.get(key, kind))
    for index, child in enumerate(node.items()):
        yield from content(child, f"{path}[{index}]", kind)


def _data(node: Node, path: str, part: object) -> Iterator[TextSpan]:
    """`data` is an inline file, but for a plain-text document; hidden thinking is the vendor's sealed blob."""
    if part != "redacted_thinking":
        yield from every(node, path, "text" if part == "text" else "url")


def _holds_more(node: Node) -> bool:
    """Opaque values are strings; where the caller put an object or an array instead, it is looked into."""
    return type(node.value) in (dict, list)


def _turn_kind(keys: dict[str, object], kind: str) -> str:
    """What plain text in this message or part is: tool results say so by role or type."""
    if keys.get("role") in ("tool", "function"):
        return "tool_result"
    part = keys.get("type")
    if type(part) is str and (part.endswith(("tool_result", "_output"))):
        return "tool_result"
    return kind


def tools(node: Node, path: str) -> Iterator[TextSpan]:
    """Texts of tool definitions: names, descriptions, whatever strings the JSON schemas of their arguments hold."""
    if type(node.value) is str:
        yield TextSpan(path, "schema", node.start, node.end, node.value)
        return
    for key, child in node.fields():
        place = f"{path}.{key}"
        if key in _OPAQUE and not _holds_more(child):
            continue
        if key in _TOOL_SCHEMAS:
            yield from schema(child, place)
        elif key in ("examples", "input_examples"):
            yield from every(child, place, "schema")
        elif key in ("headers", "authorization"):
            yield from every(child, place, "metadata")
        elif key in ("name", "description", "server_url", "url") and type(child.value) is str:
            yield TextSpan(place, _KINDS[key], child.start, child.end, child.value)
        else:
            yield from tools(child, place)
    for index, child in enumerate(node.items()):
        yield from tools(child, f"{path}[{index}]")


def schema(node: Node, path: str) -> Iterator[TextSpan]:
    """Texts of a JSON schema: descriptions, titles, enum values, defaults, examples; property names are keys and stay."""
    if type(node.value) is str:
        yield TextSpan(path, "schema", node.start, node.end, node.value)
    for key, child in node.fields():
        place = f"{path}.{key}"
        if key in _SCHEMA_MAPS and type(child.value) is dict:
            for name, member in child.fields():
                yield from schema(member, f"{place}.{name}")
        elif key in _SCHEMA_LISTS and type(child.value) is list:
            for index, item in enumerate(child.items()):
                yield from schema(item, f"{place}[{index}]")
        elif key in _SCHEMA_VALUES or key in _TOOL_SCHEMAS:
            yield from schema(child, place)
        elif key == "description":
            yield from every(child, place, "tool_description")
        elif key not in _SCHEMA_OPAQUE or type(child.value) is dict:
            yield from every(child, place, "name" if key == "name" else "schema")
