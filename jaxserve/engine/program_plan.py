"""The plan of an engine's programs: limits, sizes of the cache, and the programs that fit both."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import jax
import psutil

from jaxserve.attention import AttentionBackend, AttentionCalls, list_backends
from jaxserve.attention.page_types import choose_page_type, has_scales
from jaxserve.cache.groups import CacheGroup, make_groups, num_pages_for
from jaxserve.cache.layer_cache import PagedLatent
from jaxserve.cache.pages import CacheTypes, bytes_per_page, make_pages, max_pages
from jaxserve.cache.sizing import LONGEST_THAT_FITS, CacheSize, GroupNeeds, choose_cache_size
from jaxserve.config import GIB, EngineConfig
from jaxserve.engine.buckets import Buckets, choose_buckets
from jaxserve.engine.device_defaults import DeviceDefaults, choose_page_size, find_defaults
from jaxserve.engine.opened_model import OpenedModel
from jaxserve.engine.pooling_table import PoolingTable
from jaxserve.engine.program_files import ProgramFiles
from jaxserve.engine.program_memory import abstract_state, measure_scratch
from jaxserve.engine.program_table import MAX_CHUNKS_PER_CALL, ProgramTable
from jaxserve.engine.programs import ProgramStore
from jaxserve.engine.step import ModelContext
from jaxserve.engine.weight_layout import WeightLayout
from jaxserve.errors import BadConfig
from jaxserve.layers.adapted import AdapterLayout
from jaxserve.models.attention_spec import AttentionSpec
from jaxserve.models.partition import local_caches, place_factors
from jaxserve.models.pooling_spec import PoolingTask
from jaxserve.parallel.placement import Placement
from jaxserve.parallel.sharding import STACKED
from jaxserve.sampling.sampler import LogprobsConfig

QUEUED_TEXTS = 8192  # that may be queued in an engine that pools: a request has up to 2,048
QUEUED_CHUNKS = 512  # that may wait for a model without a cache
UNUSED_PAGE_SIZE = 16  # of a model without a cache
DEFAULT_TOP_LOGPROBS = 20  # computed on the device if max_logprobs is -1 (any number)


@dataclass(frozen=True, slots=True)
class ProgramPlan:
    """The programs of an engine and the size of its cache, which fit together.

    config       The configuration with all limits resolved to numbers.
    size         The size of the cache.
    table        The programs.
    make_pages   Makes the pages of one device.
    passed_over  Why a better attention backend was not taken; empty if it was.
    """

    config: EngineConfig
    size: CacheSize
    table: ProgramTable
    make_pages: Callable[[], Any]
    passed_over: str = ""

    def shape_pages(self) -> Any:
        """Return the shapes of the pages of all devices, and how they lie on them. Allocates nothing."""
        placement = self.table.placement
        sharding = placement.sharding(STACKED)
        shapes = jax.eval_shape(placement.jit(self.make_pages, (), STACKED))
        return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding), shapes)


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
    layout: dict[str, Any] = {"page_size": config.page_size, "types": _cache_types(config, model)}
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


def _max_model_len(model: OpenedModel) -> int:
    """Return the longest sequence: that of the network, or what the model's files set below that."""
    limit, task = model.spec.max_position_embeddings, model.task
    return limit if task is None or task.max_tokens is None else min(limit, task.max_tokens)


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


def _cache_types(config: EngineConfig, model: OpenedModel) -> CacheTypes:
    return CacheTypes(choose_page_type(config.kv_cache_dtype, model.dtype), model.dtype)


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
    types = _cache_types(config, model)
    least = backend.default_page_size(_max_num_seqs(config, defaults), max_tokens, types.pages)
    layout: dict[str, Any] = {"page_size": least, "types": types}
    paged = [group for group in groups if not group.is_recurrent]
    page_bytes = [bytes_per_page(backend, group, **layout) // len(group.layers) for group in paged]
    bytes_per_token, most = min(page_bytes, default=0) // least, _chunk_tokens(config, defaults)
    return replace(config, block_size=choose_page_size(defaults, least, bytes_per_token, most))


@dataclass(frozen=True, slots=True)
class AttentionChoice:
    """An attention backend that serves a model.

    backend       The backend.
    config        The configuration with the tokens of a page.
    passed_over   Why a better one was not taken; empty if it was.
    """

    backend: AttentionBackend
    config: EngineConfig
    passed_over: str = ""


def choose_attention(config: EngineConfig, model: OpenedModel, groups: Sequence[CacheGroup]) -> AttentionChoice:
    """Return the attention backend: under "auto" the best one that holds such pages and answers such calls.

    Raises BadConfig if there is none, with the reason of the best one.
    """
    placement, page_type = model.placement, _cache_types(config, model).pages
    facts = placement.device_kind, placement.compute_capability
    backends = list_backends(config.attention_backend, placement.platform, model.dtype, *facts)
    refusals: list[BadConfig] = []
    # What the second one stores of 8 bits has no scales, which is not what kv_cache_dtype promises.
    for backend in backends[:1] if has_scales(page_type) else backends:
        try:
            resolved = resolve_page_size(config, model, backend, groups)
            for group in groups:
                bytes_per_page(backend, group, page_size=resolved.page_size, types=_cache_types(config, model))
            _check_calls(_find_limits(resolved, model, backend, groups, 0), model, backend, groups)
        except BadConfig as refusal:
            refusals.append(refusal)
        else:
            return AttentionChoice(backend, resolved, str(refusals[0]) if refusals else "")
    raise refusals[0]


def _check_calls(limits: "Limits", model: OpenedModel, backend: AttentionBackend, groups: Sequence[CacheGroup]) -> None:
    """Raise BadConfig if the backend does not answer the calls of a group's layers."""
    config, rows = limits.config, limits.buckets.decode[-1]
    if model.task is not None and not config.batch_invariant:
        rows = min(rows, MAX_CHUNKS_PER_CALL)  # there is no decode
    for group in groups:
        if group.is_recurrent:
            continue
        calls = AttentionCalls(
            rows=rows,
            width=num_pages_for(limits.size.max_model_len, config.page_size),
            page_size=config.page_size,
            window=group.window,
            has_sinks=_has_sinks(model),
        )
        (backend.latent if isinstance(group.cache, PagedLatent) else backend).check_calls(calls)


def _has_sinks(model: OpenedModel) -> bool:
    specs = (layer.attention for layer in model.spec.layers)
    return any(isinstance(attention, AttentionSpec) and attention.has_sinks for attention in specs)


def _find_defaults(model: OpenedModel) -> DeviceDefaults:
    return find_defaults(model.placement.platform, model.placement.device_kind)


def _max_num_seqs(config: EngineConfig, defaults: DeviceDefaults) -> int:
    return config.max_num_seqs or defaults.max_num_seqs


def _chunk_tokens(config: EngineConfig, defaults: DeviceDefaults) -> int:
    """Return the most prompt tokens of a step."""
    return config.max_num_batched_tokens or defaults.chunk_tokens


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


def _find_limits(
    config: EngineConfig,
    model: OpenedModel,
    backend: AttentionBackend,
    groups: Sequence[CacheGroup],
    scratch_bytes: int,
) -> Limits:
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


def plan_programs(
    config: EngineConfig,
    model: OpenedModel,
    backend: AttentionBackend,
    groups: tuple[CacheGroup, ...],
    scratch_bytes: int = 0,
) -> ProgramPlan:
    """Size the cache and name the programs that fit it.

    scratch_bytes   What a step needs on each device beside weights and pages.

    Raises BadConfig if a limit does not fit the model or the backend, OutOfMemory if the device is too small.
    """
    limits = _find_limits(config, model, backend, groups, scratch_bytes)
    config, size, adapters, placement = limits.config, limits.size, limits.adapters, model.placement
    assert config.max_num_seqs
    spec = model.spec.for_length(size.max_model_len)
    num_pages = [group.num_pages for group in size.groups]
    types = _cache_types(config, model)
    make = partial(make_pages, backend, groups, num_pages=num_pages, page_size=config.page_size, types=types)
    jax.eval_shape(make)  # raises if the backend does not support these pages
    layout = WeightLayout.from_shapes(model.shapes)
    make_table: Any = ProgramTable
    if model.task is not None:
        lengths = {"max_step_tokens": config.max_num_batched_tokens, "max_length": size.max_model_len}
        make_table = partial(PoolingTable, task=model.task, **lengths)
    table = make_table(
        model=ModelContext(spec, model.dtype, layout, backend, config.page_size, groups, placement.ranks, adapters),
        buckets=limits.buckets,
        max_pages_per_row=num_pages_for(size.max_model_len, config.page_size),
        vocab_size=spec.vocab_size,
        num_rows=config.max_num_seqs + 1,
        logprobs_config=LogprobsConfig(
            num_top_logprobs(config), config.logprobs_mode, 2 * config.max_num_seqs, config.max_logprobs == -1
        ),
        all_logprobs=config.max_logprobs == -1,
        batch_invariant=config.batch_invariant,
        placement=placement,
        first_host_pages={index: group.num_pages for index, group in enumerate(size.groups) if group.num_host_pages},
        max_tokens_per_row=config.num_scheduler_steps,
    )
    return ProgramPlan(config, size, table, make)


def _check_pooling(config: EngineConfig, task: PoolingTask, groups: Sequence[CacheGroup]) -> EngineConfig:
    """Return the configuration of an engine that pools: it keeps no snapshots of recurrent states.

    Raises BadConfig for what pooling cannot be combined with.
    """
    if config.has_adapters:
        raise BadConfig("enable_lora changes generation alone, and this model pools; leave it out.")
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


def needs_scratch(config: EngineConfig, placement: Placement) -> bool:
    """Return whether the size of the cache depends on the scratch memory of a step."""
    has_size = config.kv_cache_memory_bytes is not None or config.num_gpu_blocks_override is not None
    return placement.has_own_memory and not has_size


def plan_engine(config: EngineConfig, model: OpenedModel, files: ProgramFiles | None) -> ProgramPlan:
    """Choose the attention backend, size the cache and name the programs that fit it.

    files   Those of the program store; what programs need beside weights and pages may have to be measured.

    Raises BadConfig if a setting does not fit the model or the device, OutOfMemory if the device is too small.
    """
    config = replace(config, quantization=model.weight_form.quantization)
    groups = make_groups(local_caches(model.architecture.cache(model.spec), model.placement.size))
    choice = choose_attention(config, model, groups)
    plan = _plan(choice, model, groups)
    if not needs_scratch(config, model.placement):
        return plan
    table, weights = plan.table, plan.table.model.weights.pack_shapes(model.shapes)
    pages = plan.shape_pages()
    facts = table.fingerprint(weights, abstract_state(table, pages))
    scratch_bytes = measure_scratch(table, weights, pages, ProgramStore(files, table.placement, facts))
    return _plan(choice, model, groups, scratch_bytes)


def _plan(
    choice: AttentionChoice, model: OpenedModel, groups: tuple[CacheGroup, ...], scratch_bytes: int = 0
) -> ProgramPlan:
    plan = plan_programs(choice.config, model, choice.backend, groups, scratch_bytes)
    return replace(plan, passed_over=choice.passed_over)


def num_top_logprobs(config: EngineConfig) -> int:
    """Return how many top log-probabilities the device computes; the host sorts if a request asks for more."""
    return DEFAULT_TOP_LOGPROBS if config.max_logprobs == -1 else max(1, config.max_logprobs)
