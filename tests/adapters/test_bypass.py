"""From Envoy's events and our records to who went around, how often, and adoption."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import pytest

from extproc.adapters.bypass import OVERFLOW, SHARED, TUNNEL, UNKNOWN, Attempt, Reader, address_of, as_json, read_report

DAY = "2026-11-20T"


def blocked(source: str, sni: str | None, at: str = "10:00:00", **more: Any) -> dict[str, Any]:
    """An event of the trap, as Envoy writes it."""
    return {
        "event": "bypass_blocked",
        "entry": "trap.tls",
        "start": f"{DAY}{at}.000Z",
        "source": f"{source}:40000" if ":" not in source else f"[{source}]:40000",
        "destination": "203.0.113.9:443",
        "port": 443,
        "sni": sni,
        "ja4": "t13d1812h1_85036bcba153_d41ae481755e",
        "flags": "UH",
    } | more


def call(source: str, team: str, at: str = "10:00:00") -> dict[str, Any]:
    """A line of the record log."""
    return {
        "event": "exchange",
        "timestamp": f"{DAY}{at}.000000Z",
        "source": f"{source}:51000",
        "team": team,
        "status": 200,
    }


def write(path: Path, *entries: dict[str, Any] | bytes) -> Path:
    """A log file."""
    path.write_bytes(b"".join(e if isinstance(e, bytes) else json.dumps(e).encode() + b"\n" for e in entries))
    return path


def only(attempts: list[Attempt]) -> Attempt:
    """The one attempt."""
    (attempt,) = attempts
    return attempt


def test_who_where_how_often_since_when(tmp_path: Path) -> None:
    """Attempts of one source at one name are one row, with the first and the last time, in whatever order they come."""
    log = write(
        tmp_path / "a",
        *(blocked("10.0.0.5", "api.openai.com", at) for at in ("12:00:00", "09:30:00", "11:00:00")),
        blocked("10.0.0.6", None, destination="203.0.113.66:22", port=22, entry="trap.other", ja4=None),
    )
    first, second = read_report([log], None, {}).attempts
    assert (first.source, first.target, first.road, first.protocol, first.count) == (
        *("10.0.0.5", "api.openai.com", "direct", "tls"),
        3,
    )
    assert (first.first, first.last) == (
        datetime(2026, 11, 20, 9, 30, tzinfo=UTC),
        datetime(2026, 11, 20, 12, tzinfo=UTC),
    )
    assert (first.destinations, len(first.ja4)) == (["203.0.113.9:443"], 1)
    assert (second.source, second.target, second.protocol, second.ja4) == ("10.0.0.6", "203.0.113.66:22", "other", [])


def test_the_three_roads(tmp_path: Path) -> None:
    """The trap, an entry that does not serve the name, and a refused CONNECT; a CONNECT that was let through is none."""
    connect = {"event": "connect", "start": f"{DAY}10:00:00Z", "source": "10.0.0.5:1", "authority": "evil.example:443"}
    log = write(
        tmp_path / "a",
        blocked("10.0.0.5", "a.example"),
        blocked("127.0.0.1", "b.example", event="unknown_name", entry="connect.unknown", client="10.0.0.7:2"),
        connect | {"status": 403},
        connect | {"status": 200, "authority": "api.openai.com:443"},
        {"event": "attempt", "start": f"{DAY}10:00:00Z", "status": 403},
    )
    found = {(a.source, a.target, a.road) for a in read_report([log], None, {}).attempts}
    assert found == {
        ("10.0.0.5", "a.example", "direct"),
        ("10.0.0.7", "b.example", "unknown name"),
        ("10.0.0.5", "evil.example:443", "proxy"),
    }


def test_no_name_inside_a_tunnel(tmp_path: Path) -> None:
    """Envoy's own address of the inner listener says nothing to the reader."""
    inside = blocked("10.0.0.5", None, event="unknown_name", destination="envoy://intercept_internal/")
    attempt = only(read_report([write(tmp_path / "a", inside)], None, {}).attempts)

    assert (attempt.target, attempt.road, attempt.destinations) == (TUNNEL, "unknown name", [])


def test_adoption_by_team(tmp_path: Path) -> None:
    """Governed calls / (governed + blocked); a source's team is the one that calls from it, the worst team first."""
    records = write(
        tmp_path / "r",
        *(call("10.0.0.5", "search") for _ in range(6)),
        *(call("10.0.0.8", "sales") for _ in range(4)),
        call("10.0.0.9", ""),  # a wrong key is nobody's call
    )
    events = write(
        tmp_path / "e",
        *(blocked("10.0.0.5", "api.openai.com") for _ in range(2)),
        *(blocked("10.0.0.77", "api.openai.com") for _ in range(3)),
    )
    report = read_report([events, records], None, {})
    assert [(a.team, a.governed, a.blocked, a.share) for a in report.adoption] == [
        (UNKNOWN, 0, 3, 0.0),
        ("search", 6, 2, 0.75),
        ("sales", 4, 0, 1.0),
    ]
    assert (report.blocked, report.governed) == (5, 10)


def test_a_shared_source_is_nobodys_and_a_network_decides(tmp_path: Path) -> None:
    """Two teams behind one address cannot be told apart; a network that names a team wins, the narrowest first."""
    records = write(tmp_path / "r", call("10.0.0.5", "search"), call("10.0.0.5", "sales"))
    events = write(tmp_path / "e", blocked("10.0.0.5", "a.example"), blocked("fd00::5", "a.example"))
    assert {a.team for a in read_report([events, records], None, {}).attempts} == {SHARED, UNKNOWN}
    networks = {ip_network("10.0.0.0/8"): "wide", ip_network("10.0.0.0/24"): "narrow", ip_network("fd00::/64"): "six"}
    assert {a.team for a in read_report([events, records], None, networks).attempts} == {"narrow", "six"}


def test_since(tmp_path: Path) -> None:
    """Earlier attempts and earlier calls do not count."""
    log = write(
        tmp_path / "a",
        *(blocked("10.0.0.5", "a.example", at) for at in ("09:00:00", "11:00:00")),
        *(call("10.0.0.5", "search", at) for at in ("09:00:00", "11:00:00", "12:00:00")),
    )
    report = read_report([log], datetime(2026, 11, 20, 10, tzinfo=UTC), {})
    assert (report.blocked, report.governed) == (1, 2)


def test_a_long_name_is_cut(tmp_path: Path) -> None:
    """A caller chooses names, and a CONNECT may hold kilobytes: what is kept of one has a limit, and is always text."""
    endless = {"event": "connect", "start": f"{DAY}10:00:00Z", "source": "10.0.0.5:1", "status": 403}
    log = write(
        tmp_path / "a",
        endless | {"authority": "a" * 14_000 + ":443"},
        blocked("10.0.0.5", "b" * 14_000, destination="c" * 14_000, ja4="d" * 14_000, entry="trap." + "e" * 14_000),
        blocked("10.0.0.5", "f\ud800.example"),
    )
    attempts = read_report([log], None, {}).attempts
    assert {a.target for a in attempts} == {"a" * 255, "b" * 255, "f?.example"}
    kept = [text for a in attempts for text in (a.protocol, *a.destinations, *a.ja4)]
    assert max(map(len, kept)) <= 255


@pytest.mark.parametrize(
    "line",
    [
        b'{"event":"connect","x":' + b"[" * 60_000,
        json.dumps({"event": "connect", "start": f"{DAY}10:00:00Z", "status": "9" * 5_000}).encode(),
        json.dumps({"event": ["connect"], "start": f"{DAY}10:00:00Z"}).encode(),
        b'{"event":"connect","start":"0001-01-01T00:00:00+14:00"}',
        b'["connect"]',
    ],
    ids=["nested", "status", "event", "time", "list"],
)
def test_an_odd_line_stops_nothing(tmp_path: Path, line: bytes) -> None:
    """It is a bad line like a torn one."""
    log = write(tmp_path / "a", line + b"\n", blocked("10.0.0.5", "a.example"))
    report = read_report([log], None, {})
    assert (report.bad, report.blocked) == (1, 1)


def test_bad_lines_are_counted_and_passed_over(tmp_path: Path) -> None:
    """Torn, foreign and endless lines; the rest is read, also after the endless one. No line end at the end is no fault."""
    good = json.dumps(blocked("10.0.0.5", "a.example")).encode()
    log = write(
        tmp_path / "a",
        b'{"event":"bypass_blocked","start":\n',
        b'{"event":"bypass_blocked"}\n',
        b'{"event":"bypass_blocked","start":"yesterday"}\n',
        b'["bypass_blocked"]\n',
        b'"bypass_blocked" \xff\xfe\n',
        b"[info] a line of Envoy's own log\n",
        b'{"event":"bypass_blocked","x":"' + b"a" * 300_000 + b'"}\n',
        good + b"\n",
        good,
    )
    report = read_report([log], None, {})
    assert (report.lines, report.bad, only(report.attempts).count) == (9, 6, 2)


def test_memory_is_bounded(tmp_path: Path) -> None:
    """Beyond the cap on rows attempts are still counted, together."""
    log = write(tmp_path / "a", *(blocked("10.0.0.5", f"n{n}.example") for n in range(50)))
    reader = Reader(max_rows=10)
    reader.read(log)
    report = reader.report({})
    assert report.blocked == 50
    assert len(report.attempts) == 11
    assert {a.target: a.count for a in report.attempts}[OVERFLOW] == 40


def test_json_has_all(tmp_path: Path) -> None:
    """The JSON form is plain values."""
    log = write(tmp_path / "a", blocked("10.0.0.5", 'a"<b>.example'), call("10.0.0.5", "search"))
    told = json.loads(json.dumps(as_json(read_report([log], None, {}))))
    assert told["adoption"] == [{"team": "search", "governed": 1, "blocked": 1, "share": 0.5}]
    (row,) = told["attempts"]
    assert (row["source"], row["team"], row["target"], row["count"]) == ("10.0.0.5", "search", 'a"<b>.example', 1)
    assert row["first"] == "2026-11-20T10:00:00+00:00"


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("10.0.0.5:40000", "10.0.0.5"),
        ("10.0.0.5", "10.0.0.5"),
        ("[fd00::5]:40000", "fd00::5"),
        ("fd00::5", "fd00::5"),
        ("envoy://internal/", ""),
        ("", ""),
    ],
)
def test_address_of(text: str, address: str) -> None:
    """The address without its port, in both families."""
    assert address_of(text) == address
