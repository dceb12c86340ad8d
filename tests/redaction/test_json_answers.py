"""Answers in JSON: what is put back is spelled as JSON spells it."""

from __future__ import annotations

import json

from hypothesis import given
from hypothesis import strategies as st

from extproc.redaction.json_answers import JsonAnswers
from extproc.redaction.restore import Restorer
from extproc.text import Channel

VALUE = 'Zo\\ "Q"\nO\'Neil 😀'
CONTENT = Channel((0, "content"), "text")


def answers() -> JsonAnswers:
    return JsonAnswers(Restorer({"<PERSON_1>": VALUE}))


@given(st.lists(st.integers(1, 5), max_size=40))
def test_a_streamed_document_stays_one(sizes: list[int]) -> None:
    """However it is cut, white space before it included."""
    document = "\n " + json.dumps({"who": "<PERSON_1>", "list": ["a <PERSON_1>", 1]})
    texts, out, at = answers(), "", 0
    for size in [*sizes, len(document)]:
        out += texts.piece(CONTENT, document[at : at + size])
        at += size
    out += texts.end(CONTENT)

    assert {"who": VALUE, "list": [f"a {VALUE}", 1]} == json.loads(out)


def test_prose_stays_prose() -> None:
    """A refusal, a thought: values go in as they are."""
    texts = answers()
    told = texts.piece(CONTENT, "I know <PERSON_1> {") + texts.end(CONTENT)

    assert f"I know {VALUE} {{" == told
    assert VALUE == answers().whole("text", "<PERSON_1>")
    assert f"{{not json {VALUE}" == answers().whole("text", "{not json <PERSON_1>")


def test_a_whole_document() -> None:
    """JSON answers come in one piece."""
    assert {"a": VALUE} == json.loads(answers().whole("text", '{"a": "<PERSON_1>"}'))
    same = '{"a": 1}'
    assert same is answers().whole("text", same)


def test_it_says_what_has_to_be_seen() -> None:
    """The beginning of a document beside what the restorer wants."""
    texts = answers()
    assert set(b"<\\{[") == set(texts.trigger)
    assert not texts.holding
    texts.piece(CONTENT, '{"a": "<PERS')
    assert texts.holding
