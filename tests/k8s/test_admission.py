"""The admission policy of the sidecar shape: what an app could do to be taken for Envoy is denied."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from k8s.manifests import Document, build, find, template, tool


def judged(*pods: Document, by: str = "llm-sidecar-users") -> list[list[str]]:
    """The denials of each pod (or whatever else is asked for), by a policy as it is built."""
    policy = find(build("sidecar"), "ValidatingAdmissionPolicy", by)
    command = [tool("python"), str(Path(__file__).with_name("admission.py"))]
    asked = json.dumps({"policy": policy, "pods": pods})
    done = subprocess.run(command, input=asked, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    found: list[list[str]] = json.loads(done.stdout)
    return found


def pod() -> Document:
    """The pod that the overlay's app gets."""
    made: Document = {"kind": "Pod", **template(find(build("sidecar"), "Deployment", "demo"))}
    return made


def one(made: Document, name: str) -> Document:
    """A container of a pod."""
    found: Document = next(
        c for c in [*made["spec"]["containers"], *made["spec"]["initContainers"]] if c["name"] == name
    )
    return found


def app(made: Document) -> Document:
    """The security context of the app."""
    context: Document = one(made, "app")["securityContext"]
    return context


def debug(**context: object) -> Document:
    """An ephemeral container."""
    return {"name": "debug", "image": "debug:1", "securityContext": context}


LOCKED = {"runAsUser": 10001, "allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
OWN, RUNS = "gateway's own:", {"exec": {"command": ["sh", "-c", "true"]}}
SPOILT: list[tuple[str, Callable[[Document], object], str]] = [
    ("the app as Envoy", lambda p: app(p).update(runAsUser=1337), "containers:"),
    ("the app as extproc", lambda p: app(p).update(runAsUser=1338), "containers:"),
    ("the app as root", lambda p: app(p).update(runAsUser=0), "containers:"),
    ("the app as whom its image says", lambda p: app(p).pop("runAsUser"), "containers:"),
    ("the app without a context", lambda p: one(p, "app").pop("securityContext"), "containers:"),
    ("NET_ADMIN for the app", lambda p: app(p)["capabilities"].update(add=["NET_ADMIN"]), "containers:"),
    ("all that a runtime gives", lambda p: app(p).pop("capabilities"), "containers:"),
    ("setuid programs", lambda p: app(p).pop("allowPrivilegeEscalation"), "containers:"),
    ("another container by the name of envoy", lambda p: p["spec"]["containers"].append({**one(p, "envoy"), "name": "extproc"}), "containers:"),
    ("another image by the name of envoy", lambda p: one(p, "envoy").update(image="mine:1"), OWN),
    ("another image of the gateway's by that name", lambda p: one(p, "envoy").update(image="registry.example.internal/llm/redirect:1"), OWN),
    ("the gateway's image with another command", lambda p: one(p, "envoy").update(command=["sh"]), OWN),
    ("the gateway's image with other files", lambda p: one(p, "envoy").update(args=["-c", "/tmp/mine.yaml"]), OWN),
    ("the policy stage's image as another program", lambda p: one(p, "extproc").update(args=["egress", "verify"]), OWN),
    ("the policy stage's image as Envoy's user", lambda p: one(p, "extproc")["securityContext"].update(runAsUser=1337), OWN),
    ("NET_ADMIN for Envoy", lambda p: one(p, "envoy")["securityContext"]["capabilities"].update(add=["NET_ADMIN"]), OWN),
    ("a hook at Envoy's start", lambda p: one(p, "envoy")["lifecycle"].update(postStart=RUNS), OWN),
    ("a hook at Envoy's end that is not the drain", lambda p: one(p, "envoy")["lifecycle"].update(preStop=RUNS), OWN),
    ("a hook in the policy stage", lambda p: one(p, "extproc").update(lifecycle={"postStart": RUNS}), OWN),
    *((f"a {kind} that runs in Envoy's place", lambda p, kind=kind: one(p, "envoy").update({kind: RUNS}), OWN) for kind in ("startupProbe", "readinessProbe", "livenessProbe")),
    ("an init container as Envoy", lambda p: p["spec"]["initContainers"].append(debug(**{**LOCKED, "runAsUser": 1337})), "initContainers:"),
    ("a debug container as Envoy", lambda p: p["spec"].update(ephemeralContainers=[debug(**{**LOCKED, "runAsUser": 1337})]), "ephemeralContainers:"),
    ("a debug container as it comes", lambda p: p["spec"].update(ephemeralContainers=[{"name": "debug", "image": "debug:1"}]), "ephemeralContainers:"),
    ("the node's network", lambda p: p["spec"].update(hostNetwork=True), "hostNetwork"),
    ("the label without the redirect", lambda p: p["spec"]["initContainers"].pop(0), "A pod with the label"),
    ("the redirect after others", lambda p: p["spec"]["initContainers"].append(p["spec"]["initContainers"].pop(0)), "A pod with the label"),
    ("a redirect that does nothing", lambda p: one(p, "redirect").update(command=["true"]), "The init container redirect"),
    ("a redirect of another image", lambda p: one(p, "redirect").update(image="mine:1"), "The init container redirect"),
]  # fmt: skip


@pytest.mark.parametrize(("what", "spoil", "told"), SPOILT, ids=[row[0] for row in SPOILT])
def test_what_would_lead_around_is_denied(what: str, spoil: Callable[[Document], object], told: str) -> None:
    """Each way is denied by its own rule, and the pod as it is shipped by none."""
    good, bad = pod(), pod()
    spoil(bad)

    (none, some) = judged(good, bad)

    assert none == []
    assert [message.partition(" ")[0] for message in some] == [told.partition(" ")[0]], what
    assert some[0].startswith(told)


def test_a_locked_debug_container_is_let_in() -> None:
    """As one with its own user, and no right."""
    made = pod()
    made["spec"]["ephemeralContainers"] = [debug(**LOCKED)]

    assert judged(made) == [[]]


@pytest.mark.parametrize("container", ["envoy", "extproc", "redirect", "", None])
def test_nobody_gets_a_shell_in_the_gateways_own_containers(container: str | None) -> None:
    """Nor where the container is not named, which may be any; the app's own are its team's matter."""
    asked = {"kind": "PodExecOptions", "command": ["sh"], **({} if container is None else {"container": container})}

    (app_own, denied) = judged({**asked, "container": "app"}, asked, by="llm-sidecar-exec")

    assert app_own == []
    assert [message.partition(",")[0] for message in denied] == [
        "No exec and no attach to the gateway's own containers; name one of the app's with -c."
    ]


def test_the_rule_for_shells_is_asked_for_each_way_in() -> None:
    """CONNECT is what exec and attach are to admission; a rule for the wrong one would be asked never."""
    (rule,) = find(build("sidecar"), "ValidatingAdmissionPolicy", "llm-sidecar-exec")["spec"]["matchConstraints"][
        "resourceRules"
    ]

    assert rule["operations"] == ["CONNECT"]
    assert set(rule["resources"]) == {"pods/exec", "pods/attach"}


@pytest.mark.parametrize("name", ["llm-sidecar-users", "llm-sidecar-exec"])
def test_it_denies_where_sidecars_are(name: str) -> None:
    """The binding names the policy, denies, and selects the label that the overlay's namespace has."""
    documents = build("sidecar")
    binding = find(documents, "ValidatingAdmissionPolicyBinding", name)["spec"]
    labels = find(documents, "Namespace", "apps-sidecar")["metadata"]["labels"]

    assert "Deny" in binding["validationActions"]
    assert binding["policyName"] == name
    assert find(documents, "ValidatingAdmissionPolicy", name)["spec"]["failurePolicy"] == "Fail"
    assert binding["matchResources"]["namespaceSelector"]["matchLabels"].items() <= labels.items()
