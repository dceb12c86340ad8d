"""One HTTP exchange: events in, actions out. No I/O, no clock, no protobuf.

Theory of operation. The host feeds `receive` with each event and performs the effects it yields; the value of the
generator is the actions for Envoy. Request policies run in order at the headers and again when the whole body is there;
everything they agreed on (the `Draft`) goes out in one reply, the *commit*: nothing reaches a provider before it. A
`Rejection` becomes an immediate answer while no response header has been released; later it becomes a last, vendor-shaped
event and, if the provider goes on, a reset. `finish` runs once, however the stream ended, and returns the `Record`.

Bodies. Request: BUFFERED (one message) or FULL_DUPLEX_STREAMED (collected here, header reply held back). STREAMED would
release headers before the body is read, so it is a protocol error unless a policy chose it for a body nobody reads.
Response: whatever a policy asks for at the response headers, by mode override.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import Final, TypeAlias, cast

import msgspec

from extproc.dialects import registry
from extproc.dialects.spans import splice
from extproc.errors import EffectError, ErrorCode, ProtocolError, Rejection
from extproc.exchange.actions import (
    Action,
    Answer,
    BodyMode,
    ContinueBody,
    ContinueHeaders,
    ContinueTrailers,
    Metadata,
    Reset,
    StreamBody,
)
from extproc.exchange.draft import UNCHANGED, Draft
from extproc.exchange.effects import Effect, Steps
from extproc.exchange.events import (
    Event,
    RequestBody,
    RequestHeaders,
    RequestTrailers,
    ResponseBody,
    ResponseHeaders,
    ResponseTrailers,
)
from extproc.exchange.facts import Facts, Origin, Outcome
from extproc.exchange.local_replies import local_reply
from extproc.exchange.phases import Phases, Step
from extproc.exchange.record import Ended, Record, final_metadata, make_record, request_metadata
from extproc.exchange.setup import Modes, Setup

Reply: TypeAlias = Generator[Effect, object, tuple[Action, ...]]

ERROR_HEADER: Final = "x-llm-error"
_ROUTED: Final = "x-llmi-routed"  # internal prefix: the inner hop removes it

_GO_REQUEST_HEADERS: Final = (ContinueHeaders(request=True),)
_GO_REQUEST_BODY: Final = (ContinueBody(request=True),)
_GO_RESPONSE_BODY: Final = (ContinueBody(request=False),)


class Exchange:
    """See the module text. Not reusable, not thread-safe; one per ext_proc stream."""

    __slots__ = (
        "_committed",
        "_completed",
        "_draft",
        "_ending",
        "_finished",
        "_modes",
        "_parts",
        "_phases",
        "_policies",
        "_released",
        "_response_draft",
        "_response_mode",
        "_setup",
        "_unread",
        "facts",
    )

    def __init__(self, setup: Setup, origin: Origin, modes: Modes) -> None:
        """`origin`: the host's clocks at the first message; `modes`: what that message announced."""
        self.facts = Facts(origin)
        self._setup = setup
        self._modes = modes
        self._policies = tuple(factory() for factory in setup.factories)
        self._phases = Phases()
        self._draft = Draft()
        self._response_draft = Draft()
        self._response_mode = modes.response
        self._parts: list[bytes] = []
        self._committed = self._released = self._unread = False
        self._completed = self._ending = self._finished = False

    # ---- the three entries ------------------------------------------------------------------------------------

    def receive(self, event: Event) -> Reply:
        """Act on one event. Yields effects; the generator's value is the actions, in order.

        Raises `ProtocolError` where the event may not come now; the host then ends the stream, which fails closed.
        """
        if self._phases.advance(event) is Step.IGNORE:
            return self._repeat(event)
        if self._ending:
            return self._after_end(event)
        try:
            if isinstance(event, RequestHeaders):
                return (yield from self._request_headers(event))
            if isinstance(event, RequestBody):
                return (yield from self._request_body(event))
            if isinstance(event, ResponseHeaders):
                return (yield from self._response_headers(event))
            if isinstance(event, ResponseBody):
                return (yield from self._response_body(event))
            if isinstance(event, RequestTrailers):
                return (yield from self._request_trailers(event))
            return (yield from self._response_trailers(event))
        except Rejection as rejection:
            return self._refuse(rejection)

    @property
    def complete(self) -> bool:
        """Whether both sides have ended and all is answered. Never in full duplex, where an early end loses bytes."""
        return self._phases.done and BodyMode.FULL_DUPLEX_STREAMED not in (self._modes.request, self._modes.response)

    def fail(self) -> tuple[Action, ...]:
        """A policy crashed: the caller gets a generic refusal without detail, or a clean end of its stream."""
        if self._phases.closed or self._ending:
            return (Reset(ErrorCode.GATEWAY_ERROR.value),)
        return self._refuse(Rejection(500, ErrorCode.GATEWAY_ERROR, "The gateway failed to handle this call."))

    def finish(self, ended: Ended) -> Generator[Effect, object, Record]:
        """Settle and sum up; exactly once, after the last event. An effect that fails here loses no other hook."""
        if self._finished:
            raise ProtocolError("finish was called twice")
        self._finished = True
        for index in self._setup.hooks.finish:
            try:
                steps = self._policies[index].finish(self.facts)
                if steps is not None:
                    yield from steps
            except (EffectError, Rejection):
                continue
        return make_record(self.facts, ended)

    # ---- request ----------------------------------------------------------------------------------------------

    def _request_headers(self, event: RequestHeaders) -> Reply:
        yield from self._run(self._setup.hooks.request_headers, "request_headers", event)
        draft = self._draft
        if draft.answer is not None:
            return self._answer(draft.answer)
        if event.end:
            yield from self._commit(event.at)
            return self._go(())
        duplex = self._modes.request is BodyMode.FULL_DUPLEX_STREAMED
        if draft.body_mode is not None:
            self._unread = True
            yield from self._commit(event.at)
            return self._go((), mode=None if duplex else draft.body_mode)
        if duplex:
            return ()
        if self._modes.request is not BodyMode.BUFFERED:
            raise ProtocolError(f"request_body_mode {self._modes.request.name} cannot be inspected: use BUFFERED")
        return _GO_REQUEST_HEADERS

    def _request_body(self, event: RequestBody) -> Reply:
        facts = self.facts
        facts.request_bytes += len(event.data)
        duplex = self._modes.request is BodyMode.FULL_DUPLEX_STREAMED
        if self._unread:
            return (StreamBody(request=True, data=event.data, end=event.end),) if duplex else _GO_REQUEST_BODY
        if self._committed:
            raise ProtocolError("request body after the whole body was answered")
        if facts.request_bytes > self._setup.max_request:
            limit = self._setup.max_request
            raise Rejection(413, ErrorCode.CALLER_BODY_TOO_LARGE, f"The request body is larger than {limit} bytes.")
        self._parts.append(event.data)
        if duplex and not event.end:
            return ()
        body = yield from self._commit(event.at)
        if duplex:
            return self._go((StreamBody(request=True, data=self._whole() if body is None else body, end=True),))
        return self._go(None, body)

    def _request_trailers(self, event: RequestTrailers) -> Reply:
        if self._committed:
            return (ContinueTrailers(request=True),)
        if self._modes.request is not BodyMode.FULL_DUPLEX_STREAMED:
            raise ProtocolError("request trailers before the body was seen")
        body = yield from self._commit(event.at)
        tail = StreamBody(request=True, data=self._whole() if body is None else body, end=False)
        return self._go((tail, ContinueTrailers(request=True)))

    def _whole(self) -> bytes:
        return self._parts[0] if len(self._parts) == 1 else b"".join(self._parts)

    def _commit(self, at: float) -> Generator[Effect, object, bytes | None]:
        """Read the body, let the policies decide, and return the edited body (None: unchanged)."""
        facts, draft = self.facts, self._draft
        body = self._whole()
        dialect = facts.endpoint.dialect if facts.endpoint is not None else None
        if dialect is not None and dialect.method == "POST":
            facts.request = dialect.read_request(body)
        yield from self._run(self._setup.hooks.request_body, "request_body", RequestBody(at, body, end=True))
        draft.merge("llm", request_metadata(facts))
        edited = splice(body, draft.edits) if draft.edits else None
        if edited is not None:
            draft.set["content-length"] = str(len(edited))
        if not draft.set and not draft.remove:
            draft.set[_ROUTED] = "1"  # Envoy ignores clear_route_cache without a header mutation
        self._committed = facts.response.awaited = True
        return edited

    def _go(
        self, rest: tuple[Action, ...] | None, body: bytes | None = None, mode: BodyMode | None = None
    ) -> tuple[Action, ...]:
        """The reply that commits: to the body (`rest` None) or to the headers, followed by `rest`."""
        draft = self._draft
        if draft.answer is not None:
            return self._answer(draft.answer)
        change, metadata = draft.change(), draft.metadata
        self._parts.clear()
        if rest is None:
            return (ContinueBody(request=True, data=body, change=change, reroute=True, metadata=metadata),)
        head = ContinueHeaders(request=True, change=change, body_mode=mode, reroute=True, metadata=metadata)
        return (head, *rest)

    # ---- response ---------------------------------------------------------------------------------------------

    def _response_headers(self, event: ResponseHeaders) -> Reply:
        response, draft = self.facts.response, self._response_draft
        status = event.headers.get(":status") or ""
        response.status = int(status) if status.isdecimal() else 0
        response.started_at = event.at
        rejection = local_reply(event)
        if rejection is not None:
            raise rejection
        if not self._committed:
            raise Rejection(503, ErrorCode.GATEWAY_UNAVAILABLE, "The gateway could not handle this call.")
        response.from_provider = True
        yield from self._run(self._setup.hooks.response_headers, "response_headers", event)
        duplex = self._modes.response is BodyMode.FULL_DUPLEX_STREAMED
        mode = None if duplex else draft.body_mode
        self._response_mode = self._modes.response if mode is None else mode
        self._released = self._response_mode is not BodyMode.BUFFERED
        if event.end or self._response_mode is BodyMode.NONE:
            self._complete()
        override = mode if mode is not None and mode is not self._modes.response and not event.end else None
        change, metadata = draft.change(), self._take_metadata()
        return (ContinueHeaders(request=False, change=change, body_mode=override, metadata=metadata),)

    def _response_body(self, event: ResponseBody) -> Reply:
        facts, draft, data = self.facts, self._response_draft, event.data
        response = facts.response
        if self._response_mode is BodyMode.BUFFERED and not event.end:
            event = ResponseBody(event.at, data, end=True)  # trailers follow: this is the whole body all the same
        if data and response.first_byte_at is None:
            response.first_byte_at = event.at
        response.bytes += len(data)
        piece = yield from self._through(event)
        reader = response.reader
        if event.end or (reader is not None and reader.finished):
            self._complete()
        metadata = self._take_metadata()
        if self._modes.response is BodyMode.FULL_DUPLEX_STREAMED:
            return (StreamBody(request=False, data=piece.data, end=event.end, metadata=metadata),)
        if piece is event and metadata is None:
            return _GO_RESPONSE_BODY
        if piece is event:
            return (ContinueBody(request=False, metadata=metadata),)
        change = UNCHANGED
        if self._response_mode is BodyMode.BUFFERED:  # its reply precedes the release of the headers
            draft.set["content-length"] = str(len(piece.data))
            change = draft.change()
        return (ContinueBody(request=False, data=piece.data, change=change, metadata=metadata),)

    def _through(self, event: ResponseBody) -> Generator[Effect, object, ResponseBody]:
        """A piece of the body through every policy; `event` itself where none edited it."""
        facts, draft, piece = self.facts, self._response_draft, event
        for index in self._setup.hooks.response_body:
            edited = self._policies[index].response_body(facts, piece, draft)
            if edited is not None and edited is not piece.data:
                piece = ResponseBody(event.at, edited, event.end)
        for index in self._setup.hooks.response_progress:
            steps = self._policies[index].response_progress(facts, piece)
            if steps is not None:
                yield from steps
        return piece

    def _response_trailers(self, event: ResponseTrailers) -> Reply:
        tail = yield from self._response_body(ResponseBody(event.at, b"", end=True))
        if self._modes.response is BodyMode.FULL_DUPLEX_STREAMED:
            first = cast("StreamBody", tail[0])
            rest = (StreamBody(request=False, data=first.data, end=False),) if first.data else ()
            return (*rest, ContinueTrailers(request=False, metadata=first.metadata))
        head = tail[0]
        return (ContinueTrailers(request=False, metadata=head.metadata),) if isinstance(head, ContinueBody) else ()

    def _complete(self) -> None:
        """The answer is complete, or as complete as it will be: fix the outcome and publish it."""
        if self._completed:
            return
        self._completed = True
        facts = self.facts
        reader = facts.response.reader
        if facts.response.status >= 400 or (reader is not None and reader.error is not None):
            facts.outcome = Outcome.PROVIDER_ERROR
        elif reader is None or reader.finished:
            facts.outcome = Outcome.OK
        self._response_draft.merge("llm", final_metadata(facts))

    # ---- ends -------------------------------------------------------------------------------------------------

    def _answer(self, answer: Answer) -> tuple[Action, ...]:
        """A policy answers in the provider's place."""
        facts = self.facts
        facts.outcome = Outcome.ANSWERED
        facts.response.status = answer.status
        facts.response.bytes = len(answer.body)
        self._phases.close()
        self._completed = True
        metadata = {"llm": {**request_metadata(facts), **final_metadata(facts)}}
        return (msgspec.structs.replace(answer, metadata=metadata),)

    def _refuse(self, rejection: Rejection) -> tuple[Action, ...]:
        facts = self.facts
        facts.rejection = rejection
        ours = not rejection.code.value.startswith("provider_")
        answered = Outcome.PROVIDER_ERROR if facts.response.from_provider else Outcome.UNREACHABLE
        facts.outcome = Outcome.REFUSED if ours else answered
        self._completed = True
        metadata = {"llm": {**request_metadata(facts), **final_metadata(facts)}}
        if self._released:
            return self._refuse_late(rejection, metadata)
        self._phases.close()
        api = facts.endpoint.api if facts.endpoint is not None else ""
        shaped = registry.error(api, rejection)
        facts.response.status = shaped.status
        headers = (*shaped.headers, *rejection.headers, (ERROR_HEADER, rejection.code.value))
        return (Answer(shaped.status, headers, shaped.body, rejection.code.value, metadata),)

    def _refuse_late(self, rejection: Rejection, metadata: Metadata) -> tuple[Action, ...]:
        """Response headers are out: end the stream with a vendor-shaped event where the format has one."""
        response = self.facts.response
        last = response.unsent + (response.reader.abort(rejection) if response.reader is not None else b"")
        self._ending = True
        if self._modes.response is BodyMode.FULL_DUPLEX_STREAMED:
            return (StreamBody(request=False, data=last, end=True, metadata=metadata),)
        if not last:
            self._phases.close()
            return (Reset(rejection.code.value),)
        return (ContinueBody(request=False, data=last, metadata=metadata),)

    def _after_end(self, event: Event) -> tuple[Action, ...]:
        """The caller has had its last event. A blocked answer ends cleanly: what follows is swallowed. Others are cut."""
        if self._modes.response is BodyMode.FULL_DUPLEX_STREAMED or self._phases.closed:
            return ()
        if isinstance(event, ResponseBody):
            if event.end or (self.facts.rejection and self.facts.rejection.code is ErrorCode.POLICY_CONTENT_BLOCKED):
                return (ContinueBody(request=False, data=b""),)
            self._phases.close()
            return (Reset("stream_ended_by_policy"),)
        if isinstance(event, RequestTrailers | ResponseTrailers):
            return (ContinueTrailers(request=isinstance(event, RequestTrailers)),)
        raise ProtocolError(f"{type(event).__name__} after the last event of the answer")

    def _repeat(self, event: Event) -> tuple[Action, ...]:
        """A harmless repeat gets the harmless answer; after a close Envoy waits for none."""
        if self._phases.closed:
            return ()
        request = isinstance(event, RequestBody | RequestTrailers)
        mode = self._modes.request if request else self._modes.response
        if isinstance(event, RequestTrailers | ResponseTrailers):
            return (ContinueTrailers(request=request),)
        return () if mode is BodyMode.FULL_DUPLEX_STREAMED else (ContinueBody(request=request),)

    def _run(self, indexes: list[int], hook: str, event: Event) -> Steps:
        draft = self._draft if isinstance(event, RequestHeaders | RequestBody) else self._response_draft
        for index in indexes:
            steps = getattr(self._policies[index], hook)(self.facts, event, draft)
            if steps is not None:
                yield from steps
            if draft.answer is not None:
                return

    def _take_metadata(self) -> Metadata | None:
        draft = self._response_draft
        if not draft.metadata:
            return None
        taken, draft.metadata = draft.metadata, {}
        return taken
