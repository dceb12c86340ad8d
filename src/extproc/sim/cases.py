"""Answers with names: given in process or over the control port, or read from a folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import orjson

from extproc.sim.answer import JSON_TYPE, SSE_TYPE, SimAnswer


class UnknownCaseError(Exception):
    """There is no case of that name."""


class Cases:
    """Named answers. A folder holds `<dialect>/<case>/meta.json` and the body file that it names.

    Of the meta: `files.response`, `status` (default 200), `content_type`, `response_headers` and `chunks` (lengths of
    the upstream's writes).
    """

    def __init__(self, folder: Path | None = None) -> None:
        self._folder = folder.resolve() if folder is not None else None
        self._answers: dict[str, SimAnswer] = {}

    def add(self, name: str, answer: SimAnswer) -> None:
        """Register `answer`; it takes the place of one with that name."""
        self._answers[name] = answer

    def get(self, name: str) -> SimAnswer:
        """The answer of that name. Raises UnknownCaseError."""
        answer = self._answers.get(name) or self._load(name)
        self._answers[name] = answer
        return answer

    def _load(self, name: str) -> SimAnswer:
        if self._folder is None:
            raise UnknownCaseError(name)
        place = (self._folder / name).resolve()
        if not place.is_relative_to(self._folder):
            raise UnknownCaseError(name)
        try:
            meta = orjson.loads((place / "meta.json").read_bytes())
            body = (place / meta["files"]["response"]).read_bytes()
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UnknownCaseError(name) from error
        return _answer(meta, body)


def _answer(meta: dict[str, Any], body: bytes) -> SimAnswer:
    stream = bool(meta.get("stream"))
    kind = meta.get("content_type") or (SSE_TYPE if stream else JSON_TYPE)
    headers = [("content-type", str(kind))]
    for name, value in (meta.get("response_headers") or {}).items():
        if name.lower() != "content-type":
            headers.append((str(name), str(value)))
    chunks, start = [], 0
    for size in meta.get("chunks") or [len(body)]:
        chunks.append(body[start : start + size])
        start += size
    chunks.append(body[start:])
    present = tuple(chunk for chunk in chunks if chunk)
    return SimAnswer(meta.get("status") or 200, tuple(headers), present, content_length=not stream)
