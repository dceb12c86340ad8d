"""`extproc ca`: the authority whose certificates stand in for the vendors' on the intercepting listeners."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Final

from extproc.adapters import pki
from extproc.cli.output import OK, add_json, fail, print_json, say
from extproc.cli.place import BUNDLE, CA_FOLDER, add_place, config_path, read_config, state_folder
from extproc.errors import ConfigError

NAME: Final = "ca"
HELP: Final = "make the gateway's certificate authority, issue certificates, write the bundle that apps trust"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the actions."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    init = actions.add_parser("init", help="make the authority, able to sign for the configured hosts only")
    init.add_argument(
        "hosts", nargs="*", metavar="HOST", help="hosts it may sign for (default: those of the configuration)"
    )
    init.add_argument("--name", default="extproc gateway CA", help="common name of the authority")
    init.add_argument("--days", type=float, default=3650.0, help="life in days (default: 3650)")
    issue = actions.add_parser("issue", help="issue a server certificate")
    issue.add_argument("hosts", nargs="+", metavar="HOST", help="hosts of the certificate; the first names its files")
    issue.add_argument("--days", type=float, default=30.0, help="life in days (default: 30)")
    issue.add_argument(
        "--out", type=Path, metavar="FOLDER", help="where to write HOST.pem and HOST.key (default: the CA's)"
    )
    bundle = actions.add_parser("bundle", help="write public roots and the authority in one file, for SSL_CERT_FILE")
    bundle.add_argument(
        "--out", metavar="FILE", help=f"where to write, - for standard output (default: {BUNDLE} of the CA)"
    )
    bundle.add_argument("--extra", type=Path, metavar="PEM", help="a file of further authorities to add")
    for action in (init, issue, bundle):
        add_place(action)
        add_json(action)
        action.add_argument("--folder", type=Path, help=f"the CA's folder (default: {CA_FOLDER} of the state folder)")


def run(args: argparse.Namespace) -> int:
    """Perform the action; 0 if it was done."""
    actions: dict[str, Callable[[argparse.Namespace], None]] = {"init": _init, "issue": _issue, "bundle": _bundle}
    try:
        actions[args.action](args)
    except (ConfigError, OSError) as error:
        return fail(error, as_json=args.json)
    return OK


def ca_folder(args: argparse.Namespace) -> Path:
    """Name the folder of the authority."""
    given: Path | None = getattr(args, "folder", None)
    return given or state_folder(args) / CA_FOLDER


def _init(args: argparse.Namespace) -> None:
    folder = ca_folder(args)
    hosts = list(args.hosts) or _configured_hosts(args)
    pki.create_ca(folder, args.name, hosts=hosts, days=args.days)
    certificate, key = folder / pki.CA_CERTIFICATE, folder / pki.CA_KEY
    if args.json:
        print_json({"certificate": str(certificate), "key": str(key), "hosts": hosts})
        return
    say(f"made {certificate} (apps trust it) and {key} (keep it secret); it signs for {', '.join(hosts)} only")
    print(certificate)


def _configured_hosts(args: argparse.Namespace) -> list[str]:
    """Without hosts the authority could speak for the whole Internet, so they are not optional."""
    path = config_path(args)
    if path is None:
        raise ConfigError(
            "hosts", "there is no configuration to take the hosts from", "name them: ca init api.openai.com"
        )
    hosts = [host for provider in read_config(path).providers.values() for host in provider.hosts]
    if not hosts:
        raise ConfigError("providers", "none has hosts", "name the hosts: ca init api.openai.com")
    return hosts


def _issue(args: argparse.Namespace) -> None:
    authority = pki.load_ca(ca_folder(args))
    leaf = authority.issue(args.hosts, args.days)
    folder: Path = args.out or ca_folder(args)
    stem = args.hosts[0].replace("*", "_").replace(":", "_")
    certificate, key = folder / f"{stem}.pem", folder / f"{stem}.key"
    if {certificate.name, key.name} & {pki.CA_CERTIFICATE, pki.CA_KEY}:
        raise ConfigError("hosts", f"{certificate.name} would overwrite the authority", "write elsewhere with --out")
    folder.mkdir(parents=True, exist_ok=True)
    pki.write_atomic(key, leaf.key_pem)
    pki.write_atomic(certificate, leaf.cert_pem, mode=0o644)
    if args.json:
        print_json({"certificate": str(certificate), "key": str(key), "hosts": args.hosts})
        return
    say(f"issued {certificate} with {key} for {', '.join(args.hosts)}")
    print(certificate)


def _bundle(args: argparse.Namespace) -> None:
    folder = ca_folder(args)
    data = pki.load_ca(folder).bundle(args.extra)
    if args.out == "-":
        sys.stdout.write(data.decode("utf-8", "replace"))  # comments between certificates may be in any encoding
        return
    path = Path(args.out) if args.out else folder / BUNDLE
    pki.write_atomic(path, data, mode=0o644)
    if args.json:
        print_json({"bundle": str(path), "certificates": data.count(b"-----BEGIN CERTIFICATE-----")})
        return
    say(f"wrote {data.count(b'-----BEGIN CERTIFICATE-----')} certificates")
    print(path)
