"""The list of rules: complete, valid for both engines, and as the documentation says."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import msgspec
import re2

from extproc.redaction.secret_catalogue import CatalogueRule
from extproc.redaction.secret_filters import JUDGES
from extproc.redaction.secret_rules import KINDS, Rule, formats, rules

DOCUMENT = Path(__file__).parents[2] / "docs" / "secrets.md"


class Store:
    """A store for one test."""

    def __init__(self) -> None:
        self.kept: dict[str, bytes] = {}

    def get(self, key: str) -> bytes | None:
        return self.kept.get(key)

    def put(self, key: str, data: bytes) -> None:
        self.kept[key] = data


@cache
def every() -> tuple[Rule, ...]:
    """All rules, read once: it takes seconds."""
    return rules(Store())


def test_formats_name_their_sources():
    """At least 120 formats of our own, each with a page of the vendor's, a judge that exists, and an id of its own."""
    rows = formats()

    assert len(rows) >= 120
    assert len(rows) == len({row.id for row in rows})
    assert {row.check for row in rows} <= JUDGES.keys()
    assert all(row.source.startswith(("https://", "this project")) for row in rows)


def test_every_format_is_documented():
    """The table in the documentation has each format with its source."""
    text = DOCUMENT.read_text("utf-8")

    assert [] == [row.id for row in formats() if f"| `{row.id}` | {row.source} |" not in text]


def test_rules_are_sound():
    """Known kinds and judges, patterns that RE2 takes, groups that exist; ids of own rules are unique."""
    for rule in every():
        assert rule.kind in KINDS
        assert rule.judge in JUDGES
        assert rule.group <= re2.compile(rule.pattern).groups
        assert all(re2.compile(required) for required in rule.require)

    assert len(every()) >= 500
    assert {rule.kind for rule in every()} == KINDS


def test_catalogue_is_taken_from_the_store():
    """What the store holds is what is used: the package is not asked."""
    store = Store()
    before = rules(store)

    assert before == every()
    assert len(store.kept) == 1
    key, data = store.kept.popitem()
    store.kept[key] = msgspec.msgpack.encode(msgspec.msgpack.decode(data)[:100])
    assert len(rules(store)) < len(before)


def test_catalogue_rules_have_the_kind_of_their_name():
    """A password in a rule's name makes its finding one."""
    kinds = {rule.id: rule.kind for rule in every()}

    assert kinds["planetscale-password"] == "PASSWORD"
    assert kinds["polymarket-private-key"] == "PRIVATE_KEY"
    assert kinds["slack-webhook-url"] == "API_KEY"
    assert CatalogueRule("x", "y").entropy == 0
