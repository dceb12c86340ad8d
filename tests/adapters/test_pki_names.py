"""Name constraints: what the extension says is what we refuse and what OpenSSL refuses."""

from __future__ import annotations

from ipaddress import ip_network

import pytest
from cryptography import x509

from extproc.adapters.pki_names import general_name, name_constraints, permitted, subtrees

CONSTRAINED = ("api.openai.com", "127.0.0.1", "*.openai.azure.com")


@pytest.mark.parametrize(
    ("host", "may"),
    [
        ("api.openai.com", True),
        ("API.OpenAI.com", True),
        ("eu.api.openai.com", True),
        ("mine.openai.azure.com", True),
        ("*.api.openai.com", True),
        ("openai.com", False),
        ("xapi.openai.com", False),
        ("api.openai.com.evil.example", False),
        ("127.0.0.1", True),
        ("127.0.0.2", False),
        ("::1", False),
    ],
)
def test_permitted(host: str, may: bool) -> None:
    """A name or its subdomains; exactly the address."""
    assert permitted(general_name(host), name_constraints(CONSTRAINED)) is may


def test_names_only_excludes_every_address() -> None:
    """A type of name without a permitted subtree would be unconstrained (RFC 5280, 4.2.1.10)."""
    constraints = name_constraints(["api.openai.com"])
    assert [str(tree.value) for tree in constraints.excluded_subtrees or ()] == ["0.0.0.0/0", "::/0"]


def test_addresses_only_permits_no_name() -> None:
    """For addresses alone, a name that cannot exist is the only one permitted."""
    assert not permitted(general_name("api.openai.com"), name_constraints(["10.0.0.1"]))
    assert permitted(general_name("10.0.0.1"), name_constraints(["10.0.0.1"]))


def test_constraints_that_others_wrote() -> None:
    """A dot in front: only what is below; excluded trees are excluded, names and networks."""
    allowed = [x509.DNSName(".openai.com"), x509.IPAddress(ip_network("10.0.0.0/8"))]
    barred = [x509.DNSName("beta.openai.com"), x509.IPAddress(ip_network("10.9.0.0/16"))]
    constraints = x509.NameConstraints(allowed, barred)
    names = ("api.openai.com", "openai.com", "x.beta.openai.com", "beta.openai.com", "10.1.0.1", "10.9.0.1", "11.0.0.1")
    assert [name for name in names if permitted(general_name(name), constraints)] == ["api.openai.com", "10.1.0.1"]
    assert subtrees(allowed) == (".openai.com", "10.0.0.0/8")
    assert subtrees(None) == ()
