"""The firewall: what the rule set says, and what it does in network namespaces."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
from collections.abc import Iterator
from functools import partial
from ipaddress import ip_network
from pathlib import Path

import pytest

from adapters import firewall_nets as fw
from adapters.firewall_nets import APP_UID, ENVOY_UID, HELPER_UID, Nets, Target, held
from envoy.namespaces import why_not
from extproc.adapters.firewall import Rules, listens, render, system_resolvers, user_id
from extproc.errors import ConfigError

TEMPLATE = (Path(__file__).resolve().parents[2] / "envoy" / "egress.nft").read_text()
BOTH = Rules("both", (ENVOY_UID,), (fw.RESOLVER, fw.RESOLVER6), apps=("apps",))
REFUSED = "refused"

# road -> (target, what answers an app under the rules); without them the world answers on all
ROADS: dict[str, tuple[Target, str]] = {
    "TLS to anywhere": (("tcp", fw.WORLD, 443), "trap"),
    "plain HTTP": (("tcp", fw.WORLD, 80), "trap"),
    "another port": (("tcp", fw.WORLD, 8443), "trap"),
    "SSH": (("tcp", fw.WORLD, 22), "trap"),
    "DNS over TCP": (("tcp", fw.WORLD, 53), "trap"),
    "DNS over TCP, inside": (("tcp", fw.INSIDE, 53), "trap"),
    "DNS over TLS": (("tcp", fw.WORLD, 853), "trap"),
    "DNS over TLS, at the resolver": (("tcp", fw.RESOLVER, 853), "trap"),
    "metadata": (("tcp", fw.METADATA, 80), "trap"),
    "QUIC": (("udp", fw.WORLD, 443), REFUSED),
    "DNS": (("udp", fw.WORLD, 53), REFUSED),
    "DNS, inside": (("udp", fw.INSIDE, 53), REFUSED),
    "DNS over QUIC": (("udp", fw.WORLD, 853), REFUSED),
    "other datagrams": (("udp", fw.WORLD, 123), REFUSED),
    "metadata by datagram": (("udp", fw.METADATA, 53), REFUSED),
    **{f"metadata {host}": (("tcp", host, 80), "trap") for host in fw.MORE_METADATA},
    "the resolver": (("udp", fw.RESOLVER, 53), "world"),
    "the resolver over TCP": (("tcp", fw.RESOLVER, 53), "world"),
    "inside": (("tcp", fw.INSIDE, 443), "world"),
}
ROADS6: dict[str, tuple[Target, str]] = {  # the app of these tests has no IPv6, the box has
    "IPv6 TLS": (("tcp", fw.WORLD6, 443), "trap"),
    "IPv6 DNS over TLS": (("tcp", fw.WORLD6, 853), "trap"),
    "IPv6 metadata": (("tcp", fw.METADATA6, 80), "trap"),
    "IPv6 QUIC": (("udp", fw.WORLD6, 443), REFUSED),
    "IPv6 DNS": (("udp", fw.WORLD6, 53), REFUSED),
    **{f"metadata {host}": (("tcp", host, 80), "trap") for host in fw.MORE_METADATA6},
    "link-local metadata": (("tcp", f"{fw.LINK_LOCAL_METADATA}%out", 80), REFUSED),
    "IPv6 metadata by datagram": (("udp", fw.METADATA6, 123), REFUSED),
    "the IPv6 resolver": (("udp", fw.RESOLVER6, 53), "world"),
    "the IPv6 resolver over TCP": (("tcp", fw.RESOLVER6, 53), "world"),
    "IPv6 inside": (("tcp", fw.INSIDE6, 443), "world"),
}

# ---- the text


def test_the_template_is_filled_in() -> None:
    """Values of both families; sections of another mode and empty lists are left out."""
    text = render(TEMPLATE, Rules("host", (1337, 0), ("192.0.2.7",), (ip_network("10.0.0.0/8"),)))
    assert "define ENVOY = { 1337, 0 }" in text
    assert "define RESOLVERS4 = { 192.0.2.7 }" in text
    assert "define INSIDE4 = { 10.0.0.0/8 }" in text
    assert not any(word in text for word in ("RESOLVERS6", "INSIDE6", "GATEWAYS", "APPS", "$ENTRY", "#["))
    assert "hook output" in text
    assert "hook forward" not in text
    gateway = render(TEMPLATE, Rules("gateway", apps=("eth1", "cali*"), transparent=True))
    assert 'define APPS = { "eth1", "cali*" }' in gateway
    assert "redirect to :$ENTRY" in gateway
    assert "hook output" not in gateway


@pytest.mark.parametrize(
    ("rules", "reason"),
    [
        (Rules("host"), "nobody could go out"),
        (Rules("gateway", (1,)), "needs the interfaces"),
        (Rules("host", (1,), apps=("eth1",)), "belongs to mode gateway"),
        (Rules("host", (1,), gateways=(ip_network("10.0.0.1/32"),)), "belongs to mode gateway"),
        (Rules("both", (1,), apps=('eth1" accept #',)), "is no interface name"),
        (Rules("host", (1,), keep=(70000,)), "is no port"),
        (Rules("host", (1,), admin=(0,)), "is no port"),
        (Rules("host", (1,), inside=(ip_network("0.0.0.0/0"),)), "lets nearly everything out"),
        (Rules("host", (1,), inside=(ip_network("128.0.0.0/1"),)), "lets nearly everything out"),
        (Rules("host", (1,), inside=(ip_network("2000::/3"),)), "lets nearly everything out"),
        (Rules("gateway", apps=("eth1",), gateways=(ip_network("::/0"),)), "lets nearly everything out"),
    ],
)
def test_values_that_make_no_rule_set_are_refused(rules: Rules, reason: str) -> None:
    """Also a name that would write rules of its own."""
    with pytest.raises(ConfigError, match=reason):
        render(TEMPLATE, rules)


def test_a_template_without_its_values_is_refused() -> None:
    """A `define` that is gone would leave the shipped value's rule out silently."""
    with pytest.raises(ConfigError, match="has no define ENVOY"):
        render(TEMPLATE.replace("define ENVOY", "define SOMEBODY"), BOTH)


def test_users_by_name_and_number() -> None:
    """The rules hold numbers; who does not exist is told with the cure."""
    assert (user_id("root"), user_id("1337")) == (0, 1337)
    with pytest.raises(ConfigError, match="there is no user 'no-such-user'"):
        user_id("no-such-user")


def test_resolvers_of_the_machine(tmp_path: Path) -> None:
    """Those on loopback ask others: then the next file tells."""
    stub, real = tmp_path / "stub", tmp_path / "real"
    stub.write_text("nameserver 127.0.0.53\noptions edns0\n")
    real.write_text("# made\nnameserver 192.0.2.1\nnameserver fe80::1%eth0\nnameserver what\n")
    assert system_resolvers((stub, real)) == ("192.0.2.1", "fe80::1")
    assert system_resolvers((tmp_path / "none",)) == ()


def test_who_listens(tmp_path: Path) -> None:
    """Port and state of /proc/net/tcp; a connection from that port is no listener."""
    table = tmp_path / "tcp"
    line = "   0: 0100007F:{port:04X} 00000000:0000 {state} 00000000:00000000 00:00000000 00000000  0 0 1 1 0\n"
    table.write_text("  sl  local_address\n" + line.format(port=15443, state="0A") + line.format(port=99, state="01"))
    assert listens(15443, (table,))
    assert not listens(99, (table,))


# ---- in the kernel


@pytest.fixture(scope="module")
def space() -> Iterator[Nets]:
    """The namespaces, without rules; Envoy's entries are echo servers."""
    reason = why_not()
    if reason:
        if os.environ.get("EXTPROC_REQUIRE_NETNS") == "1":
            pytest.fail(f"network namespaces are required here: {reason}")
        pytest.skip(reason)
    with fw.nets() as nets, nets.serving("box", "trap", "15443"), nets.serving("box", "entry", "15001"):
        yield nets


@contextlib.contextmanager
def installed(nets: Nets, rules: Rules = BOTH) -> Iterator[None]:
    """The rules, for the time of a `with` block."""
    done = subprocess.run(
        [*nets.inside("box"), "nft", "-f", "-"], input=render(TEMPLATE, rules), text=True, check=False
    )
    assert done.returncode == 0
    try:
        yield
    finally:
        nets.nft("delete", "table", "inet", "extproc_egress")


@pytest.mark.netns
@pytest.mark.parametrize(("name", "uid", "roads"), [("app", APP_UID, ROADS), ("box", APP_UID, ROADS | ROADS6)])
def test_every_road(space: Nets, name: str, uid: int, roads: dict[str, tuple[Target, str]]) -> None:
    """Open without the rules; under them each TCP road ends in the trap, other ones are refused, what may pass passes."""
    targets = [target for target, _ in roads.values()]
    assert set(space.ask(name, uid, targets)) == {"world"}
    with installed(space):
        found = dict(zip(roads, space.ask(name, uid, targets), strict=True))
    assert found == {road: answer for road, (_, answer) in roads.items()}


@pytest.mark.netns
def test_metadata_stays_closed_in_an_allowed_network(space: Nets) -> None:
    """`--allow` is a wide word; what hands out credentials is not meant by it."""
    targets: list[Target] = [("tcp", fw.METADATA, 80), ("udp", fw.METADATA, 123), ("tcp", fw.WORLD, 80)]
    much = (ip_network("169.0.0.0/8"), ip_network("203.0.0.0/8"))
    with installed(space, Rules("both", (ENVOY_UID,), (fw.RESOLVER,), much, apps=("apps",))):
        for name in ("app", "box"):
            assert space.ask(name, APP_UID, targets) == ["trap", REFUSED, "world"]


@pytest.mark.netns
def test_what_others_open_to_us_is_not_ours_to_judge(space: Nets) -> None:
    """From outside to an app behind the box and to the box, and from the app to the box itself."""
    with space.serving("app", "app", "22"), space.serving("box", "box", "8080"), installed(space):
        assert space.ask("world", APP_UID, [("tcp", fw.APP, 22), ("tcp", fw.BOX, 8080)]) == ["app", "box"]
        assert space.ask("app", APP_UID, [("tcp", fw.BOX_FOR_APP, 8080), ("tcp", fw.BOX, 8080)]) == ["box", "box"]


@pytest.mark.netns
def test_envoy_and_named_users_go_out(space: Nets) -> None:
    """All roads are open to Envoy's user, and to another one only where it is named; root is not special."""
    targets = [target for target, _ in (ROADS | ROADS6).values()]
    with installed(space):
        assert set(space.ask("box", ENVOY_UID, targets)) == {"world"}
        assert space.ask("box", 0, targets[:1]) == ["trap"]
    with installed(space, Rules("host", (ENVOY_UID, HELPER_UID))):
        assert space.ask("box", HELPER_UID, targets[:1]) == ["world"]
        assert space.ask("box", APP_UID, targets[:1]) == ["trap"]


@pytest.mark.netns
def test_the_admin_port_is_closed_to_apps_on_the_machine(space: Nets) -> None:
    """And the metrics', on every address of the machine; Envoy's user and root reach them, and other ports stay open."""
    hosts = ("127.0.0.1", "::1", fw.BOX, "2001:db8:77::1")
    targets: list[Target] = [("tcp", host, port) for host in hosts for port in (9901, 9464)]
    with space.serving("box", "admin", "9901,9902,9464"), installed(space):
        assert space.ask("box", APP_UID, [*targets, ("tcp", "127.0.0.1", 9902)]) == [REFUSED] * 8 + ["admin"]
        assert set(space.ask("box", ENVOY_UID, targets) + space.ask("box", 0, targets)) == {"admin"}


@pytest.mark.netns
def test_known_roads_lead_into_the_entry(space: Nets) -> None:
    """`transparent`: port 443 of the world meets Envoy's redirect entry; metadata and other ports meet the trap."""
    targets: list[Target] = [("tcp", fw.WORLD, 443), ("tcp", fw.WORLD, 80), ("tcp", fw.METADATA, 443)]
    with installed(space, Rules("both", (ENVOY_UID,), apps=("apps",), transparent=True)):
        for name in ("app", "box"):
            assert space.ask(name, APP_UID, targets) == ["entry", "trap", "trap"]


@pytest.mark.netns
def test_a_gateway_behind_an_interface_goes_out(space: Nets) -> None:
    """An Envoy in a pod is known by its address; without that it is an app like others."""
    targets: list[Target] = [("tcp", fw.WORLD, 443), ("udp", fw.WORLD, 443)]
    rules = Rules("gateway", (ENVOY_UID,), apps=("app*",), gateways=(ip_network(f"{fw.APP}/32"),))
    with installed(space, rules):
        assert space.ask("app", APP_UID, targets) == ["world", "world"]
    with installed(space, Rules("gateway", (ENVOY_UID,), apps=("app*",))):
        assert space.ask("app", APP_UID, targets) == ["trap", REFUSED]


@contextlib.contextmanager
def tracking(nets: Nets, on: bool) -> Iterator[None]:
    """Whether the kernel follows connections before our rules are loaded."""
    if on:
        nets.nft(
            "add table inet t; add chain inet t c { type filter hook input priority 0; }; add rule inet t c ct state new"
        )
    try:
        yield
    finally:
        if on:
            nets.nft("delete table inet t")


@pytest.mark.netns
@pytest.mark.parametrize("tracked", [True, False], ids=["tracked", "untracked"])
@pytest.mark.parametrize("name", ["app", "box"])
def test_what_was_open_before_is_cut(space: Nets, name: str, tracked: bool) -> None:
    """At its next word, whether the kernel followed connections before or begins to with our rules."""
    with tracking(space, tracked), held(space, name, APP_UID, fw.WORLD, 443) as old:
        assert old.say("one") == "world:one"
        with installed(space):
            assert old.say("two") in {"ConnectionResetError", "BrokenPipeError", "TimeoutError"}


@pytest.mark.netns
@pytest.mark.parametrize("tracked", [True, False], ids=["tracked", "untracked"])
@pytest.mark.parametrize("name", ["app", "box"])
def test_what_the_other_side_goes_on_sending_opens_nothing(space: Nets, name: str, tracked: bool) -> None:
    """A stream under way: its first packet under the rules comes from outside, and must not count as the opening one."""
    with tracking(space, tracked), held(space, name, APP_UID, fw.WORLD, 443) as old:
        assert old.say("push").startswith("world:push")
        with installed(space):
            heard = [old.say() for _ in range(3)]
            assert old.say("two") in {"ConnectionResetError", "BrokenPipeError", "TimeoutError"}, heard


@pytest.mark.netns
@pytest.mark.parametrize("tracked", [True, False], ids=["tracked", "untracked"])
@pytest.mark.parametrize("name", ["app", "box"])
def test_a_datagram_flow_from_before_is_cut(space: Nets, name: str, tracked: bool) -> None:
    """The other side goes on sending and speaks first under the rules: nothing of it comes in, and no word goes out."""
    with tracking(space, tracked), held(space, name, APP_UID, fw.WORLD, 123, udp=True) as old:
        assert old.say("push") == "world:push"
        with installed(space):
            heard = ["more"]
            while heard[-1] == "more" and len(heard) < 30:  # some was in the socket before the rules
                heard.append(old.say())
            said = old.say("two")
        assert heard[-1] == "TimeoutError" or tracked, heard
        assert said in {"ConnectionRefusedError", "PermissionError", "TimeoutError"}, (heard, said)


@pytest.mark.netns
def test_an_address_of_our_own_that_leads_out_is_judged_as_what_it_leads_to(space: Nets) -> None:
    """Another table's dnat, as of published and node ports: out is refused, inside passes, and so does loopback as it is."""
    space.nft(
        "table ip ports { chain o { type nat hook output priority -100;"
        f" ip daddr {fw.BOX} tcp dport 30443 dnat to {fw.WORLD}:443;"
        f" ip daddr {fw.BOX} tcp dport 30080 dnat to {fw.INSIDE}:443; }}; }}"
    )
    try:
        targets: list[Target] = [("tcp", fw.BOX, 30443), ("tcp", fw.BOX, 30080), ("tcp", "127.0.0.1", 8080)]
        with space.serving("box", "local", "8080"):
            assert space.ask("box", APP_UID, targets) == ["world", "world", "local"]
            with installed(space):
                assert space.ask("box", APP_UID, targets) == [REFUSED, "world", "local"]
    finally:
        space.nft("delete table ip ports")


@pytest.mark.netns
@pytest.mark.parametrize("name", ["app", "box"])
def test_a_storm_fills_no_log(space: Nets, name: str) -> None:
    """The trap takes 200 of one address and then five a second; the rest is reset and counted, and another address is free."""
    with installed(space):
        answers = space.ask(name, APP_UID, [("tcp", fw.WORLD, 443)] * 600)
        assert set(answers) == {"trap", REFUSED}
        assert 200 <= answers.count("trap") < 300
        other = "box" if name == "app" else "app"
        assert space.ask(other, APP_UID, [("tcp", fw.WORLD, 443)]) == ["trap"]
        counters = space.nft("list", "counters", "table", "inet", "extproc_egress")
        assert f"packets {answers.count(REFUSED)} " in counters.partition("counter storm {")[2].partition("}")[0]


@pytest.mark.netns
def test_what_may_stay_open_stays(space: Nets) -> None:
    """Envoy's connections, those inside, and those that others opened to us (here to port 22, unknown until then)."""
    with (
        space.serving("box", "sshd", "22"),
        held(space, "box", ENVOY_UID, fw.WORLD, 443) as envoys,
        held(space, "box", APP_UID, fw.INSIDE, 443) as inside,
        held(space, "world", APP_UID, fw.BOX, 22) as operator,
    ):
        assert [one.say("one") for one in (envoys, inside, operator)] == ["world:one", "world:one", "sshd:one"]
        with installed(space):
            assert [one.say("two") for one in (envoys, inside, operator)] == ["world:two", "world:two", "sshd:two"]
            with held(space, "world", APP_UID, fw.BOX, 22) as late:
                assert late.say("new") == "sshd:new"


@pytest.mark.netns
def test_the_commands_in_the_kernel(space: Nets, tmp_path: Path) -> None:
    """Installed twice is installed once; status sees a rule that somebody took away; removed is removed, also twice."""
    egress = partial(space.egress, tmp_path)
    options = ("--user", str(ENVOY_UID), "--resolver", fw.RESOLVER)
    dry = egress("install", *options, "--dry-run")
    assert (dry.returncode, space.nft("list", "tables")) == (0, "")
    assert egress("status").returncode == 1
    for _ in range(2):
        assert egress("install", *options).returncode == 0
    assert (tmp_path / "egress.nft").read_text() == dry.stdout
    assert space.nft("list", "tables").split() == ["table", "inet", "extproc_egress"]
    assert space.ask("box", APP_UID, [("udp", fw.WORLD, 443)]) == [REFUSED]
    told = egress("status")
    assert told.returncode == 0, told.stdout + told.stderr
    assert any(line.split() == ["quic", "1"] for line in told.stdout.splitlines())
    assert space.ask("box", APP_UID, [("tcp", fw.WORLD, 443)]) == ["trap"]
    assert fw.BOX in space.nft("list", "set", "inet", "extproc_egress", "storms4")
    assert egress("status").returncode == 0  # who is in a set that packets fill is no difference
    space.nft("flush", "chain", "inet", "extproc_egress", "refuse")
    told = egress("status")
    assert told.returncode == 1
    assert "-\t\tmeta l4proto tcp reject with tcp reset" in told.stdout
    boot = tmp_path / "nftables.conf"
    boot.write_text(f'table inet mine\ninclude "{tmp_path / "egress.nft"}"\n')
    assert [egress("remove").returncode for _ in range(2)] == [0, 0]
    assert space.nft("list", "tables") == ""
    space.nft("-f", str(boot))  # at the next boot: the rest of the file is still loaded
    assert space.nft("list", "tables").split() == ["table", "inet", "mine"]
    space.nft("delete table inet mine")


@pytest.mark.netns
def test_an_interface_that_is_not_there_is_told(space: Nets, tmp_path: Path) -> None:
    """By install and by status: `eht1` binds nobody, and nothing else would show it."""
    egress = partial(space.egress, tmp_path)
    names = [word for name in ("apps", "ap*", "eht1", "docker*") for word in ("--from", name)]
    try:
        told = egress("install", "--mode", "gateway", *names, "--resolver", fw.RESOLVER)
        assert told.returncode == 0, told.stderr
        for said in (told.stderr, egress("status").stderr):
            assert [line.split()[1] for line in said.splitlines() if "no interface" in line] == ["eht1:", "docker*:"]
        listed = json.loads(egress("status", "--json").stdout)
        assert (listed["as_installed"], listed["missing_interfaces"]) == (True, ["eht1", "docker*"])
    finally:
        egress("remove")


@pytest.mark.netns
def test_what_cannot_be_kept_is_not_loaded(space: Nets, tmp_path: Path) -> None:
    """A state folder that cannot be written is told with the cure, before anything has changed; no half file stays."""
    (tmp_path / "file").touch()
    words = ("install", "--user", str(ENVOY_UID), "--resolver", fw.RESOLVER)
    told = space.egress(tmp_path / "file" / "st", *words)
    assert (told.returncode, space.nft("list", "tables")) == (1, "")
    assert "nothing was loaded" in told.stderr
    assert "--state" in told.stderr
    broken = tmp_path / "broken.nft"
    broken.write_text(TEMPLATE.replace("chain refuse {", "chain refuse { nonsense;"))
    done = space.egress(tmp_path / "st", *words, "--rules", str(broken))
    assert (done.returncode, (tmp_path / "st").exists(), space.nft("list", "tables")) == (1, False, "")
