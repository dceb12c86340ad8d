"""The suite in an app's place, with the rules in: every road is closed; the SDKs have theirs; the report says who tried."""

from __future__ import annotations

import contextlib
import json
import re
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from egress.place import NOBODY, Place, Verdict, read
from egress.sabotages import VENDORS, VENDORS6
from envoy.namespaces import (
    APP_ADDRESS,
    APP_ADDRESS6,
    GATEWAY_ADDRESS,
    GATEWAY_NAME,
    METADATA,
    RESOLVERS,
    UNKNOWN,
    UNKNOWN6,
    VENDOR_ADDRESSES,
    VENDOR_ADDRESSES6,
)
from extproc.roads import suite
from extproc.roads.direct import INNOCENT
from extproc.roads.road import Outcome

pytestmark = [pytest.mark.envoy, pytest.mark.netns]

APP = Path(__file__).parents[1] / "envoy" / "app_in_netns.py"
AFTERWARDS = {"before-policy", "restart-window"}  # test_sabotage.py tries these


@pytest.fixture(scope="module")
def verdict(place: Place) -> Verdict:
    """What the suite says with the rules in."""
    return place.verify()


def test_every_road_is_closed(verdict: Verdict) -> None:
    """Exit code 0, and each road is closed or ends in the gateway."""
    assert (verdict.code, verdict.open()) == (0, []), verdict.told
    assert set(verdict.rows) == set(suite.NAMES)
    outcomes = {road: row["outcome"] for road, row in verdict.rows.items() if road not in AFTERWARDS}
    assert outcomes.pop("gateway") == Outcome.BY_DESIGN
    assert set(outcomes.values()) == {Outcome.CLOSED}


def test_every_attempt_was_made(verdict: Verdict) -> None:
    """Nothing is called closed that was not tried: each attempt has its evidence, and took a moment."""
    attempts = [one for road, row in verdict.rows.items() if road not in AFTERWARDS for one in row["attempts"]]
    assert len(attempts) > 100
    assert all(one["evidence"] and one["outcome"] != Outcome.NOT_TRIED for one in attempts)
    assert not any(row["broken"] for row in verdict.rows.values())


def test_without_the_rules_the_same_attempts_get_out(place: Place) -> None:
    """The same suite, the same place: what the firewall closes is open, what Envoy closes is not."""
    place.unlock()
    try:
        verdict = place.verify()
    finally:
        place.lock()
    firewall = {"direct-ipv4", "direct-ipv6", "other-ports", "sni-mismatch", "no-sni", "ech", "metadata"}
    assert set(verdict.open()) == firewall | {"dns-udp", "dns-tcp", "dot", "doh", "quic", "other-udp", "icmp"}
    assert verdict.code == 1


def test_without_a_gateway_nothing_is_called_closed(place: Place) -> None:
    """A network that is down closes every road; the suite says that it could not run."""
    ports = place.machine.ports | {"base_url": 9, "connect": 9}
    verdict = place.verify("--only", "direct-ipv4", ports=ports)
    assert verdict.code == 2
    assert "could not run" in verdict.told


def test_as_a_table(place: Place) -> None:
    """For people: road, outcome, evidence, and the count."""
    words = [word for word in place.words("--only", "direct-ipv4") if word != "--json"]
    done = place.app(*words)
    lines = done.stdout.splitlines()
    assert done.returncode == 0, done.stderr
    assert [line.split()[0] for line in lines] == ["ROAD", "gateway", "direct-ipv4"]
    assert "closed" in lines[2]
    assert "1 closed, 1 by design" in done.stderr


# ---- what was not tried is not closed


def without(place: Place, *options: str) -> list[str]:
    """The command line without these options and their values."""
    words = place.words()
    dropped = {at for at, word in enumerate(words) if word in options}
    return [word for at, word in enumerate(words) if not {at, at - 1} & dropped]


def test_where_names_lead_to_the_gateway_the_vendors_are_not_called_closed(place: Place) -> None:
    """All ports of the vendors' own addresses are open, and nobody told the suite these: it cannot know, and says so."""
    words = [*without(place, "--vendor"), *(word for host in VENDOR_ADDRESSES for word in ("--vendor", host))]
    with place.letting(f"ip daddr {VENDORS}", f"ip6 daddr {VENDORS6}"), led_to_the_gateway(place):
        verdict = read(place.app(*NOBODY, *words))
        named = place.verify("--only", "direct-ipv4")
    assert (verdict.code, verdict.open()) == (2, []), verdict.told
    assert "direct-ipv4 2" in verdict.told
    told = {one["tried"]: one for one in verdict.rows["direct-ipv4"]["attempts"]}
    for host in VENDOR_ADDRESSES:
        assert told[f"TLS to {host}, IPv4"]["outcome"] == Outcome.NOT_TRIED
        assert f"{host}=ADDRESS" in told[f"TLS to {host}, IPv4"]["evidence"]
    assert (named.code, named.open()) == (1, ["direct-ipv4"])


@pytest.mark.parametrize("missing", ["--key", "--other-key"])
def test_without_a_key_what_needs_it_is_not_called_closed(place: Place, missing: str) -> None:
    """Exit code 2, with the number of attempts that were not made."""
    verdict = read(place.app(*NOBODY, *without(place, missing)))
    assert (verdict.code, verdict.open()) == (2, []), verdict.told
    assert "not known" in verdict.told
    assert verdict.rows["other-key"]["missing"] > 0


@pytest.mark.parametrize("entry", ["connect", "base_url_tls"])
def test_without_a_plain_base_url_each_road_is_tried(place: Place, entry: str) -> None:
    """As in a cluster: requests go by TLS, inside a CONNECT or to the gateway's own name, and each is refused there too."""
    ports = ["--port", "base_url=0"]
    if entry == "base_url_tls":
        ports += ["--port", f"base_url_tls={place.machine.ports['base_url_tls']}"]
    verdict = place.verify(*ports)
    assert (verdict.code, verdict.open()) == (0, []), (verdict.told, verdict.rows)
    outcomes = {road: row["outcome"] for road, row in verdict.rows.items() if road not in AFTERWARDS | {"gateway"}}
    assert set(outcomes.values()) == {Outcome.CLOSED}
    assert not any(row["missing"] for road, row in verdict.rows.items())


def test_a_bundle_does_not_pass_for_the_gateways_ca(place: Place) -> None:
    """With another root in the file, who that root signed for would pass for the gateway: refused."""
    bundle = place.shared / "two.pem"
    bundle.write_text(place.machine.ca.read_text() + place.machine.vendor_ca.read_text())
    bundle.chmod(0o644)
    done = place.app(*NOBODY, *place.words("--ca", str(bundle)))
    assert (done.returncode, done.stdout) == (2, "")
    assert "2 roots" in done.stderr


# ---- the SDKs on each entry


@contextlib.contextmanager
def led_to_the_gateway(place: Place) -> Iterator[None]:
    """What a rewritten DNS answer and a Service do: the vendors' names are the gateway, its port 443 is `intercept`."""
    hosts = Path("/etc/netns") / place.names.app / "hosts"
    before = hosts.read_text()
    rule = f"ip daddr {GATEWAY_ADDRESS} tcp dport 443 redirect to :{place.machine.ports['intercept']}"
    table = f"table ip service {{\nchain c {{\ntype nat hook prerouting priority dstnat - 10;\n{rule}\n}}\n}}"
    try:
        hosts.write_text("127.0.0.1 localhost\n" + "".join(f"{GATEWAY_ADDRESS} {host}\n" for host in VENDOR_ADDRESSES))
        place.gw("nft", table)
        yield
    finally:
        hosts.write_text(before)
        place.gw("nft", "table ip service\ndelete table ip service")


@contextlib.contextmanager
def redirected(place: Place) -> Iterator[None]:
    """Port 443 leads to Envoy's redirect entry."""
    place.lock("--transparent")
    try:
        yield
    finally:
        place.lock()


def proxied(place: Place) -> dict[str, str]:
    return {"HTTPS_PROXY": f"http://{GATEWAY_ADDRESS}:{place.machine.ports['connect']}"}


def based(place: Place) -> dict[str, str]:
    url = f"http://{GATEWAY_ADDRESS}:{place.machine.ports['base_url']}"
    return {"OPENAI_BASE_URL": f"{url}/v1", "ANTHROPIC_BASE_URL": url}


def based_tls(place: Place) -> dict[str, str]:
    url = f"https://{GATEWAY_NAME}:{place.machine.ports['base_url_tls']}"
    return {"OPENAI_BASE_URL": f"{url}/v1", "ANTHROPIC_BASE_URL": url}


ENTRIES: dict[str, tuple[Any, Any]] = {
    "intercept": (led_to_the_gateway, lambda _: {}),
    "redirect": (redirected, lambda _: {}),
    "connect": (contextlib.nullcontext, proxied),
    "base_url": (contextlib.nullcontext, based),
    "base_url_tls": (contextlib.nullcontext, based_tls),
}


@pytest.mark.parametrize("entry", ENTRIES)
def test_the_official_sdks_on_each_entry(place: Place, entry: str) -> None:
    """Both vendors' SDKs, plain, streamed and async, unmodified; each call is on record with its entry and its source."""
    ready, environment = ENTRIES[entry]
    before = len(place.machine.records())
    with ready(place):
        done = place.app(sys.executable, str(APP), env=environment(place))
    assert done.returncode == 0, done.stderr
    got = json.loads(done.stdout)
    base = got.pop("base")
    assert base.startswith("https://api.openai.com/") is (not entry.startswith("base_url"))
    assert {name for name, text in got.items() if "hi there" in text} == set(got)
    assert len(got) == 6
    records = place.machine.wait_records(before + 6)[before:]
    assert {record["entry"].partition(".")[0] for record in records} == {entry}
    sources = {re.sub(r":\d+$", "", record["source"]) for record in records}
    assert sources <= {
        APP_ADDRESS,
        f"[{APP_ADDRESS6}]",
    }  # an SDK may take the vendor's IPv6 address, where it is redirected


def test_an_app_that_is_redirected_governs_nothing_else(place: Place) -> None:
    """`--transparent`: the vendors' own addresses are the gateway now, other names are reset, and no road is open."""
    with redirected(place):
        verdict = place.verify()
    assert (verdict.code, verdict.open()) == (0, []), verdict.told
    assert verdict.outcome("sni-mismatch") == "closed"
    told = {one["tried"]: one for one in verdict.rows["direct-ipv4"]["attempts"]}
    for host, address in VENDOR_ADDRESSES.items():
        assert told[f"TLS to {host} at {address}:443"]["outcome"] == "by design"
    assert told[f"TLS to {UNKNOWN[0]} at {UNKNOWN[1]}:443"]["outcome"] == "closed"


# ---- who tried


def report(place: Place, since: str) -> list[dict[str, Any]]:
    """`extproc bypass report`, as JSON, once Envoy has written its log."""
    time.sleep(1.2)
    done = place.machine.cli("bypass", "report", "--json", "--since", since)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)["attempts"]


def test_each_attempt_is_in_the_report(place: Place) -> None:
    """With the source, the server name that was asked for, and where it went; also those that hid the name."""
    since = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    assert place.verify().code == 0
    attempts = report(place, since)
    direct = {(one["source"], one["target"]): one for one in attempts if one["road"] == "direct"}
    for hosts, source in (
        ({**VENDOR_ADDRESSES, UNKNOWN[0]: UNKNOWN[1]}, APP_ADDRESS),
        ({**VENDOR_ADDRESSES6, UNKNOWN[0]: UNKNOWN6}, APP_ADDRESS6),
    ):
        for host, address in hosts.items():
            one = direct[source, host]
            assert f"{f'[{address}]' if ':' in address else address}:443" in one["destinations"]
            assert one["protocol"] == "tls"
            assert one["ja4"]
    for address in VENDOR_ADDRESSES.values():  # no server name: the address is all there is
        assert direct[APP_ADDRESS, f"{address}:443"]["count"] == 1
    for target, protocol in ((f"{RESOLVERS[0]}:53", "other"), (f"{METADATA[0]}:80", "http")):
        assert direct[APP_ADDRESS, target]["protocol"] == protocol
    assert direct[APP_ADDRESS, INNOCENT]["count"] == 2 + 3  # the vendors' addresses, and the outer names of ECH
    asked = {one["target"] for one in attempts if one["road"] == "proxy" and one["source"] == APP_ADDRESS}
    assert {
        f"{UNKNOWN[0]}:443",
        f"{VENDOR_ADDRESSES['api.openai.com']}:443",
        f"{GATEWAY_ADDRESS}:{place.machine.ports['admin']}",
    } <= asked
    inside = {one["target"] for one in attempts if one["road"] == "unknown name" and one["source"] == APP_ADDRESS}
    assert {UNKNOWN[0], INNOCENT} <= inside


def test_the_page_for_security(place: Place, tmp_path: Path) -> None:
    """The HTML report names the host that was tried, and the app's address."""
    assert place.verify("--only", "direct-ipv4").code == 0
    time.sleep(1.2)
    page = tmp_path / "bypass.html"
    done = place.machine.cli("bypass", "report", "--html", str(page))
    assert done.returncode == 0, done.stderr
    text = page.read_text()
    assert UNKNOWN[0] in text
    assert APP_ADDRESS in text


def test_the_firewall_counts_what_has_no_connection(place: Place) -> None:
    """QUIC and DNS datagrams never reach the trap: the rules' counters show them."""

    def counters() -> dict[str, int]:
        listed = json.loads(place.gw("nft", "-j", "list", "counters", "table", "inet", "extproc_egress"))["nftables"]
        return {item["counter"]["name"]: item["counter"]["packets"] for item in listed if "counter" in item}

    place.lock()
    before = counters()
    assert place.verify("--only", "quic", "--only", "dns-udp").code == 0
    after = counters()
    assert after["quic"] > before["quic"]
    assert after["dns"] > before["dns"]
