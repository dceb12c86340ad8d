"""What a policy may ask of the outside. A hook yields one; the host performs it and sends the result back in.

A failure is thrown into the hook as `EffectError`; a policy that does not catch it fails closed.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence

import msgspec


class Caller(msgspec.Struct, frozen=True):
    """Who calls: what a virtual key stands for. `key_id` is safe to log, the key itself never is."""

    key_id: str
    team: str
    app: str
    tenant: str = ""
    user: str = ""
    expires_at: float | None = None  # UNIX seconds
    revoked: bool = False


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


Effect = FindKey | CountTokens
Steps = Generator[Effect, object, None]
"""What a hook that needs effects returns; a hook that needs none returns None."""
