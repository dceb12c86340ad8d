"""`extproc env`: the exports that point an SDK in this shell at the gateway. Use: `eval "$(extproc env)"`."""

from __future__ import annotations

import argparse
import shlex
from pathlib import Path
from typing import Final

from extproc.adapters.pki import CA_CERTIFICATE
from extproc.cli.output import OK, add_json, fail, print_json, say
from extproc.cli.place import BUNDLE, CA_FOLDER, FIRST_KEY, add_place, config_path, read_config, state_folder
from extproc.errors import ConfigError

NAME: Final = "env"
HELP: Final = "print the exports that point an SDK at the gateway"

CONNECT: Final = "connect"
BASE_URL: Final = "base-url"
INTERCEPT: Final = "intercept"
PORTS: Final = {CONNECT: 3128, BASE_URL: 8080, INTERCEPT: 8443}
_SUFFIX: Final = {"openai": "/v1", "anthropic": ""}  # Anthropic's SDK adds /v1 itself
_VARIABLE: Final = {"openai": "OPENAI", "anthropic": "ANTHROPIC"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument(
        "--mode",
        choices=(CONNECT, BASE_URL, INTERCEPT),
        default=CONNECT,
        help="HTTPS_PROXY, a base URL per vendor, or the vendor's own host names sent here (default: connect)",
    )
    parser.add_argument("--host", default="127.0.0.1", help="where the gateway is (default: 127.0.0.1)")
    parser.add_argument(
        "--port", type=int, help=f"its port (default: {', '.join(f'{m} {p}' for m, p in PORTS.items())})"
    )
    parser.add_argument(
        "--key", metavar="FILE", type=Path, help=f"file of the key (default: {FIRST_KEY} of the state folder)"
    )
    add_place(parser)
    add_json(parser)


def run(args: argparse.Namespace) -> int:
    """Print the exports; 0 if they could be found out."""
    try:
        values = exports(args)
    except (ConfigError, OSError) as error:
        return fail(error, as_json=args.json)
    if args.json:
        print_json(values)
        return OK
    for name, value in values.items():
        print(f"export {name}={shlex.quote(value)}")
    if args.mode == INTERCEPT:
        say(
            f"# and send the vendors' host names to {args.host}:{args.port or PORTS[INTERCEPT]}: DNS, or a redirect of port 443"
        )
    return OK


def exports(args: argparse.Namespace) -> dict[str, str]:
    """Work out variable -> value for the mode. Raises `ConfigError` where the CA or the key is not there."""
    values: dict[str, str] = {}
    port = args.port or PORTS[args.mode]
    providers = _providers(args)
    if args.mode == BASE_URL:
        for api, name in providers.items():
            values[f"{_VARIABLE[api]}_BASE_URL"] = f"http://{args.host}:{port}/{name}{_SUFFIX[api]}"
    else:
        values.update(_trust(state_folder(args).absolute() / CA_FOLDER))
    if args.mode == CONNECT:
        values["HTTPS_PROXY"] = f"http://{args.host}:{port}"
        values["NODE_USE_ENV_PROXY"] = "1"  # Node's own fetch looks at HTTPS_PROXY only with it
    key = _key(args)
    values.update({f"{_VARIABLE[api]}_API_KEY": key for api in providers})
    return values


def _providers(args: argparse.Namespace) -> dict[str, str]:
    """Wire format -> the first provider that speaks it; without a configuration, the names that `up` gives them."""
    path = config_path(args)
    if path is None:
        return {api: api for api in _VARIABLE}
    found: dict[str, str] = {}
    for name, provider in read_config(path).providers.items():
        found.setdefault(provider.api, name)
    return found


def _trust(folder: Path) -> dict[str, str]:
    bundle, certificate = folder / BUNDLE, folder / CA_CERTIFICATE
    for path, cure in ((certificate, "extproc ca init"), (bundle, "extproc ca bundle")):
        if not path.is_file():
            raise ConfigError(
                str(path),
                "is not there",
                f"`extproc up` makes it, as does `{cure}`; or name the state folder with --state",
            )
    return {
        "SSL_CERT_FILE": str(bundle),  # replaces the system's roots, hence the bundle
        "REQUESTS_CA_BUNDLE": str(bundle),
        "NODE_EXTRA_CA_CERTS": str(certificate),  # adds to Node's own
    }


def _key(args: argparse.Namespace) -> str:
    """Our key goes where the SDK looks for the vendor's."""
    path: Path = args.key or state_folder(args) / FIRST_KEY
    try:
        key = path.read_text("ascii").strip()
    except (OSError, UnicodeDecodeError):
        hint = "name the file of a key with --key; make one with `extproc keys create --team TEAM --app APP`"
        raise ConfigError(str(path), "holds no key that can be read", hint) from None
    if not key:
        raise ConfigError(str(path), "is empty", "write the key into it, alone")
    return key
