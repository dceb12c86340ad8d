"""The ways in: who is recognised, what is refused at the door, and what the log tells of it."""

from __future__ import annotations

import base64
import contextlib
import http.client
import json
import re
import secrets
import socket
import ssl
import time
from typing import Any

import httpx2
import openai
import pytest

from envoy.machine import HOSTS, Machine
from envoy.ways import ENTRIES, Way, client, trust

pytestmark = pytest.mark.envoy

SAY = [{"role": "user", "content": "hi there"}]


def proxied(gateway: Machine, user: str, password: str, api_key: str) -> openai.OpenAI:
    """The SDK behind the proxy, with credentials in the proxy's URL, as HTTPS_PROXY takes them."""
    proxy = f"http://{user}:{password}@127.0.0.1:{gateway.ports['connect']}"
    inner = httpx2.Client(proxy=proxy, verify=trust(str(gateway.bundle), "proxied"), trust_env=False, timeout=20)
    return openai.OpenAI(api_key=api_key, http_client=inner, max_retries=0)


def logged(gateway: Machine, timeout: float = 5, **wanted: object) -> list[dict[str, Any]]:
    """Lines of Envoy's access log with these fields; waits for the first."""
    deadline = time.monotonic() + timeout
    while True:
        with contextlib.suppress(json.JSONDecodeError):  # the last line may be half written
            found = [line for line in gateway.access_log() if all(line.get(k) == v for k, v in wanted.items())]
            if found or time.monotonic() > deadline:
                return found
        time.sleep(0.1)


def tunnel(gateway: Machine, host: str, version: str = "1.1", fields: str = "") -> tuple[socket.socket, bytes]:
    """A CONNECT, and the head of its answer."""
    sock = socket.create_connection(("127.0.0.1", gateway.ports["connect"]), timeout=10)
    sock.sendall(f"CONNECT {host} HTTP/{version}\r\nHost: {host}\r\n{fields}\r\n".encode())
    head = b""
    while b"\r\n\r\n" not in head and (piece := sock.recv(4096)):
        head += piece
    return sock, head


@pytest.mark.parametrize("entry", ENTRIES)
def test_the_record_tells_entry_and_source(gateway: Machine, entry: str) -> None:
    """A record says which way in was taken, and who took it, by CONNECT too."""
    feature = secrets.token_hex(6)
    with client(gateway, "openai", Way(entry, "h1", "sync"), default_headers={"x-llm-feature": feature}) as sdk:
        sdk.chat.completions.create(model="fast", messages=SAY)
    (record,) = gateway.wait_records(1, labels={"feature": feature})
    name = entry if entry.startswith("base_url") else f"{entry}.openai"
    assert (record["entry"], record["outcome"], record["team"], record["app"]) == (name, "ok", "demo", "demo")
    assert re.fullmatch(r"127\.0\.0\.1(:\d+)?", record["source"])


@pytest.mark.parametrize("place", ["user", "password"])
def test_proxy_credentials_are_an_identity(gateway: Machine, place: str) -> None:
    """An app that still holds a vendor's key calls as the proxy credentials say; its key never goes on."""
    foreign = f"sk-{secrets.token_hex(16)}"
    user, password = (gateway.key, "x") if place == "user" else ("app", gateway.key)
    with proxied(gateway, user, password, foreign) as sdk:
        answer = sdk.chat.completions.create(model="fast", messages=SAY)
    (seen,) = gateway.seen("openai")
    assert "hi there" in (answer.choices[0].message.content or "")
    assert seen.fields["authorization"] == f"Bearer {gateway.vendor_keys['openai']}"
    assert foreign.encode() not in b"".join(value for _, value in seen.headers)


def test_a_key_in_the_sdks_place_wins_over_the_proxys(gateway: Machine) -> None:
    """Two credentials: ours in the SDK's place is the caller."""
    made = json.loads(gateway.cli("keys", "create", "--team", "demo", "--app", "other", "--json").stdout)
    time.sleep(1)
    with proxied(gateway, "app", gateway.key, made["key"]) as sdk:
        sdk.chat.completions.create(model="fast", messages=SAY)
    assert gateway.wait_records(1, app="other", outcome="ok", entry="connect.openai")


def test_a_foreign_key_without_proxy_credentials_is_nobody(gateway: Machine) -> None:
    """401 in the vendor's shape; nothing reaches the vendor."""
    sdk = client(gateway, "openai", Way("connect", "h1", "sync"), api_key="sk-" + secrets.token_hex(8))
    with sdk, pytest.raises(openai.AuthenticationError) as caught:
        sdk.chat.completions.create(model="fast", messages=SAY)
    assert caught.value.response.headers["x-llm-error"] == "caller_invalid_key"
    assert not gateway.seen("openai")


def test_pythons_own_http_client(gateway: Machine) -> None:
    """http.client sends its CONNECT as HTTP/1.0 in Python 3.11; it gets through."""
    context = ssl.create_default_context(cafile=str(gateway.bundle))
    connection = http.client.HTTPSConnection("127.0.0.1", gateway.ports["connect"], context=context, timeout=10)
    basic = base64.b64encode(f"{gateway.key}:".encode()).decode()
    connection.set_tunnel(HOSTS["openai"], 443, {"Proxy-Authorization": f"Basic {basic}"})
    body = json.dumps({"model": "fast", "messages": SAY})
    with contextlib.closing(connection):
        connection.request("POST", "/v1/chat/completions", body, {"Content-Type": "application/json"})
        answer = connection.getresponse()
        assert (answer.status, b"hi there" in answer.read()) == (200, True)


@pytest.mark.parametrize("version", ["1.0", "1.1"])
def test_connect_to_a_host_that_is_not_listed(gateway: Machine, version: str) -> None:
    """403 with a reason, and a line in the log."""
    host = f"{secrets.token_hex(4)}.example:443"
    sock, head = tunnel(gateway, host, version)
    rest = sock.recv(4096) if not head.endswith(b"provider") else b""
    sock.close()
    assert b" 403 " in head.split(b"\r\n")[0]
    assert b"not on the gateway's list" in head + rest
    assert logged(gateway, event="connect", authority=host, status=403)


@pytest.mark.parametrize("host", ["api.openai.com:80", "api.openai.com:8443", "127.0.0.1:9901"])
def test_connect_to_another_port_or_to_ourselves(gateway: Machine, host: str) -> None:
    """The list is of hosts with their port 443: neither another port nor the admin port can be reached."""
    sock, head = tunnel(gateway, host)
    sock.close()
    assert b" 403 " in head.split(b"\r\n")[0]


def test_the_proxy_takes_no_plain_requests(gateway: Machine) -> None:
    """A GET with an absolute URL is refused, whatever its host."""
    with socket.create_connection(("127.0.0.1", gateway.ports["connect"]), timeout=10) as sock:
        sock.sendall(b"GET http://api.openai.com/v1/models HTTP/1.1\r\nHost: api.openai.com\r\n\r\n")
        assert b" 403 " in sock.recv(4096).split(b"\r\n")[0]


def test_another_name_inside_an_allowed_tunnel(gateway: Machine) -> None:
    """The name in the TLS handshake decides: one that is not ours is reset and logged with the CONNECT client."""
    name = f"{secrets.token_hex(4)}.example"
    sock, head = tunnel(gateway, "api.openai.com:443")
    assert b" 200 " in head.split(b"\r\n")[0]
    with pytest.raises((ConnectionError, ssl.SSLError)), sock:
        trust(str(gateway.bundle)).wrap_socket(sock, server_hostname=name)
    (line,) = logged(gateway, event="unknown_name", sni=name)
    assert line["entry"] == "connect.unknown"
    assert line["client"].startswith("127.0.0.1:")


@pytest.mark.parametrize("entry", ["intercept", "redirect"])
@pytest.mark.parametrize("name", ["unknown", "none", "not tls"])
def test_an_unknown_name_is_reset_and_logged(gateway: Machine, entry: str, name: str) -> None:
    """So is a handshake without a name, and what is not TLS; no byte is answered."""
    sock = socket.create_connection(("127.0.0.1", gateway.ports[entry]), timeout=10)
    port = sock.getsockname()[1]
    host = f"{secrets.token_hex(4)}.example" if name == "unknown" else None
    context = ssl.create_default_context()
    context.check_hostname = False
    with sock:
        if name == "not tls":
            sock.sendall(b"GET / HTTP/1.1\r\nHost: api.openai.com\r\n\r\n")
            with contextlib.suppress(ConnectionResetError):
                assert sock.recv(100) == b""
        else:
            with pytest.raises((ConnectionError, ssl.SSLError)):
                context.wrap_socket(sock, server_hostname=host)
    (line,) = logged(gateway, event="unknown_name", source=f"127.0.0.1:{port}")
    assert (line["entry"], line["sni"]) == (f"{entry}.unknown", host)


def test_the_host_field_cannot_leave_the_name_of_the_handshake(gateway: Machine) -> None:
    """TLS to one provider with another host's name inside: the vendor is one of ours, with its own name and key."""
    sock = socket.create_connection(("127.0.0.1", gateway.ports["intercept"]), timeout=10)
    context = ssl.create_default_context(cafile=str(gateway.bundle))
    body = json.dumps({"model": "gpt-4o-mini", "messages": SAY}).encode()
    head = "POST /v1/chat/completions HTTP/1.1\r\nHost: evil.example\r\nContent-Type: application/json\r\n"
    head += f"Authorization: Bearer {gateway.key}\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    with context.wrap_socket(sock, server_hostname=HOSTS["openai"]) as tls:
        tls.sendall(head.encode() + body)
        answer = tls.recv(65536)
    for seen in (*gateway.seen("openai"), *gateway.seen("anthropic")):
        assert (seen.server_name, seen.fields.get(":authority", seen.fields.get("host"))) == ("api.openai.com",) * 2
    assert re.match(rb"HTTP/1.1 (200|404|421) ", answer)


def test_an_app_that_does_not_trust_our_ca_learns_nothing(gateway: Machine) -> None:
    """Without our bundle the SDK's own check fails: interception needs the app's consent."""
    sock = socket.create_connection(("127.0.0.1", gateway.ports["intercept"]), timeout=10)
    with sock, pytest.raises(ssl.SSLCertVerificationError):
        ssl.create_default_context(cafile=str(gateway.vendor_ca)).wrap_socket(sock, server_hostname=HOSTS["openai"])
