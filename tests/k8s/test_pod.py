"""The development overlay, run: each container with its user, mounts and command, a real Envoy, Valkey and policy stage.

In a network namespace of its own, with volumes laid and swapped as the kubelet does, and simulated vendors.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from cryptography import x509

from envoy.namespaces import run, why_not
from extproc.adapters.keyfile import KeyFile
from extproc.adapters.keys import Hasher, Owner
from extproc.adapters.pki import Leaf, create_ca
from k8s import checks
from k8s.manifests import Document, build, find
from k8s.pods import PodRun, config_maps
from k8s.test_manifests import alert_metrics

pytestmark = [pytest.mark.envoy, pytest.mark.netns, pytest.mark.timeout(240)]

HOSTS = {"openai": "api.openai.com", "anthropic": "api.anthropic.com"}
CALL = """
import http.client, json, ssl, sys
address, port, name, bundle, key, path = sys.argv[1:7]
context = ssl.create_default_context(cafile=bundle)
class Connection(http.client.HTTPSConnection):
    def connect(self):
        import socket
        self.sock = context.wrap_socket(socket.create_connection((address, int(port)), 20), server_hostname=name)
connection = Connection(name, timeout=20)
connection.connect()
serial = connection.sock.getpeercert()["serialNumber"]
body = json.dumps({"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "hi there"}]})
connection.request("POST", path, body, {"authorization": f"Bearer {key}", "content-type": "application/json"})
answer = connection.getresponse()
print(json.dumps({"status": answer.status, "error": answer.getheader("x-llm-error"), "serial": serial, "body": answer.read().decode(), "connection": answer.getheader("connection")}))
"""  # fmt: skip


@dataclass
class Cluster:
    """A pod of the gateway and one of the store, the vendors, and what the Secrets hold."""

    folder: Path
    netns: str
    pods: dict[str, PodRun] = field(default_factory=dict)
    key: str = ""
    vendor_key: str = ""
    sim: subprocess.Popen[bytes] | None = None

    @property
    def gateway(self) -> PodRun:
        """The gateway's pod."""
        return self.pods["llm-gateway"]

    def authority_leaf(self, *hosts: str, days: float = 1) -> Leaf:
        """A certificate of the interception authority."""
        return self._authority.issue(list(hosts), days)

    def documents(self) -> list[Document]:
        """The manifests that are run."""
        return build("dev")

    def start(self) -> None:
        """Bring Secrets, lay the volumes, start everything in a pod's order."""
        documents = self.documents()
        vendors = create_ca(self.folder / "vendor-ca", "vendors of this test")
        self._authority = create_ca(self.folder / "ca", "interception of this test")
        (self.folder / "bundle.pem").write_bytes(self._authority.pem)
        sources = {**config_maps(documents), **self.secrets()}
        hosts = f"127.0.0.1 localhost {' '.join(HOSTS.values())} llm-store\n"
        for name in ("llm-store", "llm-gateway"):
            kind = "StatefulSet" if name == "llm-store" else "Deployment"
            pod = PodRun(self.folder / name, self.netns, find(documents, kind, name), sources)
            pod.overlays = {Path("/etc/hosts"): hosts, Path("/etc/ssl/certs/ca-certificates.crt"): vendors.pem.decode()}
            self.pods[name] = pod
        self._vendors()
        self.pods["llm-store"].start("valkey")
        self.gateway.prepare()
        self.gateway.start("extproc")
        self.gateway.wait(lambda: self.gateway.probe("extproc", "startupProbe") == 200, 90, "extproc")
        self.gateway.start("envoy")
        self.gateway.wait(lambda: self.gateway.probe("envoy", "readinessProbe") == 200, 30, "envoy")

    def secrets(self) -> dict[tuple[str, str], dict[str, bytes]]:
        """What the Secrets hold."""
        pepper, password = secrets.token_hex(32), secrets.token_hex(16)
        self.vendor_key = f"vendor-{secrets.token_hex(16)}"
        made = KeyFile(self.folder / "keys.json", Hasher(pepper.encode())).create(Owner(team="demo", app="pod"))
        self.key = made.secret
        leaves = {f"llm-intercept-{name}": self.authority_leaf(host) for name, host in HOSTS.items()}
        leaves["llm-gateway-tls"] = self.authority_leaf("llm-gateway.llm-egress.svc")
        keys = {
            "keys.json": (self.folder / "keys.json").read_bytes(),
            "pepper": pepper.encode(),
            "redaction-key": secrets.token_hex(32).encode(),
            "store-password": password.encode(),
        }
        return {
            ("Secret", "llm-gateway-keys"): keys,
            ("Secret", "llm-vendor-keys"): {"openai-key": self.vendor_key.encode(), "anthropic-key": b"unused"},
            ("Secret", "llm-store"): {"users.acl": f"user default on >{password} ~* &* +@all\n".encode()},
            **{("Secret", name): {"tls.crt": leaf.cert_pem, "tls.key": leaf.key_pem} for name, leaf in leaves.items()},
        }

    def _vendors(self) -> None:
        command = [sys.executable, "-m", "extproc", "sim", "--address", "127.0.0.1", "--port", "443"]
        command += ["--ca", str(self.folder / "vendor-ca"), "--openai-key-env", "SIM_KEY"]
        with (self.folder / "sim.log").open("wb") as log:
            self.sim = subprocess.Popen(
                ["ip", "netns", "exec", self.netns, *command],
                env={**os.environ, "SIM_KEY": self.vendor_key}, stdout=log, stderr=log, cwd=self.folder,
            )  # fmt: skip

    def call(self, port: int = 8443, name: str = HOSTS["openai"], path: str = "/v1/chat/completions") -> Document:
        """A call by an app that trusts the interception authority."""
        command = ["ip", "netns", "exec", self.netns, sys.executable, "-c", CALL, "127.0.0.1", str(port), name]
        command += [str(self.folder / "bundle.pem"), self.key, path]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, f"{done.stderr}\n{self.gateway.log('envoy')[-2000:]}"
        answer: Document = json.loads(done.stdout)
        return answer

    def bypass(self) -> None:
        """A connection that ends in the trap."""
        code = (
            "import socket; s = socket.create_connection(('127.0.0.1', 15443), 5); s.sendall(b'SSH-2.0-x'); s.recv(1)"
        )
        done = subprocess.run(
            ["ip", "netns", "exec", self.netns, sys.executable, "-c", code],
            capture_output=True,
            timeout=30,
            check=False,
        )
        assert b"ConnectionResetError" in done.stderr

    def until(self, what: str, status: int) -> None:
        """Until calls get a status."""
        last: list[Document] = []

        def got() -> bool:
            last.append(self.call())
            return bool(last[-1]["status"] == status)

        try:
            self.gateway.wait(got, 20, "envoy")
        except AssertionError as error:
            raise AssertionError(f"{what}: {last[-1]}") from error

    def close(self) -> None:
        """End everything."""
        for pod in reversed(self.pods.values()):
            pod.close()
        if self.sim is not None:
            self.sim.terminate()
            self.sim.wait(10)


@contextmanager
def running(kind: type[Cluster], folder: Path) -> Iterator[Cluster]:
    """Skips where namespaces cannot be made, unless EXTPROC_REQUIRE_NETNS=1."""
    reason = why_not()
    if reason:
        if os.environ.get("EXTPROC_REQUIRE_NETNS") == "1":
            pytest.fail(f"network namespaces are required here: {reason}")
        pytest.skip(reason)
    netns = f"llm-pod-{secrets.token_hex(3)}"
    run("ip", "netns", "add", netns)
    made = kind(folder, netns)
    try:
        run("ip", "netns", "exec", netns, "ip", "link", "set", "lo", "up")
        made.start()
        yield made
    finally:
        made.close()
        run("ip", "netns", "delete", netns)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """The development overlay as it is."""
    with running(Cluster, tmp_path_factory.mktemp("pod")) as made:
        yield made


def test_a_call_goes_through(cluster: Cluster) -> None:
    """By interception and by the TLS base URL: the vendor gets its real key, the app shows a virtual one."""
    for port, name, path in (
        (8443, HOSTS["openai"], "/v1/chat/completions"),
        (8444, "llm-gateway.llm-egress.svc", "/v1/chat/completions"),
    ):
        answer = cluster.call(port, name, path)
        assert (answer["status"], answer["error"]) == (200, None), answer
        assert "hi there" in answer["body"]


def test_the_sockets_are_shared_by_group(cluster: Cluster) -> None:
    """Made by extproc, in the pod's group, usable by Envoy, closed to everybody else."""
    folder = cluster.gateway.volume("run")
    cluster.gateway.wait(lambda: len(list(folder.glob("worker-*.sock"))) == 2, 60, "extproc")

    for path in folder.glob("worker-*.sock"):
        found = path.stat()
        assert (found.st_uid, found.st_gid, found.st_mode & 0o777) == (1338, 2000, 0o770)


def test_each_container_sees_its_own_secrets(cluster: Cluster) -> None:
    """Vendor keys are not in extproc's file system, the key table is not in Envoy's; nothing can be written but volumes."""
    see = cluster.gateway.exec
    assert see("envoy", ["cat", "/srv/gateway/envoy/secrets/openai-key"]).stdout == cluster.vendor_key
    assert see("extproc", ["cat", "/srv/gateway/secrets/pepper"]).returncode == 0
    assert see("extproc", ["ls", "/srv/gateway/envoy/secrets"]).returncode != 0
    assert see("envoy", ["ls", "/srv/gateway/secrets"]).returncode != 0
    for name, folder in (("envoy", "xds"), ("envoy", "pki"), ("envoy", "secrets"), ("envoy", "")):
        assert see(name, ["touch", f"/srv/gateway/envoy/{folder}/x"]).returncode != 0


def test_the_numbers_of_the_alerts_are_there(cluster: Cluster) -> None:
    """Each metric of Envoy's that an alert or the autoscaler reads is among its statistics, or is declared in its files."""
    cluster.call()
    cluster.bypass()
    both = 'envoy_cluster_membership_healthy{envoy_cluster_name="extproc"} 2'
    cluster.gateway.wait(lambda: both in cluster.gateway.get(9902, "/stats/prometheus")[1], 60, "envoy")
    status, text = cluster.gateway.get(9902, "/stats/prometheus")
    have = set(re.findall(r"^(envoy_\w+)", text, re.MULTILINE))
    files = "".join(checks.envoy_files(build("dev")).values())
    own = {f"envoy_llm_{name}" for name in re.findall(r"\{?name: (\w+)", files)}
    wanted = {name for names in alert_metrics().values() for name in names if name.startswith("envoy_")}

    assert status == 200
    assert {"envoy_llm_in_flight", "envoy_egress_bypass_connections_total"} <= have
    assert wanted - have - own == set()
    assert "llm_requests_total" in cluster.gateway.get(9464, "/metrics")[1]


def test_the_rest_of_the_admin_interface_is_closed(cluster: Cluster) -> None:
    """The pod's address answers two paths."""
    for path in ("/", "/config_dump", "/stats", "/stats/prometheus/../../config_dump", "/quitquitquit", "/ready/x"):
        assert cluster.gateway.get(9902, path)[0] in {400, 404}, path


def test_a_swapped_secret_is_live(cluster: Cluster) -> None:
    """The vendor's key and a certificate, as the kubelet renews them, with no restart."""
    gateway, old = cluster.gateway, cluster.call()["serial"]
    keys = gateway.sources["Secret", "llm-vendor-keys"]
    gateway.sources["Secret", "llm-vendor-keys"] = {**keys, "openai-key": b"revoked"}
    gateway.swap("vendor-keys")
    cluster.until("the vendor refuses the new key", 401)
    gateway.sources["Secret", "llm-vendor-keys"] = keys
    gateway.swap("vendor-keys")
    cluster.until("the vendor takes the old key again", 200)

    leaf = cluster.authority_leaf(HOSTS["openai"], days=3)
    gateway.sources["Secret", "llm-intercept-openai"] = {"tls.crt": leaf.cert_pem, "tls.key": leaf.key_pem}
    gateway.swap("certificates")

    gateway.wait(lambda: cluster.call()["serial"] != old, 20, "envoy")
    wanted = x509.load_pem_x509_certificate(leaf.cert_pem).not_valid_after_utc.timestamp()
    assert ends(gateway, "intercept-openai") == {wanted}  # what the alarm about certificates reads


def ends(gateway: PodRun, certificate: str) -> set[float]:
    """When Envoy says that a certificate ends (Unix seconds), over all its listeners."""
    text = gateway.get(9902, "/stats/prometheus")[1]
    wanted = f'expiration_unix_time_seconds{{envoy_tls_certificate="{certificate}"'
    return {float(line.rpartition(" ")[2]) for line in text.splitlines() if wanted in line}


def test_a_swapped_configuration_is_live(cluster: Cluster) -> None:
    """gateway.yaml without the app's rule: refused; and with it again."""
    gateway = cluster.gateway
    name = ("ConfigMap", "llm-gateway-config")
    before = gateway.sources[name]
    gateway.sources[name] = {"gateway.yaml": before["gateway.yaml"].replace(b"team: demo", b"team: other")}
    gateway.swap("gateway-config")
    cluster.until("the team has no rule", 403)
    gateway.sources[name] = before
    gateway.swap("gateway-config")
    cluster.until("the team has its rule", 200)
    assert cluster.call()["status"] == 200


def test_the_end_of_the_pod(cluster: Cluster) -> None:
    """preStop takes the pod out of service while calls still pass; SIGTERM ends Envoy, then extproc, in order."""
    gateway = cluster.gateway
    command = list(gateway.container("envoy")["lifecycle"]["preStop"]["exec"]["command"])
    command[command.index("--settle") + 1] = "0"
    done = gateway.exec("envoy", command)

    assert (done.returncode, done.stderr) == (0, "")
    assert gateway.probe("envoy", "readinessProbe") == 503
    answer = cluster.call()
    assert (answer["status"], answer["connection"]) == (200, "close")
    assert gateway.terminate("envoy") == 0
    assert gateway.probe("extproc", "readinessProbe") == 200
    assert gateway.terminate("extproc") == 0
