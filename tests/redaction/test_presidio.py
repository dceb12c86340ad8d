"""What is taken from Presidio, and how its recognizers are run."""

from __future__ import annotations

import socket

import pytest
import regex  # type: ignore[import-untyped]
from hypothesis import given
from hypothesis import strategies as st
from presidio_analyzer import Pattern, PatternRecognizer, RecognizerResult

from extproc.redaction.finders import expression
from extproc.redaction.hyper import Database
from extproc.redaction.presidio import EmailFinder, PresidioFinder, UrlFinder, finder, recognizers
from extproc.text import never


def of_kind(kind: str) -> PresidioFinder:
    (recognizer,) = recognizers(frozenset({kind}))
    return finder(recognizer, 0.4)


def everywhere(one: PresidioFinder, text: str) -> list[tuple[int, int, float]]:
    return one.find(text, dict.fromkeys(range(len(one.gates))), never)


def test_recognizers_of_the_default_registry():
    """Those for English that match patterns; no model is among them."""
    kinds = frozenset({"US_SSN", "IP_ADDRESS", "CRYPTO", "UUID", "DATE_TIME"})
    found = recognizers(kinds)

    assert kinds == {recognizer.supported_entities[0] for recognizer in found}
    assert all(isinstance(recognizer, PatternRecognizer) for recognizer in found)


def test_recognizers_that_are_switched_off_there():
    """Can be asked for by kind."""
    assert ["UkNinoRecognizer"] == [recognizer.name for recognizer in recognizers(frozenset({"UK_NINO"}))]
    assert ["InPanRecognizer"] == [recognizer.name for recognizer in recognizers(frozenset({"IN_PAN"}))]


def test_an_unknown_kind_is_refused():
    """By name; kinds of other languages are unknown too."""
    with pytest.raises(ValueError, match="no recognizer finds ES_NIF, TELEPATHY"):
        recognizers(frozenset({"TELEPATHY", "US_SSN", "ES_NIF"}))


def test_no_network_is_used(monkeypatch):
    """Not for the list of public suffixes either, which Presidio fetches at the first e-mail address."""
    asked: list[object] = []
    monkeypatch.setattr(socket, "getaddrinfo", lambda *given, **_: asked.append(given))
    monkeypatch.setattr(socket.socket, "connect", lambda *given: asked.append(given))
    finders = [finder(recognizer, 0.4) for recognizer in recognizers(frozenset({"EMAIL_ADDRESS", "URL", "IBAN_CODE"}))]

    for one in finders:
        everywhere(one, "mail ann@example.co.uk or see https://example.com/x")
    assert 3 == len(finders)
    assert [] == asked


EMAIL = of_kind("EMAIL_ADDRESS")
PATTERN = regex.compile(
    recognizers(frozenset({"EMAIL_ADDRESS"}))[0].patterns[0].regex, regex.IGNORECASE | regex.DOTALL | regex.MULTILINE
)


@given(st.text(alphabet="ab.@-_+! \n\u00e9\u0301", max_size=50))
def test_addresses_are_those_of_the_expression(text):
    """A look at every `@` finds what a run over the whole text finds."""
    assert [match.span() for match in PATTERN.finditer(text)] == list(EMAIL._spans(PATTERN, text))


def test_addresses_need_a_public_suffix():
    """The list in the package decides."""
    text = "a@example.com b@example.invalidtld c@host.local d@\u043f\u0440\u0438\u043c\u0435\u0440.\u0440\u0444"

    assert isinstance(EMAIL, EmailFinder)
    assert ["a@example.com", "d@\u043f\u0440\u0438\u043c\u0435\u0440.\u0440\u0444"] == [
        text[start:end] for start, end, score in everywhere(EMAIL, text) if score == 1.0
    ]


def addresses(text: str) -> list[str]:
    return [text[start:end] for start, end, score in everywhere(EMAIL, text) if score == 1.0]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("https://files.internal/a.png?for=ann.bob@example.com&x=1", "ann.bob@example.com"),
        ("http://localhost:8080/?u=ann@example.com", "ann@example.com"),
        ("https://files.example/ann@example.com/c.pdf", "ann@example.com"),
        ("https://files.example.org/ann@example.com", "ann@example.com"),
        ("user/ann.bob@example.com/x", "ann.bob@example.com"),
        ("a=ann.bob@example.com&b=2", "ann.bob@example.com"),
        ("?redirect%3Dann.bob@example.com", "ann.bob@example.com"),
        ("a|ann@example.com|b", "ann@example.com"),
        ("list/.-ann@example.com", "ann@example.com"),
        ("to ann.bob%40example.com.", "ann.bob%40example.com"),
        ("https://host/?to=https%3A%2F%2Fother%3Fu%3Dann%2Bnews%40example.co.uk%26v", "ann%2Bnews%40example.co.uk"),
        ("u%253Dann%2540example.com", "ann%2540example.com"),
        ("a@b%40c ann%40example.com", "ann%40example.com"),
    ],
)
def test_addresses_in_links(text, expected):
    """What is before an address in a path or a query is none of it; an `@` may be encoded, more than once."""
    assert [expected] == addresses(text)


def test_addresses_next_to_each_other():
    """In a path, a query or a table each is found."""
    text = "ann@example.com/bob@example.com|eve@example.com&c=dan@example.com"

    assert ["ann@example.com", "bob@example.com", "eve@example.com", "dan@example.com"] == addresses(text)


def test_return_addresses_of_lists():
    """Have the reader's in them, with `=` for `@`: all of it is found."""
    text = "bounce-ann=example.com@lists.example.org"

    assert [text] == addresses(text)


@pytest.mark.parametrize("text", ["x/@example.com", "%40example.com", "a%40b", "50%40 off", "a.%40example.com"])
def test_nearly_addresses_in_links(text):
    """There has to be somebody before the `@`, and a domain behind it."""
    assert [] == addresses(text)


def test_gates_let_addresses_in_links_pass():
    """Encoded ones by a gate of their own."""
    database = Database([expression(number, gate) for number, gate in enumerate(EMAIL.gates)])

    assert {0} == database.scan("https://host/?a=ann@example.com").ends.keys()
    assert {1} == database.scan("https://host/?a=ann%40example.com").ends.keys()
    assert {1} == database.scan("https://host/?a=\u00e9%2540example.com").ends.keys()
    assert not database.scan("https://host/?a=50%40 off").ends


@given(st.text(alphabet="ab.@%402F/=_- ", max_size=60))
def test_no_address_of_presidio_is_lost(text):
    """Each is found, or the address at its end is."""
    found = everywhere(EMAIL, text)
    for match in PATTERN.finditer(text):
        if EMAIL._judge(match.group(), 1.0) == 1.0:
            at = text.rindex("@", match.start(), match.end())
            assert any(start < at and end == match.end() and score == 1.0 for start, end, score in found)


@pytest.mark.parametrize(
    "text", ["a." * 20_000 + "@", "a@" * 20_000, "x@" + "a-" * 20_000, "x@" + "a." * 20_000 + "@", "a%40" * 20_000, "/=" * 20_000 + "@"],
)  # fmt: skip
def test_near_addresses_are_left_in_one_look(text):
    """Texts on which the expression alone would take quadratic time."""
    assert [] == everywhere(EMAIL, text)


def test_links_in_all_scripts():
    """RE2 is given the expression with Unicode's spaces and letters that ignore case."""
    links = of_kind("URL")
    text = "see https://ex\u0130t.com/a?b=1\u3000then \u201cwww2.example.org/x\u201d."

    assert isinstance(links, UrlFinder)
    found = {text[start:end] for start, end, _ in everywhere(links, text)}
    assert "https://ex\u0130t.com/a?b=1" in found
    assert "www2.example.org/x\u201d." in found


def test_a_recognizer_with_a_way_of_its_own_is_called():
    """One that overrides `analyze` does more than match: its results are taken as they are."""

    class Own(PatternRecognizer):
        def analyze(self, text, entities, nlp_artifacts=None, regex_flags=None):
            return [
                RecognizerResult("OWN", 1, 3, 0.7),
                RecognizerResult("OWN", 1, 3, 0.7),
                RecognizerResult("OWN", 0, 0, 0),
            ]

    one = PresidioFinder(Own("OWN", patterns=[Pattern("any", "x", 0.1)]), 0.4)

    assert [(1, 3, 0.7)] == everywhere(one, "axxb")
    assert not one.gates[0].context


def test_weak_patterns_wait_for_a_word():
    """A pattern below the threshold that no check can lift is gated by the recognizer's words."""
    gates = {gate.pattern: gate.context for gate in of_kind("US_SSN").gates}
    scores = {pattern.regex: pattern.score for pattern in recognizers(frozenset({"US_SSN"}))[0].patterns}

    assert {pattern: score < 0.4 for pattern, score in scores.items()} == gates
    assert not any(gate.context for gate in of_kind("UK_NHS").gates)


def test_every_link_has_a_suffix_of_two_letters():
    """The gate for links asks for no more than the expression does."""
    pattern = recognizers(frozenset({"URL"}))[0].patterns[1].regex
    suffixes = regex.findall(r"\(\?:([^()|]+)\)", pattern)

    assert 500 < len(suffixes)
    assert all(regex.fullmatch("[a-z]{2,}", suffix) for suffix in suffixes)
