"""The transport, end to end: a real server on a Unix socket, a real client that speaks Envoy's messages."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import grpc
import msgspec
import pytest
import structlog
from structlog.testing import capture_logs

from adapters.envoyish import Gateway, Stream, answer, begin, body, piece, serving
from extproc.adapters._pb import extproc_pb2 as pb
from extproc.exchange.facts import Outcome, UsageSource
from extproc.exchange.policy import Hooks, Policy
from extproc.exchange.setup import Setup
from extproc.runtime import ORDER, Runtime
from gateway import runtime
from talk import CHAT, CHAT_ANSWER, CHAT_STREAM, chat_chunks

HOOKS = ("request_headers", "request_body", "response_headers", "response_body", "finish")
SERVING, NOT_SERVING = 1, 2


class Bug(Exception):
    """What no policy should raise."""


def crashing(hook: str) -> Runtime:
    """The demo gateway with one more policy, which crashes in `hook`."""

    def crash(*_: object) -> None:
        raise Bug("secret detail")

    kind = type("Crashing", (Policy,), {hook: crash, "name": "crashing"})
    good = runtime()
    setup = Setup((*good.setup.factories, kind), Hooks((*ORDER, kind)), good.setup.max_request)
    return msgspec.structs.replace(good, setup=setup)


@pytest.fixture(autouse=True)
def plain_logging() -> Iterator[None]:
    """Loggers that nothing has cached."""
    structlog.reset_defaults()
    yield
    structlog.reset_defaults()


@pytest.fixture
async def gateway(tmp_path: Path) -> AsyncIterator[Gateway]:
    """The demo gateway."""
    async with serving(tmp_path, runtime()) as served:
        yield served


async def requested(gateway: Gateway, data: bytes = CHAT) -> Stream:
    """A stream whose request went on to the provider."""
    stream = gateway.stream()
    await stream.ask(gateway.begin())
    reply = await stream.ask(body(data))
    assert reply.WhichOneof("response") == "request_body"
    return stream


def error_of(reply: pb.ProcessingResponse) -> tuple[int, dict, dict[str, str]]:
    """Status, body and headers of an immediate answer."""
    assert reply.WhichOneof("response") == "immediate_response", reply
    immediate = reply.immediate_response
    headers = {one.header.key: one.header.raw_value.decode() for one in immediate.headers.set_headers}
    return immediate.status.code, json.loads(immediate.body), headers


# ---- whole exchanges


async def test_a_whole_exchange(gateway: Gateway) -> None:
    """Headers, body, response headers, response body: each gets its reply, and one record sums them up."""
    stream = gateway.stream()
    first = await stream.ask(gateway.begin())
    commit = await stream.ask(body(CHAT))
    head = await stream.ask(answer(content_length=str(len(CHAT_ANSWER))))
    last = await stream.ask(piece(CHAT_ANSWER, end=True))
    status = await stream.end()

    kinds = [reply.WhichOneof("response") for reply in (first, commit, head, last)]
    assert kinds == ["request_headers", "request_body", "response_headers", "response_body"]
    common = commit.request_body.response
    assert common.clear_route_cache
    assert not common.HasField("body_mutation")
    assert "authorization" in common.header_mutation.remove_headers
    assert commit.dynamic_metadata["llm"]["decision"] == "allow"
    assert head.mode_override.response_body_mode == pb.ProcessingMode.BUFFERED
    assert last.dynamic_metadata["llm"]["tokens_out"] == 2
    assert status is grpc.StatusCode.OK
    (record,) = await gateway.books.wait(1)
    assert (record.outcome, record.team, record.usage_source) == (Outcome.OK, "demo", UsageSource.REPORTED)
    assert record.policy_seconds > 0
    assert gateway.host.open == gateway.books.now == 0


async def test_a_streamed_exchange_is_edited_there_and_back(gateway: Gateway) -> None:
    """Usage is asked for in the caller's place, and its traces are taken out again, whatever the pieces are."""
    asked, plain = chat_chunks(["Hel", "lo"], {"prompt_tokens": 9, "completion_tokens": 2, "total_tokens": 11})
    stream = gateway.stream()
    await stream.ask(gateway.begin())
    commit = await stream.ask(body(CHAT_STREAM))
    assert b'"include_usage":true' in commit.request_body.response.body_mutation.body
    await stream.ask(answer(content_type="text/event-stream"))
    got = b""
    pieces = [asked[start : start + 37] for start in range(0, len(asked), 37)]
    for data in pieces:
        common = (await stream.ask(piece(data))).response_body.response
        got += common.body_mutation.body if common.HasField("body_mutation") else data
    tail = (await stream.ask(piece(b"", end=True))).response_body.response
    got += tail.body_mutation.body
    await stream.end()

    assert got == plain
    (record,) = await gateway.books.wait(1)
    assert (record.usage_source, record.outcome) == (UsageSource.REPORTED, Outcome.OK)


async def test_a_refusal_is_an_answer_and_a_record(gateway: Gateway) -> None:
    """Without a key: the vendor's own error at once, and the refusal on record."""
    stream = gateway.stream()
    status, told, headers = error_of(await stream.ask(begin()))
    assert (status, headers["x-llm-error"]) == (401, "caller_missing_key")
    assert told["error"]["message"]
    assert await stream.end() is grpc.StatusCode.OK
    (record,) = await gateway.books.wait(1)
    assert (record.outcome, record.usage, record.status) == (Outcome.REFUSED, None, 401)


async def test_many_streams_at_once(gateway: Gateway) -> None:
    """A hundred exchanges side by side on one connection: each has its own replies and its own record."""

    async def one(number: int) -> None:
        data = CHAT.replace(b"hi there", b"hi %d" % number)
        stream = await requested(gateway, data)
        sized = CHAT_ANSWER.replace(b'"completion_tokens": 2', b'"completion_tokens": %d' % (number + 1))
        assert sized != CHAT_ANSWER or number == 1
        await stream.ask(answer(content_length=str(len(sized))))
        last = await stream.ask(piece(sized, end=True))
        assert last.dynamic_metadata["llm"]["tokens_out"] == number + 1
        assert await stream.end() is grpc.StatusCode.OK

    await asyncio.gather(*(one(number) for number in range(100)))
    records = await gateway.books.wait(100)
    assert sorted(record.usage.output for record in records if record.usage) == list(range(1, 101))
    assert len({record.id for record in records}) == 100
    assert gateway.books.now == 0


# ---- what must not hang, and must not pass


@pytest.mark.parametrize("hook", HOOKS[:3])
async def test_a_crash_before_the_answer_is_released_is_a_refusal(tmp_path: Path, hook: str) -> None:
    """The caller gets the vendor's error shape without detail; the log has the traceback, once; the record its error."""
    async with serving(tmp_path, crashing(hook)) as gateway:
        stream = gateway.stream()
        messages = [gateway.begin(), body(CHAT), answer(content_length=str(len(CHAT_ANSWER)))]
        with capture_logs() as logs:
            for message in messages[: HOOKS.index(hook)]:
                await stream.ask(message)
            status, told, headers = error_of(await stream.ask(messages[HOOKS.index(hook)]))
            assert await stream.end() is grpc.StatusCode.OK
            (record,) = await gateway.books.wait(1)

    assert (status, headers["x-llm-error"]) == (500, "gateway_error")
    assert told["error"]["type"]
    assert "secret" not in json.dumps(told)
    assert [line["event"] for line in logs if line["log_level"] == "error"] == ["policy crashed"]
    assert (record.outcome, record.error) == (Outcome.REFUSED, "gateway_error")


async def test_a_crash_in_a_running_stream_ends_it_with_an_error_event(tmp_path: Path) -> None:
    """Headers are out: the stream gets a last event in the vendor's shape; more from the provider is cut."""
    asked, _ = chat_chunks(["Hello"], None)
    async with serving(tmp_path, crashing("response_body")) as gateway:
        stream = await requested(gateway, CHAT_STREAM)
        await stream.ask(answer(content_type="text/event-stream"))
        reply = await stream.ask(piece(asked[:60]))
        last = reply.response_body.response.body_mutation.body
        await stream.say(piece(asked[60:]))
        status = await stream.status()
        (record,) = await gateway.books.wait(1)

    assert b'"error"' in last
    assert b"Hello" not in last
    assert status is grpc.StatusCode.CANCELLED
    assert (record.error, record.usage_source) == ("gateway_error", UsageSource.ESTIMATED)


@pytest.mark.parametrize("sent", [0, 1, 2])
@pytest.mark.parametrize("garbage", [b"\xff\xff\xff", b""], ids=["no-message", "no-phase"])
async def test_bytes_that_are_no_message_fail_closed(gateway: Gateway, garbage: bytes, sent: int) -> None:
    """The stream ends with INTERNAL, which Envoy turns into a refusal; what had begun is on record."""
    stream = gateway.stream()
    for message in [gateway.begin(), body(CHAT)][:sent]:
        await stream.ask(message)
    await stream.say(garbage)

    assert await stream.status() is grpc.StatusCode.INTERNAL
    if sent:
        await gateway.books.wait(1)
    assert len(gateway.books.records) == min(sent, 1)
    assert gateway.books.now == 0


@pytest.mark.parametrize(
    "order",
    [
        ["body"],
        ["begin", "begin"],
        ["begin", "body", "body"],
        ["begin", "body", "answer", "answer"],
        ["begin", "body", "piece"],
    ],
    ids="-".join,
)
async def test_the_wrong_order_fails_closed(gateway: Gateway, order: list[str]) -> None:
    """An event that may not come now ends the stream with INTERNAL."""
    messages = {"begin": gateway.begin(), "body": body(CHAT), "answer": answer(), "piece": piece(b"{}")}
    stream = gateway.stream()
    for name in order[:-1]:
        await stream.ask(messages[name])
    await stream.say(messages[order[-1]])

    assert await stream.status() is grpc.StatusCode.INTERNAL
    assert len(await gateway.books.wait(1)) == 1


async def test_a_message_over_the_limit_is_refused(tmp_path: Path) -> None:
    """gRPC refuses it before it is read; the exchange is on record, and the next one works."""
    async with serving(tmp_path, runtime(), max_message=64 * 1024) as gateway:
        stream = gateway.stream()
        await stream.ask(gateway.begin())
        await stream.say(body(b"x" * (64 * 1024 + (1 << 20) + 1)))
        status = await stream.status()
        await gateway.books.wait(1)
        again = await requested(gateway)
        await again.end()
        await gateway.books.wait(2)

    assert status is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert [record.outcome for record in gateway.books.records] == [Outcome.CUT_SHORT, Outcome.CUT_SHORT]


async def test_a_body_over_the_gateways_limit_gets_the_vendors_413(gateway: Gateway) -> None:
    """What fits the message but not gateway.yaml is refused in words."""
    stream = gateway.stream()
    await stream.ask(gateway.begin())
    status, _, headers = error_of(await stream.ask(body(b"x" * ((1 << 20) + 1))))

    assert (status, headers["x-llm-error"]) == (413, "caller_body_too_large")


# ---- the caller goes away


CANCEL_AT = {"headers": 1, "body": 2, "response-headers": 3, "response-body": 4}


@pytest.mark.parametrize("phase", CANCEL_AT)
async def test_a_cancelled_stream_is_on_record_once(gateway: Gateway, phase: str) -> None:
    """Wherever Envoy resets the stream: one record, and an estimate where the provider was reached."""
    asked, _ = chat_chunks(["Hel", "lo"], None)
    messages = [
        gateway.begin(),
        body(CHAT_STREAM),
        answer(content_type="text/event-stream"),
        piece(asked[: asked.index(b"\n\n") + 7]),
    ]
    stream = gateway.stream()
    for message in messages[: CANCEL_AT[phase]]:
        await stream.ask(message)
    stream.call.cancel()

    (record,) = await gateway.books.wait(1)
    assert record.outcome == Outcome.CUT_SHORT
    assert gateway.host.open == gateway.books.now == 0
    if phase == "headers":
        assert (record.usage, record.usage_source) == (None, UsageSource.NONE)
    else:
        assert record.usage_source == UsageSource.ESTIMATED
        assert record.usage is not None
        assert record.usage.input > 0
        assert record.usage.output == (1 if phase == "response-body" else 0)


async def test_a_stream_that_says_nothing_is_nothing(gateway: Gateway) -> None:
    """A stream without a message (a probe) leaves no record."""
    stream = gateway.stream()
    assert await stream.end() is grpc.StatusCode.OK
    assert gateway.books.records == []


# ---- drain


async def test_drain_lets_an_open_stream_finish(gateway: Gateway) -> None:
    """`stop` waits for what is open, takes nothing new, and the record is written."""
    stream = await requested(gateway)
    stopping = asyncio.ensure_future(gateway.server.stop(10))
    await asyncio.sleep(0.1)
    assert not stopping.done()
    await stream.ask(answer(content_length=str(len(CHAT_ANSWER))))
    last = await stream.ask(piece(CHAT_ANSWER, end=True))
    assert await stream.end() is grpc.StatusCode.OK
    await asyncio.wait_for(stopping, 5)

    assert last.dynamic_metadata["llm"]["final"] is True
    (record,) = await gateway.books.wait(1)
    assert record.outcome == Outcome.OK


async def test_a_drain_that_takes_too_long_ends_the_stream_with_a_record(gateway: Gateway) -> None:
    """After the grace the stream is cut; what was used is estimated and on record before `stop` returns."""
    stream = await requested(gateway)
    await asyncio.wait_for(gateway.server.stop(0.2), 5)

    assert await stream.status() is not grpc.StatusCode.OK
    (record,) = await gateway.books.wait(1)
    assert (record.outcome, record.usage_source) == (Outcome.CUT_SHORT, UsageSource.ESTIMATED)


async def test_health_follows_the_drain(gateway: Gateway) -> None:
    """SERVING while it serves, NOT_SERVING as soon as it drains, on the same connection as the exchanges."""
    assert await gateway.healthy() == SERVING
    assert await gateway.healthy("envoy.service.ext_proc.v3.ExternalProcessor") == SERVING
    stream = await requested(gateway)
    gateway.health.set(serving=False, detail="draining")

    assert await gateway.healthy() == NOT_SERVING
    await stream.end()
