"""Puts originals back where an answer has placeholders, whole or in a stream that is cut anywhere."""

from __future__ import annotations

import json
import re
from bisect import bisect_left
from collections.abc import Mapping
from typing import Final

from extproc.redaction.pseudonyms import NAME, split_ending
from extproc.text import Channel, ChannelKind

_PLACEHOLDER: Final = re.compile(f"<({NAME})>")
_NUMBER: Final = re.compile(r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?")
_PART_OF_ESCAPE: Final = r"\\(?:u(?:0(?:0(?:3)?)?)?)?"
# What matters in a JSON document, from left to right; text between is of no account. A group for each: a placeholder's
# name; a beginning of one, or of an escape, at the end of the text; the rest are escapes, with text after them, and quotes.
_JSON: Final = re.compile(
    rf"(?:<|\\u003[cC])({NAME})(?:>|\\u003[eE])"
    rf"|((?:<|\\u003[cC])[A-Za-z0-9_]{{0,50}}(?:{_PART_OF_ESCAPE})?\Z|{_PART_OF_ESCAPE}\Z)"
    r'|\\[^u](?:[^"<\\]++|\\[^u])*+|\\u|"',
    re.DOTALL,
)
_ESCAPED_BRACKET: Final = r"\u003"
_LT: Final = "<"
_CLOSED: Final = ("", False)


class Restorer:
    r"""A `text.TextFilter` that knows the placeholders of one request (`Pseudonyms.table`). One per answer.

    Only placeholders of that table are restored, spelled exactly so: what the model makes up, and what stood in the
    request as it was, is text. Of a channel only a last part is held back that is the beginning of one of them.

    `text`: `<KIND_n>`. `name`: an identifier that is a placeholder as a whole. `json`: inside a string the value is put
    in escaped, so that the document stays what it was, whatever the value holds; `\u003cKIND_n\u003e` is the same
    placeholder. Outside a string, where a placeholder is no JSON at all (a model that was asked for a number writes
    `{"card": <CREDIT_CARD_1>}`), the value becomes a number if it is one and a string otherwise: as it stands it could
    only fail, and put in bare a value could bring members of its own into the document.

    `trigger`: while `holding` is false, a piece of a `text` or `json` channel whose encoded form has none of these bytes
    comes back as it is, and the filter need not be asked. A backslash is among them because an escape may be cut, and
    because quotes in a document that travels as a string are escaped.

    `restored` counts values put back, `emitted` those and placeholders that were not known, where they came uncut.
    """

    trigger: Final = b"<\\"

    def __init__(self, table: Mapping[str, str]) -> None:
        """`table`: placeholder -> value; keys without brackets stand for whole identifiers."""
        self._values: Final = {key[1:-1]: value for key, value in table.items() if key[:1] == _LT}
        self._identifiers: Final = {key: value for key, value in table.items() if key[:1] != _LT}
        self._sorted: Final = sorted(self._values)
        self._held: dict[Channel, str] = {}  # never empty texts
        self._documents: dict[Channel, tuple[str, bool]] = {}  # what is held back, whether a string is open there
        self.restored = 0
        self.emitted = 0

    @property
    def holding(self) -> bool:
        """Whether a part of any channel is held back."""
        return bool(self._held) or any(held for held, _ in self._documents.values())

    def knows(self, placeholder: str) -> bool:
        """Whether `<KIND_n>` stands for something."""
        return placeholder[1:-1] in self._values

    def piece(self, channel: Channel, text: str) -> str:
        """The next piece of a channel -> what can go on now."""
        if channel.kind == "text":
            held = self._held.pop(channel, "") if self._held else ""
            if not held and _LT not in text:
                return text
            return self._text(channel, held + text)
        if channel.kind == "name":
            return self._identifier(text)
        held, inside = self._documents.get(channel, _CLOSED)
        if not held and _LT not in text and "\\" not in text:
            if text.count('"') % 2:
                self._documents[channel] = ("", not inside)
            return text
        out, held, inside = self._json(held + text, inside=inside, last=False)
        self._documents[channel] = (held, inside)
        return out

    def end(self, channel: Channel) -> str:
        """The channel is complete -> what was held back, which is no placeholder after all."""
        if channel.kind == "json":
            return self._documents.pop(channel, _CLOSED)[0]
        return self._held.pop(channel, "")

    def whole(self, kind: ChannelKind, text: str) -> str:
        """A complete text -> the text with its originals, the very same object where it has none."""
        if kind == "name":
            return self._identifier(text)
        if _LT not in text and (kind == "text" or _ESCAPED_BRACKET not in text):
            return text
        before = self.restored
        if kind == "text":
            out = _PLACEHOLDER.sub(self._value, text)
        else:
            out, _, _ = self._json(text, inside=False, last=True)
        return text if self.restored == before else out

    def _text(self, channel: Channel, text: str) -> str:
        last = text.rfind(_LT)
        if text.find(">", last) < 0 and self._begins(text[last + 1 :]):
            self._held[channel] = text[last:]
            text = text[:last]
        return _PLACEHOLDER.sub(self._value, text)

    def _begins(self, name: str) -> bool:
        """Whether a known placeholder's name begins so."""
        index = bisect_left(self._sorted, name)
        return index < len(self._sorted) and self._sorted[index].startswith(name)

    def _value(self, match: re.Match[str]) -> str:
        self.emitted += 1
        value = self._values.get(match[1])
        if value is None:
            return match[0]
        self.restored += 1
        return value

    def _identifier(self, text: str) -> str:
        stem, ending = split_ending(text)
        value = self._identifiers.get(stem)
        if value is None:
            return text
        self.emitted += 1
        self.restored += 1
        return value + ending

    def _json(self, text: str, *, inside: bool, last: bool) -> tuple[str, str, bool]:
        """-> what can go on, what is held back, whether a string is open at the end of the former."""
        parts: list[str] = []
        at = done = 0
        while (match := _JSON.search(text, at)) is not None:
            at = match.end()
            name, tail = match[1], match[2]
            if name is not None:
                value = self._values.get(name)
                self.emitted += 1
                if value is not None:
                    self.restored += 1
                    parts += (text[done : match.start()], _in_json(value, inside=inside))
                    done = at
            elif tail is not None:
                if not last and self._tail(tail):
                    parts.append(text[done : match.start()])
                    return "".join(parts), tail, inside
                at = match.start() + (1 if tail[0] == _LT else 2)  # an escape is two characters at least
            elif match[0] == '"':
                inside = not inside
        parts.append(text[done:])
        return "".join(parts), "", inside

    def _tail(self, tail: str) -> bool:
        """Whether the end of a piece has to wait: it may become a placeholder, or a part of an escape is missing."""
        name, slash, _ = tail.removeprefix(_LT if tail[0] == _LT else tail[:6]).partition("\\")
        return name in self._values if slash else self._begins(name)


def _in_json(value: str, *, inside: bool) -> str:
    """A value as it stands in a document: within a string that is open, or as a value of its own."""
    if inside:
        return json.dumps(value, ensure_ascii=False)[1:-1]
    return value if _NUMBER.fullmatch(value) else json.dumps(value, ensure_ascii=False)
