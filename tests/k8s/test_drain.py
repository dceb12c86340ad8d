"""The preStop step: it waits for open calls, however Envoy's admin interface is reached, and not for ever."""

from __future__ import annotations

import runpy
import socketserver
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from k8s.manifests import ROOT

DRAIN: dict[str, Any] = runpy.run_path(str(ROOT / "docker" / "drain.py"))


class Admin:
    """What an Envoy's admin interface answers: `active` calls, given in turn (the last one for ever)."""

    def __init__(self, active: list[int]) -> None:
        self.active = active
        self.asked: list[str] = []

    def handler(self) -> type[BaseHTTPRequestHandler]:
        admin = self

        class Handler(BaseHTTPRequestHandler):
            def address_string(self) -> str:
                return "socket"

            def log_message(self, *_: object) -> None:
                pass

            def _answer(self, body: str) -> None:
                admin.asked.append(f"{self.command} {self.path}")
                self.send_response(200)
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body.encode())

            def do_POST(self) -> None:
                self._answer("OK\n")

            def do_GET(self) -> None:
                now = admin.active.pop(0) if len(admin.active) > 1 else admin.active[0]
                self._answer(f"http.llm.downstream_rq_active: {now}\n")

        return Handler


class UnixServer(socketserver.UnixStreamServer):
    """HTTP on a Unix socket."""


@contextmanager
def running(admin: Admin, path: Path | None = None) -> Iterator[str]:
    """Serve, on loopback or on a Unix socket; gives the address."""
    server: socketserver.BaseServer
    if path is None:
        server = HTTPServer(("127.0.0.1", 0), admin.handler())
        address = f"127.0.0.1:{server.server_address[1]}"
    else:
        server, address = UnixServer(str(path), admin.handler()), str(path)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield address
    finally:
        server.shutdown()
        thread.join(10)
        server.server_close()


@pytest.mark.parametrize("unix", [False, True])
def test_waits_for_open_calls(unix: bool, tmp_path: Path) -> None:
    """First it takes the pod out of service, then it looks until nothing is open in three looks in a row."""
    admin = Admin([2, 1, 0, 1, 0])
    with running(admin, tmp_path / "admin.sock" if unix else None) as address:
        assert DRAIN["drain"](address, settle=0, limit=30) is True

    assert admin.asked[0] == "POST /healthcheck/fail"
    assert len(admin.asked) == 1 + 7  # 2 1 0 1 0 0 0
    assert all("downstream_rq_active" in path for path in admin.asked[1:])


def test_gives_up_at_the_limit() -> None:
    """Calls that do not end are cut, and it says so."""
    with running(Admin([1])) as address:
        began = time.monotonic()
        assert DRAIN["drain"](address, settle=0, limit=1) is False
        assert 1 <= time.monotonic() - began < 5


def test_settles_first() -> None:
    """Without any call it still waits as long as endpoints need to forget the pod."""
    with running(Admin([0])) as address:
        began = time.monotonic()
        assert DRAIN["drain"](address, settle=2.5, limit=30) is True
        assert time.monotonic() - began >= 2.5


def test_an_envoy_that_is_gone_is_not_waited_for(tmp_path: Path) -> None:
    """Nobody answers: there is nothing to wait for."""
    began = time.monotonic()
    assert DRAIN["drain"](str(tmp_path / "nobody.sock"), settle=0, limit=60) is True
    assert time.monotonic() - began < 10
