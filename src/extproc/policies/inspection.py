"""One request as the texts that are scanned, and what becomes of it by what was found."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from typing import Final, NamedTuple

from extproc.config.redaction import SECRET_KINDS
from extproc.dialects import embedded
from extproc.dialects.dialect import Edit, RequestView, Text, show_path
from extproc.dialects.spans import literal
from extproc.errors import ErrorCode, Rejection
from extproc.exchange.facts import Redaction
from extproc.policies import attachments
from extproc.policies.profiles import Profile
from extproc.redaction.operators import Block
from extproc.redaction.pseudonyms import Pseudonyms
from extproc.text import Finding, Findings

_KEY: Final = "key"
_SIGNED: Final = "signed"
# of which no name model reads anything: names of tools are code, and signed texts are the vendor's own words
_FORMED: Final = frozenset({"tool_name", _SIGNED})
_BARE: Final = frozenset({"name", "tool_name"})  # positions where vendors take letters, digits, `_` and `-` only
_SHOWN_KINDS: Final = 10

_Found = tuple[Finding, ...]


class _Unit(NamedTuple):
    """A text, or one string of the JSON document that a text holds (`start` to `end` of it, quotes included)."""

    text: Text
    kind: str
    value: str
    start: int = -1
    end: int = -1


class Inspection:
    """The texts of one request, in their logical order. `prose` and `formed` are to be scanned, each as given.

    `formed` is for a scanner without name models. Keys of tool arguments are not scanned unless the profile asks for
    it; one that is a value which was found elsewhere before is replaced all the same.
    """

    def __init__(self, request: RequestView, profile: Profile) -> None:
        """Raises `Rejection` (400) for an attachment that is not allowed."""
        self._request = request
        self._profile = profile
        self._units: list[_Unit] = []
        self.prose: list[str] = []
        self.formed: list[str] = []
        for text in request.texts_and_keys():
            self._add(text)

    def _add(self, text: Text) -> None:
        kind = text.kind
        value: str | None = text.value
        if kind == "url":
            value = attachments.link(text, partial(self._sibling, text), self._profile.attachments)
        if not value or kind == "credential":
            return
        leaves = embedded.leaves(value, keys=True) if kind == "json" else None
        if leaves is None:
            self._take(_Unit(text, kind, value))
            return
        for start, end, leaf in leaves:
            if leaf:
                self._take(_Unit(text, _KEY if embedded.is_key(value, end) else kind, leaf, start, end))

    def _take(self, unit: _Unit) -> None:
        self._units.append(unit)
        if self._scanned(unit):
            (self.formed if unit.kind in _FORMED else self.prose).append(unit.value)

    def _scanned(self, unit: _Unit) -> bool:
        return unit.kind != _KEY or self._profile.argument_keys

    def _sibling(self, text: Text, name: str) -> object:
        return self._request.value((*text.path[:-1], name))

    def edits(self, found: tuple[Findings, Findings], pseudonyms: Pseudonyms, noted: Redaction) -> list[Edit]:
        """What to change in the body, given what was found in `prose` and `formed`; counts it in `noted`.

        Raises `Rejection` (400) where something found is not to pass: it names kinds and the first place, no value.
        """
        paired = self._pair(found)
        self._refuse_blocked(paired, noted)
        operators = self._profile.operators
        documents: dict[int, tuple[Text, list[tuple[int, int, str]]]] = {}
        edits: list[Edit] = []
        for unit, findings in paired:
            for finding in findings:
                noted.count(finding.kind, operators.name(finding.kind) if unit.kind != _SIGNED else _SIGNED)
            if noted.shadow or unit.kind == _SIGNED:
                continue
            changed = self._changed(unit, findings, pseudonyms)
            if changed == unit.value:
                continue
            if unit.start < 0:
                edits.append(Edit(*self._request.place(unit.text.path), literal(changed)))
            else:
                documents.setdefault(id(unit.text), (unit.text, []))[1].append((unit.start, unit.end, changed))
        for text, changes in documents.values():
            document = embedded.splice(text.value, changes)
            edits.append(Edit(*self._request.place(text.path), literal(document)))
        if not noted.shadow:
            self._refuse_forged(paired, pseudonyms, noted)
        return edits

    def _pair(self, found: tuple[Findings, Findings]) -> list[tuple[_Unit, _Found]]:
        prose, formed = map(iter, found)
        return [
            (unit, next(formed if unit.kind in _FORMED else prose) if self._scanned(unit) else ())
            for unit in self._units
        ]

    def _changed(self, unit: _Unit, findings: _Found, pseudonyms: Pseudonyms) -> str:
        if not self._scanned(unit) and (again := pseudonyms.again(unit.value)) != unit.value:
            return again
        if not findings and not pseudonyms.may_change(unit.value):
            return unit.value
        return pseudonyms.redact(unit.value, findings, self._profile.operators, bare=unit.kind in _BARE)

    def _refuse_blocked(self, paired: Iterable[tuple[_Unit, _Found]], noted: Redaction) -> None:
        """What is blocked, wherever it is; secrets in signed texts, where nothing can be put in their place."""
        operators = self._profile.operators
        kinds: dict[str, str] = {}
        for unit, findings in paired:
            for finding in findings:
                sealed = unit.kind == _SIGNED and finding.kind in SECRET_KINDS
                if isinstance(operators.of(finding.kind), Block) or sealed:
                    kinds.setdefault(finding.kind, show_path(unit.text.path))
        self._refuse(kinds, noted)

    def _refuse_forged(self, paired: Iterable[tuple[_Unit, _Found]], pseudonyms: Pseudonyms, noted: Redaction) -> None:
        """A value that has a placeholder cannot stand in a text that the vendor wrote and signed: it only saw the latter."""
        kinds: dict[str, str] = {}
        for unit, _ in paired:
            if unit.kind == _SIGNED:
                for kind in pseudonyms.stands_in(unit.value):
                    kinds.setdefault(kind, show_path(unit.text.path))
        self._refuse(kinds, noted)

    @staticmethod
    def _refuse(kinds: dict[str, str], noted: Redaction) -> None:
        if not kinds or noted.shadow:
            return
        for kind in kinds:
            noted.count(kind, "block")
        noted.blocked = tuple(kinds)
        raise blocked(tuple(kinds), next(iter(kinds.values())))


def blocked(kinds: tuple[str, ...], path: str) -> Rejection:
    """The refusal (400): which kinds, and where the first one is."""
    named = ", ".join(kinds[:_SHOWN_KINDS])
    message = f"{path}: your organisation does not let this content out ({named}). Remove it and send the call again."
    return Rejection(400, ErrorCode.POLICY_CONTENT_BLOCKED, message, param=path, detail=named)
