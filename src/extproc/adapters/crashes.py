"""What of an exception may be written down: its type and the places in the code, never its message.

A `KeyError` quotes what was looked up and a `ValueError` often what was wrong, which may be what a caller wrote.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, MutableMapping
from types import TracebackType
from typing import Final

_DEEPEST: Final = 12


def places(traceback: TracebackType | None) -> list[str]:
    """File and line of each call, outermost first, the last few: `patterns.py:120 scan`."""
    return list(_walk(traceback))[-_DEEPEST:]


def told(error: BaseException) -> str:
    """One line: `KeyError at redact.py:60 request_body < pseudonyms.py:95 redact`, innermost last; causes behind it."""
    line = f"{type(error).__name__} at {' < '.join(places(error.__traceback__)) or 'an unknown place'}"
    cause = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    return line if cause is None else f"{line}; after {told(cause)}"


def name_exception(_logger: object, _name: str, event: MutableMapping[str, object]) -> MutableMapping[str, object]:
    """A structlog processor: puts `exception` in the place of `exc_info`."""
    given = event.pop("exc_info", None)
    if given is True:
        given = sys.exc_info()
    error = given[1] if isinstance(given, tuple) else given
    if isinstance(error, BaseException):
        event["exception"] = told(error)
    return event


def _walk(traceback: TracebackType | None) -> Iterator[str]:
    while traceback is not None:
        code = traceback.tb_frame.f_code
        yield f"{code.co_filename.rpartition('/')[2]}:{traceback.tb_lineno} {code.co_name}"
        traceback = traceback.tb_next
