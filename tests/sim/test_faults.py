"""Faults on answers, without a network."""

from __future__ import annotations

import gzip

import pytest
from hypothesis import given
from hypothesis import strategies as st

from extproc.sim import SimAnswer
from extproc.sim.faults import BadFaultError, apply, asked, split


@given(st.binary(max_size=3000), st.one_of(st.integers(1, 4000).map(str), st.integers(0, 99).map("seed:{}".format)))
def test_split_keeps_the_bytes(body: bytes, how: str) -> None:
    """However a body is cut, the pieces are the body, and none is empty."""
    pieces = list(split(body, how))

    assert b"".join(pieces) == body
    assert all(pieces)


@given(st.lists(st.binary(min_size=1, max_size=50), max_size=5))
def test_gzip_keeps_the_content(chunks: list[bytes]) -> None:
    """Packed chunks unpack to the body, and the answer says how they are packed."""
    answer = apply(SimAnswer(chunks=tuple(chunks)), {"gzip": "1"}, "openai")

    assert gzip.decompress(answer.body) == b"".join(chunks)
    assert answer.header("content-encoding") == "gzip"


def test_fields() -> None:
    """Times, places, status and length come from their fields."""
    answer = SimAnswer(chunks=(b"abc", b"def"))
    wanted = asked({"x-sim-delay-ms": "5", "x-sim-reset-after": "-1", "x-sim-content-length": "1", "accept": "x"})
    found = apply(answer, wanted, "openai")

    assert (found.delay_ms, found.reset_after, found.content_length) == (5, -1, True)
    assert found.has_length
    assert not answer.has_length
    assert apply(answer, {"status": "529"}, "anthropic").body.startswith(b'{"type":"error","error":{"type":"overloaded')


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("delay-ms", "soon"),
        ("delay-ms", "-1"),
        ("status", "99"),
        ("split", "0"),
        ("split", "seed:x"),
        ("dealy-ms", "1"),
    ],
)
def test_typing_errors_are_told(name: str, value: str) -> None:
    """A field that cannot be read is an error, not a test that passes."""
    with pytest.raises(BadFaultError, match="x-sim-"):
        apply(SimAnswer(chunks=(b"x",)), {name: value}, "openai")
