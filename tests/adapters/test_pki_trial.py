"""What a client makes of what a CA signs, found out in memory."""

from __future__ import annotations

import datetime as dt
import ipaddress

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from extproc.adapters.pki import Authority, CaShape, make_ca
from extproc.adapters.pki_trial import loophole, refusal
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


def signed_with(root: Authority, constraints: x509.NameConstraints | None) -> Authority:
    """An intermediate with these name constraints."""
    below = make_ca(CaShape("below", ("a.example",)), root)
    builder = x509.CertificateBuilder(
        root.certificate.subject,
        below.certificate.subject,
        below.key.public_key(),
        7,
        below.certificate.not_valid_before_utc,
        below.certificate.not_valid_after_utc,
    )
    for extension in below.certificate.extensions:
        if not isinstance(extension.value, x509.NameConstraints):
            builder = builder.add_extension(extension.value, extension.critical)
        elif constraints is not None:
            builder = builder.add_extension(constraints, critical=True)
    signed = builder.sign(root.key, hashes.SHA256())
    return Authority(signed, below.key, (signed,), (root.certificate,))


NAMELESS = (
    x509.NameConstraints(None, [x509.DNSName("corp.example")]),
    x509.NameConstraints([x509.IPAddress(ipaddress.ip_network("10.0.0.0/8"))], None),
    x509.NameConstraints([x509.RFC822Name("corp.example")], None),
)


@pytest.mark.parametrize("constraints", NAMELESS)
def test_no_trial_is_left_out(constraints: x509.NameConstraints) -> None:
    """Without a permitted name there is a trial all the same, which a stranger does not pass."""
    root, other = make_ca(CaShape("root", path_length=1)), make_ca(CaShape("root", path_length=1))
    below = signed_with(root, constraints)
    assert refusal(below) == ""
    assert refusal(Authority(below.certificate, below.key, below.chain, (other.certificate,)))


def test_the_hosts_of_a_trial() -> None:
    """Each of them, in one leaf; a wildcard is tried by a name below it."""
    below = make_ca(CaShape("below", ("*.a.example", "b.example")), make_ca(CaShape("root", path_length=1)))
    assert refusal(below, ("*.a.example", "b.example"), strict=True) == ""
    with pytest.raises(ConfigError, match="name constraints"):
        refusal(below, ("b.example", "c.example"))


@pytest.mark.parametrize("hosts", [("api.openai.com", "localhost"), ("127.0.0.1",), ("::1", "a.example")])
def test_ours_leaves_nothing_open(hosts: tuple[str, ...]) -> None:
    """Every unlisted name and address is refused, and for a name constraint."""
    assert loophole(make_ca(CaShape("below", hosts), make_ca(CaShape("root", path_length=1))), hosts) == ""


@pytest.mark.parametrize("constraints", [None, *NAMELESS])
def test_what_is_left_open(constraints: x509.NameConstraints | None) -> None:
    """A name at random is taken, so any is."""
    assert loophole(signed_with(make_ca(CaShape("root", path_length=1)), constraints)).startswith("x")


def test_another_refusal_proves_nothing() -> None:
    """What a client refuses as a stranger's is not bound by that."""
    root, other = make_ca(CaShape("root", path_length=1)), make_ca(CaShape("root", path_length=1))
    below = make_ca(CaShape("below", ("a.example",)), root)
    assert loophole(below) == ""
    assert loophole(Authority(below.certificate, below.key, below.chain, (other.certificate,)))
