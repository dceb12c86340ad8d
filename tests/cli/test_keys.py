"""`extproc keys`, its output, and `extproc env`, which uses the key."""

from __future__ import annotations

import argparse
import json
import os
import pty
import secrets
import time
from pathlib import Path
from types import ModuleType

import pytest

from extproc.adapters.keyfile import write_atomically
from extproc.adapters.keys import KEY_LENGTH, FileKeyStore, Hasher, read_pepper
from extproc.cli import env, keys, output
from extproc.config.units import SecretRef

CONFIG = "version: 1\nproviders:\n  main: {api: openai, hosts: [api.openai.com]}\n  claude: {api: anthropic}\n"


@pytest.fixture(autouse=True)
def clean(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("EXTPROC_CONFIG", "EXTPROC_STATE", "NO_COLOR"):
        monkeypatch.delenv(name, raising=False)


def call(module: ModuleType, *arguments: str) -> int:
    parser = argparse.ArgumentParser()
    module.add_arguments(parser)
    code: int = module.run(parser.parse_args(arguments))
    return code


def store(folder: Path) -> FileKeyStore:
    found = FileKeyStore(Hasher(read_pepper(SecretRef(file=folder / "pepper"), {})))
    found.apply((folder / "keys.json").read_bytes())
    return found


def create(capsys: pytest.CaptureFixture[str], *more: str) -> str:
    assert call(keys, "create", "--team", "demo", "--app", "chat", *more) == 0
    return capsys.readouterr().out.strip()


def test_create_prints_the_key_alone_and_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Standard output is the key, fit for `$(…)`; no file holds it; pepper and key file are private."""
    assert (
        call(keys, "create", "--state", "s", "--team", "demo", "--app", "chat", "--tenant", "acme", "--user", "ann")
        == 0
    )
    said = capsys.readouterr()
    secret = said.out.strip()
    assert len(secret) == KEY_LENGTH
    assert secret not in said.err
    assert "shown this once" in said.err
    assert all(secret.encode() not in file.read_bytes() for file in (tmp_path / "s").iterdir())
    assert {f.stat().st_mode & 0o777 for f in (tmp_path / "s").iterdir()} == {0o600}
    caller = store(tmp_path / "s").find(secret, 0.0).caller
    assert caller is not None
    assert (caller.team, caller.app, caller.tenant, caller.user) == ("demo", "chat", "acme", "ann")


def test_create_as_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One object with the key and what it stands for, without the digest."""
    shown = json.loads(create(capsys, "--state", "s", "--expires", "30d", "--note", "for Ann", "--json"))
    assert shown["state"] == "live"
    assert shown["note"] == "for Ann"
    assert "digest" not in shown
    found = store(tmp_path / "s").find(shown["key"], time.time() + 29.9 * 86400)
    assert not found.expired
    assert store(tmp_path / "s").find(shown["key"], time.time() + 30.1 * 86400).expired


def test_list_shows_states_and_no_secret(capsys: pytest.CaptureFixture[str]) -> None:
    """Live, expired and revoked, as a table and as JSON."""
    made = [
        create(capsys, "--state", "s"),
        create(capsys, "--state", "s", "--expires", "0s"),
        create(capsys, "--state", "s"),
    ]
    assert call(keys, "revoke", made[2].split("-")[1], "--state", "s") == 0
    assert "revoked" in capsys.readouterr().err
    assert call(keys, "list", "--state", "s") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split()[:4] == ["ID", "STATE", "TEAM", "APP"]
    assert [line.split()[:2] for line in lines[1:]] == [
        [secret.split("-")[1], state] for secret, state in zip(made, ("live", "expired", "revoked"), strict=True)
    ]
    assert call(keys, "list", "--state", "s", "--json") == 0
    text = capsys.readouterr().out
    assert [entry["state"] for entry in json.loads(text)] == ["live", "expired", "revoked"]
    assert not any(secret.rsplit("-", 1)[1] in text for secret in made)


def test_an_organisation_is_listed_where_any_key_has_one(capsys: pytest.CaptureFixture[str]) -> None:
    """Where there is one for all, nobody needs to see it."""
    create(capsys, "--state", "s")
    assert call(keys, "list", "--state", "s") == 0
    assert "ORGANISATION" not in capsys.readouterr().out
    shown = json.loads(create(capsys, "--state", "s", "--organisation", "acme", "--json"))
    assert shown["organisation"] == "acme"
    assert call(keys, "list", "--state", "s") == 0
    header, first, second = capsys.readouterr().out.splitlines()
    assert "ORGANISATION" in header
    assert "acme" not in first
    assert second.index("acme") == header.index("ORGANISATION")


def test_an_organisation_with_braces_fails_readably(capsys: pytest.CaptureFixture[str]) -> None:
    """And no key is made."""
    assert call(keys, "create", "--state", "s", "--team", "t", "--app", "a", "--organisation", "a{b}") == 1
    shown = capsys.readouterr()
    assert "organisation" in shown.err
    assert shown.out == ""


def test_an_empty_list_says_what_to_do(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """And is an empty list for scripts."""
    (tmp_path / "s").mkdir()
    write_atomically(tmp_path / "s" / "pepper", secrets.token_hex(32).encode())
    assert call(keys, "list", "--state", "s") == 0
    assert "keys create" in capsys.readouterr().err
    assert call(keys, "list", "--state", "s", "--json") == 0
    assert json.loads(capsys.readouterr().out) == []


def test_revoke_and_rotate(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Rotation prints the successor; the old key lives through the grace period; revocation ends a key."""
    old = create(capsys, "--state", "s")
    assert call(keys, "rotate", old.split("-")[1], "--grace", "10m", "--state", "s") == 0
    said = capsys.readouterr()
    new = said.out.strip()
    assert "ends at" in said.err
    assert not store(tmp_path / "s").find(old, time.time() + 590).expired
    assert store(tmp_path / "s").find(old, time.time() + 610).expired
    assert call(keys, "revoke", new.split("-")[1], "--state", "s", "--json") == 0
    assert json.loads(capsys.readouterr().out)["state"] == "revoked"
    caller = store(tmp_path / "s").find(new, 0.0).caller
    assert caller is not None
    assert caller.revoked


@pytest.mark.parametrize("action", ["revoke", "rotate"])
def test_an_unknown_id_fails_readably(capsys: pytest.CaptureFixture[str], action: str) -> None:
    """Exit code 1, no traceback, also as JSON."""
    create(capsys, "--state", "s")
    assert call(keys, action, "aaaaaaaaaa", "--state", "s") == 1
    assert "error: there is no key aaaaaaaaaa" in capsys.readouterr().err
    assert call(keys, action, "aaaaaaaaaa", "--state", "s", "--json") == 1
    said = capsys.readouterr()
    assert said.out == ""
    assert "no key" in json.loads(said.err)["errors"][0]["reason"]


def test_the_configuration_names_the_files(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """By `--config`, by $EXTPROC_CONFIG, in the working folder, in a named state folder: relative to the file."""
    for name in ("here", "env", "state"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "gateway.yaml").write_text(CONFIG + "keys: {file: k.json, pepper: {file: p}}\n")
    create(capsys, "--config", "here/gateway.yaml")
    create(capsys, "--state", "state")
    monkeypatch.setenv("EXTPROC_CONFIG", "env/gateway.yaml")
    create(capsys)
    monkeypatch.delenv("EXTPROC_CONFIG")
    monkeypatch.chdir(tmp_path / "here")
    create(capsys)
    counts = [len(json.loads((tmp_path / name / "k.json").read_text())["keys"]) for name in ("here", "env", "state")]
    assert counts == [2, 1, 1]


def test_without_any_place_the_cure_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    """No configuration, no state folder."""
    assert call(keys, "list") == 1
    assert "--config" in capsys.readouterr().err


def test_a_bad_configuration_is_shown_whole(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Every mistake with path, line, reason and cure; the same as JSON."""
    (tmp_path / "gateway.yaml").write_text(CONFIG + "limts: 1\nworkers: {count: 0}\n")
    assert call(keys, "list") == 1
    err = capsys.readouterr().err
    assert "limts (line 5): is not a known key" in err
    assert "did you mean `limits`?" in err
    assert "workers.count (line 6)" in err
    assert call(keys, "list", "--json") == 1
    errors = json.loads(capsys.readouterr().err)["errors"]
    assert [(error["path"], error["line"]) for error in errors] == [("limts", 5), ("workers.count", 6)]


def test_a_lost_pepper_is_not_replaced(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Where there are keys a new pepper would make them void in silence."""
    create(capsys, "--state", "s")
    (tmp_path / "s" / "pepper").unlink()
    assert call(keys, "create", "--state", "s", "--team", "t", "--app", "a") == 1
    assert "keys.pepper.file" in capsys.readouterr().err
    assert not (tmp_path / "s" / "pepper").exists()


@pytest.mark.parametrize("text", ["30", "soon", "-1d", "999999999d"])
def test_a_bad_duration_is_a_usage_error(capsys: pytest.CaptureFixture[str], text: str) -> None:
    """argparse's exit code and a form to follow."""
    with pytest.raises(SystemExit) as caught:
        call(keys, "create", "--state", "s", "--team", "t", "--app", "a", f"--expires={text}")
    assert caught.value.code == 2
    assert text in capsys.readouterr().err


def test_colour_is_for_terminals_only(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """None in a pipe, some on a terminal, none there either under NO_COLOR."""
    output.print_table(("A",), [("b",)])
    assert "\033" not in capsys.readouterr().out
    main, other = pty.openpty()
    with os.fdopen(main, "rb"), os.fdopen(other, "w") as terminal:
        assert output._painted("x", "1", terminal).startswith("\033[1m")
        monkeypatch.setenv("NO_COLOR", "1")
        assert output._painted("x", "1", terminal) == "x"


@pytest.fixture
def state(tmp_path: Path) -> Path:
    folder = tmp_path / "state"
    (folder / "ca").mkdir(parents=True)
    for name in ("ca.pem", "bundle.pem"):
        (folder / "ca" / name).write_text("x")
    (folder / "first-key").write_text("a key\n")
    return folder


def exported(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, str]:
    assert call(env, *arguments, "--json") == 0
    values: dict[str, str] = json.loads(capsys.readouterr().out)
    return values


def test_env_for_a_proxy(state: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Trust, proxy and key; the vendor's address stays."""
    assert exported(capsys) == {
        "SSL_CERT_FILE": str(state / "ca" / "bundle.pem"),
        "REQUESTS_CA_BUNDLE": str(state / "ca" / "bundle.pem"),
        "NODE_EXTRA_CA_CERTS": str(state / "ca" / "ca.pem"),
        "HTTPS_PROXY": "http://127.0.0.1:3128",
        "NODE_USE_ENV_PROXY": "1",
        "OPENAI_API_KEY": "a key",
        "ANTHROPIC_API_KEY": "a key",
    }


@pytest.mark.usefixtures("state")
def test_env_for_base_urls_follows_the_configuration(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The first path segment is the provider's name; each SDK adds what is its own."""
    (tmp_path / "gateway.yaml").write_text(CONFIG)
    assert exported(capsys, "--mode", "base-url", "--host", "gw", "--port", "9000") == {
        "OPENAI_BASE_URL": "http://gw:9000/main/v1",
        "ANTHROPIC_BASE_URL": "http://gw:9000/claude",
        "OPENAI_API_KEY": "a key",
        "ANTHROPIC_API_KEY": "a key",
    }


def test_env_for_interception_is_trust_and_key(state: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """How to bring the names here is said beside it, as a comment."""
    assert call(env, "--mode", "intercept", "--state", str(state)) == 0
    said = capsys.readouterr()
    names = [line.split("=")[0] for line in said.out.splitlines()]
    assert names == [
        "export SSL_CERT_FILE",
        "export REQUESTS_CA_BUNDLE",
        "export NODE_EXTRA_CA_CERTS",
        "export OPENAI_API_KEY",
        "export ANTHROPIC_API_KEY",
    ]
    assert "export OPENAI_API_KEY='a key'" in said.out
    assert said.err.startswith("# ")
    assert "127.0.0.1:8443" in said.err


@pytest.mark.parametrize(
    ("missing", "cure"), [("ca/ca.pem", "ca init"), ("ca/bundle.pem", "ca bundle"), ("first-key", "keys create")]
)
def test_env_says_what_is_missing(state: Path, capsys: pytest.CaptureFixture[str], missing: str, cure: str) -> None:
    """Half an environment would fail later, in the SDK."""
    (state / missing).unlink()
    assert call(env) == 1
    said = capsys.readouterr()
    assert said.out == ""
    assert cure in said.err
