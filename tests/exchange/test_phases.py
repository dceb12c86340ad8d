"""The transition table."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from extproc.errors import ProtocolError
from extproc.exchange.events import (
    RequestBody,
    RequestHeaders,
    RequestTrailers,
    ResponseBody,
    ResponseHeaders,
    ResponseTrailers,
)
from extproc.exchange.headers import Headers
from extproc.exchange.phases import Phase, Phases, Step

NONE = Headers(())


def events() -> st.SearchStrategy:
    flags = st.booleans()
    data = st.sampled_from([b"", b"x"])
    return st.one_of(
        flags.map(lambda end: RequestHeaders(0.0, NONE, end)),
        st.tuples(data, flags).map(lambda t: RequestBody(0.0, *t)),
        st.just(RequestTrailers(0.0)),
        flags.map(lambda end: ResponseHeaders(0.0, NONE, end)),
        st.tuples(data, flags).map(lambda t: ResponseBody(0.0, *t)),
        st.just(ResponseTrailers(0.0)),
    )


def test_a_plain_exchange_walks_both_sides():
    """Headers, body, headers, body: both sides end DONE."""
    phases = Phases()
    steps = [
        phases.advance(event)
        for event in (
            RequestHeaders(0.0, NONE, False),
            RequestBody(0.0, b"{}", True),
            ResponseHeaders(0.0, NONE, False),
            ResponseBody(0.0, b"{}", True),
        )
    ]

    assert [Step.TAKE] * 4 == steps
    assert (Phase.DONE, Phase.DONE) == (phases.request, phases.response)


def test_response_headers_may_come_before_the_request_body_has_ended():
    """An early answer is legal."""
    phases = Phases()
    phases.advance(RequestHeaders(0.0, NONE, False))

    assert phases.advance(ResponseHeaders(0.0, NONE, False)) is Step.TAKE


def test_a_repeated_empty_end_of_stream_body_is_ignored():
    """envoyproxy/envoy#46237: the duplicate is harmless."""
    phases = Phases()
    phases.advance(RequestHeaders(0.0, NONE, False))
    phases.advance(RequestBody(0.0, b"{}", True))

    assert phases.advance(RequestBody(0.0, b"", True)) is Step.IGNORE


def test_a_repeated_end_with_bytes_is_refused():
    """Bytes after the end would be forwarded unread."""
    phases = Phases()
    phases.advance(RequestHeaders(0.0, NONE, False))
    phases.advance(RequestBody(0.0, b"{}", True))

    with pytest.raises(ProtocolError):
        phases.advance(RequestBody(0.0, b"more", True))


@given(st.lists(events(), max_size=12))
def test_any_order_of_events_is_taken_ignored_or_refused(sequence):
    """No order crashes, and nothing is taken after a side is done."""
    phases = Phases()
    for event in sequence:
        before = (phases.request, phases.response)
        try:
            step = phases.advance(event)
        except ProtocolError:
            assert before == (phases.request, phases.response)
            continue
        side = before[0] if isinstance(event, RequestHeaders | RequestBody | RequestTrailers) else before[1]
        assert step is Step.IGNORE or side in (Phase.HEADERS, Phase.BODY)


@given(st.lists(events(), max_size=6))
def test_after_a_close_everything_is_ignored(sequence):
    """A refusal closes both directions."""
    phases = Phases()
    phases.close()

    assert all(phases.advance(event) is Step.IGNORE for event in sequence)
