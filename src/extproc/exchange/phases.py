"""Which event may come when: one table, two coupled sides. Nothing else decides order.

Theory of operation. An exchange has a request side and a response side. Each walks HEADERS -> BODY -> DONE. The sides
are coupled in one way only: once either is CLOSED (we answered, or ended the stream) both are, and what Envoy had
already sent is ignored. Two things that look like errors are not:

- response headers may come before the request body has ended (an early answer), or with no request event at all (a
  local reply that Envoy made before this filter saw the request: ext_proc is on the response path of those too);
- an empty end-of-stream body may be repeated (envoyproxy/envoy#46237); a repeat that carries bytes is an error, since
  they would be forwarded unread.
"""

from __future__ import annotations

from enum import Enum, IntEnum, auto

from extproc.errors import ProtocolError
from extproc.exchange.events import (
    Event,
    RequestBody,
    RequestHeaders,
    RequestTrailers,
    ResponseBody,
    ResponseHeaders,
    ResponseTrailers,
)


class Phase(IntEnum):  # an int's hash is computed in C: it is looked up for every event
    """Where one side stands: what it waits for."""

    HEADERS = auto()
    BODY = auto()
    DONE = auto()
    CLOSED = auto()


class Step(Enum):
    """What the machine shall do with the event."""

    TAKE = auto()
    IGNORE = auto()  # a harmless repeat: answered without effect


_NEXT: dict[tuple[Phase, type[Event], bool], tuple[Phase, Step]] = {
    # (phase of that side, event, it ends the side) -> (next phase, what to do)
    (Phase.HEADERS, RequestHeaders, False): (Phase.BODY, Step.TAKE),
    (Phase.HEADERS, RequestHeaders, True): (Phase.DONE, Step.TAKE),
    (Phase.BODY, RequestBody, False): (Phase.BODY, Step.TAKE),
    (Phase.BODY, RequestBody, True): (Phase.DONE, Step.TAKE),
    (Phase.BODY, RequestTrailers, True): (Phase.DONE, Step.TAKE),
    (Phase.DONE, RequestBody, True): (Phase.DONE, Step.IGNORE),
    (Phase.DONE, RequestTrailers, True): (Phase.DONE, Step.IGNORE),
    (Phase.HEADERS, ResponseHeaders, False): (Phase.BODY, Step.TAKE),
    (Phase.HEADERS, ResponseHeaders, True): (Phase.DONE, Step.TAKE),
    (Phase.BODY, ResponseBody, False): (Phase.BODY, Step.TAKE),
    (Phase.BODY, ResponseBody, True): (Phase.DONE, Step.TAKE),
    (Phase.BODY, ResponseTrailers, True): (Phase.DONE, Step.TAKE),
    (Phase.DONE, ResponseBody, True): (Phase.DONE, Step.IGNORE),
    (Phase.DONE, ResponseTrailers, True): (Phase.DONE, Step.IGNORE),
}

_REQUEST_SIDE = frozenset({RequestHeaders, RequestBody, RequestTrailers})


def carries_data(event: Event) -> bool:
    """Whether the event is a body with bytes in it."""
    return isinstance(event, RequestBody | ResponseBody) and bool(event.data)


class Phases:
    """The two sides of one exchange."""

    __slots__ = ("request", "response")

    def __init__(self) -> None:
        """Both sides wait for headers."""
        self.request = Phase.HEADERS
        self.response = Phase.HEADERS

    @property
    def closed(self) -> bool:
        """Whether the exchange was ended by us."""
        return self.request is Phase.CLOSED

    @property
    def done(self) -> bool:
        """Whether both sides have ended by themselves."""
        return self.response is Phase.DONE and self.request is Phase.DONE

    def close(self) -> None:
        """End both sides: nothing that comes later is acted on."""
        self.request = self.response = Phase.CLOSED

    def advance(self, event: Event) -> Step:
        """Move the side of `event` on. Raises `ProtocolError` if the event may not come now."""
        if self.request is Phase.CLOSED:
            return Step.IGNORE
        kind = type(event)
        on_request = kind in _REQUEST_SIDE
        phase = self.request if on_request else self.response
        ends = getattr(event, "end", True)
        found = _NEXT.get((phase, kind, ends))
        if found is None or (found[1] is Step.IGNORE and carries_data(event)):
            raise ProtocolError(f"{type(event).__name__} (end={ends}) while that side is {phase.name}")
        if on_request:
            self.request = found[0]
        else:
            self.response = found[0]
        return found[1]
