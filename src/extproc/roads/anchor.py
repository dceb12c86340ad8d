"""The gateway's CA, as the suite trusts it: one root and nothing else, as whoever it vouches for passes for the gateway."""

from __future__ import annotations

import re
import ssl
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from extproc.adapters.pki import public_roots
from extproc.errors import ConfigError

_BLOCK: Final = re.compile(r"-----BEGIN CERTIFICATE-----[^-]+-----END CERTIFICATE-----")
_CURE: Final = "name a file with the gateway's root alone (--ca), no bundle: who it vouches for passes for the gateway"


def check_alone(path: Path) -> None:
    """Raises ConfigError where the file holds another CA beside the gateway's, or a public root; OSError for no file."""
    try:
        held = list(dict.fromkeys(x509.load_pem_x509_certificates(path.read_bytes())))
    except ValueError:
        raise ConfigError(str(path), "holds no certificate", "name the CA's PEM file with --ca") from None
    roots = [one for one in held if _signed(one, one)]
    if len(roots) != 1:
        raise ConfigError(str(path), f"holds {len(roots) or 'no'} roots", f"{_CURE}; while it changes, the one in use")
    if not all(_reaches(one, roots[0], held) for one in held):
        raise ConfigError(str(path), "holds certificates that its root did not sign", _CURE)
    if any(_key(one) in public for public in _public() for one in held):
        raise ConfigError(str(path), "holds a public CA's certificate, which the vendors' own lead to", _CURE)


def _reaches(one: x509.Certificate, root: x509.Certificate, held: Sequence[x509.Certificate]) -> bool:
    """True where a chain of what is held leads to the root; bounded by their number."""
    for _ in held:
        if _signed(one, root):
            return True
        issuer = next((other for other in held if other != one and _signed(one, other)), None)
        if issuer is None:
            return False
        one = issuer
    return False


def _signed(certificate: x509.Certificate, authority: x509.Certificate) -> bool:
    try:
        certificate.verify_directly_issued_by(authority)
    except (ValueError, TypeError, InvalidSignature):
        return False
    return True


def _key(certificate: x509.Certificate) -> bytes:
    """By the key, as one CA has several certificates of it; these bytes stand so in each (RFC 5280 section 4.1)."""
    return certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def _public() -> list[bytes]:
    """The public CAs' certificates (DER), from certifi where it is there: the machine's list has ours too, once it trusts it.

    Not parsed: some roots are older than today's rules for a certificate.
    """
    try:
        import certifi
    except ImportError:
        text = public_roots()
    else:
        text = Path(certifi.where()).read_bytes()
    return [ssl.PEM_cert_to_DER_cert(one) for one in _BLOCK.findall(text.decode("ascii", "replace"))]
