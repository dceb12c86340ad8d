"""What apps are told to trust: one file, the same whoever writes it."""

from __future__ import annotations

import datetime as dt
import stat
import warnings
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.utils import CryptographyDeprecationWarning

from adapters.handshakes import handshake, strict_client
from extproc.adapters import pki_bundle
from extproc.adapters.pki import CaShape, create_ca, make_ca, public_roots
from extproc.adapters.pki_chain import ChainPlan, create_chain, load_issuer
from extproc.errors import ConfigError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A CA for one host."""
    create_chain(tmp_path / "ca", ChainPlan("ours", ("a.example",)))
    return tmp_path / "ca"


@pytest.fixture
def corporate(tmp_path: Path) -> Path:
    """A file of further authorities, without its last line break, behind a word of its maker's in another encoding."""
    path = tmp_path / "corp.pem"
    path.write_bytes(b"# Gesch\xe4ft\n" + create_ca(tmp_path / "corp", "corporate").pem.rstrip(b"\n"))
    return path


def names(pem: bytes) -> list[str]:
    """The last common names in a bundle."""
    return [c.subject.rfc4514_string() for c in certificates(pem)][-2:]


def certificates(pem: bytes) -> list[x509.Certificate]:
    """All in a bundle."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CryptographyDeprecationWarning)  # one public root has the serial number 0
        return x509.load_pem_x509_certificates(pem)


def test_public_roots_further_ones_and_ours(folder: Path, corporate: Path) -> None:
    """All are in it, none glued to the next, and an app that has the file takes our leaves."""
    found = pki_bundle.bundle(folder, corporate)
    public = len(certificates(public_roots()))
    assert public > 20
    assert len(certificates(found)) == public + 2
    assert names(found) == ["CN=corporate", "CN=ours"]
    handshake(strict_client(found), load_issuer(folder).issue(["a.example"]), "a.example")


def test_further_authorities_are_kept(folder: Path, corporate: Path) -> None:
    """Given once for the CA's own bundle, they are in every later one; removed, in none. What is written is counted."""
    path = folder / "bundle.pem"
    count = pki_bundle.write_bundle(folder, path, corporate)
    assert count == path.read_bytes().count(b"BEGIN CERTIFICATE")
    corporate.unlink()
    assert pki_bundle.write_bundle(folder, path) == count
    assert names(path.read_bytes()) == ["CN=corporate", "CN=ours"]
    assert stat.S_IMODE((folder / "extra.pem").stat().st_mode) == 0o644
    (folder / "extra.pem").unlink()
    assert pki_bundle.write_bundle(folder, path) == count - 1


def test_a_bundle_elsewhere_keeps_nothing(folder: Path, corporate: Path, tmp_path: Path) -> None:
    """What is written for one purpose changes no other file."""
    count = pki_bundle.write_bundle(folder, tmp_path / "b.pem", corporate)
    assert not (folder / "extra.pem").exists()
    assert pki_bundle.write_bundle(folder, folder / "bundle.pem") == count - 1


@pytest.mark.parametrize("text", ["rubbish", ""])
def test_what_holds_no_certificate_is_not_kept(folder: Path, tmp_path: Path, text: str) -> None:
    """Refused, and the bundle that apps have stays."""
    pki_bundle.write_bundle(folder, folder / "bundle.pem")
    before = (folder / "bundle.pem").read_bytes()
    (tmp_path / "no.pem").write_text(text)
    with pytest.raises(ConfigError, match="not a PEM certificate"):
        pki_bundle.write_bundle(folder, folder / "bundle.pem", tmp_path / "no.pem")
    assert (folder / "bundle.pem").read_bytes() == before
    assert not (folder / "extra.pem").exists()


def test_a_key_is_not_given_away(folder: Path, corporate: Path) -> None:
    """A file that holds a private key beside the certificate: the certificate alone goes to the apps."""
    corporate.write_bytes((folder / "root.key").read_bytes() + corporate.read_bytes())
    pki_bundle.write_bundle(folder, folder / "bundle.pem", corporate)
    for name in ("bundle.pem", "extra.pem"):
        assert b"PRIVATE" not in (folder / name).read_bytes()


def test_a_ca_that_has_ended_has_a_bundle(folder: Path) -> None:
    """Apps have to get the next root from somewhere; a key that is open to others stops it all the same."""
    ended = make_ca(CaShape("ended", ("a.example",), days=-1 / 48))
    (folder / "ca.pem").write_bytes(ended.pem)
    assert ended.end < dt.datetime.now(dt.UTC)
    assert names(pki_bundle.bundle(folder))[1] == "CN=ended"
    (folder / "root.key").chmod(0o644)
    with pytest.raises(ConfigError, match="open to other users"):
        pki_bundle.bundle(folder)
