"""Where a command finds the configuration and the state folder."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Final

from extproc.config import Config, load
from extproc.errors import ConfigError

CONFIG_NAME: Final = "gateway.yaml"
STATE_NAME: Final = "state"
FIRST_KEY: Final = "first-key"
CA_FOLDER: Final = "ca"
BUNDLE: Final = "bundle.pem"


def add_place(parser: argparse.ArgumentParser) -> None:
    """Give a command `--config` and `--state`."""
    parser.add_argument(
        "--config", type=Path, metavar="FILE", help=f"configuration (default: $EXTPROC_CONFIG, else {CONFIG_NAME})"
    )
    parser.add_argument(
        "--state", type=Path, metavar="FOLDER", help=f"state folder (default: $EXTPROC_STATE, else {STATE_NAME})"
    )


def state_folder(args: argparse.Namespace) -> Path:
    """Name the state folder that the command was given, or the default; it need not exist."""
    given: Path | None = args.state
    return given or Path(os.environ.get("EXTPROC_STATE") or STATE_NAME)


def config_path(args: argparse.Namespace) -> Path | None:
    """Name the configuration that the command was given, or finds: in a state folder that was named, else here; or None."""
    given: Path | None = args.config
    if given is not None:
        return given
    if args.state is None and os.environ.get("EXTPROC_CONFIG"):
        return Path(os.environ["EXTPROC_CONFIG"])
    folder = Path() if args.state is None else state_folder(args)
    found = folder / CONFIG_NAME
    return found if found.is_file() else None


def found_config(args: argparse.Namespace) -> Path:
    """Name the configuration. Raises `ConfigError`, which says how to get one, where there is none."""
    path = config_path(args)
    if path is None:
        where = "here" if args.state is None else f"in {args.state}"
        hint = f"name it with --config; `extproc up` writes one to start from where no {CONFIG_NAME} is"
        raise ConfigError(CONFIG_NAME, f"is not {where}", hint)
    return path


def read_config(path: Path) -> Config:
    """Read a configuration. Raises `ConfigError` for a file that cannot be read, `ConfigErrors` for what is in it."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ConfigError(str(path), f"cannot be read: {error.strerror}", "name another with --config") from None
    return load(data, str(path), base=path.absolute().parent)
