"""The multi-map of header fields."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from extproc.exchange.headers import Headers

PAIRS = (("a", b"1"), ("b", b"\xff"), ("a", b"2"))


def test_the_first_of_repeated_fields_is_the_value_and_all_are_there():
    """Order is kept."""
    fields = Headers(PAIRS)

    assert ("1", ["1", "2"]) == (fields.get("a"), fields.all("a"))
    assert (None, []) == (fields.get("c"), fields.all("c"))
    assert ["a", "b"] == sorted(fields.names())
    assert PAIRS == tuple(fields)
    assert 3 == len(fields)
    assert "a" in fields
    assert "c" not in fields


@given(st.binary(max_size=20))
def test_any_bytes_have_a_text(value):
    """latin-1: every byte is a character, so reading never fails and nothing is lost."""
    assert value == (Headers([("x", value)]).get("x") or "").encode("latin-1")
