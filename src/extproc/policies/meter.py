"""How much was used, in one meaning, however the exchange ends.

Reported usage wins. A stream of OpenAI chat reports none unless asked: we ask in the caller's place and take the traces
out again. What was cut short is counted by us and marked as an estimate.
"""

from __future__ import annotations

from typing import ClassVar, Final, cast

import msgspec

from extproc.dialects.encoding import Decoder, make_decoder
from extproc.errors import ErrorCode, Rejection
from extproc.exchange.actions import BodyMode
from extproc.exchange.draft import Draft
from extproc.exchange.effects import CountTokens, Steps
from extproc.exchange.events import RequestBody, ResponseBody, ResponseHeaders
from extproc.exchange.facts import Facts, UsageSource
from extproc.exchange.policy import Policy
from extproc.exchange.record import usage_metadata
from extproc.usage import Usage

_STREAM_TYPES: Final = ("text/event-stream", "application/vnd.amazon.eventstream", "application/x-ndjson")
# running counts go out as metadata once per this many content events: an aborted stream leaves the last of them
_EVERY: Final = 32


class MeterLimits(msgspec.Struct, frozen=True):
    """Bytes. `buffer`: the largest answer that Envoy may hold for us; `total`: the largest that is let through."""

    total: int
    buffer: int = 1 << 20


class MeterPolicy(Policy):
    """Writes `facts.usage`, `usage_source` and `response.reader`."""

    name: ClassVar[str] = "meter"

    def __init__(self, limits: MeterLimits) -> None:
        """Built per exchange."""
        self._limits = limits
        self._strip = False
        self._decoder: Decoder | None = None
        self._published = 0

    def request_body(self, facts: Facts, event: RequestBody, draft: Draft) -> None:
        """Ask for usage where the vendor would not report it."""
        if facts.request is not None and facts.request.stream:
            edits = facts.request.usage_edits()
            draft.edits.extend(edits)
            self._strip = bool(edits)

    def response_headers(self, facts: Facts, event: ResponseHeaders, draft: Draft) -> None:
        """Choose how the body comes: BUFFERED only where its size is known and small (a larger one would hang)."""
        headers = event.headers
        length = headers.get("content-length")
        size = int(length) if length is not None and length.isdigit() else None
        if size is not None and size > self._limits.total:
            raise Rejection(
                502,
                ErrorCode.PROVIDER_RESPONSE_TOO_LARGE,
                f"The provider's answer is larger than {self._limits.total} bytes.",
            )
        dialect = facts.endpoint.dialect if facts.endpoint is not None else None
        if dialect is None or event.end:
            facts.usage_source = UsageSource.UNREAD if dialect is None else UsageSource.NONE
            return
        media = (headers.get("content-type") or "").partition(";")[0].strip().lower()
        stream = media in _STREAM_TYPES
        encoding = headers.get("content-encoding")
        if encoding is not None and encoding.strip().lower() != "identity":
            self._decoder = make_decoder(encoding)
            draft.remove += ["content-encoding", "content-length"]
        facts.response.reader = dialect.reader(stream=stream, strip_usage=self._strip and stream)
        buffered = not stream and size is not None and size <= self._limits.buffer
        draft.body_mode = BodyMode.BUFFERED if buffered else BodyMode.STREAMED
        if stream and self._strip and size is not None:
            draft.remove.append("content-length")  # the edited stream is shorter than announced

    def response_body(self, facts: Facts, event: ResponseBody, draft: Draft) -> bytes | None:
        """Follow the body. Raises 502 over the size cap or for an encoding that cannot be undone."""
        response = facts.response
        if response.bytes > self._limits.total:
            raise Rejection(
                502,
                ErrorCode.PROVIDER_RESPONSE_TOO_LARGE,
                f"The provider's answer is larger than {self._limits.total} bytes.",
            )
        reader = response.reader
        if reader is None:
            return None
        data = event.data if self._decoder is None else self._decoder.feed(event.data, end=event.end)
        out = reader.feed(data, end=event.end)
        if event.end or reader.finished:
            self._settle(facts)
        elif reader.events - self._published >= _EVERY:
            self._published = reader.events
            known = reader.usage or Usage()
            counts = usage_metadata(msgspec.structs.replace(known, output=max(known.output or 0, reader.events)))
            draft.note("llm", usage_source=UsageSource.ESTIMATED.value, **counts)
        return out

    @staticmethod
    def _settle(facts: Facts) -> None:
        reader = facts.response.reader
        if reader is not None and reader.usage is not None and reader.finished:
            facts.usage = reader.usage
            facts.usage_source = UsageSource.REPORTED

    def finish(self, facts: Facts) -> Steps | None:
        """Count what no vendor reported: an answer cut short, or a success without usage."""
        endpoint, request, response = facts.endpoint, facts.request, facts.response
        if facts.usage_source in (UsageSource.REPORTED, UsageSource.UNREAD) or request is None or endpoint is None:
            return None
        dialect = endpoint.dialect
        failed = response.status >= 400 or (response.status == 0 and facts.rejection is not None)
        if dialect is None or not dialect.billable or facts.target is None or failed:
            return None
        if facts.rejection is not None and not response.from_provider:
            return None
        return self._estimate(facts)

    @staticmethod
    def _estimate(facts: Facts) -> Steps:
        request, target, reader = facts.request, facts.target, facts.response.reader
        if request is None or target is None:
            return
        partial = reader.usage if reader is not None and reader.usage is not None else Usage()
        facts.usage_source = UsageSource.ESTIMATED
        facts.usage = partial
        read = partial.input
        if read is None:
            texts = [span.value for span in request.texts()]
            read = cast("int", (yield CountTokens(target.model, texts)))
        facts.usage = msgspec.structs.replace(partial, input=read)
        if reader is not None:
            written = cast("int", (yield CountTokens(target.model, reader.output_texts())))
            output = max(written, partial.output or 0)
            facts.usage = msgspec.structs.replace(partial, input=read, output=output)
