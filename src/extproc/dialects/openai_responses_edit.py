"""Editing streams of Responses. Rules: the vendor's API reference, "Streaming events" of `POST /v1/responses`.

A text comes three times and more: in deltas, in the `.done` event of its kind, in its part, its item and the response.
The deltas are a channel, all others are complete texts. Events are numbered; where an extra delta goes out, the numbers
of all later events move up.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Final

from extproc.dialects.dialect import DEFAULT_LIMITS, Path, ReadLimits, Text
from extproc.dialects.editing import ANSWER_STRINGS
from extproc.dialects.stream_editing import ALL, Last, Prefix, StreamEditor, Tree, nested
from extproc.dialects.texts import OPAQUE
from extproc.text import Channel, TextFilter

RESPONSE_STRINGS: Final[Mapping[str, str]] = {**ANSWER_STRINGS, "result": OPAQUE}
_TERMINAL: Final = frozenset({"response.completed", "response.incomplete", "response.failed", "error"})
_PARTS: Final = ("content_index", "summary_index")
_PATH: Final = ("delta",)
_MEMBERS: Final = frozenset(
    {
        "content_index", "delta", "item_id", "logprobs", "obfuscation", "output_index", "sequence_number",
        "summary_index", "type",
    }
)  # fmt: skip
_SOUND: Final = frozenset({"response.audio.delta", "response.output_audio.delta"})
_NUMBER: Final = "sequence_number"
_NUMBER_PLACE: Final = re.compile(rb'(?<="sequence_number":)\s*(\d+)')


class ResponsesStreamEditor(StreamEditor):
    """Keys are the item's `output_index`, the part's name and index, and the event's type without its last word."""

    strings = RESPONSE_STRINGS

    def __init__(self, texts: TextFilter, limits: ReadLimits = DEFAULT_LIMITS) -> None:
        """An event over the limit raises `Rejection` (502)."""
        super().__init__(texts, limits)
        self._shift = 0  # extra events so far
        self._last = -1  # number of the last event that was read

    def channel(self, tree: Tree, path: Path, kind: str) -> Channel | None:
        """The `delta` of a delta event."""
        name = _type(tree)
        if path[0] != "delta" or not name.endswith(".delta"):
            return None
        base = name.removesuffix(".delta")
        return Channel((*_part(tree), base, *path[1:]), "json" if base.endswith("arguments") else "text")

    def only_text(self, tree: Tree) -> Text | None:
        """A delta without any member that is not known."""
        delta = tree.get("delta")
        if type(delta) is not str or not tree.keys() <= _MEMBERS or self.is_sealed(tree):
            return None
        return Text(_PATH, "text", delta)

    def ends(self, tree: Tree) -> Sequence[Prefix]:
        """A `.done` event ends its own text, or all texts of its part or item; a terminal one ends all."""
        name = _type(tree)
        if not name.endswith(".done"):
            return ALL if name in _TERMINAL else ()
        part = _part(tree)
        if name == "response.output_item.done":
            return [part[:1]]
        if name.endswith("_part.done"):
            return [part]
        return [(*part, name.removesuffix(".done"))]

    def delta(self, last: Last, text: str) -> Tree:
        """The last delta event with another text; its number is given by `number`."""
        tree = {**last.tree, "delta": nested(last.tree["delta"], last.path[1:], text)}
        tree.pop("obfuscation", None)
        if "logprobs" in tree:
            tree["logprobs"] = []
        return tree

    def number(self, tree: Tree, extras: Sequence[Tree]) -> list[tuple[Path, bytes]]:
        """Extra events take the numbers of those behind them, which move up."""
        own = tree.get(_NUMBER)
        at = own if type(own) is int else self._last + 1
        for extra in extras:
            if _NUMBER in extra:
                extra[_NUMBER] = at + self._shift
                self._shift += 1
        self._last = max(self._last, at if type(own) is int else self._last)
        return [((_NUMBER,), b"%d" % (at + self._shift))] if self._shift and type(own) is int else []

    def is_sealed(self, tree: Tree) -> bool:
        """Sound."""
        return _type(tree) in _SOUND

    def is_plain_delta(self, event: bytes) -> bool:
        """By its name, which the vendor always sends first."""
        return event.startswith(b"event: response.") and event[: event.find(b"\n")].endswith(b".delta")

    def unread(self, event: bytes) -> bytes:
        """Only the number of an event that goes on unread may change."""
        if not self._shift:
            return event
        found = _NUMBER_PLACE.findall(event)
        if len(found) != 1:
            return self._event(event)
        return _NUMBER_PLACE.sub(b"%d" % (int(found[0]) + self._shift), event)


def _type(tree: Tree) -> str:
    name = tree.get("type")
    return name if type(name) is str else ""


def _part(tree: Tree) -> tuple[str | int, ...]:
    """Which part of which item an event is about."""
    for name in _PARTS:
        index = tree.get(name)
        if type(index) is int:
            return _item(tree), name, index
    return _item(tree), "", 0


def _item(tree: Tree) -> str | int:
    for name in ("output_index", "item_id"):
        value = tree.get(name)
        if type(value) is int or type(value) is str:
            return value
    return 0
