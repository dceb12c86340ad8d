"""The firewall, the trap and the report together: apps that try to go around, in network namespaces, and what is told of it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from adapters import firewall_nets as fw
from adapters.firewall_nets import APP_UID, Nets
from envoy.namespaces import why_not
from envoy.test_netns import REDIRECT_PORT, InNamespace
from envoy.ways import wait_for

pytestmark = [pytest.mark.envoy, pytest.mark.netns]

TRAP_PORT = 15443
LISTED, UNLISTED = "api.openai.com", "llm.unlisted.example"

# argv: uid, key, CA file, then JSON: [[host, port, server name or null, what to do: tls | http | ssh | call | connect], ...]
APP = """
import encodings.idna, json, os, socket, ssl, sys
uid, key, ca, tries = int(sys.argv[1]), sys.argv[2], open(sys.argv[3]).read(), json.loads(sys.argv[4])
os.setgroups([]); os.setgid(uid); os.setuid(uid)
context = ssl.create_default_context(cadata=ca)
body = b'{"model":"gpt-4o-mini","messages":[{"role":"user","content":"hi"}]}'
call = (b"POST /v1/chat/completions HTTP/1.1\\r\\nhost: api.openai.com\\r\\nauthorization: Bearer " + key.encode() +
        b"\\r\\ncontent-type: application/json\\r\\nconnection: close\\r\\ncontent-length: %d\\r\\n\\r\\n" % len(body) + body)
ask = b"CONNECT llm.unlisted.example:443 HTTP/1.1\\r\\nhost: llm.unlisted.example:443\\r\\n\\r\\n"
first = {"connect": ask, "http": b"GET / HTTP/1.1\\r\\nhost: a\\r\\n\\r\\n", "ssh": b"SSH-2.0-x\\r\\n", "call": call, "tls": b""}
context.check_hostname = False
for host, port, name, kind in tries:
    try:
        with socket.create_connection((host, port), 5) as sock:
            if kind in ("tls", "call"):
                sock = context.wrap_socket(sock, server_hostname=name)
            sock.sendall(first[kind])
            print(sock.recv(99).split(b"\\r\\n")[0].decode() or "closed")
    except (ssl.SSLEOFError, ssl.SSLZeroReturnError, ConnectionError): print("reset")
    except OSError as error: print(type(error).__name__)
"""

Try = tuple[str, int, str | None, str]


class Walled:
    """A box that is a gateway for the app behind it and for its own processes, with the rules loaded."""

    def __init__(self, nets: Nets, machine: InNamespace) -> None:
        self.nets, self.machine = nets, machine

    def extproc(self, *words: str) -> str:
        """Run a command of ours in the box, on the gateway's state folder."""
        command = [sys.executable, "-m", "extproc", *words, "--state", str(self.machine.state)]
        done = subprocess.run([*self.nets.inside("box"), *command], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def install(self, *options: str) -> None:
        """Load the rules, as an operator would."""
        words = ("--mode", "both", "--from", "apps", "--user", "0", "--resolver", fw.RESOLVER)
        self.extproc("egress", "install", *words, *options)

    def app(self, name: str, *tries: Try) -> list[str]:
        """Try these, from `app` or as an app in `box`; what came of each."""
        told = (str(APP_UID), self.machine.key, str(self.machine.ca), json.dumps(tries))
        command = [*self.nets.inside(name), sys.executable, "-c", APP, *told]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout.splitlines()

    def report(self, attempts: int, *options: str) -> dict[str, Any]:
        """The report, when Envoy has written this many attempts."""

        def told() -> dict[str, Any] | None:
            found: dict[str, Any] = json.loads(self.extproc("bypass", "report", "--json", *options))
            return found if found["blocked"] >= attempts else None

        found = wait_for(told)
        assert found["blocked"] == attempts
        return found


@pytest.fixture(scope="module")
def walled(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Walled]:
    """Skips where namespaces cannot be made, unless EXTPROC_REQUIRE_NETNS=1."""
    reason = why_not()
    if reason:
        if os.environ.get("EXTPROC_REQUIRE_NETNS") == "1":
            pytest.fail(f"network namespaces are required here: {reason}")
        pytest.skip(reason)
    with fw.nets() as nets:
        machine = InNamespace(
            tmp_path_factory.mktemp("walled"),
            workers=1,
            options=("--bind", "0.0.0.0"),
            prefix=nets.inside("box"),
            environment={"TEST_OPENAI_KEY": "", "TEST_ANTHROPIC_KEY": ""},
        )
        machine.ports |= {"redirect": REDIRECT_PORT, "trap": TRAP_PORT}
        machine.start()
        try:
            yield Walled(nets, machine)
        finally:
            machine.stop()


def key_of(row: dict[str, Any]) -> tuple[str, ...]:
    """What tells one row from another."""
    return row["source"], row["target"], row["road"], row["protocol"], *row["destinations"][:1]


def test_each_attempt_is_told_with_its_source_name_and_destination(walled: Walled, tmp_path: Path) -> None:
    """Both families of IP, apps behind the box and on it, names and none; a governed call beside them makes adoption."""
    walled.install()
    trapped: list[Try] = [
        (fw.WORLD, 443, LISTED, "tls"),
        (fw.WORLD, 8443, UNLISTED, "tls"),
        (fw.WORLD, 443, None, "tls"),
        (fw.WORLD, 80, None, "http"),
        (fw.WORLD, 22, None, "ssh"),
        (fw.METADATA, 80, None, "http"),
    ]
    six: list[Try] = [(fw.WORLD6, 443, LISTED, "tls")]
    assert walled.app("app", *trapped) == ["reset"] * 6
    assert walled.app("box", *trapped[:1], *six) == ["reset"] * 2
    told = walled.report(8)
    box6 = "2001:db8:77::1"
    assert {key_of(row) for row in told["attempts"]} == {
        (fw.APP, LISTED, "direct", "tls", f"{fw.WORLD}:443"),
        (fw.APP, UNLISTED, "direct", "tls", f"{fw.WORLD}:8443"),
        (fw.APP, f"{fw.WORLD}:443", "direct", "tls", f"{fw.WORLD}:443"),
        (fw.APP, f"{fw.WORLD}:80", "direct", "http", f"{fw.WORLD}:80"),
        (fw.APP, f"{fw.WORLD}:22", "direct", "other", f"{fw.WORLD}:22"),
        (fw.APP, f"{fw.METADATA}:80", "direct", "http", f"{fw.METADATA}:80"),
        (fw.BOX, LISTED, "direct", "tls", f"{fw.WORLD}:443"),
        (box6, LISTED, "direct", "tls", f"[{fw.WORLD6}]:443"),
    }
    walled.install("--transparent")
    known: list[Try] = [(fw.WORLD, 443, LISTED, "call")] * 2
    unknown: list[Try] = [(fw.WORLD, 443, UNLISTED, "tls")]
    assert walled.app("app", *known, *unknown) == ["HTTP/1.1 200 OK", "HTTP/1.1 200 OK", "reset"]
    assert walled.app("box", (fw.WORLD6, 443, LISTED, "call")) == ["HTTP/1.1 200 OK"]
    proxied: Try = (fw.BOX_FOR_APP, walled.machine.ports["connect"], None, "connect")
    assert walled.app("app", proxied) == ["HTTP/1.1 403 Forbidden"]
    assert len(walled.machine.wait_records(3)) == 3
    told = walled.report(10)
    rows = {key_of(row) for row in told["attempts"]}
    assert (fw.APP, UNLISTED, "unknown name", "tls", f"{fw.WORLD}:443") in rows
    assert (fw.APP, f"{UNLISTED}:443", "proxy", "http") in rows
    team = walled.machine.records()[0]["team"]
    assert {row["team"] for row in told["attempts"] if row["source"] in {fw.APP, box6}} == {team}
    assert [row for row in told["adoption"] if row["team"] == team] == [
        {"team": team, "governed": 3, "blocked": 9, "share": round(3 / 12, 4)}
    ]
    page = tmp_path / "report.html"
    walled.report(10, "--html", str(page))
    assert UNLISTED in page.read_text()
    assert walled.report(0, "--since", "2100-01-01")["attempts"] == []
