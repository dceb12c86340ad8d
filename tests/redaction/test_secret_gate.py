"""The gate: which patterns match, from the store or compiled, in several threads."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from extproc.redaction.hyper import ExpressionError
from extproc.redaction.secret_gate import Gate


class Store:
    """Keeps what it is given; counts what it is asked."""

    def __init__(self) -> None:
        self.kept: dict[str, bytes] = {}
        self.puts = 0

    def get(self, key: str) -> bytes | None:
        return self.kept.get(key)

    def put(self, key: str, data: bytes) -> None:
        self.kept[key] = data
        self.puts += 1


def test_numbers_of_what_matches():
    """Each pattern once, however often it matches, in order."""
    gate = Gate([r"b+", r"a", r"\bc\b", r"(?i)D"])

    assert [0, 1, 3] == gate.scan(b"bbb a d a bcb bbb")
    assert [2] == gate.scan(b"c")
    assert [] == gate.scan(b"xyz")
    assert [] == gate.scan(b"")


def test_store_saves_compiling():
    """The second gate of the same patterns stores nothing; other patterns have their own place."""
    store = Store()

    assert [0] == Gate(["a"], store).scan(b"a")
    assert [0] == Gate(["a"], store).scan(b"a")
    assert store.puts == 1
    assert [0] == Gate(["b"], store).scan(b"b")
    assert store.puts == 2


def test_damaged_store_is_compiled_anew():
    """Bytes that Hyperscan refuses are replaced."""
    store = Store()
    Gate(["a"], store)
    store.kept = dict.fromkeys(store.kept, b"damaged")

    assert [0] == Gate(["a"], store).scan(b"a")
    assert store.puts == 2


def test_pattern_at_fault_is_named():
    """The error says which pattern it was."""
    with pytest.raises(ExpressionError) as caught:
        Gate(["a", r"(a)\1", "b"])

    assert caught.value.id == 1


def test_threads_have_their_own_scratch():
    """Scans in several threads at a time give what one gives."""
    gate = Gate(["a", "b", "c"])
    texts = [b"a" * 5000, b"b" * 5000 + b"c", b"x"] * 100
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(gate.scan, texts))

    assert [[0], [1, 2], []] * 100 == found
