"""How attempts become rows, and rows an outcome."""

from __future__ import annotations

import time
from dataclasses import replace

import pytest

from extproc.roads import proxied, suite
from extproc.roads.road import Attempt, Outcome, Road, by_design, closed, not_tried, open_


def road(*findings, name="a-road"):
    attempts = [Attempt(f"try {number}", lambda one=one: one) for number, one in enumerate(findings)]
    return Road(name, "for a test", lambda _: attempts)


@pytest.mark.parametrize(
    ("findings", "outcome"),
    [
        ((closed("c"), open_("o"), by_design("d")), Outcome.OPEN),
        ((by_design("d"), closed("c"), not_tried("n")), Outcome.CLOSED),
        ((not_tried("n"), by_design("d")), Outcome.BY_DESIGN),
        ((not_tried("n"),), Outcome.NOT_TRIED),
        ((), Outcome.NOT_TRIED),
    ],
)
def test_a_row_is_as_bad_as_its_worst_attempt(scope, findings, outcome):
    """Open before closed before by design; what was not tried decides nothing."""
    (row,) = suite.run(scope, [road(*findings)])
    assert row.outcome is outcome
    assert not row.broken


def test_evidence_says_how_many_and_what_is_missing(scope):
    """One line: the count, the attempt that decides, and what was left out."""
    (row,) = suite.run(scope, [road(closed("reset"), closed("reset"), not_tried("n"))])
    assert row.evidence == "2 of 3: try 0: reset; 1 not tried"


def test_an_attempt_that_fails_is_broken_not_closed(scope):
    """What could not be run is no outcome."""

    def fails():
        raise MemoryError("none left")

    (row,) = suite.run(scope, [Road("r", "", lambda _: [Attempt("t", fails)])])
    assert (row.outcome, row.broken) == (Outcome.NOT_TRIED, True)
    assert "none left" in row.evidence


def test_an_attempt_that_hangs_ends_the_suite_in_time(scope):
    """Bounded, and said."""
    slow = Road("r", "", lambda _: [Attempt("t", lambda: time.sleep(1.5) or closed("late"))])
    began = time.monotonic()
    (row,) = suite.run(replace(scope, timeout=0.01), [slow])
    assert time.monotonic() - began < 1.2
    assert (row.broken, row.tried[0].evidence) == (True, "did not end in time")


def test_the_gateway_must_have_answered(scope):
    """Without the meant road nothing is proven."""
    name = proxied.GATEWAY.name
    assert suite.governs(suite.run(scope, [road(by_design("d"), name=name)]))
    assert not suite.governs(suite.run(scope, [road(by_design("d"), closed("c"), name=name)]))
    assert not suite.governs(suite.run(scope, [road(by_design("d"))]))


def test_names_are_unique_and_every_road_has_attempts(scope):
    """On a scope with one of each thing, no road of the suite is empty."""
    entries = replace(scope, gateway=replace(scope.gateway, ports={"base_url": 1, "connect": 2}, private=(3,)))
    assert len(set(suite.NAMES)) == len(suite.NAMES)
    assert [one.name for one in suite.ROADS if not list(one.attempts(entries))] == []


def test_roads_of_a_moment_say_when_they_were_not_tried(scope):
    """`--hold` and `--restart-command` are named in the evidence."""
    rows = suite.run(scope, suite.timed_roads(None, None))
    assert [(row.road, row.outcome) for row in rows] == [
        ("before-policy", Outcome.NOT_TRIED),
        ("restart-window", Outcome.NOT_TRIED),
    ]
    assert ["--hold" in rows[0].evidence, "--restart-command" in rows[1].evidence] == [True, True]
