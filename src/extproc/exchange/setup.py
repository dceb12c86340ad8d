"""What an exchange is set up with: what all of one configuration share, and what Envoy announced for this one."""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from extproc.exchange.actions import BodyMode
from extproc.exchange.policy import Hooks, Policy


class Setup(msgspec.Struct, frozen=True):
    """What every exchange of one configuration shares. `max_request`: bytes of a request body that is read."""

    factories: tuple[Callable[[], Policy], ...]
    hooks: Hooks
    max_request: int


class Modes(msgspec.Struct, frozen=True):
    """The body modes that Envoy announced in the first message's `protocol_config`."""

    request: BodyMode = BodyMode.BUFFERED
    response: BodyMode = BodyMode.NONE
