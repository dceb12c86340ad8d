"""`extproc redaction bench`: how long looking for entities takes here, with one's own profile and one's own texts."""

from __future__ import annotations

import argparse
import os
import random
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Final, NamedTuple

from extproc.cli.output import OK, add_json, print_json, print_table, say
from extproc.cli.place import add_place
from extproc.cli.trial import Chosen, add_profile, choose
from extproc.config.redaction import SECRET_KINDS, Operator
from extproc.errors import ConfigError
from extproc.redaction.cache import KEY_BYTES, FindingCache

NAME: Final = "redaction"
HELP: Final = "measure how long looking for entities takes"

_SIZES: Final = (200, 1000, 4000, 16000)
_TEXTS: Final = 8  # generated texts of each size
_CACHE: Final = 64 << 20
_PROSE: Final = (
    "Please summarise the discussion below and list what is still open, with an owner for each point. ",
    "The deployment failed because the health check timed out after 30 seconds; version 2.14.1 is still live. ",
    "def total(rows):\n    return sum(row.amount for row in rows if row.state != 'void')\n",
    "Our policy says that goods may be returned within 14 days, unless they were made to order. ",
    '{"order": 48213, "items": [{"sku": "AB-1009", "count": 3}], "paid": true}\n',
    "I moved the meeting to Thursday, since the auditors are here on Wednesday afternoon. ",
)


class Sample(NamedTuple):
    """Texts that are measured together, under one name."""

    name: str
    texts: tuple[str, ...]


class Measured(NamedTuple):
    """Milliseconds a text; `per_1k` and `cpu_per_1k` are milliseconds for 1,000 characters, of all runs together."""

    tier: str
    sample: str
    runs: int
    p50: float
    p99: float
    per_1k: float
    cpu_per_1k: float


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the actions."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    bench = actions.add_parser("bench", help="time a profile, tier by tier, new texts and known ones")
    bench.add_argument("files", nargs="*", type=Path, metavar="FILE", help="texts in UTF-8 (default: generated ones)")
    bench.add_argument(
        "--seconds", type=_seconds, default=1.0, metavar="N", help="time for each line of the table (default: 1)"
    )
    add_profile(bench)
    add_place(bench)
    add_json(bench)


def run(args: argparse.Namespace) -> int:
    """Measure and print. Raises `ConfigError`."""
    samples = _files(args.files) if args.files else generated()
    chosen = choose(args)
    rows = [row for tier, one in tiers(chosen) for row in _tier(tier, one, samples, args.seconds)]
    if args.json:
        print_json({"profile": chosen.name, "rows": [row._asdict() for row in rows]})
        return OK
    say(f"profile {chosen.name}, names: {chosen.given.names}; one thread, wall time but for CPU")
    head = ("TIER", "TEXTS", "RUNS", "MS P50", "MS P99", "MS PER 1K CHARACTERS", "CPU MS PER 1K")
    print_table(
        head,
        [(row.tier, row.sample, str(row.runs), *(f"{value:.3f}" for value in row[3:])) for row in rows],
    )
    return OK


def tiers(chosen: Chosen) -> Iterator[tuple[str, Chosen]]:
    """The profile cut down to its patterns; with secrets; and, where it looks for names, whole."""
    given = chosen.given
    plain = given.model_copy(update={"names": "off"})
    without = {**plain.entities, **dict.fromkeys(SECRET_KINDS, Operator(action="allow"))}
    yield "patterns", chosen.changed(plain.model_copy(update={"entities": without}))
    yield "patterns, secrets", chosen.changed(plain)
    if given.names != "off":
        yield f"patterns, secrets, names ({given.names})", chosen


def generated() -> list[Sample]:
    """Prose, code and data with about one entity in 400 characters; the same in every run."""
    rng = random.Random(7)  # noqa: S311  texts, no secrets
    return [Sample(f"{size} characters", tuple(_text(rng, size) for _ in range(_TEXTS))) for size in _SIZES]


def _text(rng: random.Random, size: int) -> str:
    entities: tuple[Callable[[], str], ...] = (
        lambda: f"Write to person{rng.randrange(10_000)}@example{rng.randrange(1000)}.com about it. ",
        lambda: f"My number is +44 20 7946 0{rng.randrange(100, 1000)}, after six. ",
        lambda: f"The host is {'.'.join(str(rng.randrange(1, 255)) for _ in range(4))} at the moment. ",
        lambda: f"Ask {rng.choice(('Maria', 'Tom', 'Aisha'))} {rng.choice(('Keller', 'Okafor', 'Lindqvist'))} first. ",
    )
    parts: list[str] = []
    while sum(map(len, parts)) < size:
        parts.append(rng.choice(entities)() if rng.random() < 0.2 else rng.choice(_PROSE))
    return "".join(parts)[:size]


def _files(paths: Sequence[Path]) -> list[Sample]:
    samples = []
    for path in paths:
        try:
            text = path.read_text("utf-8")
        except OSError as error:
            raise ConfigError(str(path), f"cannot be read: {error.strerror}", "name text files") from None
        except UnicodeDecodeError:
            raise ConfigError(str(path), "is not UTF-8", "convert it first: iconv -t UTF-8") from None
        if not text:
            raise ConfigError(str(path), "is empty", "name files with text in them")
        samples.append(Sample(f"{path.name} ({len(text)})", (text,)))
    return samples


def _tier(tier: str, chosen: Chosen, samples: Sequence[Sample], seconds: float) -> Iterator[Measured]:
    scanner = chosen.open().scanners.texts
    for sample in samples:
        say(f"  {tier}: {sample.name}")
        yield _timed(f"{tier}: new", sample, scanner.scan, seconds)
    if tier.count(",") < 1:
        return
    cache = FindingCache(_CACHE, os.urandom(KEY_BYTES))
    for sample in samples:
        for text in sample.texts:
            cache.put(scanner.version, text, scanner.scan(text))
        yield _timed("known (cache)", sample, lambda text: cache.get(scanner.version, text), seconds / 4)


def _timed(tier: str, sample: Sample, work: Callable[[str], object], seconds: float) -> Measured:
    """Run the texts in turn until the time is up, each once at least."""
    taken: list[float] = []
    end = time.perf_counter() + seconds
    cpu = time.process_time()
    while not taken or time.perf_counter() < end:
        for text in sample.texts:
            began = time.perf_counter()
            work(text)
            taken.append(time.perf_counter() - began)
    cpu = time.process_time() - cpu
    runs = len(taken)
    characters = sum(map(len, sample.texts)) * runs / len(sample.texts) / 1000
    ordered = sorted(taken)
    p50, p99 = ordered[runs // 2], ordered[min(runs - 1, runs * 99 // 100)]
    return Measured(
        tier, sample.name, runs, p50 * 1e3, p99 * 1e3, sum(taken) * 1e3 / characters, cpu * 1e3 / characters
    )


def _seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value <= 3600:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of seconds: write 0.5 or 2")
    return value
