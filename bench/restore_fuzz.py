"""Cut answers at random places and compare with the uncut ones. `restore_fuzz.py [CUTS [SEED]]`; 1e6 cuts by default.

Answers are texts and JSON documents full of placeholders, of what looks like one, and of their escapes. Ends with 1 and
the answer that came out differently, if there is one; else tells what a piece costs.
"""

from __future__ import annotations

import json
import random
import sys
import time
from collections.abc import Iterator

from extproc.redaction.restore import Restorer
from extproc.text import Channel

TABLE = {
    "<PERSON_1>": "John Smith",
    "<PERSON_12>": 'Ann "\\" O\u2019Neill\n',
    "<EMAIL_ADDRESS_1>": "a@example.org",
    "<CREDIT_CARD_1>": "41" + "1" * 14,
    "<PERSON_k3x9ab2cd4ef>": "\U0001f600 José",
    "<LITERAL_1>": "<PERSON_2>",
    "<EMPTY_1>": "",
}
WORDS = (
    *TABLE,
    *("<PERSON_2>", "<PERSON_", "<", ">", "<<", "1>", "PERSON_1", "<person_1>", "< PERSON_1>", "<PERSON_1", "<EMAIL_"),
    *("a", "The ", "if x < y: ", "José", "\U0001f600", "\n", "\\", '"', "\t", "<b>", "</b>", "12", "_", "u003c"),
)
ESCAPED = ("\\u003c", "\\u003C", "\\u003e", "\\u003E")


def text(chance: random.Random) -> str:
    """One answer."""
    return "".join(chance.choices(WORDS, k=chance.randrange(1, 24)))


def spelled(literal: str, chance: random.Random) -> str:
    """A JSON string literal with some of its brackets escaped, as some vendors write them."""
    brackets = {"<": ESCAPED[:2], ">": ESCAPED[2:]}
    return "".join(chance.choice(brackets[c]) if c in brackets and chance.random() < 0.3 else c for c in literal)


def document(chance: random.Random) -> tuple[str, object]:
    """A JSON document, and what it has to be once restored."""
    members = {text(chance): text(chance) for _ in range(chance.randrange(1, 4))}
    ascii_only = chance.random() < 0.5
    parts = [
        f"{spelled(json.dumps(key, ensure_ascii=ascii_only), chance)}:{spelled(json.dumps(value), chance)}"
        for key, value in members.items()
    ]
    return "{" + ", ".join(parts) + "}", [[restored(key), restored(value)] for key, value in members.items()]


def restored(plain: str) -> str:
    """The rule, by other means: the first placeholder from the left, again and again."""
    out = ""
    while plain:
        known = next((one for one in TABLE if plain.startswith(one)), None)
        out, plain = (out + TABLE[known], plain[len(known) :]) if known else (out + plain[0], plain[1:])
    return out


def pieces(whole: str, chance: random.Random) -> Iterator[str]:
    """`whole` in pieces: of single characters, of tokens, of lines."""
    longest = chance.choice((1, 2, 5, 16))
    at = 0
    while at < len(whole):
        size = chance.randint(1, longest)
        yield whole[at : at + size]
        at += size


def fuzz(cuts: int, seed: int) -> str:
    """Cut at least `cuts` times -> what came out wrong, or nothing."""
    chance = random.Random(seed)
    done = 0
    while done < cuts:
        restorer = Restorer(TABLE)
        answers = [("text", text(chance), None), ("json", *document(chance))]
        channels = [Channel((index, kind), kind) for index, (kind, _, _) in enumerate(answers)]
        cut = [pieces(whole, chance) for _, whole, _ in answers]
        out = ["", ""]
        open_ = [0, 1]
        while open_:  # both at a time, as parallel tool calls come
            which = chance.choice(open_)
            piece = next(cut[which], None)
            if piece is None:
                out[which] += restorer.end(channels[which])
                open_.remove(which)
                continue
            out[which] += restorer.piece(channels[which], piece)
            done += 1
        for (kind, whole, members), got in zip(answers, out, strict=True):
            right = got == restorer.whole(kind, whole)
            if kind == "text":
                right = right and got == restored(whole)
            else:
                right = right and [list(pair) for pair in json.loads(got, object_pairs_hook=list)] == members
            if not right:
                return f"{whole!r} became {got!r}"
        if restorer.holding:
            return f"something is still held back of {answers!r}"
    return ""


def cost(piece: str, kind: str, rounds: int = 200_000) -> float:
    """Microseconds for one piece of a stream."""
    restorer = Restorer(TABLE)
    channel = Channel((0, "content"), kind)
    call = restorer.piece
    start = time.perf_counter()
    for _ in range(rounds):
        call(channel, piece)
    return (time.perf_counter() - start) / rounds * 1e6


def main() -> int:
    """Run, tell, end."""
    cuts = int(float(sys.argv[1])) if len(sys.argv) > 1 else 1_000_000
    seed = int(sys.argv[2]) if len(sys.argv) > 2 else 1
    wrong = fuzz(cuts, seed)
    print(wrong or f"{cuts} cuts, seed {seed}: every answer as if it had come whole")
    for kind, piece in (
        ("text", " hello"),
        ("text", " <b>hello"),
        ("text", " <PERSON_1> hello"),
        ("json", ' "hello": 1'),
        ("json", ' \\"hello'),
        ("json", ' "<PERSON_1>"'),
    ):
        print(f"{kind:5} {piece!r:22} {cost(piece, kind):6.2f} µs")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
