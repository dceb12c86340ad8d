"""Editing the recorded answers of the vendors: nothing lost, nothing changed that should not, at any chunking."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from dialects.filters import Drip, Patient, Same, Swap, chat_result, every_cut, messages_result, responses_result, run
from recorded.test_dialects import RESPONSES, ROOT, _dialect, _name

pytestmark = pytest.mark.recorded

RESULTS = {"openai_chat": chat_result, "openai_responses": responses_result, "anthropic_messages": messages_result}
SAMPLE_SIZE = 4_000  # bytes: streams up to this are cut at every offset
STREAMS = [case for case in RESPONSES if case[1]["files"]["response"].endswith(".sse")]
WELL_FORMED = [case for case in STREAMS if "malformed" not in case[0].parts and _dialect(case[1]).name in RESULTS]


def body_of(case: tuple[Path, dict]) -> bytes:
    """The recorded answer."""
    return (case[0] / case[1]["files"]["response"]).read_bytes()


SAMPLE = [case for case in WELL_FORMED if len(body_of(case)) <= SAMPLE_SIZE]


def test_cases_are_there() -> None:
    """Where the folder is there, each format has streams, and some of each are cut everywhere."""
    if not ROOT.is_dir():
        pytest.skip("no recorded bodies beside this checkout")
    for name in RESULTS:
        assert sum(_dialect(case[1]).name == name for case in WELL_FORMED) > 10
        assert any(_dialect(case[1]).name == name for case in SAMPLE)


@pytest.mark.parametrize("case", RESPONSES, ids=_name)
def test_same_bytes(case: tuple[Path, dict]) -> None:
    """A filter that changes nothing, with or without a hint, gives each recorded body back, byte for byte."""
    body = body_of(case)
    dialect = _dialect(case[1])
    stream = case[1]["files"]["response"].endswith(".sse")
    chance = random.Random(len(body))
    for texts in (Same, Swap, Patient):
        cuts = sorted(chance.sample(range(1, len(body)), min(len(body) - 1, 40))) if len(body) > 1 else []
        assert run(dialect.editor(stream=stream, texts=texts()), body, cuts) == body


@pytest.mark.parametrize("case", WELL_FORMED, ids=_name)
def test_held_back_at_random(case: tuple[Path, dict]) -> None:
    """Whatever is held back of the vendors' own streams, the client has the same in the end."""
    body = body_of(case)
    dialect = _dialect(case[1])
    result = RESULTS[dialect.name]
    for seed in range(5):
        texts = Drip(seed)
        assert result(run(dialect.editor(stream=True, texts=texts), body)) == result(body)
        assert texts.held == {}


@pytest.mark.parametrize("case", SAMPLE, ids=_name)
def test_cut_everywhere(case: tuple[Path, dict]) -> None:
    """The bytes that go out do not depend on where the vendor's bytes were cut."""
    body = body_of(case)
    dialect = _dialect(case[1])
    outs = {run(dialect.editor(stream=True, texts=Drip(7)), body, cuts) for cuts in every_cut(body)}
    assert len(outs) == 1
