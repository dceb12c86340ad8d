"""The configuration that `up` writes where there is none: the same as the project's own gateway.yaml."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from extproc.cli.output import say

STARTER: Final = Path(__file__).with_name("starter.yaml")


def write_starter(path: Path) -> None:
    """Write it, and say so. Raises `FileExistsError` rather than overwrite."""
    with path.open("xb") as file:
        file.write(STARTER.read_bytes())
    say(f"wrote {path.absolute()} to start from: it says who may call what; edit it while the gateway runs")
