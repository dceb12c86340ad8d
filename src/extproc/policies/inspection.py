"""One request as the texts that are scanned, and what becomes of it by what was found."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Final, NamedTuple

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

_IDENTIFIER: Final = "tool_name"
_BARE: Final = frozenset({"name", _IDENTIFIER})  # positions where vendors take letters, digits, `_` and `-` only
_SHOWN_KINDS: Final = 10


class _Unit(NamedTuple):
    """A text, or one string of the JSON document that a text holds (`start` to `end` of it, quotes included)."""

    text: int  # index into the texts
    value: str
    start: int = -1
    end: int = -1


class Inspection:
    """The texts of one request, in their logical order. `prose` and `identifiers` are to be scanned, each as given."""

    def __init__(self, request: RequestView, profile: Profile) -> None:
        """Raises `Rejection` (400) for an attachment that is not allowed."""
        self._request = request
        self._profile = profile
        self._texts: list[Text] = []
        self._units: list[_Unit] = []
        self.prose: list[str] = []
        self.identifiers: list[str] = []
        for text in request.texts():
            self._add(text)
        if profile.argument_keys:
            for text in request.argument_keys():
                self._add(text)

    def _add(self, text: Text) -> None:
        value: str | None = text.value
        kind = text.kind
        if kind == "signed":  # the vendor's own words under its seal: an edit would break it
            return
        if kind == "url":
            value = attachments.link(text, partial(self._sibling, text), self._profile.attachments)
        if not value:
            return
        index = len(self._texts)
        self._texts.append(text)
        leaves = embedded.leaves(value, keys=self._profile.argument_keys) if kind == "json" else None
        if leaves is not None:
            self._units += [_Unit(index, leaf, start, end) for start, end, leaf in leaves if leaf]
            self.prose += [leaf for _, _, leaf in leaves if leaf]
            return
        self._units.append(_Unit(index, value))
        (self.identifiers if kind == _IDENTIFIER else self.prose).append(value)

    def _sibling(self, text: Text, name: str) -> object:
        return self._request.value((*text.path[:-1], name))

    def edits(self, found: tuple[Findings, Findings], pseudonyms: Pseudonyms, noted: Redaction) -> list[Edit]:
        """What to change in the body, given what was found in `prose` and `identifiers`; counts it in `noted`.

        Raises `Rejection` (400) where something found is not to pass: it names kinds and the first place, no value.
        """
        prose, identifiers = map(iter, found)
        paired = [(unit, next(identifiers if self._is_identifier(unit) else prose)) for unit in self._units]
        self._refuse_blocked(paired, noted)
        operators = self._profile.operators
        documents: dict[int, list[tuple[int, int, str]]] = {}
        edits: list[Edit] = []
        for unit, findings in paired:
            for finding in findings:
                noted.count(finding.kind, operators.name(finding.kind))
            if noted.shadow or (not findings and not pseudonyms.may_change(unit.value)):
                continue
            text = self._texts[unit.text]
            changed = pseudonyms.redact(unit.value, findings, operators, bare=text.kind in _BARE)
            if changed == unit.value:
                continue
            if unit.start < 0:
                edits.append(Edit(*self._request.place(text.path), literal(changed)))
            else:
                documents.setdefault(unit.text, []).append((unit.start, unit.end, changed))
        for index, changes in documents.items():
            text = self._texts[index]
            document = embedded.splice(text.value, changes)
            edits.append(Edit(*self._request.place(text.path), literal(document)))
        return edits

    def _is_identifier(self, unit: _Unit) -> bool:
        return unit.start < 0 and self._texts[unit.text].kind == _IDENTIFIER

    def _refuse_blocked(self, paired: Sequence[tuple[_Unit, tuple[Finding, ...]]], noted: Redaction) -> None:
        operators = self._profile.operators
        kinds: dict[str, str] = {}
        for unit, findings in paired:
            for finding in findings:
                if isinstance(operators.of(finding.kind), Block):
                    kinds.setdefault(finding.kind, show_path(self._texts[unit.text].path))
                    noted.count(finding.kind, "block")
        if not kinds or noted.shadow:
            return
        noted.blocked = tuple(kinds)
        raise blocked(tuple(kinds), next(iter(kinds.values())))


def blocked(kinds: tuple[str, ...], path: str) -> Rejection:
    """The refusal (400): which kinds, and where the first one is."""
    named = ", ".join(kinds[:_SHOWN_KINDS])
    message = f"{path}: your organisation does not let this content out ({named}). Remove it and send the call again."
    return Rejection(400, ErrorCode.POLICY_CONTENT_BLOCKED, message, param=path, detail=named)
