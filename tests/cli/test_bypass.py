"""`extproc bypass report`: table, JSON and page."""

from __future__ import annotations

import json
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

from adapters.test_bypass import blocked, call, write
from extproc.cli.bypass import EVENTS
from extproc.cli.main import main

HOSTILE = '<img src=x onerror=alert(1)>"&\x1b[31m.example'


@pytest.fixture
def state(tmp_path: Path) -> Path:
    """A state folder with events and records."""
    (tmp_path / EVENTS).parent.mkdir(parents=True)
    write(
        tmp_path / EVENTS,
        *(blocked("10.0.0.5", "api.openai.com") for _ in range(3)),
        blocked("10.0.0.6", HOSTILE, "11:00:00"),
        b'not json, but with the word "connect"\n',
    )
    write(tmp_path / "extproc.log", *(call("10.0.0.5", "search") for _ in range(9)))
    return tmp_path


def test_the_table(state: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Who, where, how often, since when; adoption per team. A name cannot paint the terminal."""
    assert main(["bypass", "report", "--state", str(state)]) == 0
    out, err = capsys.readouterr()
    lines = [line.split() for line in out.splitlines()]
    assert ["search", "9", "3", "75.0%"] in lines
    assert ["3", "10.0.0.5", "search", "api.openai.com", "direct", "tls"] in [line[:6] for line in lines]
    assert out.count("2026-11-20 10:00:00Z") == 2
    assert "\x1b" not in out
    assert "1 of 14 lines could not be read" in err
    assert "QUIC and other UDP" in err
    assert "extproc egress status" in err


def test_json_and_since(state: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`--json` is one document; `--since` takes a time; `--team` names whose addresses they are."""
    command = ["bypass", "report", "--state", str(state), "--json", "--since", "2026-11-20T10:30:00Z"]
    assert main([*command, "--team", "ops=10.0.0.6/32"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert [(row["source"], row["team"], row["target"]) for row in told["attempts"]] == [("10.0.0.6", "ops", HOSTILE)]
    assert told["adoption"] == [{"team": "ops", "governed": 0, "blocked": 1, "share": 0.0}]


class Tags(HTMLParser):
    """What is in a page: tags, their attributes, and the text."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs

    def handle_data(self, data: str) -> None:
        self.text += data


def test_the_page(state: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One file: no script, nothing from elsewhere, hostile names are text; light and dark."""
    file = tmp_path / "report.html"
    assert main(["bypass", "report", "--state", str(state), "--html", str(file)]) == 0
    assert "wrote" in capsys.readouterr().err
    text = file.read_text(encoding="utf-8")
    page = Tags()
    page.feed(text)
    assert not {"script", "img", "link", "iframe", "object"} & set(page.tags)
    assert not [name for name, _ in page.attributes if name.startswith("on") or name in {"src", "href"}]
    assert "url(" not in text
    assert "@import" not in text
    assert HOSTILE in page.text
    assert "75.0%" in page.text
    assert "QUIC and other UDP" in page.text
    assert "color-scheme: light dark" in text
    assert page.tags.count("tr") == 2 + 2 + 2  # two heads, two teams, two attempts


def test_nothing_to_report(state: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """No attempt is said in words; adoption is then whole."""
    (state / EVENTS).write_text("")
    assert main(["bypass", "report", "--state", str(state)]) == 0
    out, err = capsys.readouterr()
    assert ["search", "9", "0", "100.0%"] in [line.split() for line in out.splitlines()]
    assert "nobody tried to go around" in err


def test_the_earlier_part_of_the_log_counts(state: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`up` renames a log that has grown: both parts are read, also in the moment when there is no new one yet."""
    command = ["bypass", "report", "--state", str(state), "--json"]
    (state / EVENTS).rename(state / EVENTS.with_name("access.log.1"))
    assert main(command) == 0
    assert json.loads(capsys.readouterr().out)["blocked"] == 4
    write(state / EVENTS, blocked("10.0.0.5", "api.openai.com"))
    assert main(command) == 0
    assert json.loads(capsys.readouterr().out)["blocked"] == 5


def test_a_missing_log_is_told_with_the_cure(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """No events is not the same as no file."""
    assert main(["bypass", "report", "--state", str(tmp_path)]) == 1
    assert "--events" in capsys.readouterr().err


def test_events_come_from_a_pipe(state: Path) -> None:
    """`kubectl logs ... | extproc bypass report --events /dev/stdin`."""
    command = [sys.executable, "-m", "extproc", "bypass", "report", "--json", "--events", "/dev/stdin"]
    done = subprocess.run(
        [*command, "--state", str(state)], input=(state / EVENTS).read_bytes(), capture_output=True, check=False
    )
    assert (done.returncode, json.loads(done.stdout)["blocked"]) == (0, 4), done.stderr


@pytest.mark.parametrize(
    "words",
    [["--since", "soon"], ["--team", "search"], ["--team", "=10.0.0.0/8"], ["--top", "-1"], ["--top", "x"]],
)
def test_wrong_words(state: Path, words: list[str]) -> None:
    """A time, a network or a number of lines that is none is a wrong command line."""
    with pytest.raises(SystemExit) as stop:
        main(["bypass", "report", "--state", str(state), *words])
    assert stop.value.code == 2
