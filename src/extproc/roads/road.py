"""What a road is, what is tried on it, and the four outcomes."""

from __future__ import annotations

import enum
import ssl
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path


class Outcome(enum.StrEnum):
    """What came of an attempt. Only `OPEN` is bad; `NOT_TRIED` proves nothing."""

    OPEN = "open"
    CLOSED = "closed"
    BY_DESIGN = "by design"
    NOT_TRIED = "not tried"


@dataclass(frozen=True, slots=True)
class Finding:
    """An outcome and the one line that it rests on.

    `excused`: not tried, and nothing is missing for it: it was not asked for, or this machine has no such road.
    """

    outcome: Outcome
    evidence: str
    excused: bool = False


@dataclass(frozen=True, slots=True)
class Target:
    """A host that an app may want to reach, with its own addresses. `led`: where its name leads instead, to the gateway."""

    host: str
    v4: tuple[str, ...] = ()
    v6: tuple[str, ...] = ()
    led: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Door:
    """A port at another host than the gateway's, with all addresses of that host; none where its name leads nowhere here."""

    host: str
    port: int
    addresses: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Gateway:
    """Where the gateway is for this app. `addresses` are those of `host`; a key that was not given is empty.

    `ports`: by the names of the entries (`base_url`, `base_url_tls`, `connect`); `private`: ports that must be shut to apps;
    `doors`: likewise, elsewhere: a Service forwards its own ports only, its pods may listen at more.
    """

    host: str
    addresses: tuple[str, ...]
    ports: dict[str, int]
    ca: Path
    private: tuple[int, ...] = ()
    key: str = field(default="", repr=False)
    other_key: str = field(default="", repr=False)
    doors: tuple[Door, ...] = ()


@dataclass(frozen=True, slots=True)
class Place:
    """An address to try a host at. `own`: it is that host's; else anybody's, which shows no more than that nothing is there."""

    address: str
    own: bool = True


@dataclass(frozen=True, slots=True)
class Scope:
    """All that the roads try. `outside`: addresses that are anybody's, and at the same time resolvers; `timeout` in seconds."""

    vendors: tuple[Target, ...]
    unlisted: tuple[Target, ...]
    outside: tuple[str, ...]
    metadata: tuple[str, ...]
    ports: tuple[int, ...]
    gateway: Gateway
    timeout: float = 3.0
    udp_ports: tuple[int, ...] = ()

    @property
    def targets(self) -> tuple[Target, ...]:
        """Vendors, then hosts that are not on the list."""
        return (*self.vendors, *self.unlisted)

    def out(self, version: int) -> tuple[str, ...]:
        """`outside`, of one IP version."""
        return tuple(address for address in self.outside if (":" in address) == (version == 6))

    def places(self, target: Target, version: int) -> tuple[Place, ...]:
        """Where to try a host: at two addresses of its own, or at one of `outside` where it has none of this version.

        A vendor that `missing` has a reason for has no place: elsewhere the road to it would not be tried.
        """
        own = target.v6 if version == 6 else target.v4
        if own:
            return tuple(Place(address) for address in own[:2])
        if self.missing(target, version):
            return ()
        return tuple(Place(address, own=False) for address in self.out(version)[:1])

    def missing(self, target: Target, version: int) -> str:
        """Why a vendor cannot be tried by this version of IP; empty where it can be, or has no address of this version."""
        own, other = (target.v6, target.v4) if version == 6 else (target.v4, target.v6)
        led = [address for address in target.led if (":" in address) == (version == 6)]
        if own or target not in self.vendors or (other and not led):
            return ""
        why = (
            f"its name leads to {led[0]} here, which is not the vendor"
            if led
            else "no address of its own is known here"
        )
        return f"{why}: name it {target.host}=ADDRESS"

    def trust(self) -> ssl.SSLContext:
        """TLS that trusts the gateway's CA and nobody else, for whatever name: a certificate of another is the far end's."""
        context = ssl.create_default_context(cafile=str(self.gateway.ca))
        context.check_hostname = False
        context.options &= ~ssl.OP_IGNORE_UNEXPECTED_EOF  # an end without an alert is a cut, not an answer
        return context


@dataclass(frozen=True, slots=True)
class Attempt:
    """One try: what it is, and what does it. `run` is bounded in time and returns what it found."""

    tried: str
    run: Callable[[], Finding]


@dataclass(frozen=True, slots=True)
class Road:
    """A way out: its name (the table's, `--only`'s), what it is in one line, and its attempts."""

    name: str
    about: str
    attempts: Callable[[Scope], Iterable[Attempt]]


def open_(evidence: str) -> Finding:
    """Something that is not the gateway was reached, or a refusal that had to come did not."""
    return Finding(Outcome.OPEN, evidence)


def closed(evidence: str) -> Finding:
    """Refused, reset, or no answer."""
    return Finding(Outcome.CLOSED, evidence)


def by_design(evidence: str) -> Finding:
    """It ended in the gateway, which governs it."""
    return Finding(Outcome.BY_DESIGN, evidence)


def not_tried(evidence: str, *, excused: bool = False) -> Finding:
    """It could not be tried, and why. `excused`: as in Finding."""
    return Finding(Outcome.NOT_TRIED, evidence, excused)
