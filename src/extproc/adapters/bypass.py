"""Who tried to go around the gateway: read from Envoy's access log and from the record log.

Three of Envoy's events are attempts (envoy/bootstrap.yaml): `bypass_blocked` (the trap), `unknown_name` (a TLS entry was
asked for a name that it does not serve) and `connect` with status 403 (a CONNECT to a host that is not listed). The record
log's `exchange` lines are the governed calls; they also say which team calls from which source address.

Files are read line by line: memory grows with the number of different attempts, which is capped, not with their size.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from ipaddress import IPv4Network, IPv6Network, ip_address
from pathlib import Path
from typing import Any, BinaryIO, Final, TypeAlias

Network: TypeAlias = IPv4Network | IPv6Network

UNKNOWN: Final = "(unknown)"  # no governed call came from this source, and no network names its team
SHARED: Final = "(shared)"  # calls of several teams came from it
OVERFLOW: Final = "(others)"
TUNNEL: Final = (
    "(no name, in a tunnel)"  # TLS without a name inside a granted CONNECT: its own address is Envoy's business
)
NOT_HERE: Final = (
    "Not in this report: what the firewall refuses without a connection to the trap (QUIC and other UDP, ICMP, connections "
    "from before) or over the trap's rate. `extproc egress status` counts these packets."
)
MAX_ROWS: Final = 50_000  # different (source, target, road) that are kept apart
_EARLIEST: Final = datetime.min.replace(tzinfo=UTC)
_LATEST: Final = datetime.max.replace(tzinfo=UTC)
_LONGEST_NAME: Final = 255  # characters of a name that are kept; a host name has no more (RFC 1035, 2.3.4)
_LONGEST: Final = 65_536  # bytes of a line; a longer one is none of ours
_WANTED: Final = tuple(name.encode() for name in ('"bypass_blocked"', '"unknown_name"', '"connect"', '"exchange"'))


@dataclass(slots=True)
class Attempt:
    """One source's attempts at one target over one road. Times: UTC. `ja4`: fingerprints seen, at most four.

    `target`: the server name, else address:port. `road`: `direct` | `unknown name` | `proxy`. `protocol`: `tls` | `http` |
    `other`, as the first bytes showed it.
    """

    source: str
    target: str
    road: str
    protocol: str
    count: int = 0
    first: datetime = _LATEST
    last: datetime = _EARLIEST
    destinations: list[str] = field(default_factory=list)
    ja4: list[str] = field(default_factory=list)
    team: str = UNKNOWN

    def add(self, at: datetime, destination: str, ja4: str) -> None:
        """Count one more."""
        self.count += 1
        self.first, self.last = min(self.first, at), max(self.last, at)
        for value, known in ((destination, self.destinations), (ja4, self.ja4)):
            if value and value not in known and len(known) < 4:
                known.append(value)


@dataclass(frozen=True, slots=True)
class Adoption:
    """How much of what a team does goes through the gateway."""

    team: str
    governed: int
    blocked: int

    @property
    def share(self) -> float:
        """Governed calls / (governed calls + blocked attempts), 0 to 1."""
        return self.governed / (self.governed + self.blocked)


@dataclass(slots=True)
class Report:
    """What the files said. `bad`: lines that could not be read. `lines`: all of them."""

    attempts: list[Attempt]
    adoption: list[Adoption]
    lines: int = 0
    bad: int = 0
    since: datetime | None = None

    @property
    def blocked(self) -> int:
        """All attempts."""
        return sum(attempt.count for attempt in self.attempts)

    @property
    def governed(self) -> int:
        """All governed calls."""
        return sum(team.governed for team in self.adoption)


class Reader:
    """Collects attempts and calls from any number of files, in any order."""

    def __init__(self, since: datetime | None = None, max_rows: int = MAX_ROWS) -> None:
        """`since`: earlier lines do not count."""
        self._since = since
        self._max_rows = max_rows
        self._attempts: dict[tuple[str, str, str, str], Attempt] = {}
        self._calls: Counter[str] = Counter()
        self._teams: dict[str, set[str]] = {}
        self._lines = self._bad = 0

    def read(self, path: Path) -> None:
        """Read one file. Raises OSError."""
        with path.open("rb") as file:
            for line in _lines(file):
                self._lines += 1
                if line is None:
                    self._bad += 1
                elif any(name in line for name in _WANTED):
                    self._take(line)

    def report(self, networks: Mapping[Network, str]) -> Report:
        """Sum up. `networks`: whose addresses are whose; the narrowest counts, before what the calls show."""
        for attempt in self._attempts.values():
            attempt.team = self._team(attempt.source, networks)
        blocked: Counter[str] = Counter()
        for attempt in self._attempts.values():
            blocked[attempt.team] += attempt.count
        teams = sorted({*self._calls, *blocked})
        return Report(
            attempts=sorted(self._attempts.values(), key=lambda a: (-a.count, a.source, a.target, a.road)),
            adoption=sorted((Adoption(t, self._calls[t], blocked[t]) for t in teams), key=lambda a: (a.share, a.team)),
            lines=self._lines,
            bad=self._bad,
            since=self._since,
        )

    def _take(self, line: bytes) -> None:
        try:
            entry = json.loads(line)
            at = _time(entry)
            self._count(entry, at)
        except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError):
            self._bad += 1

    def _count(self, entry: Mapping[str, Any], at: datetime) -> None:
        if self._since is not None and at < self._since:
            return
        event = entry.get("event")
        if event == "exchange":
            self._call(entry)
        elif event in {"bypass_blocked", "unknown_name"} or (
            event == "connect" and _number(entry.get("status")) == 403
        ):
            self._attempt(entry, at)

    def _call(self, entry: Mapping[str, Any]) -> None:
        """Count a governed call; one that nobody owns (a wrong key) is neither governed nor an attempt to go around."""
        team, source = _text(entry.get("team")), address_of(_text(entry.get("source")))
        if not team:
            return
        self._calls[team] += 1
        if source and len(self._teams) < self._max_rows:
            self._teams.setdefault(source, set()).add(team)

    def _attempt(self, entry: Mapping[str, Any], at: datetime) -> None:
        source = address_of(_text(entry.get("client")) or _text(entry.get("source"))) or UNKNOWN
        destination = _text(entry.get("destination"))
        unnamed = TUNNEL if destination.startswith("envoy://") else destination or UNKNOWN
        if unnamed == TUNNEL:
            destination = ""
        if entry["event"] == "connect":
            key = (source, _text(entry.get("authority")) or UNKNOWN, "proxy", "http")
        else:
            road = "direct" if entry["event"] == "bypass_blocked" else "unknown name"
            protocol = _text(entry.get("entry")).rpartition(".")[2] if road == "direct" else "tls"
            key = (source, _text(entry.get("sni")) or unnamed, road, protocol or "other")
        if key not in self._attempts and len(self._attempts) >= self._max_rows:
            key = (OVERFLOW, OVERFLOW, key[2], "other")
        self._attempts.setdefault(key, Attempt(*key)).add(at, destination, _text(entry.get("ja4")))

    def _team(self, source: str, networks: Mapping[Network, str]) -> str:
        try:
            address = ip_address(source)
        except ValueError:
            return UNKNOWN
        fitting = [network for network in networks if address in network]
        if fitting:
            return networks[max(fitting, key=lambda network: network.prefixlen)]
        teams = self._teams.get(source, set())
        return SHARED if len(teams) > 1 else next(iter(teams), UNKNOWN)


def read_report(paths: Sequence[Path], since: datetime | None, networks: Mapping[Network, str]) -> Report:
    """Read all files and sum up. Raises OSError."""
    reader = Reader(since)
    for path in paths:
        reader.read(path)
    return reader.report(networks)


def as_json(report: Report) -> dict[str, object]:
    """Give the report as JSON values."""
    return {
        "since": None if report.since is None else report.since.isoformat(),
        "governed": report.governed,
        "blocked": report.blocked,
        "lines": report.lines,
        "bad_lines": report.bad,
        "adoption": [
            {"team": a.team, "governed": a.governed, "blocked": a.blocked, "share": round(a.share, 4)}
            for a in report.adoption
        ],
        "attempts": [
            {
                **{name: getattr(a, name) for name in ("source", "team", "target", "road", "protocol", "count")},
                "first": a.first.isoformat(),
                "last": a.last.isoformat(),
                "destinations": a.destinations,
                "ja4": a.ja4,
            }
            for a in report.attempts
        ],
    }


def address_of(text: str) -> str:
    """Take the port off `10.0.0.1:5`, `[::1]:5`; what has none stays. Empty where it is no address."""
    host = text[1:].partition("]")[0] if text.startswith("[") else text
    if host.count(":") == 1:
        host = host.partition(":")[0]
    try:
        return str(ip_address(host))
    except ValueError:
        return ""


def _lines(file: BinaryIO) -> Iterator[bytes | None]:
    """Each line; None for one that is too long, which is never held as a whole."""
    while line := file.readline(_LONGEST):
        if line.endswith(b"\n") or len(line) < _LONGEST:
            yield line
            continue
        while (rest := file.readline(_LONGEST)) and not rest.endswith(b"\n"):
            pass
        yield None


def _time(entry: Mapping[str, Any]) -> datetime:
    """`start` of Envoy's lines, `timestamp` of ours."""
    at = datetime.fromisoformat(entry["start"] if "start" in entry else entry["timestamp"])
    return at.astimezone(UTC) if at.tzinfo is not None else at.replace(tzinfo=UTC)


def _text(value: object) -> str:
    """A text as far as it is kept, and as UTF-8 can say it: a caller may have chosen it."""
    if not isinstance(value, str) or value == "-":
        return ""
    return value[:_LONGEST_NAME].encode(errors="replace").decode()


def _number(value: object) -> int:
    return int(value) if isinstance(value, int | str) and str(value).isdecimal() else 0
