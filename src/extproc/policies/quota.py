"""Limits and budgets: the worst case is reserved before a call goes out, what was used is settled when it is over.

Reserved are the input, estimated high, and the output that the caller allows (or the configured default), priced at the
dearest provider of the chain. A stream without a cap of its own reserves more as it runs and is ended where there is no
more. However the exchange ends, `finish` settles it, once; the host sees to it that the store hears of it.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import ClassVar, Final, cast

import msgspec

from extproc.dialects.reading import whole_events
from extproc.errors import EffectError, ErrorCode, LimitsAwayError, Rejection
from extproc.exchange.draft import Draft
from extproc.exchange.effects import Effect, Extend, Reserve, Settle, Steps
from extproc.exchange.events import RequestBody, ResponseBody, ResponseHeaders
from extproc.exchange.facts import Facts, Quota, Target, UsageSource
from extproc.exchange.policy import Policy
from extproc.limits.counters import LARGEST, Charge, Counter, Extended, Kind, Reserved, Subject, nano
from extproc.policies.alias import CANDIDATES
from extproc.policies.quota_answers import budget_headers, rate_headers, refusal, stop
from extproc.policies.quota_worth import Quotas, Worth, size_up, worst_cost
from extproc.usage import Usage

_CHARACTERS_A_TOKEN: Final = 3  # of generated text; fewer than it has on the average, so that the count errs high
_AGAIN: Final = 8  # tokens after which an extension that is under way is asked after
_MOST: Final = LARGEST - 1
_HEADER_OVER: Final = "x-llm-quota"


class QuotaPolicy(Policy):
    """Writes `facts.quota`."""

    name: ClassVar[str] = "quota"

    def __init__(self, quotas: Quotas | None) -> None:
        """Built per exchange; None: nothing is limited."""
        self._quotas = quotas
        self._worth: Worth | None = None
        self._api = ""
        self._next: int | None = None  # output tokens from which on more is asked for; None: never
        self._subject = Subject("")

    # ---- reserve ----------------------------------------------------------------------------------------------

    def request_body(self, facts: Facts, event: RequestBody, draft: Draft) -> Steps | None:
        """Reserve the worst case. Raises 429, 402, 403 or 503 where it may not go out."""
        quotas, target = self._quotas, facts.target
        if quotas is None or target is None or facts.endpoint is None:
            return None
        self._api = facts.endpoint.api
        self._subject = _subject(facts, quotas.organisation)
        if len(target.chain) > 1:
            return self._reserve_chain(quotas, facts, event.data, draft)
        counters = quotas.rules.counters(self._subject)
        return self._reserve(quotas, facts, event.data, counters) if counters else None

    def _reserve(self, quotas: Quotas, facts: Facts, body: bytes, counters: tuple[Counter, ...]) -> Steps:
        worth = self._worth = yield from size_up(quotas, facts, body)
        refused = yield from self._hold(quotas, facts, worth, counters)
        if refused is not None:
            raise refused[0]

    def _reserve_chain(self, quotas: Quotas, facts: Facts, body: bytes, draft: Draft) -> Steps:
        """Any provider of the chain may answer, so the limits of all are asked; one that has no room is left out.

        Else a failover would be a way around a provider's limit, or a full fallback would stop a call that it is not
        needed for.
        """
        worth = self._worth = yield from size_up(quotas, facts, body)
        groups = cast("list[dict[str, object]]", draft.metadata[CANDIDATES]["priority_groups"])
        first: Rejection | None = None
        while groups and facts.target is not None:
            chain = tuple([str(group["name"]) for group in groups])
            if chain != facts.target.chain:
                facts.target = Target(chain[0], facts.target.model, chain)
            each = {name: self._at(quotas, name) for name in chain}
            counters = {counter.key: counter for found in each.values() for counter in found}
            refused = yield from self._hold(quotas, facts, worth, tuple(counters.values()))
            if refused is None:
                draft.metadata[CANDIDATES] = {"priority_groups": groups}
                return
            first = first or refused[0]
            full = refused[1]
            groups = [group for group in groups if full.isdisjoint(one.key for one in each[str(group["name"])])]
        if first is not None:
            raise first

    def _hold(
        self, quotas: Quotas, facts: Facts, worth: Worth, counters: tuple[Counter, ...]
    ) -> Generator[Effect, object, tuple[Rejection, set[bytes]] | None]:
        """Reserve on these counters; else why not, and the keys of those without room. Raises 403 and 503."""
        money = worst_cost(quotas, facts, worth) if _any_money(counters) else 0
        if money is None and quotas.price_needed and worth.billable:
            raise Rejection(
                403,
                ErrorCode.POLICY_PRICE_UNKNOWN,
                "A budget applies to this call, and its price is not known.",
                detail="no price: add one under pricing, or set quotas.unknown_price",
            )
        charges = _charges(counters, worth.usage, money or 0, 1)
        if not worth.billable:
            charges = tuple(charge for charge in charges if charge.counter.rule.kind is Kind.REQUESTS)
        if not charges:
            return None
        quota = facts.quota = Quota(charges, worth.usage.input if worth.billable else None)
        try:
            reserved = cast("Reserved", (yield Reserve(facts.origin.id, self._subject.organisation, charges)))
        except LimitsAwayError as error:
            quota.refused_by = error.rule
            raise _unavailable(str(error)) from error
        except EffectError as error:
            raise _unavailable("the limits could not be asked") from error
        quota.reserved = reserved
        quota.over = tuple(charges[index].counter.rule.name for index in reserved.over)
        if reserved.refused:
            rejection, index = refusal(self._api, charges, reserved)
            quota.refused_by = charges[index].counter.rule.name
            return rejection, {charges[at].counter.key for at in reserved.refused}
        quota.held = True
        if facts.stream and worth.open_ended:
            self._next = (worth.usage.output or 0) - worth.step // 2
        return None

    def _at(self, quotas: Quotas, provider: str) -> tuple[Counter, ...]:
        """The counters of this call where that provider answers it."""
        return quotas.rules.counters(msgspec.structs.replace(self._subject, provider=provider))

    # ---- while it runs ----------------------------------------------------------------------------------------

    def response_headers(self, facts: Facts, event: ResponseHeaders, draft: Draft) -> None:
        """Show what is left, in the vendor's own headers: SDKs slow down by them."""
        quotas, quota = self._quotas, facts.quota
        if quotas is None or quota is None or quota.reserved is None:
            return
        if quota.over:
            draft.set[_HEADER_OVER] = "exceeded; rule=" + ",".join(quota.over)
        if facts.response.status >= 400:
            return  # the vendor's own refusal goes with its own numbers
        draft.set.update(rate_headers(self._api, quota.charges, quota.reserved))
        if quotas.headers:
            draft.set.update(budget_headers(quota.charges, quota.reserved))

    def response_progress(self, facts: Facts, event: ResponseBody) -> Steps | None:
        """Reserve more before what is held runs out."""
        reader = facts.response.reader
        if self._next is None or reader is None:
            return None
        reported = reader.usage.output if reader.usage is not None else None
        output = max(reader.events, reader.written // _CHARACTERS_A_TOKEN, reported or 0)
        return self._extend(facts, event, output) if output >= self._next else None

    def _extend(self, facts: Facts, event: ResponseBody, output: int) -> Steps:
        quotas, quota, worth, reader = self._quotas, facts.quota, self._worth, facts.response.reader
        if quotas is None or quota is None or worth is None or reader is None or reader.finished:
            return
        more = worth.with_output(output + worth.step)
        wanted = _amounts(quota.charges, more.usage, worst_cost(quotas, facts, more) or 0, 1)
        others = self._others(quotas, facts, quota)
        wanted = tuple(
            charge.amount if charge.counter.key in others else max(amount, charge.amount)
            for amount, charge in zip(wanted, quota.charges, strict=True)
        )
        extended = cast("Extended", (yield Extend(facts.origin.id, wanted)))
        if extended.refused is None:
            enough = all(held >= amount for held, amount in zip(extended.held, wanted, strict=True))
            self._next = output + (worth.step // 2 if enough else _AGAIN)
            return
        now = worth.with_output(output)
        used = _amounts(quota.charges, now.usage, worst_cost(quotas, facts, now) or 0, 1)
        self._next = output + _AGAIN
        if any(
            spent > held and charge.counter.key not in others
            for spent, held, charge in zip(used, extended.held, quota.charges, strict=True)
        ):
            whole = whole_events(event.data)
            if not whole and reader.half_sent:
                return  # the event that has begun ends in a later piece: half of one would hide why the stream ended
            quota.stopped = True
            quota.refused_by = quota.charges[extended.refused].counter.rule.name
            self._next = None
            facts.response.unsent = facts.response.unsent or whole
            raise stop(quota.charges[extended.refused])

    # ---- settle -----------------------------------------------------------------------------------------------

    def finish(self, facts: Facts) -> Steps | None:
        """Settle to what was used; all zero where the provider never had the call."""
        quotas, quota = self._quotas, facts.quota
        if quotas is None or quota is None or not quota.held:
            return None
        self._learn(quotas, facts)
        return self._settle(quotas, facts, quota)

    def _settle(self, quotas: Quotas, facts: Facts, quota: Quota) -> Generator[Effect, object, None]:
        usage, calls = facts.usage or Usage(), int(facts.response.from_provider or facts.usage is not None)
        money = self._spent(facts, quota)
        if facts.usage_source is UsageSource.NONE:
            usage, money = Usage(), 0
        amounts = _amounts(quota.charges, usage, money, calls)
        extra: tuple[Charge, ...] = ()
        target, answered = facts.target, facts.response.provider
        if target is not None and (len(target.chain) > 1 or answered not in ("", target.provider)):
            amounts, extra = self._moved(quotas, quota, answered or target.provider, (usage, money, calls))
        quota.settled = amounts
        yield Settle(facts.origin.id, amounts, extra)

    def _moved(
        self, quotas: Quotas, quota: Quota, provider: str, real: tuple[Usage, int, int]
    ) -> tuple[tuple[int, ...], tuple[Charge, ...]]:
        """One provider of the chain answered: its limits are charged, those of the others get theirs back."""
        there = {charge.counter.key for charge in quota.charges}
        found = self._at(quotas, provider)
        kept = {counter.key for counter in found}
        amounts = tuple(
            amount if charge.counter.key in kept else 0
            for charge, amount in zip(quota.charges, _amounts(quota.charges, *real), strict=True)
        )
        new = _charges(tuple(counter for counter in found if counter.key not in there), *real)
        return amounts, tuple(charge for charge in new if charge.amount)

    def _others(self, quotas: Quotas, facts: Facts, quota: Quota) -> set[bytes]:
        """Counters that are reserved for providers of the chain that did not answer."""
        target, answered = facts.target, facts.response.provider
        if target is None or len(target.chain) < 2 or not answered:
            return set()
        return {charge.counter.key for charge in quota.charges} - {one.key for one in self._at(quotas, answered)}

    @staticmethod
    def _spent(facts: Facts, quota: Quota) -> int:
        """Billionths of a dollar. A billed call whose cost nobody knows costs what was reserved for it."""
        if facts.cost is not None and facts.cost.amount is not None:
            return nano(facts.cost.amount)
        if facts.usage is None:
            return 0
        return max((charge.amount for charge in quota.charges if charge.counter.rule.kind is Kind.MONEY), default=0)

    def _learn(self, quotas: Quotas, facts: Facts) -> None:
        usage, worth, target = facts.usage, self._worth, facts.target
        if worth is None or target is None or usage is None or not usage.input:
            return
        if facts.usage_source is UsageSource.REPORTED:
            quotas.estimates.learn(target.model, worth.size, usage.input, worth.attachments)


def _subject(facts: Facts, organisation: str) -> Subject:
    """Whose call it is. What a key says counts before what the caller writes into labels."""
    caller, labels, target = facts.caller, facts.labels, facts.target
    return Subject(
        organisation=(caller.organisation if caller is not None else "") or organisation,
        tenant=(caller.tenant if caller is not None else "") or labels.get("tenant", ""),
        team=caller.team if caller is not None else "",
        app=caller.app if caller is not None else "",
        key=caller.key_id if caller is not None else "",
        user=(caller.user if caller is not None else "") or labels.get("user", ""),
        feature=labels.get("feature", ""),
        model=target.model if target is not None else "",
        provider=target.provider if target is not None else "",
    )


def _any_money(counters: tuple[Counter, ...]) -> bool:
    return any(counter.rule.kind is Kind.MONEY for counter in counters)


def _by_kind(usage: Usage, money: int, calls: int) -> dict[Kind, int]:
    """What a call comes to. A cap on the output may be any number: more than all there is, is refused."""
    read, written = usage.input or 0, usage.output or 0
    both = read + written
    if both > _MOST or money > _MOST:
        read, written, both, money = min(read, _MOST), min(written, _MOST), min(both, _MOST), min(money, _MOST)
    return {
        Kind.REQUESTS: calls,
        Kind.MONEY: money,
        Kind.INPUT_TOKENS: read,
        Kind.OUTPUT_TOKENS: written,
        Kind.TOKENS: both,
    }


def _charges(counters: tuple[Counter, ...], usage: Usage, money: int, calls: int) -> tuple[Charge, ...]:
    amounts = _by_kind(usage, money, calls)
    return tuple([Charge(counter, amounts[counter.rule.kind]) for counter in counters])


def _amounts(charges: tuple[Charge, ...], usage: Usage, money: int, calls: int) -> tuple[int, ...]:
    amounts = _by_kind(usage, money, calls)
    return tuple([amounts[charge.counter.rule.kind] for charge in charges])


def _unavailable(detail: str) -> Rejection:
    message = "The gateway cannot check the limits of this call right now. Try again in a moment."
    return Rejection(503, ErrorCode.GATEWAY_LIMITS_UNAVAILABLE, message, retry_after=1, detail=detail)
