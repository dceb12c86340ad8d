"""The recorded bodies as calls through the gateway: what is sent, what the vendor answers, what each side must see.

Expected bytes are worked out here by plain text operations, without the code under test.
"""

from __future__ import annotations

import json
import os
import random
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from envoy.raw import cut
from extproc.sim.answer import SimAnswer

ROOT = Path(os.environ.get("RECORDED_DIR", Path(__file__).parents[2] / ".." / "shared" / "recorded"))
APIS = {
    "openai-chat": "openai",
    "openai-responses": "openai",
    "openai-embeddings": "openai",
    "anthropic-messages": "anthropic",
}
PATHS = {
    "openai-chat": "/v1/chat/completions",
    "openai-responses": "/v1/responses",
    "openai-embeddings": "/v1/embeddings",
    "anthropic-messages": "/v1/messages",
}
ALIASES = {"openai": ("fast", "gpt-4o-mini"), "anthropic": ("smart", "claude-haiku-4-5")}
COUNT = "/v1/messages/count_tokens"
ASK = b'"stream_options":{"include_usage":true}'

# a request without an answer gets that of this case of its dialect
ANSWERS = {
    PATHS["openai-chat"]: "openai-chat/kong-good",
    PATHS["openai-responses"]: "openai-responses/agw-basic",
    PATHS["openai-embeddings"]: "openai-embeddings/vercel-embeddings",
    PATHS["anthropic-messages"]: "anthropic-messages/vercel-text",
    COUNT: "anthropic-messages/agw-count-tokens",
}
STREAMED_ANSWERS = {
    PATHS["openai-chat"]: "openai-chat/vercel-text-stream",
    PATHS["openai-responses"]: "openai-responses/vercel-pdf-input-stream",
    PATHS["anthropic-messages"]: "anthropic-messages/vercel-text-stream",
}
# an answer without a request gets this one
_TURN = [{"role": "user", "content": "Say it\u2026 twice."}]
REQUESTS: dict[str, dict[str, Any]] = {
    PATHS["openai-chat"]: {"model": "gpt-4.1", "messages": _TURN},
    PATHS["openai-responses"]: {"model": "gpt-4.1", "input": "Say it\u2026 twice."},
    PATHS["openai-embeddings"]: {"model": "text-embedding-3-small", "input": ["Say it\u2026", "twice."]},
    PATHS["anthropic-messages"]: {"model": "claude-opus-4-6", "max_tokens": 99, "messages": _TURN},
    COUNT: {"model": "claude-opus-4-6", "messages": _TURN},
}
MEMBER = re.compile(rb'"model"\s*:\s*("(?:[^"\\]|\\.)*")')


@dataclass(frozen=True)
class Case:
    """One recorded case; `request` or `body` (the answer's) None where it has no such half."""

    name: str
    dialect: str
    path: str
    meta: dict[str, Any]
    request: bytes | None
    body: bytes | None

    @property
    def api(self) -> str:
        return APIS[self.dialect]

    @property
    def stream(self) -> bool:
        """Whether the answer is one."""
        return str(self.meta["content_type"]).startswith("text/event-stream")


@dataclass(frozen=True)
class Call:
    """One pass of a case. `name` is its label; `sent` goes in, `forwarded` must reach the vendor."""

    name: str
    case: Case
    turn: int
    sent: bytes
    forwarded: bytes
    answer: SimAnswer
    received: bytes
    usage: dict[str, Any] | None
    places: tuple[int, ...] | None
    refused: tuple[int, str] | None = None

    @property
    def path(self) -> str:
        return f"/{self.case.api}{self.case.path}"


@cache
def load(name: str) -> Case:
    """`dialect/case`. What the recorded endpoint is elsewhere (another host's prefix), it is at the vendor's own path."""
    folder = ROOT / name
    meta = json.loads((folder / "meta.json").read_text())
    files = [folder / file if (file := meta["files"][half]) else None for half in ("request", "response")]
    request, body = (file.read_bytes() if file else None for file in files)
    path = COUNT if "count_tokens" in meta["endpoint"] else PATHS[meta["dialect"]]
    return Case(name, meta["dialect"], path, meta, request, body)


def names() -> list[str]:
    """Every case of the four dialects."""
    return sorted("/".join(path.parts[-3:-1]) for dialect in PATHS for path in ROOT.glob(f"{dialect}/*/meta.json"))


def calls(name: str, turn: int, seed: int) -> Call:
    """Pass `turn` of a case. Pass 0 asks for usage itself; 1 does not and uses an alias; 2 has many small pieces."""
    case = load(name)
    dice = random.Random(f"{seed}/{name}/{turn}")
    answer = case if case.body is not None else stand_in(case)
    sent = case.request if usable(case) else None
    if sent is None:
        tree = dict(REQUESTS[case.path])
        if answer.stream:
            tree["stream"] = True
        sent = json.dumps(tree, ensure_ascii=turn != 2, indent=turn or None).encode()
    sent, forwarded = with_model(sent, case, turn)
    sent, forwarded, injected = with_usage(sent, forwarded, case, turn)
    body = answer.body or b""
    cuts = sorted(dice.sample(range(1, len(body)), min(len(body) - 1, dice.randint(1, (8, 60, 300)[turn]))))
    places = tuple(sorted(dice.sample(range(1, len(sent)), min(len(sent) - 1, 9)))) if dice.random() < 0.4 else None
    sim = SimAnswer(
        answer.meta["status"],
        (("content-type", answer.meta["content_type"]),),
        tuple(cut(body, cuts)),
        chunk_ms=(3, 1, 0)[turn],
        content_length=not answer.stream and turn != 1,
    )
    received = without_usage(body) if injected and answer.stream else body
    label = f"{name.replace('/', '.')}.{turn}"[-64:]
    return Call(label, case, turn, sent, forwarded, sim, received, answer.meta["usage"], places)


def own_requests(seed: int) -> Iterator[Call]:
    """Recorded requests that this gateway must refuse, as they are: the legacy completion, and a body without messages."""
    for name, status, code in (
        ("anthropic-messages/kong-legacy-complete", 404, "caller_unknown_path"),
        ("openai-chat/kong-bad-request-400", 400, "caller_invalid_field"),
    ):
        case = load(name)
        path = case.meta["endpoint"].partition(" ")[2] if status == 404 else case.path
        own = Case(name, case.dialect, path, case.meta, case.request, None)
        body = case.request or b""
        yield Call(f"own.{name.partition('/')[2]}", own, seed, body, b"", SimAnswer(), b"", None, None, (status, code))


def usable(case: Case) -> bool:
    """Whether the case's own request is one for the path: not the legacy completion, not one without messages."""
    if case.request is None or case.meta["endpoint"].endswith("/complete"):
        return False
    return "messages" in json.loads(case.request) or case.dialect != "openai-chat"


def stand_in(case: Case) -> Case:
    """The answer for a request-only case."""
    wants_stream = bool(json.loads(case.request or b"{}").get("stream"))
    return load((STREAMED_ANSWERS if wants_stream else ANSWERS)[case.path])


def with_model(body: bytes, case: Case, turn: int) -> tuple[bytes, bytes]:
    """(what is sent, what is forwarded): in pass 1 under an alias. A model that the body lacks is put first."""
    tree = json.loads(body)
    if "model" not in tree:
        model = str(REQUESTS[case.path]["model"])
        body = b'{"model":' + json.dumps(model).encode() + b"," + body.lstrip()[1:]
        tree["model"] = model
    if turn != 1:
        return body, body
    alias, resolved = ALIASES[case.api]
    for found in MEMBER.finditer(body):
        sent, forwarded = (
            body[: found.start(1)] + json.dumps(name).encode() + body[found.end(1) :] for name in (alias, resolved)
        )
        if json.loads(sent) == {**tree, "model": alias}:
            return sent, forwarded
    raise AssertionError(f"{case.name} has no model to replace")


def with_usage(sent: bytes, forwarded: bytes, case: Case, turn: int) -> tuple[bytes, bytes, bool]:
    """Chat streams: in pass 0 the caller asks for usage; else the gateway does, as the last member of the object."""
    tree = json.loads(sent)
    if case.dialect != "openai-chat" or not tree.get("stream") or "stream_options" in tree:
        return sent, forwarded, False
    if turn == 0:
        return insert_last(sent, ASK), insert_last(forwarded, ASK), False
    return sent, insert_last(forwarded, ASK), True


def insert_last(body: bytes, member: bytes) -> bytes:
    """Put a member after the last one of a JSON object, before the blanks that stand at its end."""
    inner = body.rstrip()[:-1]
    kept = inner.rstrip()
    return kept + b"," + member + body[len(kept) :]


def without_usage(body: bytes) -> bytes:
    """A chat stream as the vendor sends it to who did not ask: no usage chunk, and no `usage` on the others."""
    events = re.split(rb"(?<=\n\n)", body)
    return b"".join(plain_event(event) for event in events)


def plain_event(event: bytes) -> bytes:
    """One event of such a stream."""
    data = event.strip().removeprefix(b"data:").strip()
    if not data.startswith(b"{") or b'"usage"' not in data:
        return event
    chunk = json.loads(data)
    if chunk.get("usage") is not None and not chunk["choices"]:
        return b""
    shorter = event.replace(b',"usage":null', b"")
    del chunk["usage"]
    assert json.loads(shorter.strip().removeprefix(b"data:")) == chunk, event
    return shorter
