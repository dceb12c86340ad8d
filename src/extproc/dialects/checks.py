"""Checks of the request fields that this gateway reads; everything else is the vendor's to judge."""

from __future__ import annotations

from typing import Final, NoReturn

from extproc.dialects.spans import is_array, is_object
from extproc.errors import ErrorCode, Rejection

_LONGEST_MODEL: Final = 256  # characters
_LARGEST: Final = 1 << 53
_KINDS: Final = {dict: "an object", list: "an array", str: "a string", bool: "a boolean", type(None): "null"}


def _kind(value: object) -> str:
    return _KINDS.get(type(value), "a number")


def refuse(param: str, problem: str) -> NoReturn:
    """Raise the `Rejection` (400) for field `param`."""
    raise Rejection(400, ErrorCode.CALLER_INVALID_FIELD, f"Invalid '{param}': {problem}.", param=param)


def wrong_type(param: str, expected: str, value: object) -> NoReturn:
    """Raise the `Rejection` (400) for a field of another type than the `expected` one; never shows the value."""
    refuse(param, f"expected {expected}, but got {_kind(value)} instead")


def required(tree: dict[str, object], name: str) -> object:
    """The value of a field that the vendor demands. Raises `Rejection` (400) where it is absent."""
    if name not in tree:
        message = f"Missing required parameter: '{name}'."
        raise Rejection(400, ErrorCode.CALLER_INVALID_FIELD, message, param=name)
    return tree[name]


def model(tree: dict[str, object]) -> str:
    """The model: a non-empty string of at most 256 characters."""
    value = required(tree, "model")
    if type(value) is not str:
        wrong_type("model", "a string", value)
    if not value or len(value) > _LONGEST_MODEL:
        refuse("model", f"expected 1 to {_LONGEST_MODEL} characters")
    return value


def flag(tree: dict[str, object], name: str) -> bool:
    """A boolean field; absent and null mean false."""
    value = tree.get(name)
    if value is None or type(value) is bool:
        return bool(value)
    wrong_type(name, "a boolean", value)


def whole(tree: dict[str, object], name: str, least: int = 0) -> int | None:
    """A whole number from `least` to 2^53 (`100.0` is one too), beyond which JSON is not exact; absent and null are None."""
    value = tree.get(name)
    if value is None:
        return None
    if type(value) is float and value.is_integer():
        value = int(value)
    if type(value) is not int:
        wrong_type(name, "an integer", value)
    if value < least:
        refuse(name, f"expected a number of at least {least}")
    if value > _LARGEST:
        refuse(name, f"expected a number of at most {_LARGEST}")
    return value


def array(tree: dict[str, object], name: str) -> list[object]:
    """A required array."""
    value = required(tree, name)
    if not is_array(value):
        wrong_type(name, "an array", value)
    return value


def optional_object(tree: dict[str, object], name: str) -> dict[str, object] | None:
    """An object or null; absent is None."""
    value = tree.get(name)
    if value is None:
        return None
    if not is_object(value):
        wrong_type(name, "an object", value)
    return value


def one_of(tree: dict[str, object], name: str, kinds: tuple[type, ...], expected: str) -> None:
    """A field that may be absent or null, and else is of one of `kinds`."""
    value = tree.get(name)
    if value is not None and type(value) not in kinds:
        wrong_type(name, expected, value)
