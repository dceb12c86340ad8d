"""Where `extproc ca` looks."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest

from extproc.adapters.pki_chain import ChainPlan, create_chain
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


def test_the_bundle_counts(tmp_path: Path) -> None:
    """What is said to have been written is what is in the file."""
    create_chain(tmp_path / "ca", ChainPlan("x", ("a.example",)))
    count = ca_place.write_bundle(tmp_path / "ca", tmp_path / "b.pem")
    assert count == (tmp_path / "b.pem").read_text().count("BEGIN CERTIFICATE") > 20
    assert (tmp_path / "ca" / "ca.pem").read_text() in (tmp_path / "b.pem").read_text()
