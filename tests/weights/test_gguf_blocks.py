"""Blocks of GGUF files as packed weights: the values are the gguf package's, and the kernel multiplies with them."""

from dataclasses import replace

import gguf
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxserve.layers import quant
from jaxserve.layers.block_forms import BLOCK_SIZE, FORMS, PackedKind
from jaxserve.native import library
from jaxserve.weights.gguf_blocks import BLOCK_TYPES
from tests.weights.block_rows import pack_rows, random_rows, read_rows

needs_compiler = pytest.mark.skipif(library.find_compiler() is None, reason="no C compiler here")
KINDS: tuple[PackedKind, ...] = tuple(BLOCK_TYPES)
WIDTH_IN = 512  # whole blocks of every kind
products, unpacked, columns = (jax.jit(f) for f in (quant.packed_matmul, quant.unpack, quant.embedding_rows))


def draw(*shape: int) -> np.ndarray:
    return np.random.default_rng(5).standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize("kind", KINDS)
def test_values_are_those_of_the_file(kind, monkeypatch):
    monkeypatch.setattr("jaxserve.weights.gguf_blocks.SLAB_VALUES", 8 * WIDTH_IN)
    rows = random_rows(kind, 37, WIDTH_IN)
    weight, expected_OI = pack_rows(kind, rows), read_rows(kind, rows)
    np.testing.assert_array_equal(np.asarray(unpacked(weight)).T, expected_OI)
    np.testing.assert_array_equal(quant.unpack_data(np.asarray(weight.data), kind)[:37], expected_OI)
    index_T = np.array([36, 0, 17, 17, 99])
    np.testing.assert_array_equal(columns(weight, jnp.asarray(index_T)), expected_OI[np.minimum(index_T, 36)])


@pytest.mark.parametrize("kind", KINDS)
def test_a_form_takes_little_more_than_its_blocks_in_the_file(kind):
    values, size = gguf.GGML_QUANT_SIZES[BLOCK_TYPES[kind]]
    assert FORMS[kind].inputs == values
    assert size <= FORMS[kind].output_bytes <= size + 20  # factors of less than 8 bits have 8
    assert pack_rows(kind, random_rows(kind, 32, WIDTH_IN)).data.nbytes == quant.bytes_per_weight(kind) * 32 * WIDTH_IN


@jax.jit
def all_products(x_TI: jax.Array, weights: list[quant.PackedWeight]) -> tuple[jax.Array, ...]:
    """The products of more weights than one call takes."""
    return quant.packed_matmul(x_TI, *weights[:6]) + quant.packed_matmul(x_TI, *weights[6:])


@needs_compiler
class TestKernel:
    def test_products_of_a_row_are_those_of_the_files_values_in_any_number_of_rows(self):
        """But for half a step of each activation, times the weight. A row's bits are its own."""
        rows: dict[PackedKind, np.ndarray] = {kind: random_rows(kind, 40 + i, WIDTH_IN) for i, kind in enumerate(KINDS)}
        weights = [pack_rows(kind, each, native=True) for kind, each in rows.items()]
        values = [read_rows(kind, each).T.astype(np.float64) for kind, each in rows.items()]
        x_TI = draw(33, WIDTH_IN)
        step_TI = np.repeat(np.abs(x_TI).reshape(33, -1, BLOCK_SIZE).max(-1) / 254, BLOCK_SIZE, axis=1)
        together = all_products(jnp.asarray(x_TI), weights)
        for y_TO, value_IO in zip(together, values, strict=True):
            bound_TO = (step_TI + 1e-5 * np.abs(x_TI)) @ np.abs(value_IO) + 1e-5
            assert (np.abs(y_TO - x_TI @ value_IO) <= bound_TO).all()
        for num_rows in range(1, 33):
            first = num_rows % 7
            some = all_products(jnp.asarray(x_TI[first : first + num_rows]), weights)
            for y_TO, whole_TO in zip(some, together, strict=True):
                np.testing.assert_array_equal(y_TO, whole_TO[first : first + num_rows])

    @pytest.mark.parametrize(("width_in", "width_out", "num_rows"), [(256, 1, 1), (512, 16, 3), (1024, 37, 18)])
    def test_the_kernel_is_the_plain_product_within_float32(self, width_in, width_out, num_rows):
        weights = [pack_rows(kind, random_rows(kind, width_out, width_in, seed=1), native=True) for kind in KINDS]
        x_TI = jnp.asarray(draw(num_rows, width_in))
        native = all_products(x_TI, weights)
        plain = all_products(x_TI, [replace(weight, native=False) for weight in weights])
        rounded = np.abs(np.asarray(quant.round_activations(x_TI)))
        minima = rounded.sum(-1, keepdims=True) * 2  # codes and minima are added apart
        for native_TO, plain_TO, weight in zip(native, plain, weights, strict=True):
            value_OI = quant.unpack_data(np.asarray(weight.data), weight.kind)[:width_out]
            assert (np.abs(native_TO - plain_TO) <= 2e-6 * (rounded @ np.abs(value_OI.T) + minima)).all()

    def test_weights_of_several_kinds_share_a_call(self):
        x_TI = jnp.asarray(draw(5, WIDTH_IN))
        for kinds in (KINDS[:6], KINDS[6:]):
            weights = [
                pack_rows(kind, random_rows(kind, 20 + i, WIDTH_IN), native=True) for i, kind in enumerate(kinds)
            ]
            for together, weight in zip(products(x_TI, *weights), weights, strict=True):
                np.testing.assert_array_equal(together, products(x_TI, weight)[0])

    def test_experts_of_several_kinds_are_multiplied(self):
        x_SI, count_E = jnp.asarray(draw(9, WIDTH_IN)), jnp.asarray([4, 0, 5], jnp.int32)
        kinds: tuple[PackedKind, ...] = ("q4_k", "q6_k")
        stacks = [
            [pack_rows(kind, random_rows(kind, 20, WIDTH_IN, seed=e), native=True) for e in range(3)] for kind in kinds
        ]
        stacked = [quant.PackedWeight(jnp.stack([w.data for w in s]), s[0].kind, WIDTH_IN, 20, True) for s in stacks]
        for y_SO, stack in zip(quant.packed_expert_matmul(x_SI, count_E, *stacked), stacks, strict=True):
            np.testing.assert_array_equal(y_SO[:4], products(x_SI[:4], stack[0])[0])
            np.testing.assert_array_equal(y_SO[4:], products(x_SI[4:], stack[2])[0])

    def test_a_weight_of_another_form_is_refused(self):
        weight = pack_rows("q4_k", random_rows("q4_k", 20, WIDTH_IN), native=True)
        with pytest.raises(Exception, match="does not fit"):
            products(jnp.zeros((1, WIDTH_IN)), quant.PackedWeight(weight.data, "q5_k", WIDTH_IN, 20, True))
