"""Finds entities for the exchanges of one worker: known texts from memory, short ones at once, long ones in a thread.

Nothing here ever skips a text: a search ends with findings for every text, or with an error. What a detector raises is
told by the name of its type and the place in the code; messages of exceptions may hold a piece of the text.
"""

from __future__ import annotations

import asyncio
import os
import sys
import threading
import time
from collections.abc import Coroutine, Sequence
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
"""Searches that may wait for the thread: with a budget of 250 ms those behind would be over time before they begin."""

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


class _Job:
    """One search in the thread. `found` grows with the texts; what is there when the search fails is kept too."""

    __slots__ = ("closing", "deadline", "done", "error", "found", "scanner", "texts")

    def __init__(self, scanner: Scanner, texts: list[str], deadline: float, closing: threading.Event) -> None:
        self.scanner = scanner
        self.texts = texts
        self.deadline = deadline  # perf_counter seconds; later where a call with more time joins
        self.closing = closing
        self.found: dict[str, _Found] = {}
        self.error: EffectError | None = None
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def run(self) -> None:
        """Search all texts; in the thread."""
        for text in self.texts:
            self.check()
            self.found[text] = self.scanner.scan(text, self.check)

    def check(self) -> None:
        """End the search of which nobody waits for the result any more."""
        if time.perf_counter() > self.deadline or self.closing.is_set():
            raise BudgetExceededError("the search took too long")


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
        self._closing = threading.Event()
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
        """End the thread. A search that is under way fails at its next check."""
        self._closing.set()
        if self._executor is not None:
            self._executor.shutdown(wait=True, cancel_futures=True)

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
        jobs: dict[str, _Job] = {}
        for text in texts:
            job = self._pending.get((version, text))
            if job is not None:
                job.deadline = max(job.deadline, end)
                jobs[text] = job
        rest = [text for text in texts if text not in jobs]
        if rest:
            jobs.update(dict.fromkeys(rest, self._submit(_Job(effect.scanner, rest, end, self._closing))))
        left = end - time.perf_counter()
        waits = {job.done for job in jobs.values()}
        _, undone = await asyncio.wait(waits, timeout=max(0.0, left))
        if undone:
            raise BudgetExceededError("the search took too long")
        for text, job in jobs.items():
            known[text] = _result(job, text)
        return _answer(effect, known, len(texts), began)

    def _submit(self, job: _Job) -> _Job:
        if len(self._jobs) >= self._limit:
            raise BudgetExceededError("too many searches wait")
        if self._closing.is_set():
            raise EffectError("no thread to search in: the gateway closes")
        try:
            running = asyncio.wrap_future(self._thread().submit(job.run))
        except RuntimeError as error:  # its words are the system's: it gives no thread
            raise EffectError("no thread to search in") from error
        self._jobs.add(job)
        self._pending.update(dict.fromkeys(((job.scanner.version, text) for text in job.texts), job))
        running.add_done_callback(partial(self._finished, job))
        return job

    def _finished(self, job: _Job, running: asyncio.Future[None]) -> None:
        """Keep what was found, whether anybody waits for it or not; on the loop."""
        self._jobs.discard(job)
        version = job.scanner.version
        for text in job.texts:
            self._pending.pop((version, text), None)
        if running.cancelled():
            job.error = EffectError("the gateway closes")
        else:
            error = running.exception()
            if error is not None:
                job.error = error if isinstance(error, BudgetExceededError) else self._failed(error)
        try:
            for text, findings in job.found.items():  # a search that failed found less
                self._cache.put(version, text, findings)
        except failures() as error:
            job.found.clear()
            job.error = self._failed(error)
        job.done.set_result(None)

    def _failed(self, error: BaseException) -> EffectError:
        """Tell the log what failed and where, without what it was at work on."""
        kind = type(error).__name__
        self._log.error("a search failed", error=kind, at=places(error.__traceback__))
        return EffectError(f"a search failed: {kind}")


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
