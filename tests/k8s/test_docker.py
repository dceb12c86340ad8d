"""The Dockerfiles' own words: no engine runs where the tests do."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from k8s.manifests import ROOT, build, containers, workloads

FOLDER = ROOT / "docker"
FILES = sorted(FOLDER.glob("*.Dockerfile"))
USERS = {"extproc": 1338, "envoy": 1337, "redirect": 65534}


def steps(text: str) -> list[tuple[str, str]]:
    """(instruction, arguments), continued lines joined, comments left out."""
    lines = re.sub(r"\\\n", " ", "\n".join(line for line in text.splitlines() if not line.lstrip().startswith("#")))
    return [(word, rest.strip()) for word, _, rest in (line.partition(" ") for line in lines.splitlines()) if word]


def problems(name: str, text: str) -> Iterator[str]:
    """What is wrong with a Dockerfile."""
    found = steps(text)
    last = max(number for number, (word, _) in enumerate(found) if word == "FROM")
    for word, rest in found:
        if word == "FROM" and not rest.startswith("${BASE}"):
            yield "a base that cannot be set"
        if word == "ARG" and not re.fullmatch(r"BASE=[a-z]+:[a-z0-9.-]+", rest):
            yield "a base that is no official short name"
        if word == "RUN":
            for command in re.findall(r"pip install [^&]*", rest):
                if "--require-hashes" not in command and "--no-index" not in command:
                    yield f"packages without hashes: {command}"
            if re.search(r"curl|wget|https?://", rest):
                yield "a download without a hash"
        if word == "COPY" and "--from" not in rest:
            for source in [part for part in rest.split() if not part.startswith("--")][:-1]:
                if not (ROOT / source).exists():
                    yield f"copies {source}, which is not there"
        if word == "ADD":
            yield "ADD"
    users = [rest for word, rest in found[last:] if word == "USER"]
    if not users or users[-1] != f"{USERS[name]}:{USERS[name]}":
        yield "not the user that the manifests know"
    for word in ("ENTRYPOINT", "CMD"):
        given = [rest for instruction, rest in found[last:] if instruction == word]
        if not given or not isinstance(json.loads(given[-1]), list):
            yield f"{word} is no list"


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_each_is_in_order(path: Path) -> None:
    """Settable bases, hashes for every package, sources that are there, a user that is not root."""
    assert list(problems(path.stem, path.read_text())) == []


SABOTAGES = [
    ("--require-hashes -r requirements/runtime.txt", "-r requirements/runtime.txt", "packages without hashes"),
    ("USER 1338:1338", "USER root", "not the user"),
    ("FROM ${BASE}\n", "FROM python:latest\n", "a base that cannot be set"),
    ("ARG BASE=python:3.11-slim", "ARG BASE=registry.example/python:3.11", "no official short name"),
    ("COPY src src", "COPY source src", "which is not there"),
    ("COPY src src", "ADD src src", "ADD"),
]


@pytest.mark.parametrize(("old", "new", "told"), SABOTAGES, ids=[row[2] for row in SABOTAGES])
def test_what_is_spoilt_is_found(old: str, new: str, told: str) -> None:
    """Each rule, broken in the first file."""
    text = (FOLDER / "extproc.Dockerfile").read_text()
    assert old in text

    assert any(told in problem for problem in problems("extproc", text.replace(old, new)))


def test_every_image_of_the_manifests_has_a_file() -> None:
    """But the app's, which is not ours, and Valkey's own."""
    images = {
        one["image"].rpartition("/")[2].partition(":")[0]
        for name in ("central", "sidecar", "dev")
        for _, spec in workloads(build(name))
        for one in containers(spec)
    }

    assert images - {"app", "valkey"} == {path.stem for path in FILES}


def test_containers_run_as_the_users_of_their_images() -> None:
    """1337 is Envoy's and 1338 is extproc's, in images, manifests and the redirect's rules."""
    rules = (ROOT / "k8s/components/redirect-init/redirect.nft").read_text()
    for name in ("central", "sidecar"):
        for _, spec in workloads(build(name)):
            for one in containers(spec):
                if one["name"] in {"envoy", "extproc"}:
                    user = one["securityContext"]["runAsUser"]
                    assert user == USERS[one["name"]]
                    assert f"meta skuid {user} tcp dport" in rules
