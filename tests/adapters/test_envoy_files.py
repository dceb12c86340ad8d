"""Reading Envoy's configuration folder and making one static bootstrap of it."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from extproc.adapters.envoy_files import flatten, http_managers, read_yaml, secret_references, walk
from extproc.errors import ConfigError

SHIPPED = Path(__file__).resolve().parents[2] / "envoy"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A copy of the shipped Envoy files."""
    shutil.copytree(SHIPPED, tmp_path / "envoy")
    return tmp_path / "envoy"


def test_flatten_leaves_nothing_to_fetch(folder: Path) -> None:
    """The flattened bootstrap has no RDS, CDS or SDS source left, and every route configuration checks its clusters."""
    flat = flatten(folder)
    assert "dynamic_resources" not in flat
    assert not [m for m in walk(flat) if "rds" in m or "sds_config" in m]
    managers = list(http_managers(flat))
    assert len(managers) == 11  # two providers by three entries, two base URLs, CONNECT, two inner hops
    assert all(manager["route_config"]["validate_clusters"] is True for manager in managers)


def test_flatten_brings_every_named_secret(folder: Path) -> None:
    """Each secret that a listener names stands once among the static secrets."""
    wanted = {name for name, _ in secret_references(read_yaml(folder / "bootstrap.yaml"))}
    secrets = [secret["name"] for secret in flatten(folder)["static_resources"]["secrets"]]
    assert wanted == {"openai-key", "anthropic-key", "intercept-openai", "intercept-anthropic", "gateway"}
    assert sorted(secrets) == sorted(wanted)


def test_flatten_names_the_missing_file(folder: Path) -> None:
    """A secret file that is not there is an error with its name."""
    (folder / "sds" / "openai-key.yaml").unlink()
    with pytest.raises(ConfigError, match=r"openai-key\.yaml.*cannot be read"):
        flatten(folder)


def test_flatten_names_the_missing_resource(folder: Path) -> None:
    """A route file that holds another route configuration than the one asked for is an error that lists what it holds."""
    path = folder / "xds" / "rds.yaml"
    path.write_text(path.read_text().replace("name: llm\n  validate", "name: lmm\n  validate"))
    with pytest.raises(ConfigError, match=r"no resource 'llm'.*it has lmm"):
        flatten(folder)


def test_broken_yaml_is_reported_with_its_line(folder: Path) -> None:
    """YAML that cannot be read is an error with file and line."""
    path = folder / "xds" / "cds.yaml"
    path.write_text("resources:\n- name: [\n")
    with pytest.raises(ConfigError, match=r"cds\.yaml:\d+: is not YAML"):
        flatten(folder)


def test_read_yaml_shares_nothing(tmp_path: Path) -> None:
    """Two places that one anchor filled can be changed apart."""
    path = tmp_path / "a.yaml"
    path.write_text("a: &x {k: 1}\nb: *x\n")
    document = read_yaml(path)
    document["a"]["k"] = 2
    assert document["b"]["k"] == 1
