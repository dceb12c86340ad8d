"""Which finding wins."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st

from extproc.redaction.resolve import resolve
from extproc.text import Finding


@st.composite
def findings(draw: st.DrawFn) -> list[Finding]:
    """Few characters, kinds and scores, so that everything collides."""
    start = st.integers(0, 24)
    one = st.builds(
        lambda kind, start, length, score, rule: Finding(kind, start, start + length, score, rule),
        st.sampled_from("ABC"),
        start,
        st.integers(1, 10),
        st.sampled_from((0.0, 0.4, 0.85, 1.0)),
        st.sampled_from(("", "r")),
    )
    return draw(st.lists(one, max_size=12))


def characters(found: tuple[Finding, ...] | list[Finding]) -> set[int]:
    return {index for one in found for index in range(one.start, one.end)}


def winners(found: list[Finding]) -> dict[int, str]:
    """The rule, character by character."""
    best: dict[int, tuple[tuple[float, int, str, int, str], str]] = {}
    for one in found:
        worth = (-one.score, one.start - one.end, one.kind, one.start, one.rule)
        for index in range(one.start, one.end):
            if index not in best or worth < best[index][0]:
                best[index] = (worth, one.kind)
    return {index: kind for index, (_, kind) in best.items()}


@settings(deadline=None)
@given(findings())
def test_every_character_stays_covered_by_the_best(found):
    """Nothing that was found is lost, nothing else is covered, and each character has the kind of its best finding."""
    resolved = resolve(found)

    assert characters(found) == characters(resolved)
    assert winners(found) == {index: one.kind for one in resolved for index in range(one.start, one.end)}
    assert all(left.end <= right.start for left, right in pairwise(resolved))


@settings(deadline=None)
@given(findings(), st.randoms(use_true_random=False))
def test_the_order_in_which_they_come_does_not_matter(found, random):
    """Detectors may run in any order."""
    shuffled = list(found)
    random.shuffle(shuffled)

    assert resolve(found) == resolve(shuffled)


@settings(deadline=None)
@given(findings())
def test_resolving_twice_changes_nothing(found):
    """What was resolved is resolved."""
    once = resolve(found)

    assert once == resolve(once)


def test_higher_score_wins_and_the_loser_keeps_the_rest():
    """On both sides."""
    found = [Finding("PERSON", 0, 20, 0.5, "p"), Finding("EMAIL_ADDRESS", 5, 10, 1.0, "e")]

    assert (
        Finding("PERSON", 0, 5, 0.5, "p"),
        Finding("EMAIL_ADDRESS", 5, 10, 1.0, "e"),
        Finding("PERSON", 10, 20, 0.5, "p"),
    ) == resolve(found)


def test_longer_wins_then_the_kind():
    """At the same score."""
    assert (Finding("B", 0, 9, 1), Finding("A", 9, 11, 1)) == resolve([Finding("A", 4, 11, 1), Finding("B", 0, 9, 1)])
    assert (Finding("A", 0, 4, 1), Finding("B", 4, 6, 1)) == resolve([Finding("B", 2, 6, 1), Finding("A", 0, 4, 1)])


def test_one_kind_that_overlaps_becomes_one():
    """With the score and the rule of the better; neighbours that only touch stay two."""
    overlapping = [Finding("API_KEY", 0, 10, 0.5, "generic"), Finding("API_KEY", 6, 14, 0.9, "vendor")]
    touching = [Finding("PERSON", 0, 4, 0.5), Finding("PERSON", 4, 8, 0.5)]

    assert (Finding("API_KEY", 0, 14, 0.9, "vendor"),) == resolve(overlapping)
    assert tuple(touching) == resolve(touching)
    assert (*touching, Finding("API_KEY", 20, 34, 0.9, "vendor")) == resolve(
        [*touching, *(one._replace(start=one.start + 20, end=one.end + 20) for one in overlapping)]
    )


def test_many_findings_over_one_place():
    """A thousand nested ones, and ten thousand that hang together like a chain, need no quadratic work."""
    nested = [Finding("A", index, 2000 - index, 0.5) for index in range(1000)]
    chain = [Finding("AB"[index % 2], index * 3, index * 3 + 5, 0.5) for index in range(10_000)]

    assert (Finding("A", 0, 2000, 0.5),) == resolve(nested)
    assert characters(chain) == characters(resolve(chain))


def test_empty_findings_are_none():
    """A finding without characters says nothing."""
    assert () == resolve([])
    assert (Finding("A", 1, 3, 1),) == resolve([Finding("A", 1, 3, 1), Finding("B", 2, 2, 1)])
    assert () == resolve([Finding("B", 2, 2, 1)])
