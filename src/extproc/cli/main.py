"""`extproc COMMAND`: finds the command and runs it. A command's module is imported only when it is called for."""

from __future__ import annotations

import argparse
import importlib
import importlib.metadata
import os
import sys
from collections.abc import Sequence
from typing import Final

from extproc.cli.output import FAILED, WRONG_USE, fail
from extproc.errors import ConfigError

# name -> (module, help); a name without help is for our own processes only
COMMANDS: Final = {
    "up": ("extproc.cli.up", "run everything on this machine: certificates, key, workers, Envoy"),
    "serve": ("extproc.cli.serve", "run the sidecar alone: supervisor, workers, metrics"),
    "check": ("extproc.cli.check", "check gateway.yaml together with the Envoy files"),
    "try": ("extproc.cli.try_call", "make one call through the gateway and explain it step by step"),
    "keys": ("extproc.cli.keys", "create, list, revoke and rotate virtual keys"),
    "limits": ("extproc.cli.limits", "show, top up, override and reset limits; replay traffic against them"),
    "ca": ("extproc.cli.ca", "make the interception CA, certificates and the trust bundle"),
    "egress": ("extproc.cli.egress", "install, remove and check the firewall that leaves no other way out"),
    "bypass": ("extproc.cli.bypass", "report who tried to go around the gateway"),
    "scan": ("extproc.cli.scan", "show what would be found in a text or a request, and what would be sent"),
    "redaction": ("extproc.cli.redaction", "measure how long looking for entities takes"),
    "env": ("extproc.cli.env", "print the exports that point an SDK at the gateway"),
    "sim": ("extproc.sim.command", "run simulated vendors on loopback"),
    "worker": ("extproc.cli.worker", ""),
}


def make_parser(only: str | None = None) -> argparse.ArgumentParser:
    """The parser; with `only`, that command has its arguments, the others just their line of help."""
    parser = argparse.ArgumentParser(
        prog="extproc",
        description="LLM egress gateway: Envoy and a policy sidecar.",
        epilog="Start with `extproc up`. More on a command: extproc COMMAND --help",
    )
    if only is None:
        parser.add_argument(
            "-V", "--version", action="version", version=f"extproc {importlib.metadata.version('extproc')}"
        )
    subparsers = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name, (module, text) in COMMANDS.items():
        if not text and name != only:
            continue
        command = subparsers.add_parser(name, help=text or argparse.SUPPRESS, description=text)
        if name == only:
            loaded = importlib.import_module(module)
            loaded.add_arguments(command)
            command.set_defaults(run=loaded.run)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; the exit code is its own, 1 for what an operator can mend, 2 for a wrong command line."""
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # before numpy: threads of its own make small products slow
    given = list(sys.argv[1:] if argv is None else argv)
    name = next((word for word in given if not word.startswith("-")), None)
    parser = make_parser(name if name in COMMANDS else None)
    if not given:
        parser.print_help(sys.stderr)
        return WRONG_USE
    args = parser.parse_args(given)
    try:
        code: int = args.run(args)
    except (ConfigError, OSError) as error:
        return fail(error, as_json=getattr(args, "json", False))
    except KeyboardInterrupt:
        return FAILED
    return code
