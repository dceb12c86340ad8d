"""A corporate egress proxy: calls reach the provider through its CONNECT tunnel, and by no other way."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from envoy.machine import Machine, free_ports, running
from envoy.ways import raw, wait_for

pytestmark = pytest.mark.envoy

NAME = "llm.provider.example"  # known to no DNS


class Proxy:
    """An HTTP proxy that takes CONNECT to one host. `asked`: what it was sent, one head per connection."""

    def __init__(self, port: int, target: int) -> None:
        self.asked: list[list[str]] = []
        self.carried = b""
        self.refuse = False
        self._open: list[socket.socket] = []
        self._target = target
        self._server = socket.create_server(("127.0.0.1", port))
        self._server.settimeout(0.1)
        self._end = threading.Event()
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._threads[0].start()

    def _accept(self) -> None:
        while not self._end.is_set():
            with contextlib.suppress(TimeoutError):
                client, _ = self._server.accept()
                thread = threading.Thread(target=self._serve, args=(client,), daemon=True)
                self._threads.append(thread)
                thread.start()

    def _serve(self, client: socket.socket) -> None:
        self._open.append(client)
        with client, contextlib.suppress(OSError):
            client.settimeout(10)
            head = b""
            while b"\r\n\r\n" not in head:
                head += client.recv(4096) or b"\r\n\r\n"
            lines = head.decode().split("\r\n")
            self.asked.append(lines)
            if self.refuse or lines[0] != f"CONNECT {NAME}:443 HTTP/1.1":
                client.sendall(b"HTTP/1.1 403 Forbidden\r\ncontent-length: 0\r\n\r\n")
                return
            with socket.create_connection(("127.0.0.1", self._target), 5) as vendor:
                client.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
                back = threading.Thread(target=self._copy, args=(vendor, client), daemon=True)
                back.start()
                self._copy(client, vendor, keep=True)
                back.join(5)

    def _copy(self, source: socket.socket, sink: socket.socket, *, keep: bool = False) -> None:
        source.settimeout(0.2)
        while not self._end.is_set():
            try:
                data = source.recv(65536)
                if not data:
                    break
                sink.sendall(data)
            except TimeoutError:
                continue
            except OSError:
                break
            self.carried += data if keep else b""
        with contextlib.suppress(OSError):
            sink.shutdown(socket.SHUT_WR)

    def cut(self) -> None:
        """End every tunnel that is open."""
        for client in self._open:
            with contextlib.suppress(OSError):
                client.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Stop; tunnels end."""
        self._end.set()
        for thread in self._threads:
            thread.join(6)
        self._server.close()


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Machine, Proxy]]:
    """A gateway whose provider `behind` has an address that only the proxy knows."""
    (port,) = free_ports(1)
    more = (
        "  behind:\n    api: openai\n    hosts: [api.behind.example]\n    credential: {{env: TEST_OPENAI_KEY}}\n"
        f'    upstream: {{{{address: "{NAME}:443", ca: {{ca}}, server_name: api.openai.com, proxy: "http://127.0.0.1:{port}"}}}}\n'
        "    models: [gpt-4o-mini]\n"
    )
    aliases = "  tunnelled: {provider: behind, model: gpt-4o-mini}"
    folder: Path = tmp_path_factory.mktemp("proxy")
    with running(folder, providers=more, aliases=aliases, workers=1) as machine:
        proxy = Proxy(port, machine.vendors.sims["openai"].port)
        try:
            yield machine, proxy
        finally:
            proxy.close()


def call(machine: Machine) -> int:
    """One call by alias; its status."""
    body = {"model": "tunnelled", "messages": [{"role": "user", "content": "hi there"}]}
    with raw(machine) as http:
        url = f"{machine.url()}/v1/chat/completions"
        return http.post(url, json=body, headers={"authorization": f"Bearer {machine.key}"}).status_code


def test_calls_go_through_the_tunnel(both: tuple[Machine, Proxy]) -> None:
    """The proxy is asked for the provider by name and sees TLS only: no key, no text, no field of ours."""
    machine, proxy = both
    machine.forget()
    assert [call(machine) for _ in range(3)] == [200, 200, 200]
    seen = machine.seen()
    assert [one.server_name for one in seen] == ["api.openai.com"] * 3
    assert proxy.asked  # one tunnel per Envoy thread that had a call
    for line, *fields in proxy.asked:
        assert line == f"CONNECT {NAME}:443 HTTP/1.1"
        assert [one for one in fields if one] == [f"host: {NAME}:443"]
    assert proxy.carried[:2] == b"\x16\x03"  # a TLS record, a handshake
    for secret in (machine.vendor_keys["openai"], machine.key, "hi there"):
        assert secret.encode() not in proxy.carried


def test_a_refusal_of_the_proxy_is_a_failed_provider(both: tuple[Machine, Proxy]) -> None:
    """The proxy says 403 to a new tunnel: the app gets 503, the vendor nothing, and the access log has the failed tunnel."""
    machine, proxy = both
    proxy.refuse = True
    proxy.cut()
    machine.forget()
    assert call(machine) == 503
    assert machine.seen() == []
    assert len(proxy.asked) > 1
    assert wait_for(lambda: [one for one in machine.access_log() if one["event"] == "tunnel" and one["flags"] != "-"])
    proxy.refuse = False
    assert wait_for(lambda: call(machine) == 200, 15)
