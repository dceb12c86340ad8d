"""How many input tokens a request will come to, before any vendor has counted: from its size, and what calls before it used.

A reservation is made from this, so it errs high: 19 of 20 calls shall come to less. What remains is the overshoot
that a budget's bound speaks of, and it is corrected at the end of each call.
"""

from __future__ import annotations

from bisect import bisect_right
from math import ceil, exp, log, sqrt
from typing import Final

BYTES_A_TOKEN: Final = 3
"""Before anything is known of a model: fewer than English text and JSON have (about 4), as many as a Chinese character."""
ALLOWANCE: Final = 64
"""Tokens, before anything is known: what vendors put around messages."""
HIDDEN: Final = 1024
"""Tokens that vendors may add unseen (Anthropic's prompt for tools has 159 to 735). A token of text is a byte at least,
since vocabularies are made of byte pairs: more than size + HIDDEN is no text."""
LEAST: Final = 16
"""Bytes a token at most, whatever was learned: somebody may have sent blanks only, for others' estimates to fall."""
IMAGE: Final = 1600
"""Tokens of an image or a file before anything is known: what vendors take for a large image."""
MOST_FOR_IMAGE: Final = 50_000
"""Tokens; small models of OpenAI's count a large image at up to 25,000."""

_QUANTILE: Final = 1.645  # standard deviations over the mean: 95 % of a normal distribution
_PRIOR_SPREAD: Final = 0.35  # of the logarithm
_PRIOR_WEIGHT: Final = 4  # calls that the start counts for
_MEMORY: Final = 32  # calls over which the mean is formed
_CLIP: Final = 2.5  # standard deviations: a call that is further off counts as one that is so far off
_LEAST_SPREAD: Final = 0.05
_MODELS: Final = 1000
_CLASSES: Final = (1 << 10, 1 << 13, 1 << 16)  # bytes: small bodies are mostly structure, or mostly what vendors add


class _Ratio:
    """Tokens per unit: mean and spread of its logarithm, over the calls of late."""

    __slots__ = ("_estimate", "_mean", "_seen", "_variance")

    def __init__(self, start: float) -> None:
        """With `start` as the estimate before any call."""
        self._mean = log(start) - _QUANTILE * _PRIOR_SPREAD
        self._variance = _PRIOR_SPREAD**2
        self._seen = _PRIOR_WEIGHT
        self._estimate = 0.0  # until it is asked for

    def learn(self, ratio: float) -> None:
        """Take what one call came to. One that is far off moves the mean by its clipped distance only."""
        self._seen = min(self._seen + 1, _MEMORY)
        share = 1 / self._seen
        bound = _CLIP * self._spread()
        off = max(-bound, min(bound, log(ratio) - self._mean))
        self._mean += share * off
        self._variance = (1 - share) * (self._variance + share * off * off)
        self._estimate = 0.0

    def estimate(self) -> float:
        """What 95 % of calls stay below, were the logarithm normally distributed."""
        if not self._estimate:
            self._estimate = exp(self._mean + _QUANTILE * self._spread())
        return self._estimate

    def middle(self) -> float:
        """What half of the calls stay below."""
        return exp(self._mean)

    def _spread(self) -> float:
        return max(_LEAST_SPREAD, sqrt(self._variance))


class _Model:
    """What is known of one model: tokens a byte, by the size of the request, and tokens of an image."""

    __slots__ = ("_images", "_texts")

    def __init__(self) -> None:
        self._texts: dict[int, _Ratio] = {}
        self._images: _Ratio | None = None

    def text(self, size: int) -> _Ratio | None:
        return self._texts.get(_class(size))

    def images(self) -> _Ratio | None:
        return self._images

    def learn_text(self, size: int, tokens: int) -> None:
        kind = _class(size)
        ratio = self._texts.get(kind)
        if ratio is None:
            ratio = self._texts[kind] = _Ratio(1 / BYTES_A_TOKEN)
        ratio.learn(tokens / size)

    def learn_image(self, tokens: float) -> None:
        if self._images is None:
            self._images = _Ratio(IMAGE)
        self._images.learn(tokens)


class Estimates:
    """Learned per model, in one process; the same calls in the same order give the same estimates.

    Models are bounded in number: the one that was learned of longest ago is forgotten.
    """

    def __init__(self) -> None:
        """Nothing is known."""
        self._models: dict[str, _Model] = {}

    def input(self, model: str, size: int, images: int = 0) -> int:
        """Tokens of a request: `size` bytes without inlined images and files, `images` of these. At least 1."""
        size, images = max(0, size), max(0, images)
        known = self._models.get(model)
        text = known.text(size) if known is not None else None
        image = known.images() if known is not None else None
        tokens = ceil(size * text.estimate()) if text is not None else -(-size // BYTES_A_TOKEN) + ALLOWANCE
        each = ceil(image.estimate()) if image is not None else IMAGE
        bounded = max(1, size // LEAST, min(tokens, size + HIDDEN))
        return bounded + images * max(1, min(each, MOST_FOR_IMAGE))

    def learn(self, model: str, size: int, tokens: int, images: int = 0) -> None:
        """Take what the vendor counted for such a request. What no request can come to counts as the most one can."""
        if size <= 0 or tokens <= 0:
            return
        known = self._models.pop(model, None) or _Model()
        self._models[model] = known  # the last is the one learned of latest
        if len(self._models) > _MODELS:
            del self._models[next(iter(self._models))]
        if images <= 0:
            known.learn_text(size, min(tokens, size + HIDDEN))
            return
        text = known.text(size)
        of_text = size * (text.middle() if text is not None else 1 / (BYTES_A_TOKEN + 1))
        known.learn_image(max(1.0, min((tokens - of_text) / images, MOST_FOR_IMAGE)))


def _class(size: int) -> int:
    return bisect_right(_CLASSES, size)
