"""Errors in OpenAI's shape: `{"error": {"message", "type", "param", "code"}}`.

Rules: the vendor's error reference; `type` and `code` are those that its API sends with the like status.
"""

from __future__ import annotations

from typing import Final

import orjson

from extproc.dialects.dialect import ErrorAnswer
from extproc.errors import ErrorCode, Rejection

_SERVER_ERROR: Final = 500
_TYPES: Final = {402: "insufficient_quota", 429: "rate_limit_error"}
_CODES: Final = {
    ErrorCode.CALLER_MISSING_KEY: None,
    ErrorCode.CALLER_INVALID_KEY: "invalid_api_key",
    ErrorCode.CALLER_EXPIRED_KEY: "invalid_api_key",
    ErrorCode.CALLER_REVOKED_KEY: "invalid_api_key",
    ErrorCode.CALLER_CONFLICTING_KEYS: "invalid_api_key",
    ErrorCode.CALLER_BODY_TOO_LARGE: "request_too_large",
    ErrorCode.CALLER_UNKNOWN_PATH: "unknown_url",
    ErrorCode.CALLER_METHOD_NOT_ALLOWED: "method_not_supported",
    ErrorCode.POLICY_MODEL_NOT_ALLOWED: "model_not_found",
    ErrorCode.POLICY_RATE_LIMITED: "rate_limit_exceeded",
    ErrorCode.POLICY_CONCURRENCY_LIMITED: "rate_limit_exceeded",
    ErrorCode.POLICY_BUDGET_EXCEEDED: "insufficient_quota",
    ErrorCode.PROVIDER_TIMEOUT: "timeout",
}


def error_object(rejection: Rejection) -> dict[str, object]:
    """The inner object; `type` by status, `code` by what went wrong."""
    status = rejection.status
    kind = "server_error" if status >= _SERVER_ERROR else _TYPES.get(status, "invalid_request_error")
    code = _CODES.get(rejection.code)
    if status == 429 and code is None:
        code = "rate_limit_exceeded"
    return {"message": rejection.message, "type": kind, "param": rejection.param, "code": code}


def openai_error(rejection: Rejection) -> ErrorAnswer:
    """A refusal as OpenAI would have said it; also the shape for hosts whose API is unknown."""
    headers = [("content-type", "application/json")]
    if rejection.retry_after is not None:
        headers.append(("retry-after", str(rejection.retry_after)))
    return ErrorAnswer(rejection.status, tuple(headers), orjson.dumps({"error": error_object(rejection)}))
