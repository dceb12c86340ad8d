"""The trap: each connection that ends there is reset, logged with what it wanted, and counted."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from envoy.plain import Plain, prepare, running
from envoy.ways import wait_for
from extproc.adapters.envoy_files import Node, find_resource

pytestmark = pytest.mark.envoy

MANY = 700  # more names than `bypass_total` may have


def quicker(bootstrap: Node, _clusters: Node) -> None:
    """Wait less for a client that says nothing."""
    find_resource(bootstrap["static_resources"]["listeners"], "trap", Path())["listener_filters_timeout"] = "0.5s"


@pytest.fixture(scope="module")
def trap(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Plain]:
    """Envoy with the shipped trap."""
    with running(prepare(tmp_path_factory.mktemp("trap"), quicker)) as plain:
        yield plain


def say(plain: Plain, data: bytes) -> bytes:
    """Connect, say something, and return what comes back before the end."""
    got = b""
    with socket.create_connection(("127.0.0.1", plain.ports["trap"]), 5) as sock, contextlib.suppress(ConnectionError):
        sock.sendall(data)
        while piece := sock.recv(4096):
            got += piece
    return got


def hello(plain: Plain, name: str | None) -> str:
    """Try a TLS handshake; the name of the error."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    with socket.create_connection(("127.0.0.1", plain.ports["trap"]), 5) as sock:
        try:
            context.wrap_socket(sock, server_hostname=name).close()
        except (ssl.SSLError, ConnectionError) as error:
            return type(error).__name__
    return "connected"


def last(plain: Plain, before: int) -> dict[str, Any]:
    """The one event after the first `before`."""
    events = plain.wait_events("bypass_blocked", before + 1)
    assert len(events) == before + 1
    return events[-1]


@pytest.mark.parametrize("name", ["api.openai.com", "llm.unlisted.example", None])
def test_tls_is_reset_and_told(trap: Plain, name: str | None) -> None:
    """Also the name of a configured provider: the trap serves nobody. SNI, JA4, source and destination are in the event."""
    before = len(trap.events("bypass_blocked"))
    assert hello(trap, name) in {"ConnectionResetError", "SSLEOFError", "SSLZeroReturnError"}
    event = last(trap, before)
    assert (event["entry"], event["sni"]) == ("trap.tls", name)
    assert event["ja4"].startswith("t13")
    assert event["source"].startswith("127.0.0.1:")
    assert (event["destination"], event["port"]) == (f"127.0.0.1:{trap.ports['trap']}", trap.ports["trap"])


@pytest.mark.parametrize(
    ("data", "entry"),
    [
        (b"GET /v1/models HTTP/1.1\r\nhost: api.openai.com\r\n\r\n", "trap.http"),
        (b"CONNECT api.openai.com:443 HTTP/1.1\r\nhost: api.openai.com:443\r\n\r\n", "trap.http"),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "trap.http"),
        (b"SSH-2.0-OpenSSH_9.7\r\n", "trap.other"),
        (b"", "trap.other"),
    ],
)
def test_other_protocols_are_reset_and_told(trap: Plain, data: bytes, entry: str) -> None:
    """Not a byte comes back, and the event says what it looked like; a client that waits for us is told as well."""
    before = len(trap.events("bypass_blocked"))
    assert say(trap, data) == b""
    assert last(trap, before)["entry"] == entry


def test_a_connection_that_goes_at_once_is_told(trap: Plain) -> None:
    """A port scan: connected and closed before a byte."""
    before = len(trap.events("bypass_blocked"))
    socket.create_connection(("127.0.0.1", trap.ports["trap"]), 5).close()
    assert last(trap, before)["source"].startswith("127.0.0.1:")


def few(bootstrap: Node, _clusters: Node) -> None:
    """Hold two connections in the trap."""
    layers = {layer["name"]: layer for layer in bootstrap["layered_runtime"]["layers"]}
    limits = layers["static"]["static_layer"]
    assert limits["envoy.resource_limits.listener.trap.connection_limit"] == 1000
    limits["envoy.resource_limits.listener.trap.connection_limit"] = 2


def test_the_trap_holds_so_many_connections(tmp_path: Path) -> None:
    """Over its own limit a connection is closed at once and counted; the limit leaves the other entries alone."""
    with running(prepare(tmp_path, few)) as plain:
        address = ("127.0.0.1", plain.ports["trap"])
        with contextlib.ExitStack() as stack:
            held = [stack.enter_context(socket.create_connection(address, 5)) for _ in range(3)]
            assert held[2].recv(1) == b""
            numbers = plain.admin("/stats/prometheus?filter=downstream_cx_overflow")
            assert 'envoy_listener_downstream_cx_overflow{envoy_listener_address="trap"} 1\n' in numbers
        with socket.create_connection(("127.0.0.1", plain.ports["base_url"]), 5) as other:
            other.sendall(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n")
            assert other.recv(8) == b"HTTP/1.1"
        assert len(plain.wait_events("bypass_blocked", 2)) == 2


def test_a_log_is_opened_again(tmp_path: Path) -> None:
    """What `up` does with a log that has grown: renamed, then SIGUSR1; new lines are in a new file, old ones stay."""
    with running(prepare(tmp_path, quicker)) as plain:
        hello(plain, "before.example")
        plain.wait_events("bypass_blocked", 1)
        log = tmp_path / "run" / "access.log"
        log.rename(log.with_name("access.log.1"))
        os.kill(plain.pid, signal.SIGUSR1)
        assert wait_for(log.exists)
        hello(plain, "after.example")
        assert [event["sni"] for event in plain.wait_events("bypass_blocked", 1)] == ["after.example"]
        assert "before.example" in log.with_name("access.log.1").read_text()


def test_attempts_are_counted_and_names_are_capped(trap: Plain) -> None:
    """`egress_bypass_total` by source and name holds at most 500 label sets; the count by protocol misses none."""
    before = trap.stats("egress.bypass_connections_total").get("egress.bypass_connections_total.entry.trap.tls", 0)
    for number in range(MANY):
        hello(trap, f"n{number}.example")

    def counted() -> bool:
        now = trap.stats("egress.bypass_connections_total").get("egress.bypass_connections_total.entry.trap.tls", 0)
        return now == before + MANY

    assert wait_for(counted)
    prometheus = trap.admin("/stats/prometheus?filter=egress.bypass_total")
    lines = [line for line in prometheus.splitlines() if line.startswith("envoy_egress_bypass_total{")]
    assert 0 < len(lines) <= 500
    assert any('source="127.0.0.1"' in line and 'sni="n0.example"' in line for line in lines)
