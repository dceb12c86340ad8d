"""Bytes: what nobody edits is identical, what is edited differs in the edited spans only, however it was cut."""

from __future__ import annotations

import json

import orjson
from hypothesis import given
from hypothesis import strategies as st

from extproc.exchange.actions import BodyMode, ContinueBody, StreamBody
from extproc.exchange.setup import Modes
from gateway import play
from talk import CHAT_ANSWER, call, chat_chunks, forwarded, sent_on

DUPLEX = Modes(BodyMode.FULL_DUPLEX_STREAMED, BodyMode.FULL_DUPLEX_STREAMED)
text = st.text(st.characters(codec="utf-8"), max_size=12)
scalars = (
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False, allow_infinity=False) | text
)
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(text, inner, max_size=3), max_leaves=8
)
READ = (
    "model",
    "messages",
    "stream",
    "stream_options",
    "n",
    "max_tokens",
    "max_completion_tokens",
    "tools",
    "functions",
)
extras = st.dictionaries(text.filter(lambda key: key not in READ), values, max_size=4)
cuts = st.lists(st.integers(1, 50), min_size=1, max_size=8)
spacing = st.sampled_from([(",", ":"), (", ", ": "), (" ,\n", "\t:")])


def dump(body: dict, spaces: tuple[str, str], *, ascii_only: bool) -> bytes:
    """The same JSON in another spelling."""
    return json.dumps(body, separators=spaces, ensure_ascii=ascii_only).encode()


def cut(data: bytes, sizes: list[int]) -> list[bytes]:
    found, position, turn = [], 0, 0
    while position < len(data):
        found.append(data[position : position + sizes[turn % len(sizes)]])
        position, turn = position + len(found[-1]), turn + 1
    return found or [b""]


@given(extras, text, spacing, st.booleans())
def test_an_untouched_body_is_not_even_sent_back(extra, word, spaces, ascii_only):
    """Design invariant 1: the reply says "unchanged", whatever the spelling."""
    body = {**extra, "model": "gpt-4o-mini", "messages": [{"role": "user", "content": word}]}

    assert forwarded(call(play(), dump(body, spaces, ascii_only=ascii_only))).body is None


@given(extras, text, spacing, st.booleans(), cuts)
def test_an_untouched_body_in_pieces_is_the_same_bytes(extra, word, spaces, ascii_only, sizes):
    """Design invariants 1 and 2: full duplex hands on what came."""
    body = dump(
        {"messages": [{"role": "user", "content": word}], "model": "gpt-4o", **extra}, spaces, ascii_only=ascii_only
    )
    talk = play(DUPLEX)
    talk.request()
    *pieces, last = cut(body, sizes)
    assert all(talk.body(piece, end=False) == () for piece in pieces)

    assert body == forwarded(talk.body(last)).body


def test_a_whole_body_in_one_piece_is_the_very_object():
    """No copy is made of what is not edited."""
    body = b'{"model":"gpt-4o","messages":[]}'
    talk = play(DUPLEX)
    talk.request()
    tail = talk.body(body)[1]

    assert isinstance(tail, StreamBody)
    assert tail.data is body


@given(extras, extras, spacing, st.booleans())
def test_an_alias_and_the_question_for_usage_are_the_only_edits(before, after, spaces, ascii_only):
    """Design invariant 1: undo both edits in the text and the original is there again."""
    body = {**before, "model": "fast", "messages": [], "stream": True}
    body |= {key: value for key, value in after.items() if key not in body}
    original = dump(body, spaces, ascii_only=ascii_only)
    out = forwarded(call(play(), original)).body
    ask = b',"stream_options":{"include_usage":true}'

    assert 1 == out.count(ask)
    assert out.replace(ask, b"").count(b'"gpt-4o-mini"') == original.count(b'"gpt-4o-mini"') + 1
    assert {**body, "model": "gpt-4o-mini", "stream_options": {"include_usage": True}} == orjson.loads(out)
    assert list(orjson.loads(out)) == [*body, "stream_options"]
    head, _, tail = original.partition(b'"model"' + spaces[1].encode() + b'"fast"')
    assert out.startswith(head)
    assert out.replace(ask, b"").endswith(tail)


@given(values, cuts)
def test_a_json_answer_goes_on_as_it_came_in_any_cut(extra, sizes):
    """Design invariant 2, response side: the same bytes, the same usage."""
    body = orjson.dumps({**orjson.loads(CHAT_ANSWER), "extra": extra})
    talk = play()
    call(talk)
    talk.response()
    pieces = cut(body, sizes)
    out = [sent_on(talk.answer(piece, end=at == len(pieces) - 1), piece) for at, piece in enumerate(pieces)]

    assert body == b"".join(out)
    record = talk.finish()
    assert (9, 2, "reported", len(body)) == (
        record.usage.input, record.usage.output, record.usage_source, record.bytes_out,
    )  # fmt: skip


@given(st.binary(max_size=300), cuts, st.sampled_from(["application/json", "text/event-stream", "text/html", ""]))
def test_any_bytes_of_a_provider_go_on_as_they_came(data, sizes, media):
    """Answers are observed, not judged: what cannot be read is passed, and the call still is not free."""
    talk = play()
    call(talk)
    talk.response(content_type=media)
    pieces = cut(data, sizes)
    out = [sent_on(talk.answer(piece, end=at == len(pieces) - 1), piece) for at, piece in enumerate(pieces)]

    assert data == b"".join(out)
    record = talk.finish()
    assert record.usage_source in ("estimated", "reported")


@given(st.lists(st.binary(max_size=60), max_size=6), cuts)
def test_a_strange_stream_loses_nothing_but_usage(noise, sizes):
    """Events that are no chunks pass the stripping reader as they are."""
    asked, plain = chat_chunks(["a"], {"prompt_tokens": 1, "completion_tokens": 1})
    clean = b"".join(b": " + one.replace(b"\n", b"").replace(b"\r", b"") + b"\n\n" for one in noise)
    talk = play()
    call(talk, b'{"model":"gpt-4o","messages":[],"stream":true}')
    talk.response(content_type="text/event-stream")
    pieces = cut(clean + asked, sizes)
    replies = [talk.answer(piece, end=at == len(pieces) - 1) for at, piece in enumerate(pieces)]
    assert all(isinstance(reply[0], ContinueBody) for reply in replies)
    out = [sent_on(reply, piece) for reply, piece in zip(replies, pieces, strict=True)]

    assert clean + plain == b"".join(out)
    assert 1 == talk.finish().usage.output
