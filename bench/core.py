"""The gateway's own work without gRPC and Envoy: the messages of one 2 KB call through codec, host, record and metrics.

Prints CPU µs per exchange, whole and by part: what the bare messages cost to parse, what all of it costs, and what it
costs with one part left out. `--profile` prints where the time goes. `core.py [--calls N] [--stream] [--size BYTES]`
"""

from __future__ import annotations

import argparse
import cProfile
import gc
import os
import pstats
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import uvloop
from load import Command
from prometheus_client import CollectorRegistry
from vendor import AFTER, BEFORE, JSON_ANSWER, USAGE, _event

from extproc.adapters._pb import extproc_pb2 as pb
from extproc.adapters.codec import ATTRIBUTES, Codec
from extproc.adapters.host import Host
from extproc.adapters.keys import Entry, FileKeyStore, Hasher, KeyTable, new_id, new_secret
from extproc.adapters.logs import LineWriter
from extproc.adapters.metrics import MetricsSink, share_values
from extproc.adapters.records import RecordLog
from extproc.adapters.tokens import Tokenizers
from extproc.config import load
from extproc.exchange.setup import Modes
from extproc.runtime import build

CONFIG = b"""
version: 1
providers:
  openai: {api: openai, hosts: [api.openai.com], credential: {env: X}}
  anthropic: {api: anthropic, hosts: [api.anthropic.com], credential: {env: X}}
keys: {file: keys.json, pepper: {env: X}}
access:
- {team: demo}
"""
REPETITIONS = 7


def _headers(pairs: list[tuple[str, str]], *, end: bool = False) -> Any:
    fields = [pb.HeaderValue(key=name, raw_value=value.encode()) for name, value in pairs]
    return pb.HttpHeaders(headers=pb.HeaderMap(headers=fields), end_of_stream=end)


def messages(key: str, size: int, *, stream: bool) -> list[bytes]:
    """What Envoy sends for one call."""
    command = Command(0, key, size, 1, 0, "x" if stream else "")
    head, _, body = command.request().partition(b"\r\n\r\n")
    given = [line.split(": ", 1) for line in head.decode().split("\r\n")[1:] if not line.startswith("host")]
    sent = [(":authority", "api.openai.com"), (":path", "/v1/chat/completions"), (":method", "POST")]
    sent += [(":scheme", "http"), *((name, value) for name, value in given)]
    sent += [("x-forwarded-proto", "http"), ("x-request-id", "1fd0a6e0-8f0e-4a5e-9c3c-2f6b3a0e7a10")]
    first = pb.ProcessingRequest(
        request_headers=_headers(sent),
        protocol_config=pb.ProtocolConfiguration(request_body_mode=pb.ProcessingMode.BUFFERED),
    )
    first.attributes[ATTRIBUTES].fields["source.address"].string_value = "127.0.0.1:41234"
    first.attributes[ATTRIBUTES].fields["xds.filter_chain_name"].string_value = "base_url"
    out = [first, pb.ProcessingRequest(request_body=pb.HttpBody(body=body, end_of_stream=True))]
    media = "text/event-stream" if stream else "application/json"
    answer = JSON_ANSWER.partition(b"\r\n\r\n")[2]
    returned = [(":status", "200"), ("content-type", media), ("x-envoy-upstream-service-time", "1")]
    if not stream:
        returned.append(("content-length", str(len(answer))))
    back = pb.ProcessingRequest(response_headers=_headers(returned))
    back.attributes[ATTRIBUTES].fields["response.code_details"].string_value = "via_upstream"
    out.append(back)
    pieces = [answer]
    if stream:
        pieces = [BEFORE + b"0" * 20 + AFTER] * 100 + [_event({}, USAGE) + b"data: [DONE]\n\n", b""]
    last = len(pieces) - 1
    out += [
        pb.ProcessingRequest(response_body=pb.HttpBody(body=piece, end_of_stream=number == last))
        for number, piece in enumerate(pieces)
    ]
    return [message.SerializeToString() for message in out]


def make_host(folder: Path, sinks: str, config: bytes = CONFIG) -> tuple[Host, str, MetricsSink]:
    """A host with one key, its key and its metrics. `sinks`: letters of what takes records: l (log), m (metrics)."""
    hasher = Hasher(os.urandom(32))
    store = FileKeyStore(hasher)
    identity = new_id()
    secret = new_secret(identity)
    entry = {"id": identity, "digest": hasher.digest(secret).hex(), "team": "demo", "app": "bench"}
    entry["created"] = "2026-01-01T00:00:00Z"
    import msgspec

    table = KeyTable(1, hasher.fingerprint, (msgspec.convert(entry, Entry),))
    store.apply(msgspec.json.encode(table))
    taken: list[Any] = []
    metrics = MetricsSink(CollectorRegistry(), 200)
    if "l" in sinks:
        taken.append(RecordLog(LineWriter(os.open(os.devnull, os.O_WRONLY))))
    if "m" in sinks:
        taken.append(metrics)
    host = Host(build(load(config, "gateway.yaml", base=folder)), store, Tokenizers(folder / "tiktoken"), tuple(taken))
    host.gauge = metrics
    return host, secret, metrics


async def exchange(host: Host, sent: list[bytes], *, encode: bool) -> None:
    """What the transport does with one stream, but for reading and writing."""
    codec = Codec()
    conversation = None
    for message in sent:
        now = time.monotonic()
        event = codec.decode(message, now)
        if conversation is None:
            conversation = host.begin(Modes(codec.request_mode, codec.response_mode), now)
        actions = await conversation.run(event)
        if encode:
            for action in actions:
                codec.encode(action)
    if conversation is not None:
        await conversation.close()


def decode_only(sent: list[bytes]) -> None:
    codec = Codec()
    for message in sent:
        codec.decode(message, 0.0)


async def timed(work: Callable[[], Any], calls: int) -> float:
    """CPU µs of one `work`: the median of some repetitions. The log's thread is in it."""
    found = []
    for _ in range(REPETITIONS):
        before = time.process_time_ns()
        for _ in range(calls):
            result = work()
            if result is not None:
                await result
        found.append((time.process_time_ns() - before) / calls / 1000)
    return median(found)


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--calls", type=int, default=1000)
    parser.add_argument("--size", type=int, default=2048)
    parser.add_argument("--stream", action="store_true")
    parser.add_argument("--profile", action="store_true")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        share_values(folder, "0")
        host, secret, _ = make_host(folder, "lm")
        sent = messages(secret, args.size, stream=args.stream)
        for _ in range(100):
            await exchange(host, sent, encode=True)
        gc.collect()
        gc.freeze()
        if args.profile:
            profile = cProfile.Profile()
            profile.enable()
            await timed(lambda: exchange(host, sent, encode=True), args.calls)
            profile.disable()
            pstats.Stats(profile).sort_stats("tottime").print_stats(60)
            return
        whole = await timed(lambda: exchange(host, sent, encode=True), args.calls)
        silent = await timed(lambda: exchange(host, sent, encode=False), args.calls)
        decoded = await timed(lambda: decode_only(sent), args.calls)
        print(f"messages {len(sent)}, bytes {sum(map(len, sent))}: CPU µs per exchange")
        print(f"  whole            {whole:8.1f}")
        print(f"  decode           {decoded:8.1f}")
        print(f"  encode           {whole - silent:8.1f}")
        for text, kept in (("record and its log", "m"), ("metrics", "l")):
            less, secret, _ = make_host(folder, kept)
            sent = messages(secret, args.size, stream=args.stream)
            cost = await timed(lambda host=less, sent=sent: exchange(host, sent, encode=True), args.calls)
            print(f"  {text:18}{whole - cost:7.1f}")


if __name__ == "__main__":
    uvloop.run(main())
