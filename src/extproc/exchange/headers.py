"""HTTP headers as Envoy sends them: lower-case names, raw values, order and repeats kept."""

from __future__ import annotations

from collections.abc import Iterable, Iterator


class Headers:
    """Read-only multi-map of header fields. Values are bytes on the wire and text (latin-1) to readers."""

    __slots__ = ("_first", "_pairs")

    def __init__(self, pairs: Iterable[tuple[str, bytes]]) -> None:
        """`pairs`: (lower-case name, raw value), pseudo-headers (`:path`) included."""
        self._pairs = tuple(pairs)
        self._first: dict[str, bytes] | None = None

    def _map(self) -> dict[str, bytes]:
        if self._first is None:
            # reversed: the first of repeated fields wins; `all` gives every one
            self._first = dict(reversed(self._pairs))
        return self._first

    def get(self, name: str) -> str | None:
        """The first value of `name`, or None."""
        raw = self._map().get(name)
        return None if raw is None else raw.decode("latin-1")

    def all(self, name: str) -> list[str]:
        """Every value of `name`, in order."""
        if name not in self._map():
            return []
        return [raw.decode("latin-1") for key, raw in self._pairs if key == name]

    def names(self) -> Iterable[str]:
        """The distinct names."""
        return self._map().keys()

    def __contains__(self, name: object) -> bool:
        return name in self._map()

    def __iter__(self) -> Iterator[tuple[str, bytes]]:
        return iter(self._pairs)

    def __len__(self) -> int:
        return len(self._pairs)
