"""Trained weights -> the file that the package carries."""

from __future__ import annotations

import io
from collections.abc import Mapping

import numpy as np

from extproc.redaction.name_features import VERSION, digest

TABLES = ("words", "pieces")


def _bytes(table: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A table as bytes and a scale for each column; the few largest values are cut."""
    limit = np.maximum(np.quantile(np.abs(table), 0.9995, axis=0), 1e-6)
    scale = (limit / 127).astype(np.float32)
    return np.clip(np.rint(table / scale), -127, 127).astype(np.int8), scale


def pack(params: Mapping[str, np.ndarray], lexicon: np.ndarray, bits: np.ndarray) -> bytes:
    """The content of the weights file; the same for the same arguments."""
    arrays: dict[str, np.ndarray] = {
        "version": np.array(VERSION, np.int32),
        "lexicon": lexicon.astype(np.uint32),
        "lexicon_bits": bits.astype(np.uint8),
    }
    for name, value in params.items():
        if name in TABLES:
            table = np.array(value)
            if name == "pieces":
                table[0] = 0
            arrays[name], arrays[f"{name}_scale"] = _bytes(table)
        else:
            arrays[name] = value.astype(np.float16)
    arrays["digest"] = np.frombuffer(digest(arrays), np.uint8)
    written = io.BytesIO()
    np.savez_compressed(written, **{name: arrays[name] for name in sorted(arrays)})
    return written.getvalue()
