"""Matching and naming: who falls under which limit, and what the counters are called, whatever callers write."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from extproc.limits.counters import Counter, Kind, Rule, Subject, Window
from extproc.limits.rules import (
    DIMENSIONS,
    Rules,
    burst_at,
    check_organisation,
    limit_of,
    output_tokens,
    quoted_value,
    read_value,
)

CALL = Subject(
    "acme", tenant="t1", team="search", app="web", key="k1", user="ann", model="gpt-4o-mini", provider="openai"
)
ANY_TEXT = st.text(st.characters(), max_size=300)  # lone surrogates too: JSON can carry them
QUOTED = re.compile(r"(?:[A-Za-z0-9._\-:@+=]|%[0-9A-F]{2})*|~[0-9a-f]{32}")


def rule(name: str = "r", *, limit: int = 100, window: Window = Window.MONTH, **more: object) -> Rule:
    return Rule(name=name, kind=Kind.REQUESTS, window=window, limit=limit, **more)


def named(rules: Rules, subject: Subject) -> list[str]:
    return [counter.rule.name for counter in rules.counters(subject)]


def only(made: Rule, subject: Subject = CALL) -> Counter:
    (counter,) = Rules((made,)).counters(subject)
    return counter


def test_every_rule_that_matches_has_a_counter_in_order() -> None:
    """All patterns of a rule must fit; a rule without any takes every call."""
    rules = Rules(
        (
            rule("all"),
            rule("mini", match=(("model", "gpt-4o*"), ("team", "search"))),
            rule("other_team", match=(("model", "gpt-4o*"), ("team", "legal"))),
            rule("one_letter", match=(("team", "s?arch"),)),
            rule("case", match=(("team", "SEARCH"),)),
            rule("labelled", match=(("feature", "?*"),)),
            rule("unlabelled", match=(("feature", "*"),)),
        )
    )
    assert named(rules, CALL) == ["all", "mini", "one_letter", "unlabelled"]


def test_the_name_of_a_counter() -> None:
    """As the contract has it: the organisation's hash tag, the rule, its kind and window, the value."""
    made = Rule(name="month", kind=Kind.MONEY, window=Window.MONTH, limit=5, scope=("app", "model"))
    counter = only(made)
    assert (counter.organisation, counter.value) == ("acme", "web/gpt-4o-mini")
    assert counter.key == b"xq:{acme}:c:month:money:month:web/gpt-4o-mini"


def test_what_is_unknown_counts_under_the_empty_value() -> None:
    """A call without a feature is counted too."""
    assert only(rule(scope=("team", "feature"))).value == "search/"


def test_values_are_quoted() -> None:
    """Slashes, blanks, braces and other scripts cannot be taken for a part of the name."""
    subject = Subject("acme", user="Ann Ö/{x}~", model="openai/gpt-4o", team="a.b-c:d@e+f=g_")
    counter = only(rule(scope=("user", "model", "team")), subject)
    assert counter.value == "Ann%20%C3%96%2F%7Bx%7D%7E/openai%2Fgpt-4o/a.b-c:d@e+f=g_"


def test_a_long_value_is_named_by_its_digest() -> None:
    """Its length is bounded, and two of them are two counters."""
    one, other = (
        only(rule(scope=("user",)), Subject("o", user="x" * 201)),
        only(rule(scope=("user",)), Subject("o", user="x" * 202)),
    )
    assert one.value != other.value
    assert re.fullmatch(r"~[0-9a-f]{32}", one.value)
    assert only(rule(scope=("user",)), Subject("o", user="x" * 200)).value == "x" * 200


@given(ANY_TEXT)
def test_a_quoted_value_is_plain_and_bounded(text: str) -> None:
    """Whatever a caller writes."""
    value = quoted_value(text)
    assert QUOTED.fullmatch(value)
    assert len(value) <= 600


@given(ANY_TEXT, ANY_TEXT)
def test_two_values_are_never_one_counter(one: str, other: str) -> None:
    """Quoting loses nothing, also where a value looks like a digest or like a quoted one."""
    assert (quoted_value(one) == quoted_value(other)) == (one == other)
    assert quoted_value(quoted_value("x" * 300)) != quoted_value("x" * 300)


@given(ANY_TEXT, ANY_TEXT)
def test_a_value_that_was_shown_can_be_written_again(one: str, other: str) -> None:
    """What `limits show` prints is what `limits grant` takes."""
    shown = f"{quoted_value(one)}/{quoted_value(other)}"
    assert read_value(("team", "user"), shown) == shown


def test_an_operator_may_write_plain_characters() -> None:
    """Quoting is for slashes and tildes; a stray per cent sign is itself."""
    assert read_value(("user",), "Ann Ö") == "Ann%20%C3%96"
    assert read_value(("user",), "100%") == quoted_value("100%")
    assert read_value(("model",), "openai%2fgpt-4o") == quoted_value("openai/gpt-4o")
    assert read_value(("model",), "m" * 300) == quoted_value("m" * 300)
    assert read_value(("team", "feature"), "search/") == "search/"


@pytest.mark.parametrize(("scope", "text"), [(("team",), "a/b"), (("team", "app"), "a"), (("team", "app"), "a/b/c")])
def test_a_value_with_the_wrong_number_of_parts(scope: tuple[str, ...], text: str) -> None:
    """Would be a counter that no call ever has."""
    with pytest.raises(ValueError, match="dimensions"):
        read_value(scope, text)


def test_the_configuration_overrides_by_value() -> None:
    """The counter's rule carries the limit that holds for its value; others keep their own."""
    made = rule(scope=("team",), overrides=(("search", 7),))
    assert only(made).rule.limit == 7
    assert only(made, Subject("acme", team="legal")).rule is made


def test_a_live_override_wins() -> None:
    """Over the configuration's own and over the rule's."""
    made = rule(scope=("team",), overrides=(("search", 7),))
    counter, other = only(made), only(made, Subject("acme", team="legal"))
    live = {("r", "search"): 9, ("other", "legal"): 1}
    assert (limit_of(counter, live), limit_of(counter, {}), limit_of(other, live)) == (9, 7, 100)


def test_a_burst_changes_with_the_limit() -> None:
    """In proportion; nobody's limit is nobody's burst, and other windows have none."""
    bucket = rule(limit=100, burst=20, period=60_000, window=Window.BUCKET, overrides=(("acme", 1000),))
    assert [burst_at(bucket, limit) for limit in (100, 200, 1, 0)] == [20, 40, 1, 0]
    assert burst_at(rule(limit=0, window=Window.BUCKET), 5) == 5
    assert burst_at(rule(), 5) == 0
    assert only(bucket).rule.burst == 200


@pytest.mark.parametrize("organisation", ["", "a{b", "a}b", "{}"])
def test_an_organisation_that_would_not_be_a_shard(organisation: str) -> None:
    """The cluster would cut the key elsewhere: refused, not counted in the wrong place."""
    with pytest.raises(ValueError, match="organisation"):
        check_organisation(organisation)
    with pytest.raises(ValueError, match="organisation"):
        Rules((rule(),)).counters(Subject(organisation))


def test_a_dimension_that_there_is_not() -> None:
    """Is told when rules are compiled, not with the first call."""
    for made in (rule(scope=("planet",)), rule(match=(("planet", "*"),))):
        with pytest.raises(ValueError, match="planet"):
            Rules((made,))
    assert DIMENSIONS[0] == "organisation"
    assert len(DIMENSIONS) == 9


def test_rules_are_found_by_name() -> None:
    """And their counters made from what an operator names."""
    made = rule(scope=("team",), overrides=(("search", 7),))
    rules = Rules((rule("first"), made))
    assert rules.rule("r") is made
    assert rules.rule("gone") is None
    assert rules.counter(made, "acme", "search") == only(made)


def test_what_is_remembered_is_bounded() -> None:
    """A subject is looked up once; a flood of new ones, or of long ones, does not grow it without end."""
    rules = Rules((rule(scope=("user",)),))
    assert rules.counters(CALL) is rules.counters(CALL)
    for number in range(5000):
        rules.counters(Subject("acme", user=str(number)))
    assert rules._remembered.cache_info().currsize == 4096
    long = Subject("acme", user="x" * 3000)
    assert rules.counters(long) == rules.counters(long)
    assert rules._remembered.cache_info().misses == 5001


def test_tokens_reserved_for_an_answer() -> None:
    """The first pattern that matches; where none does, the default."""
    caps = (("gpt-4o-mini", 500), ("gpt-4o*", 4096))
    assert [output_tokens(caps, model, 10) for model in ("gpt-4o-mini", "gpt-4o-2024", "claude")] == [500, 4096, 10]
    assert output_tokens((("*", 2),), "any", 10) == 2
