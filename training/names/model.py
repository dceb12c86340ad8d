"""The model: a sum of embeddings for each token, a convolution over five, then three that reach further and further.

Small enough for a matrix library on one core: the first convolution is the same for the same token, so the scanner
keeps its outcome.
"""

from __future__ import annotations

import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from encode import Encoded

from extproc.redaction.name_features import CLASSES, KNOWLEDGE, PIECES, REACHES, SHAPES, TAPS, WORDS

TYPES_IN_BATCH = 6144
Params = dict[str, Any]


def initial(key: jax.Array, size: int, width: int) -> Params:
    """Random weights: embeddings of `size`, layers of `width`."""
    keys = jax.random.split(key, 8)
    params = {
        "words": jax.random.normal(keys[0], (WORDS, size)) * 0.1,
        "shapes": jax.random.normal(keys[1], (SHAPES, size)) * 0.1,
        "known": jax.random.normal(keys[2], (KNOWLEDGE, size)) * 0.1,
        "pieces": jax.random.normal(keys[3], (PIECES, size)) * 0.05,
        "first": jax.random.normal(keys[4], (TAPS * size, width)) * (2 / (TAPS * size)) ** 0.5,
        "first_bias": jnp.zeros(width),
        "last": jax.random.normal(keys[6], (width, CLASSES)) * 0.1,
        "last_bias": jnp.zeros(CLASSES),
    }
    for at, reach in enumerate(REACHES):
        key = jax.random.fold_in(keys[5], reach)
        params[f"layer{at}"] = jax.random.normal(key, (3 * width, width)) * (1 / (3 * width)) ** 0.5
        params[f"layer{at}_bias"] = jnp.zeros(width)
    return params


def _around(values: jax.Array, taps: int, reach: int) -> jax.Array:
    """Each place beside its neighbours: `taps` of them, `reach` apart; zeros beyond the ends."""
    half, length = taps // 2 * reach, values.shape[1]
    padded = jnp.pad(values, ((0, 0), (half, half), (0, 0)))
    return jnp.concatenate([padded[:, at * reach : at * reach + length] for at in range(taps)], axis=-1)


def _dropped(key: jax.Array, count: int, rate: float) -> jax.Array:
    return (jax.random.uniform(key, (count, 1)) > rate).astype(jnp.float32)


def embed(params: Params, rows: jax.Array, key: jax.Array | None) -> jax.Array:
    """Embeddings of distinct tokens, shape (tokens, size).

    In training words and knowledge are forgotten now and then, so that shape, letters and neighbours must do.
    """
    word, known = params["words"][rows[:, 0]], params["known"][rows[:, 2]]
    pieces = rows[:, 3:]
    letters = (params["pieces"][pieces] * (pieces > 0)[..., None]).sum(axis=1)
    if key is not None:
        keys, count = jax.random.split(key, 3), len(rows)
        word, known = word * _dropped(keys[0], count, 0.3), known * _dropped(keys[1], count, 0.2)
        letters = letters * _dropped(keys[2], count, 0.1)
    return word + known + letters + params["shapes"][rows[:, 1]]


def logits(params: Params, tokens: jax.Array, key: jax.Array | None) -> jax.Array:
    """Classes of every place from the embeddings of its tokens, shape (windows, places, size)."""
    hidden = jax.nn.relu(_around(tokens, TAPS, 1) @ params["first"] + params["first_bias"])
    for at, reach in enumerate(REACHES):
        if key is not None:
            hidden = hidden * (jax.random.uniform(jax.random.fold_in(key, at), hidden.shape) > 0.1) / 0.9
        hidden = hidden + jax.nn.relu(_around(hidden, 3, reach) @ params[f"layer{at}"] + params[f"layer{at}_bias"])
    return hidden @ params["last"] + params["last_bias"]


def _loss(params: Params, rows: jax.Array, inverse: jax.Array, labels: jax.Array, key: jax.Array) -> jax.Array:
    one, two = jax.random.split(key)
    scores = logits(params, embed(params, rows, one)[inverse], two)
    cross = optax.softmax_cross_entropy_with_integer_labels(scores, jnp.maximum(labels, 0))
    weights = jnp.where(labels > 0, 1.5, 1.0) * (labels >= 0)
    return (cross * weights).sum() / weights.sum()


def _batch(data: Encoded, which: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rows of the distinct tokens of a batch (padded to one size) and where each place finds its own."""
    distinct, inverse = np.unique(data.stream[which], return_inverse=True)
    if len(distinct) > TYPES_IN_BATCH:
        raise ValueError(f"{len(distinct)} distinct tokens in a batch: raise TYPES_IN_BATCH")
    padded = np.zeros(TYPES_IN_BATCH, np.int32)
    padded[: len(distinct)] = distinct
    return data.rows[padded], inverse.reshape(data.stream[which].shape).astype(np.int32)


def train(data: Encoded, seed: int, epochs: float, size: int, width: int, batch: int = 64) -> Params:  # noqa: PLR0913
    """Weights after `epochs` over the data; the same for the same seed on one kind of machine."""
    params = initial(jax.random.PRNGKey(seed), size, width)
    steps = int(epochs * (len(data.stream) // batch))
    schedule = optax.warmup_cosine_decay_schedule(3e-4, 4e-3, 100, steps, 1e-5)
    optimiser = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(schedule, weight_decay=1e-3))
    state = optimiser.init(params)

    @jax.jit
    def step(params: Params, state: Any, rows: Any, inverse: Any, labels: Any, key: Any) -> tuple[Params, Any, Any]:  # noqa: PLR0913
        loss, slope = jax.value_and_grad(_loss)(params, rows, inverse, labels, key)
        change, state = optimiser.update(slope, state, params)
        return optax.apply_updates(params, change), state, loss

    order, began, total, key = np.random.default_rng(seed), time.monotonic(), 0.0, jax.random.PRNGKey(seed + 1)
    shuffled = np.concatenate(
        [order.permutation(len(data.stream))[: len(data.stream) // batch * batch] for _ in range(int(epochs) + 1)]
    )
    for at in range(steps):
        which = shuffled[at * batch : (at + 1) * batch]
        rows, inverse = _batch(data, which)
        params, state, loss = step(params, state, rows, inverse, data.labels[which], jax.random.fold_in(key, at))
        total += float(loss)
        if at % 200 == 199:
            print(f"step {at + 1} of {steps}: loss {total / 200:.4f}, {time.monotonic() - began:.0f} s", flush=True)
            total = 0.0
    return jax.tree.map(np.asarray, params)
