"""Attention of whole sequences is the softmax over what a query sees, whatever the blocks of queries."""

import jax.numpy as jnp
import numpy as np
import pytest

from jaxserve.attention.whole import BLOCK_QUERIES, attend_whole

HEADS, KV_HEADS, DIM, SCALE = 4, 2, 8, 0.3


def attend_plainly(query, key, value, window, softcap, sinks):
    """Return [S, N, H] of one row."""
    group, position = HEADS // KV_HEADS, np.arange(len(key))
    mixed = np.zeros_like(query)
    for head in range(HEADS):
        scores = SCALE * query[:, head] @ key[:, head // group].T
        scores = scores if softcap is None else softcap * np.tanh(scores / softcap)
        is_seen = np.abs(position[:, None] - position) < (window or len(key))
        weights = np.where(is_seen, np.exp(scores), 0)
        total = weights.sum(1, keepdims=True) + (0 if sinks is None else np.exp(sinks[head]))
        mixed[:, head] = weights / total @ value[:, head // group]
    return mixed


@pytest.mark.parametrize("length", [1, 130, 300, BLOCK_QUERIES + 1])
@pytest.mark.parametrize("window", [None, 1, 65, 200])
def test_it_is_the_softmax_over_what_a_query_sees(length, window):
    rng = np.random.default_rng(length)
    query, key, value = (rng.normal(size=(2, length, heads, DIM)) for heads in (HEADS, KV_HEADS, KV_HEADS))
    lengths = np.array([length, max(1, length // 2)], np.int32)
    softcap, sinks = (2.0, rng.normal(size=HEADS)) if length == 130 else (None, None)
    mixed = attend_whole(
        *(jnp.asarray(each, jnp.float32) for each in (query, key, value)),
        jnp.asarray(lengths),
        scale=SCALE,
        window=window,
        softcap=softcap,
        sinks=None if sinks is None else jnp.asarray(sinks),
    )
    for row, real in enumerate(lengths):
        expected = attend_plainly(*(each[row, :real] for each in (query, key, value)), window, softcap, sinks)
        np.testing.assert_allclose(mixed[row, :real], expected, atol=1e-5)
    assert np.isfinite(mixed).all()
