"""Undoing content-encodings."""

from __future__ import annotations

import gzip
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from extproc.dialects import encoding
from extproc.errors import ErrorCode, Rejection


def raw_deflate(data: bytes) -> bytes:
    """Deflate without a zlib header."""
    packer = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return packer.compress(data) + packer.flush()


PACKERS = {"gzip": gzip.compress, "x-gzip": gzip.compress, "deflate": zlib.compress, "Deflate": raw_deflate, "": bytes}


@given(st.sampled_from(sorted(PACKERS)), st.binary(max_size=300), st.integers(1, 50))
def test_round_trip_in_pieces(name: str, data: bytes, size: int) -> None:
    """Every encoding gives the body back, whatever the pieces."""
    packed = PACKERS[name](data)
    decoder = encoding.decoder(name)
    out = [decoder.feed(packed[i : i + size], end=False) for i in range(0, len(packed), size)]
    assert b"".join(out) + decoder.feed(b"", end=True) == data


@pytest.mark.parametrize("size", [1, 3, 1000])
def test_several_gzip_members(size: int) -> None:
    """A body of several members, with zero padding behind, is read to its end."""
    packed = gzip.compress(b"one ") + gzip.compress(b"two") + b"\0" * 8
    decoder = encoding.decoder("gzip")
    out = [decoder.feed(packed[i : i + size], end=False) for i in range(0, len(packed), size)]
    assert b"".join(out) + decoder.feed(b"", end=True) == b"one two"


def test_identity_hands_back_the_same_object() -> None:
    """Without an encoding nothing is copied."""
    data = b"abc"
    assert encoding.decoder("identity").feed(data, end=True) is data


@pytest.mark.parametrize("name", ["gzip", "deflate"])
def test_bomb(name: str) -> None:
    """Output over the limit is refused, at a cost near the limit; output at the limit passes."""
    assert len(encoding.decoder(name, 1000).feed(PACKERS[name](b"\0" * 1000), end=True)) == 1000
    with pytest.raises(Rejection) as caught:
        encoding.decoder(name, 1000).feed(PACKERS[name](b"\0" * 10_000_000), end=True)
    assert caught.value.code is ErrorCode.PROVIDER_RESPONSE_TOO_LARGE


def test_bomb_of_many_members() -> None:
    """The limit holds over all members of one piece together."""
    with pytest.raises(Rejection):
        encoding.decoder("gzip", 1000).feed(gzip.compress(b"x" * 100) * 11, end=True)


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("gzip", b"not gzip"),
        ("gzip", gzip.compress(b"x" * 100)[:-9]),
        ("gzip", gzip.compress(b"x") + b"tail"),
        ("gzip", b"\x1f"),
        ("deflate", b"\xff\xff\xff\xff"),
        ("deflate", b"\x78"),
        ("deflate", zlib.compress(b"x") + b"tail"),
    ],
)
def test_damaged_data(name: str, data: bytes) -> None:
    """Damage, a cut-off end and bytes behind the end are the provider's fault, not a crash."""
    with pytest.raises(Rejection) as caught:
        encoding.decoder(name).feed(data, end=True)
    assert (caught.value.status, caught.value.code) == (502, ErrorCode.PROVIDER_BAD_RESPONSE)


@pytest.mark.parametrize("name", ["br", "zstd", "gzip, gzip", "compress", "nonsense"])
def test_unknown_encodings(name: str) -> None:
    """What cannot be read is refused."""
    with pytest.raises(Rejection) as caught:
        encoding.decoder(name)
    assert caught.value.code is ErrorCode.PROVIDER_BAD_RESPONSE


def test_an_empty_body_needs_no_end_mark() -> None:
    """A bodiless answer that names an encoding is fine."""
    assert encoding.decoder("gzip").feed(b"", end=True) == b""
