"""What a call may come to: input, output, money; never less than it will be by what can be known beforehand."""

from __future__ import annotations

import base64
import json
from datetime import UTC, datetime
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from extproc.exchange.effects import CountTokens
from extproc.exchange.facts import Target
from extproc.limits.counters import nano
from extproc.policies.quota_worth import Prices
from extproc.pricing.catalog import Catalog, Override
from extproc.pricing.rates import Rates, Tier
from extproc.usage import Usage
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


RATE = st.one_of(st.none(), st.decimals(0, 200, places=6))
TIERS = st.lists(st.integers(1, 200_000), max_size=2, unique=True).map(sorted)
CARD = st.builds(Rates, RATE, RATE, RATE, RATE, RATE, st.decimals(0, 1, places=4))


@given(st.lists(CARD, min_size=3, max_size=3), TIERS, st.integers(0, 300_000), st.integers(0, 100_000), st.booleans())
def test_whole_numbers_price_exactly_as_decimals_do(
    cards: list[Rates], starts: list[int], read: int, written: int, cached: bool
):
    """Rounded up once, at the end; tiers and missing rates as `pricing.cost` has them."""
    tiers = tuple(Tier(above, card) for above, card in zip(starts, cards[1:], strict=False))
    first = cards[0]
    rates = Rates(first.input, first.output, first.cached_input, first.cache_write, None, first.per_call, tiers)
    catalog = Catalog((Override("one", "m", rates), Override("two", "m", Rates(Decimal(1), Decimal(1)))))
    usage = Usage(input=read, output=written, cache_creation_input=read if cached else None)
    at = datetime(2026, 1, 1, tzinfo=UTC)
    exact = [catalog.price(provider, ("m",), usage, at).amount for provider in ("one", "two")]

    found = Prices().worst(catalog, Target("one", "m", ("one", "two")), usage, at.timestamp())

    assert found == (None if None in exact else max(nano(amount) for amount in exact if amount is not None))


def test_a_price_is_looked_up_again_as_time_goes_on():
    """The catalogue may know another one from tomorrow on; within a minute it is asked once."""

    class Asked(Catalog):
        times = 0

        def find(self, provider: str, model: str, at: datetime) -> Rates | None:
            self.times += 1
            return super().find(provider, model, at)

    catalog, prices = Asked((Override("one", "m", Rates(Decimal(1), Decimal(1))),)), Prices()
    target, usage = Target("one", "m", ("one",)), Usage(input=5, output=5)
    for wall in (600.0, 659.0, 661.0):
        assert prices.worst(catalog, target, usage, wall) == 10_000

    assert catalog.times == 2
