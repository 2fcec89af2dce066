"""One table says how large batches and pages are by default on a kind of device."""

from dataclasses import fields
from types import SimpleNamespace
from typing import Any

import jax.numpy as jnp
import pytest

from jaxserve.attention.tpu import TpuAttention
from jaxserve.cache.groups import make_groups
from jaxserve.cache.layer_cache import PagedKeysValues, PagedLatent
from jaxserve.cache.sizing import MemoryFacts
from jaxserve.config import GIB, EngineConfig
from jaxserve.engine.device_defaults import DEFAULTS, MAX_PAGE_SIZE, choose_page_size, find_defaults
from jaxserve.engine.limits import resolve_page_size
from jaxserve.engine.program_plan import choose_attention
from jaxserve.errors import BadConfig
from jaxserve.models.attention_spec import AttentionSpec
from jaxserve.parallel.gpus import GPUS
from jaxserve.parallel.targets import TARGETS


@pytest.mark.parametrize(
    ("platform", "kind", "rows", "chunk"),
    [
        ("cpu", "cpu", 32, 256),
        ("tpu", "TPU v5 lite", 128, 1024),
        ("tpu", "TPU v5", 128, 2048),
        ("tpu", "TPU v6 lite", 128, 2048),
        ("gpu", "NVIDIA H200 141GB HBM3e", 256, 2048),
        ("gpu", "NVIDIA A100-SXM4-80GB", 256, 1024),
        ("gpu", "NVIDIA L4", 64, 512),
        ("gpu", "NVIDIA L40S", 256, 2048),
        ("rocket", "Saturn V", 256, 2048),
    ],
)
def test_a_kind_of_device_has_its_own_sizes(platform, kind, rows, chunk):
    defaults = find_defaults(platform, kind)
    assert (defaults.max_num_seqs, defaults.chunk_tokens) == (rows, chunk)


@pytest.mark.parametrize("name", ["v5e-1", "v6e-1", "v5p-8", "l4x1", "a100x1", "h100x1", "h200x1", "b200x1"])
def test_a_reason_names_the_ridge_that_follows_from_the_rates_of_the_device(name):
    target = TARGETS[name]
    kinds = {"v5e-1": "TPU v5 lite", "v6e-1": "TPU v6 lite", "v5p-8": "TPU v5"}
    kind = kinds.get(name) or GPUS[name.removesuffix("x1")].device_kind
    assert f" {target.flops_per_s / target.bytes_per_s:.0f}" in find_defaults(target.platform, kind).reason


def test_every_line_has_a_reason_and_can_be_found():
    assert all(defaults.reason for _, _, defaults in DEFAULTS)
    assert [find_defaults(platform, kind) for platform, kind, _ in DEFAULTS] == [each for _, _, each in DEFAULTS]


@pytest.mark.parametrize(
    ("least", "bytes_per_token", "size"),
    [(32, 4096, 32), (32, 1024, 32), (32, 512, 64), (128, 4096, 128), (32, 1, MAX_PAGE_SIZE), (16, 0, MAX_PAGE_SIZE)],
)
def test_fewer_key_heads_have_more_tokens_in_a_page(least, bytes_per_token, size):
    assert choose_page_size(find_defaults("tpu", "TPU v5 lite"), least, bytes_per_token) == size
    assert choose_page_size(find_defaults("gpu", "NVIDIA H200"), least, bytes_per_token) == least


@pytest.mark.parametrize(("chunk", "size"), [(16, 32), (32, 32), (63, 32), (64, 64), (2048, 64)])
def test_no_page_is_larger_than_a_prompt_chunk_unless_attention_needs_it(chunk, size):
    assert choose_page_size(find_defaults("tpu", "TPU v6 lite"), 32, 1024, chunk) == size


MEMORY = MemoryFacts(platform="tpu", total_bytes=32 * GIB, free_bytes=16 * GIB)
V6E: Any = SimpleNamespace(
    spec=SimpleNamespace(max_position_embeddings=8192, layers=()),
    placement=SimpleNamespace(
        platform="tpu", device_kind="TPU v6 lite", compute_capability=0.0, size=1, memory=lambda *_: MEMORY
    ),
    dtype=jnp.dtype("bfloat16"),
    weight_bytes=0,
    task=None,
)
GROUPS = make_groups([PagedKeysValues(num_kv_heads=2, head_dim=128)])


def test_a_step_of_few_tokens_has_a_page_on_a_tpu():
    sizes = []
    for num_tokens in (None, 64, 32):
        config = EngineConfig(max_num_batched_tokens=num_tokens, max_num_seqs=8)
        sizes.append(resolve_page_size(config, V6E, TpuAttention(), GROUPS).block_size)
    assert sizes == [64, 64, 32]


@pytest.mark.parametrize(
    ("settings", "backend", "page_size"),
    [
        ({}, "mosaic", 64),
        ({"kv_cache_dtype": "int8"}, "mosaic", 128),
        ({"block_size": 8}, "tpu", 8),
        ({"attention_backend": "tpu"}, "tpu", 64),
    ],
)
def test_auto_takes_our_kernels_on_a_tpu_and_jaxs_for_pages_that_ours_do_not_hold(settings, backend, page_size):
    choice = choose_attention(EngineConfig(**settings), V6E, GROUPS)
    assert (choice.backend.name, choice.config.page_size) == (backend, page_size)
    is_first = settings.get("attention_backend", "mosaic") == backend
    assert not choice.passed_over if is_first else "16 or more in bfloat16, and not 8" in choice.passed_over


@pytest.mark.parametrize("page_type", ["int8", "fp8", "fp8_e5m2"])
def test_pages_of_8_bits_without_scales_are_not_what_auto_takes(page_type):
    with pytest.raises(BadConfig, match=r"'mosaic' needs pages .* 128 or more in .*, and not 32; try --block-size 128"):
        choose_attention(EngineConfig(kv_cache_dtype=page_type, block_size=32), V6E, GROUPS)
    choice = choose_attention(EngineConfig(kv_cache_dtype="fp8", attention_backend="tpu"), V6E, GROUPS)
    assert choice.backend.name == "tpu"


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"block_size": 8}, "'mosaic' needs pages .* and not 8; try --block-size 32"),
        ({"kv_cache_dtype": "float16"}, "'mosaic' does not store keys as float16; try --kv-cache-dtype bfloat16"),
        ({"kv_cache_dtype": "fp8", "block_size": 64}, "'mosaic' needs pages .* and not 64; try --block-size 128"),
        ({"attention_backend": "tpu"}, "'tpu' has no attention sinks"),
    ],
)
def test_sinks_are_part_of_what_a_backend_must_answer(settings, reason):
    with_sinks = AttentionSpec(num_heads=8, num_kv_heads=2, head_dim=128, scale=1.0, rope=None, has_sinks=True)
    spec = SimpleNamespace(max_position_embeddings=8192, layers=[SimpleNamespace(attention=with_sinks)])
    model: Any = SimpleNamespace(**vars(V6E) | {"spec": spec})
    assert choose_attention(EngineConfig(), model, GROUPS).backend.name == "mosaic"
    with pytest.raises(BadConfig, match=reason):
        choose_attention(EngineConfig(**settings), model, GROUPS)


LONG: Any = SimpleNamespace(**vars(V6E) | {"spec": SimpleNamespace(max_position_embeddings=163_840, layers=())})
LATENTS = make_groups([PagedLatent(latent_dim=512, rotary_dim=64)])


@pytest.mark.parametrize(
    ("settings", "backend"),
    [
        ({}, "mosaic"),
        ({"block_size": 128}, "mosaic"),
        ({"block_size": 32}, "tpu"),
        ({"block_size": 16}, "tpu"),
        ({"block_size": 32, "max_num_seqs": 8}, "mosaic"),
        ({"block_size": 32, "max_model_len": 40_960}, "mosaic"),
        ({"block_size": 32, "num_gpu_blocks_override": 1001}, "mosaic"),
    ],
)
def test_a_page_table_that_does_not_fit_is_left_to_a_backend_that_takes_it(settings, backend):
    choice = choose_attention(EngineConfig(**settings), LONG, LATENTS)
    assert choice.backend.name == backend
    assert ("128 rows x" in choice.passed_over) == (backend == "tpu")


def test_a_page_table_that_fits_no_backend_is_refused_before_anything_is_compiled():
    with pytest.raises(BadConfig, match="'mosaic': a page table of 128 rows x 5120 pages does not fit"):
        choose_attention(EngineConfig(block_size=32), LONG, GROUPS)


def test_layers_with_a_window_need_as_much_of_the_table_as_they_see():
    window = make_groups([PagedKeysValues(num_kv_heads=2, head_dim=128, window=4096)])
    choice = choose_attention(EngineConfig(block_size=32), LONG, window)
    assert choice.backend.name == "tpu"
    with pytest.raises(BadConfig, match="'tpu': a page table of 128 rows"):
        choose_attention(EngineConfig(block_size=32, attention_backend="tpu"), LONG, GROUPS)


def test_an_engine_that_pools_has_as_many_rows_as_prompt_chunks_in_a_call():
    pools: Any = SimpleNamespace(
        **vars(LONG) | {"task": SimpleNamespace(max_tokens=None, spec=SimpleNamespace(kind="last"))}
    )
    assert choose_attention(EngineConfig(block_size=32), pools, LATENTS).backend.name == "mosaic"


def test_the_help_of_the_settings_has_the_sizes_of_all_devices():
    helps = {field.name: field.metadata["help"] for field in fields(EngineConfig)}
    for _, _, defaults in DEFAULTS:
        assert f"{defaults.max_num_seqs} on " in helps["max_num_seqs"]
        assert f"{defaults.chunk_tokens} on " in helps["max_num_batched_tokens"]
        if defaults.page_bytes:
            assert f"{defaults.page_bytes >> 10} KiB" in helps["block_size"]
    assert f"up to {MAX_PAGE_SIZE}" in helps["block_size"]
