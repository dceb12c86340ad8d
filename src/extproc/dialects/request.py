"""A JSON request that was read once: what all the formats here have in common."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import ClassVar

import orjson

from extproc.dialects import checks, spans, texts
from extproc.dialects.dialect import Edit, RequestView, TextSpan
from extproc.dialects.spans import Member, Node

Walk = Callable[[Node, str], Iterator[TextSpan]]

CONTENT: Walk = partial(texts.content, kind="text")
TOOLS: Walk = texts.tools


class JsonRequest(RequestView):
    """A JSON object with `model`. Subclasses name the fields whose texts come first; all other fields follow."""

    # (field, how to walk it), in logical order: tools, system, messages
    order: ClassVar[Sequence[tuple[str, Walk]]] = ()
    # fields whose strings are constants or ids of the vendor
    opaque: ClassVar[frozenset[str]] = frozenset({"model", "service_tier", "stream", "stream_options", "tool_choice"})

    def __init__(self, body: bytes) -> None:
        """Read and check `body`; raises `Rejection` (400)."""
        self.body = body
        self.tree = spans.read_object(body)
        self._places: dict[str, Member] | None = None
        self.choices = 1
        self.max_output = None
        self.model = checks.model(self.tree)
        self.stream = checks.flag(self.tree, "stream")
        self.check()

    def check(self) -> None:
        """Check and read the fields of this format; raises `Rejection` (400)."""

    @property
    def places(self) -> dict[str, Member]:
        """Where the top-level members are; measured at the first call."""
        if self._places is None:
            self._places = spans.members(self.body)
        return self._places

    def model_edit(self, model: str) -> Edit:
        """Put `model` in the place of the caller's model name."""
        place = self.places["model"]
        return Edit(place.start, place.end, orjson.dumps(model))

    def texts(self) -> Iterator[TextSpan]:
        """Every text: the ordered fields first, then the others as they come."""
        first = dict(self.order)
        for field, walk in self.order:
            if field in self.tree:
                yield from walk(self._node(field), field)
        for field in self.tree:
            if field not in first and field not in self.opaque:
                yield from texts.every(self._node(field), field, "metadata")

    def _node(self, field: str) -> Node:
        place = self.places[field]
        return Node(self.body, self.tree[field], place.start, place.end)
