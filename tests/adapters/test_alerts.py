"""Alerts are logged, and posted to a webhook that may be slow, broken or gone without holding anybody up."""

from __future__ import annotations

import asyncio
import json
import secrets
import ssl
import time
from collections import Counter as Tally
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from extproc.adapters import alerts
from extproc.adapters.alerts import Alerts, Hook, make_alert, open_hook
from extproc.adapters.pki import create_ca
from extproc.config.units import SecretRef
from extproc.errors import ConfigError
from extproc.limits.counters import NANO, Counter, Kind, Rule, Standing, Window

BUDGET = Rule("team_month", Kind.MONEY, Window.MONTH, 500 * NANO, ("team",))
COUNTER = Counter(BUDGET, "acme", "search", b"xq:{acme}:c:team_month:money:month:search")
STANDING = Standing(400 * NANO + 5, 3 * NANO, 500 * NANO, resets_at=1_796_083_200.0)


class Receiver:
    """A webhook on loopback: answers with the given statuses in turn, the last one for ever; 0 hangs up, -1 is silent."""

    def __init__(self, statuses: Sequence[int]) -> None:
        self.statuses = list(statuses)
        self.heads: list[str] = []
        self.bodies: list[dict[str, object]] = []
        self.url = ""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            length = next(int(line.split(":")[1]) for line in head.lower().split("\r\n") if "content-length" in line)
            self.bodies.append(json.loads(await reader.readexactly(length)))
            self.heads.append(head)
            status = self.statuses.pop(0) if len(self.statuses) > 1 else self.statuses[0]
            if status == -1:
                await reader.read()
            elif status:
                writer.write(f"HTTP/1.1 103 Hints\r\n\r\nHTTP/1.1 {status} X\r\ncontent-length: 0\r\n\r\n".encode())
                await writer.drain()
        writer.close()


@asynccontextmanager
async def receiving(*statuses: int, tls: ssl.SSLContext | None = None) -> AsyncIterator[Receiver]:
    receiver = Receiver(statuses)
    server = await asyncio.start_server(receiver.serve, "127.0.0.1", 0, ssl=tls)
    port = server.sockets[0].getsockname()[1]
    receiver.url = f"http{'s' if tls else ''}://127.0.0.1:{port}/hooks/T0/secret-path?token=t"
    try:
        yield receiver
    finally:
        server.close()


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(alerts, "DELAYS", (0.01, 0.01, 0.01))


async def until(tally: Tally[str], total: int) -> None:
    """Wait until so many alerts have an end."""
    for _ in range(1000):
        if tally.total() >= total:
            return
        await asyncio.sleep(0.01)
    pytest.fail(f"{tally} after ten seconds")


def counted() -> tuple[Tally[str], object]:
    tally: Tally[str] = Tally()
    return tally, lambda result: tally.update([result])


def test_the_words_of_an_alert_are_exact_and_without_secrets() -> None:
    """Money is an exact decimal text; the identity is that of limit, window and level."""
    alert = make_alert(COUNTER, 80, STANDING, at=1_795_000_000.0)
    assert (alert.used, alert.reserved, alert.limit, alert.unit) == (
        "400.000000005",
        "3.000000000",
        "500.000000000",
        "usd",
    )
    assert (alert.rule, alert.scope, alert.value, alert.organisation, alert.level) == (
        *("team_month", "team", "search", "acme", 80),
    )
    assert (alert.at, alert.resets_at) == ("2026-11-18T11:06:40Z", "2026-12-01T00:00:00Z")
    later = make_alert(COUNTER, 80, STANDING, at=1_795_000_009.0)
    assert alert.id == later.id
    assert alert.id != make_alert(COUNTER, 100, STANDING, at=1_795_000_000.0).id


def test_a_bucket_has_no_window_that_ends() -> None:
    """It can be full many times: each time is another alert."""
    rule = Rule("burst", Kind.TOKENS, Window.BUCKET, 1000, burst=1000, period=60_000)
    counter = Counter(rule, "acme", "acme", b"k")
    first, second = (make_alert(counter, 100, Standing(1000, 0, 1000, resets_at=at + 60.0), at) for at in (10.0, 90.0))
    assert first.resets_at == ""
    assert first.id != second.id
    assert (first.used, first.unit) == (1000, "tokens")


async def test_an_alert_is_logged_and_posted() -> None:
    """One line in the log, one POST with the secret in its header; the answer's interim response is passed over."""
    secret = f"Bearer {secrets.token_hex(16)}"
    tally, count = counted()
    async with receiving(204) as receiver:
        told = Alerts(open_hook(receiver.url, SecretRef(env="HOOK"), {"HOOK": f"{secret}\n"}), count)
        with capture_logs() as logs:
            told.alert(COUNTER, 80, STANDING)
            await until(tally, 1)
        await told.close()
    assert tally == {"sent": 1}
    assert [line["event"] for line in logs] == ["limit reached a threshold"]
    assert logs[0]["percent"] == 80
    assert logs[0]["log_level"] == "warning"
    (body,) = receiver.bodies
    assert {"event", "at", "id", "level", "used", "limit", "resets_at"} <= set(body)
    assert body["value"] == "search"
    assert receiver.heads[0].startswith("POST /hooks/T0/secret-path?token=t HTTP/1.1\r\n")
    assert f"authorization: {secret}\r\n".lower() in receiver.heads[0].lower()
    assert secret not in json.dumps(body) + repr(logs)


async def test_without_a_webhook_there_is_the_log() -> None:
    """Nothing is counted, nothing runs; a webhook that comes with a reload gets the next one."""
    tally, count = counted()
    told = Alerts(None, count)
    with capture_logs() as logs:
        told.alert(COUNTER, 50, STANDING)
    assert len(logs) == 1
    async with receiving(200) as receiver:
        told.use(Hook(receiver.url))
        told.alert(COUNTER, 80, STANDING)
        await until(tally, 1)
        await told.close()
    assert [body["level"] for body in receiver.bodies] == [80]


@pytest.mark.parametrize(
    ("statuses", "attempts", "result"),
    [
        ((500, 200), 2, "sent"),
        ((429, 0, 200), 3, "sent"),
        ((503,), 4, "failed"),
        ((0,), 4, "failed"),
        ((404, 200), 1, "failed"),
        ((302, 200), 1, "failed"),
    ],
)
async def test_what_may_pass_is_tried_again_and_what_may_not_is_not(
    statuses: tuple[int, ...], attempts: int, result: str
) -> None:
    """Four attempts at most; a redirect is not followed; the log names the host, never the path or the query."""
    tally, count = counted()
    async with receiving(*statuses) as receiver:
        told = Alerts(Hook(receiver.url), count)
        with capture_logs() as logs:
            told.alert(COUNTER, 80, STANDING)
            await until(tally, 1)
        await told.close()
    assert tally == {result: 1}
    assert len(receiver.bodies) == attempts
    assert len({body["id"] for body in receiver.bodies}) == 1
    assert "secret-path" not in repr(logs)
    assert "token=t" not in repr(logs)
    assert len([line for line in logs if line["event"] == "alert was not sent"]) == (result == "failed")


async def test_nobody_waits_for_a_silent_webhook(monkeypatch: pytest.MonkeyPatch) -> None:
    """Alerts return at once, wait in a bounded queue, and what is over it is counted; drain ends in bounded time."""
    monkeypatch.setattr(alerts, "WAITING", 5)
    monkeypatch.setattr(alerts, "FAREWELL", 0.2)
    tally, count = counted()
    async with receiving(-1) as receiver:
        told = Alerts(Hook(receiver.url), count)
        for level in range(1, 9):
            told.alert(COUNTER, level, STANDING)
        assert tally == {"dropped": 3}
        await asyncio.sleep(0.1)
        began = time.monotonic()
        await told.close()
        assert time.monotonic() - began < 3
    assert tally == {"dropped": 8}


async def test_a_timeout_is_an_attempt(monkeypatch: pytest.MonkeyPatch) -> None:
    """The silent one is left after its time, and the next attempt may do."""
    monkeypatch.setattr(alerts, "TIMEOUT", 0.1)
    tally, count = counted()
    async with receiving(-1, 200) as receiver:
        told = Alerts(Hook(receiver.url), count)
        told.alert(COUNTER, 80, STANDING)
        await until(tally, 1)
        await told.close()
    assert tally == {"sent": 1}


async def test_drain_sends_what_waits() -> None:
    """Alerts of the last moment are not lost to the end of the worker."""
    tally, count = counted()
    async with receiving(200) as receiver:
        told = Alerts(Hook(receiver.url), count)
        for level in (50, 80, 100):
            told.alert(COUNTER, level, STANDING)
        await told.close()
        told.alert(COUNTER, 100, STANDING)
    assert [body["level"] for body in receiver.bodies] == [50, 80, 100]
    assert tally == {"sent": 3, "dropped": 1}


async def test_the_webhooks_certificate_is_checked(tmp_path: Path) -> None:
    """A name that its certificate does not hold is as good as no webhook; a trusted one is sent to."""
    context = create_ca(tmp_path / "ca", "alerts").issue(["localhost"]).server_context()
    trusted = str(tmp_path / "ca" / "ca.pem")
    for url, result in (("localhost", "sent"), ("127.0.0.1", "failed")):
        tally, count = counted()
        async with receiving(200, tls=context) as receiver:
            address = receiver.url.replace("127.0.0.1", url)
            told = Alerts(Hook(address, trusted=trusted), count)
            told.alert(COUNTER, 80, STANDING)
            await until(tally, 1)
            await told.close()
        assert tally == {result: 1}, url


def test_a_webhook_that_cannot_be_used_is_refused_with_the_cure(tmp_path: Path) -> None:
    """Plain http but for this machine, a secret that is absent, and one that would break the header."""
    with pytest.raises(ConfigError, match="not https"):
        open_hook("http://hooks.example.com/x", None, {})
    with pytest.raises(ConfigError, match="HOOK is not set"):
        open_hook("https://hooks.example.com/x", SecretRef(env="HOOK"), {})
    with pytest.raises(ConfigError, match="not the value of a header"):
        open_hook("https://hooks.example.com/x", SecretRef(env="HOOK"), {"HOOK": "a\r\nx-other: b"})
    file = tmp_path / "hook"
    file.write_text("Bearer abc\n")
    file.chmod(0o644)
    with pytest.raises(ConfigError, match="0644"):
        open_hook("https://hooks.example.com/x", SecretRef(file=file), {})
    file.chmod(0o600)
    hook = open_hook("https://hooks.example.com/x", SecretRef(file=file), {})
    assert hook.authorization == "Bearer abc"
    assert repr(hook) == "Hook(https://hooks.example.com)"
