"""Faults that a request asks for by `x-sim-` header fields (a gateway passes unknown fields on to the vendor)."""

from __future__ import annotations

import random
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Final

from extproc.sim.answer import SimAnswer
from extproc.sim.echo import ALL, LAST
from extproc.sim.insert import insert_text
from extproc.sim.vendors import Api, error

PREFIX: Final = "x-sim-"
_TIMES: Final = {"delay-ms": "delay_ms", "first-byte-ms": "first_byte_ms", "chunk-ms": "chunk_ms"}
_PLACES: Final = {"reset-after": "reset_after", "stall-after": "stall_after"}
# read where the answer is made, not here
_ELSEWHERE: Final = frozenset({"case", "tokens", "cached-tokens", "echo", "piece", "insert"})
_ECHOES: Final = (LAST, ALL)
_KNOWN: Final = frozenset({"status", "retry-after", "gzip", "split", "content-length"}) | _TIMES.keys() | _PLACES.keys()
_MAX_MS: Final = 3_600_000


class BadFaultError(Exception):
    """An `x-sim-` field that is not known or cannot be read: a typing error must not pass for a test that passes."""


def asked(headers: Mapping[str, str]) -> dict[str, str]:
    """The `x-sim-` fields of a request, without the prefix."""
    return {name[len(PREFIX) :]: value for name, value in headers.items() if name.startswith(PREFIX)}


def apply(answer: SimAnswer, faults: Mapping[str, str], api: Api) -> SimAnswer:
    """`answer` with the faults in it. Raises BadFaultError."""
    unknown = sorted(faults.keys() - _KNOWN - _ELSEWHERE)
    if unknown:
        raise BadFaultError(f"unknown header {PREFIX}{unknown[0]}")
    _check_echo(faults)
    if "insert" in faults:
        answer = insert_text(answer, faults["insert"], int(faults.get("piece", "0")))
    if "status" in faults:
        answer = _with_status(answer, _number(faults, "status", 200, 599), api)
    if "retry-after" in faults:
        answer = answer.with_headers([("retry-after", str(_number(faults, "retry-after", 0, _MAX_MS)))])
    if faults.get("gzip") == "1":
        answer = _gzipped(answer)
    if "split" in faults:
        answer = replace(answer, chunks=tuple(split(answer.body, faults["split"])))
    if "content-length" in faults:
        answer = replace(answer, content_length=faults["content-length"] == "1")
    times = {attribute: _number(faults, name, 0, _MAX_MS) for name, attribute in _TIMES.items() if name in faults}
    places = {attribute: _number(faults, name, -1, 1 << 40) for name, attribute in _PLACES.items() if name in faults}
    return replace(answer, **times, **places) if times or places else answer  # type: ignore[arg-type]  # by field name


def split(body: bytes, how: str) -> Iterator[bytes]:
    """`body` in pieces: `7` = of 7 bytes each; `seed:42` = at places drawn from that seed. Raises BadFaultError."""
    if how.startswith("seed:") and how[5:].isdecimal():
        dice, start = random.Random(int(how[5:])), 0
        while start < len(body):
            size = dice.choice((1, 2, 3, 7, 31, 127, 1024))
            yield body[start : start + size]
            start += size
        return
    size = _number({"split": how}, "split", 1, 1 << 30)
    yield from (body[start : start + size] for start in range(0, len(body), size))


def _check_echo(faults: Mapping[str, str]) -> None:
    """Those two are read where the answer is made; here they are judged."""
    if faults.get("echo", LAST) not in _ECHOES:
        raise BadFaultError(f"{PREFIX}echo: expected {LAST} or {ALL}")
    if "piece" in faults:
        _number(faults, "piece", 0, 1 << 20)


def _with_status(answer: SimAnswer, status: int, api: Api) -> SimAnswer:
    if status < 300:
        return replace(answer, status=status)
    return error(api, status, f"The simulator was asked for status {status}.")


def _gzipped(answer: SimAnswer) -> SimAnswer:
    """RFC 1952, flushed after each chunk so that a stream stays a stream."""
    packer = zlib.compressobj(wbits=31)
    chunks = [packer.compress(chunk) + packer.flush(zlib.Z_SYNC_FLUSH) for chunk in answer.chunks[:-1]]
    chunks.append(packer.compress(answer.chunks[-1] if answer.chunks else b"") + packer.flush())
    return replace(answer, chunks=tuple(chunks)).with_headers([("content-encoding", "gzip")])


def _number(faults: Mapping[str, str], name: str, least: int, most: int) -> int:
    try:
        value = int(faults[name])
    except ValueError:
        value = least - 1
    if not least <= value <= most:
        raise BadFaultError(f"{PREFIX}{name}: expected an integer from {least} to {most}")
    return value
