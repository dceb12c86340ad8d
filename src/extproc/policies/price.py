"""What it cost, by the rates of the day. Unknown is said and counted; it is never zero."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import ClassVar

from extproc.exchange.draft import Draft
from extproc.exchange.events import ResponseBody
from extproc.exchange.facts import Cost, Facts, UsageSource
from extproc.exchange.policy import Policy
from extproc.pricing.catalog import Catalog


class PricePolicy(Policy):
    """Writes `facts.cost` once usage is known."""

    name: ClassVar[str] = "price"

    def __init__(self, catalog: Catalog) -> None:
        """Built per exchange; rates are those of the day on which it began."""
        self._catalog = catalog

    def response_body(self, facts: Facts, event: ResponseBody, draft: Draft) -> None:
        """Price as soon as the answer is complete, so that Envoy's counters see it."""
        reader = facts.response.reader
        if reader is not None and (event.end or reader.finished):
            self._price(facts)

    def finish(self, facts: Facts) -> None:
        """Price what was cut short."""
        self._price(facts)

    def _price(self, facts: Facts) -> None:
        target, endpoint = facts.target, facts.endpoint
        if facts.cost is not None or facts.usage is None or target is None or endpoint is None:
            return
        if endpoint.dialect is not None and not endpoint.dialect.billable:
            return
        if facts.usage_source is UsageSource.NONE:
            return
        at = datetime.fromtimestamp(facts.origin.wall, UTC)
        reader = facts.response.reader
        names = (target.model, reader.model if reader is not None and reader.model else target.model)
        priced = self._catalog.price(facts.response.provider or target.provider, names, facts.usage, at)
        facts.cost = Cost(priced.amount, priced.reason, priced.source)
