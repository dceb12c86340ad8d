"""From a redaction section to detectors that run: the one place that knows where weights and compiled patterns are kept.

Compiling takes seconds the first time on a machine and tenths of a second afterwards. So it is done in a thread, and a
changed configuration goes live only when its detectors are ready.
"""

from __future__ import annotations

import fcntl
import hashlib
import logging
import os
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from importlib import metadata, resources
from pathlib import Path
from typing import Final

from extproc.adapters.pattern_store import FolderStore
from extproc.adapters.redaction_key import read_redaction_key
from extproc.adapters.transformer_model import load_weights
from extproc.config.model import Config
from extproc.config.redaction import KINDS, NAME_KINDS, SECRET_KINDS, SPACY_KINDS, Profile
from extproc.errors import ConfigError
from extproc.policies.profiles import Scanners
from extproc.runtime import NO_DETECTION, Detection
from extproc.text import Check, Detector, Finding, never

FOLDER: Final = "detectors"
"""Folder of compiled patterns and converted models, under the state folder."""

_WEIGHTS: Final = "names.npz"
# characters that are scanned on the event loop at a time, about a millisecond: with and without the small name model
_INLINE_NAMES: Final = 2000
_INLINE: Final = 4000
_FORMED: Final = KINDS - SECRET_KINDS - NAME_KINDS - SPACY_KINDS
_PACKAGES: Final = ("extproc", "presidio-analyzer", "phonenumbers", "kingfisher-secret-scanner", "hyperscan")


WARM: Final = "Call +44 20 7946 0958 or (212) 555-0142, write to a.person@example.com, pay 4000 0000 0000 0002."
"""Makes detectors load what they load at the first text that needs it, which no caller should wait for."""


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Let one process of this machine compile at a time: the next one finds everything compiled.

    Where the folder cannot be written each compiles for itself.
    """
    descriptor = -1
    with suppress(OSError):
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(folder / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        fcntl.flock(descriptor, fcntl.LOCK_EX)
    try:
        yield
    finally:
        if descriptor >= 0:
            os.close(descriptor)


class _PerThread:
    """A detector that one thread at a time may use, made anew for each thread: the event loop and the scanning one."""

    def __init__(self, make: Callable[[], Detector]) -> None:
        """Make the first at once: what cannot be made is said now."""
        self._make = make
        self._local = threading.local()
        self._local.detector = make()

    def scan(self, text: str, check: Check = never) -> list[Finding]:
        """As the detector does."""
        detector: Detector | None = getattr(self._local, "detector", None)
        if detector is None:
            detector = self._local.detector = self._make()
        return detector.scan(text, check)


class Detectors:
    """Makes what profiles run on. What two profiles, or a configuration and the next, have in common is made once."""

    def __init__(self, folder: Path) -> None:
        """`folder`: for compiled patterns and converted models; made when it is needed."""
        self._folder = folder
        self._store = FolderStore(folder)
        self._made: dict[object, Detector] = {}
        self._used: dict[object, Detector] = {}

    def prepare(self, config: Config, environ: Mapping[str, str]) -> Detection:
        """Everything that `runtime.build` needs. Raises `ConfigError` for what cannot be made, naming the path."""
        section = config.redaction
        if section is None:
            return NO_DETECTION
        key = read_redaction_key(section.key, environ) if section.key is not None else None
        self._used = {}
        logging.getLogger("presidio-analyzer").setLevel(logging.ERROR)  # it tells of every recognizer it loads
        with _alone(self._folder):
            scanners = {name: self._scanners(name, given) for name, given in section.profiles.items()}
        for made in scanners.values():
            made.texts.scan(WARM)
            made.identifiers.scan(WARM)
        self._made = self._used  # of an earlier configuration only what this one has too stays
        return Detection(scanners, key)

    def _once(self, what: object, make: Callable[[], Detector]) -> Detector:
        """The detector for `what`, made unless it is there."""
        found = self._used[what] = self._used.get(what) or self._made.get(what) or make()
        return found

    def _scanners(self, name: str, given: Profile) -> Scanners:
        from extproc.redaction.scanner import Plain, ScanSettings, TextScanner

        place = f"redaction.profiles.{name}"
        kinds = frozenset(kind for kind, operator in given.operators().items() if operator.action != "allow")
        answers = frozenset(kind for kind, operator in given.output_operators().items() if operator.action != "allow")
        wanted = kinds | answers
        formed = (Plain(self._patterns(place, given, wanted)), *self._secret(wanted))
        names = tuple(Plain(one, names=True) for one in self._names(place, given, wanted))
        quick = names if given.names == "fast" else ()
        inline = {"off": _INLINE, "fast": _INLINE_NAMES}.get(given.names, 0)
        identity = _identity(given)

        def scanner(detectors: tuple[Detector, ...], kinds: frozenset[str], inline: int = _INLINE) -> TextScanner:
            return TextScanner(detectors, ScanSettings(kinds, given.allow, identity, inline))

        return Scanners(
            texts=scanner((*formed, *names), kinds, inline),
            identifiers=scanner(formed, kinds),
            answers=scanner((*formed, *quick), answers) if answers else None,
        )

    def _patterns(self, place: str, given: Profile, kinds: frozenset[str]) -> Detector:
        from extproc.redaction.custom import CustomPattern, CustomPatternError, DenyList
        from extproc.redaction.patterns import PatternDetector, PatternOptions

        options = PatternOptions(
            kinds=kinds & _FORMED,
            regions=given.phone_regions,
            custom=tuple(
                CustomPattern(one.kind, one.regex, one.score, one.context, one.ignore_case) for one in given.patterns
            ),
            deny=tuple(DenyList(kind, terms) for kind, terms in given.deny.items()),
            allow=given.allow,
        )
        try:
            return self._once(options, lambda: PatternDetector(options, self._store))
        except CustomPatternError as error:
            raise ConfigError(f"{place}.patterns", error.reason, error.hint) from None
        except ValueError as error:
            raise ConfigError(place, str(error), "see docs/redaction.md for kinds and regions") from None

    def _secret(self, kinds: frozenset[str]) -> tuple[Detector, ...]:
        from extproc.redaction.secrets import SecretDetector

        wanted = kinds & SECRET_KINDS
        if not wanted:
            return ()
        return (self._once(("secrets", wanted), lambda: SecretDetector(self._store, wanted)),)

    def _names(self, place: str, given: Profile, kinds: frozenset[str]) -> tuple[Detector, ...]:
        if given.names == "off" or (given.names != "spacy" and not kinds & NAME_KINDS):
            return ()
        from extproc.redaction.names import NameDetector

        weights = _weights()
        try:
            if given.names == "spacy":
                return (self._spacy(place, given, kinds),)
            if given.names == "fast":
                return (self._once("fast", lambda: _PerThread(lambda: NameDetector(weights))),)
            from extproc.redaction.transformer import StrictNames, TransformerDetector

            model = load_weights(self._store)
            return (
                _PerThread(lambda: StrictNames(NameDetector(weights), TransformerDetector(model, kinds & NAME_KINDS))),
            )
        except ValueError as error:
            raise ConfigError(
                f"{place}.names", str(error), "install extproc again: its model file is damaged"
            ) from None

    @staticmethod
    def _spacy(place: str, given: Profile, kinds: frozenset[str]) -> Detector:
        from extproc.redaction.spacy_names import SpacyDetector

        if given.spacy is None:
            raise ConfigError(f"{place}.spacy", "no model", "name one")
        model = given.spacy
        return _PerThread(lambda: SpacyDetector(model.language, model.model, kinds))


def _weights() -> bytes:
    return resources.files("extproc.redaction").joinpath("data", _WEIGHTS).read_bytes()


def _identity(given: Profile) -> bytes:
    """What decides what is found, beside the detectors' own code: settings, weights, versions of packages."""
    digest = hashlib.blake2b(_weights() if given.names in {"fast", "strict"} else b"", digest_size=16)
    digest.update(given.model_dump_json().encode())
    for package in _PACKAGES:
        digest.update(f"{package} {metadata.version(package)}\n".encode())
    return digest.digest()
