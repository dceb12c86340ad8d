"""Redirected connections: an unmodified app in a network namespace of its own, whose only route leads to the gateway."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from envoy.machine import Machine
from envoy.namespaces import (
    APP_ADDRESS,
    GATEWAY_ADDRESS,
    UNKNOWN,
    VENDOR_ADDRESSES,
    Namespaces,
    namespaces,
    run,
    why_not,
)
from envoy.ways import wait_for

pytestmark = [pytest.mark.envoy, pytest.mark.netns]

ROOT = Path(__file__).resolve().parents[2]
RULES = ROOT / "envoy" / "redirect.nft"
REDIRECT_PORT = 15001  # the port in the shipped rules


class InNamespace(Machine):
    """The gateway in a namespace, where `up` itself starts the simulated vendors: they cannot be reached from outside."""

    def write_config(self, extra: str | None = None) -> None:
        """No upstream: a provider without a vendor key gets a simulated vendor."""
        super().write_config(extra)
        lines = self.config.read_text().splitlines(keepends=True)
        self.config.write_text("".join(line for line in lines if "upstream:" not in line))


class Routed:
    """The two namespaces and the gateway in one of them."""

    def __init__(self, names: Namespaces, machine: Machine) -> None:
        self.names, self.machine = names, machine

    def app(self, *command: str, trust: Path | None = None) -> subprocess.CompletedProcess[str]:
        """Run Python in the app's namespace, with an app's environment and nothing else."""
        environment = {
            "PATH": os.environ["PATH"],
            "SSL_CERT_FILE": str(trust or self.machine.bundle),
            "OPENAI_API_KEY": self.machine.key,
            "ANTHROPIC_API_KEY": self.machine.key,
        }
        return subprocess.run(
            [*self.names.prefix("app"), sys.executable, *command],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
            env=environment,
        )


@pytest.fixture(scope="module")
def routed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Routed]:
    """Skips where namespaces cannot be made, unless EXTPROC_REQUIRE_NETNS=1."""
    reason = why_not()
    if reason:
        if os.environ.get("EXTPROC_REQUIRE_NETNS") == "1":
            pytest.fail(f"network namespaces are required here: {reason}")
        pytest.skip(reason)
    with namespaces() as names:
        run(*names.prefix("gw"), "nft", "-f", str(RULES))
        machine = InNamespace(
            tmp_path_factory.mktemp("netns"),
            workers=1,
            options=("--bind", "0.0.0.0"),
            prefix=names.prefix("gw"),
            environment={"TEST_OPENAI_KEY": "", "TEST_ANTHROPIC_KEY": ""},
        )
        machine.ports["redirect"] = REDIRECT_PORT
        machine.start()
        try:
            yield Routed(names, machine)
        finally:
            machine.stop()


@pytest.fixture(scope="module")
def app(routed: Routed) -> dict[str, Any]:
    """What the app got."""
    done = routed.app(str(Path(__file__).with_name("app_in_netns.py")))
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_an_unmodified_app_gets_its_answers(app: dict[str, Any]) -> None:
    """Both SDKs, sync, async and streamed, on the vendors' own URLs."""
    assert app.pop("base") == "https://api.openai.com/v1/"
    assert sorted(app) == ["async", "chat", "message", "message_stream", "responses", "stream"]
    assert {name for name, text in app.items() if "hi there" in text} == set(app)


@pytest.mark.usefixtures("app")
def test_the_record_tells_the_app_and_the_entry(routed: Routed) -> None:
    """The source is the app's own address; the entry is the redirect of that provider."""
    records = routed.machine.wait_records(6)
    assert len(records) == 6
    assert {re.sub(r":\d+$", "", record["source"]) for record in records} == {APP_ADDRESS}
    entries = [record["entry"] for record in records]
    assert sorted(set(entries)) == ["redirect.anthropic", "redirect.openai"]
    assert {(record["outcome"], record["usage_source"]) for record in records} == {("ok", "reported")}


def test_the_rules_were_what_led_it_there(routed: Routed) -> None:
    """The addresses belong to nobody: without the redirect rule nothing answers on them."""
    probe = "import socket; socket.create_connection(('api.openai.com', 443), 2).close()"
    address = VENDOR_ADDRESSES["api.openai.com"]
    assert address in (Path("/etc/netns") / routed.names.app / "hosts").read_text()
    assert routed.app("-c", probe).returncode == 0
    gw = routed.names.prefix("gw")
    run(*gw, "nft", "delete", "table", "ip", "llm_egress")
    try:
        assert routed.app("-c", probe).returncode != 0
    finally:
        run(*gw, "nft", "-f", str(RULES))
    assert routed.app("-c", probe).returncode == 0


def test_the_rules_can_be_loaded_twice(routed: Routed) -> None:
    """A second load replaces the first."""
    gw = routed.names.prefix("gw")
    run(*gw, "nft", "-f", str(RULES))
    assert run(*gw, "nft", "list", "table", "ip", "llm_egress").count("redirect to :15001") == 1


def test_an_unknown_name_is_reset_and_logged(routed: Routed) -> None:
    """With the app's address and the destination that it meant."""
    host, address = UNKNOWN
    code = (
        "import socket, ssl\n"
        f"sock = socket.create_connection(('{host}', 443), 5)\n"
        "try:\n"
        f"    ssl.create_default_context().wrap_socket(sock, server_hostname='{host}')\n"
        "except (ConnectionResetError, ssl.SSLEOFError) as error:\n"
        "    print(type(error).__name__)\n"
    )
    done = routed.app("-c", code)
    assert done.stdout.strip() in {"ConnectionResetError", "SSLEOFError"}, done.stderr

    def lines() -> list[dict[str, Any]]:
        return [line for line in routed.machine.access_log() if line.get("sni") == host]

    (line,) = wait_for(lines)
    assert (line["event"], line["entry"], line["destination"]) == ("unknown_name", "redirect.unknown", f"{address}:443")
    assert line["source"].startswith(f"{APP_ADDRESS}:")


def test_an_app_without_the_bundle_is_not_intercepted_unseen(routed: Routed) -> None:
    """Its TLS check fails: the SDK raises a connection error."""
    code = "import openai; openai.OpenAI(max_retries=0).models.list()"
    done = routed.app("-c", code, trust=routed.machine.vendor_ca)
    assert done.returncode != 0
    assert "CERTIFICATE_VERIFY_FAILED" in done.stderr


def test_the_admin_port_is_not_open_to_apps(routed: Routed) -> None:
    """`--bind` opens the entries, never Envoy's admin port or the metrics."""
    for port, open_ in ((routed.machine.ports["base_url"], True), (routed.machine.ports["admin"], False)):
        probe = f"import socket; socket.create_connection(('{GATEWAY_ADDRESS}', {port}), 2).close()"
        assert (routed.app("-c", probe).returncode == 0) is open_
