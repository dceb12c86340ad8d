"""The shipped Envoy files: accepted by Envoy itself, and holding to the rules that Envoy does not know."""

from __future__ import annotations

from pathlib import Path

import pytest

from extproc.adapters.envoy_binary import envoy_version, find_envoy, validate
from extproc.adapters.envoy_files import (
    Node,
    ProviderFacts,
    flatten,
    http_managers,
    listeners,
    read_resources,
    read_yaml,
    walk,
)
from extproc.adapters.envoy_render import Address, Overrides, Upstream, render
from extproc.adapters.pki import create_ca, write_sds_certificate, write_sds_secret
from extproc.errors import ConfigError

SHIPPED = Path(__file__).resolve().parents[2] / "envoy"


@pytest.fixture(scope="module")
def envoy() -> Path:
    """The Envoy binary of this checkout."""
    try:
        path = find_envoy()
    except ConfigError as error:
        pytest.skip(str(error))
    assert envoy_version(path) >= (1, 40, 0)
    return path


def prepare(state: Path, overrides: Overrides) -> None:
    """Render a state folder and give it the certificates and keys that its listeners name."""
    render(SHIPPED, state, overrides)
    authority = create_ca(state / "ca", "test CA")
    for path in (state / "sds").glob("*.yaml"):
        name = path.stem
        if name.endswith("-key"):
            write_sds_secret(path, name, "k" * 8)
        else:
            write_sds_certificate(path, name, authority.issue(["gateway.example"]))


@pytest.fixture
def state(tmp_path: Path) -> Path:
    """A state folder with the shipped files, its CA as the providers' CA."""
    ca = tmp_path / "ca" / "ca.pem"
    upstreams = {name: Upstream(Address("127.0.0.1", 9443), ca) for name in ("openai", "anthropic")}
    prepare(tmp_path, Overrides(access_log="run/access.log", upstreams=upstreams))
    return tmp_path


def test_envoy_accepts_the_shipped_files(envoy: Path, state: Path) -> None:
    """Envoy's own validation of everything, routes, clusters and secrets included, finds nothing."""
    assert validate(envoy, flatten(state), state) == []


def test_envoy_accepts_a_further_provider(envoy: Path, tmp_path: Path) -> None:
    """So it does where a provider was made after the pattern of another, with other classes and workers."""
    providers = (
        ProviderFacts("openai", "openai", ("api.openai.com", "eu.api.openai.com"), "openai"),
        ProviderFacts("openai_b", "openai_b", ("api.openai.com",), "openai"),
        ProviderFacts("other", "other", ("api.other.example",), "anthropic"),
    )
    ca = Upstream(ca=tmp_path / "ca" / "ca.pem")
    overrides = Overrides(
        providers=providers,
        upstreams={p.name: ca for p in providers},
        workers=3,
        idle={"a": 1.5, "b": 60},
        access_log="run/a",
    )
    prepare(tmp_path, overrides)
    assert validate(envoy, flatten(tmp_path), tmp_path) == []


@pytest.mark.parametrize(
    ("file", "old", "new", "reason"),
    [
        ("xds/cds.yaml", "connect_timeout:", "conect_timeout:", "conect_timeout"),
        ("xds/rds.yaml", "cluster_name: none", "cluster_name: ''", "ClusterName"),
        ("xds/egress_openai.yaml", "cluster: openai_tls", "cluster: openai_x", "unknown cluster 'openai_x'"),
        ("sds/gateway.yaml", "private_key", "x_private_key", "x_private_key"),
        ("bootstrap.yaml", "server_listener_name", "server_listener_name", ""),
    ],
)
def test_envoy_finds_slips_in_live_files(envoy: Path, state: Path, file: str, old: str, new: str, reason: str) -> None:
    """A slip in a file that Envoy's validation skips by itself is found in the flattened copy; no slip, no finding."""
    path = state / file
    path.write_text(path.read_text().replace(old, new))
    found = validate(envoy, flatten(state), state)
    assert [reason in error.reason for error in found] == ([True] if reason else [])


def bootstrap() -> Node:
    """The shipped bootstrap."""
    return read_yaml(SHIPPED / "bootstrap.yaml")


def policy_stages() -> list[Node]:
    """Every outer ext_proc filter."""
    return [m["typed_config"] for m in walk(bootstrap()) if m.get("name") == "llm.policy"]


def test_the_policy_stage_fails_closed_everywhere() -> None:
    """Every entry has the policy stage, as the same filter, and a failing one is 503, never a way past it."""
    stages = policy_stages()
    assert len(stages) == 8  # three entries by two providers, two base URLs
    assert all(stage == stages[0] for stage in stages)
    assert stages[0]["failure_mode_allow"] is False
    assert stages[0]["status_on_error"] == {"code": "ServiceUnavailable"}
    assert stages[0]["processing_mode"]["request_body_mode"] == "BUFFERED"
    assert stages[0]["processing_mode"]["response_body_mode"] == "NONE"


def test_no_route_reaches_a_provider_by_itself() -> None:
    """Each route's own provider group is the empty cluster: without a chain from the policy stage nothing is sent."""
    groups = [m["priority_groups"] for m in walk(read_yaml(SHIPPED / "xds" / "rds.yaml")) if "priority_groups" in m]
    assert len(groups) == 2
    assert all([c["cluster_name"] for g in group for c in g["clusters"]] == ["none"] for group in groups)
    empty = next(c for c in read_resources(SHIPPED / "xds" / "cds.yaml") if c["name"] == "none")
    assert empty["load_assignment"] == {"cluster_name": "none"}


def test_each_inner_hop_cleans_before_it_injects() -> None:
    """On every inner hop the cleaning filter stands before the credential, and takes every header that must not leave."""
    hops = [m for m in http_managers(bootstrap()) if str(m["stat_prefix"]).startswith("egress_")]
    assert len(hops) == 2
    for hop in hops:
        names = [f["name"] for f in hop["http_filters"]]
        assert names.index("llm.clean") < names.index("llm.credential") < names.index("envoy.filters.http.router")
        clean = hop["http_filters"][names.index("llm.clean")]["typed_config"]["mutations"]["request_mutations"]
        exact = {m["remove"] for m in clean if "remove" in m}
        prefixes = {m["remove_on_match"]["key_matcher"]["prefix"] for m in clean if "remove_on_match" in m}
        assert exact >= {
            "authorization",
            "x-api-key",
            "api-key",
            "x-goog-api-key",
            "cookie",
            "x-request-id",
            "traceparent",
        }
        assert prefixes >= {"x-llm", "x-envoy-", "x-forwarded-", "proxy-"}
        credential = hop["http_filters"][names.index("llm.credential")]["typed_config"]
        assert credential["overwrite"] is True
        assert credential["allow_request_without_credential"] is False


def test_every_provider_connection_is_verified() -> None:
    """Each TLS cluster names the roots, the host in SNI and the same host in the certificate, TLS 1.2 at least."""
    clusters = [c for c in read_resources(SHIPPED / "xds" / "cds.yaml") if c["name"].endswith("_tls")]
    assert len(clusters) == 2
    for cluster in clusters:
        tls = cluster["transport_socket"]["typed_config"]
        context = tls["common_tls_context"]
        assert context["validation_context"]["trusted_ca"]["filename"]
        assert context["validation_context"]["match_typed_subject_alt_names"][0]["matcher"] == {"exact": tls["sni"]}
        assert context["tls_params"]["tls_minimum_protocol_version"] == "TLSv1_2"


def test_statistics_are_bounded_and_take_their_tags_from_the_policy_stage() -> None:
    """Every scope has a cap, none is shared by name (Envoy 1.40 crashes on that), and no tag holds what a caller sent."""
    scopes = [m["stats_scope"] for m in walk(bootstrap()) if "stats_scope" in m]
    assert len(scopes) >= 8
    for scope in scopes:
        assert "sharing_name" not in scope
        assert any(key in scope for key in ("max_counters", "max_gauges", "max_histograms"))
    trap = [
        c for c in listeners(bootstrap()) if c["name"] == "trap"
    ]  # it counts what strangers sent, under a cap of its own
    strangers = {t["value_format"] for m in walk(trap) if "stat" in m for t in m["stat"]["tags"]}
    others = [c for c in listeners(bootstrap()) if c["name"] != "trap"]
    formats = {t["value_format"] for m in walk(others) if "stat" in m for t in m["stat"]["tags"]}
    assert len(strangers) == 3
    assert all(m["stats_scope"]["max_counters"] <= 500 for m in walk(trap) if "stats_scope" in m)
    allowed = ("%DYNAMIC_METADATA(llm:", "%FILTER_CHAIN_NAME%")
    assert all(f.startswith(allowed) or f.isidentifier() for f in formats), formats
