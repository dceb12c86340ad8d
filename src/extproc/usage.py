"""Token counts of one call, in one meaning whatever the vendor's own convention.

`input` includes cache reads and cache writes; `output` includes reasoning. `None` means the body does not report the
count, 0 means that it reports zero.
"""

from __future__ import annotations

import msgspec


def _add(left: int | None, right: int | None) -> int | None:
    """Unknown plus known is the known part: a sum never loses what was reported."""
    if left is None:
        return right
    return left if right is None else left + right


class Usage(msgspec.Struct, frozen=True):
    """Tokens by kind; addable and comparable."""

    input: int | None = None
    output: int | None = None
    cached_input: int | None = None
    cache_creation_input: int | None = None
    reasoning: int | None = None

    def __add__(self, other: Usage) -> Usage:
        """Add kind by kind."""
        return Usage(
            input=_add(self.input, other.input),
            output=_add(self.output, other.output),
            cached_input=_add(self.cached_input, other.cached_input),
            cache_creation_input=_add(self.cache_creation_input, other.cache_creation_input),
            reasoning=_add(self.reasoning, other.reasoning),
        )
