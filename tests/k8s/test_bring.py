"""What a platform team brings: the authority, certificates, keys and Secrets, made as the docs say."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from extproc.adapters.keys import open_key_store
from extproc.adapters.redaction_key import read_redaction_key
from extproc.cli.main import main
from extproc.config import load
from extproc.config.model import Keys
from extproc.config.units import SecretRef
from k8s import checks
from k8s.manifests import BUILDS, K8S, OVERLAYS, ROOT, build, find


@pytest.mark.parametrize("name", OVERLAYS)
def test_the_authority_may_sign_every_certificate(name: str, tmp_path: Path) -> None:
    """One made by `ca init` from the shipped gateway.yaml signs what each Certificate asks for, the TLS base URL's too."""
    (tmp_path / "gateway.yaml").write_text(find(build(name), "ConfigMap", "llm-gateway-config")["data"]["gateway.yaml"])
    place = ["--config", str(tmp_path / "gateway.yaml"), "--folder", str(tmp_path / "ca")]
    assert main(["ca", "init", *place]) == 0
    wanted = [d["spec"]["dnsNames"] for d in build("cert-manager") if d["kind"] == "Certificate"]

    assert len(wanted) == 3
    for names in wanted:
        assert main(["ca", "issue", *place, "--days", "7", *names]) == 0
    assert main(["ca", "issue", *place, "other.example"]) != 0


def test_cert_manager_writes_the_secrets_that_the_pod_mounts() -> None:
    """Each certificate's Secret is a source of the volume, and each source has a certificate."""
    documents = build("cert-manager")
    made = {d["spec"]["secretName"] for d in documents if d["kind"] == "Certificate"}
    volume = next(
        v
        for v in find(documents, "Deployment", "llm-gateway")["spec"]["template"]["spec"]["volumes"]
        if v["name"] == "certificates"
    )

    assert made == {source["secret"]["name"] for source in volume["projected"]["sources"]}


def test_certificates_are_renewed_before_their_alarms() -> None:
    """A leaf of `serve` (a day, renewed after two thirds) and one of cert-manager's (a week) ring only if renewal fails."""
    rules = find(build("monitoring"), "PrometheusRule", "llm-gateway")["spec"]["groups"][0]["rules"]
    expr = {rule["alert"]: " ".join(rule["expr"].split()) for rule in rules}
    ends = float(expr["LLMGatewayCertificateEnds"].rpartition("< ")[2])
    late, since = map(float, re.findall(r"[<>] (\d+)", expr["LLMGatewayCertificateLate"]))
    day = load(
        find(build("central"), "ConfigMap", "llm-gateway-config")["data"]["gateway.yaml"].encode(),
        "gateway.yaml",
        base=Path("/srv/gateway/config"),
    ).interception.leaf_life
    weeks = [d["spec"] for d in build("cert-manager") if d["kind"] == "Certificate"]
    hours = {
        field: {float(spec[field].removesuffix("h")) * 3600 for spec in weeks} for field in ("duration", "renewBefore")
    }

    assert ends < day / 3
    assert late < min(hours["renewBefore"])
    assert day < since < min(hours["duration"])


def test_no_manifest_holds_a_secret() -> None:
    """Secrets are named, never made here."""
    for name in BUILDS:
        assert [d for d in build(name) if d["kind"] == "Secret"] == []
    for path in K8S.rglob("*.yaml"):
        assert "secretGenerator" not in path.read_text(), path


def test_the_docs_name_every_secret() -> None:
    """And every key in it, so that a platform team knows what to bring."""
    text = (ROOT / "docs" / "kubernetes.md").read_text()
    for secret, keys in checks.SECRETS.items():
        for word in (secret, *keys):
            assert f"`{word}`" in text, f"{secret}: {word}"


def test_the_keys_are_made_as_the_docs_say(tmp_path: Path) -> None:
    """The lines of the page, run: they leave what the Secret is made of, as the gateway reads it, and nothing that others see."""
    text = (ROOT / "docs" / "kubernetes.md").read_text()
    blocks = re.findall(r"```sh\n(.*?)```", text, re.DOTALL)
    (lines,) = [block for block in blocks if "extproc keys create" in block]
    folder = Path(sys.executable).parent
    environment = {"PATH": f"{folder}:/usr/bin:/bin", "EXTPROC_CONFIG": str(K8S / "base/gateway.yaml")}
    done = subprocess.run(["sh", "-ec", lines], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60, check=False)  # fmt: skip
    assert done.returncode == 0, done.stderr
    made = tmp_path / "llm-secrets"
    words = re.search(r"create secret generic llm-gateway-keys .*?--dry-run", text, re.DOTALL)
    assert words is not None
    files = re.findall(r"--from-file=(\S+)", words[0])

    assert set(files) == checks.SECRETS["llm-gateway-keys"]
    assert {path.stat().st_mode & 0o777 for path in map(made.joinpath, files)} == {0o600}
    keys = Keys(file=made / "keys.json", pepper=SecretRef(file=made / "pepper"))
    found = open_key_store(keys, {}).find(done.stdout.strip(), time.time())
    assert found.caller is not None
    assert (found.caller.team, found.caller.app) == ("platform", "shop")
    assert len(read_redaction_key(SecretRef(file=made / "redaction-key"), {})) == 64


def test_secrets_are_applied_without_a_copy() -> None:
    """A client-side apply would keep the whole Secret in an annotation, which more people may read."""
    text = (ROOT / "docs" / "kubernetes.md").read_text()
    applied = re.findall(r"kubectl apply[^\n]*-f -", text)

    assert applied
    assert set(applied) == {"kubectl apply --server-side -f -"}
