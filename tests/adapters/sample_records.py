"""A record to vary."""

from __future__ import annotations

from decimal import Decimal

import msgspec

from extproc.exchange.record import Record
from extproc.usage import Usage

STREAMED = Record(
    id="18a-1",
    started_at=1_000_000_000.0,
    duration=1.2345678,
    entry="intercept",
    source="10.0.0.1",
    api="openai",
    endpoint="openai_chat",
    operation="chat",
    provider="openai",
    requested_model="fast",
    model="gpt-4o-mini",
    response_model="gpt-4o-mini-2024-07-18",
    stream=True,
    status=200,
    outcome="ok",
    error="",
    error_detail="",
    key_id="k1",
    team="demo",
    app="shop",
    tenant="t",
    user="u",
    labels={"feature": "search"},
    usage=Usage(1200, 300, 1000, 0, None),
    usage_source="reported",
    cost=Decimal("0.000012"),
    cost_reason="",
    time_to_first_byte=0.4,
    bytes_in=2000,
    bytes_out=5000,
    timeout_class="standard",
    policy_seconds=0.0003,
)


def record(**changes: object) -> Record:
    """A copy of the streamed record with these fields changed."""
    return msgspec.structs.replace(STREAMED, **changes)
