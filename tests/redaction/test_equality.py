"""The pattern tier beside Presidio's own engine: the same results, but where it is better on purpose.

The engine is given the same recognizers and no model: its words are our tokens. Kinds without a rule below have to be
equal in span and score; for the others every difference has to be explained by its rule.

Presidio's engine takes its time: a sample is compared. With EQUALITY_FULL=1 in the environment it is the whole
development sets, and many more texts thrown together.
"""

from __future__ import annotations

import json
import os
import random
import re
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import tldextract
from presidio_analyzer import AnalyzerEngine, RecognizerRegistry
from presidio_analyzer.nlp_engine import NlpArtifacts, NlpEngine
from presidio_analyzer.predefined_recognizers import PhoneRecognizer, UkNinoRecognizer

from extproc.redaction.cards import is_card, is_issued
from extproc.redaction.context import STOP_WORDS, TOKEN
from extproc.redaction.patterns import DEFAULT_KINDS, THRESHOLD, PatternDetector, PatternOptions
from extproc.text import Finding

SETS = Path(os.environ.get("REDACTION_DIR", "../shared/redaction"))
KINDS = DEFAULT_KINDS | {"URL", "DATE_TIME", "UUID"}
REGIONS = ("US", "GB", "DE", "FR")
FULL = os.environ.get("EQUALITY_FULL") == "1"
BEFORE_ADDRESS = re.compile(r"(?:[/?=&|]|%[0-9A-F]{2})\W*\Z", re.IGNORECASE)
PRINTED = {(4, 4, 4, 4), (4, 6, 5), (4, 6, 4), (4, 4, 4, 4, 3), (16,), (15,), (14,)}
QUAD = re.compile(r"\d{1,3}(?:\.\d{1,3}){3}")

Result = tuple[str, int, int, float]


class Words(NlpEngine):
    """Our tokens for Presidio; no model."""

    def load(self):
        """Nothing to load."""

    def is_loaded(self):
        return True

    def process_text(self, text, language):
        tokens = list(TOKEN.finditer(text))
        words = [token.group() for token in tokens]
        lemmas = [word.lower() for word in words]
        return NlpArtifacts([], words, [token.start() for token in tokens], lemmas, self, language)

    def process_batch(self, texts, language, **_):
        return ((text, self.process_text(text, language)) for text in texts)

    def is_stopword(self, word, language):
        return word in STOP_WORDS

    def is_punct(self, word, language):
        return not (word[0].isalnum() or word[0] == "_")

    def get_supported_entities(self):
        return []

    def get_supported_languages(self):
        return ["en"]


@pytest.fixture(scope="module")
def engine() -> Iterator[Callable[[str], set[Result]]]:
    """Presidio's results for a text."""
    registry = RecognizerRegistry()
    registry.load_predefined_recognizers(languages=["en"])
    kept = [one for one in registry.recognizers if KINDS.intersection(one.supported_entities)]
    registry.recognizers = [one for one in kept if one.name not in {"SpacyRecognizer", "PhoneRecognizer"}]
    registry.add_recognizer(PhoneRecognizer(supported_regions=REGIONS))
    registry.add_recognizer(UkNinoRecognizer())
    analyzer = AnalyzerEngine(
        registry=registry, nlp_engine=Words(), supported_languages=["en"], default_score_threshold=THRESHOLD
    )
    with pytest.MonkeyPatch.context() as patch:  # it would fetch its list of suffixes at the first address
        patch.setattr(tldextract, "extract", tldextract.TLDExtract(suffix_list_urls=(), cache_dir=None))
        yield lambda text: {
            (one.entity_type, one.start, one.end, round(one.score, 6)) for one in analyzer.analyze(text, "en")
        }


@pytest.fixture(scope="module")
def detector() -> PatternDetector:
    return PatternDetector(PatternOptions(kinds=KINDS, regions=REGIONS))


def card_rule(text: str, missed: Result | None, more: Finding | None, ours: list[Finding]) -> bool:
    """A network's prefix and length and a right check digit make a card.

    Not so parts of words, fillers, and of a longer row of digits what no network prints in these groups.
    """
    if more is not None:
        return is_card(re.sub("[ -]", "", text[more.start : more.end]))
    assert missed is not None
    _, start, end, _ = missed
    part = text[start - 1 : start] == "." or re.match(r"\.\d", text[end : end + 2]) is not None
    digits = re.sub("[ -]", "", text[start:end])
    row = re.match(r"\d[ -]", text[max(0, start - 2) : start]) or re.match(r"[ -]\d", text[end : end + 2])
    unprinted = row is not None and tuple(map(len, re.split("[ -]", text[start:end]))) not in PRINTED
    return part or unprinted or not is_issued(digits) or len(set(digits)) == 1 or covered(missed, ours)


def email_rule(text: str, missed: Result | None, more: Finding | None, ours: list[Finding]) -> bool:
    """A path or query before an address is no part of it, and an encoded @ is one."""
    if missed is not None:
        _, start, end, _ = missed
        return any(
            one.kind == missed[0]
            and start < one.start
            and one.end == end
            and BEFORE_ADDRESS.search(text[start : one.start])
            for one in ours
        )
    assert more is not None
    return BEFORE_ADDRESS.search(text[: more.start]) is not None or "40" in text[more.start : more.end]


def iban_rule(text: str, missed: Result | None, more: Finding | None, ours: list[Finding]) -> bool:
    """A number in lower case has a full score."""
    if missed is not None:
        return any((one.kind, one.start, one.end) == missed[:3] and one.score == 1.0 for one in ours)
    assert more is not None
    return more.score == 1.0 and text[more.start : more.end] != text[more.start : more.end].upper()


def phone_rule(text: str, missed: Result | None, more: Finding | None, ours: list[Finding]) -> bool:
    """Found with a plus or a word before it without being valid, or in a table; not in an address or a fraction."""
    if more is not None:
        value = text[more.start : more.end]
        row = len(re.findall(r"\d", text)) > 40 or any(word in text for word in ("ext", "x"))
        return more.rule == "possible_phones" or row or not value.isascii() or QUAD.search(text) is not None
    assert missed is not None
    _, start, end, _ = missed
    value = text[start:end]
    short = sum(char.isdecimal() for char in value) < 7
    fraction = re.fullmatch(r"\d\.\d+", text[max(0, start - 2) : end]) is not None or value.startswith("0.")
    return short or fraction or covered(missed, ours) or QUAD.search(text[max(0, start - 16) : end + 16]) is not None


def nhs_rule(text: str, missed: Result | None, more: Finding | None, ours: list[Finding]) -> bool:
    """A phone number in the same place is the better guess."""
    return missed is not None and covered(("PHONE_NUMBER", *missed[1:]), ours)


RULES = {
    "EMAIL_ADDRESS": email_rule,
    "CREDIT_CARD": card_rule,
    "IBAN_CODE": iban_rule,
    "PHONE_NUMBER": phone_rule,
    "UK_NHS": nhs_rule,
}


def covered(result: Result, ours: list[Finding]) -> bool:
    kind, start, end, _ = result
    return any(one.kind == kind and one.start <= start and end <= one.end for one in ours)


def unexplained(text: str, theirs: set[Result], ours: list[Finding]) -> list[object]:
    """Differences that no rule explains."""
    mine = {(one.kind, one.start, one.end, round(one.score, 6)): one for one in ours}
    wrong: list[object] = []
    for missed in theirs - mine.keys():
        rule = RULES.get(missed[0])
        if rule is None or not rule(text, missed, None, ours):
            wrong.append(("missed", missed, text[missed[1] : missed[2]]))
    for key, more in mine.items():
        rule = RULES.get(more.kind)
        if key not in theirs and (rule is None or not rule(text, None, more, ours)):
            wrong.append(("more", more, text[more.start : more.end]))
    return wrong


def compare(texts: list[str], engine: Callable[[str], set[Result]], detector: PatternDetector) -> Counter[str]:
    """Presidio's results by kind, over texts that must not differ."""
    counts: Counter[str] = Counter()
    for text in texts:
        theirs = engine(text)
        counts.update(kind for kind, *_ in theirs)
        assert [] == unexplained(text, theirs, detector.scan(text)), repr(text)
    return counts


def set_of(name: str) -> list[str]:
    path = SETS / name
    if not path.exists():
        pytest.skip(f"{path} is not there")
    data = path.read_text(encoding="utf-8")
    rows = json.loads(data) if path.suffix == ".json" else [json.loads(line) for line in data.splitlines()]
    return [row["full_text"] for row in rows]


@pytest.mark.parametrize("name", ["synth_dataset_v2.json", "chat_dev.jsonl"])
def test_development_sets(engine, detector, name):
    """Texts of each, and some with characters changed."""
    rng = random.Random(name)
    texts = set_of(name)
    if not FULL:
        texts = rng.sample(texts, 200)
    counts = compare(texts, engine, detector)
    compare([mutated(text, rng) for text in texts[: len(texts) // 2]], engine, detector)

    assert counts["EMAIL_ADDRESS"] + counts["CREDIT_CARD"] > 8


def mutated(text: str, rng: random.Random) -> str:
    chars = list(text)
    for _ in range(rng.randint(1, 6)):
        place = rng.randrange(len(chars))
        chars[place] = rng.choice(
            [" ", "", "-", ".", "0", "9", "A", "@", ":", "\u00e9", "\n", "\u0301", "\u0130", chars[place] * 2]
        )
    return "".join(chars)


def atoms(rng: random.Random) -> list[Callable[[], str]]:
    """Makers of identifiers, nearly-identifiers, context words and characters of all kinds."""

    def digits(length: int) -> str:
        return "".join(rng.choice("0123456789") for _ in range(length))

    def hexes(length: int) -> str:
        return "".join(rng.choice("0123456789abcdefABCDEF") for _ in range(length))

    words = (
        "bank account", "ssn:", "passport no", "us", "driver license", "phone", "call", "card", "iban", "email", "tax id",
        "nhs", "mac", "wallet", "DEA", "ip", "the", "is my", "l\u0130c", "so\u017fial", "ban\u212a", "date", "uuid", "url",
    )  # fmt: skip
    signs = (
        "\u0660\u0661\u0662\u0663\u0664\u0665\u0666\u0667\u0668\u0669", "\u0661\u0662\u0663", "\U00010d30\U00010d31\U00010d32",
        "\uff11\uff12\uff13-\uff14\uff15-\uff16\uff17\uff18\uff19", "\U0001f600", "\u00e9\u2014\u201c\u201d", "a\u0301",
        "\u0301", "\u6771\u4eac", "\ud800", "\udfff", "\u200b", "\x0b", "\x1c", "\u3000", "\u00a0", "\u0130", "\u017f",
        "\u212a", "\u0131", "\n", "\r", "\uff0b",
    )  # fmt: skip
    return [
        lambda: digits(rng.randint(1, 20)),
        lambda: f"{digits(3)}-{digits(2)}-{digits(4)}",
        lambda: f"9{digits(2)}-7{digits(1)}-{digits(4)}",
        lambda: f"{digits(3)} {digits(3)} {digits(4)}",
        lambda: f"+1 {digits(3)} {digits(3)} {digits(4)}",
        lambda: f"+44 20 {digits(4)} {digits(4)}",
        lambda: f"({digits(3)}) {digits(3)}-{digits(4)} ext. {digits(3)}",
        lambda: (
            f"{rng.choice('abcd_-.+')}{hexes(3)}@{rng.choice(['ex', 'a-b', 'a--b', 'x_y'])}.{rng.choice(['com', 'co.uk', 'io', 'c'])}"
        ),
        lambda: rng.choice(
            ["/p?to=ann@ex.com", "a=b%40ex.io&", "u|ann@ex.co.uk", "list-ann=ex.com@lists.ex.org", "x%2Fann@ex.de/c"]
        ),
        lambda: ".".join(str(rng.randint(0, 300)) for _ in range(rng.randint(3, 5))),
        lambda: ":".join(hexes(rng.randint(1, 4)) for _ in range(rng.randint(2, 8))),
        lambda: f"{hexes(3)}::{hexes(2)}%eth0/64",
        lambda: "-".join(hexes(2) for _ in range(6)),
        lambda: f"{hexes(8)}-{hexes(4)}-4{hexes(3)}-a{hexes(3)}-{hexes(12)}",
        lambda: (
            f"https://{rng.choice(['foo', 'www1', 'a.b'])}.{rng.choice(['com', 'py', 'io', 'xyzzy'])}/p?q={hexes(2)}"
        ),
        lambda: f"{digits(4)}-0{rng.randint(1, 9)}-1{digits(1)}",
        lambda: f"{rng.randint(1, 31)}/{rng.randint(1, 13)}/{digits(4)}",
        lambda: f"2020-01-02T10:11:12.{digits(3)}Z",
        lambda: rng.choice(["1A1zP1eP5QGefi2DMPTfTL5SLmv7DivfNa", "bc1qar0srrr7xfkvy5l643lydnw9re59gtzzwf5mdq"]),
        lambda: f"{rng.choice('abfgmABFGM')}{rng.choice('xyzXYZ9')}{digits(7)}",
        lambda: rng.choice(["AB1234563", "943 476 5919", "AB 12 34 56 C", "ab123456c"]),
        lambda: f"{rng.choice('ABCxyz')}{digits(rng.randint(3, 14))}",
        lambda: rng.choice(["GB82 WEST 1234 5698 7654 32", "gb82west12345698765432", "DE89370400440532013000"]),
        lambda: "x" * rng.randint(1, 40),
        lambda: rng.choice(words),
        lambda: rng.choice(words),
        lambda: rng.choice(signs),
        lambda: rng.choice(signs),
    ]


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_identifiers_side_by_side(engine, detector, seed):
    """Thrown together with context words, separators and characters of other scripts; lone surrogates too."""
    rng = random.Random(seed)
    makers = atoms(rng)
    separators = [" ", " ", " ", "", "-", ", ", ":", "\n", "/", ".", "@", "_", '"', "\u00a0"]
    texts = [
        "".join(rng.choice(makers)() + rng.choice(separators) for _ in range(rng.randint(1, 14)))
        for _ in range(3000 if FULL else 200)
    ]
    counts = compare(texts, engine, detector)

    assert 12 <= len(counts)


HOSTILE = {
    "dots": "a." * 200,
    "addresses": "a@b.co " * 200,
    "quads": "1.2.3.4 " * 200,
    "quads in one word": "1.2.3.4," * 200,
    "numbers": "1234 5678 " * 160,
    "digits": "1" * 1600,
    "colons": "ab:" * 500,
    "brackets": "(" * 1600,
    "near addresses": "a." * 300 + "@b.co",
    "at signs": "a@" * 500,
    "ssn": "ssn 123-45-6789 " * 120,
    "doubled colons": "::" * 500,
    "zones": "fe80::1%" + "a" * 1000,
    "marks": "a\u0301" * 500,
    "surrogates": "\ud800" * 500,
    "licenses": "driver license A1234567 " * 66,
    "accounts": "account 12345678 " * 90,
    "dea": "ab1234563" * 170,
    "hex": "deadbeef" * 200,
    "wide digits": "\uff11\uff12\uff13" * 300,
    "cards": "4111 1111 1111 1111 " * 80,
    "ibans": "DE89370400440532013000 " * 70,
    "punctuation": "!" * 1200 + " 123-45-6789 ssn",
    "stop words": "the " * 500 + "123-45-6789",
    "past the cap": "card 123-45-6789 a@b.co 10.0.0.1 " * 130,
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_texts(engine, detector, name):
    """Made to make scanners slow, or to have them give up."""
    text = HOSTILE[name]

    assert [] == unexplained(text, engine(text), detector.scan(text))


def test_differences_are_noticed(engine, detector):
    """The comparison itself: a lost, a changed and an added result each have no explanation."""
    text = "ann@example.com from 10.0.0.1, card 4111111111111111"
    theirs = engine(text)
    ours = detector.scan(text)

    assert 4 == len(theirs)
    assert [] == unexplained(text, theirs, ours)
    for lost in ours:
        assert unexplained(text, theirs, [one for one in ours if one is not lost])
    assert unexplained(text, theirs, [*ours, Finding("CREDIT_CARD", 0, 3, 1.0)])
    assert unexplained(text, theirs, [one._replace(score=0.9) for one in ours])
