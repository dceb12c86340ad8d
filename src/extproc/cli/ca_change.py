"""`extproc ca rotate`, `status`, `request` and `import`: what happens to an authority after it was made."""

from __future__ import annotations

import argparse
import datetime as dt
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final, TypeAlias

from cryptography import x509

from extproc.adapters import leaves, pki, pki_chain, pki_corporate
from extproc.adapters.first_run import CA_NAME, GATEWAY_NAMES, gateway_names, provider_hosts
from extproc.adapters.minting import mark_rotation
from extproc.adapters.pki_bundle import BUNDLE, write_bundle
from extproc.adapters.pki_files import read_certificates, to_pem
from extproc.adapters.pki_trial import refusal
from extproc.cli.ca_place import ca_folder, configuration, sds_folder
from extproc.cli.output import print_json, print_table, say
from extproc.config.model import Interception
from extproc.errors import ConfigError

_SOON: Final = dt.timedelta(days=30)
_Actions: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"  # noqa: SLF001 - it has no public name


def add_actions(actions: _Actions) -> list[argparse.ArgumentParser]:
    """Declare them."""
    rotate = actions.add_parser("rotate", help="put new certificates in the place of those in use; no connection drops")
    rotate.add_argument(
        "what",
        nargs="?",
        choices=tuple(_ROTATIONS),
        default="leaves",
        help="leaves (default); intermediate: a new key for the hosts of today, needs the root's key; root: make the next"
        " root, which apps are to trust beside this one; switch: sign with the next root; forget: trust no older root",
    )
    rotate.add_argument(
        "--root-key", type=Path, metavar="FILE", help="the root's key (default: root.key in the CA's folder)"
    )
    rotate.add_argument("--bind-root", action="store_true", help="with `root`: let it vouch for the hosts only")
    status = actions.add_parser("status", help="names, dates and what needs care")
    for action in (rotate, status):
        action.add_argument(
            "--sds", type=Path, metavar="FOLDER", help="Envoy's certificates (default: the state's envoy/sds)"
        )
    request = actions.add_parser(
        "request", help="ask a corporate CA to sign an intermediate: a new key and a PKCS #10 request"
    )
    request.add_argument("hosts", nargs="*", metavar="HOST", help="all that it may sign for (default: as for init)")
    request.add_argument("--name", default=CA_NAME, help="common name of the intermediate")
    taken = actions.add_parser("import", help="take the intermediate that a corporate CA signed")
    taken.add_argument("signed", type=Path, metavar="PEM", help="the intermediate, then those between it and the root")
    taken.add_argument(
        "--root", type=Path, metavar="PEM", required=True, help="the corporate root, which apps are to trust"
    )
    return [rotate, status, request, taken]


# ---- rotate -----------------------------------------------------------------------------------------------------------


def _rotate(args: argparse.Namespace) -> None:
    told = _ROTATIONS[args.what](args, ca_folder(args))
    if args.json:
        print_json({"rotated": args.what, "done": told})
        return
    for line in told:
        say(line)


def _leaves(args: argparse.Namespace, folder: Path) -> list[str]:
    """Each file by one rename; where leaves are minted, the gateway is told to mint anew."""
    config, sds = configuration(args), sds_folder(args)
    interception = config.interception if config is not None else Interception()
    found = leaves.reissue(folder, sds, interception.leaf_life, GATEWAY_NAMES)
    mark_rotation(folder)
    told = [
        f"not renewed: {path} ({reason}); remove it, where the configuration has no such provider any more"
        for path, reason in found.skipped
    ]
    if found.made:
        return [f"new certificates in {sds}: {', '.join(found.made)}", *told]
    return told or [f"no certificates in {sds} yet: the gateway makes them when it starts"]


def _intermediate(args: argparse.Namespace, folder: Path) -> list[str]:
    hosts = _hosts(args, folder)
    issuer = pki_chain.new_intermediate(folder, hosts, args.root_key)
    end = f"{issuer.end:%Y-%m-%d}"
    return [f"new intermediate until {end}, for {', '.join(hosts)}", *_leaves(args, folder)]


def _hosts(args: argparse.Namespace, folder: Path) -> tuple[str, ...]:
    """Those of the configuration; without one, those that the certificate of today is for, which may have ended."""
    config = configuration(args)
    if config is not None:
        return tuple(dict.fromkeys((*provider_hosts(config), *gateway_names(config))))
    hosts = pki_chain.vouched_for(_signing(folder)[0])
    if not hosts:
        hint = "bring gateway.yaml, and name it with --config"
        raise ConfigError("hosts", "there is no configuration, and no certificate with hosts, to take them from", hint)
    return hosts


def _signing(folder: Path) -> tuple[x509.Certificate, ...]:
    """What signs leaves, good or not, and those above it, without the roots; the root in use where it signs itself."""
    roots = read_certificates(folder / pki.CA_CERTIFICATE)
    path = folder / pki_chain.INTERMEDIATE
    chain = tuple(each for each in read_certificates(path) if each not in roots) if path.exists() else ()
    return chain or roots[:1]


def _root(args: argparse.Namespace, folder: Path) -> list[str]:
    hosts = _hosts(args, folder)
    plan = pki_chain.ChainPlan(CA_NAME, hosts, args.bind_root, root_key=args.root_key)
    known = pki_chain.staged(folder)
    issuer = pki_chain.stage_root(folder, plan)
    write_bundle(folder, folder / BUNDLE)
    key = args.root_key or folder / pki_chain.NEXT / pki_chain.ROOT_KEY
    made = f"made the next root; its key is {key}: take it offline"
    if known:
        made = f"a next root is there already, {_named(issuer.roots[0])}: none was made (to give it up, remove {folder / pki_chain.NEXT})"
    return [
        made,
        f"now give {folder / BUNDLE} (it holds the old root and the next) to every app; certificates stay as they are",
        "when all apps have it: extproc ca rotate switch",
    ]


def _switch(args: argparse.Namespace, folder: Path) -> list[str]:
    """Each step again, where an earlier run was cut off."""
    if pki_chain.staged(folder):
        _refuse_ungiven(folder)
    pki_chain.switch_root(folder)
    write_bundle(folder, folder / BUNDLE)
    told, root = _leaves(args, folder), pki_chain.root_in_use(folder)
    name = "the next root" if root is None else f"the root {_named(root)}"
    return [*told, f"{name} signs now; when nobody needs another any more: extproc ca rotate forget"]


def _refuse_ungiven(folder: Path) -> None:
    """Raise ConfigError where the bundle lacks the next root: what staged it was cut off before apps could be given it."""
    bundle = folder / BUNDLE
    held = bundle.read_bytes() if bundle.exists() else b""
    if any(to_pem(root) not in held for root in read_certificates(folder / pki_chain.NEXT / pki.CA_CERTIFICATE)):
        hint = "extproc ca rotate root writes it; then give it to every app, and switch"
        raise ConfigError(str(bundle), "the next root is not in it, so no app was given it", hint)


def _forget(args: argparse.Namespace, folder: Path) -> list[str]:
    forgotten = pki_chain.forget_roots(folder, leaves.in_use(sds_folder(args), dt.datetime.now(dt.UTC)))
    count = write_bundle(folder, folder / BUNDLE)
    names = ", ".join(pki_chain.common_name(root) for root in forgotten) or "none"
    return [f"roots no longer trusted: {names}; {folder / BUNDLE} has {count} certificates: give it to every app"]


def _named(root: x509.Certificate) -> str:
    return f"{pki_chain.common_name(root)} of {root.not_valid_before_utc + pki.SKEW:%Y-%m-%d}"


_ROTATIONS: Final[dict[str, Callable[[argparse.Namespace, Path], list[str]]]] = {
    "leaves": _leaves,
    "intermediate": _intermediate,
    "root": _root,
    "switch": _switch,
    "forget": _forget,
}


# ---- status -----------------------------------------------------------------------------------------------------------


def _status(args: argparse.Namespace) -> None:
    folder, now = ca_folder(args), dt.datetime.now(dt.UTC)
    rows = list(_rows(folder, sds_folder(args), now))
    warnings = [f"{row['what']} {row['name']}: {row['warning']}" for row in rows if row["warning"]]
    warnings += list(_warnings(folder))
    if args.json:
        print_json({"certificates": rows, "warnings": warnings})
        return
    table = [[row["what"], row["name"], row["until"][:16].replace("T", " "), ", ".join(row["hosts"])] for row in rows]
    print_table(("", "NAME", "UNTIL (UTC)", "HOSTS"), table)
    for warning in warnings:
        say(f"warning: {warning}")


def _rows(folder: Path, sds: Path, now: dt.datetime) -> Iterator[dict[str, Any]]:
    roots = pki_chain.trusted(folder)
    issuer = _signing(folder)[0]
    for root in roots:
        soon = "ends soon" if root.not_valid_after_utc - now < _SOON else ""
        ended = _ended(root, now, "extproc ca rotate root")
        yield _row("root", root, pki_chain.vouched_for(root), ended or _early(root, now) or soon)
    if issuer not in roots:
        due = now >= pki_chain.renewal_time(issuer)
        hint = "past two thirds of its life: extproc ca rotate intermediate" if due else ""
        ended = _ended(issuer, now, "extproc ca rotate intermediate; under a corporate root: extproc ca request")
        yield _row("intermediate", issuer, pki_chain.vouched_for(issuer), ended or _early(issuer, now) or hint)
    for path in leaves.leaf_files(sds):
        leaf = leaves.read_leaf(path)
        yield {**_row("leaf", leaf, leaves.names_of(leaf), _leaf_warning(leaf, issuer, now)), "name": path.stem}


def _ended(certificate: x509.Certificate, now: dt.datetime, cure: str) -> str:
    return f"has ended: apps refuse it, and what it signed; {cure}" if now >= certificate.not_valid_after_utc else ""


def _early(certificate: x509.Certificate, now: dt.datetime) -> str:
    if now >= certificate.not_valid_before_utc:
        return ""
    begin = f"{certificate.not_valid_before_utc:%Y-%m-%d %H:%M}"
    return f"is good from {begin} UTC only (made while the clock was ahead?): apps refuse it; make it anew"


def _leaf_warning(leaf: x509.Certificate, issuer: x509.Certificate, now: dt.datetime) -> str:
    if now >= leaf.not_valid_after_utc:
        return "has ended: apps refuse it; extproc ca rotate"
    if now < leaf.not_valid_before_utc:
        return f"{_early(leaf, now)}: extproc ca rotate"
    if not pki_chain.signed_by(leaf, issuer):  # not by name: two of one day have the same
        return "was signed by an older intermediate: extproc ca rotate"
    life = leaf.not_valid_after_utc - leaf.not_valid_before_utc - pki.SKEW
    # a running gateway renews at two thirds: well beyond it, none is running, or it cannot
    late = now >= pki_chain.renewal_time(leaf) + life / 12
    return "should have been renewed: is the gateway running? its log says why not" if late else ""


def _row(what: str, certificate: x509.Certificate, hosts: tuple[str, ...], warning: str) -> dict[str, Any]:
    return {
        "what": what,
        "name": pki_chain.common_name(certificate),
        "from": certificate.not_valid_before_utc.isoformat(),
        "until": certificate.not_valid_after_utc.isoformat(),
        "serial": f"{certificate.serial_number:x}",
        "hosts": list(hosts) if hosts or what == "leaf" else ["(any)"],
        "warning": warning,
    }


def _warnings(folder: Path) -> Iterator[str]:
    roots = read_certificates(folder / pki.CA_CERTIFICATE)
    try:
        why = refusal(pki_chain.load_issuer(folder), strict=True)
    except ConfigError as error:
        yield f"nothing can be signed here: {error}"
    else:
        if why:
            yield f"strict clients (Python 3.13 and later) refuse what is signed here: {why}"
    if not (folder / pki_chain.INTERMEDIATE).exists():
        yield "the root signs leaves itself (made by an older version); to change: extproc ca rotate root"
    if (folder / pki_chain.ROOT_KEY).exists():
        yield f"the root's key is here ({folder / pki_chain.ROOT_KEY}): the gateway does not need it, take it offline"
    if pki_chain.staged(folder):
        yield "a change of the root is under way: extproc ca rotate switch, once every app has the bundle"
    elif len(roots) > 1:
        yield f"apps are told to trust {len(roots)} roots: extproc ca rotate forget, once the old one signs nothing in use"
    if (folder / pki_corporate.REQUEST_KEY).exists():
        yield f"{folder / pki_corporate.REQUEST} waits for a corporate CA: extproc ca import"


# ---- a corporate CA ----------------------------------------------------------------------------------------------------


def _request(args: argparse.Namespace) -> None:
    folder, config = ca_folder(args), configuration(args)
    hosts = tuple(args.hosts)
    if not hosts and config is not None:
        hosts = tuple(dict.fromkeys((*provider_hosts(config), *gateway_names(config))))
    if not hosts:
        raise ConfigError("hosts", "there is nothing to take the hosts from", "name them: ca request api.openai.com")
    pki_corporate.make_request(folder, args.name, hosts)
    path = folder / pki_corporate.REQUEST
    if args.json:
        print_json({"request": str(path), "hosts": hosts})
        return
    say(f"made {path}: let the corporate CA sign it as a CA with path length 0 and the name constraints in it,")
    say("then: extproc ca import SIGNED.pem --root CORPORATE-ROOT.pem")
    print(path)


def _import(args: argparse.Namespace) -> None:
    folder, config = ca_folder(args), configuration(args)
    needed = () if config is None else (*provider_hosts(config), *config.interception.names)
    issuer = pki_corporate.import_intermediate(folder, args.signed, args.root, needed)
    count, waits = write_bundle(folder, folder / BUNDLE), pki_chain.staged(folder)
    if args.json:
        hosts = pki_chain.vouched_for(issuer.certificate)
        print_json({"until": issuer.end.isoformat(), "hosts": hosts, "bundle": count, "staged": waits})
        return
    why = refusal(issuer, strict=True)
    if why:
        say(f"warning: strict clients (Python 3.13 and later) refuse what it signs: {why}")
    name = pki_chain.common_name(issuer.certificate)
    if waits:
        say(f"{name} waits: certificates stay as they are, until apps trust the corporate root")
        say(f"now see to it that every app does ({folder / BUNDLE} holds it, beside the root of today)")
        say("when all apps do: extproc ca rotate switch")
        return
    say(f"{name} signs from now on, until {issuer.end:%Y-%m-%d}; certificates in use: extproc ca rotate")


ACTIONS: Final[dict[str, Callable[[argparse.Namespace], None]]] = {
    "rotate": _rotate,
    "status": _status,
    "request": _request,
    "import": _import,
}
