"""Latent vectors in our own TPU kernels: held to the contract in JAX's TPU interpreter, and lowered for a TPU."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxserve.attention import AttentionInputs
from jaxserve.attention.mosaic import MosaicAttention, MosaicConfig
from jaxserve.attention.mosaic.latent import MosaicLatentAttention
from jaxserve.errors import BadConfig
from tests.attention.cases import PAGE, fill_with_nan
from tests.attention.interpreter import STRICT, V5E, interpret
from tests.attention.test_latent import latent_case

# Blocks of two pages, and tiles of four queries of four heads: several of each in short rows.
SMALL = MosaicConfig(prefill_tokens=2 * PAGE, decode_tokens=2 * PAGE, decode_heads=3, tile_rows=16, part_tokens=(PAGE,))


class Interpreted:
    """The backend in the interpreter, for the cases of keys and values. Pages are written by numpy."""

    def __init__(self):
        self.latent = MosaicLatentAttention(interpret=STRICT, config=SMALL)

    def make_pages(self, num_pages, page_size, kv_heads, head_dim, dtype):
        return self.latent.make_pages(num_pages, page_size, head_dim - 4, 4, dtype)

    def write(self, pages, key_T1C, value_T1C, slot_T):
        return put(pages, key_T1C[:, 0], slot_T)

    def attend(self, query_TNC, pages, inputs, *, scale):
        out_TNR = interpret(lambda query, pages: self.latent.attend(query, pages, inputs, scale=scale))(
            jnp.asarray(query_TNC), pages
        )
        return jnp.pad(out_TNR, ((0, 0), (0, 0), (0, 4)))


def put(pages, latent_TC, slot_T):
    """What a write makes of the pages, by numpy."""
    plane_PXZL, real_T = np.array(pages.number_PXZL), slot_T >= pages.page_size
    page_T, offset_T = np.divmod(slot_T[real_T], pages.page_size)
    plane_PXZL[page_T, 0, offset_T] = 0
    plane_PXZL[page_T, 0, offset_T, : latent_TC.shape[1]] = latent_TC[real_T]
    return jax.tree.map(lambda _: jnp.asarray(plane_PXZL), pages)


@pytest.fixture
def mosaic():
    return Interpreted()


@pytest.mark.parametrize(
    ("lengths", "head_dim"), [([1, 16, 75, 0], 16), ([33, 120], 200), ([0, 0], 16)], ids=["borders", "wide", "padding"]
)
def test_decode_answers_as_every_backend_must(mosaic, lengths, head_dim):
    latent_case(mosaic, lengths, head_dim=head_dim).check(mosaic, scale=0.1, atol=3e-6)


@pytest.mark.parametrize(
    ("lengths", "counts", "head_dim"),
    [([70, 33, 90], [17, 5, 10], 16), ([0, 40, 100, 9], [0, 20, 0, 9], 200)],
    ids=["chunks of three prompts", "rows without queries"],
)
def test_prefill_answers_as_every_backend_must(mosaic, lengths, counts, head_dim):
    case = latent_case(mosaic, lengths, counts=counts, tokens=32, head_dim=head_dim)
    case.check(mosaic, scale=0.1, atol=3e-6)


@pytest.mark.parametrize("columns", [1, 8])
def test_deepseeks_size_in_bfloat16_loses_no_more_than_its_own_rounding(mosaic, columns):
    case = latent_case(mosaic, [50, 3], columns, head_dim=576, dtype=jnp.bfloat16)
    case.check(mosaic, scale=0.05, atol=0.02)


@pytest.mark.parametrize("columns", [1, 8])
def test_values_that_are_no_numbers_stay_with_their_row(mosaic, columns):
    """Later rows have fewer pages, and lie in the blocks that the first one's lay in."""
    case = latent_case(mosaic, [128, 5, 3], columns)
    case.keys[0][:] = np.nan
    out_TNC, others = case.run(mosaic, scale=0.1), slice(case.start[1], None)
    np.testing.assert_allclose(out_TNC[others], case.expect(scale=0.1)[others], atol=3e-6)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_a_write_puts_every_token_into_its_slot_and_leaves_the_others(dtype):
    latent = MosaicLatentAttention(interpret=STRICT)
    slot = np.concatenate([np.arange(3 * 32 - 6, 3 * 32 + 21), [5 * 32 + 7, 0, 0, 4 * 32 + 9, 0]]).astype(np.int32)
    new = np.random.default_rng(0).normal(size=(len(slot), 150)).astype(dtype)
    before = fill_with_nan(latent.make_pages(7, 32, 140, 10, dtype))
    after = interpret(latent.write)(before, new, slot)
    np.testing.assert_array_equal(
        np.asarray(after.number_PXZL, np.float32), np.asarray(put(before, new, slot).number_PXZL, np.float32)
    )


@pytest.mark.parametrize(("rows", "columns", "heads"), [(32, 1, 16), (8, 1, 128), (1, 1024, 16), (1, 512, 128)])
def test_it_lowers_for_a_tpu(rows, columns, heads):
    latent, queries = MosaicAttention().latent, rows * columns
    pages = jax.eval_shape(lambda: latent.make_pages(64, 32, 512, 64, jnp.bfloat16))
    shapes = ((queries,), (queries,), (rows, 32), (rows,), (rows + 1,))
    inputs = AttentionInputs(*(jax.ShapeDtypeStruct(s, jnp.int32) for s in shapes), max_queries_per_row=columns)

    def step(query, new, pages, inputs):
        pages = latent.write(pages, new, inputs.slot_T)
        return latent.attend(query, pages, inputs, scale=0.1), pages

    numbers = [jax.ShapeDtypeStruct((queries, *heads, 576), jnp.bfloat16) for heads in ((heads,), ())]
    with jax.sharding.use_abstract_mesh(jax.sharding.AbstractMesh((1,), ("x",), abstract_device=V5E)):
        exported = jax.export.export(jax.jit(step), platforms=["tpu"])(*numbers, pages, inputs)
    assert exported.mlir_module().count("tpu_custom_call") == 2
    assert exported.out_avals[0].shape == (queries, heads, 512)


def test_what_the_kernels_cannot_hold_is_refused_by_name():
    latent = MosaicAttention().latent
    with pytest.raises(BadConfig, match=r"float16; try --kv-cache-dtype bfloat16"):
        latent.make_pages(4, 32, 512, 64, jnp.float16)
    with pytest.raises(BadConfig, match="16 or more in bfloat16, and not 8; try --block-size 32"):
        latent.make_pages(4, 8, 512, 64, jnp.bfloat16)
    with pytest.raises(BadConfig, match=r"latent vectors.*int8.*try --kv-cache-dtype bfloat16"):
        latent.make_pages(4, 128, 512, 64, jnp.int8)


def test_a_token_is_filled_up_to_whole_lanes():
    pages = jax.eval_shape(lambda: MosaicAttention().latent.make_pages(9, 32, 512, 64, jnp.bfloat16))
    assert pages.number_PXZL.size == 9 * 32 * 640
    assert pages.value_lanes == 512
