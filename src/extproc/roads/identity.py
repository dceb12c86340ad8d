"""Roads of a false identity: headers that only the gateway may write, and another tenant's key.

What the answers to `GET /v1/models` tell: whether a key was taken, and whose (the list is what that key may use). The
gateway answers it itself.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Final

from extproc.roads.entry import called, enter, unusable
from extproc.roads.road import Attempt, Finding, Outcome, Road, Scope, by_design, closed, not_tried, open_
from extproc.roads.wire import refused, statuses, talk

Headers = Sequence[tuple[str, str]]

# what a gateway of this kind says to itself, or trusts another proxy to say
SPOOFED: Final = (
    ("x-llmi-team", "demo"),
    ("x-llmi-key", "1"),
    ("x-llmi-class", "long"),
    ("x-llmi-inner", "spoofed"),
    ("x-llm-error", "spoofed"),
    ("x-llm-tenant", "other"),
    ("x-forwarded-for", "127.0.0.1"),
    ("x-forwarded-client-cert", "By=spiffe://mesh/ns/llm/sa/gateway"),
    ("x-envoy-internal", "true"),
    ("x-envoy-external-address", "127.0.0.1"),
    ("x-envoy-original-path", "/healthz"),
)
_NO_TIME: Final = (("x-envoy-upstream-rq-timeout-ms", "1"), ("x-envoy-upstream-rq-per-try-timeout-ms", "1"))
_OURS: Final = (b"\nx-llmi-", b"\nx-envoy-")


def ask(scope: Scope, headers: Headers, path: str = "/v1/models", body: bytes | None = None) -> bytes:
    """One call at the gateway's entry; the whole answer. Raises OSError."""
    method = "GET" if body is None else "POST"
    lines = [f"{method} {path} HTTP/1.1", f"Host: {called(scope)}", "Connection: close"]
    lines += [f"{name}: {value}" for name, value in headers]
    if body is not None:
        lines += ["Content-Type: application/json", f"Content-Length: {len(body)}"]
    with enter(scope) as sock:
        return talk(sock, "\r\n".join((*lines, "", "")).encode() + (body or b""), scope.timeout, scope.timeout)


def bearer(key: str) -> Headers:
    """The header of a key."""
    return (("Authorization", f"Bearer {key}"),)


def must_refuse(scope: Scope, headers: Headers) -> Finding:
    """A call that no key vouches for."""
    if (missing := unusable(scope, keyed=False)) is not None:
        return missing
    try:
        answer = ask(scope, headers)
    except OSError as error:
        return refused(error)
    got = statuses(answer)
    if not got:
        return closed("closed without an answer")
    return open_(f"accepted: {got[0]}") if got[0] < 400 else closed(f"refused: {got[0]}")


def _spoofed(scope: Scope) -> Iterator[Attempt]:
    yield Attempt("internal headers instead of a key", partial(must_refuse, scope, SPOOFED))
    yield Attempt("internal headers beside the key change nothing", partial(_same, scope))
    yield Attempt("a time limit in Envoy's own header", partial(_same, scope, _NO_TIME))


def _same(scope: Scope, headers: Headers = SPOOFED) -> Finding:
    """The answer with the headers is the one without them, and brings none of ours back."""
    if (missing := unusable(scope, keyed=True)) is not None:
        return missing
    own = bearer(scope.gateway.key)
    try:
        plain, answer = ask(scope, own), ask(scope, (*own, *headers))
    except OSError as error:
        return refused(error)
    if any(mark in answer.partition(b"\r\n\r\n")[0].lower() for mark in _OURS):
        return open_("the answer carries an internal header")
    if statuses(plain) != statuses(answer) or _body(plain) != _body(answer):
        return open_(f"the answer changed: {statuses(plain)} without the headers, {statuses(answer)} with them")
    return closed(f"the same answer with and without them: {statuses(answer)[0] if statuses(answer) else 'none'}")


def _body(answer: bytes) -> bytes:
    return answer.partition(b"\r\n\r\n")[2]


def _keys(scope: Scope) -> Iterator[Attempt]:
    yield Attempt("no key", partial(must_refuse, scope, ()))
    invented = f"sk-{secrets.token_urlsafe(24)}"
    yield Attempt("a key of a vendor's form", partial(must_refuse, scope, bearer(invented)))
    own, other = scope.gateway.key, scope.gateway.other_key
    if own:
        changed = own[:-1] + ("a" if own[-1] != "a" else "b")
        yield Attempt("this app's key with another last letter", partial(must_refuse, scope, bearer(changed)))
    if not (own and other):
        missing = not_tried("needs this app's key (--key) and one of another tenant (--other-key)")
        yield Attempt("another tenant's key", lambda: missing)
        return
    mixed = other.rpartition("-")[0] + "-" + own.rpartition("-")[2]
    yield Attempt("another tenant's key id with this app's secret", partial(must_refuse, scope, bearer(mixed)))
    both = (*bearer(own), ("x-api-key", other))
    yield Attempt("both keys at once", partial(_one_of_two, scope, both))
    yield Attempt("another tenant's key, whole", partial(_whole, scope))


def _one_of_two(scope: Scope, headers: Headers) -> Finding:
    """Refused, or read as this app's: never as the other's where the two differ."""
    if (missing := unusable(scope, keyed=True)) is not None:
        return missing
    try:
        own, other = ask(scope, bearer(scope.gateway.key)), ask(scope, bearer(scope.gateway.other_key))
        answer = ask(scope, headers)
    except OSError as error:
        return refused(error)
    if statuses(answer)[:1] and statuses(answer)[0] >= 400:
        return closed(f"refused: {statuses(answer)[0]}")
    if _body(answer) == _body(own):
        return closed("read as this app's key")
    return open_("read as the other tenant's" if _body(answer) == _body(other) else "read as neither of the two")


def _whole(scope: Scope) -> Finding:
    """A key is a bearer's: who has it is its owner. It must not give this app's rights."""
    finding = must_refuse(scope, bearer(scope.gateway.other_key))
    if finding.outcome is not Outcome.OPEN:
        return finding
    return by_design("accepted, as its owner: a key is the identity, wherever it is used; keep it secret, rotate it")


ROADS: Final = (
    Road("spoofed-headers", "headers that only the gateway may write", _spoofed),
    Road("other-key", "no key, an invented one, another tenant's", _keys),
)
