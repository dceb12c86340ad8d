"""What the model lists of both vendors share: no request body, an answer that costs nothing."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple, NoReturn

import msgspec

from extproc.dialects.dialect import (
    DEFAULT_LIMITS,
    Dialect,
    Edit,
    Path,
    ReadLimits,
    RequestView,
    ResponseEditor,
    ResponseReader,
    Text,
)
from extproc.dialects.editing import PassEditor
from extproc.dialects.reading import JsonReader
from extproc.errors import ErrorCode, Rejection
from extproc.text import TextFilter


class ModelEntry(NamedTuple):
    """One model that a caller may use; `created` in Unix seconds."""

    id: str
    created: int
    owner: str
    display_name: str


class BodilessRequest(RequestView):
    """A request without a body: nothing to edit, nothing to read."""

    def __init__(self) -> None:
        """All fields are at rest."""
        self.model = None
        self.stream = False
        self.max_output = None
        self.choices = 1

    def model_edit(self, model: str) -> Edit:
        """There is no model in a body that is not there: asking is a bug. Raises `ValueError`."""
        _no_body()

    def texts(self) -> Iterator[Text]:
        """No texts."""
        return iter(())

    def place(self, path: Path) -> tuple[int, int]:
        """Nothing is anywhere in a body that is not there: asking is a bug. Raises `ValueError`."""
        _no_body()


def _no_body() -> NoReturn:
    message = "a request without a body has no model and no text to edit"
    raise ValueError(message)


class ModelsReader(JsonReader):
    """A model list: no usage."""

    def read(self, head: dict[str, msgspec.Raw]) -> None:
        """Nothing is used."""
        self.model = None

    def texts(self, body: dict[str, object]) -> Iterator[str]:
        """Nothing is generated."""
        return iter(())


class ModelsDialect(Dialect):
    """`GET /v1/models` and `GET /v1/models/{id}`."""

    operation = "models"
    method = "GET"
    billable = False

    def read_request(self, body: bytes) -> RequestView:
        """A body is refused (400): it would pass unread."""
        if body:
            message = "This endpoint takes no request body."
            raise Rejection(400, ErrorCode.CALLER_MALFORMED_BODY, message)
        return BodilessRequest()

    def reader(self, *, stream: bool, strip_usage: bool = False, limits: ReadLimits = DEFAULT_LIMITS) -> ResponseReader:
        """A reader that only sees whether the body is complete."""
        return ModelsReader(limits.body)

    def editor(self, *, stream: bool, texts: TextFilter, limits: ReadLimits = DEFAULT_LIMITS) -> ResponseEditor:
        """The answer goes on as it is."""
        return PassEditor()
