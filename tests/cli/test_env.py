"""`extproc env`: exports a shell can evaluate, for each way in."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from extproc.cli.main import main

KEY = "exk-" + "k" * 20


@pytest.fixture(autouse=True)
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A state folder as `up` leaves it, under a name that needs quoting."""
    for name in ("EXTPROC_CONFIG", "EXTPROC_STATE"):
        monkeypatch.delenv(name, raising=False)
    folder = tmp_path / "my state"
    (folder / "ca").mkdir(parents=True)
    for name in ("ca.pem", "bundle.pem"):
        (folder / "ca" / name).write_text("x")
    (folder / "first-key").write_text(KEY)
    monkeypatch.chdir(tmp_path)
    return folder


def exported(capsys: pytest.CaptureFixture[str], *words: str) -> dict[str, str]:
    """What a shell has after `eval`."""
    assert main(["env", "--state", "my state", *words]) == 0
    script = capsys.readouterr().out + "\nenv -0"
    done = subprocess.run(["sh", "-c", script], env={"PATH": "/usr/bin:/bin"}, capture_output=True, check=True)
    return dict(pair.split("=", 1) for pair in done.stdout.decode().split("\0") if "=" in pair)


def test_connect(state: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Proxy, trust for each ecosystem, and our key where SDKs look for the vendor's."""
    got = exported(capsys, "--port", "13128")
    assert got["HTTPS_PROXY"] == "http://127.0.0.1:13128"
    assert got["SSL_CERT_FILE"] == got["REQUESTS_CA_BUNDLE"] == str(state / "ca" / "bundle.pem")
    assert got["NODE_EXTRA_CA_CERTS"] == str(state / "ca" / "ca.pem")
    assert got["OPENAI_API_KEY"] == got["ANTHROPIC_API_KEY"] == KEY


def test_base_url(capsys: pytest.CaptureFixture[str]) -> None:
    """A base URL for each vendor, as its SDK wants it; no trust is needed."""
    got = exported(capsys, "--mode", "base-url")
    assert got["OPENAI_BASE_URL"] == "http://127.0.0.1:8080/openai/v1"
    assert got["ANTHROPIC_BASE_URL"] == "http://127.0.0.1:8080/anthropic"
    assert "SSL_CERT_FILE" not in got


def test_intercept(capsys: pytest.CaptureFixture[str]) -> None:
    """No proxy: what else is to do is told apart from the exports."""
    assert main(["env", "--state", "my state", "--mode", "intercept", "--json"]) == 0
    assert set(json.loads(capsys.readouterr().out)) >= {"SSL_CERT_FILE", "OPENAI_API_KEY"}
    assert "HTTPS_PROXY" not in exported(capsys, "--mode", "intercept")


@pytest.mark.parametrize("gone", ["first-key", "ca/ca.pem", "ca/bundle.pem"])
def test_what_is_missing_is_told(state: Path, capsys: pytest.CaptureFixture[str], gone: str) -> None:
    """Nothing is exported; the path and the cure are told."""
    (state / gone).unlink()
    assert main(["env", "--state", "my state"]) == 1
    got = capsys.readouterr()
    assert got.out == ""
    assert gone in got.err
    assert "extproc " in got.err
