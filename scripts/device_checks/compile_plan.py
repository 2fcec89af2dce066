"""The programs of an engine for devices that are not there: planned as an engine plans them, nothing allocated."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxserve.cache.groups import make_groups
from jaxserve.cache.sizing import CacheSize
from jaxserve.config import EngineConfig
from jaxserve.engine.opened_model import OpenedModel
from jaxserve.engine.program_memory import abstract_state
from jaxserve.engine.program_plan import choose_attention, plan_programs
from jaxserve.engine.program_table import CopyPages, Forward, ProgramKey, ProgramTable, PromptLogprobs, Sample
from jaxserve.engine.weight_form import WeightForm, choose_requested
from jaxserve.models.partition import check_partition, local_caches, place_params
from jaxserve.models.registry import abstract_params, find_architecture
from jaxserve.parallel.placement import Placement, single_placement
from jaxserve.parallel.sharding import BY_VOCAB, STACKED
from jaxserve.parallel.targets import Target, describe_placements
from jaxserve.sampling.sampler import SampleMode

# Of all layers, on each device: enough for one longest request of few layers, and no size that another array has.
PAGE_BYTES = 3 * 2**30 - 12345678
MEDIUM_CHUNK = 512


@dataclass(frozen=True, slots=True)
class Programs:
    """The programs of a model on some devices, and the shapes of what they are given.

    weight_bytes   Of one device.
    """

    table: ProgramTable
    weights: tuple[Any, ...]
    state: Any
    size: CacheSize
    weight_bytes: int

    @property
    def num_devices(self) -> int:
        """The number of devices."""
        return self.table.placement.size


def describe_placement(target: Target) -> Placement:
    """Return the placement on all devices of a machine; "cpu" is the one at hand.

    Raises BadConfig if the compiler for the target is not installed.
    """
    if target.platform == "cpu":
        jax.config.update("jax_platforms", "cpu")
        return single_placement()
    (placement,) = describe_placements(target, target.num_devices, 1, has_expert_parallelism=False)
    return placement


def open_described(placement: Placement, name: str, config: dict[str, Any], quantization: Any) -> OpenedModel:
    """Return a model without a checkpoint. Raises BadConfig if it cannot be divided among the devices."""
    architecture = find_architecture(config)
    spec = architecture.spec(config)
    dtype = np.dtype(jnp.dtype("float32" if placement.platform == "cpu" else "bfloat16"))
    form = WeightForm("none") if quantization == "none" else choose_requested(quantization, placement, dtype)
    check_partition(spec, placement.ranks)
    leaves = architecture.params(spec)
    abstract = abstract_params(leaves, dtype, form.quantization, form.kinds, form.scaled)
    shapes = place_params(abstract, leaves, spec, placement)
    no_checkpoint: Any = None
    return OpenedModel(Path(name), no_checkpoint, config, architecture, spec, placement, dtype, leaves, shapes, form)


def plan_described(model: OpenedModel, settings: dict[str, Any], scratch_bytes: int = 0) -> Programs:
    """Plan the programs of a model. Settings are those of EngineConfig.

    Raises StartupError if an engine with these settings would not start.
    """
    placement = model.placement
    attention = "cpu" if placement.platform == "cpu" else "auto"  # not the C kernels, which need a compiler here
    config = EngineConfig(model=str(model.path), attention_backend=attention, **settings)
    groups = make_groups(local_caches(model.architecture.cache(model.spec), placement.size))
    config = replace(config, quantization=model.weight_form.quantization)
    choice = choose_attention(config, model, groups)
    plan = plan_programs(choice.config, model, choice.backend, groups, scratch_bytes)
    table = plan.table
    weights = tuple(table.model.weights.pack_shapes(model.shapes))
    state = abstract_state(table, jax.eval_shape(plan.make_pages))
    return Programs(table, weights, _place_state(table, state), plan.size, model.weight_bytes)


def _place_state(table: ProgramTable, state: Any) -> Any:
    """Return the shapes of the state on all devices; those given are of one device."""
    placement = table.placement

    def place(leaf: Any, spec: Any, scale: int) -> Any:
        shape = (scale * leaf.shape[0], *leaf.shape[1:]) if leaf.shape else ()
        return jax.ShapeDtypeStruct(shape, leaf.dtype, sharding=placement.sharding(spec))

    return type(state)(
        jax.tree.map(lambda leaf: place(leaf, STACKED, placement.size), state.pages),
        jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=placement.replicated), state.rows
        ),
        jax.tree.map(lambda leaf: place(leaf, BY_VOCAB, 1), state.penalties),
    )


def label_programs(table: ProgramTable) -> Iterator[tuple[str, ProgramTable, ProgramKey]]:
    """Yield the programs that are compiled, with short names.

    All decode batches, a medium and the largest prompt chunk, every sampler of the largest batch, the copies of pages,
    and the log-probabilities of the largest chunk.
    """
    for forward in table.decodes:
        yield f"decode {forward.rows}", table, forward
    for forward in table.prefills:
        if forward.tokens in (MEDIUM_CHUNK, table.prefills[-1].tokens):
            yield f"prefill {forward.tokens}", table, forward
    rows = table.decodes[-1].rows
    for mode in SampleMode:
        is_all = mode == SampleMode.ALL_LOGPROBS
        its_table = replace(table, all_logprobs=True, logprobs_config=replace(table.logprobs_config, all_logprobs=True))
        yield f"sample {rows} {mode.name}", its_table if is_all else table, Sample(rows, mode)
    yield "copy pages", table, CopyPages()
    tokens = table.buckets.prefill[-1]
    yield f"score {tokens}", table, PromptLogprobs(tokens, all=False)


def donated_leaves(programs: Programs, key: ProgramKey) -> list[Any]:
    """Return the shapes of the state that a program updates in place."""
    state = programs.state
    if isinstance(key, Forward | CopyPages):
        return jax.tree.leaves(state.pages)
    if isinstance(key, Sample):
        return jax.tree.leaves((state.rows, state.penalties if key.mode >= SampleMode.PROCESSORS else None))
    return []


def local_bytes(leaves: list[Any]) -> int:
    """Return the bytes of arrays on one device."""
    return sum(math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize for leaf in leaves)


def count_rows(key: ProgramKey) -> int:
    """Return the rows of logits of a program; 0: it has none."""
    return key.rows if isinstance(key, Forward | Sample) else 0
