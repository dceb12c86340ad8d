"""The rendered alternative: one chain for all hosts in each intercepting listener, certificates from the minter."""

from __future__ import annotations

from pathlib import Path

import pytest

from extproc.adapters.envoy_check import GatewayFacts, cross_check
from extproc.adapters.envoy_files import ProviderFacts, listeners, read_resources, read_yaml, walk
from extproc.adapters.envoy_minting import MINTING, mints
from extproc.adapters.envoy_render import Overrides, render
from extproc.errors import ConfigError

SHIPPED = Path(__file__).resolve().parents[2] / "envoy"
HOSTS = ("api.openai.com", "api.anthropic.com")
PROVIDERS = (
    ProviderFacts("openai", "openai", ("api.openai.com",), "openai"),
    ProviderFacts("anthropic", "anthropic", ("api.anthropic.com",), "anthropic"),
)


def test_each_listener_has_one_chain_for_all_names(tmp_path: Path) -> None:
    """With the filters of those that it replaces; the chain for what is no TLS, the other listeners and routes stay."""
    render(SHIPPED, tmp_path / "files", Overrides(providers=PROVIDERS))
    render(SHIPPED, tmp_path / "minted", Overrides(providers=PROVIDERS, minted=HOSTS))
    files = {item["name"]: item for item in listeners(read_yaml(tmp_path / "files" / "bootstrap.yaml"))}
    minted = {item["name"]: item for item in listeners(read_yaml(tmp_path / "minted" / "bootstrap.yaml"))}
    changed = {name for name in files if files[name] != minted[name]}
    assert list(files) == list(minted)
    assert {"intercept", "redirect", "intercept_internal"} <= changed
    for name in changed:
        before, after = files[name], minted[name]
        chains = [chain for chain in after["filter_chains"] if mints(chain)]
        assert [chain["filter_chain_match"] for chain in chains] == [{"transport_protocol": "tls"}]
        named = [chain for chain in before["filter_chains"] if chain.get("filter_chain_match", {}).get("server_names")]
        assert chains[0]["filters"] == named[0]["filters"]
        assert after.get("default_filter_chain") == before.get("default_filter_chain")
        prefetch = [m["prefetch_secret_names"] for m in walk(chains[0]) if "prefetch_secret_names" in m]
        assert prefetch == [list(HOSTS)]
    clusters = [item["name"] for item in read_resources(tmp_path / "minted" / "xds" / "cds.yaml")]
    assert clusters.count("minting") == 1
    assert "minting" not in [item["name"] for item in read_resources(tmp_path / "files" / "xds" / "cds.yaml")]
    assert not list((tmp_path / "minted" / "sds").glob("intercept-*"))
    assert not (tmp_path / "minted" / MINTING).exists()


def test_names_are_served_and_a_listener_without_a_certificate_is_seen(tmp_path: Path) -> None:
    """`check` takes the rendered files; without the selector the hosts have no certificate, and it says so."""
    facts = GatewayFacts(PROVIDERS, 32 << 20)
    render(SHIPPED, tmp_path, Overrides(providers=PROVIDERS, minted=HOSTS))
    assert [str(error) for error in cross_check(facts, tmp_path)] == []
    text = (tmp_path / "bootstrap.yaml").read_text()
    assert "custom_tls_certificate_selector" in text
    (tmp_path / "bootstrap.yaml").write_text(text.replace("custom_tls_certificate_selector", "another_thing"))
    assert any("no filter chain for 'api.openai.com'" in str(error) for error in cross_check(facts, tmp_path))


def test_files_of_an_earlier_run_go(tmp_path: Path) -> None:
    """A leaf's key that nobody renews does not stay; other secrets do."""
    sds = tmp_path / "sds"
    sds.mkdir()
    for name in ("intercept-openai.yaml", "openai-key.yaml"):
        (sds / name).write_text("resources: []\n")
    render(SHIPPED, tmp_path, Overrides(providers=PROVIDERS, minted=HOSTS))
    assert not (sds / "intercept-openai.yaml").exists()
    assert (sds / "openai-key.yaml").read_text() == "resources: []\n"


def test_without_the_template_the_error_says_so(tmp_path: Path) -> None:
    """Somebody's own Envoy files may lack it."""
    for path in SHIPPED.rglob("*.yaml"):
        if path.name != MINTING:
            target = tmp_path / "own" / path.relative_to(SHIPPED)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(path.read_bytes())
    with pytest.raises(ConfigError, match=r"minting\.yaml"):
        render(tmp_path / "own", tmp_path / "state", Overrides(minted=HOSTS))
