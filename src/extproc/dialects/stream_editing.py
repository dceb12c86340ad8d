"""Editing a stream of events: the channels that run through it, what each holds back, and where that goes in the end.

What no rule of a format names as a channel is a complete text. An event whose data is no JSON is one plain text; an
event without data holds nothing that a client is given, and goes on as it came.
"""

from __future__ import annotations

import json
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple, TypeAlias

import orjson

from extproc.dialects import sse
from extproc.dialects.dialect import DEFAULT_LIMITS, Path, ReadLimits, ResponseEditor, Text
from extproc.dialects.editing import ANSWER_STRINGS, channel_kind, found_texts, loads, plain, replace
from extproc.dialects.spans import is_array, is_object, literal
from extproc.errors import Rejection
from extproc.text import Channel, TextFilter

Key: TypeAlias = tuple[str | int, ...]
Prefix: TypeAlias = tuple[str | int, ...]
"""The beginning of channel keys: `(0,)` is every channel of choice 0, `()` every channel."""
Tree: TypeAlias = dict[str, object]
ALL: Final[tuple[Prefix, ...]] = ((),)
_ASCII_ESCAPE: Final = b"\\u00"
_DONE: Final = b"[DONE]"


class Last(NamedTuple):
    """Where a channel's last piece was: what one more delta is modelled on."""

    channel: Channel
    tree: Tree
    path: Path
    event: bytes


class _Piece(NamedTuple):
    """A text of the event at hand that changes, or that more may be put behind."""

    path: Path
    before: str
    after: str


class StreamEditor(ResponseEditor):
    """A stream, edited event by event. Subclasses say what the channels of a format are."""

    strings: Mapping[str, str] = ANSWER_STRINGS

    def __init__(self, texts: TextFilter, limits: ReadLimits = DEFAULT_LIMITS) -> None:
        """An event over the limit raises `Rejection` (502)."""
        self._texts = texts
        self._splitter = sse.Splitter(limits.event)
        self._open: dict[Key, Last] = {}
        self._trigger: bytes | None = getattr(texts, "trigger", None)
        self._closed = True  # whether what went out ends with a blank line

    @abstractmethod
    def channel(self, tree: Tree, path: Path, kind: str) -> Channel | None:
        """The channel that the text at `path` of an event continues; None: the text is complete by itself."""

    @abstractmethod
    def ends(self, tree: Tree) -> Sequence[Prefix]:
        """The channels that an event ends."""

    @abstractmethod
    def delta(self, last: Last, text: str) -> Tree:
        """One more delta with `text`, after the channel's last one."""

    def only_text(self, tree: Tree) -> Text | None:
        """The text of an event of the commonest shape, which ends nothing; None where any member is not known."""
        return None

    def is_sealed(self, tree: Tree) -> bool:
        """Whether an event holds no text but what the vendor encoded: sound, for instance."""
        return False

    def is_plain_delta(self, event: bytes) -> bool:
        """Whether an event surely holds no name and ends no channel; told without reading it, so false when in doubt."""
        return False

    def unread(self, event: bytes) -> bytes:
        """An event that goes on without being read."""
        return event

    def number(self, tree: Tree, extras: Sequence[Tree]) -> list[tuple[Path, bytes]]:
        """Give numbers to the extra deltas before an event; return what changes in the event because of them."""
        return []

    def feed(self, data: bytes, *, end: bool) -> bytes:
        """Hand on the events that are complete."""
        events = self._splitter.feed(data, end=end)
        trigger = self._trigger
        out: list[bytes] = []
        try:
            for event in events:
                passes = trigger is not None and self._passes(event, trigger)
                out.append(self.unread(event) if passes else self._event(event))
        except Rejection:
            self.unsent = b"".join(out)
            raise
        if end:
            if out:
                self._closed = sse.is_closed(out[-1])
            extras = self._flush(ALL, {})
            if extras:
                self.number({}, [tree for tree, _ in extras])
                out += [b"" if self._closed else b"\n\n", *(_render(*extra) for extra in extras)]
        return b"".join(out)

    def _passes(self, event: bytes, trigger: bytes) -> bool:
        for byte in trigger:
            if byte in event:
                return False
        if _ASCII_ESCAPE in event or getattr(self._texts, "holding", True):
            return False
        return self.is_plain_delta(event)

    def _event(self, event: bytes) -> bytes:
        place = sse.data_place(event)
        data = sse.fields(event).data if place is None else event[place[0] : place[1]]
        if not data:
            return event
        if data == _DONE:
            return self._before({}, ALL) + event
        try:
            tree = loads(data)
        except (ValueError, RecursionError):
            new = plain(data, self._texts)
            return event if new is data else sse.with_data(event, new)
        if not is_object(tree):
            tree = {"": tree}
            before, changes = self._edit(tree, event)
            changes = [(path[1:], new) for path, new in changes]
        else:
            before, changes = self._edit(tree, event)
        return before + (sse.with_data(event, replace(data, changes)) if changes else event)

    def _before(self, tree: Tree, ended: Sequence[Prefix]) -> bytes:
        """What is held back of the channels that end, as events of their own."""
        extras = self._flush(ended, {})
        if extras:
            self.number(tree, [extra for extra, _ in extras])
        return b"".join([_render(*extra) for extra in extras])

    def _edit(self, tree: Tree, event: bytes) -> tuple[bytes, list[tuple[Path, bytes]]]:
        """The events to send before this one, and what changes in it."""
        only = self.only_text(tree)
        if only is not None:
            return b"", self._grow(tree, only, event)
        pieces: list[_Piece] = []
        latest: dict[Key, int] = {}  # channel -> its last piece in this event
        filtering = self._texts
        for path, kind, value in () if self.is_sealed(tree) else found_texts(tree, self.strings):
            channel = self.channel(tree, path, kind)
            if channel is not None:
                latest[channel.key] = len(pieces)
                self._open[channel.key] = Last(channel, tree, path, event)
                pieces.append(_Piece(path, value, filtering.piece(channel, value)))
            else:
                pieces.append(_Piece(path, value, filtering.whole(channel_kind(kind), value)))
        extras: list[tuple[Tree, bytes]] = []
        if self._open and (ended := self.ends(tree)):
            behind: dict[Key, str] = dict.fromkeys(latest, "")
            extras = self._flush(ended, behind)
            for key, text in behind.items():
                if text:
                    piece = pieces[latest[key]]
                    pieces[latest[key]] = piece._replace(after=piece.after + text)
        changes = [(piece.path, literal(piece.after)) for piece in pieces if piece.after != piece.before]
        changes += self.number(tree, [extra for extra, _ in extras])
        return b"".join([_render(*extra) for extra in extras]), changes

    def _grow(self, tree: Tree, only: Text, event: bytes) -> list[tuple[Path, bytes]]:
        """What changes in an event that holds one text and ends nothing."""
        path, kind, before = only
        channel = self.channel(tree, path, kind)
        if channel is None:
            after = self._texts.whole(channel_kind(kind), before)
        else:
            after = self._texts.piece(channel, before)
            if after != before or channel.key not in self._open:
                self._open[channel.key] = Last(channel, tree, path, event)
        changes = self.number(tree, ())
        if after != before:
            changes.append((path, literal(after)))
        return changes

    def _flush(self, ended: Sequence[Prefix], behind: dict[Key, str]) -> list[tuple[Tree, bytes]]:
        """End the channels that begin with one of `ended`; what they held back goes into `behind`, or is an extra delta."""
        extras = []
        for key in [key for key in self._open if any(key[: len(prefix)] == prefix for prefix in ended)]:
            last = self._open.pop(key)
            held = self._texts.end(last.channel)
            if key in behind:
                behind[key] = held
            elif held:
                extras.append((self.delta(last, held), last.event))
        return extras


def _render(tree: Tree, like: bytes) -> bytes:
    """An event with `tree` as its data, with a name and line ends like those of another."""
    end = sse.newline(like)
    kind = tree.get("type")
    name = b"event: " + kind.encode() + end if type(kind) is str and sse.fields(like).event else b""
    return name + b"data: " + _dumps(tree) + end + end


def _dumps(tree: Tree) -> bytes:
    try:
        return orjson.dumps(tree)
    except orjson.JSONEncodeError:  # a lone surrogate, or a number that only the other parser reads
        return json.dumps(tree, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "backslashreplace")


def nested(tree: object, path: Path, text: str) -> object:
    """The least that has `text` at `path`; elements of arrays keep their `index` and `type`, by which they are told apart."""
    if not path:
        return text
    step = path[0]
    if is_object(tree) and type(step) is str:
        return {step: nested(tree[step], path[1:], text)}
    if is_array(tree) and type(step) is int:
        element = tree[step]
        kept: Tree = {}
        if is_object(element):
            kept = {name: element[name] for name in ("index", "type") if name in element}
        inner = nested(element, path[1:], text)
        return [{**kept, **inner} if is_object(inner) else inner]
    return text


def stable_key(tree: object, path: Path) -> Key:
    """`path` with each position in an array replaced by the element's own `index`, where it has one."""
    key: list[str | int] = []
    for step in path:
        if is_object(tree) and type(step) is str:
            tree = tree[step]
        elif is_array(tree) and type(step) is int:
            tree = tree[step]
            index = tree.get("index") if is_object(tree) else None
            key.append(index if type(index) is int else step)
            continue
        key.append(step)
    return tuple(key)
