"""What tells a secret from text that only looks like one: stand-ins, words, plain identifiers, low entropy, checksums.

A judge takes the characters a rule matched and gives a score between 0 and 1, or None: this is no secret. All are
linear in the value; entropy looks at its first characters only.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import math
import re
import zlib
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Final, TypeAlias

import orjson

Judge: TypeAlias = Callable[[str], float | None]

CERTAIN: Final = 1.0  # a checksum holds
FORMAT: Final = 0.95  # a vendor's own prefix, length and alphabet
CONTEXT: Final = 0.8  # a secret by what it is assigned to
WEAK: Final = 0.6  # a short password, by what it is assigned to

_SAMPLE: Final = 256  # characters that entropy is measured on
_MIN_KEY: Final = 2.6  # bits a character; random hexadecimal of 16 characters has 3 and more
_MIN_TOKEN: Final = 3.0
_MIN_PASSWORD: Final = 2.2
_SAMPLE_ENTROPY: Final = 4.2  # what holds more than this is treated as a key even where it says that it is an example
_LOG: Final = (0.0, *(math.log2(count) for count in range(1, _SAMPLE + 1)))
_COUNT_LOG: Final = tuple(count * log for count, log in enumerate(_LOG))
_BASE62: Final = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_BASE58: Final = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"

_STAND_INS: Final = ("${", "{{", "%(", "%s", "#{", "...", "…", "xxxxx", "***")
_YOUR: Final = re.compile(
    r"your[-_]?(?:own|api|key|token|secret|password|pass|access|org|account|app|client|project|actual|real|name|bot|auth)"
)
_ANGLES: Final = re.compile(r"<[^>]{1,60}>")
_RUN: Final = re.compile(r"(.)\1{6}")
_SAMPLE_WORDS: Final = (
    "example", "placeholder", "changeme", "change-me", "change_me", "redacted", "dummy", "abcdef", "bcdefg", "012345",
    "123456", "654321", "deadbeef", "qwerty",
)  # fmt: skip
_PROSE: Final = "the and for are was were you not but its has had"
_NO_PASSWORDS: Final = (
    "password passwd passphrase secret token apikey key none null true false undefined nil string str bytes int bool "
    "optional required text hidden empty default value input field test testing dummy sample fake mock foo bar baz "
    "changeit qwerty letmein admin root user username login basic bearer env getenv prompt generated unknown invalid "
    "missing object array number self public private readonly encrypted hashed rotate rotated"
)
_SENTENCE: Final = frozenset(_PROSE.split())
_STOP_WORDS: Final = frozenset(_NO_PASSWORDS.split())
_PARTS: Final = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+")
_NO_CONSONANTS: Final = str.maketrans("", "", "bcdfghjklmnpqrstvwxzBCDFGHJKLMNPQRSTVWXZ")
_LETTER: Final = re.compile(r"[A-Za-z]")
_DIGIT: Final = re.compile(r"\d")
_CODE: Final = re.compile(r"[()\[\]{}<>\\]|::|->|^[./~@%]|^https?:|^\w+://[^:@]*$|^[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)+$")
_VERSION: Final = re.compile(r"^v?\d+(?:\.\d+)+[a-z0-9.-]*$|^\d{4}-\d{2}-\d{2}")


def entropy(value: str) -> float:
    """Shannon entropy in bits a character, of the first 256 characters."""
    sample = value[:_SAMPLE]
    if not sample:
        return 0.0
    count = sample.count
    return _LOG[len(sample)] - sum([_COUNT_LOG[count(char)] for char in set(sample)]) / len(sample)


def is_stand_in(value: str) -> bool:
    """Whether this stands where a secret belongs: `your-api-key`, `xxxxx`, `${TOKEN}`, `<token>`."""
    if not value or value[0] in "<[{(*.$":
        return True
    lowered = value[:_SAMPLE].lower()
    if _has_any(lowered, _STAND_INS):
        return True
    if "your" in lowered and _YOUR.search(lowered) is not None:
        return True
    return ("<" in lowered and _ANGLES.search(lowered) is not None) or _RUN.search(lowered) is not None


def is_sample(value: str) -> bool:
    """Whether this is made up to be read: words such as `example` or runs such as `123456` in little else."""
    lowered = value[:_SAMPLE].lower()
    return _has_any(lowered, _SAMPLE_WORDS) and entropy(value) < _SAMPLE_ENTROPY


def _has_any(text: str, words: tuple[str, ...]) -> bool:
    """A plain loop: a generator costs as much again as its eight to fourteen look-ups."""
    for word in words:  # noqa: SIM110
        if word in text:
            return True
    return False


def is_wordy(value: str) -> bool:
    """Whether this reads as words, names, numbers: `next_page_2`, `Sha256Hash`, `user-guide-v2`, a version, a date.

    Split where letters and digits meet and between small and capital letters, most of a name's letters lie in parts
    that can be spoken, and the parts are as long as words; few of a random token's are.
    """
    sample = value[:_SAMPLE]
    spoken = letters = 0
    parts = _PARTS.findall(sample)
    for part in parts:
        letters += len(part)
        if len(part) >= 3 and 0.2 <= len(part.translate(_NO_CONSONANTS)) / len(part) <= 0.7:
            spoken += len(part)
    if letters < 3.3 * len(parts) or spoken < 0.7 * letters or not parts:
        return _VERSION.match(sample) is not None
    digits = sum([sample.count(digit) for digit in "0123456789"])
    return digits <= max(4, letters // 3) or _VERSION.match(sample) is not None


def is_letter_and_digit(value: str) -> bool:
    """Whether both occur."""
    return _LETTER.search(value) is not None and _DIGIT.search(value) is not None


def is_mixed(value: str) -> bool:
    """Whether this is long, and has small and capital letters: a random key may have no digit."""
    return len(value) >= 16 and value != value.lower() and value != value.upper()


def judge_key(value: str) -> float | None:
    """A vendor's format: only stand-ins and what has next to no entropy are dropped.

    A key of the vendor's own documentation passes: it has the form of a key, and to hide it costs nothing.
    """
    return FORMAT if entropy(value) >= _MIN_KEY and not is_stand_in(value) else None


def judge_distinct(value: str) -> float | None:
    """A format with a short prefix: letters and digits, entropy, and no words."""
    if not is_letter_and_digit(value) or entropy(value) < _MIN_TOKEN or is_stand_in(value) or is_wordy(value):
        return None
    return FORMAT


def judge_named(value: str) -> float | None:
    """What is assigned to a vendor's name, in the vendor's length and alphabet."""
    if is_stand_in(value) or is_sample(value) or entropy(value) < _MIN_KEY or is_wordy(value):
        return None
    return CONTEXT


def judge_token(value: str) -> float | None:
    """What is assigned to a name that says token, key or secret."""
    if len(value) < 10 or not (is_letter_and_digit(value) or is_mixed(value)) or _CODE.search(value) is not None:
        return None
    if is_stand_in(value) or is_sample(value) or entropy(value) < _MIN_TOKEN or is_wordy(value):
        return None
    return CONTEXT


def judge_password(value: str) -> float | None:
    """What is assigned to a name that says password. Two kinds of characters; people choose words, so words pass."""
    if len(value) < 6 or value.lower() in _STOP_WORDS or _CODE.search(value) is not None:
        return None
    letter, digit = _LETTER.search(value) is not None, _DIGIT.search(value) is not None
    symbol = any(not char.isalnum() and char not in "_-. ,:;/'\"" for char in value[:_SAMPLE])
    if letter + digit + symbol < 2 or is_stand_in(value) or entropy(value) < _MIN_PASSWORD or _VERSION.match(value):
        return None
    if value.count(" ") > 2:  # a sentence
        return None
    return CONTEXT if len(value) >= 12 else WEAK


def judge_uri(value: str) -> float | None:
    """The password of a URI: whatever stands between `:` and `@` but a stand-in or a word for one."""
    lowered = value.lower()
    if len(value) < 3 or lowered in _STOP_WORDS or lowered in {"pass", "pwd", "pw", "xxx", "port"}:
        return None
    return None if is_stand_in(value) else CONTEXT


def judge_connection(value: str) -> float | None:
    """A whole connection string: judged by its password."""
    _, _, rest = value.partition("://")
    userinfo, _, _ = rest.rpartition("@")
    _, _, password = userinfo.partition(":")
    return FORMAT if judge_uri(password) is not None else None


def judge_jwt(value: str) -> float | None:
    """A JWT has a header that decodes to a JSON object with `alg`, `typ`, `kid` or `enc` (RFC 7515, 7516)."""
    header = value.partition(".")[0][:4096]
    try:
        decoded = orjson.loads(base64.urlsafe_b64decode(header + "=" * (-len(header) % 4)))
    except (ValueError, binascii.Error):
        return None
    return FORMAT if isinstance(decoded, dict) and {"alg", "typ", "kid", "enc"} & decoded.keys() else None


def judge_basic(value: str) -> float | None:
    """Credentials of the scheme `Basic` decode to a user, a colon and a password (RFC 7617)."""
    try:
        decoded = base64.b64decode(value, validate=True).decode()
    except ValueError:
        return None
    user, colon, password = decoded.partition(":")
    return CONTEXT if user and colon and password and decoded.isprintable() else None


def judge_block(value: str) -> float | None:
    """A block of key material between its markers: there must be some."""
    body = re.sub(r"-----[^-]{1,80}-----|\\[nr]|\s", "", value)
    return FORMAT if len(body) >= 32 and "..." not in body and "…" not in body else None


def judge_encoded_block(value: str) -> float | None:
    """A private key in PEM, encoded in base64 once more, as in a Kubernetes secret or a kubeconfig."""
    head = value[: min(len(value), 80) // 4 * 4]
    try:
        return FORMAT if b"PRIVATE KEY" in base64.b64decode(head) else None
    except (ValueError, binascii.Error):
        return None


def judge_words(value: str) -> float | None:
    """A seed phrase (BIP-39) has 12, 15, 18, 21 or 24 words; no article or conjunction is in its word list."""
    words = value.split()
    return CONTEXT if len(words) in {12, 15, 18, 21, 24} and not _SENTENCE.intersection(words) else None


def judge_github(value: str) -> float | None:
    """GitHub's and npm's tokens end in the CRC-32 of their random part, in base62.

    A checksum that does not hold lowers nothing and drops nothing: neither vendor promises it for every kind of token,
    and a token with a typo in it is one that must not leave either.
    """
    _, _, body = value.partition("_")
    score = judge_key(value)
    if score is None or len(body) != 36:
        return score
    return CERTAIN if base62(zlib.crc32(body[:30].encode()), 6) == body[30:] else score


def judge_wif(value: str) -> float | None:
    """A Bitcoin private key in WIF: nothing but its checksum (double SHA-256) tells it from other base58, so it decides."""
    number = 0
    for char in value:
        digit = _BASE58.find(char)
        if digit < 0:
            return None
        number = number * 58 + digit
    size = (number.bit_length() + 7) // 8
    data = number.to_bytes(size, "big")
    if size not in (37, 38) or data[0] != 0x80:
        return None
    digest = hashlib.sha256(hashlib.sha256(data[:-4]).digest()).digest()
    return CERTAIN if digest[:4] == data[-4:] else None


def base62(number: int, width: int) -> str:
    """`number` in base62 (digits, capitals, small letters), padded with zeros to `width`."""
    digits = ""
    while number:
        number, digit = divmod(number, 62)
        digits = _BASE62[digit] + digits
    return digits.rjust(width, "0")


JUDGES: Final[Mapping[str, Judge]] = MappingProxyType(
    {
        "key": judge_key,
        "token": judge_distinct,
        "named": judge_named,
        "assigned": judge_token,
        "password": judge_password,
        "uri": judge_uri,
        "connection": judge_connection,
        "jwt": judge_jwt,
        "basic": judge_basic,
        "block": judge_block,
        "encoded-block": judge_encoded_block,
        "words": judge_words,
        "github": judge_github,
        "wif": judge_wif,
    }
)
