"""Finding Envoy, and refusing one that is too old."""

from __future__ import annotations

from pathlib import Path

import pytest

from extproc.adapters.envoy_binary import envoy_command, envoy_version, find_envoy
from extproc.errors import ConfigError


def fake_envoy(path: Path, version: str) -> Path:
    """Write a program that says what `envoy --version` says."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\necho 'envoy  version: {'ab' * 20}/{version}/Clean/RELEASE/BoringSSL'\n")
    path.chmod(0o755)
    return path


@pytest.mark.parametrize("version", ["1.40.0", "1.41.2", "2.0.0"])
def test_new_enough_versions_pass(tmp_path: Path, version: str) -> None:
    """1.40 and later are accepted, compared as numbers."""
    assert ".".join(map(str, envoy_version(fake_envoy(tmp_path / "envoy", version)))) == version


@pytest.mark.parametrize("version", ["1.39.3", "1.9.0", "0.99.0"])
def test_older_versions_are_refused(tmp_path: Path, version: str) -> None:
    """An older one is refused with its version, the needed one and the reason."""
    with pytest.raises(ConfigError, match=rf"is Envoy {version}; this gateway needs 1\.40 or newer .*priority_group"):
        envoy_version(fake_envoy(tmp_path / "envoy", version))


def test_what_is_no_envoy_is_refused(tmp_path: Path) -> None:
    """A program that says no version, and one that cannot be run, are errors of the operator."""
    program = tmp_path / "envoy"
    program.write_text("#!/bin/sh\necho hello\n")
    program.chmod(0o755)
    with pytest.raises(ConfigError, match="does not say an Envoy version"):
        envoy_version(program)
    with pytest.raises(ConfigError, match="cannot be run"):
        envoy_version(tmp_path / "absent")


def test_the_order_of_search(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """$EXTPROC_ENVOY wins over .venv-envoy beside the environment, that over PATH; nothing at all is an error."""
    monkeypatch.chdir(tmp_path)
    named = fake_envoy(tmp_path / "named" / "envoy", "1.40.0")
    wheel = "lib/python3.11/site-packages/envoy/_bin/envoy"
    beside = fake_envoy(tmp_path / "project" / ".venv-envoy" / wheel, "1.40.0")
    on_path = fake_envoy(tmp_path / "bin" / "envoy", "1.40.0")
    prefix = tmp_path / "project" / ".venv"
    path = {"PATH": str(on_path.parent)}
    assert find_envoy({**path, "EXTPROC_ENVOY": str(named)}, prefix=prefix) == named
    assert find_envoy(path, prefix=prefix) == beside
    assert find_envoy(path, prefix=tmp_path / "other" / ".venv") == on_path
    with pytest.raises(ConfigError, match="no Envoy binary was found"):
        find_envoy({"PATH": str(tmp_path)}, prefix=tmp_path / "other" / ".venv")


def test_a_wrong_name_is_not_passed_over(tmp_path: Path) -> None:
    """A variable that names no program is an error, not a reason to look elsewhere."""
    with pytest.raises(ConfigError, match="EXTPROC_ENVOY"):
        find_envoy({"EXTPROC_ENVOY": str(tmp_path / "nothing")}, prefix=tmp_path)


def test_the_command_refuses_unknown_fields() -> None:
    """Envoy is started so that a misspelt field in a live file is refused; drain time and threads are as given."""
    command = envoy_command(Path("/e"), concurrency=2, drain=600.0)
    assert "--reject-unknown-dynamic-fields" in command
    assert command[command.index("--drain-time-s") + 1] == "600"
    assert command[command.index("--concurrency") + 1] == "2"
