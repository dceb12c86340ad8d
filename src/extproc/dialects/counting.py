"""Reading token counts out of a vendor's usage object, whatever it holds."""

from __future__ import annotations

from extproc.dialects.spans import is_object
from extproc.usage import Usage


def count(source: dict[str, object], name: str) -> int | None:
    """A token count, or None where it is absent or no whole number."""
    value = source.get(name)
    if type(value) is float and value.is_integer():
        return int(value)
    return value if type(value) is int else None


def details(source: dict[str, object], name: str) -> dict[str, object]:
    """A nested object; empty where absent."""
    value = source.get(name)
    return value if is_object(value) else {}


def known(usage: Usage) -> Usage | None:
    """None where no count is known: an object with foreign keys only reports nothing."""
    return None if usage == Usage() else usage
