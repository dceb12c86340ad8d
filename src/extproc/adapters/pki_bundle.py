"""The file that apps trust (`SSL_CERT_FILE`): public roots, further authorities of the operator, and the CA's roots.

bundle.pem   what apps are given
extra.pem    the further authorities, kept here so that no later bundle is without them
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from extproc.adapters.pki import public_roots, write_atomic
from extproc.adapters.pki_chain import trusted
from extproc.adapters.pki_files import read_certificates, to_pem

BUNDLE: Final = "bundle.pem"
EXTRA: Final = "extra.pem"


def bundle(folder: Path, extra: Path | None = None) -> bytes:
    """The bundle of the CA in `folder`, PEM. `extra`: a file of further authorities (None: those that are kept).

    Only certificates are taken from `extra`. Raises ConfigError where there is no CA, one of its keys is open to others, or
    a file holds no certificate; a CA that has ended has a bundle all the same, for apps to get the next root.
    """
    roots = trusted(folder)
    if extra is None and (folder / EXTRA).exists():
        extra = folder / EXTRA
    further = () if extra is None else read_certificates(extra)
    return public_roots().rstrip(b"\n") + b"\n" + to_pem(*further, *roots)


def write_bundle(folder: Path, path: Path, extra: Path | None = None) -> int:
    """Write it for apps; returns how many certificates. Raises ConfigError, OSError.

    With the CA's own `bundle.pem`, which every change of the root writes anew, `extra` is kept for the next time.
    """
    data = bundle(folder, extra)
    if extra is not None and path.absolute() == (folder / BUNDLE).absolute():
        write_atomic(folder / EXTRA, to_pem(*read_certificates(extra)), mode=0o644)
    write_atomic(path, data, mode=0o644)
    return data.count(b"-----BEGIN CERTIFICATE-----")
