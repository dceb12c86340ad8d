"""What was found in a text, under the digest of the text: a chat that grows is scanned only where it is new.

No text is kept, only places in it; and the key of the digests is this process's own, so that what is kept does not
tell whether a known text went by.
"""

from __future__ import annotations

import sys
from collections import OrderedDict
from hashlib import blake2b
from typing import Final

from extproc.text import Finding

KEY_BYTES: Final = 16
VERSION_BYTES: Final = 16

# bytes in CPython 3.11, on the safe side of what was measured: a digest with its place in the table, and the findings
_ENTRY: Final = 200
_SOME: Final = 56  # a tuple that is not empty
_FINDING: Final = 8 + 96 + 2 * 32 + 24  # a reference, the tuple of five, two whole numbers, a score
_EMPTY: Final[tuple[Finding, ...]] = ()


class FindingCache:
    """The findings of the texts that were used last, in at most `max_bytes` bytes. For one thread.

    `key`: 1 to 64 random bytes. A cache of 0 bytes keeps nothing.
    """

    def __init__(self, max_bytes: int, key: bytes) -> None:
        if max_bytes < 0 or not 0 < len(key) <= blake2b.MAX_KEY_SIZE:
            raise ValueError(f"a cache of {max_bytes} bytes with a key of {len(key)}")
        self._most: Final = max_bytes
        self._key: Final = key
        self._entries: Final[OrderedDict[bytes, tuple[Finding, ...]]] = OrderedDict()
        self.hits = 0
        self.misses = 0
        self.evictions = 0
        self.bytes = 0

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, version: bytes, text: str) -> tuple[Finding, ...] | None:
        """What the scanner of this version found in `text`; None where that is not known.

        `version` has 16 bytes. Raises ValueError for another length, or for findings that are not in the text.
        """
        name = self._name(version, text)
        found = self._entries.get(name)
        if found is None:
            self.misses += 1
            return None
        if found and found[-1].end > len(text):
            raise ValueError("a cached finding is not in its text")
        self._entries.move_to_end(name)
        self.hits += 1
        return found

    def put(self, version: bytes, text: str, findings: tuple[Finding, ...]) -> None:
        """Keep what was found in `text`: by start, none overlapping the next. Raises TypeError or ValueError otherwise."""
        kept = _checked(findings, len(text))
        name = self._name(version, text)
        size = _size(kept)
        before = self._entries.pop(name, None)
        if before is not None:
            self.bytes -= _size(before)
        if size > self._most:
            return
        self._entries[name] = kept
        self.bytes += size
        while self.bytes > self._most:
            _, old = self._entries.popitem(last=False)
            self.bytes -= _size(old)
            self.evictions += 1

    def _name(self, version: bytes, text: str) -> bytes:
        if len(version) != VERSION_BYTES:
            raise ValueError(f"a version has {VERSION_BYTES} bytes, not {len(version)}")
        # texts that differ must differ in bytes: lone surrogates are kept, not replaced
        data = text.encode("utf-8", "surrogatepass")
        return blake2b(data, digest_size=KEY_BYTES, key=self._key, person=version).digest()


def _size(findings: tuple[Finding, ...]) -> int:
    return _ENTRY + (_SOME + _FINDING * len(findings) if findings else 0)


def _checked(findings: tuple[Finding, ...], length: int) -> tuple[Finding, ...]:
    """The findings, if they are what may be kept: immutable, of the right types, in order and within the text.

    The few words that they use are the same objects in all of them.
    """
    if type(findings) is not tuple:
        raise TypeError(f"findings are a tuple, not {type(findings).__name__}")
    if not findings:
        return _EMPTY
    kept = []
    at = 0
    for finding in findings:
        if type(finding) is not Finding or type(finding.start) is not int or type(finding.end) is not int:
            raise TypeError("a finding is a `Finding` with whole numbers")
        kind, start, end, score, rule = finding
        if not at <= start < end <= length:
            raise ValueError("findings are in order, do not overlap and are in the text")
        kept.append(Finding(sys.intern(kind), start, end, float(score), sys.intern(rule)))
        at = end
    return tuple(kept)
