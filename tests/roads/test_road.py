"""What the roads are given."""

from __future__ import annotations

import ssl
from dataclasses import replace

import pytest

from extproc.roads.road import Finding, Outcome, Place, Target, by_design, closed, not_tried, open_


def test_a_host_is_tried_at_its_own_addresses_or_at_one_outside(scope):
    """One that has no IPv6 address is tried at one of anybody's, so that the version is tried at all, and it is marked."""
    target = Target("x.example", ("192.0.2.1", "192.0.2.2", "192.0.2.3"))
    assert scope.places(target, 4) == (Place("192.0.2.1"), Place("192.0.2.2"))
    assert scope.places(target, 6) == (Place("::1", own=False),)
    assert replace(scope, outside=("127.0.0.4",)).places(target, 6) == ()


@pytest.mark.parametrize(
    ("target", "missing"),
    [
        (Target("v", ("192.0.2.1",)), (False, False)),  # it has no IPv6 address: nothing is left out
        (Target("v", ("192.0.2.1",), led=("fd00::1",)), (False, True)),
        (Target("v", led=("10.0.0.1",)), (True, True)),
        (Target("v"), (True, True)),
    ],
)
def test_a_vendor_without_an_address_of_its_own_has_no_place(scope, target, missing):
    """Where its name leads to the gateway or nowhere, another address would not show that the road to it is closed."""
    lost = replace(scope, vendors=(target,))
    assert tuple(bool(lost.missing(target, version)) for version in (4, 6)) == missing
    assert tuple(not lost.places(target, version) for version in (4, 6)) == missing
    assert scope.missing(replace(target, host="not listed"), 4) == ""


def test_only_the_gateways_ca_is_trusted(scope):
    """Nothing of the system's, and any name: who answers matters, not for whom."""
    context = scope.trust()
    assert len(context.get_ca_certs()) == 1
    assert (context.check_hostname, context.verify_mode) == (False, ssl.CERT_REQUIRED)


def test_keys_are_not_shown(scope):
    """A scope may end in a traceback."""
    assert "exk-" not in repr(scope)


@pytest.mark.parametrize(("make", "outcome"), list(zip((open_, closed, by_design, not_tried), Outcome, strict=True)))
def test_findings(make, outcome):
    """One maker an outcome."""
    assert make("why") == Finding(outcome, "why")
