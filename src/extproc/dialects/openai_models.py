"""OpenAI's model list. Rules: the vendor's API reference, `GET /v1/models` and `GET /v1/models/{model}`."""

from __future__ import annotations

from collections.abc import Iterable

import orjson

from extproc.dialects.dialect import ErrorAnswer
from extproc.dialects.models import ModelEntry, ModelsDialect
from extproc.dialects.openai_errors import openai_error
from extproc.errors import Rejection


class OpenAIModels(ModelsDialect):
    """`GET /v1/models`, `GET /v1/models/{model}`."""

    name = "openai_models"
    api = "openai"

    def error(self, rejection: Rejection) -> ErrorAnswer:
        """OpenAI's error shape."""
        return openai_error(rejection)


def _model(entry: ModelEntry) -> dict[str, object]:
    return {"id": entry.id, "object": "model", "created": entry.created, "owned_by": entry.owner}


def render_list(entries: Iterable[ModelEntry]) -> bytes:
    """The answer to `GET /v1/models`: all models on one page."""
    return orjson.dumps({"object": "list", "data": [_model(entry) for entry in entries]})


def render_one(entry: ModelEntry) -> bytes:
    """The answer to `GET /v1/models/{model}`."""
    return orjson.dumps(_model(entry))
