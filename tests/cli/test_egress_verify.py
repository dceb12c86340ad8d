"""The command line of `extproc egress verify`: what it tries by default, what it refuses, and its exit codes."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import Encoding

from extproc.adapters.pki import create_ca
from extproc.cli import egress_verify
from extproc.cli.output import FAILED, OK, WRONG_USE
from extproc.errors import ConfigError
from extproc.roads import suite
from extproc.roads.road import Attempt, Road, by_design, closed, not_tried, open_

VENDOR = ("--vendor", "api.vendor.example=192.0.2.1,2001:db8::1", "--unlisted", "llm.other.example=192.0.2.2")


@pytest.fixture
def ca(tmp_path):
    """The gateway's CA file."""
    create_ca(tmp_path / "ca", "a test's")
    return tmp_path / "ca" / "ca.pem"


def parsed(*words):
    parser = argparse.ArgumentParser()
    egress_verify.add_arguments(parser)
    return parser.parse_args([str(word) for word in words])


def roads(monkeypatch, **outcomes):
    """Other roads than the real ones: name -> finding."""
    made = [Road(name, "", lambda _, one=one: [Attempt("t", lambda: one)]) for name, one in outcomes.items()]
    monkeypatch.setattr(suite, "ROADS", tuple(made))


def run(ca, *words):
    return egress_verify.run(parsed(*VENDOR, "--ca", ca, *words))


def test_hosts_with_their_addresses(ca):
    """Both versions of IP; nothing is looked up."""
    scope = egress_verify.scope_of(parsed(*VENDOR, "--ca", ca))
    assert [(one.host, one.v4, one.v6) for one in scope.vendors] == [
        ("api.vendor.example", ("192.0.2.1",), ("2001:db8::1",))
    ]
    assert [one.host for one in scope.unlisted] == ["llm.other.example"]
    assert scope.ports == egress_verify.PORTS
    assert scope.metadata == egress_verify.METADATA
    assert scope.gateway.ports == egress_verify.ENTRIES


def test_vendors_of_gateway_yaml(ca, tmp_path):
    """Every host of every provider; `localhost` stands for one that resolves."""
    config = tmp_path / "gateway.yaml"
    config.write_text(
        "version: 1\nproviders:\n  openai:\n    api: openai\n    hosts: [localhost]\n    credential: {env: A_KEY}\n"
        "    models: [m]\nkeys: {file: keys.json, pepper: {file: pepper}}\naccess: [{team: a}]\n"
    )
    words = ("--config", config, "--unlisted", "llm.other.example=192.0.2.2", "--ca", ca)
    scope = egress_verify.scope_of(parsed(*words))
    assert [one.host for one in scope.vendors] == ["localhost"]
    assert "127.0.0.1" in scope.vendors[0].led


def test_a_name_that_leads_to_the_gateway_gives_no_address_of_the_vendors(ca, monkeypatch):
    """Nor does a private address; what is named by hand is taken, but for the gateway's own."""
    told = {"a.example": ["192.0.2.9", "2606:4700::1"], "b.example": ["10.0.0.1"], "gw.example": ["192.0.2.9"]}

    def found(host, *_):
        return [(0, 0, 0, "", (address, 0)) for address in told[host]]

    monkeypatch.setattr(egress_verify.socket, "getaddrinfo", found)
    hosts = ("--vendor", "a.example", "--vendor", "b.example", "--vendor", "c.example=10.0.0.2,192.0.2.9")
    scope = egress_verify.scope_of(parsed(*hosts, "--unlisted", "d=192.0.2.4", "--gateway", "gw.example", "--ca", ca))
    assert [(one.v4, one.v6, one.led) for one in scope.vendors] == [
        ((), ("2606:4700::1",), ("192.0.2.9",)),
        ((), (), ("10.0.0.1",)),
        (("10.0.0.2",), (), ("192.0.2.9",)),
    ]


def test_a_bundle_is_refused(ca, capsys):
    """Whoever the file vouches for would pass for the gateway: exit code 2, and the cure."""
    other = create_ca(ca.parent.parent / "other", "another").certificate.public_bytes(Encoding.PEM)
    ca.write_bytes(ca.read_bytes() + other)
    assert run(ca) == WRONG_USE
    told = capsys.readouterr().err
    assert "2 roots" in told
    assert "no bundle" in told


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--vendor", "a.example=nonsense"), "nonsense"),
        (("--outside", "dns.google"), "dns.google"),
        (("--port", "nothing=1"), "ENTRY=PORT"),
        (("--port", "connect=99999"), "ENTRY=PORT"),
        (("--vendor", "https://a.example"), "no host name"),
        (("--unlisted", "=192.0.2.1"), "no host name"),
        (("--gateway", "gw.example:8080"), "no host name"),
    ],
)
def test_wrong_values_say_what_is_wrong(ca, words, said):
    """ConfigError, with the value."""
    with pytest.raises(ConfigError, match=said):
        egress_verify.scope_of(parsed(*VENDOR, "--ca", ca, *words))


@pytest.mark.parametrize(
    "words",
    [
        ("--timeout", "0"),
        ("--other-port", "0"),
        ("--only", "no-such-road"),
        ("--private", "pods.example"),
        ("--private", "pods.example:0"),
        ("--private", ":9464"),
        ("--private", "fd00::1:9464"),
    ],
)
def test_wrong_numbers_and_names(words, capsys):
    """The parser refuses them."""
    with pytest.raises(SystemExit):
        parsed(*words)
    assert words[0] in capsys.readouterr().err


def test_private_ports_of_other_hosts(ca, monkeypatch):
    """At all addresses of each; a port alone is the gateway's. One that does not resolve has none, and is not left out."""
    told = {"pods.example": ["10.0.0.7", "10.0.0.8", "10.0.0.7"], "127.0.0.1": ["127.0.0.1"], "fd00::1": ["fd00::1"]}

    def found(host, *_):
        if host not in told:
            raise OSError("unknown")
        return [(0, 0, 0, "", (address, 0)) for address in told[host]]

    monkeypatch.setattr(egress_verify.socket, "getaddrinfo", found)
    given = ("9901", "pods.example:9464", "[fd00::1]:9902", "gone.example:9464")
    words = [word for one in given for word in ("--private", one)]
    gateway = egress_verify.scope_of(parsed(*VENDOR, "--ca", ca, *words)).gateway
    assert gateway.private == (9901,)
    assert [(one.host, one.port, one.addresses) for one in gateway.doors] == [
        ("pods.example", 9464, ("10.0.0.7", "10.0.0.8")),
        ("fd00::1", 9902, ("fd00::1",)),
        ("gone.example", 9464, ()),
    ]
    assert egress_verify.scope_of(parsed(*VENDOR, "--ca", ca)).gateway.private == egress_verify.PRIVATE


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--restart-command", "systemctl 'restart"), "each quote closed"),
        (("--restart-command", " "), "names no command"),
        (("--key", "FILE:schlüssel"), "does not hold one virtual key"),
        (("--key", "FILE:exk-a\nexk-b"), "extproc keys create"),
        (("--other-key", "FILE:"), "does not hold one virtual key"),
        (("--vendor", "a b"), "no host name"),
    ],
)
def test_wrong_input_is_no_open_road(ca, tmp_path, monkeypatch, capsys, words, said):
    """Exit code 2 and the cure, before anything is tried: 1 says that a road is open."""
    option, value = words
    if value.startswith("FILE:"):
        (tmp_path / "given").write_text(value.removeprefix("FILE:"), encoding="utf-8")
        value = tmp_path / "given"
    roads(monkeypatch, gateway=open_("tried, though the input is wrong"))
    assert run(ca, option, value) == WRONG_USE
    out, err = capsys.readouterr()
    assert (out, said in err) == ("", True), err


def test_a_configuration_without_hosts_is_no_open_road(ca, tmp_path, capsys):
    """All its providers are reached by alias: there is no vendor to try. Nor is one road tried without an unlisted host."""
    config = tmp_path / "gateway.yaml"
    config.write_text(
        "version: 1\nproviders:\n  openai:\n    api: openai\n    credential: {env: A_KEY}\n    models: [m]\n"
        "keys: {file: keys.json, pepper: {file: pepper}}\naccess: [{team: a}]\n"
    )
    assert egress_verify.run(parsed("--config", config, "--ca", ca)) == WRONG_USE
    assert "--vendor HOST" in capsys.readouterr().err
    listed = [word for host in egress_verify.UNLISTED for word in ("--vendor", f"{host}=192.0.2.1")]
    assert egress_verify.run(parsed(*listed, "--ca", ca)) == WRONG_USE
    assert "--unlisted" in capsys.readouterr().err


def test_holding_without_a_line_tries_nothing(ca, monkeypatch, capsys):
    """Standard input of a Job is empty: exit code 2, and it says why."""
    roads(monkeypatch, gateway=open_("tried, though the policy may not be there"))
    monkeypatch.setattr(egress_verify.timed, "hold", lambda _: [])
    with Path(os.devnull).open() as line:
        monkeypatch.setattr(sys, "stdin", line)
        assert run(ca, "--hold") == WRONG_USE
    out, err = capsys.readouterr()
    assert (out, "standard input ended before a line; nothing was tried" in err) == ("", True)


def test_an_entry_can_be_left_out(ca):
    """Port 0: there is none."""
    assert egress_verify.scope_of(parsed(*VENDOR, "--ca", ca, "--port", "connect=0")).gateway.ports == {
        "base_url": egress_verify.ENTRIES["base_url"]
    }


def test_a_missing_ca_is_could_not_run(tmp_path, capsys):
    """Exit code 2, and the file's name."""
    assert egress_verify.run(parsed(*VENDOR, "--ca", tmp_path / "none.pem")) == WRONG_USE
    assert "none.pem" in capsys.readouterr().err
    other = tmp_path / "other.pem"
    other.write_text("no certificate")
    assert egress_verify.run(parsed(*VENDOR, "--ca", other)) == WRONG_USE
    assert "holds no certificate" in capsys.readouterr().err


def test_exit_codes(ca, monkeypatch, capsys):
    """0: closed or by design; 1: one is open; 2: the gateway did not answer, or something could not be tried."""
    roads(monkeypatch, gateway=by_design("d"), other=closed("c"))
    monkeypatch.setattr(suite, "NAMES", ("gateway", "other", "before-policy", "restart-window"))
    assert run(ca) == OK
    roads(monkeypatch, gateway=by_design("d"), other=open_("bytes"))
    assert run(ca) == FAILED
    roads(monkeypatch, gateway=closed("refused"), other=closed("c"))
    assert run(ca) == WRONG_USE
    assert "could not run" in capsys.readouterr().err

    def fails():
        raise MemoryError

    broken = Road("other", "", lambda _: [Attempt("t", fails)])
    monkeypatch.setattr(suite, "ROADS", (Road("gateway", "", lambda _: [Attempt("t", lambda: by_design("d"))]), broken))
    assert run(ca) == WRONG_USE
    assert "in part" in capsys.readouterr().err


@pytest.mark.parametrize("words", [(), ("--json",)])
def test_what_was_not_tried_is_not_known(ca, monkeypatch, capsys, words):
    """Exit code 2, with the count; what was not asked for, or what this machine has no road for, is no reason."""
    monkeypatch.setattr(suite, "NAMES", ("gateway", "other"))
    roads(monkeypatch, gateway=by_design("d"), other=not_tried("no key"))
    assert run(ca, *words) == WRONG_USE
    assert "not known: 1 attempts (other 1)" in capsys.readouterr().err
    roads(monkeypatch, gateway=by_design("d"), other=not_tried("no IPv6 route here", excused=True))
    assert run(ca, *words) == OK
    assert "1 not tried" in capsys.readouterr().err


def test_json(ca, monkeypatch, capsys):
    """Each road with its attempts, and the count by outcome; no key."""
    roads(monkeypatch, gateway=by_design("d"), other=closed("c"))
    monkeypatch.setattr(suite, "NAMES", ("gateway", "other"))
    key = ca.with_name("key")
    key.write_text("exk-" + "q" * 12)
    assert run(ca, "--json", "--key", key) == OK
    out = capsys.readouterr().out
    told = json.loads(out)
    assert [row["road"] for row in told["roads"]] == ["gateway", "other"]
    assert told["outcome"] == {"open": 0, "closed": 1, "by design": 1, "not tried": 0}
    assert told["roads"][1]["attempts"][0]["evidence"] == "c"
    assert told["roads"][1]["missing"] == 0
    assert "exk-" not in out


def test_the_command_is_registered():
    """As `extproc egress verify`, beside install, remove and status."""
    done = subprocess.run(
        [sys.executable, "-m", "extproc", "egress", "verify", "--help"], capture_output=True, text=True, check=True
    )
    assert "--restart-command" in done.stdout
