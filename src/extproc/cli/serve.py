"""`extproc serve`: the sidecar alone, for a container beside an Envoy that somebody else runs."""

from __future__ import annotations

import argparse
from typing import Final

from extproc.bootstrap import Place, serve
from extproc.cli.output import OK
from extproc.cli.place import add_place, found_config, state_folder

NAME: Final = "serve"
HELP: Final = "run the sidecar alone: supervisor, workers, metrics"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    add_place(parser)


def place_of(args: argparse.Namespace) -> Place:
    """Where the command finds its files. Raises `ConfigError` where there is no configuration."""
    return Place(found_config(args).absolute(), state_folder(args).absolute())


def run(args: argparse.Namespace) -> int:
    """Run until SIGTERM."""
    serve(place_of(args))
    return OK
