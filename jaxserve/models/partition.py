"""Division of a model among the ranks of a replica: possible numbers of ranks, shapes of weights, and local caches.

Heads, hidden numbers and the vocabulary are split. A rank has the key heads that its query heads read: with more ranks
than key heads, several ranks have the same one. A vocabulary that cannot be split evenly is filled up with rows of
zeros, whose logits are -inf. What is not split, such as norms and routers, every rank has whole.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import jax

from jaxserve.cache.layer_cache import LayerCache, PagedKeysValues
from jaxserve.errors import BadConfig
from jaxserve.layers.param_spec import ParamPath, ParamSpec
from jaxserve.layers.quant import PackedWeight
from jaxserve.models.spec import DecoderSpec, LayerSpec, MoESpec
from jaxserve.parallel.placement import Placement
from jaxserve.parallel.ranks import Ranks
from jaxserve.parallel.sharding import pad_vocab


def check_partition(spec: DecoderSpec, ranks: Ranks) -> None:
    """Check that a model can be divided among so many ranks.

    Raises BadConfig, with the numbers of ranks that are possible.
    """
    fault = _find_fault(spec, ranks)
    if fault is None:
        return
    most = max(layer.attention.num_heads for layer in spec.layers)
    possible = [size for size in range(1, most + 1) if not _find_fault(spec, replace(ranks, size=size))]
    others = f"try {', '.join(map(str, possible))}" if possible else "leave it out"
    raise BadConfig(f"tensor_parallel_size={ranks.size} cannot divide {fault}; {others}.")


def _find_fault(spec: DecoderSpec, ranks: Ranks) -> str | None:
    """Name a size that the number of ranks does not divide; None if it divides all."""
    if ranks.size == 1:
        return None
    sizes = (size for layer in spec.layers for size in _split_sizes(layer, ranks))
    return next((f"{size} {name}" for size, name, is_possible in sizes if not is_possible), None)


def _split_sizes(layer: LayerSpec, ranks: Ranks) -> Iterator[tuple[int, str, bool]]:
    """Yield the sizes that are split: each with its name, and whether it can be."""
    attention, mlp, size = layer.attention, layer.mlp, ranks.size
    yield attention.num_heads, "query heads", attention.num_heads % size == 0
    num_kv_heads = attention.num_kv_heads
    yield num_kv_heads, "key heads", num_kv_heads % size == 0 or size % num_kv_heads == 0
    if not isinstance(mlp, MoESpec):
        yield mlp.hidden, "hidden numbers", mlp.hidden % size == 0
    elif ranks.splits_experts:
        yield mlp.num_experts, "experts", mlp.num_experts % size == 0
    else:
        yield mlp.hidden, "hidden numbers of an expert", mlp.hidden % size == 0
    if isinstance(mlp, MoESpec) and mlp.shared is not None:
        yield mlp.shared.hidden, "hidden numbers of the shared expert", mlp.shared.hidden % size == 0
        yield mlp.shared.hidden, "hidden numbers of a shared expert with biases", not mlp.shared.bias


def local_caches(caches: Sequence[LayerCache], size: int) -> tuple[LayerCache, ...]:
    """Return what each layer keeps on one of `size` ranks: the heads of its own.

    Raises BadConfig for kinds of caches that are not split.
    """
    if size == 1:
        return tuple(caches)
    local = []
    for cache in caches:
        if not isinstance(cache, PagedKeysValues):
            raise BadConfig(f"tensor_parallel_size={size} cannot divide {type(cache).__name__}; leave it out.")
        local.append(replace(cache, num_kv_heads=max(1, cache.num_kv_heads // size)))
    return tuple(local)


def place_params(
    shapes: Mapping[ParamPath, jax.ShapeDtypeStruct | PackedWeight],
    params: Mapping[ParamPath, ParamSpec],
    spec: DecoderSpec,
    placement: Placement,
) -> dict[ParamPath, jax.ShapeDtypeStruct | PackedWeight]:
    """Return the shapes of weights as they lie on the devices, with their shardings.

    Raises BadConfig for packed weights on several devices.
    """

    def place(path: ParamPath, shape: jax.ShapeDtypeStruct | PackedWeight) -> jax.ShapeDtypeStruct | PackedWeight:
        if not isinstance(shape, PackedWeight):
            whole = _whole_shape(path, params[path], spec, placement.size)
            return jax.ShapeDtypeStruct(whole, shape.dtype, sharding=placement.split(params[path].axes))
        if placement.size > 1:
            raise BadConfig(
                f"quantization={shape.kind!r} packs weights for one device, and tensor_parallel_size={placement.size};"
                " leave one of them out."
            )
        data = jax.ShapeDtypeStruct(shape.data.shape, shape.data.dtype, sharding=placement.replicated)
        return replace(shape, data=data)

    return {path: place(path, shape) for path, shape in shapes.items()}


def _whole_shape(path: ParamPath, param: ParamSpec, spec: DecoderSpec, num_ranks: int) -> tuple[int, ...]:
    """Return the shape of a weight with what is filled up or repeated so that every rank has an equal part."""

    def whole_size(size: int, axis: str | None) -> int:
        if axis == "vocab":
            return pad_vocab(size, num_ranks)
        if axis == "kv_heads" and isinstance(path[1], int):
            return size * max(1, num_ranks // spec.layers[path[1]].attention.num_kv_heads)
        return size

    return tuple(whole_size(size, axis) for size, axis in zip(param.shape, param.axes, strict=True))
