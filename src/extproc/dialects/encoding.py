"""Undo a vendor's content-encoding piece by piece, within bounds.

Bodies are asked for uncompressed; a vendor that compresses anyway must still be read. Rules: RFC 9110 section 8.4
(names; `deflate` means zlib, but raw deflate is common), RFC 1952 (gzip, several members).
"""

from __future__ import annotations

import zlib
from typing import Final, Protocol

from extproc.errors import ErrorCode, Rejection

_GZIP: Final = 16 + zlib.MAX_WBITS
_RAW: Final = -zlib.MAX_WBITS
_DEFLATE_METHOD: Final = 8
_ZLIB_CHECK: Final = 31  # the first two bytes of zlib data, as a number, are a multiple of it
_ZLIB_HEADER: Final = 2
DEFAULT_OUTPUT_LIMIT: Final = 64 << 20


class Decoder(Protocol):
    """Undoes one content-encoding of one body."""

    def feed(self, data: bytes, *, end: bool) -> bytes:
        """Decode the next piece. Raises `Rejection` (502) for damaged data, a cut-off end, or too much output."""


class _Identity:
    def feed(self, data: bytes, *, end: bool) -> bytes:
        """Hand back the same object."""
        return data


def _damaged() -> Rejection:
    return Rejection(502, ErrorCode.PROVIDER_BAD_RESPONSE, "The provider's response could not be decompressed.")


class _Inflate:
    """gzip and deflate. `wbits` None: zlib or raw deflate, told by the first two bytes."""

    def __init__(self, wbits: int | None, limit: int) -> None:
        self._wbits = wbits
        self._limit = limit
        self._stream = zlib.decompressobj(wbits) if wbits is not None else None
        self._held = b""
        self._any = False

    def feed(self, data: bytes, *, end: bool) -> bytes:
        """Decode the next piece."""
        self._any = self._any or bool(data)
        if self._held:
            data, self._held = self._held + data, b""
        if self._stream is None:
            if len(data) < _ZLIB_HEADER:
                self._held = data
                if end and self._any:
                    raise _damaged()
                return b""
            self._stream = zlib.decompressobj(_deflate_kind(data))
        try:
            out = self._inflate(self._stream, data)
        except zlib.error:
            raise _damaged() from None
        if end and self._any and not self._stream.eof:
            raise _damaged()
        return out

    def _inflate(self, stream: zlib._Decompress, data: bytes) -> bytes:
        pieces = []
        room = self._limit
        while True:
            if stream.eof:
                if not (data := data.lstrip(b"\0")):  # padding between or behind gzip members
                    break
                if self._wbits != _GZIP:
                    raise _damaged()
                stream = self._stream = zlib.decompressobj(_GZIP)
            piece = stream.decompress(data, room + 1)
            pieces.append(piece)
            room -= len(piece)
            if room < 0:
                message = "The provider's response is too large once decompressed."
                raise Rejection(502, ErrorCode.PROVIDER_RESPONSE_TOO_LARGE, message)
            data = stream.unused_data if stream.eof else stream.unconsumed_tail
            if not data:
                break
        return b"".join(pieces)


def _deflate_kind(data: bytes) -> int:
    is_zlib = data[0] & 15 == _DEFLATE_METHOD and int.from_bytes(data[:_ZLIB_HEADER], "big") % _ZLIB_CHECK == 0
    return zlib.MAX_WBITS if is_zlib else _RAW


def decoder(content_encoding: str, limit: int = DEFAULT_OUTPUT_LIMIT) -> Decoder:
    """A decoder for the value of a `content-encoding` header (empty: none); `limit` bounds the output of one `feed`.

    Raises `Rejection` (502, `provider_bad_response`) for encodings that are not gzip, deflate or identity, and for
    several on top of each other.
    """
    names = [name for part in content_encoding.lower().split(",") if (name := part.strip()) not in ("", "identity")]
    if not names:
        return _Identity()
    if names in (["gzip"], ["x-gzip"]):
        return _Inflate(_GZIP, limit)
    if names == ["deflate"]:
        return _Inflate(None, limit)
    message = "The provider compressed its response in a way that this gateway does not read."
    raise Rejection(502, ErrorCode.PROVIDER_BAD_RESPONSE, message)
