"""From the Envoy files that people edit to a state folder: structured overrides, whole files, secrets left alone."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from extproc.adapters.envoy_files import Node, ProviderFacts, find_resource, read_resources, read_yaml, walk
from extproc.adapters.envoy_minting import MINTING
from extproc.adapters.envoy_proxy import PROXY
from extproc.adapters.envoy_render import Address, Overrides, Upstream, render
from extproc.errors import ConfigError

SHIPPED = Path(__file__).resolve().parents[2] / "envoy"
OPENAI = ProviderFacts("openai", "openai", ("api.openai.com",), "openai")
ANTHROPIC = ProviderFacts("anthropic", "anthropic", ("api.anthropic.com",), "anthropic")


def listener(state: Path, name: str) -> Node:
    """One listener of a rendered bootstrap."""
    return find_resource(read_yaml(state / "bootstrap.yaml")["static_resources"]["listeners"], name, state)


def cluster(state: Path, name: str) -> Node:
    """One rendered cluster."""
    return find_resource(read_resources(state / "xds" / "cds.yaml"), name, state)


def test_without_overrides_files_go_over_as_they_are(tmp_path: Path) -> None:
    """Nothing changed means the same bytes, comments included, and the folders that Envoy needs."""
    bootstrap = render(SHIPPED, tmp_path, Overrides())
    assert bootstrap == tmp_path / "bootstrap.yaml"
    names = sorted(
        str(path.relative_to(SHIPPED)) for path in SHIPPED.rglob("*.yaml") if path.name not in {MINTING, PROXY}
    )
    assert len(names) == 10
    assert not any((tmp_path / name).exists() for name in (MINTING, PROXY))  # templates, no files of Envoy's
    for name in names:
        assert (tmp_path / name).read_bytes() == (SHIPPED / name).read_bytes()
    assert (tmp_path / "run").is_dir()
    assert (tmp_path / "pki").is_dir()


def test_the_shipped_providers_change_no_name(tmp_path: Path) -> None:
    """The two providers of the files, given as facts, keep every name that they have in the files."""
    render(SHIPPED, tmp_path, Overrides(providers=(OPENAI, ANTHROPIC)))
    for name in ("bootstrap.yaml", "xds/cds.yaml"):
        shipped = sorted(m["name"] for m in walk(read_yaml(SHIPPED / name)) if "name" in m)
        assert sorted(m["name"] for m in walk(read_yaml(tmp_path / name)) if "name" in m) == shipped


def test_addresses_sockets_and_log(tmp_path: Path) -> None:
    """Listener and admin addresses, the number of worker sockets and the access log follow the overrides."""
    listeners = {"intercept": Address("0.0.0.0", 443), "admin": Address("127.0.0.1", 19901)}
    render(SHIPPED, tmp_path, Overrides(listeners=listeners, workers=3, access_log="run/access.log"))
    assert listener(tmp_path, "intercept")["address"] == {"socket_address": {"address": "0.0.0.0", "port_value": 443}}
    bootstrap = read_yaml(tmp_path / "bootstrap.yaml")
    assert bootstrap["admin"]["address"]["socket_address"]["port_value"] == 19901
    pipes = [m["pipe"]["path"] for m in walk(cluster(tmp_path, "extproc")) if "pipe" in m]
    assert pipes == ["run/worker-0.sock", "run/worker-1.sock", "run/worker-2.sock"]
    logs = {m["path"] for m in walk(bootstrap) if str(m.get("@type", "")).endswith(".FileAccessLog")}
    assert logs == {"run/access.log"}


def test_a_second_address(tmp_path: Path) -> None:
    """`also` adds an address, and leaves the first one as it is."""
    render(SHIPPED, tmp_path, Overrides(also={"trap": Address("::1", 15443)}))
    trap = listener(tmp_path, "trap")
    assert trap["address"] == {"socket_address": {"address": "127.0.0.1", "port_value": 15443}}
    second = {"address": {"socket_address": {"address": "::1", "port_value": 15443}}}
    assert trap["additional_addresses"] == [second]


def test_an_unknown_listener_is_refused(tmp_path: Path) -> None:
    """An override for a listener that is not there is an error, and nothing is written."""
    unknown = {"interceptt": Address("127.0.0.1", 1)}
    for overrides in (Overrides(listeners=unknown), Overrides(also=unknown)):
        with pytest.raises(ConfigError, match=r"listeners\.interceptt: is no listener"):
            render(SHIPPED, tmp_path / "state", overrides)
    assert not (tmp_path / "state").exists()


def test_a_provider_elsewhere(tmp_path: Path) -> None:
    """Address, CA and server name of a provider change its TLS cluster and its Host header, and no other provider's."""
    upstream = Upstream(Address("127.0.0.1", 9443), tmp_path / "ca.pem", "llm.example")
    render(SHIPPED, tmp_path, Overrides(upstreams={"openai": upstream}))
    target = cluster(tmp_path, "openai_tls")
    endpoint = target["load_assignment"]["endpoints"][0]["lb_endpoints"][0]["endpoint"]
    assert endpoint["address"]["socket_address"] == {"address": "127.0.0.1", "port_value": 9443}
    tls = target["transport_socket"]["typed_config"]
    assert tls["sni"] == "llm.example"
    validation = tls["common_tls_context"]["validation_context"]
    assert validation["trusted_ca"] == {"filename": str(tmp_path / "ca.pem")}
    assert validation["match_typed_subject_alt_names"] == [{"san_type": "DNS", "matcher": {"exact": "llm.example"}}]
    routes = read_yaml(tmp_path / "xds" / "egress_openai.yaml")
    assert [m["host_rewrite_literal"] for m in walk(routes) if "host_rewrite_literal" in m] == ["llm.example"]
    shipped = find_resource(read_resources(SHIPPED / "xds" / "cds.yaml"), "anthropic_tls", SHIPPED)
    assert cluster(tmp_path, "anthropic_tls") == shipped


def test_a_provider_that_the_files_lack(tmp_path: Path) -> None:
    """A further provider gets chains, CONNECT host, inner hop, clusters, route and secret files of its own."""
    other = ProviderFacts("other", "other", ("api.other.example",), "anthropic")
    render(SHIPPED, tmp_path, Overrides(providers=(OPENAI, other)))
    for name, entry in (("intercept", "intercept"), ("redirect", "redirect"), ("intercept_internal", "connect")):
        chains = {c["name"]: c for c in listener(tmp_path, name)["filter_chains"]}
        assert set(chains) == {f"{entry}.openai", f"{entry}.other"}
        assert chains[f"{entry}.other"]["filter_chain_match"]["server_names"] == ["api.other.example"]
        assert "sds/intercept-other.yaml" in str(chains[f"{entry}.other"]["transport_socket"])
    domains = next(m["domains"] for m in walk(listener(tmp_path, "connect")) if m.get("name") == "providers")
    assert domains == ["api.openai.com:443", "api.other.example:443"]
    hop = listener(tmp_path, "egress_other")
    assert [m["header"] for m in walk(hop) if str(m.get("@type", "")).endswith(".generic.v3.Generic")] == ["x-api-key"]
    assert cluster(tmp_path, "other_tls")["transport_socket"]["typed_config"]["sni"] == "api.other.example"
    assert (tmp_path / "xds" / "egress_other.yaml").exists()
    assert [r["name"] for r in read_resources(tmp_path / "sds" / "other-key.yaml")] == ["other-key"]


def test_a_provider_that_is_not_wanted_is_gone(tmp_path: Path) -> None:
    """With one provider, nothing of the other is left: its missing key or certificate cannot stop Envoy."""
    render(SHIPPED, tmp_path, Overrides(providers=(OPENAI,)))
    rendered = [tmp_path / "bootstrap.yaml", tmp_path / "xds" / "cds.yaml"]
    names = {str(m["name"]) for path in rendered for m in walk(read_yaml(path)) if "name" in m}
    assert not {name for name in names if "anthropic" in name}
    assert not list(tmp_path.rglob("*anthropic*"))


def test_a_name_that_two_providers_claim_has_one_chain(tmp_path: Path) -> None:
    """A host of two providers leads to the first: Envoy refuses two chains for one name."""
    second = ProviderFacts("openai_b", "openai_b", ("api.openai.com",), "openai")
    render(SHIPPED, tmp_path, Overrides(providers=(OPENAI, second)))
    assert [c["name"] for c in listener(tmp_path, "intercept")["filter_chains"]] == ["intercept.openai"]
    assert cluster(tmp_path, "openai_b_tls")["name"] == "openai_b_tls"


def test_no_pattern_is_an_error(tmp_path: Path) -> None:
    """A provider whose wire format the files have no pattern for is refused with the patterns there are."""
    other = ProviderFacts("x", "x", ("x.example",), "gemini")
    with pytest.raises(ConfigError, match=r"providers\.x: .*no pattern for api 'gemini'.*openai, anthropic"):
        render(SHIPPED, tmp_path, Overrides(providers=(other,)))


def test_secrets_are_left_alone(tmp_path: Path) -> None:
    """A secret that somebody wrote into the state folder survives every later rendering."""
    render(SHIPPED, tmp_path, Overrides())
    secret = tmp_path / "sds" / "openai-key.yaml"
    secret.write_text("resources: []\n")
    render(SHIPPED, tmp_path, Overrides(workers=1))
    assert secret.read_text() == "resources: []\n"


def test_an_unchanged_file_is_not_touched(tmp_path: Path) -> None:
    """Rendering the same again renames nothing, so Envoy sees no change."""
    overrides = Overrides(workers=4, providers=(OPENAI,), request_body=1)
    render(SHIPPED, tmp_path, overrides)
    before = {path: path.stat().st_ino for path in tmp_path.rglob("*.yaml")}
    render(SHIPPED, tmp_path, overrides)
    assert {path: path.stat().st_ino for path in tmp_path.rglob("*.yaml")} == before


@settings(max_examples=15, deadline=None)
@given(
    idle=st.dictionaries(
        st.from_regex(r"[a-z][a-z0-9_]{0,8}", fullmatch=True), st.integers(1, 9999), min_size=1, max_size=5
    ),
    limit=st.integers(1024, 1 << 30),
)
def test_each_class_has_one_route(tmp_path_factory: pytest.TempPathFactory, idle: dict[str, int], limit: int) -> None:
    """However the classes are named: a route for each with its idle time, the first for calls without a class, last."""
    state = tmp_path_factory.mktemp("state")
    render(SHIPPED, state, Overrides(idle=idle, request_body=limit))
    host = read_resources(state / "xds" / "rds.yaml")[0]["virtual_hosts"][0]
    assert host["request_body_buffer_limit"] == limit
    assert {r["name"]: r["route"]["idle_timeout"] for r in host["routes"]} == {n: f"{s}s" for n, s in idle.items()}
    assert host["routes"][-1]["name"] == next(iter(idle))
    assert "headers" not in host["routes"][-1]["match"]
    assert all(r["match"]["headers"][0]["string_match"] == {"exact": r["name"]} for r in host["routes"][:-1])
