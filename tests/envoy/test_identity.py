"""Nobody gets another caller's identity, another provider's words, or a way past the reading."""

from __future__ import annotations

import contextlib
import http.client
import socket
import ssl

import h2.connection
import h2.events
import httpx2
import pytest

from envoy.machine import Machine, running
from extproc.sim.answer import json_answer

pytestmark = pytest.mark.envoy

BACKUP = """
  backup:
    api: openai
    credential: {{env: TEST_OPENAI_KEY}}
    upstream: {{address: "127.0.0.1:{openai}", ca: {ca}, server_name: api.openai.com}}
"""
POOL = """
limits: {request_body: 32MiB, response_body: 64MiB}
access:
- {team: demo}
"""
CHAT = {"model": "pool", "messages": [{"role": "user", "content": "hi"}]}


def aborted_connect(port: int, key: str) -> None:
    """A CONNECT with a key, and nobody there to use the tunnel."""
    with socket.create_connection(("127.0.0.1", port)) as client:
        client.sendall(
            f"CONNECT api.openai.com:443 HTTP/1.1\r\nhost: api.openai.com:443\r\n"
            f"proxy-authorization: Bearer {key}\r\n\r\n".encode()
        )


def anonymous(gateway: Machine) -> int:
    """The status of a call through CONNECT that carries no key anywhere."""
    context = ssl.create_default_context(cafile=str(gateway.ca))
    connection = http.client.HTTPSConnection("127.0.0.1", gateway.ports["connect"], timeout=10, context=context)
    connection.set_tunnel("api.openai.com", 443)
    with contextlib.closing(connection):
        connection.request("GET", "/v1/models")
        return connection.getresponse().status


def test_an_aborted_tunnel_leaves_its_key_to_nobody(gateway):
    """A connection that Envoy made for one caller is never taken for another's."""
    statuses = set()
    for _ in range(40):
        aborted_connect(gateway.ports["connect"], gateway.key)
        statuses.add(anonymous(gateway))

    assert statuses == {401}


def test_a_key_in_the_proxy_credentials_still_works_after_that(gateway):
    """The tunnel's own credentials count for its own calls."""
    transport = httpx2.HTTPTransport(
        proxy=httpx2.Proxy(f"http://127.0.0.1:{gateway.ports['connect']}", auth=("key", gateway.key)),
        verify=ssl.create_default_context(cafile=str(gateway.ca)),
    )
    with httpx2.Client(transport=transport) as client:
        answer = client.get("https://api.openai.com/v1/models", headers={"authorization": "Bearer sk-none-of-ours"})

    assert answer.status_code == 200


def test_request_trailers_do_not_reach_the_vendor(gateway):
    """They are no part of these APIs, and nobody reads them: HTTP/2 trailers are taken off."""
    body = b'{"model":"gpt-4o-mini","messages":[]}'
    client = h2.connection.H2Connection()
    client.initiate_connection()
    head = [
        (":method", "POST"), (":scheme", "http"), (":authority", "gw"), (":path", "/v1/chat/completions"),
        ("content-type", "application/json"), ("authorization", f"Bearer {gateway.key}"),
    ]  # fmt: skip
    client.send_headers(1, head)
    client.send_data(1, body)
    client.send_headers(1, [("x-secret-trailer", gateway.key), ("x-llm-user", "me")], end_stream=True)
    done = False
    with socket.create_connection(("127.0.0.1", gateway.ports["base_url"]), timeout=10) as connection:
        connection.sendall(client.data_to_send())
        while not done:
            events = client.receive_data(connection.recv(65536))
            done = any(isinstance(one, h2.events.StreamEnded | h2.events.StreamReset) for one in events)
            connection.sendall(client.data_to_send())
    seen = gateway.seen("openai")

    assert [body] == [one.body for one in seen]
    assert gateway.key not in repr(seen)


def test_a_failover_is_on_record_under_the_provider_that_answered(tmp_path):
    """503 from the first, an answer from the second: log, Envoy's metadata and price say the second."""
    extra = POOL.replace("access:\n- {team: demo}\n", "")
    with running(tmp_path / "fo", extra=extra, providers=BACKUP) as machine:
        text = machine.config.read_text().replace(
            "aliases:\n", "aliases:\n  pool: {provider: openai, model: gpt-4o-mini, fallback: [backup]}\n"
        )
        new = machine.folder / ".new.yaml"
        new.write_text(text)
        new.rename(machine.config)
        machine.wait_live()
        machine.script("openai", json_answer({"error": {"message": "busy", "type": "server_error"}}, 503))
        answer = httpx2.post(
            machine.url() + "/v1/chat/completions", json=CHAT, headers={"authorization": f"Bearer {machine.key}"}
        )
        (record,) = machine.wait_records(1, requested_model="pool")

        assert answer.status_code == 200
        assert len(machine.seen("openai")) == 2
        assert "x-llmi-provider" not in answer.headers
    assert ("backup", "ok", "reported") == (record["provider"], record["outcome"], record["usage_source"])
