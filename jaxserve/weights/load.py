"""Loader of weights: each leaf is found, read, laid out, converted and placed. All are checked before one is read.

Tensors are loaded a few at a time in threads, so the host holds the weights once and little beside. On
the CPU a converted tensor is handed to JAX without a copy. A ParamSpec of the models says where a leaf comes from and
how it is laid out.
"""

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import replace
from fnmatch import fnmatchcase
from functools import partial
from math import prod
from typing import Any, TypeAlias

import jax
import numpy as np

from jaxserve.errors import BadCheckpoint
from jaxserve.layers.param_spec import Origin, ParamPath, ParamSpec, Source
from jaxserve.layers.quant import PackedWeight
from jaxserve.layers.scaled_weight import ScaledWeight
from jaxserve.weights.mapped_file import aligned_empty, is_zero_copyable
from jaxserve.weights.packing import pack_shard
from jaxserve.weights.protocol import Checkpoint, TensorInfo
from jaxserve.weights.scaling import WeightRounding, find_stored_scales, fit_scales
from jaxserve.weights.shards import read_shard
from jaxserve.weights.weight_memory import WeightMemory

ProgressCallback: TypeAlias = Callable[[str, float, float], None]

MAX_THREADS = 8
# A transposed matrix is copied this many columns at a time: twice the speed of one copy, four times with a cast.
BLOCK_COLUMNS = 64
# Tables that old checkpoints carry and that every model computes for itself.
ALWAYS_IGNORED = ("*.rotary_emb.inv_freq",)


Weight: TypeAlias = jax.Array | PackedWeight | ScaledWeight


def check_checkpoint(
    checkpoint: Checkpoint,
    params: Mapping[ParamPath, ParamSpec],
    *,
    ignored: Iterable[str] = (),
) -> None:
    """Refuse a checkpoint in which a tensor is missing, surplus, misshapen or no float. Reads no tensor.

    Raises BadCheckpoint, naming the tensors.

    ignored: patterns (as in fnmatch) of tensors that may be there and are not read.
    """
    expected = expected_shapes(checkpoint, params)
    names = set(checkpoint.tensors)
    patterns = (*ignored, *ALWAYS_IGNORED)
    surplus = [n for n in names - set(expected) if not any(fnmatchcase(n, pattern) for pattern in patterns)]
    if missing := sorted(set(expected) - names):
        raise BadCheckpoint(f"{checkpoint.path} lacks tensor {_listed(missing)} that this architecture needs.")
    if surplus:
        raise BadCheckpoint(f"{checkpoint.path} has tensor {_listed(sorted(surplus))} that this architecture lacks.")
    for name, shape in expected.items():
        _check_tensor(checkpoint, name, checkpoint.tensors[name], shape)


def load_params(
    checkpoint: Checkpoint,
    params: Mapping[ParamPath, ParamSpec],
    targets: Mapping[ParamPath, Any],
    *,
    ignored: Iterable[str] = ("*",),
    progress: ProgressCallback | None = None,
    num_threads: int | None = None,
) -> dict[ParamPath, Weight]:
    """Return every leaf as an array on its device, in the type and with the sharding (if any) that `targets` asks for.

    Where `targets` asks for a packed weight, blocks of the same form are taken from the file as they are; anything
    else is packed, some rows at a time.
    Checks once more what it needs; surplus tensors are for `check_checkpoint` to refuse, unless `ignored`
    is given here too.
    progress is called with ("load", bytes read, bytes in all). Largest tensors come first: they need the most scratch.
    """
    check_checkpoint(checkpoint, params, ignored=ignored)
    sizes = {path: _num_bytes(checkpoint, path, param) for path, param in params.items()}
    order = sorted(params, key=lambda path: -sizes[path])
    total, done = max(sum(sizes.values()), 1), 0
    loaded: dict[ParamPath, Weight] = {}
    memory = WeightMemory() if jax.default_backend() == "cpu" else None  # elsewhere the device has its own
    load = partial(_load_param, checkpoint, memory)
    pool = ThreadPoolExecutor(num_threads or min(MAX_THREADS, os.cpu_count() or 1), "weights")
    try:
        futures = {pool.submit(load, path, params[path], targets[path]): path for path in order}
        for future in as_completed(futures):
            path = futures.pop(future)
            loaded[path] = future.result()
            done += sizes[path]
            if progress:
                progress("load", done, total)
        for name in expected_shapes(checkpoint, params):
            checkpoint.release(name)  # again: a page of the file may be huge, and reading a neighbour brought it back
    finally:
        pool.shutdown(cancel_futures=True)
    return {path: loaded[path] for path in params}


def read_param(
    checkpoint: Checkpoint, path: ParamPath, param: ParamSpec, target: Any, index: Sequence[slice] = ()
) -> np.ndarray:
    """Return a part of a weight on the host, converted or packed as `target` asks for, in a buffer that JAX may keep.

    index   The part of the array, or of a packed weight's data; nothing: all of it.
    """
    origin = find_origin(checkpoint, path, param)
    is_packed = isinstance(target, PackedWeight)
    index = index or [slice(0, size) for size in (target.data if is_packed else target).shape]
    if is_packed:
        return pack_shard(checkpoint, path, origin, param, target, index)
    return convert(read_shard(origin, checkpoint.read, param, target.shape, index), np.dtype(target.dtype))


def _load_param(
    checkpoint: Checkpoint, memory: WeightMemory | None, path: ParamPath, param: ParamSpec, target: Any
) -> Weight:
    read = partial(read_param, checkpoint, path, param, target)
    place = partial(_place_shards, memory)
    if isinstance(target, PackedWeight):
        placed = replace(target, data=place(target.data, read))
    elif isinstance(target, ScaledWeight):
        origin = find_origin(checkpoint, path, param)
        stored = fit_scales(find_stored_scales(checkpoint, origin), target)
        rounding = WeightRounding(partial(origin.read, checkpoint.read), param, target, stored)
        placed = replace(
            target,
            data=place(target.data, rounding.read_data),
            scale=place(target.scale, rounding.read_scale),
            zero=None if target.zero is None else place(target.zero, rounding.read_zero),
        )
    else:
        placed = place(target, read)
    release_param(checkpoint, path, param)
    return placed


def release_param(checkpoint: Checkpoint, path: ParamPath, param: ParamSpec) -> None:
    """Give back the memory that the weight's part of the checkpoint takes."""
    for source in find_origin(checkpoint, path, param).sources:
        checkpoint.release(source.name)


def _place_shards(
    memory: WeightMemory | None, target: jax.ShapeDtypeStruct, read: Callable[[Sequence[slice]], np.ndarray]
) -> jax.Array:
    """Return an array on its devices: each gets its own part, and no copy of the whole is made if it is split.

    memory   Where a device that uses the host's memory has its part.
    read     Read a part of the array.
    """
    keep = memory.keep if memory else lambda host: host
    shape, sharding = target.shape, target.sharding
    if sharding is None or sharding.is_fully_replicated:
        return _put_on_device(keep(read([slice(0, size) for size in shape])), sharding)
    arrays = []
    for device, index in sharding.addressable_devices_indices_map(shape).items():
        assert index is not None
        arrays.append(_put_on_device(keep(read(index)), device))
    return jax.make_array_from_single_device_arrays(shape, sharding, arrays)


def _put_on_device(host: np.ndarray, sharding: Any) -> jax.Array:
    array = jax.device_put(host, sharding)
    array.block_until_ready()  # the host's copy may go before this thread makes the next one
    return array


def convert(values: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """Return the values in a buffer that JAX may keep: the same one if it is fit for that, else one copy."""
    if values.dtype == dtype and is_zero_copyable(values):
        return values
    out = aligned_empty(values.shape, dtype)
    columns = values.shape[1] if values.ndim == 2 and values.T.flags.c_contiguous else 0
    with np.errstate(all="ignore"):
        if columns <= BLOCK_COLUMNS:
            np.copyto(out, values, casting="unsafe")
            return out
        for first in range(0, columns, BLOCK_COLUMNS):  # astype keeps the block's order, so it casts in a straight line
            block = values[:, first : first + BLOCK_COLUMNS]
            out[:, first : first + BLOCK_COLUMNS] = block.astype(dtype, copy=False)
    return out


def find_origin(checkpoint: Checkpoint, path: ParamPath, param: ParamSpec) -> Origin:
    """Return where this checkpoint has the weight: a tensor in the leaf's own layout, or what the architecture says."""
    if checkpoint.has_param_layout:
        return Origin((Source(param_name(path), param.shape),))
    return param.choose_origin(checkpoint.tensors)


def _num_bytes(checkpoint: Checkpoint, path: ParamPath, param: ParamSpec) -> int:
    """Return the bytes of the file that the weight is read from."""
    return sum(
        checkpoint.tensors[source.name].nbytes * prod(source.part_shape) // max(prod(source.shape), 1)
        for source in find_origin(checkpoint, path, param).sources
    )


def param_name(path: ParamPath) -> str:
    """Return the name of a leaf in a checkpoint that has the leaves' layout."""
    return ".".join(map(str, path))


def expected_shapes(checkpoint: Checkpoint, params: Mapping[ParamPath, ParamSpec]) -> dict[str, tuple[int, ...]]:
    """Return the shape that each tensor must have in this checkpoint, by name."""
    return {
        source.name: source.shape
        for path, param in params.items()
        for source in find_origin(checkpoint, path, param).sources
    }


def _check_tensor(checkpoint: Checkpoint, name: str, info: TensorInfo, shape: tuple[int, ...]) -> None:
    if info.shape != shape:
        raise BadCheckpoint(f"{checkpoint.path}: tensor {name!r} has shape {info.shape}; the config asks for {shape}.")
    if not jax.numpy.issubdtype(info.dtype, jax.numpy.floating):
        raise BadCheckpoint(
            f"{checkpoint.path}: tensor {name!r} is {info.dtype}; packed weights of that kind are not supported."
        )


def _listed(names: list[str]) -> str:
    """Return the first name, and the count of others."""
    return repr(names[0][:200]) + (f" (and {len(names) - 1} more)" if len(names) > 1 else "")
