"""What a policy may ask of the outside. A hook yields one; the host performs it and sends the result back in.

A failure is thrown into the hook as `EffectError`; a policy that does not catch it fails closed.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from typing import Protocol

import msgspec

from extproc.limits.counters import Charge
from extproc.text import Check, Finding, Findings, never


class Caller(msgspec.Struct, frozen=True):
    """Who calls: what a virtual key stands for. `key_id` is safe to log, the key itself never is."""

    key_id: str
    team: str
    app: str
    tenant: str = ""
    user: str = ""
    expires_at: float | None = None  # UNIX seconds
    revoked: bool = False
    organisation: str = ""  # whose limits it counts under; empty: the configured one's


class FindKey(msgspec.Struct, frozen=True):
    """Look a virtual key up in the key store -> `Caller` or None (unknown). Expiry is judged by the host's clock."""

    secret: str

    def __repr__(self) -> str:
        """Without the secret: effects end up in test output and tracebacks."""
        return "FindKey(secret=…)"


class FoundKey(msgspec.Struct, frozen=True):
    """The answer to `FindKey`. `expired` is judged by the host, which has a wall clock."""

    caller: Caller | None
    expired: bool = False


class CountTokens(msgspec.Struct, frozen=True):
    """Count tokens of texts with the tokenizer nearest to `model` -> int."""

    model: str
    texts: Sequence[str]


class Scanner(Protocol):
    """A compiled profile of detectors."""

    @property
    def version(self) -> bytes:
        """16 bytes that stand for everything that decides what it finds."""

    def scan(self, text: str, check: Check = never) -> tuple[Finding, ...]:
        """What is in `text`: findings by start, none of which overlap. Raises what a detector raises."""

    def is_long(self, texts: Sequence[str]) -> bool:
        """Whether scanning these takes so long that the event loop should not wait for it."""


class FindEntities(msgspec.Struct, frozen=True):
    """Find what is sensitive in `texts` -> `FoundEntities`.

    Throws `BudgetExceededError` where it takes longer than `budget` seconds, `EffectError` where a detector fails.
    """

    scanner: Scanner
    texts: Sequence[str]
    budget: float
    ahead: bool = False  # nobody waits for the answer: it is for the next call to know, and never holds the loop up

    def __repr__(self) -> str:
        """Without the texts: effects end up in test output and tracebacks."""
        return f"FindEntities({len(self.texts)} texts)"


class FoundEntities(msgspec.Struct, frozen=True):
    """The answer to `FindEntities`: findings per text, in their order, and what it took."""

    findings: Findings
    seconds: float = 0.0
    cached: int = 0  # texts that were known
    scanned: int = 0  # texts that were not


class Reserve(msgspec.Struct, frozen=True):
    """Hold these amounts, all or none -> `limits.counters.Reserved`.

    `id` is the policy's handle for `Extend` and `Settle`, unique within the exchange's worker. Throws
    `LimitsAwayError` where the store is away and a limit says `deny`: nothing is held then.
    """

    id: str
    organisation: str
    charges: tuple[Charge, ...]


class Extend(msgspec.Struct, frozen=True):
    """Hold more: `amounts` are the new totals, parallel to the reservation's charges -> `limits.counters.Extended`.

    Never waits: an extension that is under way is answered by what is held so far, and by its outcome the next time.
    """

    id: str
    amounts: tuple[int, ...]


class Settle(msgspec.Struct, frozen=True):
    """The call is over: what was really used, parallel to the reservation's charges; all zero releases it -> None.

    Never waits and never fails: what cannot be told to the store now is told later, once. `extra`: what nobody had
    reserved, on other counters (another provider of the chain answered).
    """

    id: str
    amounts: tuple[int, ...]
    extra: tuple[Charge, ...] = ()


Effect = FindKey | CountTokens | FindEntities | Reserve | Extend | Settle
Steps = Generator[Effect, object, None]
"""What a hook that needs effects returns; a hook that needs none returns None."""
