"""The secret behind hashes and keyed pseudonyms: made once, read by every worker, refused where it is weak."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from extproc.adapters import first_run
from extproc.adapters.redaction_key import make_redaction_key, read_redaction_key
from extproc.config import load
from extproc.config.units import SecretRef
from extproc.errors import ConfigError

CONFIG = b"""
version: 1
providers: {openai: {api: openai}}
keys: {file: k/keys.json, pepper: {file: p/pepper}}
redaction: {key: {file: r/redaction.key}}
"""


def test_the_key_is_made_once_and_is_private(tmp_path: Path) -> None:
    """The first start makes it, the second keeps it: other values for all pseudonyms are nobody's wish."""
    config = load(CONFIG, "gateway.yaml", base=tmp_path)
    assert config.redaction is not None
    reference = config.redaction.key
    assert reference is not None
    first_run.prepare(tmp_path / "state", config, {})
    key = read_redaction_key(reference, {})
    first_run.prepare(tmp_path / "state", config, {})

    assert len(key) == 64
    assert read_redaction_key(reference, {}) == key
    assert stat.S_IMODE((tmp_path / "r" / "redaction.key").stat().st_mode) == 0o600


def test_a_variable_is_read_and_never_made() -> None:
    """White space around it is not part of it."""
    assert not make_redaction_key(SecretRef(env="REDACTION_KEY"))
    assert read_redaction_key(SecretRef(env="REDACTION_KEY"), {"REDACTION_KEY": " " + "k" * 32 + "\n"}) == b"k" * 32


@pytest.mark.parametrize(
    ("environ", "reason"), [({}, "not set"), ({"K": " "}, "not set"), ({"K": "s" * 31}, "shorter than 32")]
)
def test_a_variable_that_will_not_do(environ: dict[str, str], reason: str) -> None:
    """Told by its name; what is in it is not repeated."""
    with pytest.raises(ConfigError) as caught:
        read_redaction_key(SecretRef(env="K"), environ)
    assert caught.value.path == "redaction.key.env"
    assert reason in caught.value.reason
    assert "sss" not in str(caught.value)


def test_a_file_that_will_not_do(tmp_path: Path) -> None:
    """Absent, short, or open to others."""
    path = tmp_path / "key"
    for data, mode, reason in ((None, 0, "is not there"), ("short", 0o600, "shorter"), ("k" * 64, 0o644, "open to")):
        if data is not None:
            path.write_text(data)
            path.chmod(mode)
        with pytest.raises(ConfigError) as caught:
            read_redaction_key(SecretRef(file=path), {})
        assert caught.value.path == "redaction.key.file"
        assert reason in caught.value.reason
        assert caught.value.hint
