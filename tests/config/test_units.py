"""Sizes, durations and names: round trips and refusals."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic_core import PydanticCustomError

from extproc.config.problems import path_of
from extproc.config.units import parse_duration, parse_size

SIZES = {"B": 1, "KiB": 1024, "MiB": 1024**2, "GiB": 1024**3, "kB": 1000, "MB": 1000**2, "GB": 1000**3}
DURATIONS = {"ms": Fraction(1, 1000), "s": Fraction(1), "m": Fraction(60), "h": Fraction(3600), "d": Fraction(86400)}


@given(st.integers(0, 10**12 - 1), st.sampled_from(sorted(SIZES)), st.sampled_from(["", " "]))
def test_a_size_is_its_number_times_its_unit(number: int, unit: str, space: str) -> None:
    """Exactly, in whole bytes."""
    assert parse_size(f"{number}{space}{unit}") == number * SIZES[unit]


@given(st.integers(0, 2**60))
def test_a_bare_number_is_bytes(number: int) -> None:
    """An integer is taken as it is."""
    assert parse_size(number) == number


@given(st.integers(0, 10**6), st.integers(0, 999), st.sampled_from(sorted(DURATIONS)))
def test_a_duration_is_its_number_times_its_unit(whole: int, milli: int, unit: str) -> None:
    """In seconds, to the precision of a float."""
    expected = (whole + Fraction(milli, 1000)) * DURATIONS[unit]
    assert parse_duration(f"{whole}.{milli:03d}{unit}") == pytest.approx(float(expected), rel=1e-12)


@given(st.one_of(st.integers(), st.floats(), st.booleans(), st.none(), st.lists(st.integers())))
def test_a_duration_without_a_unit_is_refused(value: object) -> None:
    """A bare number could be seconds or milliseconds."""
    with pytest.raises(PydanticCustomError):
        parse_duration(value)


def outcome(parse: Callable[[object], float], text: str) -> tuple[float, str]:
    """The value, or -1 and the hint."""
    try:
        return parse(text), ""
    except PydanticCustomError as error:
        return -1.0, (error.context or {})["hint"]


@given(st.text(max_size=12))
def test_other_text_is_refused_with_a_cure(text: str) -> None:
    """Any text is either of the form, or refused with the form: nothing else is raised."""
    for parse in (parse_size, parse_duration):
        value, hint = outcome(parse, text)
        assert (value >= 0) != ("unit" in hint)


@pytest.mark.parametrize("text", ["", "MiB", "-1MiB", "1 mib", "1,5MiB", "1TiB", "1MiB ", "٣MiB", True, 1.5, None])
def test_not_a_size(text: object) -> None:
    """Signs, fractions, unknown units and digits of other scripts are refused."""
    with pytest.raises(PydanticCustomError):
        parse_size(text)


@pytest.mark.parametrize("text", ["", "s", "-1s", "1", "1 s", "1sec", "1h30m", "1e3s", "٣s"])
def test_not_a_duration(text: object) -> None:
    """One number, one unit, nothing between."""
    with pytest.raises(PydanticCustomError):
        parse_duration(text)


@pytest.mark.parametrize(
    ("loc", "path"),
    [
        (("a",), "a"),
        (("a", "b", 0, "c"), "a.b[0].c"),
        (("timeouts", "models", "o1*"), 'timeouts.models["o1*"]'),
        (("aliases", "gpt-4"), "aliases.gpt-4"),
        ((), ""),
    ],
)
def test_a_path_reads_like_the_file(loc: tuple[str | int, ...], path: str) -> None:
    """Plain words joined by dots, indexes in brackets, the rest quoted."""
    assert path_of(loc) == path
