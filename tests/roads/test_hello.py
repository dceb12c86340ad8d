"""The ClientHello by hand is one that TLS servers take, with the extension in it; the answer says who they are."""

from __future__ import annotations

import ssl
from functools import partial

import pytest
from cryptography import x509

from extproc.roads import hello, wire
from extproc.roads.road import Outcome
from roads.conftest import HOST


def judge(scope, port):
    return hello.judge_ech(scope, partial(wire.dial, "127.0.0.1", port, scope.timeout), HOST)


@pytest.mark.parametrize("tls13", [True, False])
def test_a_server_takes_it(tls13):
    """OpenSSL reads it whole: it answers, and has seen the outer name."""
    seen = []
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.sni_callback = lambda _sock, name, _context: seen.append(name)
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    server = context.wrap_bio(incoming, outgoing, server_side=True)
    data = hello.client_hello(HOST, tls13=tls13)
    incoming.write(data)
    with pytest.raises(ssl.SSLError) as caught:
        server.do_handshake()
    assert seen == [HOST]
    assert "NO_SHARED_CIPHER" in str(caught.value) or "NO_SUITABLE" in str(caught.value)  # it has no certificate
    assert b"\xfe\x0d" in data


@pytest.mark.parametrize(("which", "outcome"), [(1, Outcome.BY_DESIGN), (2, Outcome.OPEN)])
def test_the_certificate_says_who_answered(scope, far, authorities, which, outcome):
    """A server of the gateway's CA is the gateway; any other is open, with its issuer."""
    context = authorities[which].issue([HOST]).server_context(("http/1.1",))
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    finding = judge(scope, far(lambda _: b"", context).port)
    assert finding.outcome is outcome
    assert ("theirs" in finding.evidence) is (which == 2)


def test_no_server(scope, far):
    """An end is closed, silence is open, other bytes are open."""
    outcomes = [
        judge(scope, far(lambda _, said=said: said).port).outcome for said in (b"", None, b"HTTP/1.1 400 x\r\n")
    ]
    assert outcomes == [Outcome.CLOSED, Outcome.OPEN, Outcome.OPEN]


def test_an_alert_of_nobody_known_is_open(scope, far):
    """It does not prove to be the gateway."""
    server = far(lambda _: b"\x15\x03\x03\x00\x02\x02\x28")
    assert judge(scope, server.port).outcome is Outcome.OPEN


def test_records_that_are_cut_are_not_read():
    """Whole records only."""
    whole = b"\x16\x03\x03\x00\x02ab"
    assert hello.records(whole + whole[:-1]) == [(hello.HANDSHAKE, b"ab")]
    assert hello.certificates(whole[:-1]) == []


def test_a_chain_ends_at_our_ca_or_not(authorities):
    """Leaf by the CA; a leaf of another; no chain."""
    ours = x509.load_pem_x509_certificates(authorities[0].read_bytes())
    leaves = [authorities[which].issue([HOST]) for which in (1, 2)]
    chains = [x509.load_pem_x509_certificates(leaf.cert_pem) for leaf in leaves]
    assert [hello.signed_by(chain, ours) for chain in (*chains, [])] == [True, False, False]
