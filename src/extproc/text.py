"""What the rooms say to each other about texts: what was found in one, and what becomes of one that streams."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple, Protocol, TypeAlias

Check: TypeAlias = Callable[[], None]
"""Called now and then by work that may take long; raises `errors.BudgetExceededError` when the time is up."""


def never() -> None:
    """A check without a limit."""


class Finding(NamedTuple):
    """Something sensitive: characters `start` to `end` of a text are a `kind` (`EMAIL_ADDRESS`), by `rule`.

    `score` is between 0 and 1. The value itself is nowhere kept.
    """

    kind: str
    start: int
    end: int
    score: float
    rule: str = ""


class Detector(Protocol):
    """Finds entities in a text; overlapping findings are possible. Safe to use from one thread at a time."""

    def scan(self, text: str, check: Check = never) -> list[Finding]:
        """All findings, in any order. Never skips a part: what it cannot do raises."""


ChannelKind: TypeAlias = Literal["text", "json", "name"]
"""Plain text; a JSON document in a string (a tool's arguments); an identifier that is never split."""


class Channel(NamedTuple):
    """One text that grows while an answer streams: the content of choice 0, the arguments of its second tool call."""

    key: tuple[str | int, ...]
    kind: ChannelKind


class TextFilter(Protocol):
    """Edits the texts of one answer. What goes in and comes out is decoded text, never its JSON escapes."""

    def piece(self, channel: Channel, text: str) -> str:
        """The next piece of a channel -> what can go on now; a rest may be held back. May raise `Rejection`."""

    def end(self, channel: Channel) -> str:
        """The channel is complete -> what was held back. A channel that is unknown or ended gives nothing."""

    def whole(self, kind: ChannelKind, text: str) -> str:
        """A complete text -> the edited text, the very same object where nothing changed."""


class DatabaseStore(Protocol):
    """Keeps compiled pattern databases between starts, so that a worker need not compile them again."""

    def get(self, key: str) -> bytes | None:
        """The bytes that were put, or None where there are none or they are damaged."""

    def put(self, key: str, data: bytes) -> None:
        """Keep `data`; a failure to do so is not an error."""


Findings: TypeAlias = Sequence[tuple[Finding, ...]]
"""Per text, in the order of the texts asked for: findings that do not overlap, by start."""
