"""Texts to measure with: the two development sets, code and documents, prompts of both, a chat, hostile texts."""

from __future__ import annotations

import hashlib
import json
import os
import random
import sysconfig
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

PROJECT = Path(__file__).resolve().parent.parent
FOLDER = Path(os.environ.get("REDACTION_DIR", PROJECT.parent / "shared" / "redaction"))
SETS = {"synth": "synth_dataset_v2.json", "chat": "chat_dev.jsonl"}
PLACES = {"GPE", "STREET_ADDRESS", "ZIP_CODE"}
SUFFIXES = {".py", ".md", ".rst", ".txt", ".yaml", ".toml"}
# whose files the small name model was not trained on
UNSEEN = (
    *("openai", "anthropic", "presidio_analyzer", "grpc", "pydantic", "pytest", "hypothesis", "mypy", "structlog"),
    *("re2", "importlinter", "h2", "uvloop"),
)
DENSE = 0.15  # share of the characters of a dense prompt that are sentences with entities
_PIECE = 4000


class Span(NamedTuple):
    """Characters `start` to `end` of a text are a `kind`."""

    kind: str
    start: int
    end: int


class Row(NamedTuple):
    """A text, and what is in it."""

    text: str
    spans: tuple[Span, ...]


def gold(name: str) -> list[Row]:
    """A development set. Raises `FileNotFoundError`."""
    path = FOLDER / SETS[name]
    raw = path.read_text("utf-8")
    items = json.loads(raw) if path.suffix == ".json" else [json.loads(line) for line in raw.splitlines()]
    return [Row(item["full_text"], tuple(_span(span) for span in item["spans"])) for item in items]


def _span(item: dict) -> Span:
    kind = item["entity_type"]
    return Span("LOCATION" if kind in PLACES else kind, item["start_position"], item["end_position"])


def clean(characters: int) -> list[str]:
    """Code and documents, in pieces of 4,000 characters at most, one of a file, ordered by a digest of its name.

    They are the standard library's, and those of packages that no model of ours was trained on; not their tests.
    """
    stdlib, packages = Path(sysconfig.get_path("stdlib")), Path(sysconfig.get_path("purelib"))
    roots = [stdlib, *(packages / name for name in UNSEEN), PROJECT / "docs", PROJECT / "envoy", PROJECT / "k8s"]
    named = []
    for root in roots:
        for path in root.rglob("*"):
            name = f"{root.name}/{path.relative_to(root).as_posix()}"
            if path.suffix in SUFFIXES and "test" not in name.lower() and "site-packages" not in name:
                named.append((hashlib.sha256(name.encode()).digest(), path))
    pieces: list[str] = []
    size = 0
    for digest, path in sorted(named):
        if size >= characters:
            break
        text = path.read_text("utf-8", "replace")
        if len(text) < 400:
            continue
        start = int.from_bytes(digest[:8], "big") % max(1, len(text) - _PIECE)
        pieces.append(text[start : start + _PIECE])
        size += len(pieces[-1])
    return pieces


class Prompts:
    """Prompts of code and documents, `dense` ones with sentences of the synthetic set in between. Deterministic."""

    def __init__(self, pool: Sequence[str], sentences: Sequence[str], seed: int = 1) -> None:
        self._pool = [text for text in pool if len(text) > 800]
        self._sentences = list(sentences)
        self._rng = random.Random(seed)
        self._rng.shuffle(self._sentences)
        self._next = 0

    def one(self, size: int, dense: float = 0.0) -> str:
        """A prompt of `size` characters; `dense` is the share of them in sentences with entities."""
        parts: list[str] = []
        length, entities = 0, 0
        while length < size:
            if entities < dense * (length + 80):
                part = self._sentences[self._next % len(self._sentences)]
                self._next += 1
                entities += len(part)
            else:
                text = self._rng.choice(self._pool)
                start = self._rng.randrange(len(text) - 350)
                part = text[start : start + 350]
            parts.append(part)
            length += len(part) + 1
        return "\n".join(parts)[:size]

    def many(self, size: int, count: int, dense: float = 0.0) -> list[str]:
        """So many, all different."""
        return [self.one(size, dense) for _ in range(count)]


def chat(prompts: Prompts, turns: int = 20) -> list[bytes]:
    """The bodies of the calls of one chat: 1,500 characters of system prompt, turns of 300 (user) and 900 (assistant)."""
    messages = [{"role": "system", "content": prompts.one(1500)}]
    bodies = []
    for _ in range(turns):
        messages.append({"role": "user", "content": prompts.one(300, 0.3)})
        bodies.append(json.dumps({"model": "gpt-4o-mini", "messages": messages}).encode())
        messages.append({"role": "assistant", "content": prompts.one(900, 0.1)})
    return bodies


HOSTILE = {
    "a. times 8,000": "a." * 8000,
    "a@b.co times 2,286": "a@b.co " * 2286,
    "1.2.3.4 times 2,000": "1.2.3.4 " * 2000,
    "digit groups": "1234 5678 9012 3456 " * 800,
    "one row of digits": "4" * 16_000,
    "ab: times 5,333": "ab:" * 5333,
    "( times 16,000": "(" * 16_000,
    "one word": "word" * 4000,
    "sk- times 5,333": "sk-" * 5333,
    "BEGIN PRIVATE KEY times 590": "-----BEGIN PRIVATE KEY-----" * 590,
    "password= times 1,600": "password= " * 1600,
    "postgres://a:b@ times 1,066": "postgres://a:b@" * 1066,
    "+44 20 7946 0958 times 941": "+44 20 7946 0958 " * 941,
    "DE89 3704 times 1,600": "DE89 3704 " * 1600,
    "long base64": "eyJhbGciOiJIUzI1NiJ9." * 760,
    "John Smith times 1,454": "John Smith " * 1454,
    "each word new": " ".join(f"Xa{number:x}" for number in range(2600))[:16_000],
    "emoji and Arabic digits": "😀١٢٣٤٥٦٧٨٩٠ " * 1230,
}
"""Texts of about 16,000 characters that are hard on some detector."""
