"""The facts about a loaded engine that the start-up table shows."""

import os
from pathlib import Path

from jaxserve.attention.page_types import choose_page_type
from jaxserve.cache.groups import GroupSize
from jaxserve.cache.sizing import CacheSize
from jaxserve.config import EngineConfig
from jaxserve.engine.built_programs import BuiltFiles
from jaxserve.engine.opened_model import OpenedModel
from jaxserve.engine.pooling_table import PoolingTable, list_keys_by_length
from jaxserve.engine.program_files import CacheFiles, ProgramFiles
from jaxserve.engine.program_plan import ProgramPlan
from jaxserve.engine.program_table import ProgramTable
from jaxserve.engine.weight_form import describe_weight_form
from jaxserve.layers.adapted import AdapterLayout
from jaxserve.models.pooling_spec import PoolingTask
from jaxserve.weights.quantized import describe_packing


def describe(model: OpenedModel, plan: ProgramPlan) -> dict[str, str]:
    """Return what is known of an engine before its programs are compiled, in the order to print it."""
    config, size, table, spec = plan.config, plan.size, plan.table, model.spec
    return {
        "model": config.model,
        "file": model.path.name,
        "architecture": f"{spec.architecture_name}, {spec.num_layers} layers, "
        f"{spec.vocab_size} tokens in the vocabulary",
        "device": model.placement.describe(),
        "dtype": str(model.dtype),
        "attention": describe_attention(plan),
        "weights": f"{model.weight_bytes / 2**20:.0f} MiB, {describe_weight_form(model.weight_form)}",
        **describe_packing(model.checkpoint),
        **_describe_adapters(table.model.adapters),
        **_describe_task(model.task),
        **(_describe_cache(size, config.page_size) if size.groups else {}),
        **_describe_page_type(config, model),
        "longest request": _describe_longest(size, spec.max_position_embeddings),
        "shapes": _describe_shapes(table),
    }


def describe_attention(plan: ProgramPlan) -> str:
    """Return the attention backend, with the reason why it is not a better one."""
    if not plan.size.groups:
        return "whole sequences"
    name = plan.table.model.backend.name
    return f"{name} ({plan.passed_over.rstrip('.')})" if plan.passed_over else name


def _describe_shapes(table: ProgramTable) -> str:
    if not isinstance(table, PoolingTable):
        shapes = f"decode rows {_join(table.buckets.decode)}; prompt chunks {_join(table.buckets.prefill)}"
        num = table.max_tokens_per_row
        return shapes if num == 1 else f"{shapes}; up to {num} tokens of a row in one program"
    if table.task.is_encoder:
        sizes = list_keys_by_length(table).items()
        return "; ".join(f"{_join(tuple(key.rows for key in keys))} x {length} tokens" for length, keys in sizes)
    return f"prompt chunks {_join(table.buckets.prefill)}"


def _describe_task(task: PoolingTask | None) -> dict[str, str]:
    """Return what the model pools for, with the reason."""
    if task is None:
        return {}
    what = f"{task.name} ({task.reason}), pooling {task.spec.kind}"
    if task.name == "embed":
        return {"task": f"{what}, {'length 1' if task.normalizes else 'of any length'}"}
    head = "logits of two tokens" if task.spec.answer_ids is not None else f"{len(task.labels)} labels"
    return {"task": f"{what}, {head}, activation {task.activation}"}


def _describe_longest(size: CacheSize, model_max_len: int) -> str:
    text = f"{size.max_model_len} tokens"
    return f"{text}, all that the cache holds (the model: {model_max_len})" if size.is_shortened else text


def _describe_adapters(adapters: AdapterLayout | None) -> dict[str, str]:
    if adapters is None:
        return {}
    num_bytes = f"{adapters.num_bytes / 2**20:.0f} MiB"
    return {"adapters": f"{num_bytes} for {adapters.num_slots} at a time, of a rank up to {adapters.rank}"}


def _describe_cache(size: CacheSize, page_size: int) -> dict[str, str]:
    """Return the size of the cache, and how it is divided if there are several groups of layers."""

    def describe(group: GroupSize) -> str:
        num_pages = group.num_pages - 1
        if group.is_recurrent:
            states, snapshots = f"{group.num_rows} of running sequences", num_pages - group.num_rows
            line = f"{group.total_bytes / 2**20:.0f} MiB, {num_pages} states: {states}, {snapshots} snapshots"
            host = group.num_host_pages
            return f"{line}, {host} more in {host * group.page_bytes / 2**20:.0f} MiB of host memory" if host else line
        return f"{group.total_bytes / 2**20:.0f} MiB, {num_pages} pages, {num_pages * page_size} tokens"

    if len(size.groups) == 1:
        return {"key-value cache": f"{describe(size.groups[0])} ({size.reason})"}
    lines = {"key-value cache": f"{size.total_bytes / 2**20:.0f} MiB ({size.reason})"}
    return lines | {f"cache, {group.name}": describe(group) for group in size.groups}


def _describe_page_type(config: EngineConfig, model: OpenedModel) -> dict[str, str]:
    """Return the type of the numbers in pages if it is one that was asked for."""
    if config.kv_cache_dtype == "auto":
        return {}
    return {"cache dtype": str(choose_page_type(config.kv_cache_dtype, model.dtype))}


def describe_programs(num: int, hits: int, files: ProgramFiles | None) -> str:
    """Return the number of programs, and of those that were found in files."""
    if isinstance(files, BuiltFiles):
        return f"{hits} of {num} built in {abbreviate_home(files.directory)}, {num - hits} compiled"
    where = f" in {abbreviate_home(files.directory)}" if isinstance(files, CacheFiles) else ""
    return f"{num} compiled, {hits} of them from the cache{where}"


def _join(numbers: tuple[int, ...]) -> str:
    return ", ".join(map(str, numbers))


def abbreviate_home(directory: Path) -> str:
    """Return a path with ~ for the home directory, so that a log does not hold the user's name."""
    home = Path(os.path.expanduser("~"))  # Path.home() raises an error where the user has no home
    return f"~/{directory.relative_to(home)}" if directory.is_relative_to(home) else str(directory)
