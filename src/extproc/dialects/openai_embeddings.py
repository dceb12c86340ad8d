"""OpenAI Embeddings. Rules: the vendor's API reference, `POST /v1/embeddings`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import msgspec

from extproc.dialects import checks, openai_usage
from extproc.dialects.dialect import (
    DEFAULT_LIMITS,
    Dialect,
    ErrorAnswer,
    Path,
    ReadLimits,
    RequestView,
    ResponseEditor,
    ResponseReader,
)
from extproc.dialects.editing import PassEditor
from extproc.dialects.openai_errors import openai_error
from extproc.dialects.reading import JsonReader, parse
from extproc.dialects.request import JsonRequest
from extproc.dialects.spans import is_array
from extproc.dialects.texts import Walk
from extproc.errors import Rejection
from extproc.text import TextFilter

_SHAPES: Final = "a string, or an array of strings, of token ids or of arrays of token ids"


def _inputs(walk: Walk, value: object, path: Path) -> None:
    walk.every(value, path, "input")


class EmbeddingsRequest(JsonRequest):
    """An Embeddings request."""

    order = (("input", _inputs),)
    opaque = JsonRequest.opaque | {"encoding_format"}

    def check(self) -> None:
        """Check the shape of `input`. Nothing is generated."""
        self.max_output = 0
        value = checks.required(self.tree, "input")
        if type(value) is str:
            return
        if not is_array(value):
            checks.wrong_type("input", _SHAPES, value)
        kinds = set(map(type, value))
        if kinds == {list}:
            kinds = {kind for tokens in value if is_array(tokens) for kind in map(type, tokens)}
            if kinds <= {int}:
                return
        elif len(kinds) <= 1 and kinds <= {str, int}:
            return
        checks.refuse("input", f"expected {_SHAPES}")

    @property
    def unreadable(self) -> str | None:
        """`input` as token ids."""
        value = self.tree["input"]
        return "input" if is_array(value) and value and type(value[0]) is not str else None


class EmbeddingsReader(JsonReader):
    """An Embeddings answer: usage is read, the vectors are not."""

    def read(self, head: dict[str, msgspec.Raw]) -> None:
        """`usage`: input tokens only."""
        self.usage = openai_usage.embeddings(parse(head.get("usage")))

    def texts(self, body: dict[str, object]) -> Iterator[str]:
        """Vectors hold no text."""
        return iter(())


class OpenAIEmbeddings(Dialect):
    """`POST /v1/embeddings`: never a stream."""

    name = "openai_embeddings"
    api = "openai"
    operation = "embeddings"

    def read_request(self, body: bytes) -> RequestView:
        """Read and check the request."""
        return EmbeddingsRequest(body)

    def reader(self, *, stream: bool, strip_usage: bool = False, limits: ReadLimits = DEFAULT_LIMITS) -> ResponseReader:
        """A reader for the JSON body."""
        return EmbeddingsReader(limits.body)

    def editor(self, *, stream: bool, texts: TextFilter, limits: ReadLimits = DEFAULT_LIMITS) -> ResponseEditor:
        """The answer goes on as it is: it holds numbers."""
        return PassEditor()

    def error(self, rejection: Rejection) -> ErrorAnswer:
        """OpenAI's error shape."""
        return openai_error(rejection)
