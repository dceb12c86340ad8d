"""A corporate CA signs our intermediate: what is imported, what is refused, and when it begins to sign."""

from __future__ import annotations

import datetime as dt
import ipaddress
import stat
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes

from adapters.handshakes import handshake, strict_client
from adapters.test_pki_chain import HOSTS, client, forged, openssl
from extproc.adapters import pki_chain, pki_corporate
from extproc.adapters.pki import CaShape, create_ca, make_ca, write_atomic
from extproc.adapters.pki_chain import ChainPlan, create_chain, load_issuer
from extproc.adapters.pki_files import read_certificates, to_pem
from extproc.errors import ConfigError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A CA of ours in use."""
    create_chain(tmp_path / "ca", ChainPlan("test CA", HOSTS))
    return tmp_path / "ca"


class Corporate:
    """A corporate PKI: root, a policy CA below it, which signs requests; with or without their name constraints."""

    def __init__(self, folder: Path, policy: CaShape | None = None) -> None:
        self.root = make_ca(CaShape("Corp Root", path_length=2))
        self.policy = make_ca(policy or CaShape("Corp Policy CA", path_length=1), self.root)
        self.root_file = folder / "corp.pem"
        self.root_file.write_bytes(self.root.pem)

    def sign(self, request: bytes, path: Path, *, constraints: bool | x509.NameConstraints = True) -> Path:
        """What the corporate CA sends back: the intermediate, then its own policy CA. `constraints`: its own, or none."""
        csr = x509.load_pem_x509_csr(request)
        now = dt.datetime.now(dt.UTC)
        builder = x509.CertificateBuilder(
            self.policy.certificate.subject, csr.subject, csr.public_key(), 7, now, now + dt.timedelta(days=90)
        )
        for extension in csr.extensions:
            value = extension.value
            if isinstance(value, x509.NameConstraints) and constraints is not True:
                if constraints is False:
                    continue
                value = constraints
            builder = builder.add_extension(value, extension.critical)
        identifier = self.policy.certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
        for value, critical in (
            (x509.SubjectKeyIdentifier.from_public_key(csr.public_key()), False),
            (x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(identifier), False),
        ):
            builder = builder.add_extension(value, critical)
        signed = builder.sign(self.policy.key, hashes.SHA256())
        path.write_bytes(to_pem(signed, self.policy.certificate))
        return path


def test_a_corporate_ca_signs_our_intermediate(tmp_path: Path) -> None:
    """Request, signature, import: leaves come with the whole chain, apps trust the corporate root, our key stayed here."""
    folder, corporate = tmp_path / "ca", Corporate(tmp_path)
    request = pki_corporate.make_request(folder, "gateway issuing CA", HOSTS)
    assert b"PRIVATE" not in request
    assert stat.S_IMODE((folder / "request.key").stat().st_mode) == 0o600
    signed = corporate.sign(request, tmp_path / "signed.pem")
    issuer = pki_corporate.import_intermediate(folder, signed, corporate.root_file)
    leaf = load_issuer(folder).issue(["api.openai.com"], 365)
    sent = x509.load_pem_x509_certificates(leaf.cert_pem)
    assert sent[1:] == [issuer.certificate, corporate.policy.certificate]
    assert sent[0].not_valid_after_utc == issuer.certificate.not_valid_after_utc
    handshake(strict_client(corporate.root.pem), leaf, "api.openai.com")
    assert openssl(folder, leaf, "api.openai.com").returncode == 0
    assert openssl(folder, forged(issuer, "a.example"), "a.example").returncode != 0
    assert sorted(path.name for path in folder.iterdir()) == ["ca.pem", "intermediate.pem", "leaf.test"]


def asked(folder: Path, corporate: Corporate, path: Path) -> Path:
    """A new request, and what the corporate CA made of it."""
    return corporate.sign(pki_corporate.make_request(folder, "gw", HOSTS), path)


@pytest.mark.parametrize("older", [True, False])
def test_a_corporate_intermediate_waits_for_the_switch(tmp_path: Path, older: bool) -> None:
    """Apps that do not trust the corporate root yet lose nothing by the import; the old root is trusted until forgotten."""
    folder, corporate = tmp_path / "ca", Corporate(tmp_path)
    if older:
        create_ca(folder, "test CA", hosts=HOSTS)
    else:
        create_chain(folder, ChainPlan("test CA", HOSTS))
    before, leaf = client(folder), load_issuer(folder).issue(["localhost"])
    pki_corporate.import_intermediate(folder, asked(folder, corporate, tmp_path / "s.pem"), corporate.root_file)
    assert pki_chain.staged(folder)
    handshake(before, load_issuer(folder).issue(["localhost"]), "localhost")
    given = client(folder)
    pki_chain.switch_root(folder)
    for each in (leaf, load_issuer(folder).issue(["localhost"])):
        handshake(given, each, "localhost")
    handshake(strict_client(corporate.root.pem), load_issuer(folder).issue(["localhost"]), "localhost")
    # the old root's key is no reason to go back to it when the corporate intermediate is due
    assert not pki_chain.renew_intermediate(folder, dt.datetime.now(dt.UTC) + dt.timedelta(days=80))
    assert [pki_chain.common_name(root) for root in pki_chain.forget_roots(folder)] == ["test CA"]
    assert sorted(path.name for path in folder.iterdir()) == ["ca.pem", "intermediate.pem"]


def test_our_old_root_does_not_sign_again(folder: Path, tmp_path: Path) -> None:
    """`rotate intermediate` would overwrite the corporate intermediate and its only key: refused, unless that key is named."""
    corporate, old = Corporate(tmp_path), (folder / "root.key").read_bytes()
    pki_corporate.import_intermediate(folder, asked(folder, corporate, tmp_path / "s.pem"), corporate.root_file)
    pki_chain.switch_root(folder)
    before = (folder / "intermediate.pem").read_bytes()
    write_atomic(folder / "root.key", old)
    with pytest.raises(ConfigError, match=r"not the key of the root in use, Corp Root.*ca request"):
        pki_chain.new_intermediate(folder, HOSTS)
    assert (folder / "intermediate.pem").read_bytes() == before
    pki_chain.new_intermediate(folder, HOSTS, folder / "root.key")


def test_the_yearly_import_signs_at_once(folder: Path, tmp_path: Path) -> None:
    """Under a corporate root that apps trust already there is nothing to wait for; nor where there is no CA."""
    corporate, new = Corporate(tmp_path), tmp_path / "new"
    first = asked(new, corporate, tmp_path / "1.pem")
    pki_corporate.import_intermediate(new, first, corporate.root_file)
    second = pki_corporate.import_intermediate(new, asked(new, corporate, tmp_path / "2.pem"), corporate.root_file)
    assert not pki_chain.staged(new)
    assert load_issuer(new).certificate == second.certificate == read_certificates(tmp_path / "2.pem")[0]


def test_a_yearly_import_waits_for_a_change_that_is_under_way(tmp_path: Path) -> None:
    """What would sign at once and what is staged: first the one, then the other."""
    folder, corporate = tmp_path / "ca", Corporate(tmp_path)
    pki_corporate.import_intermediate(folder, asked(folder, corporate, tmp_path / "1.pem"), corporate.root_file)
    pki_chain.stage_root(folder, ChainPlan("ours", HOSTS))
    before, second = (folder / "intermediate.pem").read_bytes(), asked(folder, corporate, tmp_path / "2.pem")
    with pytest.raises(ConfigError, match="under way"):
        pki_corporate.import_intermediate(folder, second, corporate.root_file)
    assert (folder / "intermediate.pem").read_bytes() == before
    assert (folder / "request.key").exists()


def test_an_import_goes_on_where_it_was_cut_off(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Staged, and `ca.pem` not yet written: no switch; the second import ends it. Another one is not taken beside it."""
    corporate = Corporate(tmp_path)
    signed = asked(folder, corporate, tmp_path / "s.pem")

    def dies(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(pki_corporate, "add_roots", dies)
        with pytest.raises(OSError, match="No space"):
            pki_corporate.import_intermediate(folder, signed, corporate.root_file)
    with pytest.raises(ConfigError, match="no app trusts it"):
        pki_chain.switch_root(folder)
    pki_corporate.import_intermediate(folder, signed, corporate.root_file)
    assert len(read_certificates(folder / "ca.pem")) == 2
    other = asked(folder, corporate, tmp_path / "o.pem")
    with pytest.raises(ConfigError, match="under way"):
        pki_corporate.import_intermediate(folder, other, corporate.root_file)
    pki_chain.switch_root(folder)
    pki_corporate.import_intermediate(folder, other, corporate.root_file)
    assert load_issuer(folder).certificate == read_certificates(other)[0]


@pytest.mark.parametrize(
    ("policy", "reason"),
    [
        (CaShape("Corp Policy CA", path_length=0), "path length"),
        (CaShape("Corp Policy CA", ("corp.example",), path_length=1), "name constraints"),
    ],
)
def test_an_intermediate_that_no_client_would_take(folder: Path, tmp_path: Path, policy: CaShape, reason: str) -> None:
    """What the CAs above it forbid is found out before it signs for apps; all is as before."""
    corporate, before = Corporate(tmp_path, policy), (folder / "intermediate.pem").read_bytes()
    signed = corporate.sign(pki_corporate.make_request(folder, "gw", HOSTS), tmp_path / "signed.pem")
    with pytest.raises(ConfigError, match=reason):
        pki_corporate.import_intermediate(folder, signed, corporate.root_file)
    assert (folder / "intermediate.pem").read_bytes() == before
    assert len(read_certificates(folder / "ca.pem")) == 1


def server_certificate(corporate: Corporate, request: bytes, folder: Path) -> Path:
    """What a CA sends that took the request for a server's: right key, no CA."""
    csr, now = x509.load_pem_x509_csr(request), dt.datetime.now(dt.UTC)
    builder = x509.CertificateBuilder(
        corporate.policy.certificate.subject, csr.subject, csr.public_key(), 8, now, now + dt.timedelta(days=9)
    )
    builder = builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
    path = folder / "server.pem"
    path.write_bytes(to_pem(builder.sign(corporate.policy.key, hashes.SHA256()), corporate.policy.certificate))
    return path


def test_what_is_not_imported(folder: Path, tmp_path: Path) -> None:
    """Another key's certificate, a broken chain, the wrong root, no name constraints: refused, and all is as before."""
    corporate, before = Corporate(tmp_path), (folder / "intermediate.pem").read_bytes()
    request = pki_corporate.make_request(folder, "gw", HOSTS)
    good = corporate.sign(request, tmp_path / "good.pem")
    (tmp_path / "alone.pem").write_bytes(to_pem(read_certificates(good)[0]))
    other = make_ca(CaShape("other", HOSTS), corporate.policy)
    (tmp_path / "other.pem").write_bytes(to_pem(*other.chain))
    (tmp_path / "wrong.pem").write_bytes(make_ca(CaShape("wrong")).pem)
    free = corporate.sign(request, tmp_path / "free.pem", constraints=False)
    for signed, root, reason in (
        (tmp_path / "other.pem", corporate.root_file, "not the certificate of its"),
        (tmp_path / "alone.pem", corporate.root_file, "does not lead to a root"),
        (good, tmp_path / "wrong.pem", "does not lead to a root"),
        (tmp_path / "alone.pem", tmp_path / "alone.pem", "does not lead to a root"),
        (server_certificate(corporate, request, tmp_path), corporate.root_file, "not a CA certificate.*subordinate CA"),
        (free, corporate.root_file, "no name constraints"),
    ):
        with pytest.raises(ConfigError, match=reason):
            pki_corporate.import_intermediate(folder, signed, root)
    assert (folder / "intermediate.pem").read_bytes() == before
    with pytest.raises(ConfigError, match="waiting"):
        pki_corporate.make_request(folder, "gw", HOSTS)


ADDRESSES = [x509.IPAddress(ipaddress.ip_network(net)) for net in ("0.0.0.0/0", "::/0")]
LOOPBACK = x509.IPAddress(ipaddress.ip_network("127.0.0.1/32"))


def named(*names: str) -> list[x509.GeneralName]:
    """DNS subtrees."""
    return [x509.DNSName(name) for name in names]


@pytest.mark.parametrize(
    ("constraints", "reason"),
    [
        (x509.NameConstraints(None, named("corp.example")), "permit no DNS name"),
        (x509.NameConstraints(None, [*named("corp.example"), *ADDRESSES]), "permit no DNS name"),
        (x509.NameConstraints([LOOPBACK], None), "permit no DNS name"),
        (x509.NameConstraints([x509.IPAddress(ipaddress.ip_network("10.0.0.0/8"))], None), "permit no DNS name"),
        (x509.NameConstraints(named(""), ADDRESSES), "permit no DNS name"),
        (x509.NameConstraints(named("com"), ADDRESSES), r"nobody listed, such as x\w+\.com"),
        (x509.NameConstraints(named("openai.com", "anthropic.com"), None), r"nobody listed, such as 192\.0\.2\.1"),
        (x509.NameConstraints([*named("openai.com", "anthropic.com"), LOOPBACK], None), ""),
        (x509.NameConstraints(named("api.openai.com"), ADDRESSES), r"may not vouch for api\.anthropic\.com "),
        (x509.NameConstraints(named("openai.com", "anthropic.com"), named("api.openai.com")), r"for api\.openai\.com "),
        (x509.NameConstraints(named("openai.com", ".anthropic.com"), ADDRESSES), ""),
    ],
)
def test_what_its_constraints_leave_open(
    folder: Path, tmp_path: Path, constraints: x509.NameConstraints, reason: str
) -> None:
    """Constraints that only exclude, or bind addresses alone, or a whole domain, or too little: all is as before."""
    corporate, before = Corporate(tmp_path), (folder / "intermediate.pem").read_bytes()
    request = pki_corporate.make_request(folder, "gw", HOSTS)
    signed = corporate.sign(request, tmp_path / "signed.pem", constraints=constraints)
    hosts = ("api.openai.com", "api.anthropic.com")
    if reason:
        with pytest.raises(ConfigError, match=reason):
            pki_corporate.import_intermediate(folder, signed, corporate.root_file, hosts)
    else:
        pki_corporate.import_intermediate(folder, signed, corporate.root_file, hosts)
    assert (folder / "intermediate.pem").read_bytes() == before
    assert pki_chain.staged(folder) is not bool(reason)
