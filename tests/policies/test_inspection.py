"""The texts of a request, as units to scan."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from extproc.dialects.openai_chat import ChatRequest
from extproc.dialects.spans import splice
from extproc.errors import Rejection
from extproc.exchange.facts import Redaction
from extproc.policies.inspection import Inspection, blocked
from extproc.redaction.operators import Operators, Pseudonym
from extproc.redaction.pseudonyms import LITERAL, Pseudonyms
from extproc.redaction.restore import Restorer
from redacting import Words, profile

OPERATORS = Operators(dict.fromkeys(("PERSON", "EMAIL_ADDRESS", "US_SSN", "API_KEY", LITERAL), Pseudonym()))
words = st.lists(
    st.sampled_from(["Ann Bo", "ann@x.io", "李雷", "<PERSON_1>", "<", "\\", '"', " ", "é", "😀", "\n"]), max_size=6
).map("".join)
values = st.recursive(
    words | st.integers() | st.none(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(words, inner, max_size=3),
    max_leaves=6,
)


def inspect(body: bytes):
    import msgspec

    given_profile = msgspec.structs.replace(profile("p"), operators=OPERATORS)
    inspection = Inspection(ChatRequest(body), given_profile)
    scanner = Words("x")
    found = tuple(tuple(scanner.scan(text) for text in texts) for texts in (inspection.prose, inspection.formed))
    pseudonyms = Pseudonyms()
    return splice(body, inspection.edits(found, pseudonyms, Redaction("p", shadow=False))), pseudonyms


@given(
    contents=st.lists(words, min_size=1, max_size=4), arguments=values.filter(lambda one: isinstance(one, dict | list))
)
def test_restoring_gives_back_every_text(contents, arguments):
    """Text positions and documents in strings; nothing that was found is left in what goes out."""
    call = {"id": "c", "type": "function", "function": {"name": "send", "arguments": json.dumps(arguments)}}
    messages = [{"role": "user", "content": one} for one in contents] + [{"role": "assistant", "tool_calls": [call]}]
    edited, pseudonyms = inspect(json.dumps({"model": "m", "messages": messages}).encode())
    sent = json.loads(edited)["messages"]
    restorer = Restorer(pseudonyms.table())

    assert contents == [restorer.whole("text", one["content"]) for one in sent[:-1]]
    document = sent[-1]["tool_calls"][0]["function"]["arguments"]
    assert arguments == json.loads(restorer.whole("json", document))
    assert not any(Words("x").scan(one["content"]) for one in sent[:-1])


def test_a_refusal_lists_kinds_and_the_place():
    """Ten kinds at most."""
    rejection = blocked(tuple(f"KIND_{letter}" for letter in "ABCDEFGHIJKLMN"), "messages[0].content")

    assert rejection.message.startswith("messages[0].content: ")
    assert "KIND_J" in rejection.message
    assert "KIND_K" not in rejection.message
    assert "messages[0].content" == rejection.param


def test_attachments_are_judged_before_anything_is_scanned():
    """A file that may not go ends it."""
    import msgspec

    from extproc.policies.profiles import Attachments

    body = json.dumps(
        {
            "model": "m",
            "messages": [
                {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:text/html,x"}}]}
            ],
        }
    ).encode()
    tight = msgspec.structs.replace(profile("p"), attachments=Attachments(("image/*",), 10, links=True))

    with pytest.raises(Rejection, match=r"messages\[0\]"):
        Inspection(ChatRequest(body), tight)
