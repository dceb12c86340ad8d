"""Alerts of limits: a log line each, and a POST to a webhook in the background.

The store says once per window and level that a limit is used up so far; the worker that is told it, tells others.
"""

from __future__ import annotations

import asyncio
import hashlib
import random
import ssl
import time
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Final
from urllib.parse import SplitResult, urlsplit

import h11
import msgspec
import orjson
import structlog

from extproc.adapters.keys import read_guarded
from extproc.adapters.limit_events import Ignored
from extproc.adapters.metrics_limits import DROPPED, FAILED, SENT
from extproc.config.units import SecretRef
from extproc.errors import ConfigError
from extproc.limits.counters import NANO, Counter, Kind, Standing, Window

WAITING: Final = 256
"""Alerts that may wait for a webhook; more are dropped, counted and logged."""
TIMEOUT: Final = 5.0
"""Seconds for one attempt, from the connection to the status of the answer."""
DELAYS: Final = (0.5, 2.0, 8.0)
"""Seconds before the attempts after the first, each up to a quarter more or less."""
FAREWELL: Final = 5.0
"""Seconds that `close` waits for the alerts that are still to be sent."""

_PLACE: Final = "quotas.webhook"
_LOOPBACK: Final = frozenset({"localhost", "127.0.0.1", "::1"})
_AGAIN: Final = frozenset({408, 425, 429})  # and all from 500 on
_READ: Final = 16 * 1024
_UNITS: Final = {Kind.MONEY: "usd", Kind.REQUESTS: "requests"}


class Alert(msgspec.Struct, frozen=True):
    """What is told. `used`, `reserved` and `limit` in `unit`: `requests`, `tokens` or `usd` (as a decimal text).

    `id` is the same each time that one alert is sent; times are RFC 3339, empty where none is known: `resets_at` is when
    the window ends, which buckets and calls in flight do not have.
    """

    event: str
    id: str
    at: str
    organisation: str
    rule: str
    scope: str
    value: str
    kind: str
    window: str
    mode: str
    level: int
    unit: str
    used: int | str
    reserved: int | str
    limit: int | str
    resets_at: str


class Hook(msgspec.Struct, frozen=True):
    """Where alerts are POSTed. `authorization` is the whole value of that header; empty: none."""

    url: str
    authorization: str = ""
    trusted: str = ""  # file of the authorities to trust in place of the system's

    def __repr__(self) -> str:
        """Without the path, which is the secret of many a webhook, and without the authorization."""
        return f"Hook({self.place})"

    @property
    def place(self) -> str:
        """Scheme, host and port: what may be logged."""
        parts = urlsplit(self.url)
        return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"


def open_hook(url: str, authorization: SecretRef | None, environ: Mapping[str, str]) -> Hook:
    """Read the secret of a webhook. Raises `ConfigError`: no https (but on loopback), or no secret to be had."""
    parts = urlsplit(url)
    if parts.scheme != "https" and (parts.scheme != "http" or parts.hostname not in _LOOPBACK):
        raise ConfigError(f"{_PLACE}.url", "is not https", "write https://host/path: alerts say what teams spend")
    if authorization is None:
        return Hook(url)
    if authorization.env is not None:
        place = f"{_PLACE}.authorization.env"
        secret = environ.get(authorization.env, "").strip()
        if not secret:
            raise ConfigError(place, f"the variable {authorization.env} is not set", "set it")
    else:
        place = f"{_PLACE}.authorization.file"
        data = read_guarded(Path(authorization.file or ""), place, private=True)
        secret = data.decode("latin-1").strip()
    if not secret or not secret.isascii() or not secret.isprintable():
        raise ConfigError(place, "is not the value of a header", "write one line, like: Bearer TOKEN")
    return Hook(url, secret)


def make_alert(counter: Counter, level: int, standing: Standing, at: float) -> Alert:
    """Put an event into words. `at`: UNIX seconds."""
    rule = counter.rule
    money = rule.kind is Kind.MONEY

    def shown(amount: int) -> int | str:
        return f"{amount // NANO}.{amount % NANO:09d}" if money else amount

    resets = _stamp(standing.resets_at) if standing.resets_at and rule.window is not Window.BUCKET else ""
    told = (counter.organisation, rule.name, counter.value, rule.window.value, resets or _stamp(at), str(level))
    return Alert(
        event="limit_alert",
        id=hashlib.sha256("\n".join(told).encode("utf-8", "replace")).hexdigest()[:32],
        at=_stamp(at),
        organisation=counter.organisation,
        rule=rule.name,
        scope="/".join(rule.scope),
        value=counter.value,
        kind=rule.kind.value,
        window=rule.window.value,
        mode="hard" if rule.hard else "soft",
        level=level,
        unit=_UNITS.get(rule.kind, "tokens"),
        used=shown(standing.used),
        reserved=shown(standing.reserved),
        limit=shown(standing.limit),
        resets_at=resets,
    )


def _stamp(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


class Alerts(Ignored):
    """Tells about alerts; one object a worker, used from the event loop's thread only. `close` at drain."""

    def __init__(self, hook: Hook | None = None, count: Callable[[str], None] = lambda _result: None) -> None:
        """`count`: told `SENT`, `FAILED` or `DROPPED` for each alert that was for the webhook."""
        self._hook = hook
        self._count = count
        self._waiting: deque[Alert] = deque()
        self._task: asyncio.Task[None] | None = None
        self._closing = asyncio.Event()
        self._tls: tuple[str, ssl.SSLContext] | None = None
        self._log = structlog.get_logger("extproc.limits")

    def use(self, hook: Hook | None) -> None:
        """Send to this webhook from the next attempt on: the configuration has changed. None: to nobody."""
        self._hook = hook

    def alert(self, counter: Counter, level: int, standing: Standing) -> None:
        """Log it, and hand it to the webhook's queue."""
        alert = make_alert(counter, level, standing, time.time())
        fields = msgspec.structs.asdict(alert)
        fields["percent"] = fields.pop("level")  # the log's own word for how bad a line is
        del fields["event"], fields["at"]  # the line has both
        self._log.warning("limit reached a threshold", **fields)
        if self._hook is None:
            return
        if len(self._waiting) >= WAITING or self._closing.is_set():
            self._count(DROPPED)
            self._log.error(
                "alert was not sent: the queue is full or the worker ends", webhook=self._hook.place, id=alert.id
            )
            return
        self._waiting.append(alert)
        if self._task is None or self._task.done():
            self._task = asyncio.ensure_future(self._send_all())

    async def close(self) -> None:
        """Send what is waiting, once each, for five seconds at most; the rest is counted as dropped. Call it once."""
        self._closing.set()
        if self._task is not None:
            await asyncio.wait([self._task], timeout=FAREWELL)
            if not self._task.done():
                self._task.cancel()
                await asyncio.wait([self._task])
        for alert in self._waiting:
            self._count(DROPPED)
            self._log.error("alert was not sent: the worker ends", id=alert.id)
        self._waiting.clear()

    async def _send_all(self) -> None:
        while self._waiting:
            alert = self._waiting[0]  # it stays there until it is done, so that `close` sees it
            hook = self._hook
            reason = await self._send(alert)
            self._waiting.popleft()
            self._count(FAILED if reason else SENT)
            if reason:
                where = hook.place if hook is not None else ""
                self._log.error("alert was not sent", webhook=where, reason=reason, id=alert.id)

    async def _send(self, alert: Alert) -> str:
        """Try a few times; why it failed, empty if it did not."""
        body = orjson.dumps(msgspec.structs.asdict(alert))
        reason = "the webhook was taken out of the configuration"
        for delay in (0.0, *DELAYS):
            if delay and not await self._pause(delay):
                return reason
            hook = self._hook
            if hook is None:
                return reason
            try:
                async with asyncio.timeout(TIMEOUT):
                    status = await self._post(hook, body)
            except TimeoutError:
                reason = f"no answer within {TIMEOUT:g} s"
            except (OSError, ValueError, h11.ProtocolError) as error:
                reason = type(error).__name__  # its words may hold the address, which may hold a secret
            else:
                if 200 <= status < 300:
                    return ""
                reason = f"status {status}"
                if status < 500 and status not in _AGAIN:
                    return reason
        return reason

    async def _pause(self, seconds: float) -> bool:
        """Wait, unless the worker ends: False then."""
        with suppress(TimeoutError):
            spread = random.uniform(0.75, 1.25)  # noqa: S311  no secret
            await asyncio.wait_for(self._closing.wait(), seconds * spread)
        return not self._closing.is_set()

    async def _post(self, hook: Hook, body: bytes) -> int:
        """One attempt -> the status. Redirects are not followed: they would take the secret along."""
        parts = urlsplit(hook.url)
        tls = await self._context(hook) if parts.scheme == "https" else None
        port = parts.port or (443 if tls is not None else 80)
        reader, writer = await asyncio.open_connection(parts.hostname, port, ssl=tls)
        try:
            return await _exchange(reader, writer, _head(parts, hook, len(body)), body)
        finally:
            writer.close()
            with suppress(OSError, TimeoutError):
                await asyncio.wait_for(writer.wait_closed(), 1.0)

    async def _context(self, hook: Hook) -> ssl.SSLContext:
        if self._tls is None or self._tls[0] != hook.trusted:
            # reading the system's authorities takes milliseconds: the loop has calls to serve
            made = await asyncio.to_thread(ssl.create_default_context, cafile=hook.trusted or None)
            self._tls = (hook.trusted, made)
        return self._tls[1]


def _head(parts: SplitResult, hook: Hook, length: int) -> h11.Request:
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    headers = [
        ("host", parts.netloc),
        ("user-agent", "extproc"),
        ("content-type", "application/json"),
        ("content-length", str(length)),
        ("connection", "close"),
    ]
    if hook.authorization:
        headers.append(("authorization", hook.authorization))
    return h11.Request(method="POST", target=target, headers=headers)


async def _exchange(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, head: h11.Request, body: bytes) -> int:
    """Send the request; the answer's status. Its body is not read."""
    connection = h11.Connection(h11.CLIENT, max_incomplete_event_size=_READ)
    for event in (head, h11.Data(data=body), h11.EndOfMessage()):
        writer.write(connection.send(event) or b"")
    await writer.drain()
    while True:
        answer = connection.next_event()
        if isinstance(answer, h11.Response):
            return answer.status_code
        if answer is h11.NEED_DATA:
            connection.receive_data(await reader.read(_READ))
        elif not isinstance(answer, h11.InformationalResponse):
            raise h11.RemoteProtocolError("the connection ended before the answer")
