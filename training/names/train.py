"""Makes the weights of the name model: data, teacher's labels, training, file. `make train-names` runs it."""

from __future__ import annotations

import argparse
import hashlib
import random
import time
from collections import Counter
from pathlib import Path

import lexicon
import model
import teacher
import texts
from encode import encode
from generator import Example, Generator
from pack import pack
from prose_labels import second_opinion

ROOT = Path(__file__).parents[2]
SEED = 20
WINDOW = 128


def natural(work: Path, small: Counter[str]) -> list[Example]:
    """Texts as they are found, labelled by the teacher."""
    documents, chats = (
        texts.documents(random.Random(f"documents {SEED}"), 3000),
        texts.chats(random.Random(f"chats {SEED}"), 1100),
    )
    prose, news = texts.encyclopedia(random.Random(f"articles {SEED}"), 2800), texts.news()
    labels = teacher.label([*documents, *chats, *prose, *news], work)
    plain = len(documents) + len(chats)
    labels[: len(documents)] = [
        texts.settled(*pair, small) for pair in zip(documents, labels[: len(documents)], strict=True)
    ]
    labels[plain:] = second_opinion([*prose, *news], labels[plain:])
    sources = ["document"] * len(documents) + ["chat"] * len(chats) + ["article"] * len(prose) + ["news"] * len(news)
    everything = zip([*documents, *chats, *prose, *news], labels, sources, strict=True)
    return [Example(text, tuple(spans), source) for text, spans, source in everything]


def swapped(example: Example, made: Generator) -> Example:
    """The same text with other people in it."""
    rng, people = made.rng, made.people
    locale, _ = people.faker(rng)
    out: list[str] = []
    spans: list[tuple[str, int, int]] = []
    at = last = 0
    for kind, start, end in sorted(example.spans, key=lambda span: span[1]):
        if start < last:
            continue
        value = example.text[start:end]
        if kind == "P":
            value = (
                people.full_name(locale, rng)
                if " " in value
                else rng.choice([people.first_name, people.last_name])(locale, rng)
            )
        out += [example.text[last:start], value]
        at += start - last
        spans.append((kind, at, at + len(value)))
        at += len(value)
        last = end
    return Example("".join([*out, example.text[last:]]), tuple(spans), f"{example.source}-swapped")


def examples(seed: int, count: int, work: Path, small: Counter[str]) -> tuple[list[Example], Generator]:
    """Everything that the model learns from, in random order."""
    rng = random.Random(seed)
    found = natural(work, small)
    runs = texts.word_runs([example.text for example in found])
    made = Generator(seed, runs)
    everything = [made.example() for _ in range(count)] + found
    for example in found:
        if any(kind == "P" for kind, _, _ in example.spans):
            everything += [swapped(example, made) for _ in range(2)]
        if (
            example.source in {"article", "news", "chat"}
            and rng.random() < 0.12
            and len(example.text.lower()) == len(example.text)
        ):
            everything.append(example._replace(text=example.text.lower()))
    rng.shuffle(everything)
    return everything, made


def main() -> None:
    """Writes the weights file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=ROOT / "src/extproc/redaction/data/names.npz")
    parser.add_argument("--work", type=Path, default=ROOT / "build/names")
    parser.add_argument("--examples", type=int, default=60_000)
    parser.add_argument("--epochs", type=float, default=3)
    parser.add_argument("--size", type=int, default=32)
    parser.add_argument("--width", type=int, default=48)
    asked = parser.parse_args()
    began = time.monotonic()
    small = texts.small_words()
    everything, made = examples(SEED, asked.examples, asked.work, small)
    print(
        f"{len(everything)} examples, {dict(Counter(one.source for one in everything))}, {time.monotonic() - began:.0f} s",
        flush=True,
    )
    hashes, bits = lexicon.build(made.people, small)
    data = encode(everything, dict(zip(hashes.tolist(), bits.tolist(), strict=True)), WINDOW)
    print(
        f"{data.stream.size} tokens, {len(data.rows)} distinct, {len(hashes)} words known, {time.monotonic() - began:.0f} s",
        flush=True,
    )
    params = model.train(data, SEED, asked.epochs, asked.size, asked.width)
    content = pack(params, hashes, bits)
    asked.out.write_bytes(content)
    print(
        f"{asked.out}: {len(content)} bytes, sha256 {hashlib.sha256(content).hexdigest()}, {time.monotonic() - began:.0f} s"
    )


if __name__ == "__main__":
    main()
