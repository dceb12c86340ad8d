"""A provider behind a corporate egress proxy: what changes in the Envoy files, and that nothing else does."""

from __future__ import annotations

from pathlib import Path

import pytest

from extproc.adapters.envoy_files import Node, find_resource, read_resources, read_yaml, walk
from extproc.adapters.envoy_proxy import PROXY, use_proxy
from extproc.adapters.envoy_render import Address, Overrides, Upstream, render
from extproc.errors import ConfigError

SHIPPED = Path(__file__).resolve().parents[2] / "envoy"
CORPORATE = Address("proxy.example", 3128)


def resources(state: Path) -> dict[str, Node]:
    """The rendered clusters by name."""
    return {str(one["name"]): one for one in read_resources(state / "xds" / "cds.yaml")}


def hostname(state: Path, provider: str) -> str:
    """What the provider's tunnel asks the proxy for."""
    listeners = read_yaml(state / "bootstrap.yaml")["static_resources"]["listeners"]
    tunnel = find_resource(listeners, f"tunnel_{provider}", state)
    (proxied,) = [one for one in walk(tunnel) if "tunneling_config" in one]
    assert proxied["cluster"] == f"proxy_{provider}"
    return str(proxied["tunneling_config"]["hostname"])


def test_a_provider_behind_a_proxy(tmp_path: Path) -> None:
    """Its TLS cluster leads into the tunnel, which asks the proxy for the provider by name; TLS is checked as before."""
    render(SHIPPED, tmp_path / "direct", Overrides())
    render(SHIPPED, tmp_path / "st", Overrides(upstreams={"openai": Upstream(proxy=CORPORATE)}))
    before, after = resources(tmp_path / "direct"), resources(tmp_path / "st")
    assert set(after) - set(before) == {"proxy_openai"}
    assert {name for name in before if before[name] != after[name]} == {"openai_tls"}
    target = after["openai_tls"]
    assert target["transport_socket"] == before["openai_tls"]["transport_socket"]
    assert target["type"] == "STATIC"
    (address,) = [one["envoy_internal_address"] for one in walk(target) if "envoy_internal_address" in one]
    assert address == {"server_listener_name": "tunnel_openai"}
    assert hostname(tmp_path / "st", "openai") == "api.openai.com:443"
    (proxy,) = [one["socket_address"] for one in walk(after["proxy_openai"]) if "socket_address" in one]
    assert proxy == {"address": "proxy.example", "port_value": 3128}
    assert not (tmp_path / "st" / PROXY).exists()


def test_two_providers_have_a_tunnel_each(tmp_path: Path) -> None:
    """Each asks for its own host; an address of the operator's is what is asked for, IPv6 in brackets."""
    other = Upstream(Address("2001:db8::7", 8443), server_name="llm.example", proxy=CORPORATE)
    render(SHIPPED, tmp_path, Overrides(upstreams={"openai": Upstream(proxy=CORPORATE), "anthropic": other}))
    assert hostname(tmp_path, "openai") == "api.openai.com:443"
    assert hostname(tmp_path, "anthropic") == "[2001:db8::7]:8443"


def test_without_the_template_it_is_an_error() -> None:
    """Files of an older version have no proxy.yaml: said, with the cure."""
    with pytest.raises(ConfigError, match=r"proxy\.yaml: is missing"):
        use_proxy({}, "openai", "proxy.example", 3128)
