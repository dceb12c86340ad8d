"""Unix socket names that outlive the processes behind them, and the wire between a worker and its supervisor.

grpcio for Python cannot take over a listening socket, so a name is kept alive instead: each worker listens at a private
path, and the supervisor hard-links the socket to the public name that Envoy knows. `rename` swaps a name in one step:
a `connect` meets either the old listener or the new one, never a gap.
"""

from __future__ import annotations

import asyncio
import errno
import fcntl
import os
import socket
from contextlib import suppress
from pathlib import Path
from typing import Final, Self

from extproc.errors import ConfigError

PRIVATE_PREFIX: Final = ".w-"
PUBLIC_PREFIX: Final = "worker-"
SUFFIX: Final = ".sock"
_MAX_PATH: Final = 107  # bytes: sockaddr_un.sun_path holds 108, the last one is NUL (unix(7))
_MAX_MESSAGE: Final = 4096  # bytes of one control message

READY: Final = b"ready"
DRAINING: Final = b"draining"
_STATUS: Final = b"status "


def public_path(folder: Path, slot: int) -> Path:
    """Give the name that Envoy's cluster lists for this slot."""
    return folder / f"{PUBLIC_PREFIX}{slot}{SUFFIX}"


def private_path(folder: Path, owner: int, number: int) -> Path:
    """Say where incarnation `number` of the supervisor process `owner` listens.

    Raises `ConfigError` where the path is longer than the kernel takes.
    """
    path = folder / f"{PRIVATE_PREFIX}{owner}-{number}{SUFFIX}"
    size = len(os.fsencode(path))
    if size > _MAX_PATH:
        raise ConfigError(
            str(folder),
            f"too long for a Unix socket: {size} bytes with the socket's name, the kernel takes {_MAX_PATH}",
            "use a state folder with a shorter path",
        )
    return path


def publish(private: Path, public: Path) -> None:
    """Let the public name stand for the socket at the private path, in one step. `OSError` where that socket is gone."""
    temporary = public.with_name(f".{public.name}.new")
    temporary.unlink(missing_ok=True)
    temporary.hardlink_to(private)
    temporary.rename(public)
    # rename(2) of two links to one inode is a no-op that leaves both: the spare name must not stay behind
    temporary.unlink(missing_ok=True)


def listening(path: Path) -> bool:
    """Whether somebody accepts connections at this path (a full backlog counts: there is a listener)."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(0)
        outcome = probe.connect_ex(str(path))
    return outcome in {0, errno.EAGAIN, errno.EINPROGRESS}


def remove_stale(folder: Path) -> list[Path]:
    """Remove socket names of an earlier run at which nobody listens any more; say which."""
    removed = []
    for pattern in (f"{PRIVATE_PREFIX}*{SUFFIX}", f"{PUBLIC_PREFIX}*{SUFFIX}", f".{PUBLIC_PREFIX}*{SUFFIX}.new"):
        for path in sorted(folder.glob(pattern)):
            if path.is_socket() and not listening(path):
                path.unlink(missing_ok=True)
                removed.append(path)
    return removed


class FolderLock:
    """One supervisor a folder. The kernel drops the lock with the process, however it ends."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / ".lock"
        self._fd = -1

    def __enter__(self) -> Self:
        """Take the lock. Raises `ConfigError` where another process has it."""
        fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.read(fd, 20).decode("ascii", "replace").strip() or "unknown"
            os.close(fd)
            raise ConfigError(
                str(self._path.parent),
                f"in use by another supervisor (process {holder})",
                "stop that one, or use another state folder",
            ) from None
        os.ftruncate(fd, 0)
        os.write(fd, f"{os.getpid()}\n".encode())
        self._fd = fd
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._fd)


def control_pair() -> tuple[socket.socket, socket.socket]:
    """Make (supervisor's end, worker's end). Whole messages, and end-of-file on one side as soon as the other is gone."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ours.settimeout(0)
    return ours, theirs


def receive(control: socket.socket) -> list[bytes]:
    """Read what the worker has said since the last call; stops at end-of-file."""
    messages: list[bytes] = []
    while len(messages) < 64:  # a chatty worker must not hold the supervisor's loop; the rest comes next turn
        try:
            message = control.recv(_MAX_MESSAGE)
        except (BlockingIOError, ConnectionError):
            break
        if not message:
            break
        messages.append(message)
    return messages


def status_text(message: bytes) -> str | None:
    """Take the text out of a status message; None for any other."""
    return message[len(_STATUS) :].decode("utf-8", "replace") if message.startswith(_STATUS) else None


class ParentLink:
    """A worker's line to its supervisor: says `ready` and `draining`, and learns when the supervisor is gone.

    `fd` is the inherited descriptor of the worker's end; it is owned by this object from then on.
    """

    def __init__(self, fd: int) -> None:
        self._socket = socket.socket(fileno=fd)
        self._socket.settimeout(0)
        self._socket.set_inheritable(False)  # a child of the worker must not keep the line open

    def ready(self) -> None:
        """Say that the private socket is listening and calls can be served."""
        self._send(READY)

    def draining(self) -> None:
        """Ask for no new calls: the supervisor points this worker's names elsewhere and starts another one."""
        self._send(DRAINING)

    def report(self, status: str) -> None:
        """Send a short text on the state of this worker, shown in the health detail."""
        self._send(_STATUS + status.encode("utf-8", "replace")[: _MAX_MESSAGE - len(_STATUS)])

    async def gone(self) -> None:
        """Return when the supervisor has ended, by whatever means."""
        loop = asyncio.get_running_loop()
        ended: asyncio.Future[None] = loop.create_future()
        loop.add_reader(self._socket, self._read, ended)
        try:
            await ended
        finally:
            loop.remove_reader(self._socket)

    def close(self) -> None:
        """Give the descriptor back."""
        self._socket.close()

    def _read(self, ended: asyncio.Future[None]) -> None:
        try:
            if self._socket.recv(_MAX_MESSAGE):
                return  # a supervisor says nothing today; a newer one may
        except BlockingIOError:
            return
        except ConnectionError:
            pass
        if not ended.done():
            ended.set_result(None)

    def _send(self, message: bytes) -> None:
        # the supervisor may be gone (`gone` says so) or busy (a status line may be lost; the two states fit the buffer)
        with suppress(BlockingIOError, ConnectionError):
            self._socket.send(message)
