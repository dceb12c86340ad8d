"""All rules for secrets in one list: own formats, contexts, and the catalogue of a package.

Own formats are a table in `data/secret_formats.tsv`, each with the vendor's page that describes it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from importlib.resources import files
from typing import Final, NamedTuple

from extproc.redaction.secret_catalogue import CatalogueRule, catalogue, short_id
from extproc.redaction.secret_contexts import CONTEXTS
from extproc.text import DatabaseStore

KINDS: Final = frozenset({"API_KEY", "PRIVATE_KEY", "JWT", "CONNECTION_STRING", "PASSWORD", "BEARER_TOKEN"})

# Escapes that were not decoded: of JSON and shells (`\n`, `\u003d`), of URLs (`%3D`), colours of a terminal.
_BEFORE: Final = r"(?:\b|\\[abefnrtv0]|\\u[0-9A-Fa-f]{4}|\\x[0-9A-Fa-f]{2}|%[0-9A-Fa-f]{2}|\x1b\[[0-9;]{0,12}m)"
_AFTER: Final = r"(?:[^0-9A-Za-z_-]|$)"
_ASSIGNED: Final = re.compile(
    r"\[\\s'\"\]\{0,3\}|\[\\s\\S\]|\(\?:\.\|\[\\n\\r\]\)"
)  # the catalogue's ways to say: near a name
_MAX_ENTROPY: Final = 3.0  # bits a character: some rules ask for more than a random key of 32 hexadecimals may have
_PASSWORDS: Final = re.compile(r"password|passphrase")
_KEYS: Final = re.compile(r"polymarket-private-key")


class Format(NamedTuple):
    """One row of the table: `check` names the judge, `pattern` is the key itself, `source` the page that describes it."""

    id: str
    check: str
    pattern: str
    source: str


class Rule(NamedTuple):
    """One rule as the detector runs it. `judge` is a name in `secret_filters.JUDGES`.

    `entropy` and `require` narrow the value further; `group` is the value's group in the pattern, 0 for the first that
    took part; `again` says that the search goes on inside a value that was turned down.
    """

    id: str
    kind: str
    pattern: str
    judge: str
    entropy: float = 0.0
    group: int = 0
    require: tuple[str, ...] = ()
    again: bool = False


def formats() -> tuple[Format, ...]:
    """The table of own formats."""
    text = (files("extproc.redaction") / "data" / "secret_formats.tsv").read_text("utf-8")
    rows = (line.split("\t") for line in text.splitlines() if line and not line.startswith("#"))
    return tuple(Format(*row) for row in rows)


def rules(store: DatabaseStore | None = None) -> tuple[Rule, ...]:
    """Every rule, the most telling first: of rules that find the same characters the first names the finding."""
    return (*_own_formats(), *_contexts(), *_from_catalogue(catalogue(store)))


def _own_formats() -> Iterator[Rule]:
    for row in formats():
        yield Rule(row.id, "API_KEY", f"{_BEFORE}({row.pattern}){_AFTER}", row.check)


def _contexts() -> Iterator[Rule]:
    for context in CONTEXTS:
        yield Rule(context.id, context.kind, context.pattern, context.judge, again=context.again)


def _from_catalogue(found: tuple[CatalogueRule, ...]) -> Iterator[Rule]:
    for rule in found:
        name = short_id(rule.id)
        kind = "PASSWORD" if _PASSWORDS.search(name) else "PRIVATE_KEY" if _KEYS.search(name) else "API_KEY"
        judge = "named" if _ASSIGNED.search(rule.pattern) else "key"
        yield Rule(
            name,
            kind,
            rule.pattern,
            judge,
            entropy=min(rule.entropy, _MAX_ENTROPY),
            group=rule.group,
            require=rule.require,
        )
