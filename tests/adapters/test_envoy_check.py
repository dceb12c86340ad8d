"""What `extproc check` finds where gateway.yaml and the Envoy files disagree."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from extproc.adapters.envoy_check import GatewayFacts, cross_check
from extproc.adapters.envoy_files import ProviderFacts

SHIPPED = Path(__file__).resolve().parents[2] / "envoy"
MIB = 1 << 20
OPENAI = ProviderFacts("openai", "openai", ("api.openai.com",), "openai")
ANTHROPIC = ProviderFacts("anthropic", "anthropic", ("api.anthropic.com",), "anthropic")
IDLE = {"standard": 300.0, "long": 900.0}
GATEWAY = GatewayFacts((OPENAI, ANTHROPIC), 32 * MIB, IDLE)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A copy of the shipped Envoy files."""
    shutil.copytree(SHIPPED, tmp_path / "envoy")
    return tmp_path / "envoy"


def edit(path: Path, old: str, new: str) -> None:
    """Replace text that must be there."""
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def test_the_shipped_files_agree_with_the_defaults() -> None:
    """The files in the repository and a default gateway.yaml have nothing against each other."""
    assert cross_check(GATEWAY, SHIPPED) == []


@pytest.mark.parametrize(
    ("gateway", "path", "reason"),
    [
        (
            GatewayFacts((ProviderFacts("a", "opnai", (), "openai"),), 32 * MIB),
            "providers.a.cluster",
            "no cluster 'opnai'",
        ),
        (
            GatewayFacts((ProviderFacts("a", "none", (), "openai"),), 32 * MIB),
            "providers.a.cluster",
            "without an inner hop",
        ),
        (
            GatewayFacts((ProviderFacts("a", "openai", ("b.example",), "openai"),), 32 * MIB),
            "providers.a.hosts",
            "'redirect'",
        ),
        (
            GatewayFacts((ProviderFacts("a", "openai", ("b.example",), "openai"),), 32 * MIB),
            "providers.a.hosts",
            "CONNECT",
        ),
        (GatewayFacts((OPENAI,), 32 * MIB, {"standard": 301.0}), "timeouts.classes.standard.idle", "after 300 s"),
        (GatewayFacts((OPENAI,), 32 * MIB, {"slow": 600.0}), "timeouts.classes.slow.idle", "allows 600 s"),
        (GatewayFacts((OPENAI,), 64 * MIB, IDLE), "limits.request_body", "33554432"),
    ],
)
def test_what_gateway_yaml_wants_and_envoy_lacks(gateway: GatewayFacts, path: str, reason: str) -> None:
    """Each disagreement is found, with the place in gateway.yaml and what is wrong."""
    found = cross_check(gateway, SHIPPED)
    assert any(error.path == path and reason in error.reason for error in found), found


@pytest.mark.parametrize(
    ("file", "old", "new", "reason"),
    [
        (
            "bootstrap.yaml",
            "- name: egress_openai\n    internal",
            "- name: egress_x\n    internal",
            "no internal listener",
        ),
        ("xds/cds.yaml", "  name: openai_tls\n", "  name: openai_x\n", "no cluster 'openai_tls'"),
        ("xds/cds.yaml", "          trusted_ca: ", "          x: ", "does not check the provider's certificate"),
        ("xds/rds.yaml", "override_metadata_namespace: llm.candidates", "x: y", "does not take its provider"),
        ("sds/openai-key.yaml", "name: openai-key", "name: openai", "no resource 'openai-key'"),
        ("sds/openai-key.yaml", "{filename: secrets/openai-key}", "{inline_string: abc}", "a secret inline"),
    ],
)
def test_what_an_edit_broke(folder: Path, file: str, old: str, new: str, reason: str) -> None:
    """A slip in a file is found."""
    edit(folder / file, old, new)
    found = cross_check(GATEWAY, folder)
    assert any(reason in error.reason for error in found), found


@pytest.mark.parametrize("shape", ["sk-{}", "Bearer {}", "-----BEGIN EC PRIVATE KEY-----{}"])
def test_a_key_in_yaml_is_found_with_its_line(folder: Path, shape: str) -> None:
    """Key material in any file is reported by file and line, without showing it."""
    secret = shape.format("Ab1" * 10)
    path = folder / "xds" / "rds.yaml"
    path.write_text(f"# {secret}\n" + path.read_text())
    found = cross_check(GATEWAY, folder)
    assert [error.path for error in found] == ["xds/rds.yaml:1"]
    assert "Ab1" not in str(found[0])


def test_a_state_folder_may_hold_secrets_in_sds_only(folder: Path) -> None:
    """With `secrets_inline` a key under sds/ is right, elsewhere it still is not."""
    key = "sk-" + "x1" * 12
    edit(folder / "sds" / "openai-key.yaml", "{filename: secrets/openai-key}", f"{{inline_string: {key}}}")
    assert cross_check(GATEWAY, folder, secrets_inline=True) == []
    edit(folder / "xds" / "cds.yaml", "resources:\n", f"# {key}\nresources:\n")
    assert [e.path for e in cross_check(GATEWAY, folder, secrets_inline=True)] == ["xds/cds.yaml:4"]


def test_a_missing_file_is_one_error(folder: Path) -> None:
    """Without a file that all else rests on, that is the one thing reported."""
    (folder / "xds" / "cds.yaml").unlink()
    found = cross_check(GATEWAY, folder)
    assert len(found) == 1
    assert "cannot be read" in found[0].reason
