"""Addresses of the store: every form is taken apart, and what cannot be read says so without repeating itself."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic_core import PydanticCustomError

from extproc.config.store_url import StoreUrl, read_store_url

READ = [
    ("embedded", StoreUrl("embedded")),
    ("unix:///run/valkey.sock", StoreUrl("unix", path="/run/valkey.sock")),
    ("valkey://store", StoreUrl("single", (("store", 6379),))),
    ("redis://10.0.0.1:7000/3", StoreUrl("single", (("10.0.0.1", 7000),), database=3)),
    ("valkeys://store.example:6380/0", StoreUrl("single", (("store.example", 6380),), tls=True)),
    ("rediss://[::1]:6379/", StoreUrl("single", (("::1", 6379),), tls=True)),
    (
        "valkey+sentinel://h1,h2:26380/mymaster",
        StoreUrl("sentinel", (("h1", 26379), ("h2", 26380)), service="mymaster"),
    ),
    ("valkeys+sentinel://h1/m/2", StoreUrl("sentinel", (("h1", 26379),), service="m", database=2, tls=True)),
    ("redis+cluster://h1:1,h2:65535/0", StoreUrl("cluster", (("h1", 1), ("h2", 65535)))),
    ("rediss+cluster://h1", StoreUrl("cluster", (("h1", 6379),), tls=True)),
]

REFUSED = [
    ("", "not the address", "embedded"),
    ("localhost:6379", "not the address", "valkey://"),
    ("http://localhost", "scheme", "valkey://"),
    ("valkey+ring://localhost", "scheme", "valkey+cluster://"),
    ("valkey://user@host", "user name or password", "`password`"),
    ("valkey://host?db=1", "parameters", "valkey://"),
    ("valkey://host:0", "host that cannot be read", "host:port"),
    ("valkey://host:65536", "host that cannot be read", "host:port"),
    ("valkey://", "host that cannot be read", "host:port"),
    ("valkey://::1", "host that cannot be read", "brackets"),
    ("valkey://a,b", "several hosts", "valkey+sentinel"),
    ("valkey://host/one", "not a number", "/0"),
    ("valkey+sentinel://h1:26379", "which primary", "mymaster"),
    ("valkey+sentinel://h1/m/x", "not a number", "/0"),
    ("valkey+cluster://h1/1", "one only", "take out"),
    ("valkey+cluster://" + ",".join(["h"] * 65), "too many", "64"),
    ("unix://run/valkey.sock", "not the path", "unix:///run"),
    ("unix:///" + "x" * 120, "not the path", "107"),
]


@pytest.mark.parametrize(("text", "expected"), READ, ids=[row[0] for row in READ])
def test_an_address_is_taken_apart(text: str, expected: StoreUrl) -> None:
    """Default ports and databases in place; `redis` and `valkey` are the same."""
    assert read_store_url(text) == expected


@pytest.mark.parametrize(("text", "reason", "hint"), REFUSED, ids=[row[0][:30] or "empty" for row in REFUSED])
def test_what_cannot_be_read(text: str, reason: str, hint: str) -> None:
    """Says what is wrong and what to write."""
    with pytest.raises(PydanticCustomError) as caught:
        read_store_url(text)
    assert reason in caught.value.message()
    assert hint in (caught.value.context or {})["hint"]


def test_a_password_is_never_repeated() -> None:
    """It may have been put there."""
    word = "hunter" + "2"
    for text in (f"valkey://:{word}@host", f"redis://host:{word}", f"{word}://host", f"valkey://host?password={word}"):
        with pytest.raises(PydanticCustomError) as caught:
            read_store_url(text)
        assert word not in caught.value.message() + (caught.value.context or {})["hint"]


@given(st.one_of(st.text(max_size=40), st.text(max_size=40).map("valkey://".__add__)))
def test_any_text_is_read_or_refused(text: str) -> None:
    """Nothing else than the one kind of error, and what is read has what its form needs."""
    try:
        found = read_store_url(text)
    except PydanticCustomError:
        return
    assert found.hosts or found.path or found.form == "embedded"
