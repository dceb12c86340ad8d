"""The manifests: each build is made by the real kustomize, fits the schemas, and has what checks.py asks for."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml

from extproc.config import load
from k8s import checks
from k8s.manifests import (
    BUILDS,
    K8S,
    OVERLAYS,
    ROOT,
    Document,
    build,
    container,
    find,
    kustomize_with,
    validate,
    workloads,
)

Check = Callable[[list[Document]], Iterator[str]]
POD_CHECKS: tuple[Check, ...] = (checks.pod_problems,)
# what holds for whole overlays; a component alone has not all the parts
WHOLE: tuple[Check, ...] = (
    checks.reference_problems, checks.selector_problems, checks.drain_problems, checks.port_problems, checks.mount_problems,
)  # fmt: skip
COMPLETE = (*OVERLAYS, "cilium", "coredns", "cert-manager", "leaves", "monitoring", "verify", "everything")


@pytest.mark.parametrize("name", BUILDS)
def test_every_build_fits_the_schemas(name: str) -> None:
    """Core kinds by the API's own schemas, strict; custom resources by ours; none without."""
    documents = build(name)

    assert documents
    assert validate(documents) == []


SCHEMA_SABOTAGES: list[tuple[str, str, Callable[[Document], None]]] = [
    ("central", "NetworkPolicy", lambda d: d["spec"].update(podSelectr={})),
    ("central", "Deployment", lambda d: d["spec"]["template"]["spec"].update(dnsPolicy=["None"])),
    ("central", "HorizontalPodAutoscaler", lambda d: d["spec"].pop("maxReplicas")),
    ("central", "PodDisruptionBudget", lambda d: d.update(apiVersion="policy/v9")),
    ("cilium", "CiliumNetworkPolicy", lambda d: d["spec"]["egress"][0].update(toFQDNS=[])),
    ("cilium", "CiliumClusterwideNetworkPolicy", lambda d: d["spec"].pop("endpointSelector")),
    ("cert-manager", "Certificate", lambda d: d["spec"].update(duration="a week")),
    ("cert-manager", "Issuer", lambda d: d["spec"].update(selfSigned={})),
    ("cert-manager", "Bundle", lambda d: d["spec"]["target"].update(configMap="bundle.pem")),
    ("monitoring", "ServiceMonitor", lambda d: d["spec"]["endpoints"][0].update(interval="15")),
    ("monitoring", "PodMonitor", lambda d: d["spec"].update(endpoints=d["spec"].pop("podMetricsEndpoints"))),
    ("monitoring", "PrometheusRule", lambda d: d["spec"]["groups"][0]["rules"][0].pop("expr")),
    ("monitoring", "PrometheusRule", lambda d: d.update(kind="PrometheusRules")),
]


@pytest.mark.parametrize(
    ("name", "kind", "spoil"), SCHEMA_SABOTAGES, ids=[f"{r[1]}{n}" for n, r in enumerate(SCHEMA_SABOTAGES)]
)
def test_what_does_not_fit_is_found(name: str, kind: str, spoil: Callable[[Document], None]) -> None:
    """A wrong or misspelt field in a document of each kind."""
    document = next(d for d in build(name) if d["kind"] == kind)
    assert validate([document]) == []

    spoil(document)

    assert len(validate([document])) == 1


@pytest.mark.parametrize("name", [n for n in BUILDS if n != "proxy-env"])
def test_pods_are_locked_down(name: str) -> None:
    """Every pod and container of every build."""
    documents = build(name)

    assert list(workloads(documents))
    problems = list(checks.pod_problems(documents))
    if name == "redirect-init":  # a component alone: which image it is, the overlay says
        problems = [problem for problem in problems if not problem.endswith("image without a version")]
    assert problems == []


@pytest.mark.parametrize("check", WHOLE, ids=lambda check: check.__name__)
@pytest.mark.parametrize("name", COMPLETE)
def test_the_parts_fit_together(name: str, check: Check) -> None:
    """References, ports, drain times and who sees which secret."""
    assert list(check(build(name))) == []


def pod(documents: list[Document]) -> Document:
    """The pod spec of the gateway."""
    spec: Document = find(documents, "Deployment", "llm-gateway")["spec"]["template"]["spec"]
    return spec


def envoy(documents: list[Document]) -> Document:
    """The Envoy container of the gateway."""
    return container(documents, "llm-gateway", "envoy")


def extproc(documents: list[Document]) -> Document:
    """The extproc container of the gateway."""
    return container(documents, "llm-gateway", "extproc")


def without_kind(kind: str, name: str) -> Callable[[list[Document]], None]:
    """Take one document away."""
    return lambda documents: documents.remove(find(documents, kind, name))


def reword_config(old: str, new: str) -> Callable[[list[Document]], None]:
    """Change gateway.yaml's text."""

    def change(documents: list[Document]) -> None:
        data = find(documents, "ConfigMap", "llm-gateway-config")["data"]
        assert old in data["gateway.yaml"]
        data["gateway.yaml"] = data["gateway.yaml"].replace(old, new)

    return change


def reword_bootstrap(old: str, new: str) -> Callable[[list[Document]], None]:
    """Change bootstrap.yaml's text."""

    def change(documents: list[Document]) -> None:
        data = find(documents, "ConfigMap", "llm-envoy-bootstrap")["data"]
        assert old in data["bootstrap.yaml"]
        data["bootstrap.yaml"] = data["bootstrap.yaml"].replace(old, new)

    return change


SABOTAGES: list[tuple[Check, Callable[[list[Document]], object], str]] = [
    (checks.pod_problems, lambda d: envoy(d)["securityContext"].update(privileged=True), "privileged is not False"),
    (checks.pod_problems, lambda d: envoy(d)["securityContext"].update(readOnlyRootFilesystem=False), "readOnlyRoot"),
    (checks.pod_problems, lambda d: envoy(d)["securityContext"].update(allowPrivilegeEscalation=True), "allowPriv"),
    (checks.pod_problems, lambda d: envoy(d)["securityContext"].pop("seccompProfile"), "envoy: no seccomp profile"),
    (checks.pod_problems, lambda d: pod(d)["securityContext"].pop("seccompProfile"), "llm-gateway: no seccomp profile"),
    (checks.pod_problems, lambda d: envoy(d)["securityContext"].update(runAsUser=0), "may be root"),
    (checks.pod_problems, lambda d: envoy(d)["securityContext"].pop("capabilities"), "capabilities are kept"),
    (checks.pod_problems, lambda d: envoy(d)["securityContext"]["capabilities"].update(add=["NET_ADMIN"]), "are added"),
    (checks.pod_problems, lambda d: extproc(d)["resources"].pop("limits"), "resources.limits"),
    (checks.pod_problems, lambda d: extproc(d)["resources"]["requests"].pop("memory"), "resources.requests"),
    (checks.pod_problems, lambda d: pod(d).update(hostNetwork=True), "hostNetwork"),
    (checks.pod_problems, lambda d: pod(d).pop("automountServiceAccountToken"), "token"),
    (checks.pod_problems, lambda d: pod(d)["volumes"].append({"name": "x", "hostPath": {"path": "/"}}), "of the node"),
    (checks.pod_problems, lambda d: pod(d)["volumes"].append({"name": "x", "emptyDir": {}}), "without sizeLimit"),
    (checks.pod_problems, lambda d: pod(d)["volumes"].append({"name": "x", "secret": {"defaultMode": 0o644}}), "mode"),
    (checks.pod_problems, lambda d: envoy(d)["volumeMounts"][0].update(subPath="a"), "subPath"),
    (checks.pod_problems, lambda d: extproc(d)["env"].append({"name": "API_KEY", "value": "x"}), "written out"),
    (checks.pod_problems, lambda d: envoy(d).update(image="envoy"), "without a version"),
    (checks.reference_problems, without_kind("ConfigMap", "llm-envoy-xds"), "no ConfigMap llm-envoy-xds"),
    (checks.reference_problems, without_kind("ServiceAccount", "llm-gateway"), "no ServiceAccount"),
    (checks.reference_problems, lambda d: pod(d)["volumes"][-2]["secret"].update(secretName="other"), "no Secret other"),
    (checks.reference_problems, lambda d: pod(d)["volumes"].pop(), "no volume certificates"),
    (checks.reference_problems, lambda d: envoy(d)["readinessProbe"]["httpGet"].update(port="ready"), "readinessProbe"),
    (checks.reference_problems, lambda d: find(d, "Service", "llm-gateway")["spec"]["ports"][0].update(targetPort="x"), "no port x"),
    (checks.reference_problems, lambda d: find(d, "Service", "llm-gateway")["spec"].update(selector={"app": "x"}), "selects no pod"),
    (checks.selector_problems, lambda d: find(d, "PodDisruptionBudget", "llm-gateway")["spec"]["selector"]["matchLabels"].update(x="y"), "no pod"),
    (checks.selector_problems, lambda d: find(d, "HorizontalPodAutoscaler", "llm-gateway")["spec"]["scaleTargetRef"].update(name="x"), "no Deployment x"),
    (checks.selector_problems, lambda d: find(d, "Service", "llm-gateway-metrics")["spec"]["ports"].pop(), "no port status"),
    (checks.drain_problems, lambda d: pod(d).update(terminationGracePeriodSeconds=3600), "the kubelet kills"),
    (checks.drain_problems, reword_config("total: 3600s", "total: 7200s"), "workers.drain"),
    (checks.drain_problems, lambda d: envoy(d)["lifecycle"]["preStop"]["exec"]["command"].__setitem__(-1, "60"), "preStop"),
    (checks.drain_problems, lambda d: envoy(d)["args"].__setitem__(7, "600"), "drain time"),
    (checks.port_problems, reword_bootstrap("port_value: 9902", "port_value: 9903"), "listens at"),
    (checks.port_problems, reword_bootstrap("address: 127.0.0.1, port_value: 8080", "address: 0.0.0.0, port_value: 8080"), "listens at"),
    (checks.port_problems, reword_config("0.0.0.0:9464", "0.0.0.0:9465"), "listens at [9465]"),
    (checks.port_problems, lambda d: find(d, "NetworkPolicy", "llm-gateway-ingress")["spec"]["ingress"][0]["ports"][0].update(port=443), "nobody listens"),
    (checks.mount_problems, lambda d: extproc(d)["volumeMounts"].append({"name": "vendor-keys", "mountPath": "/k"}), "provider keys"),
    (checks.mount_problems, lambda d: envoy(d)["volumeMounts"].append({"name": "gateway-keys", "mountPath": "/k"}), "key table"),
    (checks.mount_problems, reword_config("secrets/pepper", "pepper"), "is in no volume"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("check", "spoil", "told"), SABOTAGES, ids=[f"{row[0].__name__}-{row[2]}" for row in SABOTAGES]
)
def test_what_is_missing_is_found(check: Check, spoil: Callable[[list[Document]], object], told: str) -> None:
    """Each check says so when its part is taken away."""
    documents = build("monitoring")
    assert list(check(documents)) == []

    spoil(documents)

    assert any(told in problem for problem in check(documents)), list(check(documents))


def test_an_app_container_that_sees_the_sockets_is_found() -> None:
    """The sidecar's app shares the pod, not the policy stage's folder."""
    documents = build("sidecar")
    container(documents, "demo", "app")["volumeMounts"].append({"name": "run", "mountPath": "/run"})

    assert any("sockets" in problem for problem in checks.mount_problems(documents))


def test_sidecars_are_scraped() -> None:
    """The PodMonitor's label and ports are the sidecar pods', and the policy lets Prometheus in; a missing port is found."""
    monitor, documents = find(build("monitoring"), "PodMonitor", "llm-sidecar"), build("sidecar")
    assert list(checks.pod_monitor_problems(monitor, documents)) == []

    container(documents, "demo", "envoy").pop("ports")

    assert list(checks.pod_monitor_problems(monitor, documents)) == ["PodMonitor llm-sidecar: no port status"]


def test_the_sidecars_come_up_and_go_down_in_order() -> None:
    """The redirect first, then the policy stage, then Envoy, then the app; only what runs on is a sidecar container."""
    spec = find(build("sidecar"), "Deployment", "demo")["spec"]["template"]["spec"]
    policies = {one["name"]: one.get("restartPolicy") for one in spec["initContainers"]}

    assert policies == {"redirect": None, "extproc": "Always", "envoy": "Always"}
    assert list(policies) == ["redirect", "extproc", "envoy"]


def test_an_app_keeps_what_is_its_own_beside_the_sidecars() -> None:
    """Its account is not the gateway's, and its own init containers run behind Envoy: what a migration calls is governed."""
    app = yaml.safe_load((K8S / "overlays/sidecar/app.yaml").read_text())
    pod_spec = app["spec"]["template"]["spec"]
    pod_spec["serviceAccountName"] = "shop"
    pod_spec["initContainers"] = [{**pod_spec["containers"][0], "name": "migrate"}]
    made = kustomize_with(yaml.safe_dump(app), ("sidecar", "redirect-init"))
    spec = find(made, "Deployment", "demo")["spec"]["template"]["spec"]

    assert spec["serviceAccountName"] == "shop"
    assert [one["name"] for one in spec["initContainers"]] == ["redirect", "extproc", "envoy", "migrate"]
    assert spec["securityContext"]["fsGroup"] == 2000


def test_the_sidecar_is_the_central_gateway_but_smaller() -> None:
    """Both overlays say the same of Envoy and extproc, but for size, ports and the wait for endpoints."""
    central, sidecar = build("central"), build("sidecar")
    for name in ("envoy", "extproc"):
        one, other = container(central, "llm-gateway", name), container(sidecar, "demo", name)
        for part in (one, other):
            for field in ("resources", "ports", "lifecycle", "restartPolicy"):
                part.pop(field, None)
        assert one == other


def test_streams_outlive_a_node_that_is_drained() -> None:
    """3600 s for the longest class and 120 s more, stated in the manifest."""
    assert pod(build("central"))["terminationGracePeriodSeconds"] == 3720


def test_envoy_asks_no_resolver_that_leads_back_to_it() -> None:
    """Own resolvers in the pod that CoreDNS's rewrite must not reach, and they are those that the policy lets through."""
    spec = pod(build("coredns"))
    (server,) = spec["dnsConfig"]["nameservers"]
    policy = find(build("coredns"), "NetworkPolicy", "llm-gateway-egress")["spec"]["egress"][0]

    assert spec["dnsPolicy"] == "None"
    assert policy["to"] == [{"ipBlock": {"cidr": f"{server}/32"}}]


def test_what_envoy_and_extproc_watch_keeps_its_name() -> None:
    """A hash in the name would start new pods for each change; the bootstrap, which is static, has one."""
    names = {d["metadata"]["name"] for d in build("central") if d["kind"] == "ConfigMap"}

    assert {"llm-envoy-xds", "llm-envoy-sds", "llm-gateway-config"} <= names
    assert [n for n in names if re.fullmatch(r"llm-envoy-bootstrap-\w{10}", n)]


@pytest.mark.parametrize("name", OVERLAYS)
def test_the_scaler_counts_open_streams_and_cpu(name: str) -> None:
    """By a metric that Envoy has and the adapter's rule offers; the overlay for development has one pod."""
    found = [d for d in build(name) if d["kind"] == "HorizontalPodAutoscaler"]
    if name != "central":
        assert found == []
        return
    metrics = found[0]["spec"]["metrics"]
    rules = yaml.safe_load(find(build("monitoring"), "ConfigMap", "llm-adapter-rules")["data"]["rules.yaml"])["rules"]

    assert {m["type"] for m in metrics} == {"Pods", "ContainerResource"}
    assert [m["pods"]["metric"]["name"] for m in metrics if m["type"] == "Pods"] == [rules[0]["name"]["as"]]
    assert {m["containerResource"]["container"] for m in metrics if "containerResource" in m} == {"envoy", "extproc"}


@pytest.mark.parametrize("name", OVERLAYS)
def test_gateway_yaml_loads(name: str) -> None:
    """By the gateway's own reader, and its hosts are those of the certificates, CoreDNS and Cilium."""
    text = find(build(name), "ConfigMap", "llm-gateway-config")["data"]["gateway.yaml"]
    config = load(text.encode(), "gateway.yaml", base=Path("/srv/gateway/config"))
    hosts = {host for provider in config.providers.values() for host in provider.hosts}
    everything = build("everything")
    rewrite = find(everything, "ConfigMap", "coredns-custom")["data"]["llm-egress.override"]
    led = dict(re.findall(r"^rewrite stop name exact (\S+) (\S+)$", rewrite, re.MULTILINE))
    served = {n for d in everything if d["kind"] == "Certificate" for n in d["spec"]["dnsNames"]}
    fqdns = find(everything, "CiliumNetworkPolicy", "llm-gateway-fqdn")["spec"]["egress"][1]["toFQDNs"]

    assert led == dict.fromkeys(hosts, "llm-gateway.llm-egress.svc.cluster.local")
    assert len(rewrite.splitlines()) == len(led)
    assert hosts | set(config.interception.names) == served  # `ca init` lets the authority sign for these, no others
    assert {one["matchName"] for one in fqdns} == hosts


def test_proxies_are_told_to_the_app_and_lead_to_the_service() -> None:
    """The variables name a port that the Service has, and the bundle is where they say."""
    documents = build("proxy-env")
    app = container(documents, "demo", "app")
    ((_, data),) = [(d["metadata"]["name"], d["data"]) for d in documents if d["kind"] == "ConfigMap"]
    port = int(data["HTTPS_PROXY"].rpartition(":")[2])
    mounts = {mount["mountPath"] for mount in app["volumeMounts"]}

    assert app["envFrom"][0]["configMapRef"]["name"] in {d["metadata"]["name"] for d in documents}
    assert data["HTTPS_PROXY"].startswith("http://llm-gateway.llm-egress.svc")
    assert port in {p["port"] for p in find(build("central"), "Service", "llm-gateway")["spec"]["ports"]}
    assert data["SSL_CERT_FILE"].rpartition("/")[0] in mounts


METRIC = re.compile(r"\b(?:llm|envoy|gen_ai)_[a-z0-9_]+")


def alert_metrics() -> dict[str, set[str]]:
    """The metric names of each alert."""
    groups = find(build("monitoring"), "PrometheusRule", "llm-gateway")["spec"]["groups"]
    return {
        rule["alert"]: set(METRIC.findall(re.sub(r"\{[^}]*\}|\bby \([^)]*\)", "", rule["expr"])))
        for group in groups
        for rule in group["rules"]
    }


def test_alerts_read_metrics_that_are_there() -> None:
    """Ours are in docs/metrics.md; Envoy's are checked against a running Envoy in test_pod.py."""
    documented = set(re.findall(r"`(llm_\w+|gen_ai_\w+)`", (ROOT / "docs" / "metrics.md").read_text()))
    for alert, names in alert_metrics().items():
        assert names, alert
        for name in names:
            bare = re.sub(r"_(bucket|sum|count)$", "", name)
            assert name.startswith("envoy_") or {name, bare} & documented, f"{alert}: {name}"


def test_the_alarms_of_the_docs_are_alerts() -> None:
    """Each expression of docs/metrics.md is in the rules as it stands there."""
    section = (ROOT / "docs" / "metrics.md").read_text().partition("## Alarms worth having")[2]
    wanted = re.findall(r"\| `([^`]+)` \|$", section, re.MULTILINE)
    groups = find(build("monitoring"), "PrometheusRule", "llm-gateway")["spec"]["groups"]
    have = {" ".join(rule["expr"].split()) for group in groups for rule in group["rules"]}

    assert wanted
    assert set(wanted) <= have
    assert all(expr.count("(") == expr.count(")") and expr.count("{") == expr.count("}") for expr in have)


def test_the_schemas_are_used() -> None:
    """Each schema of a custom resource meets at least one document."""
    kinds = {(d["apiVersion"].replace("/", "_"), d["kind"]) for name in BUILDS for d in build(name)}
    for path in (Path(__file__).parent / "schemas").glob("*.json"):
        schema = json.loads(path.read_text())
        api, kind = schema["properties"]["apiVersion"]["const"], schema["properties"]["kind"]["const"]
        assert path.stem == f"{api.replace('/', '_')}_{kind}"
        assert (api.replace("/", "_"), kind) in kinds
