"""What the shipped Envoy refuses by itself, one line at a time: each listener or cluster as it is, and without the line.

One Envoy holds all of them, `<row>.held` and `<row>.open`. The policy stage is taken out of the entries, so that what is
seen is Envoy's own doing; its place takes a filter that reads the body, as the policy stage does.
"""

from __future__ import annotations

import contextlib
import copy
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import h2.config
import h2.connection
import h2.events

from envoy.machine import free_ports
from envoy.plain import SHIPPED, Plain
from extproc.adapters.envoy_files import Node, find_resource, http_managers, read_resources, walk

Change = Callable[[Node], None]
WAIT = 2.0  # seconds: longer than any time limit that a row sets, much shorter than Envoy's own
_READ_BODY = "function envoy_on_request(handle) handle:body() end"


@dataclass(frozen=True)
class Row:
    """One line. `of`: which listener or cluster it stands in; `weaken` takes it away; `probe` says whether it holds.

    `quicken` is done to both, where the shipped number is too long or too large for a test.
    """

    name: str
    weaken: Change
    probe: Callable[[Door], bool]
    quicken: Change = lambda _: None
    of: str = "base_url"

    def __str__(self) -> str:
        return self.name


@dataclass
class Door:
    """Where a probe knocks. `seen`: what the vendor was sent last, and forgets it."""

    port: int
    seen: Callable[[], dict[str, str]]
    answer: Callable[..., None]  # the vendor's next answer


# ---- lines ----------------------------------------------------------------------------------------------------------


def _place(node: Node, path: tuple[str, ...]) -> tuple[Node, str]:
    """The mapping that holds the end of `path`, which begins anywhere below `node`. Raises where there is not one kind."""
    found = [m for m in walk(node) if path[0] in m]
    assert found, f"nothing has {path[0]}"
    place: Any = found[0]
    for step in path[:-1]:
        place = place[step]
    assert path[-1] in place, f"no {'.'.join(path)}"
    return place, path[-1]


def without(*path: str) -> Change:
    """Take a line away; it must be there."""

    def change(node: Node) -> None:
        place, last = _place(node, path)
        del place[last]

    return change


def with_(value: Any, *path: str) -> Change:
    """Give a line another value; it must be there."""

    def change(node: Node) -> None:
        place, last = _place(node, path)
        assert place[last] != value
        place[last] = value

    return change


def without_item(key: str, wanted: object) -> Change:
    """Take one item out of the lists called `key`; it must be there."""

    def change(node: Node) -> None:
        lists = [m[key] for m in walk(node) if isinstance(m.get(key), list) and wanted in m[key]]
        assert lists, f"{wanted} is in no {key}"
        for items in lists:
            items.remove(wanted)

    return change


def both(*changes: Change) -> Change:
    """One after the other."""

    def change(node: Node) -> None:
        for one in changes:
            one(node)

    return change


def at_once(node: Node) -> None:
    """Close an idle connection when its time is up, and not 5 s later (Envoy's default `drain_timeout`)."""
    for manager in http_managers(node):
        manager["drain_timeout"] = "0.1s"


def only_read_bodies(manager: Node) -> None:
    """Put a filter that waits for the body in the place of the policy stage, where there is one."""
    for one in manager["http_filters"]:
        if one["name"] == "llm.policy":
            lua = "type.googleapis.com/envoy.extensions.filters.http.lua.v3.Lua"
            one["typed_config"] = {"@type": lua, "default_source_code": {"inline_string": _READ_BODY}}


# ---- the files ------------------------------------------------------------------------------------------------------


@dataclass
class Rig:
    """Adds to a state folder what the rows need. `vendors`: cluster row -> port of its vendor; else `vendor`."""

    rows: tuple[Row, ...]
    vendor: int
    ca: Path
    vendors: dict[str, int] = field(default_factory=dict)
    ports: dict[str, int] = field(default_factory=dict)

    def change(self, bootstrap: Node, clusters: Node) -> None:
        """For `plain.prepare`."""
        shipped = bootstrap["static_resources"]["listeners"]
        names = [f"{row.name}.{kind}" for row in self.rows for kind in ("held", "open")]
        self.ports = dict(zip(names, free_ports(len(names)), strict=True))
        resources: list[Node] = clusters["resources"]
        target = find_resource(resources, "openai_tls", Path())
        for row in self.rows:
            for kind in ("held", "open"):
                name = f"{row.name}.{kind}"
                cluster = self._cluster(target, name, self.vendors.get(row.name, self.vendor))
                of = "egress_openai" if row.of == "openai_tls" else row.of
                listener = self._listener(find_resource(shipped, of, Path()), name)
                subject = cluster if row.of == "openai_tls" else listener
                row.quicken(subject)
                if kind == "open":
                    row.weaken(subject)
                resources.append(cluster)
                bootstrap["static_resources"]["listeners"].append(listener)

    def _cluster(self, shipped: Node, name: str, port: int) -> Node:
        cluster = copy.deepcopy(shipped)
        cluster["name"] = cluster["load_assignment"]["cluster_name"] = name
        for mapping in walk(cluster["load_assignment"]):
            if "socket_address" in mapping:
                mapping["socket_address"] = {"address": "127.0.0.1", "port_value": port}
        for mapping in walk(cluster):
            if "trusted_ca" in mapping:
                mapping["trusted_ca"] = {"filename": str(self.ca)}
        return cluster

    def _listener(self, shipped: Node, name: str) -> Node:
        listener = copy.deepcopy(shipped)
        listener.pop("internal_listener", None)
        listener["name"] = name
        listener["address"] = {"socket_address": {"address": "127.0.0.1", "port_value": self.ports[name]}}
        (manager,) = http_managers(listener)
        manager["access_log"] = []
        if manager.pop("rds", None) is not None:
            manager["route_config"] = _routes(name)
        if str(manager["stat_prefix"]).startswith("egress_"):
            manager["codec_type"] = "AUTO"
        only_read_bodies(manager)
        return listener


def _routes(name: str) -> Node:
    """The shipped outer route, to one cluster, and `/local`, which Envoy answers by itself."""
    (config,) = copy.deepcopy(read_resources(SHIPPED / "xds" / "rds.yaml"))
    del config["@type"]
    config["validate_clusters"] = False
    (host,) = config["virtual_hosts"]
    route = host["routes"][-1]
    del route["route"]["inline_cluster_specifier_plugin"], route["route"]["retry_policy"]
    route["route"] |= {"cluster": name, "timeout": "9s"}
    added = {"x-source": "%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT%", "x-llmi-x": "1", "x-envoy-x": "1"}
    local = {
        "match": {"prefix": "/local"},
        "direct_response": {"status": 200, "body": {"inline_string": "local"}},
        "response_headers_to_add": [{"header": {"key": key, "value": value}} for key, value in added.items()],
    }
    host["routes"] = [local, route]
    return config


# ---- probes ---------------------------------------------------------------------------------------------------------


@dataclass
class Said:
    """An HTTP/1.1 answer; status 0 is none. `closed`: the connection had ended when it was looked at."""

    status: int
    fields: dict[str, str]
    body: bytes
    closed: bool


def say(port: int, *pieces: bytes, wait: float = WAIT, client: Callable[[socket.socket], Any] = lambda s: s) -> Said:
    """Say it and listen until the end of the connection, or for `wait` seconds after the last byte came."""
    got, closed = b"", False
    with contextlib.suppress(TimeoutError), socket.create_connection(("127.0.0.1", port), 5) as sock:
        sock.settimeout(wait)
        try:
            with contextlib.closing(client(sock)) as speaker:
                for piece in pieces:
                    speaker.sendall(piece)
                while piece := speaker.recv(65536):
                    got += piece
                closed = True
        except (ConnectionError, ssl.SSLError):
            closed = True
    head, _, body = got.partition(b"\r\n\r\n")
    lines = head.decode("latin-1").split("\r\n")
    status = int(lines[0].split()[1]) if lines[0].startswith("HTTP/") else 0
    fields = {key.lower(): value.strip() for key, _, value in (line.partition(":") for line in lines[1:])}
    return Said(status, fields, body, closed)


def get(port: int, path: str = "/local", *fields: str, method: str = "GET", body: bytes = b"") -> Said:
    """One request on a connection of its own."""
    lines = [f"{method} {path} HTTP/1.1", "host: api.openai.com", "connection: close", *fields]
    if body:
        lines.append(f"content-length: {len(body)}")
    return say(port, "\r\n".join([*lines, "", ""]).encode() + body)


class H2:
    """An HTTP/2 client (cleartext, by prior knowledge) that may be rude."""

    def __init__(self, port: int) -> None:
        self.sock = socket.create_connection(("127.0.0.1", port), 5)
        self.sock.settimeout(WAIT)
        self.conn = h2.connection.H2Connection(h2.config.H2Configuration(client_side=True))
        self.conn.initiate_connection()
        self.flush()
        self.settings: dict[int, int] = {}
        self.window = 65535

    def flush(self) -> None:
        """Send what h2 has ready."""
        self.sock.sendall(self.conn.data_to_send())

    def head(self, method: str = "GET", path: str = "/local", *, end: bool = True) -> int:
        """Open a stream; its number."""
        number = self.conn.get_next_available_stream_id()
        fields = [(":method", method), (":path", path), (":scheme", "http"), (":authority", "api.openai.com")]
        self.conn.send_headers(number, fields, end_stream=end)
        return number

    def ended(self) -> bool:
        """Whether Envoy ends the connection, within `WAIT` of its last word."""
        try:
            while data := self.sock.recv(65536):
                self._take(data)
        except TimeoutError:
            return False
        except ConnectionError:
            return True
        return True

    def answered(self, number: int) -> bool:
        """Whether the stream gets a whole answer."""
        until = time.monotonic() + WAIT
        with contextlib.suppress(OSError):
            while time.monotonic() < until and (data := self.sock.recv(65536)):
                if number in self._take(data):
                    return True
        return False

    def _take(self, data: bytes) -> list[int]:
        done = []
        for event in self.conn.receive_data(data):
            if isinstance(event, h2.events.RemoteSettingsChanged):
                self.settings |= {int(k): v.new_value for k, v in event.changed_settings.items()}
            elif isinstance(event, h2.events.WindowUpdated) and event.stream_id == 0:
                self.window += event.delta
            elif isinstance(event, h2.events.StreamEnded):
                done.append(event.stream_id)
        with contextlib.suppress(OSError):
            self.flush()
        return done


@contextlib.contextmanager
def h2_client(port: int) -> Iterator[H2]:
    """A connection for the time of a `with` block."""
    client = H2(port)
    try:
        yield client
    finally:
        client.sock.close()


# ---- vendors --------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def tls_vendor(context: ssl.SSLContext, names: list[str | None]) -> Iterator[int]:
    """A TLS server that answers 200 to anything; its port. `names` gets the SNI of each handshake."""
    context.sni_callback = lambda _sock, name, _context: names.append(name)
    server = socket.create_server(("127.0.0.1", 0))
    server.settimeout(0.1)
    ended = threading.Event()

    def serve() -> None:
        while not ended.is_set():
            with contextlib.suppress(OSError, TimeoutError):
                sock, _ = server.accept()
                sock.settimeout(2)
                with sock, context.wrap_socket(sock, server_side=True) as secure:
                    secure.recv(65536)
                    secure.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield server.getsockname()[1]
    finally:
        ended.set()
        thread.join(5)
        server.close()


def alive(plain: Plain) -> bool:
    """Whether Envoy still answers its admin port."""
    return plain.admin("/ready").strip() == "LIVE"
