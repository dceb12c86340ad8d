"""components/verify: what the nightly check is told to try."""

from __future__ import annotations

import argparse
import re

import yaml

from extproc.cli import egress_verify
from k8s import checks
from k8s.manifests import ROOT, Document, build, container, find, kustomize_with


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


def test_the_nightly_check_asks_about_this_gateway() -> None:
    """Its command line is one that extproc takes; its hosts, entries and private ports are those of these manifests."""
    documents = build("verify")
    words = verify_words(documents)
    parser = argparse.ArgumentParser()
    egress_verify.add_arguments(parser)
    args = parser.parse_args(words[2:])
    service = find(documents, "Service", "llm-gateway")
    entries = {port["port"] for port in service["spec"]["ports"]}
    offered = {port for address, port in checks.listening(documents).values() if address != "127.0.0.1"}

    assert words[:2] == ["egress", "verify"]
    assert args.gateway.startswith(f"{service['metadata']['name']}.{service['metadata']['namespace']}.svc")
    assert args.port == ["base_url=0", "base_url_tls=8444", "connect=3128"]
    assert {3128, 8444} <= entries
    assert set(args.private) == {8080, 9464, 9901, 9902}
    assert not set(args.private) & (entries | (offered - {9902}))
    assert args.vendor == [h for p in checks.gateway_config(documents)["providers"].values() for h in p["hosts"]]
