"""Names in certificates: what may stand in one, and what a CA's name constraints permit (RFC 5280, 4.2.1.6 and 4.2.1.10)."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable

from cryptography import x509

from extproc.errors import ConfigError


def constraints_of(certificate: x509.Certificate) -> x509.NameConstraints | None:
    """What a CA may vouch for; None: anything."""
    try:
        return certificate.extensions.get_extension_for_class(x509.NameConstraints).value
    except x509.ExtensionNotFound:
        return None


def general_name(host: str) -> x509.DNSName | x509.IPAddress:
    """A host as it stands in a certificate. Raises ConfigError for what is neither a name nor an address."""
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        pass
    try:
        return x509.DNSName(_dns(host))
    except ValueError:
        raise ConfigError(
            f"hosts.{host}", "not a host name or an IP address", "write names in ASCII (A-labels)"
        ) from None


def _dns(host: str) -> str:
    labels = host.removeprefix("*.").split(".")
    if len(host) > 253 or not all(_is_label(label) for label in labels):
        raise ValueError
    return host.lower()


def _is_label(label: str) -> bool:
    plain = label.replace("-", "").replace("_", "")
    return 0 < len(label) <= 63 and plain.isascii() and plain.isalnum() and label[0] != "-" and label[-1] != "-"


def name_constraints(hosts: Iterable[str]) -> x509.NameConstraints:
    """A type of name without a permitted subtree is unconstrained (4.2.1.10): without addresses, all are excluded."""
    permitted: list[x509.GeneralName] = []
    for host in hosts:
        name = general_name(host.removeprefix("*."))
        if isinstance(name, x509.IPAddress):
            name = x509.IPAddress(ipaddress.ip_network(host))
        permitted.append(name)
    everything = [x509.IPAddress(ipaddress.ip_network(net)) for net in ("0.0.0.0/0", "::/0")]
    with_addresses = any(isinstance(name, x509.IPAddress) for name in permitted)
    if not any(isinstance(name, x509.DNSName) for name in permitted):
        permitted.append(x509.DNSName("invalid"))  # RFC 2606: permits a name that cannot exist, so no DNS name at all
    return x509.NameConstraints(permitted, None if with_addresses else everything)


def permitted(name: x509.DNSName | x509.IPAddress, constraints: x509.NameConstraints) -> bool:
    """Whether a CA with these constraints may vouch for the name."""
    allowed = constraints.permitted_subtrees or []
    if isinstance(name, x509.DNSName):
        trees = [tree.value for tree in allowed if isinstance(tree, x509.DNSName)]
        barred = [tree.value for tree in constraints.excluded_subtrees or [] if isinstance(tree, x509.DNSName)]
        plain = name.value.removeprefix("*.")
        return (not trees or any(_below(plain, tree) for tree in trees)) and not any(_below(plain, b) for b in barred)
    address = ipaddress.ip_address(str(name.value))
    if any(address in network for network in _networks(constraints.excluded_subtrees)):
        return False
    return not allowed or any(address in network for network in _networks(allowed))


def bound(certificates: Iterable[x509.Certificate]) -> bool:
    """Whether a chain may vouch for some DNS names only: one CA of it at least has a permitted subtree of them.

    Constraints that only exclude, or only speak of addresses, leave every other DNS name free (4.2.1.10); so does a
    permitted subtree that is empty.
    """
    for certificate in certificates:
        constraints = constraints_of(certificate)
        allowed = (constraints.permitted_subtrees if constraints is not None else None) or ()
        trees = [tree.value.strip(".") for tree in allowed if isinstance(tree, x509.DNSName)]
        if trees and all(trees):
            return True
    return False


def subtrees(names: Iterable[x509.GeneralName] | None) -> tuple[str, ...]:
    """The names and networks of a list of subtrees, as text; a network of one address as that address."""
    found = (name.value for name in names or () if isinstance(name, x509.DNSName | x509.IPAddress))
    return tuple(str(value).removesuffix("/32").removesuffix("/128") for value in found)


def _networks(trees: Iterable[x509.GeneralName] | None) -> list[ipaddress.IPv4Network | ipaddress.IPv6Network]:
    return [ipaddress.ip_network(str(tree.value)) for tree in trees or () if isinstance(tree, x509.IPAddress)]


def _below(name: str, tree: str) -> bool:
    """Whether a DNS name is the tree's root or below it. With a dot in front, as many CAs write it: only below it."""
    tree = tree.lower()
    return name == tree or name.endswith(tree if tree.startswith(".") else "." + tree)
