#!/usr/bin/env python3
# ruff: noqa: T201 -- a script
"""Make the Envoy files of the manifests from the project's `envoy/`: `python k8s/sync.py`, or `--check` in CI.

kustomize reads no file outside of its own folder, so the manifests carry copies. `xds/` and `sds/` are copied byte by
byte. `bootstrap.yaml` differs, per kind of pod, in what a pod needs otherwise:

- which entries listen on the pod's address (the shipped file listens on 127.0.0.1 only),
- the heap at which Envoy refuses work: 80 % of the container's memory limit,
- a `status` listener with `/ready` for the kubelet and `/stats/prometheus` for Prometheus: the admin interface stays where it is.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import yaml

ROOT: Final = Path(__file__).resolve().parents[1]
BOOTSTRAP: Final = "bootstrap.yaml"
STATUS_PORT: Final = 9902
MIB: Final = 1 << 20


@dataclass(frozen=True)
class Kind:
    """What one kind of pod needs otherwise. `open`: listeners on the pod's address. `heap`: bytes."""

    target: str  # under k8s/, a bootstrap file
    open: tuple[str, ...]
    heap: int


BASE: Final = Kind("base/envoy/bootstrap.yaml", (), 1024 * MIB)
CENTRAL: Final = Kind(
    "overlays/central/gateway/envoy/bootstrap.yaml", ("intercept", "connect", "base_url_tls"), 4096 * MIB
)
KINDS: Final = (BASE, CENTRAL)

_HEAD: Final = "# Made by k8s/sync.py from envoy/bootstrap.yaml: change that file, then run `python k8s/sync.py`.\n#\n"
_STATUS: Final = """\
  clusters:
  # Envoy's own admin interface, for `/stats/prometheus` of the listener `status` and nothing else.
  - name: llm_admin
    type: STATIC
    connect_timeout: 1s
    load_assignment:
      cluster_name: llm_admin
      endpoints:
      - lb_endpoints:
        - endpoint: {{address: {admin}}}

  listeners:

  # ---------------------------------------------------------------------------------------------------------------
  # For the kubelet and Prometheus: /ready and /stats/prometheus on the pod's address, nothing else of the admin interface.
  # /ready is 503 while the pod drains (healthcheck/fail), and while no worker of the policy stage is healthy.
  # ---------------------------------------------------------------------------------------------------------------
  - name: status
    address: {{socket_address: {{address: 0.0.0.0, port_value: {port}}}}}
    enable_reuse_port: false
    per_connection_buffer_limit_bytes: 1048576
    filter_chains:
    - name: status
      filters:
      - name: envoy.filters.network.http_connection_manager
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: status
          codec_type: HTTP1
          use_remote_address: true
          normalize_path: true
          merge_slashes: true
          path_with_escaped_slashes_action: REJECT_REQUEST
          stream_idle_timeout: 30s
          request_headers_timeout: 5s
          request_timeout: 10s
          common_http_protocol_options: {{max_headers_count: 50, idle_timeout: 120s}}
          route_config:
            name: status
            virtual_hosts:
            - name: status
              domains: ["*"]
              routes:
              - match: {{path: /stats/prometheus, headers: [{{name: ":method", string_match: {{exact: GET}}}}]}}
                route: {{cluster: llm_admin, timeout: 10s}}
              - match: {{prefix: /}}
                direct_response: {{status: 404}}
          http_filters:
          - name: envoy.filters.http.health_check
            typed_config:
              "@type": type.googleapis.com/envoy.extensions.filters.http.health_check.v3.HealthCheck
              pass_through_mode: false
              headers: [{{name: ":path", string_match: {{exact: /ready}}}}]
              cluster_min_healthy_percentages: {{extproc: {{value: 1}}}}
          - name: envoy.filters.http.router
            typed_config:
              "@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router
              suppress_envoy_headers: true
"""


def bootstrap(shipped: str, kind: Kind) -> str:
    """Adapt the text of the shipped bootstrap. Raises ValueError where it has not the shape that is changed here."""
    document: Mapping[str, Any] = yaml.safe_load(shipped)
    if "clusters" in document["static_resources"]:
        raise ValueError(
            "the shipped bootstrap has static clusters by now: join them with those of the status listener"
        )
    for name in kind.open:
        shipped = _once(
            rf"(\n  - name: {name}\n(?:    .*\n)*?    address: {{socket_address: {{address: )127\.0\.0\.1(?=,)",
            r"\g<1>0.0.0.0",
            shipped,
        )
    shipped = _once(r"(max_heap_size_bytes: )\d+", rf"\g<1>{kind.heap}", shipped)
    status = _STATUS.format(admin=json.dumps(document["admin"]["address"]), port=STATUS_PORT)
    return _HEAD + _once(r"(?<=\nstatic_resources:\n)  listeners:\n", status.replace("\\", "\\\\"), shipped)


def _once(pattern: str, replacement: str, text: str) -> str:
    changed, count = re.subn(pattern, replacement, text)
    if count != 1:
        raise ValueError(f"{count} places in the shipped bootstrap match {pattern!r}, not one")
    return changed


def wanted(source: Path = ROOT / "envoy") -> dict[str, bytes]:
    """Give every file that this script makes: its path under k8s/, and its bytes."""
    shipped = (source / BOOTSTRAP).read_text()
    files = {kind.target: bootstrap(shipped, kind).encode() for kind in KINDS}
    for path in sorted([*source.glob("xds/*.yaml"), *source.glob("sds/*.yaml")]):
        files[f"base/envoy/{path.relative_to(source)}"] = path.read_bytes()
    return files


def stale(folder: Path = ROOT / "k8s") -> list[str]:
    """Name what is not as it should be: files that differ, are missing, or have no source."""
    files = wanted()
    made = {str(path.relative_to(folder)) for path in folder.glob("base/envoy/*/*.yaml")}
    differ = {
        name for name, data in files.items() if not (folder / name).is_file() or (folder / name).read_bytes() != data
    }
    return sorted(differ | (made - set(files)))


def main() -> int:
    """Write the files, or with `--check` say which are stale; 1 if any is."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true")
    check: bool = parser.parse_args().check
    names = stale()
    for name in names:
        if check:
            print(f"k8s/{name} is stale: run python k8s/sync.py")
            continue
        path = ROOT / "k8s" / name
        data = wanted().get(name)
        if data is None:
            path.unlink()
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
        print(f"k8s/{name}")
    return 1 if check and names else 0


if __name__ == "__main__":
    sys.exit(main())
