"""Traffic files: our own log and the plain format, any order, any size, bad lines by their number."""

from __future__ import annotations

import io
import json
import os
import random
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapters.sample_records import STREAMED, record
from extproc.adapters.logs import LineWriter
from extproc.adapters.records import RecordLog
from extproc.cli.traffic import Call, Reader, in_order
from extproc.exchange.record import Record
from extproc.limits.counters import NANO, Subject


def read(*lines: object) -> tuple[list[Call], Reader]:
    data = b"".join((line if isinstance(line, bytes) else json.dumps(line).encode()) + b"\n" for line in lines)
    reader = Reader("acme")
    return list(reader.read(io.BytesIO(data))), reader


def logged(*records: Record) -> bytes:
    """The lines that a worker writes of them."""
    out, into = os.pipe()
    writer = LineWriter(into, each=True)
    log = RecordLog(writer)
    for one in records:
        log.write(one)
    writer.close()
    os.close(into)
    with os.fdopen(out, "rb") as file:
        return file.read()


def test_our_own_log_is_read_as_it_is_written() -> None:
    """Who, where, how much, and when it began: the line's time is that of the end."""
    data = logged(STREAMED, record(outcome="refused", error="caller_invalid_key"), record(outcome="answered"))
    reader = Reader("acme")
    (call,) = reader.read(io.BytesIO(data + b'{"level":"info","event":"configuration is live","generation":2}\n'))
    assert call == Call(
        start=1_000_000_000_000,
        line=1,
        duration=1235,
        subject=Subject("acme", "t", "demo", "shop", "k1", "u", "search", "gpt-4o-mini", "openai"),
        operation="chat",
        input=1200,
        output=300,
        max_output=None,
        cost=12_000,
    )
    assert (reader.not_sent, reader.others, reader.bad) == (2, 1, 0)


def test_the_plain_format() -> None:
    """All but the time is optional; times as text or number, cost as text or number."""
    calls, reader = read(
        {"time": "2026-11-21T09:00:00Z", "team": "a", "key": "k", "model": "gpt-4o", "provider": "openai"},
        {"time": "2026-11-21T10:00:00+01:00", "input_tokens": 5, "output_tokens": 0, "max_output": 9, "cost": "0.5"},
        {"time": 1_795_251_600, "duration": 2.5, "cost": 0.1, "organisation": "other"},
    )
    assert reader.bad == 0
    assert {call.start for call in calls} == {1_795_251_600_000}
    assert calls[0].subject == Subject("acme", team="a", key="k", model="gpt-4o", provider="openai")
    assert (calls[0].input, calls[0].cost, calls[0].duration) == (None, None, 0)
    assert (calls[1].input, calls[1].output, calls[1].max_output, calls[1].cost) == (5, 0, 9, NANO // 2)
    assert (calls[2].duration, calls[2].cost, calls[2].subject.organisation) == (2500, NANO // 10, "other")


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"{", "is not JSON"),
        (b"[]", "does not fit"),
        (b"\xff\xfe", "is not JSON"),
        (b"{}", "has no `time`"),
        ({"time": "yesterday"}, "not RFC 3339"),
        ({"time": -5}, "out of range"),
        ({"time": 1, "input_tokens": -1}, "number of tokens"),
        ({"time": 1, "input_tokens": 2**60}, "number of tokens"),
        ({"time": 1, "input_tokens": 1.5}, "does not fit"),
        ({"time": 1, "cost": "dear"}, "cost"),
        ({"time": 1, "cost": "NaN"}, "cost"),
        ({"time": 1, "cost": "1e400"}, "cost"),
        ({"time": 1, "cost": -1}, "cost"),
        ({"time": 1, "duration": -1}, "duration"),
        ({"time": 1, "duration": 1e300}, "duration"),
        ({"event": "exchange", "timestamp": "soon"}, "not RFC 3339"),
        (b'{"time": 1, "team": "' + b"a" * (1 << 20) + b'"}', "longer than"),
    ],
)
def test_bad_lines_are_named_by_number_and_the_rest_is_read(line: object, reason: str) -> None:
    """A line that is far too long counts as one, however long it is; no reason repeats a value."""
    calls, reader = read({"time": 1, "team": "a"}, line, b"", {"time": 2, "team": "b"})
    assert [call.line for call in calls] == [1, 4]
    assert reader.bad == 1
    assert reader.first_bad[0].line == 2
    assert reason in reader.first_bad[0].reason
    assert "dear" not in reader.first_bad[0].reason


def test_of_many_bad_lines_some_are_kept() -> None:
    """All are counted."""
    _, reader = read(*[b"?"] * 500)
    assert reader.bad == 500
    assert len(reader.first_bad) == 20


@given(st.lists(st.integers(min_value=1, max_value=50), max_size=80), st.integers(min_value=1, max_value=90))
def test_calls_come_in_the_order_in_which_they_began(starts: list[int], chunk: int) -> None:
    """Whatever fits into memory; those of one moment in the order of their lines."""
    calls = [Call(start, line, 1, Subject("acme", team=str(line))) for line, start in enumerate(starts)]
    assert list(in_order(calls, chunk)) == sorted(calls, key=lambda call: (call.start, call.line))


def test_a_long_file_takes_little_memory() -> None:
    """What is held does not grow with the file."""
    rng = random.Random(1)

    def peak(total: int) -> int:
        calls = (Call(rng.randrange(10**9), line, 1, Subject("acme", team="t")) for line in range(total))
        tracemalloc.start()
        assert sum(1 for _ in in_order(calls, chunk=2000)) == total
        most = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return most

    assert peak(48_000) < 7 * peak(4000)  # twelve times the lines: what grows is a buffer for each of their files


def test_money_is_exact() -> None:
    """To the billionth, rounded up."""
    calls, _ = read({"time": 1, "cost": "0.0000000001"}, {"time": 1, "cost": "123456.789012345"})
    assert [call.cost for call in calls] == [1, 123_456_789_012_345]
