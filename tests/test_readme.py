"""The README is true: its commands run, in its order, in a fresh copy of the project, as they are written."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
BLOCK = re.compile(r"^```sh\n(.*?)^```", re.MULTILINE | re.DOTALL)
# they are this very run, or take minutes: that the targets exist and expand is what is checked here
ELSEWHERE = {"make test", "make test-egress", "make check", "make bench", "make bench-limits", "make bench-redaction"}
PORTS = (8443, 3128, 8080, 8444, 15001, 9464, 9901)


def commands() -> list[str]:
    """Every command line of every `sh` block."""
    text = (ROOT / "README.md").read_text()
    return [line for block in BLOCK.findall(text) for line in block.splitlines() if line.strip()]


def busy() -> list[int]:
    """Default ports that somebody else has."""
    found = []
    for port in PORTS:
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                found.append(port)
    return found


@contextlib.contextmanager
def copied(folder: Path) -> Iterator[Path]:
    """The tracked and untracked files of the project, with the environments that are there already."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
        cwd=ROOT, capture_output=True, check=True,
    ).stdout  # fmt: skip
    for name in filter(None, listed.decode().split("\0")):
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)
    for name in (".venv", ".venv-envoy"):
        (folder / name).symlink_to(ROOT / name)
    yield folder


@contextlib.contextmanager
def made_to_run(folder: Path, environment: dict[str, str]) -> Iterator[None]:
    """`make run`, until it says that it is up; Ctrl-C at the end."""
    out = folder / "run.out"
    with out.open("wb") as file:
        process = subprocess.Popen(
            ["make", "run"], cwd=folder, env=environment, stdin=subprocess.DEVNULL, stdout=file, stderr=file,
            start_new_session=True,
        )  # fmt: skip
    try:
        deadline = time.monotonic() + 90
        while "is up" not in out.read_text():
            assert process.poll() is None, out.read_text()
            assert time.monotonic() < deadline, out.read_text()
            time.sleep(0.1)
        yield
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGINT)
        process.wait(60)


@pytest.mark.envoy
@pytest.mark.timeout(240)
def test_every_command_of_the_readme_runs(tmp_path):
    """In order, unmodified, against the gateway that `make run` starts; only what is run elsewhere is left out."""
    taken = busy()
    if taken:
        pytest.skip(f"the README uses the default ports, and these are taken: {taken}")
    lines = commands()
    assert lines[0] == "make run"
    drop = {"OPENAI_API_KEY", "ANTHROPIC_API_KEY", "EXTPROC_STATE", "EXTPROC_CONFIG", "SSL_CERT_FILE", "HTTPS_PROXY"}
    environment = {name: value for name, value in os.environ.items() if name not in drop}
    script = "set -eu\n" + "\n".join(line for line in lines[1:] if line not in ELSEWHERE) + "\n"
    with copied(tmp_path) as folder, made_to_run(folder, environment):
        done = subprocess.run(
            ["bash", "-c", script],
            cwd=folder,
            env=environment,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )

    assert done.returncode == 0, done.stdout + done.stderr
    assert "This is the extproc simulator" in done.stdout
    assert "\n200\n" in done.stdout
    assert "exk-" in done.stdout


@pytest.mark.parametrize("line", sorted(ELSEWHERE))
def test_the_make_targets_of_the_readme_exist(line):
    """`make -n` expands them."""
    assert line in commands()
    done = subprocess.run([*line.split(), "-n"], cwd=ROOT, capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stderr


def test_every_file_that_the_readme_links_to_is_there():
    """No dead link inside the project."""
    links = re.findall(r"\]\(([^)#:]+)\)", (ROOT / "README.md").read_text())

    assert links
    assert [link for link in links if not (ROOT / link).exists()] == []
