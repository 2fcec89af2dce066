"""JAX's TPU kernel behind our signature: lowered for a TPU that nobody has, and run through its plain double."""

import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxserve.attention import AttentionInputs, list_backends, tpu
from jaxserve.attention.tpu import TpuAttention
from jaxserve.errors import BadConfig
from tests.attention.cases import Case
from tests.attention.interpreter import V5E


@pytest.mark.parametrize(
    ("lengths", "columns", "heads", "kv_heads", "head_dim", "how"),
    [
        ([1, 16, 150, 0], 1, 4, 2, 64, {}),
        ([40, 0, 21], 3, 3, 1, 128, {"window": 7}),
        ([20], 16, 2, 2, 80, {"softcap": 5.0}),
        ([40, 0, 21], 3, 6, 3, 64, {"window": 7}),
    ],
    ids=["decode, a padding row", "chunks with a window", "a chunk with a soft cap", "two parts"],
)
def test_it_answers_as_every_backend_must(tpu_backend, lengths, columns, heads, kv_heads, head_dim, how):
    case = Case(tpu_backend, lengths, columns, heads=heads, kv_heads=kv_heads, head_dim=head_dim)
    case.check(tpu_backend, scale=0.1, atol=2e-5, **how)


@pytest.mark.parametrize(
    ("lengths", "counts"), [([0, 40, 30, 9], [0, 20, 0, 1]), ([30, 7], [0, 0])], ids=["a chunk and a token", "none"]
)
def test_rows_own_as_many_queries_as_they_like(tpu_backend, lengths, counts):
    Case(tpu_backend, lengths, counts=counts, tokens=32, head_dim=128).check(tpu_backend, scale=0.1, atol=2e-5)


@pytest.mark.parametrize(
    ("starts", "told"), [([0, 2, 2, 5, 5], (3, [0, 2, 2, 5, 5])), ([0, 0, 0, 0, 0], (1, [0, 1, 1, 1, 1]))]
)
def test_the_kernel_is_told_of_no_rows_behind_the_last_query(starts, told):
    """It would fetch their keys and not wait for them; without any row it would do the same."""
    ints = np.zeros(8, np.int32)
    inputs = AttentionInputs(ints, ints, np.zeros((4, 1), np.int32), ints[:4], np.array(starts, np.int32), 8)
    rows = tpu._make_kernel_rows(inputs)
    assert (int(rows.num_rows_1[0]), rows.query_start_B1.tolist()) == told
    assert rows.length_B.tolist() == [1, 1, 1, 1]


@pytest.mark.parametrize(
    ("rows", "columns", "heads", "kv_heads", "head_dim", "how"),
    [
        (8, 1, 32, 8, 128, {}),
        (128, 1, 32, 8, 64, {"window": 128}),
        (1, 512, 16, 8, 128, {"softcap": 30.0}),
        (1, 2048, 64, 4, 128, {}),
        (4, 16, 8, 1, 80, {"window": 64, "softcap": 30.0}),
        (32, 1, 9, 3, 64, {}),
        (32, 1, 16, 8, 256, {"softcap": 50.0}),
    ],
)
@pytest.mark.parametrize("page_type", [jnp.bfloat16, jnp.float8_e4m3fn])
def test_it_lowers_for_a_tpu(rows, columns, heads, kv_heads, head_dim, how, page_type):
    backend = TpuAttention()
    queries = rows * columns
    if page_type != jnp.bfloat16:
        kv_heads += kv_heads % 2  # a word of four has the keys and values of two heads
        heads += -heads % kv_heads
    pages = jax.eval_shape(lambda: backend.make_pages(64, 16, kv_heads, head_dim, page_type))
    inputs = AttentionInputs(
        *(jax.ShapeDtypeStruct(s, jnp.int32) for s in ((queries,), (queries,), (rows, 32), (rows,), (rows + 1,))),
        max_queries_per_row=columns,
    )

    def step(query, key, value, pages, inputs):
        pages = backend.write(pages, key, value, inputs.slot_T)
        return backend.attend(query, pages, inputs, scale=0.1, **how), pages

    shapes = [jax.ShapeDtypeStruct((queries, n, head_dim), jnp.bfloat16) for n in (heads, kv_heads, kv_heads)]
    with jax.sharding.use_abstract_mesh(jax.sharding.AbstractMesh((1,), ("x",), abstract_device=V5E)):
        exported = jax.export.export(jax.jit(step), platforms=["tpu"])(*shapes, pages, inputs)
    assert "tpu_custom_call" in exported.mlir_module()
    assert exported.out_avals[0].shape == (queries, heads, head_dim)


@pytest.mark.parametrize(
    ("lengths", "columns", "page_type", "how"),
    [
        ([1, 16, 150, 0], 1, jnp.float8_e4m3fn, {}),
        ([40, 0, 21], 3, jnp.float8_e5m2, {"window": 7}),
        ([20], 16, jnp.bfloat16, {"softcap": 5.0}),
    ],
)
def test_other_types_of_pages_answer_over_what_they_hold(tpu_backend, lengths, columns, page_type, how):
    case = Case(tpu_backend, lengths, columns, head_dim=64, pages_dtype=page_type, has_scales=False)
    case.check(tpu_backend, scale=0.1, atol=0.02 if page_type == jnp.bfloat16 else 2e-5, **how)


def test_an_8_bit_float_that_is_too_large_is_the_largest_there_is():
    pages = TpuAttention().make_pages(1, 16, 2, 128, jnp.float8_e4m3fn)
    slot, large = jnp.arange(2), jnp.full((2, 2, 128), 1e4)
    (part_PZXH,) = TpuAttention().write(pages, large, -large, slot).parts_PZXH
    assert np.asarray(part_PZXH[0, :2, :, 0], np.float32).tolist() == [[448, -448] * 2] * 2


def test_what_the_kernel_cannot_hold_is_refused_by_name():
    backend = TpuAttention()
    with pytest.raises(BadConfig, match="3 key heads of 256 lanes in float32; try --dtype bfloat16"):
        backend.make_pages(4, 16, 3, 192, jnp.float32)
    with pytest.raises(BadConfig, match="3 key heads of 128 lanes in float8_e4m3fn; try --kv-cache-dtype bfloat16"):
        backend.make_pages(4, 16, 3, 128, jnp.float8_e4m3fn)
    with pytest.raises(BadConfig, match="int8; try --kv-cache-dtype fp8"):
        backend.make_pages(4, 16, 4, 128, jnp.int8)
    pages = backend.make_pages(4, 16, 2, 64, jnp.bfloat16)
    wide = AttentionInputs(*(np.zeros(s, np.int32) for s in ((256,), (256,), (256, 2048), (256,), (257,))), 1)
    with pytest.raises(BadConfig, match=r"256 rows x 2048 pages.*--block-size"):
        backend.attend(jnp.zeros((256, 4, 64)), pages, wide, scale=0.1)
    with pytest.raises(BadConfig, match="sinks"):
        backend.attend(jnp.zeros((256, 4, 64)), pages, wide, scale=0.1, sinks=jnp.zeros(4))


def kernel_arguments(monkeypatch, rows, width, *, columns=1, heads=8, kv_heads=8, page=16):
    """Return the keywords that JAX's kernel is called with for heads of 128 in bfloat16."""
    backend, keywords, tokens = TpuAttention(), {}, rows * columns

    def kernel(query, *rest, **how):
        keywords.update(how)
        return query

    def attend(query, pages, inputs):
        return backend.attend(query, pages, inputs, scale=0.1)

    monkeypatch.setattr(tpu, "_import_kernel", lambda: kernel)
    pages = jax.eval_shape(lambda: backend.make_pages(64, page, kv_heads, 128, jnp.bfloat16))
    ints = (jax.ShapeDtypeStruct(s, jnp.int32) for s in ((tokens,), (tokens,), (rows, width), (rows,), (rows + 1,)))
    inputs = AttentionInputs(*ints, max_queries_per_row=columns)
    jax.eval_shape(attend, jax.ShapeDtypeStruct((tokens, heads, 128), jnp.bfloat16), pages, inputs)
    return keywords


@pytest.mark.parametrize(("rows", "width"), [(128, 1921), (3, 80_000), (9, 28_000)])
def test_a_page_table_is_refused_if_its_tiles_do_not_fit(monkeypatch, rows, width):
    """Each of them fails to compile with libtpu 0.0.42 for a v5e, though the first one's numbers would fit."""
    with pytest.raises(BadConfig, match=f"{rows} rows x {width} pages"):
        kernel_arguments(monkeypatch, rows, width)


@pytest.mark.parametrize(("rows", "width"), [(128, 1920), (1, 131_072), (128, 1280)])
def test_a_page_table_that_compiles_is_accepted(monkeypatch, rows, width):
    assert kernel_arguments(monkeypatch, rows, width)


@pytest.mark.parametrize(
    ("rows", "max_tokens", "page"), [(128, 8192, 32), (128, 40_960, 32), (128, 131_072, 128), (256, 131_072, 256)]
)
def test_pages_are_so_large_by_default_that_the_table_fits(monkeypatch, rows, max_tokens, page):
    assert TpuAttention().default_page_size(rows, max_tokens, jnp.bfloat16) == page
    assert kernel_arguments(monkeypatch, rows, max_tokens // page, page=page)


@pytest.mark.parametrize(
    ("heads", "kv_heads", "columns", "queries"),
    [(32, 8, 512, 32), (64, 8, 512, 32), (64, 4, 512, 16), (128, 8, 512, 16), (128, 8, 1, 8)],
)
def test_a_block_of_queries_fits_into_vector_memory(monkeypatch, heads, kv_heads, columns, queries):
    """Twice as many fail to compile with libtpu 0.0.42 for a v5e where there are fewer than 32."""
    keywords = kernel_arguments(
        monkeypatch, 8 if columns == 1 else 1, 512, columns=columns, heads=heads, kv_heads=kv_heads
    )
    assert keywords["num_queries_per_block"] == queries


@pytest.mark.parametrize(
    ("kv_heads", "head_dim", "parts"),
    [(8, 128, [8]), (24, 64, [24]), (3, 64, [2, 1]), (10, 128, [8, 2]), (7, 80, [4, 2, 1]), (2, 256, [1, 1])],
)
def test_key_heads_lie_in_as_few_parts_as_the_kernel_allows(kv_heads, head_dim, parts):
    """All others fail to compile, with JAX's message or libtpu 0.0.42's: heads above 128 lanes have no strides."""
    pages = jax.eval_shape(lambda: TpuAttention().make_pages(9, 16, kv_heads, head_dim, jnp.bfloat16))
    assert [part.shape[2] // 2 for part in pages.parts_PZXH] == parts


def test_it_is_for_tpus():
    assert list_backends("tpu", "tpu")[0].name == "tpu"
    with pytest.raises(BadConfig, match="needs a TPU, and this is a cpu"):
        list_backends("tpu", "cpu")


def test_nobody_else_pays_for_pallas():
    code = "import sys, jaxserve.attention; sys.exit('jax.experimental.pallas.ops.tpu' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
