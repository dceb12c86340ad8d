"""What a call may come to before anybody knows: input estimated high, output up to its cap, at the dearest provider."""

from __future__ import annotations

from collections.abc import Generator
from datetime import UTC, datetime
from itertools import islice
from typing import Final, cast

import msgspec

from extproc.errors import EffectError, Rejection
from extproc.exchange.effects import CountTokens, Effect
from extproc.exchange.facts import Facts
from extproc.limits.counters import nano
from extproc.limits.estimates import Estimates
from extproc.limits.rules import Rules, output_tokens
from extproc.pricing.catalog import Catalog
from extproc.usage import Usage

_ATTACHED: Final = "url"  # the kind of a text that is a link to an image or a file, or holds its base64
_SIGNS: Final = (b'"image', b'"input_image', b'"file', b'"input_file', b'"document', b'"input_audio')
_SMALL: Final = 64 << 10  # bytes; a larger body is looked into, since much of it may be something else than text
_MOST_TEXTS: Final = 10_000
_CACHED: Final = b'"cache_control"'  # Anthropic: what is written to its prompt cache costs more than other input
_LEAST_STEP: Final = 256
_OUTPUT: Final = 4096  # tokens reserved where neither the caller nor the configuration says how many


class Quotas(msgspec.Struct, frozen=True):
    """The compiled section, and what estimates are made from. `output_tokens`: (pattern on the model, tokens)."""

    rules: Rules
    estimates: Estimates
    catalog: Catalog
    organisation: str
    output_tokens: tuple[tuple[str, int], ...]
    exact_input: bool = False
    price_needed: bool = True  # a call under a budget whose price is not known is refused
    headers: bool = False


class Worth(msgspec.Struct, frozen=True):
    """The worst case of one call. `size`: bytes of text; `step`: tokens by which a stream's reservation grows."""

    usage: Usage
    size: int = 0
    attachments: int = 0
    open_ended: bool = False  # the caller set no cap on the output
    step: int = _LEAST_STEP
    billable: bool = True

    def with_output(self, tokens: int) -> Worth:
        """The same with another count of output."""
        return msgspec.structs.replace(self, usage=msgspec.structs.replace(self.usage, output=tokens))


def size_up(quotas: Quotas, facts: Facts, body: bytes) -> Generator[Effect, object, Worth]:
    """Tokens that the call may use. Only calls that a vendor charges for use any."""
    endpoint, request, target = facts.endpoint, facts.request, facts.target
    dialect = endpoint.dialect if endpoint is not None else None
    if dialect is None:  # passed through unread
        return Worth(Usage())
    if request is None or target is None or not dialect.billable:
        return Worth(Usage(), billable=False)
    size, attachments = _measure(facts, body)
    read = None
    if quotas.exact_input:
        texts = [text.value for text in islice(request.texts(), _MOST_TEXTS) if text.kind != _ATTACHED]
        try:
            counted = cast("int", (yield CountTokens(target.model, texts)))
            # what is not text (roles, structure) costs the vendor's tokens too, a few for each part
            images = quotas.estimates.input(target.model, 0, attachments) if attachments else 0
            read = counted + 8 * (len(texts) + 1) + images if texts else None
        except EffectError:
            read = None  # an estimate will do
    if read is None:
        read = quotas.estimates.input(target.model, size, attachments)
    written, step, own = 0, _LEAST_STEP, True
    if dialect.operation == "chat":
        own = request.max_output is not None
        each = (
            request.max_output
            if request.max_output is not None
            else output_tokens(quotas.output_tokens, target.model, _OUTPUT)
        )
        written, step = each * request.choices, max(_LEAST_STEP, each // 4)
    writes = read if _CACHED in body else None
    usage = Usage(input=read, output=written, cache_creation_input=writes)
    return Worth(usage, size, attachments, open_ended=not own, step=step)


def worst_cost(quotas: Quotas, facts: Facts, worth: Worth) -> int | None:
    """Billionths of a dollar at the dearest provider of the chain; None where one has no known price.

    A call that costs nothing costs 0. What passes unread has no known price.
    """
    target = facts.target
    if not worth.billable:
        return 0
    if target is None or worth.usage.input is None:
        return None
    at = datetime.fromtimestamp(facts.origin.wall, UTC)
    dearest = 0
    for provider in target.chain:
        amount = quotas.catalog.price(provider, (target.model,), worth.usage, at).amount
        if amount is None:
            return None
        dearest = max(dearest, nano(amount))
    return dearest


def _measure(facts: Facts, body: bytes) -> tuple[int, int]:
    """Bytes of text, and how many images and files are with it. A small body without a sign of any is all text."""
    request = facts.request
    if request is None or (len(body) <= _SMALL and not any(sign in body for sign in _SIGNS)):
        return len(body), 0
    try:
        found = list(islice(request.texts(), _MOST_TEXTS + 1))
    except Rejection:  # nested deeper than texts can be found in
        return len(body), 0
    attached = [text for text in found if text.kind == _ATTACHED]
    if not attached or len(found) > _MOST_TEXTS:
        return len(body), len(attached)
    return max(0, len(body) - sum(len(text.value) for text in attached)), len(attached)
