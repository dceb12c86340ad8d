"""components/verify: what the nightly check is told to try."""

from __future__ import annotations

import argparse
import re

import yaml

from extproc.cli import egress_verify
from k8s import checks
from k8s.manifests import ROOT, Document, build, container, containers, find, kustomize_with, template
from k8s.netpol import Pod, reaches


def verify_words(documents: list[Document]) -> list[str]:
    """The nightly check's words, with variables put in as the kubelet does."""
    one = container(documents, "llm-egress-verify", "verify")
    data = find(documents, "ConfigMap", one["envFrom"][0]["configMapRef"]["name"])["data"]
    return [re.sub(r"\$\((\w+)\)", lambda found: data[found[1]], word) for word in one["args"]]


def test_the_vendors_addresses_are_named_as_the_docs_say() -> None:
    """The patch of the page reaches the command line, where it is HOST=ADDRESS."""
    text = (ROOT / "docs" / "kubernetes.md").read_text()
    (block,) = [b for b in re.findall(r"```yaml\n(.*?)```", text, re.DOTALL) if "llm-verify-vendors" in b]
    patches = yaml.safe_load(block.replace("ADDRESS,ADDRESS", "192.0.2.1,2001:db8::1").replace("ADDRESS", "192.0.2.2"))
    words = verify_words(kustomize_with("overlays/central", ("verify",), patches))

    assert [word for word in words if word.startswith("--vendor=")] == [
        "--vendor=api.openai.com=192.0.2.1,2001:db8::1",
        "--vendor=api.anthropic.com=192.0.2.2",
    ]


def parsed(words: list[str]) -> argparse.Namespace:
    """As extproc reads the command line."""
    parser = argparse.ArgumentParser()
    egress_verify.add_arguments(parser)
    return parser.parse_args(words[2:])


def test_private_ports_are_asked_at_the_pods() -> None:
    """The Service refuses what it has no port for, whatever the pods do: the name is one that gives the pods themselves."""
    documents = build("verify")
    gateway = find(documents, "Deployment", "llm-gateway")
    pods = find(documents, "Service", "llm-gateway-metrics")
    name = f"{pods['metadata']['name']}.{pods['metadata']['namespace']}.svc.cluster.local"
    labels = template(gateway)["metadata"]["labels"]
    private = parsed(verify_words(documents)).private

    assert (pods["spec"]["clusterIP"], pods["spec"]["publishNotReadyAddresses"]) == ("None", True)
    assert pods["spec"]["selector"].items() <= labels.items()
    assert {host for host, _ in private} == {name}

    job = find(documents, "CronJob", "llm-egress-verify")
    place = Pod("apps", template(job)["metadata"]["labels"], find(documents, "Namespace", "apps")["metadata"]["labels"])
    there = Pod("llm-egress", labels)
    listened = {port for _, port in checks.listening(documents).values()}
    listened |= {port["containerPort"] for one in containers(template(gateway)["spec"]) for port in one["ports"]}
    admin = yaml.safe_load(checks.envoy_files(documents)["bootstrap.yaml"])["admin"]["address"]["socket_address"]
    listened.add(admin["port_value"])
    shut = {port for port in listened if not reaches(documents, place, there, port)}
    assert {port for _, port in private} == shut
    assert {9464, 9902} < shut, "the pods serve these on their own address: policies alone shut them"


def test_the_nightly_check_asks_about_this_gateway() -> None:
    """Its command line is one that extproc takes; its hosts and entries are those of these manifests."""
    documents = build("verify")
    words = verify_words(documents)
    args = parsed(words)
    service = find(documents, "Service", "llm-gateway")
    entries = {port["port"] for port in service["spec"]["ports"]}

    assert words[:2] == ["egress", "verify"]
    assert args.gateway.startswith(f"{service['metadata']['name']}.{service['metadata']['namespace']}.svc")
    assert args.port == ["base_url=0", "base_url_tls=8444", "connect=3128"]
    assert {3128, 8444} <= entries
    assert args.vendor == [h for p in checks.gateway_config(documents)["providers"].values() for h in p["hosts"]]
