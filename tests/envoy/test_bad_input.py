"""Bad input through real Envoy: the table of refusals, and bytes that only an HTTP server can judge."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import h2.config
import h2.connection
import h2.events
import pytest

from bad_input_rows import GOOD, LIMIT, ROWS, Row, credentials
from envoy import raw
from envoy.machine import Machine, running
from extproc.sim.seen import SeenRequest

pytestmark = pytest.mark.envoy

# Envoy brings a path to its one spelling before anybody reads it, so that these are ordinary calls: same path judged,
# same path forwarded.
NORMALISED = {"traversal", "encoded-traversal", "double-slash"}
AT_ONCE = 8


@pytest.fixture(scope="module")
def strict(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    """A gateway with the limit that the rows assume."""
    extra = f"limits: {{request_body: {LIMIT}, response_body: 64MiB}}"
    with running(tmp_path_factory.mktemp("strict"), extra=extra) as machine:
        yield machine


@pytest.fixture(scope="module")
def keys(strict: Machine) -> dict[str, str]:
    """One key of each kind that the rows name."""

    def create(*words: str) -> str:
        made = strict.cli("keys", "create", "--team", "demo", "--app", "a", "--json", *words)
        assert made.returncode == 0, made.stderr
        return str(json.loads(made.stdout)["key"])

    def key_id(secret: str) -> str:
        listed = json.loads(strict.cli("keys", "list", "--json").stdout)
        return str(next(one["id"] for one in listed if f"-{one['id']}-" in secret))

    expired, revoked, other = create("--expires", "1s"), create(), create()
    assert strict.cli("keys", "revoke", key_id(revoked)).returncode == 0
    return {
        "valid": strict.key,
        "other": other,
        "expired": expired,
        "revoked": revoked,
        "unknown": strict.key[:-1] + ("a" if strict.key[-1] != "a" else "b"),
        "vendor": "sk-" + "v" * 40,
    }


def request(row: Row, keys: dict[str, str]) -> bytes:
    """The row's request as bytes, to the base URL entry under the vendor's own host name."""
    head = [f"{row.method} {row.path} HTTP/1.1".encode(), f"host: {row.host}".encode()]
    for name, value in (*row.headers, *credentials(row, keys)):
        head.append(name.encode() + b": " + (value if isinstance(value, bytes) else value.encode("latin-1")))
    if row.body is not None:
        head.append(b"content-length: %d" % len(row.body))
    return b"\r\n".join(head) + b"\r\n\r\n" + (row.body or b"")


def judge(row: Row, reply: raw.Reply) -> str:
    """What is wrong with the answer; empty where nothing is."""
    if row.id in NORMALISED:
        return "" if reply.status == 200 else f"{reply.status} {reply.headers.get('x-llm-error')}"
    found = (reply.status, reply.headers.get("x-llm-error"))
    if found != (row.status, row.code):
        return f"{found} for {(row.status, row.code)}: {reply.body[:200]!r}"
    raw.assert_vendor_shaped(row.api, reply)
    return ""


def test_every_row_is_refused(strict: Machine, keys: dict[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    """Status, `x-llm-error` and the vendor's shape are as the table says, and the vendor saw nothing of it."""
    strict.forget()

    async def play() -> dict[str, raw.Reply]:
        await asyncio.sleep(1.2)  # the key of one second has expired, the revocation is known
        gate = asyncio.Semaphore(AT_ONCE)

        async def one(row: Row) -> raw.Reply:
            async with gate:
                return await raw.send(strict.ports["base_url"], request(row, keys), method=row.method)

        return dict(zip([row.id for row in ROWS], await asyncio.gather(*map(one, ROWS)), strict=True))

    replies = asyncio.run(play())
    wrong = {row.id: found for row in ROWS if (found := judge(row, replies[row.id]))}
    seen = [*strict.seen("openai"), *strict.seen("anthropic")]
    with capsys.disabled():
        print(f"\nbad input through Envoy: {len(ROWS)} rows, {len(wrong)} with differences")
    assert len(ROWS) >= 40
    assert not wrong, "\n".join(f"{name}: {found}" for name, found in wrong.items())
    assert {"/v1/chat/completions"} == {one.path for one in seen}
    assert len(NORMALISED) == len(seen), [one.target for one in seen]


# ------------------------------------------------------------------------------------------------------------------
# what the rows cannot say

SECRET_BODY = b'{"model":"gpt-4o-mini","messages":[{"role":"user","content":"SMUGGLED"}]}'


def _smuggled(host: bytes = b"api.openai.com") -> bytes:
    return (
        b"POST /v1/chat/completions HTTP/1.1\r\nhost: " + host + b"\r\nauthorization: Bearer sk-smuggled\r\n"
        b"content-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(SECRET_BODY) + SECRET_BODY
    )


def _wire(*lines: bytes, body: bytes = GOOD["openai"], start: bytes = b"POST /v1/chat/completions HTTP/1.1") -> bytes:
    """A request with the given framing; `KEY` stands for a valid key."""
    common = (b"host: api.openai.com", b"authorization: Bearer KEY", b"content-type: application/json")
    return b"\r\n".join([start, *common, *lines]) + b"\r\n\r\n" + body


_LENGTH = b"content-length: %d" % len(GOOD["openai"])
_CHUNKED = b"transfer-encoding: chunked"
_WHOLE = b"%x\r\n%s\r\n0\r\n\r\n" % (len(GOOD["openai"]), GOOD["openai"])
HOSTILE = {
    "length-and-chunked": _wire(_LENGTH, _CHUNKED, body=_WHOLE + _smuggled()),
    "chunked-and-short-length": _wire(_CHUNKED, b"content-length: 4", body=_WHOLE + _smuggled()),
    "two-lengths": _wire(_LENGTH, b"content-length: 5", body=GOOD["openai"] + _smuggled()),
    "length-list": _wire(_LENGTH + b", 5", body=GOOD["openai"] + _smuggled()),
    "length-plus": _wire(b"content-length: +%d" % len(GOOD["openai"])),
    "length-hex": _wire(b"content-length: 0x4a"),
    "length-negative": _wire(b"content-length: -1"),
    "length-overflow": _wire(b"content-length: 18446744073709551690"),
    "chunked-twice": _wire(_CHUNKED, _CHUNKED, body=_WHOLE + _smuggled()),
    "chunked-xchunked": _wire(b"transfer-encoding: xchunked", body=_WHOLE + _smuggled()),
    "chunked-identity": _wire(b"transfer-encoding: chunked, identity", body=_WHOLE + _smuggled()),
    "chunked-vertical-tab": _wire(b"transfer-encoding: \x0bchunked", body=_WHOLE + _smuggled()),
    "space-before-colon": _wire(b"transfer-encoding : chunked", body=_WHOLE + _smuggled()),
    "obs-fold": _wire(_LENGTH, b"x-folded: a\r\n b"),
    "obs-fold-transfer-encoding": _wire(b"transfer-encoding:\r\n chunked", body=_WHOLE + _smuggled()),
    "bad-chunk-size": _wire(_CHUNKED, body=b"zz\r\n" + GOOD["openai"] + b"\r\n0\r\n\r\n"),
    "chunk-size-overflow": _wire(_CHUNKED, body=b"fffffffffffffffff\r\n" + GOOD["openai"] + b"\r\n0\r\n\r\n"),
    "chunk-too-long-for-size": _wire(_CHUNKED, body=b"4\r\n" + GOOD["openai"] + b"\r\n0\r\n\r\n"),
    "chunk-without-end": _wire(_CHUNKED, body=b"%x\r\n%sXX0\r\n\r\n" % (len(GOOD["openai"]), GOOD["openai"])),
    "oversize-header": _wire(_LENGTH, b"x-big: " + b"b" * 70_000),
    "too-many-headers": _wire(_LENGTH, *(b"x-%d: 1" % number for number in range(150))),
    "nul-in-path": _wire(_LENGTH, start=b"POST /v1/chat/completions\x00 HTTP/1.1"),
    "nul-in-header": _wire(_LENGTH, b"x-nul: a\x00b"),
    "encoded-slash": _wire(_LENGTH, start=b"POST /v1%2fchat/completions HTTP/1.1"),
    "newline-in-path": _wire(_LENGTH, start=b"POST /v1/chat\n/completions HTTP/1.1"),
    "cr-in-header": _wire(_LENGTH, b"x-cr: a\rx-other: b"),
    "no-host": b"POST /v1/chat/completions HTTP/1.1\r\nauthorization: Bearer KEY\r\n"
    + _LENGTH
    + b"\r\n\r\n"
    + GOOD["openai"],
    "two-hosts": _wire(_LENGTH, b"host: evil.example"),
    "http-1.0": _wire(_LENGTH, start=b"POST /v1/chat/completions HTTP/1.0"),
    "http-0.9": b"GET /v1/models\r\n\r\n",
    "http-3.7": _wire(_LENGTH, start=b"POST /v1/chat/completions HTTP/3.7"),
    "no-version": _wire(_LENGTH, start=b"POST /v1/chat/completions"),
    "unknown-method": _wire(_LENGTH, start=b"SMUGGLE /v1/chat/completions HTTP/1.1"),
    "method-with-space": _wire(_LENGTH, start=b"PO ST /v1/chat/completions HTTP/1.1"),
    "connect": _wire(start=b"CONNECT api.openai.com:443 HTTP/1.1", body=b""),
    "trace": _wire(start=b"TRACE /v1/chat/completions HTTP/1.1", body=b""),
    "asterisk-form": _wire(start=b"OPTIONS * HTTP/1.1", body=b""),
    "upgrade-h2c": _wire(
        _LENGTH, b"connection: upgrade, http2-settings", b"upgrade: h2c", b"http2-settings: AAMAAABkAAQ"
    ),
    "upgrade-websocket": _wire(_LENGTH, b"connection: upgrade", b"upgrade: websocket"),
    "pseudo-header-in-http-1": _wire(_LENGTH, b":path: /v1/models"),
    "internal-header": _wire(_LENGTH, b"x-llmi-class: long", b"x-envoy-upstream-rq-timeout-ms: 1"),
    "body-shorter-than-length": _wire(b"content-length: 4000"),
    "not-http": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\x00" * 64,
    "only-newlines": b"\r\n" * 40,
}
# What is harmless once Envoy has read it (RFC 9112 section 5.2: a fold may be read as a blank; 2.2: so may a bare CR): the
# one legitimate request goes on, cleaned, and what stands behind it is judged as a request of its own.
ALLOWED = {"internal-header", "obs-fold", "obs-fold-transfer-encoding", "cr-in-header", "two-hosts", "upgrade-h2c"}


def exchange(port: int, data: bytes) -> list[int]:
    """Send bytes, read to the end or until half a second has brought nothing; the statuses of the answers.

    Our side stays open: Envoy takes a half-closed connection for a caller who hung up.
    """
    with socket.create_connection(("127.0.0.1", port), timeout=0.5) as connection:
        answer = b""
        with contextlib.suppress(ConnectionError):
            connection.sendall(data)
        with contextlib.suppress(ConnectionError, TimeoutError):
            while piece := connection.recv(1 << 16):
                answer += piece
    lines = answer.split(b"\r\n")
    return [int(line[9:12]) for line in lines if line.startswith((b"HTTP/1.1 ", b"HTTP/1.0 "))]


def seen(machine: Machine) -> list[SeenRequest]:
    """What any vendor saw."""
    return [*machine.seen("openai"), *machine.seen("anthropic")]


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_bytes_get_no_good_answer(strict: Machine, name: str) -> None:
    """Never a 2xx, nothing at a vendor; of what is allowed exactly the one request, never the smuggled one."""
    strict.forget()
    data = HOSTILE[name].replace(b"KEY", strict.key.encode())
    statuses = exchange(strict.ports["base_url"], data)
    requests = seen(strict)
    assert not any(b"SMUGGLED" in one.body for one in requests)
    if name in ALLOWED:
        assert [200] == [status for status in statuses if status < 300]
        assert [GOOD["openai"]] == [one.body for one in requests]
        names, values = (b"\n".join(parts) for parts in zip(*requests[0].headers, strict=True))
        assert not any(word in names for word in (b"x-llmi-", b"x-envoy-", b"upgrade", b"http2-settings"))
        assert not any(word in values for word in (b"evil", b"\r", b"\x00"))
        return
    assert [] == [status for status in statuses if status < 400 and status != 100]
    assert [] == requests


def test_absolute_form_is_the_same_call(strict: Machine) -> None:
    """RFC 9112 section 3.2.2: the target's host counts, the Host field does not; an unknown one gives no way out."""
    strict.forget()
    for target, host in ((b"http://api.openai.com", b"evil.example"), (b"http://evil.example", b"api.openai.com")):
        head = b"POST " + target + b"/v1/chat/completions HTTP/1.1\r\nhost: " + host + b"\r\n"
        head += b"authorization: Bearer KEY\r\ncontent-type: application/json\r\n" + _LENGTH + b"\r\n\r\n"
        exchange(strict.ports["base_url"], head.replace(b"KEY", strict.key.encode()) + GOOD["openai"])
    for one in seen(strict):
        assert ("/v1/chat/completions", "api.openai.com") == (one.target, one.server_name)
        assert "api.openai.com" == one.fields.get(":authority", one.fields.get("host"))


PSEUDO = {
    "no-path": [(":method", "POST"), (":scheme", "http"), (":authority", "api.openai.com")],
    "empty-path": [(":method", "POST"), (":scheme", "http"), (":authority", "api.openai.com"), (":path", "")],
    "two-paths": [(":path", "/v1/models")],
    "two-methods": [(":method", "GET")],
    "late-pseudo": [("x-a", "1"), (":authority", "evil.example")],
    "unknown-pseudo": [(":evil", "1")],
    "status-in-request": [(":status", "200")],
    "upper-case-name": [("X-Upper", "1")],
    "connection-field": [("connection", "close")],
    "transfer-encoding": [("transfer-encoding", "chunked")],
    "crlf-in-value": [("x-a", "1\r\nx-b: 2")],
    "crlf-in-path": [(":path", "/v1/models HTTP/1.1\r\nhost: evil.example")],
    "nul-in-value": [("x-a", "1\x00")],
    "space-in-name": [("x a", "1")],
    "colon-in-name": [("x:a", "1")],
    "wrong-length": [("content-length", "5")],
    "two-lengths": [("content-length", "5"), ("content-length", str(len(GOOD["openai"])))],
    "host-and-authority": [("host", "evil.example")],
    "path-without-slash": [(":path", "v1/chat/completions")],
    "path-with-authority": [(":path", "http://evil.example/v1/chat/completions")],
    "connect-with-path": [(":method", "CONNECT")],
}
# by RFC 9113 section 8.3.1 a Host field beside `:authority` is to be ignored or refused
EITHER = {"host-and-authority"}


def fields_of(name: str, key: str) -> list[tuple[str, str]]:
    """The request's fields: a good request's, or these with the abuse in its place."""
    abuse = PSEUDO[name]
    end = [("authorization", f"Bearer {key}"), ("content-type", "application/json")]
    if name in {"no-path", "empty-path"}:
        return [*abuse, *end]
    good = [
        (":method", "POST"),
        (":scheme", "http"),
        (":authority", "api.openai.com"),
        (":path", "/v1/chat/completions"),
    ]
    if name.startswith(("crlf-in-path", "path-", "connect-")):
        return [*((field, dict(abuse).get(field, value)) for field, value in good), *end]
    return [*good, *abuse, *end]


def http2_exchange(port: int, fields: list[tuple[str, str]]) -> int:
    """Send one HTTP/2 request as it is; its status, 0 where the stream or the connection was reset."""
    config = h2.config.H2Configuration(
        validate_outbound_headers=False, normalize_outbound_headers=False, header_encoding="latin-1"
    )
    state = h2.connection.H2Connection(config)
    state.initiate_connection()
    state.send_headers(1, fields)
    state.send_data(1, GOOD["openai"], end_stream=True)
    with socket.create_connection(("127.0.0.1", port), timeout=5) as connection:
        connection.sendall(state.data_to_send())
        with contextlib.suppress(ConnectionError, TimeoutError):
            while piece := connection.recv(1 << 16):
                for event in state.receive_data(piece):
                    if isinstance(event, h2.events.ResponseReceived):
                        return int(dict(event.headers)[":status"])
                    if isinstance(event, h2.events.StreamReset | h2.events.ConnectionTerminated):
                        return 0
                connection.sendall(state.data_to_send())
    return 0


def test_http2_abuse_gets_no_good_answer(strict: Machine) -> None:
    """Reset or refused, and nothing at a vendor."""
    strict.forget()

    def send(name: str) -> int:
        return http2_exchange(strict.ports["base_url"], fields_of(name, strict.key))

    with ThreadPoolExecutor(AT_ONCE) as pool:
        statuses = dict(zip(PSEUDO, pool.map(send, PSEUDO), strict=True))
    good = {name for name, status in statuses.items() if 0 < status < 400}
    assert good <= EITHER, statuses
    assert len(good) == len(seen(strict))
    assert not any(b"evil" in value for one in seen(strict) for _, value in one.headers)


def test_http2_by_prior_knowledge_works(strict: Machine) -> None:
    """The same sender with nothing wrong gets its answer, so that the refusals above mean something."""
    strict.forget()
    good = [field for field in fields_of("two-paths", strict.key) if field != PSEUDO["two-paths"][0]]
    assert 200 == http2_exchange(strict.ports["base_url"], good)
    assert 1 == len(seen(strict))
