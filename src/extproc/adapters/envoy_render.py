"""From the Envoy files that people edit to the state folder that Envoy runs in.

Files go over as they are, comments and all, unless an override changes their meaning; then they are written anew. Each is
written by rename, clusters before the routes that name them, so that a running Envoy picks a change up whole.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import yaml

from extproc.adapters.envoy_files import (
    BOOTSTRAP,
    CLASS_HEADER,
    CLUSTERS,
    EGRESS,
    ROUTES,
    TLS,
    Node,
    ProviderFacts,
    find_resource,
    http_managers,
    listeners,
    read_yaml,
    walk,
)
from extproc.adapters.envoy_minting import MINTING, forget_files, use_minting
from extproc.adapters.envoy_proxy import PROXY, use_proxy
from extproc.adapters.pki import write_atomic
from extproc.errors import ConfigError

ADMIN: Final = "admin"  # in `Overrides.listeners`, Envoy's admin port
_FOLDERS: Final = ("xds", "sds", "pki", "run")


@dataclass(frozen=True, slots=True)
class Address:
    """A TCP address. Port 0 is not useful here: nobody would know the port."""

    host: str
    port: int


@dataclass(frozen=True, slots=True)
class Upstream:
    """Where a provider really is. None: as the files say.

    `ca`: PEM file with the roots that it is checked against. `server_name`: the name in SNI, in its certificate and in
    the Host header. `proxy`: an HTTP proxy that is asked for the address with CONNECT.
    """

    address: Address | None = None
    ca: Path | None = None
    server_name: str | None = None
    proxy: Address | None = None


@dataclass(frozen=True, slots=True)
class Overrides:
    """What one machine or one gateway.yaml wants otherwise than the files say. Unset: as the files say.

    `listeners`: by listener name, or `admin`. `also`: a second address, by listener name. `workers`: how many
    `run/worker-<n>.sock`. `providers`: exactly these get entries, inner hops and clusters; one that the files lack is made
    after the pattern of its `api`. `request_body`: bytes.
    `idle`: seconds by timeout class; each class gets a route, the first is the one for calls without a class.
    `access_log`: a file, relative to the state folder. `minted`: certificates are minted for these hosts; None: they are files.
    """

    listeners: Mapping[str, Address] = field(default_factory=dict)
    also: Mapping[str, Address] = field(default_factory=dict)
    workers: int | None = None
    providers: tuple[ProviderFacts, ...] | None = None
    upstreams: Mapping[str, Upstream] = field(default_factory=dict)
    request_body: int | None = None
    idle: Mapping[str, float] = field(default_factory=dict)
    access_log: str | None = None
    minted: tuple[str, ...] | None = None


def render(source: Path, state: Path, overrides: Overrides) -> Path:
    """Write the files of `source` into `state` with `overrides` applied; returns the bootstrap's path.

    Files under `sds/` are written only where `state` has none of that name: there they hold secrets that others wrote.
    Raises ConfigError where a file is missing or an override names something that the files do not have.
    """
    files = {str(path.relative_to(source)): path for path in sorted(source.rglob("*.yaml"))}
    documents = {name: read_yaml(path) for name, path in files.items()}
    for required in (BOOTSTRAP, CLUSTERS, ROUTES):
        if required not in documents:
            raise ConfigError(str(source / required), "is missing", "copy it from the project's envoy/")
    if overrides.providers is not None:
        _providers(documents, overrides.providers)
    for name, upstream in overrides.upstreams.items():
        _upstream(documents, name, upstream)
        if upstream.proxy is not None:
            use_proxy(documents, name, upstream.proxy.host, upstream.proxy.port)
    if overrides.minted is not None:
        use_minting(documents, overrides.minted)
        forget_files(state / "sds")
    for template in (MINTING, PROXY):
        documents.pop(template, None)
    _addresses(documents[BOOTSTRAP], overrides)
    _sockets(documents[CLUSTERS], overrides.workers)
    _routes(documents[ROUTES], overrides)
    for folder in _FOLDERS:
        (state / folder).mkdir(parents=True, exist_ok=True, mode=0o700)
    for name in sorted(documents, key=_order):
        _write(state / name, documents[name], files.get(name))
    return state / BOOTSTRAP


def _order(name: str) -> tuple[int, str]:
    """Sort secrets, clusters, routes, listeners: each may name what came before."""
    return (0 if name.startswith("sds/") else 1 if name == CLUSTERS else 3 if name == BOOTSTRAP else 2, name)


class _Plain(yaml.SafeDumper):
    """No anchors: a reader of the state folder sees each thing in its place."""

    def ignore_aliases(self, data: object) -> bool:
        return True


def _write(path: Path, document: Node, original: Path | None) -> None:
    if path.parent.name == "sds" and path.exists():
        return
    if original is not None and read_yaml(original) == document:
        data = original.read_bytes()
    else:
        note = "# Made from the Envoy files and gateway.yaml. Edit those: this copy is written again.\n"
        data = (note + yaml.dump(document, Dumper=_Plain, sort_keys=False, width=140)).encode()
    if path.exists() and path.read_bytes() == data:
        return
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    write_atomic(path, data)


# ---- providers ------------------------------------------------------------------------------------------------------


def _providers(documents: dict[str, Node], providers: tuple[ProviderFacts, ...]) -> None:
    """Give exactly `providers` their filter chains, CONNECT hosts, inner hops, clusters, routes and secret files."""
    known = [name.removeprefix(EGRESS) for name in _names(listeners(documents[BOOTSTRAP])) if name.startswith(EGRESS)]
    patterns = {p.name: p.name if p.name in known else _pattern(p, known) for p in providers}
    made = tuple(p for p in providers if p.cluster == p.name)  # another cluster is the platform team's own
    kept = {p.cluster for p in providers} - {p.name for p in made}
    hosts = _claimed(providers)

    def spread(items: list[Node], names: Callable[[str], str], wanted: tuple[ProviderFacts, ...]) -> list[Node]:
        """`items` with those named after a provider replaced by one for each of `wanted`."""
        by_name = {str(item["name"]): item for item in items}
        found = [names(name) for name in known]
        rest = [item for item in items if item["name"] not in found or item["name"] in map(names, kept)]
        have = [p for p in wanted if names(patterns[p.name]) in by_name]
        return [_rename(by_name[names(patterns[p.name])], patterns[p.name], p) for p in have] + rest

    static = documents[BOOTSTRAP]["static_resources"]
    with_hosts = tuple(p for p in providers if hosts[p.name])
    for listener in static["listeners"]:
        for entry in _entries(listener):
            listener["filter_chains"] = spread(listener["filter_chains"], f"{entry}.{{}}".format, with_hosts)
        for chain in listener.get("filter_chains", []):
            owner = str(chain.get("name", "")).rpartition(".")[2]
            if owner in hosts and "server_names" in chain.get("filter_chain_match", {}):
                chain["filter_chain_match"]["server_names"] = list(hosts[owner])
    static["listeners"] = spread(static["listeners"], f"{EGRESS}{{}}".format, made)
    _connect_hosts(static["listeners"], [f"{host}:443" for names in hosts.values() for host in names])
    clusters = documents[CLUSTERS]
    clusters["resources"] = spread(clusters["resources"], f"{{}}{TLS}".format, made)
    clusters["resources"] = spread(clusters["resources"], "{}".format, made)
    for template in (f"xds/{EGRESS}{{}}.yaml", "sds/{}-key.yaml", "sds/intercept-{}.yaml"):
        _spread_files(documents, template, {p: patterns[p.name] for p in providers}, set(known) - kept)
    for provider in made:
        if provider.name not in known and provider.hosts:
            host = provider.hosts[0]
            _upstream(documents, provider.name, Upstream(Address(host, 443), server_name=host))


def _pattern(provider: ProviderFacts, known: list[str]) -> str:
    if provider.api not in known:
        reason = f"the Envoy files have nothing named {provider.name!r} and no pattern for api {provider.api!r}"
        raise ConfigError(f"providers.{provider.name}", reason, f"patterns: {', '.join(known)}")
    return provider.api


def _claimed(providers: tuple[ProviderFacts, ...]) -> dict[str, tuple[str, ...]]:
    """Give each provider its hosts; one that two name belongs to the first, as a name leads to one filter chain."""
    owner: dict[str, str] = {}
    for provider in providers:
        for host in provider.hosts:
            owner.setdefault(host, provider.name)
    return {p.name: tuple(host for host in dict.fromkeys(p.hosts) if owner[host] == p.name) for p in providers}


def _entries(listener: Node) -> list[str]:
    """Return the part before the dot in the names of the chains that a listener picks by server name."""
    chains = [chain for chain in listener.get("filter_chains", []) if "filter_chain_match" in chain]
    return list(dict.fromkeys(str(chain.get("name", "")).partition(".")[0] for chain in chains))


def _spread_files(
    documents: dict[str, Node], template: str, patterns: Mapping[ProviderFacts, str], known: set[str]
) -> None:
    had = {name: documents.pop(template.format(name), None) for name in known | set(patterns.values())}
    for provider, pattern in patterns.items():
        document = had.get(provider.name) or had.get(pattern)
        if document is not None:
            documents[template.format(provider.name)] = _rename(document, pattern, provider)


def _rename(node: Node, pattern: str, provider: ProviderFacts) -> Node:
    """Copy what belongs to one provider, made to belong to another. Host names (`api.openai.com`) stay."""
    if pattern == provider.name:
        return copy.deepcopy(node)
    word = re.compile(rf"(?<![A-Za-z0-9]){re.escape(pattern)}(?![A-Za-z0-9]|\.com)")

    def change(value: Any) -> Any:
        if isinstance(value, str):
            return word.sub(lambda _: provider.name, value)
        if isinstance(value, list):
            return [change(item) for item in value]
        if isinstance(value, dict):
            return {key: change(item) for key, item in value.items()}
        return value

    renamed: Node = change(node)
    return renamed


def _connect_hosts(entries: list[Node], domains: list[str]) -> None:
    for manager in http_managers(entries):
        for host in manager.get("route_config", {}).get("virtual_hosts", []):
            if host.get("name") == "providers":
                host["domains"] = domains or ["nothing.invalid:443"]


def _upstream(documents: dict[str, Node], name: str, upstream: Upstream) -> None:
    path = Path(CLUSTERS)
    cluster = find_resource(documents[CLUSTERS]["resources"], f"{name}{TLS}", path)
    if upstream.address is not None:
        for endpoint in walk(cluster["load_assignment"]):
            if "socket_address" in endpoint:
                endpoint["socket_address"] = _socket_address(upstream.address)
    tls: Node = cluster["transport_socket"]["typed_config"]
    validation: Node = tls["common_tls_context"]["validation_context"]
    if upstream.ca is not None:
        validation["trusted_ca"] = {"filename": str(upstream.ca.absolute())}
    if upstream.server_name is None:
        return
    tls["sni"] = upstream.server_name
    validation["match_typed_subject_alt_names"] = [{"san_type": "DNS", "matcher": {"exact": upstream.server_name}}]
    for mapping in [*walk(cluster["load_assignment"]), *walk(documents.get(f"xds/{EGRESS}{name}.yaml", {}))]:
        for key in ("hostname", "host_rewrite_literal"):
            if key in mapping:
                mapping[key] = upstream.server_name


# ---- addresses, sockets, routes -------------------------------------------------------------------------------------


def _addresses(bootstrap: Node, overrides: Overrides) -> None:
    targets = {str(listener["name"]): listener for listener in listeners(bootstrap) if "address" in listener}
    targets[ADMIN] = bootstrap.setdefault("admin", {})
    for name in (*overrides.listeners, *overrides.also):
        if name not in targets:
            raise ConfigError(
                f"listeners.{name}", "is no listener of bootstrap.yaml", f"known: {', '.join(sorted(targets))}"
            )
    for name, address in overrides.listeners.items():
        targets[name]["address"] = {"socket_address": _socket_address(address)}
    for name, address in overrides.also.items():
        targets[name]["additional_addresses"] = [{"address": {"socket_address": _socket_address(address)}}]
    if overrides.access_log is not None:
        for mapping in walk(bootstrap):
            if str(mapping.get("@type", "")).endswith(".FileAccessLog"):
                mapping["path"] = overrides.access_log


def _sockets(clusters: Node, workers: int | None) -> None:
    if workers is None:
        return
    extproc = find_resource(clusters["resources"], "extproc", Path(CLUSTERS))
    pipes = [{"endpoint": {"address": {"pipe": {"path": f"run/worker-{n}.sock"}}}} for n in range(workers)]
    extproc["load_assignment"]["endpoints"] = [{"lb_endpoints": pipes}]


def _routes(routes: Node, overrides: Overrides) -> None:
    for host in (host for config in routes["resources"] for host in config["virtual_hosts"]):
        if overrides.request_body is not None:
            host["request_body_buffer_limit"] = overrides.request_body
        if overrides.idle:
            host["routes"] = _class_routes(host["routes"], overrides.idle)


def _class_routes(routes: list[Node], idle: Mapping[str, float]) -> list[Node]:
    """Make one route per class after the pattern of the last, plain one; routes of another kind stay before them."""
    pattern = routes[-1]
    classes = [route for route in routes if route is pattern or _class_of(route) is not None]
    made = []
    for position, (name, seconds) in enumerate(idle.items()):
        route = copy.deepcopy(pattern)
        route["name"] = name
        route["route"]["idle_timeout"] = f"{seconds:g}s"
        if position:
            route["match"]["headers"] = [{"name": CLASS_HEADER, "string_match": {"exact": name}}]
        made.append(route)
    return [*(route for route in routes if route not in classes), *made[1:], made[0]]


def _class_of(route: Node) -> str | None:
    for header in route.get("match", {}).get("headers", []):
        if header.get("name") == CLASS_HEADER:
            return str(header.get("string_match", {}).get("exact", ""))
    return None


def _names(items: list[Node]) -> list[str]:
    return [str(item.get("name", "")) for item in items]


def _socket_address(address: Address) -> Node:
    return {"address": address.host, "port_value": address.port}
