"""google.protobuf.Struct, written straight to the wire.

Struct is `map<string, Value> fields = 1`; Value is a oneof of null (1), number (2), string (3), bool (4), struct (5)
and list (6). A map entry is a message with key = 1 and value = 2. Source: google/protobuf/struct.proto.

Facts repeat from call to call (team, app, model), so an entry whose value is a text is kept and reused: a bounded
number of short ones, in this process only.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from functools import lru_cache
from typing import Final

from extproc.exchange.actions import Fixed

_DOUBLE: Final = struct.Struct("<d").pack
_TRUE: Final = b"\x20\x01"
_FALSE: Final = b"\x20\x00"
_NULL: Final = b"\x08\x00"
_LONGEST_KEPT: Final = 256
_SMALL: Final = tuple(bytes((number,)) for number in range(0x80))


def varint(number: int) -> bytes:
    """Encode a non-negative integer as protobuf's base-128 varint."""
    if number < 0x80:
        return _SMALL[number]
    if number < 0x4000:
        return bytes((number & 0x7F | 0x80, number >> 7))
    out = bytearray()
    while number >= 0x80:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


def encode_struct(values: Mapping[str, object]) -> bytes:
    """Encode a Struct: keys in the order given. Raises TypeError for a value that JSON does not have."""
    if type(values) is Fixed:
        if values.encoded is None:
            values.encoded = _struct(values)
        return values.encoded
    return _struct(values)


def _struct(values: Mapping[str, object]) -> bytes:
    parts: list[bytes] = []
    for key, value in values.items():
        kind = type(value)
        if isinstance(value, str) and len(value) <= _LONGEST_KEPT:
            parts.append(_text_entry(key, value))
        elif kind is int or kind is float:
            parts += (_number_start(key), _DOUBLE(value))
        else:
            parts.append(_entry(key, encode_value(value)))
    return b"".join(parts)


@lru_cache(maxsize=1024)
def _number_start(key: str) -> bytes:
    """All of an entry whose value is a number but the eight bytes of the number: its lengths are known before."""
    size = 1 + 8
    start = _key(key) + varint(size) + b"\x11"
    return b"\x0a" + varint(len(start) + 8) + start


@lru_cache(maxsize=4096)
def _text_entry(key: str, value: str) -> bytes:
    return _entry(key, _text(value))


@lru_cache(maxsize=1024)
def _key(key: str) -> bytes:
    name = key.encode()
    return b"\x0a" + varint(len(name)) + name + b"\x12"


def _entry(key: str, coded: bytes) -> bytes:
    entry = _key(key) + varint(len(coded)) + coded
    return b"\x0a" + varint(len(entry)) + entry


def _text(value: str) -> bytes:
    text = value.encode(errors="replace")  # half a surrogate pair is no reason to fail a call
    return b"\x1a" + varint(len(text)) + text


def encode_value(value: object) -> bytes:
    """Encode a Value. Numbers are doubles on the wire, as everywhere in JSON-like metadata."""
    if isinstance(value, str):
        return _text(value)
    if isinstance(value, bool):
        return _TRUE if value else _FALSE
    if isinstance(value, int | float):
        return b"\x11" + _DOUBLE(value)
    if value is None:
        return _NULL
    if isinstance(value, Mapping):
        fields = encode_struct(value)
        return b"\x2a" + varint(len(fields)) + fields
    if isinstance(value, list | tuple):
        items: list[bytes] = []
        for item in value:
            coded = encode_value(item)
            items.append(b"\x0a" + varint(len(coded)) + coded)
        whole = b"".join(items)
        return b"\x32" + varint(len(whole)) + whole
    raise TypeError(f"no JSON value: {type(value).__name__}")
