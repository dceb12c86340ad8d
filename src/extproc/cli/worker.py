"""`extproc worker`: one worker process, started by the supervisor."""

from __future__ import annotations

import argparse
from pathlib import Path

from extproc.adapters.fleet import Launch
from extproc.bootstrap import Place, run_worker
from extproc.cli.output import OK


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what the supervisor passes."""
    parser.add_argument("--config", type=Path, required=True)
    parser.add_argument("--state", type=Path, required=True)
    parser.add_argument("--log", type=Path)
    parser.add_argument("--socket", type=Path, required=True)
    parser.add_argument("--worker", default="w0")
    parser.add_argument("--control-fd", type=int, default=-1)


def run(args: argparse.Namespace) -> int:
    """Serve."""
    run_worker(Place(args.config, args.state, args.log), Launch(args.worker, args.socket, args.control_fd))
    return OK
