"""Editing JSON answers: what all formats share."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dialects.filters import Same, Swap, run, swap
from extproc.dialects import registry
from extproc.dialects.dialect import ReadLimits
from extproc.dialects.editing import JsonEditor, PassEditor
from extproc.errors import ErrorCode, Rejection

CHAT = {
    "id": "<P_1>",
    "model": "<P_1>",
    "system_fingerprint": "<P_1>",
    "choices": [
        {
            "index": 0,
            "finish_reason": "stop",
            "message": {
                "role": "assistant",
                "content": "Dear <P_1> <P_9>",
                "refusal": "<P_2>",
                "reasoning_content": "<P_2>",
                "annotations": [{"type": "url_citation", "url_citation": {"url": "https://x/<P_2>", "title": "<P_1>"}}],
                "tool_calls": [
                    {"id": "<P_1>", "type": "function", "function": {"name": "P_1", "arguments": '{"<P_9>": "<P_1>"}'}},
                    {"id": "d", "type": "custom", "custom": {"name": "P_2", "input": "run <P_1>"}},
                ],
                "audio": {"id": "<P_1>", "data": "<P_1>", "transcript": "says <P_2>"},
            },
            "logprobs": {"content": [{"token": "<"}]},
        },
        {"index": 1, "message": {"content": [{"type": "text", "text": "<P_2>"}]}},
    ],
    "usage": {"prompt_tokens": 1},
    "citations": ["<P_2>"],
}


def wanted() -> dict:
    """The answer with each text swapped, and nothing else."""
    tree = json.loads(json.dumps(CHAT))
    message = tree["choices"][0]["message"]
    value = swap("text", "<P_1>")
    message.update(content=f"Dear {value} <P_9>", refusal="q@example.org", reasoning_content="q@example.org")
    message["annotations"][0]["url_citation"] = {"url": "https://x/q@example.org", "title": value}
    message["tool_calls"][0]["function"] = {"name": "zoe", "arguments": json.dumps({"<P_9>": value})}
    message["tool_calls"][1]["custom"] = {"name": "q", "input": "run " + value}
    message["audio"]["transcript"] = "says q@example.org"
    tree["choices"][1]["message"]["content"][0]["text"] = "q@example.org"
    tree["citations"] = ["q@example.org"]
    return tree


@pytest.mark.parametrize("layout", [{"indent": 1}, {"separators": (",", ":")}, {"ensure_ascii": True}])
def test_chat_body(layout: dict) -> None:
    """Every text of every choice is edited in place, however the body is cut; ids, sound and constants are not."""
    body = json.dumps(CHAT, **layout).replace("P_9", "P_9é").replace("https:", "https:\\u002f").encode()
    for cuts in ([], [20], range(1, len(body))):
        assert run(registry.DIALECTS["openai_chat"].editor(stream=False, texts=Same()), body, cuts) == body
        out = run(registry.DIALECTS["openai_chat"].editor(stream=False, texts=Swap()), body, cuts)
        assert (
            json.loads(
                out.replace("P_9é".encode(), b"P_9")
                .replace(b"https:\\u002f", b"https:")
                .replace(b"https:///", b"https://")
            )
            == wanted()
        )


def test_nothing_goes_before_the_end() -> None:
    """A JSON body is held until it is complete; an empty one stays empty."""
    editor = JsonEditor(Swap())
    assert editor.feed(b'{"a":', end=False) == b""
    assert editor.feed(b'"<P_2>"}', end=False) == b""
    assert editor.feed(b"", end=True) == b'{"a":"q@example.org"}'
    assert JsonEditor(Swap()).feed(b"", end=True) == b""


@pytest.mark.parametrize(
    ("body", "wanted"),
    [
        (b"<html><P_2>\xff</html>", b"<html>q@example.org\xff</html>"),
        (b'{"a":"<P_2>"', b'{"a":"q@example.org"'),
        (b'["<P_2>"]', b'["q@example.org"]'),
        (b'"<P_2>"', b'"q@example.org"'),
        (b' {"a":"\\u003cP_2> \\u00e9"} ', ' {"a":"q@example.org é"} '.encode()),
        (b'{"a":"\\ud83d","b":"<P_2>"}', b'{"a":"\\ud83d","b":"q@example.org"}'),
        (b'{"a":"\\ud83d <P_2>"}', b'{"a":"\\ud83d q@example.org"}'),
        (b"[" * 3000 + b"<P_2>", b"[" * 3000 + b"q@example.org"),
    ],
)
def test_odd_bodies(body: bytes, wanted: bytes) -> None:
    """A body that is no JSON is one plain text; any JSON value is walked; escapes and halves of a pair are understood."""
    assert run(JsonEditor(Same()), body) == body
    assert run(JsonEditor(Swap()), body) == wanted


def test_an_ambiguous_place_is_refused() -> None:
    """Where the text to be edited has a twin of the same name, neither is guessed; untouched, such a body passes."""
    body = b'{"a":"<P_1>","a":"<P_2>"}'
    assert run(JsonEditor(Same()), body) == body
    with pytest.raises(Rejection) as caught:
        run(JsonEditor(Swap()), body)
    assert (caught.value.status, caught.value.code) == (502, ErrorCode.PROVIDER_BAD_RESPONSE)


def test_too_large_and_too_deep() -> None:
    """A body over the limit is refused when it grows over it; one that cannot be walked is refused too."""
    editor = JsonEditor(Same(), ReadLimits(body=10))
    editor.feed(b"1234567890", end=False)
    with pytest.raises(Rejection) as caught:
        editor.feed(b"1", end=False)
    assert caught.value.code is ErrorCode.PROVIDER_RESPONSE_TOO_LARGE
    with pytest.raises(Rejection) as caught:
        run(JsonEditor(Same()), b"[" * 1000 + b'"x"' + b"]" * 1000)
    assert caught.value.code is ErrorCode.PROVIDER_BAD_RESPONSE


@pytest.mark.parametrize("name", ["openai_embeddings", "openai_models", "anthropic_count_tokens", "anthropic_models"])
def test_answers_without_texts(name: str) -> None:
    """Vectors, counts and lists of models go on as the very same object."""
    editor = registry.DIALECTS[name].editor(stream=False, texts=Swap())
    data = b'{"data":[{"embedding":"<P_2>"}]}'
    assert isinstance(editor, PassEditor)
    assert editor.feed(data, end=True) is data


VALUES = st.recursive(
    st.none() | st.integers() | st.text(max_size=4) | st.sampled_from(["<P_1>", "a <P_2>"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=12,
)


def swapped(tree: object) -> object:
    """Each string value swapped."""
    if isinstance(tree, dict):
        return {key: swapped(child) for key, child in tree.items()}
    if isinstance(tree, list):
        return [swapped(child) for child in tree]
    return swap("text", tree) if isinstance(tree, str) else tree


@given(VALUES, st.sampled_from([None, 1]), st.booleans())
def test_any_shape(tree: object, indent: int | None, ascii_only: bool) -> None:
    """Whatever the answer looks like, each string is edited, and nothing else."""
    body = json.dumps(tree, indent=indent, ensure_ascii=ascii_only).encode()
    assert run(JsonEditor(Same()), body) == body
    assert json.loads(run(JsonEditor(Swap()), body)) == swapped(tree)
