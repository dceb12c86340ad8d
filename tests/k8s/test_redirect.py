"""The sidecar's rules, loaded as the init container loads them: who gets where by user id; each row goes red without its rule.

In network namespaces: the pod, a router, and an outside that answers on every address and port. Envoy's listeners are
stand-ins that say their name: what Envoy itself does with such connections is in tests/envoy.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TypeAlias

import pytest

from envoy.namespaces import (
    APP_ADDRESS,
    METADATA,
    OUTSIDE,
    RESOLVERS,
    UNKNOWN,
    VENDOR_ADDRESSES,
    VENDOR_ADDRESSES6,
    Namespaces,
    why_not,
    with_internet,
)
from k8s.manifests import K8S, build, container

pytestmark = [pytest.mark.netns, pytest.mark.timeout(120)]

RULES = (K8S / "components/redirect-init/redirect.nft").read_text()
VENDOR, VENDOR6 = VENDOR_ADDRESSES["api.openai.com"], VENDOR_ADDRESSES6["api.openai.com"]
APP, ROOT_USER, ENVOY, EXTPROC = 10001, 0, 1337, 1338
Road: TypeAlias = tuple[int, str, str, int]  # user, protocol, address, port

SERVE = """
import json, socket, sys, threading
def tcp(listener, name):
    while True:
        try:
            one, _ = listener.accept()
            one.settimeout(5)
            one.sendall(name)
            one.close()
        except OSError:
            pass
def udp(one, name):
    while True:
        one.sendto(name, one.recvfrom(100)[1])
for kind, address, port, name in json.loads(sys.argv[1]):
    one = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_STREAM if kind == "tcp" else socket.SOCK_DGRAM)
    one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if ":" in address:
        one.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    one.bind((address, port))
    if kind == "tcp":
        one.listen(50)
    threading.Thread(target=tcp if kind == "tcp" else udp, args=(one, name.encode()), daemon=True).start()
print("ready", flush=True)
sys.stdin.read()
"""

# `meta skuid` is the user who made the socket. The interpreter may be out of reach for that user, so it changes after the start.
TRY = """
import encodings.idna, json, os, socket, sys
user = int(sys.argv[2])
os.setgroups([])
os.setresgid(user, user, user)
os.setresuid(user, user, user)
def reach(kind, address, port):
    one = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_STREAM if kind == "tcp" else socket.SOCK_DGRAM)
    one.settimeout(3)
    try:
        one.connect((address, port))
        if kind == "udp":
            one.send(b"x")
        return one.recv(100).decode()
    except TimeoutError:
        return "dropped"
    except OSError:
        return "refused"
    finally:
        one.close()
print(json.dumps([reach(*road) for road in json.loads(sys.argv[1])]))
"""


@contextmanager
def serving(prefix: Sequence[str], listeners: list[tuple[str, str, int, str]]) -> Iterator[None]:
    """Answer with a name on each (protocol, address, port, name)."""
    command = [*prefix, sys.executable, "-c", SERVE, json.dumps(listeners)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            assert process.stdout.readline() == b"ready\n"
            yield
        finally:
            process.stdin.close()
            process.wait(10)


@pytest.fixture(scope="module")
def names() -> Iterator[Namespaces]:
    """The namespaces, with everything answering. Not permitted here is a failure, unless EGRESS_TESTS=skip."""
    reason = why_not()
    if reason:
        if os.environ.get("EGRESS_TESTS") == "skip":
            pytest.skip(f"EGRESS_TESTS=skip: {reason}")
        pytest.fail(f"network namespaces are needed: {reason} (EGRESS_TESTS=skip leaves these tests out)")
    outside = [("tcp", a, port, "outside") for a in ("0.0.0.0", "::") for port in (22, 80, 443, 853, 5432, 6379, 8443)]
    outside += [
        ("udp", a, port, "outside") for a in OUTSIDE for port in (53, 123, 443)
    ]  # answers come from the address
    inside = [
        ("tcp", "127.0.0.1", port, name) for port, name in ((15001, "redirect"), (15443, "trap"), (9901, "admin"))
    ]
    inside.append(("tcp", APP_ADDRESS, 8000, "app"))
    with with_internet() as made, serving(made.prefix("inet"), outside), serving(made.prefix("app"), inside):
        yield made


def load(names: Namespaces, rules: str, rights: str = "-all,+net_admin") -> subprocess.CompletedProcess[str]:
    """Load rules as the init container does: its command, its user, no right but its own, no new ones."""
    one = container(build("redirect-init"), "demo", "redirect")
    context = one["securityContext"]
    assert (context["runAsUser"], context["capabilities"]) == (0, {"drop": ["ALL"], "add": ["NET_ADMIN"]})
    command = ["-" if part.startswith("/etc/llm-redirect/") else part for part in one["command"]]
    limits = [f"--bounding-set={rights}", "--inh-caps=-all", "--no-new-privs"]
    return subprocess.run(
        [*names.prefix("app"), "setpriv", *limits, *command],
        input=rules, capture_output=True, text=True, timeout=30, check=False,
    )  # fmt: skip


def reach(names: Namespaces, *roads: Road) -> list[str]:
    """Where each road ends: the name of who answers, `refused`, or `dropped`."""
    found: dict[Road, str] = {}
    for user in {road[0] for road in roads}:
        mine = [road for road in roads if road[0] == user]
        roads_of_user = json.dumps([road[1:] for road in mine])
        command = [*names.prefix("app"), sys.executable, "-c", TRY, roads_of_user, str(user)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, done.stderr
        found |= dict(zip(mine, json.loads(done.stdout), strict=True))
    return [found[road] for road in roads]


ROWS: list[tuple[str, Road, str]] = [
    ("app, a vendor", (APP, "tcp", VENDOR, 443), "redirect"),
    ("app, another host", (APP, "tcp", UNKNOWN[1], 443), "redirect"),
    ("app, DNS over HTTPS", (APP, "tcp", RESOLVERS[0], 443), "redirect"),
    ("app as root", (ROOT_USER, "tcp", VENDOR, 443), "redirect"),
    ("app, a vendor by IPv6", (APP, "tcp", VENDOR6, 443), "refused"),
    ("app, another port", (APP, "tcp", VENDOR, 8443), "trap"),
    ("app, SSH", (APP, "tcp", VENDOR, 22), "trap"),
    ("app, DNS over TLS", (APP, "tcp", RESOLVERS[0], 853), "trap"),
    ("app, DNS over TLS by IPv6", (APP, "tcp", RESOLVERS[1], 853), "refused"),
    ("app, metadata", (APP, "tcp", METADATA[0], 80), "trap"),
    ("app, metadata by IPv6", (APP, "tcp", METADATA[1], 80), "refused"),
    ("app, a database that nobody allowed", (APP, "tcp", UNKNOWN[1], 5432), "trap"),
    ("app, QUIC", (APP, "udp", VENDOR, 443), "refused"),
    ("app, QUIC by IPv6", (APP, "udp", VENDOR6, 443), "refused"),
    ("app, other UDP", (APP, "udp", VENDOR, 123), "refused"),
    ("app, DNS: the NetworkPolicy says where", (APP, "udp", RESOLVERS[0], 53), "outside"),
    ("app, Envoy's admin interface", (APP, "tcp", "127.0.0.1", 9901), "refused"),
    ("app as root, Envoy's admin interface", (ROOT_USER, "tcp", "127.0.0.1", 9901), "refused"),
    ("extproc, Envoy's admin interface", (EXTPROC, "tcp", "127.0.0.1", 9901), "refused"),
    ("Envoy, its admin interface", (ENVOY, "tcp", "127.0.0.1", 9901), "admin"),
    ("Envoy, a vendor", (ENVOY, "tcp", VENDOR, 443), "outside"),
    ("Envoy, a vendor by IPv6", (ENVOY, "tcp", VENDOR6, 443), "outside"),
    ("Envoy, a vendor in the clear", (ENVOY, "tcp", VENDOR, 80), "refused"),
    ("Envoy, QUIC", (ENVOY, "udp", VENDOR, 443), "refused"),
    ("Envoy, metadata", (ENVOY, "tcp", METADATA[0], 443), "refused"),
    ("Envoy, metadata by IPv6", (ENVOY, "tcp", METADATA[1], 443), "refused"),
    ("extproc, the store", (EXTPROC, "tcp", UNKNOWN[1], 6379), "outside"),
    ("extproc, a vendor", (EXTPROC, "tcp", VENDOR, 443), "refused"),
]  # fmt: skip


def test_without_rules_everything_is_open(names: Namespaces) -> None:
    """The outside is there: what is closed below is closed by the rules."""
    roads = [road for _, road, _ in ROWS if road[2] != "127.0.0.1"]

    assert set(reach(names, *roads)) == {"outside"}


def test_the_roads(names: Namespaces) -> None:
    """Each row of the table."""
    done = load(names, RULES)
    assert (done.returncode, done.stderr) == (0, "")

    ends = reach(names, *(road for _, road, _ in ROWS))

    assert [(what, end) for (what, _, _), end in zip(ROWS, ends, strict=True)] == [(what, to) for what, _, to in ROWS]


def line(start: str) -> str:
    """The one rule that begins so."""
    (found,) = [text for text in RULES.splitlines() if text.strip().startswith(start)]
    return found


# the row, the rules that are taken away or changed, where the road ends then
SABOTAGES: list[tuple[str, list[tuple[str, str]], str]] = [
    ("app, a vendor", [("meta nfproto ipv4 tcp dport 443 redirect to :15001", "")], "trap"),
    ("app, SSH", [("meta nfproto ipv4 meta l4proto tcp redirect to :15443", "")], "refused"),
    ("app, SSH", [("meta nfproto ipv4 meta l4proto tcp redirect to :15443", ""), ("policy drop", "policy accept"), (line("meta l4proto tcp reject"), ""), (line("reject with icmpx"), "")], "outside"),
    ("app, QUIC", [("policy drop", "policy accept"), (line("reject with icmpx"), "")], "outside"),
    ("app, a vendor by IPv6", [("policy drop", "policy accept"), (line("meta l4proto tcp reject"), ""), (line("reject with icmpx"), "")], "outside"),
    ("app, Envoy's admin interface", [(line("meta skuid != 1337"), "")], "admin"),
    ("Envoy, metadata", [(line("ip daddr { 169.254"), "")], "outside"),
    ("Envoy, metadata by IPv6", [(line("ip6 daddr { fe80"), "")], "outside"),
    ("Envoy, a vendor", [(line("meta skuid { 1337, 1338 } return"), "")], "redirect"),
    ("Envoy, a vendor", [(line("meta skuid 1337 tcp dport 443 accept"), "")], "refused"),
    ("extproc, the store", [(line("meta skuid 1338"), "")], "refused"),
]  # fmt: skip


@pytest.mark.parametrize(("what", "changes", "becomes"), SABOTAGES, ids=[f"{r[0]}: {r[2]}" for r in SABOTAGES])
def test_a_row_goes_red_without_its_rule(
    names: Namespaces, what: str, changes: list[tuple[str, str]], becomes: str
) -> None:
    """Each rule is what holds its row."""
    (road, normal) = next((road, end) for name, road, end in ROWS if name == what)
    spoilt = RULES
    for old, new in changes:
        assert spoilt.count(old) == 1
        spoilt = spoilt.replace(old, new)

    assert load(names, spoilt).returncode == 0
    (end,) = reach(names, road)
    assert load(names, RULES).returncode == 0

    assert end == becomes != normal
    assert reach(names, road) == [normal]


def naming(name: str, element: str) -> str:
    """The rules with one element in a set, as the comment above it says."""
    head = f"  set {name} {{\n    type ipv4_addr . inet_service\n    flags interval\n"
    assert RULES.count(head) == 1
    return RULES.replace(head, f"{head}    elements = {{ {element} }}\n")


def test_what_the_app_may_reach_is_named(names: Namespaces) -> None:
    """An address and port in the set, as docs and the file's comment say."""
    road, other = (APP, "tcp", UNKNOWN[1], 5432), (APP, "tcp", VENDOR, 5432)

    done = load(names, naming("app_may_reach", f"{UNKNOWN[1]} . 5432"))

    assert (done.returncode, done.stderr) == (0, "")
    assert reach(names, road, other) == ["outside", "trap"]


def test_what_the_gateway_may_reach_is_named(names: Namespaces) -> None:
    """A corporate proxy for Envoy, a webhook for the policy stage: theirs, not the app's; and metadata never."""
    envoy, extproc, app = ((user, "tcp", UNKNOWN[1], 8443) for user in (ENVOY, EXTPROC, APP))
    assert load(names, RULES).returncode == 0
    assert reach(names, envoy, extproc, app) == ["refused", "refused", "trap"]

    done = load(names, naming("gateway_may_reach", f"{UNKNOWN[1]} . 8443, {METADATA[0]} . 443"))

    assert (done.returncode, done.stderr) == (0, "")
    assert reach(names, envoy, extproc, app) == ["outside", "outside", "trap"]
    assert reach(names, (ENVOY, "tcp", METADATA[0], 443)) == ["refused"]


def test_those_who_call_the_app_are_answered(names: Namespaces) -> None:
    """Its own Service goes on."""
    assert load(names, RULES).returncode == 0
    command = [*names.prefix("gw"), sys.executable, "-c", TRY, json.dumps([("tcp", APP_ADDRESS, 8000)]), "0"]

    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True)

    assert json.loads(done.stdout) == ["app"]


def test_the_container_has_the_one_right_that_it_needs(names: Namespaces) -> None:
    """Without NET_ADMIN nothing is loaded, and the pod does not start: the app never runs without the rules."""
    done = load(names, RULES, rights="-all")

    assert done.returncode != 0
    assert "Operation not permitted" in done.stderr
