"""Bank account numbers (IBAN): Presidio's expression, format table and check digits, in any case.

Presidio scores a number in lower case as it would one without a right check digit; here it counts in full.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

import regex  # type: ignore[import-untyped]  # no stubs

from extproc.redaction.finders import Gate, Raw, confirm, distinct, starts_near, width
from extproc.redaction.presidio import Recognizer
from extproc.text import Check

_FLAGS: Final = regex.DOTALL | regex.MULTILINE | regex.IGNORECASE
_GROUPS: Final = (3, 2, 1)  # of Presidio's expression: the longest reading first


class IbanFinder:
    """IBANs, in one piece or in groups. Satisfies `finders.Finder`."""

    def __init__(self, recognizer: Recognizer) -> None:
        self.kind: str = recognizer.supported_entities[0]
        self.name: str = recognizer.name
        self.context: tuple[str, ...] = tuple(word.lower() for word in recognizer.context or ())
        self._recognizer = recognizer
        self._patterns: Final = tuple(
            (regex.compile(pattern.regex, _FLAGS), width(pattern.regex)) for pattern in recognizer.patterns
        )
        self.gates: tuple[Gate, ...] = tuple(Gate(pattern.regex) for pattern in recognizer.patterns)

    def find(self, text: str, hits: Mapping[int, Sequence[int] | None], check: Check) -> list[Raw]:
        """Numbers of a country that has IBANs, of its length and form, with right check digits."""
        found: list[Raw] = []
        for number, ends in hits.items():
            expression, longest = self._patterns[number]
            reach = len(text) if longest is None else longest
            for match in confirm(expression, text, starts_near(ends, reach, len(text)), reach, check):
                start = match.span()[0]
                for group in _GROUPS:
                    end = match.span(group)[1]
                    if self._recognizer.validate_result(text[start:end].upper()):
                        found.append((start, end, 1.0))
                        break
        return distinct(found)
