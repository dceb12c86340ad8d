"""A gateway that redacts, for playbooks: its detector knows a few words, so that a test says what is found."""

from __future__ import annotations

import re
from pathlib import PurePath

from extproc.config import load
from extproc.exchange.effects import Caller, FindEntities, FoundEntities
from extproc.policies.profiles import Attachments, OnTrouble, Profile, Scanners
from extproc.redaction.operators import Operators
from extproc.redaction.resolve import resolve
from extproc.runtime import Detection, build
from extproc.text import Check, Finding, never
from gateway import CONFIG
from playbook import DEMO, Playbook

KEY = b"0123456789abcdef0123456789abcdef"
WORDS = {
    "PERSON": r"Ann Bo|李雷|Zo\\ \"Q\" O'Neil",
    "EMAIL_ADDRESS": r"[a-z]+@x\.io",
    "US_SSN": r"\d{3}-\d{2}-\d{4}",
    "API_KEY": r"key-[a-z]{4}",
}


class Words:
    """Fits `effects.Scanner`."""

    def __init__(self, name: str, kinds: tuple[str, ...] = tuple(WORDS)) -> None:
        self.version = name.ljust(16).encode()[:16]
        self._kinds = kinds

    def scan(self, text: str, check: Check = never) -> tuple[Finding, ...]:
        found = [
            Finding(kind, *match.span(), 1.0, "word")
            for kind in self._kinds
            for match in re.finditer(WORDS[kind], text)
        ]
        return resolve(found)

    def is_long(self, texts: tuple[str, ...]) -> bool:
        return False


def find(effect: FindEntities) -> FoundEntities:
    """Perform the effect on the spot."""
    return FoundEntities(tuple(effect.scanner.scan(text) for text in effect.texts), 0.001, 0, len(effect.texts))


def redacting(section: str, *, caller: Caller = DEMO, answers: bool = False) -> Playbook:
    """A playbook on the demo gateway with a redaction section (YAML, indented by two)."""
    text = f"{CONFIG}\nredaction:\n  key: {{env: K}}\n{section}"
    config = load(text.encode(), "gateway.yaml", base=PurePath("/nowhere"))
    assert config.redaction is not None
    scanners = Scanners(
        Words("texts"), Words("identifiers", ("API_KEY", "US_SSN")), Words("answers") if answers else None
    )
    detection = Detection(dict.fromkeys(config.redaction.profiles, scanners), KEY)
    book = Playbook(build(config, detection=detection).setup, caller=caller)
    book.answers = {**book.answers, FindEntities: find}
    return book


def profile(name: str) -> Profile:
    """A profile that allows one byte of attachments and cares about nothing."""
    return Profile(
        name=name,
        shadow=False,
        scanners=Scanners(Words("a"), Words("b")),
        operators=Operators({}),
        attachments=Attachments(("*",), 1, links=True),
        keyed=False,
        keyed_history=False,
        argument_keys=False,
        restore=True,
        on_trouble=OnTrouble(),
    )
