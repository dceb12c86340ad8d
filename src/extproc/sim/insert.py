"""Text put into an answer that was recorded: a replayed stream then says what a test wants it to say."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from typing import Any, Final

import orjson

from extproc.sim.answer import SimAnswer
from extproc.sim.text import pieces_of

_EVENT_END: Final = re.compile(rb"(?<=\n\n)|(?<=\r\n\r\n)")
_DATA: Final = re.compile(rb"^data:[ ]?(\{.*\})(?=\r?$)", re.MULTILINE)
_LONG_ENOUGH: Final = 2  # a shorter whole text cannot be told from a constant


def insert_text(answer: SimAnswer, text: str, piece: int = 0) -> SimAnswer:
    """`answer` with `text` before the first text of each of its channels, as one write.

    With `piece` 0 it is part of the first delta; else it comes in deltas of `piece` characters before that one, and
    numbers of later events (`sequence_number`) go up. Other events keep their bytes. Where the whole text is repeated
    (the Responses API does, and a JSON answer is nothing else), `text` stands in front of it.
    """
    if (answer.header("content-type") or "").startswith("text/event-stream"):
        body = b"".join(_Insertion(text, piece).events(answer.body))
    else:
        tree = orjson.loads(answer.body)
        body = orjson.dumps(_in_whole(tree, text))
    return replace(answer, chunks=(body,))


class _Insertion:
    def __init__(self, text: str, piece: int) -> None:
        self._text, self._piece = text, piece
        self._added = 0
        self._said: dict[tuple[object, ...], str] = {}  # by channel, without what was put in

    def events(self, body: bytes) -> Iterator[bytes]:
        """The events, some of them more than once."""
        for event in _EVENT_END.split(body):
            found = _DATA.search(event)
            if found is None:
                yield event
                continue
            tree = orjson.loads(found[1])
            before = _copy(tree)
            place = _delta(tree)
            if place is None:
                tree = self._repeat(tree)
            else:
                yield from self._put(event, tree, *place)
            self._number(tree)
            yield event if tree == before else _with_data(event, tree)

    def _put(self, event: bytes, tree: Any, channel: tuple[object, ...], holder: Any, key: str) -> Iterator[bytes]:
        said = holder[key]
        if channel not in self._said:
            if not self._piece:
                holder[key] = self._text + said
            else:
                for piece in pieces_of(self._text, self._piece):
                    more = _copy(tree)
                    place = _delta(more)
                    if place is None:
                        raise RuntimeError("a copy of a delta is a delta")
                    place[1][place[2]] = piece
                    self._number(more)
                    self._added += 1
                    yield _with_data(event, more)
        self._said[channel] = self._said.get(channel, "") + said

    def _number(self, tree: Any) -> None:
        if isinstance(tree.get("sequence_number"), int):
            tree["sequence_number"] += self._added

    def _repeat(self, tree: Any) -> Any:
        wholes = {said for said in self._said.values() if len(said) >= _LONG_ENOUGH}
        if not wholes or not isinstance(tree.get("type"), str):
            return tree
        return _prefixed(tree, wholes, self._text)


def _copy(tree: Any) -> Any:
    return orjson.loads(orjson.dumps(tree))


def _delta(tree: Any) -> tuple[tuple[object, ...], Any, str] | None:
    """The channel of a delta of text, and the object and the key that hold it; None for any other event."""
    for choice in tree.get("choices") or ():
        delta = choice.get("delta") or {}
        if isinstance(delta.get("content"), str) and delta["content"]:
            return (choice.get("index"),), delta, "content"
    kind = tree.get("type")
    if kind == "response.output_text.delta":
        return (tree.get("output_index"), tree.get("content_index")), tree, "delta"
    if kind == "content_block_delta" and tree["delta"].get("type") == "text_delta":
        return (tree.get("index"),), tree["delta"], "text"
    return None


def _prefixed(value: Any, wholes: set[str], text: str) -> Any:
    if isinstance(value, str):
        return text + value if value in wholes else value
    if isinstance(value, dict):
        return {key: _prefixed(child, wholes, text) for key, child in value.items()}
    if isinstance(value, list):
        return [_prefixed(child, wholes, text) for child in value]
    return value


def _in_whole(tree: Any, text: str) -> Any:
    """The texts of a JSON answer: `content` of choices, `text` of blocks and parts."""
    if isinstance(tree, list):
        return [_in_whole(child, text) for child in tree]
    if not isinstance(tree, dict):
        return tree
    told = {"content"} if "role" in tree else {"text"} if tree.get("type") in ("text", "output_text") else set()
    return {
        key: text + child if key in told and isinstance(child, str) else _in_whole(child, text)
        for key, child in tree.items()
    }


def _with_data(event: bytes, tree: object) -> bytes:
    return _DATA.sub(lambda _: b"data: " + orjson.dumps(tree), event, count=1)
