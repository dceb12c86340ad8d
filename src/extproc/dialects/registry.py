"""Which format an endpoint speaks."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from extproc.dialects.anthropic_count_tokens import AnthropicCountTokens
from extproc.dialects.anthropic_errors import anthropic_error
from extproc.dialects.anthropic_messages import AnthropicMessages
from extproc.dialects.anthropic_models import AnthropicModels
from extproc.dialects.dialect import Dialect, ErrorAnswer
from extproc.dialects.openai_chat import OpenAIChat
from extproc.dialects.openai_embeddings import OpenAIEmbeddings
from extproc.dialects.openai_errors import openai_error
from extproc.dialects.openai_models import OpenAIModels
from extproc.dialects.openai_responses import OpenAIResponses
from extproc.errors import Rejection

_PATHS: Final[Mapping[tuple[str, str], Dialect]] = {
    ("openai", "/v1/chat/completions"): OpenAIChat(),
    ("openai", "/v1/responses"): OpenAIResponses(),
    ("openai", "/v1/embeddings"): OpenAIEmbeddings(),
    ("openai", "/v1/models"): OpenAIModels(),
    ("anthropic", "/v1/messages"): AnthropicMessages(),
    ("anthropic", "/v1/messages/count_tokens"): AnthropicCountTokens(),
    ("anthropic", "/v1/models"): AnthropicModels(),
}
_MODELS: Final = "/v1/models"
DIALECTS: Final[Mapping[str, Dialect]] = MappingProxyType({dialect.name: dialect for dialect in _PATHS.values()})


def _at(api: str, path: str) -> Dialect | None:
    if path.startswith(_MODELS + "/") and len(path) > len(_MODELS) + 1:
        path = _MODELS
    return _PATHS.get((api, path))


def find(api: str, method: str, path: str) -> Dialect | None:
    """The format of an endpoint; `path` is without a query. None where nothing is known at that path and method."""
    dialect = _at(api, path)
    return dialect if dialect is not None and dialect.method == method else None


def methods(api: str, path: str) -> tuple[str, ...]:
    """The methods that a path takes (for a 405 and its `allow` header); empty where the path is unknown."""
    dialect = _at(api, path)
    return () if dialect is None else (dialect.method,)


def model_in_path(path: str) -> str | None:
    """The model id of `/v1/models/{id}`, as it is written there; None for the list."""
    rest = path.removeprefix(_MODELS + "/")
    return rest if rest and rest != path else None


def error(api: str, rejection: Rejection) -> ErrorAnswer:
    """The refusal in the shape of `api`; an unknown one gets OpenAI's, which most clients can read."""
    return anthropic_error(rejection) if api == "anthropic" else openai_error(rejection)
