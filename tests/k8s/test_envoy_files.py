"""The Envoy files in the manifests: copies of the shipped ones, changed where a pod needs it, and valid for Envoy itself."""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any

import pytest
import yaml

from extproc.adapters import pki
from extproc.adapters.envoy_binary import find_envoy, validate
from extproc.adapters.envoy_check import cross_check
from extproc.adapters.envoy_files import flatten
from extproc.adapters.first_run import certificates
from extproc.cli.facts import gateway_facts
from extproc.config import load
from k8s import checks
from k8s.manifests import K8S, OVERLAYS, ROOT, build, container

SYNC: dict[str, Any] = runpy.run_path(str(K8S / "sync.py"))
SHIPPED = (ROOT / "envoy" / "bootstrap.yaml").read_text()


def lay(name: str, folder: Path) -> Path:
    """A build's Envoy files in a folder, as the volumes lay them, with stand-ins for what Secrets hold."""
    for path, text in checks.envoy_files(build(name)).items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(text)
    (folder / "run").mkdir()
    return folder


def config_of(name: str) -> Any:
    """The loaded gateway.yaml of a build."""
    return load(yaml.safe_dump(checks.gateway_config(build(name))).encode(), "gateway.yaml", base=Path("/srv/gateway"))


def test_nothing_is_stale() -> None:
    """The copies are what sync.py makes of envoy/ today."""
    assert SYNC["stale"]() == [], "run: python k8s/sync.py"


def test_a_stale_copy_is_found(tmp_path: Path) -> None:
    """One that differs, one that is missing, and one that has no source."""
    for name, data in SYNC["wanted"]().items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(data)
    assert SYNC["stale"](tmp_path) == []

    (tmp_path / "base/envoy/xds/rds.yaml").write_text("resources: []\n")
    (tmp_path / "base/envoy/xds/cds.yaml").unlink()
    (tmp_path / "base/envoy/xds/other.yaml").write_text("resources: []\n")

    assert SYNC["stale"](tmp_path) == [f"base/envoy/xds/{name}.yaml" for name in ("cds", "other", "rds")]


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("address: 127.0.0.1, port_value: 8443", "address: 127.0.0.2, port_value: 8443"),
        ("max_heap_size_bytes", "max_heap_size"),
        ("static_resources:\n  listeners:", "static_resources:\n  clusters: []\n  listeners:"),
    ],
)
def test_a_bootstrap_of_another_shape_is_refused(old: str, new: str) -> None:
    """A change that would be lost in the copies is an error of the script."""
    assert old in SHIPPED
    with pytest.raises(ValueError, match="bootstrap"):
        SYNC["bootstrap"](SHIPPED.replace(old, new), SYNC["CENTRAL"])


@pytest.mark.parametrize("name", OVERLAYS)
def test_envoy_takes_them(name: str, tmp_path: Path) -> None:
    """`envoy --mode validate` on the flattened files, after our own comparison with gateway.yaml."""
    config = config_of(name)
    folder = lay(name, tmp_path / "envoy")
    problems = cross_check(gateway_facts(config), folder)
    pki.create_ca(tmp_path / "ca", "test")
    certificates(tmp_path, config, folder)
    for provider in config.providers:
        pki.write_sds_secret(folder / "sds" / f"{provider}-key.yaml", f"{provider}-key", "test")

    assert problems == []
    assert validate(find_envoy(), flatten(folder), folder) == []


def test_envoy_refuses_what_is_spoilt(tmp_path: Path) -> None:
    """A typing error in the status listener, which no other check of this project reads."""
    config = config_of("central")
    folder = lay("central", tmp_path / "envoy")
    bootstrap = folder / "bootstrap.yaml"
    text = bootstrap.read_text()
    assert "pass_through_mode" in text
    bootstrap.write_text(text.replace("pass_through_mode", "pass_thru_mode"))
    pki.create_ca(tmp_path / "ca", "test")
    certificates(tmp_path, config, folder)

    assert validate(find_envoy(), flatten(folder), folder)


@pytest.mark.parametrize(
    ("name", "workload", "entries"),
    [("central", "llm-gateway", {"intercept", "connect", "base_url_tls", "status"}), ("sidecar", "demo", {"status"})],
)
def test_only_what_a_pod_offers_listens_on_its_address(name: str, workload: str, entries: set[str]) -> None:
    """The admin interface and every other entry stay on loopback, and the heap limit is 80 % of the container's memory."""
    documents = build(name)
    bootstrap = yaml.safe_load(checks.envoy_files(documents)["bootstrap.yaml"])
    heap = next(m for m in bootstrap["overload_manager"]["resource_monitors"] if "fixed_heap" in m["name"])
    limit = checks.memory(container(documents, workload, "envoy")["resources"]["limits"]["memory"])

    assert {one for one, (address, _) in checks.listening(documents).items() if address != "127.0.0.1"} == entries
    assert bootstrap["admin"] == yaml.safe_load(SHIPPED)["admin"]
    assert heap["typed_config"]["max_heap_size_bytes"] == limit * 8 // 10


def test_the_status_listener_offers_two_paths() -> None:
    """/ready answers by itself; of the admin interface only GET /stats/prometheus is passed on."""
    bootstrap = yaml.safe_load(checks.envoy_files(build("central"))["bootstrap.yaml"])
    status = next(one for one in bootstrap["static_resources"]["listeners"] if one["name"] == "status")
    manager = status["filter_chains"][0]["filters"][0]["typed_config"]
    routes = manager["route_config"]["virtual_hosts"][0]["routes"]

    assert [route["match"].get("path") for route in routes if "route" in route] == ["/stats/prometheus"]
    assert routes[-1] == {"match": {"prefix": "/"}, "direct_response": {"status": 404}}
