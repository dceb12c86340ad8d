"""Where `extproc ca` finds the authority, the configuration and Envoy's certificates."""

from __future__ import annotations

import argparse
from pathlib import Path

from extproc.adapters import pki, pki_chain
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


def write_bundle(folder: Path, path: Path, extra: Path | None = None) -> int:
    """Write public roots, `extra` and ours for apps; returns how many certificates. Raises ConfigError."""
    data = pki_chain.load_issuer(folder).bundle(extra)
    pki.write_atomic(path, data, mode=0o644)
    return data.count(b"-----BEGIN CERTIFICATE-----")
