"""Our own TPU kernels: held to the contract in JAX's TPU interpreter, which looks for races, for memory that is read
before it is written and for reads out of bounds; and lowered for a TPU that nobody has."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxserve.attention import AttentionInputs, list_backends
from jaxserve.attention.mosaic import MosaicAttention, MosaicConfig
from jaxserve.attention.mosaic.attend import make_params
from jaxserve.attention.mosaic.decode import GRID_ROWS
from jaxserve.attention.mosaic.pages import join_heads
from jaxserve.attention.mosaic.vector_memory import BUFFER_BYTES, decode_bytes, prefill_bytes
from jaxserve.attention.mosaic.write import fit_turn, write_bytes
from jaxserve.attention.page_types import quantize
from jaxserve.errors import BadConfig
from tests.attention import cases
from tests.attention.cases import PAGE, Case, fill_with_nan
from tests.attention.interpreter import STRICT, V5E, interpret

# Blocks of two and of four pages, two of them at a time, and tiles of 16 queries: several of each in short rows.
SMALL = MosaicConfig(prefill_tokens=4 * PAGE, decode_tokens=2 * PAGE, decode_heads=4, tile_rows=32, part_tokens=(32,))


class Interpreted(MosaicAttention):
    """The backend in the interpreter. Pages are written by numpy: the write has tests of its own."""

    def __init__(self):
        super().__init__(interpret=STRICT, config=SMALL)

    def write(self, pages, key_TKH, value_TKH, slot_T):
        return put(pages, key_TKH, value_TKH, slot_T)

    def attend(self, query_TNH, pages, inputs, **how):
        return interpret(lambda query, pages: super(Interpreted, self).attend(query, pages, inputs, **how))(
            jnp.asarray(query_TNH), pages
        )


def put(pages, key_TKH, value_TKH, slot_T):
    """What a write makes of the pages, by numpy."""
    size, real_T = pages.page_size, slot_T >= pages.page_size
    slot_T = slot_T[real_T]
    place = (slot_T // size, slice(None), slot_T % size)
    keys, values = (quantize(jnp.asarray(each[real_T]), pages.number_type) for each in (key_TKH, value_TKH))
    planes = [np.array(plane) for plane in pages.planes]
    planes[0][place] = np.asarray(join_heads(keys[0], values[0])).view(planes[0].dtype)
    if len(planes) > 1:
        planes[1][place] = np.concatenate([keys[1], values[1]], axis=1)
    return dataclasses.replace(
        pages, number_PXZL=jnp.asarray(planes[0]), scale_PYZ=jnp.asarray(planes[1]) if len(planes) > 1 else None
    )


@pytest.fixture
def mosaic():
    return Interpreted()


@pytest.mark.parametrize(
    ("lengths", "heads", "kv_heads", "head_dim", "how"),
    [
        ([1, 16, 75, 0], 2, 2, 128, {}),
        ([15, 64, 17, 120], 4, 2, 64, {"window": 40}),
        ([63, 33], 16, 1, 80, {"softcap": 5.0, "sinks": np.linspace(-3, 9, 16, dtype=np.float32)}),
        ([40], 16, 2, 256, {}),
        ([0, 0], 4, 4, 32, {}),
    ],
    ids=["page borders, a row of padding", "paired heads, a window", "a soft cap and sinks", "wide heads", "padding"],
)
def test_decode_answers_as_every_backend_must(mosaic, lengths, heads, kv_heads, head_dim, how):
    case = Case(mosaic, lengths, heads=heads, kv_heads=kv_heads, head_dim=head_dim)
    case.check(mosaic, scale=0.1, atol=3e-6, **how)


@pytest.mark.parametrize(
    ("lengths", "counts", "heads", "kv_heads", "head_dim", "how"),
    [
        ([70, 33, 90], [17, 5, 10], 2, 2, 128, {}),
        ([0, 40, 130, 9], [0, 20, 0, 9], 4, 2, 64, {"window": 30}),
        ([65, 90, 1, 64], [1, 28, 1, 1], 6, 2, 80, {"softcap": 5.0, "sinks": np.linspace(-3, 9, 6, dtype=np.float32)}),
        ([40, 0, 30], [0, 0, 0], 2, 1, 128, {}),
    ],
    ids=["chunks of three prompts", "rows without queries", "a chunk between single tokens", "padding alone"],
)
def test_prefill_answers_as_every_backend_must(mosaic, lengths, counts, heads, kv_heads, head_dim, how):
    case = Case(mosaic, lengths, counts=counts, tokens=32, heads=heads, kv_heads=kv_heads, head_dim=head_dim)
    case.check(mosaic, scale=0.1, atol=3e-6, **how)


@pytest.mark.parametrize("seed", range(3))
def test_any_rows_in_any_pages(mosaic, seed):
    rng = np.random.default_rng(seed)
    kv_heads, group = rng.choice([1, 2]), rng.choice([1, 2, 4, 8, 16])
    how = {"window": int(rng.integers(1, 60))} if rng.random() < 0.5 else {}
    lengths = rng.integers(0, 110, size=3).tolist()
    shape = {"heads": int(kv_heads * group), "kv_heads": int(kv_heads), "head_dim": int(rng.choice([40, 64, 128]))}
    Case(mosaic, sorted(lengths, reverse=True), seed=seed, **shape).check(mosaic, scale=0.1, atol=3e-6, **how)
    counts = [int(rng.integers(0, min(length, 9) + 1)) for length in lengths]
    case = Case(mosaic, lengths, counts=counts, tokens=32, seed=seed, **shape)
    case.check(mosaic, scale=0.1, atol=3e-6, **how)


@pytest.mark.parametrize("columns", [1, 8])
def test_bfloat16_loses_no_more_than_its_own_rounding(mosaic, columns):
    case = Case(mosaic, [100, 3], columns, head_dim=64, dtype=jnp.bfloat16)
    case.check(mosaic, scale=0.125, atol=0.02)


def test_nothing_is_read_from_pages_that_a_window_has_freed(mosaic):
    case = Case(mosaic, [100, 50], columns=2, head_dim=64)
    pages = case.write(mosaic)
    case.free_behind(window=20)
    out = mosaic.attend(case.query, pages, case.inputs(), scale=0.1, window=20)
    np.testing.assert_allclose(out, case.expect(scale=0.1, window=20), atol=3e-6)


@pytest.mark.parametrize("page_type", [jnp.int8, jnp.float8_e4m3fn, jnp.float8_e5m2])
@pytest.mark.parametrize("columns", [1, 8])
def test_pages_of_8_bits_answer_over_what_they_hold(mosaic, monkeypatch, page_type, columns):
    monkeypatch.setattr(cases, "PAGE", 128)
    case = Case(mosaic, [200, 3, 130], columns, heads=4, kv_heads=2, head_dim=64, pages_dtype=page_type)
    case.check(mosaic, scale=0.1, atol=2e-5)


@pytest.mark.parametrize(
    ("page", "lengths", "columns", "how"),
    [
        (16, [128, 5, 3], 1, {"head_dim": 128}),
        (16, [128, 5, 3], 8, {"head_dim": 64}),
        (128, [256, 60, 70], 1, {"head_dim": 64, "pages_dtype": jnp.int8}),
        (128, [384, 60, 70], 8, {"head_dim": 128, "pages_dtype": jnp.float8_e4m3fn}),
    ],
)
def test_values_that_are_no_numbers_stay_with_their_row(mosaic, monkeypatch, page, lengths, columns, how):
    """Later rows have fewer pages, and lie in the blocks that the first one's lay in."""
    monkeypatch.setattr(cases, "PAGE", page)
    case = Case(mosaic, lengths, columns, **how)
    case.values[0][:] = np.nan
    case.check(mosaic, scale=0.1, atol=2e-5)


@pytest.mark.parametrize(
    ("page_type", "page", "head_dim"), [(jnp.float32, 32, 128), (jnp.bfloat16, 32, 64), (jnp.float8_e4m3fn, 128, 64)]
)
def test_a_write_puts_every_token_into_its_slot_and_leaves_the_others(page_type, page, head_dim):
    """Runs over borders of tiles and pages, single tokens, and padding; more runs than there are tiles."""
    rng, backend = np.random.default_rng(0), MosaicAttention(interpret=STRICT)
    run, singles = np.arange(3 * page - 6, 3 * page + 21), rng.permutation(np.arange(4, 14)) * page + 7
    slot = np.concatenate([run, singles, [0, 0], np.arange(2 * page, 2 * page + 6), [0]]).astype(np.int32)
    dtype = jnp.bfloat16 if page_type == jnp.bfloat16 else jnp.float32
    key, value = (rng.normal(size=(len(slot), 2, head_dim)).astype(dtype) for _ in range(2))
    before = fill_with_nan(backend.make_pages(15, page, 2, head_dim, page_type))
    after = interpret(backend.write)(before, key, value, slot)
    for plane, expected in zip(after.planes, put(before, key, value, slot).planes, strict=True):
        np.testing.assert_array_equal(np.asarray(plane, np.float32), np.asarray(expected, np.float32))


@pytest.mark.parametrize(
    ("rows", "columns", "heads", "kv_heads", "head_dim", "how"),
    [
        (8, 1, 32, 8, 128, {}),
        (128, 1, 64, 8, 64, {"window": 128, "sinks": True}),
        (1, 512, 16, 8, 128, {"softcap": 30.0}),
        (1, 2048, 64, 4, 128, {}),
        (4, 16, 8, 1, 80, {"window": 64, "softcap": 30.0}),
        (32, 1, 9, 3, 64, {}),
        (32, 1, 16, 8, 256, {"softcap": 50.0}),
    ],
)
def test_it_lowers_for_a_tpu(rows, columns, heads, kv_heads, head_dim, how):
    backend, queries = MosaicAttention(), rows * columns
    pages = jax.eval_shape(lambda: backend.make_pages(64, 32, kv_heads, head_dim, jnp.bfloat16))
    shapes = ((queries,), (queries,), (rows, 32), (rows,), (rows + 1,))
    inputs = AttentionInputs(*(jax.ShapeDtypeStruct(s, jnp.int32) for s in shapes), max_queries_per_row=columns)
    sinks = jax.ShapeDtypeStruct((heads,), jnp.bfloat16) if how.get("sinks") else None

    def step(query, key, value, pages, inputs, sinks):
        pages = backend.write(pages, key, value, inputs.slot_T)
        return backend.attend(query, pages, inputs, scale=0.1, **(how | {"sinks": sinks})), pages

    numbers = [jax.ShapeDtypeStruct((queries, n, head_dim), jnp.bfloat16) for n in (heads, kv_heads, kv_heads)]
    with jax.sharding.use_abstract_mesh(jax.sharding.AbstractMesh((1,), ("x",), abstract_device=V5E)):
        exported = jax.export.export(jax.jit(step), platforms=["tpu"])(*numbers, pages, inputs, sinks)
    assert exported.mlir_module().count("tpu_custom_call") == 2
    assert exported.out_avals[0].shape == (queries, heads, head_dim)


def test_what_the_kernels_cannot_hold_is_refused_by_name():
    backend = MosaicAttention()
    with pytest.raises(BadConfig, match=r"float16; try --kv-cache-dtype bfloat16"):
        backend.make_pages(4, 32, 4, 128, jnp.float16)
    with pytest.raises(BadConfig, match=r"128 or more in int8, and not 32; try --block-size 128"):
        backend.make_pages(4, 32, 4, 128, jnp.int8)
    with pytest.raises(BadConfig, match=r"page of 512 tokens of 64 key heads takes 16.0 MiB, .* smaller --block-size"):
        backend.make_pages(4, 512, 64, 128, jnp.bfloat16)
    for size in (8, 48):
        with pytest.raises(BadConfig, match=f"16 or more in bfloat16, and not {size}; try --block-size 32"):
            backend.make_pages(4, size, 4, 128, jnp.bfloat16)
    pages = jax.eval_shape(lambda: backend.make_pages(4, 16, 2, 64, jnp.bfloat16))
    wide = AttentionInputs(*(np.zeros(s, np.int32) for s in ((256,), (256,), (256, 2048), (256,), (257,))), 1)
    with pytest.raises(BadConfig, match=r"256 rows x 2048 pages.*--block-size"):
        backend.attend(jnp.zeros((256, 4, 64)), pages, wide, scale=0.1)


@pytest.mark.parametrize("page_type", [jnp.float32, jnp.bfloat16, jnp.int8])
@pytest.mark.parametrize(
    ("kv_heads", "group", "head_dim"),
    [(1, 8, 64), (1, 4, 128), (8, 4, 128), (8, 16, 512), (16, 3, 256), (48, 1, 256), (64, 1, 128), (64, 8, 64)],
)
def test_all_heads_fit_into_vector_memory(page_type, kv_heads, group, head_dim):
    backend = MosaicAttention()
    page = backend.default_page_size(8, 4096, page_type)
    pages = jax.eval_shape(lambda: backend.make_pages(64, page, kv_heads, head_dim, page_type))
    query, chunk = shapes_of_a_prompt(kv_heads * group, head_dim)
    params = make_params(backend.config, query, pages, chunk, scale=1.0, has_sinks=True)
    assert prefill_bytes(params, query.dtype, pages.planes, has_sinks=True) <= BUFFER_BYTES
    assert params.tile_queries * group >= 16
    single = dataclasses.replace(chunk, max_queries_per_row=1)
    params = make_params(backend.config, query, pages, single, scale=1.0)
    assert decode_bytes(params, query.dtype, pages.planes, GRID_ROWS) <= BUFFER_BYTES
    assert write_bytes(fit_turn(2048, pages.planes), pages.planes) <= BUFFER_BYTES


def shapes_of_a_prompt(heads, head_dim):
    """Queries and inputs of one row, in a table of very many pages."""
    shapes = ((2048,), (2048,), (1, 2**15), (1,), (2,))
    inputs = AttentionInputs(*(jax.ShapeDtypeStruct(s, jnp.int32) for s in shapes), max_queries_per_row=2048)
    return jax.ShapeDtypeStruct((2048, heads, head_dim), jnp.bfloat16), inputs


@pytest.mark.parametrize(
    ("kv_heads", "group", "queries"), [(8, 4, 128), (8, 1, 512), (32, 1, 512), (64, 1, 256), (16, 8, 64)]
)
def test_a_tile_of_queries_is_halved_where_many_heads_need_it(kv_heads, group, queries):
    pages = jax.eval_shape(lambda: MosaicAttention().make_pages(64, 32, kv_heads, 128, jnp.bfloat16))
    query, inputs = shapes_of_a_prompt(kv_heads * group, 128)
    assert make_params(MosaicConfig(), query, pages, inputs, scale=1.0).tile_queries == queries


@pytest.mark.parametrize(
    ("kv_heads", "group", "head_dim", "tokens", "blocks", "joined"),
    [
        (8, 4, 128, 256, 4, 2),
        (8, 8, 64, 256, 8, 2),
        (1, 4, 128, 256, 8, 1),
        (8, 2, 256, 256, 2, 1),
        (1, 64, 128, 512, 2, 1),
    ],
)
def test_decode_computes_with_blocks_of_several_rows_that_fit(kv_heads, group, head_dim, tokens, blocks, joined):
    pages = jax.eval_shape(lambda: MosaicAttention().make_pages(64, 32, kv_heads, head_dim, jnp.bfloat16))
    query, inputs = shapes_of_a_prompt(kv_heads * group, head_dim)
    single = dataclasses.replace(inputs, max_queries_per_row=1)
    params = make_params(MosaicConfig(), query, pages, single, scale=1.0)
    assert (params.block_tokens, params.turn_blocks, params.joined_heads) == (tokens, blocks, joined)
    assert params.decode_sizes == (tokens // 2, tokens)


@pytest.mark.parametrize(("head_dim", "numbers"), [(64, 128), (40, 128), (80, 256), (128, 256), (192, 512)])
def test_small_heads_share_their_lanes_with_their_values(head_dim, numbers):
    pages = jax.eval_shape(lambda: MosaicAttention().make_pages(9, 32, 5, head_dim, jnp.bfloat16))
    assert pages.number_PXZL.size == 9 * 32 * 5 * numbers


@pytest.mark.parametrize(
    ("rows", "max_tokens", "page_type", "page"),
    [
        *[(128, 8192, jnp.bfloat16, 32), (128, 40_960, jnp.bfloat16, 32), (128, 131_072, jnp.bfloat16, 128)],
        *[(8, 4096, jnp.int8, 128), (8, 64, jnp.float8_e4m3fn, 128), (256, 131_072, jnp.int8, 256)],
    ],
)
def test_pages_are_so_large_by_default_that_the_table_fits(rows, max_tokens, page_type, page):
    backend = MosaicAttention()
    assert backend.default_page_size(rows, max_tokens, page_type) == page
    assert jax.eval_shape(lambda: backend.make_pages(4, page, 2, 64, page_type)).page_size == page


def test_it_is_for_tpus():
    assert list_backends("mosaic", "tpu")[0].name == "mosaic"
    with pytest.raises(BadConfig, match="'mosaic' needs a TPU, and this is a cpu"):
        list_backends("mosaic", "cpu")
