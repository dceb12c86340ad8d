"""Logging: structlog to one file descriptor, as JSON lines or readable text; the standard library's loggers join in.

All lines of a process go through one `LineWriter`, so that they keep their order and never tear each other.
"""

from __future__ import annotations

import logging
import os
import re
import select
import stat
import threading
from collections import deque
from collections.abc import Callable, Iterator, MutableMapping
from contextlib import suppress
from typing import Final

import orjson
import structlog
from structlog.typing import Processor

from extproc.adapters.crashes import name_exception

PIPE_ATOMIC: Final = select.PIPE_BUF  # bytes that one write(2) puts into a pipe in one piece (pipe(7))
FLUSH_BYTES: Final = 64 * 1024
FLUSH_SECONDS: Final = 0.02
MAX_PENDING: Final = 8 * 1024 * 1024  # bytes held while the reader of the log is stuck; more lines are dropped, counted

_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")
_MANY_LINES: Final = ("exc_info", "exception", "stack")


class LineWriter:
    """Collects lines and writes them in the background, every 20 ms or 64 KB; `flush` writes what there is.

    A kill -9 loses the lines of the last 20 ms; `each` True writes every line before `write` returns and loses none,
    for the price of a system call a line (and of waiting for a reader that is stuck). Else a stuck reader blocks
    nobody: lines over 8 MiB are dropped, counted and told.
    """

    def __init__(self, fd: int = 1, *, each: bool = False) -> None:
        """Write to `fd`, which stays the caller's."""
        self._fd = fd
        self._each = each
        self._is_pipe = stat.S_ISFIFO(os.fstat(fd).st_mode)
        self._lines: deque[bytes] = deque()
        self._taken = 0  # bytes, counted up by `write` only
        self._written = 0  # bytes, counted up by `flush` only
        self._dropped = 0
        self._told = 0
        self._lock = threading.Lock()  # held while writing: one writer at a time, in order
        self._wake = threading.Event()
        self._closing = False
        self._thread: threading.Thread | None = None

    def write(self, line: bytes) -> None:
        """Take one line with its line end. Does not raise; waits only where each line is written at once."""
        pending = self._taken - self._written
        if pending > MAX_PENDING or (self._closing and self._stuck()):
            self._dropped += 1
            return
        self._lines.append(line)
        self._taken += len(line)
        if len(self._lines) == 1:
            self._wake.set()
        if self._each:
            self.flush()
        elif self._thread is None:
            self._thread = threading.Thread(target=self._run, name="log", daemon=True)
            self._thread.start()
        elif pending >= FLUSH_BYTES:
            self._wake.set()

    def flush(self) -> None:
        """Write everything taken so far."""
        with self._lock:
            lines = [self._lines.popleft() for _ in range(len(self._lines))]
            size = sum(map(len, lines))
            dropped = self._dropped - self._told
            if dropped:
                self._told += dropped
                text = f"{dropped} log lines were dropped: the reader of this log did not keep up"
                lines.append(orjson.dumps({"level": "error", "event": text, "dropped": dropped}) + b"\n")
            for piece in pieces(lines, PIPE_ATOMIC if self._is_pipe else FLUSH_BYTES):
                if not self._put(piece):
                    break
            self._written += size

    def close(self) -> None:
        """Write what is left, waiting 5 s at most for the reader. Lines that come later are written at once."""
        self._closing = self._each = True
        self._wake.set()
        if self._thread is not None:
            self._thread.join(timeout=5)
        if not self._stuck():
            self.flush()

    def _stuck(self) -> bool:
        return self._thread is not None and self._thread.is_alive()

    def _run(self) -> None:
        while not self._closing:
            self._wake.wait()
            self._wake.clear()
            if self._taken - self._written < FLUSH_BYTES:
                self._wake.wait(FLUSH_SECONDS)  # let others join; a full buffer or the end cuts the wait short
                self._wake.clear()
            self.flush()
            if self._lines:  # taken while those before were written: nobody has said so
                self._wake.set()

    def _put(self, piece: bytes) -> bool:
        view = memoryview(piece)
        while view:
            try:
                view = view[os.write(self._fd, view) :]
            except BlockingIOError:  # whoever started us left the descriptor non-blocking
                select.select([], [self._fd], [], 1.0)
            except OSError:  # the reader is gone for good: serving calls goes on without a log
                return False
        return True


def pieces(lines: list[bytes], limit: int) -> Iterator[bytes]:
    """Join whole lines up to `limit` bytes. Several processes share one pipe: a longer write could tear their lines."""
    batch: list[bytes] = []
    size = 0
    for line in lines:
        if batch and size + len(line) > limit:
            yield b"".join(batch)
            batch, size = [], 0
        batch.append(line)
        size += len(line)
    if batch:
        yield b"".join(batch)


class LineLogger:
    """What structlog hands rendered lines to."""

    def __init__(self, writer: LineWriter) -> None:
        self._writer = writer

    def msg(self, line: bytes | str) -> None:
        """Write one line."""
        data = line if isinstance(line, bytes) else line.encode("utf-8", "replace")
        self._writer.write(data + b"\n")

    debug = info = warning = warn = error = critical = exception = fatal = log = msg


def to_json(event: MutableMapping[str, object], **_: object) -> bytes:
    """Render as JSON; what JSON has no word for becomes text, and broken Unicode is replaced: a line is never lost."""
    try:
        return orjson.dumps(event, default=str)
    except TypeError:
        return orjson.dumps(_mended(event), default=str, option=orjson.OPT_NON_STR_KEYS)


def _mended(value: object) -> object:
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode()
    if isinstance(value, MutableMapping):
        return {_mended(key): _mended(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_mended(one) for one in value]
    if isinstance(value, int) and not -(2**63) <= value < 2**64:
        return str(value)
    return value


def escape_controls(_logger: object, _name: str, event: MutableMapping[str, object]) -> MutableMapping[str, object]:
    """Make control characters visible: a value that a caller sent must not steer the terminal or fake a line."""
    for key, value in event.items():
        if isinstance(value, str) and key not in _MANY_LINES:
            event[key] = _CONTROL.sub(lambda found: found.group().encode("unicode_escape").decode(), value)
    return event


class _Bridge(logging.Handler):
    """Passes records of the standard library's loggers (asyncio, grpc) on to structlog."""

    def emit(self, record: logging.LogRecord) -> None:
        log: structlog.typing.FilteringBoundLogger = structlog.get_logger(record.name)
        with suppress(ValueError, TypeError):  # a message whose arguments do not fit it
            log.log(record.levelno, record.getMessage(), exc_info=record.exc_info)


def processors(form: str) -> list[Processor]:
    """List the processors of a form: `json` or `console`."""
    first: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        name_exception,
    ]
    if form == "console":
        colours = os.isatty(1)
        return [*first, escape_controls, structlog.dev.ConsoleRenderer(colors=colours)]
    return [
        *first,
        structlog.processors.StackInfoRenderer(),
        structlog.processors.JSONRenderer(serializer=to_json),
    ]


def configure(form: str, level: str, writer: LineWriter) -> None:
    """Set logging up for this process. `form`: json | console; `level`: debug | info | warning | error."""
    number = logging.getLevelNamesMapping()[level.upper()]
    make: Callable[..., LineLogger] = lambda *_: LineLogger(writer)  # noqa: E731  a factory, as structlog wants one
    structlog.configure(
        processors=processors(form),
        wrapper_class=structlog.make_filtering_bound_logger(number),
        logger_factory=make,
        cache_logger_on_first_use=True,
    )
    root = logging.getLogger()
    for handler in tuple(root.handlers):
        if isinstance(handler, _Bridge):
            root.removeHandler(handler)
    root.addHandler(_Bridge())
    root.setLevel(max(number, logging.INFO))
