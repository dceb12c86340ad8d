"""Builds the manifests with the real kustomize, and walks through what comes out."""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, TypeAlias

import yaml

Document: TypeAlias = dict[str, Any]

ROOT = Path(__file__).resolve().parents[2]
K8S = ROOT / "k8s"
OVERLAYS = ("central", "sidecar", "dev")
# what each component is tried with; the component `sidecar` is in the overlay of that name
COMPONENTS = {
    "cilium": "overlays/central",
    "coredns": "overlays/central",
    "cert-manager": "overlays/central",
    "leaves": "overlays/central",
    "monitoring": "overlays/central",
    "verify": "overlays/central",
    "proxy-env": "overlays/sidecar/app.yaml",
    "redirect-init": "overlays/sidecar/app.yaml",
}
# every build that is looked at: an overlay, or an overlay with components
BUILDS = (*OVERLAYS, *COMPONENTS, "everything")


def tool(name: str) -> str:
    """Find kubectl, checkov or python of the tools' own environment ($EXTPROC_K8S_TOOLS, else .venv-k8s)."""
    folder = Path(os.environ.get("EXTPROC_K8S_TOOLS") or ROOT / ".venv-k8s" / "bin")
    path = folder / name
    assert path.exists(), f"{path} is missing: `make setup` installs requirements/k8s.txt into .venv-k8s"
    return str(path)


def kustomize(folder: Path) -> list[Document]:
    """What `kubectl kustomize` makes of a folder. Raises AssertionError with its complaint; a warning is one too."""
    done = subprocess.run(
        [tool("kubectl"), "kustomize", str(folder)], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    return [document for document in yaml.safe_load_all(done.stdout) if document]


@cache
def _built(name: str) -> str:
    if name in OVERLAYS:
        return json.dumps(kustomize(K8S / "overlays" / name))
    parts = ("cilium", "coredns", "cert-manager", "monitoring", "verify") if name == "everything" else (name,)
    return json.dumps(kustomize_with(COMPONENTS[parts[0]], parts))


def kustomize_with(
    resource: str, components: Sequence[str], further: Mapping[str, object] | None = None
) -> list[Document]:
    """Build a kustomization of one's own that joins a resource (a path under k8s/, or a Deployment's text) with components.

    `further`: other fields of it, such as `patches`.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name).resolve()
        resource_line = "app.yaml"
        if "\n" in resource:
            (folder / resource_line).write_text(resource)
        elif (K8S / resource).is_file():  # a single Deployment: with the label that each component looks for
            text = (K8S / resource).read_text()
            text = text.replace('llm-egress/sidecar: "true"', 'llm-egress/sidecar: "true", llm-egress/proxy: "true"')
            (folder / resource_line).write_text(text)
        else:
            resource_line = os.path.relpath(K8S / resource, folder)
        (folder / "kustomization.yaml").write_text(
            yaml.safe_dump(
                {
                    "apiVersion": "kustomize.config.k8s.io/v1beta1",
                    "kind": "Kustomization",
                    "resources": [resource_line],
                    "components": [os.path.relpath(K8S / "components" / part, folder) for part in components],
                    **(further or {}),
                }
            )
        )
        return kustomize(folder)


def build(name: str) -> list[Document]:
    """A copy of one of `BUILDS`, for the caller to keep or to spoil."""
    documents: list[Document] = json.loads(_built(name))
    return documents


def key(document: Document) -> tuple[str, str, str]:
    """Kind, namespace, name."""
    metadata = document["metadata"]
    return document["kind"], metadata.get("namespace", ""), metadata["name"]


def find(documents: list[Document], kind: str, name: str) -> Document:
    """The one document of this kind whose name begins so (generated names end in a hash)."""
    found = [d for d in documents if d["kind"] == kind and (d["metadata"]["name"] + "-").startswith(name + "-")]
    exact = [d for d in found if d["metadata"]["name"] == name] or found
    assert len(exact) == 1, f"{len(exact)} of {kind}/{name}"
    return exact[0]


def template(document: Document) -> Document:
    """A workload's pod template."""
    found: Document = document["spec"].get("jobTemplate", document)["spec"]["template"]
    return found


def workloads(documents: list[Document]) -> Iterator[tuple[Document, Document]]:
    """(workload, pod spec) of each."""
    for document in documents:
        if document["kind"] in {"Deployment", "StatefulSet", "DaemonSet", "Job", "CronJob"}:
            yield document, template(document)["spec"]


def containers(spec: Document) -> list[Document]:
    """All containers of a pod, init containers first."""
    return [*spec.get("initContainers", []), *spec["containers"]]


def container(documents: list[Document], workload: str, name: str) -> Document:
    """One container of a workload."""
    for document, spec in workloads(documents):
        if document["metadata"]["name"] == workload:
            return next(one for one in containers(spec) if one["name"] == name)
    raise AssertionError(f"no workload {workload}")


def validate(documents: list[Document]) -> list[str]:
    """What the API's schemas have against the documents: the core's (strict), and ours for custom resources."""
    command = [tool("python"), str(Path(__file__).with_name("validator.py"))]
    done = subprocess.run(
        command, input=json.dumps(documents), capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    problems: list[str] = json.loads(done.stdout)
    return problems
