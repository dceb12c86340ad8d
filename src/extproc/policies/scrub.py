"""What must never go on to a provider is taken off here, and again on each inner hop.

Credentials of the caller, cookies, labels, our internal headers and Envoy's. Label headers are read first.
"""

from __future__ import annotations

import re
from typing import ClassVar, Final

from extproc.exchange.draft import Draft
from extproc.exchange.events import RequestHeaders
from extproc.exchange.facts import Facts
from extproc.exchange.policy import Policy
from extproc.policies.endpoint import KEY_PREFIX

CREDENTIALS: Final = frozenset(
    {
        "authorization",
        "x-api-key",
        "api-key",
        "x-goog-api-key",
        "ocp-apim-subscription-key",
        "proxy-authorization",
        "proxy-authenticate",
        "x-amz-security-token",
        "cookie",
        "cookie2",
    }
)
_OTHERS: Final = frozenset(
    {
        "accept-encoding",  # a compressed answer cannot be read (and Envoy's decompressor hangs with ext_proc bodies)
        "proxy-connection",
        "forwarded",
        "via",
        "traceparent",
        "tracestate",
        "x-real-ip",
        "x-client-trace-id",
        "baggage",
    }
)
# Envoy's own, set at the edge and removed by the inner hop: without x-forwarded-proto its router finds no route, and
# x-request-id ties its log lines together
_KEPT: Final = frozenset({"x-forwarded-proto"})
_PREFIXES: Final = ("x-llm-", "x-llmi-", "x-envoy-", "x-forwarded-", "x-b3-")

LABELS: Final = {
    "x-llm-feature": "feature",
    "x-llm-user": "user",
    "x-llm-tenant": "tenant",
    "x-llm-prompt": "prompt",
    "x-llm-data-class": "data_class",
}
_UNSAFE: Final = re.compile(r"[^\w.@:/+=-]")


def clean_label(value: str, limit: int) -> str:
    """A label as it may stand in a metric or a log: at most `limit` characters, others than word characters as `_`."""
    return _UNSAFE.sub("_", value.strip()[:limit])


class ScrubPolicy(Policy):
    """Writes `facts.labels`; removes by name what may not go on."""

    name: ClassVar[str] = "scrub"

    def __init__(self, max_length: int) -> None:
        """`max_length`: characters of a label that are kept."""
        self._max_length = max_length

    def request_headers(self, facts: Facts, event: RequestHeaders, draft: Draft) -> None:
        """Remove what is present, and only that: the mutation stays small."""
        for name in event.headers.names():
            if name in LABELS:
                value = clean_label(event.headers.get(name) or "", self._max_length)
                if value and not value.startswith(KEY_PREFIX):  # labels are logged, keys never are
                    facts.labels[LABELS[name]] = value
            if name in CREDENTIALS or name in _OTHERS or (name.startswith(_PREFIXES) and name not in _KEPT):
                draft.remove.append(name)
