"""Compiled access rules."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from extproc.exchange.effects import Caller
from extproc.policies.grants import Grants, Rule, allows, matches

ANY = ("*",)


def rule(team: str = "*", models: tuple[str, ...] = ANY, providers: tuple[str, ...] = ANY) -> Rule:
    return Rule(team, "*", "*", models, providers, ANY)


def test_patterns_are_globs_and_case_sensitive():
    """`*`, `?` and sets; nothing else is special."""
    assert matches(("gpt-4*",), "gpt-4o")
    assert matches(("gpt-?o",), "gpt-4o")
    assert not matches(("GPT-4*",), "gpt-4o")
    assert not matches((), "gpt-4o")


@given(st.text(max_size=20))
def test_no_pattern_matches_nothing_and_a_star_everything(value):
    """The two ends."""
    assert matches(ANY, value)
    assert not matches((), value)


@given(st.text(st.characters(exclude_characters="*?["), max_size=20), st.text(max_size=20))
def test_a_plain_name_matches_itself_only(name, value):
    """Regular-expression characters in names mean nothing."""
    assert (name == value) is matches((name,), value)


def test_the_rules_of_a_caller_are_remembered_apart():
    """One caller's rules are never another's."""
    grants = Grants((rule("a"), rule("b"), rule("*")))
    first, second = Caller("1", "a", "x"), Caller("2", "b", "x")

    assert (rule("a"), rule("*")) == grants.of(first) == grants.of(first)
    assert (rule("b"), rule("*")) == grants.of(second)


def test_callers_that_differ_by_tenant_only_are_told_apart():
    """The memory is keyed by all that rules speak of."""
    grants = Grants((Rule("*", "*", "acme", ANY, ANY, ANY),))

    assert 1 == len(grants.of(Caller("1", "a", "x", tenant="acme")))
    assert () == grants.of(Caller("1", "a", "x"))


def test_the_memory_is_bounded():
    """Keys are made by operators, but their names are data."""
    grants = Grants((rule(),))
    for number in range(10_050):
        grants.of(Caller("1", f"team-{number}", "x"))

    assert 10_000 == len(grants._memo)
    assert (rule(),) == grants.of(Caller("1", "one-more", "x"))


def test_a_model_is_allowed_under_any_of_its_names_by_one_rule():
    """Alias or resolved; provider and model from the same rule."""
    rules = (rule(models=("fast",), providers=("openai",)), rule(models=("x",), providers=("other",)))

    assert allows(rules, "openai", ("fast", "gpt-4o-mini"))
    assert not allows(rules, "other", ("fast", "gpt-4o-mini"))
    assert not allows((), "openai", ("fast",))
