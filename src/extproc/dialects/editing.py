"""What the response editors of all formats share: which texts an answer holds, and putting edited ones in their place.

A filter may offer two optional attributes, so that most events of a stream need not be read:

- `trigger: bytes`: ASCII characters without one of which no text of the kinds `text` and `json` changes;
- `holding: bool`: whether any channel holds something back. While it does, every event is read.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Final

import orjson

from extproc.dialects.dialect import DEFAULT_LIMITS, Edit, Path, ReadLimits, ResponseEditor, Text
from extproc.dialects.spans import Places, literal, splice
from extproc.dialects.texts import OPAQUE, REQUEST_STRINGS, Walk
from extproc.errors import ErrorCode, Rejection
from extproc.text import ChannelKind, TextFilter

ANSWER_STRINGS: Final[Mapping[str, str]] = {
    **REQUEST_STRINGS,
    **dict.fromkeys(
        (
            "b64_json", "finish_reason", "item_id", "model", "object", "obfuscation", "partial_image_b64",
            "previous_response_id", "response_id", "service_tier", "stop_reason", "system_fingerprint",
            "thought_signature",
        ),
        OPAQUE,
    ),
}  # fmt: skip
"""Kinds of strings in an answer. What the vendor made is neither restored nor scanned: ids, constants, images, sound."""
_CHANNEL_KINDS: Final[Mapping[str, ChannelKind]] = {"json": "json", "name": "name", "tool_name": "name"}
_SEALED: Final = frozenset({"signed", "url"})
_SURROGATE: Final = re.compile(rb"\\u[dD][89a-fA-F][0-9a-fA-F]{2}")
_ANY_ESCAPE: Final = rb"\\u0061"
_SURROGATES: Final = "surrogateescape"  # bytes that are no UTF-8 go through a text and back unharmed


def channel_kind(kind: str) -> ChannelKind:
    """What a filter is told of a text of `kind`."""
    return _CHANNEL_KINDS.get(kind, "text")


def loads(data: bytes) -> object:
    """A JSON value of the vendor's. Lone surrogates are let through: a vendor may cut a pair in two.

    Raises `ValueError` where it is no JSON, `RecursionError` where it is nested too deep.
    """
    try:
        return orjson.loads(data)
    except orjson.JSONDecodeError:
        return json.loads(data)


def plain(data: bytes, texts: TextFilter) -> bytes:
    """What is no JSON (an error page) is one text, whatever its bytes."""
    before = data.decode("utf-8", _SURROGATES)
    after = texts.whole("text", before)
    return data if after == before else after.encode("utf-8", _SURROGATES)


def replace(data: bytes, changes: Sequence[tuple[Path, bytes]]) -> bytes:
    """`data` with the value at each path replaced. Raises `Rejection` (502) where a place is ambiguous."""
    try:
        edits = _edits(data, changes)
    except (Rejection, KeyError):
        # half a surrogate pair cannot be measured; any other escape is as long as its own
        try:
            edits = _edits(_SURROGATE.sub(_ANY_ESCAPE, data), changes)
        except (Rejection, KeyError):  # the same name twice in an object: which of the two was read?
            message = "The provider's response cannot be edited."
            raise Rejection(502, ErrorCode.PROVIDER_BAD_RESPONSE, message) from None
    return splice(data, edits)


def _edits(data: bytes, changes: Sequence[tuple[Path, bytes]]) -> list[Edit]:
    places = Places(data)
    return [Edit(*places.place(path), new) for path, new in changes]


def found_texts(tree: object, strings: Mapping[str, str] = ANSWER_STRINGS) -> list[Text]:
    """The texts of an answer, or of one event. Raises `Rejection` (502) where it is nested too deep."""
    walk = Walk(strings)
    try:
        walk.content(tree, (), "text")
    except RecursionError:
        message = "The provider's response is nested too deep."
        raise Rejection(502, ErrorCode.PROVIDER_BAD_RESPONSE, message) from None
    return [text for text in walk.texts if text.kind not in _SEALED or not _is_sealed(text)]


def _is_sealed(text: Text) -> bool:
    """Whether the vendor signed the text, or it is an inline file: neither is edited."""
    return text.kind == "signed" or text.path[-1] == "data"


class JsonEditor(ResponseEditor):
    """A JSON answer: held to its end, then every text in it goes through the filter."""

    def __init__(
        self, texts: TextFilter, limits: ReadLimits = DEFAULT_LIMITS, strings: Mapping[str, str] = ANSWER_STRINGS
    ) -> None:
        """`strings`: kinds of string values by key. A body over the limit raises `Rejection` (502)."""
        self._texts = texts
        self._limit = limits.body
        self._strings = strings
        self._pieces: list[bytes] = []
        self._size = 0

    def feed(self, data: bytes, *, end: bool) -> bytes:
        """Collect; give the whole edited body at the end."""
        self._size += len(data)
        if self._size > self._limit:
            message = "The provider's response is too large."
            raise Rejection(502, ErrorCode.PROVIDER_RESPONSE_TOO_LARGE, message)
        self._pieces.append(data)
        if not end:
            return b""
        body = data if self._size == len(data) else b"".join(self._pieces)
        self._pieces, self._size = [], 0
        return self._edit(body) if body else body

    def _edit(self, body: bytes) -> bytes:
        try:
            tree = loads(body)
        except (ValueError, RecursionError):
            return plain(body, self._texts)
        changes = []
        for path, kind, value in found_texts(tree, self._strings):
            new = self._texts.whole(channel_kind(kind), value)
            if new != value:
                changes.append((path, literal(new)))
        return replace(body, changes) if changes else body


class PassEditor(ResponseEditor):
    """An answer without texts: vectors, counts, a list of models. It goes on as it comes."""

    def feed(self, data: bytes, *, end: bool) -> bytes:
        """The very same object."""
        return data
