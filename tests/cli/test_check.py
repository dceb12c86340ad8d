"""`extproc check`: a good set-up passes Envoy's validation too; each broken one is told by place, reason and cure."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from extproc.adapters.envoy_binary import find_envoy
from extproc.cli.main import main
from extproc.errors import ConfigError

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Compiled patterns, for all tests of this file."""
    return tmp_path_factory.mktemp("detectors")


@pytest.fixture(autouse=True)
def project(tmp_path: Path, kept: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the project's configuration and Envoy files, with a key."""
    monkeypatch.setenv("EXTPROC_DETECTORS", str(kept))
    try:
        monkeypatch.setenv("EXTPROC_ENVOY", str(find_envoy()))
    except ConfigError as error:
        pytest.skip(str(error))
    for name in ("EXTPROC_CONFIG", "EXTPROC_STATE", "NO_COLOR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    shutil.copytree(ROOT / "envoy", tmp_path / "envoy")
    shutil.copy(ROOT / "gateway.yaml", tmp_path)
    assert main(["keys", "create", "--team", "demo", "--app", "demo"]) == 0
    key = tmp_path / "state" / "redaction.key"
    key.write_text("ab" * 32)
    key.chmod(0o600)
    return tmp_path


def check(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, dict]:
    """Exit code and the JSON answer."""
    capsys.readouterr()
    code = main(["check", "--json", *words])
    return code, json.loads(capsys.readouterr().out)


def edit(path: Path, old: str, new: str) -> None:
    """Replace text that must be there."""
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def test_the_projects_own_files_pass(capsys: pytest.CaptureFixture[str]) -> None:
    """Exit code 0, in words and as JSON."""
    assert check(capsys) == (0, {"ok": True, "errors": [], "warnings": []})
    assert main(["check"]) == 0
    assert "in order, and Envoy takes them" in capsys.readouterr().err


SECRET = "sk-" + "a1" * 12
BROKEN = {
    "no such cluster": ("gateway.yaml", "    api: openai\n", "    api: openai\n    cluster: opnai\n",
                        "providers.openai.cluster", "opnai"),
    "a host without a chain": ("gateway.yaml", "hosts: [api.openai.com]", "hosts: [eu.api.openai.com]",
                               "providers.openai.hosts", "no filter chain"),
    "a class without a route that waits": ("gateway.yaml", "idle: 900s", "idle: 1200s",
                                           "timeouts.classes.long.idle", "the class allows 1200 s"),
    "a key in YAML": ("envoy/xds/cds.yaml", "resources:\n", f"# {SECRET}\nresources:\n", "xds/cds.yaml", "a key"),
    "another request limit": ("gateway.yaml", "version: 1\n", "version: 1\nlimits: {request_body: 8MiB}\n",
                              "limits.request_body", "8388608"),
    "a field that Envoy does not know": ("envoy/bootstrap.yaml", "stat_prefix: llm\n", "stat_prefixx: llm\n",
                                         "envoy", "stat_prefixx"),
    "a misspelt setting": ("gateway.yaml", "aliases:", "aliasses:", "aliasses", ""),
    "a model that is not installed": ("gateway.yaml", "stored_history: keyed ",
                                      "names: spacy\n      spacy: {model: no_such} ",
                                      "names: spacy", "not installed"),
    "a region that nobody knows": ("gateway.yaml", "stored_history: keyed ",
                                   "names: off\n      phone_regions: [ZZ] ",
                                   "redaction.profiles.standard", "ZZ"),
    "a provider that is not verified": ("envoy/xds/cds.yaml", "trusted_ca: ", "x: ",
                                        "providers.openai.cluster", "certificate"),
}  # fmt: skip


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_set_up_is_told(project: Path, capsys: pytest.CaptureFixture[str], name: str) -> None:
    """Exit code 1; one of the errors has the place and the reason, and says what to do. No secret is repeated."""
    file, old, new, place, reason = BROKEN[name]
    edit(project / file, old, new)
    code, told = check(capsys)

    assert (code, told["ok"]) == (1, False)
    found = [error for error in told["errors"] if error["path"].startswith(place) and reason in error["reason"]]
    assert found, told
    assert all(error["hint"] for error in found), found
    assert SECRET not in json.dumps(told)


def test_the_words_are_those_of_the_json(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Without `--json` the same place, reason and cure, on standard error."""
    edit(project / "gateway.yaml", "idle: 900s", "idle: 1200s")
    _, told = check(capsys)
    assert main(["check"]) == 1
    got = capsys.readouterr()
    assert got.out == ""
    for error in told["errors"]:
        assert f"{error['path']}: {error['reason']}" in got.err
        assert error["hint"] in got.err


@pytest.mark.parametrize(("gone", "place"), [("keys.json", "keys.file"), ("pepper", "keys.pepper.file")])
def test_keys_are_looked_at_unless_told_otherwise(
    project: Path, capsys: pytest.CaptureFixture[str], gone: str, place: str
) -> None:
    """A missing key file or pepper is an error of `check`; a build machine without them says --no-keys."""
    (project / "state" / gone).unlink()
    code, told = check(capsys)
    assert code == 1
    assert [error["path"] for error in told["errors"]] == [place]
    assert check(capsys, "--no-keys") == (0, {"ok": True, "errors": [], "warnings": []})


def test_a_missing_configuration_has_the_same_json(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Scripts read one shape, whatever is wrong."""
    (project / "gateway.yaml").unlink()
    code, told = check(capsys)
    assert (code, told["ok"]) == (1, False)
    assert told["errors"][0]["path"] == "gateway.yaml"


def test_without_an_envoy_the_cure_is_told(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """`check` without its judge does not pass."""
    monkeypatch.setenv("EXTPROC_ENVOY", "/nowhere/envoy")
    code, told = check(capsys)
    assert code == 1
    assert told["errors"][0]["path"] == "EXTPROC_ENVOY"
    assert told["errors"][0]["hint"]


def test_the_key_of_redaction_is_looked_at(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With the other keys: not on a build machine, which says --no-keys."""
    (project / "state" / "redaction.key").unlink()
    code, told = check(capsys)

    assert (code, [error["path"] for error in told["errors"]]) == (1, ["redaction.key.file"])
    assert check(capsys, "--no-keys") == (0, {"ok": True, "errors": [], "warnings": []})


def test_a_share_of_less_than_one_is_a_warning(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`allow-bounded` would allow nothing: that is taken, and told."""
    rule = "  - {name: flights, kind: requests, window: concurrent, limit: 9, scope: [key]}"
    text = (project / "gateway.yaml").read_text()
    begin = text.index("quotas:")
    (project / "gateway.yaml").write_text(text.replace("rules:\n", f"rules:\n{rule}\n", 1))
    assert "rules:" in text[begin:]
    code, told = check(capsys)

    assert (code, told["errors"]) == (0, [])
    assert [warning.split(":")[0] for warning in told["warnings"]] == ["quotas.rules flights"]
    assert main(["check"]) == 0
    assert "warning: quotas.rules flights" in capsys.readouterr().err
