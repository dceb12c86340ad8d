"""Envoy's own answers, told from a provider's by %RESPONSE_CODE_DETAILS%, and what they mean to a caller.

The outer stage sees a local reply of the inner hop as an upstream answer; the inner hop marks it with the header
`x-llmi-inner`, whose value is its own response code details.
"""

from __future__ import annotations

from typing import Final

from extproc.errors import ErrorCode, Rejection
from extproc.exchange.events import ResponseHeaders

INNER_MARK: Final = "x-llmi-inner"

_TOO_LARGE = (413, ErrorCode.CALLER_BODY_TOO_LARGE, "The request body is larger than this gateway takes.")
_TIMEOUT = (504, ErrorCode.PROVIDER_TIMEOUT, "The provider did not answer in time.")
_UNREACHABLE = (503, ErrorCode.PROVIDER_UNREACHABLE, "The provider could not be reached.")
_OVERLOADED = (503, ErrorCode.PROVIDER_OVERLOADED, "Too many calls to this provider are under way.")
_CREDENTIAL = (503, ErrorCode.GATEWAY_ERROR, "The gateway holds no credential for this provider.")
_OTHER = (503, ErrorCode.GATEWAY_UNAVAILABLE, "The gateway could not handle this call.")
_BAD_REQUEST = (400, ErrorCode.CALLER_INVALID_HEADER, "The request is not valid HTTP for this gateway.")

# prefixes of response code details: envoy/source/common/stream_info/utility.h, StreamInfo::ResponseCodeDetailValues
_MEANING: Final = (
    ("request_payload_too_large", _TOO_LARGE),
    ("request_payload_exceeded_retry_buffer_limit", _TOO_LARGE),
    ("response_payload_too_large", (502, ErrorCode.PROVIDER_RESPONSE_TOO_LARGE, "The provider's answer is too large.")),
    ("upstream_response_timeout", _TIMEOUT),
    ("response_timeout", _TIMEOUT),
    ("upstream_per_try_timeout", _TIMEOUT),
    ("upstream_per_try_idle_timeout", _TIMEOUT),
    ("upstream_max_stream_duration_reached", _TIMEOUT),
    ("max_duration_timeout", _TIMEOUT),
    ("stream_idle_timeout", _TIMEOUT),
    ("duration_timeout", _TIMEOUT),
    ("upstream_reset_before_response_started{overflow", _OVERLOADED),
    ("overflow", _OVERLOADED),
    ("upstream_reset", _UNREACHABLE),
    ("no_healthy_upstream", _UNREACHABLE),
    ("cluster_not_found", _UNREACHABLE),
    ("no_cluster", _UNREACHABLE),
    ("maintenance_mode", _UNREACHABLE),
    ("early_upstream_reset", _UNREACHABLE),
    ("upstream_transport_failure", _UNREACHABLE),
    ("failed_to_inject_credential", _CREDENTIAL),
    ("upgrade_failed", _BAD_REQUEST),
    ("request_header_timeout", _BAD_REQUEST),
    ("request_overall_timeout", (408, ErrorCode.CALLER_INVALID_HEADER, "The request took too long to arrive.")),
    ("path_normalization_failed", _BAD_REQUEST),
    ("invalid_path", _BAD_REQUEST),
    ("missing_host_header", _BAD_REQUEST),
    ("missing_path", _BAD_REQUEST),
)


def local_reply(event: ResponseHeaders) -> Rejection | None:
    """The refusal that an answer of Envoy's own stands for, or None where the provider answered."""
    details = event.headers.get(INNER_MARK)
    if details is None:
        details = event.attributes.get("response.code_details", "via_upstream")
        if details == "via_upstream":
            return None
    for prefix, (status, code, message) in _MEANING:
        if details.startswith(prefix):
            return Rejection(status, code, message, detail=details)
    status, code, message = _OTHER
    return Rejection(status, code, message, detail=details)
