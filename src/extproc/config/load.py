"""Bytes -> `Config`, or every mistake in them at once, each with its path, its line, its reason and its cure."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import PurePath
from types import UnionType
from typing import Annotated, Any, Final, TypeVar, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from extproc.config.checks import Parts, check, closest
from extproc.config.document import Document, Tree, read_document
from extproc.config.model import Config, Keys, Timeouts
from extproc.config.problems import ConfigErrors, Loc, Problem, path_of
from extproc.config.providers import Alias, PriceOverride, Provider
from extproc.config.quotas import QuotaRule
from extproc.config.redaction import Redaction
from extproc.config.secrets import find_secrets
from extproc.config.units import Section
from extproc.config.versions import check_version

_S = TypeVar("_S", bound=Section)

_WORDS: Final[dict[str, tuple[str, str]]] = {
    "missing": ("is missing", "add it"),
    "string_type": ("is not text", "put it in quotes"),
    "int_type": ("is not a whole number", "write a whole number without quotes"),
    "decimal_type": ("is not a number", "write a number without a unit: 2.50"),
    "decimal_parsing": ("is not a number", "write a number without a unit: 2.50"),
    "model_type": ("is not a section", "write keys and values below it, indented"),
    "model_attributes_type": ("is not a section", "write keys and values below it, indented"),
    "dict_type": ("is not a section", "write keys and values below it, indented"),
    "mapping_type": ("is not a section", "write keys and values below it, indented"),
    "tuple_type": ("is not a list", "write a list: [a, b], or one `- item` a line"),
    "bool_type": ("is not true or false", "write true or false, without quotes"),
    "float_type": ("is not a number", "write a number without quotes: 0.8"),
    "path_type": ("is not a file path", "write the path as text"),
}
"""pydantic's error types in an operator's words. Its own messages speak of Python; some would repeat the value."""


def load(data: bytes, name: str, *, base: PurePath) -> Config:
    """Read `gateway.yaml`.

    `name` is the file's name for messages; relative paths in the file are joined to `base`, its folder. Raises
    `ConfigErrors`; no message repeats a value that is not a name known to be harmless.
    """
    document = read_document(data, name)
    if not isinstance(document.tree, dict):
        raise ConfigErrors(name, [Problem(name, "is empty or not a mapping", "begin with `version: 1`")])
    problem = check_version(document)
    if problem is not None:
        raise ConfigErrors(name, [problem])
    secrets = list(find_secrets(document))
    config: Config | None = None
    found: list[tuple[Loc, Problem]] = []
    try:
        config = _validate(Config, _with_default_paths(document.tree), base)
    except ValidationError as error:
        found = [_translate(detail, document) for detail in error.errors(include_url=False, include_input=False)]
    found.extend(
        (loc, Problem(path_of(loc), reason, hint, line=document.line(loc)))
        for loc, reason, hint in check(_parts(document.tree, config, base))
    )
    problems = [problem for _, problem in secrets] + _outside(found, [loc for loc, _ in secrets])
    if config is None or problems:
        raise ConfigErrors(name, problems)
    return config


def _validate(section: type[_S], tree: Tree, base: PurePath) -> _S:
    """In JSON mode strictness means "as JSON would write it": lists for tuples, text for paths and decimals."""
    return section.model_validate_json(json.dumps(tree), strict=True, context={"base": base})


def _with_default_paths(tree: dict[str, Tree]) -> dict[str, Tree]:
    """Write out the defaults that are file paths, so that they too are joined to the folder of the file."""
    written = tree.get("keys", {})
    if not isinstance(written, dict):
        return tree
    default = Keys()
    return {**tree, "keys": {"file": str(default.file), "pepper": {"file": str(default.pepper.file)}, **written}}


def _outside(found: Iterable[tuple[Loc, Problem]], secrets: Iterable[Loc]) -> list[Problem]:
    """Without what is said of a place that holds a secret: one message there is enough."""
    taken = [loc for loc in secrets if loc]
    return [problem for loc, problem in found if not any(loc[: len(secret)] == secret for secret in taken)]


def _parts(tree: dict[str, Tree], config: Config | None, base: PurePath) -> Parts:
    if config is not None:
        overrides = dict(enumerate(config.pricing.overrides))
        return Parts(
            names=config.providers.keys(),
            providers=config.providers,
            aliases=config.aliases,
            overrides=overrides,
            timeouts=config.timeouts,
            redaction=config.redaction,
            quotas=dict(enumerate(config.quotas.rules)) if config.quotas is not None else {},
        )
    providers = tree.get("providers")
    return Parts(
        names=providers.keys() if isinstance(providers, dict) else (),
        providers=_valid(Provider, _items(providers), base),
        aliases=_valid(Alias, _items(tree.get("aliases")), base),
        overrides=_valid(PriceOverride, _entries(tree.get("pricing"), "overrides"), base),
        timeouts=_valid(Timeouts, [("", tree.get("timeouts", {}))], base).get(""),
        redaction=_valid(Redaction, [("", tree["redaction"])] if "redaction" in tree else (), base).get(""),
        quotas=_valid(QuotaRule, _entries(tree.get("quotas"), "rules"), base),
    )


_K = TypeVar("_K", str, int)


def _valid(section: type[_S], entries: Iterable[tuple[_K, Tree]], base: PurePath) -> dict[_K, _S]:
    """Keep the entries that are valid by themselves."""
    valid: dict[_K, _S] = {}
    for key, entry in entries:
        try:
            valid[key] = _validate(section, entry, base)
        except ValidationError:
            continue  # reported with the whole
    return valid


def _items(tree: Tree) -> Iterable[tuple[str, Tree]]:
    return tree.items() if isinstance(tree, dict) else ()


def _entries(section: Tree, key: str) -> Iterator[tuple[int, Tree]]:
    entries = section.get(key) if isinstance(section, dict) else None
    return iter(enumerate(entries if isinstance(entries, list) else ()))


def _translate(detail: ErrorDetails, document: Document) -> tuple[Loc, Problem]:
    loc: Loc = detail["loc"]
    if loc and loc[-1] == "[key]":
        loc = loc[:-1]
    kind = detail["type"]
    context: Mapping[str, Any] = detail.get("ctx", {})
    if kind == "config":
        reason, hint = str(context["reason"]), str(context["hint"])
    elif kind == "extra_forbidden":
        reason, hint = "is not a known key", closest(str(loc[-1]), known_keys(loc[:-1]), "key")
    else:
        reason, hint = _WORDS.get(kind) or _bounds(kind, context)
    return loc, Problem(path_of(loc) or "gateway.yaml", reason, hint, line=document.line(loc))


def _bounds(kind: str, context: Mapping[str, Any]) -> tuple[str, str]:
    if kind == "greater_than_equal":
        return "is too small", f"at least {context['ge']}"
    if kind == "greater_than":
        return "is too small", f"more than {context['gt']}"
    if kind == "less_than_equal":
        return "is too large", f"at most {context['le']}"
    if kind == "too_short":
        return "has too few entries", f"at least {context['min_length']}"
    if kind == "too_long":
        return "has too many entries", f"at most {context['max_length']}"
    if kind == "literal_error":
        return "is not one of the choices", f"write {context['expected'].replace(chr(39), '')}"
    return "is not valid", kind.replace("_", " ")


def known_keys(loc: Loc) -> tuple[str, ...]:
    """List the keys that may stand in the section at `loc`; empty where there is no such section."""
    kind: Any = Config
    for part in loc:
        kind = _inside(kind, part)
    kind = _section(kind)
    return tuple(kind.model_fields) if kind is not None else ()


def _inside(kind: Any, part: str | int) -> Any:
    section = _section(kind)
    if section is not None:
        field = section.model_fields.get(str(part))
        return None if field is None else field.annotation
    for option in _plain(kind):
        arguments = get_args(option)
        if get_origin(option) is tuple and isinstance(part, int):
            return arguments[0]
        if arguments and len(arguments) == 2 and isinstance(part, str):
            return arguments[1]  # a mapping's values
    return None


def _section(kind: Any) -> type[BaseModel] | None:
    return next((o for o in _plain(kind) if isinstance(o, type) and issubclass(o, BaseModel)), None)


def _plain(kind: Any) -> Iterator[Any]:
    """Yield the types that `kind` may be, without annotations and None."""
    if get_origin(kind) is Annotated:
        yield from _plain(get_args(kind)[0])
    elif get_origin(kind) in (Union, UnionType):
        for option in get_args(kind):
            yield from _plain(option)
    elif kind is not None and kind is not type(None):
        yield kind
