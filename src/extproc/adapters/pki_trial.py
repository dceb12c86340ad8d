"""Whether clients would take what a CA signs: a TLS handshake in memory, with a leaf that nobody sees.

Reading a chain's extensions one by one would repeat, and miss, what OpenSSL holds against it: path lengths, key usages,
constraints of a CA further up, dates.
"""

from __future__ import annotations

import ssl

from extproc.adapters.pki import Authority
from extproc.adapters.pki_names import constraints_of, subtrees

_ROUNDS = 10  # of a handshake: TLS 1.3 takes three


def refusal(authority: Authority, *, strict: bool = False) -> str:
    """Why a client that trusts the authority's roots refuses a leaf of it; empty where it does not.

    `strict`: as Python 3.13 and later check by default (`VERIFY_X509_STRICT`). Raises ConfigError where no leaf can be
    made: the CA has expired, or one above it excludes the host.
    """
    constraints = constraints_of(authority.certificate)
    trees = subtrees(constraints.permitted_subtrees) if constraints is not None else ("localhost",)
    # a subtree with a dot in front is for what is below it, and a range of addresses for none that we know
    hosts = [f"a{tree}" if tree.startswith(".") else tree for tree in trees if "/" not in tree]
    if not hosts:
        return ""
    leaf = authority.issue(hosts[:1], 1)
    client = ssl.create_default_context(cadata=authority.pem.decode("ascii"))
    client.verify_flags &= ~ssl.VERIFY_X509_STRICT
    if strict:
        client.verify_flags |= ssl.VERIFY_X509_STRICT
    to_client, to_server = ssl.MemoryBIO(), ssl.MemoryBIO()
    server = leaf.server_context().wrap_bio(to_server, to_client, server_side=True)
    try:
        _shake(client.wrap_bio(to_client, to_server, server_hostname=hosts[0]), server)
    except ssl.SSLCertVerificationError as error:
        return error.verify_message
    except ssl.SSLError as error:
        return error.reason or "handshake failed"
    return ""


def _shake(*ends: ssl.SSLObject) -> None:
    for _ in range(_ROUNDS):
        waiting = 0
        for end in ends:
            try:
                end.do_handshake()
            except ssl.SSLWantReadError:
                waiting += 1
        if not waiting:
            return
    raise ssl.SSLError("the handshake does not end")
