"""What a vendor sees and what an app gets back: every header field, every byte."""

from __future__ import annotations

import json
import secrets
from typing import Any

import pytest

from envoy.machine import Machine
from envoy.ways import ENTRIES, origin, raw
from extproc.sim.answer import SimAnswer
from extproc.sim.seen import SeenRequest

pytestmark = pytest.mark.envoy

CALLS = {
    "openai": ("/v1/chat/completions", {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "hi"}]}),
    "anthropic": (
        "/v1/messages",
        {"model": "claude-haiku-4-5", "max_tokens": 9, "messages": [{"role": "user", "content": "hi"}]},
    ),
}
SPOOFED = [
    *(("x-llmi-class", "long"), ("x-llmi-routed", "1"), ("x-llmi-inner", "no_healthy_upstream")),
    *(("x-llm-feature", "search"), ("x-llm-user", "u1"), ("x-llm-tenant", "t1"), ("x-llm-prompt", "p1")),
    *(("x-llm-error", "gateway_error"), ("x-llm-anything", "1")),
    *(("x-envoy-upstream-rq-timeout-ms", "1"), ("x-envoy-upstream-rq-per-try-timeout-ms", "1")),
    *(("x-envoy-max-retries", "0"), ("x-envoy-retry-on", "5xx"), ("x-envoy-external-address", "203.0.113.9")),
    *(("x-envoy-original-path", "/x"), ("x-envoy-internal", "true"), ("x-envoy-force-trace", "true")),
    *(("x-envoy-decorator-operation", "x"), ("x-envoy-attempt-count", "7"), ("x-envoy-peer-metadata", "x")),
    *(("x-forwarded-for", "203.0.113.9"), ("x-forwarded-proto", "http"), ("x-forwarded-host", "evil.example")),
    *(("x-forwarded-client-cert", "x"), ("x-forwarded-port", "1"), ("forwarded", "for=203.0.113.9")),
    *(("x-real-ip", "203.0.113.9"), ("via", "1.1 proxy"), ("x-request-id", "a-b-c")),
    *(("traceparent", "00-" + "1" * 32 + "-" + "2" * 16 + "-01"), ("tracestate", "a=b"), ("baggage", "k=v")),
    *(("b3", "1-2-1"), ("x-b3-traceid", "1" * 32), ("x-b3-sampled", "1"), ("x-client-trace-id", "t")),
    *(("cookie", "session=1"), ("proxy-connection", "keep-alive"), ("proxy-authorization", "Basic eDp5")),
    *(("api-key", "mine"), ("x-goog-api-key", "mine"), ("x-amz-security-token", "mine")),
    *(("ocp-apim-subscription-key", "mine"), ("accept-encoding", "gzip, br, zstd")),
]
OWN = [
    *(("user-agent", "app/1.0"), ("accept", "application/json"), ("content-type", "application/json")),
    *(("x-stainless-lang", "python"), ("openai-organization", "org-1"), ("anthropic-beta", "b1")),
    *(("x-custom", "kept"), ("x-client-request-id", "c1")),
]
FORBIDDEN = ("x-envoy", "x-llmi", "x-llm-", "x-forwarded", "server", "via", "x-request-id", "alt-svc")


def call(gateway: Machine, entry: str, version: str, api: str) -> tuple[bytes, SeenRequest, Any]:
    """One hostile call: what was sent, what the vendor saw, what came back."""
    path, body = CALLS[api]
    sent = json.dumps(body, indent=3, ensure_ascii=False).encode() + b" \n"
    key = {"openai": ("authorization", f"Bearer {gateway.key}"), "anthropic": ("x-api-key", gateway.key)}[api]
    other = {"openai": ("x-api-key", "not-ours"), "anthropic": ("authorization", "Bearer not-ours")}[api]
    headers = [*SPOOFED, *OWN, key, other]
    if api == "anthropic":
        headers.append(("anthropic-version", "2023-06-01"))
    with raw(gateway, entry, version) as http:
        url = f"{origin(gateway, entry, api)}{path}?a=1&api_key=not-ours&b=%20"
        answer = http.post(url, headers=headers, content=sent)
    assert answer.status_code == 200, answer.text
    (seen,) = gateway.seen(api)
    return sent, seen, answer


def check(gateway: Machine, api: str, seen: SeenRequest, sent: bytes) -> None:
    """The exact set of fields, each once, with the right values; target and body as they were."""
    path, _ = CALLS[api]
    fields = sorted((name.decode().lower(), value.decode()) for name, value in seen.headers)
    wanted = [*OWN, ("content-length", str(len(sent)))]
    if api == "openai":
        wanted.append(("authorization", f"Bearer {gateway.vendor_keys[api]}"))
    else:
        wanted += [("x-api-key", gateway.vendor_keys[api]), ("anthropic-version", "2023-06-01")]
    host = f"api.{api}.com"
    if seen.protocol == "HTTP/2":
        target = f"{path}?a=1&b=%20"
        wanted += [(":method", "POST"), (":scheme", "https"), (":path", target), (":authority", host)]
    else:
        wanted.append(("host", host))
    assert fields == sorted(wanted)
    assert seen.target == f"{path}?a=1&b=%20"
    assert seen.body == sent
    assert seen.server_name == host


@pytest.mark.parametrize("api", sorted(CALLS))
@pytest.mark.parametrize("version", ["h1", "h2"])
@pytest.mark.parametrize("entry", ENTRIES)
def test_a_vendor_sees_these_fields_and_no_other(gateway: Machine, entry: str, version: str, api: str) -> None:
    """HTTP/2 vendor: nothing of ours, of Envoy's, of the caller's credentials; the app's own fields and bytes as sent."""
    sent, seen, _ = call(gateway, entry, version, api)
    assert seen.protocol == "HTTP/2"
    check(gateway, api, seen, sent)


@pytest.mark.parametrize("api", sorted(CALLS))
@pytest.mark.parametrize("entry", ENTRIES)
def test_an_http1_vendor_sees_these_fields_and_no_other(tight: Machine, entry: str, api: str) -> None:
    """The same before a vendor that speaks HTTP/1.1 only."""
    sent, seen, _ = call(tight, entry, "h1", api)
    assert seen.protocol == "HTTP/1.1"
    check(tight, api, seen, sent)


@pytest.mark.parametrize("kind", ["json", "stream"])
@pytest.mark.parametrize("machine", ["gateway", "tight"])
def test_an_app_gets_the_vendors_fields_and_bytes(request: pytest.FixtureRequest, machine: str, kind: str) -> None:
    """Status, body and every field are the vendor's, but for what HTTP itself needs; what a vendor may not say is gone."""
    gateway: Machine = request.getfixturevalue(machine)
    body = (
        b'{"id":"x",\n "object":"chat.completion", "choices":[], "usage":{"prompt_tokens":1,"completion_tokens":2}}\n'
    )
    if kind == "stream":
        body = b'data: {"id":"1","choices":[{"index":0,"delta":{"content":"h\\u00e9"}}]}\n\n: ping\n\ndata: [DONE]\n\n'
    media = "text/event-stream; charset=utf-8" if kind == "stream" else "application/json"
    own = [
        *(("content-type", media), ("openai-processing-ms", "12"), ("x-request-id", "req_1"), ("server", "cloudflare")),
        *(("x-ratelimit-remaining-requests", "9"), ("set-cookie", "__cf=1"), ("set-cookie", "b=2"), ("cf-ray", "r")),
    ]
    orders = [("x-envoy-overloaded", "true"), ("x-llm-error", "gateway_error"), ("x-llmi-inner", "no_healthy_upstream")]
    pieces = tuple(body[at : at + 11] for at in range(0, len(body), 11)) if kind == "stream" else (body,)
    gateway.script("openai", SimAnswer(200, (*own, *orders), pieces))
    sent = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "hi"}], "stream": kind == "stream"}
    with raw(gateway) as http:
        answer = http.post(
            f"{gateway.url()}/v1/chat/completions", json=sent, headers={"authorization": f"Bearer {gateway.key}"}
        )
    assert (answer.status_code, answer.content) == (200, body)
    framing = {"content-length", "transfer-encoding", "date"}
    got = sorted((name, value) for name, value in answer.headers.multi_items() if name not in framing)
    assert got == sorted(own)
    assert answer.headers.get("content-length", str(len(body))) == str(len(body))


@pytest.mark.parametrize("kind", ["refusal", "unknown path", "no key"])
def test_our_own_answers_do_not_name_envoy(gateway: Machine, kind: str) -> None:
    """An answer that the gateway makes has its error field and nothing that tells what made it."""
    path = "/v1/nothing" if kind == "unknown path" else "/v1/chat/completions"
    body = {"model": "m" * 5} if kind == "refusal" else {"model": "gpt-4o-mini", "messages": []}
    key = f"exk-{secrets.token_hex(8)}" if kind == "no key" else gateway.key
    with raw(gateway) as http:
        answer = http.post(gateway.url() + path, json=body, headers={"authorization": f"Bearer {key}"})
    names = set(answer.headers) - {"x-llm-error"}
    assert answer.status_code in {400, 401, 404}
    assert answer.headers["x-llm-error"].startswith("caller_")
    assert not {name for name in names if name.startswith(FORBIDDEN)}
