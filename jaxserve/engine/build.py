"""Construction of an engine from its configuration. No other module imports models, weights, cache and engine alike."""

import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxserve.attention import AttentionBackend, choose_backend
from jaxserve.cache.groups import CacheGroup, GroupSize, make_groups, num_pages_for
from jaxserve.cache.manager import CacheManager
from jaxserve.cache.pages import bytes_per_page, make_pages
from jaxserve.cache.sizing import CacheSize, GroupNeeds, choose_cache_size
from jaxserve.config import DEFAULT_MODEL, DEFAULT_MODEL_GENERATION, EngineConfig
from jaxserve.engine.buckets import Buckets, choose_buckets
from jaxserve.engine.compile import compile_all, compile_counter, use_compilation_cache
from jaxserve.engine.engine import Engine, RunnerProtocol
from jaxserve.engine.executor import Executor
from jaxserve.engine.fault_injection import CacheManagerWithFaults, RunnerWithFaults
from jaxserve.engine.heartbeat import Heartbeat
from jaxserve.engine.profiler import make_profiler
from jaxserve.engine.program_memory import abstract_state, measure_scratch
from jaxserve.engine.program_table import ProgramTable
from jaxserve.engine.programs import ProgramStore
from jaxserve.engine.request import NO_TRACKERS, TrackerFactory
from jaxserve.engine.roofline import Roofline, get_peak_rates
from jaxserve.engine.runner import Runner
from jaxserve.engine.scheduler import Scheduler
from jaxserve.engine.stats import Stats
from jaxserve.engine.step import ModelContext
from jaxserve.engine.weight_layout import WeightLayout
from jaxserve.errors import BadConfig
from jaxserve.faults import Faults
from jaxserve.layers.param_spec import ParamPath, ParamSpec
from jaxserve.layers.quant import PackedWeight
from jaxserve.memory import return_freed_memory
from jaxserve.model_files import blame_model_files
from jaxserve.models.architecture import Architecture
from jaxserve.models.partition import check_partition, local_caches, place_params
from jaxserve.models.registry import abstract_params, find_architecture
from jaxserve.models.spec import DecoderSpec
from jaxserve.native import library
from jaxserve.parallel.placement import Placement, choose_placements
from jaxserve.parallel.sharding import STACKED, shard_bytes
from jaxserve.sampling.sampler import LogprobsConfig
from jaxserve.weights.checkpoint import open_checkpoint
from jaxserve.weights.fetch import resolve_model
from jaxserve.weights.load import check_checkpoint, load_params
from jaxserve.weights.protocol import Checkpoint

ProgressCallback = Callable[[str, float, float], None]  # phase, done, total

# Defaults of the decode rows and of the chunk tokens of a step. A CPU computes a prompt token about as fast in a small
# chunk as in a large one, so its steps are short, for small gaps between tokens; an accelerator needs full steps.
DEFAULT_MAX_NUM_SEQS = {"cpu": 32, "gpu": 256, "tpu": 128}
DEFAULT_CHUNK_TOKENS = {"cpu": 256, "gpu": 2048, "tpu": 2048}
DEFAULT_TOP_LOGPROBS = 20  # computed on the device if max_logprobs is -1 (any number)


@dataclass(frozen=True, slots=True)
class CheckedModel:
    """A model whose files, sizes and settings fit together, before weights are read and programs compiled.

    config              The configuration with all limits resolved to numbers.
    spec                The sizes of the architecture.
    path                The directory or file of the model.
    model_config        config.json with the overrides of hf_overrides.
    generation_config   generation_config.json, over the defaults of the default model.
    """

    config: EngineConfig
    spec: DecoderSpec
    path: Path
    model_config: dict[str, Any]
    generation_config: dict[str, Any]


@dataclass(frozen=True, slots=True)
class LoadedEngine:
    """An engine that is ready to run, and facts about its model.

    engine              The engine.
    config              The configuration with all limits resolved to numbers.
    spec                The sizes of the architecture.
    path                The directory or file of the model.
    model_config        config.json with the overrides of hf_overrides.
    generation_config   generation_config.json, over the defaults of the default model.
    buckets             The compiled batch sizes.
    cache_size          The size of the key-value cache.
    description         Facts for the start-up table, in the order to print them.
    """

    engine: Engine
    config: EngineConfig
    spec: DecoderSpec
    path: Path
    model_config: dict[str, Any]
    generation_config: dict[str, Any]
    buckets: Buckets
    cache_size: CacheSize
    description: dict[str, str]


@dataclass(frozen=True, slots=True)
class _OpenedModel:
    """A model whose checkpoint, architecture and devices fit together.

    config        config.json with the overrides of hf_overrides.
    leaves        The weights and their origins in checkpoints.
    shapes        The shapes of the weights on the devices.
    """

    path: Path
    checkpoint: Checkpoint
    config: dict[str, Any]
    architecture: Architecture
    spec: DecoderSpec
    placement: Placement
    dtype: np.dtype
    leaves: dict[ParamPath, ParamSpec]
    shapes: dict[ParamPath, Any]

    @property
    def weight_bytes(self) -> int:
        """The bytes of the weights on one device."""
        return sum(shard_bytes(leaf) for leaf in jax.tree.leaves(self.shapes))


@dataclass(frozen=True, slots=True)
class _ProgramPlan:
    """The programs of an engine and the size of its cache, which fit together.

    config       The configuration with all limits resolved to numbers.
    make_pages   Make the pages of one device.
    """

    config: EngineConfig
    size: CacheSize
    table: ProgramTable
    make_pages: Callable[[], Any]


def build(
    config: EngineConfig,
    progress: ProgressCallback | None = None,
    on_path: Callable[[Path], None] | None = None,
    on_checked: Callable[[CheckedModel], TrackerFactory] | None = None,
    placement: Placement | None = None,
) -> LoadedEngine:
    """Fetch and check a model, size the cache, load the weights, compile all programs and warm them up.

    config       The configuration.
    progress     Called with phase, done and total.
    on_path      Called with the model's path as soon as it is known.
    on_checked   Called when everything fits, before weights are read; returns what makes the objects that follow
                 outputs. What these two raise ends the start.
    placement    The devices; by default those of the first replica.

    Raises BadConfig if a setting does not fit the model or the device, and other StartupErrors if the model cannot be
    fetched or served, all before any large allocation.
    """
    model = _open_model(config, placement, progress, on_path)
    backend = choose_backend(config.attention_backend, model.placement.platform, model.dtype)
    groups = make_groups(local_caches(model.architecture.cache(model.spec), model.placement.size))
    config = _resolve_page_size(config, model, backend)
    directory = use_compilation_cache(config.compilation_cache_dir)
    plan = _plan_programs(config, model, backend, groups)
    if _needs_scratch(config, model.placement):
        scratch_bytes = _measure_scratch(plan, model, directory)
        plan = _plan_programs(config, model, backend, groups, scratch_bytes)
    config, size, spec = plan.config, plan.size, plan.table.model.spec
    default_generation = DEFAULT_MODEL_GENERATION if config.model == DEFAULT_MODEL else {}
    generation_config = default_generation | model.checkpoint.generation_config
    trackers = NO_TRACKERS
    if on_checked:
        trackers = on_checked(CheckedModel(config, spec, model.path, model.config, generation_config))

    roofline = _roofline(config, model, spec)
    executor = _executor(plan, plan.table.model.weights.pack_shapes(model.shapes), directory)
    num_programs, hits = _load(model, executor, directory, progress)
    buckets = plan.table.buckets
    return LoadedEngine(
        engine=_engine(config, Runner(executor), size, buckets, spec.vocab_size, roofline, trackers),
        config=config,
        spec=spec,
        path=model.path,
        model_config=model.config,
        generation_config=generation_config,
        buckets=buckets,
        cache_size=size,
        description=_describe(config, model, backend, size, buckets)
        | ({"limits": str(roofline.peak_rates)} if roofline else {})
        | {"programs": _describe_programs(num_programs, hits, directory)},
    )


def _open_model(
    config: EngineConfig,
    placement: Placement | None,
    progress: ProgressCallback | None,
    on_path: Callable[[Path], None] | None,
) -> _OpenedModel:
    """Fetch a model, and check that it, its files and its devices fit together."""
    path = resolve_model(
        config.model,
        revision=config.revision,
        download_dir=_to_path(config.download_dir),
        token=config.hf_token,
        progress=progress,
    )
    if on_path:
        on_path(path)
    checkpoint = open_checkpoint(path)
    model_config = merge_overrides(checkpoint.config, config.hf_overrides or {})
    with blame_model_files("config.json"):
        architecture = find_architecture(model_config)
        spec = architecture.spec(model_config)
    placement = placement or choose_placements(config)[0]
    check_partition(spec, placement.ranks, config.quantization)
    dtype = _dtype(config, placement.platform)
    leaves = architecture.params(spec)
    _check_quantization(config, placement.platform, dtype)
    shapes = place_params(abstract_params(leaves, dtype, config.quantization), leaves, spec, placement)
    check_checkpoint(checkpoint, leaves, ignored=architecture.ignored_tensors(spec))
    return _OpenedModel(path, checkpoint, model_config, architecture, spec, placement, dtype, leaves, shapes)


def _load(
    model: _OpenedModel, executor: Executor, directory: Path | None, progress: ProgressCallback | None
) -> tuple[int, int]:
    """Load the weights while all programs are compiled, which needs only shapes, and warm up.

    Returns the number of programs, and of those that came from the cache.
    """
    with ThreadPoolExecutor(1, "load") as threads:
        loading = threads.submit(load_params, model.checkpoint, model.leaves, model.shapes, progress=progress)
        hits_before = compile_counter.cache_hits
        num_programs = executor.compile(progress, directory)
        weights = loading.result()
        executor.place_weights(executor.table.model.weights.pack(weights))
        hits = compile_counter.cache_hits - hits_before
    return_freed_memory()
    executor.warm_up()
    if progress:
        progress("warm-up", 1, 1)
    return num_programs, hits


def _roofline(config: EngineConfig, model: _OpenedModel, spec: DecoderSpec) -> Roofline | None:
    if not config.roofline:
        return None
    peak_rates = get_peak_rates(model.placement.devices, model.dtype, config.quantization)
    return Roofline(model.architecture.cost(spec), model.dtype.itemsize, peak_rates, config.quantization)


def merge_overrides(model_config: Mapping[str, Any], overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Return config.json with the overrides merged into it, level by level; None removes a key."""
    merged = dict(model_config)
    for key, value in overrides.items():
        current = merged.get(key)
        if value is None:
            merged.pop(key, None)
        elif isinstance(current, dict) and isinstance(value, dict):
            merged[key] = merge_overrides(current, value)
        else:
            merged[key] = value
    return merged


def _dtype(config: EngineConfig, platform: str) -> np.dtype:
    """Return the dtype: by default float32 on CPUs, else bfloat16.

    AVX2 has no bfloat16 products, so bfloat16 is up to ten times slower on CPUs.
    """
    name = config.dtype if config.dtype != "auto" else ("float32" if platform == "cpu" else "bfloat16")
    return np.dtype(jnp.dtype(name))


def _check_quantization(config: EngineConfig, platform: str, dtype: np.dtype) -> None:
    """Refuse packed weights where they would be slower than unpacked ones.

    Their products are computed in float32, and there are kernels for CPUs only.
    """
    if config.quantization == "none":
        return
    if platform != "cpu":
        raise BadConfig(
            f"quantization={config.quantization!r} has kernels for CPUs only and this is a {platform}; leave it out."
        )
    if dtype != np.float32:
        raise BadConfig(
            f"quantization={config.quantization!r} computes in float32, not {dtype}; try --dtype float32, or auto."
        )


def _cache_size(
    config: EngineConfig,
    model: _OpenedModel,
    backend: AttentionBackend,
    groups: Sequence[CacheGroup],
    scratch_bytes: int,
) -> CacheSize:
    limit, memory = model.spec.max_position_embeddings, model.placement.memory(model.weight_bytes, scratch_bytes)
    if config.max_model_len is not None and config.max_model_len > limit:
        raise BadConfig(
            f"max_model_len={config.max_model_len} is more than the model's own {limit} positions;"
            f" try --max-model-len {limit}, or leave it out."
        )
    return choose_cache_size(
        memory=memory,
        groups=[
            GroupNeeds(
                name=group.name,
                window=group.window,
                page_bytes=bytes_per_page(backend, group, page_size=config.page_size, dtype=model.dtype),
            )
            for group in groups
        ],
        page_size=config.page_size,
        model_max_len=limit,
        num_rows=_max_num_seqs(config, memory.platform),
        step_tokens=_chunk_tokens(config, memory.platform),
        max_model_len=config.max_model_len,
        gpu_memory_utilization=config.gpu_memory_utilization,
        kv_cache_memory_bytes=config.kv_cache_memory_bytes,
        num_gpu_blocks_override=config.num_gpu_blocks_override,
    )


def _resolve_page_size(config: EngineConfig, model: _OpenedModel, backend: AttentionBackend) -> EngineConfig:
    if config.block_size is not None:
        return config
    max_tokens = model.spec.max_position_embeddings
    if config.max_model_len is not None and config.max_model_len > 0:
        max_tokens = min(max_tokens, config.max_model_len)
    num_rows = _max_num_seqs(config, model.placement.platform)
    return replace(config, block_size=backend.default_page_size(num_rows, max_tokens))


def _max_num_seqs(config: EngineConfig, platform: str) -> int:
    return config.max_num_seqs or DEFAULT_MAX_NUM_SEQS.get(platform, 256)


def _chunk_tokens(config: EngineConfig, platform: str) -> int:
    """Return the most prompt tokens of a step."""
    return config.max_num_batched_tokens or DEFAULT_CHUNK_TOKENS.get(platform, 2048)


def _resolve_limits(config: EngineConfig, size: CacheSize, platform: str) -> tuple[EngineConfig, int]:
    """Return the configuration with numbers for all limits, and the tokens of the largest prompt chunk.

    By default a step has room for such a chunk beside a full decode batch: a prompt cut short by decode rows would
    leave a remainder of a few tokens, which costs a call of its own.
    """
    max_num_seqs, chunk = _max_num_seqs(config, platform), _chunk_tokens(config, platform)
    if chunk < config.page_size:
        raise BadConfig(f"max_num_batched_tokens={chunk} is less than a page of {config.page_size} tokens.")
    whole_pages = num_pages_for(size.max_model_len, config.page_size) * config.page_size
    chunk = min(chunk, max(whole_pages, config.page_size))
    resolved = replace(
        config,
        max_model_len=size.max_model_len,
        max_num_seqs=max_num_seqs,
        max_num_batched_tokens=chunk if config.max_num_batched_tokens else chunk + max_num_seqs,
        max_num_queued_reqs=config.max_num_queued_reqs or max(1024, 8 * max_num_seqs),
        max_num_queued_tokens=config.max_num_queued_tokens or 8 * (size.num_pages - 1) * config.page_size,
    )
    return resolved, chunk


def _buckets(config: EngineConfig, platform: str, chunk_tokens: int) -> Buckets:
    assert config.max_num_seqs
    return choose_buckets(
        max_num_seqs=config.max_num_seqs,
        max_chunk_tokens=chunk_tokens,
        platform=platform,
        page_size=config.page_size,
        batch_invariant=config.batch_invariant,
    )


def _plan_programs(
    config: EngineConfig,
    model: _OpenedModel,
    backend: AttentionBackend,
    groups: tuple[CacheGroup, ...],
    scratch_bytes: int = 0,
) -> _ProgramPlan:
    """Size the cache and name the programs that fit it."""
    placement = model.placement
    size = _cache_size(config, model, backend, groups, scratch_bytes)
    config, chunk_tokens = _resolve_limits(config, size, placement.platform)
    assert config.max_num_seqs
    spec = model.spec.for_length(size.max_model_len)
    num_pages = [group.num_pages for group in size.groups]
    make = partial(make_pages, backend, groups, num_pages=num_pages, page_size=config.page_size, dtype=model.dtype)
    jax.eval_shape(make)  # raises if the backend does not support these pages
    layout = WeightLayout.from_shapes(model.shapes)
    table = ProgramTable(
        model=ModelContext(spec, model.dtype, layout, backend, config.page_size, groups, placement.ranks),
        buckets=_buckets(config, placement.platform, chunk_tokens),
        max_pages_per_row=num_pages_for(size.max_model_len, config.page_size),
        vocab_size=spec.vocab_size,
        num_rows=config.max_num_seqs + 1,
        logprobs_config=LogprobsConfig(
            _num_top_logprobs(config), config.logprobs_mode, 2 * config.max_num_seqs, config.max_logprobs == -1
        ),
        all_logprobs=config.max_logprobs == -1,
        batch_invariant=config.batch_invariant,
        placement=placement,
    )
    return _ProgramPlan(config, size, table, make)


def _needs_scratch(config: EngineConfig, placement: Placement) -> bool:
    """Return whether the size of the cache depends on the scratch memory of a step."""
    has_size = config.kv_cache_memory_bytes is not None or config.num_gpu_blocks_override is not None
    return placement.has_own_memory and not has_size


def _measure_scratch(plan: _ProgramPlan, model: _OpenedModel, directory: Path | None) -> int:
    """Return the scratch memory of a step on each device. Compiles the largest programs at the first start."""
    table, weights = plan.table, plan.table.model.weights.pack_shapes(model.shapes)
    pages = jax.eval_shape(table.placement.jit(plan.make_pages, (), STACKED))
    facts = table.fingerprint(weights, abstract_state(table, pages))
    return measure_scratch(table, weights, pages, ProgramStore(directory, table.placement, facts))


def _executor(
    plan: _ProgramPlan, weights: Sequence[jax.ShapeDtypeStruct | PackedWeight], directory: Path | None
) -> Executor:
    # jnp.zeros would compile a program for every shape; this is one program for all, saved with the others.
    placement = plan.table.placement
    facts = [plan.table.model.backend.name, jax.tree.flatten(jax.eval_shape(plan.make_pages))]
    store = ProgramStore(directory, placement, facts)
    make_pages = compile_all({"pages": placement.jit(plan.make_pages, (), STACKED).lower}, store, None)["pages"]
    return Executor(plan.table, weights, make_pages)


def _num_top_logprobs(config: EngineConfig) -> int:
    """Return how many top log-probabilities the device computes; the host sorts if a request asks for more."""
    return DEFAULT_TOP_LOGPROBS if config.max_logprobs == -1 else max(1, config.max_logprobs)


def _engine(
    config: EngineConfig,
    runner: RunnerProtocol,
    size: CacheSize,
    buckets: Buckets,
    vocab_size: int,
    roofline: Roofline | None,
    trackers: TrackerFactory,
) -> Engine:
    assert config.max_num_seqs and config.max_num_batched_tokens
    options: dict[str, Any] = {"page_size": config.page_size, "has_prefix_cache": config.enable_prefix_caching}
    faults = Faults.from_config(config)
    if faults is None:
        cache = CacheManager(size.groups, **options)
    else:
        cache, runner = CacheManagerWithFaults(size.groups, faults=faults, **options), RunnerWithFaults(runner, faults)
    scheduler = Scheduler(
        cache,
        Stats(size.max_model_len),
        max_num_seqs=config.max_num_seqs,
        max_num_batched_tokens=config.max_num_batched_tokens,
        max_chunk_tokens=buckets.prefill[-1],
        max_pages_per_row=num_pages_for(size.max_model_len, config.page_size),
        vocab_size=vocab_size,
        max_logprobs=_num_top_logprobs(config),
        trackers=trackers,
    )
    return Engine(
        scheduler,
        runner,
        overlap=config.overlap,
        roofline=roofline,
        profiler=make_profiler(config),
        heartbeat=Heartbeat(config.step_timeout_s),
    )


def _describe(
    config: EngineConfig, model: _OpenedModel, backend: AttentionBackend, size: CacheSize, buckets: Buckets
) -> dict[str, str]:
    spec = model.spec
    return {
        "model": config.model,
        "file": model.path.name,
        "architecture": f"{spec.architecture_name}, {spec.num_layers} layers, "
        f"{spec.vocab_size} tokens in the vocabulary",
        "device": model.placement.describe(),
        "dtype": str(model.dtype),
        "attention": backend.name,
        "weights": f"{model.weight_bytes / 2**20:.0f} MiB, {_describe_quantization(config)}",
        **_describe_cache(size, config.page_size),
        "longest request": f"{size.max_model_len} tokens",
        "shapes": f"decode rows {_join(buckets.decode)}; prompt chunks {_join(buckets.prefill)}",
    }


def _describe_cache(size: CacheSize, page_size: int) -> dict[str, str]:
    """Return the size of the cache, and how it is divided if there are several groups of layers."""

    def describe(group: GroupSize) -> str:
        num_pages = group.num_pages - 1
        return f"{group.total_bytes / 2**20:.0f} MiB, {num_pages} pages, {num_pages * page_size} tokens"

    if len(size.groups) == 1:
        return {"key-value cache": f"{describe(size.groups[0])} ({size.reason})"}
    lines = {"key-value cache": f"{size.total_bytes / 2**20:.0f} MiB ({size.reason})"}
    return lines | {f"cache, {group.name}": describe(group) for group in size.groups}


def _describe_quantization(config: EngineConfig) -> str:
    if config.quantization == "none":
        return "not packed"
    products = "native products" if library.is_usable() else "unpacked in every step, for want of a C compiler"
    return f"{config.quantization}{', tables int8' if config.quantization == 'int4' else ''}, {products}"


def _describe_programs(num: int, hits: int, directory: Path | None) -> str:
    return f"{num} compiled, {hits} of them from the cache" + (
        f" in {_abbreviate_home(directory)}" if directory else ""
    )


def _join(numbers: tuple[int, ...]) -> str:
    return ", ".join(map(str, numbers))


def _abbreviate_home(directory: Path) -> str:
    """Return a path with ~ for the home directory, so that a log does not hold the user's name."""
    home = Path(os.path.expanduser("~"))  # Path.home() raises an error where the user has no home
    return f"~/{directory.relative_to(home)}" if directory.is_relative_to(home) else str(directory)


def _to_path(text: str | None) -> Path | None:
    return Path(text) if text else None
