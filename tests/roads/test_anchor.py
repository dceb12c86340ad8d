"""Who the suite takes for the gateway: one root, and nobody else's."""

from __future__ import annotations

from pathlib import Path

import certifi
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from extproc.errors import ConfigError
from extproc.roads import anchor


def pem(*certificates):
    return b"".join(one.public_bytes(Encoding.PEM) for one in certificates)


def test_one_root_is_taken(authorities):
    """Also twice, and with what it signed."""
    text = authorities[0].read_bytes()
    twice = authorities[0].with_name("twice.pem")
    twice.write_bytes(text + text)
    for path in (authorities[0], twice):
        assert anchor.check_alone(path) is None


def test_anybody_else_is_refused(authorities, tmp_path):
    """Two roots, a public root, and what the root did not sign: each would let another pass for the gateway."""
    ours, theirs = (one.certificate for one in authorities[1:])
    public = Path(certifi.where()).read_bytes().split(b"# Issuer")[1]
    leaf = x509.load_pem_x509_certificates(authorities[2].issue(["x.example"]).cert_pem)[0]
    for name, text, said in (
        ("two", pem(ours, theirs), "holds 2 roots"),
        ("public", public[public.index(b"-----BEGIN") :], "public CA"),
        ("leaf", pem(ours, leaf), "did not sign"),
        ("none", pem(leaf), "no roots"),
        ("empty", b"", "no certificate"),
    ):
        path = tmp_path / name
        path.write_bytes(text)
        with pytest.raises(ConfigError, match=said) as raised:
            anchor.check_alone(path)
        assert "--ca" in raised.value.hint
