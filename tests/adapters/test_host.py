"""The host performs effects, publishes one record an exchange, and swaps configurations without touching open ones."""

from __future__ import annotations

import asyncio
import threading
import time
from pathlib import Path

import pytest

from adapters.envoyish import make_host
from extproc.adapters.host import Conversation, Host
from extproc.exchange.actions import Answer, ContinueBody, ContinueHeaders
from extproc.exchange.events import RequestBody, RequestHeaders
from extproc.exchange.facts import Outcome, UsageSource
from extproc.exchange.machine import Modes
from extproc.exchange.record import Record
from gateway import CONFIG, runtime
from talk import CHAT, headers

FAST = CHAT.replace(b"gpt-4o-mini", b"fast")


def opening(key: str) -> RequestHeaders:
    fields = ((":method", "POST"), (":path", "/v1/chat/completions"), (":authority", "api.openai.com"))
    return RequestHeaders(time.monotonic(), headers(*fields, ("authorization", f"Bearer {key}")), end=False)


def whole(data: bytes) -> RequestBody:
    return RequestBody(time.monotonic(), data, end=True)


def talk(host: Host) -> Conversation:
    return host.begin(Modes(), time.monotonic())


async def test_a_key_is_found_and_a_stranger_is_not(tmp_path: Path) -> None:
    """The effect `FindKey` looks in the live table."""
    host, _, key = make_host(tmp_path, runtime())
    known, unknown = talk(host), talk(host)

    assert isinstance((await known.run(opening(key)))[0], ContinueHeaders)
    (refusal,) = await unknown.run(opening(key[:-1] + ("a" if key[-1] != "a" else "b")))
    assert isinstance(refusal, Answer)
    assert refusal.status == 401
    await known.close()
    await unknown.close()


async def test_close_is_once(tmp_path: Path) -> None:
    """A second close does nothing: one record, and the count of open exchanges is right."""
    host, books, key = make_host(tmp_path, runtime())
    conversation = talk(host)
    assert (host.open, books.now) == (1, 1)
    await conversation.run(opening(key))
    await conversation.close()
    await conversation.close()

    assert (host.open, books.now, len(books.records)) == (0, 0, 1)


async def test_records_have_ids_of_their_own(tmp_path: Path) -> None:
    """Ids are made here, unique in the process, whatever the caller sends."""
    host, books, key = make_host(tmp_path, runtime())
    for _ in range(20):
        conversation = talk(host)
        await conversation.run(opening(key))
        await conversation.close()

    assert len({record.id for record in books.records}) == 20


async def test_an_exchange_keeps_the_configuration_that_it_began_with(tmp_path: Path) -> None:
    """A reload between headers and body: the open exchange resolves the old alias, the next one the new."""
    host, _, key = make_host(tmp_path, runtime())
    old = talk(host)
    await old.run(opening(key))
    changed = CONFIG.replace("fast: {provider: openai, model: gpt-4o-mini}", "fast: {provider: openai, model: gpt-4o}")
    assert changed != CONFIG
    host.current = runtime(changed)
    new = talk(host)
    await new.run(opening(key))
    sent = [(await conversation.run(whole(FAST)))[0] for conversation in (old, new)]

    bodies = [action.data for action in sent if isinstance(action, ContinueBody)]
    assert bodies == [FAST.replace(b"fast", b"gpt-4o-mini"), FAST.replace(b"fast", b"gpt-4o")]
    await old.close()
    await new.close()


async def test_tokens_are_counted_off_the_loop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The estimate of a cut call is counted in a thread: the loop has streams to serve."""
    host, books, key = make_host(tmp_path, runtime())
    threads: list[str] = []
    tokenizers = host._tokenizers
    count = tokenizers.count
    monkeypatch.setattr(
        type(tokenizers), "count", lambda _self, *args: threads.append(threading.current_thread().name) or count(*args)
    )
    conversation = talk(host)
    await conversation.run(opening(key))
    await conversation.run(whole(CHAT))
    await conversation.close()

    (record,) = books.records
    assert record.usage is not None
    assert record.usage.input > 0
    assert threads
    assert threading.current_thread().name not in threads


async def test_tokens_that_cannot_be_counted_cost_no_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where counting fails the record is written all the same, and a call that was made is not free."""
    host, books, key = make_host(tmp_path, runtime())

    def broken(*_: object) -> int:
        raise OSError("no ranks")

    monkeypatch.setattr(type(host._tokenizers), "count", broken)
    conversation = talk(host)
    await conversation.run(opening(key))
    await conversation.run(whole(CHAT))
    await conversation.close()

    (record,) = books.records
    assert (record.outcome, record.usage_source) == (Outcome.CUT_SHORT, UsageSource.ESTIMATED)
    assert record.usage is not None
    assert record.usage.input > 0


async def test_every_sink_gets_the_record(tmp_path: Path) -> None:
    """All sinks see the very same record."""
    host, books, key = make_host(tmp_path, runtime())
    more: list[Record] = []

    class Sink:
        def write(self, record: Record) -> None:
            more.append(record)

    host._sinks = (*host._sinks, Sink())
    conversation = talk(host)
    await conversation.run(opening(key))
    await conversation.close()

    assert more == books.records
    assert len(more) == 1


async def test_a_cancelled_close_still_publishes(tmp_path: Path) -> None:
    """The task that closes may be cancelled while tokens are counted (a second hang-up, a server that stops): the record comes."""
    host, books, key = make_host(tmp_path, runtime())
    conversation = talk(host)
    await conversation.run(opening(key))
    await conversation.run(whole(CHAT))
    closing = asyncio.ensure_future(conversation.close())
    await asyncio.sleep(0)
    closing.cancel()
    await asyncio.wait([closing])
    for _ in range(100):
        if books.records:
            break
        await asyncio.sleep(0.02)

    assert [record.outcome for record in books.records] == [Outcome.CUT_SHORT]
