"""`extproc scan`: what a profile would find in a text or in the body of a call, and what would be sent in its place."""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

from extproc.cli.output import OK, add_json, print_json, say
from extproc.cli.place import add_place
from extproc.cli.trial import Judged, Opened, add_profile, choose
from extproc.dialects.dialect import Edit, RequestView, Text, show_path
from extproc.dialects.registry import DIALECTS
from extproc.errors import ConfigError, Rejection
from extproc.policies.inspection import Inspection
from extproc.redaction.pseudonyms import NAME as PLACEHOLDER
from extproc.text import Finding

NAME: Final = "scan"
HELP: Final = "show what would be found in a text or a request, and what would be sent"
FOUND: Final = 3
"""Exit code: something was found, or the call would be refused."""

_ENDPOINTS: Final = {
    "chat": "openai_chat",
    "responses": "openai_responses",
    "messages": "anthropic_messages",
    "embeddings": "openai_embeddings",
}
_STANDARD_INPUT: Final = "-"
_PLAIN: Final = "embeddings"  # a plain text is judged as the input of such a call
_SHOWN: Final = 60
_SIGNED: Final = "signed"  # texts that no operator may edit
_RED: Final = "31"
_GREEN: Final = "32"
_BOLD: Final = "1"
_PUT_IN: Final = re.compile(f"<{PLACEHOLDER}>|<[A-Z][A-Z0-9_]*:[0-9a-f]{{16}}>")


class _Hit(NamedTuple):
    """A finding, where it is, and what becomes of it."""

    text: Text
    value: str  # the text, or the string of a JSON document in it, that was searched
    finding: Finding
    operator: str

    @property
    def found(self) -> str:
        """What was found."""
        return self.value[self.finding.start : self.finding.end]


class _One(RequestView):
    """A request as if it had this one text."""

    def __init__(self, request: RequestView, text: Text) -> None:
        self._request = request
        self._text = text

    def texts(self) -> Iterator[Text]:
        """The one text."""
        yield self._text

    def value(self, path: tuple[str | int, ...]) -> object:
        """As of the whole request."""
        return self._request.value(path)

    def model_edit(self, model: str) -> Edit:
        """As of the whole request."""
        return self._request.model_edit(model)

    def place(self, path: tuple[str | int, ...]) -> tuple[int, int]:
        """As of the whole request."""
        return self._request.place(path)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.epilog = (
        "Exit code: 0 nothing found, 3 something found or the call refused, 1 an error, 2 a wrong command line."
    )
    parser.add_argument("file", metavar="FILE", help="the text, in UTF-8, or - for standard input")
    parser.add_argument(
        "--endpoint", choices=tuple(_ENDPOINTS), help="FILE is the body of a request to this (default: a plain text)"
    )
    add_profile(parser)
    parser.add_argument("--no-color", action="store_true", help="no colours on a terminal (as NO_COLOR=1)")
    add_place(parser)
    add_json(parser)


def run(args: argparse.Namespace) -> int:
    """0: nothing was found; 3: something was, or the call would be refused. Raises `ConfigError`."""
    given = _read(args.file)
    body = given.encode()
    if args.endpoint is None:
        body = json.dumps({"model": "any", "input": given}, ensure_ascii=False).encode()
    dialect = DIALECTS[_ENDPOINTS[args.endpoint or _PLAIN]]
    try:
        request = dialect.read_request(body)
    except Rejection as rejection:
        hint = f"give the body of a call to {args.endpoint}, as it is sent; without --endpoint it is a plain text"
        raise ConfigError(_name(args.file), f"is no such request: {rejection.message}", hint) from None
    opened = choose(args).open()
    judged = opened.judge(dialect, request, body)
    hits = _hits(request, opened, judged)
    sent = None if judged.body is None else judged.body.decode()
    if sent is not None and args.endpoint is None:
        sent = json.loads(sent)["input"]
    if args.json:
        print_json(_as_json(judged, hits, sent, plain=args.endpoint is None))
    else:
        _Page(colours=not args.no_color, plain=args.endpoint is None).show(judged, hits, sent, given)
        _say_slow(opened, judged)
    return FOUND if hits or judged.refused is not None else OK


def _read(file: str) -> str:
    """The text. Raises `ConfigError`."""
    try:
        data = sys.stdin.buffer.read() if file == _STANDARD_INPUT else Path(file).read_bytes()
        return data.decode()
    except OSError as error:
        raise ConfigError(file, f"cannot be read: {error.strerror}", "name a file, or - for standard input") from None
    except UnicodeDecodeError as error:
        reason = f"is not UTF-8 (byte {error.start})"
        raise ConfigError(_name(file), reason, "convert it first: iconv -t UTF-8") from None


def _name(file: str) -> str:
    return "standard input" if file == _STANDARD_INPUT else file


def _hits(request: RequestView, opened: Opened, judged: Judged) -> list[_Hit]:
    """What was found, in the order of the walk. Nothing, where the call was refused before it was searched."""
    if not judged.found:
        return []
    profile = opened.profile
    hits: list[_Hit] = []
    for text in request.texts_and_keys():
        part = Inspection(_One(request, text), profile)
        for scanner, values in ((profile.scanners.texts, part.prose), (profile.scanners.identifiers, part.formed)):
            for value in values:
                for one in judged.found.get((scanner.version, value), ()):
                    kept = text.kind if text.kind == _SIGNED else profile.operators.name(one.kind)
                    hits.append(_Hit(text, value, one, kept))
    return hits


def _line(hit: _Hit) -> tuple[int, int]:
    """Line and column in the text, from 1."""
    before = hit.value[: hit.finding.start]
    return before.count("\n") + 1, len(before) - before.rfind("\n")


def _as_json(judged: Judged, hits: list[_Hit], sent: str | None, *, plain: bool) -> dict[str, object]:
    found = []
    for hit in hits:
        kind, start, end, score, rule = hit.finding
        line, column = _line(hit)
        found.append(
            {
                "kind": kind,
                "score": round(score, 3),
                "rule": rule,
                "operator": hit.operator,
                "position": "" if plain else show_path(hit.text.path),
                "start": start,
                "end": end,
                "line": line,
                "column": column,
                "value": hit.found,
            }
        )
    refused = judged.refused
    told = None
    if refused is not None:
        told = {"status": refused.status, "code": refused.code, "message": refused.message, "param": refused.param}
    noted = judged.noted
    mode = "shadow" if noted.shadow else "enforce"
    return {"profile": noted.profile, "mode": mode, "found": found, "refused": told, "sent": sent}


def _say_slow(opened: Opened, judged: Judged) -> None:
    trouble = opened.profile.on_trouble
    if judged.seconds > trouble.budget:
        outcome = "go on unsearched" if trouble.forward_on_budget else "be refused"
        say(
            f"the search took {judged.seconds * 1000:.0f} ms here, more than the profile's budget of"
            f" {trouble.budget * 1000:.0f} ms: a call that takes so long in a worker would {outcome}"
        )


class _Page:
    """What a human sees, on standard output."""

    def __init__(self, *, colours: bool, plain: bool) -> None:
        self._plain = plain
        self._colours = colours and sys.stdout.isatty() and not os.environ.get("NO_COLOR")

    def show(self, judged: Judged, hits: list[_Hit], sent: str | None, given: str) -> None:
        """The findings, then what would be sent."""
        if hits:
            self._table(hits)
        if judged.refused is not None:
            refused = judged.refused
            print(self._paint(f"would be refused: {refused.status} {refused.code}", _RED))
            print(f"  {refused.message}")
        elif not hits:
            print(f"nothing found by {judged.noted.profile}: it would be sent as it is")
        elif sent is not None:
            shadow = judged.noted.shadow
            words = "would be sent, unchanged since the profile is in shadow mode:" if shadow else "would be sent:"
            print("\n" + self._paint(words, _BOLD))
            print(self._put_in(given if shadow else sent))

    def _table(self, hits: list[_Hit]) -> None:
        rows = [
            (
                *(one.kind, f"{one.score:.2f}", hit.operator, one.rule),
                self._place(hit),
                _visible(hit.found, _SHOWN),
            )
            for hit in hits
            for one in (hit.finding,)
        ]
        head = ("KIND", "SCORE", "OPERATOR", "RULE", "POSITION", "VALUE")
        widths = [max(len(row[at]) for row in (head, *rows)) for at in range(len(head) - 1)]
        for number, row in enumerate((head, *rows)):
            cells = "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=False))
            shown = f"{cells}  {row[-1] if number == 0 else self._paint(row[-1], _RED)}"
            print(self._paint(shown, _BOLD) if number == 0 else shown)

    def _place(self, hit: _Hit) -> str:
        line, column = _line(hit)
        return f"{line}:{column}" if self._plain else f"{show_path(hit.text.path)} {line}:{column}"

    def _put_in(self, text: str) -> str:
        """With what was put in, in colour."""
        text = "".join(char if char.isprintable() or char in "\n\t" else _escaped(char) for char in text)
        return _PUT_IN.sub(lambda match: self._paint(match[0], _GREEN), text) if self._colours else text

    def _paint(self, text: str, colour: str) -> str:
        return f"\033[{colour}m{text}\033[0m" if self._colours else text


def _escaped(char: str) -> str:
    """A character that a terminal might obey, or not show."""
    return char.encode("unicode_escape").decode()


def _visible(value: str, most: int) -> str:
    """A value in one line."""
    shown = "".join(char if char.isprintable() else _escaped(char) for char in value)
    return shown if len(shown) <= most else f"{shown[: most - 1]}…"
