"""A JSON request that was read once: what all the formats here have in common."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import ClassVar, Final, TypeAlias

import orjson

from extproc.dialects import checks, spans
from extproc.dialects.dialect import Edit, Path, RequestView, Text, show_path
from extproc.dialects.spans import Member, Places, is_array, is_object
from extproc.dialects.texts import SIGNED, Walk, keys_below
from extproc.errors import ErrorCode, Rejection

Step: TypeAlias = Callable[[Walk, object, Path], None]
"""How the texts of one top-level field are found."""


def content(walk: Walk, value: object, path: Path) -> None:
    """Messages, instructions, items: whatever is text in them."""
    walk.content(value, path, "text")


def tools(walk: Walk, value: object, path: Path) -> None:
    """Definitions of tools, and of the servers that offer them."""
    walk.tools(value, path)


def tool_choice(walk: Walk, value: object, path: Path) -> None:
    """Which tool must be called: a constant of the vendor, or an object that names tools."""
    if type(value) is str:
        walk.constants(value, path)
    else:
        walk.tools(value, path)


def answer_format(walk: Walk, value: object, path: Path) -> None:
    """The schema of a structured answer; its `name` is no tool's."""
    walk.tools(value, path, "name")


_FORMATS: Final = (("response_format",), ("text", "format"), ("output_config", "format"), ("output_format",))


class JsonRequest(RequestView):
    """A JSON object with `model`. Subclasses name the fields whose texts come first; all other fields follow."""

    # (field, how to walk it), in logical order: tools, system, messages
    order: ClassVar[Sequence[tuple[str, Step]]] = ()
    # fields whose strings are constants or ids of the vendor; one that does not look like it is a text all the same
    opaque: ClassVar[frozenset[str]] = frozenset({"model", "service_tier", "stream", "stream_options"})
    # by type of a part: the field of it that the vendor's signature beside it covers
    signed: ClassVar[Mapping[str, str]] = {"reasoning.text": SIGNED["reasoning.text"]}
    # fields that name something the vendor stored
    stored: ClassVar[tuple[str, ...]] = ()

    def __init__(self, body: bytes) -> None:
        """Read and check `body`; raises `Rejection` (400)."""
        self.body = body
        self.tree = spans.read_object(body)
        self._places = Places(body)
        self._walked: Walk | None = None
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
        return self._places.members(())

    def place(self, path: Path) -> tuple[int, int]:
        """Byte offsets of the literal at `path`; each container on the way is measured once."""
        return self._places.place(path)

    def value(self, path: Path) -> object:
        """The parsed value at `path`; None where nothing is there."""
        found: object = self.tree
        for step in path:
            if is_object(found) and type(step) is str:
                found = found.get(step)
            elif is_array(found) and type(step) is int and 0 <= step < len(found):
                found = found[step]
            else:
                return None
        return found

    def model_edit(self, model: str) -> Edit:
        """Put `model` in the place of the caller's model name."""
        place = self.places["model"]
        return Edit(place.start, place.end, orjson.dumps(model))

    def texts(self) -> Iterator[Text]:
        """Every text: the ordered fields first, then the others as they come. Raises `Rejection` (400) if too deep."""
        return iter(self._walk().texts)

    def argument_keys(self) -> Iterator[Text]:
        """Names of the members of tool arguments."""
        for _, path, value in self._walk().arguments:
            yield from keys_below(value, path, "key")

    def texts_and_keys(self) -> Iterator[Text]:
        """As `texts`, with the names of the members of tool arguments before the texts of each."""
        walk = self._walk()
        done = 0
        for before, path, value in walk.arguments:
            yield from walk.texts[done:before]
            yield from keys_below(value, path, "key")
            done = before
        yield from walk.texts[done:]

    @property
    def wants_json(self) -> bool:
        """By Chat's `response_format`, Responses' `text.format`, Messages' `output_config.format`, or its older name."""
        return any(str(self.value((*path, "type"))).startswith("json") for path in _FORMATS if path[0] in self.tree)

    @property
    def stored_history(self) -> str | None:
        """The first field that names something the vendor stored."""
        path = next(self.leanings(), None)
        return None if path is None else show_path(path)

    def leanings(self) -> Iterator[Path]:
        """Paths of all such fields: those of the format first, then ids within messages and tools."""
        for field in self.stored:
            if self.tree.get(field):
                yield (field,)
        yield from self._walk().stored

    def _walk(self) -> Walk:
        if self._walked is None:
            try:
                self._walked = self._find()
            except RecursionError:
                message = "The JSON body of your request is nested too deep to be inspected."
                raise Rejection(400, ErrorCode.CALLER_MALFORMED_BODY, message) from None
        return self._walked

    def _find(self) -> Walk:
        walk = Walk(signed=self.signed, asked=True)
        first = dict(self.order)
        for field, step in self.order:
            if field in self.tree:
                step(walk, self.tree[field], (field,))
        for field, value in self.tree.items():
            if field in self.opaque:
                if field != "model":  # has rules of its own
                    walk.constants(value, (field,))
            elif field not in first:
                walk.every(value, (field,), "metadata")
        return walk


def stored_item(value: object) -> bool:
    """Whether an item of a Responses `input` is only a reference; the reference's `type` may be left out."""
    if not is_object(value) or not value.get("id"):
        return False
    return value.get("type") == "item_reference" or (value.get("type") is None and value.keys() <= {"id", "type"})
