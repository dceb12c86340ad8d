"""A profile's detectors as one: what they find, without what the profile does not care about, and without overlaps."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from typing import Final

import msgspec

from extproc.redaction.folded import views
from extproc.redaction.resolve import resolve
from extproc.text import Check, Detector, Finding, never

_ESCAPE: Final = re.compile(r"\\[nrt]")
_EACH: Final = 150  # characters that a text costs beside its own
_VERSION_BYTES: Final = 16
_NAMES: Final = frozenset({"LOCATION", "NRP", "ORGANIZATION", "PERSON"})
_FORMAT: Final = b"findings 3"  # changes whenever the same detectors would give other findings


class ScanSettings(msgspec.Struct, frozen=True):
    """What a profile cares about.

    `kinds`: only these are kept. `allow`: values that are never an entity, whatever their case. `identity`: bytes that
    stand for everything the detectors were made from (their settings, weights, versions of packages). `inline`: the
    most characters that are scanned on the event loop; 0 where every scan takes long.
    """

    kinds: frozenset[str]
    allow: tuple[str, ...] = ()
    identity: bytes = b""
    inline: int = 4000


class Plain:
    r"""A detector that is shown white space in the place of each escape such as `\n`, in code and in pieces of JSON.

    The escape's letter would stand before a word as if it belonged to it. Offsets stay. Not for secrets, whose detector
    knows escapes, and keys in which they are a part.
    """

    def __init__(self, detector: Detector, *, names: bool = False) -> None:
        """`names`: it finds names only, so that pieces in which no name counts need not be shown to it."""
        self._detector: Final = detector
        self.names: Final = names

    def scan(self, text: str, check: Check = never) -> list[Finding]:
        """As the detector does."""
        return self._detector.scan(_ESCAPE.sub("  ", text) if "\\" in text else text, check)


class TextScanner:
    """Fits `effects.Scanner`. Immutable; as safe with threads as its detectors."""

    def __init__(self, detectors: Sequence[Detector], settings: ScanSettings) -> None:
        self._detectors: Final = tuple(detectors)
        self._formed: Final = tuple(one for one in detectors if not (isinstance(one, Plain) and one.names))
        self._kinds: Final = settings.kinds
        self._allowed: Final = frozenset(entry.casefold() for entry in settings.allow)
        self._inline: Final = settings.inline
        self.version: Final = _version(detectors, settings)

    def scan(self, text: str, check: Check = never) -> tuple[Finding, ...]:
        """What is in `text`: findings by start, none of which overlap, none that begins or ends with white space.

        Raises what a detector raises, what `check` raises, and `ValueError` for a finding that is not in the text.
        """
        found: list[Finding] = []
        for detector in self._detectors:
            found += detector.scan(text, check)
            check()
        kept = [one for one in found if one.kind in self._kinds]
        for one in kept:
            _confine(one, text)
        kept += self._respelled(text, check)
        if not kept:
            return ()
        if self._allowed:
            kept = [one for one in kept if text[one.start : one.end].casefold() not in self._allowed]
        return tuple(trimmed for one in resolve(kept) if (trimmed := _trim(one, text)) is not None)

    def _respelled(self, text: str, check: Check) -> list[Finding]:
        """What is in `text` to a reader, who sees through other spellings."""
        found: list[Finding] = []
        for view in views(text):
            for detector in self._detectors if view.names else self._formed:
                for one in detector.scan(view.text, check):
                    if one.kind not in self._kinds or one.score < view.least or (one.kind in _NAMES and not view.names):
                        continue
                    _confine(one, view.text)
                    if view.text[one.start : one.end].casefold() in self._allowed:
                        continue
                    start, end = view.span(one.start, one.end)
                    found.append(one._replace(start=start, end=end))
                check()
        return found

    def is_long(self, texts: Sequence[str]) -> bool:
        """Whether scanning these takes so long that the event loop should not wait for it."""
        return bool(texts) and sum(map(len, texts)) + _EACH * len(texts) > self._inline


def _confine(finding: Finding, text: str) -> None:
    if not 0 <= finding.start < finding.end <= len(text):
        raise ValueError(f"a detector of {finding.kind} found something that is not in the text")


def _trim(finding: Finding, text: str) -> Finding | None:
    """What is left of a finding that another one won from may begin or end with white space, or be nothing else."""
    value = text[finding.start : finding.end]
    start, end = finding.start + len(value) - len(value.lstrip()), finding.end - len(value) + len(value.rstrip())
    if start >= end:
        return None
    return finding if end - start == len(value) else finding._replace(start=start, end=end)


def _version(detectors: Sequence[Detector], settings: ScanSettings) -> bytes:
    digest = hashlib.blake2b(digest_size=_VERSION_BYTES)
    names = [f"{type(one).__module__}.{type(one).__qualname__}".encode() for one in detectors]
    words = [
        word.encode("utf-8", "surrogatepass") for group in (sorted(settings.kinds), settings.allow) for word in group
    ]
    counts = b"%d %d %d" % (len(names), len(settings.kinds), len(settings.allow))
    for part in (_FORMAT, counts, *names, *words, settings.identity):
        digest.update(len(part).to_bytes(8, "big") + part)
    return digest.digest()
