"""The walk over every text of a body, in a fixed logical order. It looks at parsed values only; no place is measured.

The walk is exhaustive by construction: it emits every string below a field unless the key is one of a few whose values
are constants or opaque ids of the vendor. A shape that nobody foresaw is therefore still inspected.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final

from extproc.dialects.dialect import KEY, Path, Text
from extproc.dialects.spans import is_array, is_object

OPAQUE: Final = ""
"""In a table of kinds: a value that the vendor defines or issued. Changing one breaks the call."""
_BY_PART: Final = "?"  # in a table of kinds: the object around it decides
REQUEST_STRINGS: Final[Mapping[str, str]] = {
    **dict.fromkeys(
        (
            "cache_control", "call_id", "container_id", "detail", "encrypted_content", "encrypted_index", "file_id",
            "id", "media_type", "role", "signature", "status", "tool_call_id", "tool_use_id", "type",
        ),
        OPAQUE,
    ),
    "action": "tool_arguments",
    "arguments": "json",
    "attributes": "tool_result",
    "data": _BY_PART,
    "description": "tool_description",
    "file_data": "url",
    "file_url": "url",
    "filename": "name",
    "image_url": "url",
    "input": "tool_arguments",
    "metadata": "metadata",
    "name": _BY_PART,
    "operation": "tool_arguments",
    "output": "tool_result",
    "outputs": "tool_result",
    "server_label": "tool_name",
    "server_name": "tool_name",
    "server_url": "url",
    "tool_name": "tool_name",
    "url": "url",
}  # fmt: skip
# Values of any shape, in which every key is the caller's own
_FREE_FORM: Final = {
    "action": "tool_arguments",
    "arguments": "tool_arguments",
    "attributes": "tool_result",
    "input": "tool_arguments",
    "metadata": "metadata",
    "operation": "tool_arguments",
}
_SIGNED: Final = {"thinking": "thinking", "reasoning.text": "text"}  # type of a part -> what its signature covers
_STORED: Final = frozenset({"container_id", "file_id", "file_ids", "vector_store_ids"})
_TOOL_STRINGS: Final[Mapping[str, str]] = {
    **{key: kind for key, kind in REQUEST_STRINGS.items() if kind == OPAQUE},
    "authorization": "credential",
    "authorization_token": "credential",
    "description": "tool_description",
    "name": _BY_PART,
    "server_label": "tool_name",
    "server_url": "url",
    "url": "url",
}
_TOOL_SCHEMAS: Final = frozenset({"input_schema", "json_schema", "output_schema", "parameters", "schema"})
_TOOL_MAPS: Final = {
    "authorization": "credential",
    "examples": "schema",
    "headers": "credential",
    "input_examples": "schema",
}
_NAME_LISTS: Final = frozenset({"allowed_tools", "tool_names"})
_SCHEMA_OPAQUE: Final = frozenset(
    {"$anchor", "$id", "$ref", "$schema", "contentEncoding", "contentMediaType", "format", "required", "type"}
)
_SCHEMA_MAPS: Final = frozenset({"$defs", "definitions", "dependentSchemas", "patternProperties", "properties"})
_SCHEMA_LISTS: Final = frozenset({"allOf", "anyOf", "oneOf", "prefixItems"})
_SCHEMA_VALUES: Final = frozenset({"additionalProperties", "contains", "else", "if", "items", "not", "then"})
_TOOL_ROLES: Final = ("tool", "function")
_RESULT_TYPES: Final = ("tool_result", "_output")
_HOLDERS: Final = frozenset({str, dict, list})  # types of values that are or may hold a text
_LEAVES: Final = _HOLDERS | {int}
_NUMBERED: Final = frozenset({"tool_arguments", "tool_result"})  # elsewhere numbers are parameters of the vendor's
_DEEPEST: Final = 128  # steps of a path: finding a place in a body costs the square of its depth
_LONG_NUMBER: Final = 10_000_000  # eight digits: below are counts and small sums, no cards, accounts and phones


def keys_below(value: object, path: Path, kind: str) -> Iterator[Text]:
    """The name of every member at any depth below `value`."""
    if is_object(value):
        for key, child in value.items():
            yield Text((*path, key, KEY), kind, key)
            yield from keys_below(child, (*path, key), kind)
    elif is_array(value):
        for index, child in enumerate(value):
            yield from keys_below(child, (*path, index), kind)


class Walk:
    """Collects texts in the order in which its methods are called.

    `texts` are the texts; `stored` the paths of ids by which a request leans on something the vendor stored;
    `arguments` the tool arguments that are objects or arrays, each with the number of texts before it.
    """

    __slots__ = ("_strings", "arguments", "stored", "texts")

    def __init__(self, strings: Mapping[str, str] = REQUEST_STRINGS) -> None:
        """`strings`: kinds of string values by key."""
        self.texts: list[Text] = []
        self.stored: list[Path] = []
        self.arguments: list[tuple[int, Path, object]] = []
        self._strings = strings

    def every(self, value: object, path: Path, kind: str) -> None:
        """Every string at or below `value`, whatever its key, and every number long enough to be someone's."""
        if type(value) is str:
            self.texts.append(Text(path, kind, value))
        elif len(path) > _DEEPEST:
            raise RecursionError
        elif is_object(value):
            for key, child in value.items():
                if type(child) in _LEAVES:
                    self.every(child, (*path, key), kind)
        elif is_array(value):
            for index, child in enumerate(value):
                if type(child) in _LEAVES:
                    self.every(child, (*path, index), kind)
        elif type(value) is int and value >= _LONG_NUMBER and (kind in _NUMBERED or path[0] == "metadata"):
            self.texts.append(Text(path, kind, str(value)))

    def content(self, value: object, path: Path, kind: str) -> None:
        """Texts of a message, an item, a content part or an array of them; `kind` is what plain text in it is."""
        if len(path) > _DEEPEST:
            raise RecursionError
        if is_object(value):
            self._part(value, path, kind)
        elif is_array(value):
            for index, child in enumerate(value):
                if type(child) in _HOLDERS:
                    self.content(child, (*path, index), kind)
        elif type(value) is str:
            self.texts.append(Text(path, kind, value))

    def _part(self, part: dict[str, object], path: Path, kind: str) -> None:
        kind = _part_kind(part, kind)
        if "signature" in part:
            part = self._signed(part, path)
        get = self._strings.get
        for key, child in part.items():
            if type(child) is str:
                what = get(key, kind)
                if what == _BY_PART:
                    what = _kind_by_part(key, part)
                if what != OPAQUE:
                    self.texts.append(Text((*path, key), what, child))
                elif child and key in _STORED:
                    self.stored.append((*path, key))
            elif type(child) in _HOLDERS:
                self._member(key, child, (*path, key), kind)

    def _signed(self, part: dict[str, object], path: Path) -> dict[str, object]:
        """Take the one text that a signature covers out of a part; return what else there is in it."""
        field = _SIGNED.get(str(part.get("type")), "")
        text = part.get(field)
        if type(text) is not str or not part["signature"] or type(part["signature"]) is not str:
            return part
        self.texts.append(Text((*path, field), "signed", text))
        return {key: child for key, child in part.items() if key != field}

    def _member(self, key: str, value: object, path: Path, kind: str) -> None:
        """An object or an array that is a member; one in the place of an opaque string is looked into."""
        free = _FREE_FORM.get(key)
        if free is not None:
            if free == "tool_arguments":
                self.arguments.append((len(self.texts), path, value))
            self.every(value, path, free)
        elif key == "tools":
            self.tools(value, path)
        elif key == "variables" and is_object(value):
            for name, child in value.items():
                self.content(child, (*path, name), kind)
        elif key in _STORED:
            self._ids(value, path)
        else:
            if key == "audio" and is_object(value) and value.get("id"):
                self.stored.append((*path, "id"))
            what = self._strings.get(key, kind)
            self.content(value, path, kind if what in (OPAQUE, _BY_PART, "json") else what)

    def _ids(self, value: object, path: Path) -> None:
        """A list of ids is opaque; whatever else stands in its place is looked into."""
        if value:
            self.stored.append(path)
        if not is_array(value) or any(type(child) is not str for child in value):
            self.every(value, path, "metadata")

    def tools(self, value: object, path: Path, named: str = "tool_name", plain: str = "schema") -> None:
        """Texts of tool definitions: names, descriptions, whatever strings the JSON schemas of their arguments hold.

        `named` is the kind of a `name`, `plain` that of a string in an array.
        """
        if len(path) > _DEEPEST:
            raise RecursionError
        if is_object(value):
            self._tool(value, path, named)
        elif is_array(value):
            for index, child in enumerate(value):
                if type(child) in _HOLDERS:
                    self.tools(child, (*path, index), named, plain)
        elif type(value) is str:
            self.texts.append(Text(path, plain, value))

    def _tool(self, tool: dict[str, object], path: Path, named: str) -> None:
        for key, child in tool.items():
            if type(child) is str:
                what = _TOOL_STRINGS.get(key, "schema")
                if what != OPAQUE:
                    self.texts.append(Text((*path, key), named if what == _BY_PART else what, child))
                if child and (key in _STORED or key == "container"):
                    self.stored.append((*path, key))
            elif type(child) in _HOLDERS:
                self._tool_member(key, child, (*path, key), named)

    def _tool_member(self, key: str, value: object, path: Path, named: str) -> None:
        if key in _TOOL_SCHEMAS:
            self.schema(value, path)
        elif key in _TOOL_MAPS:
            self.every(value, path, _TOOL_MAPS[key])
        elif key in _STORED:
            self._ids(value, path)
        else:
            self.tools(value, path, named, "tool_name" if key in _NAME_LISTS else "schema")

    def schema(self, value: object, path: Path) -> None:
        """Texts of a JSON schema: descriptions, titles, enum values, defaults, examples; property names are keys."""
        if type(value) is str:
            self.texts.append(Text(path, "schema", value))
        elif is_object(value):
            for key, child in value.items():
                if type(child) in _HOLDERS:
                    self._schema_member(key, child, (*path, key))
        elif is_array(value):
            self.every(value, path, "schema")

    def _schema_member(self, key: str, value: object, path: Path) -> None:
        if key in _SCHEMA_MAPS and is_object(value):
            for name, child in value.items():
                self.schema(child, (*path, name))
        elif key in _SCHEMA_LISTS and is_array(value):
            for index, child in enumerate(value):
                self.schema(child, (*path, index))
        elif key in _SCHEMA_VALUES or key in _TOOL_SCHEMAS:
            self.schema(value, path)
        elif key == "description":
            self.every(value, path, "tool_description")
        elif key not in _SCHEMA_OPAQUE or is_object(value):
            self.every(value, path, "name" if key == "name" else "schema")


def _part_kind(part: dict[str, object], kind: str) -> str:
    """What plain text in this message or part is: tool results say so by role or type."""
    if part.get("role") in _TOOL_ROLES:
        return "tool_result"
    what = part.get("type")
    if type(what) is str and what.endswith(_RESULT_TYPES):
        return "tool_result"
    return kind


def _kind_by_part(key: str, part: dict[str, object]) -> str:
    """Kind of a `name` or of `data`.

    A tool's name stands beside the arguments of a call, or in a message of a tool's role. `data` is an inline file, but
    for a plain-text document; hidden thinking is the vendor's sealed blob.
    """
    what = part.get("type")
    if key == "data":
        return OPAQUE if what == "redacted_thinking" else "text" if what == "text" else "url"
    is_tool = "arguments" in part or "input" in part or part.get("role") in _TOOL_ROLES
    return "tool_name" if is_tool else "name"
