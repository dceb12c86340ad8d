"""The package's catalogue: what is read of it, what is left out, what the store keeps."""

from __future__ import annotations

from functools import cache

import pytest

from extproc.redaction import secret_catalogue
from extproc.redaction.secret_catalogue import EXCLUDED, CatalogueRule, catalogue, read_package, short_id


class Store:
    """A store for one test."""

    def __init__(self) -> None:
        self.kept: dict[str, bytes] = {}

    def get(self, key: str) -> bytes | None:
        return self.kept.get(key)

    def put(self, key: str, data: bytes) -> None:
        self.kept[key] = data


@cache
def package() -> tuple[CatalogueRule, ...]:
    return read_package()


@pytest.fixture
def used(monkeypatch) -> tuple[CatalogueRule, ...]:
    """What the detector gets, from rules that were read before: reading takes seconds."""
    monkeypatch.setattr(secret_catalogue, "read_package", package)
    return catalogue(None)


def test_package_has_what_we_count_on():
    """Hundreds of rules, most with a least entropy; a rule that drops all it finds is not among them."""
    rules = package()

    assert len(rules) > 450
    assert sum(rule.entropy > 0 for rule in rules) > 300
    assert sum(bool(rule.require) for rule in rules) >= 3
    assert sum(rule.group > 0 for rule in rules) >= 2
    assert "betterleaks.openrouter-api-key" not in {rule.id for rule in rules}


def test_what_is_left_out_exists_and_says_why(used):
    """Every excluded id is one of the package, with a reason; nothing excluded is used."""
    known = {short_id(rule.id) for rule in package()}

    assert set() == EXCLUDED.keys() - known
    assert all(len(reason) > 20 for reason in EXCLUDED.values())
    assert set() == EXCLUDED.keys() & {short_id(rule.id) for rule in used}


def test_keys_may_be_followed_by_punctuation(used):
    """The catalogue wants a quote or a space after a key; a sentence has a comma there."""
    rules = {short_id(rule.id): rule.pattern for rule in used}

    assert rules["groq-api-key"].endswith(r"(?:[^0-9A-Za-z_/+-]|$)")
    assert [] == [name for name, pattern in rules.items() if pattern.endswith(r"[\s;]|\\[nr]|$)")]


def test_store_is_used(monkeypatch):
    """The first call fills the store, the second does without the package; damaged bytes are as good as none."""
    store = Store()
    calls = []

    def read() -> tuple[CatalogueRule, ...]:
        calls.append(1)
        return package()

    monkeypatch.setattr(secret_catalogue, "read_package", read)
    first = catalogue(store)

    assert first == catalogue(store)
    assert len(calls) == 1
    store.kept = dict.fromkeys(store.kept, b"\xc1")
    assert first == catalogue(store)
    assert len(calls) == 2
