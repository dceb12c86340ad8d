"""What Envoy shall do next. The codec in `adapters` turns each into one ProcessingResponse.

A header mutation is a pair of `set` (name, value: overwrite or add) and `remove` (names).
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum

import msgspec

Metadata = Mapping[str, object]
"""Dynamic metadata by namespace: JSON-like values (str, bool, float, list, dict), for google.protobuf.Struct."""


class Fixed(dict[str, object]):
    """A piece of metadata that is the same for many calls and is never changed: the codec keeps its encoding with it."""

    __slots__ = ("encoded",)

    def __init__(self, values: Mapping[str, object]) -> None:
        """`values` are copied."""
        super().__init__(values)
        self.encoded: bytes | None = None


class BodyMode(Enum):
    """How Envoy hands us a body: the values of ProcessingMode.BodySendMode."""

    NONE = 0
    STREAMED = 1
    BUFFERED = 2
    FULL_DUPLEX_STREAMED = 4


class HeaderChange(msgspec.Struct, frozen=True):
    """A header mutation."""

    set: tuple[tuple[str, str], ...] = ()
    remove: tuple[str, ...] = ()


class ContinueHeaders(msgspec.Struct, frozen=True):
    """Go on after headers. `body_mode` overrides how the body of this direction is sent to us.

    `reroute` clears Envoy's route cache; Envoy ignores that without a header mutation in the same reply, so the codec
    refuses `reroute` with an empty `change`.
    """

    request: bool
    change: HeaderChange = HeaderChange()
    body_mode: BodyMode | None = None
    reroute: bool = False
    metadata: Metadata | None = None


class ContinueBody(msgspec.Struct, frozen=True):
    """Go on after (a piece of) a body. `data` None: unchanged; otherwise it replaces the piece, possibly by nothing.

    With a BUFFERED request body `change` still applies to the request headers. `data` in BUFFERED mode needs
    `content-length` in `change` (Envoy answers 500 otherwise); the machine sets it.
    """

    request: bool
    data: bytes | None = None
    change: HeaderChange = HeaderChange()
    reroute: bool = False
    metadata: Metadata | None = None


class StreamBody(msgspec.Struct, frozen=True):
    """FULL_DUPLEX_STREAMED only: send `data` on; any number of these may answer any number of body events."""

    request: bool
    data: bytes
    end: bool
    metadata: Metadata | None = None


class ContinueTrailers(msgspec.Struct, frozen=True):
    """Go on after trailers."""

    request: bool
    metadata: Metadata | None = None


class Answer(msgspec.Struct, frozen=True):
    """Answer in the provider's place, before any response header went out (ImmediateResponse).

    `details` lands in Envoy's %RESPONSE_CODE_DETAILS%.
    """

    status: int
    headers: tuple[tuple[str, str], ...] = ()
    body: bytes = b""
    details: str = ""
    metadata: Metadata | None = None


class Reset(msgspec.Struct, frozen=True):
    """End the exchange hard: the caller sees its stream reset. Only after a polite end was sent, or none is possible."""

    details: str


Action = ContinueHeaders | ContinueBody | StreamBody | ContinueTrailers | Answer | Reset
