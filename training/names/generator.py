"""Labelled examples: templates with their slots filled."""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from typing import NamedTuple

from people import People
from prose import NOBODY, PEOPLE, PLACES
from structured import structured
from things import COMPANY_ENDS, DAYS, DOES, HEADINGS, NOUNS, ROLES, TECH, identifier, thing

SLOT = re.compile(r"\{([A-Z])\}")
CHOICE = re.compile(r"\[([^\[\]]*\|[^\[\]]*)\]")


class Example(NamedTuple):
    """A text and what is in it: (`P` or `L`, start, end) in characters; kind `?` is neither taught nor untaught."""

    text: str
    spans: tuple[tuple[str, int, int], ...]
    source: str


def choose(template: str, rng: random.Random) -> str:
    """Settles every `[a|b]`, the innermost first."""
    while CHOICE.search(template):
        template = CHOICE.sub(lambda match: rng.choice(match[1].split("|")), template)
    return template


class Generator:
    """Fills slots, always the same for a seed."""

    def __init__(self, seed: int, words: Sequence[str]) -> None:
        self.rng = random.Random(seed)
        self.people = People(seed)
        self._words = words
        self._countries = self.people.countries()
        self._cities = self.people.cities
        self._templates = PEOPLE * 3 + PLACES * 3 + NOBODY * 5

    def _company(self, locale: str) -> str:
        rng = self.rng
        last = self.people.last_name(locale, rng)
        if rng.random() < 0.35:
            return str(self.people.fakers[locale].company())
        return rng.choice(
            [
                f"{last} {rng.choice(COMPANY_ENDS)}", f"{last} {rng.choice(COMPANY_ENDS)}", f"{last}-{self.people.last_name(locale, rng)}",
                f"{last}, {self.people.last_name(locale, rng)} and {self.people.last_name(locale, rng)}",
                f"{rng.choice(TECH)} {rng.choice(COMPANY_ENDS)}", f"{rng.choice(self._cities)} {rng.choice(COMPANY_ENDS)}",
                f"{rng.choice(TECH)}{rng.choice(NOUNS)}", f"The {last} {rng.choice(['Orchestra', 'Group', 'Times', 'Foundation', 'Hotel', 'Band'])}",
            ]
        )  # fmt: skip

    def _title(self) -> str:
        """One to three ordinary words, written large, as in the title of a film or the name of a product."""
        words = self.rng.sample(self.rng.choice(self._words).split(), self.rng.randint(1, 3))
        return " ".join(word.upper() if self.rng.random() < 0.1 else word.capitalize() for word in words)

    def _place(self, locale: str) -> str:
        luck = self.rng.random()
        if luck < 0.45:
            return self._cities[int(len(self._cities) * self.rng.random() ** 2)]
        if luck < 0.65:
            return self.rng.choice(self._countries)
        if luck < 0.72:
            return f"{self.rng.choice(['Northern', 'South', 'Eastern', 'West', 'New', 'Lake', 'Mount', 'San', 'Port'])} {self.rng.choice(self._cities)}"
        return str(self.people.fakers[locale].city())

    def _slot(self, kind: str, locale: str) -> tuple[str, str]:  # noqa: PLR0912, C901  one line a slot
        """A value and its label, `` for none."""
        rng, people = self.rng, self.people
        faker = people.fakers[locale]
        match kind:
            case "P":
                return people.full_name(locale, rng), "P"
            case "F":
                return people.first_name(locale, rng), "P"
            case "S":
                return people.last_name(locale, rng), "P"
            case "L":
                return self._place(locale), "L"
            case "A":
                return re.sub(r"\s*\n\s*", rng.choice([", ", ", ", "\n"]), faker.address()), "L"
            case "T":
                return faker.street_address().replace("\n", ", "), "L"
            case "C":
                return self._company(locale), ""
            case "X":
                return (thing(rng) if rng.random() < 0.8 else self._title()), ""
            case "V":
                return rng.choice(DOES), ""
            case "H":
                return rng.choice(ROLES if rng.random() < 0.5 else HEADINGS), ""
            case "D":
                return rng.choice(DAYS), ""
            case "I":
                return identifier(rng), ""
            case "N":
                return str(rng.randint(1, 10 ** rng.randint(1, 5))), ""
            case "E":
                return (
                    faker.ascii_email()
                    if rng.random() < 0.5
                    else f"{rng.choice(ROLES).lower()}@{rng.choice(TECH).lower()}.com",
                    "",
                )
            case "U":
                return faker.user_name() if rng.random() < 0.6 else identifier(rng).lower(), ""
            case "O":
                return faker.phone_number(), ""
            case _:
                return rng.choice(self._words), ""

    def fill(self, template: str, source: str) -> Example:
        """An example of a template; all its names are of one locale, mostly."""
        locale, _ = self.people.faker(self.rng)
        out: list[str] = []
        spans: list[tuple[str, int, int]] = []
        at = last = 0
        for match in SLOT.finditer(template):
            value, label = self._slot(match[1], locale if self.rng.random() < 0.85 else self.people.faker(self.rng)[0])
            out += [template[last : match.start()], value]
            at += match.start() - last
            if label:
                spans.append((label, at, at + len(value)))
            at += len(value)
            last = match.end()
        return Example("".join([*out, template[last:]]), tuple(spans), source)

    def example(self) -> Example:
        """One more: prose or machine-made, now and then written small, large, or with another text around it."""
        rng = self.rng
        if rng.random() < 0.58:
            made = self.fill(choose(rng.choice(self._templates), rng).replace("\\n", "\n"), "prose")
        else:
            made = self.fill(structured(rng), "machine")
        luck = rng.random()
        small = 0.17 if made.source == "prose" else 0.07
        if luck < small and len(made.text.lower()) == len(made.text):
            return made._replace(text=made.text.lower())
        if luck > 0.97 and len(made.text.upper()) == len(made.text):
            return made._replace(text=made.text.upper())
        return made
