"""Editing streams of Chat Completions. Rules: the vendor's API reference, "The chat completion chunk object"."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from extproc.dialects.dialect import Path, Text
from extproc.dialects.editing import channel_kind
from extproc.dialects.spans import is_array, is_object
from extproc.dialects.stream_editing import Last, Prefix, StreamEditor, Tree, nested, stable_key
from extproc.text import Channel

_DELTA: Final = 3  # length of the path `choices[i].delta`
_COMPLETE: Final = frozenset({"annotations"})  # members of a delta that come as a whole
_CONTENT: Final = ("choices", 0, "delta", "content")
_MEMBERS: Final = frozenset(
    {
        "choices", "created", "id", "model", "obfuscation", "object", "service_tier", "system_fingerprint", "usage",
    }
)  # fmt: skip
_CHOICE_MEMBERS: Final = frozenset({"delta", "finish_reason", "index", "logprobs"})
_NOT_REPEATED: Final = frozenset({"obfuscation"})  # padding that belongs to one chunk


class ChatStreamEditor(StreamEditor):
    """Each text of each choice's delta is a channel: content, refusal, reasoning, the arguments of each tool call."""

    def channel(self, tree: Tree, path: Path, kind: str) -> Channel | None:
        """Keys begin with the choice's `index`; a name is complete, and so is all that is outside of a delta."""
        if len(path) <= _DELTA or path[0] != "choices" or path[2] != "delta" or path[_DELTA] in _COMPLETE:
            return None
        told = channel_kind(kind)
        if told == "name":
            return None
        choice = _choice(tree, path[1])
        inner = path[_DELTA:]
        key = inner if len(inner) == 1 else stable_key(choice["delta"], inner)
        return Channel((_index(choice, path[1]), *key), told)

    def only_text(self, tree: Tree) -> Text | None:
        """One choice that goes on, with nothing but content."""
        choices = tree.get("choices")
        if not is_array(choices) or len(choices) != 1 or not tree.keys() <= _MEMBERS:
            return None
        choice = choices[0]
        if not is_object(choice) or not choice.keys() <= _CHOICE_MEMBERS or choice.get("finish_reason") is not None:
            return None
        delta = choice.get("delta")
        content = delta.get("content") if is_object(delta) and len(delta) == 1 else None
        return Text(_CONTENT, "text", content) if type(content) is str else None

    def ends(self, tree: Tree) -> Sequence[Prefix]:
        """A finish reason ends its choice."""
        ended = []
        choices = tree.get("choices")
        for position, choice in enumerate(choices if is_array(choices) else ()):
            if is_object(choice):
                reason = choice.get("finish_reason")
                if type(reason) is str and reason:
                    ended.append((_index(choice, position),))
        return ended

    def delta(self, last: Last, text: str) -> Tree:
        """A chunk with one choice, whose delta holds nothing but the text: no role, no id, no name a second time."""
        choice = _choice(last.tree, last.path[1])
        head = {
            name: value
            for name, value in last.tree.items()
            if type(value) not in (dict, list) and name not in _NOT_REPEATED
        }
        delta = nested(choice["delta"], last.path[_DELTA:], text)
        return {**head, "choices": [{"index": last.channel.key[0], "delta": delta, "finish_reason": None}]}

    def is_plain_delta(self, event: bytes) -> bool:
        """One choice that goes on, in the spelling of the vendors, and no tool's name."""
        return (
            (b'"finish_reason":null' in event or b'"finish_reason": null' in event)
            and event.count(b"finish_reason") == 1
            and b'"name"' not in event
        )


def _choice(tree: Tree, position: str | int) -> Tree:
    choices = tree["choices"]
    choice = choices[position] if is_array(choices) and type(position) is int else None
    return choice if is_object(choice) else {}


def _index(choice: Tree, position: str | int) -> str | int:
    index = choice.get("index")
    return index if type(index) is int else position
