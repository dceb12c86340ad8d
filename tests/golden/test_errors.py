"""Golden: every refusal as each vendor's SDK sees it. A change here is a change for callers; `make golden` writes it again."""

from __future__ import annotations

import json
import os
from pathlib import Path

from extproc.dialects import registry
from extproc.errors import ErrorCode, Rejection

GOLDEN = Path(__file__).with_name("errors.json")
STATUS = {
    "caller_missing_key": 401,
    "caller_invalid_key": 401,
    "caller_expired_key": 401,
    "caller_revoked_key": 401,
    "caller_conflicting_keys": 401,
    "caller_body_too_large": 413,
    "caller_unsupported_encoding": 415,
    "caller_unsupported_media_type": 415,
    "caller_unknown_path": 404,
    "caller_method_not_allowed": 405,
    "policy_model_not_allowed": 404,
    "policy_provider_not_allowed": 403,
    "policy_endpoint_not_allowed": 403,
    "policy_rate_limited": 429,
    "policy_concurrency_limited": 429,
    "policy_budget_exceeded": 402,
    "policy_price_unknown": 403,
    "gateway_limits_unavailable": 503,
    "provider_timeout": 504,
    "provider_unreachable": 503,
    "provider_overloaded": 503,
    "provider_bad_response": 502,
    "provider_response_too_large": 502,
    "gateway_error": 500,
    "gateway_unavailable": 503,
}


def shapes() -> dict[str, dict[str, object]]:
    """Every code in both shapes, with a message that needs escaping."""
    found: dict[str, dict[str, object]] = {}
    for code in ErrorCode:
        rejection = Rejection(STATUS.get(code.value, 400), code, 'said "no" \\ twice', param="messages[0].content")
        for api in ("openai", "anthropic"):
            answer = registry.error(api, rejection)
            found[f"{api} {code.value}"] = {
                "status": answer.status,
                "headers": [list(pair) for pair in answer.headers],
                "body": json.loads(answer.body),
            }
    return found


def test_every_refusal_has_the_shape_on_file():
    """Vendor-shaped, escaped, and the same as before."""
    now = shapes()
    if os.environ.get("GOLDEN_UPDATE"):
        GOLDEN.write_text(json.dumps(now, indent=1) + "\n")

    assert json.loads(GOLDEN.read_text()) == now
