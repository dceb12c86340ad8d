"""Envoy as a child process of `up`: start, readiness, drain, end."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

from extproc.errors import ConfigError

_START_TIME: Final = 30.0
_PAUSE: Final = 0.05
_LOG: Final = "envoy.log"
_LARGEST: Final = 256 << 20  # bytes of an access log


class EnvoyProcess:
    """One Envoy in its state folder. `admin`: host and port of its admin interface."""

    def __init__(self, command: Sequence[str], folder: Path, admin: tuple[str, int]) -> None:
        """Nothing runs yet."""
        self._command = list(command)
        self._folder = folder
        self._admin = admin
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """The process id; 0 before the start."""
        return self._process.pid if self._process is not None else 0

    async def start(self) -> None:
        """Start and wait until all listeners are active. Raises `ConfigError` with the end of Envoy's own log."""
        with (self._folder / "run" / _LOG).open("ab") as log:
            # a session of its own: Ctrl-C is for `up`, which drains in order
            self._process = subprocess.Popen(
                self._command,
                cwd=self._folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        limit = time.monotonic() + _START_TIME
        while time.monotonic() < limit:
            if self._process.poll() is not None:
                raise ConfigError("envoy", f"did not start: {self._said()}", f"see {self._folder / 'run' / _LOG}")
            if await self._get("/ready") == "LIVE":
                return
            await asyncio.sleep(_PAUSE)
        self.kill()
        raise ConfigError("envoy", f"was not ready after {_START_TIME:g} s", f"see {self._folder / 'run' / _LOG}")

    async def ended(self) -> int:
        """Wait for the end; the exit code."""
        while True:
            code = self._process.poll() if self._process is not None else 0
            if code is not None:
                return code
            await asyncio.sleep(0.2)

    async def rotate(self, path: Path, largest: int = _LARGEST, pause: float = 10.0) -> None:
        """Keep a log of Envoy's small, until cancelled: over `largest` bytes it becomes `<name>.1`, in place of an earlier one.

        Envoy opens its access logs again at SIGUSR1, and writes to the renamed file until then: no line is lost.
        `pause`: seconds between looks.
        """
        while True:
            await asyncio.sleep(pause)
            process = self._process
            if process is not None and await asyncio.to_thread(_set_aside, path, largest):
                process.send_signal(signal.SIGUSR1)  # which does nothing where it has ended

    async def drain(self, limit: float) -> None:
        """Take no new connections, wait up to `limit` seconds for open requests, then end."""
        # the first asks open connections to end (GOAWAY, connection: close) and would keep the entries open for all of the
        # drain time; the second closes them, and leaves the inner listeners to the calls that are under way
        await self._get("/drain_listeners?graceful&skip_exit", method="POST")
        await self._get("/drain_listeners?inboundonly", method="POST")
        until = time.monotonic() + limit
        while time.monotonic() < until and await self._active():
            await asyncio.sleep(0.2)
        if self._process is None:
            return
        self._process.terminate()
        try:
            await asyncio.to_thread(self._process.wait, 5)
        except subprocess.TimeoutExpired:
            self.kill()

    def kill(self) -> None:
        """End it now."""
        if self._process is not None and self._process.poll() is None:
            self._process.kill()
            self._process.wait()

    async def _active(self) -> int:
        """Requests that are open at the entries."""
        shown = await self._get("/stats?filter=^http%5C.llm%5C.downstream_rq_active$")
        return sum(int(line.rpartition(":")[2]) for line in shown.splitlines() if ":" in line)

    async def _get(self, path: str, method: str = "GET") -> str:
        host, port = self._admin
        answer = b""
        with suppress(OSError, TimeoutError):
            async with asyncio.timeout(2):
                reader, writer = await asyncio.open_connection(host, port)
                request = f"{method} {path} HTTP/1.1\r\nhost: admin\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"
                writer.write(request.encode())
                answer = await reader.read()
                writer.close()
        head, _, body = answer.partition(b"\r\n\r\n")
        if b"chunked" in head.lower():
            body = b"".join(_chunks(body))
        return body.decode("utf-8", "replace").strip()

    def _said(self) -> str:
        lines = (self._folder / "run" / _LOG).read_text(errors="replace").splitlines()
        told = [line for line in lines[-40:] if "critical" in line or "error" in line] or lines[-3:]
        return " ".join(told)[-800:]


def _set_aside(path: Path, largest: int) -> bool:
    """Rename a file that is larger than `largest` bytes; whether it was."""
    with suppress(OSError):  # no log yet, or a folder that cannot be written: the next look
        if path.stat().st_size > largest:
            path.replace(path.with_name(f"{path.name}.1"))
            return True
    return False


def _chunks(body: bytes) -> list[bytes]:
    """The pieces of a chunked body (RFC 9112 section 7.1)."""
    pieces = []
    while body:
        size, _, rest = body.partition(b"\r\n")
        length = int(size.split(b";")[0] or b"0", 16)
        if not length:
            break
        pieces.append(rest[:length])
        body = rest[length + 2 :]
    return pieces
