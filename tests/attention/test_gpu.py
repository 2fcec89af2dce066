"""What is particular to the GPU kernels: they lower for CUDA without a GPU, write in place, and know 8-bit pages."""

import contextlib
import dataclasses
import math
import re

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest

from jaxserve.attention import AttentionInputs, list_backends
from jaxserve.attention.gpu import GpuAttention, KernelConfig
from jaxserve.attention.gpu.pages import AttentionParams, choose_block_tokens, choose_config
from jaxserve.attention.gpu.prefill import choose_tile_rows
from jaxserve.errors import BadConfig
from tests.attention.cases import SMALL, Backend, Case, backend_of

pytestmark = pytest.mark.filterwarnings("ignore:The Pallas Triton backend is deprecated:DeprecationWarning")
KERNEL = "__gpu$xla.gpu.triton"
POOL = "tensor<999x16x2x"  # the planes of a pool as StableHLO writes them


def hopper():
    """Newer versions of JAX want to know which GPU they lower for."""
    if jax.__version_info__ < (0, 11):
        return contextlib.nullcontext()
    device = jax.sharding.AbstractDevice("NVIDIA H200", 132, "gpu")
    return jax.sharding.use_abstract_mesh(jax.sharding.AbstractMesh((1,), ("x",), abstract_device=device))


def lowered(
    columns, heads, head_dim, *, dtype=jnp.bfloat16, pages_dtype=None, sinks=False, width=64, backend=None, **how
):
    """StableHLO for CUDA of one layer's write and attention: two rows, two key heads, donated pages."""
    backend, kv_heads = backend or GpuAttention(interpret=False), 2
    pages = jax.eval_shape(lambda: backend.make_pages(999, 16, kv_heads, head_dim, pages_dtype or dtype))

    def shape(*sizes, dtype=dtype):
        return jax.ShapeDtypeStruct(sizes, dtype)

    def layer(query, key, value, pages, inputs, sinks):
        pages = backend.write(pages, key, value, inputs.slot_T)
        return backend.attend(query, pages, inputs, scale=0.1, sinks=sinks, **how), pages

    tokens = 2 * columns
    new = shape(tokens, kv_heads, head_dim)
    ints = [shape(*sizes, dtype=jnp.int32) for sizes in ((tokens,), (tokens,), (2, width), (2,), (3,))]
    inputs = AttentionInputs(*ints, max_queries_per_row=columns)
    step = jax.jit(layer, donate_argnames="pages")
    checks = [jax.export.DisabledSafetyCheck.custom_call(KERNEL)]
    with hopper():
        return jax.export.export(step, platforms=["cuda"], disabled_checks=checks)(
            shape(tokens, heads, head_dim), new, new, pages, inputs, shape(heads) if sinks else None
        ).mlir_module()


@pytest.mark.parametrize("head_dim", [64, 80, 96, 128, 192, 256, 512])
@pytest.mark.parametrize(("columns", "kernels"), [(1, 3), (256, 2)])
def test_the_kernels_lower_for_cuda_without_a_gpu(head_dim, columns, kernels):
    """write, split and combine; or write and tile."""
    text = lowered(columns, 8, head_dim, window=100, softcap=5.0, sinks=True)
    assert text.count(KERNEL) == kernels


@pytest.mark.parametrize("columns", [1, 64])
@pytest.mark.parametrize("pages_dtype", [jnp.float32, jnp.int8, jnp.float8_e4m3fn, jnp.float8_e5m2])
def test_other_page_dtypes_lower_too(columns, pages_dtype):
    dtype = jnp.float32 if pages_dtype == jnp.float32 else jnp.bfloat16
    assert KERNEL in lowered(columns, 32, 64, dtype=dtype, pages_dtype=pages_dtype)


def test_a_short_table_needs_no_second_kernel():
    assert lowered(1, 8, 64, width=16).count(KERNEL) == 2  # the write, and one split that is the whole


@pytest.mark.parametrize(("pages_dtype", "planes"), [(jnp.bfloat16, 2), (jnp.int8, 4)])
def test_a_step_makes_nothing_as_large_as_its_pages(pages_dtype, planes):
    """The write aliases every plane, donated planes come back as outputs, and no operation between has their size."""
    text = lowered(1, 8, 64, pages_dtype=pages_dtype)
    assert text.count("tf.aliasing_output") == planes
    assert text.count("output_operand_alias<") == planes + 1  # and the rows of one split, which are answered already
    makers = [line.split("=")[1].split()[0] for line in text.splitlines() if f"-> {POOL}" in line and " = " in line]
    assert set(makers) <= {"stablehlo.reshape", "call"}
    flat = re.compile(r"(-> |\()tensor<(15984|31968)x")  # 999 pages of 16 tokens, and of their two heads
    rows = [line for line in text.splitlines() if flat.search(line)]
    assert rows and all("stablehlo.reshape" in line or KERNEL in line for line in rows)


@pytest.mark.parametrize("columns", [1, 8])
def test_the_default_config_answers_the_same(columns):
    Case(default := Backend(GpuAttention()), [300, 71, 5], columns).check(default, scale=0.3)


@pytest.mark.parametrize("window", [None, 150])
def test_a_row_with_more_splits_than_programs_has_longer_ones(window):
    few = Backend(GpuAttention(config=dataclasses.replace(SMALL, row_programs=4)))
    Case(few, [300, 129, 5, 0]).check(few, scale=0.3, window=window)


@pytest.mark.parametrize(("width", "splits"), [(64, 4), (512, 32), (8192, 128)])
def test_a_table_for_long_rows_makes_a_limited_number_of_splits(width, splits):
    """Partial sums of two rows, two key heads and a group of four."""
    assert f"tensor<2x2x{splits}x4xf32>" in lowered(1, 8, 64, width=width)


def grids(text):
    """The programs of each kernel."""
    sizes = zip(*(map(int, re.findall(rf"grid_{axis} = (\d+)", text)) for axis in "xyz"), strict=True)
    return [math.prod(size) for size in sizes]


def test_the_programs_of_decode_do_not_grow_with_the_table():
    """write, splits and combine; two key heads and two rows with 4 or 128 splits each"""
    assert grids(lowered(1, 8, 64, width=64)) == [2, 2 * 2 * 4, 2 * 2]
    assert grids(lowered(1, 8, 64, width=8192)) == [2, 2 * 2 * 128, 2 * 2]
    few = GpuAttention(interpret=False, config=KernelConfig(decode_programs=64))
    assert grids(lowered(1, 8, 64, width=8192, backend=few)) == [2, 64, 2 * 2]


@pytest.mark.parametrize(("width", "splits"), [(64, 1), (512, 8), (8192, 66)])
def test_the_keys_of_few_tiles_are_split(width, splits):
    """Two rows of 32 queries are a tile of 128 lines each for both key heads; three tiles more for borders of rows."""
    assert grids(lowered(32, 8, 64, width=width))[1] == 2 * 5 * splits


@pytest.mark.parametrize("window", [None, 100])
def test_split_tiles_answer_as_whole_ones_do(window):
    case = Case(backend_of("gpu"), [300, 64, 40], columns=24)
    whole = Backend(GpuAttention(config=dataclasses.replace(SMALL, prefill_programs=1)))
    np.testing.assert_allclose(
        case.run(backend_of("gpu"), scale=0.3, window=window), case.run(whole, scale=0.3, window=window), atol=1e-6
    )


def test_neither_neighbours_nor_the_width_of_the_table_change_a_bit():
    backend = backend_of("gpu")
    case = Case(backend, [37, 300, 5], columns=1)
    pages = case.write(backend)
    together = backend.attend(case.query, pages, case.inputs(), scale=0.3)
    query, one = case.row_inputs(0, tokens=1)
    narrow = dataclasses.replace(one, page_table_BW=one.page_table_BW[:, :8])
    alone = backend.attend(query, pages, narrow, scale=0.3)
    assert np.array_equal(alone[0], together[0])


@pytest.mark.parametrize(
    ("is_decode", "expected"), [(True, [128, 64, 64, 32, 32, 32]), (False, [128, 128, 128, 32, 32, 32])]
)
def test_tiles_are_whole_and_of_one_size_in_bytes(is_decode, expected):
    config, head_dims = KernelConfig(), (64, 80, 128, 192, 256, 512)
    assert [choose_block_tokens(head_dim, 2, config, is_decode=is_decode) for head_dim in head_dims] == expected


@pytest.mark.parametrize("head_dim", [64, 96, 128, 192, 256, 320, 512])
@pytest.mark.parametrize(("kind", "kibibytes"), [("NVIDIA H200", 227), ("NVIDIA L4", 99)])
def test_a_prefill_tile_fits_into_shared_memory(kind, kibibytes, head_dim):
    """The queries, and keys and values for all stages but the two in which page numbers are loaded and blocks used."""
    config = choose_config(kind, 8.9)
    block_tokens = choose_block_tokens(head_dim, 2, config, is_decode=False)
    params = AttentionParams(2, 4, head_dim, 16, block_tokens, 1.0, None, None, False)
    tile_rows = choose_tile_rows(2048, 2, params, config)
    rows = tile_rows + 2 * (config.prefill_stages - 2) * block_tokens
    assert rows * params.lanes * 2 + 2048 <= kibibytes * 1024


def test_gpus_with_less_shared_memory_have_smaller_tiles():
    small = choose_config("NVIDIA L4", 8.9)
    assert small == choose_config("a GPU of tomorrow", 13.0)
    assert small == dataclasses.replace(choose_config("NVIDIA A100-SXM4-80GB", 8.0), has_fp8=True)
    keys = [choose_block_tokens(head_dim, 2, small, is_decode=False) for head_dim in (64, 128, 256, 512)]
    assert keys == [64, 32, 32, 16]
    assert small.prefill_block_bytes < choose_config("NVIDIA H200", 9.0).prefill_block_bytes
    assert list_backends("gpu", "gpu", device_kind="NVIDIA L4", compute_capability=8.9)[0].config == small
    assert choose_config("NVIDIA B200", 10.0) == choose_config("NVIDIA H100 80GB HBM3", 9.0) == KernelConfig()


@pytest.mark.parametrize("config", [KernelConfig(), choose_config("NVIDIA L4", 8.9)])
def test_a_prefill_block_of_8_bit_keys_has_as_many_as_one_of_16(config):
    """They are multiplied as numbers of 16 bits, in as many registers."""
    for head_dim in (64, 128, 256, 512):
        eight, sixteen = (choose_block_tokens(head_dim, itemsize, config, is_decode=False) for itemsize in (1, 2))
        assert eight == sixteen


@pytest.mark.parametrize(
    ("kind", "capability"),
    [("NVIDIA A100-SXM4-80GB", 8.0), ("NVIDIA A2", 8.6), ("Orin", 8.7), ("Tesla T4", 7.5), ("an unknown GPU", 0)],
)
@pytest.mark.parametrize("dtype", ["float8_e4m3fn", "float8_e5m2"])
def test_floats_of_8_bits_that_a_gpu_does_not_convert_are_refused(dtype, kind, capability):
    """LLVM would end the process."""
    backend = list_backends("gpu", "gpu", device_kind=kind, compute_capability=capability)[0]
    with pytest.raises(BadConfig, match=f"kv_cache_dtype {dtype} needs a GPU of compute capability 8.9 or later"):
        backend.make_pages(8, 16, 2, 64, dtype)
    assert jax.eval_shape(lambda: backend.make_pages(8, 16, 2, 64, "int8"))
    newer = list_backends("gpu", "gpu", device_kind=kind, compute_capability=8.9)[0]
    assert jax.eval_shape(lambda: newer.make_pages(8, 16, 2, 64, dtype))


def test_planes_that_pallas_would_misaddress_are_refused():
    backend = GpuAttention(interpret=True)
    most = backend.max_pages(16, 8, 128, jnp.int8)
    assert most == 2**17 and backend.max_pages(16, 8, 128, jnp.bfloat16) is None
    jax.eval_shape(lambda: backend.make_pages(most, 16, 8, 128, jnp.int8))
    with pytest.raises(BadConfig, match=f"{most + 1} pages.*--num-gpu-blocks-override {most}"):
        jax.eval_shape(lambda: backend.make_pages(most + 1, 16, 8, 128, jnp.int8))


def test_the_interpreter_is_chosen_where_no_gpu_is():
    assert list_backends("gpu", "cpu")[0].interpret and not list_backends("gpu", "gpu")[0].interpret


@pytest.mark.parametrize("columns", [1, 40])
def test_wide_heads_answer_the_same_with_the_default_config(columns):
    case = Case(default := Backend(GpuAttention()), [300, 71, 5], columns, head_dim=256)
    case.check(default, scale=0.06, window=100, softcap=5.0, atol=3e-6)
