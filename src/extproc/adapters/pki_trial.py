"""Whether clients would take what a CA signs: a TLS handshake in memory, with a leaf that nobody sees.

Reading a chain's extensions one by one would repeat, and miss, what OpenSSL holds against it: path lengths, key usages,
constraints of a CA further up, dates.
"""

from __future__ import annotations

import ipaddress
import secrets
import ssl
from collections.abc import Iterator, Sequence
from typing import Final

from extproc.adapters.pki import Authority, Leaf
from extproc.adapters.pki_names import constraints_of, general_name, subtrees

_ROUNDS = 10  # of a handshake: TLS 1.3 takes three
# OpenSSL's X509_V_ERR_PERMITTED_VIOLATION and X509_V_ERR_EXCLUDED_VIOLATION
_VIOLATIONS: Final = {47, 48}
_NOBODYS: Final = ("192.0.2.1", "2001:db8::1")  # RFC 5737, RFC 3849: addresses of documents


def refusal(authority: Authority, hosts: Sequence[str] = (), *, strict: bool = False) -> str:
    """Why a client that trusts the authority's roots refuses a leaf of it for `hosts`; empty where it does not.

    No hosts: one that its constraints permit. `strict`: as Python 3.13 and later check by default (`VERIFY_X509_STRICT`).
    Raises ConfigError where no leaf can be made: the CA has expired, or it or one above it excludes a host.
    """
    tried = hosts or _example(authority)
    error = _trial(authority, authority.issue(tried, 1), tried[0], strict=strict)
    return "" if error is None else _reason(error)


def loophole(authority: Authority, hosts: Sequence[str] = ()) -> str:
    """A host that nobody listed and for which clients take a leaf all the same; empty where they refuse each.

    Tried are names at random, under top-level domains of `hosts` and of the permitted names too, and addresses of nobody's.
    A refusal counts only where it is for a name constraint. Meant for an authority of which `refusal` is empty.
    """
    for host in _unlisted((*hosts, *_permitted(authority))):
        error = _trial(authority, authority.sign([general_name(host)], 1), host)
        if not isinstance(error, ssl.SSLCertVerificationError) or error.verify_code not in _VIOLATIONS:
            return host
    return ""


def _permitted(authority: Authority) -> tuple[str, ...]:
    constraints = constraints_of(authority.certificate)
    return () if constraints is None else subtrees(constraints.permitted_subtrees)


def _example(authority: Authority) -> tuple[str]:
    """A host of the first permitted subtree: below a name with a dot in front, within a range of addresses."""
    tree = next((tree for tree in _permitted(authority) if tree), "localhost")
    if "/" in tree:
        return (str(ipaddress.ip_network(tree)[0]),)
    return (f"a{tree}" if tree.startswith(".") else tree,)


def _unlisted(listed: Sequence[str]) -> Iterator[str]:
    label = f"x{secrets.token_hex(12)}"
    domains = (name.rpartition(".")[2] for name in listed if "." in name.strip(".") and "/" not in name)
    yield f"{label}.x{secrets.token_hex(4)}"
    yield from (f"{label}.{domain}" for domain in dict.fromkeys(domains) if not domain.isdecimal())
    yield from _NOBODYS


def _trial(authority: Authority, leaf: Leaf, host: str, *, strict: bool = False) -> ssl.SSLError | None:
    """What a client says to the leaf; None: it takes it."""
    client = ssl.create_default_context(cadata=authority.pem.decode("ascii"))
    client.verify_flags &= ~ssl.VERIFY_X509_STRICT
    if strict:
        client.verify_flags |= ssl.VERIFY_X509_STRICT
    to_client, to_server = ssl.MemoryBIO(), ssl.MemoryBIO()
    server = leaf.server_context().wrap_bio(to_server, to_client, server_side=True)
    name = f"x{host[1:]}" if host.startswith("*.") else host
    try:
        _shake(client.wrap_bio(to_client, to_server, server_hostname=name), server)
    except ssl.SSLError as error:
        return error
    return None


def _reason(error: ssl.SSLError) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return error.verify_message
    return error.reason or "handshake failed"


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
