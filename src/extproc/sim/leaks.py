"""Does a value stand in some bytes, however it is spelled there? Tests of what must not arrive ask this."""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Iterable, Iterator
from typing import Final
from urllib.parse import unquote_to_bytes

_ESCAPE: Final = re.compile(r'\\(?:u[0-9a-fA-F]{4}|["\\/bfnrt])')
_BASE64: Final = re.compile(rb"[A-Za-z0-9+/_-]{12,}")
_DEPTH: Final = 4
_PLAIN: Final = bytes.maketrans(b"-_", b"+/")


def found_in(data: bytes, values: Iterable[str]) -> list[str]:
    """Those of `values` that `data` holds: plainly, or below JSON escapes, percent encoding and base64, nested too."""
    seen = b"\0\0".join(_views(data, _DEPTH))
    return [value for value in values if value.encode() in seen]


def _views(data: bytes, depth: int) -> Iterator[bytes]:
    """`data`, and what it says when one layer of an encoding is taken off, and so on."""
    yield data
    if not depth:
        return
    for plain in (_unescaped(data), _unquoted(data)):
        if plain != data:
            yield from _views(plain, depth - 1)
    for packed in _BASE64.findall(data):
        for skipped in range(4):  # where the run begins in the middle of something
            whole = packed[skipped:].translate(_PLAIN)
            whole = whole[:-1] if len(whole) % 4 == 1 else whole  # one character more says nothing
            try:
                inner = base64.b64decode(whole + b"=" * (-len(whole) % 4))
            except binascii.Error:
                continue
            if _is_text(inner):
                yield from _views(inner, min(depth - 1, 2))


def _unescaped(data: bytes) -> bytes:
    """Without JSON's escapes (RFC 8259, section 7); a pair of surrogates becomes its character."""
    if b"\\" not in data:
        return data
    text = _ESCAPE.sub(lambda found: json.loads(f'"{found[0]}"'), data.decode("utf-8", "replace"))
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace").encode()


def _unquoted(data: bytes) -> bytes:
    return unquote_to_bytes(data) if b"%" in data else data


def _is_text(data: bytes) -> bool:
    """Whether decoded bytes look like text at all: random ones need not be looked into."""
    printable = sum(byte >= 0x20 or byte in b"\t\r\n" for byte in data)
    return printable * 10 >= len(data) * 9
