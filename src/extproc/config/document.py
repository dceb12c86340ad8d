"""YAML bytes -> plain data with the line of every key, refusing what a reader could misread.

Stricter than YAML: one document, UTF-8, string keys only, no key twice, no anchors, aliases, merges or tags. Plain
scalars follow the YAML 1.2 core schema, so that `no` and `1:30` are strings. Built from parser events with a bounded
stack: the C composer recurses and crashes the process on deep input.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

import yaml
from yaml.events import (
    AliasEvent,
    CollectionStartEvent,
    DocumentStartEvent,
    Event,
    MappingEndEvent,
    MappingStartEvent,
    ScalarEvent,
    SequenceEndEvent,
)

from extproc.config.problems import ConfigErrors, Loc, Problem, path_of

MAX_BYTES: Final = 4 * 1024 * 1024
MAX_DEPTH: Final = 32

Scalar = str | int | float | bool | None
Tree = dict[str, "Tree"] | list["Tree"] | Scalar

_NULL: Final = frozenset({"", "~", "null", "Null", "NULL"})
_BOOL: Final = {"true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False}
_INT: Final = re.compile(r"[-+]?[0-9]{1,18}")
_HEX: Final = re.compile(r"0x[0-9a-fA-F]{1,15}")
_FLOAT: Final = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_LOADER: Final = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


@dataclass(frozen=True, slots=True)
class Document:
    """The data of one file and where each part of it stands."""

    tree: Tree
    lines: dict[Loc, int]
    text: str

    def line(self, loc: Loc) -> int | None:
        """Find the line of `loc`, or of the nearest part around it that is written in the file; None for the root."""
        while loc:
            if loc in self.lines:
                return self.lines[loc]
            loc = loc[:-1]
        return None


def read_document(data: bytes, name: str) -> Document:
    """Parse `data`. Raises `ConfigErrors` with line and column on bad syntax, and at the path of a refused construct."""
    if len(data) > MAX_BYTES:
        raise ConfigErrors(name, [Problem(name, f"is larger than {MAX_BYTES} bytes", "a gateway.yaml is a few KiB")])
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ConfigErrors(name, [Problem(name, "is not UTF-8", "save the file as UTF-8", line=line)]) from None
    builder = _Builder(name)
    try:
        for event in _events(text):
            builder.take(event)
    except yaml.MarkedYAMLError as error:
        raise ConfigErrors(name, [_syntax_problem(error, name)]) from None
    except yaml.YAMLError as error:  # the reader's: a control character
        reason = f"is not valid YAML: {str(error).splitlines()[0]}"
        raise ConfigErrors(name, [Problem(name, reason, "remove the control character")]) from None
    if builder.problems:
        raise ConfigErrors(name, builder.problems)
    return Document(builder.root, builder.lines, text)


def _events(text: str) -> Iterator[Event]:
    loader = _LOADER(text)
    try:
        while loader.check_event():
            yield loader.get_event()
    finally:
        loader.dispose()


def _syntax_problem(error: yaml.MarkedYAMLError, name: str) -> Problem:
    mark = error.problem_mark or error.context_mark
    place = f" at column {mark.column + 1}" if mark is not None else ""
    what = error.problem or error.context or "cannot be read"
    hint = (
        "indent with spaces, not tabs" if "\\t" in what or "tab" in what else "check indentation, quotes and brackets"
    )
    return Problem(name, f"is not valid YAML: {what}{place}", hint, line=None if mark is None else mark.line + 1)


@dataclass(slots=True)
class _Level:
    """An open mapping or list while its items arrive."""

    value: dict[str, Tree] | list[Tree]
    loc: Loc
    key: str | None = None  # the mapping key whose value comes next


@dataclass(slots=True)
class _Builder:
    """Builds the tree from events; gives up at the first construct that it cannot step over safely."""

    name: str
    root: Tree = None
    lines: dict[Loc, int] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    stack: list[_Level] = field(default_factory=list)
    documents: int = 0

    def take(self, event: Event) -> None:
        """Process one parser event."""
        if isinstance(event, DocumentStartEvent):
            self.documents += 1
            if self.documents > 1:
                self._fail(self.name, event, "holds more than one document", "remove the `---` between them")
        elif isinstance(event, AliasEvent):
            self._fail(self._here(), event, "is a YAML alias, which is not supported", "write the value out")
        elif isinstance(event, ScalarEvent):
            self._scalar(event)
        elif isinstance(event, CollectionStartEvent):
            self._open(event)
        elif isinstance(event, MappingEndEvent | SequenceEndEvent):
            self.stack.pop()

    def _open(self, event: CollectionStartEvent) -> None:
        if self._expects_key():
            self._fail(self._here(), event, "has a key that is not a plain word", "use text as the key")
        if len(self.stack) >= MAX_DEPTH:
            self._fail(self._here(), event, f"is nested deeper than {MAX_DEPTH} levels", "flatten it")
        self._refuse_extras(event, event.tag)
        value: dict[str, Tree] | list[Tree] = {} if isinstance(event, MappingStartEvent) else []
        loc = self._put(value, event)
        self.stack.append(_Level(value, loc))

    def _scalar(self, event: ScalarEvent) -> None:
        self._refuse_extras(event, None if event.implicit[0] or event.implicit[1] else event.tag)
        value = _resolve(event.value) if event.implicit[0] else event.value
        if not self._expects_key():
            self._put(value, event)
            return
        level = self.stack[-1]
        if event.implicit[0] and event.value == "<<":
            self._fail(self._here(), event, "uses a YAML merge key, which is not supported", "write the keys out")
        if not isinstance(value, str):
            self._fail(self._here(), event, f"has a key that is not text: {event.value}", "put the key in quotes")
        level.key = event.value
        if isinstance(level.value, dict) and event.value in level.value:
            first = self.lines[(*level.loc, event.value)]
            line = _line(event)
            self.problems.append(
                Problem(self._here(), f"is written twice, first on line {first}", "keep one of them", line=line)
            )
        self.lines[(*level.loc, event.value)] = _line(event)

    def _put(self, value: Tree, event: Event) -> Loc:
        """Attach `value` where the open collection expects it, and return its place."""
        if not self.stack:
            self.root = value
            return ()
        level = self.stack[-1]
        if isinstance(level.value, list):
            loc = (*level.loc, len(level.value))
            level.value.append(value)
            self.lines[loc] = _line(event)
            return loc
        key = level.key or ""
        level.value[key] = value
        level.key = None
        return (*level.loc, key)

    def _expects_key(self) -> bool:
        return bool(self.stack) and isinstance(self.stack[-1].value, dict) and self.stack[-1].key is None

    def _refuse_extras(self, event: ScalarEvent | CollectionStartEvent, tag: str | None) -> None:
        if event.anchor is not None:
            self._fail(self._here(), event, "has a YAML anchor, which is not supported", "write the value out")
        if tag is not None:
            self._fail(self._here(), event, "has a YAML tag, which is not supported", "remove the tag")

    def _here(self) -> str:
        if not self.stack:
            return self.name
        level = self.stack[-1]
        if isinstance(level.value, list):
            return path_of((*level.loc, len(level.value)))
        return path_of(level.loc if level.key is None else (*level.loc, level.key)) or self.name

    def _fail(self, path: str, event: Event, reason: str, hint: str) -> None:
        problem = Problem(path, reason, hint, line=_line(event))
        raise ConfigErrors(self.name, [*self.problems, problem])


def _line(event: Event) -> int:
    return 0 if event.start_mark is None else event.start_mark.line + 1


def _resolve(text: str) -> Scalar:
    """Read a plain scalar by the YAML 1.2 core schema; infinities and NaN stay text, no field takes them."""
    if text in _NULL:
        return None
    if text in _BOOL:
        return _BOOL[text]
    if _INT.fullmatch(text):
        return int(text)
    if _HEX.fullmatch(text):
        return int(text, 16)
    if _FLOAT.fullmatch(text):
        return float(text)
    return text
