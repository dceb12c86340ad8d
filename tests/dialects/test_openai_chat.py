"""OpenAI Chat Completions: requests, answers, stripped streams."""

from __future__ import annotations

import json
from itertools import combinations, pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from extproc.dialects import spans
from extproc.dialects.openai_chat import ChatSseReader, OpenAIChat
from extproc.errors import ErrorCode, Rejection
from extproc.usage import Usage

CHAT = OpenAIChat()
USAGE = {
    "prompt_tokens": 10,
    "completion_tokens": 5,
    "total_tokens": 15,
    "prompt_tokens_details": {"cached_tokens": 4, "cache_write_tokens": 2},
    "completion_tokens_details": {"reasoning_tokens": 3},
}
READ = Usage(input=10, output=5, cached_input=4, cache_creation_input=2, reasoning=3)


def body(**fields: object) -> bytes:
    """A request with `fields`, laid out unlike any compact writer would."""
    return json.dumps({"model": "m", "messages": [], **fields}, indent=2).encode()


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"model": None}, "model"),
        ({"model": 7}, "model"),
        ({"model": ""}, "model"),
        ({"model": "x" * 257}, "model"),
        ({"messages": None}, "messages"),
        ({"messages": "hi"}, "messages"),
        ({"messages": {}}, "messages"),
        ({"stream": "true"}, "stream"),
        ({"stream": 1}, "stream"),
        ({"n": 0}, "n"),
        ({"n": True}, "n"),
        ({"n": 1.5}, "n"),
        ({"max_tokens": "10"}, "max_tokens"),
        ({"max_tokens": -1}, "max_tokens"),
        ({"max_tokens": 2**53 + 1}, "max_tokens"),
        ({"max_completion_tokens": 1e300}, "max_completion_tokens"),
        ({"n": 2**64}, "n"),
        ({"max_completion_tokens": []}, "max_completion_tokens"),
        ({"stream_options": []}, "stream_options"),
        ({"stream_options": {"include_usage": "yes"}}, "stream_options.include_usage"),
    ],
)
def test_wrong_fields(fields: dict[str, object], param: str) -> None:
    """A wrong type in a field that is read is refused, naming the field and never showing the value."""
    with pytest.raises(Rejection) as caught:
        CHAT.read_request(body(**fields))
    refusal = caught.value
    assert (refusal.status, refusal.code, refusal.param) == (400, ErrorCode.CALLER_INVALID_FIELD, param)
    assert f"'{param}'" in refusal.message
    assert "xxx" not in refusal.message


@pytest.mark.parametrize("field", ["model", "messages"])
def test_missing_fields(field: str) -> None:
    """What the vendor demands, and this gateway reads, must be there."""
    tree = json.loads(body())
    del tree[field]
    with pytest.raises(Rejection, match=f"Missing required parameter: '{field}'"):
        CHAT.read_request(json.dumps(tree).encode())


@pytest.mark.parametrize(
    ("fields", "cap", "choices"),
    [
        ({}, None, 1),
        ({"max_tokens": None, "max_completion_tokens": None, "n": None}, None, 1),
        ({"max_tokens": 5, "max_completion_tokens": None}, 5, 1),
        ({"max_tokens": None, "max_completion_tokens": 7}, 7, 1),
        ({"max_tokens": 9, "max_completion_tokens": 7}, 9, 1),
        ({"max_tokens": 0}, 0, 1),
        ({"max_tokens": 2**53}, 2**53, 1),
        ({"n": 3, "best_of": 2}, None, 3),
        ({"n": 2, "best_of": 4}, None, 4),
        ({"best_of": "many"}, None, 1),
    ],
)
def test_the_largest_output_that_the_caller_asks_for(fields: dict[str, object], cap: int | None, choices: int) -> None:
    """Of two caps the larger holds, of two counts too; null is none. What the vendor alone knows is not judged."""
    view = CHAT.read_request(body(**fields))
    assert (view.max_output, view.choices) == (cap, choices)


def test_read() -> None:
    """Model, stream, choices and the newer cap are read; unknown fields pass."""
    view = CHAT.read_request(body(stream=True, n=3, max_tokens=5, max_completion_tokens=7.0, unknown={"x": [1]}))
    assert (view.model, view.stream, view.choices, view.max_output) == ("m", True, 3, 7)
    view = CHAT.read_request(body(stream=None, n=None, max_tokens=5))
    assert (view.model, view.stream, view.choices, view.max_output) == ("m", False, 1, 5)


SPACE = st.text(" \t\r\n", max_size=2)


@given(st.data())
def test_usage_is_asked_for_in_any_layout(data: st.DataObject) -> None:
    """Whatever stands at `stream_options`, the edited body asks for usage and differs in nothing else."""
    options = data.draw(st.sampled_from([None, "null", "{}", "{ }", '{"x":1}', '{"include_usage":false,"x":1}',
                                         '{"a" : 1 , "include_usage" : null }', '{"include_usage":true}']))  # fmt: skip
    members = ['"model":"m"', '"messages":[]', '"stream":true']
    if options is not None:
        members.append(f'"stream_options"{data.draw(SPACE)}:{data.draw(SPACE)}{options}')
    order = data.draw(st.permutations(members))
    text = "{" + ",".join(f"{data.draw(SPACE)}{member}{data.draw(SPACE)}" for member in order) + "}"
    view = CHAT.read_request(text.encode())
    edits = view.usage_edits()
    tree = json.loads(text)
    asked = (tree.get("stream_options") or {}).get("include_usage")
    assert len(edits) == (0 if asked else 1)
    wanted = {**tree, "stream_options": {**(tree.get("stream_options") or {}), "include_usage": True}}
    edited = spans.splice(text.encode(), [view.model_edit('a "b" \\'), *edits])
    assert json.loads(edited) == {**wanted, "model": 'a "b" \\'}
    assert list(json.loads(edited))[: len(tree)] == list(tree)


def test_usage_is_not_asked_for_without_a_stream() -> None:
    """A JSON answer reports usage anyway."""
    assert CHAT.read_request(body()).usage_edits() == ()


def test_json_answer() -> None:
    """Usage, model and finish reasons of a JSON body; its texts on demand; nothing is edited."""
    answer = {
        "model": "m-1",
        "choices": [
            {"finish_reason": "stop", "message": {"content": "a", "refusal": None}},
            {
                "finish_reason": "tool_calls",
                "message": {"tool_calls": [{"function": {"name": "f", "arguments": "{}"}}]},
            },
        ],
        "usage": USAGE,
    }
    data = json.dumps(answer).encode()
    reader = CHAT.reader(stream=False, strip_usage=True)
    assert reader.feed(data[:40], end=False) == data[:40]
    assert not reader.finished
    assert reader.feed(data[40:], end=True) == data[40:]
    assert (reader.finished, reader.usage, reader.model) == (True, READ, "m-1")
    assert reader.finish_reasons == ("stop", "tool_calls")
    assert reader.output_texts() == ["a", "f", "{}"]
    assert reader.abort(Rejection(504, ErrorCode.PROVIDER_TIMEOUT, "late")) == b""


@pytest.mark.parametrize("data", [b"", b"<html>", b'{"usage":', b"[]", b"\xff", b'{"usage":[],"choices":7}'])
def test_odd_answers(data: bytes) -> None:
    """Whatever a vendor answers, the reader neither fails nor invents usage."""
    reader = CHAT.reader(stream=False)
    reader.feed(data, end=True)
    assert reader.usage is None
    assert reader.output_texts() == []


def test_error_answer() -> None:
    """An error body is known by the vendor's own type."""
    reader = CHAT.reader(stream=False)
    reader.feed(b'{"error":{"message":"x","type":"insufficient_quota"}}', end=True)
    assert (reader.error, reader.usage, reader.finished) == ("insufficient_quota", None, True)


@pytest.mark.parametrize(
    ("raw", "usage"),
    [
        ({"prompt_tokens": 1, "completion_tokens": 2, "cached_tokens": 1}, Usage(input=1, output=2, cached_input=1)),
        (
            {"prompt_tokens": 3, "completion_tokens": 2, "prompt_cache_hit_tokens": 1, "prompt_cache_miss_tokens": 2},
            Usage(input=3, output=2, cached_input=1),
        ),
        (
            {
                "prompt_tokens": 3,
                "completion_tokens": 2,
                "total_tokens": 12,
                "completion_tokens_details": {"reasoning_tokens": 7},
            },
            Usage(input=3, output=9, reasoning=7),
        ),
        ({"whatever": 1}, None),
        ({"prompt_tokens": "3", "completion_tokens": True}, None),
    ],
)
def test_usage_of_alike_vendors(raw: dict[str, object], usage: Usage | None) -> None:
    """Moonshot, DeepSeek and xAI put counts elsewhere; foreign objects count for nothing."""
    reader = CHAT.reader(stream=False)
    reader.feed(json.dumps({"usage": raw}).encode(), end=True)
    assert reader.usage == usage


def chunk(spacing: tuple[str, str] = (",", ":"), **fields: object) -> str:
    """One streamed chunk."""
    return "data: " + json.dumps({"id": "c", "model": "m-1", **fields}, separators=spacing) + "\n\n"


def choice(text: str, reason: str | None = None) -> list[dict[str, object]]:
    """The choices of a chunk."""
    return [{"index": 0, "delta": {"content": text}, "finish_reason": reason}]


def stream(*, asked: bool, spacing: tuple[str, str] = (",", ":")) -> bytes:
    """What a vendor sends with and without usage asked for, obfuscation behind it or not."""
    null: dict[str, object] = {"usage": None} if asked else {}
    events = [
        ": hello\n\n",
        chunk(spacing, choices=choice('say "usage":null, é'), **null),
        chunk(spacing, choices=choice("b"), **null, obfuscation="xx"),
        chunk(spacing, **null, choices=choice("", "stop")),
        chunk(spacing, choices=[], usage=USAGE) if asked else "",
        "data: [DONE]\n\n",
    ]
    return "".join(events).encode()


@pytest.mark.parametrize("spacing", [(",", ":"), (", ", ": "), (" , ", " : ")])
@pytest.mark.parametrize("line_end", [b"\n", b"\r\n", b"\r"])
def test_stripped_stream_is_what_the_caller_would_have_had(spacing: tuple[str, str], line_end: bytes) -> None:
    """With usage asked for by us, the caller's bytes equal those of a stream without it, wherever it is cut once or twice."""
    sent = stream(asked=True, spacing=spacing).replace(b"\n", line_end)
    wanted = stream(asked=False, spacing=spacing).replace(b"\n", line_end)
    single = [[i] for i in range(len(sent) + 1)]
    for cuts in [[], *single, *list(combinations(range(0, len(sent), 29), 2)), list(range(len(sent)))]:
        places = [0, *cuts, len(sent)]
        reader = CHAT.reader(stream=True, strip_usage=True)
        out = [reader.feed(sent[a:b], end=False) for a, b in pairwise(places)]
        assert b"".join(out) + reader.feed(b"", end=True) == wanted
        assert (reader.usage, reader.finished, reader.finish_reasons) == (READ, True, ("stop",))
        assert (reader.events, reader.model) == (3, "m-1")


def test_only_an_open_event_is_held_back() -> None:
    """Each byte that completes an event lets all of it go."""
    sent = stream(asked=False)
    reader = CHAT.reader(stream=True, strip_usage=True)
    gone = b""
    for i in range(len(sent)):
        gone += reader.feed(sent[i : i + 1], end=False)
        whole = sent[: i + 1].rfind(b"\n\n")
        assert gone == sent[: whole + 2 if whole >= 0 else 0]


def test_usage_beside_choices_is_stripped_too() -> None:
    """Vendors that report usage on the last content chunk would not have without being asked: same rule."""
    sent = chunk(choices=choice("x", "stop"), usage=USAGE).encode()
    reader = CHAT.reader(stream=True, strip_usage=True)
    assert reader.feed(sent, end=False) == chunk(choices=choice("x", "stop")).encode()
    assert reader.usage == READ


def test_usage_first_alone_and_over_two_lines() -> None:
    """The member is taken out wherever it stands, with the one comma that is its own."""
    for before, after in [
        (b'data: {"usage":null,"choices":[1]}\n\n', b'data: {"choices":[1]}\n\n'),
        (b'data: { "usage" : null }\n\n', b"data: {  }\n\n"),
        (b'data: {"choices":[{"usage":null}],"usage":null}\n\n', b'data: {"choices":[{"usage":null}]}\n\n'),
        (b'data: {"choices":[1]\ndata: ,"usage":null}\n\n', b'data: {"choices":[1]\ndata: }\n\n'),
        (b'data: {"choices":[1]\ndata: , "usage": null}\n\n', b'data: {"choices":[1]}\n\n'),
    ]:
        assert CHAT.reader(stream=True, strip_usage=True).feed(before, end=True) == after


def test_a_plain_stream_passes_as_the_same_object() -> None:
    """A reader that edits nothing hands on the object that it was given."""
    sent = stream(asked=True)
    reader = CHAT.reader(stream=True)
    assert reader.feed(sent, end=False) is sent
    assert reader.usage == READ
    assert reader.output_texts() == ['say "usage":null, é', "b"]


def test_error_in_a_stream_and_junk() -> None:
    """An error chunk is noticed; events that are no JSON are passed over."""
    reader = CHAT.reader(stream=True)
    reader.feed(b'data: nonsense\n\ndata: 7\n\ndata: {"error":{"type":"server_error"}}\n\n', end=True)
    assert (reader.error, reader.finished, reader.usage) == ("server_error", False, None)


def test_kept_texts_are_bounded() -> None:
    """Beyond the cap only the bytes are counted, and what was kept can still be read."""
    first, second = chunk(choices=choice("a")).encode(), chunk(choices=choice("b")).encode()
    reader = ChatSseReader(kept=len(first))
    for piece in (first, second, first):
        reader.feed(piece, end=False)
    assert reader.output_texts() == ["a"]
    assert reader.unkept == len(first) + len(second)
    assert reader.events == 3


def test_abort() -> None:
    """An aborted stream ends with an error that parses and the terminator; a half-sent event is closed before it."""
    refusal = Rejection(504, ErrorCode.PROVIDER_TIMEOUT, 'too "late"')
    half = chunk(choices=choice("a")).encode() + b'data: {"id'
    plain = CHAT.reader(stream=True)
    plain.feed(half, end=False)
    strip = CHAT.reader(stream=True, strip_usage=True)
    assert strip.feed(half, end=False).endswith(b"\n\n")
    end = strip.abort(refusal)
    assert plain.abort(refusal) == b"\n\n" + end
    error, done = end.decode().split("\n\n")[:2]
    assert json.loads(error.removeprefix("data: "))["error"]["message"] == 'too "late"'
    assert done == "data: [DONE]"
