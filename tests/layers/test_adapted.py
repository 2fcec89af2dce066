"""Kernels with adapters: each token has the change of its own slot, whatever is in the others."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxserve.layers.adapted import AdapterLayout, FactorStacks, set_slot
from jaxserve.layers.adapter import Adapter, LowRankFactors
from jaxserve.layers.linear import Linear, apply_linears
from jaxserve.layers.quant import abstract_packed
from jaxserve.models.decoder import ZeroRngs

WIDTH_IN, WIDTH_OUT, SLOTS, RANK, TOKENS = 24, 40, 3, 4, 11
PATH = ("layers", 0, "attention", "query", "kernel")
RNG = np.random.default_rng(0)
x_TI = RNG.normal(size=(TOKENS, WIDTH_IN)).astype(np.float32)
kernel_IO = RNG.normal(size=(WIDTH_IN, WIDTH_OUT)).astype(np.float32)


def make_layout(width_out=WIDTH_OUT, copies=(1, WIDTH_OUT)):
    stacks = FactorStacks(
        jax.ShapeDtypeStruct((WIDTH_IN, SLOTS * RANK), np.float32),
        jax.ShapeDtypeStruct((SLOTS * RANK, width_out), np.float32),
    )
    return AdapterLayout((PATH,), (stacks,), SLOTS, RANK, (copies,))


def make_adapter(rank=RANK, value=None):
    down, up = (RNG.normal(size=shape).astype(np.float32) for shape in ((WIDTH_IN, rank), (rank, WIDTH_OUT)))
    factors = LowRankFactors(down, up) if value is None else LowRankFactors(down * value, up)
    return Adapter("a", str(RNG.random()), rank, {PATH: factors})


def fill(layout, adapters):
    stacks = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), layout.stacks)
    for slot, adapter in adapters.items():
        stacks = jax.jit(partial(set_slot, layout.rank))(stacks, np.int32(slot), layout.fill_up(adapter))
    return stacks


def apply(layout, stacks, slot_T, kernel=kernel_IO):
    def run(x_TI, kernel, stacks, slot_T):
        linear = Linear(WIDTH_IN, WIDTH_OUT, bias=False, dtype=np.float32, rngs=ZeroRngs())
        [(_, adapted)] = layout.adapt({PATH: kernel}, stacks, slot_T)
        linear.kernel.set_value(adapted)
        return apply_linears(x_TI, linear)[0]

    return np.asarray(jax.jit(run)(x_TI, kernel, stacks, np.array(slot_T, np.int32)))


def test_each_token_has_the_change_of_its_slot():
    layout, adapters = make_layout(), {1: make_adapter(), 2: make_adapter(rank=2), 3: make_adapter()}
    slot_T = RNG.integers(0, SLOTS + 1, TOKENS)
    expected = x_TI @ kernel_IO
    for token, slot in enumerate(slot_T):
        if slot:
            down_IR, up_RO = adapters[slot].factors[PATH]
            expected[token] += x_TI[token] @ down_IR @ up_RO
    np.testing.assert_allclose(apply(layout, fill(layout, adapters), slot_T), expected, rtol=1e-4, atol=1e-4)


def test_a_token_without_an_adapter_has_the_bits_of_the_kernel_alone():
    layout = make_layout()
    stacks = fill(layout, {1: make_adapter(), 2: make_adapter(value=np.inf), 3: make_adapter()})
    plain = apply(layout, fill(layout, {}), [0] * TOKENS)
    slot_T = [0, 1, 2, 3, 0, 3, 2, 1, 0, 1, 0]
    mixed = apply(layout, stacks, slot_T)
    np.testing.assert_array_equal(mixed[np.array(slot_T) == 0], plain[np.array(slot_T) == 0])
    assert np.isfinite(mixed[np.isin(slot_T, (1, 3))]).all(), "numbers of other slots have no effect, whatever they are"


def test_a_slot_that_is_written_again_holds_nothing_of_before():
    layout, old, new = make_layout(), make_adapter(), make_adapter(rank=1)
    stacks = fill(layout, {2: old})
    again = jax.jit(partial(set_slot, RANK))(stacks, np.int32(2), layout.fill_up(new))
    jax.tree.map(np.testing.assert_array_equal, again, fill(layout, {2: new}))


def test_an_adapter_that_leaves_a_matrix_alone_changes_nothing():
    layout = make_layout()
    stacks = fill(layout, {1: Adapter("a", "k", 4, {})})
    np.testing.assert_array_equal(apply(layout, stacks, [1] * TOKENS), apply(layout, stacks, [0] * TOKENS))


def test_key_heads_that_several_ranks_have_are_repeated():
    head = WIDTH_OUT // 2
    layout, adapter = make_layout(4 * head, copies=(2, head)), make_adapter()
    [(_, up_RO)] = layout.fill_up(adapter)
    first, second = np.split(adapter.factors[PATH].up_RO, 2, axis=1)
    np.testing.assert_array_equal(up_RO, np.concatenate([first, first, second, second], axis=1))


@pytest.mark.parametrize("kind", ["int8", "int4"])
def test_the_change_is_added_to_the_product_of_a_packed_kernel(kind):
    layout, adapter = make_layout(), make_adapter()
    shape = abstract_packed(kind, WIDTH_IN, WIDTH_OUT, native=False)
    packed = jax.tree.map(lambda leaf: RNG.integers(0, 50, leaf.shape).astype(np.uint8), shape)
    stacks = fill(layout, {1: adapter})
    without, with_adapter = (apply(layout, stacks, [slot] * TOKENS, packed) for slot in (0, 1))
    down_IR, up_RO = adapter.factors[PATH]
    np.testing.assert_allclose(with_adapter - without, x_TI @ down_IR @ up_RO, rtol=1e-2, atol=1e-2)
