"""Every recorded body of the dialects that are read: requests, usage, byte-exactness at any chunking."""

from __future__ import annotations

import json
import os
import random
from pathlib import Path

import pytest

from extproc.dialects import registry, spans
from extproc.dialects.dialect import Dialect, ResponseReader
from extproc.errors import Rejection
from extproc.usage import Usage

pytestmark = pytest.mark.recorded

ROOT = Path(os.environ.get("RECORDED_DIR", Path(__file__).parents[2] / ".." / "shared" / "recorded"))
FOLDERS = {
    "openai-chat": "openai_chat",
    "openai-responses": "openai_responses",
    "openai-embeddings": "openai_embeddings",
    "anthropic-messages": "anthropic_messages",
}
ALIKE = ("deepseek", "groq", "moonshot", "xai", "azure", "mistral", "alibaba", "perplexity")
CONVENTIONS = ("openai-chat", "xai-chat", "moonshot", "groq", "deepseek", "perplexity", "openai-responses")
KINDS = ("input", "output", "cached_input", "cache_creation_input", "reasoning")


def _case(folder: Path) -> tuple[Path, dict] | None:
    meta = json.loads((folder / "meta.json").read_text())
    kind = meta.get("like") or meta["dialect"]
    if kind in FOLDERS:
        return folder, meta
    convention = (meta["usage"] or {}).get("convention")
    return (folder, meta) if kind in ALIKE and convention in CONVENTIONS else None


def _cases() -> list[tuple[Path, dict]]:
    folders = [path.parent for name in (*FOLDERS, *ALIKE, "malformed") for path in ROOT.glob(f"{name}/*/meta.json")]
    return [case for folder in sorted(folders) if (case := _case(folder)) is not None]


CASES = _cases() if ROOT.is_dir() else []
REQUESTS = [case for case in CASES if case[1]["files"]["request"]]
RESPONSES = [case for case in CASES if case[1]["files"]["response"]]


def _name(case: object) -> str:
    return "/".join(case[0].parts[-2:]) if isinstance(case, tuple) else "none"


def _dialect(meta: dict) -> Dialect:
    if "count_tokens" in meta["endpoint"]:
        return registry.DIALECTS["anthropic_count_tokens"]
    kind = meta.get("like") or meta["dialect"]
    if kind in FOLDERS:
        return registry.DIALECTS[FOLDERS[kind]]
    chat = meta["usage"]["convention"] != "openai-responses"
    return registry.DIALECTS["openai_chat" if chat else "openai_responses"]


def _expected(meta: dict) -> Usage | None:
    usage = meta["usage"]
    return None if usage is None else Usage(**{kind: usage[kind] for kind in KINDS})


def _cuts(size: int, seed: int) -> list[list[int]]:
    chance = random.Random(seed)
    cuts = [[], list(range(1, size))]
    cuts += [sorted(chance.sample(range(1, size), min(size - 1, chance.randint(1, 40)))) for _ in range(3) if size > 1]
    return cuts


def _feed(reader: ResponseReader, body: bytes, cuts: list[int]) -> bytes:
    pieces = [body[a:b] for a, b in zip([0, *cuts], [*cuts, len(body)], strict=True)]
    out = [reader.feed(piece, end=False) for piece in pieces]
    return b"".join([*out, reader.feed(b"", end=True)])


def _state(reader: ResponseReader) -> tuple:
    return (reader.usage, reader.model, reader.finish_reasons, reader.error, reader.finished, reader.events)


def _data(stream: bytes) -> list[bytes]:
    """The JSON data of a stream's events, read in the plainest way."""
    lines = [line.removeprefix(b"data:").strip() for line in stream.splitlines() if line.startswith(b"data:")]
    return [line for line in lines if line.startswith(b"{") and line.endswith(b"}")]


def test_cases_are_there() -> None:
    """The run says how many cases it did; where the folder is there, it holds some."""
    if not ROOT.is_dir():
        pytest.skip("no recorded bodies beside this checkout")
    print(f"\nrecorded cases of the dialects: {len(CASES)} ({len(REQUESTS)} requests, {len(RESPONSES)} responses)")
    assert len(REQUESTS) > 30
    assert len(RESPONSES) > 90


@pytest.mark.parametrize("case", REQUESTS, ids=_name)
def test_request(case: tuple[Path, dict]) -> None:
    """Each request is read, its model is edited in place, and every text is where its span says."""
    folder, meta = case
    body = (folder / meta["files"]["request"]).read_bytes()
    tree = json.loads(body)
    if "model" not in tree:  # the endpoint names the model in its path: add it, as this API wants it
        body = spans.splice(body, [spans.insert_member(body, 0, spans.members(body), b'"model":"m"')])
        tree = json.loads(body)
    if meta["endpoint"].endswith("/complete"):
        pytest.skip("the legacy text completion has no dialect")
    if "messages" not in tree and meta["status"] == 400:
        with pytest.raises(Rejection, match="messages"):
            _dialect(meta).read_request(body)
        return
    view = _dialect(meta).read_request(body)
    assert view.model == tree["model"]
    assert view.stream == bool(tree.get("stream"))
    edit = view.model_edit("other/model")
    assert body[edit.start : edit.end] == json.dumps(tree["model"]).encode()
    edited = spans.splice(body, [edit, *view.usage_edits()])
    wanted = {**tree, "model": "other/model"}
    if view.usage_edits():
        wanted["stream_options"] = {**(tree.get("stream_options") or {}), "include_usage": True}
    assert json.loads(edited) == wanted
    assert edited.startswith(body[: edit.start] + b'"other/model"')
    texts = list(view.texts())
    assert texts
    places = [view.place(text.path) for text in texts]
    assert [json.loads(body[start:end]) for start, end in places] == [text.value for text in texts]
    assert len(set(places)) == len(texts)


@pytest.mark.parametrize("case", RESPONSES, ids=_name)
def test_response(case: tuple[Path, dict]) -> None:
    """Each answer gives the case's usage, and goes on byte for byte, at whole, random and single-byte chunks."""
    folder, meta = case
    body = (folder / meta["files"]["response"]).read_bytes()
    dialect = _dialect(meta)
    states = set()
    for cuts in _cuts(len(body), len(body)):
        reader = dialect.reader(stream=meta["files"]["response"].endswith(".sse"))
        assert _feed(reader, body, cuts) == body
        states.add(_state(reader))
    assert len(states) == 1
    assert reader.usage == _expected(meta)


@pytest.mark.parametrize(
    "case", [case for case in RESPONSES if case[1]["files"]["response"].endswith(".sse")], ids=_name
)
def test_stripped_stream(case: tuple[Path, dict]) -> None:
    """With usage stripped, what goes on has none, is else the same, whatever the chunks; the usage is still read."""
    folder, meta = case
    dialect = _dialect(meta)
    if dialect.name != "openai_chat":
        pytest.skip("only Chat Completions streams are edited")
    body = (folder / meta["files"]["response"]).read_bytes()
    outs = set()
    for cuts in _cuts(len(body), len(body) + 1):
        reader = dialect.reader(stream=True, strip_usage=True)
        outs.add(_feed(reader, body, cuts))
        assert reader.usage == _expected(meta)
    (out,) = outs
    chunks = [json.loads(data) for data in _data(out)]
    assert not any("usage" in chunk for chunk in chunks if isinstance(chunk, dict))
    again = dialect.reader(stream=True)
    again.feed(out, end=True)
    plain = dialect.reader(stream=True)
    plain.feed(body, end=True)
    assert again.output_texts() == plain.output_texts()
    assert again.finish_reasons == plain.finish_reasons
