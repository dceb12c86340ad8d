"""What a call may come to: input, output, money; never less than it will be by what can be known beforehand."""

from __future__ import annotations

import base64
import json

import pytest

from extproc.exchange.effects import CountTokens
from gateway import CONFIG
from limited import RULES, Store, play
from talk import CHAT, MESSAGES, call, claude

PICTURE = "data:image/png;base64," + base64.b64encode(bytes(90_000)).decode()


def chat(content: object, **more: object) -> bytes:
    return json.dumps({"model": "gpt-4o-mini", "messages": [{"role": "user", "content": content}], **more}).encode()


def reserved(body: bytes, rules: str = RULES, *, path: str = "/v1/chat/completions") -> dict[str, int]:
    """What a call with this body reserves."""
    store = Store()
    (claude if path == "/v1/messages" else call)(play(store, rules), body, path)
    return store.reserved()


def test_longer_texts_reserve_more_input():
    """By the bytes of the request."""
    sizes = [reserved(chat("word " * many))["read"] for many in (1, 100, 10_000)]

    assert sizes == sorted(set(sizes))
    assert sizes[-1] >= 10_000


def test_an_image_counts_as_an_image_and_not_as_text():
    """Its base64 is no text; a link to one costs as much."""
    parts = [{"type": "text", "text": "what is this"}]
    inline = reserved(chat([*parts, {"type": "image_url", "image_url": {"url": PICTURE}}]))["read"]
    linked = reserved(chat([*parts, {"type": "image_url", "image_url": {"url": "https://img.example/a.png"}}]))["read"]

    assert 1000 < inline < len(PICTURE) // 5
    assert abs(inline - linked) < 200
    assert reserved(chat("what is this"))["read"] < linked - 1000


def test_what_is_written_to_a_prompt_cache_is_priced_as_that():
    """Anthropic charges a quarter more for it."""
    plain = reserved(MESSAGES, path="/v1/messages")
    block = b'[{"type":"text","text":"hi there","cache_control":{"type":"ephemeral"}}]'
    marked = reserved(MESSAGES.replace(b'"hi there"', block), path="/v1/messages")

    assert plain["money"] == plain["read"] * 1000 + 9 * 5000  # claude-haiku-4-5: 1 and 5 dollars a million
    assert marked["money"] == marked["read"] * 1250 + 9 * 5000


def test_the_dearest_provider_of_the_chain_sets_the_price():
    """Any of them may answer."""
    dear = CONFIG + "  - {provider: openai_b, model: gpt-4o, input: 100, output: 200}"
    store = Store()
    talk = play(store, RULES, config=dear)
    call(talk, CHAT.replace(b"gpt-4o-mini", b"pool"))
    asked = store.reserved()

    assert asked["money"] == asked["read"] * 100_000 + 1000 * 200_000


@pytest.mark.parametrize("model", ["gpt-4o-mini", "o1", "gpt-4.1"])
def test_output_without_a_cap_is_the_first_pattern_that_matches(model):
    """In the order of the configuration."""
    asked = reserved(CHAT.replace(b"gpt-4o-mini", model.encode()))

    assert asked["written"] == (1000 if model.startswith("gpt-4o") else 2000)


def test_an_image_beside_counted_texts_still_counts():
    """The tokenizer sees texts only."""
    rules = RULES.replace("headers:", "exact_input: true\n  headers:")
    asked = reserved(
        chat([{"type": "text", "text": "a b c"}, {"type": "image_url", "image_url": {"url": PICTURE}}]), rules
    )

    assert asked["read"] > 1000


def test_texts_that_cannot_be_counted_are_estimated():
    """A tokenizer that fails costs no call."""
    from extproc.errors import EffectError

    store = Store()
    talk = play(store, RULES.replace("headers:", "exact_input: true\n  headers:"))
    talk.answers = {**talk.answers, CountTokens: lambda effect: EffectError("no")}
    call(talk)

    assert store.reserved()["read"] > 9
