"""The walk over every text of a body, in a fixed logical order. It looks at parsed values only; no place is measured.

The walk is exhaustive by construction: it emits every string below a field unless the key is one of a few whose values
are constants or opaque ids of the vendor, and the value looks like one. A shape that nobody foresaw is therefore still
inspected.
"""

from __future__ import annotations

import re
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
SIGNED: Final[Mapping[str, str]] = {"thinking": "thinking", "reasoning.text": "text"}
"""By type of a part: the field of it that the vendor's signature beside it covers."""
# What the vendor defines or issues has no blank, no `@`, and is no number of a card, an account or a phone. What it
# sealed may be long.
_ID: Final = re.compile(r"(?!(?:[-+./:,=]*[0-9]){8,}[-+./:,=]*\Z)[A-Za-z0-9_.:/+=,|~-]{0,512}")
_SEALED: Final = re.compile(r"[A-Za-z0-9_.:/+=,|~-]*")
_SEALED_KEYS: Final = frozenset({"data", "encrypted_content", "signature"})
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
    "input_examples": "schema",
}
_CREDENTIAL: Final = re.compile(r"authorization|cookie|password|secret|token|(?:^|[-_])(?:api)?key$", re.IGNORECASE)
_NAME_LISTS: Final = frozenset({"allowed_tools", "tool_names"})
_SCHEMA_OPAQUE: Final = frozenset(
    {"$anchor", "$id", "$ref", "$schema", "contentEncoding", "contentMediaType", "format", "required", "type"}
)
_POINTER: Final = re.compile(r"#.*|https?://json-schema\.org/[a-z0-9/.-]*#?")  # to names in the schema, which stay
_SCHEMA_MAPS: Final = frozenset({"$defs", "definitions", "dependentSchemas", "patternProperties", "properties"})
_SCHEMA_LISTS: Final = frozenset({"allOf", "anyOf", "oneOf", "prefixItems"})
_SCHEMA_VALUES: Final = frozenset({"additionalProperties", "contains", "else", "if", "items", "not", "then"})
_TOOL_ROLES: Final = ("tool", "function")
_RESULT_TYPES: Final = ("tool_result", "_output")
_HOLDERS: Final = frozenset({str, dict, list})  # types of values that are or may hold a text
_LEAVES: Final = _HOLDERS | {float, int}
_NUMBERED: Final = frozenset({"tool_arguments", "tool_result"})  # elsewhere numbers are parameters of the vendor's
_MESSAGE: Final = 2  # steps to a message: `messages[0]`
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

    __slots__ = ("_asked", "_assistant", "_signatures", "_strings", "arguments", "stored", "texts")

    def __init__(
        self, strings: Mapping[str, str] = REQUEST_STRINGS, signed: Mapping[str, str] = SIGNED, *, asked: bool = False
    ) -> None:
        """`strings`: kinds of string values by key. `signed`: by type of a part, the field that a signature covers.

        `asked`: it is a request, by a caller who may put anything anywhere. What is opaque must then look like it, and
        only assistants have signed anything.
        """
        self.texts: list[Text] = []
        self.stored: list[Path] = []
        self.arguments: list[tuple[int, Path, object]] = []
        self._strings = strings
        self._signatures = signed
        self._asked = asked
        self._assistant = not asked  # whether the message that is walked is one

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
        elif kind in _NUMBERED or path[0] == "metadata":
            self._number(value, path, kind)

    def _number(self, value: object, path: Path, kind: str) -> None:
        """The digits of a long whole number, however it is written."""
        if type(value) is float and value.is_integer():
            value = int(value)
        if type(value) is int and abs(value) >= _LONG_NUMBER:
            self.texts.append(Text(path, kind, str(abs(value))))

    def _is_opaque(self, key: str, value: str) -> bool:
        """Whether a string in the place of a constant or an id looks like one; `key`: its name."""
        if not self._asked or _ID.fullmatch(value):
            return True
        return key in _SEALED_KEYS and _SEALED.fullmatch(value) is not None

    def constants(self, value: object, path: Path) -> None:
        """Strings at or below a value that the vendor defines: only those that do not look like constants or ids."""
        if len(path) > _DEEPEST:
            raise RecursionError
        if type(value) is str:
            if not self._is_opaque(str(path[-1]), value):
                self.texts.append(Text(path, "metadata", value))
        elif is_object(value):
            for key, child in value.items():
                if type(child) in _HOLDERS:
                    self.constants(child, (*path, key))
        elif is_array(value):
            for index, child in enumerate(value):
                if type(child) in _HOLDERS:
                    self.constants(child, (*path, index))

    def content(self, value: object, path: Path, kind: str) -> None:
        """Texts of a message, an item, a content part or an array of them; `kind` is what plain text in it is."""
        if len(path) > _DEEPEST:
            raise RecursionError
        if self._asked and len(path) <= _MESSAGE:
            self._assistant = len(path) == _MESSAGE and is_object(value) and value.get("role") == "assistant"
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
        if self._assistant and "signature" in part:
            part = self._signed(part, path)
        get = self._strings.get
        for key, child in part.items():
            if type(child) is str:
                what = get(key, kind)
                if what == _BY_PART:
                    what = _kind_by_part(key, part)
                if what == OPAQUE and child and key in _STORED:
                    self.stored.append((*path, key))
                if what != OPAQUE or not self._is_opaque(key, child):
                    self.texts.append(Text((*path, key), what or "metadata", child))
            elif type(child) in _HOLDERS:
                self._member(key, child, (*path, key), kind)

    def _signed(self, part: dict[str, object], path: Path) -> dict[str, object]:
        """Take the one text that a signature covers out of a part; return what else there is in it."""
        field = self._signatures.get(str(part.get("type")), "")
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
        if is_array(value) and all(type(child) is str for child in value):
            self.constants(value, path)
        else:
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
                if what != OPAQUE or not self._is_opaque(key, child):
                    self.texts.append(Text((*path, key), named if what == _BY_PART else what or "metadata", child))
                if child and (key in _STORED or key == "container"):
                    self.stored.append((*path, key))
            elif type(child) in _HOLDERS:
                self._tool_member(key, child, (*path, key), named)

    def _tool_member(self, key: str, value: object, path: Path, named: str) -> None:
        if key in _TOOL_SCHEMAS:
            self.schema(value, path)
        elif key == "headers" and is_object(value):
            for name, child in value.items():
                self.every(child, (*path, name), "credential" if _CREDENTIAL.search(name) else "metadata")
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
                if key == "required" and is_array(child):
                    self._required(child, (*path, key), value.get("properties"))
                elif type(child) in _HOLDERS:
                    self._schema_member(key, child, (*path, key))
        elif is_array(value):
            self.every(value, path, "schema")

    def _required(self, names: list[object], path: Path, properties: object) -> None:
        """Names of properties, which are left as they are: to change them here alone would break the schema."""
        known = properties if is_object(properties) else {}
        for index, name in enumerate(names):
            if type(name) in _HOLDERS and not (type(name) is str and name in known):
                self.constants(name, (*path, index))

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
        elif not (type(value) is str and _POINTER.fullmatch(value)):
            self.constants(value, path)


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
