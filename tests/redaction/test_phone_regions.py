"""What is known of a number by its digits alone, beside what Google's library says of it."""

from __future__ import annotations

import random
from concurrent.futures import ThreadPoolExecutor

import phonenumbers
import pytest
from phonenumbers import phonenumbermatcher

from extproc.redaction.phone_regions import CLUSTER, Numbers, Region, contains, in_ascii

REGIONS = ("US", "GB", "DE", "FR")


def verified(digits: str, region: str) -> bool:
    """Whether Google's matcher takes these digits for a valid number."""
    matches = phonenumbers.PhoneNumberMatcher(digits, region, leniency=phonenumbers.Leniency.VALID)
    return any(match.raw_string == digits for match in matches)


def examples(region: str, rng: random.Random) -> list[str]:
    """Digits of numbers of all kinds, some with a digit changed; as they are dialled at home, and from abroad."""
    metadata = phonenumbers.PhoneMetadata.metadata_for_region(region, None)
    prefix, code = metadata.national_prefix or "", str(metadata.country_code)
    found: list[str] = []
    for kind in range(11):
        example = phonenumbers.example_number_for_type(region, kind)
        if example is None:
            continue
        digits = phonenumbers.national_significant_number(example)
        place = rng.randrange(len(digits))
        for number in (digits, digits[:place] + rng.choice("0123456789") + digits[place + 1 :]):
            before = ("", prefix, code, code + prefix, "00" + code, "011" + code, prefix * 2, "0", "1", "8", "9")
            found += [each + number for each in before]
    return found + ["".join(rng.choices("0123456789", k=rng.randint(5, 14))) for _ in range(40)]


@pytest.mark.parametrize("third", [0, 1, 2])
def test_no_valid_number_is_held_impossible(third):
    """In no region of the world."""
    rng = random.Random(third)
    valid = 0
    for name in sorted(phonenumbers.SUPPORTED_REGIONS)[third::3]:
        region = Region(name)
        for digits in examples(name, rng):
            if verified(digits, name):
                valid += 1
                assert region.possible(digits), (name, digits)

    assert 1000 < valid


def test_what_the_digits_tell_is_so():
    """What counts for a number without a further look is one for Google too."""
    rng = random.Random(4)
    for name in REGIONS:
        numbers = Numbers((name,))
        told = [digits for digits in examples(name, rng) if numbers.are_one(digits)]

        assert 10 < len(told)
        assert [] == [digits for digits in told if not verified(digits, name)]
        assert all(map(numbers.may_be, told))


def test_a_prefix_that_is_never_left_out():
    """In Germany, Britain and France a number begins with 0; in the US the 1 may be missing."""
    numbers = Numbers(REGIONS)

    assert all(map(numbers.may_be, ("030901820", "02079460958", "0142685300", "2125552368", "12125552368")))
    assert not any(map(numbers.may_be, ("30901820", "79460958", "142685300", "1125552368", "20240115")))
    assert numbers.may_be("4930901820")
    assert numbers.may_be("00493090182")
    assert not numbers.are_one("00493090182")


def test_what_cannot_be_a_number_is_not_parsed(monkeypatch):
    """Which is what takes the matcher its time."""
    parsed: list[str] = []
    parse = phonenumbermatcher.parse
    monkeypatch.setattr(phonenumbermatcher, "parse", lambda text, *rest, **named: (parsed.append(text), parse(text, *rest, **named))[1])  # fmt: skip
    numbers = Numbers(REGIONS)
    parsed.clear()

    assert () == numbers.valid("of 1972-01-23 10 and 1234 5678 9012")
    assert [] == parsed
    assert ((3, 15),) == numbers.valid("at 212-555-2368, or 1234 5678 9012")
    assert ["212-555-2368"] == parsed


def test_unknown_regions():
    """Are named."""
    with pytest.raises(ValueError, match="'XX' is not a region"):
        Numbers(("US", "XX"))


def test_no_region_has_no_numbers():
    """Nor does a region of which nothing is in the stretch."""
    assert not Numbers(()).may_be("2125552368")
    assert () == Numbers(()).valid("+44 20 7946 0958")
    assert () == Numbers(("FR",)).valid("212-555-2368")


def test_regions_are_asked_until_one_has_it():
    """The others' readings of the same digits would add nothing."""
    numbers = Numbers(REGIONS)

    assert ((0, 10),) == numbers.possible("2125552368", (0, 10))
    assert ((0, 12),) == numbers.possible("733 961 6271", (0, 12))
    assert () == numbers.possible("1 2", (0, 3))


def test_no_number_is_kept():
    """What is remembered is spans under a digest."""
    numbers = Numbers(("US",))
    for number in range(5000):
        numbers.valid(f"212-555-{number:04}")

    assert len(numbers._memo) <= 4096
    assert not any(b"555" in key and b"212" in key for key in numbers._memo)
    assert all(type(place) is int for spans in numbers._memo.values() for span in spans for place in span)


def test_two_threads_share_what_is_remembered():
    """A worker scans on its loop and in a thread."""
    stretches = [f"212-555-{number:04} and 020 7946 {number:04}" for number in range(400)]
    numbers = Numbers(("US", "GB"))
    expected = [Numbers(("US", "GB")).valid(stretch) for stretch in stretches[:5]]
    with ThreadPoolExecutor(3) as pool:
        found = list(pool.map(numbers.valid, stretches * 3))

    assert expected == found[:5] == found[800:805]
    assert 2 == len(found[0])


def test_digits_of_other_scripts():
    """Are read as what they are worth."""
    assert "0123456789" == in_ascii("\u0660\u0661\u0662\u0663\u0664\u0665\u0666\u0667\u0668\u0669")
    assert "\u0662\u0661\u0662 555" == CLUSTER.findall("a \u0662\u0661\u0662 555, 12")[0]


def test_containing():
    """One span has to hold the whole range."""
    assert contains([(0, 4), (3, 9)], (3, 8))
    assert not contains([(0, 4), (4, 9)], (3, 8))
    assert not contains([], (0, 1))
