"""OpenAI's embeddings and models: https://platform.openai.com/docs/api-reference/embeddings and .../models."""

from __future__ import annotations

import base64
import hashlib
import struct
from typing import Any, Final

from extproc.sim.answer import SimAnswer, json_answer
from extproc.sim.openai_chat import model_of, required
from extproc.sim.text import CREATED, BadRequestError, Hints, Json, count_tokens, positive

MODELS: Final = ("gpt-4o", "gpt-4o-mini", "gpt-4.1", "gpt-5", "o3", "text-embedding-3-small", "text-embedding-3-large")
_DIMENSIONS: Final = {"text-embedding-3-large": 3072}
_MAX_DIMENSIONS: Final = 4096


def embeddings(body: Json, _hints: Hints) -> SimAnswer:
    """The answer to POST /v1/embeddings: unit vectors, as numbers or base64 of little-endian float32."""
    model, asked = model_of(body), required(body, "input", object)
    tokenised = isinstance(asked, list) and all(isinstance(item, int) for item in asked)
    inputs = [asked] if isinstance(asked, str) or tokenised else asked
    if not isinstance(inputs, list) or not inputs or not all(isinstance(item, str | list) for item in inputs):
        raise BadRequestError("'$.input' is invalid. Please check the API reference.", "input")
    size = min(positive(body, "dimensions") or _DIMENSIONS.get(model, 1536), _MAX_DIMENSIONS)
    packed = body.get("encoding_format") == "base64"
    data = [
        {"object": "embedding", "index": index, "embedding": _vector(item, size, packed=packed)}
        for index, item in enumerate(inputs)
    ]
    tokens = sum(len(item) if isinstance(item, list) else count_tokens(item) for item in inputs)
    usage = {"prompt_tokens": tokens, "total_tokens": tokens}
    return json_answer({"object": "list", "data": data, "model": model, "usage": usage}, indent=True)


def _vector(item: object, size: int, *, packed: bool) -> str | list[float]:
    raw = struct.unpack(f"<{size}h", hashlib.shake_256(repr(item).encode()).digest(size * 2))
    norm = sum(value * value for value in raw) ** 0.5 or 1.0
    values = [value / norm for value in raw]
    return base64.b64encode(struct.pack(f"<{size}f", *values)).decode() if packed else values


def models() -> SimAnswer:
    """The answer to GET /v1/models."""
    return json_answer({"object": "list", "data": [_model(name) for name in MODELS]}, indent=True)


def model(name: str) -> SimAnswer | None:
    """The answer to GET /v1/models/{name}; None for a model that is not there."""
    return json_answer(_model(name), indent=True) if name in MODELS else None


def _model(name: str) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": CREATED, "owned_by": "system"}
