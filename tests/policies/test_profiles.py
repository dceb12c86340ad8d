"""Which profile a call gets."""

from __future__ import annotations

import pytest

from extproc.exchange.effects import Caller
from extproc.exchange.facts import Facts, Origin, Target
from extproc.policies.profiles import ProfileRule, Profiles
from redacting import profile


def facts(chain: tuple[str, ...], caller: Caller, **labels: str) -> Facts:
    return Facts(Origin(0.0, 0.0), caller=caller, labels=labels, target=Target(chain[0], "m", chain))


ANN = Caller(key_id="k", team="research", app="bot", tenant="t1")
RULES = (
    ProfileRule("research", "*", "*", "*", "local", ""),
    ProfileRule("*", "*", "*", "secret*", "*", "tight"),
    ProfileRule("*", "pay*", "*", "*", "*", "tight"),
    ProfileRule("*", "*", "t9", "*", "*", "tight"),
    ProfileRule("*", "*", "*", "*", "*", "standard"),
)
PROFILES = Profiles({"tight": profile("tight"), "standard": profile("standard")}, RULES)


@pytest.mark.parametrize(
    ("chain", "caller", "labels", "expected"),
    [
        (("openai",), ANN, {}, "standard"),
        (("local",), ANN, {}, None),
        (("local", "openai"), ANN, {}, "standard"),  # a failover must not see more
        (("openai",), ANN, {"data_class": "secret-1"}, "tight"),
        (("openai",), Caller(key_id="k", team="x", app="payroll"), {}, "tight"),
        (("openai",), Caller(key_id="k", team="x", app="a", tenant="t9"), {}, "tight"),
        (("openai",), Caller(key_id="k", team="x", app="a"), {"tenant": "t9"}, "standard"),  # a label chooses nothing
        (("openai",), ANN, {"tenant": "t9"}, "standard"),  # the key knows better than the label
    ],
)
def test_the_first_rule_decides_and_the_strictest_provider_holds(chain, caller, labels, expected):
    """Team, app, tenant, data class, provider."""
    found = PROFILES.of(facts(chain, caller, **labels))

    assert expected == (found.name if found is not None else None)
    assert found is PROFILES.of(facts(chain, caller, **labels))


def test_a_data_class_makes_a_profile_stricter_only():
    """The label is the caller's own word."""
    rules = (
        ProfileRule("*", "*", "*", "public", "*", ""),
        ProfileRule("*", "*", "*", "lax", "*", "standard"),
        ProfileRule("*", "*", "*", "*", "*", "tight"),
    )
    profiles = Profiles({"tight": profile("tight"), "standard": profile("standard")}, rules)

    for label in ("public", "lax", "other"):
        assert "tight" == profiles.of(facts(("a",), ANN, data_class=label)).name


def test_two_profiles_on_one_chain_the_stricter_wins():
    """The order of `profiles` says which is."""
    rules = (ProfileRule("*", "*", "*", "*", "a", "standard"), ProfileRule("*", "*", "*", "*", "b", "tight"))
    profiles = Profiles({"tight": profile("tight"), "standard": profile("standard")}, rules)

    assert "tight" == profiles.of(facts(("a", "b"), ANN)).name
    assert "standard" == profiles.of(facts(("a",), ANN)).name
    assert profiles.of(facts(("c",), ANN)) is None


def test_keyed_pseudonyms_are_a_tenants_own():
    """The key's tenant, else the label, else the team."""
    assert "t1" == Profiles.tenant(facts(("a",), ANN, tenant="t2"))
    assert "t2" == Profiles.tenant(facts(("a",), Caller(key_id="k", team="x", app="a"), tenant="t2"))
    assert "x" == Profiles.tenant(facts(("a",), Caller(key_id="k", team="x", app="a")))
