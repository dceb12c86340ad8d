"""One pass of Hyperscan that says which rules for secrets can match in a text.

Apart from `hyper`: rules for secrets know ASCII only, so that one database of single matches does, which no text can
make report more than once a rule. Existence is enough: few rules match in a text, and the confirming engine is linear.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Sequence
from typing import Final

import hyperscan

from extproc.redaction.hyper import ExpressionError, platform
from extproc.text import DatabaseStore

_LAYOUT: Final = b"1"  # part of the key in the store


class Gate:
    """Patterns compiled together; a pattern's number is its place. Safe to use from any number of threads at a time.

    Raises `ExpressionError` for a pattern that Hyperscan cannot compile.
    """

    def __init__(self, patterns: Sequence[str], store: DatabaseStore | None = None) -> None:
        self._database: Final = _load(tuple(patterns), store)
        self._local: Final = threading.local()

    def scan(self, data: bytes) -> list[int]:
        """Numbers of the patterns that match somewhere in `data` (ASCII), ascending."""
        if not data:
            return []
        scratch = getattr(self._local, "scratch", None)
        if scratch is None:
            scratch = self._local.scratch = hyperscan.Scratch(self._database)
        found: list[int] = []

        def report(number: int, _start: int, _end: int, _flags: int, _context: object) -> None:
            found.append(number)

        self._database.scan(data, match_event_handler=report, scratch=scratch)
        found.sort()
        return found


def _load(patterns: tuple[str, ...], store: DatabaseStore | None) -> hyperscan.Database:
    """From the store where it is there and whole, compiled anew (and stored) otherwise."""
    if store is None:
        return _compile(patterns)
    digest = hashlib.blake2b(repr((_LAYOUT, platform(), patterns)).encode(), digest_size=16)
    key = f"secret-gate-{digest.hexdigest()}"
    data = store.get(key)
    if data is not None:
        try:
            return hyperscan.loadb(data, hyperscan.HS_MODE_BLOCK)
        except hyperscan.error:  # another version, another CPU, damaged: as good as absent
            pass
    database = _compile(patterns)
    store.put(key, hyperscan.dumpb(database))
    return database


def _compile(patterns: tuple[str, ...]) -> hyperscan.Database:
    database = hyperscan.Database(mode=hyperscan.HS_MODE_BLOCK)
    encoded = [pattern.encode() for pattern in patterns]
    try:
        database.compile(
            expressions=encoded, ids=list(range(len(encoded))), flags=[hyperscan.HS_FLAG_SINGLEMATCH] * len(encoded)
        )
    except hyperscan.error as error:
        raise _blame(encoded, str(error)) from error
    return database


def _blame(patterns: list[bytes], reason: str) -> ExpressionError:
    """The error again, naming the pattern: Hyperscan says only that one of them is at fault."""
    for number, pattern in enumerate(patterns):
        probe = hyperscan.Database(mode=hyperscan.HS_MODE_BLOCK)
        try:
            probe.compile(expressions=[pattern], ids=[number], flags=[hyperscan.HS_FLAG_SINGLEMATCH])
        except hyperscan.error as error:
            return ExpressionError(number, str(error))
    return ExpressionError(-1, reason)
