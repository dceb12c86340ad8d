"""The CA's folder: a root that apps trust, an intermediate that signs leaves, and the change of either.

    ca.pem             the roots that apps trust, the current one first (two while the root is being changed)
    root.key           the root's key. Signs intermediates only: keep it elsewhere, and bring it for the minute it is needed
    intermediate.pem   the intermediate's key, its certificate, and those between it and the root. One file, because one
                       rename replaces it; cert-manager's `CombinedPEM` output has the same form
    next/              a root and intermediate that wait for `switch`, during a change of the root

Each change of it holds the folder's lock. A folder with `ca.key` and no intermediate is one in which the root signs leaves itself (what older versions made): it
works as it is, and `stage_root` leads out of it without a break of trust.
"""

from __future__ import annotations

import datetime as dt
import itertools
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.x509.oid import NameOID

from extproc.adapters.pki import (
    CA_CERTIFICATE,
    CA_KEY,
    SKEW,
    Authority,
    CaShape,
    load_ca,
    make_ca,
    make_folder,
    write_atomic,
)
from extproc.adapters.pki_files import check_ca, key_pem, locked, read_certificates, read_key, refuse_open, to_pem
from extproc.adapters.pki_names import bound, constraints_of, subtrees
from extproc.adapters.pki_trial import refusal
from extproc.errors import ConfigError

ROOT_KEY: Final = "root.key"
INTERMEDIATE: Final = "intermediate.pem"
NEXT: Final = "next"
ROOT_DAYS: Final = 3650.0
INTERMEDIATE_DAYS: Final = 365.0
_ASK: Final = "extproc ca request"


@dataclass(frozen=True, slots=True)
class ChainPlan:
    """A root and an intermediate to make. `hosts`: all that the intermediate may vouch for.

    `bind_root`: the root too may vouch for these only. Safer where its key stays on this machine; but a further host then
    needs a new root, which every app has to trust. `root_key`: where its key goes (None: `root.key` in the folder).
    """

    name: str
    hosts: tuple[str, ...]
    bind_root: bool = False
    root_days: float = ROOT_DAYS
    days: float = INTERMEDIATE_DAYS
    root_key: Path | None = None


def exists(folder: Path) -> bool:
    """Whether there is a CA, whole or in part: then none is made."""
    return any((folder / name).exists() for name in (CA_CERTIFICATE, CA_KEY, INTERMEDIATE, ROOT_KEY))


def create_chain(folder: Path, plan: ChainPlan) -> Authority:
    """Make root and intermediate, or nothing. Raises ConfigError where there is a CA already, and for a host that is none."""
    if exists(folder):
        raise ConfigError(str(folder), "there is a CA already", "use it, or move it away to make a new one")
    root_key = plan.root_key or folder / ROOT_KEY
    if root_key.exists():
        raise ConfigError(str(root_key), "is there already", "name another file for the new root's key")
    if plan.root_key is not None and not root_key.parent.is_dir():
        raise ConfigError(str(root_key.parent), "is no folder", "make it, or name another file for the root's key")
    root = make_ca(CaShape(plan.name, plan.hosts if plan.bind_root else (), plan.root_days, path_length=1))
    issuer = make_ca(_intermediate(plan.name, plan.hosts, plan.days), root)
    make_folder(folder)
    with locked(folder):
        if exists(folder):
            raise ConfigError(str(folder), "there is a CA already", "another process made it: use it")
        try:
            write_atomic(root_key, key_pem(root.key))
            write_issuer(folder, issuer)
            write_roots(folder, issuer.roots)  # last: what marks the folder as whole
        except OSError:
            for path in (root_key, folder / INTERMEDIATE):
                path.unlink(missing_ok=True)  # a full disk: half a CA would be in the way of the next try
            raise
    return issuer


def load_issuer(folder: Path) -> Authority:
    """What signs leaves: the intermediate, or the root of a folder without one.

    Raises ConfigError, with the cure, for a key that is open to other users (the root's too), a file that is missing or
    damaged, a certificate that has expired, and an intermediate that leads to no root of `ca.pem`, or that no name
    constraint binds.
    """
    if (folder / ROOT_KEY).exists():
        refuse_open(folder / ROOT_KEY)
    path = folder / INTERMEDIATE
    if not path.exists():
        return load_ca(folder)
    roots = read_certificates(folder / CA_CERTIFICATE)
    chain = read_certificates(path)
    key = read_key(path)
    check_ca(chain[0], key, path)
    chain = tuple(certificate for certificate in chain if certificate not in roots)
    if not chain or root_of(chain, roots) is None:
        hint = f"put the root that signed it into {folder / CA_CERTIFICATE}"
        raise ConfigError(str(path), f"leads to no root in {CA_CERTIFICATE}", hint)
    if not bound(chain):
        hint = "bind it to the hosts that apps call, by permitted DNS names (docs/certificates.md)"
        raise ConfigError(str(path), "is not bound by name constraints: it could vouch for any host", hint)
    return Authority(chain[0], key, chain, roots)


def trusted(folder: Path) -> tuple[x509.Certificate, ...]:
    """The roots that apps are to trust, also where what signs has ended. Raises ConfigError for an open key as well."""
    for name in (ROOT_KEY, INTERMEDIATE, CA_KEY):
        if (folder / name).exists():
            refuse_open(folder / name)
    return read_certificates(folder / CA_CERTIFICATE)


def root_of(chain: Sequence[x509.Certificate], roots: Sequence[x509.Certificate]) -> x509.Certificate | None:
    """The root that a chain (issuing certificate first) ends at; None where a link or the root is missing."""
    for below, above in itertools.pairwise(chain):
        if not signed_by(below, above):
            return None
    return next((root for root in roots if signed_by(chain[-1], root)), None)


def root_in_use(folder: Path) -> x509.Certificate | None:
    """The root under which leaves are signed now; None where that cannot be told from the files."""
    try:
        roots = read_certificates(folder / CA_CERTIFICATE)
        if not (folder / INTERMEDIATE).exists():
            return roots[0]
        chain = tuple(each for each in read_certificates(folder / INTERMEDIATE) if each not in roots)
    except ConfigError:
        return None
    return root_of(chain, roots) if chain else None


def new_intermediate(folder: Path, hosts: Sequence[str], root_key: Path | None = None) -> Authority:
    """Sign a new intermediate (new key) for `hosts` with the root's key and put it in the old one's place, by one rename.

    Leaves of the old one stay good: each is sent with its own chain, and the old certificate lives on. Without `root_key`
    only the root in use signs: another's key may lie here from before a corporate CA signed. Raises ConfigError where the
    root's key is not there, is not the root's, is the staged root's, or the root may not vouch for a host, or where apps
    would refuse what the new one signs: under an older version's root, which leaves no room for an intermediate.
    """
    with locked(folder):
        return _new_intermediate(folder, hosts, root_key)


def _new_intermediate(folder: Path, hosts: Sequence[str], root_key: Path | None = None) -> Authority:
    path = root_key or folder / ROOT_KEY
    if not path.exists():
        old = "" if (folder / INTERMEDIATE).exists() else " (an older version's root cannot sign one: ca rotate root)"
        hint = f"bring the root's key for a minute and name it with --root-key{old}; under a corporate root: {_ASK}"
        raise ConfigError(str(path), "is not there", hint)
    key = read_key(path)
    roots = read_certificates(folder / CA_CERTIFICATE)
    root = next((root for root in roots if root.public_key() == key.public_key()), None)
    if root is None:
        hint = f"name the root's key with --root-key; under a corporate root: {_ASK}"
        raise ConfigError(str(path), f"is the key of no root in {CA_CERTIFICATE}", hint)
    used = root_in_use(folder)
    if used is not None and used.public_key() != root.public_key():
        if staged(folder) and root in read_certificates(folder / NEXT / CA_CERTIFICATE):
            raise ConfigError(str(path), "is the next root's, which apps may not trust yet", "first: ca rotate switch")
        if root_key is None:
            hint = f"name that root's key with --root-key; under a corporate root: {_ASK}"
            raise ConfigError(str(path), f"is not the key of the root in use, {common_name(used)}", hint)
    check_ca(root, key, folder / CA_CERTIFICATE)
    signer = Authority(root, key, roots=roots)
    issuer = make_ca(_intermediate(common_name(root), tuple(hosts), INTERMEDIATE_DAYS), signer)
    why = refusal(issuer)
    if why:
        hint = "make a root that can have one below it: extproc ca rotate root"
        raise ConfigError(str(folder / CA_CERTIFICATE), f"apps would refuse an intermediate of this root: {why}", hint)
    write_issuer(folder, issuer)
    return issuer


def renew_intermediate(folder: Path, now: dt.datetime) -> bool:
    """Where two thirds of the intermediate's life are over and the root's key is here, make a new one for the same hosts.

    Also where it is of the future: the clock was ahead when it was made. The key of another root, such as the one that was
    in use before a corporate CA signed, is left alone.
    """
    if _to_renew(folder, now) is None:
        return False
    with locked(folder):
        certificate = _to_renew(folder, now)  # another process may have renewed or switched meanwhile
        if certificate is None:
            return False
        _new_intermediate(folder, vouched_for(certificate))
    return True


def _to_renew(folder: Path, now: dt.datetime) -> x509.Certificate | None:
    """The intermediate, where it is due and can be renewed here."""
    if not (folder / INTERMEDIATE).exists() or not (folder / ROOT_KEY).exists():
        return None
    certificate = read_certificates(folder / INTERMEDIATE)[0]
    if not due(certificate, now):
        return None
    key = read_key(folder / ROOT_KEY).public_key()
    roots = [root for root in read_certificates(folder / CA_CERTIFICATE) if signed_by(certificate, root)]
    return certificate if any(root.public_key() == key for root in roots) else None


def due(certificate: x509.Certificate, now: dt.datetime) -> bool:
    """Whether it is to be made anew: past two thirds of its life, or of the future, when no client takes it."""
    return now >= renewal_time(certificate) or now < certificate.not_valid_before_utc


def renewal_time(certificate: x509.Certificate) -> dt.datetime:
    """Two thirds into its life: it may still be used for the last third, so that a failure to renew has time to be mended."""
    issued = certificate.not_valid_before_utc + SKEW
    return issued + (certificate.not_valid_after_utc - issued) * 2 / 3


def vouched_for(certificate: x509.Certificate) -> tuple[str, ...]:
    """The hosts in a CA's name constraints; empty: it has none."""
    constraints = constraints_of(certificate)
    return subtrees(constraints.permitted_subtrees) if constraints is not None else ()


def common_name(certificate: x509.Certificate) -> str:
    """The subject's common name, or the whole subject."""
    names = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    return str(names[0].value) if names else certificate.subject.rfc4514_string()


# ---- a change of the root: stage, (apps take the new bundle), switch, (old leaves end), forget -------------------------


def staged(folder: Path) -> bool:
    """Whether a next root waits, whole. Without `ca.pem`, which is written last, `next/` is what a cut-off run left."""
    return (folder / NEXT / CA_CERTIFICATE).exists()


def stage_root(folder: Path, plan: ChainPlan) -> Authority:
    """Make the next root and intermediate beside those in use, and let apps trust both roots. Leaves stay as they are.

    Goes on where it was cut off: a next root that is there whole is made known, and none is made.
    """
    with locked(folder):
        trusted(folder)  # one that has ended is changed like any other
        if staged(folder) and not (folder / NEXT / INTERMEDIATE).exists():
            raise ConfigError(str(folder / NEXT), "a switch to it was cut off", "go on with: extproc ca rotate switch")
        if not staged(folder):
            clear_next(folder)
            create_chain(folder / NEXT, plan)
        issuer = load_issuer(folder / NEXT)
        add_roots(folder, issuer.roots)
        return issuer


def add_roots(folder: Path, new: Sequence[x509.Certificate]) -> None:
    """Let apps trust these as well, after those that they trust."""
    roots = read_certificates(folder / CA_CERTIFICATE)
    missing = [root for root in new if root not in roots]
    if missing:
        write_roots(folder, (*roots, *missing))


def clear_next(folder: Path) -> None:
    """Take `next/` away: by a rename first, so that none is ever there in part with its `ca.pem`."""
    aside = folder / f".{NEXT}.old"
    shutil.rmtree(aside, ignore_errors=True)
    if (folder / NEXT).exists():
        (folder / NEXT).replace(aside)
        shutil.rmtree(aside)


def switch_root(folder: Path) -> Authority:
    """Let the staged intermediate sign from now on, by one rename; both roots stay trusted. Goes on where it was cut off.

    Raises ConfigError where there is nothing to switch to, or its root is not in `ca.pem`: then no app was given it.
    """
    with locked(folder):
        waiting = folder / NEXT
        roots = read_certificates(folder / CA_CERTIFICATE)
        if not staged(folder):
            if len(roots) > 1:
                return load_issuer(folder)
            raise ConfigError(str(waiting), "there is no next root", "begin with: extproc ca rotate root")
        new = read_certificates(waiting / CA_CERTIFICATE)
        if any(root not in roots for root in new):
            hint = "run again what staged it (extproc ca rotate root, or ca import), and give every app the bundle"
            raise ConfigError(str(waiting), f"its root is not in {CA_CERTIFICATE}, so no app trusts it", hint)
        refuse_open(waiting / INTERMEDIATE if (waiting / INTERMEDIATE).exists() else folder / INTERMEDIATE)
        write_roots(folder, (*new, *(root for root in roots if root not in new)))
        for name in (INTERMEDIATE, ROOT_KEY):
            if (waiting / name).exists():
                (waiting / name).replace(folder / name)
        key = folder / ROOT_KEY
        if key.exists() and read_key(key).public_key() not in [root.public_key() for root in new]:
            key.unlink()  # the new root's key is elsewhere; the old root's must not stay in its place
        (folder / CA_KEY).unlink(missing_ok=True)
        clear_next(folder)
        return load_issuer(folder)


def forget_roots(
    folder: Path, in_use: Mapping[str, Sequence[x509.Certificate]] | None = None
) -> tuple[x509.Certificate, ...]:
    """Let apps trust only the root that signs now; returns the forgotten ones.

    `in_use`: the leaves in use, each with its chain, by name. Raises ConfigError where one is not under the root that is
    kept: apps would refuse it. Leaves elsewhere must have ended.
    """
    with locked(folder):
        if staged(folder):
            raise ConfigError(
                str(folder / NEXT), "a change of the root is under way", "first: extproc ca rotate switch"
            )
        issuer = load_issuer(folder)
        kept = root_of(issuer.chain, issuer.roots) if issuer.chain else issuer.certificate
        forgotten = tuple(root for root in issuer.roots if root != kept)
        if kept is None or not forgotten:
            return ()
        for name, chain in (in_use or {}).items():
            if root_of(chain, (kept,)) is None:
                hint = "extproc ca rotate; or remove the file, where the configuration has no such provider any more"
                raise ConfigError(
                    name, "is in use, and not signed under the root that stays: apps would refuse it", hint
                )
        write_roots(folder, (kept,))
        key = folder / ROOT_KEY
        if key.exists() and read_key(key).public_key() != kept.public_key():
            key.unlink()  # of a root that no app trusts any more
        return forgotten


def _intermediate(name: str, hosts: tuple[str, ...], days: float) -> CaShape:
    if not hosts:
        raise ConfigError("hosts", "an intermediate needs at least one host", "name the hosts that apps call")
    return CaShape(f"{name[:40]} issuing {dt.datetime.now(dt.UTC):%Y-%m-%d}", hosts, days)


def write_issuer(folder: Path, issuer: Authority) -> None:
    """Key, certificate and chain in one file, by one rename."""
    write_atomic(folder / INTERMEDIATE, key_pem(issuer.key) + to_pem(*issuer.chain))


def write_roots(folder: Path, roots: Sequence[x509.Certificate]) -> None:
    """What apps trust, the root in use first."""
    write_atomic(folder / CA_CERTIFICATE, to_pem(*roots), mode=0o644)


def signed_by(below: x509.Certificate, above: x509.Certificate) -> bool:
    """Whether the one's key signed the other."""
    try:
        below.verify_directly_issued_by(above)
    except (ValueError, TypeError, InvalidSignature):  # other names, an unknown algorithm, another key
        return False
    return True
