"""A corporate egress proxy in the Envoy files: a provider's connections go through its CONNECT tunnel (`proxy.yaml`).

The tunnel is an internal listener that speaks CONNECT, and not Envoy's `http_11_proxy` transport socket: that one takes an IP
address for the proxy and the provider's own resolved address for the target, and behind such a proxy there is often no DNS.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Final

from extproc.adapters.envoy_files import BOOTSTRAP, CLUSTERS, TLS, Node, find_resource, walk
from extproc.errors import ConfigError

PROXY: Final = "proxy.yaml"  # documentation and template: it is no file of Envoy's


def use_proxy(documents: dict[str, Node], provider: str, host: str, port: int) -> None:
    """Lead the TLS connections of `provider` through the HTTP proxy at `host` and `port`.

    `documents`: the Envoy files by their relative names; changed in place. The address that the provider's cluster has so
    far is what the proxy is asked for. Raises ConfigError where `proxy.yaml` is missing or is not the template.
    """
    template = documents.get(PROXY, {})
    if not isinstance(template.get("listener"), dict) or not isinstance(template.get("cluster"), dict):
        raise ConfigError(PROXY, "is missing, or has no listener and cluster", "copy it from the project's envoy/")
    listener, cluster = copy.deepcopy(template["listener"]), copy.deepcopy(template["cluster"])
    target = find_resource(documents[CLUSTERS]["resources"], f"{provider}{TLS}", Path(CLUSTERS))
    tunnel, name = f"tunnel_{provider}", f"proxy_{provider}"
    (endpoint,) = [one for one in walk(target["load_assignment"]) if "address" in one and "hostname" in one]
    address: Node = endpoint["address"]["socket_address"]

    listener["name"] = listener["filter_chains"][0]["name"] = tunnel
    for mapping in walk(listener):
        if "tunneling_config" in mapping:
            mapping["cluster"] = name
            mapping["tunneling_config"]["hostname"] = _authority(str(address["address"]), int(address["port_value"]))
    cluster["name"] = cluster["load_assignment"]["cluster_name"] = name
    for mapping in walk(cluster["load_assignment"]):
        if "socket_address" in mapping:
            mapping["socket_address"] = {"address": host, "port_value": port}

    target["type"] = "STATIC"
    for key in ("dns_lookup_family", "upstream_connection_options"):  # they are the proxy's cluster's now
        target.pop(key, None)
    endpoint["address"] = {"envoy_internal_address": {"server_listener_name": tunnel}}
    documents[BOOTSTRAP]["static_resources"]["listeners"].append(listener)
    documents[CLUSTERS]["resources"].append(cluster)


def _authority(host: str, port: int) -> str:
    """What CONNECT names (RFC 9110 section 9.3.6); IPv6 in brackets."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
