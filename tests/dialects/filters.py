"""Filters for the tests of editing, and what a client makes of an edited stream."""

from __future__ import annotations

import json
import random
from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise

from extproc.dialects import sse
from extproc.dialects.dialect import ResponseEditor
from extproc.text import Channel, ChannelKind

VALUES = {"<P_1>": 'Zoë "Z" \\ <O\'Neil>\n', "<P_2>": "q@example.org"}
NAMES = {"P_1": "zoe", "P_2": "q"}


class Same:
    """Changes nothing."""

    def piece(self, channel: Channel, text: str) -> str:
        """The same object."""
        return text

    def end(self, channel: Channel) -> str:
        """Nothing."""
        return ""

    def whole(self, kind: ChannelKind, text: str) -> str:
        """The same object."""
        return text


def swap(kind: ChannelKind, text: str) -> str:
    """Each placeholder by its value, escaped where it stands in a JSON document."""
    if kind == "name":
        return NAMES.get(text, text)
    for name, value in VALUES.items():
        text = text.replace(name, json.dumps(value)[1:-1] if kind == "json" else value)
    return text


class Swap(Same):
    """Puts values in the place of placeholders; holds back a suffix that may become one. `trigger` as promised."""

    trigger = b"<"

    def __init__(self) -> None:
        """Nothing is held back."""
        self.held: dict[Channel, str] = {}
        self.calls = 0

    @property
    def holding(self) -> bool:
        """Whether any channel holds something back."""
        return any(self.held.values())

    def piece(self, channel: Channel, text: str) -> str:
        """What can go on now."""
        self.calls += 1
        text = self.held.pop(channel, "") + text
        cut = text.rfind("<")
        if cut >= 0 and any(name.startswith(text[cut:]) and name != text[cut:] for name in VALUES):
            self.held[channel] = text[cut:]
            text = text[:cut]
        return swap(channel.kind, text)

    def end(self, channel: Channel) -> str:
        """What was held back is no placeholder."""
        return self.held.pop(channel, "")

    def whole(self, kind: ChannelKind, text: str) -> str:
        """The edited text."""
        return swap(kind, text)


class Patient(Swap):
    """The same without a hint: every event is read."""

    trigger = None


class Drip(Same):
    """Changes nothing, but keeps any part of any piece for later, as a seed says; knows what it should never be asked."""

    def __init__(self, seed: int) -> None:
        """Nothing is held back."""
        self.chance = random.Random(seed)
        self.held: dict[Channel, str] = {}

    def piece(self, channel: Channel, text: str) -> str:
        """Some of what is there."""
        text = self.held.pop(channel, "") + text
        cut = self.chance.randint(0, len(text))
        self.held[channel] = text[cut:]
        return text[:cut]

    def end(self, channel: Channel) -> str:
        """The rest; ended twice is a mistake."""
        return self.held.pop(channel)


def run(editor: ResponseEditor, body: bytes, cuts: Iterable[int] = ()) -> bytes:
    """The edited body, given in the pieces that `cuts` make."""
    places = [0, *cuts, len(body)]
    out = [editor.feed(body[a:b], end=False) for a, b in pairwise(places)]
    return b"".join(out) + editor.feed(b"", end=True)


def events(stream: bytes) -> list[dict]:
    """The JSON objects of a stream."""
    data = [sse.fields(event).data for event in sse.Splitter(1 << 30).feed(stream, end=True)]
    return [json.loads(one) for one in data if one and one.startswith(b"{")]


def merge(into: dict, delta: dict) -> None:
    """Add a delta as the vendor's SDK does: strings grow, but for `type`; elements of arrays are told by their index."""
    for key, value in delta.items():
        old = into.get(key)
        if isinstance(value, dict):
            merge(into.setdefault(key, {}), value)
        elif isinstance(value, list):
            merge_list(into.setdefault(key, []), value)
        elif isinstance(value, str) and isinstance(old, str) and key != "type":
            into[key] = old + value
        elif value is not None or key not in into:
            into[key] = value


def merge_list(into: list, values: list) -> None:
    """Elements with an index go to its place."""
    for position, value in enumerate(values):
        if not isinstance(value, dict):
            into.append(value)
            continue
        index = value.get("index", position)
        while len(into) <= index:
            into.append({})
        merge(into[index], value)


def chat_result(stream: bytes) -> dict[int, dict]:
    """What a client has in the end: the message and the finish reason of each choice."""
    choices: dict[int, dict] = {}
    for chunk in events(stream):
        for choice in chunk.get("choices") or ():
            merge(
                choices.setdefault(choice["index"], {}),
                {key: choice[key] for key in ("delta", "finish_reason") if key in choice},
            )
    return choices


def messages_result(stream: bytes) -> list:
    """What a client has in the end: the blocks, and every other event as it came."""
    found: list = []
    blocks: dict[int, dict] = {}
    for event in events(stream):
        kind = event.get("type")
        if kind == "content_block_start":
            blocks[event["index"]] = event["content_block"]
        elif kind == "content_block_delta":
            delta = {key: value for key, value in event["delta"].items() if key != "type"}
            merge(blocks[event["index"]], delta)
        elif kind == "content_block_stop":
            found.append(blocks.pop(event["index"]))
        else:
            found.append(event)
    return [*found, blocks]


def responses_result(stream: bytes) -> tuple[dict, list]:
    """What a client has in the end: the texts that grew, and every other event but for its number."""
    grown: dict[tuple, str] = {}
    others = []
    for event in events(stream):
        if event.get("type", "").endswith(".delta") and isinstance(event.get("delta"), str):
            key = (event.get("output_index"), event.get("content_index"), event.get("summary_index"), event["type"])
            grown[key] = grown.get(key, "") + event["delta"]
        else:
            others.append({key: value for key, value in event.items() if key != "sequence_number"})
    return grown, others


def every_cut(body: bytes, step: int = 1) -> Iterator[Sequence[int]]:
    """Once whole, once in single bytes, once cut at every byte offset, or at each `step`th."""
    yield ()
    yield range(1, len(body))
    for offset in range(1, len(body), step):
        yield (offset,)
