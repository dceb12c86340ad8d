"""The host performs effects, publishes one record an exchange, and swaps configurations without touching open ones."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

import msgspec
import pytest

from adapters.envoyish import make_host
from extproc.adapters.host import Conversation, Host
from extproc.adapters.scans import Scans
from extproc.errors import EffectError, LimitsAwayError
from extproc.exchange.actions import Answer, ContinueBody, ContinueHeaders
from extproc.exchange.draft import Draft
from extproc.exchange.effects import Extend, FindEntities, FoundEntities, Reserve, Settle, Steps
from extproc.exchange.events import RequestBody, RequestHeaders
from extproc.exchange.facts import Facts, Outcome, UsageSource
from extproc.exchange.policy import Hooks, Policy
from extproc.exchange.record import Record
from extproc.exchange.setup import Modes, Setup
from extproc.limits.counters import Extended, Reserved
from extproc.text import Check, Finding, never
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


class Finder:
    """A scanner of capitals; `LONG` texts are for the thread."""

    version = b"capitals" * 2

    def __init__(self) -> None:
        self.threads: list[str] = []

    def scan(self, text: str, check: Check = never) -> tuple[Finding, ...]:
        check()
        self.threads.append(threading.current_thread().name)
        if "?" in text:
            raise ValueError(text)
        return tuple(Finding("CAPITAL", at, at + 1, 1.0) for at, one in enumerate(text) if one.isupper())

    def is_long(self, texts: Sequence[str]) -> bool:
        return "LONG" in texts


class Memory(dict[tuple[bytes, str], tuple[Finding, ...]]):
    """A cache without a bound."""

    def get(self, version: bytes, text: str) -> tuple[Finding, ...] | None:  # type: ignore[override]
        return super().get((version, text))

    def put(self, version: bytes, text: str, findings: tuple[Finding, ...]) -> None:
        self[version, text] = findings


def searching(texts: tuple[tuple[str, ...], ...], scanner: Finder) -> tuple[type[Policy], list[object]]:
    """A policy that asks for these searches one after the other at the headers, and what it was answered."""
    answers: list[object] = []

    class Ask(Policy):
        name: ClassVar[str] = "ask"

        def request_headers(self, facts: Facts, event: RequestHeaders, draft: Draft) -> Steps:
            for one in texts:
                try:
                    answers.append((yield FindEntities(scanner, one, 10.0)))
                except EffectError as error:
                    answers.append(error)

    return Ask, answers


def host_for(policy: type[Policy], folder: Path, scans: Scans | None) -> Host:
    given, books, _ = make_host(folder, runtime())
    compiled = msgspec.structs.replace(runtime(), setup=Setup((policy,), Hooks((policy,)), 1 << 20))
    return Host(compiled, given._keys, given._tokenizers, (books,), scans)


async def test_searches_are_performed_at_once_or_in_the_thread(tmp_path: Path) -> None:
    """Short ones without leaving the loop, long ones off it, in the order asked for; a failure is thrown into the policy."""
    scanner = Finder()
    scans = Scans(Memory())
    policy, answers = searching((("aB",), ("LONG", "aB"), ("what?",), ("LONG", "why?"), ("Z",)), scanner)
    conversation = talk(host_for(policy, tmp_path, scans))
    await conversation.run(opening("key"))
    await conversation.close()
    scans.close()

    first, second, third, fourth, fifth = answers
    assert isinstance(first, FoundEntities)
    assert isinstance(second, FoundEntities)
    assert isinstance(fifth, FoundEntities)
    assert [len(text) for text in (*first.findings, *second.findings, *fifth.findings)] == [1, 4, 1, 1]
    assert (second.cached, second.scanned) == (1, 1)
    assert all(isinstance(error, EffectError) and "?" not in str(error) for error in (third, fourth))
    main = threading.current_thread().name
    assert scanner.threads == [main, "scan_0", main, main, main]


async def test_known_and_short_texts_cost_no_coroutine(tmp_path: Path) -> None:
    """The whole exchange at the headers is done in one step of its coroutine."""
    scans = Scans(Memory())
    policy, answers = searching((("aB",), ("aB", "c")), Finder())
    conversation = talk(host_for(policy, tmp_path, scans))
    step = conversation.run(opening("key"))
    with pytest.raises(StopIteration) as done:
        step.send(None)
    assert isinstance(done.value.value[0], ContinueHeaders)
    assert len(answers) == 2
    await conversation.close()


async def test_without_anybody_to_search_nothing_passes(tmp_path: Path) -> None:
    """A worker that was made without scans fails the effect."""
    policy, answers = searching((("aB",),), Finder())
    conversation = talk(host_for(policy, tmp_path, None))
    await conversation.run(opening("key"))
    await conversation.close()
    assert [type(answer) for answer in answers] == [EffectError]


async def test_a_search_ahead_is_waited_for_by_nobody(tmp_path: Path) -> None:
    """Its answer is for the next call; what fails in it is nobody's error."""
    gate = asyncio.Event()
    done: list[str] = []

    class Later:
        def find(self, effect: FindEntities) -> object:
            async def search() -> FoundEntities:
                await gate.wait()
                done.append("searched")
                raise EffectError("late")

            return search()

    given, _, _ = make_host(tmp_path, runtime())
    host = Host(runtime(), given._keys, given._tokenizers, (), Later())
    effect = FindEntities(None, ("text",), 1.0, ahead=True)
    assert host.perform(effect) == FoundEntities(())
    gate.set()
    while not done:
        await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert not host._searches


class Limited:
    """Keeps what it is asked for; what holds is for the test to say."""

    def __init__(self) -> None:
        self.asked: list[Reserve | Extend | Settle] = []
        self.forgotten: list[str] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.error: EffectError | None = None

    async def reserve(self, effect: Reserve) -> Reserved:
        self.asked.append(effect)
        await self.gate.wait()
        if self.error is not None:
            raise self.error
        return Reserved(())

    def extend(self, effect: Extend) -> Extended:
        self.asked.append(effect)
        return Extended(effect.amounts)

    def settle(self, effect: Settle) -> None:
        self.asked.append(effect)

    def forget(self, identity: str) -> None:
        self.forgotten.append(identity)


def holding(answers: list[object]) -> type[Policy]:
    """A policy that reserves, extends and settles."""

    class Hold(Policy):
        name: ClassVar[str] = "hold"

        def request_headers(self, facts: Facts, event: RequestHeaders, draft: Draft) -> Steps:
            try:
                answers.append((yield Reserve(facts.origin.id, "default", ())))
                answers.append((yield Extend(facts.origin.id, (1,))))
            except EffectError as error:
                answers.append(error)

        def finish(self, facts: Facts) -> Steps:
            answers.append((yield Settle(facts.origin.id, (1,))))

    return Hold


async def test_limits_are_asked_and_settled_without_a_task(tmp_path: Path) -> None:
    """A reservation is waited for; growing and settling are done in the same step, so the record is there at once."""
    answers: list[object] = []
    host = host_for(holding(answers), tmp_path, None)
    limits = host.limits = Limited()
    conversation = talk(host)
    await conversation.run(opening("key"))
    conversation.end()

    assert answers == [Reserved(()), Extended((1,)), None]
    assert [type(effect) for effect in limits.asked] == [Reserve, Extend, Settle]
    assert {effect.id for effect in limits.asked} == {conversation._id}
    assert not host._settling
    assert len(host._records) == 1
    await host.settled()


async def test_a_failed_reservation_is_thrown_into_the_policy(tmp_path: Path) -> None:
    """It decides what that means."""
    answers: list[object] = []
    host = host_for(holding(answers), tmp_path, None)
    limits = host.limits = Limited()
    limits.error = LimitsAwayError("budget")
    conversation = talk(host)
    await conversation.run(opening("key"))
    await conversation.close()
    assert answers == [limits.error, None]


async def test_a_cancelled_reservation_is_told_of_it(tmp_path: Path) -> None:
    """The caller hangs up while it is waited for: the exchange ends and is settled all the same."""
    answers: list[object] = []
    host = host_for(holding(answers), tmp_path, None)
    limits = host.limits = Limited()
    limits.gate.clear()
    conversation = talk(host)
    running = asyncio.ensure_future(conversation.run(opening("key")))
    await asyncio.sleep(0)
    running.cancel()
    await asyncio.wait([running])
    await conversation.close()
    assert running.cancelled()
    assert [type(effect) for effect in limits.asked] == [Reserve, Settle]


async def test_a_crash_at_the_end_lets_go_of_what_is_held(tmp_path: Path) -> None:
    """Nobody settles it any more: whoever keeps limits is told that the exchange is over."""

    class Broken(Policy):
        name: ClassVar[str] = "broken"

        def request_headers(self, facts: Facts, event: RequestHeaders, draft: Draft) -> Steps:
            yield Reserve(facts.origin.id, "default", ())

        def finish(self, facts: Facts) -> Steps:
            raise KeyError("a bug")

    host = host_for(Broken, tmp_path, None)
    limits = host.limits = Limited()
    conversation = talk(host)
    await conversation.run(opening("key"))
    with pytest.raises(KeyError):
        conversation.end()
    assert limits.forgotten == []
    conversation.give_up()
    assert limits.forgotten == [conversation._id]
    host.flush()


async def test_a_crash_after_a_reservation_lets_go_of_it(tmp_path: Path) -> None:
    """The policy never heard that it holds: the end of the exchange lets go."""

    class Deaf(Limited):
        async def reserve(self, effect: Reserve) -> Reserved:
            await super().reserve(effect)
            raise KeyError("a bug")

    host = host_for(holding([]), tmp_path, None)
    limits = host.limits = Deaf()
    conversation = talk(host)
    with pytest.raises(KeyError):
        await conversation.run(opening("key"))
    conversation.fail()
    await conversation.close()
    assert limits.forgotten == [conversation._id]


async def test_without_limits_nothing_is_held(tmp_path: Path) -> None:
    """A worker that was made without fails the effect, which fails closed."""
    answers: list[object] = []
    conversation = talk(host_for(holding(answers), tmp_path, None))
    await conversation.run(opening("key"))
    await conversation.close()
    assert [type(answer) for answer in answers] == [EffectError]
