"""Anthropic's token counting. Rules: the vendor's API reference, `POST /v1/messages/count_tokens`."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from extproc.dialects.anthropic_errors import anthropic_error
from extproc.dialects.anthropic_messages import MessagesRequest
from extproc.dialects.counting import count, known
from extproc.dialects.dialect import (
    DEFAULT_LIMITS,
    Dialect,
    ErrorAnswer,
    ReadLimits,
    RequestView,
    ResponseEditor,
    ResponseReader,
)
from extproc.dialects.editing import PassEditor
from extproc.dialects.reading import JsonReader, parse
from extproc.errors import Rejection
from extproc.text import TextFilter
from extproc.usage import Usage


class CountReader(JsonReader):
    """The answer to a count: what a call would read. Nothing is billed."""

    def read(self, head: dict[str, msgspec.Raw]) -> None:
        """`input_tokens`."""
        self.usage = known(Usage(input=count({"n": parse(head.get("input_tokens"))}, "n")))

    def texts(self, body: dict[str, object]) -> Iterator[str]:
        """Nothing is generated."""
        return iter(())


class AnthropicCountTokens(Dialect):
    """`POST /v1/messages/count_tokens`: a Messages request, never a stream, free of charge."""

    name = "anthropic_count_tokens"
    api = "anthropic"
    operation = "count_tokens"
    billable = False

    def read_request(self, body: bytes) -> RequestView:
        """Read and check the request."""
        return MessagesRequest(body)

    def reader(self, *, stream: bool, strip_usage: bool = False, limits: ReadLimits = DEFAULT_LIMITS) -> ResponseReader:
        """A reader for the JSON body."""
        return CountReader(limits.body)

    def editor(self, *, stream: bool, texts: TextFilter, limits: ReadLimits = DEFAULT_LIMITS) -> ResponseEditor:
        """The answer goes on as it is: it holds numbers."""
        return PassEditor()

    def error(self, rejection: Rejection) -> ErrorAnswer:
        """Anthropic's error shape."""
        return anthropic_error(rejection)
