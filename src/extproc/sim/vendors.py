"""Which vendor answers what: paths, keys and error shapes of OpenAI and Anthropic."""

from __future__ import annotations

import hmac
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal

import orjson

from extproc.sim import anthropic, openai_chat, openai_responses, openai_rest
from extproc.sim.answer import SimAnswer, json_answer
from extproc.sim.text import BadRequestError, Hints, Json, identifier

Api = Literal["openai", "anthropic"]
Endpoint = Literal[
    "openai_chat", "openai_responses", "openai_embeddings", "anthropic_messages", "anthropic_count_tokens"
]

_MAKERS: Final[Mapping[str, Callable[[Json, Hints], SimAnswer]]] = {
    "openai_chat": openai_chat.chat,
    "openai_responses": openai_responses.responses,
    "openai_embeddings": openai_rest.embeddings,
    "anthropic_messages": anthropic.messages,
    "anthropic_count_tokens": anthropic.count,
}
_PATHS: Final[Mapping[tuple[str, str], str]] = {
    ("openai", "/v1/chat/completions"): "openai_chat",
    ("openai", "/v1/responses"): "openai_responses",
    ("openai", "/v1/embeddings"): "openai_embeddings",
    ("anthropic", "/v1/messages"): "anthropic_messages",
    ("anthropic", "/v1/messages/count_tokens"): "anthropic_count_tokens",
}
_OPENAI_TYPES: Final = {429: ("requests", "rate_limit_exceeded"), 401: ("invalid_request_error", "invalid_api_key")}
_ANTHROPIC_TYPES: Final = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    529: "overloaded_error",
}
_MAX_TOKENS: Final = 100_000
_UNPARSABLE: Final = "We could not parse the JSON body of your request."


@dataclass(frozen=True, slots=True)
class Vendors:
    """Which APIs are served, and the keys that each accepts (none named: any key, or no key)."""

    apis: tuple[Api, ...] = ("openai", "anthropic")
    keys: Mapping[str, Collection[str]] = field(default_factory=dict, repr=False)

    def api_of(self, path: str, headers: Mapping[str, str]) -> Api:
        """Whose request this is: by path, and on `/v1/models` by the header that Anthropic's SDK always sends."""
        if len(self.apis) == 1:
            return self.apis[0]
        is_anthropic = path.startswith(("/v1/messages", "/v1/complete")) or "anthropic-version" in headers
        return "anthropic" if is_anthropic else "openai"

    def accepts(self, api: Api, headers: Mapping[str, str]) -> bool:
        """Whether the request carries one of the keys of `api`."""
        wanted = self.keys.get(api)
        if not wanted:
            return True
        bearer = headers.get("authorization", "").removeprefix("Bearer ")
        offered = [bearer] if api == "openai" else [headers.get("x-api-key", ""), bearer]
        return any(hmac.compare_digest(have.encode(), want.encode()) for have in offered if have for want in wanted)


def synthetic(endpoint: Endpoint, request: Json | bytes, headers: Mapping[str, str] | None = None) -> SimAnswer:
    """The answer to a well-formed request, or the vendor's 400.

    `request` is the body, parsed or raw; `headers` (lower-case names) may hold `x-sim-tokens`, `x-sim-cached-tokens`,
    `x-sim-echo` and `x-sim-piece`. A pure function: equal requests get equal bytes.
    """
    api: Api = "anthropic" if endpoint.startswith("anthropic") else "openai"
    body: object = request
    if isinstance(request, bytes):
        try:
            body = orjson.loads(request)
        except orjson.JSONDecodeError:
            return _signed(api, error(api, 400, _UNPARSABLE), request)
    raw = request if isinstance(request, bytes) else orjson.dumps(request)
    if not isinstance(body, Mapping):
        return _signed(api, error(api, 400, "The body must be a JSON object."), raw)
    try:
        return _signed(api, _MAKERS[endpoint](body, _hints(raw, headers or {})), raw)
    except BadRequestError as refusal:
        return _signed(api, error(api, 400, refusal.message, param=refusal.param), raw)


def answer_request(vendors: Vendors, method: str, target: str, headers: Mapping[str, str], body: bytes) -> SimAnswer:
    """What the vendor would answer to this request: key, path, method and body are checked in its order."""
    path = target.partition("?")[0]
    api = vendors.api_of(path, headers)
    if not vendors.accepts(api, headers):
        return _signed(api, error(api, 401, _KEY_MESSAGES[api]), body)
    if api == "anthropic" and "anthropic-version" not in headers:
        return _signed(api, error(api, 400, "anthropic-version: header is required"), body)
    if path == "/v1/models" or path.startswith("/v1/models/"):
        return _signed(api, _models(api, method, path), path.encode())
    endpoint = _PATHS.get((api, path))
    if endpoint is None:
        message = f"Invalid URL ({method} {path})" if api == "openai" else "Not found"
        return _signed(api, error(api, 404, message), body)
    if method != "POST":
        return _signed(api, error(api, 405, f"Not allowed to {method} on {path}."), body)
    return synthetic(endpoint, body, headers)  # type: ignore[arg-type]  # the values of _PATHS are the literals


_KEY_MESSAGES: Final = {
    "openai": "Incorrect API key provided. You can find your API key at https://platform.openai.com/account/api-keys.",
    "anthropic": "invalid x-api-key",
}


def error(api: Api, status: int, message: str, *, param: str | None = None) -> SimAnswer:
    """An error in the vendor's own shape."""
    if api == "anthropic":
        kind = _ANTHROPIC_TYPES.get(status, "api_error" if status >= 500 else "invalid_request_error")
        body: dict[str, Any] = {"type": "error", "error": {"type": kind, "message": message}}
        return json_answer({**body, "request_id": identifier("req_", message)}, status)
    kind, code = _OPENAI_TYPES.get(status, ("server_error" if status >= 500 else "invalid_request_error", None))
    return json_answer({"error": {"message": message, "type": kind, "param": param, "code": code}}, status, indent=True)


def _models(api: Api, method: str, path: str) -> SimAnswer:
    if method != "GET":
        return error(api, 405, f"Not allowed to {method} on {path}.")
    room: Any = openai_rest if api == "openai" else anthropic
    name = path.removeprefix("/v1/models").strip("/")
    if not name:
        listed: SimAnswer = room.models()
        return listed
    found: SimAnswer | None = room.model(name)
    return found or error(api, 404, f"The model '{name}' does not exist", param="model")


def _hints(seed: bytes, headers: Mapping[str, str]) -> Hints:
    tokens, cached = headers.get("x-sim-tokens", ""), headers.get("x-sim-cached-tokens", "")
    length = min(int(tokens), _MAX_TOKENS) if tokens.isdecimal() else None
    piece = headers.get("x-sim-piece", "")
    return Hints(
        seed,
        length,
        int(cached) if cached.isdecimal() else 0,
        echo=headers.get("x-sim-echo", ""),
        piece=int(piece) if piece.isdecimal() else None,
    )


def _signed(api: Api, answer: SimAnswer, raw: bytes) -> SimAnswer:
    """The header fields with which a vendor marks its answers."""
    if api == "anthropic":
        return answer.with_headers([("request-id", identifier("req_", raw)), ("anthropic-organization-id", "org-sim")])
    timing = [("openai-processing-ms", "7"), ("openai-version", "2020-10-01")]
    return answer.with_headers([("x-request-id", identifier("req_", raw, length=32)), *timing])
