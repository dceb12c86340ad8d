"""Deterministic text, token counts and ids: the same request always gets the same bytes."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

import orjson

Json = Mapping[str, Any]

CREATED: Final = 1_767_225_600  # 2026-01-01T00:00:00Z: a clock would make two equal requests differ
_PIECE: Final = re.compile(r"\s*\S{1,7}|\s+$")
_QUOTED_WORDS: Final = 12
_REASONING_MODEL: Final = re.compile(r"o\d|gpt-5")
_MAX_DEPTH: Final = 8


class BadRequestError(Exception):
    """The request lacks what the vendor insists on. `param` is the field, where there is one."""

    def __init__(self, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.message: Final = message
        self.param: Final = param


@dataclass(frozen=True, slots=True)
class Hints:
    """What a synthetic answer depends on beside the parsed body.

    `seed` is the body's bytes, from which ids are made; the `x-sim-` header fields ask for a length in tokens, for
    cached input tokens, for an echo (`last` or `all`) and for deltas of `piece` characters: 0 makes one delta of a
    text, None cuts as tokens would.
    """

    seed: bytes = b""
    tokens: int | None = None
    cached: int = 0
    echo: str = ""
    piece: int | None = None


@dataclass(frozen=True, slots=True)
class Output:
    """A text, in the pieces in which a stream sends it (one token each), and whether a limit cut it."""

    pieces: tuple[str, ...]
    truncated: bool

    @property
    def text(self) -> str:
        """The whole text."""
        return "".join(self.pieces)


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A call of one of the request's tools, with arguments that fit its schema."""

    name: str
    arguments: Any
    piece: int | None = None  # characters of a delta, as in `Hints`

    @property
    def pieces(self) -> tuple[str, ...]:
        """The arguments as JSON text, in the pieces in which a stream sends them."""
        return pieces_of(orjson.dumps(self.arguments).decode(), self.piece)


def identifier(prefix: str, *parts: bytes | str, length: int = 24) -> str:
    """An id in the vendor's form, made from the request itself."""
    digest = hashlib.sha256(b"\0".join(part.encode() if isinstance(part, str) else part for part in parts)).hexdigest()
    return prefix + digest[:length]


def split_tokens(text: str) -> tuple[str, ...]:
    """`text` in pieces of at most 7 letters with the blanks before them; joined they are `text`."""
    return tuple(_PIECE.findall(text))


def pieces_of(text: str, size: int | None) -> tuple[str, ...]:
    """`text` in pieces of `size` characters; 0: in one piece; None: as tokens would cut it."""
    if size is None:
        return split_tokens(text)
    step = size or len(text) or 1
    return tuple(text[at : at + step] for at in range(0, len(text), step))


def count_tokens(value: object) -> int:
    """A plausible number of tokens: a quarter of the bytes of every string in `value`, 3 more a message or part."""
    total, rest = 0, [value]
    while rest:  # a loop: a request may nest deeper than Python's stack
        item = rest.pop()
        if isinstance(item, str):
            total += (len(item.encode()) + 3) // 4
        elif isinstance(item, Mapping):
            total += 3
            rest.extend(item.values())
        elif isinstance(item, list):
            rest.extend(item)
    return total


def reasoning_tokens(model: str) -> int:
    """Tokens that a reasoning model bills and does not show."""
    return 64 if _REASONING_MODEL.match(model) else 0


def reply(question: str, limit: int | None, hints: Hints) -> Output:
    """The answer to `question`: says what answers, and repeats the first words; cut at `limit` tokens."""
    words = " ".join(question.split()[:_QUOTED_WORDS])
    text = f"This is the extproc simulator, no model was called. You said: {words}"
    pieces = split_tokens(text)
    if hints.tokens is not None:
        pieces = tuple(pieces[i] if i < len(pieces) else f" word{i}" for i in range(hints.tokens))
    return cut(pieces, limit)


def cut(pieces: tuple[str, ...], limit: int | None) -> Output:
    """`pieces` up to `limit`, where there is one."""
    truncated = limit is not None and limit < len(pieces)
    return Output(pieces[:limit] if truncated else pieces, truncated)


def positive(body: Json, *names: str) -> int | None:
    """The first of the integer fields `names` that is set. Raises BadRequestError for another type or less than 1."""
    for name in names:
        value = body.get(name)
        if value is None:
            continue
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise BadRequestError(f"Invalid value for '{name}': expected an integer >= 1.", name)
        return value
    return None


def texts(content: object) -> Iterator[str]:
    """The texts of a message's content: a string, or a list of parts with `text`."""
    if isinstance(content, str):
        yield content
    elif isinstance(content, list):
        for part in content:
            if isinstance(part, str):
                yield part
            elif isinstance(part, Mapping) and isinstance(part.get("text"), str):
                yield part["text"]


def last_user_text(messages: list[Any]) -> str:
    """What the user said last."""
    for message in reversed(messages):
        if isinstance(message, Mapping) and message.get("role") == "user":
            said = " ".join(texts(message.get("content")))
            if said:
                return said
    return ""


def sample(schema: object, depth: int = 0) -> Any:
    """A value that fits a JSON Schema (the part of it that tools and structured output use)."""
    if not isinstance(schema, Mapping) or depth > _MAX_DEPTH:
        return {}
    for key in ("const", "default"):
        if key in schema:
            return schema[key]
    choices = schema.get("enum") or []
    if choices:
        return choices[0]
    for key in ("anyOf", "oneOf", "allOf"):
        if schema.get(key):
            return sample(schema[key][0], depth + 1)
    kind = schema.get("type", "object")
    kind = kind[0] if isinstance(kind, list) and kind else kind
    if kind == "object":
        return {name: sample(item, depth + 1) for name, item in (schema.get("properties") or {}).items()}
    if kind == "array":
        return [sample(schema.get("items"), depth + 1)] if schema.get("minItems") else []
    return {"string": "simulated", "integer": 1, "number": 1.5, "boolean": True}.get(str(kind))
