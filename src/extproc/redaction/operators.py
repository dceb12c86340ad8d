"""What becomes of an entity: it is masked, replaced, hashed, given a pseudonym, or it stops the call."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping
from typing import ClassVar, Final, TypeAlias

import msgspec

from extproc.text import Finding

_LONGEST_MASK: Final = 32
_HASH_BYTES: Final = 8
_KEY_BYTES: Final = 16
_NO_IDENTIFIER: Final = re.compile(r"[^A-Za-z0-9_-]")


class Blocked(Exception):
    """Something was found that must not pass. Holds kinds and the place, never a value."""

    def __init__(self, kinds: tuple[str, ...], position: str = "") -> None:
        super().__init__(f"{position}: {', '.join(kinds)}" if position else ", ".join(kinds))
        self.kinds: Final = kinds
        self.position: Final = position


class Allow(msgspec.Struct, frozen=True):
    """Leave it as it is."""

    name: ClassVar[str] = "allow"


class Block(msgspec.Struct, frozen=True):
    """Refuse the text."""

    name: ClassVar[str] = "block"


class Pseudonym(msgspec.Struct, frozen=True):
    """Put a placeholder in its place, from which the value can be restored: see `pseudonyms.Pseudonyms`."""

    name: ClassVar[str] = "pseudonym"


class Mask(msgspec.Struct, frozen=True):
    """Cover each character by `char`, but for the last `keep_last`: never more than half of the value stays legible.

    A mask has 32 characters at most: longer ones cost tokens and tell the length of a key.
    """

    char: str = "*"
    keep_last: int = 0
    name: ClassVar[str] = "mask"

    def apply(self, kind: str, value: str) -> str:
        """What goes out in place of `value`."""
        kept = max(0, min(self.keep_last, len(value) // 2))
        return self.char * min(len(value) - kept, _LONGEST_MASK) + value[len(value) - kept :]


class Replace(msgspec.Struct, frozen=True):
    """Put the same text in place of every value."""

    text: str
    name: ClassVar[str] = "replace"

    def apply(self, kind: str, value: str) -> str:
        """What goes out in place of `value`."""
        return self.text


class Hash(msgspec.Struct, frozen=True):
    """Put `<KIND:16 hex digits>` in its place: the same for equal values, and nothing can be read from it.

    The digest is keyed (BLAKE2b, RFC 7693): without a key the few possible phone numbers would soon be tried.
    """

    key: bytes
    name: ClassVar[str] = "hash"

    def __post_init__(self) -> None:
        """Raises `ValueError` for a key of less than 16 bytes."""
        if len(self.key) < _KEY_BYTES:
            raise ValueError(f"a key for hashes has {_KEY_BYTES} bytes at least")

    def __repr__(self) -> str:
        """Without the key: operators end up in test output and tracebacks."""
        return "Hash(key=…)"

    def apply(self, kind: str, value: str) -> str:
        """What goes out in place of `value`."""
        key = hashlib.blake2b(self.key, person=b"extproc hash").digest()
        told = f"{kind}\0{value}".encode("utf-8", "surrogatepass")
        return f"<{kind}:{hashlib.blake2b(told, key=key, digest_size=_HASH_BYTES).hexdigest()}>"

    def identity(self, value: str) -> str:
        """A stand-in for a user's id: as `apply`, in letters and digits only."""
        return f"user_{self.apply('USER', value)[len('<USER:') : -1]}"


Irreversible: TypeAlias = Mask | Replace | Hash
Operator: TypeAlias = Allow | Block | Pseudonym | Irreversible


class Operators:
    """One operator for every kind that can be found."""

    def __init__(self, by_kind: Mapping[str, Operator]) -> None:
        self._by_kind: Final = dict(by_kind)
        self.kinds: Final = frozenset(kind for kind, operator in by_kind.items() if not isinstance(operator, Allow))
        """Kinds of which anything becomes at all."""
        self.reversible: Final = frozenset(kind for kind, one in by_kind.items() if isinstance(one, Pseudonym))
        """Kinds that are restored."""

    def of(self, kind: str) -> Operator:
        """Raises `LookupError` for a kind that nobody has decided about: it must not pass by oversight."""
        operator = self._by_kind.get(kind)
        if operator is None:
            raise LookupError(f"no operator for the kind {kind}")
        return operator

    def name(self, kind: str) -> str:
        """`mask`, `block`, ...: as in configuration, records and metrics."""
        return self.of(kind).name

    def blocked(self, findings: Iterable[Finding]) -> tuple[str, ...]:
        """The kinds among `findings` that must not pass, each once, sorted."""
        kinds = {one.kind for one in findings}
        return tuple(sorted([kind for kind in kinds if isinstance(self.of(kind), Block)]))


def identifier(text: str) -> str:
    """`text` with letters, digits, `_` and `-` only: all that vendors take in names of tools and of users."""
    return _NO_IDENTIFIER.sub("_", text.strip("<>")) or "_"
