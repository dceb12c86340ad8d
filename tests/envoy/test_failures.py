"""What goes wrong at a vendor, on the way, or with a caller: what the app gets, and what is on record."""

from __future__ import annotations

import json
import secrets
import socket
import time
from typing import Any

import anthropic
import httpx2
import openai
import pytest

from envoy.conftest import TIGHT
from envoy.machine import Machine, free_ports, running
from envoy.ways import Way, client, raw, wait_for
from extproc.adapters.pki import create_ca
from extproc.sim.answer import SimAnswer

pytestmark = pytest.mark.envoy

PATHS = {"openai": "/v1/chat/completions", "anthropic": "/v1/messages"}
MODELS = {"openai": "gpt-4o-mini", "anthropic": "claude-haiku-4-5"}


class Call:
    """One call with a label of its own, so that its record can be found; `sim` are faults asked of the vendor."""

    def __init__(self, machine: Machine, api: str = "openai", **sim: object) -> None:
        self.machine, self.api = machine, api
        self.feature = secrets.token_hex(6)
        self.headers = {"authorization": f"Bearer {machine.key}", "x-llm-feature": self.feature}
        self.headers |= {f"x-sim-{name.replace('_', '-')}": str(value) for name, value in sim.items()}
        self.body: dict[str, Any] = {"model": MODELS[api], "messages": [{"role": "user", "content": "hi there"}]}
        if api == "anthropic":
            self.body["max_tokens"] = 300
            self.headers["anthropic-version"] = "2023-06-01"

    def with_body(self, **fields: object) -> Call:
        """More fields in the body."""
        self.body |= fields
        return self

    @property
    def url(self) -> str:
        return f"{self.machine.url()}{PATHS[self.api]}"

    def send(self) -> httpx2.Response:
        """The whole answer."""
        with raw(self.machine) as http:
            return http.post(self.url, json=self.body, headers=self.headers)

    def stream(self) -> tuple[int, bytes, str]:
        """Status, the bytes that came, and the kind of the break, if it broke off."""
        with raw(self.machine) as http:
            got = b""
            with http.stream("POST", self.url, json={**self.body, "stream": True}, headers=self.headers) as answer:
                try:
                    for piece in answer.iter_raw():
                        got += piece
                except httpx2.HTTPError as error:
                    return answer.status_code, got, type(error).__name__
                return answer.status_code, got, ""

    def record(self) -> dict[str, Any]:
        """Its record."""
        (found,) = self.machine.wait_records(1, timeout=30, labels={"feature": self.feature})
        return found


def is_shaped(api: str, body: Any) -> bool:
    """Whether an error has the vendor's own shape."""
    if api == "anthropic":
        return body["type"] == "error" and {"type", "message"} <= body["error"].keys()
    return {"message", "type", "param", "code"} <= body["error"].keys()


@pytest.mark.parametrize(
    ("api", "status", "tries"),
    [
        *(("openai", status, tries) for status, tries in ((400, 1), (401, 1), (404, 1), (429, 3), (500, 3), (503, 3))),
        *(("anthropic", status, tries) for status, tries in ((401, 1), (429, 3), (529, 3))),
    ],
)
def test_a_vendors_error_passes_through(tight: Machine, api: str, status: int, tries: int) -> None:
    """Status and body are the vendor's, with no error field of ours; what may pass by itself is tried three times."""
    call = Call(tight, api, status=status)
    answer = call.send()
    seen = tight.seen(api)
    record = call.record()
    assert (answer.status_code, len(seen)) == (status, tries)
    assert f"asked for status {status}" in answer.json()["error"]["message"]
    assert is_shaped(api, answer.json())
    assert "x-llm-error" not in answer.headers
    assert (record["outcome"], record["status"], record.get("cost_usd")) == ("provider_error", status, None)


def test_a_short_retry_after_is_waited_for(tight: Machine) -> None:
    """And a long one is not: the caller gets it to see."""
    started = time.monotonic()
    assert Call(tight, status=429, retry_after=1).send().status_code == 429
    waited = time.monotonic() - started
    tight.forget()
    answer = Call(tight, status=429, retry_after=60).send()
    assert waited >= 2
    assert answer.headers["retry-after"] == "60"


def test_a_reset_before_the_first_byte_is_tried_again(tight: Machine) -> None:
    """Two resets, and the third attempt is the answer: the caller notices nothing."""
    tight.script("openai", SimAnswer(reset_after=-1), SimAnswer(reset_after=-1))
    call = Call(tight)
    answer = call.send()
    assert answer.status_code == 200
    assert len(tight.seen("openai")) == 3
    assert call.record()["outcome"] == "ok"


def test_resets_without_end_are_a_503(tight: Machine) -> None:
    """After the last attempt the caller gets a vendor-shaped error that says whose fault it was."""
    call = Call(tight, "anthropic", reset_after=-1)
    answer = call.send()
    assert (answer.status_code, answer.headers["x-llm-error"]) == (503, "provider_unreachable")
    assert is_shaped("anthropic", answer.json())
    assert len(tight.seen("anthropic")) == 3


@pytest.mark.parametrize("machine", ["gateway", "tight"])
@pytest.mark.parametrize("api", ["openai", "anthropic"])
def test_a_reset_mid_stream_settles_with_an_estimate(request: pytest.FixtureRequest, api: str, machine: str) -> None:
    """What came, came; it is not tried again, and what the vendor will bill is on record as an estimate."""
    gateway: Machine = request.getfixturevalue(machine)
    call = Call(gateway, api, reset_after=1500, chunk_ms=10, tokens=200)
    status, got, broke = call.stream()
    record = call.record()
    assert (status, len(gateway.seen(api))) == (200, 1)
    assert broke
    assert b"data:" in got
    assert (record["outcome"], record["usage_source"]) == ("cut_short", "estimated")
    assert record["tokens_in"] > 0
    assert record["tokens_out"] > 0


@pytest.mark.parametrize("api", ["openai", "anthropic"])
def test_no_first_byte_in_time(tight: Machine, api: str) -> None:
    """504 in the vendor's shape; each attempt had its time; the input is on record as an estimate."""
    call = Call(tight, api, delay_ms=5000).with_body(model="hasty-1")
    started = time.monotonic()
    answer = call.send()
    took = time.monotonic() - started
    record = call.record()
    assert (answer.status_code, answer.headers["x-llm-error"]) == (504, "provider_timeout")
    assert is_shaped(api, answer.json())
    assert took < 4
    assert (record["error"], record["timeout_class"]) == ("provider_timeout", "hasty")
    assert (record["usage_source"], record["tokens_in"] > 0) == ("estimated", True)


@pytest.mark.parametrize("api", ["openai", "anthropic"])
def test_a_stream_over_its_total_time_ends_politely(tight: Machine, api: str) -> None:
    """The last event is an error in the vendor's shape; then the vendor, which goes on, is cut off."""
    call = Call(tight, api, chunk_ms=150, tokens=300).with_body(model="brief-1")
    started = time.monotonic()
    status, got, _ = call.stream()
    took = time.monotonic() - started
    record = call.record()
    last = [line for line in got.split(b"\n") if line.startswith(b"data: {")][-1]
    assert status == 200
    assert is_shaped(api, json.loads(last.removeprefix(b"data: ")))
    assert 0.9 < took < 4
    assert (record["error"], record["usage_source"]) == ("provider_timeout", "estimated")
    assert record["tokens_out"] > 0


@pytest.mark.parametrize("version", ["h1", "h2"])
@pytest.mark.parametrize("api", ["openai", "anthropic"])
def test_an_sdk_tells_why_its_stream_ended(tight: Machine, api: str, version: str) -> None:
    """The SDKs raise their own error with our message, not one of the connection."""
    sdk = client(tight, api, Way("base_url", version, "sync"), default_headers={"x-sim-chunk-ms": "150"})
    body: dict[str, Any] = {"model": "brief-1", "messages": [{"role": "user", "content": "hi there " * 40}]}
    kinds: dict[str, Any] = {"openai": openai.APIError, "anthropic": anthropic.APIError}
    with sdk:
        made = sdk.chat.completions if api == "openai" else sdk.messages
        stream = made.create(**body, max_tokens=500, stream=True)
        with pytest.raises(kinds[api], match="longer than this gateway allows"):
            list(stream)


@pytest.mark.parametrize("api", ["openai", "anthropic"])
@pytest.mark.parametrize(
    ("model", "fault", "status", "error"),
    [
        ("brief-1", {"first_byte_ms": 5000}, 504, "provider_timeout"),
        ("hasty-1", {"stall_after": 20}, 504, "provider_timeout"),
        ("hasty-1", {"reset_after": 20, "split": 10}, 503, "provider_unreachable"),
    ],
)
def test_a_json_answer_that_does_not_end(
    tight: Machine, api: str, model: str, fault: dict[str, object], status: int, error: str
) -> None:
    """Nothing of it was out yet, so it is an error in the vendor's shape; the call is on record as an estimate."""
    call = Call(tight, api, content_length=1, **fault).with_body(model=model)
    answer = call.send()
    record = call.record()
    assert (answer.status_code, answer.headers.get("x-llm-error"), answer.headers["content-type"]) == (
        status,
        error,
        "application/json",
    )
    assert is_shaped(api, answer.json())
    assert (record["outcome"], record["usage_source"]) == ("cut_short", "estimated")


def test_a_silent_stream_is_cut(tight: Machine) -> None:
    """No byte for the class's idle time: the stream ends, and the record has what was said until then."""
    call = Call(tight, stall_after=1500, tokens=200).with_body(model="hasty-1")
    started = time.monotonic()
    status, got, _ = call.stream()
    took = time.monotonic() - started
    record = call.record()
    assert (status, len(got) > 500) == (200, True)
    assert 0.8 < took < 5
    assert (record["outcome"], record["usage_source"]) == ("cut_short", "estimated")
    assert record["tokens_out"] > 0


@pytest.mark.parametrize("has_length", [1, 0])
def test_an_answer_that_is_too_large(tight: Machine, has_length: int) -> None:
    """With a length: a 502 in the vendor's shape. Without: it cannot be taken back, and is cut at the limit."""
    body = b'{"choices":[' + b" " * (3 << 20) + b"]}"
    pieces = tuple(body[at : at + 65536] for at in range(0, len(body), 65536))
    tight.script(
        "openai", SimAnswer(200, (("content-type", "application/json"),), pieces, content_length=bool(has_length))
    )
    call = Call(tight)
    if has_length:
        answer = call.send()
        assert (answer.status_code, answer.headers["x-llm-error"]) == (502, "provider_response_too_large")
        assert is_shaped("openai", answer.json())
    else:
        with pytest.raises(httpx2.HTTPError):
            call.send()
    assert call.record()["error"] == "provider_response_too_large"


@pytest.mark.parametrize("stream", [False, True])
def test_an_answer_compressed_without_being_asked(tight: Machine, stream: bool) -> None:
    """It is undone, read and metered; the app gets it plain."""
    plain, zipped = Call(tight), Call(tight, gzip=1)
    if stream:
        wanted, got = plain.stream(), zipped.stream()
        assert got == wanted
        assert b"hi there" in got[1].replace(b'"}', b"") or b"data:" in got[1]
    else:
        wanted, got = plain.send(), zipped.send()
        assert got.content == wanted.content
        assert "content-encoding" not in got.headers
    first, second = plain.record(), zipped.record()
    names = ("tokens_in", "tokens_out", "usage_source", "cost_usd")
    assert [second[name] for name in names] == [first[name] for name in names]
    assert second["usage_source"] == "reported"


@pytest.mark.parametrize("api", ["openai", "anthropic"])
@pytest.mark.parametrize("size", [(1 << 20) + 100, 3 << 20])
def test_a_request_over_the_limit(tight: Machine, api: str, size: int) -> None:
    """413 in the vendor's shape, and nothing reaches the vendor."""
    call = Call(tight, api).with_body(metadata={"x": "y" * size})
    answer = call.send()
    assert (answer.status_code, answer.headers["x-llm-error"]) == (413, "caller_body_too_large")
    assert is_shaped(api, answer.json())
    assert not tight.seen(api)


def test_a_request_just_under_the_limit(tight: Machine) -> None:
    """It goes through whole."""
    call = Call(tight).with_body(metadata={"x": ""})
    call.body["metadata"]["x"] = "y" * ((1 << 20) - len(json.dumps(call.body, separators=(",", ":"))))
    answer = call.send()
    assert answer.status_code == 200
    assert len(tight.seen("openai")[0].body) == 1 << 20


@pytest.mark.parametrize("machine", ["gateway", "tight"])
@pytest.mark.parametrize("api", ["openai", "anthropic"])
def test_a_caller_that_hangs_up(request: pytest.FixtureRequest, api: str, machine: str) -> None:
    """After the first chunk: the vendor is told at once, and what it said is on record as an estimate."""
    gateway: Machine = request.getfixturevalue(machine)
    sim = gateway.vendors.sims[api]
    before = gateway.vendors.do(lambda: sim.requests.hangups)
    call = Call(gateway, api, chunk_ms=40, tokens=2000)
    asked = {"json": {**call.body, "stream": True}, "headers": call.headers}
    with raw(gateway) as http, http.stream("POST", call.url, **asked) as answer:
        assert b"data:" in next(answer.iter_raw())
    assert wait_for(lambda: gateway.vendors.do(lambda: sim.requests.hangups) > before)
    record = call.record()
    assert (record["outcome"], record["usage_source"]) == ("cut_short", "estimated")
    assert record["tokens_in"] > 0
    assert record["tokens_out"] > 0
    assert float(record["cost_usd"]) > 0


def test_a_caller_that_hangs_up_before_the_answer(gateway: Machine) -> None:
    """The vendor may have worked already: the input is on record as an estimate."""
    call = Call(gateway, delay_ms=3000)
    with raw(gateway, entry="base_url") as http, pytest.raises(httpx2.ReadTimeout):
        http.post(call.url, json=call.body, headers=call.headers, timeout=0.4)
    record = call.record()
    assert (record["outcome"], record["usage_source"]) == ("cut_short", "estimated")
    assert record["tokens_in"] > 0


def test_a_caller_that_sends_half_a_body(gateway: Machine) -> None:
    """Nothing reaches the vendor; the call is on record without usage."""
    call = Call(gateway)
    head = f"POST {PATHS['openai']} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 999\r\n"
    head += "".join(f"{name}: {value}\r\n" for name, value in call.headers.items())
    with socket.create_connection(("127.0.0.1", gateway.ports["base_url"]), timeout=5) as sock:
        sock.sendall(f'{head}\r\n{{"model":'.encode())
        time.sleep(0.3)
    record = call.record()
    assert not {"tokens_in", "tokens_out", "cost_usd"} & record.keys()
    assert not gateway.seen("openai")


class Broken(Machine):
    """OpenAI's vendor is down, Anthropic's has a certificate of a CA that is not the one asked for."""

    def write_config(self, extra: str | None = None) -> None:
        """Point one provider at a closed port; check the other against the wrong CA."""
        super().write_config(extra)
        (dead,) = free_ports(1)
        other = self.folder / "other-ca"
        create_ca(other, "another CA")
        text = self.config.read_text()
        text = text.replace(f"127.0.0.1:{self.vendors.sims['openai'].port}", f"127.0.0.1:{dead}")
        head, _, tail = text.rpartition(str(self.vendor_ca))
        self.config.write_text(head + str(other / "ca.pem") + tail)


@pytest.fixture(scope="module")
def broken(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A gateway before two vendors that cannot be reached."""
    machine = Broken(tmp_path_factory.mktemp("broken"), extra=TIGHT, workers=1)
    machine.start()
    try:
        yield machine
    finally:
        machine.stop()


@pytest.mark.parametrize("api", ["openai", "anthropic"])
def test_a_vendor_that_cannot_be_reached(broken: Machine, api: str) -> None:
    """Down, or with a certificate that we do not trust: a quick 503 in the vendor's shape, and no request is sent."""
    call = Call(broken, api)
    started = time.monotonic()
    answer = call.send()
    took = time.monotonic() - started
    record = call.record()
    assert (answer.status_code, answer.headers["x-llm-error"]) == (503, "provider_unreachable")
    assert is_shaped(api, answer.json())
    assert took < 2
    assert record["outcome"] == "unreachable"
    assert not {"tokens_in", "tokens_out", "cost_usd"} & record.keys()
    assert not broken.seen(api)


def test_an_ejected_vendor_is_refused_at_once(broken: Machine) -> None:
    """After some failures nobody waits for a dead vendor any more."""
    for _ in range(6):
        assert Call(broken).send().status_code == 503
    started = time.monotonic()
    answer = Call(broken).send()
    assert (answer.status_code, answer.headers["x-llm-error"]) == (503, "provider_unreachable")
    assert time.monotonic() - started < 1


def test_no_credential_for_a_vendor(tmp_path: Any) -> None:
    """The gateway starts; a call to that vendor is the gateway's error, not the caller's 401; others work."""
    with running(tmp_path, workers=1, environment={"TEST_ANTHROPIC_KEY": ""}) as machine:
        call = Call(machine, "anthropic")
        answer = call.send()
        assert (answer.status_code, answer.headers["x-llm-error"]) == (503, "gateway_error")
        assert "credential" in answer.json()["error"]["message"]
        assert not machine.seen("anthropic")
        assert "tokens_in" not in call.record()
        assert Call(machine).send().status_code == 200
