"""Exceptions in logs: types and places, never messages."""

from __future__ import annotations

import pytest

from extproc.adapters.crashes import name_exception, places, told


def crash(value: str) -> None:
    try:
        {}[value]
    except KeyError as error:
        raise ValueError(f"cannot use {value}") from error


def test_an_exception_is_told_by_type_and_place():
    """The cause too; neither message."""
    with pytest.raises(ValueError) as caught:
        crash("jane@example.com")

    line = told(caught.value)
    assert line.startswith("ValueError at test_crashes.py:")
    assert "crash; after KeyError at test_crashes.py:" in line
    assert "jane" not in line


def test_places_are_the_innermost():
    """A deep recursion leaves a short list."""

    def down(left: int) -> None:
        if not left:
            raise RuntimeError
        down(left - 1)

    with pytest.raises(RuntimeError) as caught:
        down(50)

    assert len(places(caught.value.__traceback__)) == 12


@pytest.mark.parametrize("given", ["tuple", "instance", "true"])
def test_every_form_of_exc_info(given: str):
    """What structlog and the standard library pass on."""
    try:
        crash("jane@example.com")
    except ValueError as error:
        forms = {"tuple": (type(error), error, error.__traceback__), "instance": error, "true": True}
        event = name_exception(None, "", {"event": "x", "exc_info": forms[given]})

    assert "exc_info" not in event
    assert "jane" not in str(event)
    assert "ValueError at" in str(event["exception"])
    assert {"event": "y"} == name_exception(None, "", {"event": "y", "exc_info": None})
