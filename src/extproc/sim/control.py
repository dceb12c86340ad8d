"""The control port: what a test in another process can ask and tell."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Mapping
from typing import Any, Final, Protocol
from urllib.parse import parse_qs, urlsplit

import orjson

from extproc.sim.answer import JSON_TYPE, SimAnswer, json_answer
from extproc.sim.cases import Cases
from extproc.sim.seen import RequestLog, SeenRequest

_NUMBERS: Final = ("delay_ms", "first_byte_ms", "chunk_ms", "reset_after", "stall_after")
_FIELDS: Final = frozenset({"status", "headers", "chunks", "text", "content_length", *_NUMBERS})


class BadSpecError(Exception):
    """An answer that cannot be read."""


class Script(Protocol):
    """Queues answers for the next requests."""

    def __call__(self, *answers: SimAnswer, path: str | None = None) -> None:
        """Queue `answers`."""


class Control:
    """`GET|DELETE /requests`, `POST /find`, `POST|DELETE /script`, `POST /cases`; all JSON."""

    def __init__(self, requests: RequestLog, cases: Cases, script: Script, clear: Callable[[], None]) -> None:
        self._requests, self._cases, self._script, self._clear = requests, cases, script, clear

    def handle(self, seen: SeenRequest) -> SimAnswer:
        """Answer one request."""
        actions: dict[tuple[str, str], Callable[[SeenRequest], SimAnswer]] = {
            ("GET", "/requests"): self._list,
            ("DELETE", "/requests"): self._forget,
            ("POST", "/find"): self._find,
            ("POST", "/script"): self._queue,
            ("DELETE", "/script"): self._unqueue,
            ("POST", "/cases"): self._register,
        }
        action = actions.get((seen.method, seen.path))
        if action is None:
            return json_answer({"error": "unknown path", "paths": [" ".join(key) for key in actions]}, 404)
        try:
            return action(seen)
        except BadSpecError as error:
            return json_answer({"error": str(error)}, 400)

    def _list(self, seen: SeenRequest) -> SimAnswer:
        since = parse_qs(urlsplit(seen.target).query).get("since", ["0"])[0]
        after = int(since) if since.isdecimal() else 0
        found = [_described(request) for request in self._requests if request.number > after]
        return json_answer({"requests": found, "total": self._requests.total, "hangups": self._requests.hangups})

    def _find(self, seen: SeenRequest) -> SimAnswer:
        values = _parsed(seen).get("values")
        if not isinstance(values, list) or not all(isinstance(value, str) and value for value in values):
            raise BadSpecError('expected {"values": [...]} with texts that are not empty')
        found = [
            {"number": number, "values": sorted({values.index(value) for value in held})}
            for number, held in self._requests.holding(values).items()
        ]
        return json_answer({"found": found, "searched": len(self._requests)})

    def _forget(self, _: SeenRequest) -> SimAnswer:
        self._requests.clear()
        return json_answer({"ok": True})

    def _queue(self, seen: SeenRequest) -> SimAnswer:
        body = _parsed(seen)
        specs = body.get("answers")
        if not isinstance(specs, list):
            raise BadSpecError('expected {"answers": [...]} with an optional "path"')
        answers = [answer_of(spec) for spec in specs]
        self._script(*answers, path=body.get("path"))
        return json_answer({"queued": len(answers)})

    def _unqueue(self, _: SeenRequest) -> SimAnswer:
        self._clear()
        return json_answer({"ok": True})

    def _register(self, seen: SeenRequest) -> SimAnswer:
        body = _parsed(seen)
        name = body.get("name")
        if not isinstance(name, str) or not name:
            raise BadSpecError('expected {"name": ..., "answer": {...}}')
        self._cases.add(name, answer_of(body.get("answer")))
        return json_answer({"ok": True})


def answer_of(spec: object) -> SimAnswer:
    """The answer that a JSON object describes: SimAnswer's fields, `chunks` in base64 or `text` for one chunk.

    Raises BadSpecError.
    """
    if not isinstance(spec, Mapping):
        raise BadSpecError("an answer is an object")
    unknown = sorted(spec.keys() - _FIELDS)
    if unknown:
        raise BadSpecError(f"unknown field {unknown[0]}")
    try:
        chunks = [base64.b64decode(chunk, validate=True) for chunk in spec.get("chunks") or ()]
        if "text" in spec:
            chunks.append(str(spec["text"]).encode())
        headers = tuple((str(name), str(value)) for name, value in spec.get("headers") or [("content-type", JSON_TYPE)])
    except (binascii.Error, ValueError, TypeError) as error:
        raise BadSpecError("chunks are base64 strings, headers are [name, value] pairs") from error
    numbers: dict[str, Any] = {name: spec[name] for name in _NUMBERS if spec.get(name) is not None}
    status, length = spec.get("status", 200), spec.get("content_length")
    if not all(isinstance(value, int | float) for value in (status, *numbers.values())):
        raise BadSpecError("times, places and the status are numbers")
    return SimAnswer(int(status), headers, tuple(chunks), content_length=length, **numbers)


def _parsed(seen: SeenRequest) -> Mapping[str, Any]:
    try:
        body = seen.json()
    except orjson.JSONDecodeError as error:
        raise BadSpecError("the body is not JSON") from error
    if not isinstance(body, Mapping):
        raise BadSpecError("the body is not an object")
    return body


def _described(request: SeenRequest) -> dict[str, Any]:
    return {
        "number": request.number,
        "protocol": request.protocol,
        "connection": request.connection,
        "server_name": request.server_name,
        "method": request.method,
        "target": request.target,
        "headers": [[name.decode("latin-1"), value.decode("latin-1")] for name, value in request.headers],
        "body": base64.b64encode(request.body).decode(),
    }
