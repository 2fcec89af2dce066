"""Programs compiled ahead of time: how they are made for a machine, and how a start finds out whether they fit it."""

import logging
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from jaxserve.config import GIB, EngineConfig
from jaxserve.engine.built_programs import BuiltFiles, describe_differences, open_built
from jaxserve.engine.compile import ProgressCallback, compile_all
from jaxserve.engine.opened_model import OpenedModel
from jaxserve.engine.program_environment import describe_environment
from jaxserve.engine.program_files import ProgramFiles
from jaxserve.engine.program_memory import abstract_state
from jaxserve.engine.program_plan import ProgramPlan, plan_engine
from jaxserve.engine.programs import ProgramStore, make_hash
from jaxserve.errors import OutOfMemory, StartupError
from jaxserve.parallel.placement import Placement
from jaxserve.parallel.sharding import STACKED

log = logging.getLogger(__name__)

PAGES = "pages"  # the key of the program that makes the pages
MEMORY_SHARE = "gpu_memory_utilization"  # which says how large the cache is if CACHE_FIELDS do not
CACHE_FIELDS = ("kv_cache_memory_bytes", "num_gpu_blocks_override")  # which say how large the cache is
# Settings by which programs are told apart in words; their numbers are those of the resolved configuration.
NAMED_SETTINGS = (
    *("tensor_parallel_size", "enable_expert_parallel", "quantization", "kv_cache_dtype", "max_model_len"),
    *("max_num_seqs", "max_num_batched_tokens", "block_size", "max_logprobs", "logprobs_mode", "batch_invariant"),
    "enable_return_routed_experts",
)


def has_cache_size(config: EngineConfig) -> bool:
    """Return whether the settings say how large the cache is."""
    return any(getattr(config, name) is not None for name in CACHE_FIELDS)


def fix_cache_size(config: EngineConfig, plan: ProgramPlan) -> EngineConfig:
    """Return the configuration with the plan's cache size, which else would depend on the memory of a machine."""
    return config if has_cache_size(config) else replace(config, kv_cache_memory_bytes=plan.size.total_bytes)


def compile_pages(plan: ProgramPlan, files: ProgramFiles | None) -> Callable[[], Any]:
    """Load or compile the program that makes the pages.

    jnp.zeros would compile a program for every shape; this is one program for all, saved with the others.
    """
    return compile_all({PAGES: _lower_pages(plan)}, _page_store(plan, files), None)[PAGES]


def _lower_pages(plan: ProgramPlan) -> Callable[[], Any]:
    return plan.table.placement.jit(plan.make_pages, (), STACKED).lower


def _page_store(plan: ProgramPlan, files: ProgramFiles | None) -> ProgramStore:
    backend = plan.table.model.backend
    facts = [backend.name, getattr(backend, "__dict__", {}), plan.shape_pages()]
    return ProgramStore(files, plan.table.placement, facts)


def build_all(
    plan: ProgramPlan, model: OpenedModel, files: ProgramFiles, progress: ProgressCallback | None = None
) -> int:
    """Compile all programs of a plan into files and return their number. Allocates nothing on the devices.

    Raises StartupError if a program cannot be written.
    """
    table, weights, state = plan.table, plan.table.model.weights.pack_shapes(model.shapes), _state(plan)
    store = ProgramStore(files, table.placement, table.fingerprint(weights, state))
    lowerings = table.make_lowerings(weights, state)
    compile_pages(plan, files)
    compile_all(lowerings, store, progress)
    missing = [key for key in lowerings if not store.has(key)]
    if missing or not _page_store(plan, files).has(PAGES):
        raise StartupError(
            f"{len(missing)} of {len(lowerings)} programs cannot be written, such as {(*missing, PAGES)[0]}; the log"
            " says why."
        )
    return len(lowerings) + 1


def fingerprint(plan: ProgramPlan, model: OpenedModel) -> str:
    """Return a hash of all that the programs of a plan depend on besides the machine and versions."""
    weights = plan.table.model.weights.pack_shapes(model.shapes)
    return make_hash(*plan.table.fingerprint(weights, _state(plan)), plan.table.list_keys())


def _state(plan: ProgramPlan) -> Any:
    return abstract_state(plan.table, plan.shape_pages())


def describe_settings(plan: ProgramPlan, model: OpenedModel) -> dict[str, str]:
    """Return in words what the programs of a plan depend on besides the machine and versions."""
    context, config = plan.table.model, plan.config
    adapters = context.adapters
    return {
        "model": f"{model.spec.architecture_name} ({make_hash(context.spec)[:12]})",
        "dtype": str(context.dtype),
        "attention_backend": context.backend.name,
        **{name: str(getattr(config, name)) for name in NAMED_SETTINGS},
        **_describe_memory_share(config, plan.table.placement),
        "adapters": "none" if adapters is None else f"{adapters.num_slots} of a rank up to {adapters.rank}",
        "pages of the cache": ", ".join(str(group.num_pages) for group in plan.size.groups),
        "states in host memory": ", ".join(map(str, plan.table.first_host_pages.values())) or "none",
    }


def _describe_memory_share(config: EngineConfig, placement: Placement) -> dict[str, str]:
    return {MEMORY_SHARE: str(config.gpu_memory_utilization)} if placement.has_own_memory else {}


def choose_plan(
    config: EngineConfig, model: OpenedModel, cache: ProgramFiles | None
) -> tuple[ProgramPlan, ProgramFiles | None]:
    """Plan an engine's programs, and choose where they are looked for: where they were built, if they fit.

    cache   The files of earlier starts.

    If built programs do not fit, a warning says what differs, and everything is as without them.

    Raises BadConfig if the settings name no built programs that could be read, or do not fit the model or the device,
    OutOfMemory if the device is too small.
    """
    if config.programs is None:
        return plan_engine(config, model, cache), cache
    built = open_built(config.programs, config.programs_sha256)
    plan = _plan_as_built(config, model, built)
    if isinstance(plan, ProgramPlan):
        return plan, built
    log.warning("programs=%r: what differs is listed, and programs are compiled as usual. %s", config.programs, plan)
    return plan_engine(config, model, cache), cache


def _plan_as_built(config: EngineConfig, model: OpenedModel, built: BuiltFiles) -> ProgramPlan | str:
    """Return the plan whose programs were built, or what differs."""
    manifest = built.manifest
    if differences := describe_differences(manifest.environment, describe_environment(model.placement)):
        return "; ".join(differences)
    if not has_cache_size(config):
        here = _describe_memory_share(config, model.placement)
        before = {name: value for name, value in manifest.settings.items() if name in here}
        if differences := describe_differences(before, here):
            return "; ".join(differences)
        config = replace(config, **manifest.cache)
        needed = config.kv_cache_memory_bytes or 0
        free = model.placement.memory(model.weight_bytes).free_bytes
        if needed > free:
            return f"cache: built for {needed / GIB:.2f} GiB, here {max(0, free) / GIB:.2f} GiB are free"
    try:
        plan = plan_engine(config, model, None)
    except OutOfMemory as error:
        return f"cache: {error}"
    if fingerprint(plan, model) == manifest.fingerprint:
        return plan
    return "; ".join(describe_differences(manifest.settings, describe_settings(plan, model))) or "the model's details"
