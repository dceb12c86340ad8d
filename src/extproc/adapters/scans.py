"""Finds entities for the exchanges of one worker: known texts from memory, short ones at once, long ones in a thread.

Nothing here ever skips a text: a search ends with findings for every text, or with an error. What a detector raises is
told by the name of its type and the place in the code; messages of exceptions may hold a piece of the text.

The thread takes searches that a caller waits for before those that are made ahead, and those before the ones that
every caller gave up; among equals the smallest. One that came later and goes before runs within the other's next check.
A caller waits as long as its budget says. Its search goes on after that, to a later limit: a caller that tries again
joins it, or finds what it found.
"""

from __future__ import annotations

import asyncio
import os
import sys
import threading
import time
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from typing import Final, Protocol

import structlog

from extproc.adapters.crashes import places
from extproc.errors import BudgetExceededError, EffectError
from extproc.exchange.effects import FindEntities, FoundEntities, Scanner
from extproc.text import Finding

MAX_WAITING: Final = 32
"""Searches that callers may have waiting: with a budget of 250 ms those behind would be over time before they begin."""
MOST_ABANDONED: Final = 4
"""Searches that go on with nobody waiting; they hold texts, and one more ends the largest of them."""
MOST_AHEAD: Final = 2
"""Searches ahead that wait for the thread or are at work."""
_LONGER: Final = 20  # times the budget: how long a search may be at work
_LONGEST: Final = 10.0  # seconds of work, but for a larger budget
_EACH: Final = 150  # characters that a text costs beside its own
_DEEPEST: Final = 4  # searches within each other
_MUCH_SMALLER: Final = 4  # how many times smaller a search is that may interrupt another within a text

_OWN: Final = (
    *(ArithmeticError, AssertionError, AttributeError, BufferError, EOFError, ImportError, LookupError, MemoryError),
    *(NameError, OSError, ReferenceError, RuntimeError, TypeError, ValueError),
)
# exceptions of the detectors' libraries that descend from none of these: (module, name)
_FOREIGN: Final = (
    *(("hyperscan", "error"), ("hyperscan", "HyperscanError")),
    *(("re", "error"), ("regex", "error"), ("re2", "error"), ("phonenumbers", "NumberParseException")),
    *(
        ("onnxruntime.capi.onnxruntime_pybind11_state", name)
        for name in (
            *("Fail", "InvalidArgument", "NoSuchFile", "NoModel", "EngineError", "RuntimeException"),
            *("InvalidProtobuf", "ModelLoaded", "NotImplemented", "InvalidGraph", "EPFail"),
        )
    ),
)

_Found = tuple[Finding, ...]
_Key = tuple[bytes, str]
_NICE: Final = 5  # setpriority(2): of the thread alone, on Linux


class Cache(Protocol):
    """Findings by the text they are in. Used from the event loop only."""

    def get(self, version: bytes, text: str) -> _Found | None:
        """What a scanner of this version found in the text; None where that is not known."""

    def put(self, version: bytes, text: str, findings: _Found) -> None:
        """Remember."""


def failures() -> tuple[type[BaseException], ...]:
    """What detectors may raise. Libraries that are not loaded have raised nothing, and are not loaded for this."""
    found = [getattr(sys.modules.get(module), name, None) for module, name in _FOREIGN]
    return (*_OWN, *(one for one in found if isinstance(one, type) and issubclass(one, BaseException)))


class _SetBackError(BudgetExceededError):
    """A search that nobody waits for stands in the way of one that somebody waits for."""


class _Outcome:
    """Takes whatever ends a search, so that it ends no other one, nor the thread."""

    error: BaseException | None = None

    def __enter__(self) -> None:
        """Begin."""

    def __exit__(self, _kind: object, error: BaseException | None, _traceback: object) -> bool:
        self.error = error
        return True


class _Job:
    """One search in the thread. `found` grows with the texts; what is there when the search fails is kept too."""

    def __init__(self, effect: FindEntities, texts: Sequence[str]) -> None:
        self.scanner: Final = effect.scanner
        self.texts: Final = sorted(texts, key=len)  # who waits for a short one of them need not wait for the long ones
        self.left = sum(map(len, texts)) + _EACH * len(texts)  # characters
        self.ahead: Final = effect.ahead
        self.waiters = 0 if effect.ahead else 1  # callers
        self.limit = _limit(effect)  # seconds at work
        self.began = 0.0  # perf_counter seconds, as if it had not been interrupted
        self.spent = 0.0  # seconds at work, when it was set back
        self.found: dict[str, _Found] = {}
        self.error: EffectError | None = None
        self.watched: dict[str, asyncio.Future[None]] = {}  # texts that callers of other searches wait for too
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    @property
    def rank(self) -> int:
        """0: somebody waits for it; 1: ahead; 2: abandoned."""
        return 0 if self.waiters else 1 if self.ahead else 2

    def goes_before(self, other: _Job, times: int) -> bool:
        """Whether it may interrupt another one: it matters more, or is so many times smaller."""
        rank = self.rank - other.rank
        return rank < 0 or (rank == 0 and self.left * times < other.left)

    def watch(self, text: str) -> asyncio.Future[None] | None:
        """What is done when this text is, or the whole search; None where the text is done."""
        future = self.watched.setdefault(text, self.done.get_loop().create_future())
        return None if text in self.found else future

    def tell(self, text: str) -> None:
        """On the loop: a text is done."""
        future = self.watched.pop(text, None)
        if future is not None:
            future.set_result(None)

    def finish(self) -> None:
        """On the loop: all is done, or nothing more will be."""
        for text in list(self.watched):
            self.tell(text)
        self.done.set_result(None)


class _Queue:
    """Which search the thread does next. `finished` is called on the loop, with what ended the search early or None."""

    def __init__(self, finished: Callable[[_Job, BaseException | None], None]) -> None:
        self._finished: Final = finished
        self._lock: Final = threading.Lock()
        self._waiting: list[_Job] = []
        self._at_work: list[_Job] = []  # each was interrupted by the next; the thread's own
        self.closing = False

    def put(self, job: _Job) -> None:
        """Let it wait for its turn."""
        with self._lock:
            self._waiting.append(job)

    def remove(self, job: _Job) -> bool:
        """Take it out again; false where it is at work, or was."""
        with self._lock:
            if job not in self._waiting:
                return False
            self._waiting.remove(job)
            return True

    def work(self) -> None:
        """In the thread: search until nothing waits."""
        while (job := self._next(None, 1)) is not None:
            self._run(job)

    def _next(self, than: _Job | None, times: int) -> _Job | None:
        if not self._waiting:
            return None
        with self._lock:
            best = min(self._waiting, key=lambda job: (job.rank, job.left), default=None)
            if best is None or (than is not None and not best.goes_before(than, times)):
                return None
            self._waiting.remove(best)
            return best

    def _run(self, job: _Job) -> None:
        job.began = time.perf_counter() - job.spent
        self._at_work.append(job)
        outcome = _Outcome()
        with outcome:
            self._search(job)
        self._at_work.pop()
        if isinstance(outcome.error, _SetBackError):
            job.spent = time.perf_counter() - job.began
            self.put(job)
            return
        self._on_loop(job, partial(self._finished, job, outcome.error))

    def _search(self, job: _Job) -> None:
        within = partial(self._check, job, _MUCH_SMALLER)
        for text in job.texts:
            if text in job.found:  # before it was set back
                continue
            self._check(job, 1)
            job.found[text] = job.scanner.scan(text, within)
            job.left -= len(text) + _EACH
            if text in job.watched:
                self._on_loop(job, partial(job.tell, text))

    def _check(self, job: _Job, times: int) -> None:
        """End a search that is over its limit; let those in that go before it."""
        if self.closing or time.perf_counter() - job.began > job.limit:
            raise BudgetExceededError("the search took too long")
        if len(self._at_work) > 1 and job.rank and any(below.rank < job.rank for below in self._at_work):
            raise _SetBackError
        while len(self._at_work) < _DEEPEST and (other := self._next(job, times)) is not None:
            interrupted = time.perf_counter()
            self._run(other)
            job.began += time.perf_counter() - interrupted

    @staticmethod
    def _on_loop(job: _Job, call: Callable[[], None]) -> None:
        with suppress(RuntimeError):  # the loop is closed: nobody waits
            job.done.get_loop().call_soon_threadsafe(call)


class Scans:
    """Performs `FindEntities`. Made and used on the event loop's thread; `close` ends the thread of the long ones.

    A scanner may be at work on the loop and in the thread at the same time.
    """

    def __init__(self, cache: Cache, *, waiting: int = MAX_WAITING) -> None:
        """`waiting`: how many searches may wait for the thread; one more is refused as over its budget."""
        self._cache = cache
        self._limit = waiting + 1
        self._pending: dict[_Key, _Job] = {}
        self._jobs: set[_Job] = set()
        self._queue = _Queue(self._finished)
        self._executor: ThreadPoolExecutor | None = None
        self._log = structlog.get_logger("extproc.scans")

    def find(self, effect: FindEntities) -> FoundEntities | Coroutine[object, object, FoundEntities]:
        """The answer, where it is known or soon found; else a coroutine that waits for it.

        Both raise `BudgetExceededError` where the budget is over, `EffectError` where a detector failed.
        """
        began = time.perf_counter()
        scanner = effect.scanner
        try:
            version, get = scanner.version, self._cache.get
            known = {text: get(version, text) for text in dict.fromkeys(effect.texts)}
            missing = [text for text, findings in known.items() if findings is None]
            if missing and (effect.ahead or scanner.is_long(missing)):
                return self._wait(effect, known, missing, began)
            self._scan_now(scanner, known, missing, began + effect.budget)
        except failures() as error:
            failed = self._failed(error)
        else:
            return _answer(effect, known, len(missing), began)
        raise failed  # out here, so that it does not carry the other with it

    def warm(self, scanners: Sequence[Scanner], text: str) -> None:
        """Let the thread load what it needs, so that no call's budget pays for it; done when the next search begins."""
        for scanner in scanners:
            with suppress(RuntimeError):  # no thread: the first long search will say so
                self._thread().submit(scanner.scan, text)

    def _thread(self) -> ThreadPoolExecutor:
        if self._executor is None:
            self._executor = ThreadPoolExecutor(1, thread_name_prefix="scan", initializer=_yield_to_the_loop)
        return self._executor

    def close(self) -> None:
        """End the thread. A search that is under way fails at its next check; so does one that waits."""
        self._queue.closing = True
        if self._executor is not None:
            self._executor.shutdown(wait=True, cancel_futures=True)
        self._queue.work()

    def _scan_now(self, scanner: Scanner, known: dict[str, _Found | None], texts: list[str], end: float) -> None:
        """Search on the loop."""

        def check() -> None:
            if time.perf_counter() > end:
                raise BudgetExceededError("the search took too long")

        for text in texts:
            known[text] = findings = scanner.scan(text, check)
            self._cache.put(scanner.version, text, findings)

    async def _wait(
        self, effect: FindEntities, known: dict[str, _Found | None], texts: list[str], began: float
    ) -> FoundEntities:
        """Search in the thread, together with calls that wait for the same texts already."""
        end = began + effect.budget
        version = effect.scanner.version
        jobs = {text: job for text in texts if (job := self._pending.get((version, text))) is not None}
        joined = set(jobs.values())
        waits = {future for text, job in jobs.items() if (future := job.watch(text)) is not None}
        rest = [text for text in texts if text not in jobs]
        if rest:
            own = self._submit(_Job(effect, rest))
            waits.add(own.done)
            jobs.update(dict.fromkeys(rest, own))
        for job in joined:
            job.waiters += not effect.ahead
            job.limit = max(job.limit, _limit(effect))
        try:
            undone = (await asyncio.wait(waits, timeout=max(0.0, end - time.perf_counter())))[1] if waits else ()
        finally:
            for job in set(jobs.values()):
                job.waiters -= not effect.ahead
            self._drop_one()
        if undone:
            raise BudgetExceededError("the search took too long")
        for text, job in jobs.items():
            known[text] = _result(job, text)
        return _answer(effect, known, len(texts), began)

    def _submit(self, job: _Job) -> _Job:
        alike = sum(1 for other in self._jobs if other.rank == job.rank)
        if alike >= (MOST_AHEAD if job.ahead else self._limit):
            raise BudgetExceededError("too many searches wait")
        if self._queue.closing:
            raise EffectError("no thread to search in: the gateway closes")
        self._queue.put(job)
        try:
            self._thread().submit(self._queue.work)
        except RuntimeError as error:  # its words are the system's: it gives no thread
            self._queue.remove(job)
            raise EffectError("no thread to search in") from error
        self._jobs.add(job)
        self._pending.update(dict.fromkeys(((job.scanner.version, text) for text in job.texts), job))
        return job

    def _drop_one(self) -> None:
        """End the largest of the abandoned searches where they are too many."""
        abandoned = [job for job in self._jobs if job.rank > 1]
        if len(abandoned) <= MOST_ABANDONED:
            return
        largest = max(abandoned, key=lambda job: job.left)
        largest.limit = 0.0
        if self._queue.remove(largest):
            self._finished(largest, BudgetExceededError("too many searches wait"))

    def _finished(self, job: _Job, error: BaseException | None) -> None:
        """Keep what was found, whether anybody waits for it or not; on the loop."""
        self._jobs.discard(job)
        version = job.scanner.version
        for text in job.texts:
            self._pending.pop((version, text), None)
        if error is not None:
            job.error = error if isinstance(error, BudgetExceededError) else self._failed(error)
        try:
            for text, findings in job.found.items():  # a search that failed found less
                self._cache.put(version, text, findings)
        except failures() as failure:
            job.found.clear()
            job.error = self._failed(failure)
        job.finish()

    def _failed(self, error: BaseException) -> EffectError:
        """Tell the log what failed and where, without what it was at work on."""
        kind = type(error).__name__
        self._log.error("a search failed", error=kind, at=places(error.__traceback__))
        return EffectError(f"a search failed: {kind}")


def _limit(effect: FindEntities) -> float:
    """How long a search may be at work, in seconds."""
    if effect.ahead:
        return effect.budget
    return max(effect.budget, min(_LONGER * effect.budget, _LONGEST))


def _result(job: _Job, text: str) -> _Found:
    """What the job found in a text. Raises what ended it before that.

    A new exception for each that waits: a shared one would gather the tracebacks of all.
    """
    findings = job.found.get(text)
    if findings is not None:
        return findings
    if isinstance(job.error, BudgetExceededError):
        raise BudgetExceededError(*job.error.args)
    raise EffectError(*(job.error.args if job.error is not None else ("a search ended early",)))


def _answer(effect: FindEntities, known: dict[str, _Found | None], missing: int, began: float) -> FoundEntities:
    findings = tuple(_sure(known[text]) for text in effect.texts)
    return FoundEntities(findings, time.perf_counter() - began, len(effect.texts) - missing, missing)


def _sure(findings: _Found | None) -> _Found:
    if findings is None:
        raise EffectError("a text was not searched")
    return findings


def _yield_to_the_loop() -> None:
    """Let the event loop's thread run first where both want to: streams are felt, a long search is not."""
    with suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICE)
