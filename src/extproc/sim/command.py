"""The command line of the simulator: `python -m extproc.sim`, `extproc sim`."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import uvloop

from extproc.adapters.pki import CA_CERTIFICATE, CA_KEY, Leaf, create_ca, load_ca
from extproc.errors import ConfigError
from extproc.sim.server import Settings, Simulator
from extproc.sim.server import run as serve
from extproc.sim.vendors import Api, Vendors

HOSTS: Final = ("api.openai.com", "api.anthropic.com", "localhost", "127.0.0.1")
_APIS: Final[dict[str, tuple[Api, ...]]] = {
    "openai": ("openai",),
    "anthropic": ("anthropic",),
    "both": ("openai", "anthropic"),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("--api", choices=sorted(_APIS), default="both", help="whose wire it speaks (default: both)")
    parser.add_argument("--address", default="127.0.0.1", help="a loopback address (default: 127.0.0.1)")
    parser.add_argument("--port", type=int, default=9443, help="0 takes a free one (default: 9443)")
    parser.add_argument("--control-port", type=int, help="serve the control port there, plain HTTP; 0 takes a free one")
    parser.add_argument("--ca", type=Path, default=Path("sim-ca"), help="folder of the CA, made when it is not there")
    parser.add_argument("--plain", action="store_true", help="no TLS")
    parser.add_argument("--cases", type=Path, help="folder of recorded answers, chosen by the header x-sim-case")
    parser.add_argument("--keep", type=int, default=1000, help="how many requests to remember (default: 1000)")
    parser.add_argument("--openai-key-env", metavar="NAME", help="variable with the only key that OpenAI accepts")
    parser.add_argument("--anthropic-key-env", metavar="NAME", help="variable with the only key that Anthropic accepts")
    parser.add_argument("--json", action="store_true", help="say where it listens as one JSON line")


def run(args: argparse.Namespace) -> int:
    """Serve until a signal comes. Returns 0, or 2 with a message where something cannot be used."""
    try:
        settings = _settings(args)
        uvloop.run(serve(settings, lambda simulator: _announce(args, simulator)))
    except (ConfigError, OSError) as error:
        sys.stderr.write(f"simulator: {error}\n")
        return 2
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """Parse and run."""
    parser = argparse.ArgumentParser(prog="python -m extproc.sim", description="Simulated LLM vendors on loopback.")
    add_arguments(parser)
    return run(parser.parse_args(argv))


def _settings(args: argparse.Namespace) -> Settings:
    keys: dict[str, tuple[str, ...]] = {}
    for api, name in (("openai", args.openai_key_env), ("anthropic", args.anthropic_key_env)):
        if name is not None:
            if not os.environ.get(name):
                raise ConfigError(
                    f"--{api}-key-env", f"the variable {name} is not set", "export it, or drop the option"
                )
            keys[api] = (os.environ[name],)
    return Settings(
        vendors=Vendors(_APIS[args.api], keys),
        certificate=None if args.plain else _certificate(args.ca),
        address=args.address,
        port=args.port,
        control_port=args.control_port,
        cases=args.cases,
        keep=args.keep,
    )


def _certificate(folder: Path) -> Leaf:
    there = (folder / CA_KEY).exists() or (folder / CA_CERTIFICATE).exists()
    authority = (
        load_ca(folder) if there else create_ca(folder, "extproc simulator CA")
    )  # BoringSSL takes no address constraints
    return authority.issue(HOSTS)


def _announce(args: argparse.Namespace, simulator: Simulator) -> None:
    ca = None if args.plain else str(args.ca / CA_CERTIFICATE)
    control = simulator.control_port or None
    if args.json:
        line = json.dumps({"port": simulator.port, "control_port": control, "ca": ca, "pid": os.getpid()})
    else:
        where = f"{'http' if args.plain else 'https'}://{args.address}:{simulator.port}"
        line = f"simulator: {where}" + (f", trust {ca}" if ca else "")
        line += f", control http://{args.address}:{control}" if control else ""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()
