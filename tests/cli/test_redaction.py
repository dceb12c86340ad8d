"""`extproc redaction bench`: which rows it measures, of which texts; what it refuses. How fast it is, is no test's matter."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from extproc.cli import redaction
from extproc.cli.main import main

GATEWAY = """
version: 1
providers:
  openai: {api: openai, hosts: [api.openai.com], credential: {env: X}}
keys: {file: keys.json, pepper: {file: pepper}}
access: [{team: demo}]
redaction: {profiles: {standard: {names: off}}}
"""


@pytest.fixture(autouse=True)
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a configuration; compiled patterns stay there."""
    monkeypatch.chdir(tmp_path)
    for name in ("EXTPROC_CONFIG", "EXTPROC_STATE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("EXTPROC_DETECTORS", str(tmp_path / "detectors"))
    (tmp_path / "gateway.yaml").write_text(GATEWAY)
    return tmp_path


def test_a_row_for_each_tier_and_text(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Own files: patterns, patterns with secrets, and what the cache knows; each was run and took time."""
    for name in ("one", "two"):
        (project / name).write_text(f"{name}: write to someone@corp-mail.io about it. " * 20)
    assert main(["redaction", "bench", "one", "two", "--seconds", "0.05", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)

    assert told["profile"] == "standard"
    tiers = ["patterns: new", "patterns, secrets: new", "known (cache)"]
    assert [(tier, name) for tier in tiers for name in ("one (900)", "two (900)")] == [
        (row["tier"], row["sample"]) for row in told["rows"]
    ]
    assert all(row["runs"] > 1 and 0 < row["p50"] <= row["p99"] and row["per_1k"] > 0 for row in told["rows"])
    by_tier = {row["tier"]: row["per_1k"] for row in told["rows"]}
    assert by_tier["known (cache)"] < by_tier["patterns, secrets: new"]

    assert main(["redaction", "bench", "one", "--seconds", "0.02"]) == 0
    assert capsys.readouterr().out.splitlines()[0].split()[:3] == ["TIER", "TEXTS", "RUNS"]


def test_generated_texts() -> None:
    """The same in every run, of the sizes that they say."""
    samples = redaction.generated()

    assert samples == redaction.generated()
    assert ["200 characters", "1000 characters", "4000 characters", "16000 characters"] == [one.name for one in samples]
    assert all(f"{len(text)} characters" == one.name for one in samples for text in one.texts)
    assert all(len(set(one.texts)) == len(one.texts) for one in samples)


def test_bad_input(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A file that is not there, is empty or no text; a profile that is not there; no number of seconds."""
    (project / "empty").write_text("")
    (project / "binary").write_bytes(b"\xff")
    for words, reason in (
        (["nowhere"], "cannot be read"),
        (["empty"], "is empty"),
        (["binary"], "is not UTF-8"),
        (["--profile", "nope"], "is not a profile"),
    ):
        assert main(["redaction", "bench", *words]) == 1
        assert reason in capsys.readouterr().err
    for seconds in ("0", "x", "1e9"):
        with pytest.raises(SystemExit) as ended:
            main(["redaction", "bench", "--seconds", seconds])
        assert ended.value.code == 2
        assert "no number of seconds" in capsys.readouterr().err
