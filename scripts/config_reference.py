"""Writes docs/config.md from the configuration model. `--check`: exit 1, with a diff, where the file is out of date."""

from __future__ import annotations

import argparse
import difflib
import sys
from collections.abc import Iterator, Mapping
from decimal import Decimal
from pathlib import Path, PurePath
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from extproc.config.model import Config
from extproc.config.redaction import DEFAULT_OPERATORS, Mask
from extproc.config.units import Kind, SecretRef
from extproc.config.versions import CURRENT, VERSIONS

OUTPUT = Path(__file__).resolve().parent.parent / "docs" / "config.md"

INTRODUCTION = """\
# gateway.yaml

This page is written by `scripts/config_reference.py` from the model in `src/extproc/config/`; `make docs` renews it.

The file is strict: an unknown key, a wrong unit or a name that is declared nowhere is an error that says where, why and
what to do, and all errors are told at once (`extproc check`). The file is watched: a valid change is live within a
second for new calls, a call that is under way ends under the configuration it began with, and after an invalid change
the old configuration stays in use, which the log, a metric and the health detail show.

## How values are written

| value | form |
|---|---|
| size | a whole number of bytes, or one with a unit: `512KiB`, `32MiB`, `1GiB` (`kB`, `MB`, `GB` are powers of ten) |
| duration | a number with a unit: `250ms`, `120s`, `10m`, `1h`, `30d`; a bare number is refused |
| name | lower-case letters, digits and `_`, beginning with a letter |
| pattern | text in which `*` is any run of characters and `?` any one; the whole name must match, case counts |
| file path | relative paths start at the folder of this file |
| media type | `application/pdf`, `image/*`, `*/*` |
| kind of entity | up to 32 capitals, digits and `_`, with no number at the end: `EMAIL_ADDRESS`, `EMPLOYEE_ID` |
| time zone | a name of the IANA database: `UTC`, `Europe/Berlin` |
| region | a country as two capitals (ISO 3166): `US`, `GB` |
| operator | see [Operators](#operators) |
| secret | only by reference: `{env: NAME}` or `{file: path}`; what looks like a key anywhere in the file, comments too, is an error |

It is YAML with one document and without anchors, aliases, merge keys and tags. Plain words follow YAML 1.2: `no` and
`on` are text. A key that is written twice is an error.
"""

OPERATORS = """\
## Operators

What becomes of an entity that was found in a request (`redaction.profiles.<name>.entities`):

| operator | the vendor gets | the caller gets back |
|---|---|---|
| `pseudonym` | a placeholder, `<PERSON_1>`: the same for the same value | the original |
| `mask` | `*` for each character; `{mask: {keep_last: 4}}` leaves the last four | the mask |
| `{replace: text}` | the text | the text |
| `hash` | a keyed digest, the same for the same value in every call (needs `redaction.key`) | the digest |
| `block` | nothing: the call is refused; the refusal names the kinds and the position, never the value | an error |
| `allow` | the value: the kind is not looked for | the value |

Defaults, where a profile says nothing of a kind (kinds of your own, in `patterns` and `deny`, get a pseudonym):

| operator | kinds |
|---|---|
"""


def main() -> int:
    """Write or check the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="compare instead of writing")
    check = parser.parse_args().check
    page = render()
    if not check:
        OUTPUT.parent.mkdir(exist_ok=True)
        OUTPUT.write_text(page)
        return 0
    found = OUTPUT.read_text() if OUTPUT.exists() else ""
    diff = list(difflib.unified_diff(found.splitlines(), page.splitlines(), "docs/config.md", "generated", lineterm=""))
    print(
        "\n".join([*diff, "docs/config.md is out of date: run make docs"]) if diff else "docs/config.md is up to date"
    )
    return 1 if diff else 0


def render() -> str:
    """Make the whole page."""
    parts = [INTRODUCTION, _operators(), "## All keys\n", *_sections(), "## Versions\n"]
    parts += [f"**{v.number}** (since {v.since}). {v.changes} {v.migrate}\n" for v in VERSIONS]
    parts.append(f"The current version is {CURRENT}.\n")
    return "\n".join(parts)


def _operators() -> str:
    actions: dict[str, list[str]] = {}
    for kind, operator in DEFAULT_OPERATORS.items():
        actions.setdefault(operator.action, []).append(f"`{kind}`")
    rows = [f"| `{action}` | {', '.join(kinds)} |" for action, kinds in actions.items()]
    keys = ["Keys of `mask`:\n", *_table(Mask)]
    return OPERATORS + "\n".join([*rows, "", *keys])


def _sections() -> Iterator[str]:
    yield from _section("", Config)


def _section(path: str, model: type[BaseModel]) -> Iterator[str]:
    """Yield the table of one section, then those of the sections in it, depth first."""
    if path:
        yield f"### `{path}`\n"
        yield f"{(model.__doc__ or '').strip()}\n"
    yield from _table(model)
    for name, field in model.model_fields.items():
        for suffix, inner in _inner(field.annotation):
            if inner is not SecretRef:
                yield from _section(f"{path}.{name}{suffix}".lstrip("."), inner)


def _table(model: type[BaseModel]) -> Iterator[str]:
    rows = ["| key | value | default | meaning |", "|---|---|---|---|"]
    rows += [_row(name, field) for name, field in model.model_fields.items()]
    yield "\n".join(rows) + "\n"


def _row(name: str, field: FieldInfo) -> str:
    description = field.description
    if not description:
        raise SystemExit(f"the key {name} has no description")
    value = _type(_annotated(field))
    return f"| `{name}` | {value}{_bounds(field)} | {_default(field)} | {description} |".replace("||", "|")


def _annotated(field: FieldInfo) -> Any:
    kinds = [item for item in field.metadata if isinstance(item, Kind)]
    return Annotated[field.annotation, kinds[0]] if kinds else field.annotation


def _type(kind: Any) -> str:
    """Say what may be written."""
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is Annotated:
        told = [item.text for item in arguments[1:] if isinstance(item, Kind)]
        return told[0] if told else _type(arguments[0])
    if origin in (Union, UnionType):
        return " or ".join(_type(option) for option in arguments if option is not NoneType)
    if origin is Literal:
        return " or ".join(f"`{choice}`" for choice in arguments)
    if origin is tuple:
        return f"list of {_type(arguments[0])}"
    if origin is Mapping or (isinstance(origin, type) and issubclass(origin, Mapping)):
        return f"mapping: {_type(arguments[0])} to {_type(arguments[1])}"
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        return "secret" if kind is SecretRef else "section"
    return {int: "whole number", str: "text", Decimal: "number", float: "number", bool: "`true` or `false`"}[kind]


def _bounds(field: FieldInfo) -> str:
    words = {"ge": "at least", "gt": "more than", "le": "at most", "min_length": "at least", "max_length": "at most"}
    kinds = [item.text for item in field.metadata if isinstance(item, Kind)]
    told = []
    for item in field.metadata:
        for name, word in words.items():
            bound = getattr(item, name, None)
            if bound is not None:
                entries = " entries" if "length" in name else ""
                told.append("not empty" if entries and bound == 1 else f"{word} {_amount(bound, kinds)}{entries}")
    return f" ({', '.join(told)})" if told else ""


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    value = field.default
    if value is None or value in ((), {}):
        return "none"
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    if isinstance(value, SecretRef):
        return f"`{{file: {value.file}}}`"
    if isinstance(value, BaseModel):
        return "see below"
    if isinstance(value, dict):
        return ", ".join(f"`{name}`" for name in value)
    if isinstance(value, tuple):
        return "`[" + ", ".join(str(item) if isinstance(item, int) else f'"{item}"' for item in value) + "]`"
    kinds = [item.text for item in field.metadata if isinstance(item, Kind)]
    return f"`{value if isinstance(value, str | PurePath) else _amount(value, kinds)}`"


def _amount(value: float, kinds: list[str]) -> str:
    if "duration" in kinds:
        return f"{value:g}s"
    if "size" in kinds:
        for unit, factor in (("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)):
            if value >= factor and value % factor == 0:
                return f"{int(value) // factor}{unit}"
    return str(value)


def _inner(kind: Any) -> Iterator[tuple[str, type[BaseModel]]]:
    """Yield the sections within a type, with what to add to the path."""
    origin, arguments = get_origin(kind), get_args(kind)
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        yield "", kind
    elif origin is Annotated:
        if not any(isinstance(item, Kind) for item in arguments[1:]):  # a value of its own form is no section
            yield from _inner(arguments[0])
    elif origin in (Union, UnionType):
        for option in arguments:
            yield from _inner(option)
    elif origin is tuple:
        yield from ((f"[]{suffix}", inner) for suffix, inner in _inner(arguments[0]))
    elif isinstance(origin, type) and issubclass(origin, Mapping):
        yield from ((f".<name>{suffix}", inner) for suffix, inner in _inner(arguments[1]))


if __name__ == "__main__":
    sys.exit(main())
