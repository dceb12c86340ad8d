"""Endpoints, model lists, embeddings, and errors in the vendors' shapes."""

from __future__ import annotations

import json

import pytest

from extproc.dialects import anthropic_models, openai_models, registry
from extproc.dialects.models import ModelEntry
from extproc.errors import ErrorCode, Rejection
from extproc.usage import Usage

ENTRIES = [ModelEntry(f"m{i}", 1_700_000_000 + i, "org", f"Model {i}") for i in range(5)]


@pytest.mark.parametrize(
    ("api", "method", "path", "name"),
    [
        ("openai", "POST", "/v1/chat/completions", "openai_chat"),
        ("openai", "POST", "/v1/responses", "openai_responses"),
        ("openai", "POST", "/v1/embeddings", "openai_embeddings"),
        ("openai", "GET", "/v1/models", "openai_models"),
        ("openai", "GET", "/v1/models/gpt-4o", "openai_models"),
        ("anthropic", "POST", "/v1/messages", "anthropic_messages"),
        ("anthropic", "POST", "/v1/messages/count_tokens", "anthropic_count_tokens"),
        ("anthropic", "GET", "/v1/models", "anthropic_models"),
        ("openai", "GET", "/v1/chat/completions", None),
        ("openai", "DELETE", "/v1/models/ft:x", None),
        ("openai", "GET", "/v1/models/", None),
        ("openai", "POST", "/v1/messages", None),
        ("openai", "POST", "/v1/files", None),
        ("anthropic", "POST", "/v1/chat/completions", None),
        ("other", "POST", "/v1/chat/completions", None),
    ],
)
def test_find(api: str, method: str, path: str, name: str | None) -> None:
    """Each endpoint has one format, by API, method and exact path."""
    found = registry.find(api, method, path)
    assert (found and found.name) == name


def test_methods_and_names() -> None:
    """A known path names its methods (405), an unknown one none (404); the formats are found by name."""
    assert registry.methods("openai", "/v1/chat/completions") == ("POST",)
    assert registry.methods("openai", "/v1/models/x") == ("GET",)
    assert registry.methods("openai", "/v1/files") == ()
    assert registry.model_in_path("/v1/models/org/m") == "org/m"
    assert registry.model_in_path("/v1/models") is None
    assert len(registry.DIALECTS) == 7
    assert all(dialect.name == name for name, dialect in registry.DIALECTS.items())


OPENAI_ERRORS = [
    (400, ErrorCode.CALLER_INVALID_FIELD, "invalid_request_error", None),
    (401, ErrorCode.CALLER_INVALID_KEY, "invalid_request_error", "invalid_api_key"),
    (403, ErrorCode.POLICY_MODEL_NOT_ALLOWED, "invalid_request_error", "model_not_found"),
    (404, ErrorCode.CALLER_UNKNOWN_PATH, "invalid_request_error", "unknown_url"),
    (405, ErrorCode.CALLER_METHOD_NOT_ALLOWED, "invalid_request_error", "method_not_supported"),
    (429, ErrorCode.PROVIDER_OVERLOADED, "rate_limit_error", "rate_limit_exceeded"),
    (502, ErrorCode.PROVIDER_BAD_RESPONSE, "server_error", None),
]
ANTHROPIC_ERRORS = [
    (400, ErrorCode.CALLER_INVALID_FIELD, 400, "invalid_request_error"),
    (401, ErrorCode.CALLER_INVALID_KEY, 401, "authentication_error"),
    (403, ErrorCode.POLICY_MODEL_NOT_ALLOWED, 403, "permission_error"),
    (404, ErrorCode.CALLER_UNKNOWN_PATH, 404, "not_found_error"),
    (405, ErrorCode.CALLER_METHOD_NOT_ALLOWED, 405, "invalid_request_error"),
    (413, ErrorCode.CALLER_BODY_TOO_LARGE, 413, "request_too_large"),
    (429, ErrorCode.PROVIDER_OVERLOADED, 429, "rate_limit_error"),
    (500, ErrorCode.GATEWAY_ERROR, 500, "api_error"),
    (503, ErrorCode.PROVIDER_OVERLOADED, 529, "overloaded_error"),
    (504, ErrorCode.PROVIDER_TIMEOUT, 504, "timeout_error"),
]


@pytest.mark.parametrize(("status", "code", "kind", "vendor_code"), OPENAI_ERRORS)
def test_openai_errors(status: int, code: ErrorCode, kind: str, vendor_code: str | None) -> None:
    """OpenAI's shape, type and code; text is escaped; an unknown API gets the same."""
    refusal = Rejection(status, code, 'a "b"\n\\ \u00e9', param="x[0]", retry_after=3)
    answer = registry.error("openai", refusal)
    assert answer.status == status
    assert answer.headers == (("content-type", "application/json"), ("retry-after", "3"))
    wanted = {"message": refusal.message, "type": kind, "param": "x[0]", "code": vendor_code}
    assert json.loads(answer.body) == {"error": wanted}
    assert registry.error("unknown", refusal) == answer
    assert registry.DIALECTS["openai_chat"].error(refusal) == answer


@pytest.mark.parametrize(("status", "code", "vendor_status", "kind"), ANTHROPIC_ERRORS)
def test_anthropic_errors(status: int, code: ErrorCode, vendor_status: int, kind: str) -> None:
    """Anthropic's shape, type and own statuses."""
    answer = registry.error("anthropic", Rejection(status, code, 'a "b"'))
    assert answer.status == vendor_status
    assert answer.headers == (("content-type", "application/json"),)
    wanted = {"type": "error", "error": {"type": kind, "message": 'a "b"'}, "request_id": None}
    assert json.loads(answer.body) == wanted


def test_openai_model_list() -> None:
    """All models on one page, and one by itself."""
    one = {"id": "m0", "object": "model", "created": 1_700_000_000, "owned_by": "org"}
    listed = json.loads(openai_models.render_list(ENTRIES))
    assert listed["object"] == "list"
    assert listed["data"][0] == one
    assert len(listed["data"]) == 5
    assert json.loads(openai_models.render_one(ENTRIES[0])) == one


@pytest.mark.parametrize(
    ("query", "ids", "more"),
    [
        ("", ["m0", "m1", "m2", "m3", "m4"], False),
        ("limit=2", ["m0", "m1"], True),
        ("limit=2&after_id=m1", ["m2", "m3"], True),
        ("limit=2&after_id=m2", ["m3", "m4"], False),
        ("after_id=m4", [], False),
        ("limit=2&before_id=m3", ["m1", "m2"], True),
        ("limit=3&before_id=m3", ["m0", "m1", "m2"], False),
    ],
)
def test_anthropic_model_pages(query: str, ids: list[str], more: bool) -> None:
    """Pages by cursor, forwards and backwards."""
    page = json.loads(anthropic_models.render_list(ENTRIES, anthropic_models.read_page(query)))
    assert [model["id"] for model in page["data"]] == ids
    assert (page["has_more"], page["first_id"], page["last_id"]) == (
        more,
        *((ids[0], ids[-1]) if ids else (None, None)),
    )


def test_anthropic_model() -> None:
    """One model, its time in RFC 3339."""
    wanted = {"type": "model", "id": "m0", "display_name": "Model 0", "created_at": "2023-11-14T22:13:20Z"}
    assert json.loads(anthropic_models.render_one(ENTRIES[0])) == wanted


@pytest.mark.parametrize(
    "query", ["limit=0", "limit=1001", "limit=x", "limit=-1", "limit=²", "after_id=a&before_id=b", "after_id=zz"]
)
def test_wrong_pages(query: str) -> None:
    """Bad limits and unknown cursors are refused."""
    with pytest.raises(Rejection) as caught:
        anthropic_models.render_list(ENTRIES, anthropic_models.read_page(query))
    assert caught.value.status == 400


def test_a_request_without_a_body() -> None:
    """Model lists have no body, no model, no usage; a body is refused."""
    dialect = registry.DIALECTS["openai_models"]
    view = dialect.read_request(b"")
    assert (view.model, view.stream, list(view.texts()), view.usage_edits()) == (None, False, [], ())
    with pytest.raises(ValueError, match="no model"):
        view.model_edit("x")
    with pytest.raises(Rejection):
        dialect.read_request(b"{}")
    reader = dialect.reader(stream=False)
    reader.feed(openai_models.render_list(ENTRIES), end=True)
    assert (reader.usage, reader.finished, dialect.billable) == (None, True, False)


@pytest.mark.parametrize("value", ["x", [], ["a", "b"], [1, 2], [[1, 2], [3]], [[]]])
def test_embeddings_input(value: object) -> None:
    """All documented shapes of input are read, and their strings found."""
    body = json.dumps({"model": "e", "input": value}).encode()
    view = registry.DIALECTS["openai_embeddings"].read_request(body)
    assert (view.max_output, view.choices, view.stream) == (0, 1, False)
    texts = list(view.texts())
    flat = [value] if isinstance(value, str) else value
    assert [text.value for text in texts] == [item for item in flat if isinstance(item, str)]
    assert all(text.kind == "input" for text in texts)


@pytest.mark.parametrize("value", [None, 1, {}, ["a", 1], [["a"]], [True], [None], [[1.5]], [[1], 2]])
def test_wrong_embeddings_input(value: object) -> None:
    """Other shapes are refused."""
    with pytest.raises(Rejection) as caught:
        registry.DIALECTS["openai_embeddings"].read_request(json.dumps({"model": "e", "input": value}).encode())
    assert caught.value.param == "input"


def test_embeddings_answer() -> None:
    """Input only; a vendor that gives the total alone means that."""
    for raw in ({"prompt_tokens": 5, "total_tokens": 5}, {"total_tokens": 5}):
        reader = registry.DIALECTS["openai_embeddings"].reader(stream=False)
        reader.feed(json.dumps({"data": [{"embedding": [0.1]}], "model": "e-1", "usage": raw}).encode(), end=True)
        assert (reader.usage, reader.model, reader.output_texts()) == (Usage(input=5), "e-1", [])
