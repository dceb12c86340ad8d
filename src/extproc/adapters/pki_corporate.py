"""An intermediate that a corporate CA signs: the request, and the import of what it made of it.

    request.key/.csr   in the CA's folder: what the corporate CA has still to sign

An import beside a CA in use is staged like a next root: apps must trust the corporate root before it signs for them.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID

from extproc.adapters.pki import CA_CERTIFICATE, CA_KEY, Authority, CaShape, key_usage, make_folder, write_atomic
from extproc.adapters.pki_chain import (
    INTERMEDIATE,
    NEXT,
    add_roots,
    clear_next,
    root_in_use,
    root_of,
    staged,
    write_issuer,
    write_roots,
)
from extproc.adapters.pki_files import check_ca, is_ca, key_pem, locked, read_certificates, read_key
from extproc.adapters.pki_names import bound, constraints_of, name_constraints
from extproc.adapters.pki_trial import loophole, refusal
from extproc.errors import ConfigError

REQUEST_KEY: Final = "request.key"
REQUEST: Final = "request.csr"


def make_request(folder: Path, name: str, hosts: Sequence[str]) -> bytes:
    """A new key (`request.key`) and the request (PKCS #10, PEM) for an intermediate bound to `hosts`; also `request.csr`."""
    if (folder / REQUEST_KEY).exists():
        raise ConfigError(str(folder / REQUEST_KEY), "a request is waiting to be signed", "import it, or remove it")
    key = ec.generate_private_key(ec.SECP256R1())
    shape = CaShape(name, tuple(hosts), path_length=0)
    builder = x509.CertificateSigningRequestBuilder().subject_name(shape.subject)
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
    builder = builder.add_extension(key_usage(signs_certificates=True), critical=True)
    builder = builder.add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
    builder = builder.add_extension(name_constraints(hosts), critical=True)
    request = builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)
    make_folder(folder)
    with locked(folder):
        write_atomic(folder / REQUEST_KEY, key_pem(key))
        write_atomic(folder / REQUEST, request, mode=0o644)
    return request


def import_intermediate(folder: Path, signed: Path, roots: Path, hosts: Sequence[str] = ()) -> Authority:
    """Take the certificate that a corporate CA made of the request, and its root(s), which apps then trust.

    `signed`: PEM, the intermediate first, then those between it and the root. Beside a CA in use under another root it is
    staged: apps are to trust both, and `switch_root` lets it sign. Otherwise (no CA, one that has ended, one under the same
    root) it signs from now on. Raises ConfigError where it is not of our request's key, is no CA, leads to none of the
    roots, may not vouch for one of `hosts`, signs nothing that a client would take, or is not bound by name constraints to
    names that are listed: a corporate root is trusted for everything, so a stolen key would be good for everything.
    """
    with locked(folder):
        issuer = _checked(folder, signed, roots)
        _refuse_unfit(signed, issuer, hosts)
        if _signs_at_once(folder, issuer):
            if staged(folder):
                hint = "first: extproc ca rotate switch"
                raise ConfigError(str(folder / NEXT), "a change of the root is under way", hint)
            known = read_certificates(folder / CA_CERTIFICATE) if (folder / CA_CERTIFICATE).exists() else ()
            write_roots(folder, (*issuer.roots, *(root for root in known if root not in issuer.roots)))
            write_issuer(folder, issuer)
            (folder / CA_KEY).unlink(missing_ok=True)
        else:
            _stage(folder, issuer)
        for name in (REQUEST_KEY, REQUEST):
            (folder / name).unlink(missing_ok=True)
        return issuer


def _checked(folder: Path, signed: Path, roots: Path) -> Authority:
    key = read_key(folder / REQUEST_KEY)
    chain, trusted = read_certificates(signed), read_certificates(roots)
    if key.public_key() != chain[0].public_key():
        hint = f"put the certificate that the CA made of {REQUEST} first; one of an earlier request is of no use"
        raise ConfigError(str(signed), f"not the certificate of its key, {folder / REQUEST_KEY}", hint)
    if not is_ca(chain[0]):
        hint = "ask for a subordinate CA: basicConstraints CA:true, pathlen:0 (docs/certificates.md)"
        raise ConfigError(str(signed), "not a CA certificate", hint)
    check_ca(chain[0], key, signed)
    chain = tuple(certificate for certificate in chain if certificate not in trusted)
    if not chain or not all(is_ca(root) for root in trusted) or root_of(chain, trusted) is None:
        hint = (
            f"give the whole chain: the intermediate first, then what is between it and the root; {roots}: roots only"
        )
        raise ConfigError(str(signed), f"does not lead to a root in {roots}", hint)
    return Authority(chain[0], key, chain, trusted)


def _refuse_unfit(signed: Path, issuer: Authority, hosts: Sequence[str]) -> None:
    """Raise ConfigError where clients would take too little of what it signs, or too much."""
    copy = "ask the CA to copy the name constraints of the request (docs/certificates.md)"
    if constraints_of(issuer.certificate) is None:
        raise ConfigError(str(signed), "has no name constraints: it could vouch for any host", copy)
    if not bound(issuer.chain[:1]):
        raise ConfigError(str(signed), "its name constraints permit no DNS name, so any that they do not exclude", copy)
    barred = [host for host in hosts if not issuer.may_sign(host)]
    if barred:
        raise ConfigError(str(signed), f"may not vouch for {', '.join(barred)} (name constraints)", copy)
    why = refusal(issuer, hosts)
    if why:
        raise ConfigError(str(signed), f"apps would refuse what it signs: {why}", "tell the corporate CA")
    free = loophole(issuer, hosts)
    if free:
        raise ConfigError(str(signed), f"could vouch for hosts that nobody listed, such as {free}", copy)


def _signs_at_once(folder: Path, issuer: Authority) -> bool:
    """Whether no app can lose trust: nothing signs yet, nobody takes what does, or apps trust the issuer's root already."""
    if not (folder / CA_CERTIFICATE).exists():
        return True
    used = root_in_use(folder)
    if used is not None and root_of(issuer.chain, (used,)) is not None:
        return True
    path = folder / INTERMEDIATE if (folder / INTERMEDIATE).exists() else folder / CA_CERTIFICATE
    return read_certificates(path)[0].not_valid_after_utc <= dt.datetime.now(dt.UTC)


def _stage(folder: Path, issuer: Authority) -> None:
    """Write it as the next root's; goes on where an import of the same certificate was cut off."""
    waiting = folder / NEXT
    if not staged(folder):
        clear_next(folder)
        make_folder(waiting)
        write_issuer(waiting, issuer)
        write_roots(waiting, issuer.roots)  # last: what marks it as whole
    elif not (waiting / INTERMEDIATE).exists() or read_certificates(waiting / INTERMEDIATE)[0] != issuer.certificate:
        raise ConfigError(str(waiting), "a change of the root is under way", "first: extproc ca rotate switch")
    add_roots(folder, issuer.roots)
