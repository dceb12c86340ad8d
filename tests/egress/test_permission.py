"""Where network namespaces are not permitted, these tests fail and say why, unless EGRESS_TESTS=skip."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize(
    ("word", "code", "said"),
    [("", 1, "network namespaces are needed"), ("no", 1, "EGRESS_TESTS=skip leaves"), ("skip", 0, "1 skipped")],
)
def test_without_namespaces(word: str, code: int, said: str) -> None:
    """No `ip` on the path stands for no permission: the reason is in the output."""
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "tests/egress/test_verify.py"]
    done = subprocess.run(
        [*command, "-k", "test_as_a_table"],
        cwd=ROOT,
        env={**{k: v for k, v in os.environ.items() if k != "EGRESS_TESTS"}, "PATH": "/nowhere", "EGRESS_TESTS": word},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == code, done.stdout
    assert said in done.stdout
    assert "the command ip is missing" in done.stdout
