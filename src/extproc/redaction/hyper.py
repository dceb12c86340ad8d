"""One pass of Hyperscan over a text says which of some hundred patterns can match, and where a match may end.

A gate, not a judge: what it reports is a superset, and whoever asked confirms it with a regular-expression engine of
their own. It never reports less. Texts of ASCII only go through a database without Unicode rules, in which nearly all
patterns are exact; others go through one with them, in which many are approximations.
"""

from __future__ import annotations

import hashlib
import re
import threading
from collections.abc import Sequence
from importlib.metadata import version
from typing import Final, NamedTuple

import hyperscan

from extproc.redaction.folding import fold
from extproc.text import DatabaseStore

_CONTINUATION: Final = bytes(range(0x80, 0xC0))  # second and later bytes of a UTF-8 character
_CHEAPEST_CAP: Final = 1500  # a callback costs about 0.2 µs, so that a text costs at most a third of a millisecond more
_CHARS_PER_CALLBACK: Final = 32  # a longer text may have more of them in proportion: the cost stays linear
_SURROGATE: Final = re.compile("[\ud800-\udfff]")
_BEYOND_ASCII: Final = re.compile(r"\\[pPNX]|\\x\{|\\x[89A-Fa-f]|[^\x00-\x7f]")  # what a pattern in ASCII may mean
_CASES: Final = {0x212A: "k", 0x17F: "s"}  # letters that RE2 takes for ASCII ones where case is ignored
_CASE: Final = re.compile("[\u212a\u017f]")
_LAYOUT: Final = b"2"  # of what this module asks Hyperscan to compile; part of the key in the store


class Expression(NamedTuple):
    r"""A pattern that is looked for. `id` is the caller's own number, 0 or more, unique in its database.

    `single`: it is enough to know that it matches (its list of ends then holds one number). `unicode`: `\w`, `\d`,
    `\s`, `\b` mean what they mean in `regex` and in Python; without, ASCII only, as in RE2.
    """

    id: int
    pattern: str
    caseless: bool = False
    dotall: bool = False
    multiline: bool = False
    single: bool = False
    unicode: bool = True


class Hits(NamedTuple):
    """What one pass found: by expression id, where matches may end (offsets in characters, ascending, each once).

    `complete` is False where a text has more matches than are worth counting: every id that matches is a key as
    always, but its list is empty, and the caller has to look at the whole text for these ids.
    """

    ends: dict[int, list[int]]
    complete: bool = True


class ExpressionError(ValueError):
    """Hyperscan cannot compile an expression, not even as an approximation. `id` is whose, `reason` says why."""

    def __init__(self, expression: int, reason: str) -> None:
        super().__init__(f"expression {expression}: {reason}")
        self.id: Final = expression
        self.reason: Final = reason


class _Compiled:
    """One Hyperscan database, with scratch space for every thread that scans."""

    def __init__(self, database: hyperscan.Database) -> None:
        self._database = database
        self._local = threading.local()

    def scan(self, data: bytes, cap: int) -> dict[int, list[int]] | None:
        """Ends in bytes by id, in the order of reports; None where there are more than `cap` reports."""
        scratch = getattr(self._local, "scratch", None)
        if scratch is None:
            scratch = self._local.scratch = hyperscan.Scratch(self._database)
        hits: dict[int, list[int]] = {}
        reports: list[int] = []

        def report(expression: int, _start: int, end: int, _flags: int, _context: object) -> bool | None:
            ends = hits.get(expression)
            if ends is None:
                hits[expression] = [end]
                return None
            ends.append(end)
            reports.append(end)
            return len(reports) > cap or None

        try:
            self._database.scan(data, match_event_handler=report, scratch=scratch)
        except hyperscan.ScanTerminated:
            return None
        return hits


class _Part:
    """Expressions that look at a text in the same way: their database, and one in which each reports once."""

    def __init__(self, expressions: Sequence[Expression], store: DatabaseStore | None, *, utf8: bool = False) -> None:
        self.unicode: Final = any(expression.unicode for expression in expressions)
        self.utf8: Final = utf8
        self._all: Final = _load(expressions, store, utf8=utf8, single=False)
        self._single: Final = _load(expressions, store, utf8=utf8, single=True)

    def scan(self, data: bytes, cap: int) -> Hits:
        """What matches in `data`, with offsets in bytes."""
        hits = self._all.scan(data, cap)
        if hits is not None:
            return Hits(hits)
        hits = self._single.scan(data, len(data) * 64)
        if hits is None:  # each expression reports once: only a fault in Hyperscan leads here
            raise RuntimeError("a database of single matches reported matches without end")
        return Hits({expression: [] for expression in hits}, complete=False)


class Database:
    """Expressions that are looked for in one pass. Safe to use from any number of threads at a time.

    Compiling takes seconds for some hundred expressions; with a `store` it is done once per machine. Raises
    `ExpressionError` for an expression that cannot be compiled, `ValueError` where ids are not unique.

    Texts are looked at as ASCII (see `folding`), but for expressions that name characters outside ASCII.
    """

    def __init__(self, expressions: Sequence[Expression], store: DatabaseStore | None = None) -> None:
        if len({expression.id for expression in expressions}) != len(expressions):
            raise ValueError("two expressions have the same id")
        utf8 = [expression for expression in expressions if needs_utf8(expression)]
        others = [expression for expression in expressions if not needs_utf8(expression)]
        wide = [expression for expression in others if expression.unicode]
        narrow = [expression for expression in others if not expression.unicode]
        parts = [_Part(group, store) for group in (wide, narrow) if group]
        self._parts: Final = (*parts, *((_Part(utf8, store, utf8=True),) if utf8 else ()))

    def scan(self, text: str) -> Hits:
        """Which expressions can match in `text`, and where. Linear in the length of the text; never a skipped part."""
        cap = max(_CHEAPEST_CAP, len(text) // _CHARS_PER_CALLBACK)
        hits: dict[int, list[int]] = {}
        complete = True
        for part in self._parts:
            found = _look(part, text, cap)
            complete = complete and found.complete
            hits.update(found.ends)
        for expression, ends in hits.items():
            if not complete:
                hits[expression] = []
            elif len(ends) > 1:
                hits[expression] = sorted(set(ends))
        return Hits(hits, complete)


def _look(part: _Part, text: str, cap: int) -> Hits:
    """What a part finds in a text, with offsets in characters."""
    if text.isascii():
        return part.scan(text.encode("ascii"), cap)
    if part.utf8:
        data = encodable(text).encode()
        found = part.scan(data, cap)
        return Hits(_in_characters(data, found.ends), found.complete)
    found = part.scan(fold(text, unicode=part.unicode), cap)
    if (
        not part.unicode and _CASE.search(text) is not None
    ):  # ASCII letters to a part of a pattern, no letters to others
        other = part.scan(fold(text.translate(_CASES), unicode=False), cap)
        ends = {key: [*found.ends.get(key, ()), *other.ends.get(key, ())] for key in {*found.ends, *other.ends}}
        return Hits(ends, found.complete and other.complete)
    return found


def _load(expressions: Sequence[Expression], store: DatabaseStore | None, *, utf8: bool, single: bool) -> _Compiled:
    """From the store where it is there and whole, compiled anew (and stored) otherwise."""
    key = _key(expressions, utf8=utf8, single=single)
    data = store.get(key) if store is not None else None
    if data is not None:
        try:
            return _Compiled(hyperscan.loadb(data, hyperscan.HS_MODE_BLOCK))
        except hyperscan.error:  # another version, another CPU, damaged: as good as absent
            pass
    database = _compile(expressions, utf8=utf8, single=single)
    if store is not None:
        store.put(key, hyperscan.dumpb(database))
    return _Compiled(database)


def needs_utf8(expression: Expression) -> bool:
    """Whether an expression names characters outside ASCII, so that texts cannot be folded for it."""
    return _BEYOND_ASCII.search(expression.pattern) is not None


def literal(text: str) -> str:
    """The pattern that matches exactly `text`."""
    return "".join(char if char.isalnum() or ord(char) > 0x7F else f"\\x{ord(char):02x}" for char in text)


def encodable(text: str) -> str:
    """The same text with U+FFFD in the place of lone surrogates, which have no UTF-8: still one character each."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return _SURROGATE.sub("\ufffd", text)
    return text


def refusal(expression: Expression) -> str | None:
    """Why a `Database` could not hold this expression, or None where it can."""
    flags = _flags(expression, utf8=needs_utf8(expression), single=False)
    if _refusal(expression, flags) is None:
        return None
    return _refusal(expression, flags | hyperscan.HS_FLAG_PREFILTER)


def _in_characters(data: bytes, hits: dict[int, list[int]]) -> dict[int, list[int]]:
    """Offsets in bytes -> in characters.

    An approximated expression may be reported to end inside a character, so that bytes are counted, never decoded: a
    character counts once its first byte is in.
    """
    position: dict[int, int] = {}
    last = characters = 0
    for offset in sorted({offset for ends in hits.values() for offset in ends}):
        characters += len(data[last:offset].translate(None, _CONTINUATION))
        position[offset] = characters
        last = offset
    return {expression: [position[offset] for offset in ends] for expression, ends in hits.items()}


def _flags(expression: Expression, *, utf8: bool, single: bool) -> int:
    flags = 0
    if expression.caseless:
        flags |= hyperscan.HS_FLAG_CASELESS
    if expression.dotall:
        flags |= hyperscan.HS_FLAG_DOTALL
    if expression.multiline:
        flags |= hyperscan.HS_FLAG_MULTILINE
    if single or expression.single:
        flags |= hyperscan.HS_FLAG_SINGLEMATCH
    if utf8:
        flags |= hyperscan.HS_FLAG_UTF8 | (hyperscan.HS_FLAG_UCP if expression.unicode else 0)
    return flags


def _key(expressions: Sequence[Expression], *, utf8: bool, single: bool) -> str:
    """Digest of all that decides what the compiled bytes are: what was asked for, by which Hyperscan, for which CPU."""
    digest = hashlib.blake2b(digest_size=16)
    digest.update(repr((_LAYOUT, platform(), utf8, single, [tuple(item) for item in expressions])).encode())
    return digest.hexdigest()


def platform() -> str:
    """Hyperscan's version and the CPU features it compiles for, as it words them."""
    probe = hyperscan.Database(mode=hyperscan.HS_MODE_BLOCK)
    probe.compile(expressions=[b"a"], ids=[0], flags=[0])
    info: str | bytes = probe.info()
    return f"{version('hyperscan')} {info.decode() if isinstance(info, bytes) else info}"


def _compile(expressions: Sequence[Expression], *, utf8: bool, single: bool) -> hyperscan.Database:
    flags: list[int] = []
    for expression in expressions:
        exact = _flags(expression, utf8=utf8, single=single)
        if _refusal(expression, exact) is None:
            flags.append(exact)
            continue
        approximate = exact | hyperscan.HS_FLAG_PREFILTER
        reason = _refusal(expression, approximate)
        if reason is not None:
            raise ExpressionError(expression.id, reason)
        flags.append(approximate)
    database = hyperscan.Database(mode=hyperscan.HS_MODE_BLOCK)
    database.compile(
        expressions=[encodable(expression.pattern).encode() for expression in expressions],
        ids=[expression.id for expression in expressions],
        flags=flags,
    )
    return database


def _refusal(expression: Expression, flags: int) -> str | None:
    """Why Hyperscan cannot compile this alone, or None where it can."""
    try:
        probe = hyperscan.Database(mode=hyperscan.HS_MODE_BLOCK)
        probe.compile(expressions=[encodable(expression.pattern).encode()], ids=[expression.id], flags=[flags])
    except hyperscan.error as error:
        return str(error)
    return None
