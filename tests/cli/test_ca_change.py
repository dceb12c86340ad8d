"""`extproc ca rotate`, `status`, `request`, `import`: what an operator types, in the order of docs/certificates.md."""

from __future__ import annotations

import argparse
import datetime as dt
import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509

from adapters.handshakes import handshake, strict_client
from adapters.test_pki_corporate import Corporate
from extproc.adapters import first_run, leaves, pki, pki_chain
from extproc.adapters.pki import make_ca
from extproc.adapters.pki_files import read_certificates, read_key, to_pem
from extproc.cli import ca
from extproc.config import load
from extproc.errors import ConfigError

CONFIG = b"""
version: 1
providers: {openai: {api: openai, hosts: [api.openai.com]}}
keys: {file: keys.json, pepper: {file: pepper}}
interception: {leaf_life: 12h}
"""
OTHER = b"anthropic: {api: anthropic, hosts: [api.anthropic.com]}"


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A gateway that has started once: CA, bundle, leaves; commands find it in the working directory."""
    monkeypatch.chdir(tmp_path)
    for name in ("EXTPROC_CONFIG", "EXTPROC_STATE"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "gateway.yaml").write_bytes(CONFIG)
    config = load(CONFIG, "gateway.yaml", base=tmp_path)
    assert call("init") == 0
    first_run.certificates(tmp_path / "state", config, tmp_path / "state" / "envoy")
    return tmp_path / "state"


def call(*arguments: str) -> int:
    parser = argparse.ArgumentParser()
    ca.add_arguments(parser)
    return ca.run(parser.parse_args(arguments))


def told(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
    """What a command says with --json."""
    capsys.readouterr()
    assert call(*arguments, "--json") == 0
    value: dict[str, Any] = json.loads(capsys.readouterr().out)
    return value


def leaf(place: Path, name: str = "intercept-openai") -> x509.Certificate:
    return leaves.read_leaf(place / "envoy" / "sds" / f"{name}.yaml")


def test_rotate_replaces_the_leaves(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """For the same hosts, with the configured life, by the same intermediate; each file is a new one."""
    before, issuer = leaf(place), pki_chain.load_issuer(place / "ca").certificate
    inode = (place / "envoy" / "sds" / "gateway.yaml").stat().st_ino
    assert "gateway, intercept-openai" in told(capsys, "rotate")["done"][0]
    after = leaf(place)
    assert after.serial_number != before.serial_number
    assert after.not_valid_after_utc - dt.datetime.now(dt.UTC) <= dt.timedelta(hours=12)
    after.verify_directly_issued_by(issuer)
    assert (place / "envoy" / "sds" / "gateway.yaml").stat().st_ino != inode


def test_a_further_host_needs_a_new_intermediate_and_no_new_root(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The configuration grew: `rotate intermediate` signs for it, and what apps trust is as it was."""
    trusted = (place / "ca" / "ca.pem").read_bytes()
    text = CONFIG.replace(b"[api.openai.com]", b"[api.openai.com, eu.openai.example]")
    Path("gateway.yaml").write_bytes(text)
    assert call("issue", "eu.openai.example") == 1
    assert "ca rotate intermediate" in capsys.readouterr().err
    assert call("rotate", "intermediate") == 0
    assert call("issue", "eu.openai.example", "--out", "here") == 0
    made = pki.Leaf(Path("here/eu.openai.example.pem").read_bytes(), Path("here/eu.openai.example.key").read_bytes())
    handshake(strict_client(trusted), made, "eu.openai.example")
    assert (place / "ca" / "ca.pem").read_bytes() == trusted
    leaf(place).verify_directly_issued_by(pki_chain.load_issuer(place / "ca").certificate)


def test_a_new_intermediate_needs_the_root_key(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It may be elsewhere, and is named for the minute that it is needed."""
    (place / "ca" / "root.key").rename("usb.key")
    assert call("rotate", "intermediate") == 1
    assert "--root-key" in capsys.readouterr().err
    before = pki_chain.load_issuer(place / "ca").certificate
    assert call("rotate", "intermediate", "--root-key", "usb.key") == 0
    assert pki_chain.load_issuer(place / "ca").certificate != before
    assert not (place / "ca" / "root.key").exists()


def test_a_change_of_the_root(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Three steps; the bundle holds one, two, two, one of our roots; leaves change with the second step only."""

    def roots() -> int:
        """Ours in the bundle."""
        text = (place / "ca" / "bundle.pem").read_bytes()
        return sum(to_pem(one) in text for one in seen)

    assert call("bundle") == 0
    (first,) = x509.load_pem_x509_certificates((place / "ca" / "ca.pem").read_bytes())
    seen, before = [first], leaf(place)
    assert roots() == 1
    assert call("rotate", "root") == 0
    seen.append(x509.load_pem_x509_certificates((place / "ca" / "ca.pem").read_bytes())[1])
    assert (roots(), leaf(place)) == (2, before)
    assert "rotate switch" in " ".join(told(capsys, "status")["warnings"])
    assert call("rotate", "switch") == 0
    assert roots() == 2
    assert leaf(place) != before
    assert "rotate forget" in " ".join(told(capsys, "status")["warnings"])
    assert call("rotate", "forget") == 0
    assert roots() == 1
    assert to_pem(seen[1]) in (place / "ca" / "bundle.pem").read_bytes()
    assert call("rotate", "switch") == 1
    assert "rotate root" in capsys.readouterr().err


def test_status_tells_names_and_dates(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Root, intermediate, each leaf; a fresh gateway has one thing to care for: the root's key."""
    status = told(capsys, "status")
    assert [row["what"] for row in status["certificates"]] == ["root", "intermediate", "leaf", "leaf"]
    assert status["certificates"][0]["hosts"] == ["(any)"]
    assert status["certificates"][1]["hosts"] == ["api.openai.com", "localhost", "127.0.0.1", "::1"]
    assert [row["name"] for row in status["certificates"][2:]] == ["gateway", "intercept-openai"]
    assert status["certificates"][3]["until"] == leaf(place).not_valid_after_utc.isoformat()
    assert len(status["warnings"]) == 1
    assert "root.key" in status["warnings"][0]
    assert call("status") == 0
    shown = capsys.readouterr()
    assert "intercept-openai" in shown.out
    assert "warning: the root's key is here" in shown.err


@pytest.mark.parametrize(
    ("days", "warning"),
    [(1 / 86_400, "has ended"), (0.5, "should have been renewed"), (1.0, "")],
)
def test_status_warns_of_leaves(
    place: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, days: float, warning: str
) -> None:
    """One that has ended, one that nobody renewed in time, and not of one that is in its first half."""
    made = pki_chain.load_issuer(place / "ca").issue(["api.openai.com"], days)
    pki.write_sds_certificate(place / "envoy" / "sds" / "intercept-openai.yaml", "intercept-openai", made)

    class Later(dt.datetime):
        """Half a day less a little from now."""

        @classmethod
        def now(cls, tz: dt.tzinfo | None = None) -> Any:
            return dt.datetime.now(tz) + dt.timedelta(hours=11.5)

    class Module:
        """`datetime` with that clock."""

        datetime, timedelta, UTC = Later, dt.timedelta, dt.UTC

    monkeypatch.setattr("extproc.cli.ca_change.dt", Module)
    (row,) = (row for row in told(capsys, "status")["certificates"] if row["name"] == "intercept-openai")
    assert row["warning"].startswith(warning)
    assert bool(row["warning"]) is bool(warning)


def test_status_warns_of_an_older_intermediate(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A leaf that another intermediate signed, and a folder of an older version."""
    pki_chain.new_intermediate(place / "ca", pki_chain.vouched_for(pki_chain.load_issuer(place / "ca").certificate))
    assert sum("older intermediate" in warning for warning in told(capsys, "status")["warnings"]) == 2
    made = make_ca(pki.CaShape("other")).issue(["api.openai.com"], 1)
    assert call("rotate") == 0
    pki.write_sds_certificate(place / "envoy" / "sds" / "intercept-openai.yaml", "intercept-openai", made)
    assert any("older intermediate" in warning for warning in told(capsys, "status")["warnings"])
    pki.create_ca(Path("old"), "old", hosts=["a.example"])
    warnings = told(capsys, "status", "--folder", "old")["warnings"]
    assert any("older version" in warning and "rotate root" in warning for warning in warnings)


def test_a_provider_that_was_taken_out(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Its file stays, is named, and stops no rotation; but the root that it is signed under is not forgotten."""
    Path("gateway.yaml").write_bytes(CONFIG.replace(b"openai: {api: openai, hosts: [api.openai.com]}", OTHER))
    stale, file = leaf(place), place / "envoy" / "sds" / "intercept-openai.yaml"
    for words in (
        ("rotate", "intermediate"),
        ("rotate",),
        ("rotate", "root"),
        ("rotate", "switch"),
        ("rotate", "switch"),
    ):
        assert call(*words) == 0
        assert leaf(place) == stale
        (root,) = (
            one for one in pki_chain.load_issuer(place / "ca").roots if one == pki_chain.root_in_use(place / "ca")
        )
        chain = leaves.read_chain(place / "envoy" / "sds" / "gateway.yaml")
        assert pki_chain.root_of(chain, (root,)) is not None
    told_last = capsys.readouterr().err
    assert "not renewed: state/envoy/sds/intercept-openai.yaml" in told_last
    assert "remove it" in told_last
    assert call("rotate", "forget") == 1
    assert "intercept-openai.yaml" in capsys.readouterr().err
    file.unlink()
    assert call("rotate", "forget") == 0


def test_a_change_of_the_root_step_by_step_again(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Each step can be run again: it says what is, and makes nothing anew; a bundle that was not written stops the switch."""
    assert call("rotate", "root") == 0
    trusted = (place / "ca" / "ca.pem").read_bytes()
    first_run_bundle = (place / "ca" / "bundle.pem").read_bytes().replace(trusted, b"")
    (place / "ca" / "bundle.pem").write_bytes(first_run_bundle)
    assert call("rotate", "switch") == 1
    assert "no app was given it" in capsys.readouterr().err
    assert "there already" in told(capsys, "rotate", "root")["done"][0]
    assert (place / "ca" / "ca.pem").read_bytes() == trusted
    assert call("rotate", "switch") == 0
    issuer = pki_chain.load_issuer(place / "ca")
    for name in ("gateway", "intercept-openai"):
        old = make_ca(pki.CaShape("other")).issue(leaves.names_of(leaf(place, name)), 1)
        pki.write_sds_certificate(place / "envoy" / "sds" / f"{name}.yaml", name, old)
    assert call("rotate", "switch") == 0  # it was cut off before the leaves
    assert pki_chain.load_issuer(place / "ca").certificate == issuer.certificate
    leaf(place).verify_directly_issued_by(issuer.certificate)
    assert call("rotate", "forget") == 0
    assert call("rotate", "forget") == 0


def test_status_warns_of_the_future(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What was made while the clock was ahead is refused by apps until then; a gateway that runs makes it anew."""

    class Earlier(dt.datetime):
        """Two days ago."""

        @classmethod
        def now(cls, tz: dt.tzinfo | None = None) -> Any:
            return dt.datetime.now(tz) - dt.timedelta(days=2)

    class Module:
        """`datetime` with that clock."""

        datetime, timedelta, UTC = Earlier, dt.timedelta, dt.UTC

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("extproc.cli.ca_change.dt", Module)
        rows = told(capsys, "status")["certificates"]
    assert [row["what"] for row in rows if "clock was ahead" in row["warning"]] == [
        "root",
        "intermediate",
        "leaf",
        "leaf",
    ]
    assert not any("clock was ahead" in row["warning"] for row in told(capsys, "status")["certificates"])


def test_a_root_key_in_no_folder(capsys: pytest.CaptureFixture[str]) -> None:
    """The error names what was typed, and nothing is left that refuses the next try."""
    assert call("init", "a.example", "--folder", "new", "--root-key", "nodir/x") == 1
    assert "nodir: is no folder" in capsys.readouterr().err
    assert call("init", "a.example", "--folder", "new", "--root-key", "x") == 0


def test_a_corporate_ca(place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """request, (they sign), import, (apps trust their root), switch; then the old root is forgotten."""
    corporate, before = Corporate(tmp_path), leaf(place)
    capsys.readouterr()
    assert call("request") == 0
    request = Path(capsys.readouterr().out.strip())
    assert "waits for a corporate CA" in " ".join(told(capsys, "status")["warnings"])
    signed = corporate.sign(request.read_bytes(), tmp_path / "signed.pem")
    assert call("import", str(signed), "--root", str(corporate.root_file)) == 0
    assert "rotate switch" in capsys.readouterr().err
    assert corporate.root.pem in (place / "ca" / "bundle.pem").read_bytes()
    assert not (place / "ca" / "rotated").exists()  # a gateway that mints is not told to use it yet
    assert call("rotate") == 0
    assert leaf(place).issuer == before.issuer
    assert call("rotate", "switch") == 0
    assert leaf(place).issuer == x509.load_pem_x509_certificate(signed.read_bytes()).subject
    assert call("rotate", "intermediate") == 1
    assert "ca request" in capsys.readouterr().err
    assert call("rotate", "forget") == 0
    rows = told(capsys, "status")["certificates"]
    assert [row["name"] for row in rows if row["what"] == "root"] == ["Corp Root"]


def test_openssl_as_the_corporate_ca(place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With `copy_extensions`, and with the template of docs/certificates.md: both are imported, and leaves verify."""
    words = [
        "req",
        "-x509",
        "-new",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:prime256v1",
        "-nodes",
        "-days",
        "9",
    ]
    words += [
        "-subj",
        "/CN=Corp",
        "-keyout",
        "corp.key",
        "-out",
        "corp.pem",
        "-addext",
        "keyUsage=critical,keyCertSign",
    ]
    openssl(*words)
    text = (Path(__file__).parents[2] / "docs" / "certificates.md").read_text()
    template = text[text.index("basicConstraints = critical") : text.index("excluded;IP.2")] + "excluded;IP.2 = ::/::\n"
    Path("template").write_text(template)
    for extensions in (["-copy_extensions", "copy"], ["-extfile", "template"]):
        assert call("request") == 0
        request = ["-req", "-in", "state/ca/request.csr", "-CA", "corp.pem", "-CAkey", "corp.key", "-days", "9"]
        openssl("x509", *request, *extensions, "-out", "signed.pem")
        assert call("import", "signed.pem", "--root", "corp.pem") == 0
        assert call("rotate", "switch") == 0
        capsys.readouterr()
        made = pki_chain.load_issuer(place / "ca").issue(["api.openai.com"], 1)
        handshake(strict_client((tmp_path / "corp.pem").read_bytes()), made, "api.openai.com")
    with pytest.raises(ConfigError, match="name constraints"):
        pki_chain.load_issuer(place / "ca").issue(["127.0.0.1"])  # the template has no addresses
    made = pki_chain.load_issuer(place / "ca").issue(["llm.corp.example"], 1)
    pki.write_sds_certificate(place / "envoy" / "sds" / "gateway.yaml", "gateway", made)
    assert call("rotate") == 0
    assert leaves.names_of(leaf(place, "gateway")) == ("llm.corp.example",)


def openssl(*words: str) -> None:
    """Run it."""
    subprocess.run(["openssl", *words], check=True, capture_output=True, timeout=20)


def test_no_leaves_yet(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Before the first start there is nothing to rotate, and that is said."""
    assert call("rotate", "--sds", "nowhere") == 0
    assert "when it starts" in capsys.readouterr().err


@pytest.mark.parametrize("words", [("intermediate",), ("root", "switch")])
def test_an_intermediate_that_has_ended(
    place: Path, capsys: pytest.CaptureFixture[str], words: tuple[str, ...]
) -> None:
    """Where the root's key is, and no configuration: status says so, and the cure that it names works, for the same hosts."""
    folder = place / "ca"
    (root,), hosts = (
        read_certificates(folder / "ca.pem"),
        pki_chain.vouched_for(pki_chain.load_issuer(folder).certificate),
    )
    signer = pki.Authority(root, read_key(folder / "root.key"))
    pki_chain.write_issuer(folder, make_ca(pki.CaShape("ended", hosts, days=-1 / 48), signer))
    Path("gateway.yaml").unlink()
    status = told(capsys, "status")
    (row,) = (row for row in status["certificates"] if row["what"] == "intermediate")
    assert row["warning"].startswith("has ended")
    assert "rotate intermediate" in row["warning"]
    assert any("nothing can be signed here" in warning for warning in status["warnings"])
    assert call("bundle") == 0
    for word in words:
        assert call("rotate", word) == 0
    assert pki_chain.vouched_for(pki_chain.load_issuer(folder).certificate) == hosts
    leaf(place).verify_directly_issued_by(pki_chain.load_issuer(folder).certificate)
    assert not any("ended" in row["warning"] for row in told(capsys, "status")["certificates"])


def test_a_root_that_has_ended_is_told(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With what to do about it."""
    ended = make_ca(pki.CaShape("ended", ("a.example",), days=-1 / 48))
    (place / "ca" / "ca.pem").write_bytes(ended.pem)
    (row,) = (row for row in told(capsys, "status")["certificates"] if row["what"] == "root")
    assert row["warning"].startswith("has ended")
    assert "rotate root" in row["warning"]


@pytest.mark.parametrize("what", ["intermediate", "root"])
def test_nothing_to_take_the_hosts_from(place: Path, capsys: pytest.CaptureFixture[str], what: str) -> None:
    """A root that may vouch for any, no intermediate, no configuration: the error says what to bring."""
    Path("gateway.yaml").unlink()
    (place / "ca" / "intermediate.pem").unlink()
    assert call("rotate", what) == 1
    assert "--config" in capsys.readouterr().err


def test_further_authorities_outlive_a_change_of_the_root(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Given once with `bundle --extra`: apps that need them keep them through every step, and the next start."""
    further = make_ca(pki.CaShape("corporate")).pem
    Path("corp.pem").write_bytes(further)
    assert call("bundle", "--extra", "corp.pem") == 0
    assert "extra.pem" in capsys.readouterr().err
    Path("corp.pem").unlink()
    for words in (("rotate", "root"), ("rotate", "switch"), ("rotate", "forget"), ("bundle",)):
        assert call(*words) == 0
        assert further in (place / "ca" / "bundle.pem").read_bytes()
    config = load(CONFIG, "gateway.yaml", base=place.parent)
    first_run.prepare(place, config, {})
    assert further in (place / "ca" / "bundle.pem").read_bytes()


def test_an_import_serves_every_configured_host(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Providers' hosts and the gateway's names: one that is missing is found out now, not when the leaves are renewed."""
    corporate = Corporate(tmp_path)
    assert call("request") == 0
    signed = corporate.sign((place / "ca" / "request.csr").read_bytes(), tmp_path / "signed.pem")
    for text, host in (
        (CONFIG.replace(b"[api.openai.com]", b"[api.openai.com, eu.openai.example]"), "eu.openai.example"),
        (CONFIG.replace(b"leaf_life", b"names: [llm.corp.example], leaf_life"), "llm.corp.example"),
    ):
        Path("gateway.yaml").write_bytes(text)
        assert call("import", str(signed), "--root", str(corporate.root_file)) == 1
        assert f"may not vouch for {host}" in capsys.readouterr().err
    Path("gateway.yaml").write_bytes(CONFIG)
    assert call("import", str(signed), "--root", str(corporate.root_file)) == 0
