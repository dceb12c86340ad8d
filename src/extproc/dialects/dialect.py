"""What every wire format must be able to say of itself. One subclass a format; instances hold no state of a call.

A dialect never re-serialises: it finds positions in the caller's bytes and proposes `Edit`s, which `spans.splice` applies.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import ClassVar, Final, NamedTuple, TypeAlias

import msgspec

from extproc.errors import Rejection
from extproc.text import TextFilter
from extproc.usage import Usage


class Edit(NamedTuple):
    """Replace `body[start:end]` (byte offsets of the original body) by `new`. `start == end` inserts."""

    start: int
    end: int
    new: bytes


Path: TypeAlias = tuple[str | int, ...]
KEY: Final = -1
"""The last step of a path that means the name of a member, not its value: `("input", "city", KEY)`."""


_PLAIN_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,40}")
_FREE_FORM: Final = frozenset({"action", "arguments", "attributes", "input", "metadata", "operation", "variables"})


class Text(NamedTuple):
    """One text a human or a model wrote.

    `path` is where (`("messages", 0, "content", 1, "text")`), `kind` what it is: `text`, `name`, `tool_name` (an
    identifier that tools are called by), `tool_description`, `json` (a string that holds a JSON document: the arguments
    of a call), `tool_arguments`, `tool_result`, `metadata`, `url` (a link, or an inline file), `input`, `schema`,
    `signed` (the vendor verifies a signature over it: it may be looked at, and never edited), `credential` (given to the
    vendor so that it can use it, such as a remote tool's token), `key` (the name of a member of tool arguments). A whole
    number of eight digits or more in free-form values is a text too: its digits.
    """

    path: Path
    kind: str
    value: str


def show_path(path: Path) -> str:
    """The path as vendors write it: `messages[0].content[1].text`.

    Names that the caller chose are not shown: those in free-form values, and all that no vendor would use (`{key}`).
    """
    if path and path[-1] == KEY:
        return show_path(path[:-2]) + ".{key}"
    shown: list[str] = []
    free = False
    for number, step in enumerate(path):
        if isinstance(step, int):
            shown.append(f"[{step}]")
            continue
        shown.append(f".{step}" if not free and _PLAIN_NAME.fullmatch(step) else ".{key}")
        free = free or (step in _FREE_FORM and (number > 0 or step != "input"))
    return "".join(shown).removeprefix(".")


class RequestView(ABC):
    """A request body that was read once, checked, and knows where its parts are."""

    model: str | None  # as the caller wrote it; None where the format has none
    stream: bool
    max_output: int | None  # the caller's own cap on output tokens, per choice
    choices: int  # answers asked for (`n`), 1 where the format has none

    @abstractmethod
    def model_edit(self, model: str) -> Edit:
        """The edit that puts `model` in the place of the caller's model name."""

    def usage_edits(self) -> tuple[Edit, ...]:
        """Edits that make the vendor report usage in a stream; empty where it does anyway or the caller asked for it."""
        return ()

    @property
    def stored_history(self) -> str | None:
        """The field by which the request leans on what the vendor stored (`previous_response_id`); None: on nothing."""
        return None

    @property
    def wants_json(self) -> bool:
        """Whether the caller asked for an answer in JSON."""
        return False

    @property
    def unreadable(self) -> str | None:
        """The field that holds a text in a form that nobody here reads (token ids); None: there is none."""
        return None

    @abstractmethod
    def texts(self) -> Iterator[Text]:
        """Every text position, in logical order: tools, system, messages. Cheap: no place is measured."""

    def argument_keys(self) -> Iterator[Text]:
        """Names of the members of tool arguments that are objects, each with a path that ends in `KEY`.

        They are no texts and stay as they are, unless a policy asks for them.
        """
        return iter(())

    def texts_and_keys(self) -> Iterator[Text]:
        """As `texts`, with the argument keys (kind `key`) where they stand in the order."""
        return self.texts()

    def value(self, path: Path) -> object:
        """The parsed value at `path`; None where nothing is there."""
        return None

    @abstractmethod
    def place(self, path: Path) -> tuple[int, int]:
        """Byte offsets of the JSON string literal at `path`, quotes included."""


class ResponseReader(ABC):
    """Follows one response body, in any chunking, and says what it used.

    `feed` returns the bytes to send on: the very object it was given where nothing was edited. It may hold back the
    part of an event that is not yet complete only where it edits; `feed(b"", end=True)` then gives the rest.
    """

    usage: Usage | None = None  # as reported so far; None until the body reports any
    model: str | None = None  # the model the vendor says it used
    finish_reasons: tuple[str, ...] = ()
    error: str | None = None  # the vendor's own error type, where the body is or carries an error
    finished: bool = False  # the body is complete: the terminal event, or the end of a JSON body, was seen
    events: int = 0  # streamed events with content so far: a running estimate of output tokens
    written: int = 0  # UTF-8 bytes of generated text so far in a stream (text, thinking, arguments); 0 for a JSON body

    @property
    def half_sent(self) -> bool:
        """Whether an event went on in part: `abort` would cut it in two now, which SDKs cannot read."""
        return False

    @abstractmethod
    def feed(self, data: bytes, *, end: bool) -> bytes:
        """Take the next piece of the (decoded) body; return what goes on to the caller."""

    @abstractmethod
    def output_texts(self) -> Sequence[str]:
        """The generated texts seen so far (all kinds, joined by nothing), for an estimate after a hang-up."""

    @abstractmethod
    def abort(self, rejection: Rejection) -> bytes:
        """Bytes that end the stream politely, vendor-shaped: close a half-sent event, the error event, the terminator.

        Where a limit is reached (`reading.LIMIT_CODES`) what is open is ended before, for the vendor's own reason: the
        length. All that was fed has gone on. Empty for a JSON body, which cannot be ended politely once it has begun.
        """


class ResponseEditor(ABC):
    """Runs every text of one response body through a `TextFilter`, in any chunking.

    Whole events only go out; one in which nothing changed goes out as the bytes that came. What a filter holds back
    when its channel ends goes into the event that ends it, or into one more delta of the vendor's shape before it.
    """

    unsent: bytes = b""  # whole events of the same piece that came before the one for which `feed` raised

    @abstractmethod
    def feed(self, data: bytes, *, end: bool) -> bytes:
        """Take the next piece of the (decoded) body; return what goes on now. May raise `Rejection`."""


class ErrorAnswer(msgspec.Struct, frozen=True):
    """A refusal in the vendor's own shape."""

    status: int
    headers: tuple[tuple[str, str], ...]
    body: bytes


class ReadLimits(NamedTuple):
    """Bytes: the longest body that is collected to be read at its end, the longest single event of a stream."""

    body: int = 64 << 20
    event: int = 1 << 20


DEFAULT_LIMITS: Final = ReadLimits()


class Dialect(ABC):
    """One wire format of one endpoint."""

    name: ClassVar[str]  # `openai_chat`: the name in config, records and metrics
    api: ClassVar[str]  # `openai` | `anthropic`: whose error shape, whose place for keys
    operation: ClassVar[str]  # OTel `gen_ai.operation.name`: chat, embeddings, count_tokens, models
    method: ClassVar[str] = "POST"
    billable: ClassVar[bool] = True  # False: the vendor charges nothing (models, count_tokens)

    @abstractmethod
    def read_request(self, body: bytes) -> RequestView:
        """Read and check a request body.

        Raises `Rejection` (400) for invalid UTF-8, malformed JSON, trailing data, duplicate keys at any depth, a body
        that is no object, or a wrong type in a field that this gateway reads; the message names the field.
        """

    @abstractmethod
    def reader(self, *, stream: bool, strip_usage: bool = False, limits: ReadLimits = DEFAULT_LIMITS) -> ResponseReader:
        """A reader for the answer. `strip_usage`: we asked for usage in the caller's place, so take its traces out."""

    @abstractmethod
    def editor(self, *, stream: bool, texts: TextFilter, limits: ReadLimits = DEFAULT_LIMITS) -> ResponseEditor:
        """An editor for the answer. A JSON body is held until its end; a stream goes on event by event."""

    @abstractmethod
    def error(self, rejection: Rejection) -> ErrorAnswer:
        """The refusal as the vendor would have said it: status, `content-type`, body; never anything of ours."""
