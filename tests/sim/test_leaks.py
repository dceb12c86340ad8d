"""A value is found in bytes however it is spelled there."""

from __future__ import annotations

import base64
import json
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from extproc.sim.leaks import found_in

VALUE = 'Zoë "Z" O\'Hara\\🚀'
NESTED = json.dumps({"arguments": json.dumps({"to": {"name": VALUE}})})
SPELLINGS = {
    "plain": VALUE,
    "json": json.dumps(VALUE),
    "json, not ASCII": json.dumps(VALUE, ensure_ascii=False),
    "json in a string in json": NESTED,
    "upper-case escapes": "".join(f"\\u{ord(one):04X}" for one in "Zoë ") + json.dumps(VALUE[4:])[1:-1],
    "percent": quote(VALUE),
    "base64": base64.b64encode(VALUE.encode()).decode(),
    "base64 in a data URL, among other bytes": "data:text/plain;base64," + base64.b64encode(f"ab {VALUE}.".encode()).decode(),
    "base64 of json": base64.urlsafe_b64encode(NESTED.encode()).decode(),
}  # fmt: skip


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_spellings(spelling: str) -> None:
    """Each is seen through, and nothing else is found."""
    data = ("before " + SPELLINGS[spelling] + " after").encode()

    assert found_in(data, [VALUE, "somebody else"]) == [VALUE]


@given(st.text(min_size=6, max_size=30), st.binary(max_size=40), st.binary(max_size=40))
def test_json_strings(value: str, before: bytes, after: bytes) -> None:
    """Whatever a value holds, JSON with or without escapes does not hide it."""
    for ascii_only in (True, False):
        escaped = json.dumps(value, ensure_ascii=ascii_only).encode("utf-8", "replace")
        wanted = value.encode("utf-8", "replace").decode()
        if wanted == value:
            assert found_in(b'{"a":' + escaped + b"}", [value]) == [value]
    assert found_in(before + b"-" + after, ["\x00never\x00there\x00" * 9]) == []
