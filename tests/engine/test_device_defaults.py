"""One table says how large batches and pages are by default on a kind of device."""

from dataclasses import fields
from types import SimpleNamespace
from typing import Any

import jax.numpy as jnp
import pytest

from jaxserve.attention.tpu import TpuAttention
from jaxserve.cache.groups import make_groups
from jaxserve.cache.layer_cache import PagedKeysValues
from jaxserve.config import EngineConfig
from jaxserve.engine.device_defaults import DEFAULTS, MAX_PAGE_SIZE, choose_page_size, find_defaults
from jaxserve.engine.program_plan import choose_attention, resolve_page_size
from jaxserve.errors import BadConfig
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


V6E: Any = SimpleNamespace(
    spec=SimpleNamespace(max_position_embeddings=8192),
    placement=SimpleNamespace(platform="tpu", device_kind="TPU v6 lite", compute_capability=0.0),
    dtype=jnp.dtype("bfloat16"),
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
        ({"kv_cache_dtype": "fp8", "block_size": 32}, "tpu", 32),
        ({"attention_backend": "tpu"}, "tpu", 64),
    ],
)
def test_auto_takes_our_kernels_on_a_tpu_and_jaxs_for_pages_that_ours_do_not_hold(settings, backend, page_size):
    chosen, config = choose_attention(EngineConfig(**settings), V6E, GROUPS)
    assert (chosen.name, config.page_size) == (backend, page_size)


def test_pages_that_no_backend_holds_are_refused_for_the_reason_of_the_best_one():
    with pytest.raises(BadConfig, match=r"'mosaic' needs pages .* 128 or more in int8, and not 32"):
        choose_attention(EngineConfig(kv_cache_dtype="int8", block_size=32), V6E, GROUPS)


def test_the_help_of_the_settings_has_the_sizes_of_all_devices():
    helps = {field.name: field.metadata["help"] for field in fields(EngineConfig)}
    for _, _, defaults in DEFAULTS:
        assert f"{defaults.max_num_seqs} on " in helps["max_num_seqs"]
        assert f"{defaults.chunk_tokens} on " in helps["max_num_batched_tokens"]
        if defaults.page_bytes:
            assert f"{defaults.page_bytes >> 10} KiB" in helps["block_size"]
    assert f"up to {MAX_PAGE_SIZE}" in helps["block_size"]
