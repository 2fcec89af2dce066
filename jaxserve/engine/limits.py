"""The limits of an engine that fit model and device: sizes of the cache, of its pages, of batches, and of the queue."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import psutil

from jaxserve.attention import AttentionBackend
from jaxserve.attention.page_types import choose_page_type
from jaxserve.cache.groups import CacheGroup, num_pages_for
from jaxserve.cache.pages import CacheTypes, bytes_per_page, max_pages
from jaxserve.cache.sizing import LONGEST_THAT_FITS, CacheSize, GroupNeeds, choose_cache_size
from jaxserve.config import GIB, EngineConfig
from jaxserve.engine.buckets import Buckets, choose_buckets
from jaxserve.engine.device_defaults import DeviceDefaults, choose_page_size, find_defaults
from jaxserve.engine.opened_model import OpenedModel
from jaxserve.errors import BadConfig
from jaxserve.layers.adapted import AdapterLayout
from jaxserve.models.partition import place_factors
from jaxserve.models.pooling_spec import PoolingTask

QUEUED_TEXTS = 8192  # that may be queued in an engine that pools: a request has up to 2,048
QUEUED_CHUNKS = 512  # that may wait for a model without a cache
UNUSED_PAGE_SIZE = 16  # of a model without a cache


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits that fit the cache.

    config     The configuration with all limits resolved to numbers.
    size       The size of the cache.
    buckets    The sizes of batches that are compiled.
    adapters   The arrays of adapters; None: there are none.
    """

    config: EngineConfig
    size: CacheSize
    buckets: Buckets
    adapters: AdapterLayout | None


def find_limits(
    config: EngineConfig,
    model: OpenedModel,
    backend: AttentionBackend,
    groups: Sequence[CacheGroup],
    scratch_bytes: int,
) -> Limits:
    """Return numbers for all limits, and the size of the cache that is left for them.

    scratch_bytes   What a step needs on each device beside weights and pages.

    Raises BadConfig if a setting does not fit the model, OutOfMemory if the device is too small.
    """
    if config.batch_invariant and any(group.is_recurrent for group in groups):
        raise BadConfig(
            "batch_invariant=True computes each token of a prompt in a row of its own, which layers with a recurrent"
            " state cannot; leave it out."
        )
    if model.task is not None:
        config = _check_pooling(config, model.task, groups)
    adapters = _adapter_layout(config, model)
    adapter_bytes = 0 if adapters is None else adapters.num_bytes
    size = _cache_size(config, model, backend, groups, adapter_bytes, scratch_bytes)
    config, chunk_tokens = _resolve_limits(config, size, _find_defaults(model))
    return Limits(config, size, _buckets(config, model.placement.platform, chunk_tokens), adapters)


def resolve_page_size(
    config: EngineConfig, model: OpenedModel, backend: AttentionBackend, groups: Sequence[CacheGroup]
) -> EngineConfig:
    """Return the configuration with the tokens of a page: where none are given, those that suit device and heads."""
    if config.block_size is not None:
        return config
    if not groups:
        return replace(config, block_size=UNUSED_PAGE_SIZE)
    max_tokens = model.spec.max_position_embeddings
    if config.max_model_len is not None and config.max_model_len > 0:
        max_tokens = min(max_tokens, config.max_model_len)
    defaults = _find_defaults(model)
    types = cache_types(config, model)
    least = backend.default_page_size(_max_num_seqs(config, defaults), max_tokens, types.pages)
    layout: dict[str, Any] = {"page_size": least, "types": types}
    paged = [group for group in groups if not group.is_recurrent]
    page_bytes = [bytes_per_page(backend, group, **layout) // len(group.layers) for group in paged]
    bytes_per_token, most = min(page_bytes, default=0) // least, _chunk_tokens(config, defaults)
    return replace(config, block_size=choose_page_size(defaults, least, bytes_per_token, most))


def _cache_size(
    config: EngineConfig,
    model: OpenedModel,
    backend: AttentionBackend,
    groups: Sequence[CacheGroup],
    adapter_bytes: int,
    scratch_bytes: int,
) -> CacheSize:
    limit, defaults = _max_model_len(model), _find_defaults(model)
    memory = model.placement.memory(model.weight_bytes + adapter_bytes, scratch_bytes)
    if config.max_model_len is not None and config.max_model_len > limit:
        raise BadConfig(
            f"max_model_len={config.max_model_len} is more than the model's own {limit} positions;"
            f" try --max-model-len {limit}, or leave it out."
        )
    if not groups:
        length = limit if config.max_model_len in (None, LONGEST_THAT_FITS) else config.max_model_len
        return CacheSize(groups=(), max_model_len=length, reason="an encoder keeps nothing")
    layout: dict[str, Any] = {"page_size": config.page_size, "types": cache_types(config, model)}
    return choose_cache_size(
        memory=memory,
        groups=[
            GroupNeeds(
                name=group.name,
                window=group.window,
                page_bytes=bytes_per_page(backend, group, **layout),
                is_recurrent=group.is_recurrent,
                max_pages=max_pages(backend, group, **layout),
                is_latent=group.is_latent,
            )
            for group in groups
        ],
        page_size=config.page_size,
        model_max_len=limit,
        num_rows=_max_num_seqs(config, defaults),
        step_tokens=max(_chunk_tokens(config, defaults), config.num_scheduler_steps),
        max_model_len=config.max_model_len,
        gpu_memory_utilization=config.gpu_memory_utilization,
        kv_cache_memory_bytes=config.kv_cache_memory_bytes,
        num_gpu_blocks_override=config.num_gpu_blocks_override,
        has_prefix_cache=config.enable_prefix_caching,
        host_bytes=_host_bytes(config, groups) // model.placement.size,
    )


def _host_bytes(config: EngineConfig, groups: Sequence[CacheGroup]) -> int:
    """Return the host memory for snapshots of recurrent states. Raises BadConfig if it has no use, or is not there."""
    num_bytes = int(config.kv_offloading_size * GIB)
    if not num_bytes:
        return 0
    if not (config.enable_prefix_caching and any(group.is_recurrent for group in groups)):
        what = "layers with a recurrent state" if config.enable_prefix_caching else "a prefix cache"
        raise BadConfig(
            f"kv_offloading_size={config.kv_offloading_size:g} is for snapshots of recurrent states, and this model is"
            f" served without {what}; leave it out."
        )
    available = psutil.virtual_memory().available
    if num_bytes > available:
        raise BadConfig(
            f"kv_offloading_size={config.kv_offloading_size:g} GiB is more than the {available / GIB:.1f} GiB of RAM"
            " that are available."
        )
    return num_bytes


def _resolve_limits(config: EngineConfig, size: CacheSize, defaults: DeviceDefaults) -> tuple[EngineConfig, int]:
    """Return the configuration with numbers for all limits, and the tokens of the largest prompt chunk.

    By default a step has room for such a chunk beside a full decode batch: a prompt cut short by decode rows would
    leave a remainder of a few tokens, which costs a call of its own.
    """
    max_num_seqs, chunk = _max_num_seqs(config, defaults), _chunk_tokens(config, defaults)
    if chunk < config.page_size:
        raise BadConfig(f"max_num_batched_tokens={chunk} is less than a page of {config.page_size} tokens.")
    whole_pages = num_pages_for(size.max_model_len, config.page_size) * config.page_size
    chunk = min(chunk, max(whole_pages, config.page_size)) if size.groups else max(chunk, size.max_model_len)
    resolved = replace(
        config,
        max_model_len=size.max_model_len,
        max_num_seqs=max_num_seqs,
        max_num_batched_tokens=chunk if config.max_num_batched_tokens else chunk + max_num_seqs,
        max_num_queued_reqs=config.max_num_queued_reqs or max(1024, 8 * max_num_seqs),
        max_num_queued_tokens=config.max_num_queued_tokens or _queued_tokens(config, size, chunk),
    )
    return resolved, chunk


def _queued_tokens(config: EngineConfig, size: CacheSize, chunk: int) -> int:
    """Return how many prompt tokens may wait by default: eight caches, or as many chunks as take about as long."""
    return 8 * (size.num_pages - 1) * config.page_size if size.groups else QUEUED_CHUNKS * chunk


def _buckets(config: EngineConfig, platform: str, chunk_tokens: int) -> Buckets:
    assert config.max_num_seqs
    return choose_buckets(
        max_num_seqs=config.max_num_seqs,
        max_chunk_tokens=chunk_tokens,
        platform=platform,
        page_size=config.page_size,
        batch_invariant=config.batch_invariant,
    )


def _check_pooling(config: EngineConfig, task: PoolingTask, groups: Sequence[CacheGroup]) -> EngineConfig:
    """Return the configuration of an engine that pools: it keeps no snapshots of recurrent states.

    Raises BadConfig for what pooling cannot be combined with.
    """
    if config.has_adapters:
        raise BadConfig("enable_lora changes generation alone, and this model pools; leave it out.")
    if config.enable_return_routed_experts:
        raise BadConfig("enable_return_routed_experts is for generation, and this model pools; leave it out.")
    if config.num_scheduler_steps > 1:
        raise BadConfig(
            f"num_scheduler_steps={config.num_scheduler_steps} is for generation, and this model pools; leave it out."
        )
    if config.batch_invariant and groups and task.spec.kind in ("mean", "cls"):
        raise BadConfig(
            f"batch_invariant=True computes each token in a row of its own, and pooling {task.spec.kind} of a decoder"
            " needs rows of whole chunks; leave it out."
        )
    config = replace(config, max_num_queued_reqs=config.max_num_queued_reqs or QUEUED_TEXTS)
    if any(group.is_recurrent for group in groups):
        return replace(config, enable_prefix_caching=False, kv_offloading_size=0.0)
    return config


def _adapter_layout(config: EngineConfig, model: OpenedModel) -> AdapterLayout | None:
    if not config.has_adapters:
        return None
    sizes = {"num_slots": config.max_loras, "rank": config.max_lora_rank}
    return place_factors(model.leaves, model.spec, model.placement, **sizes, dtype=model.dtype)


def cache_types(config: EngineConfig, model: OpenedModel) -> CacheTypes:
    """Return the types of what the cache holds."""
    return CacheTypes(choose_page_type(config.kv_cache_dtype, model.dtype), model.dtype)


def _max_model_len(model: OpenedModel) -> int:
    """Return the longest sequence: that of the network, or what the model's files set below that."""
    limit, task = model.spec.max_position_embeddings, model.task
    return limit if task is None or task.max_tokens is None else min(limit, task.max_tokens)


def _find_defaults(model: OpenedModel) -> DeviceDefaults:
    return find_defaults(model.placement.platform, model.placement.device_kind)


def _max_num_seqs(config: EngineConfig, defaults: DeviceDefaults) -> int:
    return config.max_num_seqs or defaults.max_num_seqs


def _chunk_tokens(config: EngineConfig, defaults: DeviceDefaults) -> int:
    """Return the most prompt tokens of a step."""
    return config.max_num_batched_tokens or defaults.chunk_tokens
