"""Envoy's own answers, told from a provider's."""

from __future__ import annotations

import pytest

from extproc.exchange.events import ResponseHeaders
from extproc.exchange.local_replies import INNER_MARK, local_reply
from playbook import headers

CASES = [
    ("upstream_response_timeout", 504, "provider_timeout"),
    ("upstream_per_try_timeout", 504, "provider_timeout"),
    ("upstream_max_stream_duration_reached", 504, "provider_timeout"),
    ("upstream_reset_before_response_started{connection_failure|TLS_error}", 503, "provider_unreachable"),
    ("upstream_reset_before_response_started{overflow}", 503, "provider_overloaded"),
    ("no_healthy_upstream", 503, "provider_unreachable"),
    ("cluster_not_found", 503, "provider_unreachable"),
    ("request_payload_too_large", 413, "caller_body_too_large"),
    ("response_payload_too_large", 502, "provider_response_too_large"),
    ("failed_to_inject_credential", 503, "gateway_error"),
    ("path_normalization_failed", 400, "caller_invalid_header"),
    ("something_new_in_envoy", 503, "gateway_unavailable"),
    ("", 503, "gateway_unavailable"),
]


@pytest.mark.parametrize(("details", "status", "code"), CASES)
def test_each_reason_has_its_refusal(details, status, code):
    """By response code details; an unknown reason is never taken for the provider's answer."""
    found = local_reply(ResponseHeaders(0.0, headers(p_status="500"), False, {"response.code_details": details}))

    assert found is not None
    assert (status, code) == (found.status, found.code)
    assert details not in found.message or not details


def test_the_providers_own_answer_is_none_of_ours():
    """Whatever its status."""
    for attributes in ({"response.code_details": "via_upstream"}, {}):
        assert local_reply(ResponseHeaders(0.0, headers(p_status="503"), False, attributes)) is None


def test_the_inner_hops_mark_wins():
    """To the outer stage its answer came via upstream."""
    fields = headers(p_status="503", **{INNER_MARK.replace("-", "_"): "upstream_response_timeout"})
    found = local_reply(ResponseHeaders(0.0, fields, False, {"response.code_details": "via_upstream"}))

    assert found is not None
    assert 504 == found.status
