"""Card numbers: the networks' prefixes and lengths, the check digit, and how numbers are printed."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from extproc.redaction.cards import CardFinder, is_card, is_issued, luhn
from extproc.text import never


def card(prefix: str, length: int, seed: int = 0) -> str:
    """A number that a network could have issued."""
    rng = random.Random(f"{prefix} {length} {seed}")
    while True:
        body = prefix + "".join(rng.choice("0123456789") for _ in range(length - len(prefix) - 1))
        number = body + next(digit for digit in "0123456789" if luhn(body + digit))
        if len(set(number)) > 2:
            return number


def found(text: str) -> list[str]:
    return [text[start:end] for start, end, _ in CardFinder().find(text, {0: None}, never)]


NETWORKS = [
    ("4", 16), ("4", 13), ("4", 19), ("51", 16), ("55", 16), ("2221", 16), ("2720", 16), ("2500", 16), ("34", 15), ("37", 15),
    ("300", 14), ("36", 14), ("38", 14), ("6011", 16), ("644", 16), ("65", 19), ("62", 16), ("62", 19), ("3528", 16),
    ("3589", 16), ("1800", 15), ("2131", 15), ("5018", 12), ("6304", 19), ("6759", 16), ("2200", 16), ("9792", 16),
]  # fmt: skip


@pytest.mark.parametrize(("prefix", "length"), NETWORKS)
def test_numbers_of_every_network(prefix, length):
    """In one piece, and with spaces or dashes between groups of four."""
    number = card(prefix, length)
    groups = [number[at : at + 4] for at in range(0, length, 4)]

    for written in (number, " ".join(groups), "-".join(groups)):
        assert [written] == found(f"it is {written}, thanks")


@pytest.mark.parametrize(
    ("prefix", "length"), [("2220", 16), ("2721", 16), ("1", 16), ("7", 16), ("4", 15), ("34", 16)]
)
def test_what_no_network_issues(prefix, length):
    """A right check digit alone makes no card."""
    number = card(prefix, length)

    assert luhn(number)
    assert not is_issued(number)
    assert [] == found(number)


def test_a_wrong_digit_is_no_card():
    """Every single change of a digit is noticed."""
    number = card("4", 16)
    for place, digit in enumerate(number):
        wrong = number[:place] + str((int(digit) + 1) % 10) + number[place + 1 :]
        assert not is_card(wrong)


def test_printed_groups():
    """American Express and Diners print 4-6-5 and 4-6-4."""
    amex, diners = card("37", 15), card("36", 14)

    assert [f"{amex[:4]} {amex[4:10]} {amex[10:]}"] == found(f"{amex[:4]} {amex[4:10]} {amex[10:]}")
    assert [f"{diners[:4]}-{diners[4:10]}-{diners[10:]}"] == found(f"{diners[:4]}-{diners[4:10]}-{diners[10:]}")


def test_numbers_beside_a_card():
    """An expiry date, a security code or another number in the same row does not hide it."""
    number, other = card("4", 16), card("37", 15)
    printed = " ".join(number[at : at + 4] for at in range(0, 16, 4))

    for written in (number, printed):
        assert written in found(f"{written} 1227 123")[0]
        assert [written] == found(f"12 {written} 05")
        assert {written, other} <= set(found(f"{written} {other}"))


def test_parts_of_words_and_fractions_are_no_cards():
    """An identifier or a decimal number may hold as many digits."""
    number = card("4", 16)

    for text in (f"x{number}", f"{number}x", f"_{number}", f"0.{number}", f"{number}.5", f"7{number}"):
        assert [] == found(text)
    assert [number] == found(f"{number}.")
    assert [number] == found(f"\u20ac{number}")


def test_fillers_are_no_cards():
    """Rows of one digit, though sixteen zeros have a right check digit too; two digits are enough."""
    assert luhn("0" * 16)
    assert not any(is_card(digit * 16) for digit in "0123456789")
    assert not is_card("4111" * 4)
    for number in ("4111 " + "1111 " * 2 + "1111", "5555 " * 3 + "4444", "4242" * 4):
        assert [number] == found(f"try {number}, it works")


def test_a_long_row_of_single_digits():
    """Is looked at once per digit and number, whatever stands in it."""
    number = card("4", 16)
    spaced = " ".join(number)

    assert [] == found("1 " * 50_000)
    assert [spaced] == found(f"pan: {spaced}")


@given(st.lists(st.text(alphabet="0123456789", min_size=1, max_size=8), max_size=30))
def test_results_are_cards_in_the_text(groups):
    """Whatever is found has a prefix, a length and a check digit, and lies in the text; windows find the same."""
    text = " ".join(groups)
    results = CardFinder().find(text, {0: None}, never)
    ends = list(range(len(text) + 1))

    assert all(is_card(text[start:end].replace(" ", "")) for start, end, _ in results)
    assert results == CardFinder().find(text, {0: ends}, never)
