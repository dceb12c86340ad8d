"""The machine, played with small policies: order, commit, refusals, ends."""

from __future__ import annotations

from typing import ClassVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

from extproc.errors import EffectError, ErrorCode, ProtocolError, Rejection
from extproc.exchange.actions import (
    Answer,
    BodyMode,
    ContinueBody,
    ContinueHeaders,
    ContinueTrailers,
    Reset,
    StreamBody,
)
from extproc.exchange.effects import CountTokens, FindKey
from extproc.exchange.events import (
    RequestBody,
    RequestHeaders,
    RequestTrailers,
    ResponseBody,
    ResponseHeaders,
    ResponseTrailers,
)
from extproc.exchange.facts import Outcome
from extproc.exchange.policy import Hooks, Policy
from extproc.exchange.setup import Modes, Setup
from playbook import Playbook, headers

DUPLEX = Modes(BodyMode.FULL_DUPLEX_STREAMED, BodyMode.FULL_DUPLEX_STREAMED)


def setup(*policies: type[Policy], limit: int = 1000) -> Setup:
    return Setup(policies, Hooks(policies), limit)


class Trace(Policy):
    """Remembers the order of hooks in a list that the test gives."""

    seen: ClassVar[list[str]] = []

    def request_headers(self, facts, event, draft):
        self.seen.append(f"{self.name}.request_headers")

    def request_body(self, facts, event, draft):
        self.seen.append(f"{self.name}.request_body")

    def response_headers(self, facts, event, draft):
        self.seen.append(f"{self.name}.response_headers")
        draft.body_mode = BodyMode.STREAMED

    def response_body(self, facts, event, draft):
        self.seen.append(f"{self.name}.response_body")

    def finish(self, facts):
        self.seen.append(f"{self.name}.finish")


def tracers() -> tuple[list[str], tuple[type[Policy], ...]]:
    seen: list[str] = []
    kinds = tuple(type(name, (Trace,), {"seen": seen, "name": name}) for name in ("a", "b"))
    return seen, kinds


class Refuses(Policy):
    """Refuses in the hook that `where` names."""

    where: ClassVar[str] = "request_headers"
    code: ClassVar[ErrorCode] = ErrorCode.POLICY_MODEL_NOT_ALLOWED

    def _maybe(self, hook):
        if self.where == hook:
            raise Rejection(403, self.code, "no")

    def request_headers(self, facts, event, draft):
        self._maybe("request_headers")

    def request_body(self, facts, event, draft):
        self._maybe("request_body")

    def response_headers(self, facts, event, draft):
        draft.body_mode = getattr(self, "mode", BodyMode.STREAMED)
        self._maybe("response_headers")

    def response_body(self, facts, event, draft):
        self._maybe("response_body")


def refuses(hook: str, **fields) -> type[Policy]:
    return type("Refuses", (Refuses,), {"where": hook, **fields})


def test_the_request_runs_in_order_and_the_response_in_reverse():
    """One visible tuple, reversed on the way back; finish too."""
    seen, kinds = tracers()
    play = Playbook(setup(*kinds))
    play.request()
    play.body(b"{}")
    play.response()
    play.answer(b"{}")
    play.finish()

    assert [
        "a.request_headers", "b.request_headers", "a.request_body", "b.request_body",
        "b.response_headers", "a.response_headers", "b.response_body", "a.response_body", "b.finish", "a.finish",
    ] == seen  # fmt: skip


def test_nothing_is_released_before_the_body_was_judged():
    """The header reply is a bare continue; the commit rides on the body's reply and always clears the route."""
    play = Playbook(setup(Policy))

    assert (ContinueHeaders(request=True),) == play.request()
    (reply,) = play.body(b"{}")
    assert isinstance(reply, ContinueBody)
    assert reply.reroute
    assert reply.change.set, "Envoy ignores clear_route_cache without a header mutation"
    assert reply.data is None


def test_a_request_without_a_body_commits_at_the_headers():
    """GET: the processor never gets a body callback."""
    (reply,) = Playbook(setup(Policy)).request("/v1/x", end=True)

    assert isinstance(reply, ContinueHeaders)
    assert reply.reroute


@pytest.mark.parametrize("hook", ["request_headers", "request_body"])
def test_a_refusal_before_the_commit_is_an_answer_and_closes_both_directions(hook):
    """Whatever Envoy had already sent is ignored, and no body is forwarded."""
    play = Playbook(setup(refuses(hook)))
    actions = play.request()
    if hook == "request_body":
        actions = play.body(b"{}")

    (answer,) = actions
    assert isinstance(answer, Answer)
    assert answer.status == 403
    assert ("x-llm-error", "policy_model_not_allowed") in answer.headers
    assert () == play.tell(RequestBody(play.at(), b"late", True))
    assert () == play.tell(ResponseHeaders(play.at(), headers(p_status="200"), False))
    record = play.finish()
    assert ("refused", "policy_model_not_allowed", 403) == (record.outcome, record.error, record.status)


def test_a_body_over_the_limit_is_413():
    """The cap is ours, with our own answer."""
    play = Playbook(setup(Policy, limit=10))
    play.request()
    (answer,) = play.body(b"x" * 11)

    assert isinstance(answer, Answer)
    assert answer.status == 413
    assert ("x-llm-error", "caller_body_too_large") in answer.headers


def test_a_body_of_exactly_the_limit_passes():
    """The boundary belongs to the caller."""
    play = Playbook(setup(Policy, limit=10))
    play.request()

    assert isinstance(play.body(b"x" * 10)[0], ContinueBody)


def test_a_refusal_at_response_headers_replaces_the_answer():
    """Nothing has been released yet."""
    play = Playbook(setup(refuses("response_headers")))
    play.request()
    play.body(b"{}")
    (answer,) = play.response()

    assert isinstance(answer, Answer)


def test_a_refusal_of_a_buffered_body_is_still_an_answer():
    """BUFFERED holds the headers back until the body was judged."""
    play = Playbook(setup(refuses("response_body", mode=BodyMode.BUFFERED)))
    play.request()
    play.body(b"{}")
    play.response()

    assert isinstance(play.answer(b"{}")[0], Answer)


def test_a_refusal_in_a_stream_without_a_reader_is_a_reset():
    """There is no polite end for a body whose format nobody knows."""
    play = Playbook(setup(refuses("response_body")))
    play.request()
    play.body(b"{}")
    play.response()

    assert isinstance(play.answer(b"data", end=False)[0], Reset)
    assert () == play.answer(b"more", end=False)


def test_envoys_own_answers_become_refusals_in_the_callers_dialect():
    """A local reply passes the response phases too; its details say what happened."""
    play = Playbook(setup(Policy))
    play.request()
    play.body(b"{}")
    (answer,) = play.response(504, details="upstream_response_timeout")

    assert isinstance(answer, Answer)
    assert (504, ("x-llm-error", "provider_timeout")) == (answer.status, answer.headers[-1])
    assert play.finish().outcome == "unreachable"


def test_a_local_reply_of_the_inner_hop_is_told_by_its_mark():
    """The outer stage sees it as an upstream answer."""
    play = Playbook(setup(Policy))
    play.request()
    play.body(b"{}")
    (answer,) = play.response(503, x_llmi_inner="no_healthy_upstream")

    assert isinstance(answer, Answer)
    assert ("x-llm-error", "provider_unreachable") in answer.headers


def test_an_answer_before_the_commit_is_never_taken_for_a_providers():
    """Nothing was sent, so nobody can have answered."""
    play = Playbook(setup(Policy))
    play.request()
    (answer,) = play.response(200)

    assert isinstance(answer, Answer)
    assert answer.status == 503


def test_a_local_reply_without_any_request_event_is_answered():
    """Envoy may answer before this filter saw the request."""
    (answer,) = Playbook(setup(Policy)).response(400, details="missing_host_header")

    assert isinstance(answer, Answer)


def test_a_duplicate_end_of_stream_body_is_harmless():
    """envoyproxy/envoy#46237: it gets an answer, and no hook runs again."""
    seen, kinds = tracers()
    play = Playbook(setup(*kinds))
    play.request()
    play.body(b"{}")
    count = len(seen)

    assert (ContinueBody(request=True),) == play.body(b"")
    assert count == len(seen)


def test_request_body_bytes_after_the_end_are_a_protocol_error():
    """They would be forwarded unread."""
    play = Playbook(setup(Policy))
    play.request()
    play.body(b"{}")

    with pytest.raises(ProtocolError):
        play.body(b"more")


def test_streamed_request_bodies_cannot_be_inspected():
    """STREAMED releases the headers first: refused rather than half-inspected."""
    play = Playbook(setup(Policy), Modes(BodyMode.STREAMED, BodyMode.NONE))

    with pytest.raises(ProtocolError):
        play.request()


def test_full_duplex_holds_the_headers_until_the_whole_body_is_there():
    """Zero replies to the pieces, then headers and body together."""
    play = Playbook(setup(Policy), DUPLEX)

    assert () == play.request()
    assert () == play.body(b"{", end=False)
    head, tail = play.body(b"}")
    assert isinstance(head, ContinueHeaders)
    assert StreamBody(request=True, data=b"{}", end=True) == tail


def test_full_duplex_takes_trailers_for_the_end_of_the_body():
    """Else the provider would see an empty body."""
    play = Playbook(setup(Policy), DUPLEX)
    play.request()
    play.body(b"{}", end=False)
    head, tail, trailers = play.tell(RequestTrailers(play.at()))

    assert isinstance(head, ContinueHeaders)
    assert StreamBody(request=True, data=b"{}", end=False) == tail
    assert ContinueTrailers(request=True) == trailers


def test_full_duplex_responses_are_never_cut_early():
    """After a polite end everything that still comes is swallowed: closing early loses data in this mode."""
    play = Playbook(setup(refuses("response_body")), DUPLEX)
    play.request()
    play.body(b"{}")
    play.response()
    (last,) = play.answer(b"x", end=False)

    assert isinstance(last, StreamBody)
    assert last.end
    assert () == play.answer(b"y", end=False)
    assert () == play.answer(b"", end=True)


class Counts(Policy):
    """Asks for an effect in finish, and remembers that it ran."""

    ran: ClassVar[list[str]] = []

    def finish(self, facts):
        self.ran.append("asked")
        yield CountTokens("m", ["x"])
        self.ran.append("answered")


def test_a_failed_effect_in_finish_loses_no_other_hook():
    """The record is made all the same."""
    ran: list[str] = []
    counts = type("Counts", (Counts,), {"ran": ran})
    seen, kinds = tracers()
    play = Playbook(setup(*kinds, counts))
    play.answers = {CountTokens: lambda effect: EffectError("away")}
    record = play.finish()

    assert ["asked"] == ran
    assert ["b.finish", "a.finish"] == seen
    assert record.outcome == Outcome.CUT_SHORT


def test_finish_runs_exactly_once():
    """A second call is a bug of the host."""
    play = Playbook(setup(Policy))
    play.finish()

    with pytest.raises(ProtocolError):
        play.finish()


def test_a_crash_is_a_refusal_without_detail():
    """`fail` answers with the generic message."""
    play = Playbook(setup(Policy))
    play.request()
    (answer,) = play.exchange.fail()

    assert isinstance(answer, Answer)
    assert ("x-llm-error", "gateway_error") in answer.headers
    assert () == play.body(b"{}")


class Everything(Policy):
    """A policy with an effect at each step that may have one."""

    def request_headers(self, facts, event, draft):
        yield FindKey("exk-x")

    def response_headers(self, facts, event, draft):
        draft.body_mode = BodyMode.STREAMED


pieces = st.binary(max_size=3)
any_event = st.one_of(
    st.booleans().map(lambda end: RequestHeaders(1.0, headers(p_path="/"), end)),
    st.tuples(pieces, st.booleans()).map(lambda t: RequestBody(1.0, *t)),
    st.just(RequestTrailers(1.0)),
    st.booleans().map(lambda end: ResponseHeaders(1.0, headers(p_status="200"), end)),
    st.tuples(pieces, st.booleans()).map(lambda t: ResponseBody(1.0, *t)),
    st.just(ResponseTrailers(1.0)),
)
modes = st.sampled_from([Modes(), DUPLEX, Modes(BodyMode.BUFFERED, BodyMode.STREAMED)])


@given(st.lists(any_event, max_size=10), modes, st.sampled_from(["request_headers", "request_body", "never"]))
def test_any_order_of_events_ends_in_actions_or_a_protocol_error(sequence, mode, where):
    """Design invariant 7: never a hang or a crash, never a body forwarded after a refusal, always one record."""
    play = Playbook(setup(Everything, refuses(where)), mode)
    refused = False
    for event in sequence:
        try:
            actions = play.tell(event)
        except ProtocolError:
            break
        forwards = [a for a in actions if isinstance(a, ContinueBody | StreamBody) and a.request]
        assert not (refused and forwards)
        refused = refused or any(isinstance(action, Answer) for action in actions)
    record = play.finish()

    assert record.id == "id-1"
    assert not refused or record.error


@given(st.binary(min_size=1, max_size=40), st.lists(st.integers(1, 8), min_size=1, max_size=8))
def test_any_split_of_a_duplex_request_body_is_forwarded_whole(data, sizes):
    """Design invariant 2, request side."""
    play = Playbook(setup(Policy), DUPLEX)
    play.request()
    rest, actions = data, ()
    for size in sizes:
        piece, rest = rest[:size], rest[size:]
        assert () == play.body(piece, end=False)
    actions = play.body(rest)

    assert data == actions[1].data
