"""What has to be taken away for each road to open: one row a road. The table that test_sabotage.py goes through."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from envoy.namespaces import GATEWAY_ADDRESS, LENIENT, METADATA, RESOLVERS, UNKNOWN, VENDOR_ADDRESSES, VENDOR_ADDRESSES6

Tree = dict[str, Any]
Edit = Callable[[Tree], None]

VENDORS = f"{{ {', '.join(VENDOR_ADDRESSES.values())} }}"
VENDORS6 = f"{{ {', '.join(VENDOR_ADDRESSES6.values())} }}"

# road -> the exception in front of the firewall's rules. What hides its name from the trap goes where the rest goes, so
# these three fall with the rule of direct-ipv4, and that one with theirs: `WITHIN`.
HIDDEN = ("sni-mismatch", "no-sni", "ech")
WITHIN = {road: {"direct-ipv4", *HIDDEN} for road in ("direct-ipv4", *HIDDEN)}
RULES = {
    **dict.fromkeys(HIDDEN, f"ip daddr {VENDORS} tcp dport 443"),
    "direct-ipv4": f"ip daddr {VENDORS} tcp dport 443",
    "direct-ipv6": f"ip6 daddr {VENDORS6} tcp dport 443",
    "other-ports": f"ip daddr {VENDORS} tcp dport 8443",
    "metadata": f"ip daddr {METADATA[0]} tcp dport 80",
    "dns-udp": "udp dport 53",
    "dns-tcp": "tcp dport 53",
    "dot": "tcp dport 853",
    "doh": f"ip daddr {RESOLVERS[0]} tcp dport 443",
    "quic": "udp dport 443",
    "other-udp": "udp dport { 123, 3478, 51820 }",
    "icmp": "meta l4proto { icmp, ipv6-icmp }",
}
# further exceptions that open a road by another way than the one above
ALSO = {"dot": "udp dport 853", "other-udp": "udp dport != { 53, 443, 853 }"}


def listener(tree: Tree, name: str) -> Tree:
    """A listener by name."""
    (found,) = (one for one in tree["static_resources"]["listeners"] if one["name"] == name)
    return found


def manager(tree: Tree, name: str) -> Tree:
    """The HTTP connection manager of a listener's first chain."""
    return listener(tree, name)["filter_chains"][0]["filters"][-1]["typed_config"]


def cluster(tree: Tree, name: str, address: str, port: int) -> str:
    """A cluster that leads to one address; its name."""
    endpoint = {"endpoint": {"address": {"socket_address": {"address": address, "port_value": port}}}}
    made = {"cluster_name": name, "endpoints": [{"lb_endpoints": [endpoint]}]}
    tree["static_resources"].setdefault("clusters", []).append(
        {"name": name, "type": "STATIC", "connect_timeout": "2s", "load_assignment": made}
    )
    return name


def hosts(tree: Tree) -> list[Tree]:
    """The virtual hosts of the proxy entry."""
    return manager(tree, "connect")["route_config"]["virtual_hosts"]


def tunnels(target: str) -> Tree:
    """A route that grants CONNECT to a cluster."""
    upgrade = [{"upgrade_type": "CONNECT", "connect_config": {}}]
    return {"match": {"connect_matcher": {}}, "route": {"cluster": target, "timeout": "0s", "upgrade_configs": upgrade}}


def any_host(tree: Tree) -> None:
    """CONNECT to whatever was asked for leads out."""
    hosts(tree)[-1]["routes"][0] = tunnels(cluster(tree, "outside", UNKNOWN[1], 443))


def any_name(tree: Tree) -> None:
    """The chain for unknown names passes them on."""
    chain = listener(tree, "intercept_internal")["default_filter_chain"]
    chain["filters"][-1]["typed_config"]["cluster"] = cluster(tree, "outside", UNKNOWN[1], 443)


def addresses(tree: Tree) -> None:
    """An address is taken for a host name."""
    target = cluster(tree, "outside", UNKNOWN[1], 443)
    domains = [f"{address}:443" for address in VENDOR_ADDRESSES.values()]
    hosts(tree).append({"name": "addresses", "domains": domains, "routes": [tunnels(target)]})


def plain_proxy(tree: Tree) -> None:
    """The proxy entry forwards plain HTTP."""
    target = cluster(tree, "outside", UNKNOWN[1], 80)
    forwards = {"match": {"prefix": "/"}, "route": {"cluster": cluster(tree, "lenient", LENIENT, 80)}}
    assert target
    for host in hosts(tree):
        host["routes"][-1] = forwards


def own_ports(tree: Tree) -> None:
    """The proxy may connect to the gateway's own machine."""
    port = listener(tree, "base_url")["address"]["socket_address"]["port_value"]
    target = cluster(tree, "itself", "127.0.0.1", port)
    domains = [f"{host}:{port}" for host in (GATEWAY_ADDRESS, "127.0.0.1", "localhost")]
    hosts(tree).append({"name": "itself", "domains": domains, "routes": [tunnels(target)]})


def open_admin(tree: Tree) -> None:
    """Envoy's admin interface is not on loopback alone."""
    tree["admin"]["address"]["socket_address"]["address"] = "0.0.0.0"


def lengths(tree: Tree) -> None:
    """Envoy takes two lengths for one body."""
    manager(tree, "base_url")["http_protocol_options"] = {"allow_chunked_length": True}


def no_policy(tree: Tree) -> None:
    """Nobody asks for a key: what came in goes out."""
    config = manager(tree, "base_url")
    config["http_filters"] = [one for one in config["http_filters"] if one["name"] != "llm.policy"]
    route = {"match": {"prefix": "/"}, "route": {"cluster": cluster(tree, "lenient", LENIENT, 80)}}
    config.pop("rds")
    config["route_config"] = {"name": "all", "virtual_hosts": [{"name": "all", "domains": ["*"], "routes": [route]}]}


def keeps_internal_headers(tree: Tree) -> None:
    """What a caller writes into Envoy's own headers counts, and what Envoy says by them comes back."""
    config = manager(tree, "base_url")
    config.pop("early_header_mutation_extensions")
    no_policy(tree)
    config["http_filters"] = [one for one in config["http_filters"] if one["name"] != "llm.strip"]
    config["http_filters"][-1]["typed_config"]["suppress_envoy_headers"] = False


def upgrades(tree: Tree) -> None:
    """WebSocket is let through."""
    manager(tree, "base_url")["upgrade_configs"] = [{"upgrade_type": "websocket"}]


def takes_headers(tree: Tree) -> None:
    """The gateway's own headers are not taken away at the entry."""
    manager(tree, "base_url").pop("early_header_mutation_extensions")


def no_codec(tree: Tree) -> None:
    """The entry passes bytes on as they are: what Envoy's own reading of HTTP keeps out."""
    config = {
        "@type": "type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy",
        "stat_prefix": "lenient",
        "cluster": cluster(tree, "lenient", LENIENT, 80),
    }
    chain = listener(tree, "base_url")["filter_chains"][0]
    chain["filters"] = [{"name": "envoy.filters.network.tcp_proxy", "typed_config": config}]


# road -> the change to Envoy
ENVOY: dict[str, Edit] = {
    "connect-unlisted": any_host,
    "connect-other-sni": any_name,
    "connect-ip": addresses,
    "absolute-form": plain_proxy,
    "proxy-loop": own_ports,
    "private-ports": open_admin,
    "websocket": no_codec,
    "smuggle-length": lengths,
    "smuggle-coding": no_codec,
    "smuggle-lines": no_codec,
    "smuggle-host": no_codec,
    "h2-pseudo": no_codec,
    "h2-inject": no_codec,
    "spoofed-headers": keeps_internal_headers,
    "other-key": no_policy,
}
# road -> the attempt that sees it, and one setting: without a policy stage, which would refuse for its own reasons, this
# attempt is closed, and open once the setting is changed too
ALONE: dict[str, tuple[str, Edit]] = {
    "websocket": ("Upgrade: websocket on /", upgrades),
    "spoofed-headers": ("internal headers beside the key change nothing", takes_headers),
}
TIMED = ("before-policy", "restart-window")


def lenient_when_alone(tree: Tree) -> None:
    """Without a policy stage calls pass, and there is somewhere for them to go."""
    config = manager(tree, "base_url")
    (policy,) = (one for one in config["http_filters"] if one["name"] == "llm.policy")
    no_policy(tree)
    policy["typed_config"]["failure_mode_allow"] = True
    config["http_filters"].insert(0, policy)
