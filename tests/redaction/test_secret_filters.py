"""Judges: what tells a secret from words, stand-ins and coincidence."""

from __future__ import annotations

import base64
import math
import random
import string
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from extproc.redaction import secret_filters as filters
from extproc.redaction.secret_filters import JUDGES

BASE62 = string.ascii_letters + string.digits


def random_key(size: int, seed: int = 0, alphabet: str = BASE62) -> str:
    return "".join(random.Random(seed).choices(alphabet, k=size))


@given(st.text(min_size=1, max_size=256))
def test_entropy_is_shannons(value: str):
    """Against the definition; between 0 and the logarithm of the number of different characters."""
    counts = Counter(value).values()
    expected = -sum(count / len(value) * math.log2(count / len(value)) for count in counts)

    assert expected == pytest.approx(filters.entropy(value), abs=1e-9)
    assert -1e-9 <= filters.entropy(value) <= math.log2(len(counts)) + 1e-9


def test_entropy_of_nothing_and_of_much():
    """Nothing has none; only the first 256 characters count."""
    assert filters.entropy("") == 0
    assert filters.entropy("ab" * 128 + BASE62 * 99) == pytest.approx(1)


@pytest.mark.parametrize(
    "value",
    ["<token>", "${API_KEY}", "$TOKEN", "{{ key }}", "your-api-key", "YOUR_SECRET_KEY_HERE", "xxxxxxxxxxxx", "********", "abc...xyz", "%(password)s",
     "[secret]", "sk-aaaaaaaaaaaaaaaa", "", "sk-<your key>"],
)  # fmt: skip
def test_stand_ins(value: str):
    """What documents write where a secret belongs; every judge but those of a checksum drops it."""
    assert filters.is_stand_in(value)
    assert all(JUDGES[name](value) is None for name in ("key", "token", "named", "assigned", "password", "uri"))


@pytest.mark.parametrize(
    "value",
    ["next_page_token_2", "Sha256HashOfValue", "user-guide-v2", "1.24.3", "2024-05-01T10:00", "access_token_url", "AuthConfigV2", "getAccessToken",
     "oauth2_provider_name", "some-descriptive-name-12"],
)  # fmt: skip
def test_words(value: str):
    """Names, versions and dates read as words, and are no keys."""
    assert filters.is_wordy(value)
    assert JUDGES["token"](value) is JUDGES["assigned"](value) is None


@pytest.mark.parametrize("size", [16, 20, 24, 32, 40, 64])
def test_random_keys_are_not_words(size: int):
    """At most one random key in fifty reads as words, or is dropped as the value of an assignment."""
    keys = [random_key(size, seed) for seed in range(500)]

    assert sum(filters.is_wordy(key) for key in keys) <= 10
    assert sum(JUDGES["assigned"](key) is None for key in keys) <= 10
    assert all(JUDGES["key"](key) == filters.FORMAT for key in keys)


def test_hexadecimal_keys_pass():
    """Hexadecimal has the least entropy of what keys are written in."""
    keys = [random_key(32, seed, "0123456789abcdef") for seed in range(500)]

    assert sum(JUDGES["named"](key) is None for key in keys) <= 5
    assert sum(JUDGES["assigned"](key) is None for key in keys) <= 10


@pytest.mark.parametrize(
    "value", ["hunter22", "Tr0ub4dor&3", "Summer2024!", "p4ss-w0rd", "correct-horse-9", "ÄpfelBirnen1"]
)
def test_passwords_that_people_choose(value: str):
    """Words with a digit or a symbol are passwords."""
    assert JUDGES["password"](value) in {filters.WEAK, filters.CONTEXT}


@pytest.mark.parametrize(
    "value",
    ["short", "password", "required", "self.password", "get_password()", "os.environ['X1']", "downloaded", "1.24.36", "must have 8 characters!",
     "Collection[str]", "/etc/passwd1", "null12<x>"],
)  # fmt: skip
def test_no_passwords(value: str):
    """Words alone, code, paths, versions, sentences."""
    assert JUDGES["password"](value) is None


def test_samples_need_entropy_to_count():
    """An example's value is dropped where it holds little else; with the entropy of a key it is treated as one."""
    assert filters.is_sample("example-key-1")
    assert JUDGES["assigned"]("api-key-123456") is None
    assert not filters.is_sample("wJalrXUtnFEMI/K7MDENG/bPxRfiCY" + "EXAMPLEKEY")


@pytest.mark.parametrize(
    ("value", "found"),
    [
        ("postgres://u:s3cret@h/db", True), ("postgres://u:p@ss@h/db", True), ("postgres://u:password@h/db", False), ("redis://:${PW}@h", False),
        ("mysql://u:<password>@h/db", False), ("mongodb://user:pass@h/db", False),
    ],
)  # fmt: skip
def test_connection_strings(value: str, found: bool):
    """Judged by the password, which may hold an `@`."""
    assert (JUDGES["connection"](value) is not None) is found


@pytest.mark.parametrize("header", ["eyJ", "eyJhYWFh", "eyJhIjoxfQ", "e30", "////", "eyJ" + "a" * 9000, "é"])
def test_no_jwt_headers(header: str):
    """Not base64, not JSON, not an object, without what a header must have, without end."""
    assert JUDGES["jwt"](f"{header}.eyJhIjoxfQ.x") is None


def test_encoded_blocks():
    """What decodes to the beginning of a certificate is no private key."""
    certificate, key = (
        base64.b64encode(f"-----BEGIN {kind}-----\nMIIB".encode()).decode() for kind in ("CERTIFICATE", "PRIVATE KEY")
    )

    assert JUDGES["encoded-block"](certificate) is None
    assert JUDGES["encoded-block"](key) == filters.FORMAT
    assert JUDGES["encoded-block"]("LS0tLS1C_-") is None


@pytest.mark.parametrize(
    ("decoded", "found"),
    [("bob:pw", True), ("Jürgen:geheim", True), ("nobody", False), (":x", False), ("bob:", False), ("a:\0", False)],
)
def test_basic_credentials(decoded: str, found: bool):
    """A user and a password; words that happen to be base64 are not."""
    assert (JUDGES["basic"](base64.b64encode(decoded.encode()).decode()) is not None) is found
    assert JUDGES["basic"]("understanding") is JUDGES["basic"]("knowledge") is None


def test_blocks_need_a_body():
    """A header alone, or one with dots for a body, is no key."""
    begin, end = "-----BEGIN PRIVATE" + " KEY-----", "-----END PRIVATE" + " KEY-----"

    assert JUDGES["block"](f"{begin}\n...\n{end}") is None
    assert JUDGES["block"](f"{begin}\\n{random_key(64)}\\n{end}") == filters.FORMAT


@given(st.integers(0, 2**32 - 1))
def test_base62_is_a_number(number: int):
    """Six digits, and the number back from them."""
    digits = string.digits + string.ascii_uppercase + string.ascii_lowercase
    text = filters.base62(number, 6)

    assert len(text) == 6
    assert number == sum(digits.index(char) * 62**place for place, char in enumerate(reversed(text)))


@pytest.mark.parametrize("value", ["", "0", "5" * 51, "K" + "a" * 51, "5é" + "a" * 49])
def test_wif_without_checksum(value: str):
    """Base58 without the checksum is no key."""
    assert JUDGES["wif"](value) is None


def test_seed_phrases():
    """Twelve words are a phrase; eleven are not, and a sentence has articles."""
    words = "abandon ability able about above absent absorb abstract absurd abuse access accident".split()  # noqa: SIM905

    assert JUDGES["words"](" ".join(words)) == filters.CONTEXT
    assert JUDGES["words"](" ".join(words[1:])) is None
    assert JUDGES["words"](" ".join([*words[1:], "the"])) is None


@given(st.sampled_from(sorted(JUDGES)), st.text(max_size=400))
def test_judges_take_anything(name: str, value: str):
    """A score between 0 and 1 or None, for any text."""
    score = JUDGES[name](value)

    assert score is None or 0 < score <= 1
