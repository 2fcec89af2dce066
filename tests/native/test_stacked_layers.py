"""The layers of a cache group lie in the same arrays, and none of them touches another's pages."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxserve.attention import AttentionInputs
from jaxserve.attention.native import NativeAttention
from jaxserve.native import library

pytestmark = pytest.mark.skipif(not library.is_usable(), reason="no C compiler here")

PAGE, HEADS, KV_HEADS, HEAD_DIM, LAYERS = 16, 6, 3, 64, 4
POSITIONS = np.arange(40, dtype=np.int32)  # of one prompt, in pages 3, 1 and 2
TABLE = np.array([[3, 1, 2]], np.int32)
INPUTS = AttentionInputs(
    position_T=POSITIONS,
    slot_T=TABLE[0, POSITIONS // PAGE] * PAGE + POSITIONS % PAGE,
    page_table_BW=TABLE,
    length_B=np.array([40], np.int32),
    query_start_B1=np.array([0, 40], np.int32),
    max_queries_per_row=40,
)


def vectors(heads):
    return np.random.default_rng(heads).normal(size=(40, heads, HEAD_DIM)).astype(np.float32)


@jax.jit
def run(pages):
    backend = NativeAttention()
    pages = backend.write(pages, vectors(KV_HEADS), vectors(KV_HEADS), INPUTS.slot_T)
    return backend.attend(vectors(HEADS), pages, INPUTS, scale=0.1), pages.at_rest()


@pytest.mark.parametrize("layer", range(LAYERS))
def test_a_layer_among_others_gives_what_it_gives_alone_and_leaves_them_as_they_are(layer):
    expected, _ = run(NativeAttention().make_pages(4, PAGE, KV_HEADS, HEAD_DIM, jnp.float32))
    pages = NativeAttention().make_pages(4, PAGE, KV_HEADS, HEAD_DIM, jnp.float32, num_layers=LAYERS)
    spoiled = jax.tree.map(lambda leaf: jnp.full_like(leaf, jnp.nan), pages)
    out, written = run(spoiled.at_layer(layer))
    np.testing.assert_array_equal(out, expected)
    for array in jax.tree.leaves(written):
        others = np.delete(array, layer, axis=1)
        assert np.isnan(others).all() and not np.isnan(array[[1, 3], layer]).any()


@pytest.mark.parametrize("layer", [-1, LAYERS])
def test_a_layer_that_is_not_there_is_refused(layer):
    pages = NativeAttention().make_pages(4, PAGE, KV_HEADS, HEAD_DIM, jnp.float32, num_layers=LAYERS)
    with pytest.raises(Exception, match="wants a layer that its pages have"):
        jax.block_until_ready(run(pages.at_layer(layer)))
