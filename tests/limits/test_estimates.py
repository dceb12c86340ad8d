"""Estimates of input: high before anything is known, near after some calls, and never led astray by one of them."""

from __future__ import annotations

import json
import os
import random
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from extproc.limits.estimates import ALLOWANCE, HIDDEN, IMAGE, LEAST, MOST_FOR_IMAGE, Estimates

SIZES = st.integers(0, 50_000_000)
CALLS = st.lists(st.tuples(st.integers(-5, 10_000_000), st.integers(-5, 10**12), st.integers(-1, 20)), max_size=60)
ROOT = Path(os.environ.get("RECORDED_DIR", Path(__file__).parents[2] / ".." / "shared" / "recorded"))


def taught(ratio: float, *, calls: int = 1000, spread: float = 0.1, seed: int = 1) -> Estimates:
    """After calls with about `ratio` tokens a byte."""
    chance, estimates = random.Random(seed), Estimates()
    for _ in range(calls):
        size = round(200 * 1000 ** chance.random())
        estimates.learn("m", size, round(size * ratio * chance.lognormvariate(0, spread)))
    return estimates


def test_the_start_is_high() -> None:
    """Three bytes a token, and an allowance; English has more than four."""
    assert Estimates().input("m", 3000) == 1000 + ALLOWANCE
    assert Estimates().input("m", 0) == ALLOWANCE
    assert Estimates().input("m", 3000, images=2) == 1000 + ALLOWANCE + 2 * IMAGE


@given(CALLS, SIZES, st.integers(0, 20))
def test_bounds_hold_whatever_was_learned(calls: list[tuple[int, int, int]], size: int, images: int) -> None:
    """Never more than a token a byte and what vendors hide, never less than the floor, and the same each time."""
    estimates, again = Estimates(), Estimates()
    for call in calls:
        estimates.learn("m", *call)
        again.learn("m", *call)
    found = estimates.input("m", size, images)
    assert max(1, size // LEAST) + images <= found <= max(1, size + HIDDEN) + images * MOST_FOR_IMAGE
    assert found == again.input("m", size, images)


@pytest.mark.parametrize("ratio", [0.15, 0.25, 0.33, 0.6])
def test_it_learns_what_a_model_takes(ratio: float) -> None:
    """19 of 20 calls come to less, and the estimate stays near: with a spread of 10 %, within 35 % of the mean."""
    estimates, chance = taught(ratio), random.Random(2)
    below = 0
    for _ in range(1000):
        size = round(200 * 1000 ** chance.random())
        below += estimates.input("m", size) < size * ratio * chance.lognormvariate(0, 0.1)
        assert estimates.input("m", size) < size * ratio * 1.35 + 1
    assert below <= 100


def test_it_follows_a_change() -> None:
    """A model whose callers turn from English to Japanese is estimated right after some hundred calls."""
    estimates = taught(0.2)
    before = estimates.input("m", 30_000)
    for _ in range(150):
        estimates.learn("m", 30_000, 18_000)
    assert before < 9_000
    assert estimates.input("m", 30_000) >= 18_000


def test_models_and_sizes_are_apart() -> None:
    """What was learned of one model says nothing of another; nor do small requests speak for large ones."""
    estimates = Estimates()
    for _ in range(50):
        estimates.learn("m", 500, 400)  # a hidden prompt for tools
    assert estimates.input("other", 500) == Estimates().input("other", 500)
    assert estimates.input("m", 500) >= 400
    assert estimates.input("m", 300_000) == Estimates().input("m", 300_000)


@pytest.mark.parametrize("calls", [0, 3, 200])
@pytest.mark.parametrize("absurd", [1, 10**12])
def test_one_absurd_count_does_not_stay(calls: int, absurd: int) -> None:
    """It moves the estimate by less than half at once, and by less than a quarter 30 calls later."""
    touched, untouched = taught(0.25, calls=calls), taught(0.25, calls=calls)
    for estimates in (touched, untouched):
        for _ in range(2):
            estimates.learn("m", 20_000, 5000)
    touched.learn("m", 20_000, absurd)
    assert 0.5 < touched.input("m", 20_000) / untouched.input("m", 20_000) < 1.5
    for _ in range(30):
        touched.learn("m", 20_000, 5000)
        untouched.learn("m", 20_000, 5000)
    assert touched.input("m", 20_000) / untouched.input("m", 20_000) < 1.25


def test_what_says_nothing_is_not_learned() -> None:
    """Zero, negative and of no size."""
    estimates = Estimates()
    for size, tokens in ((0, 5), (-1, 5), (5, 0), (5, -1)):
        estimates.learn("m", size, tokens)
    assert estimates.input("m", 3000) == Estimates().input("m", 3000)


def test_images_are_learned_apart_from_text() -> None:
    """A model that takes 25,000 tokens for an image is known for that, and its texts stay what they were."""
    estimates = taught(0.25)
    text = estimates.input("m", 20_000)
    for _ in range(300):
        estimates.learn("m", 20_000, 5000 + 2 * 25_000, images=2)
    assert estimates.input("m", 20_000) == text
    assert 25_000 <= estimates.input("m", 20_000, images=1) - text <= 35_000


def test_models_are_bounded() -> None:
    """The one learned of longest ago is forgotten first."""
    estimates = Estimates()
    for number in range(1000):
        estimates.learn(f"m{number}", 20_000, 2000)
    estimates.learn("m0", 20_000, 2000)
    estimates.learn("new", 20_000, 2000)
    start = Estimates().input("m", 20_000)
    assert [estimates.input(name, 20_000) < start for name in ("m0", "new", "m2", "m1")] == [True, True, True, False]
    assert len(estimates._models) == 1000


def recorded() -> list[tuple[str, int, int]]:
    """Model, bytes of the request, and input as the vendor counted it."""
    found = []
    for path in sorted(ROOT.glob("*/*/meta.json")):
        meta = json.loads(path.read_text())
        usage = meta["usage"] or {}
        if meta["files"]["request"] and usage.get("input"):
            found.append((meta["model"], (path.parent / meta["files"]["request"]).stat().st_size, usage["input"]))
    return found


@pytest.mark.recorded
@pytest.mark.skipif(not ROOT.is_dir(), reason="the recorded bodies are not here")
def test_recorded_calls() -> None:
    """Before learning, only small calls with hidden prompts come to more than estimated; after, next to none do."""
    calls = recorded()
    assert len(calls) > 30
    estimates = Estimates()

    def too_low() -> list[tuple[str, int, int]]:
        return [call for call in calls if estimates.input(call[0], call[1]) < call[2]]

    assert all(tokens - size // 3 <= HIDDEN and size < 2000 for _, size, tokens in too_low())
    for _ in range(5):
        for model, size, tokens in calls:
            estimates.learn(model, size, tokens)
    assert len(too_low()) <= len(calls) // 20
    assert sum(estimates.input(model, size) for model, size, _ in calls) < 2.5 * sum(tokens for *_, tokens in calls)
