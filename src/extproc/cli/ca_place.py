"""Where `extproc ca` finds the authority, the configuration and Envoy's certificates."""

from __future__ import annotations

import argparse
from pathlib import Path

from extproc.cli.place import CA_FOLDER, config_path, read_config, state_folder
from extproc.config import Config


def ca_folder(args: argparse.Namespace) -> Path:
    """Name the folder of the authority."""
    given: Path | None = getattr(args, "folder", None)
    return given or state_folder(args) / CA_FOLDER


def sds_folder(args: argparse.Namespace) -> Path:
    """Name the folder in which Envoy reads certificates."""
    given: Path | None = getattr(args, "sds", None)
    return given or state_folder(args) / "envoy" / "sds"


def configuration(args: argparse.Namespace) -> Config | None:
    """Read the configuration, where there is one. Raises ConfigError for one that cannot be used."""
    path = config_path(args)
    return None if path is None else read_config(path)
