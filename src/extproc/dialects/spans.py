"""Byte positions in JSON, at C speed, and edits that leave every other byte alone.

`orjson` says whether a body is strict JSON and what is in it; `msgspec.Raw` says how long each value is, in document
order, so that only the few bytes between two values (comma, key, colon) need a regular expression.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Final, NamedTuple, NoReturn, TypeGuard

import msgspec
import orjson

from extproc.dialects.dialect import KEY, Edit, Path
from extproc.errors import ErrorCode, Rejection

_RAW_OBJECT: Final = msgspec.json.Decoder(dict[str, msgspec.Raw])
_RAW_ARRAY: Final = msgspec.json.Decoder(list[msgspec.Raw])
_TO_VALUE: Final = re.compile(rb'[{,\s]*("(?:[^"\\]|\\.)*+")\s*:\s*', re.DOTALL)
_TO_ELEMENT: Final = re.compile(rb"[,\s]*")
_KEY_END: Final = re.compile(rb'"[ \t\r\n]*:')
_ESCAPED_KEY_END: Final = re.compile(rb'\\"[ \t\r\n]*:')
_DOUBLY_ESCAPED_KEY_END: Final = re.compile(rb'\\\\"[ \t\r\n]*:')
_SPACED: Final = re.compile(rb'^\s*\{\s*"[^"]*"(?:\s|:\s)')
_KEY: Final = re.compile(rb'"(?:[^"\\]|\\.)*+"', re.DOTALL)
_BLANKS: Final = b" \t\r\n"
_SPACE: Final = re.compile(rb"[ \t\r\n]*")
_AMBIGUOUS: Final = "The JSON body of your request has the same key twice in one object."
_MALFORMED: Final = "We could not parse the JSON body of your request."
_NO_OBJECT: Final = "The JSON body of your request must be an object."


class Member(NamedTuple):
    """One member of an object: where its key begins, and where its value begins and ends (byte offsets)."""

    key: int
    start: int
    end: int


class _DuplicateKeyError(ValueError):
    """The same key twice in one object."""


def is_object(value: object) -> TypeGuard[dict[str, object]]:
    """Whether a parsed JSON value is an object (its keys are strings by the grammar)."""
    return type(value) is dict


def is_array(value: object) -> TypeGuard[list[object]]:
    """Whether a parsed JSON value is an array."""
    return type(value) is list


def read_object(body: bytes) -> dict[str, object]:
    """Parse a request body that must be one strict JSON object without duplicate keys at any depth.

    Raises `Rejection` (400): `caller_malformed_body` for invalid UTF-8, trailing data, NaN, control characters, lone
    surrogates, too deep nesting or a body that is no object; `caller_ambiguous_body` for duplicate keys.
    """
    try:
        tree = orjson.loads(body)
    except orjson.JSONDecodeError:
        raise Rejection(400, ErrorCode.CALLER_MALFORMED_BODY, _MALFORMED) from None
    if not is_object(tree):
        raise Rejection(400, ErrorCode.CALLER_MALFORMED_BODY, _NO_OBJECT)
    if has_duplicate_keys(body, tree):
        raise Rejection(400, ErrorCode.CALLER_AMBIGUOUS_BODY, _AMBIGUOUS)
    return tree


def has_duplicate_keys(body: bytes, tree: object) -> bool:
    """Whether the strict JSON text `body`, which parsed to `tree`, has an object with the same key twice.

    Three steps, each exact where it answers, from cheap to dear. A body that is the compact rendering of its own tree
    (what the vendors' SDKs send) has each key once. Else the keys of the tree are counted against what looks like the
    end of a key in the text: never fewer than there are keys, so an equal count proves it; a string that begins with a
    colon makes it more, and then a slower parser, which shows every pair, decides.
    """
    if _SPACED.match(body) is None:
        try:
            if orjson.dumps(tree) == body:
                return False
        except orjson.JSONEncodeError:  # deeper than the writer goes
            pass
    if b"\\" not in body:
        ends = len(_KEY_END.findall(body))
    elif _DOUBLY_ESCAPED_KEY_END.search(body) is None:
        ends = len(_KEY_END.findall(body)) - len(_ESCAPED_KEY_END.findall(body))
    else:
        ends = -1
    return ends != _count_keys(tree) and _has_duplicate_pairs(body)


def _count_keys(tree: object) -> int:
    """Keys of all objects in a parsed tree."""
    count = 0
    nodes = [tree]
    for node in nodes:  # grows while it is walked
        if is_object(node):
            count += len(node)
            nodes.extend(node.values())
        elif is_array(node):
            nodes.extend(node)
    return count


def _refuse_duplicates(pairs: list[tuple[str, object]]) -> None:
    if len({key for key, _ in pairs}) != len(pairs):
        raise _DuplicateKeyError


def _no_number(_text: str) -> None:
    """Numbers are not looked at: only keys are."""


def _has_duplicate_pairs(body: bytes) -> bool:
    try:
        json.loads(body, object_pairs_hook=_refuse_duplicates, parse_int=_no_number, parse_float=_no_number)
    except _DuplicateKeyError:
        return True
    except (RecursionError, ValueError):  # nested deeper than it can be checked: refuse rather than guess
        return True
    return False


def _misread() -> NoReturn:
    raise Rejection(400, ErrorCode.CALLER_MALFORMED_BODY, _MALFORMED)


def members(body: bytes, start: int = 0, end: int | None = None) -> dict[str, Member]:
    """Where the members of the object at `body[start:end]` are; JSON that `read_object` accepts is taken for granted.

    Raises `Rejection` (400) where the text is no object, has duplicate keys or is nested too deep to be measured.
    """
    try:
        view = memoryview(body)
        raws = _RAW_OBJECT.decode(view if end is None and not start else view[start:end])
    except (msgspec.DecodeError, RecursionError):
        _misread()
    found: dict[str, Member] = {}
    match = _TO_VALUE.match
    position = start
    for key, raw in raws.items():
        step = match(body, position)
        if step is None:
            _misread()
        begin = step.end()
        position = begin + len(memoryview(raw))
        found[key] = Member(step.start(1), begin, position)
    tail = _SPACE.match(body, position if found else _open(body, start))
    if tail is None or body[tail.end() : tail.end() + 1] != b"}":  # a repeated key was swallowed
        _misread()
    return found


def _open(body: bytes, start: int) -> int:
    """Offset just behind the brace that opens the object at `start`."""
    return body.index(b"{", start) + 1


def elements(body: bytes, start: int, end: int) -> list[tuple[int, int]]:
    """Where the elements of the array at `body[start:end]` are. Raises `Rejection` (400) like `members`."""
    try:
        raws = _RAW_ARRAY.decode(memoryview(body)[start:end])
    except (msgspec.DecodeError, RecursionError):
        _misread()
    found = []
    position = body.index(b"[", start) + 1
    match = _TO_ELEMENT.match
    for raw in raws:
        step = match(body, position)
        if step is not None:
            position = step.end()
        begin = position
        position += len(memoryview(raw))
        found.append((begin, position))
    return found


def splice(body: bytes, edits: Sequence[Edit]) -> bytes:
    """Apply edits: every byte outside the edited spans stays as it is; without edits, the very same object returns.

    Edits may come in any order; inserts at one place keep theirs. Raises `ValueError` where two overlap or one lies
    outside the body: a bug of the proposer, never the caller's fault.
    """
    if not edits:
        return body
    pieces: list[bytes] = []
    position = 0
    for start, end, new in sorted(edits, key=_place):
        if not position <= start <= end <= len(body):
            message = f"edit {start}..{end} overlaps another or leaves the body of {len(body)} bytes"
            raise ValueError(message)
        pieces += (body[position:start], new)
        position = end
    pieces.append(body[position:])
    return b"".join(pieces)


def _place(edit: Edit) -> tuple[int, int]:
    return edit.start, edit.end


def insert_member(body: bytes, start: int, found: dict[str, Member], member: bytes) -> Edit:
    """The edit that puts `member` (`"key":value`) last into the object at `start`, whose members are `found`."""
    if not found:
        position = _open(body, start)
        return Edit(position, position, member)
    position = max(place.end for place in found.values())
    return Edit(position, position, b"," + member)


def remove_member(found: dict[str, Member], name: str) -> Edit:
    """The edit that takes member `name` out with the one comma that belongs to it; all other bytes stay."""
    place = found[name]
    before = max((other.end for other in found.values() if other.end < place.start), default=None)
    if before is not None:
        return Edit(before, place.end, b"")
    after = min((other.key for other in found.values() if other.key > place.end), default=place.end)
    return Edit(place.key, after, b"")


def literal(text: str) -> bytes:
    """The JSON string literal of `text`, quotes included: UTF-8, and no escape that is not needed.

    A lone surrogate, which UTF-8 cannot spell, becomes its escape.
    """
    try:
        return orjson.dumps(text)
    except orjson.JSONEncodeError:
        return json.dumps(text, ensure_ascii=False).encode("utf-8", "backslashreplace")


class Places:
    """Where the values of one JSON text are. A container is measured once, and only when something in it is asked for."""

    __slots__ = ("_arrays", "_body", "_objects")

    def __init__(self, body: bytes) -> None:
        """`body` is JSON; nothing is measured yet."""
        self._body = body
        self._objects: dict[Path, dict[str, Member]] = {}
        self._arrays: dict[Path, list[tuple[int, int]]] = {}

    def members(self, path: Path) -> dict[str, Member]:
        """The members of the object at `path`. Raises `Rejection` (400) like the function of this name."""
        found = self._objects.get(path)
        if found is None:
            found = self._objects[path] = members(self._body, *self.place(path)) if path else members(self._body)
        return found

    def place(self, path: Path) -> tuple[int, int]:
        """Byte offsets of the value at `path`, or of the name of a member where `path` ends in `KEY`.

        Raises `KeyError` or `IndexError` where nothing is there: a bug of whoever made the path.
        """
        if not path:
            return _SPACE.match(self._body).end(), len(self._body.rstrip(_BLANKS))  # type: ignore[union-attr]
        above, step = path[:-1], path[-1]
        if type(step) is str:
            member = self.members(above)[step]
            return member.start, member.end
        if step == KEY:
            member = self.members(above[:-1])[str(above[-1])]
            return member.key, _KEY.match(self._body, member.key).end()  # type: ignore[union-attr]
        found = self._arrays.get(above)
        if found is None:
            found = self._arrays[above] = elements(self._body, *self.place(above))
        return found[int(step)]
