"""What the model itself writes: found however it is cut, edited so that documents stay documents, or stopped."""

from __future__ import annotations

import json
import re
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from extproc.errors import ErrorCode, Rejection
from extproc.redaction.operators import Allow, Block, Mask, Operators, Pseudonym, Replace
from extproc.redaction.output_scan import (
    CONTEXT,
    DOCUMENT_WINDOW,
    LARGEST_WINDOW,
    LONG,
    REMEMBERED,
    WINDOW,
    WINDOWS,
    OutputScan,
)
from extproc.redaction.resolve import resolve
from extproc.redaction.restore import Restorer
from extproc.text import Channel, Finding

TEXT, JSON, NAME = Channel((0, "content"), "text"), Channel((0, 1), "json"), Channel((0, 2), "name")
PEM = "PRIVATE " + "KEY-----"
RULES = {
    "CREDIT_CARD": re.compile(r"(?<!\d)\d{4}(?:[ -]?\d{4}){3}(?!\d)"),
    "EMAIL_ADDRESS": re.compile(r"[\w.]+@\w+\.\w+", re.ASCII),
    "PERSON": re.compile(r"\bAnn(?: Lee)?\b"),
    "JWT": re.compile(r"\beyJ\w+\.\w+\.\w+", re.ASCII),
    "PRIVATE_KEY": re.compile(rf"-----BEGIN {PEM}.*?-----END {PEM}", re.DOTALL),
    "PLACE": re.compile(r"\bPERSON_\d+"),
}
MASKS = Operators({kind: Mask() for kind in RULES})
CARD = " ".join(("4111", "1111") * 2)


def scan(text: str) -> tuple[Finding, ...]:
    """A detector whose entities are short, but for two."""
    return resolve(
        Finding(kind, match.start(), match.end(), 0.9) for kind, rule in RULES.items() for match in rule.finditer(text)
    )


def run(texts: OutputScan, channel: Channel, text: str, cuts: list[int]) -> str:
    """`text` in pieces; "!" where it was stopped."""
    bounds = [0, *sorted(cut % (len(text) + 1) for cut in cuts), len(text)]
    out = ""
    try:
        for a, b in pairwise(bounds):
            out += texts.piece(channel, text[a:b])
        return out + texts.end(channel)
    except Rejection:
        return out + "!"


PIECES = (
    *(CARD, CARD.replace(" ", ""), "4111 1111", "1111", "ann@example.org", "Ann Lee", "Ann", "@", ".org", "eyJa.b.c"),
    *(
        " ",
        " ",
        ", ",
        "\n",
        "the quick brown fox ",
        "\u4e2d\u6587" * 20,
        "x" * 70,
        "<PERSON_1>",
        '"',
        "\\",
        "José",
        "\U0001f600",
        "-1",
    ),
    *("-----BEGIN " + PEM, "-----END " + PEM, "lorem ipsum " * 9),
)
ANSWERS = st.lists(st.sampled_from(PIECES), max_size=24).map("".join)
CUTS = st.lists(st.integers(0, 1500), max_size=16)


@settings(deadline=None)
@given(ANSWERS, CUTS)
def test_cuts_do_not_matter(text, cuts):
    """The same edits in any cut, down to single characters."""
    expected = run(OutputScan(scan, MASKS), TEXT, text, [])

    assert expected == run(OutputScan(scan, MASKS), TEXT, text, cuts)
    assert expected == run(OutputScan(scan, MASKS), TEXT, text, list(range(len(text))))


@settings(deadline=None)
@given(ANSWERS, CUTS)
def test_blocks_come_at_the_same_place(text, cuts):
    """What stands before goes on, however it came."""
    operators = Operators({kind: Block() if kind == "EMAIL_ADDRESS" else Mask() for kind in RULES})
    expected = run(OutputScan(scan, operators), TEXT, text, [])

    assert expected == run(OutputScan(scan, operators), TEXT, text, cuts)
    assert ("!" in expected) == any(one.kind == "EMAIL_ADDRESS" for one in scan(text)) or "eyJ" in text


@settings(deadline=None)
@given(st.lists(st.sampled_from([one for one in PIECES if "-----" not in one]), max_size=24).map("".join), CUTS)
def test_a_stream_is_edited_like_a_whole(text, cuts):
    """Where what is found is shorter than what is looked ahead: each is replaced once."""
    operators = Operators({kind: Replace(f"[{kind}]") for kind in RULES})

    assert OutputScan(scan, operators).whole("text", text) == run(OutputScan(scan, operators), TEXT, text, cuts)


@settings(deadline=None)
@given(
    st.dictionaries(ANSWERS, ANSWERS | st.integers(0, 10**17) | st.lists(ANSWERS, max_size=2), max_size=3),
    st.booleans(),
    CUTS,
)
def test_documents_stay_documents(tree, ascii_only, cuts):
    """Masked in any cut, with the shape that they had; and a stream gives the same in every cut."""
    document = json.dumps(tree, ensure_ascii=ascii_only)
    got = run(OutputScan(scan, MASKS), JSON, document, cuts)
    parsed = json.loads(got, object_pairs_hook=list)

    assert got == run(OutputScan(scan, MASKS), JSON, document, list(range(len(document))))
    assert [type(value) if type(value) is not int else object for value in tree.values()] == [
        type(value) if type(tree[key]) is not int else object for (_, value), key in zip(parsed, tree, strict=True)
    ]
    for _, value in parsed:
        for text in value if isinstance(value, list) else [value]:
            if isinstance(text, str) and not re.search("eyJ|-----|x{70}", text):
                assert RULES["CREDIT_CARD"].search(text) is None


@settings(deadline=None)
@given(ANSWERS)
def test_what_waits_is_bounded(text):
    """A window at most, where nothing long is under way; and most of a text goes on before its end."""
    texts = OutputScan(lambda _: (), MASKS)
    plain = text.replace("-----BEGIN", "").replace("x" * 70, "x ")
    for count, char in enumerate(plain, 1):
        texts.piece(TEXT, char)
        stream = texts._streams[TEXT]
        assert len(stream.text) - stream.start < (WINDOW if count < WINDOWS[-1][0] else WINDOWS[-1][1])
        assert len(stream.text) <= count


def test_text_goes_on_as_it_comes():
    """The first words do not wait for the last."""
    texts = OutputScan(scan, MASKS)
    out = texts.piece(TEXT, "one two three " * 20)

    assert out
    assert ("one two three " * 20).startswith(out)
    assert len(out) > 280 - WINDOW
    assert texts.holding


def test_words_that_never_end():
    """Held up to the largest window, then let go; what was found at the end of one is taken to go on."""
    texts = OutputScan(scan, MASKS)
    word = "ab" * LARGEST_WINDOW
    token = "eyJ" + "h" * LARGEST_WINDOW + ".p." + "s" * 3 * LARGEST_WINDOW

    assert "" == texts.piece(TEXT, word[: LARGEST_WINDOW - 1])
    assert word == word[:0] + texts.piece(TEXT, word[LARGEST_WINDOW - 1 :]) + texts.end(TEXT)
    short = "eyJ" + "h" * 2000 + ".p." + "s" * 3 * LARGEST_WINDOW
    got = run(OutputScan(scan, MASKS), TEXT, f"see {short} end", [])
    assert "see " + "*" * 32 + " end" == got
    assert got == run(OutputScan(scan, MASKS), TEXT, f"see {short} end", list(range(0, len(short), 7)))
    assert len(run(OutputScan(scan, MASKS), TEXT, token, [])) > LARGEST_WINDOW


def test_a_private_key_is_waited_for():
    """From its first line to its last."""
    lines = "\n".join("MIIE" + "A" * 60 for _ in range(40))
    key = f"-----BEGIN {PEM}\n{lines}\n-----END {PEM}"
    text = f"Here you are:\n{key}\nKeep it safe, and do not tell."
    expected = f"Here you are:\n{'*' * 32}\nKeep it safe, and do not tell."

    assert expected == run(OutputScan(scan, MASKS), TEXT, text, list(range(len(text))))
    document = json.dumps({"key": key, "n": 1})
    assert {"key": "*" * 32, "n": 1} == json.loads(run(OutputScan(scan, MASKS), JSON, document, list(range(900))))


def test_placeholders_are_no_findings():
    """Ours are not, and what the caller sent comes back as it was; what only looks like one is looked at."""
    restorer = Restorer({"<PERSON_1>": "Ann Lee", "<EMAIL_ADDRESS_1>": "ann@example.org"})
    texts = OutputScan(scan, MASKS, inner=restorer)
    text = "<PERSON_1> <EMAIL_ADDRESS_1>, Ann, <PERSON_2> b@example.org"

    assert "Ann Lee ann@example.org, ***, <********> *************" == texts.whole("text", text)
    assert "Ann Lee ann@example.org, ***, <********> *************" == run(texts, TEXT, text, list(range(60)))
    alone = OutputScan(scan, MASKS, placeholder={"<PERSON_2>"}.__contains__)
    assert "<********> <PERSON_2>" == alone.whole("text", "<PERSON_1> <PERSON_2>")


@pytest.mark.parametrize(
    ("document", "expected"),
    [
        ({"card": 4111111111111111, "n": 12}, {"card": "*" * 16, "n": 12}),
        ({"a": "x\n" + CARD + '"'}, {"a": "x\n" + "*" * 19 + '"'}),
        ({"a": "caf\u00e9 \U0001f600 b@example.org"}, {"a": "caf\u00e9 \U0001f600 *************"}),
        ({"b@example.org": 1}, {"*************": 1}),
    ],
)
@pytest.mark.parametrize("ascii_only", [True, False])
def test_documents_are_edited_in_place(document, expected, ascii_only):
    """Numbers become strings, escapes stay whole."""
    text = json.dumps(document, ensure_ascii=ascii_only)

    assert expected == json.loads(OutputScan(scan, MASKS).whole("json", text))
    assert expected == json.loads(run(OutputScan(scan, MASKS), JSON, text, list(range(len(text)))))


def test_a_finding_over_several_members():
    """Values are edited, keys and structure are not."""
    document = '{"first": "Ann", "last": "Lee", "n": 7, "rest": "x"}'

    def wide(text: str) -> tuple[Finding, ...]:
        return (Finding("PERSON", text.index("Ann"), text.index("7") + 1, 1.0),)

    got = json.loads(OutputScan(wide, MASKS).whole("json", document))
    assert {"first": "***", "last": "***", "n": "*", "rest": "x"} == got


def test_replacements_are_escaped():
    """Whatever an operator writes."""
    operators = Operators({**{kind: Mask() for kind in RULES}, "PERSON": Replace('"\\')})

    assert {"a": 'hi "\\'} == json.loads(OutputScan(scan, operators).whole("json", '{"a": "hi Ann"}'))


@pytest.mark.parametrize("before", range(0, 140, 3))
def test_a_negative_number(before):
    """Its sign goes with it, wherever the windows end."""
    document = json.dumps({"before": "." * before, "n": -4111111111111111, "after": " " * 100})
    got = run(OutputScan(scan, MASKS), JSON, document, [])

    assert "*" * 17 == json.loads(got)["n"]


@pytest.mark.parametrize("before", range(0, 140, 2))
def test_a_finding_that_begins_within_a_number(before):
    """And ends in another one: both become strings, wherever the windows end."""
    document = json.dumps({"before": "." * before, "n": [-555, 1000, 7], "after": " " * 100})

    def found(text: str) -> tuple[Finding, ...]:
        return tuple(Finding("PERSON", *match.span(), 0.9) for match in re.finditer("555, 1000", text))

    got = run(OutputScan(found, MASKS), JSON, document, [])

    assert ["****", "****", 7] == json.loads(got)["n"]


def test_block_names_kinds_and_no_value():
    """What comes before goes on; then every call ends."""
    operators = Operators({**{kind: Mask() for kind in RULES}, "EMAIL_ADDRESS": Block()})
    texts = OutputScan(scan, operators)
    out = texts.piece(TEXT, "Ann says: ann@example.org " + "is her address, " * 20)

    assert "*** says: " == out
    for call in (lambda: texts.piece(TEXT, "x"), lambda: texts.end(JSON), lambda: texts.whole("text", "x")):
        with pytest.raises(Rejection) as refused:
            call()
        assert (400, ErrorCode.POLICY_CONTENT_BLOCKED) == (refused.value.status, refused.value.code)
        assert "EMAIL_ADDRESS" in refused.value.message
        assert "ann" not in refused.value.message


def test_block_at_once():
    """Where nothing comes before it, and in a whole text."""
    operators = Operators({**{kind: Mask() for kind in RULES}, "EMAIL_ADDRESS": Block()})
    with pytest.raises(Rejection):
        OutputScan(scan, operators).piece(TEXT, "ann@example.org " + "is her address, " * 20)
    with pytest.raises(Rejection):
        OutputScan(scan, operators).whole("text", "Her address: ann@example.org")
    ending = OutputScan(scan, operators)
    assert "" == ending.piece(TEXT, "ann@example.org")
    with pytest.raises(Rejection):
        ending.end(TEXT)


def test_what_is_found_is_told():
    """Once each, with its operator; allowed kinds are told and left."""
    noted: list[tuple[str, str]] = []
    operators = Operators({**{kind: Mask() for kind in RULES}, "PERSON": Allow()})
    texts = OutputScan(scan, operators, noted=lambda kind, operator: noted.append((kind, operator)))
    text = "Ann " + "lorem ipsum " * 30 + "ann@example.org " + CARD + " dolor" * 40
    got = run(texts, TEXT, text, list(range(len(text))))

    assert text.replace("ann@example.org", "*" * 15).replace(CARD, "*" * 19) == got
    assert [("PERSON", "allow"), ("EMAIL_ADDRESS", "mask"), ("CREDIT_CARD", "mask")] == noted


def test_identifiers_pass_to_the_inner_filter():
    """Unseen."""
    texts = OutputScan(scan, MASKS, inner=Restorer({"AGENT_1": "ask_Ann"}))

    assert ("ask_Ann", "Ann") == (texts.piece(NAME, "AGENT_1"), texts.whole("name", "Ann"))


def test_unchanged_texts_are_the_same_object():
    """Of a whole."""
    text = "nothing to see"

    assert OutputScan(scan, MASKS, inner=Restorer({"<PERSON_1>": "Ann"})).whole("text", text) is text


def test_pseudonyms_are_refused():
    """Nobody could turn them back."""
    with pytest.raises(ValueError, match="pseudonym"):
        OutputScan(scan, Operators({"PERSON": Pseudonym()}))


def test_unknown_channels_give_nothing():
    """At their end."""
    assert "" == OutputScan(scan, MASKS).end(TEXT)


@pytest.mark.parametrize(("channel", "least"), [(TEXT, WINDOW), (JSON, DOCUMENT_WINDOW)])
def test_windows_grow_with_the_channel(channel, least):
    """A scan of a stream sees so much and no more: little where somebody reads along, later more, at less cost."""
    seen: list[tuple[int, int]] = []
    passed = 0

    def watch(text: str) -> tuple[Finding, ...]:
        seen.append((passed, len(text)))
        return ()

    texts = OutputScan(watch, MASKS)
    text = "lorem ipsum dolor " * 2000
    for char in text:
        passed += len(texts.piece(channel, char))

    sizes = [(0, least), *((begin, max(size, least)) for begin, size in reversed(WINDOWS))]
    for begin, size in sizes:
        assert {CONTEXT + size} == {length for at, length in seen if begin + CONTEXT < at < begin + 1500}
    assert all(length <= CONTEXT + max(size for begin, size in sizes if at >= begin) for at, length in seen)
    assert sum(length for _, length in seen) < 1.5 * len(text)


@settings(deadline=None, max_examples=40)
@given(ANSWERS, st.integers(1, 2000), CUTS)
def test_a_long_text_is_edited_like_its_stream(text, more, cuts):
    """Whatever is in it, and wherever the stream is cut."""
    text = f"{text} and "
    text *= (LONG + more) // len(text) + 1
    whole = OutputScan(scan, MASKS).whole("text", text)

    assert len(text) > LONG
    assert whole == run(OutputScan(scan, MASKS), TEXT, text, cuts)


@settings(deadline=None)
@given(ANSWERS, CUTS, st.booleans(), st.sampled_from(["text", "json"]))
def test_a_repeated_text_becomes_what_the_stream_became(text, cuts, ended, kind):
    """Before the channel's end and after it; nothing is told twice, and the stream goes on as it would have."""
    channel = Channel((0, "content"), kind)
    noted: list[tuple[str, str]] = []
    expected: list[tuple[str, str]] = []
    want = run(OutputScan(scan, MASKS, noted=lambda *one: expected.append(one)), channel, text, cuts)
    texts = OutputScan(scan, MASKS, noted=lambda *one: noted.append(one))
    bounds = [0, *sorted(cut % (len(text) + 1) for cut in cuts), len(text)]
    got = "".join(texts.piece(channel, text[a:b]) for a, b in pairwise(bounds))
    repeated = "" if ended else texts.whole(kind, text)
    got += texts.end(channel)

    assert want == got
    assert ended or repeated == want
    assert [want] * 3 == [texts.whole(kind, text) for _ in range(3)]
    assert expected == noted


def test_a_channel_goes_on_after_a_text_that_looks_like_its_end():
    """Another choice may say in full what this one has only begun to say."""
    texts = OutputScan(scan, MASKS)
    begin = texts.piece(TEXT, "Ask Ann")

    assert "Ask ***" == texts.whole("text", "Ask Ann")
    assert "Ask Anna, or ***." == begin + texts.piece(TEXT, "a, or Ann.") + texts.end(TEXT)


def test_a_blocked_tail_blocks_what_repeats_it():
    """The complete text comes before the channel's end."""
    operators = Operators({**{kind: Mask() for kind in RULES}, "EMAIL_ADDRESS": Block()})
    texts = OutputScan(scan, operators)

    assert "" == texts.piece(TEXT, "ann@example.org")
    with pytest.raises(Rejection):
        texts.whole("text", "ann@example.org")
    with pytest.raises(Rejection):
        texts.end(TEXT)


def test_each_text_is_looked_at_once():
    """In an answer; as a document and as a text it is not the same."""
    seen: list[str] = []

    def watch(text: str) -> tuple[Finding, ...]:
        seen.append(text)
        return scan(text)

    texts = OutputScan(watch, MASKS)
    document = '{"to": "Ann"}'

    assert [document.replace("Ann", "***")] * 4 == [texts.whole(kind, document) for kind in ("json", "text") * 2]
    assert [document] * 2 == seen


def test_what_is_remembered_is_bounded():
    """The oldest goes; a text larger than all of that is edited too, streamed or whole."""
    texts = OutputScan(scan, MASKS)
    many = [f"Ann {number} " + "lorem ipsum " * 25_000 for number in range(5)]
    for text in many:
        assert texts.whole("text", text) == text.replace("Ann", "***")
    assert [("text", text) for text in many[-3:]] == list(texts._known)
    huge = "lorem Ann " * (REMEMBERED // 10 + 1)
    assert huge.replace("Ann", "***") == texts.piece(TEXT, huge) + texts.end(TEXT) == texts.whole("text", huge)
    assert 3 == len(texts._known)
