"""Names of people and places by the small model."""

from __future__ import annotations

import json
import os
from importlib.resources import files
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from extproc.errors import BudgetExceededError
from extproc.redaction.names import CHUNK, MEMO, NameDetector
from extproc.text import Finding

WEIGHTS = (files("extproc.redaction") / "data" / "names.npz").read_bytes()
DETECTOR = NameDetector(WEIGHTS)
SETS = Path(os.environ.get("REDACTION_DIR", Path(__file__).parents[3] / "shared" / "redaction"))
PLACES = {"GPE", "STREET_ADDRESS", "ZIP_CODE", "LOCATION"}

WITH_PEOPLE = [
    ("Could you forward this to Marta Kowalczyk before lunch?", ["Marta Kowalczyk"]),
    ("could you forward this to marta kowalczyk before lunch?", ["marta kowalczyk"]),
    ('{"customer": {"fullName": "Giorgio Bellini", "plan": "pro"}}', ["Giorgio Bellini"]),
    ('{\\"passenger\\": \\"Ines Carvalho\\", \\"seat\\": 12}', ["Ines Carvalho"]),
    (
        "id,name,email\n1,Torsten Brandt,tb@example.org\n2,Aoife Brennan,ab@example.org",
        ["Torsten Brandt", "Aoife Brennan"],
    ),
    ('author = "Priya Raghunathan"  # see README', ["Priya Raghunathan"]),
    ("2026-02-01T10:00:00Z INFO billing: invoice sent to Samuel Okafor", ["Samuel Okafor"]),
    (
        "From: Claire Dubois <c.dubois@example.org>\nSubject: minutes\n\nHi Pavel,\nattached.\n\nRegards,\nClaire",
        ["Claire Dubois", "Pavel", "Claire"],
    ),
    ("| Name | Role |\n| --- | --- |\n| Hiroshi Tanaka | Designer |", ["Hiroshi Tanaka"]),
    ("Yesterday Dr. Lindqvist operated on Mrs. Papadopoulos.", ["Lindqvist", "Papadopoulos"]),
    ("Signed-off-by: Jean-Luc O'Connor <jl@example.org>", ["Jean-Luc O'Connor"]),
    ('book_table(guest="Fatima Al-Sayed", people=4)', ["Fatima Al-Sayed"]),
]
WITHOUT = [
    "Deploy the service to EKS, put the logs into S3 and draw the C4 diagram.",
    "class UserAccountManager(BaseService): pass",
    "Kubernetes, Terraform and PostgreSQL are set up by Ansible.",
    "On Monday, March 3, the Release Notes and the Road Map are due.",
    "for item in items:\n    if item.is_valid():\n        result.append(item)",
    "Microsoft Teams, Google Cloud and Amazon Web Services raised their prices.",
    "ERROR ConnectionPool: timeout while waiting for HTTP/2 SETTINGS frame",
    "## Getting Started\n\nInstall the CLI, then run `make setup`.",
    '{"model": "gpt-4o", "temperature": 0.2, "tools": [{"type": "function"}]}',
    "SELECT id, status FROM orders WHERE status = 'PENDING' ORDER BY created_at",
]


def people(found: list[Finding], text: str) -> list[str]:
    return [text[one.start : one.end] for one in found if one.kind == "PERSON"]


@pytest.mark.parametrize(("text", "expected"), WITH_PEOPLE)
def test_people_are_found(text, expected):
    """In prose, lower case, JSON, escaped JSON, tables, code, logs, mail and calls; whole, and nothing around them."""
    assert expected == people(DETECTOR.scan(text), text)


@pytest.mark.parametrize("text", WITHOUT)
def test_technical_texts_have_no_people(text):
    """Products, classes, days, headings, acronyms and code."""
    assert [] == people(DETECTOR.scan(text), text)


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("while len(anna) > 0:", "len"),
        ("anna(1)", "anna"),
        ("ann_name = 3", "ann"),
        ("x = y_anna", "anna"),
        ("LETTER A WITH CARON", "A"),
    ],
)
def test_what_is_called_or_part_of_an_identifier_is_no_name(text, word):
    """Nor is a single letter."""
    assert word not in [text[one.start : one.end] for one in DETECTOR.scan(text)]


def test_places_are_found():
    """Cities and street addresses are LOCATION."""
    text = "She moved from Gdansk to 14 Orchard Lane, Bristol last year."
    found = [text[one.start : one.end] for one in DETECTOR.scan(text) if one.kind == "LOCATION"]

    assert "Gdansk" in found
    assert any("Orchard Lane" in one for one in found)


@given(st.text(st.characters(), max_size=300))
@example("\ud800 Anna Schmidt \udfff")
@example("\n" * 50)
@example("Dear Anna," + "." * 200)
def test_findings_are_well_formed(text):
    """By start, apart, inside the text, with a letter in them and no blank at their ends; nothing raises."""
    found = DETECTOR.scan(text)

    assert all(0 <= one.start < one.end <= len(text) for one in found)
    assert all(first.end <= second.start for first, second in pairwise(found))
    for one in found:
        value = text[one.start : one.end]
        assert one.kind in {"PERSON", "LOCATION"}
        assert 0.3 <= one.score <= 1.0
        assert value == value.strip()
        assert any(sign.isalpha() for sign in value)


def test_a_lone_surrogate_hides_nothing():
    """It is a sign like others."""
    text = "\ud83d Please call Margaret Hughes \ude00"

    assert ["Margaret Hughes"] == people(DETECTOR.scan(text), text)


@settings(max_examples=40)
@given(
    st.lists(
        st.sampled_from([text for text, _ in WITH_PEOPLE] + WITHOUT + ["", "x", "Bob", "\n", "y " * 700]), max_size=40
    )
)
def test_many_texts_at_once_are_as_one_by_one(texts):
    """The same spans: texts that are scored together do not see each other."""

    def bare(found: list[Finding]) -> list[tuple[str, int, int, float]]:
        return [(one.kind, one.start, one.end, pytest.approx(one.score, abs=1e-4)) for one in found]

    together = DETECTOR.scan_many(texts)

    assert len(texts) == len(together)
    assert [bare(DETECTOR.scan(text)) for text in texts] == [bare(found) for found in together]


@pytest.mark.parametrize("glue", ["\n", " ", ";\n\n"])
def test_a_long_text_is_scanned_to_its_end(glue):
    """Chunks leave no seam: every name is found where it stands, however long the text."""
    filler = "The build runs the tests and then packs the image for the registry"
    lines = [filler] * 40 + ["Please ask Margaret Hughes about it"]
    text = glue.join(lines * 12)
    found = DETECTOR.scan(text)

    assert len(text) > 8 * CHUNK
    assert ["Margaret Hughes"] * 12 == people(found, text)


def test_a_name_at_any_place_near_a_seam_is_found():
    """Wherever a chunk ends, before, in or after the name."""
    for before in range(CHUNK - 40, CHUNK + 40, 3):
        text = "log " * (before // 4) + "." * (before % 4) + " please ask Margaret Hughes about it " + "log " * 600

        assert ["Margaret Hughes"] == people(DETECTOR.scan(text), text)


def test_a_text_without_a_blank_is_scanned_too():
    """It is cut where it stands."""
    text = "a" * 9000 + " please ask Margaret Hughes about it " + "b1c2" * 3000

    assert "Margaret Hughes" in " ".join(people(DETECTOR.scan(text), text))


def test_the_budget_is_checked_as_the_scan_goes():
    """Once for every chunk, and what the check raises ends the scan."""
    calls = []
    text = "word " * (CHUNK * 4)

    def check() -> None:
        calls.append(1)
        if len(calls) == 3:
            raise BudgetExceededError

    DETECTOR.scan(text, lambda: calls.append(1))
    assert len(calls) >= len(text) // (CHUNK + 1000)
    calls.clear()
    with pytest.raises(BudgetExceededError):
        DETECTOR.scan(text, check)
    assert len(calls) == 3


def test_the_memo_is_bounded_and_what_it_forgets_is_learnt_again():
    """Any number of new words: memory stays, results stay."""
    detector = NameDetector(WEIGHTS)
    text = WITH_PEOPLE[0][0]
    first = detector.scan(text)
    for start in range(0, 24_000, 2000):
        detector.scan(
            " ".join(
                f"w{chr(97 + number % 26)}{chr(97 + number // 26 % 26)}{chr(97 + number // 676)}q"
                for number in range(start, start + 2000)
            )
        )
        assert len(detector._memo) <= MEMO
        assert len(detector._table) <= MEMO + 4096

    again = detector.scan(text)
    assert [(one.kind, one.start, one.end) for one in first] == [(one.kind, one.start, one.end) for one in again]


def test_flagged_lines_are_whole_lines():
    """Without their line ends; neighbours are one range; an empty text has none."""
    text = (
        "nothing here\nask Marta Kowalczyk\nor Giorgio Bellini\nfor x in range(3):\n    pass\n\nRegards,\nClaire Dubois"
    )
    ranges = DETECTOR.flagged_lines(text, 0.3)

    assert ["ask Marta Kowalczyk\nor Giorgio Bellini"] == [text[start:end] for start, end in ranges][:1]
    assert text[ranges[-1][0] : ranges[-1][1]].endswith("Claire Dubois")
    assert [] == DETECTOR.flagged_lines("", 0.1)
    assert [] == DETECTOR.flagged_lines("for x in range(3):\n    pass", 0.3)


@given(st.lists(st.sampled_from([text for text, _ in WITH_PEOPLE] + WITHOUT), max_size=12))
def test_flagged_lines_hold_every_finding(texts):
    """What the fast tier finds lies in lines that the strict tier is given; ranges are in order and at line ends."""
    text = "\n".join(texts)
    ranges = DETECTOR.flagged_lines(text, 0.15)

    assert ranges == sorted(ranges)
    assert all(first[1] < second[0] for first, second in pairwise(ranges))
    assert all(start == 0 or text[start - 1] == "\n" for start, _ in ranges)
    assert all(end == len(text) or text[end] == "\n" for _, end in ranges)
    for one in DETECTOR.scan(text):
        assert any(start < one.end and one.start < end for start, end in ranges)


def test_a_lower_threshold_covers_at_least_as_much():
    """Every character that is covered at 0.5 is covered at 0.1."""
    text = "\n".join(one for one, _ in WITH_PEOPLE)
    strict, loose = NameDetector(WEIGHTS, 0.5).scan(text), NameDetector(WEIGHTS, 0.1).scan(text)
    covered = {at for one in loose for at in range(one.start, one.end)}

    assert strict
    assert {at for one in strict for at in range(one.start, one.end)} <= covered


@pytest.mark.parametrize("threshold", [-1.0, 0.0, 1.0, float("nan")])
def test_a_threshold_is_between_0_and_1(threshold):
    """Nothing else makes sense."""
    with pytest.raises(ValueError, match="threshold"):
        NameDetector(WEIGHTS, threshold)


def gold(name: str) -> list[tuple[str, list[tuple[int, int]]]]:
    """Texts of a development set and where its people are."""
    raw = (SETS / name).read_text(encoding="utf-8")
    rows = json.loads(raw) if name.endswith(".json") else [json.loads(line) for line in raw.splitlines()]
    return [
        (
            row["full_text"],
            [(one["start_position"], one["end_position"]) for one in row["spans"] if one["entity_type"] == "PERSON"],
        )
        for row in rows
    ]


def half(span: tuple[int, int], others: list[tuple[int, int]]) -> bool:
    """Whether `others`, which do not overlap, cover at least half of `span`."""
    return 2 * sum(max(0, min(span[1], end) - max(span[0], start)) for start, end in others) >= span[1] - span[0]


@pytest.mark.skipif(not SETS.is_dir(), reason="the development sets are not here")
@pytest.mark.parametrize(
    ("name", "recall", "precision"), [("synth_dataset_v2.json", 0.75, 0.80), ("chat_dev.jsonl", 0.85, 0.86)]
)
def test_people_of_the_development_sets(name, recall, precision):
    """At least as many are found, and as few wrong, as the fast tier promises."""
    rows = gold(name)
    ours = [
        [(one.start, one.end) for one in found if one.kind == "PERSON"]
        for found in DETECTOR.scan_many([text for text, _ in rows])
    ]
    found = [half(span, mine) for (_, spans), mine in zip(rows, ours, strict=True) for span in spans]
    right = [half(span, spans) for (_, spans), mine in zip(rows, ours, strict=True) for span in mine]

    assert sum(found) / len(found) >= recall
    assert sum(right) / len(right) >= precision
