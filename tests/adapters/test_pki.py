"""The CA: what it signs must satisfy a strict TLS client, and its key must stay private."""

from __future__ import annotations

import datetime as dt
import os
import ssl
import stat
from pathlib import Path
from typing import Any

import pytest
import yaml
from cryptography import x509

from adapters.handshakes import handshake, resign, strict_client
from extproc.adapters.pki import (
    Authority,
    create_ca,
    load_ca,
    make_folder,
    write_atomic,
    write_sds_certificate,
    write_sds_file_secret,
    write_sds_secret,
    write_sds_trust,
)
from extproc.errors import ConfigError


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    """A CA that may sign for two vendors and loopback."""
    return create_ca(tmp_path / "ca", "test CA", hosts=["api.openai.com", "api.anthropic.com", "127.0.0.1"])


class TestIssue:
    """Leaves as a client sees them."""

    @pytest.mark.parametrize("name", ["api.openai.com", "eu.api.anthropic.com", "127.0.0.1"])
    def test_strict_client_accepts(self, authority: Authority, name: str) -> None:
        """DNS and IP names pass a strict verification."""
        leaf = authority.issue(["api.openai.com", "eu.api.anthropic.com", "127.0.0.1"])

        handshake(strict_client(authority.pem), leaf, name)

    def test_other_name_is_refused(self, authority: Authority) -> None:
        """A client that wanted another host ends the handshake."""
        with pytest.raises(ssl.SSLCertVerificationError):
            handshake(strict_client(authority.pem), authority.issue(["api.openai.com"]), "api.anthropic.com")

    def test_other_ca_is_refused(self, authority: Authority, tmp_path: Path) -> None:
        """A CA of the same name but another key is not the same CA."""
        other = create_ca(tmp_path / "other", "test CA")

        with pytest.raises(ssl.SSLCertVerificationError):
            handshake(strict_client(other.pem), authority.issue(["api.openai.com"]), "api.openai.com")

    @pytest.mark.parametrize("host", ["api.example.org", "notapi.openai.com", "openai.com", "10.0.0.1", "::1"])
    def test_constraints_bind_ourselves(self, authority: Authority, host: str) -> None:
        """A host outside the name constraints is refused when signing, with the host in the error."""
        with pytest.raises(ConfigError, match="name constraints") as caught:
            authority.issue([host])

        assert host in caught.value.path

    @pytest.mark.parametrize("host", ["api.example.org", "10.0.0.1"])
    def test_constraints_bind_a_thief(self, authority: Authority, tmp_path: Path, host: str) -> None:
        """Who steals the key and signs for another host is refused by the client itself."""
        free = create_ca(tmp_path / "free", "test CA")
        stolen = Authority(free.certificate, authority.key).issue([host])
        # the authority key id of `free` does not match: rebuild it from the constrained CA's own identifier
        forged = resign(stolen, authority)

        with pytest.raises(ssl.SSLCertVerificationError, match=r"permitted|excluded"):
            handshake(strict_client(authority.pem), forged, host)

    def test_without_address_no_address(self, tmp_path: Path) -> None:
        """A CA for names only signs for no address, and the other way round."""
        names = create_ca(tmp_path / "names", "names", hosts=["api.openai.com"])
        addresses = create_ca(tmp_path / "addresses", "addresses", hosts=["127.0.0.1"])

        handshake(strict_client(names.pem), names.issue(["api.openai.com"]), "api.openai.com")
        handshake(strict_client(addresses.pem), addresses.issue(["127.0.0.1"]), "127.0.0.1")
        with pytest.raises(ConfigError):
            names.issue(["127.0.0.1"])
        with pytest.raises(ConfigError):
            addresses.issue(["api.openai.com"])

    def test_wildcard_and_long_name(self, tmp_path: Path) -> None:
        """A wildcard works; a name too long for a common name stands in a critical alternative name."""
        ca = create_ca(tmp_path, "any")
        long = ".".join(["a" * 40, "b" * 40, "example", "com"])

        handshake(strict_client(ca.pem), ca.issue(["*.openai.azure.com"]), "mine.openai.azure.com")
        handshake(strict_client(ca.pem), ca.issue([long]), long)

    @pytest.mark.parametrize("host", ["", "a b", "-a.com", "ä.de", "a..b", "https://api.openai.com", "x" * 64])
    def test_bad_host(self, tmp_path: Path, host: str) -> None:
        """What is no host name is refused with a reason."""
        with pytest.raises(ConfigError, match="not a host name"):
            create_ca(tmp_path, "any").issue([host])

    def test_no_host(self, authority: Authority) -> None:
        """A certificate for nobody is refused."""
        with pytest.raises(ConfigError, match="at least one"):
            authority.issue([])

    def test_life_ends_with_the_ca(self, tmp_path: Path) -> None:
        """A leaf never outlives its CA, and lives as long as asked otherwise."""
        ca = create_ca(tmp_path, "brief", days=2)
        longest = x509.load_pem_x509_certificate(ca.issue(["a.b"], days=90).cert_pem)
        short = x509.load_pem_x509_certificate(ca.issue(["a.b"], days=1).cert_pem)

        assert longest.not_valid_after_utc == ca.certificate.not_valid_after_utc
        left = short.not_valid_after_utc - dt.datetime.now(dt.UTC)
        assert dt.timedelta(hours=23) < left <= dt.timedelta(days=1)

    def test_nothing_is_signed_by_the_expired(self, tmp_path: Path) -> None:
        """Also where it expired after it was loaded: a leaf that has ended already helps nobody."""
        ca = create_ca(tmp_path, "old", days=-0.01)

        with pytest.raises(ConfigError, match="expired"):
            ca.issue(["a.b"])

    def test_repr_has_no_key(self, authority: Authority) -> None:
        """Printing a leaf shows no private key."""
        leaf = authority.issue(["api.openai.com"])

        assert "PRIVATE" not in repr(leaf)
        assert b"PRIVATE" in leaf.key_pem


class TestStore:
    """The CA's folder."""

    def test_round_trip(self, tmp_path: Path) -> None:
        """What was created is loaded again; the key is 0600, the certificate readable."""
        made = create_ca(tmp_path / "deep" / "ca", "round")
        found = load_ca(tmp_path / "deep" / "ca")

        assert found.certificate == made.certificate
        assert found.key.private_numbers() == made.key.private_numbers()
        assert stat.S_IMODE((tmp_path / "deep/ca/ca.key").stat().st_mode) == 0o600
        assert stat.S_IMODE((tmp_path / "deep/ca/ca.pem").stat().st_mode) == 0o644

    def test_never_overwritten(self, tmp_path: Path) -> None:
        """A second creation leaves the first CA as it is."""
        first = create_ca(tmp_path, "first")

        with pytest.raises(ConfigError, match="already"):
            create_ca(tmp_path, "second")
        assert load_ca(tmp_path).certificate == first.certificate

    @pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o644])
    def test_open_key_is_refused(self, tmp_path: Path, mode: int) -> None:
        """A key that others can read is not used, and the error says what to type."""
        create_ca(tmp_path, "open")
        (tmp_path / "ca.key").chmod(mode)

        with pytest.raises(ConfigError) as caught:
            load_ca(tmp_path)
        assert caught.value.hint == f"chmod 600 {tmp_path / 'ca.key'}"

    def test_missing(self, tmp_path: Path) -> None:
        """An empty folder names the missing file and the command."""
        with pytest.raises(ConfigError, match="extproc ca init"):
            load_ca(tmp_path)

    def test_mixed_pair(self, tmp_path: Path) -> None:
        """A certificate with another CA's key is refused."""
        create_ca(tmp_path / "a", "a")
        create_ca(tmp_path / "b", "b")
        write_atomic(tmp_path / "a" / "ca.key", (tmp_path / "b" / "ca.key").read_bytes())

        with pytest.raises(ConfigError, match="not the"):
            load_ca(tmp_path / "a")

    def test_leaf_is_no_ca(self, tmp_path: Path) -> None:
        """A leaf in the CA's place is refused."""
        leaf = create_ca(tmp_path / "ca", "a").issue(["a.b"])
        write_atomic(tmp_path / "ca.pem", leaf.cert_pem)
        write_atomic(tmp_path / "ca.key", leaf.key_pem)

        with pytest.raises(ConfigError, match="not a CA"):
            load_ca(tmp_path)

    def test_expired(self, tmp_path: Path) -> None:
        """An expired CA is refused with the way on."""
        create_ca(tmp_path, "old", days=-0.01)

        with pytest.raises(ConfigError, match="expired"):
            load_ca(tmp_path)

    def test_damaged(self, tmp_path: Path) -> None:
        """Rubbish in the files is a ConfigError that does not quote them."""
        write_atomic(tmp_path / "ca.pem", b"rubbish-one")
        write_atomic(tmp_path / "ca.key", b"rubbish-two")

        with pytest.raises(ConfigError) as caught:
            load_ca(tmp_path)
        assert "rubbish" not in str(caught.value)


class TestSds:
    """Files that Envoy reads."""

    def test_certificate(self, authority: Authority, tmp_path: Path) -> None:
        """Certificate and key stand in one private file, byte for byte."""
        leaf, path = authority.issue(["api.openai.com"]), tmp_path / "c.yaml"
        write_sds_certificate(path, "mitm", leaf)
        secret = _resource(path)

        assert secret["name"] == "mitm"
        assert secret["tls_certificate"]["certificate_chain"]["inline_string"].encode() == leaf.cert_pem
        assert secret["tls_certificate"]["private_key"]["inline_string"].encode() == leaf.key_pem
        assert stat.S_IMODE(path.stat().st_mode) == 0o600

    def test_secret(self, tmp_path: Path) -> None:
        """A credential stands in a private file; a new one replaces the file itself, which is what Envoy watches for."""
        path = tmp_path / "s.yaml"
        write_sds_secret(path, "openai", "Bearer one: #two")
        before = path.stat().st_ino
        write_sds_secret(path, "openai", "Bearer two")

        assert _resource(path)["generic_secret"] == {"secret": {"inline_string": "Bearer two"}}
        assert path.stat().st_ino != before
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert [file.name for file in tmp_path.iterdir()] == ["s.yaml"]

    @pytest.mark.parametrize("value", ["", "key-1\n", " key-1", "key-1\r\nb", "key\0-1", "schlüssel"])
    def test_bad_secret(self, tmp_path: Path, value: str) -> None:
        """What cannot stand in a header is refused and not quoted."""
        with pytest.raises(ConfigError) as caught:
            write_sds_secret(tmp_path / "s.yaml", "openai", value)

        assert not value or value.strip() not in str(caught.value)
        assert list(tmp_path.iterdir()) == []

    def test_file_secret_and_trust(self, authority: Authority, tmp_path: Path) -> None:
        """A reference names the file and its folder; roots stand inline."""
        write_sds_file_secret(tmp_path / "f.yaml", "openai", Path("/run/keys/openai"))
        write_sds_trust(tmp_path / "t.yaml", "roots", authority.pem)

        source = _resource(tmp_path / "f.yaml")["generic_secret"]["secret"]
        assert source == {"filename": "/run/keys/openai", "watched_directory": {"path": "/run/keys"}}
        trusted = _resource(tmp_path / "t.yaml")["validation_context"]["trusted_ca"]
        assert trusted["inline_string"].encode() == authority.pem


def _resource(path: Path) -> dict[str, Any]:
    resources = yaml.safe_load(path.read_bytes())["resources"]
    assert len(resources) == 1
    assert resources[0]["@type"].endswith("tls.v3.Secret")
    return resources[0]  # type: ignore[no-any-return]  # yaml is untyped


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_root_keeps_owners(tmp_path: Path) -> None:
    """`sudo extproc ca` in a service user's state: what was that user's stays so, and what is new is that user's too."""
    os.chown(tmp_path, 1234, 1235)
    make_folder(tmp_path / "a" / "b")
    write_atomic(tmp_path / "a" / "b" / "key", b"new")
    other = tmp_path / "other"
    other.write_bytes(b"old")
    os.chown(other, 1300, 1301)
    write_atomic(other, b"new")
    owners = {path.name: (path.stat().st_uid, path.stat().st_gid) for path in tmp_path.rglob("*")}
    assert owners == {"a": (1234, 1235), "b": (1234, 1235), "key": (1234, 1235), "other": (1300, 1301)}
    assert stat.S_IMODE(other.stat().st_mode) == 0o600


def test_an_error_names_the_file(tmp_path: Path) -> None:
    """Not the temporary one beside it, which nobody asked for."""
    with pytest.raises(FileNotFoundError) as refused:
        write_atomic(tmp_path / "none" / "root.key", b"x")
    assert refused.value.filename == str(tmp_path / "none" / "root.key")
