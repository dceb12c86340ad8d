"""Reads traffic to replay: our own log of calls, or lines in a plain format. Any size, in bounded memory.

Each line is one JSON object. A line of our log (`"event": "exchange"`) is taken as it is; other lines of the log are passed
over. The plain format, all but `time` optional:

    {"time": "2026-11-21T09:00:00Z", "organisation": "…", "tenant": "…", "team": "…", "app": "…", "key": "…", "user": "…",
     "feature": "…", "model": "…", "provider": "…", "input_tokens": 1200, "output_tokens": 300, "max_output": 1024,
     "cost": "0.0123", "duration": 2.5}

`time`: when the call began, RFC 3339 or UNIX seconds; `max_output`: the cap that the caller had set; `cost`: US dollars;
`duration`: seconds.
"""

from __future__ import annotations

import heapq
import os
import tempfile
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from decimal import Decimal, InvalidOperation
from typing import BinaryIO, Final

import msgspec

from extproc.limits.counters import LARGEST, Subject, nano

CHUNK: Final = 50_000
"""Calls that are sorted in memory; more go through a temporary file."""

_BLOCK: Final = 500  # calls that are read back at once
_LONGEST: Final = 1 << 20  # bytes of a line
_NOT_SENT: Final = frozenset({"refused", "answered"})
_EXCHANGE: Final = "exchange"
_LAST_YEAR: Final = 253_402_300_000  # UNIX seconds
_TELL: Final = 20  # bad lines that are kept to be shown


class Call(msgspec.Struct, frozen=True, array_like=True):
    """One call of the past. Times in UNIX milliseconds, money in billionths of a dollar; None: not known."""

    start: int
    line: int
    duration: int
    subject: Subject
    operation: str = ""
    input: int | None = None
    output: int | None = None
    max_output: int | None = None
    cost: int | None = None


class BadLine(msgspec.Struct, frozen=True):
    """A line that cannot be used, by its number from 1."""

    line: int
    reason: str


class _Plain(msgspec.Struct):
    time: float | str | None = None
    event: str = ""
    organisation: str = ""
    tenant: str = ""
    team: str = ""
    app: str = ""
    key: str = ""
    user: str = ""
    feature: str = ""
    model: str = ""
    provider: str = ""
    operation: str = ""
    input_tokens: int | None = None
    output_tokens: int | None = None
    max_output: int | None = None
    cost: float | str | None = None
    duration: float = 0.0


class _Logged(msgspec.Struct):
    timestamp: str
    key_id: str = ""
    organisation: str = ""
    tenant: str = ""
    team: str = ""
    app: str = ""
    user: str = ""
    labels: dict[str, str] = {}
    model: str = ""
    requested_model: str = ""
    provider: str = ""
    operation: str = ""
    outcome: str = ""
    tokens_in: int | None = None
    tokens_out: int | None = None
    cost_usd: str | None = None
    duration_ms: float = 0.0


class Reader:
    """Reads lines to calls; counts what it passes over. `organisation`: of calls that name none."""

    def __init__(self, organisation: str) -> None:
        """Nothing is read yet."""
        self._organisation = organisation
        self._plain = msgspec.json.Decoder(_Plain)
        self._logged = msgspec.json.Decoder(_Logged)
        self.bad = 0
        self.first_bad: list[BadLine] = []
        self.others = 0  # lines of the log that are about something else
        self.not_sent = 0  # calls that were refused, or answered by the gateway itself

    def read(self, file: BinaryIO) -> Iterator[Call]:
        """Calls in the order of the lines. Bad lines are kept for the report."""
        for number, line in enumerate(_lines(file), start=1):
            if not line.strip():
                continue
            try:
                call = self._read(line, number)
            except (msgspec.DecodeError, ValueError, InvalidOperation) as error:
                self.bad += 1
                if len(self.first_bad) < _TELL:
                    self.first_bad.append(BadLine(number, _reason(error)))
            else:
                if call is not None:
                    yield call

    def _read(self, line: bytes, number: int) -> Call | None:
        if len(line) >= _LONGEST:
            raise ValueError(f"longer than {_LONGEST} bytes")
        plain = self._plain.decode(line)
        if plain.event == _EXCHANGE:
            return self._of_log(self._logged.decode(line), number)
        if plain.event and plain.time is None:
            self.others += 1
            return None
        if plain.time is None:
            raise ValueError("has no `time`")
        start = _moment(plain.time)
        subject = Subject(
            plain.organisation or self._organisation,
            *(plain.tenant, plain.team, plain.app, plain.key, plain.user, plain.feature, plain.model, plain.provider),
        )
        tokens = (_count(plain.input_tokens), _count(plain.output_tokens), _count(plain.max_output))
        length = _milliseconds(plain.duration * 1000)
        return Call(start, number, length, subject, plain.operation, *tokens, _money(plain.cost))

    def _of_log(self, logged: _Logged, number: int) -> Call | None:
        if logged.outcome in _NOT_SENT:
            self.not_sent += 1
            return None
        length = _milliseconds(logged.duration_ms)
        subject = Subject(
            organisation=logged.organisation or self._organisation,
            tenant=logged.tenant or logged.labels.get("tenant", ""),
            team=logged.team,
            app=logged.app,
            key=logged.key_id,
            user=logged.user or logged.labels.get("user", ""),
            feature=logged.labels.get("feature", ""),
            model=logged.model or logged.requested_model,
            provider=logged.provider,
        )
        return Call(
            start=_moment(logged.timestamp) - length,  # the line is written at the end of the call
            line=number,
            duration=length,
            subject=subject,
            operation=logged.operation,
            input=_count(logged.tokens_in),
            output=_count(logged.tokens_out),
            cost=_money(logged.cost_usd),
        )


def in_order(calls: Iterable[Call], chunk: int = CHUNK) -> Iterator[Call]:
    """By the time they began, then by line. Lines come in the order in which calls ended, which is another.

    `chunk`: calls held in memory; what is above goes to a temporary file, which has no name and ends with the iterator.
    """
    held: list[Call] = []
    with tempfile.TemporaryFile() as file:
        chunks: list[list[tuple[int, int]]] = []
        for call in calls:
            held.append(call)
            if len(held) >= chunk:
                chunks.append(_put(file, sorted(held, key=_when)))
                held = []
        file.flush()
        held.sort(key=_when)
        yield from heapq.merge(held, *(_get(file.fileno(), blocks) for blocks in chunks), key=_when)


def _when(call: Call) -> tuple[int, int]:
    return call.start, call.line


def _put(file: BinaryIO, calls: list[Call]) -> list[tuple[int, int]]:
    """Write blocks; (offset, length) of each."""
    blocks = []
    for at in range(0, len(calls), _BLOCK):
        data = msgspec.msgpack.encode(calls[at : at + _BLOCK])
        blocks.append((file.tell(), len(data)))
        file.write(data)
    return blocks


def _get(fd: int, blocks: list[tuple[int, int]]) -> Iterator[Call]:
    decoder = msgspec.msgpack.Decoder(list[Call])
    for offset, length in blocks:
        yield from decoder.decode(os.pread(fd, length, offset))


def _lines(file: BinaryIO) -> Iterator[bytes]:
    """Lines of at most `_LONGEST` bytes: the rest of a longer one is passed over."""
    while line := file.readline(_LONGEST):
        rest = line
        while len(rest) == _LONGEST and not rest.endswith(b"\n"):
            rest = file.readline(_LONGEST)
        yield line


def _moment(value: float | str) -> int:
    """UNIX milliseconds."""
    if isinstance(value, str):
        try:
            moment = datetime.fromisoformat(value)
        except ValueError:
            raise ValueError("has a time that is not RFC 3339: write 2026-11-21T09:00:00Z, or UNIX seconds") from None
        value = (moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)).timestamp()
    if not 0 < value < _LAST_YEAR:
        raise ValueError("has a time out of range: UNIX seconds, or RFC 3339")
    return round(value * 1000)


def _milliseconds(value: float) -> int:
    if not 0 <= value < 1e12:
        raise ValueError("has a duration that cannot be")
    return round(value)


def _count(value: int | None) -> int | None:
    if value is not None and not 0 <= value < LARGEST:
        raise ValueError("has a number of tokens that cannot be")
    return value


def _money(value: float | str | None) -> int | None:
    if value is None:
        return None
    try:
        amount = nano(Decimal(str(value)))
    except (InvalidOperation, ValueError, OverflowError):
        raise ValueError("has a cost that is not a number of dollars") from None
    if not 0 <= amount < LARGEST:
        raise ValueError("has a cost that cannot be")
    return amount


def _reason(error: Exception) -> str:
    if isinstance(error, msgspec.ValidationError):
        return f"does not fit: {error}"
    if isinstance(error, msgspec.DecodeError):
        return "is not JSON"
    return str(error)
