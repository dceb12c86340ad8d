"""`extproc scan`: what it finds, what it would send, how it ends, and what it says to bad input."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest

from extproc.cli.main import main

GATEWAY = """
version: 1
providers:
  openai: {api: openai, hosts: [api.openai.com], credential: {env: X}}
keys: {file: keys.json, pepper: {file: pepper}}
access: [{team: demo}]
redaction:
  profiles:
    standard:
      names: off
      entities: {CREDIT_CARD: {mask: {keep_last: 4}}}
      attachments: {types: ["image/*"], links: false}
    strict: {names: off, entities: {EMAIL_ADDRESS: block}}
    quiet: {names: off, mode: shadow}
    keyed: {names: off, argument_keys: true, patterns: [{kind: STAFF, regex: 'S-\\d{5}'}]}
"""
MAIL, CARD, PHONE = "ann.lee@corp-mail.io", "5555 3412 4444 1115", "+44 20 7946 0958"


@pytest.fixture(scope="session")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Compiled patterns, for all tests of this file."""
    return tmp_path_factory.mktemp("detectors")


@pytest.fixture(autouse=True)
def project(tmp_path: Path, kept: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a configuration."""
    monkeypatch.chdir(tmp_path)
    for name in ("EXTPROC_CONFIG", "EXTPROC_STATE", "NO_COLOR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("EXTPROC_DETECTORS", str(kept))
    (tmp_path / "gateway.yaml").write_text(GATEWAY)
    return tmp_path


class Terminal(io.StringIO):
    """Standard output that is a terminal."""

    def isatty(self) -> bool:
        return True


def scan(capsys: pytest.CaptureFixture[str], text: str | dict, *words: str) -> tuple[int, dict]:
    """Exit code and the JSON answer for a text, or for a body."""
    path = Path("given")
    path.write_text(text if isinstance(text, str) else json.dumps(text))
    capsys.readouterr()
    code = main(["scan", str(path), "--json", *words])
    return code, json.loads(capsys.readouterr().out)


def refusal(capsys: pytest.CaptureFixture[str], *words: str) -> dict:
    """The one error of a command that ends with 1."""
    capsys.readouterr()
    assert main(["scan", "--json", *words]) == 1
    (error,) = json.loads(capsys.readouterr().err)["errors"]
    return error


def test_a_text_with_entities(capsys: pytest.CaptureFixture[str]) -> None:
    """Exit code 3; kind, rule, operator, place and value of each, and the text as it would be sent."""
    code, told = scan(capsys, f"Mail {MAIL}\nor call {PHONE}.\nCard {CARD}; again {MAIL}")

    assert code == 3
    assert [
        ("EMAIL_ADDRESS", "pseudonym", 1, 6, MAIL),
        ("PHONE_NUMBER", "pseudonym", 2, 9, PHONE),
        ("CREDIT_CARD", "mask", 3, 6, CARD),
        ("EMAIL_ADDRESS", "pseudonym", 3, 33, MAIL),
    ] == [(one["kind"], one["operator"], one["line"], one["column"], one["value"]) for one in told["found"]]
    assert all(0.4 <= one["score"] <= 1 and one["rule"] for one in told["found"])
    sent = f"Mail <EMAIL_ADDRESS_1>\nor call <PHONE_NUMBER_1>.\nCard {'*' * 15}1115; again <EMAIL_ADDRESS_1>"
    assert (sent, None, "standard", "enforce") == tuple(told[name] for name in ("sent", "refused", "profile", "mode"))


def test_a_text_with_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    """Exit code 0, and the text as it is; an empty one too."""
    for text in ("The quick brown fox.\n", ""):
        code, told = scan(capsys, text)
        assert (0, [], text) == (code, told["found"], told["sent"])


def test_standard_input(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """`-` stands for it; the words say the same as the JSON."""
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(f"mail {MAIL}".encode())))

    assert main(["scan", "-"]) == 3
    out = capsys.readouterr().out
    head, row, _, words, sent = out.splitlines()
    assert head.split() == ["KIND", "SCORE", "OPERATOR", "RULE", "POSITION", "VALUE"]
    assert row.split() == ["EMAIL_ADDRESS", "1.00", "pseudonym", "EmailRecognizer", "1:6", MAIL]
    assert (words, sent) == ("would be sent:", "mail <EMAIL_ADDRESS_1>")
    assert "\033" not in out


BODIES = {
    "chat": (
        {
            "model": "m",
            "messages": [
                {"role": "user", "content": f"hi {MAIL}"},
                {"role": "assistant", "tool_calls": [
                    {"id": "c", "type": "function",
                     "function": {"name": "f", "arguments": json.dumps({"to": MAIL, "n": 1})}}]},
            ],
        },
        {"messages[0].content", "messages[1].tool_calls[0].function.arguments"},
    ),
    "responses": ({"model": "m", "input": f"hi {MAIL}"}, {"input"}),
    "messages": (
        {"model": "m", "max_tokens": 9, "system": f"for {MAIL}", "messages": [{"role": "user", "content": "hi"}]},
        {"system"},
    ),
    "embeddings": ({"model": "m", "input": ["a", f"b {MAIL}"]}, {"input[1]"}),
}  # fmt: skip


@pytest.mark.parametrize("endpoint", BODIES)
def test_the_body_of_a_call(endpoint: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Positions as vendors write them; the body that would be sent is the given one but for the values."""
    body, positions = BODIES[endpoint]
    code, told = scan(capsys, body, "--endpoint", endpoint)

    assert code == 3
    assert {one["position"] for one in told["found"]} == positions
    assert told["sent"] == json.dumps(body).replace(MAIL, "<EMAIL_ADDRESS_1>")


def test_names_of_tools_and_keys_of_arguments(capsys: pytest.CaptureFixture[str]) -> None:
    """Searched by the scanner of identifiers, and replaced without brackets; keys of arguments where the profile says so."""
    arguments = json.dumps({"S-12345": 1})
    call = {"id": "c", "type": "function", "function": {"name": "S-54321", "arguments": arguments}}
    body = {"model": "m", "messages": [{"role": "assistant", "tool_calls": [call]}]}
    code, told = scan(capsys, body, "--endpoint", "chat", "--profile", "keyed")

    assert code == 3
    assert {"S-12345", "S-54321"} == {one["value"] for one in told["found"]}
    assert "12345" not in told["sent"]
    assert json.loads(told["sent"])["messages"][0]["tool_calls"][0]["function"]["name"].startswith("STAFF_")


def test_a_call_that_would_be_refused(capsys: pytest.CaptureFixture[str]) -> None:
    """Exit code 3, nothing to send; what was found is shown where the search came first."""
    code, told = scan(capsys, f"write {MAIL}", "--profile", "strict")
    assert (3, None, "policy_content_blocked", ["block"]) == (
        code, told["sent"], told["refused"]["code"], [one["operator"] for one in told["found"]]
    )  # fmt: skip

    parts = [{"type": "image_url", "image_url": {"url": "https://x.example/a.png"}}]
    body = {"model": "m", "messages": [{"role": "user", "content": parts}]}
    code, told = scan(capsys, body, "--endpoint", "chat")
    assert (3, [], "policy_attachment_not_allowed") == (code, told["found"], told["refused"]["code"])

    body = {"model": "m", "input": "hi", "previous_response_id": "r"}
    code, told = scan(capsys, body, "--endpoint", "responses")
    assert (3, "policy_stored_history") == (code, told["refused"]["code"])
    assert main(["scan", "given", "--endpoint", "responses"]) == 3
    assert "would be refused: 400 policy_stored_history" in capsys.readouterr().out


def test_shadow_mode_sends_what_it_finds(capsys: pytest.CaptureFixture[str]) -> None:
    """Found, told, and sent as it is."""
    code, told = scan(capsys, f"mail {MAIL}", "--profile", "quiet")

    assert (3, "shadow", f"mail {MAIL}", 1) == (code, told["mode"], told["sent"], len(told["found"]))


def test_colours_are_for_terminals(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Values red, placeholders green; none with --no-color, NO_COLOR or into a file. Control characters are written out."""
    Path("given").write_text(f"\x1b[2J mail {MAIL}")

    def shown(*words: str) -> str:
        terminal = Terminal()
        monkeypatch.setattr("sys.stdout", terminal)
        assert main(["scan", "given", *words]) == 3
        return terminal.getvalue()

    coloured = shown()
    assert f"\033[31m{MAIL}\033[0m" in coloured
    assert "\033[32m<EMAIL_ADDRESS_1>\033[0m" in coloured
    assert "\\x1b[2J" in coloured
    assert "\033" not in shown("--no-color")
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\033" not in shown()


def test_without_a_configuration_the_defaults_hold(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """And that is said; a configuration without a redaction section is no different."""
    (project / "gateway.yaml").unlink()
    Path("given").write_text(f"mail {MAIL}")
    assert main(["scan", "given", "--json"]) == 3
    got = capsys.readouterr()
    assert json.loads(got.out)["sent"] == "mail <EMAIL_ADDRESS_1>"
    assert "no gateway.yaml here: this is what the default profile does" in got.err

    (project / "gateway.yaml").write_text(GATEWAY.partition("redaction:")[0])
    assert main(["scan", "given", "--json"]) == 3
    assert "has no redaction section" in capsys.readouterr().err


def test_bad_input_is_told_with_a_cure(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Exit code 1: a file that is not there, no text, no request; a profile that is not there; a broken configuration."""
    missing = refusal(capsys, "nothing-here")
    assert ("nothing-here", "cannot be read: No such file or directory") == (missing["path"], missing["reason"])

    Path("binary").write_bytes(b"\xff\xfe\x00")
    assert "is not UTF-8 (byte 0)" in refusal(capsys, "binary")["reason"]

    Path("given").write_text(f"no JSON {MAIL}")
    wrong = refusal(capsys, "given", "--endpoint", "chat")
    assert "is no such request" in wrong["reason"]
    assert "without --endpoint it is a plain text" in wrong["hint"]
    assert MAIL not in json.dumps(wrong)

    unknown = refusal(capsys, "given", "--profile", "nope")
    assert "'nope' is not a profile" in unknown["reason"]
    assert "standard, strict, quiet, keyed" in unknown["hint"]

    (project / "gateway.yaml").write_text(GATEWAY.replace("redaction:\n", "redaction:\n  default: none\n"))
    none = refusal(capsys, "given")
    assert (none["path"], "standard" in none["hint"]) == ("redaction.default", True)

    (project / "gateway.yaml").write_text(GATEWAY.replace("names: off", "names: maybe"))
    capsys.readouterr()
    assert main(["scan", "given"]) == 1
    assert "redaction.profiles.standard.names" in capsys.readouterr().err


def test_a_key_that_is_not_there_yet(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Before the first `up` a key of this run stands in, which is said where it shows."""
    (project / "gateway.yaml").write_text(
        GATEWAY.replace("redaction:\n", "redaction:\n  key: {file: state/redaction.key}\n").replace(
            "    quiet:", "    same: {names: off, placeholders: keyed}\n    quiet:"
        )
    )
    Path("given").write_text(f"mail {MAIL}")
    assert main(["scan", "given", "--json"]) == 3
    got = capsys.readouterr()
    assert (json.loads(got.out)["sent"], got.err) == ("mail <EMAIL_ADDRESS_1>", "")

    assert main(["scan", "given", "--json", "--profile", "same"]) == 3
    got = capsys.readouterr()
    assert json.loads(got.out)["sent"].startswith("mail <EMAIL_ADDRESS_")
    assert "redaction.key.file" in got.err
    assert "a key for this run only" in got.err
