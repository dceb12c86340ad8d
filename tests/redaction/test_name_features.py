"""What the name model knows of a token, and its weights file."""

from __future__ import annotations

import io
from functools import cache
from importlib.resources import files

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from extproc.redaction.name_features import (
    KNOWLEDGE,
    LONGEST,
    MAX_PIECES,
    NO_TOKEN,
    PIECES,
    SHAPES,
    TOKEN,
    WORDS,
    Known,
    Weights,
    digest,
    features,
    load,
    word_hash,
)

FOLDER = files("extproc.redaction") / "data"
FILE = (FOLDER / "names.npz").read_bytes()
ANY_TEXT = st.text(st.characters(), max_size=80)


def nothing(_: int) -> int:
    return 0


def arrays() -> dict[str, np.ndarray]:
    with np.load(io.BytesIO(FILE)) as archive:
        return {name: archive[name] for name in archive.files}


@cache
def load_once() -> Weights:
    return load(FILE)


@cache
def load_once_hashes() -> frozenset[int]:
    return frozenset(arrays()["lexicon"].tolist())


def packed(changed: dict[str, np.ndarray]) -> bytes:
    """A file with a digest that is right for its content."""
    written = io.BytesIO()
    np.savez(written, **{**changed, "digest": np.frombuffer(digest(changed), np.uint8)})
    return written.getvalue()


@given(ANY_TEXT)
def test_tokens_leave_nothing_out(text):
    """Put together, the tokens are the text again."""
    assert text == "".join(TOKEN.findall(text))


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("Ann O'Neil", ["Ann", " O", "'", "Neil"]),
        ("a  b\n c", ["a", "  ", "b", "\n ", "c"]),
        ("snake_case42", ["snake", "_", "case", "42"]),
        ('{"x":"Zoë"}', ["{", '"', "x", '"', ":", '"', "Zoë", '"', "}"]),
    ],
)
def test_tokens(text, tokens):
    """Words, numbers and signs, each with the blank before it; other white space stands alone."""
    assert tokens == TOKEN.findall(text)


@given(ANY_TEXT, st.integers(0, KNOWLEDGE - 1))
def test_features_fit_their_tables(text, bits):
    """Every row number is inside its table, whatever the text, and no piece of a word has the number of none."""
    for token in [*TOKEN.findall(text), NO_TOKEN]:
        found = features(token, lambda _: bits)

        assert 0 <= found.word < WORDS
        assert 0 <= found.shape < SHAPES
        assert 0 <= found.known < KNOWLEDGE
        assert len(found.pieces) <= MAX_PIECES
        assert all(0 < piece < PIECES for piece in found.pieces)


def test_case_is_a_matter_of_shape_only():
    """A word is the same word written small or large; its shape tells."""
    small, large, capital, blank = (features(token, nothing) for token in ("marta", "MARTA", "Marta", " Marta"))

    assert small.word == large.word == capital.word == blank.word
    assert small.pieces == large.pieces == capital.pieces
    assert len({small.shape, large.shape, capital.shape, blank.shape}) == 4


def test_only_the_beginning_of_a_long_word_counts():
    """Two endless words that begin alike are one."""
    assert features("x" * LONGEST + "abc", nothing)[2:] == features("x" * LONGEST + "defghi", nothing)[2:]


def test_shapes_tell_kinds_of_tokens_apart():
    """A digit, a sign, a line end and camel case are written differently."""
    shapes = [
        features(token, nothing).shape for token in ("7", "77", ".", "\n", "\n\n", "  ", "getName", "Name", "NAME", "N")
    ]

    assert len(set(shapes)) == len(shapes)


@pytest.mark.parametrize(
    ("word", "bits"),
    [
        ("maria", Known.FIRST),
        ("kowalski", Known.LAST),
        ("rotterdam", Known.PLACE),
        ("table", Known.COMMON_WORD),
        ("kwargs", Known.CODE_WORD),
    ],
)
def test_the_lexicon_knows_words(word, bits):
    """Given names, family names, places, ordinary words and words of code."""
    assert load_once().known_bits(word_hash(word)) & bits


@given(st.integers(0, 2**32 - 1))
def test_every_hash_has_an_answer(hashed):
    """Bits for a word of the lexicon, 0 for all others."""
    known = load_once().known_bits(hashed)

    assert 0 <= known < KNOWLEDGE
    assert bool(known) <= (hashed in load_once_hashes())


def test_the_weights_are_small_and_attributed():
    """At most 3 MB, and the licence of the teacher's labels lies beside them."""
    notice = (FOLDER / "names.LICENSE.md").read_text()

    assert len(FILE) <= 3_000_000
    assert "CC-BY-4.0" in notice
    assert "rampart" in notice.lower()


@pytest.mark.parametrize("at", [0, 40, len(FILE) // 3, len(FILE) // 2, len(FILE) - 30, len(FILE) - 1])
def test_a_damaged_file_is_refused(at):
    """One bit anywhere: in a header, in the numbers, in the directory at the end. None may change what is found."""
    damaged = bytearray(FILE)
    damaged[at] ^= 0x10

    try:
        weights = load(bytes(damaged))
    except ValueError:
        return
    assert np.array_equal(weights.words, load_once().words)  # a bit that no reader looks at
    assert np.array_equal(weights.last, load_once().last)


@pytest.mark.parametrize("data", [b"", b"PK", b"not an archive", FILE[: len(FILE) // 2], FILE[:-100]])
def test_what_is_no_weights_file_is_refused(data):
    """Empty, cut short, or something else."""
    with pytest.raises(ValueError, match="cannot be read"):
        load(data)


def test_changed_numbers_are_refused():
    """A sound archive whose digest does not fit."""
    changed = arrays()
    changed["last"] = changed["last"] + np.float16(1)
    written = io.BytesIO()
    np.savez(written, **changed)

    with pytest.raises(ValueError, match="digest differs"):
        load(written.getvalue())


def test_another_version_is_refused():
    """Weights that were trained on other features say nothing here."""
    with pytest.raises(ValueError, match="not of version"):
        load(packed({**arrays(), "version": np.array(99, np.int32)}))


@pytest.mark.parametrize("name", sorted(set(arrays()) - {"digest", "version"}))
def test_a_missing_or_misshapen_array_is_refused(name):
    """Each of them: absent, of another type, of another size."""
    whole = arrays()
    absent = {key: value for key, value in whole.items() if key != name}
    longer = {**whole, name: np.concatenate([whole[name], whole[name][:1]])}

    with pytest.raises(ValueError, match="no usable"):
        load(packed(absent))
    with pytest.raises(ValueError, match="no usable"):
        load(packed({**whole, name: whole[name].astype(np.complex64)}))
    with pytest.raises(ValueError, match="the shape of"):
        load(packed(longer))


def test_numbers_out_of_range_are_refused():
    """Bits that no table has a row for, and numbers that are none."""
    whole = arrays()
    with pytest.raises(ValueError, match="out of range"):
        load(packed({**whole, "lexicon_bits": np.full_like(whole["lexicon_bits"], 255)}))
    with pytest.raises(ValueError, match="out of range"):
        load(packed({**whole, "last": np.full_like(whole["last"], np.nan)}))


def test_a_good_copy_is_accepted():
    """The arrays of the file with a digest of their own load as the file does."""
    assert np.array_equal(load(packed(arrays())).first, load_once().first)
