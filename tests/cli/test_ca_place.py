"""Where `extproc ca` looks."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest

from extproc.cli import ca_place


def arguments(**given: Path | None) -> argparse.Namespace:
    return argparse.Namespace(**{"config": None, "state": None, "folder": None, "sds": None, **given})


def test_folders_follow_the_state(monkeypatch: pytest.MonkeyPatch) -> None:
    """Named ones win, then the state folder, then the variable."""
    monkeypatch.setenv("EXTPROC_STATE", "/srv/gw")
    assert ca_place.ca_folder(arguments()) == Path("/srv/gw/ca")
    assert ca_place.sds_folder(arguments(state=Path("st"))) == Path("st/envoy/sds")
    assert ca_place.ca_folder(arguments(folder=Path("here"))) == Path("here")
    assert ca_place.sds_folder(arguments(sds=Path("there"))) == Path("there")
