"""A policy: one behaviour of the gateway, in up to six hooks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from extproc.exchange.draft import Draft
from extproc.exchange.effects import Steps
from extproc.exchange.events import RequestBody, RequestHeaders, ResponseBody, ResponseHeaders
from extproc.exchange.facts import Facts


class Policy:
    """Base with hooks that do nothing. Built per exchange; what it remembers between hooks lives in it.

    A hook reads and writes `facts` (its own fields), proposes changes in `draft`, raises `Rejection` to refuse, and may
    be a generator that yields effects. Request hooks run in the configured order, response hooks and `finish` in
    reverse. `finish` runs exactly once, however the exchange ended.
    """

    name: ClassVar[str] = ""

    def request_headers(self, facts: Facts, event: RequestHeaders, draft: Draft) -> Steps | None:
        """The request headers are there; `facts.request` is not yet known."""

    def request_body(self, facts: Facts, event: RequestBody, draft: Draft) -> Steps | None:
        """The whole request body is there and read (`facts.request`). Runs for requests without a body too."""

    def response_headers(self, facts: Facts, event: ResponseHeaders, draft: Draft) -> Steps | None:
        """The response headers are there. May ask for the body by `draft.body_mode` (the strongest wish wins)."""

    def response_body(self, facts: Facts, event: ResponseBody, draft: Draft) -> bytes | None:
        """(A piece of) the response body; returns what goes on instead, or None to leave it."""

    def response_progress(self, facts: Facts, event: ResponseBody) -> Steps | None:
        """A piece of the response body has passed all policies; `event.data` is what goes on. May yield effects."""

    def finish(self, facts: Facts) -> Steps | None:
        """The exchange is over."""


class Hooks:
    """The hooks of a policy tuple that do anything, in the order they run. Computed once per policy tuple."""

    __slots__ = ("finish", "request_body", "request_headers", "response_body", "response_headers", "response_progress")

    def __init__(self, kinds: Sequence[type[Policy]]) -> None:
        """Remember, per hook, the indexes of the policies that override it."""
        forward = list(enumerate(kinds))
        backward = forward[::-1]
        self.request_headers = [i for i, kind in forward if kind.request_headers is not Policy.request_headers]
        self.request_body = [i for i, kind in forward if kind.request_body is not Policy.request_body]
        self.response_headers = [i for i, kind in backward if kind.response_headers is not Policy.response_headers]
        self.response_body = [i for i, kind in backward if kind.response_body is not Policy.response_body]
        self.response_progress = [i for i, kind in backward if kind.response_progress is not Policy.response_progress]
        self.finish = [i for i, kind in backward if kind.finish is not Policy.finish]
