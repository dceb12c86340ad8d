from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st

from extproc.adapters import logs


@pytest.fixture
def restored() -> Iterator[None]:
    """Leave logging as it was found."""
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield
    structlog.reset_defaults()
    root.handlers[:] = handlers
    root.setLevel(level)


def pipe() -> tuple[int, int]:
    return os.pipe()


def logged(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def open_log(path: Path) -> int:
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)


def test_lines_arrive_within_the_flush_time_without_a_flush(tmp_path: Path) -> None:
    """The background writer brings a line out by itself."""
    fd = open_log(tmp_path / "log")
    writer = logs.LineWriter(fd)
    writer.write(b"one\n")
    deadline = time.monotonic() + 5
    while not (tmp_path / "log").read_bytes() and time.monotonic() < deadline:
        time.sleep(0.01)

    assert (tmp_path / "log").read_bytes() == b"one\n"
    writer.close()
    os.close(fd)


def test_each_line_at_once_survives_a_kill() -> None:
    """With `each`, a line is out before `write` returns: a kill -9 right after loses nothing."""
    code = (
        "import os, signal, sys\nfrom extproc.adapters.logs import LineWriter\n"
        "LineWriter(1, each=True).write(b'kept\\n')\nos.kill(os.getpid(), signal.SIGKILL)\n"
    )

    done = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, check=False, timeout=20)

    assert done.stdout == b"kept\n"
    assert done.returncode == -9


def test_close_writes_everything_in_order_and_later_lines_too(tmp_path: Path) -> None:
    """Nothing taken is lost at an orderly end."""
    fd = open_log(tmp_path / "log")
    writer = logs.LineWriter(fd)
    expected = [b"%d\n" % number for number in range(20_000)]
    for line in expected:
        writer.write(line)
    writer.close()
    writer.write(b"later\n")

    assert (tmp_path / "log").read_bytes() == b"".join([*expected, b"later\n"])
    os.close(fd)


def test_a_stuck_reader_blocks_nobody_and_the_loss_is_told() -> None:
    """Nobody reads: `write` stays quick, lines over the limit are dropped, and their number is in the log afterwards."""
    reader, fd = pipe()
    writer = logs.LineWriter(fd)
    line = b"x" * 1000 + b"\n"
    began = time.monotonic()
    for _ in range(10_000):
        writer.write(line)
    took = time.monotonic() - began

    def finish() -> None:
        writer.close()
        os.close(fd)

    closing = threading.Thread(target=finish)
    closing.start()
    with os.fdopen(reader, "rb") as out:
        got = list(out)
    closing.join()
    notices = [json.loads(one) for one in got if one != line]
    dropped = sum(notice["dropped"] for notice in notices)

    assert took < 2
    assert got.count(line) + dropped == 10_000
    assert dropped > 0


def test_a_reader_that_is_gone_ends_the_log_not_the_process() -> None:
    """EPIPE is swallowed."""
    reader, fd = pipe()
    os.close(reader)
    writer = logs.LineWriter(fd, each=True)

    writer.write(b"into the void\n")
    writer.write(b"and again\n")
    writer.close()

    with pytest.raises(BrokenPipeError):
        os.write(fd, b"the pipe is broken, and nobody was told but us")
    os.close(fd)


@given(st.lists(st.binary(min_size=1, max_size=50)), st.integers(1, 100))
def test_pieces_hold_whole_lines_up_to_the_limit(lines: list[bytes], limit: int) -> None:
    """Joined, the pieces are the lines; a piece over the limit is one single line."""
    pieces = list(logs.pieces(lines, limit))

    assert b"".join(pieces) == b"".join(lines)
    assert all(len(piece) <= limit or piece in lines for piece in pieces)


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(codec=None)),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(st.characters(codec=None)), inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(st.text(), values, max_size=4))
def test_whatever_the_value_a_line_of_json_comes_out(event: dict[str, object]) -> None:
    """Lone surrogates, huge numbers, line ends: one line of JSON."""
    line = logs.to_json(event)

    assert b"\n" not in line
    assert isinstance(json.loads(line), dict)


@given(st.text(st.characters(codec=None)))
def test_console_values_steer_no_terminal(text: str) -> None:
    """No escape sequence and no line end of a caller's value reaches the screen."""
    event = logs.escape_controls(None, "info", {"user": text, "event": text})

    assert not any(ord(char) < 32 or 127 <= ord(char) < 160 for char in str(event["user"]))


@pytest.mark.usefixtures("restored")
def test_json_lines_of_both_kinds_of_loggers(tmp_path: Path) -> None:
    """structlog and the standard library write the same form, with level and time; too low a level is left out."""
    fd = open_log(tmp_path / "log")
    writer = logs.LineWriter(fd, each=True)
    logs.configure("json", "info", writer)
    structlog.get_logger("x").info("worker started", pid=7)
    structlog.get_logger("x").debug("not shown")
    logging.getLogger("asyncio").warning("slow %s", "task")
    try:
        raise ValueError("boom")
    except ValueError:
        structlog.get_logger("x").exception("policy crashed")

    first, second, third = logged(tmp_path / "log")

    assert (first["event"], first["level"], first["pid"]) == ("worker started", "info", 7)
    assert (second["event"], second["level"]) == ("slow task", "warning")
    assert "ValueError at test_logs.py:" in str(third["exception"])
    assert "boom" not in str(third)
    assert str(first["timestamp"]).endswith("Z")
    os.close(fd)


@pytest.mark.usefixtures("restored")
def test_console_lines_are_readable(tmp_path: Path) -> None:
    """The text and its values on one line."""
    fd = open_log(tmp_path / "log")
    logs.configure("console", "info", logs.LineWriter(fd, each=True))
    structlog.get_logger("x").warning("config refused", path="aliases.fast")

    text = (tmp_path / "log").read_text()

    assert "config refused" in text
    assert "path=aliases.fast" in text
    assert text.count("\n") == 1
    os.close(fd)
