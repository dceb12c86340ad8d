"""What becomes of a value."""

from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from extproc.redaction.operators import (
    Allow,
    Block,
    Blocked,
    Hash,
    Mask,
    Operators,
    Pseudonym,
    Replace,
    identifier,
)
from extproc.text import Finding

KEY = bytes(range(32))
CARD = "4111" + "1111" * 3


def test_mask_covers_all_but_the_last():
    """As many characters as there were."""
    assert "*" * 12 + "1111" == Mask(keep_last=4).apply("CREDIT_CARD", CARD)
    assert "#" * 5 == Mask("#").apply("PASSWORD", "horse")


@settings(deadline=None)
@given(st.text(st.characters(exclude_characters="*"), max_size=80), st.integers(0, 32))
def test_mask_never_shows_more_than_half(value, keep_last):
    """However much it was told to keep; and a long one does not tell how long it was."""
    masked = Mask(keep_last=keep_last).apply("X", value)
    shown = masked.lstrip("*")

    assert len(shown) <= min(keep_last, len(value) // 2)
    assert value.endswith(shown)
    assert masked.count("*") == min(32, len(value) - len(shown))


def test_replace_says_the_same_for_all():
    """Whatever the value."""
    assert "[wallet]" == Replace("[wallet]").apply("CRYPTO", "a") == Replace("[wallet]").apply("CRYPTO", "b")


def test_hash_is_keyed_and_equal_for_equal_values():
    """Kind, value and key decide, and nothing else."""
    one = Hash(KEY).apply("EMAIL_ADDRESS", "a@example.org")

    assert re.fullmatch("<EMAIL_ADDRESS:[0-9a-f]{16}>", one)
    assert one == Hash(KEY).apply("EMAIL_ADDRESS", "a@example.org")
    others = {
        Hash(KEY[::-1]).apply("EMAIL_ADDRESS", "a@example.org"),
        Hash(KEY).apply("EMAIL_ADDRESS", "b@example.org"),
        Hash(KEY).apply("PERSON", "a@example.org").replace("PERSON", "EMAIL_ADDRESS"),
    }
    assert len(others | {one}) == 4


def test_hash_takes_lone_surrogates_and_refuses_short_keys():
    """Every text has a hash; a key that can be guessed is none."""
    assert Hash(KEY).apply("PERSON", "\ud800") != Hash(KEY).apply("PERSON", "\ud801")
    with pytest.raises(ValueError, match="16 bytes"):
        Hash(b"short")


def test_operators_show_no_key():
    """In the text of a traceback."""
    assert "Hash(key=…)" == repr(Hash(KEY))


def test_operators_by_kind():
    """Name and operator; the kinds that anything becomes of."""
    operators = Operators({"PERSON": Pseudonym(), "URL": Allow(), "US_SSN": Block(), "JWT": Mask()})

    assert "block" == operators.name("US_SSN")
    assert Mask() == operators.of("JWT")
    assert frozenset({"PERSON", "US_SSN", "JWT"}) == operators.kinds
    assert frozenset({"PERSON"}) == operators.reversible


def test_undecided_kinds_do_not_pass():
    """By oversight."""
    with pytest.raises(LookupError, match="PERSON"):
        Operators({}).of("PERSON")


def test_blocked_kinds_each_once():
    """Sorted, without a value."""
    operators = Operators({"PERSON": Pseudonym(), "US_SSN": Block(), "JWT": Block()})
    found = [Finding(kind, index, index + 1, 1) for index, kind in enumerate(("US_SSN", "PERSON", "JWT", "US_SSN"))]

    assert ("JWT", "US_SSN") == operators.blocked(found)
    assert "messages[0]: JWT" == str(Blocked(("JWT",), "messages[0]"))


@settings(deadline=None)
@given(st.text(max_size=20))
def test_identifiers_hold_what_vendors_take(text):
    """Letters, digits, underscore, dash, and at least one of them."""
    assert re.fullmatch("[A-Za-z0-9_-]+", identifier(text))
