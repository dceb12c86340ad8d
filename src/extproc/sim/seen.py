"""What arrived: requests as the vendor saw them."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final

import orjson

from extproc.sim.leaks import found_in

RawHeaders = tuple[tuple[bytes, bytes], ...]
_KEPT_BODY_BYTES: Final = 256 << 20


@dataclass(frozen=True)
class SeenRequest:
    """One request. `headers` are the raw fields in the order of the wire (HTTP/2: pseudo-headers too).

    `number` counts from 1; `connection` tells connections apart; `server_name` is the SNI.
    """

    number: int
    protocol: str
    connection: int
    server_name: str | None
    method: str
    target: str
    headers: RawHeaders
    body: bytes

    @cached_property
    def fields(self) -> dict[str, str]:
        """Header fields by lower-case name; of repeated ones the first."""
        return {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in reversed(self.headers)}

    @property
    def path(self) -> str:
        """The target without its query."""
        return self.target.partition("?")[0]

    @property
    def raw(self) -> bytes:
        """All that the client said: target, header fields and body, as they came."""
        head = [f"{self.method} {self.target}".encode("latin-1"), *(b": ".join(field) for field in self.headers)]
        return b"\r\n".join([*head, b"", self.body])

    def json(self) -> Any:
        """The parsed body. Raises ValueError where it is not JSON."""
        return orjson.loads(self.body)


class RequestLog:
    """The last requests, bounded in number and in bytes of body, and the responses that clients cut short."""

    def __init__(self, keep: int) -> None:
        """`keep`: how many; 0 keeps none (benchmarks)."""
        self._keep = keep
        self._bytes = 0
        self._requests: deque[SeenRequest] = deque()
        self.total = 0
        self.hangups = 0

    def add(self, request: SeenRequest) -> None:
        """Keep `request`; the oldest go."""
        self.total += 1
        if not self._keep:
            return
        self._requests.append(request)
        self._bytes += len(request.body)
        while len(self._requests) > self._keep or (self._bytes > _KEPT_BODY_BYTES and len(self._requests) > 1):
            self._bytes -= len(self._requests.popleft().body)

    def holding(self, values: Iterable[str]) -> dict[int, list[str]]:
        """Numbers of the requests that hold any of `values`, in whatever spelling, and which of them they hold."""
        wanted = list(values)
        found = {request.number: found_in(request.raw, wanted) for request in self}
        return {number: held for number, held in found.items() if held}

    def clear(self) -> None:
        """Forget the requests; numbers go on."""
        self._requests.clear()
        self._bytes = 0

    def __iter__(self) -> Iterator[SeenRequest]:
        return iter(tuple(self._requests))

    def __len__(self) -> int:
        return len(self._requests)

    def __getitem__(self, index: int) -> SeenRequest:
        return self._requests[index]
