"""A gateway and a far end on loopback, each a socket that says what a test wants."""

from __future__ import annotations

import contextlib
import re
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from hpack import Encoder
from hyperframe.frame import HeadersFrame, SettingsFrame

from extproc.adapters.pki import Authority, create_ca
from extproc.roads.road import Gateway, Scope, Target

Answer = Callable[[bytes], bytes | None]
HOST, UNLISTED = "api.vendor.example", "llm.other.example"


class Far:
    """One TCP server. `answer` gets the first bytes of a connection; None leaves it open and silent."""

    def __init__(self, answer: Answer, tls: ssl.SSLContext | None = None) -> None:
        self._answer, self._tls = answer, tls
        self._listening = socket.create_server(("127.0.0.1", 0))
        self._listening.settimeout(0.1)
        self._stop = threading.Event()
        self._kept: list[socket.socket] = []
        self.port: int = self._listening.getsockname()[1]
        self.heard: list[bytes] = []
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while not self._stop.is_set():
            with contextlib.suppress(TimeoutError):
                self._serve(self._listening.accept()[0])

    def _serve(self, sock: socket.socket) -> None:
        sock.settimeout(5)
        with contextlib.suppress(OSError):
            if self._tls is not None:
                sock = self._tls.wrap_socket(sock, server_side=True)
            data = sock.recv(1 << 16)
            self.heard.append(data)
            said = self._answer(data)
            if said is None:
                self._kept.append(sock)
                return
            sock.sendall(said)
            sock.shutdown(socket.SHUT_WR)
            while sock.recv(1 << 16):
                pass
        sock.close()

    def close(self) -> None:
        """Stop, and close all."""
        self._stop.set()
        self._thread.join(10)
        for sock in (*self._kept, self._listening):
            sock.close()


class Inner(Far):
    """A gateway's TLS entry, with `tunnel` inside a CONNECT. It answers in HTTP/1.1 or HTTP/2: 400, or to all 200."""

    def __init__(self, tls: ssl.SSLContext, *, tunnel: bool, strict: bool) -> None:
        self._context, self._tunnel = tls, tunnel
        self._status = 400 if strict else 200
        self.called: set[str] = set()
        super().__init__(lambda _: None)

    def _serve(self, sock: socket.socket) -> None:
        threading.Thread(target=self._one, args=(sock,), daemon=True).start()

    def _one(self, sock: socket.socket) -> None:
        sock.settimeout(5)
        with contextlib.suppress(OSError), sock:
            if self._tunnel:
                assert sock.recv(1 << 16).startswith(b"CONNECT ")
                sock.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
            with self._context.wrap_socket(sock, server_side=True) as secure:
                data = secure.recv(1 << 16)
                self.called |= {found.decode() for found in re.findall(rb"\r\nHost: ([^\r]+)\r\n", data)}
                secure.sendall(self._answered(secure.selected_alpn_protocol()))

    def _answered(self, protocol: str | None) -> bytes:
        if protocol != "h2":
            return b"HTTP/1.1 %d X\r\nContent-Length: 0\r\nConnection: close\r\n\r\n" % self._status
        fields = Encoder().encode([(":status", str(self._status))])
        head = HeadersFrame(1, fields, flags=["END_HEADERS", "END_STREAM"])
        return bytes(SettingsFrame(0).serialize() + head.serialize())


@pytest.fixture
def far() -> Iterator[Callable[..., Far]]:
    """Makes servers, and closes them."""
    with contextlib.ExitStack() as stack:

        def make(answer: Answer, tls: ssl.SSLContext | None = None) -> Far:
            made = Far(answer, tls)
            stack.callback(made.close)
            return made

        yield make


@pytest.fixture(scope="session")
def authorities(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Authority, Authority]:
    """The gateway's CA as a file, the gateway's, and another's."""
    folder = tmp_path_factory.mktemp("roads")
    ours, theirs = create_ca(folder / "ours", "ours"), create_ca(folder / "theirs", "theirs")
    return folder / "ours" / "ca.pem", ours, theirs


@pytest.fixture
def scope(authorities: tuple[Path, Authority, Authority]) -> Scope:
    """One vendor, one unlisted host, a gateway without entries, a short limit."""
    gateway = Gateway("127.0.0.1", ("127.0.0.9",), {}, authorities[0], (), "exk-id-own", "exk-ot-her")
    targets = (Target(HOST, ("127.0.0.2",)),), (Target(UNLISTED, ("127.0.0.3",)),)
    return Scope(*targets, ("127.0.0.4", "::1"), ("127.0.0.5",), (22, 8443), gateway, 0.4, (123,))


def at(scope: Scope, **ports: int) -> Scope:
    """The same with entries at these ports."""
    return replace(scope, gateway=replace(scope.gateway, ports=ports))


def closed_port() -> int:
    """A port that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as sock:
        return int(sock.getsockname()[1])
