"""Malformed and hostile requests, each with the answer that it must get. Plain data: any driver can play them.

`key` says whose credential goes with the request: `valid`, `unknown`, `expired`, `revoked` (one key each, in the
place of the vendor's SDK), `vendor` (not one of ours), `two` (two valid ones that differ), `none`. A row with `raw`
set needs a driver that speaks HTTP itself: ordinary clients would not send it, and Envoy may refuse it on its own.
The limit of request bodies is taken to be `LIMIT` bytes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

LIMIT: Final = 1 << 20
HOSTS: Final = {"openai": "api.openai.com", "anthropic": "api.anthropic.com"}
CHAT: Final = "/v1/chat/completions"
RESPONSES: Final = "/v1/responses"
EMBEDDINGS: Final = "/v1/embeddings"
MESSAGES: Final = "/v1/messages"
COUNT: Final = "/v1/messages/count_tokens"
GOOD: Final = {
    "openai": b'{"model":"gpt-4o-mini","messages":[{"role":"user","content":"hi"}]}',
    "anthropic": b'{"model":"claude-haiku-4-5","max_tokens":9,"messages":[{"role":"user","content":"hi"}]}',
}


@dataclass(frozen=True)
class Row:
    """One request and its answer: `status` and the `x-llm-error` header `code`, in the error shape of `api`."""

    id: str
    status: int
    code: str
    api: str = "openai"
    method: str = "POST"
    path: str = CHAT
    headers: tuple[tuple[str, str | bytes], ...] = (("content-type", "application/json"),)
    body: bytes | None = GOOD["openai"]
    key: str = "valid"
    raw: bool = False

    @property
    def host(self) -> str:
        """The vendor's host that the app calls."""
        return HOSTS[self.api]


def _chat(name: str, body: bytes, code: str = "caller_malformed_body") -> Row:
    return Row(f"chat-{name}", 400, code, body=body)


def _field(name: str, members: bytes, path: str = CHAT) -> Row:
    kind = path.rpartition("/")[2]
    return Row(f"{kind}-{name}", 400, "caller_invalid_field", path=path, body=b"{" + members + b"}")


def _claude(name: str, body: bytes | None, code: str, path: str = MESSAGES, status: int = 400) -> Row:
    return Row(f"claude-{name}", status, code, "anthropic", path=path, body=body)


def _key(name: str, status: int, code: str, api: str) -> Row:
    path = CHAT if api == "openai" else MESSAGES
    return Row(f"key-{name}-{api}", status, code, api, path=path, body=GOOD[api], key=name)


def _deep(levels: int) -> bytes:
    return b'{"model":"gpt-4o-mini","messages":[],"x":' + b"[" * levels + b"]" * levels + b"}"


_JSON = (("content-type", "application/json"),)
_M = b'"model":"gpt-4o-mini"'
_MM = _M + b',"messages":[]'
_PADDING = LIMIT + 1 - len(GOOD["openai"])

_BODIES = (
    _chat("empty-object-text", b" "),
    _chat("truncated", b'{"model":"gpt-4o-mini","messages":[{"role":"user","con'),
    _chat("not-json", b"model=gpt-4o-mini"),
    _chat("array", b'[{"model":"gpt-4o-mini"}]'),
    _chat("string", b'"gpt-4o-mini"'),
    _chat("number", b"42"),
    _chat("null", b"null"),
    _chat("trailing-data", GOOD["openai"] + b"x"),
    _chat("two-objects", GOOD["openai"] + GOOD["openai"]),
    _chat("newline-delimited", GOOD["openai"] + b"\n" + GOOD["openai"]),
    _chat("nul-behind", GOOD["openai"] + b"\x00"),
    _chat("byte-order-mark", b"\xef\xbb\xbf" + GOOD["openai"]),
    _chat("utf-16", GOOD["openai"].decode().encode("utf-16")),
    _chat("invalid-utf-8", GOOD["openai"].replace(b"hi", b"\xc3\x28")),
    _chat("overlong-utf-8", GOOD["openai"].replace(b"hi", b"\xc0\xaf")),
    _chat("utf-8-surrogate", GOOD["openai"].replace(b"hi", b"\xed\xa0\x80")),
    _chat("lone-surrogate", GOOD["openai"].replace(b"hi", b"\\ud800")),
    _chat("lone-low-surrogate", GOOD["openai"].replace(b"hi", b"\\udc00 x")),
    _chat("control-character", GOOD["openai"].replace(b"hi", b"h\ni")),
    _chat("bad-escape", GOOD["openai"].replace(b"hi", b"\\x41")),
    _chat("nan", b"{" + _MM + b',"temperature":NaN}'),
    _chat("infinity", b"{" + _MM + b',"temperature":-Infinity}'),
    _chat("leading-zero", b"{" + _MM + b',"temperature":01}'),
    _chat("trailing-comma", b"{" + _MM + b",}"),
    _chat("comment", b"{/* hi */" + _MM + b"}"),
    _chat("single-quotes", b"{'model':'gpt-4o-mini','messages':[]}"),
    _chat("unquoted-key", b"{model:1}"),
    _chat("too-deep", _deep(5000)),
    _chat("unbalanced", _deep(10)[:-3]),
    _chat("duplicate-model", b"{" + _M + b',"messages":[],"model":"gpt-4o"}', "caller_ambiguous_body"),
    _chat("duplicate-same-value", b"{" + _M + b"," + _MM + b"}", "caller_ambiguous_body"),
    _chat("duplicate-by-escape", b"{" + _MM + b',"mod\\u0065l":"gpt-4o"}', "caller_ambiguous_body"),
    _chat("duplicate-by-case-of-escape", b"{" + _MM + b',"\\u00e9":1,"\\u00E9":2}', "caller_ambiguous_body"),
    _chat(
        "duplicate-nested",
        b"{" + _M + b',"messages":[{"role":"user","content":"a","content":"b"}]}',
        "caller_ambiguous_body",
    ),
    _chat("duplicate-deep", b"{" + _MM + b',"x":[[{"y":{"z":1,"z":1}}]]}', "caller_ambiguous_body"),
    _chat("duplicate-spaced", b"{ " + _MM + b' , "messages" : [ ] }', "caller_ambiguous_body"),
    _chat("duplicate-behind-colons", b"{" + _MM + b',"a\\":":":x","b":1,"b":2}', "caller_ambiguous_body"),
    Row("chat-empty-body", 400, "caller_malformed_body", body=b""),
    Row("chat-no-body", 400, "caller_malformed_body", body=None),
    Row("chat-one-byte-over-the-limit", 413, "caller_body_too_large", body=GOOD["openai"] + b" " * _PADDING),
)
_FIELDS = (
    _field("no-model", b'"messages":[]'),
    _field("model-number", b'"model":4,"messages":[]'),
    _field("model-null", b'"model":null,"messages":[]'),
    _field("model-array", b'"model":["gpt-4o-mini"],"messages":[]'),
    _field("model-object", b'"model":{"id":"gpt-4o-mini"},"messages":[]'),
    _field("model-empty", b'"model":"","messages":[]'),
    _field("model-huge", b'"model":"' + b"m" * 100_000 + b'","messages":[]'),
    _field("stream-string", _MM + b',"stream":"true"'),
    _field("stream-number", _MM + b',"stream":1'),
    _field("no-messages", _M),
    _field("messages-string", _M + b',"messages":"hi"'),
    _field("messages-object", _M + b',"messages":{"0":"hi"}'),
    _field("messages-null", _M + b',"messages":null'),
    _field("n-zero", _MM + b',"n":0'),
    _field("n-string", _MM + b',"n":"2"'),
    _field("n-fraction", _MM + b',"n":1.5'),
    _field("n-boolean", _MM + b',"n":true'),
    _field("max-tokens-string", _MM + b',"max_tokens":"9"'),
    _field("max-tokens-negative", _MM + b',"max_tokens":-1'),
    _field("max-completion-tokens-object", _MM + b',"max_completion_tokens":{}'),
    _field("stream-options-array", _MM + b',"stream":true,"stream_options":[]'),
    _field("include-usage-string", _MM + b',"stream":true,"stream_options":{"include_usage":"no"}'),
    _field("input-number", _M + b',"input":5', RESPONSES),
    _field("input-object", _M + b',"input":{"text":"x"}', RESPONSES),
    _field("instructions-number", _M + b',"input":"x","instructions":1', RESPONSES),
    _field("max-output-string", _M + b',"input":"x","max_output_tokens":"9"', RESPONSES),
    _field("no-input", _M, EMBEDDINGS),
    _field("input-null", _M + b',"input":null', EMBEDDINGS),
    _field("input-mixed", _M + b',"input":["a",1]', EMBEDDINGS),
    _field("input-object", _M + b',"input":{}', EMBEDDINGS),
)
_CLAUDE = (
    _claude("duplicate-model", GOOD["anthropic"][:-1] + b',"model":"x"}', "caller_ambiguous_body"),
    _claude("invalid-utf-8", GOOD["anthropic"].replace(b"hi", b"\xff"), "caller_malformed_body"),
    _claude("trailing-data", GOOD["anthropic"] + b"]", "caller_malformed_body"),
    _claude("array", b"[]", "caller_malformed_body"),
    _claude("empty", b"", "caller_malformed_body"),
    _claude("system-number", GOOD["anthropic"][:-1] + b',"system":5}', "caller_invalid_field"),
    _claude("max-tokens-string", GOOD["anthropic"].replace(b":9,", b':"9",'), "caller_invalid_field"),
    _claude("messages-missing", b'{"model":"claude-haiku-4-5","max_tokens":9}', "caller_invalid_field"),
    _claude("stream-string", GOOD["anthropic"][:-1] + b',"stream":"yes"}', "caller_invalid_field"),
    _claude("count-no-messages", b'{"model":"claude-haiku-4-5"}', "caller_invalid_field", COUNT),
    _claude("over-the-limit", b" " * (LIMIT + 1), "caller_body_too_large", status=413),
    _claude(
        "alias-of-openai",
        GOOD["anthropic"].replace(b"claude-haiku-4-5", b"fast"),
        "policy_model_not_allowed",
        status=404,
    ),
)
_ENVELOPES = (
    Row("gzip", 415, "caller_unsupported_encoding", headers=(*_JSON, ("content-encoding", "gzip")), body=b"\x1f\x8b"),
    Row("unknown-encoding", 415, "caller_unsupported_encoding", headers=(*_JSON, ("content-encoding", "x"))),
    Row(
        "claude-br",
        415,
        "caller_unsupported_encoding",
        "anthropic",
        path=MESSAGES,
        headers=(*_JSON, ("content-encoding", "br")),
    ),
    Row("text-plain", 415, "caller_unsupported_media_type", headers=(("content-type", "text/plain"),)),
    Row("form", 415, "caller_unsupported_media_type", headers=(("content-type", "application/x-www-form-urlencoded"),)),
    Row("multipart", 415, "caller_unsupported_media_type", headers=(("content-type", "multipart/form-data"),)),
    Row("unknown-path", 404, "caller_unknown_path", path="/v1/nothing"),
    Row("unknown-path-claude", 404, "caller_unknown_path", "anthropic", path="/v1/complete"),
    Row("files", 404, "caller_unknown_path", path="/v1/files"),
    Row("other-vendors-path", 404, "caller_unknown_path", path=MESSAGES),
    Row("root", 404, "caller_unknown_path", path="/"),
    Row("traversal", 404, "caller_unknown_path", path="/v1/x/../chat/completions", raw=True),
    Row("encoded-traversal", 404, "caller_unknown_path", path="/v1/%2e%2e/v1/chat/completions", raw=True),
    Row("etc-passwd", 404, "caller_unknown_path", path="/../../etc/passwd", raw=True),
    Row("trailing-slash", 404, "caller_unknown_path", path=CHAT + "/"),
    Row("double-slash", 404, "caller_unknown_path", path="//v1/chat/completions", raw=True),
    Row("upper-case-path", 404, "caller_unknown_path", path="/V1/CHAT/COMPLETIONS"),
    Row("long-path", 404, "caller_unknown_path", path="/v1/" + "x" * 5000),
    Row("get-on-chat", 405, "caller_method_not_allowed", method="GET", body=None),
    Row("put-on-chat", 405, "caller_method_not_allowed", method="PUT"),
    Row("delete-on-messages", 405, "caller_method_not_allowed", "anthropic", "DELETE", MESSAGES, body=None),
    Row("post-on-models", 405, "caller_method_not_allowed", path="/v1/models"),
    Row("model-unknown", 404, "policy_model_not_allowed", method="GET", path="/v1/models/none", body=None),
    Row("page-bad", 400, "caller_invalid_field", "anthropic", "GET", "/v1/models?limit=-1", body=None),
)
_KEYS = (
    *(_key("none", 401, "caller_missing_key", api) for api in HOSTS),
    *(_key("unknown", 401, "caller_invalid_key", api) for api in HOSTS),
    *(_key("expired", 401, "caller_expired_key", api) for api in HOSTS),
    *(_key("revoked", 401, "caller_revoked_key", api) for api in HOSTS),
    *(_key("vendor", 401, "caller_invalid_key", api) for api in HOSTS),
    *(_key("two", 401, "caller_conflicting_keys", api) for api in HOSTS),
    Row("key-empty-bearer", 401, "caller_missing_key", headers=(*_JSON, ("authorization", "Bearer ")), key="none", raw=True),
    Row(
        "key-of-strange-bytes", 401, "caller_invalid_key", headers=(*_JSON, ("authorization", b"Bearer \xff\xfe\x80")),
        key="none", raw=True,
    ),
    Row("key-before-body", 401, "caller_missing_key", body=b"{", key="none"),
)  # fmt: skip

ROWS: Final = (*_BODIES, *_FIELDS, *_CLAUDE, *_ENVELOPES, *_KEYS)


def credentials(row: Row, keys: dict[str, str]) -> tuple[tuple[str, str], ...]:
    """The headers that carry the row's key. `keys`: a key for each of `valid`, `unknown`, `expired`, `revoked`,
    `vendor` and `other` (a second valid one)."""
    if row.key == "none":
        return ()
    if row.key == "two":
        return (("authorization", f"Bearer {keys['valid']}"), ("x-api-key", keys["other"]))
    if row.api == "anthropic":
        return (("x-api-key", keys[row.key]), ("anthropic-version", "2023-06-01"))
    return (("authorization", f"Bearer {keys[row.key]}"),)
