"""Who may reach whom, by the policies that the overlays hold; and each row goes red without its rule."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Iterator

import pytest

from k8s.manifests import BUILDS, Document, build, find
from k8s.netpol import Pod, matches, reaches

APP = Pod("apps", {"app": "any"}, {"llm-egress/apps": "allowed"})
OTHER_APP = Pod("apps", {"app": "another"}, {"llm-egress/apps": "allowed"})
STRANGER = Pod("elsewhere", {"app": "any"})
GATEWAY = Pod("llm-egress", {"app.kubernetes.io/name": "llm-gateway", "app.kubernetes.io/part-of": "llm-egress"})
INTRUDER = Pod("llm-egress", {"app": "any"})
STORE = Pod("llm-egress", {"app.kubernetes.io/name": "llm-store", "app.kubernetes.io/part-of": "llm-egress"})
SIDECAR = Pod(
    "apps-sidecar", {"app.kubernetes.io/name": "demo", "llm-egress/sidecar": "true"}, {"llm-egress/apps": "sidecar"}
)
DNS = Pod("kube-system", {"k8s-app": "kube-dns"})
API_SERVER = Pod("kube-system", {"component": "kube-apiserver"})
PROMETHEUS = Pod("monitoring", {"app": "prometheus"})
VENDOR, VENDOR6 = "162.159.140.245", "2606:4700:7::1"
RESOLVER, VALKEY, PUBLIC_DNS = "192.0.2.53", "192.0.2.63", "8.8.8.8"
SECOND_APP = Pod("team-search", {"app": "any"}, {"llm-egress/apps": "allowed"})
METADATA = (
    "169.254.169.254", "169.254.170.2", "169.254.170.23", "100.100.100.200", "168.63.129.16", "192.0.0.192",
    "fd00:ec2::254", "fd00:ec2::23", "fd20:ce::254", "fe80::a9fe:a9fe",
)  # fmt: skip
PRIVATE = ("10.0.0.1", "172.31.0.1", "192.168.1.1", "100.64.0.1", "127.0.0.1", "fd12::1", "fe80::1", "198.18.0.1")
NAT64 = "64:ff9b::a9fe:a9fe"

# overlay, what it is, source, target, port, protocol, open?
ROWS = [
    ("central", "app to interception", APP, GATEWAY, 8443, "TCP", True),
    ("central", "app to base URL over TLS", APP, GATEWAY, 8444, "TCP", True),
    ("central", "app to CONNECT proxy", APP, GATEWAY, 3128, "TCP", True),
    ("central", "app to DNS", APP, DNS, 53, "UDP", True),
    ("central", "app to DNS over TCP", APP, DNS, 53, "TCP", True),
    ("central", "app to a vendor", APP, VENDOR, 443, "TCP", False),
    ("central", "app to a vendor by IPv6", APP, VENDOR6, 443, "TCP", False),
    ("central", "app to a vendor by QUIC", APP, VENDOR, 443, "UDP", False),
    ("central", "app to a vendor on another port", APP, VENDOR, 8443, "TCP", False),
    ("central", "app to a public resolver", APP, PUBLIC_DNS, 53, "UDP", False),
    ("central", "app to DNS over TLS", APP, PUBLIC_DNS, 853, "TCP", False),
    ("central", "app to DNS over HTTPS", APP, PUBLIC_DNS, 443, "TCP", False),
    ("central", "app to the gateway's Envoy admin", APP, GATEWAY, 9901, "TCP", False),
    ("central", "app to the gateway's status", APP, GATEWAY, 9902, "TCP", False),
    ("central", "app to the gateway's metrics", APP, GATEWAY, 9464, "TCP", False),
    ("central", "app to plain base URL", APP, GATEWAY, 8080, "TCP", False),
    ("central", "app to another app", APP, OTHER_APP, 8000, "TCP", False),
    ("central", "app to the API server", APP, API_SERVER, 443, "TCP", False),
    ("central", "stranger to the gateway", STRANGER, GATEWAY, 8443, "TCP", False),
    ("central", "Prometheus to extproc's metrics", PROMETHEUS, GATEWAY, 9464, "TCP", True),
    ("central", "Prometheus to Envoy's metrics", PROMETHEUS, GATEWAY, 9902, "TCP", True),
    ("central", "Prometheus to an entry", PROMETHEUS, GATEWAY, 8443, "TCP", False),
    ("central", "gateway to a vendor", GATEWAY, VENDOR, 443, "TCP", True),
    ("central", "gateway to a vendor by IPv6", GATEWAY, VENDOR6, 443, "TCP", True),
    ("central", "gateway to a vendor in the clear", GATEWAY, VENDOR, 80, "TCP", False),
    ("central", "gateway to a vendor by QUIC", GATEWAY, VENDOR, 443, "UDP", False),
    ("central", "gateway to its resolver", GATEWAY, RESOLVER, 53, "UDP", True),
    ("central", "gateway to another resolver", GATEWAY, PUBLIC_DNS, 53, "UDP", False),
    ("central", "gateway to the cluster's DNS, which may lead back to it", GATEWAY, DNS, 53, "UDP", False),
    ("central", "gateway to the store", GATEWAY, VALKEY, 6379, "TCP", True),
    ("central", "gateway to an app", GATEWAY, APP, 8000, "TCP", False),
    ("central", "gateway to itself", GATEWAY, GATEWAY, 3128, "TCP", False),
    ("central", "another pod of the namespace to a vendor", INTRUDER, VENDOR, 443, "TCP", False),
    *(("central", f"app to metadata {ip}", APP, ip, 80, "TCP", False) for ip in METADATA),
    *(("central", f"gateway to metadata {ip}", GATEWAY, ip, 80, "TCP", False) for ip in METADATA),
    *(("central", f"gateway to metadata {ip} on 443", GATEWAY, ip, 443, "TCP", False) for ip in (*METADATA, NAT64)),
    *(("central", f"gateway to private {ip}", GATEWAY, ip, 443, "TCP", False) for ip in PRIVATE),
    ("dev", "gateway to its store", GATEWAY, STORE, 6379, "TCP", True),
    ("dev", "app to the store", APP, STORE, 6379, "TCP", False),
    ("dev", "store to anywhere", STORE, VENDOR, 443, "TCP", False),
    ("dev", "gateway to the cluster's DNS", GATEWAY, DNS, 53, "UDP", True),
    ("dev", "app to a vendor", APP, VENDOR, 443, "TCP", False),
    ("sidecar", "pod to a vendor: Envoy's way out", SIDECAR, VENDOR, 443, "TCP", True),
    ("sidecar", "pod to a vendor by QUIC", SIDECAR, VENDOR, 443, "UDP", False),
    ("sidecar", "pod to a vendor on another port", SIDECAR, VENDOR, 8443, "TCP", False),
    ("sidecar", "pod to a public resolver", SIDECAR, PUBLIC_DNS, 53, "UDP", False),
    ("sidecar", "pod without the label", Pod("apps-sidecar"), VENDOR, 443, "TCP", False),
    *(("sidecar", f"pod to metadata {ip}", SIDECAR, ip, 443, "TCP", False) for ip in METADATA),
    ("cilium", "gateway to any public address", GATEWAY, VENDOR, 443, "TCP", False),
    ("cilium", "app to DNS, which Cilium's own policy has", APP, DNS, 53, "UDP", False),
    ("cilium", "app to interception", APP, GATEWAY, 8443, "TCP", True),
]


@pytest.mark.parametrize(
    ("overlay", "what", "source", "target", "port", "protocol", "is_open"),
    ROWS,
    ids=lambda v: v if isinstance(v, str) and " " in v else "",
)
def test_the_roads(
    overlay: str, what: str, source: Pod, target: Pod | str, port: int, protocol: str, is_open: bool
) -> None:
    """Each road is open or closed as the table says."""
    assert reaches(build(overlay), source, target, port, protocol) is is_open, what


def spoil(name: str, change: Callable[[Document], None]) -> list[Document]:
    """The central manifests with one NetworkPolicy changed."""
    documents = build("central")
    change(find(documents, "NetworkPolicy", name))
    return documents


def without(name: str) -> list[Document]:
    """The central manifests without one NetworkPolicy."""
    documents = build("central")
    documents.remove(find(documents, "NetworkPolicy", name))
    return documents


def set_spec(**fields: object) -> Callable[[Document], None]:
    """Replace fields of a policy's spec."""
    return lambda policy: policy["spec"].update(fields)


SABOTAGES = [
    ("the apps' default denial is gone", lambda: [d for d in build("central") if d["metadata"].get("namespace") != "apps"], (APP, VENDOR, 443), True),
    ("a rule for all ports of all addresses", lambda: spoil("default-deny-egress", set_spec(egress=[{}])), (APP, "169.254.169.254", 80), True),
    ("metadata is no exception", lambda: spoil("llm-gateway-vendors", set_spec(egress=[{"to": [{"ipBlock": {"cidr": "0.0.0.0/0"}}]}])), (GATEWAY, "169.254.169.254", 80), True),
    ("private ranges are no exception", lambda: spoil("llm-gateway-vendors", lambda p: p["spec"]["egress"][0]["to"][0]["ipBlock"]["except"].remove("10.0.0.0/8")), (GATEWAY, "10.0.0.1", 443), True),
    ("the policy for vendors is gone", lambda: without("llm-gateway-vendors"), (GATEWAY, VENDOR, 443), False),
    ("the gateway lets everybody in", lambda: spoil("llm-gateway-ingress", set_spec(ingress=[{}])), (STRANGER, GATEWAY, 8443), True),
    ("Service ports in place of pod ports", lambda: spoil("allow-dns-and-llm-gateway", lambda p: p["spec"]["egress"][1].update(ports=[{"protocol": "TCP", "port": 443}])), (APP, GATEWAY, 8443), False),
    ("policyTypes forgets Egress", lambda: spoil("default-deny", set_spec(policyTypes=["Ingress"])), (INTRUDER, VENDOR, 443), True),
]  # fmt: skip


@pytest.mark.parametrize(("what", "change", "road", "becomes"), SABOTAGES, ids=[row[0] for row in SABOTAGES])
def test_a_spoilt_policy_is_seen(
    what: str, change: Callable[[], list[Document]], road: tuple[Pod, Pod | str, int], becomes: bool
) -> None:
    """Each road changes its state when its own rule is taken away or widened."""
    assert reaches(build("central"), *road) is not becomes
    assert reaches(change(), *road) is becomes, what


def wide(documents: list[Document]) -> Iterator[str]:
    """Rules of NetworkPolicies and of Cilium's that let more out than anything here needs."""
    for document in documents:
        name = f"{document['kind']}/{document['metadata']['name']}"
        spec = document.get("spec", {})
        if document["kind"] == "NetworkPolicy":
            for rule in spec.get("egress", []):
                yield from (f"{name}: {reason}" for reason in _wide_rule(rule))
        if document["kind"].startswith("Cilium"):
            for rule in spec.get("egress", []):
                if not rule.get("toPorts"):
                    yield f"{name}: a rule without ports"
                if any(one.get("matchPattern", "") in {"*", "**", "*.*"} for one in rule.get("toFQDNs", [])):
                    yield f"{name}: a pattern that takes every name"
                if any(ipaddress.ip_network(one).prefixlen < 24 for one in rule.get("toCIDR", [])):
                    yield f"{name}: a wide range of addresses"
                if rule.get("toEndpoints") == [{}]:
                    yield f"{name}: every pod"


def _wide_rule(rule: Document) -> Iterator[str]:
    if not rule.get("to"):
        yield "a rule without `to`"
    if not rule.get("ports") or any("port" not in port or "endPort" in port for port in rule["ports"]):
        yield "a rule without ports, or with a range of them"
    for peer in rule.get("to", []):
        if peer.get("namespaceSelector") == {} or ("namespaceSelector" in peer and not peer.get("podSelector")):
            yield "whole namespaces"
        block = ipaddress.ip_network(peer["ipBlock"]["cidr"]) if "ipBlock" in peer else None
        if block is not None and block.prefixlen < 24:
            exceptions = [ipaddress.ip_network(one) for one in peer["ipBlock"].get("except", [])]
            for bad in map(ipaddress.ip_address, (*METADATA, *PRIVATE)):
                if bad in block and not any(bad in one for one in exceptions):
                    yield f"{block} without an exception for {bad}"
            if [port.get("port") for port in rule.get("ports", [])] != [443]:
                yield f"{block} on other ports than 443"


@pytest.mark.parametrize("name", BUILDS)
def test_no_rule_is_a_wildcard(name: str) -> None:
    """No rule lets out to everywhere, on every port, or to metadata and private ranges."""
    assert list(wide(build(name))) == []


WIDE = [{}, {"ports": [{"port": 443}]}, {"to": [{"ipBlock": {"cidr": "0.0.0.0/0"}}], "ports": [{"port": 443}]}, {"to": [{"namespaceSelector": {}}], "ports": [{"port": 443}]}, {"to": [{"ipBlock": {"cidr": "192.0.2.1/32"}}]}, {"to": [{"ipBlock": {"cidr": "192.0.2.1/32"}}], "ports": [{"port": 1, "endPort": 65535}]}]  # fmt: skip


@pytest.mark.parametrize("rule", WIDE, ids=map(str, WIDE))
def test_a_wildcard_is_found(rule: Document) -> None:
    """Every way to write one."""
    documents = build("central")
    find(documents, "NetworkPolicy", "llm-gateway-egress")["spec"]["egress"].append(rule)

    assert list(wide(documents))


CILIUM_WIDE = [{"toFQDNs": [{"matchPattern": "*"}], "toPorts": [{}]}, {"toFQDNs": [{"matchName": "api.openai.com"}]}, {"toCIDR": ["0.0.0.0/0"], "toPorts": [{}]}, {"toEndpoints": [{}], "toPorts": [{}]}]  # fmt: skip


@pytest.mark.parametrize("rule", CILIUM_WIDE, ids=map(str, CILIUM_WIDE))
def test_a_wildcard_for_cilium_is_found(rule: Document) -> None:
    """In its own words."""
    documents = build("cilium")
    find(documents, "CiliumNetworkPolicy", "llm-gateway-fqdn")["spec"]["egress"].append(rule)

    assert list(wide(documents))


def asked(documents: list[Document], name: str) -> bool:
    """Whether Cilium lets an app ask for a name: in a pattern a star is any characters of one label (pkg/fqdn/matchpattern)."""
    (rule,) = find(documents, "CiliumClusterwideNetworkPolicy", "llm-apps-dns")["spec"]["egress"][0]["toPorts"]
    patterns = [one.get("matchName") or one["matchPattern"] for one in rule["rules"]["dns"]]
    return any(re.fullmatch(re.escape(one).replace(r"\*", "[-a-z0-9_]*"), name) for one in patterns)


NAMES = [
    ("api.openai.com", True),
    ("llm-gateway.llm-egress.svc.cluster.local", True),
    ("api.openai.com.apps.svc.cluster.local", True),  # with the search list, which is tried first (ndots: 5)
    ("llm-gateway.llm-egress.svc.cluster.local.apps.svc.cluster.local", True),
    ("api.mistral.ai", False),
    ("stolen.attacker.example", False),
    ("cluster.local.attacker.example", False),
    ("xcluster.local", False),
]


@pytest.mark.parametrize(("name", "allowed"), NAMES)
def test_names_that_apps_may_ask_for(name: str, allowed: bool) -> None:
    """Those of the cluster and the vendors, with whatever the resolver hangs on them; no name of anybody's outside."""
    assert asked(build("cilium"), name) is allowed


def test_a_pattern_of_one_label_is_not_enough() -> None:
    """Without the longer patterns the gateway's own name is refused."""
    documents = build("cilium")
    rules = find(documents, "CiliumClusterwideNetworkPolicy", "llm-apps-dns")["spec"]["egress"][0]["toPorts"][0][
        "rules"
    ]
    rules["dns"] = [one for one in rules["dns"] if one.get("matchPattern", "").count("*") < 2]

    assert not asked(documents, "llm-gateway.llm-egress.svc.cluster.local")


def clusterwide(documents: list[Document], pod: Pod) -> list[str]:
    """The names of Cilium's clusterwide policies that select a pod, by the labels that Cilium gives it."""
    namespace = {f"k8s:io.cilium.k8s.namespace.labels.{key}": value for key, value in pod.namespace_labels.items()}
    labels = {f"k8s:{key}": value for key, value in pod.labels.items()}
    labels |= {"k8s:io.kubernetes.pod.namespace": pod.namespace, **namespace}
    found = [d for d in documents if d["kind"] == "CiliumClusterwideNetworkPolicy"]
    return [d["metadata"]["name"] for d in found if matches(d["spec"]["endpointSelector"], labels)]


CLUSTERWIDE = [
    (APP, ["llm-apps-dns", "llm-no-metadata-apps"]),
    (SECOND_APP, ["llm-apps-dns", "llm-no-metadata-apps"]),
    (SIDECAR, ["llm-no-metadata-apps"]),  # its DNS is its NetworkPolicy's, which this component leaves as it is
    (GATEWAY, ["llm-no-metadata-gateway"]),
    (INTRUDER, ["llm-no-metadata-gateway"]),
    (STRANGER, []),
]


@pytest.mark.parametrize(("pod", "names"), CLUSTERWIDE, ids=lambda v: v.namespace if isinstance(v, Pod) else "")
def test_every_namespace_of_apps_has_ciliums_rules(pod: Pod, names: list[str]) -> None:
    """The component takes the DNS rule out of each copy of the apps' policies, so what stands in for it must select them all."""
    assert sorted(clusterwide(build("cilium"), pod)) == names


def test_cilium_denies_every_metadata_address() -> None:
    """To apps and to the gateway alike."""
    for name in ("llm-no-metadata-apps", "llm-no-metadata-gateway"):
        (rule,) = find(build("cilium"), "CiliumClusterwideNetworkPolicy", name)["spec"]["egressDeny"]
        assert {one.partition("/")[0] for one in rule["toCIDR"]} == set(METADATA)


def test_selectors_are_judged_as_the_api_does() -> None:
    """Each operator, and the empty selector."""
    assert matches({}, {})
    assert matches({"matchExpressions": [{"key": "a", "operator": "Exists"}]}, {"a": ""})
    assert not matches({"matchExpressions": [{"key": "a", "operator": "DoesNotExist"}]}, {"a": ""})
    assert matches({"matchExpressions": [{"key": "a", "operator": "In", "values": ["1"]}]}, {"a": "1"})
    assert not matches({"matchExpressions": [{"key": "a", "operator": "NotIn", "values": ["1"]}]}, {"a": "1"})
    assert not matches({"matchLabels": {"a": "1"}}, {"a": "2"})
