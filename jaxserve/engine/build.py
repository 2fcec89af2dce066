"""Construction of an engine from its configuration: opening, planning, loading, compiling, describing."""

import math
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from jaxserve.attention.page_types import choose_page_type
from jaxserve.cache.groups import num_pages_for
from jaxserve.cache.manager import CacheManager
from jaxserve.cache.sizing import CacheSize
from jaxserve.config import DEFAULT_MODEL, DEFAULT_MODEL_GENERATION, EngineConfig
from jaxserve.engine.buckets import Buckets
from jaxserve.engine.compile import ProgressCallback, compile_counter, use_compilation_cache
from jaxserve.engine.description import describe, describe_programs
from jaxserve.engine.engine import Engine, RunnerProtocol
from jaxserve.engine.event_publisher import EventPublisher
from jaxserve.engine.executor import Executor
from jaxserve.engine.fault_injection import CacheManagerWithFaults, EngineWithFaults, RunnerWithFaults
from jaxserve.engine.heartbeat import Heartbeat
from jaxserve.engine.opened_model import OpenedModel, open_model
from jaxserve.engine.pooling_executor import PoolingExecutor
from jaxserve.engine.pooling_runner import PoolingRunner
from jaxserve.engine.pooling_table import PoolingTable
from jaxserve.engine.profiler import make_profiler
from jaxserve.engine.program_build import choose_plan, compile_pages
from jaxserve.engine.program_files import CacheFiles, ProgramFiles
from jaxserve.engine.program_plan import num_top_logprobs
from jaxserve.engine.program_table import ProgramTable
from jaxserve.engine.request import NO_TRACKERS, TrackerFactory
from jaxserve.engine.roofline import Roofline, get_peak_rates
from jaxserve.engine.routed_experts import RoutedExperts
from jaxserve.engine.runner import Runner
from jaxserve.engine.scheduler import Scheduler
from jaxserve.engine.stats import Stats
from jaxserve.faults import Faults
from jaxserve.layers.param_spec import ParamPath, ParamSpec
from jaxserve.layers.quant import PackedWeight
from jaxserve.memory import return_freed_memory
from jaxserve.models.pooling_spec import PoolingTask
from jaxserve.models.spec import DecoderSpec
from jaxserve.parallel.placement import Placement
from jaxserve.weights.load import load_params


@dataclass(frozen=True, slots=True)
class CheckedModel:
    """A model whose files, sizes and settings fit together, before weights are read and programs compiled.

    config              The configuration with all limits resolved to numbers.
    spec                The sizes of the architecture.
    path                The directory or file of the model.
    model_config        config.json with the overrides of hf_overrides.
    generation_config   generation_config.json, over the defaults of the default model.
    params              The weights and their origins in checkpoints.
    task                What it pools for; None: it generates.
    """

    config: EngineConfig
    spec: DecoderSpec
    path: Path
    model_config: dict[str, Any]
    generation_config: dict[str, Any]
    params: Mapping[ParamPath, ParamSpec]
    task: PoolingTask | None = None


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
    task                What the model pools for; None: it generates.
    roofline            The estimator of the cost of steps; None if the settings ask for none.
    publisher           The publisher of the prefix cache's events; None if the settings ask for none.
    placement           The devices; None: a runner without any, as in a simulation.
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
    task: PoolingTask | None = None
    roofline: Roofline | None = None
    publisher: EventPublisher | None = None
    placement: Placement | None = None

    def close(self) -> None:
        """Free the device memory, and end the publisher."""
        self.engine.close()
        if self.publisher is not None:
            self.publisher.close()


def build(
    config: EngineConfig,
    progress: ProgressCallback | None = None,
    on_path: Callable[[Path], None] | None = None,
    on_checked: Callable[[CheckedModel], TrackerFactory] | None = None,
    placement: Placement | None = None,
    publisher: EventPublisher | None = None,
) -> LoadedEngine:
    """Fetch and check a model, size the cache, load the weights, compile all programs and warm them up.

    config       The configuration.
    progress     Called with phase, done and total.
    on_path      Called with the model's path as soon as it is known.
    on_checked   Called when everything fits, before weights are read; returns what makes the objects that follow
                 outputs. What these two raise ends the start.
    placement    The devices; by default those of the first replica.
    publisher    Publishes the events of the prefix cache; None: there are none.

    Raises BadConfig if a setting does not fit the model or the device, and other StartupErrors if the model cannot be
    fetched or served, all before any large allocation.
    """
    model = open_model(config, placement, progress, on_path)
    directory = use_compilation_cache(config.compilation_cache_dir)
    plan, files = choose_plan(config, model, None if directory is None else CacheFiles(directory))
    config, size, spec = plan.config, plan.size, plan.table.model.spec
    default_generation = DEFAULT_MODEL_GENERATION if config.model == DEFAULT_MODEL else {}
    generation_config = default_generation | model.checkpoint.generation_config
    trackers = NO_TRACKERS
    if on_checked:
        trackers = on_checked(
            CheckedModel(config, spec, model.path, model.config, generation_config, model.leaves, model.task)
        )

    roofline = _roofline(config, model, spec)
    weights = plan.table.model.weights.pack_shapes(model.shapes)
    executor, runner = _make_runner(plan.table, weights, compile_pages(plan, files))
    num_programs, hits = _load(model, executor, files, progress)
    buckets = plan.table.buckets
    return LoadedEngine(
        engine=_engine(config, runner, size, plan.table, roofline, trackers, publisher),
        config=config,
        spec=spec,
        path=model.path,
        model_config=model.config,
        generation_config=generation_config,
        buckets=buckets,
        cache_size=size,
        description=describe(model, plan)
        | ({"limits": str(roofline.peak_rates)} if roofline else {})
        | {"programs": describe_programs(num_programs, hits, files)},
        task=model.task,
        roofline=roofline,
        publisher=publisher,
        placement=model.placement,
    )


def _make_runner(
    table: ProgramTable, weights: Sequence[Any], make_pages: Callable[[], Any]
) -> tuple[Executor | PoolingExecutor, RunnerProtocol]:
    if isinstance(table, PoolingTable):
        pooling = PoolingExecutor(table, weights, make_pages)
        return pooling, PoolingRunner(pooling)
    executor = Executor(table, weights, make_pages)
    return executor, Runner(executor)


def _load(
    model: OpenedModel,
    executor: Executor | PoolingExecutor,
    files: ProgramFiles | None,
    progress: ProgressCallback | None,
) -> tuple[int, int]:
    """Load the weights while all programs are compiled, which needs only shapes, and warm up.

    Returns the number of programs, and of those that came from the cache.
    """
    with ThreadPoolExecutor(1, "load") as threads:
        loading = threads.submit(load_params, model.checkpoint, model.leaves, model.shapes, progress=progress)
        hits_before = compile_counter.cache_hits
        num_programs = executor.compile(progress, files)
        weights = loading.result()
        executor.place_weights(executor.table.model.weights.pack(weights))
        hits = compile_counter.cache_hits - hits_before
    return_freed_memory()
    executor.warm_up()
    if progress:
        progress("warm-up", 1, 1)
    return num_programs, hits


def _roofline(config: EngineConfig, model: OpenedModel, spec: DecoderSpec) -> Roofline | None:
    if not config.roofline:
        return None
    form = model.weight_form
    peak_rates = get_peak_rates(model.placement.devices, model.dtype, form.quantization)
    cost, itemsize = model.architecture.cost(spec), model.dtype.itemsize
    page_type = choose_page_type(config.kv_cache_dtype, model.dtype)
    packs_head = form.kinds is None or any(path[-1] == "table" for path in form.kinds)
    return Roofline(
        cost,
        itemsize,
        peak_rates,
        form.quantization,
        packs_head=packs_head,
        bytes_per_weight=_bytes_per_weight(model) if form.quantization == "blocks" else None,
        page_type=page_type,
    )


def _bytes_per_weight(model: OpenedModel) -> float:
    """Return the mean over the weights of all packed matrices."""
    packed = [shape for shape in model.shapes.values() if isinstance(shape, PackedWeight)]
    num_bytes = sum(shape.data.size for shape in packed)
    return num_bytes / sum(math.prod(shape.data.shape[:-3]) * shape.width_in * shape.width_out for shape in packed)


def _engine(
    config: EngineConfig,
    runner: RunnerProtocol,
    size: CacheSize,
    table: ProgramTable,
    roofline: Roofline | None,
    trackers: TrackerFactory,
    publisher: EventPublisher | None,
) -> Engine:
    assert config.max_num_seqs and config.max_num_batched_tokens
    routed = table.model.routed
    options: dict[str, Any] = {"page_size": config.page_size, "has_prefix_cache": config.enable_prefix_caching}
    options["publish"] = None if publisher is None else publisher.publish
    faults = Faults.from_config(config)
    if faults is None:
        cache, make_engine = CacheManager(size.groups, **options), Engine
    else:
        cache, runner = CacheManagerWithFaults(size.groups, faults=faults, **options), RunnerWithFaults(runner, faults)
        make_engine = partial(EngineWithFaults, faults=faults)
    scheduler = Scheduler(
        cache,
        Stats(size.max_model_len),
        max_num_seqs=config.max_num_seqs,
        max_num_batched_tokens=config.max_num_batched_tokens,
        max_chunk_tokens=table.buckets.prefill[-1] if size.groups else config.max_num_batched_tokens,
        max_pages_per_row=num_pages_for(size.max_model_len, config.page_size),
        vocab_size=table.vocab_size,
        max_logprobs=num_top_logprobs(config),
        max_tokens_per_row=config.num_scheduler_steps,
        trackers=trackers,
        num_adapter_slots=config.max_loras if config.has_adapters else 0,
        splits_prompts=bool(size.groups),
        experts=None if routed is None else RoutedExperts(routed, size.groups, config.page_size),
    )
    return make_engine(
        scheduler,
        runner,
        overlap=config.overlap,
        roofline=roofline,
        profiler=make_profiler(config),
        heartbeat=Heartbeat(config.step_timeout_s),
    )
