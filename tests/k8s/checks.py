"""What every manifest must have: each check gives the problems that it finds, as text."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import yaml

from k8s.manifests import Document, containers, key, template, workloads

# made beside these manifests, and why: docs/kubernetes.md says how
SECRETS = {
    "llm-gateway-keys": {"keys.json", "pepper", "redaction-key", "store-password"},
    "llm-vendor-keys": {"openai-key", "anthropic-key"},
    "llm-intercept-openai": {"tls.crt", "tls.key"},
    "llm-intercept-anthropic": {"tls.crt", "tls.key"},
    "llm-gateway-tls": {"tls.crt", "tls.key"},
    "llm-intercept-ca": {"tls.crt", "tls.key"},
    "llm-issuing-ca": {"intermediate.pem", "ca.pem"},
    "llm-store": {"users.acl"},
    "demo-llm-key": {"key"},
    "llm-verify": {"ca.pem", "key", "other-key"},
}
CONFIG_MAPS = {"llm-trust-bundle"}  # trust-manager or `extproc ca bundle`
MAY_ADD = {"redirect": ["NET_ADMIN"]}  # the container that loads nft rules, and ends
MAY_BE_ROOT = {"redirect"}
GATEWAY = "/srv/gateway"


def pod_problems(documents: list[Document]) -> Iterator[str]:
    """What the security team asks of each pod and container (Pod Security `restricted`, and more)."""
    for document, spec in workloads(documents):
        name = document["metadata"]["name"]
        if spec.get("automountServiceAccountToken") is not False:
            yield f"{name}: a token of the API server is mounted"
        for field in ("hostNetwork", "hostPID", "hostIPC", "shareProcessNamespace"):
            if spec.get(field):
                yield f"{name}: {field}"
        if spec.get("securityContext", {}).get("seccompProfile", {}).get("type") != "RuntimeDefault":
            yield f"{name}: no seccomp profile"
        for volume in spec.get("volumes", []):
            yield from (f"{name}: volume {volume['name']}: {reason}" for reason in _volume(volume))
        for one in containers(spec):
            yield from (f"{name}/{one['name']}: {reason}" for reason in _container(one))


def _volume(volume: Document) -> Iterator[str]:
    if "hostPath" in volume:
        yield "a folder of the node"
    if "emptyDir" in volume and "sizeLimit" not in volume["emptyDir"]:
        yield "without sizeLimit"
    for kind in ("secret", "projected"):
        if kind in volume and volume[kind].get("defaultMode") != 0o440:
            yield "secrets with another mode than 0440"


def _container(one: Document) -> Iterator[str]:
    context: Document = one.get("securityContext", {})
    wanted = {"readOnlyRootFilesystem": True, "allowPrivilegeEscalation": False, "privileged": False}
    for field, value in wanted.items():
        if context.get(field) is not value:
            yield f"{field} is not {value}"
    if context.get("seccompProfile", {}).get("type") != "RuntimeDefault":
        yield "no seccomp profile"
    if context.get("capabilities", {}).get("drop") != ["ALL"]:
        yield "capabilities are kept"
    if context.get("capabilities", {}).get("add", []) != MAY_ADD.get(one["name"], []):
        yield "capabilities are added"
    if one["name"] not in MAY_BE_ROOT and not (context.get("runAsNonRoot") and context.get("runAsUser", 0) > 1000):
        yield "may be root"
    for kind in ("requests", "limits"):
        if not {"cpu", "memory", "ephemeral-storage"} <= set(one.get("resources", {}).get(kind, {})):
            yield f"resources.{kind} are not complete"
    if any("subPath" in mount for mount in one.get("volumeMounts", [])):
        yield "subPath: what is mounted so is never renewed"
    for variable in one.get("env", []):
        if re.search(r"(?i)key|secret|password|token", variable["name"]) and "value" in variable:
            yield f"{variable['name']} is written out"
    if ":" not in one["image"] or one["image"].endswith(":latest"):
        yield "image without a version"


def reference_problems(documents: list[Document]) -> Iterator[str]:
    """ConfigMaps, Secrets, volumes, ports, accounts that are named and are not there."""
    there = {key(document) for document in documents}
    for document, spec in workloads(documents):
        namespace, name = document["metadata"].get("namespace", ""), document["metadata"]["name"]
        volumes = {volume["name"]: volume for volume in spec.get("volumes", [])}
        volumes |= {claim["metadata"]["name"]: claim for claim in document["spec"].get("volumeClaimTemplates", [])}
        mounted = {mount["name"] for one in containers(spec) for mount in one.get("volumeMounts", [])}
        yield from (f"{name}: no volume {volume}" for volume in mounted - set(volumes))
        yield from (f"{name}: volume {volume} is mounted nowhere" for volume in set(volumes) - mounted)
        account = spec.get("serviceAccountName")
        if account and ("ServiceAccount", namespace, account) not in there:
            yield f"{name}: no ServiceAccount {account}"
        for kind, wanted, keys in _named(spec):
            if kind == "ConfigMap" and wanted not in CONFIG_MAPS and (kind, namespace, wanted) not in there:
                yield f"{name}: no ConfigMap {wanted}"
            if kind == "Secret" and (wanted not in SECRETS or not keys <= SECRETS[wanted]):
                yield f"{name}: no Secret {wanted} with {sorted(keys)}"
        for one in containers(spec):
            ports = {port["name"] for port in one.get("ports", [])}
            for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
                for action in one.get(probe, {}).values():
                    if isinstance(action, dict) and action.get("port") not in ports:
                        yield f"{name}/{one['name']}: {probe} asks a port that is not there"
    yield from _services(documents)


def _named(node: Any) -> Iterator[tuple[str, str, set[str]]]:
    """(kind, name, keys) of each reference in a pod spec."""
    if isinstance(node, list):
        for item in node:
            yield from _named(item)
    if not isinstance(node, dict):
        return
    for field, kind in (("configMap", "ConfigMap"), ("configMapRef", "ConfigMap"), ("secret", "Secret"), ("secretRef", "Secret"), ("secretKeyRef", "Secret"), ("configMapKeyRef", "ConfigMap")):  # fmt: skip
        if isinstance(node.get(field), dict):
            at = node[field]
            keys = {item["key"] for item in at.get("items", [])} | ({at["key"]} if "key" in at else set())
            yield kind, at.get("name") or at["secretName"], keys
    for value in node.values():
        yield from _named(value)


def _services(documents: list[Document]) -> Iterator[str]:
    pods = [
        (document["metadata"].get("namespace"), template(document)["metadata"]["labels"], spec)
        for document, spec in workloads(documents)
    ]
    for document in documents:
        if document["kind"] != "Service":
            continue
        name, spec = document["metadata"]["name"], document["spec"]
        chosen = [
            pod
            for namespace, labels, pod in pods
            if namespace == document["metadata"].get("namespace") and spec["selector"].items() <= labels.items()
        ]
        if not chosen:
            yield f"Service {name} selects no pod"
        ports = {port["name"] for pod in chosen for one in containers(pod) for port in one.get("ports", [])}
        yield from (f"Service {name}: no port {p['targetPort']}" for p in spec["ports"] if p["targetPort"] not in ports)


def selector_problems(documents: list[Document]) -> Iterator[str]:
    """Budgets, scalers and monitors that name something which is not there. (A PodMonitor: see pod_monitor_problems.)"""
    pods = [(d["metadata"].get("namespace"), template(d)["metadata"]["labels"]) for d, _ in workloads(documents)]
    there = {key(document) for document in documents}
    for document in documents:
        kind, namespace, name = key(document)
        spec = document.get("spec", {})
        if kind == "PodDisruptionBudget" and not any(
            space == namespace and spec["selector"]["matchLabels"].items() <= labels.items() for space, labels in pods
        ):
            yield f"{kind} {name}: no pod"
        if kind == "HorizontalPodAutoscaler":
            target = spec["scaleTargetRef"]
            if (target["kind"], namespace, target["name"]) not in there:
                yield f"{kind} {name}: no {target['kind']} {target['name']}"
        if kind == "ServiceMonitor":
            wanted = spec["selector"]["matchLabels"].items()
            ports = {
                port["name"]
                for service in documents
                if service["kind"] == "Service" and wanted <= service["metadata"].get("labels", {}).items()
                and service["metadata"].get("namespace") in spec["namespaceSelector"]["matchNames"]
                for port in service["spec"]["ports"]
            }  # fmt: skip
            yield from (f"{kind} {name}: no port {e['port']}" for e in spec["endpoints"] if e["port"] not in ports)


def pod_monitor_problems(monitor: Document, documents: list[Document]) -> Iterator[str]:
    """Ports that a PodMonitor names and the pods of a build have not."""
    wanted = monitor["spec"]["selector"]["matchLabels"].items()
    ports = {
        port["name"]
        for document, spec in workloads(documents)
        if wanted <= template(document)["metadata"]["labels"].items()
        for one in containers(spec)
        for port in one.get("ports", [])
    }
    for endpoint in monitor["spec"]["podMetricsEndpoints"]:
        if endpoint["port"] not in ports:
            yield f"PodMonitor {monitor['metadata']['name']}: no port {endpoint['port']}"


def gateway_config(documents: list[Document]) -> Document:
    """The gateway.yaml of a build."""
    for document in documents:
        if document["kind"] == "ConfigMap" and document["metadata"]["name"] == "llm-gateway-config":
            found: Document = yaml.safe_load(document["data"]["gateway.yaml"])
            return found
    raise AssertionError("no gateway.yaml")


def envoy_files(documents: list[Document]) -> dict[str, str]:
    """Envoy's files of a build by their place in its working folder, as the volumes lay them."""
    files: dict[str, str] = {}
    for document in documents:
        name = document["metadata"]["name"]
        if document["kind"] == "ConfigMap" and name.startswith("llm-envoy-"):
            folder = {"xds": "xds/", "sds": "sds/"}.get(name.removeprefix("llm-envoy-"), "")
            files |= {folder + file: text for file, text in document["data"].items()}
    return files


def seconds(duration: str) -> float:
    """`3600s` and the like."""
    return float(duration.removesuffix("s"))


def memory(quantity: str) -> int:
    """Bytes of `5Gi` and the like."""
    return int(quantity[:-2]) * {"Mi": 1 << 20, "Gi": 1 << 30}[quantity[-2:]]


def drain_problems(documents: list[Document]) -> Iterator[str]:
    """The pod outlives its longest stream: gateway.yaml, Envoy's drain, preStop and the grace period agree."""
    config = gateway_config(documents)
    longest = max(seconds(one["total"]) for one in config["timeouts"]["classes"].values())
    if seconds(config["workers"]["drain"]) < longest:
        yield "workers.drain is shorter than the longest class"
    for document, spec in workloads(documents):
        for one in containers(spec):
            if one["name"] != "envoy":
                continue
            name = document["metadata"]["name"]
            if spec["terminationGracePeriodSeconds"] < longest + 60:
                yield f"{name}: the kubelet kills before the longest stream ends"
            command = one["lifecycle"]["preStop"]["exec"]["command"]
            if float(command[command.index("--limit") + 1]) < longest:
                yield f"{name}: preStop gives up before the longest stream ends"
            if float(one["args"][one["args"].index("--drain-time-s") + 1]) < longest:
                yield f"{name}: Envoy's drain time is shorter than the longest stream"


def listening(documents: list[Document]) -> dict[str, tuple[str, int]]:
    """(address, port) of each listener in a build's bootstrap."""
    bootstrap = yaml.safe_load(envoy_files(documents)["bootstrap.yaml"])
    found = {}
    for listener in bootstrap["static_resources"]["listeners"]:
        if "address" in listener:
            at = listener["address"]["socket_address"]
            found[str(listener["name"])] = (str(at["address"]), int(at["port_value"]))
    return found


def port_problems(documents: list[Document]) -> Iterator[str]:
    """What a pod says that it serves, and what it listens for on its own address, are the same ports."""
    metrics = int(gateway_config(documents)["metrics"]["address"].rpartition(":")[2])
    open_ports = {port for address, port in listening(documents).values() if address != "127.0.0.1"}
    for document, spec in workloads(documents):
        for one in containers(spec):
            wanted = {"envoy": open_ports, "extproc": {metrics}}.get(one["name"])
            declared = {port["containerPort"] for port in one.get("ports", [])}
            if wanted is not None and declared != wanted:
                yield f"{document['metadata']['name']}/{one['name']}: says {sorted(declared)}, listens at {sorted(wanted)}"
    for document in documents:
        if document["kind"] == "NetworkPolicy" and document["metadata"]["name"] in {
            "llm-gateway-ingress",
            "llm-sidecar",
        }:
            for rule in document["spec"].get("ingress", []):
                for port in rule["ports"]:
                    if port["port"] not in open_ports | {metrics}:
                        yield f"{document['metadata']['name']}: nobody listens at {port['port']}"


def mount_problems(documents: list[Document]) -> Iterator[str]:
    """Which container sees which secret; and every file that gateway.yaml names is in a volume of extproc's."""
    for document, spec in workloads(documents):
        name = document["metadata"]["name"]
        for one in containers(spec):
            mounts = {mount["name"]: mount["mountPath"] for mount in one.get("volumeMounts", [])}
            if one["name"] != "envoy" and mounts.keys() & {"vendor-keys", "certificates"}:
                yield f"{name}/{one['name']}: sees provider keys or certificates, which are Envoy's"
            if one["name"] != "extproc" and "gateway-keys" in mounts:
                yield f"{name}/{one['name']}: sees the key table, the pepper and the redaction key"
            if one["name"] not in {"envoy", "extproc"} and "run" in mounts:
                yield f"{name}/{one['name']}: sees the policy stage's sockets"
            if one["name"] != "extproc":
                continue
            config = gateway_config(documents)
            files = [config["keys"]["file"], config["keys"]["pepper"]["file"], config["redaction"]["key"]["file"]]
            files.append(config["quotas"]["store"]["password"]["file"])
            for file in files:
                folder, _, leaf = file.rpartition("/")
                if mounts.get("gateway-keys") != folder or leaf not in SECRETS["llm-gateway-keys"]:
                    yield f"{name}: {file} is in no volume"
