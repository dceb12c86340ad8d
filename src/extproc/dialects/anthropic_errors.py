"""Errors in Anthropic's shape: `{"type": "error", "error": {"type", "message"}, "request_id": null}`.

Rules: the vendor's error reference (type by HTTP status; 529 where OpenAI says 503 for an overloaded model).
"""

from __future__ import annotations

from typing import Final

import orjson

from extproc.dialects.dialect import ErrorAnswer
from extproc.errors import ErrorCode, Rejection

_OVERLOADED: Final = 529
_SERVER_ERROR: Final = 500
_TYPES: Final = {
    401: "authentication_error",
    402: "billing_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    504: "timeout_error",
    529: "overloaded_error",
}


def error_status(rejection: Rejection) -> int:
    """The status that this vendor uses for the like case."""
    overloaded = rejection.code is ErrorCode.PROVIDER_OVERLOADED and rejection.status >= _SERVER_ERROR
    return _OVERLOADED if overloaded else rejection.status


def error_body(rejection: Rejection) -> dict[str, object]:
    """The whole error object, as in a JSON answer and in the `error` event of a stream."""
    status = error_status(rejection)
    kind = _TYPES.get(status, "api_error" if status >= _SERVER_ERROR else "invalid_request_error")
    message = rejection.message
    if rejection.param and rejection.param not in message:
        message = f"{rejection.param}: {message}"
    return {"type": "error", "error": {"type": kind, "message": message}, "request_id": None}


def anthropic_error(rejection: Rejection) -> ErrorAnswer:
    """A refusal as Anthropic would have said it."""
    headers = [("content-type", "application/json")]
    if rejection.retry_after is not None:
        headers.append(("retry-after", str(rejection.retry_after)))
    return ErrorAnswer(error_status(rejection), tuple(headers), orjson.dumps(error_body(rejection)))
