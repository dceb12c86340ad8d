"""Envoy's configuration folder: reading it, and making one static bootstrap of it that Envoy itself can judge.

`envoy --mode validate` does not read filesystem xDS files (Envoy 1.40), so what stands in `xds/` and `sds/` would be
seen for the first time at run time. `flatten` puts it all into one bootstrap, with every cluster name checked.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeAlias

import yaml

from extproc.errors import ConfigError

Node: TypeAlias = dict[str, Any]  # a YAML mapping

BOOTSTRAP: Final = "bootstrap.yaml"
KEY_FILE_END: Final = "-key.yaml"  # sds/<provider>-key.yaml
CLUSTERS: Final = "xds/cds.yaml"
ROUTES: Final = "xds/rds.yaml"
ROUTE_CONFIG: Final = "llm"  # the outer route configuration
EGRESS: Final = "egress_"  # prefix of an inner hop's listener, route configuration and file
TLS: Final = "_tls"  # suffix of a provider's TLS cluster
CLASS_HEADER: Final = "x-llmi-class"
CHAIN_NAMESPACE: Final = "llm.candidates"


@dataclass(frozen=True, slots=True)
class ProviderFacts:
    """What Envoy must know of a provider. `api`: `openai` | `anthropic`. `hosts`: the names that apps call."""

    name: str
    cluster: str
    hosts: tuple[str, ...]
    api: str


def read_yaml(path: Path) -> Node:
    """Read the mapping in a YAML file: anchors expanded, no object shared. Raises ConfigError."""
    try:
        document = yaml.safe_load(path.read_bytes())
    except OSError as error:
        raise ConfigError(
            str(path), f"cannot be read ({error.strerror})", "copy it from the project's envoy/"
        ) from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{path}:{mark.line + 1}" if mark is not None else str(path)
        raise ConfigError(where, "is not YAML", str(getattr(error, "problem", None) or error)) from error
    if not isinstance(document, dict):
        raise ConfigError(str(path), "is not a YAML mapping")
    copy: Node = json.loads(json.dumps(document, default=str))  # unshares what anchors share
    return copy


def read_resources(path: Path) -> list[Node]:
    """Read the resources of a filesystem xDS file (a DiscoveryResponse). Raises ConfigError."""
    resources = read_yaml(path).get("resources")
    if not isinstance(resources, list) or not all(isinstance(item, dict) and "name" in item for item in resources):
        raise ConfigError(str(path), "has no list `resources` of named entries")
    return resources


def walk(node: object) -> Iterator[Node]:
    """Visit every mapping in a YAML tree, outermost first."""
    if isinstance(node, dict):
        yield node
        for value in node.values():
            yield from walk(value)
    elif isinstance(node, list):
        for value in node:
            yield from walk(value)


def http_managers(node: object) -> Iterator[Node]:
    """Visit every HttpConnectionManager in a tree."""
    for mapping in walk(node):
        if str(mapping.get("@type", "")).endswith(".HttpConnectionManager"):
            yield mapping


def listeners(bootstrap: Node) -> list[Node]:
    """Return the static listeners of a bootstrap."""
    found: list[Node] = bootstrap.get("static_resources", {}).get("listeners") or []
    return found


def source_path(config_source: Node) -> str:
    """Return the file that a config source points at, relative to Envoy's working directory; empty where it is no file."""
    return str(config_source.get("path_config_source", {}).get("path", ""))


def secret_references(node: object) -> list[tuple[str, str]]:
    """List (secret name, SDS file) for every secret that is read from a file, in order, without repeats."""
    found = [
        (str(mapping["name"]), source_path(mapping["sds_config"]))
        for mapping in walk(node)
        if "sds_config" in mapping and "name" in mapping
    ]
    return list(dict.fromkeys(found))


def flatten(state: Path) -> Node:
    """Make one static bootstrap of what `state` holds as filesystem xDS: clusters, routes, secrets.

    Every route configuration gets `validate_clusters`. The result may hold keys: it belongs into a 0600 file, if any.
    Raises ConfigError where a file or a named resource is missing.
    """
    bootstrap = read_yaml(state / BOOTSTRAP)
    static = bootstrap.setdefault("static_resources", {})
    dynamic = bootstrap.pop("dynamic_resources", {})
    cds = source_path(dynamic.get("cds_config", {}))
    clusters = list(static.get("clusters") or [])
    if cds:
        clusters += [_bare(resource) for resource in read_resources(state / cds)]
    static["clusters"] = clusters
    for manager in http_managers(static.get("listeners")):
        if "rds" in manager:
            manager["route_config"] = _route_config(state, manager.pop("rds"))
        if isinstance(manager.get("route_config"), dict):
            manager["route_config"]["validate_clusters"] = True
    references = secret_references(static)
    static["secrets"] = [*(static.get("secrets") or []), *(_secret(state, name, path) for name, path in references)]
    for mapping in walk(static):
        if "name" in mapping:
            mapping.pop("sds_config", None)  # without it the name means a static secret
    return bootstrap


def find_resource(resources: Sequence[Node], name: str, path: Path) -> Node:
    """Return the resource called `name`. Raises ConfigError."""
    for resource in resources:
        if resource["name"] == name:
            return resource
    names = ", ".join(str(resource["name"]) for resource in resources) or "nothing"
    raise ConfigError(str(path), f"has no resource {name!r}", f"it has {names}")


def find_secret(state: Path, name: str, path: str) -> Node:
    """Return the secret `name` of the SDS file `path`. Raises ConfigError.

    A provider's key file may hold nothing yet: Envoy starts and refuses that provider's calls, so a stand-in is returned.
    """
    resources = read_resources(state / path)
    if not resources and path.endswith(KEY_FILE_END):
        return {"name": name, "generic_secret": {"secret": {"inline_string": "no key yet"}}}
    return find_resource(resources, name, state / path)


def _route_config(state: Path, rds: Node) -> Node:
    path = state / source_path(rds.get("config_source", {}))
    return _bare(find_resource(read_resources(path), str(rds.get("route_config_name", "")), path))


def _secret(state: Path, name: str, path: str) -> Node:
    secret = _bare(find_secret(state, name, path))
    for mapping in walk(secret):
        mapping.pop("watched_directory", None)  # a static secret is read once
    return secret


def _bare(resource: Node) -> Node:
    """Return a resource without its type, as it stands in a static list."""
    return {key: value for key, value in resource.items() if key != "@type"}
