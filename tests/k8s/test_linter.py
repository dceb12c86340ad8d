"""checkov's opinion of the overlays: what it has against them is accepted here with a reason, and nothing else is there."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from k8s.manifests import BUILDS, OVERLAYS, Document, build, container, find, tool

# (check, workload): why it may stand
ACCEPTED = {
    ("CKV_K8S_43", "llm-gateway"): "image by digest: known after the push only; overlays and docker/README.md say where it goes",
    ("CKV_K8S_43", "llm-store"): "as above",
    ("CKV_K8S_43", "demo"): "as above",
    ("CKV_K8S_15", "llm-gateway"): "pull always: with a digest it adds a way to fail, and a node without the registry must restart",
    ("CKV_K8S_15", "llm-store"): "as above",
    ("CKV_K8S_15", "demo"): "as above",
    ("CKV_K8S_43", "llm-egress-verify"): "as above",
    ("CKV_K8S_15", "llm-egress-verify"): "as above",
    ("CKV_K8S_40", "llm-gateway"): "user ids over 10000: 1337 and 1338 are those of the images and of the firewall's rules",
    ("CKV_K8S_25", "demo"): "added capability: NET_ADMIN, in the init container that loads the redirect, and ends",
    ("CKV_K8S_35", "demo"): "secret in a variable: the SDKs read OPENAI_API_KEY, and it is a virtual key",
}  # fmt: skip


def complaints(documents: list[Document], folder: Path) -> set[tuple[str, str]]:
    """(check, name of the resource) of everything that checkov finds."""
    folder.mkdir(exist_ok=True)
    (folder / "all.yaml").write_text(yaml.safe_dump_all(documents))
    command = [tool("checkov"), "-d", str(folder), "--framework", "kubernetes", "--skip-download", "--quiet"]
    done = subprocess.run(
        [*command, "--compact", "-o", "json"], capture_output=True, text=True, timeout=110, check=False
    )
    report = json.loads(done.stdout)
    assert report["summary"]["resource_count"] >= len(documents) / 2, report["summary"]
    assert report["summary"]["parsing_errors"] == 0
    return {(one["check_id"], one["resource"].rpartition(".")[2]) for one in report["results"]["failed_checks"]}


def everything() -> list[Document]:
    """All overlays, and the central one with all its components; each document once, as each overlay has it."""
    return [document for name in (*OVERLAYS, BUILDS[-1]) for document in build(name)]


def test_nothing_but_what_is_accepted(tmp_path: Path) -> None:
    """And everything that is accepted is still found: an exception that nobody needs goes."""
    assert complaints(everything(), tmp_path) == set(ACCEPTED)


def _spoil_service_account(documents: list[Document]) -> None:
    find(documents, "Deployment", "llm-gateway")["spec"]["template"]["spec"].pop("automountServiceAccountToken")


SABOTAGES: list[tuple[str, Callable[[list[Document]], object]]] = [
    ("CKV_K8S_16", lambda d: container(d, "llm-gateway", "envoy")["securityContext"].update(privileged=True)),
    ("CKV_K8S_22", lambda d: container(d, "llm-gateway", "envoy")["securityContext"].pop("readOnlyRootFilesystem")),
    ("CKV_K8S_13", lambda d: container(d, "llm-gateway", "envoy")["resources"]["limits"].pop("memory")),
    ("CKV_K8S_38", _spoil_service_account),
]


def test_the_linter_finds_what_is_spoilt(tmp_path: Path) -> None:
    """One run over four sabotages: each gives a complaint of its own."""
    documents = build("central")
    for _, spoil in SABOTAGES:
        spoil(documents)

    found = {check for check, _ in complaints(documents, tmp_path)}

    assert {check for check, _ in SABOTAGES} <= found


@pytest.mark.parametrize("reason", ACCEPTED.values())
def test_each_exception_has_a_reason(reason: str) -> None:
    """In words."""
    assert reason
