"""What a client makes of what a CA signs, found out in memory."""

from __future__ import annotations

import datetime as dt

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from extproc.adapters.pki import Authority, CaShape, make_ca
from extproc.adapters.pki_trial import refusal
from extproc.errors import ConfigError


def careless_root() -> Authority:
    """A root as older corporate CAs made it: no key usage, no identifiers, path length unlimited."""
    key, now = ec.generate_private_key(ec.SECP256R1()), dt.datetime.now(dt.UTC)
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "Old Corp")])
    builder = x509.CertificateBuilder(name, name, key.public_key(), 1, now, now + dt.timedelta(days=9))
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
    return Authority(builder.sign(key, hashes.SHA256()), key)


@pytest.mark.parametrize("hosts", [(), ("api.openai.com", "127.0.0.1"), ("127.0.0.1",), ("::1",)])
def test_ours_is_taken(hosts: tuple[str, ...]) -> None:
    """Root and intermediate, for names and addresses, by strict clients too."""
    root = make_ca(CaShape("root", hosts, path_length=1))
    for authority in (root, make_ca(CaShape("below", hosts), root)):
        assert [refusal(authority, strict=strict) for strict in (False, True)] == ["", ""]


def test_a_strict_client_asks_for_more() -> None:
    """What a client of today takes, one that checks strictly may refuse: both are told apart."""
    below = make_ca(CaShape("below", ("api.openai.com",)), careless_root())
    assert refusal(below) == ""
    assert "key" in refusal(below, strict=True)


def test_what_a_ca_above_forbids() -> None:
    """A path length that is used up, and names that it excludes."""
    root = make_ca(CaShape("root", path_length=0))
    assert "path length" in refusal(make_ca(CaShape("below", ("a.example",)), make_ca(CaShape("mid"), root)))
    bound = make_ca(CaShape("bound", ("a.example",), path_length=1))
    below = make_ca(CaShape("below", ("b.example",)), Authority(make_ca(CaShape("free")).certificate, bound.key))
    with pytest.raises(ConfigError, match="name constraints"):
        refusal(Authority(below.certificate, below.key, (below.certificate, bound.certificate), (bound.certificate,)))


def test_a_stranger_is_refused() -> None:
    """A chain that ends at no root of the client."""
    root, other = make_ca(CaShape("root", path_length=1)), make_ca(CaShape("root", path_length=1))
    below = make_ca(CaShape("below", ("a.example",)), root)
    assert refusal(Authority(below.certificate, below.key, below.chain, (other.certificate,)))


def test_a_subtree_below_a_dot() -> None:
    """As other CAs write it: the trial is with a name below it; a range of addresses is not tried."""
    root = make_ca(CaShape("root", path_length=1))
    for tree, name in ((x509.DNSName(".openai.com"), "dot"), (x509.DNSName("openai.com"), "plain")):
        below = make_ca(CaShape(name, ("openai.com",)), root)
        builder = x509.CertificateBuilder(
            root.certificate.subject,
            below.certificate.subject,
            below.key.public_key(),
            7,
            below.certificate.not_valid_before_utc,
            below.certificate.not_valid_after_utc,
        )
        for extension in below.certificate.extensions:
            value = extension.value
            if isinstance(value, x509.NameConstraints):
                value = x509.NameConstraints([tree], None)
            builder = builder.add_extension(value, extension.critical)
        signed = builder.sign(root.key, hashes.SHA256())
        assert refusal(Authority(signed, below.key, (signed,), (root.certificate,)), strict=True) == ""
