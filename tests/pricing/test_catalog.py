"""Rates come from configuration first, then from the offline catalogue, by model and day."""

from __future__ import annotations

import os
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path

import genai_prices.types as listed
import pytest
from genai_prices.data import providers

from extproc.pricing import catalog as catalog_module
from extproc.pricing.catalog import Catalog, Override
from extproc.pricing.cost import Priced
from extproc.pricing.rates import Rates
from extproc.usage import Usage

D = Decimal
DAY = datetime(2026, 6, 1, tzinfo=UTC)
USAGE = Usage(input=1_000_000, output=1_000_000)
OWN = Rates(input=D(7), output=D(9))


def rates(provider: str, model: str, at: datetime = DAY) -> Rates:
    found = Catalog().find(provider, model, at)
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("provider", "model", "expected"),
    [
        ("openai", "gpt-4o-mini", ("0.15", "0.6", "0.075", None)),
        ("openai", "gpt-4o-2024-08-06", ("2.5", "10", "1.25", None)),
        ("openai", "text-embedding-3-small", ("0.02", None, None, None)),
        ("anthropic", "claude-sonnet-4-5-20250929", ("3", "15", "0.3", "3.75")),
        ("anthropic", "claude-3-5-haiku-latest", ("0.8", "4", "0.08", "1")),
    ],
)
def test_published_prices(provider: str, model: str, expected: tuple[str | None, ...]) -> None:
    """Prices as the providers publish them, for dated names and aliases too."""
    found = rates(provider, model)
    assert (found.input, found.output, found.cached_input, found.cache_write) == tuple(
        None if price is None else D(price) for price in expected
    )


def test_long_context_is_a_tier() -> None:
    """Claude Sonnet 4.5 charges more for all of a call above 200,000 input tokens."""
    found = rates("anthropic", "claude-sonnet-4-5")
    assert [tier.above for tier in found.tiers] == [200_000]
    assert found.at(200_000).input == D(3)
    long = found.at(200_001)
    assert (long.input, long.output, long.cached_input, long.cache_write) == (D(6), D("22.5"), D("0.6"), D("7.5"))


def changes() -> list[tuple[str, str, datetime]]:
    """Models of the catalogue whose input price changes on a day."""
    found = []
    for provider in providers:
        for model in provider.models:
            if not isinstance(model.prices, list) or len(model.prices) != 2 or not model.is_match(model.id):
                continue
            if provider.find_model(model.id) is not model:
                continue
            first, second = model.prices
            day = second.constraint
            if first.constraint is None and isinstance(day, listed.StartDateConstraint):
                prices = (first.prices.input_mtok, second.prices.input_mtok)
                if all(isinstance(price, Decimal) for price in prices) and prices[0] != prices[1]:
                    start = datetime.combine(day.start_date, datetime.min.time(), UTC)
                    found.append((provider.id, model.id, start))
    return found


def test_a_new_price_holds_from_its_day() -> None:
    """The day before, the old price counts; on the day, the new one. Days are UTC's."""
    cases = changes()
    assert len(cases) > 5
    catalog = Catalog()
    for provider, model, start in cases:
        before, after = (
            catalog.find(provider, model, start - timedelta(seconds=1)),
            catalog.find(provider, model, start),
        )
        assert before is not None
        assert after is not None
        assert before.input != after.input


def test_every_price_of_the_catalogue_is_taken_over() -> None:
    """Rates agree with the catalogue's own for each model of both providers, short and long."""
    catalog, checked = Catalog(), 0
    for provider in providers:
        if provider.id not in {"openai", "anthropic", "google", "perplexity"}:
            continue
        for model in provider.models:
            price = model.get_prices(DAY) if model.prices else None
            if price is None or price.input_mtok is None or provider.find_model(model.id) is not model:
                continue
            found = catalog.find(provider.id, model.id, DAY)
            assert found is not None
            for tokens in (1000, 150_000, 250_000, 900_000):
                usage = listed.Usage(input_tokens=tokens)
                card = found.at(tokens)
                assert card.input is not None
                expected = listed.calc_unit_price(price.input_mtok, usage.input_tokens, tokens, 1_000_000)
                assert tokens * card.input / 1_000_000 == expected
            checked += 1
    assert checked > 100


def test_a_fee_per_request_is_known() -> None:
    """Perplexity charges per call as well."""
    assert rates("perplexity", "sonar").per_call > 0


@pytest.mark.parametrize(
    ("provider", "model"),
    [("openai", "no-such-model"), ("nobody", "gpt-4o"), ("openai", ""), ("openai", "claude-sonnet-4-5")],
)
def test_unknown_is_none(provider: str, model: str) -> None:
    """No rates are made up for a model or provider that the catalogue does not have."""
    assert Catalog().find(provider, model, DAY) is None


def test_an_unknown_price_has_a_reason_and_no_amount() -> None:
    """It can be counted and alarmed."""
    assert Catalog().price("openai", ("no-such-model",), USAGE, DAY) == Priced(None, "no rates for this model")
    assert Catalog().price("openai", ("",), USAGE, DAY) == Priced(None, "the model is not known")


def test_the_catalogue_prices_a_call() -> None:
    """The source is told with the amount."""
    assert Catalog().price("openai", ("gpt-4o-mini",), USAGE, DAY) == Priced(D("0.75"), "", "catalogue")


def test_the_first_name_with_rates_counts() -> None:
    """The provider's name for the model serves where the resolved one is unknown."""
    priced = Catalog().price("openai", ("our-deployment", "gpt-4o-mini"), USAGE, DAY)
    assert priced.amount == D("0.75")


def test_an_override_wins() -> None:
    """Over the catalogue, for any of the names; the first that matches among overrides."""
    free = Rates(input=D(0), output=D(0))
    catalog = Catalog([Override("openai", "gpt-4o-*", OWN), Override("openai", "*mini", free)])
    assert catalog.price("openai", ("gpt-4o-mini",), USAGE, DAY) == Priced(D(16), "", "config")
    assert catalog.price("openai", ("gpt-4.1", "gpt-4o-mini"), USAGE, DAY) == Priced(D(16), "", "config")
    assert catalog.find("openai", "gpt-5-mini", DAY) == free
    assert catalog.find("openai", "gpt-4.1", DAY) == rates("openai", "gpt-4.1")


def test_an_override_is_for_its_provider() -> None:
    """The same model elsewhere keeps its price."""
    catalog = Catalog([Override("mine", "*", OWN)])
    assert catalog.find("mine", "anything", DAY) == OWN
    assert catalog.find("openai", "gpt-4o", DAY) == rates("openai", "gpt-4o")


def test_a_second_provider_of_the_same_api_has_its_prices() -> None:
    """`apis` says whose prices a provider by another name has; without it they are unknown."""
    assert Catalog(apis={"openai_eu": "openai"}).find("openai_eu", "gpt-4o", DAY) == rates("openai", "gpt-4o")
    assert Catalog().find("openai_eu", "gpt-4o", DAY) is None


def test_names() -> None:
    """Names that a caller can send, in order, sold by the token and not deprecated."""
    names = Catalog(apis={"openai_eu": "openai"}).names("openai_eu")
    assert {"gpt-4o", "gpt-4o-mini", "text-embedding-3-small", "o1"} <= set(names)
    assert list(names) == sorted(names)
    assert not [name for name in names if ":" in name or name.endswith("-")]
    assert "whisper-1" not in names
    assert Catalog().names("nobody") == ()
    assert "claude-sonnet-4-5" in Catalog().names("anthropic")


def test_memory_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Names come from callers: any number of them is remembered up to a limit, and answers stay right."""
    monkeypatch.setattr(catalog_module, "_MAX_REMEMBERED", 10)
    catalog = Catalog()
    for number in range(100):
        assert catalog.find("openai", f"unknown-{number}", DAY) is None
        assert len(catalog._models) <= 10
    assert catalog.find("openai", "gpt-4o", DAY) == rates("openai", "gpt-4o")


def test_no_network_is_used() -> None:
    """With sockets forbidden, importing, finding and pricing work, and no thread is started."""
    script = (
        "import socket, threading\n"
        "def refuse(*_): raise AssertionError('network')\n"
        "socket.socket.connect = refuse; socket.socket.__init__ = refuse; socket.getaddrinfo = refuse\n"
        "from datetime import UTC, datetime\n"
        "import sys\n"
        "from extproc.pricing.catalog import Catalog\n"
        "assert 'genai_prices' not in sys.modules\n"
        "assert Catalog().find('openai', 'gpt-4o', datetime(2026, 6, 1, tzinfo=UTC)) is not None\n"
        "assert threading.active_count() == 1\n"
    )
    source = str(Path(catalog_module.__file__).parents[2])
    run = subprocess.run([sys.executable, "-c", script], env={**os.environ, "PYTHONPATH": source}, capture_output=True)
    assert run.returncode == 0, run.stderr
