"""`extproc ca`: an authority bound to its hosts, certificates that TLS takes, a bundle with the public roots."""

from __future__ import annotations

import argparse
import json
import ssl
import stat
from pathlib import Path

import pytest

from extproc.cli import ca


@pytest.fixture(autouse=True)
def clean(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("EXTPROC_CONFIG", "EXTPROC_STATE"):
        monkeypatch.delenv(name, raising=False)


def call(*arguments: str) -> int:
    parser = argparse.ArgumentParser()
    ca.add_arguments(parser)
    return ca.run(parser.parse_args(arguments))


def handshake(server: ssl.SSLContext, client: ssl.SSLContext, name: str) -> str:
    """A TLS handshake in memory; the version, or the client's error."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    one = server.wrap_bio(to_server, to_client, server_side=True)
    two = client.wrap_bio(to_client, to_server, server_hostname=name)
    done = [False, False]
    for _ in range(10):
        for index, side in enumerate((two, one)):
            if not done[index]:
                try:
                    side.do_handshake()
                    done[index] = True
                except ssl.SSLWantReadError:
                    continue
        if all(done):
            return two.version() or ""
    raise AssertionError("the handshake does not end")


def test_an_issued_certificate_is_taken_by_who_trusts_the_authority(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """init, issue, and a real handshake; keys are private, certificates are not."""
    assert call("init", "api.openai.com") == 0
    folder = tmp_path / "state" / "ca"
    assert Path(capsys.readouterr().out.strip()) == Path("state/ca/ca.pem")
    assert call("issue", "api.openai.com", "--days", "7", "--out", "leaves") == 0
    assert capsys.readouterr().out.strip() == "leaves/api.openai.com.pem"
    for key in (folder / "root.key", folder / "intermediate.pem", tmp_path / "leaves" / "api.openai.com.key"):
        assert stat.S_IMODE(key.stat().st_mode) == 0o600
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain("leaves/api.openai.com.pem", "leaves/api.openai.com.key")
    client = ssl.create_default_context(cafile=str(folder / "ca.pem"))
    assert handshake(server, client, "api.openai.com") == "TLSv1.3"
    with pytest.raises(ssl.SSLCertVerificationError):
        handshake(server, client, "api.anthropic.com")


def test_init_takes_the_hosts_of_the_configuration(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The authority signs for those and for no other."""
    (tmp_path / "gateway.yaml").write_text(
        "version: 1\nproviders:\n  a: {api: openai, hosts: [a.example]}\n  b: {api: anthropic, hosts: [b.example]}\n"
    )
    assert call("init", "--json") == 0
    assert json.loads(capsys.readouterr().out)["hosts"] == [
        "a.example",
        "b.example",
        "localhost",
        "127.0.0.1",
        "::1",
    ]
    assert call("issue", "b.example") == 0
    assert call("issue", "c.example") == 1
    assert "may not sign for that host" in capsys.readouterr().err
    assert not (tmp_path / "state" / "ca" / "c.example.pem").exists()


def test_init_without_hosts_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It would be an authority over the whole Internet."""
    assert call("init") == 1
    assert "name them: ca init" in capsys.readouterr().err
    assert not (tmp_path / "state").exists()


def test_init_keeps_an_authority_that_is_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Apps trust it already."""
    assert call("init", "a.example", "--folder", "here") == 0
    before = (tmp_path / "here" / "ca.pem").read_bytes()
    capsys.readouterr()
    assert call("init", "a.example", "--folder", "here", "--json") == 1
    assert "there is a CA already" in json.loads(capsys.readouterr().err)["errors"][0]["reason"]
    assert (tmp_path / "here" / "ca.pem").read_bytes() == before


def test_the_bundle_holds_the_public_roots_and_ours(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """SSL_CERT_FILE replaces the system's roots, so both must be in it."""
    assert call("init", "a.example") == 0
    capsys.readouterr()
    assert call("bundle", "--json") == 0
    shown = json.loads(capsys.readouterr().out)
    bundle = (tmp_path / "state" / "ca" / "bundle.pem").read_text()
    assert (tmp_path / "state" / "ca" / "ca.pem").read_text() in bundle
    assert shown["certificates"] == bundle.count("BEGIN CERTIFICATE") > 50
    assert call("bundle", "--out", "-") == 0
    assert capsys.readouterr().out == bundle
    context = ssl.create_default_context(cafile=str(tmp_path / "state" / "ca" / "bundle.pem"))
    assert len(context.get_ca_certs()) > 50


@pytest.mark.parametrize("arguments", [("issue", "a.example"), ("bundle",)])
def test_without_an_authority_the_error_is_readable(
    capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...]
) -> None:
    """Exit code 1 and the file that is missing."""
    assert call(*arguments) == 1
    assert "ca.pem" in capsys.readouterr().err


def test_a_certificate_does_not_overwrite_the_authority(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A host called `ca` has the authority's file names."""
    assert call("init", "ca", "root", "intermediate") == 0
    files = {path: path.read_bytes() for path in (tmp_path / "state" / "ca").iterdir()}
    for host in ("ca", "root", "intermediate"):
        assert call("issue", host) == 1
        assert "overwrite" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in (tmp_path / "state" / "ca").iterdir()} == files


def test_the_root_key_is_written_where_it_is_wanted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Apart from the rest, private; the gateway's commands work without it; init says that it belongs offline."""
    (tmp_path / "safe").mkdir()
    assert call("init", "a.example", "--root-key", "safe/key") == 0
    assert "take it offline" in capsys.readouterr().err
    assert stat.S_IMODE((tmp_path / "safe" / "key").stat().st_mode) == 0o600
    assert not (tmp_path / "state" / "ca" / "root.key").exists()
    for words in (("issue", "a.example"), ("bundle",), ("status",)):
        assert call(*words) == 0


def test_a_key_that_others_can_read_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """By every action that would use it; the cure is told as a command."""
    assert call("init", "a.example") == 0
    path = tmp_path / "state" / "ca" / "intermediate.pem"
    path.chmod(0o644)
    for words in (("issue", "a.example"), ("bundle",), ("status",), ("rotate",), ("rotate", "root")):
        capsys.readouterr()
        assert call(*words) == 1
        assert "chmod 600 state/ca/intermediate.pem" in capsys.readouterr().err


@pytest.mark.parametrize("days", ["-1", "0", "nan", "inf", "3650000", "1e400", "ten"])
@pytest.mark.parametrize(
    "words",
    [("issue", "a.example", "--days"), ("init", "a.example", "--days"), ("init", "a.example", "--intermediate-days")],
)
def test_a_life_that_no_certificate_can_have(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], words: tuple[str, ...], days: str
) -> None:
    """A usage error with the bounds; nothing is made."""
    with pytest.raises(SystemExit) as left:
        call(*words[:-1], f"{words[-1]}={days}")
    assert left.value.code == 2
    assert "is no number of days above 0, up to 36500" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_century_is_a_life(capsys: pytest.CaptureFixture[str]) -> None:
    """The largest and a small one are made."""
    assert call("init", "a.example", "--days", "36500", "--intermediate-days", "36500") == 0
    assert call("issue", "a.example", "--days", "0.01") == 0
    assert call("status") == 0


def test_a_host_called_extra(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Its certificate would be taken for the authorities that apps are to trust as well."""
    assert call("init", "extra") == 0
    assert call("issue", "extra") == 1
    assert "overwrite" in capsys.readouterr().err
    assert not (tmp_path / "state" / "ca" / "extra.pem").exists()
