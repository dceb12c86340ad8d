"""`extproc ca`: the authority whose certificates stand in for the vendors' on the intercepting listeners."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Final

from extproc.adapters import pki, pki_chain, pki_corporate
from extproc.adapters.first_run import CA_NAME, gateway_names, provider_hosts
from extproc.adapters.pki_bundle import BUNDLE, EXTRA, bundle, write_bundle
from extproc.cli import ca_change
from extproc.cli.ca_place import ca_folder, configuration
from extproc.cli.output import OK, add_json, fail, print_json, say
from extproc.cli.place import CA_FOLDER, add_place
from extproc.errors import ConfigError

NAME: Final = "ca"
_MOST_DAYS: Final = 36_500.0  # a century: later dates have no place in a certificate (RFC 5280, 4.1.2.5: year 9999)
HELP: Final = (
    "make the gateway's certificate authority, issue and rotate certificates, write the bundle that apps trust"
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the actions."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    made = [_init_arguments(actions.add_parser("init", help="make a root, and an intermediate for the hosts only"))]
    issue = actions.add_parser("issue", help="issue a server certificate with its chain")
    issue.add_argument("hosts", nargs="+", metavar="HOST", help="hosts of the certificate; the first names its files")
    issue.add_argument("--days", type=_days, default=1.0, help="life in days (default: 1)")
    issue.add_argument(
        "--out", type=Path, metavar="FOLDER", help="where to write HOST.pem and HOST.key (default: the CA's)"
    )
    trust = actions.add_parser("bundle", help="write public roots and the authority in one file, for SSL_CERT_FILE")
    trust.add_argument(
        "--out", metavar="FILE", help=f"where to write, - for standard output (default: {BUNDLE} of the CA)"
    )
    trust.add_argument(
        "--extra",
        type=Path,
        metavar="PEM",
        help=f"a file of further authorities to add; without --out they are kept ({EXTRA} of the CA) for every later bundle",
    )
    made += [issue, trust, *ca_change.add_actions(actions)]
    for action in made:
        add_place(action)
        add_json(action)
        action.add_argument("--folder", type=Path, help=f"the CA's folder (default: {CA_FOLDER} of the state folder)")


def _days(text: str) -> float:
    """A life in days, as an option's type."""
    try:
        days = float(text)
    except ValueError:
        days = 0.0
    if not 0 < days <= _MOST_DAYS:  # false for nan as well
        raise argparse.ArgumentTypeError(f"{text!r} is no number of days above 0, up to {_MOST_DAYS:.0f}")
    return days


def _init_arguments(init: argparse.ArgumentParser) -> argparse.ArgumentParser:
    init.add_argument(
        "hosts",
        nargs="*",
        metavar="HOST",
        help="all that the intermediate may sign for (default: the hosts of the configuration and the gateway's own names)",
    )
    init.add_argument("--name", default=CA_NAME, help=f"common name of the authority (default: {CA_NAME})")
    init.add_argument("--days", type=_days, default=pki_chain.ROOT_DAYS, help="life of the root (default: 3650)")
    init.add_argument(
        "--intermediate-days",
        type=_days,
        default=pki_chain.INTERMEDIATE_DAYS,
        help="life of the intermediate (default: 365)",
    )
    init.add_argument(
        "--root-key",
        type=Path,
        metavar="FILE",
        help="where to write the root's key (default: root.key in the CA's folder)",
    )
    init.add_argument(
        "--bind-root",
        action="store_true",
        help="let the root too vouch for these hosts only: for a root whose key stays here; a further host then needs a new root",
    )
    return init


def run(args: argparse.Namespace) -> int:
    """Perform the action; 0 if it was done."""
    actions: dict[str, Callable[[argparse.Namespace], None]] = {"init": _init, "issue": _issue, "bundle": _bundle}
    try:
        (actions | ca_change.ACTIONS)[args.action](args)
    except (ConfigError, OSError) as error:
        return fail(error, as_json=args.json)
    return OK


def _init(args: argparse.Namespace) -> None:
    folder = ca_folder(args)
    hosts = tuple(args.hosts) or _configured_hosts(args)
    plan = pki_chain.ChainPlan(args.name, hosts, args.bind_root, args.days, args.intermediate_days, args.root_key)
    pki_chain.create_chain(folder, plan)
    certificate, key = folder / pki.CA_CERTIFICATE, args.root_key or folder / pki_chain.ROOT_KEY
    intermediate = folder / pki_chain.INTERMEDIATE
    if args.json:
        files = {"certificate": str(certificate), "root_key": str(key), "intermediate": str(intermediate)}
        print_json({**files, "hosts": hosts, "root_bound": args.bind_root})
        return
    say(f"made {certificate}: the root, which apps trust")
    say(f"     {intermediate}: signs certificates for {', '.join(hosts)} only; its key is in it, keep it secret")
    say(
        f"     {key}: the root's key. The gateway does not need it: take it offline now (a safe, a token), and bring it"
    )
    say("     for a minute when the intermediate has to be made anew (extproc ca rotate intermediate --root-key FILE)")
    print(certificate)


def _configured_hosts(args: argparse.Namespace) -> tuple[str, ...]:
    """Without hosts the authority could speak for the whole Internet, so they are not optional."""
    config = configuration(args)
    if config is None:
        raise ConfigError(
            "hosts", "there is no configuration to take the hosts from", "name them: ca init api.openai.com"
        )
    hosts = provider_hosts(config)
    if not hosts:
        raise ConfigError("providers", "none has hosts", "name the hosts: ca init api.openai.com")
    return (*hosts, *gateway_names(config))


def _issue(args: argparse.Namespace) -> None:
    authority = pki_chain.load_issuer(ca_folder(args))
    leaf = authority.issue(args.hosts, args.days)
    folder: Path = args.out or ca_folder(args)
    stem = args.hosts[0].replace("*", "_").replace(":", "_")
    certificate, key = folder / f"{stem}.pem", folder / f"{stem}.key"
    taken = {
        pki.CA_CERTIFICATE,
        pki.CA_KEY,
        pki_chain.INTERMEDIATE,
        pki_chain.ROOT_KEY,
        pki_corporate.REQUEST_KEY,
        BUNDLE,
        EXTRA,
    }
    if {certificate.name, key.name} & taken:
        raise ConfigError("hosts", f"{certificate.name} would overwrite the authority", "write elsewhere with --out")
    pki.make_folder(folder)
    pki.write_atomic(key, leaf.key_pem)
    pki.write_atomic(certificate, leaf.cert_pem, mode=0o644)
    if args.json:
        print_json({"certificate": str(certificate), "key": str(key), "hosts": args.hosts})
        return
    say(f"issued {certificate} (with its chain) and {key} for {', '.join(args.hosts)}")
    print(certificate)


def _bundle(args: argparse.Namespace) -> None:
    folder = ca_folder(args)
    if args.out == "-":
        data = bundle(folder, args.extra)
        sys.stdout.write(data.decode("utf-8", "replace"))  # comments between certificates may be in any encoding
        return
    path = Path(args.out) if args.out else folder / BUNDLE
    count = write_bundle(folder, path, args.extra)
    if args.json:
        print_json({"bundle": str(path), "certificates": count})
        return
    say(f"wrote {count} certificates")
    if args.extra is not None and args.out is None:
        say(f"those of {args.extra} are kept in {folder / EXTRA}, for every later bundle; to leave them out, remove it")
    print(path)
