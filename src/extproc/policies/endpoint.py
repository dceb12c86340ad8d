"""What the caller called: which provider's API, by host name or base URL, and which dialect, by method and path.

An unknown path on a known host follows the provider's rule: `refuse` (default) or `passthrough` (unread, counted by bytes).
"""

from __future__ import annotations

from typing import ClassVar, Final
from urllib.parse import unquote, unquote_plus

import msgspec

from extproc.dialects import registry
from extproc.errors import ErrorCode, Rejection
from extproc.exchange.actions import BodyMode
from extproc.exchange.draft import Draft
from extproc.exchange.events import RequestHeaders, ResponseHeaders
from extproc.exchange.facts import Endpoint as EndpointFact
from extproc.exchange.facts import Facts
from extproc.exchange.policy import Policy

KEY_PREFIX: Final = "exk-"  # how the keys of this gateway begin
# query parameters in which vendors accept keys: they carry the caller's credential and never go on
KEY_PARAMETERS = frozenset({"key", "api_key", "api-key", "apikey", "access_token", "subscription-key"})
CLIENT_ATTRIBUTE: Final = "filter_state['llm.client']"
_LONGEST_SHOWN: Final = 200  # characters of a path that a refusal repeats


class Surface(msgspec.Struct, frozen=True):
    """One provider as callers see it."""

    provider: str
    api: str
    passthrough: bool


class Surfaces(msgspec.Struct, frozen=True):
    """Providers by the host name that apps call, and by the first path segment of a base URL (the provider's name)."""

    by_host: dict[str, Surface]
    by_name: dict[str, Surface]
    first_by_api: dict[str, Surface]

    def locate(self, host: str, path: str, *, anthropic: bool) -> tuple[Surface | None, str]:
        """The surface and the path as the vendor knows it (a base URL's prefix is gone)."""
        surface = self.by_host.get(host.partition(":")[0].lower())
        if surface is not None:
            return surface, path
        head, _, rest = path[1:].partition("/")
        if head in self.by_name:
            return self.by_name[head], "/" + rest
        api = "anthropic" if anthropic or path.startswith("/v1/messages") else "openai"
        return self.first_by_api.get(api) or next(iter(self.by_name.values()), None), path


def _carries_key(name: str, value: str) -> bool:
    return name.lower() in KEY_PARAMETERS or value.startswith(KEY_PREFIX)


# methods that start no generation, whatever a vendor makes of an unusual one on a path that is read
_READING: Final = frozenset({"GET", "HEAD", "DELETE", "OPTIONS"})


def without_keys(path: str) -> str:
    """The path without query parameters that carry keys; the very same string where there are none."""
    bare, mark, query = path.partition("?")
    if not mark:
        return path
    fields = query.split("&")
    kept = [field for field in fields if not _carries_key(*unquote_plus(field).partition("=")[::2])]
    if len(kept) == len(fields):
        return path
    return f"{bare}?{'&'.join(kept)}" if kept else bare


def plain(path: str) -> str:
    """The path as a lenient server may read it: decoded, lower case, without doubled or last slashes and parameters."""
    parts: list[str] = []
    for part in unquote(unquote(path)).partition("#")[0].replace("\\", "/").lower().split("/"):
        name = part.partition(";")[0].strip()
        if name == "..":
            del parts[-1:]
        elif name not in ("", "."):
            parts.append(name)
    return "/" + "/".join(parts)


class EndpointPolicy(Policy):
    """Writes `facts.endpoint`, `origin.source`, `origin.entry`; refuses what has no dialect and no rule."""

    name: ClassVar[str] = "endpoint"

    def __init__(self, surfaces: Surfaces) -> None:
        """Built per exchange."""
        self._surfaces = surfaces

    def request_headers(self, facts: Facts, event: RequestHeaders, draft: Draft) -> None:
        """Find the dialect. Raises 404 for an unknown path, 405 for the wrong method, 415 for a body we cannot read."""
        headers = event.headers
        path = headers.get(":path") or "/"
        method = headers.get(":method") or ""
        # inside a CONNECT tunnel the connection's own address is Envoy's; the client's came along as filter state
        facts.origin.source = event.attributes.get(CLIENT_ATTRIBUTE) or event.attributes.get("source.address", "")
        facts.origin.entry = event.attributes.get("xds.filter_chain_name", "")
        anthropic = "anthropic-version" in headers
        surface, vendor_path = self._surfaces.locate(headers.get(":authority") or "", path, anthropic=anthropic)
        if surface is None:
            raise Rejection(404, ErrorCode.CALLER_UNKNOWN_PATH, "This gateway serves no provider for this host.")
        vendor_path = without_keys(vendor_path)
        bare = vendor_path.partition("?")[0]
        dialect = registry.find(surface.api, method, bare)
        facts.endpoint = EndpointFact(surface.api, surface.provider, vendor_path, dialect)
        if dialect is None:
            self._unknown(surface, method, bare, draft)
        elif dialect.method == "POST":
            self._readable(event)
        if vendor_path != path:
            draft.set[":path"] = vendor_path

    def _unknown(self, surface: Surface, method: str, bare: str, draft: Draft) -> None:
        # another spelling of a path that is read must not go around the reading
        if surface.passthrough and (method in _READING or "POST" not in registry.methods(surface.api, plain(bare))):
            draft.body_mode = BodyMode.STREAMED
            return
        allowed = registry.methods(surface.api, bare)
        if allowed:
            raise Rejection(
                405,
                ErrorCode.CALLER_METHOD_NOT_ALLOWED,
                f"Not allowed to {method} on {bare[:_LONGEST_SHOWN]}: use {', '.join(allowed)}.",
            )
        raise Rejection(
            404,
            ErrorCode.CALLER_UNKNOWN_PATH,
            f"Unknown request URL: {method} {bare[:_LONGEST_SHOWN]}. This gateway does not inspect this path and refuses"
            f" what it does not inspect (unknown_paths of provider {surface.provider}).",
        )

    @staticmethod
    def _readable(event: RequestHeaders) -> None:
        headers = event.headers
        if any(value.strip().lower() not in ("", "identity") for value in headers.all("content-encoding")):
            raise Rejection(
                415,
                ErrorCode.CALLER_UNSUPPORTED_ENCODING,
                "The request body has a content-encoding. Send it uncompressed: this gateway reads it.",
            )
        kinds = headers.all("content-type") or ["application/json"]
        media = {value.partition(";")[0].strip().lower() for value in kinds}
        if any(one != "application/json" and not one.endswith("+json") for one in media):
            raise Rejection(
                415, ErrorCode.CALLER_UNSUPPORTED_MEDIA_TYPE, "The request body must be application/json on this path."
            )
        if event.end:
            raise Rejection(400, ErrorCode.CALLER_MALFORMED_BODY, "The request has no body; a JSON object is expected.")

    def response_headers(self, facts: Facts, event: ResponseHeaders, draft: Draft) -> None:
        """An unread exchange is counted by bytes, so its answer is streamed through."""
        if facts.endpoint is not None and facts.endpoint.dialect is None:
            draft.body_mode = BodyMode.STREAMED
