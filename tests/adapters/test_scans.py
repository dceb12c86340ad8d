"""Searches: known texts from memory, short ones at once, long ones in a thread; every end is findings or an error."""

from __future__ import annotations

import asyncio
import os
import re
import threading
from collections.abc import Callable, Coroutine, Iterator, Sequence
from pathlib import Path
from types import CoroutineType
from typing import NoReturn

import hyperscan
import phonenumbers
import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st

from extproc.adapters.logs import LineWriter, configure
from extproc.adapters.scans import MOST_ABANDONED, MOST_AHEAD, Scans, failures
from extproc.errors import BudgetExceededError, EffectError
from extproc.exchange.effects import FindEntities, FoundEntities, Scanner
from extproc.redaction.cache import FindingCache
from extproc.text import Check, Finding, never

WORD = re.compile("secret[a-z]*")
LONG = "x" * 50
SECONDS = 5.0


class Memory:
    """A cache without a bound."""

    def __init__(self) -> None:
        self.known: dict[tuple[bytes, str], tuple[Finding, ...]] = {}

    def get(self, version: bytes, text: str) -> tuple[Finding, ...] | None:
        return self.known.get((version, text))

    def put(self, version: bytes, text: str, findings: tuple[Finding, ...]) -> None:
        assert threading.current_thread() is threading.main_thread()
        self.known[version, text] = findings


class Words:
    """Finds `secret…`. Texts of 50 characters in sum are long. `during` runs within each search."""

    def __init__(self, during: Callable[[str, Check], object] = lambda _text, check: check()) -> None:
        self.version = b"v" * 16
        self.during = during
        self.seen: list[str] = []
        self.threads: set[str] = set()

    def scan(self, text: str, check: Check = never) -> tuple[Finding, ...]:
        self.seen.append(text)
        self.threads.add(threading.current_thread().name)
        self.during(text, check)
        return tuple(Finding("WORD", found.start(), found.end(), 1.0) for found in WORD.finditer(text))

    def is_long(self, texts: Sequence[str]) -> bool:
        return sum(map(len, texts)) >= 50


@pytest.fixture
def memory() -> Memory:
    return Memory()


@pytest.fixture
def scans(memory: Memory) -> Iterator[Scans]:
    made = Scans(memory, waiting=1)
    yield made
    made.close()


async def answer(scans: Scans, scanner: Scanner, *texts: str, budget: float = SECONDS) -> FoundEntities:
    found = scans.find(FindEntities(scanner, texts, budget))
    return await found if isinstance(found, CoroutineType) else found  # type: ignore[return-value]


async def until(true: Callable[[], bool]) -> None:
    """Wait for what another thread brings about."""
    async with asyncio.timeout(SECONDS):
        while not true():
            await asyncio.sleep(0.001)


async def soon(work: Coroutine[object, object, FoundEntities]) -> asyncio.Task[FoundEntities]:
    """A call that is under way."""
    task = asyncio.ensure_future(work)
    await asyncio.sleep(0)
    return task


def spin(_text: str, check: Check) -> None:
    """A search that only its check can end."""
    while True:
        check()


def test_short_texts_are_searched_at_once(scans: Scans) -> None:
    """No coroutine, no thread; findings come in the order of the texts, and the count is right."""
    scanner = Words()
    found = scans.find(FindEntities(scanner, ("a secret", "", "secrets of a secret"), SECONDS))
    assert isinstance(found, FoundEntities)
    assert [[(one.start, one.end) for one in text] for text in found.findings] == [[(2, 8)], [], [(0, 7), (13, 19)]]
    assert (found.cached, found.scanned) == (0, 3)
    assert found.seconds > 0
    assert scanner.threads == {threading.main_thread().name}


def test_a_known_text_is_not_searched_again(scans: Scans) -> None:
    """A chat sends its history again and again: only the new turn costs."""
    scanner = Words()
    scans.find(FindEntities(scanner, ("one secret", "two"), SECONDS))
    found = scans.find(FindEntities(scanner, ("one secret", "two", "three"), SECONDS))
    assert isinstance(found, FoundEntities)
    assert scanner.seen == ["one secret", "two", "three"]
    assert (found.cached, found.scanned, len(found.findings[0])) == (2, 1, 1)


def test_another_version_of_the_scanner_knows_nothing(scans: Scans) -> None:
    """A policy that was made stricter does not live on old findings."""
    old, new = Words(), Words()
    new.version = b"w" * 16
    scans.find(FindEntities(old, ("text",), SECONDS))
    scans.find(FindEntities(new, ("text",), SECONDS))
    assert new.seen == ["text"]


async def test_a_text_that_stands_twice_is_searched_once(scans: Scans) -> None:
    """At once or in the thread; each place gets its findings."""
    for text in ("secret", "secret" + LONG):
        scanner = Words()
        found = await answer(scans, scanner, text, text, text)
        assert (scanner.seen, len(found.findings)) == ([text], 3)
        assert found.findings[0] == found.findings[2] != ()
        assert (found.cached, found.scanned) == (2, 1)


async def test_long_texts_are_searched_off_the_loop(scans: Scans, memory: Memory) -> None:
    """In the one thread, known ones from memory; what was found is remembered, from the loop."""
    scanner = Words()
    await answer(scans, scanner, "secret")
    found = await answer(scans, scanner, LONG + "secret", "secret", LONG)
    assert scanner.threads == {threading.main_thread().name, "scan_0"}
    assert [len(text) for text in found.findings] == [1, 1, 0]
    assert (found.cached, found.scanned) == (1, 2)
    assert len(memory.known) == 3


async def test_calls_with_the_same_new_text_share_one_search(scans: Scans) -> None:
    """A prompt that a hundred callers send at once is searched once."""
    gate = threading.Event()
    scanner = Words(lambda _text, _check: gate.wait(SECONDS))
    first = await soon(answer(scans, scanner, LONG + "secret"))
    others = [await soon(answer(scans, scanner, LONG + "secret", "secret")) for _ in range(3)]
    gate.set()
    found = await asyncio.gather(first, *others)
    assert scanner.seen == [LONG + "secret", "secret"]
    assert [len(one.findings) for one in found] == [1, 2, 2, 2]
    assert all(text for one in found for text in one.findings)


async def test_who_joins_with_more_time_gets_it(scans: Scans) -> None:
    """The first call gives up; its search goes on for the second, and is not begun anew."""
    gate = threading.Event()

    def work(_text: str, check: Check) -> None:
        while not gate.is_set():
            check()

    scanner = Words(work)
    hasty = await soon(answer(scans, scanner, LONG, budget=0.02))
    patient = await soon(answer(scans, scanner, LONG))
    with pytest.raises(BudgetExceededError):
        await hasty
    gate.set()
    assert (await patient).scanned == 1
    assert scanner.seen == [LONG]


def test_a_short_search_over_its_budget_is_an_error(scans: Scans, memory: Memory) -> None:
    """The check of what runs on the loop has the budget too; what was found before is kept."""
    scanner = Words(lambda text, check: spin(text, check) if text == "b" else None)
    with pytest.raises(BudgetExceededError):
        scans.find(FindEntities(scanner, ("a", "b", "c"), 0.01))
    assert scanner.seen == ["a", "b"]
    assert {text for _, text in memory.known} == {"a"}


async def test_an_abandoned_search_ends_itself(scans: Scans, memory: Memory) -> None:
    """At its later limit; texts that were done are remembered, and one that was not fails for all that wait."""
    scanner = Words(lambda text, check: spin(text, check) if text != LONG else None)
    with pytest.raises(BudgetExceededError):
        await answer(scans, scanner, LONG, LONG + "never", budget=0.01)
    await until(lambda: not scans._jobs)
    assert {text for _, text in memory.known} == {LONG}
    assert (await answer(scans, Words(), LONG + "secret")).scanned == 1


async def test_a_result_that_comes_too_late_is_remembered(scans: Scans) -> None:
    """The caller was refused; when it calls again the answer is there."""
    gate = threading.Event()
    scanner = Words(lambda _text, _check: gate.wait(SECONDS))
    with pytest.raises(BudgetExceededError):
        await answer(scans, scanner, LONG + "secret", budget=0.5)
    gate.set()
    await until(lambda: not scans._jobs)
    found = scans.find(FindEntities(scanner, (LONG + "secret",), 0.001))
    assert isinstance(found, FoundEntities)
    assert (len(found.findings[0]), found.cached) == (1, 1)


async def test_a_caller_that_hangs_up_takes_nothing_along(scans: Scans) -> None:
    """Its search is finished for those who wait with it."""
    gate = threading.Event()
    scanner = Words(lambda _text, _check: gate.wait(SECONDS))
    gone = await soon(answer(scans, scanner, LONG))
    stays = await soon(answer(scans, scanner, LONG))
    gone.cancel()
    with pytest.raises(asyncio.CancelledError):
        await gone
    gate.set()
    assert (await stays).scanned == 1


async def test_waiting_counts_and_the_queue_has_an_end(scans: Scans) -> None:
    """One search under way and one waiting is all: the third is refused at once, the second when its time is over."""
    gate = threading.Event()
    scanner = Words(lambda _text, _check: gate.wait(SECONDS))
    first = await soon(answer(scans, scanner, LONG))
    second = await soon(answer(scans, scanner, LONG + "2", budget=0.05))
    with pytest.raises(BudgetExceededError, match="wait"):
        await answer(scans, scanner, LONG + "3", budget=1000)
    assert (await answer(scans, Words(), "short")).scanned == 1  # short ones need no thread
    with pytest.raises(BudgetExceededError, match="too long"):
        await second
    gate.set()
    await first
    await until(lambda: not scans._jobs)
    assert scanner.seen == [LONG, LONG + "2"]  # the second went on, for when its caller tries again
    assert (await answer(scans, scanner, LONG + "3")).scanned == 1


class Unheard(Exception):
    """Of no kind that is known to be a detector's."""


KNOWN = [RuntimeError, ValueError, MemoryError, KeyError, RecursionError, UnicodeError, OSError, hyperscan.error]
TEXT = "the " + "value " * 3


def broken(kind: type[BaseException]) -> Words:
    def fail(text: str, _check: Check) -> None:
        if kind is phonenumbers.NumberParseException:
            raise phonenumbers.NumberParseException(0, text)
        raise kind(text)

    return Words(fail)


@pytest.mark.parametrize("kind", [*KNOWN, phonenumbers.NumberParseException])
async def test_a_detector_that_fails_fails_the_search(scans: Scans, kind: type[Exception], memory: Memory) -> None:
    """On the loop and in the thread alike; nothing is remembered, and the next search is not disturbed."""
    for text in (TEXT, TEXT + LONG):
        with pytest.raises(EffectError, match=kind.__name__) as caught:
            await answer(scans, broken(kind), text)
        assert not isinstance(caught.value, BudgetExceededError)
    assert memory.known == {}
    assert (await answer(scans, Words(), LONG)).scanned == 1


@pytest.mark.parametrize("kind", [Unheard, SystemExit, KeyboardInterrupt])
async def test_whatever_ends_the_thread_s_work_fails_the_search(scans: Scans, kind: type[BaseException]) -> None:
    """Nobody waits for ever, and no text passes."""
    with pytest.raises(EffectError, match=kind.__name__):
        await answer(scans, broken(kind), LONG)
    assert (await answer(scans, Words(), LONG)).scanned == 1


@pytest.mark.parametrize("broken_call", ["get", "put"])
async def test_a_cache_that_fails_fails_the_search(broken_call: str) -> None:
    """What is remembered cannot be trusted then: no text passes on the strength of it, and nobody waits for ever."""

    class Torn(Memory):
        def get(self, version: bytes, text: str) -> tuple[Finding, ...] | None:
            if broken_call == "get":
                self.fail()
            return None

        def put(self, version: bytes, text: str, findings: tuple[Finding, ...]) -> None:
            self.fail()

        def fail(self) -> NoReturn:
            raise ValueError("torn")

    scans = Scans(Torn())
    for text in ("short", LONG):
        with pytest.raises(EffectError, match="ValueError"):
            await answer(scans, Words(), text)
    scans.close()


def test_on_the_loop_a_bug_is_not_taken_for_a_detector_s_failure(scans: Scans) -> None:
    """What is of no known kind goes up, where the call is refused as crashed, whatever the policy of failures is."""
    assert not issubclass(Unheard, failures())
    with pytest.raises(Unheard):
        scans.find(FindEntities(broken(Unheard), ("x",), SECONDS))


async def test_nothing_that_is_said_holds_a_text(tmp_path: Path, memory: Memory) -> None:
    """Log lines, errors and what hangs on them, and the effect's own words: type and place only."""
    value = "alice@corp.example"
    fd = os.open(tmp_path / "log", os.O_WRONLY | os.O_CREAT)
    writer = LineWriter(fd)
    configure("json", "debug", writer)
    said = []
    scans = Scans(memory)  # its log is the one that was just set up
    try:
        for text in (value, value + LONG):
            for kind in (ValueError, KeyError, hyperscan.error):
                with pytest.raises(EffectError) as caught:
                    await answer(scans, broken(kind), text)
                error: BaseException | None = caught.value
                while error is not None:
                    said.append(f"{error!r} {error}")
                    error = error.__cause__ or error.__context__
            said.append(repr(FindEntities(Words(), (text,), 1.0)))
    finally:
        scans.close()
        writer.close()
        os.close(fd)
        structlog.reset_defaults()
    log = (tmp_path / "log").read_text()
    assert log.count("a search failed") == 6
    assert "test_scans.py:" in log
    assert "FindEntities(1 texts)" in said
    assert not [words for words in (*said, log) if value in words or "corp.example" in words]


async def test_the_real_cache_remembers() -> None:
    """The second time nothing is searched; findings are the same."""
    scans = Scans(FindingCache(1 << 16, os.urandom(16)))
    scanner = Words()
    first = await answer(scans, scanner, "a secret", LONG)
    second = await answer(scans, scanner, "a secret", LONG)
    scans.close()
    assert scanner.seen == ["a secret", LONG]
    assert first.findings == second.findings
    assert (second.cached, second.scanned) == (2, 0)


async def test_close_ends_the_thread(memory: Memory) -> None:
    """The search under way and the one that waits fail; a later one is refused; no thread is left."""
    scans = Scans(memory)
    begun = threading.Event()

    def work(text: str, check: Check) -> None:
        begun.set()
        spin(text, check)

    scanner = Words(work)
    running = await soon(answer(scans, scanner, LONG))
    waiting = await soon(answer(scans, scanner, LONG + "2"))
    await until(begun.is_set)
    scans.close()
    for task in (running, waiting):
        with pytest.raises(EffectError):
            await task
    with pytest.raises(EffectError, match="no thread"):
        await answer(scans, Words(), LONG)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("scan_")]


async def test_a_thread_is_made_when_it_is_needed(memory: Memory) -> None:
    """A worker without long texts has none."""
    scans = Scans(memory)
    await answer(scans, Words(), "short")
    assert scans._executor is None
    scans.close()
    with pytest.raises(EffectError, match="no thread"):
        await answer(scans, Words(), LONG)
    assert scans._executor is None


words = st.text("secrt ", max_size=40)


@given(st.lists(st.lists(words, max_size=6), max_size=4))
def test_the_answer_is_the_same_by_any_way(calls: list[list[str]]) -> None:
    """Known, searched at once, searched in the thread, twice in a call: findings are those of a plain search."""

    async def main() -> None:
        scans = Scans(Memory())
        scanner = Words()
        try:
            for texts in calls:
                found = await answer(scans, scanner, *texts)
                assert list(found.findings) == [Words().scan(text) for text in texts]
                assert found.cached + found.scanned == len(texts)
        finally:
            scans.close()
        assert len(scanner.seen) == len(set(scanner.seen))

    asyncio.run(main())


async def test_a_search_ahead_never_holds_the_loop(scans: Scans) -> None:
    """However short: it goes to the thread, and the next call knows."""
    scanner = Words(lambda _text, _check: None)
    waiting = scans.find(FindEntities(scanner, ("a secret",), 1.0, ahead=True))
    assert asyncio.iscoroutine(waiting)
    await waiting
    found = scans.find(FindEntities(scanner, ("a secret",), 1.0))
    assert isinstance(found, FoundEntities)
    assert found.cached == 1


async def test_the_thread_is_warmed_up(scans: Scans) -> None:
    """It has scanned once before the first call; a scanner that fails there is no error."""
    threads: list[str] = []
    scans.warm([Words(lambda _text, _check: threads.append(threading.current_thread().name))], "text")
    await until(lambda: threads != [])
    assert threads[0].startswith("scan")


class Gated:
    """A scanner whose searches wait, checking, until their text is let go; `begun` and `ended` tell the order."""

    def __init__(self) -> None:
        self.begun: list[str] = []
        self.ended: list[str] = []
        self.open: set[str] = set()
        self.scanner = Words(self.during)

    def during(self, text: str, check: Check) -> None:
        self.begun.append(text)
        while text not in self.open:
            check()
        self.ended.append(text)


def long(name: str, times: int = 1) -> str:
    return name + LONG * times


async def test_who_tries_again_joins_the_search(scans: Scans) -> None:
    """A text that takes longer than a budget gets through in the end, searched once."""
    gated = Gated()
    text = long("secret")
    for _ in range(3):
        with pytest.raises(BudgetExceededError):
            await answer(scans, gated.scanner, text, budget=0.05)
    again = await soon(answer(scans, gated.scanner, text))
    gated.open.add(text)
    assert len((await again).findings[0]) == 1
    assert gated.begun == [text]


async def test_abandoned_searches_are_few(memory: Memory) -> None:
    """One more ends the largest; those that are left go on."""
    scans = Scans(memory)
    gated = Gated()
    texts = [long(str(number), 1 + number % 5) for number in range(MOST_ABANDONED + 2)]
    calls = [await soon(answer(scans, gated.scanner, text, budget=SECONDS)) for text in texts]
    await until(lambda: gated.begun != [])
    for call in calls:
        call.cancel()
    await asyncio.gather(*calls, return_exceptions=True)
    gated.open.update(texts)
    await until(lambda: not scans._jobs)
    left = sorted(texts, key=len)[:MOST_ABANDONED]
    assert {text for _, text in memory.known} == set(left)
    scans.close()


async def test_a_small_search_interrupts_a_large_one() -> None:
    """Within one text even, and whatever becomes of it; the large one goes on where it was."""
    scans = Scans(Memory())
    gated = Gated()
    large, small = long("large", 20), long("small")
    first = await soon(answer(scans, gated.scanner, large))
    await until(lambda: gated.begun == [large])
    gated.open.add(small)
    assert (await answer(scans, gated.scanner, small)).scanned == 1
    with pytest.raises(EffectError, match="SystemExit"):
        await answer(scans, broken(SystemExit), long("bad"))
    assert not first.done()
    gated.open.add(large)
    assert (await first).scanned == 1
    assert (gated.begun, gated.ended) == ([large, small], [small, large])
    scans.close()


async def test_alike_ones_wait_for_the_end_of_a_text() -> None:
    """Between two texts the smaller search goes first, within one it does not."""
    scans = Scans(Memory())
    gated = Gated()
    texts = [long("a", 3), long("bb", 3), long("ccc", 3)]
    large = await soon(answer(scans, gated.scanner, *reversed(texts)))
    await until(lambda: gated.begun == texts[:1])
    small = await soon(answer(scans, gated.scanner, long("d", 3)))
    gated.open.update((long("d", 3), *texts))
    await asyncio.gather(large, small)
    assert gated.begun == [texts[0], long("d", 3), *texts[1:]]
    scans.close()


async def test_the_smallest_that_somebody_waits_for_comes_first() -> None:
    """Then what is searched ahead; what nobody waits for any more comes last."""
    scans = Scans(Memory())
    gated = Gated()
    first = await soon(answer(scans, gated.scanner, long("first")))
    await until(lambda: gated.begun != [])
    gone = await soon(answer(scans, gated.scanner, long("gone")))
    gone.cancel()
    await asyncio.gather(gone, return_exceptions=True)
    ahead = scans.find(FindEntities(gated.scanner, ("ahead",), SECONDS, ahead=True))
    assert isinstance(ahead, CoroutineType)
    calls = [await soon(ahead)]
    calls += [await soon(answer(scans, gated.scanner, long(name, times))) for name, times in (("l", 9), ("m", 3))]
    order = [long("first"), long("m", 3), long("l", 9), "ahead", long("gone")]
    gated.open.update(order)
    await asyncio.gather(first, *calls)
    await until(lambda: not scans._jobs)
    assert gated.ended == order
    scans.close()


async def test_an_abandoned_search_makes_way_for_what_it_interrupted() -> None:
    """When somebody waits for that again; what it had finished is not searched twice."""
    scans = Scans(Memory())
    gated = Gated()
    large, small, rest = long("large", 20), long("small"), long("small, rest", 2)
    with pytest.raises(BudgetExceededError):
        await answer(scans, gated.scanner, large, budget=0.3)
    gated.open.add(small)
    task = await soon(answer(scans, gated.scanner, small, rest))
    await until(lambda: gated.begun == [large, small, rest])
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    again = await soon(answer(scans, gated.scanner, large))
    gated.open.add(large)
    await again
    gated.open.add(rest)
    assert (await answer(scans, gated.scanner, small, rest)).scanned == 2
    assert gated.begun == [large, small, rest, rest]
    assert gated.ended == [small, large, rest]
    scans.close()


async def test_a_shared_text_is_known_before_the_search_ends(scans: Scans) -> None:
    """Short texts of a search come first, and who needs no more than those waits for no more."""
    gated = Gated()
    prompt, document = long("secret prompt"), long("document", 30)
    first = await soon(answer(scans, gated.scanner, document, prompt))
    await until(lambda: gated.begun == [prompt])
    second = await soon(answer(scans, gated.scanner, prompt))
    gated.open.add(prompt)
    assert len((await second).findings[0]) == 1
    await until(lambda: gated.begun == [prompt, document])
    assert (await answer(scans, gated.scanner, prompt)).scanned == 1
    assert not first.done()
    gated.open.add(document)
    assert len((await first).findings[1]) == 1
    assert gated.begun == [prompt, document]


async def test_searches_ahead_are_few_and_take_no_caller_s_place(scans: Scans) -> None:
    """More of them are refused; callers have all their places."""
    gated = Gated()
    works = [scans.find(FindEntities(gated.scanner, (str(at),), SECONDS, ahead=True)) for at in range(MOST_AHEAD + 1)]
    *ahead, last = [await soon(work) for work in works if isinstance(work, CoroutineType)]
    with pytest.raises(BudgetExceededError, match="wait"):
        await last
    calls = [await soon(answer(scans, gated.scanner, long(name))) for name in "ab"]
    gated.open.update((long("a"), long("b"), "0", "1"))
    assert [found.scanned for found in await asyncio.gather(*calls, *ahead)] == [1] * 4
