"""Judges NetworkPolicies as a network plugin does: may this pod open a connection to that pod or address?

The rules are the API's own (networking.k8s.io/v1): a pod that no policy selects is free; else what any rule allows is allowed.
Traffic between pods must be let out by the one's policies and in by the other's. Ports are the pods', since Services are
translated before policies are judged.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass, field

from k8s.manifests import Document


@dataclass(frozen=True)
class Pod:
    """A pod by what policies see of it."""

    namespace: str
    labels: Mapping[str, str] = field(default_factory=dict)
    namespace_labels: Mapping[str, str] = field(default_factory=dict)

    def all_namespace_labels(self) -> dict[str, str]:
        """Every namespace has its name as a label."""
        return {"kubernetes.io/metadata.name": self.namespace, **self.namespace_labels}


def matches(selector: Document, labels: Mapping[str, str]) -> bool:
    """Whether a label selector takes these labels. An empty one takes all."""
    if any(labels.get(name) != value for name, value in selector.get("matchLabels", {}).items()):
        return False
    for expression in selector.get("matchExpressions", []):
        name, values, operator = expression["key"], expression.get("values", []), expression["operator"]
        taken = {
            "Exists": name in labels,
            "DoesNotExist": name not in labels,
            "In": labels.get(name) in values,
            "NotIn": labels.get(name) not in values,
        }[operator]
        if not taken:
            return False
    return True


def reaches(documents: list[Document], source: Pod, target: Pod | str, port: int, protocol: str = "TCP") -> bool:
    """Whether a connection comes about. `target`: a pod, or an IP address outside the cluster."""
    out = _side(documents, source, "Egress", target, (port, protocol))
    return out and (isinstance(target, str) or _side(documents, target, "Ingress", source, (port, protocol)))


def _side(documents: list[Document], pod: Pod, direction: str, peer: Pod | str, port: tuple[int, str]) -> bool:
    policies = [
        document["spec"]
        for document in documents
        if document["kind"] == "NetworkPolicy"
        and document["metadata"].get("namespace", "default") == pod.namespace
        and direction in document["spec"]["policyTypes"]
        and matches(document["spec"]["podSelector"], pod.labels)
    ]
    where, whom = ("egress", "to") if direction == "Egress" else ("ingress", "from")
    rules = [rule for policy in policies for rule in policy.get(where, [])]
    return not policies or any(_ports(rule, port) and _peers(rule.get(whom), pod.namespace, peer) for rule in rules)


def _ports(rule: Document, port: tuple[int, str]) -> bool:
    ports = rule.get("ports")
    if not ports:
        return True
    return any(
        one.get("protocol", "TCP") == port[1]
        and ("port" not in one or one["port"] <= port[0] <= one.get("endPort", one["port"]))
        for one in ports
    )


def _peers(peers: list[Document] | None, namespace: str, peer: Pod | str) -> bool:
    if not peers:
        return True
    return any(_peer(one, namespace, peer) for one in peers)


def _peer(rule: Document, namespace: str, peer: Pod | str) -> bool:
    if "ipBlock" in rule:
        if not isinstance(peer, str):
            return (
                False  # a pod's address is in no block here: clusters use private ranges, which every block leaves out
            )
        address = ipaddress.ip_address(peer)
        inside = [address in ipaddress.ip_network(block) for block in rule["ipBlock"].get("except", [])]
        return address in ipaddress.ip_network(rule["ipBlock"]["cidr"]) and not any(inside)
    if isinstance(peer, str):
        return False
    if "namespaceSelector" in rule:
        if not matches(rule["namespaceSelector"], peer.all_namespace_labels()):
            return False
    elif peer.namespace != namespace:
        return False
    return matches(rule.get("podSelector", {}), peer.labels)
