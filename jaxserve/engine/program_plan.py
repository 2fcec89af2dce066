"""The plan of an engine's programs: its attention backend, and the programs that fit the limits of its cache."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import jax

from jaxserve.attention import AttentionBackend, AttentionCalls, list_backends
from jaxserve.attention.page_types import has_scales
from jaxserve.cache.groups import CacheGroup, make_groups, num_pages_for
from jaxserve.cache.layer_cache import PagedLatent
from jaxserve.cache.pages import bytes_per_page, make_pages
from jaxserve.cache.sizing import CacheSize
from jaxserve.config import EngineConfig
from jaxserve.engine.limits import Limits, cache_types, find_limits, resolve_page_size
from jaxserve.engine.opened_model import OpenedModel
from jaxserve.engine.pooling_table import PoolingTable
from jaxserve.engine.program_files import ProgramFiles
from jaxserve.engine.program_memory import abstract_state, measure_scratch
from jaxserve.engine.program_table import MAX_CHUNKS_PER_CALL, ProgramTable
from jaxserve.engine.programs import ProgramStore
from jaxserve.engine.routed_experts import find_full_group
from jaxserve.engine.step import ModelContext
from jaxserve.engine.weight_layout import WeightLayout
from jaxserve.errors import BadConfig
from jaxserve.models.attention_spec import AttentionSpec
from jaxserve.models.partition import local_caches
from jaxserve.models.routing import RoutedLayers, find_routed_layers
from jaxserve.models.spec import DecoderSpec
from jaxserve.parallel.placement import Placement
from jaxserve.parallel.sharding import STACKED
from jaxserve.sampling.sampler import LogprobsConfig

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


def needs_scratch(config: EngineConfig, placement: Placement) -> bool:
    """Return whether the size of the cache depends on the scratch memory of a step."""
    has_size = config.kv_cache_memory_bytes is not None or config.num_gpu_blocks_override is not None
    return placement.has_own_memory and not has_size


def choose_attention(config: EngineConfig, model: OpenedModel, groups: Sequence[CacheGroup]) -> AttentionChoice:
    """Return the attention backend: under "auto" the best one that holds such pages and answers such calls.

    Raises BadConfig if there is none, with the reason of the best one.
    """
    placement, page_type = model.placement, cache_types(config, model).pages
    facts = placement.device_kind, placement.compute_capability
    backends = list_backends(config.attention_backend, placement.platform, model.dtype, *facts)
    refusals: list[BadConfig] = []
    # What the second one stores of 8 bits has no scales, which is not what kv_cache_dtype promises.
    for backend in backends[:1] if has_scales(page_type) else backends:
        try:
            resolved = resolve_page_size(config, model, backend, groups)
            for group in groups:
                bytes_per_page(backend, group, page_size=resolved.page_size, types=cache_types(config, model))
            _check_calls(find_limits(resolved, model, backend, groups, 0), model, backend, groups)
        except BadConfig as refusal:
            refusals.append(refusal)
        else:
            return AttentionChoice(backend, resolved, str(refusals[0]) if refusals else "")
    raise refusals[0]


def _check_calls(limits: Limits, model: OpenedModel, backend: AttentionBackend, groups: Sequence[CacheGroup]) -> None:
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
    limits = find_limits(config, model, backend, groups, scratch_bytes)
    config, size, adapters, placement = limits.config, limits.size, limits.adapters, model.placement
    assert config.max_num_seqs
    spec = model.spec.for_length(size.max_model_len)
    num_pages = [group.num_pages for group in size.groups]
    types = cache_types(config, model)
    make = partial(make_pages, backend, groups, num_pages=num_pages, page_size=config.page_size, types=types)
    jax.eval_shape(make)  # raises if the backend does not support these pages
    layout = WeightLayout.from_shapes(model.shapes)
    make_table: Any = ProgramTable
    if model.task is not None:
        lengths = {"max_step_tokens": config.max_num_batched_tokens, "max_length": size.max_model_len}
        make_table = partial(PoolingTable, task=model.task, **lengths)
    table = make_table(
        model=ModelContext(
            spec,
            model.dtype,
            layout,
            backend,
            config.page_size,
            groups,
            placement.ranks,
            adapters,
            _find_routed(config, spec, groups),
        ),
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


def _find_routed(config: EngineConfig, spec: DecoderSpec, groups: Sequence[CacheGroup]) -> RoutedLayers | None:
    """Return the layers whose choice of experts is returned; None: that of none is.

    Raises BadConfig if it cannot be.
    """
    if not config.enable_return_routed_experts:
        return None
    if config.num_scheduler_steps > 1:
        raise BadConfig(
            f"num_scheduler_steps={config.num_scheduler_steps} gives a row several tokens in one program, whose experts"
            " enable_return_routed_experts would not return; leave one of them out."
        )
    find_full_group(groups)
    return find_routed_layers(spec)


def num_top_logprobs(config: EngineConfig) -> int:
    """Return how many top log-probabilities the device computes; the host sorts if a request asks for more."""
    return DEFAULT_TOP_LOGPROBS if config.max_logprobs == -1 else max(1, config.max_logprobs)
