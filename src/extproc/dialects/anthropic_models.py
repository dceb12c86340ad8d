"""Anthropic's model list. Rules: the vendor's API reference, `GET /v1/models` (cursor pages) and `GET /v1/models/{id}`."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Final, NamedTuple
from urllib.parse import parse_qs

import orjson

from extproc.dialects.anthropic_errors import anthropic_error
from extproc.dialects.dialect import ErrorAnswer
from extproc.dialects.models import ModelEntry, ModelsDialect
from extproc.errors import ErrorCode, Rejection

DEFAULT_LIMIT: Final = 20
LARGEST_LIMIT: Final = 1000


class Page(NamedTuple):
    """Which part of the list a caller asks for."""

    limit: int = DEFAULT_LIMIT
    after_id: str | None = None
    before_id: str | None = None


class AnthropicModels(ModelsDialect):
    """`GET /v1/models`, `GET /v1/models/{id}`."""

    name = "anthropic_models"
    api = "anthropic"

    def error(self, rejection: Rejection) -> ErrorAnswer:
        """Anthropic's error shape."""
        return anthropic_error(rejection)


def _refuse(name: str, problem: str) -> Rejection:
    return Rejection(400, ErrorCode.CALLER_INVALID_FIELD, f"{name}: {problem}", param=name)


def read_page(query: str) -> Page:
    """The page that a query string (without `?`) asks for. Raises `Rejection` (400)."""
    values = {name: found[-1] for name, found in parse_qs(query, keep_blank_values=True).items()}
    limit = values.get("limit", str(DEFAULT_LIMIT))
    if not (limit.isascii() and limit.isdigit() and len(limit) <= len(str(LARGEST_LIMIT))):
        raise _refuse("limit", "expected an integer")
    if not 1 <= int(limit) <= LARGEST_LIMIT:
        raise _refuse("limit", f"expected a number from 1 to {LARGEST_LIMIT}")
    after, before = values.get("after_id"), values.get("before_id")
    if after is not None and before is not None:
        raise _refuse("after_id", "cannot be used together with before_id")
    return Page(int(limit), after, before)


def _position(entries: Sequence[ModelEntry], name: str, cursor: str) -> int:
    for index, entry in enumerate(entries):
        if entry.id == cursor:
            return index
    raise _refuse(name, "no such model")


def _model(entry: ModelEntry) -> dict[str, object]:
    created = datetime.fromtimestamp(entry.created, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    return {"type": "model", "id": entry.id, "display_name": entry.display_name, "created_at": created}


def render_list(entries: Sequence[ModelEntry], page: Page = Page()) -> bytes:  # noqa: B008 - immutable
    """The answer to `GET /v1/models`: one page of `entries`. Raises `Rejection` (400) for an unknown cursor."""
    if page.before_id is not None:
        stop = _position(entries, "before_id", page.before_id)
        start = max(0, stop - page.limit)
        more = start > 0
    else:
        start = 0 if page.after_id is None else _position(entries, "after_id", page.after_id) + 1
        stop = min(len(entries), start + page.limit)
        more = stop < len(entries)
    shown = [_model(entry) for entry in entries[start:stop]]
    first, last = (shown[0]["id"], shown[-1]["id"]) if shown else (None, None)
    return orjson.dumps({"data": shown, "has_more": more, "first_id": first, "last_id": last})


def render_one(entry: ModelEntry) -> bytes:
    """The answer to `GET /v1/models/{id}`."""
    return orjson.dumps(_model(entry))
