"""Byte positions in JSON and edits by position."""

from __future__ import annotations

import contextlib
import json

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from extproc.dialects import spans
from extproc.dialects.dialect import KEY, Edit, Path
from extproc.errors import ErrorCode, Rejection

SPACES = (b" ", b"\t", b"\r", b"\n")
SPACE = st.text(" \t\r\n", max_size=3)
# Keys and texts that look like structure: quotes, colons, backslashes
TRICKY = st.text('a":\\, {}[]\n\u00e9\u2028\U0001f600', max_size=6) | st.sampled_from(
    ["model", ":", '":', '\\":', "a\\", 'x" :', "\\"]
)
SCALAR = (
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats(allow_nan=False, allow_infinity=False) | TRICKY
)


@st.composite
def json_text(draw: st.DrawFn, depth: int = 3) -> str:
    """JSON source text of any spelling: whitespace, escapes, and now and then a key twice."""
    kind = draw(st.integers(0, 4 if depth else 2))
    before, after = draw(SPACE), draw(SPACE)
    if kind <= 2:
        text = json.dumps(draw(SCALAR), ensure_ascii=draw(st.booleans()))
    elif kind == 3:
        text = "[" + ",".join(draw(st.lists(json_text(depth - 1), max_size=3))) + "]"
        text = "[ ]" if text == "[]" and draw(st.booleans()) else text
    else:
        text = draw(object_text(depth))
    return f"{before}{text}{after}"


@st.composite
def object_text(draw: st.DrawFn, depth: int = 3) -> str:
    """Source text of an object; keys may repeat, also spelled differently."""
    members = []
    for key in draw(st.lists(TRICKY, max_size=4)):
        name = json.dumps(key, ensure_ascii=draw(st.booleans()))
        if key.startswith("m") and draw(st.booleans()):
            name = '"\\u006d' + name[2:]
        members.append(f"{draw(SPACE)}{name}{draw(SPACE)}:{draw(json_text(depth - 1))}")
    return "{" + ",".join(members) + (draw(SPACE) if not members else "") + "}"


def _has_duplicates(text: str) -> bool:
    found = []

    def pairs(items: list[tuple[str, object]]) -> None:
        found.append(len(dict(items)) != len(items))

    json.loads(text, object_pairs_hook=pairs)
    return any(found)


@given(object_text())
def test_duplicates_equal_the_oracle(text: str) -> None:
    """A body is refused for duplicate keys exactly where a parser that shows every pair finds some."""
    body = text.encode()
    if _has_duplicates(text):
        with pytest.raises(Rejection) as caught:
            spans.read_object(body)
        assert caught.value.code is ErrorCode.CALLER_AMBIGUOUS_BODY
    else:
        assert spans.read_object(body) == orjson.loads(body)


@pytest.mark.parametrize(
    "body",
    [
        b'{"a":1,"a":2}',
        b'{"model":"x","mod\\u0065l":"y"}',
        b'{"a":{"b":[{"c":1,"c":1}]}}',
        b'{"a":1,"a":":"}',
        b'{"a\\\\":1,"a\\\\":2}',
        b'{"a":1,"b":"\\u003a","a":2}',
        b'{ "a" : 1 , "a" : 2 }',
        b'{"t":"\\":","a":1,"a":2}',
    ],
)
def test_duplicate_keys_are_refused(body: bytes) -> None:
    """Duplicates are found at any depth, in any spelling, and among texts that imitate keys."""
    with pytest.raises(Rejection) as caught:
        spans.read_object(body)
    assert (caught.value.status, caught.value.code) == (400, ErrorCode.CALLER_AMBIGUOUS_BODY)


@pytest.mark.parametrize(
    "body",
    [
        b"", b" ", b"{", b'{"a":1}x', b'{"a":1}{}', b'{"a":NaN}', b'{"a":Infinity}', b'{"a":"\xff"}', b'{"a":"\xed\xa0\x80"}',
        b'{"a":"\\ud800"}', b'{"a":"\n"}', b'{"a":"\x00"}', b"[]", b'"x"', b"null", b"1", b'\xef\xbb\xbf{"a":1}', b"{'a':1}",
        b'{"a":1,}', b'{"a":01}', b'{"a":.5}', b'{"a":+1}', b"{a:1}", b'{"a":1 // c\n}', b'{"a":tru}', b'{"a":"\\x"}',
        b'{"a":' + b"[" * 5000 + b"]" * 5000 + b"}", '{"a":1}'.encode("utf-16"),
    ],
)  # fmt: skip
def test_malformed_bodies_are_refused(body: bytes) -> None:
    """What is no strict JSON object is refused with 400, never half-read."""
    with pytest.raises(Rejection) as caught:
        spans.read_object(body)
    assert (caught.value.status, caught.value.code) == (400, ErrorCode.CALLER_MALFORMED_BODY)


def test_deep_but_valid_nesting_never_crashes() -> None:
    """Depths up to the parser's limit are either read or refused, whichever parser gives up first."""
    for depth in range(200, 1100, 50):
        body = b'{"a":' * depth + b'{ "b" : 1 }' + b"}" * depth
        place = None
        with contextlib.suppress(Rejection):
            spans.read_object(body)
            place = spans.members(body)["a"]
        assert place is None or place.end == len(body) - 1
        assert place is not None or depth > 250


def _check_places(places: spans.Places, body: bytes, value: object, path: Path) -> None:
    start, end = places.place(path)
    assert orjson.loads(body[start:end]) == value
    assert not body[start:end].startswith(SPACES)
    assert not body[start:end].endswith(SPACES)
    if isinstance(value, dict):
        for key, child in value.items():
            start, end = places.place((*path, key, KEY))
            assert orjson.loads(body[start:end]) == key
            _check_places(places, body, child, (*path, key))
    elif isinstance(value, list):
        for index, child in enumerate(value):
            _check_places(places, body, child, (*path, index))


@given(object_text())
def test_every_place_holds_its_value(text: str) -> None:
    """The place of each member, name of a member and element is exactly its JSON source, at every depth."""
    body = text.encode()
    if not _has_duplicates(text):
        _check_places(spans.Places(body), body, orjson.loads(body), ())


def test_a_container_is_measured_once() -> None:
    """Many places in one array cost one pass over it; what is not asked for is never measured."""
    body = b'{"a":[["x","y"],["z"]],"b":{"c":1}}'
    places = spans.Places(body)
    calls = []

    def counted(*given: object) -> list[tuple[int, int]]:
        calls.append(given[1:])
        return real(*given)

    real, spans.elements = spans.elements, counted
    try:
        found = [places.place(("a", 0, 0)), places.place(("a", 0, 1)), places.place(("a", 1, 0))]
    finally:
        spans.elements = real
    assert [body[start:end] for start, end in found] == [b'"x"', b'"y"', b'"z"']
    assert calls == [(5, 22), (6, 15), (16, 21)]


@pytest.mark.parametrize("path", [("x",), ("a", 9), ("a", 0, 0, 0), ("x", KEY)])
def test_a_path_to_nothing_is_a_bug(path: Path) -> None:
    """What is nowhere has no place."""
    with pytest.raises((KeyError, IndexError, Rejection)):
        spans.Places(b'{"a":[["x"]]}').place(path)


@given(st.text(st.characters(), max_size=20))
def test_literals(text: str) -> None:
    """A literal reads back as the text, lone surrogates too, and nothing is escaped that need not be."""
    made = spans.literal(text)
    assert json.loads(made) == text
    plain = text.translate({34: None, 92: None, **dict.fromkeys(range(32))})
    assert spans.literal(plain) == f'"{plain}"'.encode("utf-8", "backslashreplace")
    assert spans.literal("\ud83d") == b'"\\ud83d"'


@given(object_text(), st.data())
def test_edits_change_only_their_spans(text: str, data: st.DataObject) -> None:
    """Replacing one member's value gives the same source but for that value; no edit gives the very same object."""
    body = text.encode()
    if _has_duplicates(text):
        return
    assert spans.splice(body, []) is body
    found = spans.members(body)
    if not found:
        return
    name = data.draw(st.sampled_from(sorted(found)))
    place = found[name]
    edited = spans.splice(body, [Edit(place.start, place.end, b'"new"')])
    assert edited == body[: place.start] + b'"new"' + body[place.end :]
    assert orjson.loads(edited) == {**orjson.loads(body), name: "new"}


@given(object_text(), st.data())
def test_inserting_and_removing_members_stay_valid(text: str, data: st.DataObject) -> None:
    """A member can be added to and taken out of any object, empty or spaced, and the rest stays as it was."""
    body = text.encode()
    tree = orjson.loads(body) if not _has_duplicates(text) else None
    if tree is None or "new" in tree:
        return
    bigger = spans.splice(body, [spans.insert_member(body, 0, spans.members(body), b'"new":1')])
    assert orjson.loads(bigger) == {**tree, "new": 1}
    assert spans.splice(bigger, [spans.remove_member(spans.members(bigger), "new")]) == body
    name = data.draw(st.sampled_from([*tree, "new"]))
    smaller = spans.splice(bigger, [spans.remove_member(spans.members(bigger), name)])
    assert orjson.loads(smaller) == {key: value for key, value in {**tree, "new": 1}.items() if key != name}


@pytest.mark.parametrize("edits", [[(0, 2), (1, 3)], [(2, 1)], [(-1, 0)], [(0, 99)]])
def test_wrong_edits_are_a_bug(edits: list[tuple[int, int]]) -> None:
    """Overlapping edits and edits outside the body raise instead of damaging it."""
    with pytest.raises(ValueError, match="overlaps"):
        spans.splice(b"abcdef", [Edit(start, end, b"") for start, end in edits])


def test_inserts_at_one_place_keep_their_order() -> None:
    """Two inserts at the same offset come out in the order in which they were proposed."""
    assert spans.splice(b"ad", [Edit(1, 1, b"b"), Edit(1, 1, b"c"), Edit(0, 0, b"-")]) == b"-abcd"
