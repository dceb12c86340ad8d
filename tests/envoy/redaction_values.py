"""Values to plant: made at run time, of kinds that the detectors know, and remembered, so that leaks can be looked for."""

from __future__ import annotations

import random
import string
from collections.abc import Callable

HARD = 'say "no"\\ to\nit\t🚀 {"a":[1]} שלום </b>'
"""Everything that breaks JSON, streams and careless string handling."""
PATTERNS = """
      deny: {PROJECT: [Bluebird]}
      patterns:
      - {kind: EMPLOYEE_ID, regex: 'E[0-9]{6}', score: 0.9}
      - {kind: CODENAME, regex: 'T[0-9]{6}~[^~]{0,80}~', score: 0.9}
"""
"""What a profile needs to find `employee` and `codename`."""


SHAPES = (
    rb"[a-z]{6}\.[a-z]{7}@[a-z]{9}\.com",
    rb"DE[0-9]{20}",
    rb"[ET][0-9]{6}",
    rb"4[0-9]{15}",
    rb"[0-9]{3}-[0-9]{2}-[0-9]{4}",
    rb"ghp_[A-Za-z0-9]{36}",
)
"""Of all values; of a code name the part that every spelling has."""


class Plants:
    """Makes values; no two are the same. `all` are those that must not be seen where nobody may see them.

    `in_names` are those in identifiers, which vendors let have no brackets: in a text that repeats such a one its
    placeholder stays. So does the stand-in for a user's id.
    """

    def __init__(self, seed: int) -> None:
        self._dice = random.Random(seed)
        self._turn = 0
        self.all: list[str] = []
        self.in_names: set[str] = set()
        self._makers: tuple[Callable[[], str], ...] = (self.email, self.iban, self.codename, self.card)

    def __call__(self) -> str:
        """A value of the next kind."""
        self._turn += 1
        return self._makers[self._turn % len(self._makers)]()

    def email(self) -> str:
        """An address with a domain of its own."""
        return self._keep(f"{self._letters(6)}.{self._letters(7)}@{self._letters(9)}.com")

    def employee(self) -> str:
        """A value that may stand in an identifier."""
        return self._keep(f"E{self._digits(6)}")

    def named(self, form: str) -> str:
        """An identifier: `form` with a value in the place of `{}`."""
        value = self.employee()
        self.in_names.add(value)
        return form.format(value)

    def user(self) -> str:
        """An address in a field by which vendors tell users apart."""
        value = self.email()
        self.in_names.add(value)
        return value

    def codename(self) -> str:
        """A value with quotes, backslashes, line ends, an emoji and letters from right to left."""
        return self._keep(f"T{self._digits(6)}~{HARD}~")

    def card(self) -> str:
        """A Visa number with its check digit (Luhn)."""
        return self._keep(_with_luhn("4" + self._digits(14)))

    def iban(self) -> str:
        """A German account number with its check digits (ISO 13616)."""
        account = self._digits(18)
        check = 98 - int(account + "131400") % 97
        return self._keep(f"DE{check:02}{account}")

    def ssn(self) -> str:
        """A social security number."""
        area = self._dice.choice([*range(130, 200), *range(301, 330)])
        return self._keep(f"{area}-{self._dice.randint(21, 49)}-{self._dice.randint(2101, 7899)}")

    def api_key(self) -> str:
        """A key of GitHub's form."""
        letters = string.ascii_letters + string.digits
        return self._keep("gh" + "p_" + "".join(self._dice.choices(letters, k=36)))

    def _keep(self, value: str) -> str:
        self.all.append(value)
        return value

    def _letters(self, count: int) -> str:
        return "".join(self._dice.choices(string.ascii_lowercase, k=count))

    def _digits(self, count: int) -> str:
        return "".join(self._dice.choices("123456789", k=count))


def _with_luhn(digits: str) -> str:
    """`digits` and the check digit of ISO/IEC 7812-1."""
    total = 0
    for index, digit in enumerate(reversed(digits)):
        doubled = int(digit) * 2 if index % 2 == 0 else int(digit)
        total += doubled - 9 if doubled > 9 else doubled
    return digits + str(-total % 10)
