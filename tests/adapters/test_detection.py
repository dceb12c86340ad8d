"""Detectors for the profiles of a configuration: the real ones, compiled once for all tests of this file."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from extproc.adapters.detection import Detectors
from extproc.config import load
from extproc.errors import ConfigError
from extproc.runtime import NO_DETECTION

HEAD = "version: 1\nproviders: {p: {api: openai, hosts: [api.openai.com]}}\n"
TEXT = "Mail ann.bauer@example.org, said Maria Lopez. Project Bluebird, badge E123456."


@pytest.fixture(scope="module")
def detectors(tmp_path_factory: pytest.TempPathFactory) -> Detectors:
    shared = os.environ.get("EXTPROC_DETECTORS")
    return Detectors(Path(shared) if shared else tmp_path_factory.mktemp("detectors"))


def config(text: str):
    return load((HEAD + text).encode(), "gateway.yaml", base=Path("/nowhere"))


def kinds(scanner, text: str = TEXT) -> dict[str, str]:
    return {one.kind: text[one.start : one.end] for one in scanner.scan(text)}


def test_nothing_is_made_without_a_section(detectors: Detectors):
    """No detector is imported."""
    assert detectors.prepare(config(""), {}) is NO_DETECTION


def test_profiles_find_what_they_are_told_to(detectors: Detectors):
    """Patterns, names, own patterns and words; names of tools are not read by the name model."""
    section = """
redaction:
  profiles:
    standard:
      patterns: [{kind: BADGE, regex: 'E\\d{6}'}]
      deny: {PROJECT: [Bluebird]}
      output: {scan: mask}
    quiet: {names: off, entities: {EMAIL_ADDRESS: allow}}
"""
    scanners = detectors.prepare(config(section), {}).scanners
    found = {
        "EMAIL_ADDRESS": "ann.bauer@example.org",
        "PERSON": "Maria Lopez",
        "PROJECT": "Bluebird",
        "BADGE": "E123456",
    }

    assert found == kinds(scanners["standard"].texts)
    assert {kind: value for kind, value in found.items() if kind != "PERSON"} == kinds(scanners["standard"].identifiers)
    assert found == kinds(scanners["standard"].answers)
    assert {} == kinds(scanners["quiet"].texts)
    assert scanners["quiet"].answers is None
    assert scanners["standard"].texts.version != scanners["quiet"].texts.version


def test_what_did_not_change_is_not_made_again(detectors: Detectors):
    """A reload that touches one profile leaves the detectors of the other."""
    one = "redaction: {profiles: {standard: {names: off}, other: {phone_regions: [DE]}}}"
    two = "redaction: {profiles: {standard: {names: off}, other: {phone_regions: [FR]}}}"
    first, second = (detectors.prepare(config(text), {}).scanners for text in (one, two))

    made = [[one._detector for one in scanners["standard"].texts._detectors[:1]] for scanners in (first, second)]
    assert made[0] == made[1]
    assert first["standard"].texts.version == second["standard"].texts.version
    assert first["other"].texts._detectors[0]._detector is not second["other"].texts._detectors[0]._detector
    assert first["other"].texts.version != second["other"].texts.version


def test_two_threads_scan_at_a_time(detectors: Detectors):
    """The event loop and the thread of the long texts."""
    scanner = detectors.prepare(config("redaction: {}"), {}).scanners["standard"].texts
    expected = scanner.scan(TEXT)
    found: list[object] = []

    def work() -> None:
        found.extend(scanner.scan(TEXT + f" {number}") for number in range(200))

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)

    assert [expected] * 600 == found


def test_what_cannot_be_made_is_told_with_its_place(detectors: Detectors):
    """A region nobody knows."""
    with pytest.raises(ConfigError) as caught:
        detectors.prepare(config("redaction: {profiles: {standard: {phone_regions: [QQ]}}}"), {})

    assert "redaction.profiles.standard" in str(caught.value)


def test_a_missing_key_is_told(detectors: Detectors):
    """Keyed pseudonyms without their key would be other ones in every worker."""
    text = "redaction: {key: {env: NOT_SET}, profiles: {standard: {placeholders: keyed}}}"
    with pytest.raises(ConfigError, match="NOT_SET"):
        detectors.prepare(config(text), {})


def test_a_folder_that_cannot_be_written_costs_time_only(tmp_path: Path):
    """A read-only root file system."""
    blocked = tmp_path / "file"
    blocked.write_text("")
    made = Detectors(blocked / "detectors").prepare(config("redaction: {profiles: {standard: {names: off}}}"), {})

    assert "EMAIL_ADDRESS" in kinds(made.scanners["standard"].texts)
