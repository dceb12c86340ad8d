"""Do the Envoy files and gateway.yaml say the same? What Envoy cannot know, as it does not read gateway.yaml."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from extproc.adapters.envoy_files import (
    BOOTSTRAP,
    CHAIN_NAMESPACE,
    CLASS_HEADER,
    CLUSTERS,
    ROUTE_CONFIG,
    ROUTES,
    TLS,
    Node,
    ProviderFacts,
    find_resource,
    find_secret,
    http_managers,
    listeners,
    read_resources,
    read_yaml,
    secret_references,
    walk,
)
from extproc.adapters.envoy_minting import mints
from extproc.errors import ConfigError

# shapes of keys that vendors issue, of PEM keys and of written-out bearer tokens; a check for accidents, not a vault
_KEY_SHAPES: Final = re.compile(
    r"-----BEGIN [A-Z ]*PRIVATE KEY|\bsk-[A-Za-z0-9_-]{16,}|\bAIza[A-Za-z0-9_-]{30,}|\bAKIA[A-Z0-9]{16}\b"
    r"|\bvk_[A-Za-z0-9_-]{16,}|\bBearer [A-Za-z0-9._~+/-]{16,}"
)
_INLINE: Final = ("inline_string", "inline_bytes")
_SECRET_FIELDS: Final = ("secret", "private_key", "password", "session_ticket_keys")
_DURATION: Final = re.compile(r"(\d+(?:\.\d+)?)s")


@dataclass(frozen=True, slots=True)
class GatewayFacts:
    """What gateway.yaml says that the Envoy files must agree with. `request_body`: bytes. `idle`: seconds by timeout class."""

    providers: tuple[ProviderFacts, ...]
    request_body: int
    idle: Mapping[str, float] = field(default_factory=dict)


def cross_check(gateway: GatewayFacts, folder: Path, *, secrets_inline: bool = False) -> list[ConfigError]:
    """List every disagreement between gateway.yaml and the Envoy files in `folder`; empty where there is none.

    `secrets_inline`: files under sds/ may hold keys (a state folder's do; files under version control must not).
    """
    try:
        bootstrap = read_yaml(folder / BOOTSTRAP)
        clusters = {str(item["name"]): item for item in read_resources(folder / CLUSTERS)}
        routes = find_resource(read_resources(folder / ROUTES), ROUTE_CONFIG, folder / ROUTES)
    except ConfigError as error:
        return [error]
    return [
        *_clusters(gateway, bootstrap, clusters),
        *_names(gateway, bootstrap),
        *_connect(gateway, bootstrap),
        *_secrets(bootstrap, folder),
        *_routes(gateway, routes),
        *_keys(folder, secrets_inline),
    ]


def _clusters(gateway: GatewayFacts, bootstrap: Node, clusters: Mapping[str, Node]) -> Iterator[ConfigError]:
    """Each provider's cluster exists, and leads through an inner listener to a cluster that speaks verified TLS."""
    internal = {str(item["name"]): item for item in listeners(bootstrap) if "internal_listener" in item}
    for provider in gateway.providers:
        path = f"providers.{provider.name}.cluster"
        cluster = clusters.get(provider.cluster)
        if cluster is None:
            yield ConfigError(
                path, f"{CLUSTERS} has no cluster {provider.cluster!r}", _near(provider.cluster, clusters)
            )
            continue
        hops = [str(m["server_listener_name"]) for m in walk(cluster) if "server_listener_name" in m]
        if not hops:
            reason = (
                f"cluster {provider.cluster!r} goes to a provider without an inner hop: keys and our headers would leak"
            )
            yield ConfigError(path, reason, "let it lead to a listener egress_<provider>")
        for hop in hops:
            if hop not in internal:
                yield ConfigError(path, f"{BOOTSTRAP} has no internal listener {hop!r}", _near(hop, internal))
        target = clusters.get(provider.cluster + TLS)
        if target is None:
            yield ConfigError(
                path, f"{CLUSTERS} has no cluster {provider.cluster + TLS!r}", "add the provider's TLS cluster"
            )
        elif not all(any(key in m for m in walk(target)) for key in ("trusted_ca", "match_typed_subject_alt_names")):
            reason = f"cluster {provider.cluster + TLS!r} does not check the provider's certificate"
            yield ConfigError(path, reason, "give it trusted_ca and match_typed_subject_alt_names")


def _names(gateway: GatewayFacts, bootstrap: Node) -> Iterator[ConfigError]:
    """Each host has a filter chain with a certificate in every entry that picks its chain by name."""
    for listener in listeners(bootstrap):
        chains = [c for c in listener.get("filter_chains", []) if c.get("filter_chain_match", {}).get("server_names")]
        if not chains and "tls_inspector" not in str(listener.get("listener_filters")):
            continue
        if not chains and (not listener.get("default_filter_chain") or mints(listener)):
            continue  # one certificate for all names (the TLS base URL), or one for each as it is asked for
        served = {str(name) for chain in chains for name in chain["filter_chain_match"]["server_names"]}
        for provider, host in _hosts(gateway):
            if host not in served and f"*.{host.partition('.')[2]}" not in served:
                path = f"providers.{provider.name}.hosts"
                reason = (
                    f"listener {listener['name']!r} has no filter chain for {host!r}: its connections would be reset"
                )
                yield ConfigError(path, reason, f"add it to a chain's server_names in {BOOTSTRAP}")
        for chain in chains:
            if not secret_references(chain.get("transport_socket", {})):
                yield ConfigError(f"{BOOTSTRAP}:{chain.get('name')}", "has no certificate from a file under sds/")


def _connect(gateway: GatewayFacts, bootstrap: Node) -> Iterator[ConfigError]:
    """Each host may be asked for with CONNECT, where there is a CONNECT entry."""
    for manager in http_managers(listeners(bootstrap)):
        if not any(upgrade.get("upgrade_type") == "CONNECT" for upgrade in manager.get("upgrade_configs", [])):
            continue
        hosts = manager.get("route_config", {}).get("virtual_hosts", [])
        domains = {str(domain) for host in hosts for domain in host.get("domains", [])} - {"*"}
        for provider, host in _hosts(gateway):
            if f"{host}:443" not in domains:
                path = f"providers.{provider.name}.hosts"
                yield ConfigError(path, f"CONNECT {host}:443 would be refused", f"add it to the domains in {BOOTSTRAP}")


def _secrets(bootstrap: Node, folder: Path) -> Iterator[ConfigError]:
    """Each secret that a listener wants is in the file that it names."""
    for name, path in secret_references(bootstrap):
        try:
            find_secret(folder, name, path)
        except ConfigError as error:
            yield error


def _routes(gateway: GatewayFacts, config: Node) -> Iterator[ConfigError]:
    """Each timeout class meets a route that waits as long as the class says; each route fails closed and buffers enough."""
    for host in config.get("virtual_hosts", []):
        routes = host.get("routes", [])
        for name, idle in gateway.idle.items():
            route = next((route for route in routes if _takes(route, name)), None)
            path = f"timeouts.classes.{name}"
            if route is None:
                yield ConfigError(path, f"{ROUTES} has no route for this class", f"add one that matches {CLASS_HEADER}")
                continue
            have = _seconds(str(route.get("route", {}).get("idle_timeout", "")))
            if have is None or 0 < have < idle:
                reason = f"route {route.get('name')!r} cuts a silent call after {have or 300:g} s, the class allows {idle:g} s"
                yield ConfigError(f"{path}.idle", reason, f"raise its idle_timeout in {ROUTES}")
        for route in (route for route in routes if "route" in route):
            limit = route.get("request_body_buffer_limit", host.get("request_body_buffer_limit"))
            if limit is None or int(limit) != gateway.request_body:
                reason = f"route {route.get('name')!r} has request_body_buffer_limit {limit}, the gateway {gateway.request_body}"
                yield ConfigError("limits.request_body", reason, f"make the two equal ({ROUTES})")
            if not any(m.get("override_metadata_namespace") == CHAIN_NAMESPACE for m in walk(route)):
                reason = f"route {route.get('name')!r} does not take its provider from {CHAIN_NAMESPACE!r}"
                yield ConfigError(ROUTES, reason, "without it a call could go to a provider that no policy chose")


def _keys(folder: Path, secrets_inline: bool) -> Iterator[ConfigError]:
    """No key is written out in YAML; where `secrets_inline`, sds/ may hold some."""
    for path in sorted(folder.rglob("*.yaml")):
        name = str(path.relative_to(folder))
        if secrets_inline and name.startswith("sds/"):
            continue
        try:
            text, document = path.read_text("utf-8"), read_yaml(path)
        except (OSError, UnicodeDecodeError):
            yield ConfigError(name, "cannot be read as UTF-8 text")
            continue
        except ConfigError as error:
            yield error
            continue
        match = _KEY_SHAPES.search(text)
        if match is not None:
            line = text.count("\n", 0, match.start()) + 1
            yield ConfigError(f"{name}:{line}", "holds what looks like a key", "name a file instead: {filename: ...}")
        elif _writes_out(document):
            yield ConfigError(name, "holds a secret inline", "name a file instead: {filename: ...}")


def _writes_out(document: Node) -> bool:
    """Whether a field for a secret has its value in place."""
    sources = (m[key] for m in walk(document) for key in _SECRET_FIELDS if isinstance(m.get(key), dict))
    return any(key in source for source in sources for key in _INLINE)


def _hosts(gateway: GatewayFacts) -> Iterator[tuple[ProviderFacts, str]]:
    return ((provider, host) for provider in gateway.providers for host in provider.hosts)


def _takes(route: Node, class_name: str) -> bool:
    """Whether a call of this timeout class meets this route. Only our own header is looked at."""
    headers = route.get("match", {}).get("headers", [])
    return all(
        header.get("name") == CLASS_HEADER and header.get("string_match", {}).get("exact") == class_name
        for header in headers
    )


def _seconds(duration: str) -> float | None:
    match = _DURATION.fullmatch(duration)
    return float(match[1]) if match else None


def _near(name: str, known: Mapping[str, Node]) -> str:
    close = difflib.get_close_matches(name, known, n=1)
    return f"did you mean {close[0]!r}?" if close else f"known: {', '.join(sorted(known)) or 'none'}"
