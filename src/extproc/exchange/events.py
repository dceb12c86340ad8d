"""What Envoy told us. Each event carries its time: `at`, seconds of a monotonic clock that the host reads.

Mirrors the oneof `request` of envoy.service.ext_proc.v3.ProcessingRequest.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from extproc.exchange.headers import Headers


class RequestHeaders(msgspec.Struct, frozen=True):
    """The request began. `end`: it has no body. `attributes`: the ext_proc request attributes, by their CEL name."""

    at: float
    headers: Headers
    end: bool
    attributes: Mapping[str, str] = {}


class RequestBody(msgspec.Struct, frozen=True):
    """The request body (BUFFERED: all of it) or a piece of it (STREAMED, FULL_DUPLEX_STREAMED)."""

    at: float
    data: bytes
    end: bool


class RequestTrailers(msgspec.Struct, frozen=True):
    """Request trailers: the body, if any, is complete."""

    at: float


class ResponseHeaders(msgspec.Struct, frozen=True):
    """The answer began. `attributes`: the ext_proc response attributes (`response.code_details`)."""

    at: float
    headers: Headers
    end: bool
    attributes: Mapping[str, str] = {}


class ResponseBody(msgspec.Struct, frozen=True):
    """The response body or a piece of it."""

    at: float
    data: bytes
    end: bool


class ResponseTrailers(msgspec.Struct, frozen=True):
    """Response trailers: the body is complete."""

    at: float


Event = RequestHeaders | RequestBody | RequestTrailers | ResponseHeaders | ResponseBody | ResponseTrailers
