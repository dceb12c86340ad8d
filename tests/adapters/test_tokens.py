"""Counting is offline, right for OpenAI's models, and an estimate for others."""

from __future__ import annotations

import hashlib
import os
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import tiktoken
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from extproc.adapters import tokens as tokens_module
from extproc.adapters.tokens import CLAUDE_FACTOR, MAX_CHARACTERS, Tokenizers

O200K_URL = "https://openaipublic.blob.core.windows.net/encodings/o200k_base.tiktoken"
O200K_HASH = "446a9538cb6c348e3516120d7c08b09f57c36495e2acfffe59a5bf8b0cfb1a2d"
O200K_FILE = hashlib.sha1(O200K_URL.encode()).hexdigest()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("tiktoken")


@pytest.fixture(scope="module")
def tokenizers(folder: Path) -> Tokenizers:
    return Tokenizers(folder)


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("the network was tried")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


@pytest.mark.parametrize(
    ("model", "texts", "tokens"),
    [
        ("gpt-4o", ["hello world"], 2),
        ("gpt-4", ["hello world"], 2),
        ("gpt-4", ["tiktoken is great!"], 6),  # the example of OpenAI's cookbook
        ("gpt-4o", ["tiktoken is great!"], 6),
        ("gpt-4o", ["hello", " world"], 2),
        ("gpt-4o", [], 0),
        ("gpt-4o", [""], 0),
        ("openai/gpt-4o-mini", ["hello world"], 2),
    ],
)
def test_known_counts(tokenizers: Tokenizers, model: str, texts: list[str], tokens: int) -> None:
    """Published examples, and how texts add up."""
    assert tokenizers.count(model, texts) == tokens


def test_the_encoding_is_the_models(tokenizers: Tokenizers) -> None:
    """gpt-4 and gpt-4o differ where their encodings do; unknown and uncarried ones take the newest encoding."""
    text = ["日本語のテキストです。" * 3]
    newest, older = tokenizers.count("gpt-4o", text), tokenizers.count("gpt-4", text)
    assert newest < older
    for model in ("", "llama-4", "gpt-oss-120b", "text-davinci-003", "o1", "gpt-5-mini"):
        assert tokenizers.count(model, text) == newest


def test_claude_is_estimated_upwards(tokenizers: Tokenizers) -> None:
    """Claude's tokens are denser than those of the tokenizer at hand."""
    text = ["The quick brown fox jumps over the lazy dog. " * 20]
    plain = tokenizers.count("gpt-4o", text)
    assert plain < tokenizers.count("anthropic.claude-sonnet-4-5", text) == -(-plain * 12 // 10)
    assert CLAUDE_FACTOR == 1.2


def test_special_tokens_in_text_are_text(tokenizers: Tokenizers) -> None:
    """A caller may write <|endoftext|>: it neither raises nor counts as one token."""
    assert tokenizers.count("gpt-4o", ["<|endoftext|>"]) > 1


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])  # the one that refuses the network
@given(texts=st.lists(st.text(st.characters(), max_size=50), max_size=4))
def test_any_text_has_a_count(tokenizers: Tokenizers, texts: list[str]) -> None:
    """Any characters, unpaired surrogates included, have a count that is nought for no text only."""
    counted = tokenizers.count("gpt-4o", texts)
    assert (counted > 0) == any(texts)


def test_the_rest_of_a_very_long_text_is_extrapolated(tokenizers: Tokenizers) -> None:
    """Over the cap the count goes on by density."""
    sentence = "The quick brown fox jumps over the lazy dog. "
    once = sentence * (MAX_CHARACTERS // len(sentence))
    assert tokenizers.count("gpt-4o", [once] * 3) == pytest.approx(3 * tokenizers.count("gpt-4o", [once]), rel=0.001)


def test_cutting_costs_at_most_a_token_a_piece(tokenizers: Tokenizers, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pieces bound the time of pathological texts without changing counts by much."""
    text = ["The quick brown fox jumps over the lazy dog. " * 2000]
    whole = tokenizers.count("gpt-4o", text)
    monkeypatch.setattr(tokens_module, "_PIECE", 1000)
    assert 0 <= tokenizers.count("gpt-4o", text) - whole <= 90


def test_files_lie_as_tiktoken_wants_them(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The folder is a valid TIKTOKEN_CACHE_DIR: tiktoken itself reads it, by its own name and hash."""
    Tokenizers(folder).count("gpt-4o", ["x"])
    assert hashlib.sha256((folder / O200K_FILE).read_bytes()).hexdigest() == O200K_HASH
    assert {path.name for path in folder.iterdir() if "." in path.name} == set()
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(folder))
    monkeypatch.setattr(tiktoken.registry, "ENCODINGS", {})
    assert len(tiktoken.get_encoding("o200k_base").encode("hello world")) == 2


def test_a_damaged_file_is_replaced(tmp_path: Path) -> None:
    """What is in the folder is never trusted unchecked."""
    (tmp_path / O200K_FILE).write_bytes(b"aGVsbG8= 0\n")
    assert Tokenizers(tmp_path).count("gpt-4o", ["hello world"]) == 2
    assert hashlib.sha256((tmp_path / O200K_FILE).read_bytes()).hexdigest() == O200K_HASH


def test_a_folder_that_cannot_be_made_is_no_error(tmp_path: Path) -> None:
    """A read-only place costs unpacking, not counting."""
    (tmp_path / "file").write_text("in the way")
    assert Tokenizers(tmp_path / "file" / "cache").count("gpt-4o", ["hello world"]) == 2


def test_the_wrong_ranks_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A package with other content than tiktoken expects is an error, not another count."""
    monkeypatch.setattr(tokens_module, "check_hash", lambda *_: False)
    with pytest.raises(ValueError, match="not the one that tiktoken expects"):
        Tokenizers(tmp_path).count("gpt-4o", ["x"])
    assert list(tmp_path.iterdir()) == []


def test_threads_share_one_encoding(tmp_path: Path) -> None:
    """First uses at the same time build it once and agree."""
    shared = Tokenizers(tmp_path)
    counts: list[int] = []
    threads = [
        threading.Thread(target=lambda: counts.append(shared.count("gpt-4o", ["hello world"]))) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert counts == [2, 2, 2, 2]


def test_warm_builds_all_before_the_first_call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A call then builds none: it may wait for the event loop, not for a rank file."""
    tokenizers = Tokenizers(tmp_path)
    tokenizers.warm()
    monkeypatch.setattr(tokens_module, "_build", None)

    assert tokenizers.count("gpt-4o", ["hello world"]) == tokenizers.count("gpt-4", ["hello world"]) == 2


def test_importing_reads_nothing_and_leaves_the_environment() -> None:
    """No rank file is opened and no variable set before the first count."""
    script = (
        "import os; before = dict(os.environ)\n"
        "import extproc.adapters.tokens as t, pathlib\n"
        "assert dict(os.environ) == before\n"
        "t.Tokenizers(pathlib.Path('/nonexistent'))\n"
        "assert dict(os.environ) == before\n"
    )
    source = str(Path(tokens_module.__file__).parents[2])
    run = subprocess.run([sys.executable, "-c", script], env={**os.environ, "PYTHONPATH": source}, capture_output=True)
    assert run.returncode == 0, run.stderr
