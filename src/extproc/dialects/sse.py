"""Server-sent events as bytes: cut a stream into events, whatever the chunks, the line ends or the spacing.

The events, joined, are the stream byte for byte: an editor may replace one and leave the rest. Rules: the WHATWG HTML
standard, section "Server-sent events" (LF, CRLF or lone CR, a byte order mark at the start, comments, `data:` with or
without a space, several data lines joined by LF).
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple

from extproc.errors import ErrorCode, Rejection

_BLANK_LINE: Final = re.compile(rb"(?:\r\n|\n|\r(?!\n))(?:\r\n|\n|\r(?!\n))")
_NAME: Final = b"data"
_DATA: Final = b"data:"
_DATA_LINE: Final = re.compile(rb"(?:\A(?:\xef\xbb\xbf)?|[\r\n])data(?:: ?([^\r\n]*))?(?=[\r\n]|\Z)")
_BLANK_LAST: Final = re.compile(_BLANK_LINE.pattern + rb"\Z")
_LINE_END: Final = re.compile(rb"\r\n|\n|\r")
_BOM: Final = b"\xef\xbb\xbf"
_LONGEST_END: Final = 4  # CRLF CRLF
DEFAULT_EVENT_LIMIT: Final = 1 << 20


class Fields(NamedTuple):
    """What an event says: its name (empty where it has none) and its data (None where it has no data line)."""

    event: bytes
    data: bytes | None


class Splitter:
    """Cuts a stream into whole events; keeps only the event that is not complete yet, up to `limit` bytes."""

    __slots__ = ("_any_cr", "_limit", "_rest")

    def __init__(self, limit: int = DEFAULT_EVENT_LIMIT) -> None:
        """`limit`: the longest event, in bytes, its line ends included."""
        self._rest = bytearray()
        self._any_cr = False
        self._limit = limit

    @property
    def open(self) -> bool:
        """Whether an event has begun that is not complete."""
        return bool(self._rest)

    def feed(self, data: bytes, *, end: bool = False) -> list[bytes]:
        """Take the next piece; return the events that it completes, with their line ends.

        At `end` what is left counts as an event, for vendors that leave out the last blank line. Raises `Rejection`
        (502) where an event grows over the limit.
        """
        rest = self._rest
        scan = 0
        source: bytes | bytearray = data
        if rest:
            scan = max(0, len(rest) - _LONGEST_END)
            rest += data
            source = rest
        if self._any_cr or b"\r" in data:
            self._any_cr = True
            events = self._cut_any(source, scan, end=end)
        else:
            events = _cut_lf(source, scan)
        used = sum(map(len, events))
        if source is rest:
            del rest[:used]
        elif used < len(data):
            rest += data[used:] if used else data
        if end and rest:
            events.append(bytes(rest))
            rest.clear()
        if len(rest) > self._limit or (used > self._limit and max(map(len, events)) > self._limit):
            raise Rejection(502, ErrorCode.PROVIDER_BAD_RESPONSE, "The provider sent an event that is too long.")
        return events

    @staticmethod
    def _cut_any(source: bytes | bytearray, scan: int, *, end: bool) -> list[bytes]:
        events = []
        start = 0
        while (found := _BLANK_LINE.search(source, scan)) is not None:
            scan = found.end()
            if scan == len(source) and source[-1:] == b"\r" and not end:
                break  # the LF that belongs to this CR may be on its way
            events.append(bytes(source[start:scan]))
            start = scan
        return events


def _cut_lf(source: bytes | bytearray, scan: int) -> list[bytes]:
    """The common case: no CR anywhere so far."""
    events = []
    start = 0
    while (found := source.find(b"\n\n", scan)) >= 0:
        scan = found + 2
        events.append(bytes(source[start:scan]))
        start = scan
    return events


def fields(event: bytes) -> Fields:
    """Read one event as `Splitter` cuts it: comments, `id` and `retry` are skipped."""
    if event.startswith(b"data: ") and event.find(b"\n") >= len(event) - 2 and b"\r" not in event:
        return Fields(b"", event[6:].rstrip(b"\n"))
    name = b""
    data: list[bytes] = []
    for line in event.removeprefix(_BOM).splitlines():
        field, _, value = line.partition(b":")
        if field == b"data":
            data.append(value[1:] if value.startswith(b" ") else value)
        elif field == b"event":
            name = value[1:] if value.startswith(b" ") else value
    return Fields(name, b"\n".join(data) if data else None)


def data_place(event: bytes) -> tuple[int, int] | None:
    """Byte offsets of an event's data; None where it has none, or where it is spread over several lines."""
    if b"\r" in event or event.startswith(_BOM):
        found = [match.span(1) for match in _DATA_LINE.finditer(event)]
        return found[0] if len(found) == 1 and found[0][0] >= 0 else None
    name = 0 if event.startswith(_NAME) else event.find(b"\n" + _NAME) + 1
    start = name + len(_DATA)
    if event[name:start] != _DATA:  # a `data` line without a colon, or none
        return None
    end = event.find(b"\n", start)
    if end < 0:
        end = len(event)
    elif event.find(b"\n" + _NAME, end) >= 0:
        return None
    return (start + 1 if event[start : start + 1] == b" " else start), end


def with_data(event: bytes, data: bytes) -> bytes:
    """The event with other data; its other lines stay. Each line of `data` becomes a data line, in the place of the last."""
    place = data_place(event)
    parts = _LINE_END.split(data)
    if place is not None and len(parts) == 1:
        return event[: place[0]] + data + event[place[1] :]
    lines = event.removeprefix(_BOM).splitlines(keepends=True)
    is_data = [line.partition(b":")[0].rstrip(b"\r\n") == _NAME for line in lines]
    last = max(index for index, found in enumerate(is_data) if found)
    end = lines[last][len(lines[last].rstrip(b"\r\n")) :] or newline(event)  # what follows it was cut after this end
    out = [b"data: " + part + end for part in parts]
    before = [line for line, found in zip(lines[:last], is_data, strict=False) if not found]
    return (_BOM if event.startswith(_BOM) else b"") + b"".join([*before, *out, *lines[last + 1 :]])


def newline(event: bytes) -> bytes:
    """The line end that an event uses."""
    if b"\r" not in event:
        return b"\n"
    return b"\r\n" if b"\r\n" in event else b"\r"


def is_closed(event: bytes) -> bool:
    """Whether an event ends with its blank line; only the last one of a stream may lack it."""
    return _BLANK_LAST.search(event, max(0, len(event) - _LONGEST_END)) is not None
