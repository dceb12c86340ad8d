"""How much was used, in one meaning, however the exchange ends.

Reported usage wins. A stream of OpenAI chat reports none unless asked: we ask in the caller's place and take the traces
out again. What was cut short is counted by us and marked as an estimate.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from itertools import islice
from typing import ClassVar, Final, cast

import msgspec

from extproc.dialects.dialect import ReadLimits, RequestView, ResponseReader
from extproc.dialects.encoding import Decoder, decoder
from extproc.errors import EffectError, ErrorCode, Rejection
from extproc.exchange.actions import BodyMode
from extproc.exchange.draft import Draft
from extproc.exchange.effects import CountTokens, Effect, Steps
from extproc.exchange.events import RequestBody, ResponseBody, ResponseHeaders
from extproc.exchange.facts import Facts, UsageSource
from extproc.exchange.policy import Policy
from extproc.exchange.record import usage_metadata
from extproc.usage import Usage

_STREAM_TYPES: Final = ("text/event-stream", "application/vnd.amazon.eventstream", "application/x-ndjson")
# running counts go out as metadata once per this many content events: an aborted stream leaves the last of them
_EVERY: Final = 32
_BYTES_A_TOKEN: Final = 3  # fewer than text has on the average: an estimate that errs, errs high
_ATTACHED: Final = "url"  # the kind of a text that is a link to an image or a file, or holds its base64
_TOKENS_ATTACHED: Final = 1500  # what the vendors take for a large image


# texts of a request that are counted one by one; a request of more is mostly structure
_MOST_TEXTS: Final = 10_000
PROVIDER_HEADER: Final = "x-llmi-provider"
"""Set by the inner hop on each answer (`envoy/xds/egress_<provider>.yaml`); one of a vendor's own is removed before."""


_RESET_AFTER_SENDING: Final = ("connection_termination", "remote_reset")


class MeterLimits(msgspec.Struct, frozen=True):
    """Bytes.

    `total`: the largest answer that is let through; `event`: the largest event of a stream; `buffer`: the largest
    answer that Envoy may hold for us. Envoy's own limit for that is the route's `request_body_buffer_limit`.
    """

    total: int
    event: int = 1 << 20
    buffer: int = 1 << 20


class MeterPolicy(Policy):
    """Writes `facts.usage`, `usage_source` and `response.reader`."""

    name: ClassVar[str] = "meter"

    def __init__(self, limits: MeterLimits) -> None:
        """Built per exchange."""
        self._limits = limits
        self._strip = False
        self._refused = False  # by the provider: it did no work
        self._decoder: Decoder | None = None
        self._decoded = 0  # bytes
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
        facts.response.provider = headers.get(PROVIDER_HEADER) or ""
        self._refused = facts.response.status >= 400
        length = headers.get("content-length")
        size = int(length) if length is not None and length.isdecimal() else None
        if size is not None and size > self._limits.total:
            raise self._too_large()
        dialect = facts.endpoint.dialect if facts.endpoint is not None else None
        if dialect is None or event.end:
            facts.usage_source = UsageSource.UNREAD if dialect is None else UsageSource.NONE
            return
        media = (headers.get("content-type") or "").partition(";")[0].strip().lower()
        stream = media in _STREAM_TYPES
        encoding = headers.get("content-encoding")
        if encoding is not None and encoding.strip().lower() != "identity":
            self._decoder = decoder(encoding, self._limits.total)
            draft.remove += ["content-encoding", "content-length"]
        facts.response.stream = stream
        facts.response.reader = dialect.reader(
            stream=stream,
            strip_usage=self._strip and stream,
            limits=ReadLimits(self._limits.total, self._limits.event),
        )
        buffered = not stream and size is not None and size <= self._limits.buffer
        draft.body_mode = BodyMode.BUFFERED if buffered else BodyMode.STREAMED
        if stream and self._strip and size is not None:
            draft.remove.append("content-length")  # the edited stream is shorter than announced

    def response_body(self, facts: Facts, event: ResponseBody, draft: Draft) -> bytes | None:
        """Follow the body. Raises 502 over the size cap or for an encoding that cannot be undone."""
        response = facts.response
        if response.bytes > self._limits.total:
            raise self._too_large()
        reader = response.reader
        if reader is None:
            return None
        data = event.data
        if self._decoder is not None:
            data = self._decoder.feed(data, end=event.end)
            self._decoded += len(data)
            if self._decoded > self._limits.total:
                raise self._too_large()
        out = reader.feed(data, end=event.end)
        if event.end or reader.finished:
            self._settle(facts, reader)
        elif reader.events - self._published >= _EVERY:
            self._published = reader.events
            known = reader.usage or Usage()
            counts = usage_metadata(msgspec.structs.replace(known, output=max(known.output or 0, reader.events)))
            draft.note("llm", usage_source=UsageSource.ESTIMATED.value, **counts)
        return out

    def _too_large(self) -> Rejection:
        message = f"The provider's answer is larger than {self._limits.total} bytes."
        return Rejection(502, ErrorCode.PROVIDER_RESPONSE_TOO_LARGE, message)

    @staticmethod
    def _settle(facts: Facts, reader: ResponseReader) -> None:
        if reader.finished:
            MeterPolicy._take(facts, reader.usage)

    @staticmethod
    def _take(facts: Facts, usage: Usage | None) -> None:
        if usage is not None:
            facts.usage = usage
            billable = facts.endpoint is None or facts.endpoint.dialect is None or facts.endpoint.dialect.billable
            facts.usage_source = UsageSource.REPORTED if billable else UsageSource.NONE

    def finish(self, facts: Facts) -> Steps | None:
        """Count what no vendor reported: an answer cut short, or a success without usage."""
        endpoint, request = facts.endpoint, facts.request
        if facts.usage_source is UsageSource.REPORTED or endpoint is None or not self._reached(facts):
            return None
        reader = facts.response.reader
        if reader is not None and _is_final(reader):
            self._take(facts, reader.usage)
            return None
        if endpoint.dialect is None:
            facts.usage_source = UsageSource.UNREAD
            return None
        if request is None or not endpoint.dialect.billable or self._refused:
            return None
        return self._estimate(facts)

    @staticmethod
    def _reached(facts: Facts) -> bool:
        """Whether the provider may have worked: it answered, was too slow to, or the exchange ended before it could."""
        if facts.target is None or not facts.response.awaited:
            return False
        rejection = facts.rejection
        if rejection is None or facts.response.from_provider or rejection.code is ErrorCode.PROVIDER_TIMEOUT:
            return True
        # Envoy's response code details: the connection stood, so the provider had the request when it was reset
        return any(word in rejection.detail for word in _RESET_AFTER_SENDING)

    @staticmethod
    def _estimate(facts: Facts) -> Steps:
        request, target, reader, response = facts.request, facts.target, facts.response.reader, facts.response
        if request is None or target is None:
            return
        partial = reader.usage if reader is not None and reader.usage is not None else Usage()
        facts.usage_source = UsageSource.ESTIMATED
        read = partial.input
        if read is None:
            read = yield from _read(request, target.model, facts.request_bytes)
        facts.usage = msgspec.structs.replace(partial, input=read)
        operation = facts.endpoint.dialect.operation if facts.endpoint is not None and facts.endpoint.dialect else ""
        if operation != "chat":
            return
        if reader is None:  # not one byte came
            facts.usage = msgspec.structs.replace(partial, input=read, output=0)
            return
        texts = reader.output_texts()
        written = yield from _count(target.model, texts)
        if not texts and not reader.finished and not facts.stream:
            written = response.bytes // _BYTES_A_TOKEN  # the beginning of a JSON body, which cannot be read
        output = max(written, partial.output or 0, reader.events)
        facts.usage = msgspec.structs.replace(partial, input=read, output=output)


def _is_final(reader: ResponseReader) -> bool:
    """Whether the usage is the whole answer's: it came with, or after, the reason why the answer ended."""
    return reader.usage is not None and reader.usage.output is not None and bool(reader.finish_reasons)


def _read(request: RequestView, model: str, size: int) -> Generator[Effect, object, int]:
    """Tokens of a request of `size` bytes: its texts are counted, and each image or file in it by a flat number."""
    try:
        found = list(islice(request.texts(), _MOST_TEXTS))
    except Rejection:  # nested deeper than texts can be found in
        found = []
    if not found:  # token ids, or nothing that can be found
        return size // _BYTES_A_TOKEN
    texts = [text.value for text in found if text.kind != _ATTACHED]
    return (len(found) - len(texts)) * _TOKENS_ATTACHED + (yield from _count(model, texts))


def _count(model: str, texts: Sequence[str]) -> Generator[Effect, object, int]:
    """Tokens of `texts`; by their length where they cannot be counted, since a call that was made is never free."""
    try:
        return cast("int", (yield CountTokens(model, texts)))
    except EffectError:
        return sum(len(text.encode()) for text in texts) // _BYTES_A_TOKEN + 1
