"""Whether this caller may use this endpoint, provider and model. Deny by default."""

from __future__ import annotations

from typing import ClassVar, cast

from extproc.errors import ErrorCode, Rejection
from extproc.exchange.draft import Draft
from extproc.exchange.events import RequestBody, RequestHeaders
from extproc.exchange.facts import Facts, Target
from extproc.exchange.policy import Policy
from extproc.policies.alias import CANDIDATES
from extproc.policies.grants import Grants, Rule, allows, matches

UNREAD_ENDPOINT = "unread"


class AuthorizePolicy(Policy):
    """Needs `facts.caller`, `endpoint` and (for the model) `target`."""

    name: ClassVar[str] = "authorize"

    def __init__(self, grants: Grants) -> None:
        """Built per exchange from the compiled rules."""
        self._grants = grants
        self._rules: tuple[Rule, ...] = ()

    def request_headers(self, facts: Facts, event: RequestHeaders, draft: Draft) -> None:
        """The endpoint, before any body is read. Raises 403."""
        if facts.caller is None or facts.endpoint is None:
            raise Rejection(403, ErrorCode.POLICY_ENDPOINT_NOT_ALLOWED, "This call has no identity.")
        dialect = facts.endpoint.dialect
        name = dialect.name if dialect is not None else UNREAD_ENDPOINT
        self._rules = self._grants.at(facts.caller, name)
        if not self._rules:
            raise Rejection(
                403,
                ErrorCode.POLICY_ENDPOINT_NOT_ALLOWED,
                f"This key may not use this endpoint ({name}) of the gateway.",
            )

    def request_body(self, facts: Facts, event: RequestBody, draft: Draft) -> None:
        """The provider and the model. Raises 403 for the provider, 404 for the model, as the vendors do."""
        target = facts.target
        if target is None:
            raise Rejection(403, ErrorCode.POLICY_PROVIDER_NOT_ALLOWED, "This call has no provider.")
        if not any(matches(rule.providers, target.provider) for rule in self._rules):
            raise Rejection(
                403, ErrorCode.POLICY_PROVIDER_NOT_ALLOWED, f"This key may not use the provider {target.provider}."
            )
        if facts.endpoint is not None and facts.endpoint.dialect is None:
            self._any_model(target.provider)
            return
        if facts.request is None or facts.request.model is None:
            return
        names = (facts.request.model, target.model)
        if len(target.chain) > 1:
            self._narrow(target, names, draft)
        if not allows(self._rules, target.provider, names):
            raise Rejection(
                404,
                ErrorCode.POLICY_MODEL_NOT_ALLOWED,
                "The model in this request does not exist or this key does not have access to it.",
                param="model",
            )

    def _narrow(self, target: Target, names: tuple[str, str], draft: Draft) -> None:
        """Take the providers out of the chain that this key may not use: a failover is no way around the rules."""
        groups = cast("list[dict[str, object]]", draft.metadata[CANDIDATES]["priority_groups"])
        kept = [group for group in groups if allows(self._rules, str(group["name"]), names)]
        if len(kept) < len(groups):
            draft.metadata[CANDIDATES] = {"priority_groups": kept}

    def _any_model(self, provider: str) -> None:
        """What is not read may name any model, so that only a rule for all models covers it. Raises 403."""
        if not any(matches(rule.providers, provider) and "*" in rule.models for rule in self._rules):
            raise Rejection(
                403,
                ErrorCode.POLICY_ENDPOINT_NOT_ALLOWED,
                "This key may use certain models only, and this gateway does not read the model of calls to this path.",
            )
