"""Recall and precision by spans, false alarms in code and documents, vendor key formats."""

from __future__ import annotations

import importlib.util
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from redaction_data import PROJECT, Row, Span, clean, gold
from redaction_engines import FAST, PATTERNS, STRICT, Finder, Ours, Presidio, secrets

KINDS = ("EMAIL_ADDRESS", "IP_ADDRESS", "US_SSN", "IBAN_CODE", "CREDIT_CARD", "PHONE_NUMBER", "PERSON", "LOCATION")
FORMED = KINDS[:6]
_CLEAN = 800_000
_CLEAN_PRESIDIO = 100_000


def covered(span: Span, others: Sequence[Span]) -> bool:
    """Whether spans of its kind cover at least half of a span."""
    inside = {
        at
        for other in others
        if other.kind == span.kind
        for at in range(max(span.start, other.start), min(span.end, other.end))
    }
    return 2 * len(inside) >= span.end - span.start


def score(rows: Sequence[Row], found: Sequence[Sequence[Span]]) -> dict[str, dict[str, int]]:
    """By kind: gold spans, those found, spans found, those that are right."""
    counts = {kind: Counter({"gold": 0, "recalled": 0, "found": 0, "right": 0}) for kind in KINDS}
    for row, spans in zip(rows, found, strict=True):
        for kind in KINDS:
            mine = [span for span in spans if span.kind == kind]
            theirs = [span for span in row.spans if span.kind == kind]
            one = counts[kind]
            one["gold"] += len(theirs)
            one["found"] += len(mine)
            one["recalled"] += sum(covered(span, mine) for span in theirs)
            one["right"] += sum(covered(span, theirs) for span in mine)
    return {kind: dict(one) for kind, one in counts.items()}


def sets(ours: Ours, presidio: Presidio, tell: Callable[[str], None], *, every: int) -> dict[str, Any]:
    """Every engine on both sets: name of the set -> engine -> kind -> counts. `every`: take one row in so many."""
    result: dict[str, Any] = {}
    # places are off by default; a profile that wants them finds the same of everything else
    engines: dict[str, Finder] = {
        PATTERNS: ours.finder(PATTERNS),
        FAST: ours.finder("fast_places"),
        STRICT: ours.finder("strict_places"),
        "regions": ours.finder("regions"),
    }
    for name in ("synth", "chat"):
        rows = gold(name)[::every]
        result[name] = {}
        for engine, find in engines.items():
            tell(f"quality, {name}: {engine}")
            result[name][engine] = score(rows, [find(row.text) for row in rows])
        tell(f"quality, {name}: Presidio")
        made = [presidio.artifacts(row.text) for row in rows]
        for threshold in (0.4, 0.0):
            found = [presidio.analyze(row.text, threshold, one) for row, one in zip(rows, made, strict=True)]
            result[name][f"presidio {threshold}"] = score(rows, found)
    return result


def false_alarms(ours: Ours, presidio: Presidio, tell: Callable[[str], None], *, share: float) -> dict[str, Any]:
    """Findings in code and documents by kind, all of them: the few that are real e-mails and authors count too."""
    texts = clean(int(_CLEAN * share))
    few = clean(int(_CLEAN_PRESIDIO * share))
    engines: dict[str, tuple[list[str], Finder]] = {
        PATTERNS: (texts, ours.finder(PATTERNS)),
        "regions": (texts, ours.finder("regions")),
        FAST: (texts, ours.finder(FAST)),
        "fast_places": (texts, ours.finder("fast_places")),
        STRICT: (texts, ours.finder(STRICT)),
        "strict_places": (texts, ours.finder("strict_places")),
        "presidio 0.4": (few, lambda text: presidio.analyze(text, 0.4)),
    }
    result = {}
    for engine, (pool, find) in engines.items():
        tell(f"false alarms: {engine}")
        kinds = Counter(span.kind for text in pool for span in find(text))
        result[engine] = {"characters": sum(map(len, pool)), "kinds": dict(kinds.most_common())}
    return result


def vendor_formats(tell: Callable[[str], None], *, instances: int) -> dict[str, Any]:
    """The table of formats that the tests of the detector have, in more instances; and its hits in clean text."""
    tell("secrets")
    table = _tests_of_secrets()
    detector = secrets()
    missed = set()
    found = tried = 0
    for vendor, template, name, _ in table.FORMATS:
        for number in range(instances):
            key = table.instance(template, f"bench {vendor}{number}")
            for text in table.surroundings(key, name):
                tried += 1
                if table.covers(detector.scan(text), text, key):
                    found += 1
                else:
                    missed.add(vendor)
    texts = table.clean_texts()
    hits = Counter(one.rule for _, text in texts for one in detector.scan(text))
    return {
        "formats": len(table.FORMATS),
        "formats_found": len(table.FORMATS) - len(missed),
        "missed": sorted(missed),
        "instances": tried,
        "instances_found": found,
        "clean_characters": sum(len(text) for _, text in texts),
        "hits": dict(hits),
    }


def _tests_of_secrets() -> Any:
    path = PROJECT / "tests" / "redaction" / "test_secrets.py"
    spec = importlib.util.spec_from_file_location("secret_formats", path)
    if spec is None or spec.loader is None:
        raise RuntimeError(f"{path} cannot be loaded")
    module = importlib.util.module_from_spec(spec)
    sys.modules["secret_formats"] = module
    spec.loader.exec_module(module)
    return module
