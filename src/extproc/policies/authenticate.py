"""Who calls: a virtual key, found wherever the vendor's SDK puts a key, or in the proxy credentials.

Two credentials on one call: ours in the SDK's place wins over the proxy's; two of ours in the SDK's places that
disagree are refused. A key that is not ours (an app that still holds a vendor key) is no credential here; beside a
valid proxy credential it is ignored. The caller's key never goes on (`scrub`).
"""

from __future__ import annotations

import base64
import binascii
from typing import ClassVar, Final, cast
from urllib.parse import parse_qsl

from extproc.errors import ErrorCode, Rejection
from extproc.exchange.draft import Draft
from extproc.exchange.effects import FindKey, FoundKey, Steps
from extproc.exchange.events import RequestHeaders
from extproc.exchange.facts import Facts
from extproc.exchange.policy import Policy
from extproc.policies.endpoint import KEY_PARAMETERS, KEY_PREFIX

PROXY_ATTRIBUTE: Final = "filter_state['llm.proxy_auth']"
_PLACES: Final = ("authorization", "x-api-key", "api-key", "x-goog-api-key")


def bearer(value: str) -> str:
    """The token of an `Authorization` value (RFC 6750 section 2.1), or the value where it has no scheme."""
    scheme, _, token = value.strip().partition(" ")
    if not token:
        return "" if scheme.lower() == "bearer" else scheme  # an SDK without a key sends the bare word
    return token.strip() if scheme.lower() == "bearer" else ""


def proxy_secret(value: str) -> str:
    """The virtual key in proxy credentials: Bearer, or the password or user of Basic (RFC 7617); empty if none."""
    scheme, _, token = value.strip().partition(" ")
    if scheme.lower() == "bearer":
        return token.strip()
    if scheme.lower() != "basic":
        return ""
    try:
        user, _, password = base64.b64decode(token.strip(), validate=True).decode().partition(":")
    except (binascii.Error, UnicodeDecodeError):
        return ""
    return next((part for part in (password, user) if part.startswith(KEY_PREFIX)), "")


class AuthenticatePolicy(Policy):
    """Writes `facts.caller`; no caller, no call."""

    name: ClassVar[str] = "authenticate"

    def request_headers(self, facts: Facts, event: RequestHeaders, draft: Draft) -> Steps:
        """Find the key and whom it stands for. Raises 401."""
        secret = self._secret(event)
        found = cast("FoundKey", (yield FindKey(secret)))
        caller = found.caller
        if caller is None:
            raise Rejection(
                401, ErrorCode.CALLER_INVALID_KEY, "Incorrect API key provided: this gateway does not know it."
            )
        if caller.revoked:
            raise Rejection(401, ErrorCode.CALLER_REVOKED_KEY, "This API key has been revoked.")
        if found.expired:
            raise Rejection(401, ErrorCode.CALLER_EXPIRED_KEY, "This API key has expired.")
        facts.caller = caller
        # what the key says wins over what a header claims
        for name, value in (("tenant", caller.tenant), ("user", caller.user)):
            if value:
                facts.labels[name] = value

    @staticmethod
    def _secret(event: RequestHeaders) -> str:
        headers = event.headers
        given = [bearer(value) for name in _PLACES for value in headers.all(name)]
        query = (headers.get(":path") or "").partition("?")[2]
        if query:
            given += [value for name, value in parse_qsl(query) if name.lower() in KEY_PARAMETERS]
        ours = {secret for secret in given if secret.startswith(KEY_PREFIX)}
        if len(ours) > 1:
            raise Rejection(
                401, ErrorCode.CALLER_CONFLICTING_KEYS, "Two different API keys were sent. Send one, in one place."
            )
        if ours:
            return ours.pop()
        proxies = [event.attributes.get(PROXY_ATTRIBUTE, ""), *headers.all("proxy-authorization")]
        for value in proxies:
            secret = proxy_secret(value)
            if secret.startswith(KEY_PREFIX):
                return secret
        if any(given):
            raise Rejection(
                401,
                ErrorCode.CALLER_INVALID_KEY,
                f"Incorrect API key provided. This gateway takes its own keys, which begin with {KEY_PREFIX}.",
            )
        raise Rejection(
            401,
            ErrorCode.CALLER_MISSING_KEY,
            "You didn't provide an API key. Send a key of this gateway where your SDK puts the vendor's.",
        )
