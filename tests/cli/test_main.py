"""`extproc` as a command: what it lists, how it refuses, and how its errors look."""

from __future__ import annotations

import importlib.metadata
import json
import subprocess
import sys
from pathlib import Path

import pytest

from extproc.cli.main import COMMANDS, main, make_parser
from extproc.cli.starter import STARTER

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def empty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty folder, and no hint in the environment."""
    monkeypatch.chdir(tmp_path)
    for name in ("EXTPROC_CONFIG", "EXTPROC_STATE"):
        monkeypatch.delenv(name, raising=False)


def exits(*words: str) -> int:
    """The exit code of a command line that argparse ends."""
    with pytest.raises(SystemExit) as ended:
        main(words)
    assert isinstance(ended.value.code, int)
    return ended.value.code


def test_help_lists_every_command_but_our_own_processes(capsys: pytest.CaptureFixture[str]) -> None:
    """`--help` names each with its line, exit code 0; the worker's command is not for people."""
    assert exits("--help") == 0
    out = capsys.readouterr().out
    for name, (_, text) in COMMANDS.items():
        assert (f"\n    {name} " in out) is bool(text), name


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_explains_itself(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    """`COMMAND --help` works for all; every option has a word of help."""
    assert exits(name, "--help") == 0
    assert f"usage: extproc {name}" in capsys.readouterr().out


def test_the_version_is_the_packages(capsys: pytest.CaptureFixture[str]) -> None:
    """`--version`."""
    assert exits("--version") == 0
    assert capsys.readouterr().out.strip() == f"extproc {importlib.metadata.version('extproc')}"


def test_an_unknown_command_is_wrong_use(capsys: pytest.CaptureFixture[str]) -> None:
    """Exit code 2, and the commands there are."""
    assert exits("dance") == 2
    said = capsys.readouterr().err
    assert "'dance'" in said
    assert "'up'" in said
    assert "'worker'" not in said


def test_no_command_shows_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    """On standard error, exit code 2."""
    assert main([]) == 2
    got = capsys.readouterr()
    assert "Start with `extproc up`" in got.err
    assert got.out == ""


@pytest.mark.parametrize("name", ["serve", "check"])
def test_without_a_configuration_the_cure_is_told(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    """An empty folder: place, reason, and how to get one."""
    assert main([name]) == 1
    said = capsys.readouterr().err
    assert "gateway.yaml: is not here" in said
    assert "`extproc up` writes one" in said


def test_a_broken_configuration_is_told_with_its_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Every mistake with path, line, reason; exit code 1."""
    (tmp_path / "gateway.yaml").write_text("version: 1\nproviders:\n  openai: {api: opnai}\n")
    assert main(["serve"]) == 1
    assert "providers.openai.api (line 3)" in capsys.readouterr().err


def test_errors_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    """With `--json` an error has its parts."""
    assert main(["keys", "list", "--json"]) == 1
    (item,) = json.loads(capsys.readouterr().err)["errors"]
    assert item["path"] == "gateway.yaml"
    assert item["hint"]


def test_a_file_that_cannot_be_used_is_no_traceback(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The operating system's own refusal: its file and its reason."""
    (tmp_path / "gateway.yaml").write_bytes(STARTER.read_bytes())
    (tmp_path / "file").write_text("")
    assert main(["up", "--state", "file/st", "--config", "gateway.yaml"]) == 1
    said = capsys.readouterr().err
    assert "file/st" in said
    assert "Not a directory" in said


def test_only_the_asked_command_is_imported() -> None:
    """`extproc env` in every shell start must be quick: no gRPC, no Prometheus."""
    code = (
        "import sys; from extproc.cli.main import make_parser; make_parser('env');"
        "print(sorted({'grpc', 'prometheus_client', 'google.protobuf'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
    assert make_parser().prog == "extproc"


def test_the_starter_is_the_projects_own_configuration() -> None:
    """What `up` writes into an empty folder is the gateway.yaml that the documentation speaks of."""
    assert STARTER.read_bytes() == (ROOT / "gateway.yaml").read_bytes()
