"""First-byte, idle and total timeouts by model class.

First byte and total go to Envoy as per-request headers; the idle time is a property of the route that the class header
chooses. A stream that outlives its total is ended here, politely, before Envoy would cut it.
"""

from __future__ import annotations

from typing import ClassVar, Final

import msgspec

from extproc.errors import ErrorCode, Rejection
from extproc.exchange.draft import Draft
from extproc.exchange.events import RequestBody, ResponseBody
from extproc.exchange.facts import Facts
from extproc.exchange.policy import Policy
from extproc.policies.grants import matches

CLASS_HEADER: Final = "x-llmi-class"
# Envoy's own cut comes this much after ours: seconds in which a chunk must come for the polite end to be possible
GRACE: Final = 10.0


class TimeoutClass(msgspec.Struct, frozen=True):
    """Seconds."""

    name: str
    first_byte: float
    total: float


class Timeouts(msgspec.Struct, frozen=True):
    """Compiled once per configuration. `by_model`: (glob on the resolved model, class)."""

    default: TimeoutClass
    by_model: tuple[tuple[str, TimeoutClass], ...]

    def of(self, model: str) -> TimeoutClass:
        """The first class whose glob matches, else the default."""
        return next((found for glob, found in self.by_model if matches((glob,), model)), self.default)


class TimeoutsPolicy(Policy):
    """Writes `facts.response.timeout_class`."""

    name: ClassVar[str] = "timeouts"

    def __init__(self, timeouts: Timeouts) -> None:
        """Built per exchange."""
        self._timeouts = timeouts
        self._deadline: float | None = None

    def request_body(self, facts: Facts, event: RequestBody, draft: Draft) -> None:
        """Choose the class."""
        chosen = self._timeouts.of(facts.target.model if facts.target is not None else "")
        facts.response.timeout_class = chosen.name
        self._deadline = event.at + chosen.total
        draft.set[CLASS_HEADER] = chosen.name
        draft.set["x-envoy-upstream-rq-per-try-timeout-ms"] = str(int(chosen.first_byte * 1000))
        grace = GRACE if facts.stream else 0.0
        draft.set["x-envoy-upstream-rq-timeout-ms"] = str(int((chosen.total + grace) * 1000))

    def response_body(self, facts: Facts, event: ResponseBody, draft: Draft) -> None:
        """End a stream that is over its total time. Raises 504, which a running stream gets as its last event."""
        if self._deadline is not None and event.at > self._deadline and not event.end:
            raise Rejection(504, ErrorCode.PROVIDER_TIMEOUT, "The answer took longer than this gateway allows.")
