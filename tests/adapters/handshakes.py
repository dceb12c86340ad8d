"""TLS handshakes in memory, and leaves that no honest CA would sign."""

from __future__ import annotations

import ssl

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding

from extproc.adapters.pki import Authority, Leaf


def strict_client(ca_pem: bytes) -> ssl.SSLContext:
    """A client that trusts only `ca_pem` and checks as Python 3.13 does by default."""
    context = ssl.create_default_context(cadata=ca_pem.decode())
    context.verify_flags |= ssl.VERIFY_X509_STRICT | ssl.VERIFY_X509_PARTIAL_CHAIN
    return context


def handshake(client: ssl.SSLContext, leaf: Leaf, name: str) -> None:
    """A whole TLS handshake in memory; raises ssl.SSLError where a side refuses."""
    to_client, to_server = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = [
        client.wrap_bio(to_client, to_server, server_hostname=name),
        leaf.server_context().wrap_bio(to_server, to_client, server_side=True),
    ]
    for _ in range(10):
        waiting = 0
        for end in ends:
            try:
                end.do_handshake()
            except ssl.SSLWantReadError:
                waiting += 1
        if not waiting:
            return
    raise AssertionError("the handshake did not end")


def resign(leaf: Leaf, authority: Authority) -> Leaf:
    """The same leaf, signed in the name and with the key of `authority`, whatever its constraints say."""
    old = x509.load_pem_x509_certificate(leaf.cert_pem)
    builder = x509.CertificateBuilder(
        authority.certificate.subject,
        old.subject,
        old.public_key(),
        7,
        old.not_valid_before_utc,
        old.not_valid_after_utc,
    )
    subject_id = authority.certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    for extension in old.extensions:
        value = extension.value
        if isinstance(value, x509.AuthorityKeyIdentifier):
            value = x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(subject_id)
        builder = builder.add_extension(value, extension.critical)
    return Leaf(builder.sign(authority.key, hashes.SHA256()).public_bytes(Encoding.PEM), leaf.key_pem)
