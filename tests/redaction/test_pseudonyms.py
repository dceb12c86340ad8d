"""Placeholders: one text each, the same beginning in every turn, nothing known left in what goes out."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from itertools import pairwise

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from extproc.redaction.operators import Allow, Block, Blocked, Hash, Mask, Operators, Pseudonym, Replace
from extproc.redaction.pseudonyms import Pseudonyms
from extproc.redaction.resolve import resolve
from extproc.redaction.restore import Restorer
from extproc.text import Finding

KEY = bytes(range(32))
KINDS = ("PERSON", "EMAIL_ADDRESS", "LITERAL", "A1")
OPERATORS = Operators({kind: Pseudonym() for kind in KINDS})
# what is typed by those who know how placeholders look, and parts that become one where they are joined
PIECES = (
    *("<PERSON_1>", "<PERSON_2>", "<LITERAL_1>", "<LITERAL_2>", "<<PERSON_1>>", "<PERSON_01>", "<A1_1>", "PERSON_1"),
    *(
        "<",
        ">",
        "<PERSON_",
        "1>",
        "_1>",
        "<PER",
        " ",
        ", ",
        "\n",
        "x",
        "José",
        "\U0001f600",
        "\ud800",
        "<EMAIL_ADDRESS_1>",
    ),
    *("John Smith", "John", "a@example.org", 'say "hi"\\', "555-0100", "Ann", "PERSON", "LITERAL_1"),
)
TEXTS = st.lists(st.sampled_from(PIECES) | st.text(max_size=3), max_size=8).map("".join)


@st.composite
def inspected(draw: st.DrawFn) -> tuple[str, tuple[Finding, ...]]:
    """A text and findings anywhere in it, also across what looks like a placeholder."""
    text = draw(TEXTS)
    if not text:
        return text, ()
    cuts = draw(st.lists(st.integers(0, len(text)), max_size=6, unique=True).map(sorted))
    spans = [
        Finding(draw(st.sampled_from(KINDS)), start, end, draw(st.sampled_from((0.5, 1.0))))
        for start, end in pairwise(cuts)
        if draw(st.booleans())
    ]
    return text, resolve(spans)


REQUESTS = st.lists(inspected(), max_size=6)
MODES = st.sampled_from(((None, ""), (KEY, "acme")))


def redact(pseudonyms: Pseudonyms, request: list[tuple[str, tuple[Finding, ...]]]) -> list[str]:
    return [pseudonyms.redact(text, findings, OPERATORS) for text, findings in request]


def find(value: str, text: str, kind: str = "PERSON") -> tuple[Finding, ...]:
    return tuple(Finding(kind, match.start(), match.end(), 0.9) for match in re.finditer(re.escape(value), text))


@settings(deadline=None)
@given(REQUESTS, MODES, st.booleans())
@example([("<PERSON_1>John", (Finding("PERSON", 10, 14, 1.0),)), ("<PERSON_2><PERSON_1>", ())], (None, ""), True)
@example([("John", (Finding("PERSON", 0, 4, 1.0),)), ("<PERSON_1><LITERAL_1><LITERAL_2>", ())], (None, ""), True)
def test_restore_undoes_redact(request, mode, repeats):
    """For every text of every request, whatever was typed and wherever something was found."""
    pseudonyms = Pseudonyms(*mode, repeats=repeats)
    sent = redact(pseudonyms, request)
    restorer = Restorer(pseudonyms.table())

    assert [text for text, _ in request] == [restorer.whole("text", text) for text in sent]


@settings(deadline=None)
@given(REQUESTS, REQUESTS, MODES)
def test_a_chat_that_grows_keeps_its_beginning(history, new, mode):
    """What goes out for a text depends on those before it only: the provider's prompt cache stays warm."""
    short, long = Pseudonyms(*mode), Pseudonyms(*mode)

    assert redact(short, history) == redact(long, history + new)[: len(history)]
    assert short.table().items() <= long.table().items()


@settings(deadline=None)
@given(REQUESTS, MODES)
def test_equal_values_have_equal_placeholders(request, mode):
    """One placeholder a value and kind, and one value a placeholder."""
    pseudonyms = Pseudonyms(*mode, repeats=False)
    redact(pseudonyms, request)
    found = {(one.kind, text[one.start : one.end]) for text, findings in request for one in findings}
    values = list(pseudonyms.table().values())

    assert {value for _, value in found} <= set(values)
    assert len(values) <= len(found) + sum(text.count("<") for text, _ in request)


@settings(deadline=None)
@given(REQUESTS, MODES)
def test_nothing_known_is_left(request, mode):
    """A value that was found once stands nowhere in that text and the later ones, as a word of its own."""
    pseudonyms = Pseudonyms(*mode)
    known: set[str] = set()
    for text, findings in request:
        known |= {text[one.start : one.end] for one in findings if one.score < 1}
        sent = pseudonyms.redact(text, findings, OPERATORS)
        rest = re.sub(
            "<[A-Z][A-Z0-9_]*_[a-z0-9]+>", "x", sent
        )  # a letter: what follows a finding may be the rest of a word
        for value in known:
            if len(value) >= 6 and not value.isalpha() and "<" not in value and ">" not in value:
                assert re.search(rf"(?<!\w){re.escape(value)}(?!\w)", rest) is None


@settings(deadline=None)
@given(REQUESTS)
def test_untouched_texts_are_the_same_object(request):
    """So that a caller sees at once that there is nothing to edit; and `may_change` is never wrong about that."""
    pseudonyms = Pseudonyms()
    for text, findings in request:
        may = pseudonyms.may_change(text)
        sent = pseudonyms.redact(text, findings, OPERATORS)

        assert (sent is text) == (sent == text)
        assert may or findings or sent is text


def test_numbers_follow_first_appearance():
    """Per kind; the same value has the same number everywhere."""
    pseudonyms = Pseudonyms()
    text = "Ann and Bob"

    assert "<PERSON_1> and Bob" == pseudonyms.redact(text, find("Ann", text), OPERATORS)
    assert "<PERSON_1> and <PERSON_2>" == pseudonyms.redact(text, find("Ann", text) + find("Bob", text), OPERATORS)
    assert "<A1_1>" == pseudonyms.redact("Bob", find("Bob", "Bob", "A1"), OPERATORS)
    assert {"<PERSON_1>": "Ann", "<PERSON_2>": "Bob", "<A1_1>": "Bob"} == pseudonyms.table()


def test_a_literal_before_its_number_is_kept_and_skipped():
    """And what the model makes of it is not restored."""
    pseudonyms = Pseudonyms()
    first = pseudonyms.redact("who is <PERSON_1>?", (), OPERATORS)
    second = pseudonyms.redact("John", find("John", "John"), OPERATORS)

    assert ("who is <PERSON_1>?", "<PERSON_2>") == (first, second)
    assert {"<PERSON_2>": "John"} == pseudonyms.table()


def test_a_literal_after_its_number_is_a_value():
    """It comes back as it was typed."""
    pseudonyms = Pseudonyms()
    pseudonyms.redact("John", find("John", "John"), OPERATORS)

    assert "who is <LITERAL_1>?" == pseudonyms.redact("who is <PERSON_1>?", (), OPERATORS)
    assert "<LITERAL_2>" == pseudonyms.redact("<LITERAL_1>", (), OPERATORS)
    assert {"<PERSON_1>": "John", "<LITERAL_1>": "<PERSON_1>", "<LITERAL_2>": "<LITERAL_1>"} == pseudonyms.table()


def test_what_a_replacement_completes_is_a_literal():
    """Text that only looks like a placeholder once something in it was replaced."""
    operators = Operators({"PERSON": Pseudonym(), "CRYPTO": Replace("1")})
    pseudonyms = Pseudonyms()
    pseudonyms.redact("John", find("John", "John"), operators)

    assert "<LITERAL_1>" == pseudonyms.redact("<PERSON_xyz>", find("xyz", "<PERSON_xyz>", "CRYPTO"), operators)


def test_keyed_placeholders_are_those_of_a_tenant():
    """The same in every request of a tenant, others for another tenant, key, kind or value."""

    def placeholder(key: bytes, tenant: str, kind: str, value: str) -> str:
        return Pseudonyms(key, tenant).redact(value, find(value, value, kind), OPERATORS)

    one = placeholder(KEY, "acme", "PERSON", "John")

    assert re.fullmatch("<PERSON_[a-z][a-z0-9]{11}>", one)
    assert one == placeholder(KEY, "acme", "PERSON", "John")
    others = [
        placeholder(KEY[::-1], "acme", "PERSON", "John"),
        placeholder(KEY, "acmeP", "PERSON", "John"),
        placeholder(KEY, "acme", "A1", "John"),
        placeholder(KEY, "acme", "PERSON", "Jon"),
    ]
    assert len({one[-13:], *(other[-13:] for other in others)}) == 5


def test_a_keyed_literal_is_kept():
    """The value whose code was typed before it takes another one; typed after it, the text is a value."""
    code = Pseudonyms(KEY).redact("John", find("John", "John"), OPERATORS)
    before, after = Pseudonyms(KEY), Pseudonyms(KEY)

    assert code == before.redact(code, (), OPERATORS)
    assert code != before.redact("John", find("John", "John"), OPERATORS)
    after.redact("John", find("John", "John"), OPERATORS)
    assert after.redact(code, (), OPERATORS).startswith("<LITERAL_")


def test_identifiers_are_replaced_as_a_whole():
    """Without brackets, which vendors refuse there, by the placeholder that the same value has in a text."""
    pseudonyms = Pseudonyms()

    assert "PERSON_1" == pseudonyms.redact("Ann", find("Ann", "Ann"), OPERATORS, bare=True)
    assert "<PERSON_1>" == pseudonyms.redact("Ann", find("Ann", "Ann"), OPERATORS)
    assert "PERSON_2" == pseudonyms.redact("ask_Ann", find("Ann", "ask_Ann"), OPERATORS, bare=True)
    assert "ask" == pseudonyms.redact("ask", (), OPERATORS, bare=True)
    table = pseudonyms.table()
    assert {"<PERSON_1>": "Ann", "<PERSON_2>": "ask_Ann", "PERSON_1": "Ann", "PERSON_2": "ask_Ann"} == table


def test_identifiers_that_look_like_placeholders():
    """Kept and skipped before, a value of their own after."""
    before, after = Pseudonyms(), Pseudonyms()

    assert "PERSON_1" == before.redact("PERSON_1", (), OPERATORS, bare=True)
    assert "<PERSON_2>" == before.redact("Ann", find("Ann", "Ann"), OPERATORS)
    after.redact("Ann", find("Ann", "Ann"), OPERATORS)
    assert "LITERAL_1" == after.redact("PERSON_1", (), OPERATORS, bare=True)
    assert "LITERAL_2" == after.redact("x<PERSON_1>", (), OPERATORS, bare=True)
    assert "PERSON_1" == after.table()["LITERAL_1"]


@settings(deadline=None)
@given(st.lists(st.tuples(inspected(), st.booleans()), max_size=6), MODES)
def test_identifiers_come_back_too(request, mode):
    """Mixed with texts, in any order."""
    pseudonyms = Pseudonyms(*mode)
    sent = [pseudonyms.redact(text, findings, OPERATORS, bare=bare) for (text, findings), bare in request]
    restorer = Restorer(pseudonyms.table())
    back = [restorer.whole("name" if bare else "text", text) for text, (_, bare) in zip(sent, request, strict=True)]

    assert [text for (text, _), _ in request] == back


def test_irreversible_identifiers_keep_their_alphabet():
    """A mask or a hash in a name is made of what vendors take there."""
    operators = Operators({"PERSON": Mask(), "A1": Hash(KEY)})

    assert "___" == Pseudonyms().redact("Ann", find("Ann", "Ann"), operators, bare=True)
    hashed = Pseudonyms().redact("Ann", find("Ann", "Ann", "A1"), operators, bare=True)
    assert re.fullmatch("A1_[0-9a-f]{16}", hashed)


def test_operators_stand_side_by_side():
    """Each kind has its own; what is irreversible is not in the table."""
    operators = Operators({"PERSON": Pseudonym(), "A1": Mask(keep_last=2), "URL": Allow()})
    text = "Ann 123456 here"
    found = (*find("Ann", text), *find("123456", text, "A1"), *find("here", text, "URL"))
    pseudonyms = Pseudonyms()

    assert "<PERSON_1> ****56 here" == pseudonyms.redact(text, found, operators)
    assert {"<PERSON_1>": "Ann"} == pseudonyms.table()


def test_a_value_is_found_again():
    """Masked values as well; single words, parts of words and short values are not looked for."""
    operators = Operators({"PERSON": Pseudonym(), "API_KEY": Mask()})
    pseudonyms = Pseudonyms()
    text = "John Smith has k3y-0123, Will too"
    found = (*find("John Smith", text), *find("k3y-0123", text, "API_KEY"), *find("Will", text))

    assert "<PERSON_1> has ********, <PERSON_2> too" == pseudonyms.redact(text, found, operators)
    later = "Will John Smith, xJohn Smith, John Smiths and k3y-0123 do?"
    assert pseudonyms.may_change(later)
    sent = pseudonyms.redact(later, (), operators)
    assert "Will <PERSON_1>, xJohn Smith, John Smiths and ******** do?" == sent
    assert 2 == pseudonyms.repeated


def test_a_value_is_found_again_in_its_own_text():
    """Where the words around it do not tell what it is."""
    text = "Name: John Smith\njohn@x: John Smith"
    found = (Finding("PERSON", 6, 16, 0.9),)

    assert "Name: <PERSON_1>\njohn@x: <PERSON_1>" == Pseudonyms().redact(text, found, OPERATORS)


def test_many_values_are_looked_for_within_bounds():
    """The first hundred of a request, and none that is found wherever it stands."""
    pseudonyms = Pseudonyms()
    pseudonyms.redact("certain1", (Finding("A1", 0, 8, 1.0),), OPERATORS)
    text = " ".join(f"n{index:05}" for index in range(120))
    pseudonyms.redact(text, tuple(Finding("A1", at, at + 6, 0.9) for at in range(0, len(text), 7)), OPERATORS)

    assert "<A1_101>" == pseudonyms.redact("n00099", (), OPERATORS)
    assert "n00100 certain1" == pseudonyms.redact("n00100 certain1", (), OPERATORS)


def test_blocked_text_has_no_form_that_goes_out():
    """The error names the kinds."""
    operators = Operators({"PERSON": Pseudonym(), "US_SSN": Block()})
    with pytest.raises(Blocked) as refused:
        Pseudonyms().redact("Ann", find("Ann", "Ann", "US_SSN"), operators)

    assert ("US_SSN",) == refused.value.kinds


@pytest.mark.parametrize("spans", [((0, 3), (2, 4)), ((2, 4), (0, 1)), ((0, 9),), ((1, 1),), ((-1, 2),)])
def test_findings_that_cannot_be_are_refused(spans):
    """Overlapping, out of order, outside the text, empty: never guessed at."""
    with pytest.raises(ValueError, match="PERSON"):
        Pseudonyms().redact("abcd", tuple(Finding("PERSON", *span, 1.0) for span in spans), OPERATORS)


def test_every_process_gives_the_same():
    """Whatever the seed of its hashes."""
    program = (
        "from extproc.redaction.operators import *;from extproc.redaction.pseudonyms import *\n"
        "o=Operators({k: Pseudonym() for k in ('PERSON','A1')})\n"
        "for key in (None, bytes(range(32))):\n"
        "  p=Pseudonyms(key,'acme')\n"
        "  for t in ('Ann Lee <PERSON_1> Bob B <PERSON_2>', 'x <PERSON_2> Ann Lee', 'Bob B <LITERAL_1>'):\n"
        "    f=[Finding('PERSON',i,i+len(v),1.0) for v in ('Ann Lee','Bob B') if (i:=t.find(v))>=0]\n"
        "    print(p.redact(t,tuple(f),o))\n"
        "  print(list(p.table().items()))"
    )
    outputs = {
        subprocess.run(
            [sys.executable, "-c", program],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
            timeout=60,
        ).stdout
        for seed in ("0", "1", "77")
    }

    assert len(outputs) == 1
    assert outputs.pop().startswith("<PERSON_1> <LITERAL_1> <PERSON_2> <LITERAL_2>\nx <LITERAL_2> <PERSON_1>\n")
