"""Editing streams of Messages. Rules: the vendor's API reference, "Streaming messages".

Thinking stays as it came, in streams and in JSON: the vendor signs it, and verifies the signature when the caller sends
it back.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from extproc.dialects.dialect import Path, Text
from extproc.dialects.editing import ANSWER_STRINGS
from extproc.dialects.spans import is_object
from extproc.dialects.stream_editing import ALL, Last, Prefix, StreamEditor, Tree
from extproc.dialects.texts import OPAQUE
from extproc.text import Channel

MESSAGE_STRINGS: Final[Mapping[str, str]] = {**ANSWER_STRINGS, "thinking": OPAQUE}
_DELTA_TYPES: Final = {"text": "text_delta", "partial_json": "input_json_delta"}
_DELTA_PATHS: Final[Mapping[str, Path]] = {field: ("delta", field) for field in _DELTA_TYPES}
_DELTA_PATH: Final = 2  # length of each of these
_DELTA_MEMBERS: Final = 3  # `type`, `index`, `delta`


class MessagesStreamEditor(StreamEditor):
    """Each content block is a channel; tool inputs come as pieces of JSON."""

    strings = MESSAGE_STRINGS

    def channel(self, tree: Tree, path: Path, kind: str) -> Channel | None:
        """Keys are the block's `index` and the field that grows; citations and started tools are complete."""
        if len(path) != _DELTA_PATH:
            return None
        holder, field = path
        grows = (holder == "delta" and tree.get("type") == "content_block_delta") or (
            holder == "content_block" and field == "text"
        )
        return Channel((_index(tree), field), "json" if field == "partial_json" else "text") if grows else None

    def only_text(self, tree: Tree) -> Text | None:
        """A delta of text, or of a tool's input."""
        delta = tree.get("delta")
        if (
            tree.get("type") != "content_block_delta"
            or len(tree) != _DELTA_MEMBERS
            or "index" not in tree
            or not is_object(delta)
        ):
            return None
        for field, path in _DELTA_PATHS.items():
            value = delta.get(field)
            if type(value) is str and delta.keys() == {"type", field}:
                return Text(path, "text", value)
        return None

    def ends(self, tree: Tree) -> Sequence[Prefix]:
        """The end of a block ends its channels; the end of the message, or an error, those that were forgotten."""
        kind = tree.get("type")
        if kind == "content_block_stop":
            return [(_index(tree),)]
        return ALL if kind in ("message_delta", "message_stop", "error") else ()

    def delta(self, last: Last, text: str) -> Tree:
        """A delta of the same block."""
        index, field = last.channel.key
        before = last.tree.get("delta")
        kind = before.get("type") if is_object(before) else _DELTA_TYPES.get(str(field))
        return {"type": "content_block_delta", "index": index, "delta": {"type": kind, str(field): text}}

    def is_plain_delta(self, event: bytes) -> bool:
        """By its name, which the vendor always sends first."""
        return event.startswith(b"event: content_block_delta\n")


def _index(tree: Tree) -> int:
    index = tree.get("index")
    return index if type(index) is int else 0
