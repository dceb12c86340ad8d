"""What can go wrong, whose fault it was, and what the caller may be told.

A `Rejection` is the one way to refuse an exchange: raised anywhere in the core it becomes the right answer for the
phase the exchange is in, in the caller's dialect. `ConfigError` is for operators: it names the path and the cure.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Final


class ErrorCode(StrEnum):
    """Closed vocabulary of the `x-llm-error` header: the prefix says whose fault it was."""

    CALLER_MISSING_KEY = "caller_missing_key"
    CALLER_INVALID_KEY = "caller_invalid_key"
    CALLER_EXPIRED_KEY = "caller_expired_key"
    CALLER_REVOKED_KEY = "caller_revoked_key"
    CALLER_CONFLICTING_KEYS = "caller_conflicting_keys"
    CALLER_MALFORMED_BODY = "caller_malformed_body"
    CALLER_AMBIGUOUS_BODY = "caller_ambiguous_body"
    CALLER_INVALID_FIELD = "caller_invalid_field"
    CALLER_BODY_TOO_LARGE = "caller_body_too_large"
    CALLER_UNSUPPORTED_ENCODING = "caller_unsupported_encoding"
    CALLER_UNSUPPORTED_MEDIA_TYPE = "caller_unsupported_media_type"
    CALLER_UNKNOWN_PATH = "caller_unknown_path"
    CALLER_METHOD_NOT_ALLOWED = "caller_method_not_allowed"
    CALLER_INVALID_HEADER = "caller_invalid_header"
    POLICY_MODEL_NOT_ALLOWED = "policy_model_not_allowed"
    POLICY_PROVIDER_NOT_ALLOWED = "policy_provider_not_allowed"
    POLICY_ENDPOINT_NOT_ALLOWED = "policy_endpoint_not_allowed"
    POLICY_CONTENT_BLOCKED = "policy_content_blocked"  # the request, or the answer, holds what must not pass
    POLICY_STORED_HISTORY = "policy_stored_history"  # leans on stored history, which cannot be inspected
    POLICY_ATTACHMENT_NOT_ALLOWED = "policy_attachment_not_allowed"
    POLICY_RATE_LIMITED = "policy_rate_limited"  # a limit that lets calls through again by itself: requests, tokens
    POLICY_CONCURRENCY_LIMITED = "policy_concurrency_limited"  # too many calls in flight
    POLICY_BUDGET_EXCEEDED = "policy_budget_exceeded"  # a limit on money
    POLICY_PRICE_UNKNOWN = "policy_price_unknown"  # a budget applies, and nobody knows what this model costs
    PROVIDER_TIMEOUT = "provider_timeout"
    PROVIDER_UNREACHABLE = "provider_unreachable"
    PROVIDER_OVERLOADED = "provider_overloaded"
    PROVIDER_BAD_RESPONSE = "provider_bad_response"
    PROVIDER_RESPONSE_TOO_LARGE = "provider_response_too_large"
    GATEWAY_ERROR = "gateway_error"
    GATEWAY_INSPECTION_FAILED = "gateway_inspection_failed"  # the content could not be inspected, so it did not pass
    GATEWAY_LIMITS_UNAVAILABLE = "gateway_limits_unavailable"  # the store of limits is away, and one of them says deny
    GATEWAY_UNAVAILABLE = "gateway_unavailable"


class Rejection(Exception):
    """A refusal on its way to the caller.

    `status` is the HTTP status the vendor itself would use in the like case, so that its SDK retries (or does not) as
    it should. `message` is shown to the caller: it never holds a header value, a body value or an exception's text.
    `param` is the JSON path of the offending field (`messages[0].content`), where there is one. `retry_after` is in
    seconds. `detail` is for the operator's record only (Envoy's response code details). `headers` go out with the
    answer beside the vendor's own (rate-limit headers), where it is still possible.
    """

    def __init__(  # noqa: PLR0913  one value each for the wire, the caller and the operator
        self,
        status: int,
        code: ErrorCode,
        message: str,
        *,
        param: str | None = None,
        retry_after: int | None = None,
        detail: str = "",
        headers: tuple[tuple[str, str], ...] = (),
    ) -> None:
        super().__init__(f"{code}: {message}")
        self.status: Final = status
        self.code: Final = code
        self.message: Final = message
        self.param: Final = param
        self.retry_after: Final = retry_after
        self.detail: Final = detail
        self.headers: Final = headers


class ProtocolError(Exception):
    """Envoy and we disagree about where the exchange stands; the stream is ended, which fails the call closed."""


class EffectError(Exception):
    """An effect could not be performed (store away, counting failed). Thrown into the policy that asked for it."""


class BudgetExceededError(EffectError):
    """A scan took longer than its time budget."""


class LimitsAwayError(EffectError):
    """The store of limits cannot be asked, and the limit `rule` says that no call may pass then."""

    def __init__(self, rule: str) -> None:
        super().__init__(f"the store of limits is away, and {rule} says deny")
        self.rule: Final = rule


class ConfigError(Exception):
    """What an operator wrote cannot be used.

    `path` is where (`providers.openai.hosts[0]`, or a file name), `reason` what is wrong, `hint` what to do about it.
    """

    def __init__(self, path: str, reason: str, hint: str = "") -> None:
        super().__init__(f"{path}: {reason}" + (f" ({hint})" if hint else ""))
        self.path: Final = path
        self.reason: Final = reason
        self.hint: Final = hint
