"""`extproc egress`: what it prints, refuses and needs. What the rules do is in adapters/test_firewall.py."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from extproc.adapters import firewall
from extproc.cli.main import main

DRY = ["egress", "install", "--dry-run", "--user", "1337", "--resolver", "192.0.2.1"]


def test_a_dry_run_prints_the_whole_rule_set(capsys: pytest.CaptureFixture[str]) -> None:
    """It replaces the table in the same transaction, holds the values that were given, and loads nothing."""
    assert main([*DRY, "--allow", "10.0.0.0/8", "--keep-port", "2222"]) == 0
    out = capsys.readouterr().out
    head, _, body = out.partition("table inet extproc_egress {\n")
    assert "delete table inet extproc_egress\n" in head
    for line in ("ENVOY = { 1337 }", "RESOLVERS4 = { 192.0.2.1 }", "INSIDE4 = { 10.0.0.0/8 }", "KEEP = { 2222 }"):
        assert f"define {line}" in head
    assert "hook output" in body


@pytest.mark.skipif(os.geteuid() != 0 or shutil.which("nft") is None, reason="nft -c needs root")
@pytest.mark.parametrize(
    "words",
    [
        [],
        ["--allow", "none"],
        ["--resolver", "2001:db8::1", "--transparent"],
        ["--mode", "gateway", "--from", "eth1"],
        ["--mode", "both", "--from", "docker0", "--from", "cali*", "--gateway-address", "10.0.0.9/32", "--transparent"],
    ],
)
def test_nft_takes_what_a_dry_run_prints(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """Each kind of option makes a rule set that nft finds no fault with; nothing is loaded."""
    assert main([*DRY, *words]) == 0
    text = capsys.readouterr().out
    done = subprocess.run(["nft", "-c", "-f", "-"], input=text, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["--mode", "gateway"], "needs the interfaces"),
        (["--from", "eth1", "--user", "1337"], "belongs to mode gateway"),
        (["--user", "no-such-user"], "useradd"),
        (["--rules", "nowhere.nft"], "--rules"),
        (["--user", "1337", "--allow", "0.0.0.0/0"], "extproc egress remove"),
        (["--mode", "gateway", "--from", "eth1", "--gateway-address", "::/0"], "lets nearly everything out"),
        (["--user", "4294967295"], "the last one is 4294967294"),
        (["--user", "4294967296"], "the last one is 4294967294"),
    ],
)
def test_what_makes_no_rule_set_is_told_with_the_cure(
    words: list[str], reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nothing is printed that could be loaded by mistake."""
    assert main(["egress", "install", "--dry-run", *words]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert reason in err


def test_a_gateway_for_others_needs_no_user_of_its_own(capsys: pytest.CaptureFixture[str]) -> None:
    """Mode gateway binds no process of this machine: nobody has to be named, and nobody is looked for."""
    words = ["egress", "install", "--dry-run", "--mode", "gateway", "--from", "eth1", "--resolver", "192.0.2.1"]
    assert main(words) == 0
    out = capsys.readouterr().out
    assert "hook forward" in out
    assert "skuid" not in out


def test_no_resolver_is_told(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """DNS is then closed to apps: better said before than found out."""
    monkeypatch.setattr(firewall, "system_resolvers", lambda: ())
    assert main(["egress", "install", "--dry-run", "--user", "1337"]) == 0
    out, err = capsys.readouterr()
    assert "--resolver" in err
    assert "set resolvers4" in out
    assert "$RESOLVERS" not in out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--allow", "10.0.0.1/8"], "host bits"),
        (["--resolver", "dns.example"], "dns.example"),
        (["--mode", "router"], "router"),
        (["--resolver", "fe80::1%eth0"], "write fe80::1\n"),
        (["--allow", "fe80::%eth0/64"], "write fe80::/64\n"),
    ],
)
def test_wrong_words(words: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    """A network with host bits, a resolver by name or an address with a zone is a wrong command line."""
    with pytest.raises(SystemExit) as stop:
        main([*DRY, *words])
    assert stop.value.code == 2
    assert said in capsys.readouterr().err


@pytest.mark.skipif(os.geteuid() != 0 or shutil.which("nft") is None, reason="nft -c needs root")
def test_a_dry_run_asks_nft(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What nft would refuse is not printed; nft's reason is told."""
    template = (Path(__file__).parents[2] / "envoy" / "egress.nft").read_text()
    (tmp_path / "spoilt.nft").write_text(template + "table inet other { nonsense }\n")
    assert main([*DRY, "--rules", str(tmp_path / "spoilt.nft")]) == 1
    out, err = capsys.readouterr()
    assert (out, "nft: refuses the rules" in err, "nonsense" in err) == ("", True, True)


def test_a_dry_run_needs_no_rights(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Where nft may not be asked, what would be loaded is printed all the same."""
    refusing = tmp_path / "unshare"
    refusing.write_text("#!/bin/sh\necho 'unshare failed: Operation not permitted' >&2\nexit 1\n")
    refusing.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    assert main(DRY) == 0
    assert "table inet extproc_egress" in capsys.readouterr().out


def test_a_missing_nft_is_told_with_the_cure(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The package is named; a dry run does without it."""
    monkeypatch.setattr(firewall.shutil, "which", lambda *_args, **_options: None)
    assert main(["egress", "status", "--state", str(tmp_path)]) == 1
    assert "install the package nftables" in capsys.readouterr().err
    assert main(DRY) == 0


@pytest.mark.skipif(os.geteuid() != 0 or shutil.which("nft") is None, reason="only root can be somebody else")
def test_who_is_not_root_is_told(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """nft itself says so, so that a process with CAP_NET_ADMIN may go on."""
    ordinary = subprocess.run

    def as_nobody(command: list[str], **options: object) -> subprocess.CompletedProcess[str]:
        return ordinary(command, user=65534, group=65534, extra_groups=[], **options)  # type: ignore[call-overload, no-any-return]

    monkeypatch.setattr(firewall.subprocess, "run", as_nobody)
    for action in ("install", "remove", "status"):
        words = ["--user", "1337"] if action == "install" else []
        assert main(["egress", action, "--state", str(tmp_path / "st"), *words]) == 1
        assert "only root" in capsys.readouterr().err
    assert not (tmp_path / "st").exists()
