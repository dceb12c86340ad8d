"""`extproc check`: gateway.yaml and the Envoy files, each by itself and against each other, then Envoy's own opinion."""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Final

from extproc.adapters import pki
from extproc.adapters.envoy_binary import envoy_version, find_envoy, validate
from extproc.adapters.envoy_check import cross_check
from extproc.adapters.envoy_files import flatten
from extproc.adapters.envoy_render import Overrides, render
from extproc.adapters.first_run import certificates, provider_hosts
from extproc.adapters.limit_fallback import idle
from extproc.bootstrap import Place, open_keys, prepare_detection
from extproc.cli.facts import gateway_facts
from extproc.cli.output import FAILED, OK, add_json, fail, items_of, print_json, say
from extproc.cli.place import add_place, found_config, read_config, state_folder
from extproc.cli.up import envoy_folder
from extproc.config import Config
from extproc.config.quotas import compile_rules
from extproc.errors import ConfigError

NAME: Final = "check"
HELP: Final = "check gateway.yaml together with the Envoy files"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    add_place(parser)
    add_json(parser)
    parser.add_argument("--envoy-files", type=Path, metavar="FOLDER", help="the Envoy files (default: envoy/)")
    parser.add_argument(
        "--no-keys", action="store_true", help="do not look at the key file, the pepper and redaction.key"
    )


def run(args: argparse.Namespace) -> int:
    """0 if everything fits together, else 1; every problem is told by place, reason and cure."""
    told, warnings = "", []
    try:
        path = found_config(args)
        config = read_config(path)
        files = args.envoy_files or envoy_folder()
        problems = _problems(config, files, state_folder(args).absolute(), keys=not args.no_keys)
        warnings = _warnings(config)
        told = f"{path}, {files}: in order, and Envoy takes them"
    except ConfigError as error:
        problems = [error]
    if args.json:
        errors = [item for problem in problems for item in items_of(problem)]
        print_json({"ok": not problems, "errors": errors, "warnings": warnings})
        return FAILED if problems else OK
    for problem in problems:
        fail(problem, as_json=False)
    for warning in warnings:
        say(f"warning: {warning}")
    if not problems:
        say(told)
    return FAILED if problems else OK


def _warnings(config: Config) -> list[str]:
    """What is taken, though it may not be what was meant."""
    rules = () if config.quotas is None else compile_rules(config.quotas)
    return [
        f"quotas.rules {rule.name}: a share of {rule.share:g} of so small a limit is less than one, so nothing is"
        " allowed while the store is away; raise share, or write `when_away: deny`"
        for rule in rules
        if idle(rule)
    ]


def _problems(config: Config, files: Path, state: Path, *, keys: bool) -> list[ConfigError]:
    """What is wrong; Envoy's own opinion is asked for where nothing else is: its words are the least helpful."""
    problems = cross_check(gateway_facts(config), files)
    if keys:
        problems += _keys(config)
    problems += _detectors(config, state, keys=keys)
    return problems or _envoy(config, files)


def _detectors(config: Config, state: Path, *, keys: bool) -> list[ConfigError]:
    """What cannot be compiled or is not installed. What compiling makes stays where a worker looks for it."""
    section = config.redaction
    if section is None:
        return []
    if not keys:
        config = config.model_copy(update={"redaction": section.model_copy(update={"key": None})})
    with tempfile.TemporaryDirectory(prefix="extproc-check-") as name:
        try:
            prepare_detection(Place(state, state if state.is_dir() else Path(name)), config)
        except ConfigError as error:
            return [error]
    return []


def _keys(config: Config) -> list[ConfigError]:
    try:
        open_keys(config)
    except ConfigError as error:
        return [error]
    return []


def _envoy(config: Config, files: Path) -> list[ConfigError]:
    """Envoy's `--mode validate` on a flattened copy: by itself it does not read filesystem xDS."""
    try:
        binary = find_envoy()
        envoy_version(binary)
    except ConfigError as error:
        return [error]
    with tempfile.TemporaryDirectory(prefix="extproc-check-") as name:
        folder = Path(name)
        # stand-ins for what only the machine that runs Envoy has: certificates and vendor keys
        pki.create_ca(folder / "ca", "check")
        certificates(folder, config, folder / "envoy")
        for provider in config.providers:
            pki.write_sds_secret(folder / "envoy" / "sds" / f"{provider}-key.yaml", f"{provider}-key", "check")
        minted = provider_hosts(config) if config.interception.minting else None
        render(files, folder / "envoy", Overrides(minted=minted))
        return validate(binary, flatten(folder / "envoy"), folder / "envoy")
