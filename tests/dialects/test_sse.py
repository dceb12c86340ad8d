"""Cutting event streams."""

from __future__ import annotations

import re
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from extproc.dialects import sse
from extproc.errors import ErrorCode, Rejection

BOM = b"\xef\xbb\xbf"
LINE_END = st.sampled_from(["\n", "\r\n", "\r"])
LINE = st.sampled_from(
    ["data: {}", "data:x", "data", "event: e", ": note", "id: 1", "retry: 5", "odd", "data:  two", ""]
)


@st.composite
def streams(draw: st.DrawFn) -> bytes:
    """Any mix of lines and line ends, with or without a byte order mark and a last blank line."""
    lines = draw(st.lists(st.tuples(LINE, LINE_END), max_size=20))
    bom = draw(st.sampled_from([b"", b"\xef\xbb\xbf"]))
    return bom + "".join(line + end for line, end in lines).encode() + draw(st.sampled_from([b"", b"data: last"]))


def oracle(stream: bytes) -> list[bytes]:
    """Data of each event by the standard's own line-by-line procedure."""
    found: list[bytes] = []
    data: list[bytes] = []
    for line in [*re.split(rb"\r\n|\n|\r", stream.removeprefix(b"\xef\xbb\xbf")), b""]:
        if not line:
            if data:
                found.append(b"\n".join(data))
            data = []
        elif line == b"data" or line.startswith(b"data:"):
            value = line[5:]
            data.append(value[1:] if value.startswith(b" ") else value)
    return found


def pieces(stream: bytes, cuts: list[int]) -> list[bytes]:
    """`stream` cut at `cuts`."""
    places = sorted({cut % (len(stream) + 1) for cut in cuts})
    return [stream[a:b] for a, b in zip([0, *places], [*places, len(stream)], strict=True)]


def read(chunks: list[bytes]) -> list[bytes]:
    """All events of a stream."""
    splitter = sse.Splitter()
    events = [event for chunk in chunks for event in splitter.feed(chunk)]
    return events + splitter.feed(b"", end=True)


@given(streams(), st.lists(st.integers(0, 500), max_size=8))
def test_any_stream_any_chunks(stream: bytes, cuts: list[int]) -> None:
    """Events join to the stream, do not depend on the chunks, and hold the data that the standard's procedure finds."""
    events = read([stream])
    assert b"".join(events) == stream
    assert read(pieces(stream, cuts)) == events
    assert read([stream[i : i + 1] for i in range(len(stream))]) == events
    assert [data for event in events if (data := sse.fields(event).data) is not None] == oracle(stream)


@pytest.mark.parametrize(
    ("event", "name", "data"),
    [
        (b"data: {}\n\n", b"", b"{}"),
        (b"data:{}\n\n", b"", b"{}"),
        (b"data: {}\r\n\r\n", b"", b"{}"),
        (b"data: {}", b"", b"{}"),
        (b"event: ping\ndata: {}\n\n", b"ping", b"{}"),
        (b"event:ping\rdata: {}\r\r", b"ping", b"{}"),
        (b"data: a\ndata: b\n\n", b"", b"a\nb"),
        (b"\xef\xbb\xbfdata: a\n\n", b"", b"a"),
        (b": comment\n\n", b"", None),
        (b"event: x\n\n", b"x", None),
        (b"\n\n", b"", None),
    ],
)
def test_fields(event: bytes, name: bytes, data: bytes | None) -> None:
    """Spacing, comments, several data lines, a mark at the start: all legal spellings are read."""
    assert sse.fields(event) == (name, data)


@pytest.mark.parametrize("size", [1, 7, 1000])
def test_too_long_an_event_is_refused(size: int) -> None:
    """An event over the limit is refused at any chunk size; one at the limit passes."""
    fits = b"data: " + b"x" * 42 + b"\n\n"
    assert read_limited(fits, size, 50) == [fits]
    for stream in (b"data: " + b"x" * 43 + b"\n\n", b"data: " + b"x" * 100, b"data: a\n" * 30):
        with pytest.raises(Rejection) as caught:
            read_limited(stream, size, 50)
        assert (caught.value.status, caught.value.code) == (502, ErrorCode.PROVIDER_BAD_RESPONSE)


def read_limited(stream: bytes, size: int, limit: int) -> list[bytes]:
    """Events of a stream in pieces of `size` bytes."""
    splitter = sse.Splitter(limit)
    return [event for i in range(0, len(stream), size) for event in splitter.feed(stream[i : i + size])]


def test_memory_is_the_open_event_only() -> None:
    """A long stream leaves nothing behind."""
    splitter = sse.Splitter()
    tracemalloc.start()
    for _ in range(20_000):
        splitter.feed(b'data: {"x":"' + b"y" * 100 + b'"}\n\nda')
        splitter.feed(b"ta: 2\n\n")
    used, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert not splitter.open
    assert used < 100_000


NEW_DATA = st.sampled_from([b"{}", b"one line", b"two\nlines", b"an end\n", b""])


@given(streams(), NEW_DATA)
def test_data_can_be_replaced(stream: bytes, new: bytes) -> None:
    """The place of an event's data holds it; with other data an event says that, and its other lines are as they were."""
    for event in sse.Splitter().feed(stream, end=True):
        data = sse.fields(event).data
        place = sse.data_place(event)
        if place is not None:
            assert event[place[0] : place[1]] == data
        if data is None:
            assert place is None
            continue
        edited = sse.with_data(event, new)
        assert sse.fields(edited) == (sse.fields(event).event, new)
        assert read([edited]) == [edited]
        kept = [
            line for line in event.removeprefix(BOM).splitlines() if not (line == b"data" or line.startswith(b"data:"))
        ]
        left = [
            line for line in edited.removeprefix(BOM).splitlines() if not (line == b"data" or line.startswith(b"data:"))
        ]
        assert left == kept
        assert edited.startswith(BOM) == event.startswith(BOM)
        assert sse.is_closed(edited) == sse.is_closed(event)


@pytest.mark.parametrize(
    ("event", "place"),
    [
        (b'data: {"a":1}\n\n', (6, 13)),
        (b"event: e\ndata:x\n\n", (14, 15)),
        (b"event: data:\ndata:  x\nid: 1\n\n", (19, 21)),
        (b"data: x", (6, 7)),
        (b"data: x\r\n\r\n", (6, 7)),
        (b"\xef\xbb\xbfdata: x\n\n", (9, 10)),
        (b"data:\n\n", (5, 5)),
        (b"data\n\n", None),
        (b"data: x\ndata: y\n\n", None),
        (b": data: x\n\n", None),
        (b"odd\n\n", None),
    ],
)
def test_place_of_data(event: bytes, place: tuple[int, int] | None) -> None:
    """One data line has a place, whatever stands around it."""
    assert sse.data_place(event) == place


@pytest.mark.parametrize(
    ("event", "closed"),
    [
        (b"data: x\n\n", True),
        (b"data: x\r\n\r\n", True),
        (b"data: x\r\r", True),
        (b"data: x\n", False),
        (b"data: x", False),
    ],
)
def test_closed(event: bytes, closed: bool) -> None:
    """A blank line ends an event."""
    assert sse.is_closed(event) == closed
    assert sse.newline(event) == (b"\r\n" if b"\r\n" in event else b"\r" if b"\r" in event else b"\n")
