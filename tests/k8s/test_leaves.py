"""components/leaves, run: extproc issues the certificates that Envoy shows, through a volume that the pod's group shares."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from extproc.adapters.pki_chain import ChainPlan, create_chain
from k8s import checks
from k8s.manifests import Document, kustomize_with, validate
from k8s.test_pod import HOSTS, Cluster, running

pytestmark = [pytest.mark.envoy, pytest.mark.netns, pytest.mark.timeout(240)]

GATEWAY = "llm-gateway.llm-egress.svc"


def built() -> list[Document]:
    """The development overlay with the component."""
    return kustomize_with("overlays/dev", ("leaves",))


class Issuing(Cluster):
    """A pod whose policy stage has the intermediate, and no certificate in any Secret."""

    def documents(self) -> list[Document]:
        """The development overlay with the component."""
        return built()

    def secrets(self) -> dict[tuple[str, str], dict[str, bytes]]:
        """The authority in place of its certificates."""
        folder = self.folder / "issuing-ca"
        names = checks.gateway_config(built())["interception"]["names"]
        create_chain(folder, ChainPlan("issuing authority of this test", (*HOSTS.values(), *names)))
        (self.folder / "bundle.pem").write_bytes((folder / "ca.pem").read_bytes())
        kept = {place: data for place, data in super().secrets().items() if "tls.crt" not in data}
        issuing = {name: (folder / name).read_bytes() for name in checks.SECRETS["llm-issuing-ca"]}
        return {**kept, ("Secret", "llm-issuing-ca"): issuing}


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """The pod, running."""
    with running(Issuing, tmp_path_factory.mktemp("leaves")) as made:
        yield made


def test_it_fits_together() -> None:
    """Schemas, references, who sees what, what pods may do."""
    documents = built()
    every = (checks.pod_problems, checks.reference_problems, checks.mount_problems, checks.port_problems)

    assert validate(documents) == []
    assert [problem for check in every for problem in check(documents)] == []


def test_apps_see_what_extproc_issued(cluster: Cluster) -> None:
    """By interception and at the TLS base URL; the vendor still gets its key, whose file is in the same folder."""
    for port, name in ((8443, HOSTS["openai"]), (8444, GATEWAY)):
        answer = cluster.call(port, name)
        assert (answer["status"], answer["error"]) == (200, None), answer


def test_the_leaves_are_the_groups_and_nobody_elses(cluster: Cluster) -> None:
    """extproc writes them, Envoy reads them by the pod's group and cannot write; the authority's key is out of Envoy's reach."""
    folder = cluster.gateway.volume("leaves")
    found = {path.name: path.stat() for path in folder.glob("*.yaml") if not path.name.endswith("-key.yaml")}

    assert set(found) == {"intercept-openai.yaml", "intercept-anthropic.yaml", "gateway.yaml"}
    assert {(one.st_uid, one.st_gid, one.st_mode & 0o777) for one in found.values()} == {(1338, 2000, 0o640)}
    assert cluster.gateway.exec("envoy", ["touch", "/srv/gateway/envoy/sds/x"]).returncode != 0
    assert cluster.gateway.exec("envoy", ["ls", "/srv/gateway/state/ca"]).returncode != 0
