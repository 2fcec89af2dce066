"""Division of a model among the ranks of a replica: possible numbers of ranks, shapes of weights, and local caches.

Heads, hidden numbers and the vocabulary are split. A rank has the key heads that its query heads read: with more ranks
than key heads, several ranks have the same one. A vocabulary that cannot be split evenly is filled up with rows of
zeros, whose logits are -inf. What is not split, such as norms and routers, every rank has whole.

Packed weights are split along the same axes, in whole blocks of inputs and whole groups of outputs, so each rank's part
is what it is in the whole weight, bit for bit.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import jax
import numpy as np
from jax.sharding import PartitionSpec

from jaxserve.cache.layer_cache import LayerCache, PagedKeysValues, RecurrentState
from jaxserve.config import Quantization
from jaxserve.errors import BadConfig
from jaxserve.layers.adapted import AdapterLayout, FactorStacks
from jaxserve.layers.adapter import is_adaptable
from jaxserve.layers.block_forms import BLOCK_SIZE
from jaxserve.layers.param_spec import ParamPath, ParamSpec
from jaxserve.layers.quant import PackedWeight, data_shape
from jaxserve.layers.scaled_weight import GROUP_INPUTS, ScaledWeight, abstract_scaled, choose_group
from jaxserve.models.attention_spec import AttentionSpec
from jaxserve.models.spec import DecoderSpec, LayerSpec, MoESpec
from jaxserve.parallel.placement import Placement
from jaxserve.parallel.ranks import Ranks
from jaxserve.parallel.sharding import Axis, pad_vocab


def check_partition(
    spec: DecoderSpec, ranks: Ranks, quantization: Quantization = "none", block_inputs: int = BLOCK_SIZE
) -> None:
    """Check that a model can be divided among so many ranks.

    block_inputs   Inputs of a packed block.

    Raises BadConfig, with the numbers of ranks that are possible.
    """
    fault = _find_fault(spec, ranks, quantization, block_inputs)
    if fault is None:
        return
    most = max(size for layer in spec.layers for size, _, _ in layer.attention.split_sizes(1))
    sizes = range(1, most + 1)
    possible = [n for n in sizes if not _find_fault(spec, replace(ranks, size=n), quantization, block_inputs)]
    others = f"try {', '.join(map(str, possible))}" if possible else "leave it out"
    raise BadConfig(f"tensor_parallel_size={ranks.size} cannot divide {fault}; {others}.")


def _find_fault(spec: DecoderSpec, ranks: Ranks, quantization: Quantization, block_inputs: int) -> str | None:
    """Name a size that the number of ranks does not divide; None if it divides all."""
    if ranks.size == 1:
        return None
    sizes = (size for layer in spec.layers for size in _split_sizes(layer, ranks))
    fault = next((f"{size} {name}" for size, name, is_possible in sizes if not is_possible), None)
    if fault is not None or quantization == "none":
        return fault
    packed = (
        (size, name, part, block_inputs if block == BLOCK_SIZE else block)
        for layer in spec.layers
        for size, name, part, block in _packed_sizes(layer, ranks)
    )
    return next(
        (
            f"{size} {name} into whole blocks of {block}, which quantization={quantization!r} packs"
            for size, name, part, block in packed
            if part % block
        ),
        None,
    )


def _split_sizes(layer: LayerSpec, ranks: Ranks) -> Iterator[tuple[int, str, bool]]:
    """Yield the sizes that are split: each with its name, and whether it can be."""
    mlp, size = layer.mlp, ranks.size
    yield from layer.attention.split_sizes(size)
    if mlp is None:
        return
    if not isinstance(mlp, MoESpec):
        yield mlp.hidden, "hidden numbers", mlp.hidden % size == 0
    elif ranks.splits_experts:
        yield mlp.num_experts, "experts", mlp.num_experts % size == 0
    else:
        yield mlp.hidden, "hidden numbers of an expert", mlp.hidden % size == 0
    if isinstance(mlp, MoESpec) and mlp.shared is not None:
        yield mlp.shared.hidden, "hidden numbers of the shared expert", mlp.shared.hidden % size == 0
        yield mlp.shared.hidden, "hidden numbers of a shared expert with biases", not mlp.shared.bias


def _packed_sizes(layer: LayerSpec, ranks: Ranks) -> Iterator[tuple[int, str, int, int]]:
    """Yield the sizes of packed weights that are split.

    Each with its name, the part of a rank, and the size of the blocks that cannot be cut.
    """
    mlp, size = layer.mlp, ranks.size
    yield from layer.attention.packed_sizes(size)
    if mlp is None:
        return
    if not isinstance(mlp, MoESpec):
        yield mlp.hidden, "hidden numbers", mlp.hidden // size, BLOCK_SIZE
        return
    if not ranks.splits_experts:
        yield mlp.hidden, "hidden numbers of an expert", mlp.hidden // size, BLOCK_SIZE
    if mlp.shared is not None:
        yield mlp.shared.hidden, "hidden numbers of the shared expert", mlp.shared.hidden // size, BLOCK_SIZE


def local_caches(caches: Sequence[LayerCache], size: int) -> tuple[LayerCache, ...]:
    """Return what each layer keeps on one of `size` ranks: the heads of its own, or the latent, which all read."""
    if size == 1:
        return tuple(caches)
    local = []
    for cache in caches:
        if isinstance(cache, PagedKeysValues):
            cache = replace(cache, num_kv_heads=max(1, cache.num_kv_heads // size))
        elif isinstance(cache, RecurrentState):
            cache = replace(cache, arrays=tuple(array.divide(size) for array in cache.arrays))
        local.append(cache)
    return tuple(local)


def place_params(
    shapes: Mapping[ParamPath, jax.ShapeDtypeStruct | PackedWeight | ScaledWeight],
    params: Mapping[ParamPath, ParamSpec],
    spec: DecoderSpec,
    placement: Placement,
) -> dict[ParamPath, jax.ShapeDtypeStruct | PackedWeight | ScaledWeight]:
    """Return the shapes of weights as they lie on the devices, with their shardings.

    Raises BadConfig if no group of int4 divides the inputs of a device.
    """

    def place(
        path: ParamPath, shape: jax.ShapeDtypeStruct | PackedWeight | ScaledWeight
    ) -> jax.ShapeDtypeStruct | PackedWeight | ScaledWeight:
        whole, axes = _whole_shape(path, params[path], spec, placement.size), params[path].axes
        if isinstance(shape, PackedWeight):
            return _place_packed(shape, whole, axes, path[-1] == "table", placement)
        if isinstance(shape, ScaledWeight):
            return _place_scaled(shape, whole, axes, placement)
        return jax.ShapeDtypeStruct(whole, shape.dtype, sharding=placement.split(axes))

    return {path: place(path, shape) for path, shape in shapes.items()}


def place_factors(
    params: Mapping[ParamPath, ParamSpec],
    spec: DecoderSpec,
    placement: Placement,
    *,
    num_slots: int,
    rank: int,
    dtype: np.dtype,
) -> AdapterLayout:
    """Return the arrays of adapters as they lie on the devices: each factor is split as its side of the matrix is.

    params      The weights of the model.
    num_slots   The number of adapters that may be on a device together.
    rank        The largest rank of an adapter.
    """
    stacks, num_copies = [], []
    paths = tuple(path for path in params if is_adaptable(path))
    for path in paths:
        param = params[path]
        width_in, width_out = _whole_shape(path, param, spec, placement.size)
        split_in, split_out = placement.split_axes(param.axes)
        down = jax.ShapeDtypeStruct(
            (width_in, num_slots * rank), dtype, sharding=placement.sharding(PartitionSpec(split_in, None))
        )
        up = jax.ShapeDtypeStruct(
            (num_slots * rank, width_out), dtype, sharding=placement.sharding(PartitionSpec(None, split_out))
        )
        stacks.append(FactorStacks(down, up))
        copies = width_out // param.shape[1]  # of key heads, where there are more ranks than these
        num_copies.append((copies, width_out // placement.size if copies > 1 else param.shape[1]))
    return AdapterLayout(paths, tuple(stacks), num_slots, rank, tuple(num_copies))


def _place_packed(
    weight: PackedWeight, shape: tuple[int, ...], axes: tuple[Axis | None, ...], is_table: bool, placement: Placement
) -> PackedWeight:
    """Return a packed weight as it lies on the devices.

    shape, axes   of its values, [in, out], with stacked experts before them
    is_table      its values are [out, in]
    """
    *experts, first, last = zip(shape, axes, strict=True)
    (width_out, axis_out), (width_in, axis_in) = (first, last) if is_table else (last, first)
    data = jax.ShapeDtypeStruct(
        (*(size for size, _ in experts), *data_shape(weight.kind, width_in, width_out)),
        weight.data.dtype,
        sharding=placement.split((*(axis for _, axis in experts), axis_out, axis_in, None)),
    )
    return replace(weight, data=data, width_in=width_in, width_out=width_out)


def _place_scaled(
    weight: ScaledWeight, shape: tuple[int, ...], axes: tuple[Axis | None, ...], placement: Placement
) -> ScaledWeight:
    """Return a scaled weight as it lies on the devices, in groups of int4 that divide the inputs of each.

    shape, axes   of its values, with experts before them
    """
    group = None
    if weight.kind == "int4":
        num_inputs = placement.split(axes).shard_shape(shape)[-2]
        group = choose_group(num_inputs, weight.form)
        if group is None:
            raise BadConfig(
                f"tensor_parallel_size={placement.size} leaves each device {num_inputs} of the {shape[-2]} inputs of an"
                f" int4 weight, which are no multiple of {GROUP_INPUTS[1 if weight.has_kernel else -1]}; take fewer"
                " devices, or --quantization int8."
            )
    whole = abstract_scaled(weight.kind, shape, is_table=weight.is_table, form=weight.form, group=group)
    experts, first, last = axes[:-2], axes[-2], axes[-1]
    data_axes: tuple[Axis | None, ...] = axes
    scale_axes: tuple[Axis | None, ...] = (*experts, first if weight.is_table else last)
    if weight.kind == "int4":
        matrix = (last, None) if weight.has_kernel else (None, last)
        data_axes, scale_axes = (*experts, first, *matrix), (*experts, first, last)
    data = jax.ShapeDtypeStruct(whole.data.shape, whole.data.dtype, sharding=placement.split(data_axes))
    scale = jax.ShapeDtypeStruct(whole.scale.shape, np.float32, sharding=placement.split(scale_axes))
    zero = None if whole.zero is None else jax.ShapeDtypeStruct(scale.shape, np.uint8, sharding=scale.sharding)
    return replace(whole, data=data, scale=scale, zero=zero)


def _whole_shape(path: ParamPath, param: ParamSpec, spec: DecoderSpec, num_ranks: int) -> tuple[int, ...]:
    """Return the shape of a weight with what is filled up or repeated so that every rank has an equal part."""

    def whole_size(size: int, axis: str | None) -> int:
        if axis == "vocab":
            return pad_vocab(size, num_ranks)
        if axis == "kv_heads" and isinstance(path[1], int):
            attention = spec.layers[path[1]].attention
            assert isinstance(attention, AttentionSpec), "other kinds have no such axis"
            return size * max(1, num_ranks // attention.num_kv_heads)
        return size

    return tuple(whole_size(size, axis) for size, axis in zip(param.shape, param.axes, strict=True))
