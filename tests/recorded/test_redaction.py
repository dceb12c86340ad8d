"""Recorded answers and redaction: bytes stay where there is nothing to restore, and cuts do not matter where there is."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from envoy.redaction_core import answer, ask, playbook, redacting, spoken
from extproc.dialects.dialect import ResponseEditor
from extproc.redaction.restore import Restorer
from extproc.sim import SimAnswer
from extproc.sim.insert import insert_text
from recorded.test_dialects import RESPONSES, _cuts, _dialect, _name

pytestmark = pytest.mark.recorded

APIS = {"openai-chat": "openai", "openai-responses": "responses", "anthropic-messages": "anthropic"}
STREAMS = [
    case for case in RESPONSES if case[1]["files"]["response"].endswith(".sse") and case[1]["dialect"] in APIS
]  # fmt: skip
# no recorded body holds these
ABSENT = {"<QQQ_ZZZ_1>": 'a "b" \\ c', "QQQ_ZZZ_1": "d", "<QQQ_ZZZ_abcdefghijkl>": "\n"}
SHORT = 3000  # bytes of a stream that is taken as it is
DELTA = re.compile(rb'_delta"|\.delta"|"delta":\{"content"')
VALUE = "kim" + chr(64) + "planted.example"
TEXT = "It is <EMAIL_ADDRESS_1>, <EMAIL_ADDRESS_1>! "


def _through(editor: ResponseEditor, body: bytes, cuts: list[int]) -> bytes:
    pieces = [body[a:b] for a, b in zip([0, *cuts], [*cuts, len(body)], strict=True)]
    return b"".join([*(editor.feed(piece, end=False) for piece in pieces), editor.feed(b"", end=True)])


@pytest.mark.parametrize("case", RESPONSES, ids=_name)
@pytest.mark.parametrize("table", [{}, ABSENT], ids=["empty", "absent"])
def test_nothing_to_restore(case: tuple[Path, dict], table: dict[str, str]) -> None:
    """The bytes that came go on: as a whole, one at a time and at random cuts."""
    folder, meta = case
    body = (folder / meta["files"]["response"]).read_bytes()
    stream = meta["files"]["response"].endswith(".sse")
    assert not any(key.encode() in body for key in ABSENT)
    for cuts in _cuts(len(body), len(body))[:3]:
        restorer = Restorer(table)
        assert _through(_dialect(meta).editor(stream=stream, texts=restorer), body, cuts) == body
        assert restorer.restored == 0
        assert not restorer.holding


def _stream(case: tuple[Path, dict], text: str, piece: int) -> bytes:
    """The recorded stream, saying `text` first in every channel; of long ones most of the other deltas are left out."""
    folder, meta = case
    body = (folder / meta["files"]["response"]).read_bytes()
    stream = insert_text(SimAnswer(200, (("content-type", "text/event-stream"),), (body,)), text, piece).body
    if len(body) <= SHORT:
        return stream
    events = re.split(rb"(?<=\n\n)", stream)
    deltas = [event for event in events if DELTA.search(event) and len(event) < SHORT]
    kept = {*deltas[: 2 * len(TEXT)], *deltas[-3:]}
    return b"".join(event for event in events if event in kept or not DELTA.search(event))


def _cut_everywhere(stream: bytes) -> Iterator[list[bytes]]:
    """Every place is a cut: between pieces of one byte, of 7, of 41, and in streams that are short of the whole rest."""
    for size in (1, 7, 41) if len(stream) < 3 * SHORT else (1, 41):
        for first in range(1, size + 1):
            places = range(first, len(stream), size)
            yield [stream[a:b] for a, b in zip([0, *places], [*places, len(stream)], strict=True)]
    for at in range(1, len(stream)) if len(stream) <= SHORT // 3 else ():
        yield [stream[:at], stream[at:]]


@pytest.mark.parametrize("case", STREAMS, ids=_name)
@pytest.mark.parametrize("piece", [0, 5], ids=["one delta", "deltas of 5"])
def test_recorded_streams_are_restored_at_every_cut(case: tuple[Path, dict], piece: int) -> None:
    """Through the whole core: the caller reads the original, in the same bytes wherever the stream is cut."""
    stream = _stream(case, TEXT, piece)
    if b"<EMAIL" not in _stream(case, TEXT, 0):
        assert not any(key[0] in ("content", "text") for key in spoken(stream)), "it has a text to put one before"
        return
    setup = redacting({VALUE: "EMAIL_ADDRESS"})
    api = APIS[case[1]["dialect"]]

    def play(pieces: list[bytes]) -> bytes:
        exchange = playbook(setup)
        assert VALUE.encode() not in ask(exchange, api, f"Who is {VALUE}?")
        return answer(exchange, pieces)

    whole = play([stream])
    told = {channel: text.replace("<EMAIL_ADDRESS_1>", VALUE) for channel, text in spoken(stream).items()}
    assert spoken(whole) == told
    assert any(VALUE in text for text in told.values())
    for pieces in _cut_everywhere(stream):
        assert play(pieces) == whole, list(map(len, pieces))
