"""One request as the texts that are scanned, and what becomes of it by what was found."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import Final, NamedTuple

from extproc.config.redaction import NAME_KINDS, SECRET_KINDS
from extproc.dialects import embedded
from extproc.dialects.dialect import KEY, Edit, RequestView, Text, show_path
from extproc.dialects.embedded import Part
from extproc.dialects.spans import literal
from extproc.errors import ErrorCode, Rejection
from extproc.exchange.facts import Redaction
from extproc.policies import attachments
from extproc.policies.profiles import Profile
from extproc.redaction.operators import Block, Operators, Pseudonym
from extproc.redaction.pseudonyms import Pseudonyms
from extproc.text import Finding, Findings

_KEY: Final = "key"
_SIGNED: Final = "signed"
# of which no name model reads anything: names of tools are code, and signed texts are the vendor's own words
_FORMED: Final = frozenset({"tool_name", _SIGNED})
_BARE: Final = frozenset({"name", "tool_name"})  # positions where vendors take letters, digits, `_` and `-` only
_ARGUMENTS: Final = frozenset({"json", _KEY})
_FREE_FORM: Final = frozenset({"tool_arguments", "metadata"})
_USER_IDS: Final = frozenset({("user",), ("safety_identifier",), ("prompt_cache_key",), ("metadata", "user_id")})
"""Fields by which vendors tell users apart: a number that counts by request would make all of them one."""
_URL: Final = "url"
_UNTOLD: Final = 0.4  # the score of a phone number that no word beside it tells of
_SHORTEST_FORGED: Final = 6
_SHOWN_KINDS: Final = 10

_Found = tuple[Finding, ...]


class _Unit(NamedTuple):
    """What is scanned as one text, and the parts of it that can be edited.

    A JSON document in a string is scanned as it reads; a value in tool arguments, with its name before it.
    """

    text: Text
    scanned: str
    parts: Sequence[Part]
    document: bool


class _Paired(NamedTuple):
    """A unit, what was found in it, and what of that lies in which of its parts, by their numbers."""

    unit: _Unit
    findings: _Found
    shares: Mapping[int, Sequence[Finding]]


class Inspection:
    """The texts of one request, in their logical order. `prose` and `formed` are to be scanned, each as given.

    `formed` is for a scanner without name models. Keys of tool arguments are left alone unless the profile asks for them;
    one that is a value which was found elsewhere before is replaced all the same.
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
            value = self._link(text)
        if not value or kind == "credential":
            return
        viewed = embedded.view(value) if kind == "json" or _may_be_json(value) else None
        if viewed is not None and kind not in _BARE:
            unit = _Unit(text, viewed[0], viewed[1], document=True)
        else:
            label = _label(text)
            whole = Part(0, len(value), value, len(label), kind == _KEY)
            unit = _Unit(text, f'{label}{value}"' if label else value, (whole,), document=False)
        self._units.append(unit)
        if self._is_scanned(unit):
            (self.formed if kind in _FORMED else self.prose).append(unit.scanned)

    def _link(self, text: Text) -> str | None:
        try:
            return attachments.link(text, partial(self._sibling, text), self._profile.attachments)
        except Rejection:
            if self._profile.shadow:
                return None  # it would be refused; nothing of it is looked at
            raise

    def _is_scanned(self, unit: _Unit) -> bool:
        return unit.text.kind != _KEY or self._profile.argument_keys

    def _is_left(self, unit: _Unit, part: Part) -> bool:
        """Whether a part is the name of an argument, which a program reads: left alone unless asked for.

        In other documents, such as the answer of a tool, names of members are data like the rest.
        """
        return part.key and unit.text.kind in _ARGUMENTS and not self._profile.argument_keys

    def _sibling(self, text: Text, name: str) -> object:
        return self._request.value((*text.path[:-1], name))

    def edits(self, found: tuple[Findings, Findings], pseudonyms: Pseudonyms, noted: Redaction) -> list[Edit]:
        """What to change in the body, given what was found in `prose` and `formed`; counts it in `noted`.

        Raises `Rejection` (400) where something found is not to pass: it names kinds and the first place, no value.
        """
        paired = self._pair(found)
        self._refuse_blocked(paired, noted)
        operators = self._profile.operators
        edits: list[Edit] = []
        for unit, findings, shares in paired:
            signed = unit.text.kind == _SIGNED
            for finding in findings:
                noted.count(finding.kind, _SIGNED if signed else operators.name(finding.kind))
            if noted.shadow or signed:
                continue
            changes = [
                (part.start, part.end, changed)
                for number, part in enumerate(unit.parts)
                if (changed := self._changed(unit, part, shares.get(number, ()), pseudonyms)) != part.value
            ]
            if changes:
                new = embedded.splice(unit.text.value, changes) if unit.document else changes[0][2]
                edits.append(Edit(*self._request.place(unit.text.path), literal(new)))
        if not noted.shadow:
            self._refuse_forged(paired, pseudonyms, noted)
        return edits

    def _pair(self, found: tuple[Findings, Findings]) -> list[_Paired]:
        """Each unit with what was found in its parts."""
        prose, formed = map(iter, found)
        paired: list[_Paired] = []
        for unit in self._units:
            findings: _Found = ()
            if self._is_scanned(unit):
                findings = next(formed if unit.text.kind in _FORMED else prose)
            paired.append(_Paired(unit, *self._share_out(unit, findings)) if findings else _Paired(unit, (), {}))
        return paired

    def _share_out(self, unit: _Unit, findings: _Found) -> tuple[_Found, dict[int, list[Finding]]]:
        """The findings that lie in parts that can be edited, and by part what of them lies in it, offsets its own.

        One pass over both, which are in order and do not overlap: a document may have thousands of each.
        """
        if unit.text.kind == _URL:  # a signature or a token in a link is given to the vendor, which fetches by it
            findings = tuple(one for one in findings if one.kind not in SECRET_KINDS)
        kept: dict[Finding, None] = {}
        shares: dict[int, list[Finding]] = {}
        first = 0
        for number, part in enumerate(unit.parts):
            begin, end = part.at, part.at + len(part.value)
            while first < len(findings) and findings[first].end <= begin:
                first += 1
            at = first
            while at < len(findings) and findings[at].start < end:
                one = findings[at]
                at += 1
                if self._is_left(unit, part) or (_is_number(unit, part) and _is_weak(one)):
                    continue
                kept[one] = None
                inside = one._replace(start=max(one.start - begin, 0), end=min(one.end - begin, len(part.value)))
                shares.setdefault(number, []).append(inside)
        return tuple(kept), shares

    def _changed(self, unit: _Unit, part: Part, inside: Sequence[Finding], pseudonyms: Pseudonyms) -> str:
        value = part.value
        if self._is_left(unit, part) and (again := pseudonyms.again(value)) != value:
            return again
        if inside and unit.text.path in _USER_IDS and self._profile.user_ids is not None:
            return self._profile.user_ids.identity(value)
        if not inside and not pseudonyms.may_change(value):
            return value
        operators = self._profile.operators
        if part.key:  # two masked keys would be one key twice
            operators = Operators(dict.fromkeys((one.kind for one in inside), Pseudonym()))
        return pseudonyms.redact(value, inside, operators, bare=unit.text.kind in _BARE)

    def _refuse_blocked(self, paired: Iterable[_Paired], noted: Redaction) -> None:
        """What is blocked, wherever it is; secrets in signed texts, where nothing can be put in their place."""
        operators = self._profile.operators
        kinds: dict[str, str] = {}
        for unit, findings, _ in paired:
            for finding in findings:
                sealed = unit.text.kind == _SIGNED and finding.kind in SECRET_KINDS
                if isinstance(operators.of(finding.kind), Block) or sealed:
                    kinds.setdefault(finding.kind, show_path(unit.text.path))
        self._refuse(kinds, noted)

    def _refuse_forged(self, paired: Iterable[_Paired], pseudonyms: Pseudonyms, noted: Redaction) -> None:
        """A value that has a placeholder cannot stand in a text that the vendor wrote and signed: it only saw the latter.

        Names aside: a model knows many of its own, and they are parts of other words.
        """
        kinds: dict[str, str] = {}
        for unit, _, _ in paired:
            if unit.text.kind == _SIGNED:
                for kind in pseudonyms.stands_in(unit.text.value, shortest=_SHORTEST_FORGED) - NAME_KINDS:
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


def _is_number(unit: _Unit, part: Part) -> bool:
    """Whether a part stands as a number: most of those are counts, times and ids."""
    if unit.document:
        return unit.text.value[part.start] != '"'
    return unit.text.kind in _FREE_FORM and part.value.isdecimal()


def _is_weak(finding: Finding) -> bool:
    """Whether a finding in a number may be chance: many numbers of ten digits are someone's telephone."""
    return finding.kind == "PHONE_NUMBER" and finding.score <= _UNTOLD


def _may_be_json(value: str) -> bool:
    """Whether it is worth a try: tools return documents as texts."""
    return value[0] in "{[ \n\t\r" and value.lstrip()[:1] in ("{", "[") and value.rstrip()[-1:] in ("}", "]")


def _label(text: Text) -> str:
    """The name of the member that a free-form value is in, as it would stand before it: what is beside tells what it is."""
    if text.kind not in _FREE_FORM:
        return ""
    name = next((step for step in reversed(text.path) if type(step) is str), "")
    return f'"{name}": "' if text.path[-1] != KEY else ""


def blocked(kinds: tuple[str, ...], path: str) -> Rejection:
    """The refusal (400): which kinds, and where the first one is."""
    named = ", ".join(kinds[:_SHOWN_KINDS])
    message = f"{path}: your organisation does not let this content out ({named}). Remove it and send the call again."
    return Rejection(400, ErrorCode.POLICY_CONTENT_BLOCKED, message, param=path, detail=named)
