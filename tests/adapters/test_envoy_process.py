"""Envoy as a child: readiness, reasons, drain. A small program plays Envoy's admin interface."""

from __future__ import annotations

import asyncio
import sys
import time
from pathlib import Path

import pytest

from envoy.machine import free_ports
from extproc.adapters.envoy_process import EnvoyProcess
from extproc.errors import ConfigError

ADMIN = """
import http.server, sys, time
port, busy = int(sys.argv[1]), float(sys.argv[2])
began = time.monotonic()
drained = []
class Admin(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def say(self, text):
        data = text.encode()
        self.send_response(200); self.send_header("transfer-encoding", "chunked"); self.end_headers()
        self.wfile.write(b"%x\\r\\n%s\\r\\n0\\r\\n\\r\\n" % (len(data), data))
    def do_GET(self):
        if self.path == "/ready":
            self.say("LIVE\\n" if time.monotonic() - began > 0.3 else "PRE_INITIALIZING\\n")
        else:
            left = busy and drained and time.monotonic() - drained[0] < busy
            self.say("http.llm.downstream_rq_active: %d\\n" % bool(left))
    def do_POST(self):
        drained.append(time.monotonic()); print("POST", self.path, flush=True); self.say("OK\\n")
    def log_message(self, *args): pass
http.server.ThreadingHTTPServer(("127.0.0.1", port), Admin).serve_forever()
"""


def make(folder: Path, *arguments: str, code: str = ADMIN) -> tuple[EnvoyProcess, int]:
    """A process that plays Envoy in `folder`."""
    (folder / "run").mkdir(exist_ok=True)
    (port,) = free_ports(1)
    return EnvoyProcess([sys.executable, "-c", code, str(port), *arguments], folder, ("127.0.0.1", port)), port


async def test_start_waits_until_it_is_live_and_drain_for_open_requests(tmp_path: Path) -> None:
    """LIVE is waited for; drain lets open requests end, then ends the process; its log is kept."""
    envoy, _ = make(tmp_path, "0.6")
    assert envoy.pid == 0
    await envoy.start()
    assert envoy.pid > 0
    began = time.monotonic()
    await envoy.drain(10)

    assert 0.5 < time.monotonic() - began < 5
    assert await asyncio.wait_for(envoy.ended(), 5) == -15
    assert "/drain_listeners?graceful&skip_exit" in (tmp_path / "run" / "envoy.log").read_text()


async def test_drain_has_a_limit(tmp_path: Path) -> None:
    """A request that does not end is not waited for longer than allowed."""
    envoy, _ = make(tmp_path, "60")
    await envoy.start()
    began = time.monotonic()
    await envoy.drain(0.3)

    assert time.monotonic() - began < 5
    assert await asyncio.wait_for(envoy.ended(), 5) == -15


async def test_a_log_that_has_grown_is_renamed_and_opened_again(tmp_path: Path) -> None:
    """The earlier part stays beside it, one of them; Envoy is told; a small log and a missing one are left alone."""
    heard = "import signal; signal.signal(signal.SIGUSR1, lambda *_: print('USR1', flush=True))\n"
    envoy, _ = make(tmp_path, "0", code=heard + ADMIN)
    await envoy.start()
    log, earlier = tmp_path / "run" / "access.log", tmp_path / "run" / "access.log.1"
    task = asyncio.ensure_future(envoy.rotate(log, largest=10, pause=0.02))

    async def gone() -> None:
        while log.exists():
            await asyncio.sleep(0.02)

    try:
        for text in ("a" * 11, "b" * 11):
            await asyncio.sleep(0.1)
            log.write_text(text)
            await asyncio.wait_for(gone(), 5)
            assert earlier.read_text() == text
        log.write_text("small")
        await asyncio.sleep(0.2)
        assert (log.read_text(), task.done()) == ("small", False)
    finally:
        task.cancel()
        envoy.kill()
    assert (tmp_path / "run" / "envoy.log").read_text().splitlines().count("USR1") == 2


async def test_a_start_that_fails_tells_what_envoy_said(tmp_path: Path) -> None:
    """The critical lines of its own log are in the reason."""
    code = "import sys; print('[x][critical][main] cannot bind 127.0.0.1:8443'); sys.exit(1)"
    envoy, _ = make(tmp_path, code=code)
    with pytest.raises(ConfigError) as refused:
        await envoy.start()

    assert "cannot bind 127.0.0.1:8443" in refused.value.reason
    assert "envoy.log" in refused.value.hint


async def test_ended_tells_an_end_by_itself_and_kill_ends_now(tmp_path: Path) -> None:
    """A crash is seen, whoever caused it; a second kill does nothing."""
    envoy, _ = make(tmp_path, "0")
    await envoy.start()
    ended = asyncio.ensure_future(envoy.ended())
    await asyncio.sleep(0.05)
    assert not ended.done()
    envoy.kill()
    envoy.kill()

    assert await asyncio.wait_for(ended, 5) == -9
